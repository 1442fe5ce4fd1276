"""`fks data splits | events | import-events | sync-events`: splits, dividends, delistings and funding rates."""

from __future__ import annotations

from datetime import date
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fks.cli.base import result
from fks.cli.data.store import csv_rows, exchange_of, with_store
from fks.model.errors import InputError
from fks.model.timeframe import iso

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from fks.model.cash_flows import FetchedEvents
    from fks.store.corporate_actions import ListedEvent, ListedFunding
    from fks.store.db import Database

#: columns of a file by what its header has: a kind of each row, funding rates alone, splits alone
_BY_KIND = ("symbol", "kind")
_OF_FUNDING = ("symbol", "time", "rate")
_OF_SPLITS = ("symbol", "day", "ratio")
_OTHERS = (
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
    "published",
    "source",
)
_KINDS = ("split", "dividend", "delisting", "symbol_change", "funding")
_AMOUNT_MAX = Decimal(10) ** 9


@click.command()
@click.argument("symbol", required=False)
@click.option("--exchange", default="", help="Of this exchange.")
@click.option(
    "--add", "added", multiple=True, metavar="DAY=RATIO", help="Add a split: 2020-08-31=4:1. May be repeated."
)
@click.option("--remove", "removed", multiple=True, metavar="DAY", help="Remove the split of a day. May be repeated.")
@result("fks.data.splits/1", empty="no split is known")
def splits(
    ctx: click.Context, symbol: str | None, exchange: str, added: tuple[str, ...], removed: tuple[str, ...]
) -> Any:
    """Show the known splits of SYMBOL, or of all; add and remove some.

    DAY is the first on which the new shares are traded, RATIO the new ones for each old one; 1:1 says that the price
    moved without a split. Stored bars stay as they are: a backtest reads them in shares of its end.

    \b
    fks data splits AAPL --add 2014-06-09=7:1 --add 2020-08-31=4:1
    """
    from fks.bars.splits import split_day

    if (added or removed) and symbol is None:
        raise InputError("--add and --remove need a symbol", remedy="fks data splits SYMBOL --add DAY=RATIO")
    new = [split_day(*text.rpartition("=")[::2]) for text in added]
    try:
        gone = [date.fromisoformat(text) for text in removed]
    except ValueError:
        raise InputError(f"--remove {' '.join(removed)}: a day is written as 2020-08-31") from None

    async def work(db: Database) -> list[ListedEvent]:
        from fks.store.corporate_actions import SPLIT, CorporateActionStore
        from fks.store.reading import ReadingStore

        if symbol is None:
            return await CorporateActionStore(db).events(exchange or None)
        found = await ReadingStore(db).find(symbol, exchange or None)
        place = (found.exchange, found.symbol)
        every = {split.day: _split_event(*place, split, "fks data splits") for split in new}
        async with db.transaction() as tx:  # all that was asked for, or nothing
            store = CorporateActionStore(tx)
            for day in gone:
                if not await store.withdraw(*place, SPLIT, day):
                    raise InputError(f"no split of {found.symbol} is known on {day}", remedy="see 'fks data splits'")
            await store.put(list(every.values()))
            return await store.events(*place)

    return [
        {
            "symbol": row.symbol,
            "exchange": row.exchange,
            "day": row.day.isoformat(),
            "ratio": row.split.ratio,
            "source": row.source,
        }
        for row in with_store(ctx, work)
        if row.kind == "split"
    ]


# ── events ───────────────────────────────────────────────────────────────────────────────────────
@click.group()
def events() -> None:
    """Splits, dividends, delistings and symbol changes of shares, and funding rates of perpetuals."""


@events.command("list")
@click.argument("symbol", required=False)
@click.option("--exchange", default="", help="Of this exchange.")
@click.option("--known-at", metavar="TIME", help="As they were published by then: 2024-01-01 or 90d (ago).")
@result("fks.data.events/1", empty="no event is known")
def list_events(ctx: click.Context, symbol: str | None, exchange: str, known_at: str | None) -> Any:
    """Show the known events of SYMBOL, or of all: each with its source, its revision, and since when it is known.

    Funding rates are one line a symbol.
    """
    from fks.cli.events import moment
    from fks.model.timeframe import to_ns

    at = moment(known_at)
    known_ns = None if at is None else to_ns(at)

    async def work(db: Database) -> list[dict[str, Any]]:
        from fks.store.corporate_actions import CorporateActionStore
        from fks.store.reading import ReadingStore

        store, place = CorporateActionStore(db), (exchange or None, symbol)
        if symbol is not None and not exchange:
            found = await ReadingStore(db).find(symbol)
            place = (found.exchange, found.symbol)
        rows = [_shown(row) for row in await store.events(*place, known_ns)]
        for one in await store.funding_ranges(*place):
            value = f"{one.rates} rates to {iso(one.newest_ns)}"
            rows.append(_row("funding", one.exchange, one.symbol, iso(one.oldest_ns), value, one.source))
        return rows

    return with_store(ctx, work)


