"""Bars out of a file of public trades: Binance's archives (trades, aggTrades), Kraken's downloads, tables by header.

The trades themselves are not stored: `market_trades` holds the last day of collected trades.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from fks.market.bars.aggregate import aggregate_trades, starts_of
from fks.market.bars.columns import find_unsummable, volume_bars
from fks.market.exchanges.registry import DOWNLOADS_BY_SYMBOL, EXCHANGES, capabilities_of
from fks.market.files.column_mapping import NAMES, ColumnMapping, plain_name
from fks.market.files.rows import numbers
from fks.market.files.table import Table
from fks.market.files.times import Stamps
from fks.model.bar import Bars, Floats, Ints
from fks.model.timeframe import bar_end, bar_start, iso, volume_of

_NAME = re.compile(r"^([A-Z0-9_]+)-(?:aggTrades|trades)-\d{4}-\d{2}(?:-\d{2})?")
_KRAKEN_NAME = re.compile(r"^[A-Z0-9.]{5,20}$")
_WHOLE = re.compile(r"\d+")
_SIDE = re.compile(r"true|false", re.IGNORECASE)
_ID = ("aggtradeid", "tradeid", "id", "a")
_PRICE = ("price", "p", "px")
_QUANTITY = ("qty", "quantity", "q", "size", "amount", "volume", "vol")
_FIRST, _LAST = ("firsttradeid", "f"), ("lasttradeid", "l")
_TIMES = ("transacttime", *NAMES["time"])


@dataclass(frozen=True, slots=True)
class TradeColumnPositions:
    """Positions of the columns of trades. `ids` are the first and the last single trade of a row, where rows are
    aggregates. `is_archive`: the file holds whole days, by its name."""

    mapping: ColumnMapping
    price: int
    quantity: int
    number: int | None
    ids: tuple[int, int] | None
    is_archive: bool


def map_trades(table: Table, stem: str) -> TradeColumnPositions | None:
    """Return the columns of a file of trades; None when it holds something else."""
    match = _NAME.match(stem)
    width = len(table.names)
    if not table.has_header:
        cells = [table.cell(position, 0).strip() for position in range(width)]
        if width == 3 and _KRAKEN_NAME.match(stem):
            return _columns("kraken download of trades", DOWNLOADS_BY_SYMBOL, stem, 0, 1, 2)
        if width not in (7, 8) or not _WHOLE.fullmatch(cells[0]) or not all(map(_SIDE.fullmatch, cells[-2:])):
            return None
        symbol = match[1] if match else ""
        is_agg = width == 8
        found = _columns("binance aggTrades" if is_agg else "binance trades", "binance", symbol, width - 3, 1, 2)
        return replace(found, number=0, ids=(3, 4) if is_agg else None, is_archive=match is not None)
    names = tuple(plain_name(name) for name in table.names)
    if {"open", "high", "low"} & set(names):
        return None
    time, price, quantity, number = (_at(names, known) for known in (_TIMES, _PRICE, _QUANTITY, _ID))
    if time is None or price is None or quantity is None:
        return None
    ids = (_at(names, _FIRST), _at(names, _LAST))
    exchange = ("binancecoinm" if re.match(r"[A-Z0-9]+_(PERP|\d{6})", stem) else "binanceusdm") if match else ""
    found = _columns("trades", exchange, match[1] if match else "", time, price, quantity)
    symbol_column = _at(names, NAMES["symbol"])
    return replace(
        found,
        mapping=replace(found.mapping, symbol_column=symbol_column),
        number=number,
        ids=None if ids[0] is None or ids[1] is None else (ids[0], ids[1]),
        is_archive=match is not None,
    )


def _columns(form: str, exchange: str, symbol: str, time: int, price: int, quantity: int) -> TradeColumnPositions:
    mapping = ColumnMapping(form, (time,), (price,) * 4, quantity, is_utc=True, exchange=exchange, symbol=symbol)
    return TradeColumnPositions(mapping, price, quantity, None, None, is_archive=False)


def _at(names: tuple[str, ...], known: tuple[str, ...]) -> int | None:
    return next((names.index(name) for name in known if name in names), None)


def bars_of_trades(
    table: Table,
    columns: TradeColumnPositions,
    stamps: Stamps,
    *,
    symbol: str,
    exchange: str,
    timeframe: str,
    now_ns: int,
) -> tuple[Bars, Ints, list[str]]:
    """Return the bars that a file's trades make, the number of trades in each, and notes.

    The first and the last bar are left out unless the file's name says that it holds whole days: trades of them may be
    missing. No-trade bars between are made where the exchange has such bars. Volume bars begin with the first trade;
    the last is left out unless it is full. Errors: InputError with row and column.
    """
    price, quantity = numbers(table, columns.price), numbers(table, columns.quantity)
    for position, values, is_good in (
        (columns.price, price, price > 0),
        (columns.quantity, quantity, quantity >= 0),
    ):
        bad = np.flatnonzero(~is_good)
        if len(bad):
            row = int(bad[0])
            raise table.error(
                f"{float(values[row])!r} is not {'above' if position == columns.price else 'at least'} 0",
                at=row,
                position=position,
                code="FILE_NUMBER",
            )
    time_ns = stamps.time_ns
    order = np.argsort(numbers(table, columns.number), kind="stable") if columns.number is not None else None
    if order is None and len(time_ns) > 1 and np.sign(np.diff(time_ns)).sum() < 0:
        order = np.arange(len(time_ns))[::-1]
    counts = np.ones(len(time_ns), np.int64)
    if columns.ids is not None:
        first, last = (numbers(table, position).astype(np.int64) for position in columns.ids)
        counts = np.maximum(last - first + 1, 1)
    if order is not None:
        time_ns, price, quantity, counts = time_ns[order], price[order], quantity[order], counts[order]
    steps = np.flatnonzero(np.diff(time_ns) < 0)
    if len(steps):
        row = int(steps[0]) + 1
        row = row if order is None else int(order[row])
        raise table.error(
            f"{iso(int(stamps.time_ns[row]))} is older than the trade before it",
            at=row,
            position=columns.mapping.time[0],
            code="FILE_ORDER",
            remedy="sort the rows by time and id",
        )
    if int(time_ns[-1]) > now_ns:
        row = int(np.argmax(stamps.time_ns > now_ns))
        raise table.error(
            f"{iso(int(stamps.time_ns[row]))} is in the future",
            at=row,
            position=columns.mapping.time[0],
            code="TIME_FUTURE",
        )
    if (unsummable := find_unsummable(time_ns, quantity)) is not None:
        row, why = unsummable
        raise table.error(
            f"{float(quantity[row])!r} {why}",
            at=row if order is None else int(order[row]),
            position=columns.quantity,
            code="FILE_NUMBER",
            remedy="round the source",
        )
    if volume_of(timeframe) is not None:
        bars = volume_bars(symbol, timeframe, time_ns, price, quantity)
        total = np.append(0, np.cumsum(counts))
        edges = np.append(0, np.searchsorted(time_ns, bars.ends_ns))  # a bar ends just after its last time
        return bars, np.diff(total[edges]), [f"{int(counts.sum())} trades: bars from the first of them on"]
    start_ns, end_ns = _span(columns, time_ns, timeframe)
    end_ns = min(end_ns, bar_start(now_ns, timeframe))
    bars = aggregate_trades(symbol, timeframe, time_ns, price, quantity, start_ns=start_ns, end_ns=end_ns)
    notes = [f"{int(counts.sum())} trades: their {timeframe} bars are stored, the trades are not"]
    if not columns.is_archive:
        notes.append("trades of the first and the last bar may be missing: left out")
    if not len(bars):
        return bars, np.empty(0, np.int64), notes
    starts = starts_of(time_ns, timeframe)
    edge = np.flatnonzero(np.diff(starts, prepend=starts[0] - 1))
    trades = np.add.reduceat(counts, edge)[np.isin(starts[edge], bars.time_ns)]
    if exchange in EXCHANGES and capabilities_of(exchange).has_empty_bars:
        return *_with_empty(bars, trades, end_ns), notes
    return bars, trades, notes


def _span(columns: TradeColumnPositions, time_ns: Ints, timeframe: str) -> tuple[int, int]:
    """Return the time of which a file has all trades."""
    if columns.is_archive:
        return bar_start(int(time_ns[0]), "1d"), bar_end(bar_start(int(time_ns[-1]), "1d"), "1d")
    return bar_end(bar_start(int(time_ns[0]), timeframe), timeframe), bar_start(int(time_ns[-1]), timeframe)


def _with_empty(bars: Bars, trades: Ints, end_ns: int) -> tuple[Bars, Ints]:
    """Return bars with flat ones of no volume, at the close before, from the first bar on where none is."""
    if bars.timeframe == "1M":
        return bars, trades
    step = bar_end(int(bars.time_ns[0]), bars.timeframe) - int(bars.time_ns[0])
    times = np.arange(int(bars.time_ns[0]), end_ns - step + 1, step, dtype=np.int64)
    at = np.searchsorted(bars.time_ns, times, side="right") - 1
    is_there = bars.time_ns[at] == times

    def filled(column: Floats) -> Floats:
        return np.where(is_there, column[at], bars.close[at])

    made = Bars(
        bars.symbol,
        bars.timeframe,
        times,
        filled(bars.open),
        filled(bars.high),
        filled(bars.low),
        filled(bars.close),
        np.where(is_there, bars.volume[at], 0.0),
    )
    return made, np.where(is_there, trades[at], 0)
