"""A file's bars, checked row by row before anything is stored; what is doubtful is an error, what was done is a
note."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fks.bars.aggregate import length_of
from fks.bars.calendars import ALWAYS, Calendar, calendar_of
from fks.bars.outliers import OutlierDetector
from fks.bars.validation import Fault, check_bars
from fks.exchanges.registry import EXCHANGES, capabilities_of
from fks.files.column_mapping import Layout, find_layout
from fks.files.problem import problem
from fks.files.rows import (
    Rows,
    check_close,
    check_numbers,
    count_closed,
    find_timeframe,
    note_rounded,
    numbers,
    opens_of,
)
from fks.files.source import open_source
from fks.files.symbols import check_exchange, letters, spelt_at
from fks.files.table import Table, read_table
from fks.files.times import read_times
from fks.model.bar import Bars, Ints
from fks.model.timeframe import NS, iso


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the caller says of a file; "" or None: find it out. `zone` is of stamps that name none, `columns` in order.

    `calendar` says when the market trades, so what is missing: 24/7, or a name of exchange_calendars. `date_order`: one
    of `fks.files.times.ORDERS`.
    """

    exchange: str = ""
    symbol: str = ""
    timeframe: str = ""
    zone: str | None = None
    columns: str = ""
    is_end: bool | None = None
    calendar: str = ALWAYS
    date_order: str = ""


@dataclass(frozen=True, slots=True)
class FileBars:
    """A file's bars, and how they were read.

    `missing` counts the bars that the calendar expects and the file has not, `gaps` the runs of them. `doubts` are
    outliers and bars outside sessions, `doubted` the same in words: they are stored, for a crash is no mistake, and
    told.
    """

    path: Path
    form: str
    exchange: str
    bars: Bars
    trades: Ints | None
    stamps: str
    sha256: str
    missing: int
    gaps: int
    gap_longest: int
    doubts: tuple[Fault, ...]
    doubted: tuple[str, ...]
    notes: tuple[str, ...]
    calendar: str = ALWAYS


def read_bars(path: Path, wanted: Wanted, *, now_ns: int) -> FileBars:
    """Return the bars in a file.

    Guarantees: times rise, lie on the timeframe's grid and not in the future; prices are above 0 and fit one another.
    A last bar that is not over yet is left out. Errors: InputError with row and column for whatever is not so.
    """
    source = open_source(path)
    table = read_table(source)
    layout = find_layout(table, source.stem, columns=wanted.columns)
    if wanted.is_end is not None:
        layout = replace(layout, is_end=wanted.is_end)
    symbol, exchange, named = _series(table, layout, wanted)
    found = read_times(table, layout.time, zone=wanted.zone, is_utc=layout.is_utc, date_order=wanted.date_order)
    rows = Rows(table, layout, found, is_told=wanted.zone is not None)
    stamps = rows.ordered(found.time_ns)
    rows.check(stamps)
    open_, high, low, close = (rows.ordered(numbers(table, position)) for position in layout.prices)
    volume = np.zeros(len(stamps)) if layout.volume is None else rows.ordered(numbers(table, layout.volume))
    check_numbers(rows, layout, [open_, high, low, close], volume)
    said = wanted.timeframe or (layout.timeframe if table.metadata else "")  # our own export knows what it holds
    timeframe = find_timeframe(rows, stamps, said, layout.timeframe)
    time_ns = opens_of(rows, stamps, timeframe, is_end=layout.is_end)
    if layout.close_time is not None:
        check_close(rows, layout.close_time, time_ns, timeframe)
    trades = None if layout.trades is None else rows.ordered(numbers(table, layout.trades)).astype(np.int64)
    keep, left_out = count_closed(rows, time_ns, timeframe, now_ns)
    bars = Bars(symbol, timeframe, time_ns, open_, high, low, close, volume)[:keep]
    if not len(bars):
        raise problem(table.name, "has no bar that is over", code="FILE_EMPTY")
    notes = [*source.notes, *table.notes, *layout.notes, *named, *rows.notes, *found.unused(wanted.zone), *left_out]
    notes += note_rounded(rows, [*layout.prices, *(() if layout.volume is None else (layout.volume,))])
    if layout.volume is None:
        notes.append("no volume: stored as 0")
    calendar = None if wanted.calendar == ALWAYS else calendar_of(wanted.calendar)
    holes = _holes(bars, calendar)
    doubts = tuple(
        doubt for doubt in check_bars(bars, outliers=OutlierDetector(), calendar=calendar) if not doubt.is_refused
    )
    return FileBars(
        path,
        layout.form,
        exchange,
        bars,
        None if trades is None else trades[:keep],
        found.written,
        source.sha256,
        int(holes.sum()),
        len(holes),
        int(holes.max(initial=0)),
        doubts,
        tuple(f"row {rows.row(f.row)}, {iso(f.time_ns)}, {f.reason.replace('_', ' ')}: {f.detail}" for f in doubts),
        tuple(notes),
        wanted.calendar,
    )