@click.command("import-events")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--exchange", default="", help="Of this exchange, where the file does not say it.")
@result("fks.data.events/1", empty="the file has no row")
def import_events(ctx: click.Context, file: Path, exchange: str) -> Any:
    """Import events from a csv FILE: all of its rows, or none.

    \b
    symbol,kind,day,ratio,amount,currency,pay_day,new_symbol   split, dividend, delisting, symbol_change
    symbol,time,rate,mark                                      funding rates of perpetuals
    symbol,day,ratio                                           splits alone

    `day` is the ex-day of a dividend, the first day of the new shares or of the new symbol, the first without trading.
    Further columns that are read: exchange, source, type (of several dividends of one day), and published, the time
    from which on it was known. A symbol has to be stored, or its exchange be named. An event that is known already with
    another content gets a further revision.
    """
    listed, funding = _read(file, exchange)

    async def work(db: Database) -> list[dict[str, Any]]:
        from dataclasses import replace

        from fks.store.reading import ReadingStore

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
        return await _stored(db, events_named, rates_named)

    return with_store(ctx, work)


@click.command("sync-events")
@click.option("--symbol", "symbols", multiple=True, required=True, help="Symbol of the exchange. May be repeated.")
@click.option("--from", "start", metavar="TIME", default="730d", show_default=True, help="2024-01-01 or 90d (ago).")
@click.option("--exchange", default="", help="binance, bybit (funding) or polygon. Default: data.exchange.")
@result("fks.data.events/1", empty="the exchange has no event of it")
def sync_events(ctx: click.Context, symbols: tuple[str, ...], start: str, exchange: str) -> Any:
    """Fetch events from an exchange: funding of perpetuals (binance, bybit), dividends and splits (polygon).

    Funding is stored under the exchange of the perpetuals, as bars of their archives are: binanceusdm, bybitlinear.
    """
    from fks.cli.events import moment
    from fks.model.timeframe import to_ns

    began = moment(start)
    assert began is not None
    since_ns = to_ns(began)

    async def work(db: Database) -> list[dict[str, Any]]:
        found: list[tuple[str, str, FetchedEvents]] = []
        async with exchange_of(ctx, exchange) as source:
            fetch = getattr(source, "fetch_events", None)
            if fetch is None:
                raise InputError(
                    f"{source.name} has no dividends, splits or funding rates",
                    code="EVENTS_UNSUPPORTED",
                    remedy="use --exchange binance, bybit or polygon, or 'fks data import-events FILE'",
                )
            for symbol in symbols:
                found.append((symbol.upper(), source.name, await fetch(symbol.upper(), since_ns)))
        listed, funding = [], []
        for symbol, name, fetched in found:
            place = fetched.exchange or name
            listed += _events_of(place, symbol, fetched, name)
            funding += _funding_of(place, symbol, fetched, name)
        return await _stored(db, listed, funding)

    return with_store(ctx, work)


async def _stored(
    db: Database, listed: Sequence[ListedEvent], funding: Sequence[ListedFunding]
) -> list[dict[str, Any]]:
    """Store events and funding rates in one transaction, and return them as rows to show."""
    from fks.store.corporate_actions import CorporateActionStore

    _ensure_apart(listed, funding)
    async with db.transaction() as tx:
        store = CorporateActionStore(tx)
        await store.put(listed)
        await store.put_funding(funding)
    rows = [_shown(row) for row in listed]
    for place in dict.fromkeys((row.exchange, row.symbol) for row in funding):
        times = sorted(row.funding.time_ns for row in funding if (row.exchange, row.symbol) == place)
        source = next(row.source for row in funding if (row.exchange, row.symbol) == place)
        rows.append(_row("funding", *place, iso(times[0]), f"{len(times)} rates to {iso(times[-1])}", source))
    return rows


def _ensure_apart(listed: Sequence[ListedEvent], funding: Sequence[ListedFunding]) -> None:
    """Refuse two different events of one symbol, kind and day, and two rates of one time. Errors: InputError
    EVENTS_OVERLAP."""
    seen: dict[tuple[Any, ...], Any] = {}
    keys = [((row.kind, row.exchange, row.symbol, row.day.isoformat(), row.type), row) for row in listed]
    times = [(("funding", row.exchange, row.symbol, iso(row.funding.time_ns), ""), row) for row in funding]
    for key, row in (*keys, *times):
        if key in seen:
            raise InputError(
                f"there are two rows of a {key[0]} of {key[2]} on {key[3]}",
                code="EVENTS_OVERLAP",
                remedy="keep one of them; several dividends of one day need a `type` each",
            )
        seen[key] = row


# ── rows of a file ───────────────────────────────────────────────────────────────────────────────
def _columns(names: Collection[str]) -> tuple[str, ...]:
    """Return the columns that a file with this header needs."""
    return _BY_KIND if "kind" in names else _OF_FUNDING if "rate" in names else _OF_SPLITS


