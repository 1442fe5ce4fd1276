"""Events of instruments as rows of text: parsed, stored all or none, and listed. Used by the command line and HTTP."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from fks.market.bars.splits import split_day
from fks.model.calendars import ALWAYS, midnight_ns
from fks.model.cash_flows import FetchedEvents, FundingRate, SplitDay
from fks.model.decimals import plain
from fks.model.errors import InputError, invalid
from fks.model.features import IMPORTANCES
from fks.model.timeframe import iso, to_ns
from fks.store.corporate_actions import (
    DIVIDEND,
    SPLIT,
    CorporateActionStore,
    EconomicEvent,
    FundingRange,
    ListedEvent,
    ListedFunding,
)
from fks.store.db import Database
from fks.store.reading import ReadingStore

#: columns of a file by what its header has: a kind of each row, funding rates alone, splits alone
_BY_KIND = ("symbol", "kind")
_OF_FUNDING = ("symbol", "time", "rate")
_OF_SPLITS = ("symbol", "day", "ratio")
_OF_ECONOMIC = ("currency", "name", "time", "importance")
EVENT_COLUMNS = (
    "exchange",
    "kind",
    "day",
    "ratio",
    "amount",
    "currency",
    "pay_day",
    "type",
    "new_symbol",
    "time",
    "rate",
    "mark",
    "name",
    "importance",
    "actual",
    "forecast",
    "previous",
    "published",
    "source",
)
_KINDS = ("split", "dividend", "delisting", "symbol_change", "funding", "economic")
_CURRENCY = re.compile(r"[A-Z]{3}")
_AMOUNT_MAX = Decimal(10) ** 9
#: digits before and behind the point; PostgreSQL refuses longer numbers, and their text would fill the memory
_DIGITS_MAX = 40
#: whose nanoseconds have 64 bits, whatever the zone
_YEARS = range(1678, 2262)


async def import_events(
    db: Database,
    listed: Sequence[ListedEvent],
    funding: Sequence[ListedFunding],
    economic: Sequence[EconomicEvent] = (),
) -> list[dict[str, Any]]:
    """Store events under the names of their symbols in the store, all or none; return them as rows to show. Errors:
    InputError EVENTS_OVERLAP, SYMBOL_UNKNOWN of a row without an exchange."""
    reading = ReadingStore(db)
    places = {(row.exchange, row.symbol) for row in listed} | {(row.exchange, row.symbol) for row in funding}
    known: dict[tuple[str, str], tuple[str, str]] = {}
    for place, symbol in places:
        stored = await reading.spelled_at(place, symbol) if place else [await reading.find(symbol)]
        known[place, symbol] = (stored[0].exchange, stored[0].symbol) if stored else (place, symbol)
    events_named, rates_named = [], []
    for event in listed:
        at, name = known[event.exchange, event.symbol]
        events_named.append(replace(event, exchange=at, symbol=name))
    for rate in funding:
        at, name = known[rate.exchange, rate.symbol]
        rates_named.append(replace(rate, exchange=at, symbol=name))
    return await store_events(db, events_named, rates_named, economic)


async def list_events(
    db: Database,
    symbol: str | None,
    exchange: str | None,
    known_ns: int | None = None,
    *,
    after: str | None = None,
    limit: int | None = None,
) -> tuple[list[dict[str, Any]], str | None]:
    """Return the events of a symbol, or of all, as they were published by a time (None: now), as rows to show; funding
    rates are one row a symbol, and a currency is the symbol of economic events. At most `limit` rows from `after` on,
    and where the next page begins: the part (events of shares, funding, economic events) and the rows of it before.

    Errors: InputError SYMBOL_UNKNOWN, SYMBOL_AMBIGUOUS without an exchange.
    """
    store, place = CorporateActionStore(db), (exchange or None, symbol)
    currency, parts = None if symbol is None else symbol.upper(), range(2 if exchange else 3)
    if symbol is not None and not exchange:
        if await store.economic_events(currency, limit=1):
            parts = range(2, 3)  # none of which may have been known then
        else:
            found = await ReadingStore(db).find(symbol)
            place, parts = (found.exchange, found.symbol), range(2)
    rows: list[dict[str, Any]] = []
    first, skip = (int(number) for number in (after or "0-0").split("-"))
    for part in parts[max(first - parts.start, 0) :]:
        skip = skip if part == first else 0
        left = None if limit is None else limit - len(rows)
        if part == 0:
            found_rows = [_shown(row) for row in await store.events(*place, known_ns, skip, left)]
        elif part == 1:
            found_rows = [_of_rates(one) for one in await store.funding_ranges(*place, skip, left)]
        else:
            found_rows = [_economic(row) for row in await store.economic_events(currency, known_ns, skip, left)]
        rows += found_rows
        if len(rows) == limit:
            return rows, f"{part}-{skip + len(found_rows)}"
    return rows, None


def _of_rates(one: FundingRange) -> dict[str, Any]:
    value = f"{one.rates} rates to {iso(one.newest_ns)}"
    return _row("funding", one.exchange, one.symbol, iso(one.oldest_ns), value, one.source)


async def store_events(
    db: Database,
    listed: Sequence[ListedEvent],
    funding: Sequence[ListedFunding],
    economic: Sequence[EconomicEvent] = (),
) -> list[dict[str, Any]]:
    """Store events, funding rates and economic events in one transaction, and return them as rows to show."""

    _ensure_apart(listed, funding, economic)
    async with db.transaction() as tx:
        store = CorporateActionStore(tx)
        await store.put(listed)
        await store.put_funding(funding)
        await store.put_economic(economic)
    rows = [*map(_shown, listed), *map(_economic, economic)]
    for place in dict.fromkeys((row.exchange, row.symbol) for row in funding):
        times = sorted(row.funding.time_ns for row in funding if (row.exchange, row.symbol) == place)
        source = next(row.source for row in funding if (row.exchange, row.symbol) == place)
        rows.append(_row("funding", *place, iso(times[0]), f"{len(times)} rates to {iso(times[-1])}", source))
    return rows


def _ensure_apart(
    listed: Sequence[ListedEvent], funding: Sequence[ListedFunding], economic: Sequence[EconomicEvent]
) -> None:
    """Refuse two different events of one symbol, kind and day, two rates of one time, and two economic events of one
    time and publication. Errors: InputError
    EVENTS_OVERLAP."""
    seen: dict[tuple[Any, ...], Any] = {}
    keys = [((row.kind, row.exchange, row.symbol, row.day.isoformat(), row.type), row) for row in listed]
    times = [(("funding", row.exchange, row.symbol, iso(row.funding.time_ns), ""), row) for row in funding]
    releases = [(("economic", row.currency, row.name, iso(row.time_ns), row.published_ns), row) for row in economic]
    for key, row in (*keys, *times, *releases):
        if key in seen:
            raise invalid(
                "EVENTS_OVERLAP",
                f"there are two rows of {'an' if key[0] == 'economic' else 'a'} {key[0]} of {key[2]} on {key[3]}",
                "keep one of them; several dividends of one day need a `type` each",
            )
        seen[key] = row


# ── rows of a file ───────────────────────────────────────────────────────────────────────────────
def needed_columns(names: Collection[str]) -> tuple[str, ...]:
    """Return the columns that a file with this header needs."""
    if "importance" in names and "symbol" not in names:
        return _OF_ECONOMIC
    return _BY_KIND if "kind" in names else _OF_FUNDING if "rate" in names else _OF_SPLITS


def read_events(
    rows: Iterable[tuple[str, Mapping[str, str]]], exchange: str, source: str
) -> tuple[list[ListedEvent], list[ListedFunding], list[EconomicEvent]]:
    """Return the events, the funding rates and the economic events of rows: a place in words, and cells of
    EVENT_COLUMNS and `symbol` by name, "" for none. `exchange` and `source`: of rows that name none. Errors: InputError
    naming the row."""
    listed, funding, economic = [], [], []
    for where, values in rows:
        kind = values["kind"] or ("funding" if values["rate"] else "economic" if values["importance"] else "split")
        if kind not in _KINDS:
            raise invalid("EVENT_WRONG", f"{where}: {kind} is no kind of event", f"use one of {', '.join(_KINDS)}")
        symbol = values.get("symbol", "")
        if not symbol and kind != "economic":
            raise invalid("EVENT_WRONG", f"{where}: it names no symbol")
        place = ((values["exchange"] or exchange).lower(), symbol)
        try:
            if kind == "economic":
                economic.append(_economic_row(values, values["source"] or source))
            elif kind == "funding":
                funding.append(_funding_row(*place, values, values["source"] or source))
            else:
                listed.append(_event_row(kind, *place, values, values["source"] or source))
        except InputError as error:
            raise invalid(error.code, f"{where}: {error.message}", error.remedy) from error
    return listed, funding, economic


def _economic_row(values: Mapping[str, str], source: str) -> EconomicEvent:
    """Return the economic event of a row. Errors: InputError EVENT_WRONG."""
    currency, importance, time_ns = values["currency"].upper(), values["importance"].lower(), _moment(values, "time")
    if _CURRENCY.fullmatch(currency) is None:
        raise _wrong("a currency", values["currency"], "USD")
    if not values["name"]:
        raise _wrong("a name of an economic event", "", "Nonfarm Payrolls")
    if time_ns is None:
        raise _wrong("a time of an economic event", "", "2025-01-10T13:30Z")
    if importance not in IMPORTANCES:
        raise _wrong(f"an importance ({', '.join(IMPORTANCES)})", values["importance"], "high")
    actual, forecast, previous = (_number(values, name) for name in ("actual", "forecast", "previous"))
    published_ns = _moment(values, "published")
    return EconomicEvent(
        currency, values["name"], time_ns, importance, actual, forecast, previous, source, published_ns
    )


def _event_row(kind: str, exchange: str, symbol: str, values: Mapping[str, str], source: str) -> ListedEvent:
    """Return the event of a row. Errors: InputError SPLIT_WRONG, EVENT_WRONG."""

    published_ns = _moment(values, "published")
    if kind == "split":
        split = split_day(values["day"], values["ratio"])
        _day(values, "day")
        return replace(split_event(exchange, symbol, split, source), published_ns=published_ns)
    day = _day(values, "day")
    if day is None:
        raise _wrong("a day", values["day"], "2020-08-31")
    row = ListedEvent(exchange, symbol, kind, day, source=source, published_ns=published_ns)
    if kind == "dividend":
        amount = _number(values, "amount")
        if amount is None or not 0 < amount < _AMOUNT_MAX:
            raise _wrong("the cash of a dividend for each share", values["amount"], "0.24")
        return replace(
            row,
            amount=amount,
            currency=values["currency"].upper(),
            pay_day=_day(values, "pay_day"),
            type=values["type"],
        )
    if kind == "symbol_change":
        if not values["new_symbol"]:
            raise _wrong("a new symbol", "", "META")
        return replace(row, new_symbol=values["new_symbol"].upper())
    return row


def _funding_row(exchange: str, symbol: str, values: Mapping[str, str], source: str) -> ListedFunding:
    """Return the funding rate of a row. Errors: InputError EVENT_WRONG."""

    time_ns, rate, mark = _moment(values, "time"), _number(values, "rate"), _number(values, "mark")
    if time_ns is None:
        raise _wrong("a funding time", values["time"], "2024-01-01T08:00Z")
    if rate is None or not -1 < rate < 1:
        raise _wrong("a funding rate", values["rate"], "0.0001")
    if mark is not None and mark <= 0:
        raise _wrong("a mark price", values["mark"], "43000.5")
    return ListedFunding(exchange, symbol, FundingRate(time_ns, rate, mark), source, _moment(values, "published"))


def _wrong(what: str, text: str, example: str) -> InputError:
    return invalid("EVENT_WRONG", f"{text!r} is not {what}", f"write it as {example}")


def _day(values: Mapping[str, str], name: str) -> date | None:
    try:
        found = date.fromisoformat(values[name]) if values[name] else None
    except ValueError:
        raise _wrong("a day", values[name], "2020-08-31") from None
    if found is not None and found.year not in _YEARS:
        raise _wrong(f"a day of the years {_YEARS[0]} to {_YEARS[-1]}", values[name], "2020-08-31")
    return found


def _moment(values: Mapping[str, str], name: str) -> int | None:
    if not values[name]:
        return None
    try:
        found = datetime.fromisoformat(values[name])
    except ValueError:
        raise _wrong("a time", values[name], "2024-01-01T08:00Z") from None
    if found.year not in _YEARS:
        raise _wrong(f"a time of the years {_YEARS[0]} to {_YEARS[-1]}", values[name], "2024-01-01T08:00Z")
    return to_ns(found.replace(tzinfo=UTC) if found.tzinfo is None else found)


def _number(values: Mapping[str, str], name: str) -> Decimal | None:
    """Return a number that can be stored, None where the cell is empty. Errors: InputError EVENT_WRONG."""
    try:
        found = Decimal(values[name]) if values[name] else None
    except InvalidOperation:
        found = Decimal("NaN")
    if found is None:
        return None
    if not found.is_finite():
        raise _wrong("a number", values[name], "0.24")
    if found.adjusted() >= _DIGITS_MAX or int(found.as_tuple().exponent) < -_DIGITS_MAX:
        raise _wrong(f"a number of at most {_DIGITS_MAX} digits on each side of the point", values[name], "0.24")
    return found


# ── rows of the store ────────────────────────────────────────────────────────────────────────────
def split_event(exchange: str, symbol: str, split: SplitDay, source: str) -> ListedEvent:

    return ListedEvent(exchange, symbol, SPLIT, split.day, new=split.new, old=split.old, source=source)


def events_of(exchange: str, symbol: str, fetched: FetchedEvents, source: str) -> list[ListedEvent]:
    """Return what an exchange has of a symbol as rows of the store: splits and dividends."""

    rows = [split_event(exchange, symbol, split, source) for split in fetched.splits]
    for one in fetched.dividends:
        rows.append(
            ListedEvent(
                exchange,
                symbol,
                DIVIDEND,
                one.day,
                one.type,
                amount=one.amount,
                currency=one.currency,
                pay_day=one.pay_day,
                source=source,
                published_ns=None if one.declared is None else midnight_ns(ALWAYS, one.declared),
            )
        )
    return rows


def funding_of(exchange: str, symbol: str, fetched: FetchedEvents, source: str) -> list[ListedFunding]:

    return [ListedFunding(exchange, symbol, one, source) for one in fetched.funding]


def _shown(row: ListedEvent) -> dict[str, Any]:

    if row.kind == "split":
        value = row.split.ratio
    elif row.amount is not None:
        value = f"{plain(row.amount)} {row.currency}".strip() + (f", paid {row.pay_day}" if row.pay_day else "")
    else:
        value = row.new_symbol
    return _row(row.kind, row.exchange, row.symbol, row.day.isoformat(), value, row.source, row)


def _economic(row: EconomicEvent) -> dict[str, Any]:
    figures = {"actual": row.actual, "forecast": row.forecast, "previous": row.previous}
    parts = [f"{name} {plain(value)}" for name, value in figures.items() if value is not None]
    value = ", ".join([row.name, row.importance, *parts])
    return _row("economic", "", row.currency, iso(row.time_ns), value, row.source, row)


def _row(
    kind: str,
    exchange: str,
    symbol: str,
    day: str,
    value: str,
    source: str,
    row: ListedEvent | EconomicEvent | None = None,
) -> dict[str, Any]:
    published = None if row is None or row.published_ns is None else iso(row.published_ns)
    return {
        "symbol": symbol,
        "exchange": exchange,
        "kind": kind,
        "day": day,
        "value": value,
        "source": source,
        "published": published,
        "revision": (row.revision or None) if row else None,
    }
