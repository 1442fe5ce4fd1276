"""Functions of `from fks.data import *`: plain calls on one node's store, for scripts and notebooks.

Symbols are taken in any spelling. `start` and `end` are ISO texts, datetimes or dates, UTC when they have no zone;
`start` is the first open time, `end` is exclusive. `limit` alone gives the newest bars, with `start` the first ones.
Only complete bars are returned, oldest first: a bar that was built over a gap is left out. Rows are mappings whose
values are attributes, too. A wrong argument is an InputError that names the valid values.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fks.data import frames, manual
from fks.data.session import Session
from fks.model.bar import Bars
from fks.model.errors import InputError, conflict, not_found, unprocessable
from fks.model.timeframe import NS, bar_end, bar_start, check_timeframe, iso
from fks.store.accounts import AccountStore
from fks.store.bars import BarStore, SeriesSummary
from fks.store.columns import ColumnCache
from fks.store.corporate_actions import CorporateActionStore
from fks.store.db import Database
from fks.store.reading import Listed, ReadingStore

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

AHEAD_NS = 60 * NS  # how far a broker's clock may be ahead of ours
#: up to so many bars are read from the database, more through a mapped copy of their series
_FEW = 20_000
_session: Session | None = None


class NamedRow(dict[str, Any]):
    """One row: `row["name"]` and `row.name` are the same."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        """Return the value of the column `name`."""
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"this row has no {name!r}: it has {', '.join(self)}") from None


def _record(row: Mapping[str, Any]) -> NamedRow:
    """Return a row with plain numbers: the driver says 5E+4 where the table says 50000."""
    return NamedRow({key: Decimal(format(v, "f")) if isinstance(v, Decimal) else v for key, v in row.items()})


# ── which node ───────────────────────────────────────────────────────────────────────────────────
def connect(home: str | Path | None = None) -> None:
    """Read from the node at `home` from here on (default FKS_HOME, else `.fks`). Optional before the first call."""
    global _session
    disconnect()
    _session = Session(home)


def disconnect() -> None:
    """Close the session; the next call opens a new one. Called automatically when the program ends."""
    global _session
    if _session is not None:
        _session.close()
    _session = None


def session() -> Session:
    """Return the open session, made when there is none (or it is a fork's parent's)."""
    global _session
    if _session is None or not _session.is_usable:
        _session = Session()
    return _session


# ── bars ─────────────────────────────────────────────────────────────────────────────────────────
def get_ohlcv_data(
    symbol: str,
    timeframe: str,
    limit: int | None = None,
    *,
    start: object = None,
    end: object = None,
    exchange: str | None = None,
) -> pd.DataFrame:
    """Return bars as a DataFrame: index `time` (open time, UTC), columns open high low close volume, float64.

    Prices of shares are raw; `attrs["splits"]` has the known splits, by which `fks.research.backtest.bars_from_frame`
    adjusts. `attrs` holds symbol, timeframe, exchange, `missing`, and the series' `revision`, which changes when a bar
    that you may have read was corrected. `missing`: the number of expected bars from `start` (without it: from the
    first one) until `end` or the present, whichever is first (without `end`: until the last one), that are not stored;
    where `limit` cut the answer, between its first and last one. None where that cannot be known: no-trade bars are
    left out, the market's hours are unknown, or there is neither a bar nor a `start`. Errors: InputError, OutageError.
    """
    listed, state, bars = _read(symbol, timeframe, limit, start, end, exchange)
    missing = _missing(listed, state.calendar, bars, *_span(start, end, limit))
    found = session().run(lambda db: CorporateActionStore(db).splits(listed.exchange, listed.symbol))
    splits = {"splits": {split.day.isoformat(): split.ratio for split in found}} if found else {}
    return frames.frame_of(bars, exchange=listed.exchange, missing=missing, revision=state.revision, **splits)


def get_ohlcv_arrays(
    symbol: str,
    timeframe: str,
    limit: int | None = None,
    *,
    start: object = None,
    end: object = None,
    exchange: str | None = None,
) -> Bars:
    """Return bars as numpy columns: `time_ns` int64, open high low close volume float64, all of one length.

    A long series is mapped from a file, not copied: do not write into it. Errors: InputError, OutageError.
    """
    return _read(symbol, timeframe, limit, start, end, exchange)[2]


def get_ohlcv_table(
    symbol: str,
    timeframe: str,
    limit: int | None = None,
    *,
    start: object = None,
    end: object = None,
    exchange: str | None = None,
) -> pa.Table:
    """Return bars as an Arrow table over the memory of `get_ohlcv_arrays`: nothing is copied.

    Errors: InputError, OutageError.
    """
    listed, state, bars = _read(symbol, timeframe, limit, start, end, exchange)
    return frames.table_of(bars, exchange=listed.exchange, revision=str(state.revision))


def add_features(
    rows: Any, feature: str = "", symbol: str = "", *, source: str = "fks.data", knowledge: object = None
) -> int:
    """Store values of own columns of strategies, all or none; return how many are new.

    `rows` is a DataFrame, or mappings, with `time`, `known_at` and `value`, and `feature` and `symbol` where they are
    not given (no symbol: of every symbol). `known_at` is the moment from which on a strategy may use a value: its own
    in history; a program that writes as it goes leaves it out, and it is now. `knowledge`: up to
    when the language model that made the values knows the world. Errors: InputError FEATURE_NAME, FEATURE_TIME,
    FEATURE_KNOWLEDGE, FEATURE_CHANGED, TIME_INVALID; OutageError.
    """
    from fks.store.feature_values import FeatureValue
    from fks.store.feature_values import add_features as add

    now_ns, trained_ns = time.time_ns(), frames.moment_ns(knowledge, "knowledge")
    found = []
    for row in rows.to_dict("records") if hasattr(rows, "to_dict") else rows:
        time_ns, known_ns = (frames.moment_ns(row.get(name), name) for name in ("time", "known_at"))
        if time_ns is None or "value" not in row:
            raise unprocessable("INVALID", f"the row {dict(row)} lacks a time or a value")
        of = str(row.get("symbol") or symbol)
        try:
            value = float("nan") if row["value"] is None else float(row["value"])
        except (TypeError, ValueError):
            raise unprocessable("INVALID", f"value={row['value']!r} is no number") from None
        known_ns = now_ns if known_ns is None else known_ns
        name = str(row.get("feature") or feature)
        found.append(FeatureValue(name, of, time_ns, known_ns, value, source, trained_ns))
    return session().run(lambda db: add(db, found))


def with_features(bars: Bars, *names: str) -> Bars:
    """Return bars (`get_ohlcv_arrays`) with stored columns beside them: of each bar what was known at its end.

    Errors: InputError FEATURE_UNKNOWN, OutageError.
    """
    from fks.store.feature_values import FeatureStore

    return session().run(lambda db: FeatureStore(db).aligned(names, bars.symbol, bars))


def get_indicator(
    symbol: str,
    timeframe: str,
    name: str,
    limit: int | None = None,
    *,
    start: object = None,
    end: object = None,
    exchange: str | None = None,
    **params: float,
) -> pd.DataFrame:
    """Return an indicator over a whole series as a DataFrame: a column per output, NaN where it has no value yet.

    It is cached until a bar is added or corrected. `start`, `end` and `limit` cut the result, not the computation.
    Errors: InputError with the indicator's parameters, OutageError.
    """
    from fks.store.indicators import Computed, IndicatorCache

    check_timeframe(timeframe)
    first_ns, last_ns, limit = _span(start, end, limit)

    now = session()

    async def work(db: Database) -> Computed:
        listed = await ReadingStore(db).find(symbol, exchange)
        columns = ColumnCache(now.paths.columns, db) if now.paths.home.is_dir() else None
        return await IndicatorCache(db, columns).compute(listed.exchange, listed.symbol, timeframe, name, **params)

    found = now.run(work).between(first_ns, last_ns, limit)
    return frames.columns_frame(
        found.time_ns,
        found.columns,
        symbol=found.symbol,
        timeframe=timeframe,
        exchange=found.exchange,
        indicator=name,
        revision=found.revision,
    )


def _read(
    symbol: str, timeframe: str, limit: int | None, start: object, end: object, exchange: str | None
) -> tuple[Listed, SeriesSummary, Bars]:
    """Return the listed symbol and exchange, the summary of the series, and the bars."""
    check_timeframe(timeframe)
    first_ns, last_ns, limit = _span(start, end, limit)
    from fks.market.history.gaps import calendar_for

    now = session()

    async def work(db: Database) -> tuple[Listed, SeriesSummary, Bars]:
        listed = await ReadingStore(db).find(symbol, exchange)
        store = BarStore(db)
        state = await store.series(listed.symbol, timeframe, exchange=listed.exchange)
        is_small = limit is not None and limit <= _FEW
        source = store if is_small or not now.paths.home.is_dir() else ColumnCache(now.paths.columns, db)
        bars = await source.read(
            listed.symbol,
            timeframe,
            first_ns or 0,
            last_ns,
            limit,
            exchange=listed.exchange,
            is_newest=first_ns is None,
        )
        state = state or SeriesSummary(0, 0, None, None)
        market = calendar_for(listed.exchange, state.calendar, listed.symbol, bars)
        return listed, state, replace(bars, calendar=market, exchange=listed.exchange)

    return now.run(work)


def _missing(
    listed: Listed, kept: str | None, bars: Bars, start_ns: int | None, end_ns: int | None, limit: int | None
) -> int | None:
    """Return the number of expected bars that an answer lacks. `kept`: the calendar that is stored with the series."""
    from fks.market.exchanges.registry import EXCHANGES
    from fks.market.history.gaps import calendar_for, count_bars, has_empty_bars
    from fks.model.futures import futures_calendar
    from fks.store.gaps import TimeRange

    is_known = kept or listed.exchange in EXCHANGES or futures_calendar(listed.exchange, listed.symbol)
    if not is_known or not has_empty_bars(listed.exchange):
        return None
    timeframe, is_cut = bars.timeframe, limit is not None and len(bars) == limit

    def next_open(time_ns: int) -> int:
        at = bar_start(time_ns, timeframe)
        return at if at == time_ns else bar_end(at, timeframe)

    if start_ns is not None and not is_cut:
        first_ns = next_open(start_ns)
    elif len(bars):
        first_ns = int(bars.time_ns[0])
    else:
        return None
    closed_ns = bar_start(session().clock.now_ns(), timeframe)
    if end_ns is not None and not is_cut:
        last_ns = min(next_open(end_ns), closed_ns)
    else:
        last_ns = bar_end(int(bars.time_ns[-1]), timeframe) if len(bars) else closed_ns
    if last_ns <= first_ns:
        return 0
    return count_bars(
        TimeRange(first_ns, last_ns), timeframe, calendar_for(listed.exchange, kept, listed.symbol)
    ) - len(bars)


def _span(start: object, end: object, limit: int | None) -> tuple[int | None, int | None, int | None]:
    first_ns, last_ns = frames.moment_ns(start, "start"), frames.moment_ns(end, "end")
    frames.check_span(first_ns, last_ns, limit)
    return first_ns, last_ns, None if limit is None else int(limit)


def get_sync_status(
    symbol: str | None = None, timeframe: str | None = None, *, exchange: str | None = None
) -> list[NamedRow]:
    """Return the state of the syncs of a symbol (of all without one): symbol, timeframe, exchange, sync_status
    (pending, running, done, failed; collected or stored where bars came without a sync), error, last_sync_at, and what
    is stored now: oldest, newest, candles, revision."""
    from fks.market.bars.aggregate import length_of

    rows = session().run(lambda db: ReadingStore(db).sync_status(symbol, timeframe, exchange))
    ordered = sorted(rows, key=lambda row: (row["symbol"], row["exchange"], length_of(row["timeframe"])))
    return [_record(row) for row in ordered]


# ── accounts ─────────────────────────────────────────────────────────────────────────────────────
def get_accounts() -> list[NamedRow]:
    """Return every account: id, name, account_type, venue, broker, currency, initial_balance (Decimal), mode,
    is_enabled."""
    from dataclasses import asdict

    return [_record(asdict(account)) for account in session().run(lambda db: AccountStore(db).page())]


def create_account(
    name: str, account_type: str = "personal", initial_balance: object = 0, broker: str = "", *, currency: str = "USDT"
) -> NamedRow:
    """Return the account of that name, created if there is none: a paper account, which never sends an order.

    Twice equals once. Errors: InputError for an impossible name or value, or when the existing account has other
    values.
    """
    from dataclasses import asdict

    balance = manual.exact_of(initial_balance, "initial_balance")
    if account_type not in ("personal", "prop"):
        raise InputError(f"account_type={account_type!r} is unknown", remedy="use 'personal' or 'prop'")
    for argument, value, length_max in (("broker", broker, 64), ("currency", currency, 12)):
        if not isinstance(value, str) or len(value) > length_max or not value.isprintable():
            raise unprocessable("INVALID", f"{argument}={value!r} is no name", f"use at most {length_max} characters")
    if not currency.isalnum():
        raise unprocessable("INVALID", f"currency={currency!r} is no currency", "use 'USDT', 'USD', …")
    currency = currency.upper()
    if not name or len(name) > 64 or not name.isprintable() or balance < 0:
        raise InputError(
            f"name={name!r}, initial_balance={balance} make no account", remedy="1 to 64 characters, and 0 or more"
        )
    given = {"account_type": account_type, "broker": broker, "currency": currency, "initial_balance": balance}

    async def work(db: Database) -> NamedRow:
        made = await AccountStore(db).create(
            name, venue="paper", account_type=account_type, broker=broker, currency=currency, initial_balance=balance
        )
        return _record(asdict(made))

    account = session().run(work)
    if differing := [f"{key} {account[key]}" for key, value in given.items() if account[key] != value]:
        raise conflict(
            "ACCOUNT_EXISTS",
            f"there is an account named {name!r} already, with {', '.join(differing)}",
            "choose another name",
        )
    return account


def record_trade(
    account_id: int,
    symbol: str,
    trade_type: str,
    quantity: object,
    price: object,
    fee: object = 0,
    order_type: str = "MARKET",
    *,
    time: object = None,
    reference: str | None = None,
    fee_currency: str | None = None,
    exchange: str | None = None,
) -> NamedRow:
    """Book an execution that was made elsewhere, and return its row; nothing is sent, no position changes.

    Equal arguments are the same trade: it is not booked twice, a warning is given, and `is_new` is False. Two equal
    trades need different `time` or `reference` (the broker's trade id). Fees are in the quote currency unless
    `fee_currency` is given. `realized_pnl` is by average cost over the manual bookings. Errors: InputError,
    OutageError.
    """
    side, exact_quantity, exact_price, exact_fee = manual.checked(trade_type, quantity, price, fee, order_type)
    if reference is not None and not (0 < len(reference) <= manual.REFERENCE_MAX and reference.isprintable()):
        raise unprocessable(
            "INVALID",
            f"reference={reference[:40]!r} is no name",
            f"use the broker's trade id, at most {manual.REFERENCE_MAX} characters, or leave it out",
        )
    time_ns = frames.moment_ns(time, "time")
    if time_ns is not None and time_ns > session().clock.now_ns() + AHEAD_NS:
        raise unprocessable("INVALID", f"time={time!r} is yet to come", "say when it was executed")
    trade = manual.ManualTrade(
        _number(account_id),
        side,
        exact_quantity,
        exact_price,
        exact_fee,
        fee_currency,
        str(order_type),
        time_ns,
        reference,
    )

    async def work(db: Database) -> tuple[dict[str, Any], bool]:
        return await manual.book(db, await ReadingStore(db).find(symbol, exchange), trade)

    row, is_new = session().run(work)
    if not is_new:
        warnings.warn(
            f"this trade is booked already (number {row['id']}, at {row['time']:%Y-%m-%d %H:%M}Z); if it is another "
            "one,"
            " pass time= or reference=",
            stacklevel=2,
        )
    return _record({**row, "is_new": is_new})


def get_balance_history(account_id: int, limit: int = 100) -> pd.DataFrame:
    """Return the newest `limit` points of an account's balance, oldest first: index `time` (UTC), columns currency,
    balance, equity (float64), cause, reference. Errors: InputError, OutageError."""
    import pandas

    frames.check_span(None, None, limit)
    account_id, limit = _number(account_id), int(limit)

    async def work(db: Database) -> list[Any]:
        store = AccountStore(db)
        if account_id not in [account.id for account in await store.page()]:
            raise not_found("ACCOUNT_UNKNOWN", f"there is no account {account_id!r}", "see get_accounts()")
        return await store.history(account_id, limit)

    rows = list(reversed(session().run(work)))
    columns = ("currency", "balance", "equity", "cause", "reference")
    found = pandas.DataFrame(
        {name: [getattr(row, name) for row in rows] for name in columns},
        index=pandas.DatetimeIndex([pandas.Timestamp(iso(row.time_ns)) for row in rows], name="time", tz="UTC"),
    )
    return found.astype({"balance": "float64", "equity": "float64"})


def _number(account_id: object) -> int:
    if isinstance(account_id, bool) or not isinstance(account_id, Integral):
        raise unprocessable("INVALID", f"account_id={account_id!r} is no account's number", "see get_accounts()")
    return int(account_id)


# ── the service ──────────────────────────────────────────────────────────────────────────────────
class Service:
    """The calls of the former data service, run in this program: history from the exchange into the store."""

    def sync_historical_data(
        self,
        symbol: str,
        timeframe: str,
        *,
        start: object = None,
        end: object = None,
        exchange: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> NamedRow:
        """Fetch the bars of one series that are not stored, by default of two years up to now; return a summary.

        `progress` is called with (bars done, bars in all), from another thread. Safe to interrupt and to repeat: stored
        bars are not requested again. Errors: InputError, OutageError, PeerError when the exchange broke its own rules.
        """
        from fks.market.history.request import fetch_history

        check_timeframe(timeframe)
        first_ns, last_ns, _ = _span(start, end, None)
        now = session()

        async def work(db: Database) -> dict[str, Any]:
            return await fetch_history(
                db,
                now.settings,
                now.paths,
                symbol,
                timeframe,
                start_ns=first_ns,
                end_ns=last_ns,
                exchange=exchange,
                progress=progress,
            )

        return _record(now.run(work))


service = Service()