def _read(file: Path, exchange: str) -> tuple[list[ListedEvent], list[ListedFunding]]:
    """Return the events and the funding rates of a file. Errors: InputError naming the row."""
    listed, funding = [], []
    for where, values in csv_rows(file, _columns, _OTHERS):
        kind = values["kind"] or ("funding" if values["rate"] else "split")
        if kind not in _KINDS:
            raise InputError(
                f"{where}: {kind} is no kind of event", code="EVENT_WRONG", remedy=f"use one of {', '.join(_KINDS)}"
            )
        if not values["symbol"]:
            raise InputError(f"{where}: it names no symbol", code="EVENT_WRONG")
        place = ((values["exchange"] or exchange).lower(), values["symbol"])
        try:
            if kind == "funding":
                funding.append(_funding_row(*place, values, values["source"] or file.name))
            else:
                listed.append(_event_row(kind, *place, values, values["source"] or file.name))
        except InputError as error:
            raise InputError(f"{where}: {error.message}", code=error.code, remedy=error.remedy) from error
    return listed, funding


def _event_row(kind: str, exchange: str, symbol: str, values: dict[str, str], source: str) -> ListedEvent:
    """Return the event of a row. Errors: InputError SPLIT_WRONG, EVENT_WRONG."""
    from dataclasses import replace

    from fks.bars.splits import split_day
    from fks.store.corporate_actions import ListedEvent

    published_ns = _moment(values, "published")
    if kind == "split":
        split = split_day(values["day"], values["ratio"])
        return replace(_split_event(exchange, symbol, split, source), published_ns=published_ns)
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


def _funding_row(exchange: str, symbol: str, values: dict[str, str], source: str) -> ListedFunding:
    """Return the funding rate of a row. Errors: InputError EVENT_WRONG."""
    from fks.model.cash_flows import FundingRate
    from fks.store.corporate_actions import ListedFunding

    time_ns, rate, mark = _moment(values, "time"), _number(values, "rate"), _number(values, "mark")
    if time_ns is None:
        raise _wrong("a funding time", values["time"], "2024-01-01T08:00Z")
    if rate is None or not -1 < rate < 1:
        raise _wrong("a funding rate", values["rate"], "0.0001")
    if mark is not None and mark <= 0:
        raise _wrong("a mark price", values["mark"], "43000.5")
    return ListedFunding(exchange, symbol, FundingRate(time_ns, rate, mark), source, _moment(values, "published"))


def _wrong(what: str, text: str, example: str) -> InputError:
    return InputError(f"{text!r} is not {what}", code="EVENT_WRONG", remedy=f"write it as {example}")


def _day(values: dict[str, str], name: str) -> date | None:
    try:
        return date.fromisoformat(values[name]) if values[name] else None
    except ValueError:
        raise _wrong("a day", values[name], "2020-08-31") from None


def _moment(values: dict[str, str], name: str) -> int | None:
    from fks.data.frames import moment_ns

    if not values[name]:
        return None
    try:
        return moment_ns(values[name], name)
    except InputError as error:
        raise InputError(error.message, code="EVENT_WRONG", remedy=error.remedy) from error


def _number(values: dict[str, str], name: str) -> Decimal | None:
    """Return a finite number, None where the cell is empty. Errors: InputError EVENT_WRONG."""
    try:
        found = Decimal(values[name]) if values[name] else None
    except InvalidOperation:
        found = Decimal("NaN")
    if found is not None and not found.is_finite():
        raise _wrong("a number", values[name], "0.24")
    return found


# ── rows of the store ────────────────────────────────────────────────────────────────────────────
def _split_event(exchange: str, symbol: str, split: Any, source: str) -> ListedEvent:
    from fks.store.corporate_actions import SPLIT, ListedEvent

    return ListedEvent(exchange, symbol, SPLIT, split.day, new=split.new, old=split.old, source=source)


def _events_of(exchange: str, symbol: str, fetched: FetchedEvents, source: str) -> list[ListedEvent]:
    """Return what an exchange has of a symbol as rows of the store: splits and dividends."""
    from fks.bars.calendars import ALWAYS, midnight_ns
    from fks.store.corporate_actions import DIVIDEND, ListedEvent

    rows = [_split_event(exchange, symbol, split, source) for split in fetched.splits]
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


def _funding_of(exchange: str, symbol: str, fetched: FetchedEvents, source: str) -> list[ListedFunding]:
    from fks.store.corporate_actions import ListedFunding

    return [ListedFunding(exchange, symbol, one, source) for one in fetched.funding]


def _shown(row: ListedEvent) -> dict[str, Any]:
    from fks.model.decimals import plain

    if row.kind == "split":
        value = row.split.ratio
    elif row.amount is not None:
        value = f"{plain(row.amount)} {row.currency}".strip() + (f", paid {row.pay_day}" if row.pay_day else "")
    else:
        value = row.new_symbol
    return _row(row.kind, row.exchange, row.symbol, row.day.isoformat(), value, row.source, row)


def _row(
    kind: str, exchange: str, symbol: str, day: str, value: str, source: str, row: ListedEvent | None = None
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