def _holes(bars: Bars, calendar: Calendar | None) -> Ints:
    """Return the lengths of the holes between the first and the last bar, in bars that were expected there."""
    if calendar is None:
        # a month is shorter than its nominal length by days, never by a half
        steps = np.rint(np.diff(bars.time_ns) / (length_of(bars.timeframe) * NS)).astype(np.int64) - 1
        return steps[steps > 0]
    expected = calendar.expected(bars.timeframe, int(bars.time_ns[0]), int(bars.time_ns[-1]) + 1)
    is_missing = np.concatenate([[False], ~np.isin(expected, bars.time_ns), [False]]).astype(np.int8)
    edges = np.diff(is_missing)
    return np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)


def _series(table: Table, layout: Layout, wanted: Wanted) -> tuple[str, str, list[str]]:
    """Return (symbol, exchange, notes). Errors: InputError when neither the caller nor the file says, or they
    disagree."""
    symbol = (wanted.symbol or layout.symbol or _symbol_inside(table, layout, wanted.symbol)).strip()
    exchange = check_exchange(wanted.exchange) if wanted.exchange else layout.exchange
    if layout.symbol_column is not None:
        _symbol_inside(table, layout, symbol)
    if not symbol:
        raise problem(
            table.name, "does not say which symbol it is of", remedy="say --symbol BTCUSDT", code="FILE_SERIES"
        )
    if not exchange:
        raise problem(
            table.name,
            "does not say which exchange it is from",
            code="FILE_SERIES",
            remedy="say --exchange: prices of one are not prices of another",
        )
    notes = (
        []
        if exchange in EXCHANGES or not wanted.exchange
        else [f"{exchange} is no exchange that FKS collects from: {' '.join(EXCHANGES)}"]
    )
    spelt = spelt_at(exchange, symbol)
    if not spelt:
        separator = capabilities_of(exchange).separator
        raise problem(
            table.name,
            f"is of {symbol!r}, and {exchange} writes BTC{separator}USDT",
            code="FILE_SERIES",
            remedy=f"say where the base ends: --symbol BASE{separator}QUOTE",
        )
    return spelt, exchange, notes


def _symbol_inside(table: Table, layout: Layout, said: str) -> str:
    """Return the one symbol in the file's own column, "" when it has none."""
    if layout.symbol_column is None:
        return ""
    import pyarrow.compute as pc

    found = [str(name) for name in pc.unique(table.columns[layout.symbol_column].cast("string")).to_pylist()]
    if len(found) > 1:
        raise problem(
            table.name,
            f"holds {len(found)} symbols ({', '.join(found[:6])})",
            column=table.column(layout.symbol_column),
            remedy="split it: one symbol and timeframe a file",
            code="FILE_SERIES",
        )
    if said and letters(said) != letters(found[0]):
        raise problem(table.name, f"holds {found[0]}, not {said}", row=table.row(0), code="FILE_SERIES")
    return found[0]
