"""Reading a file's bars and checking every row, before anything is stored. Ambiguity is an error, every change a
note."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fks.market.bars.aggregate import length_of
from fks.market.bars.columns import find_unsummable
from fks.market.bars.outliers import OutlierDetector
from fks.market.bars.validation import RowFault, check_bars
from fks.market.exchanges.registry import EXCHANGES, capabilities_of
from fks.market.files.column_mapping import ColumnMapping, map_columns
from fks.market.files.errors import file_error
from fks.market.files.rows import (
    OrderedRows,
    check_close,
    check_numbers,
    count_closed,
    find_timeframe,
    note_rounded,
    numbers,
    opens_of,
)
from fks.market.files.source import SourceFile, open_source
from fks.market.files.symbols import alphanumeric, check_exchange, symbol_at
from fks.market.files.table import Table, read_table
from fks.market.files.times import read_times
from fks.market.files.trades import TradeColumnPositions, bars_of_trades, map_trades
from fks.market.history.gaps import calendar_for
from fks.model.bar import Bars, Ints
from fks.model.calendars import ALWAYS, Calendar, calendar_of
from fks.model.instrument import NO_LARGEST, NO_RULES, GivenRules, assumed_instrument
from fks.model.timeframe import NS, check_bar_kind, iso, volume_of


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """Options of an import; "" or None: detect it. `zone` is for timestamps without one, `columns` are in order.

    `calendar` is the market's, 24/7 or a name of exchange_calendars; missing bars follow from it. The default
    is that of the exchange, and CMES for futures. `date_order`: one of `fks.market.files.times.ORDERS`. `rules`: of
    runs on the bars, instead of those that are derived from them.
    """

    exchange: str = ""
    symbol: str = ""
    timeframe: str = ""
    zone: str | None = None
    columns: str = ""
    is_end: bool | None = None
    calendar: str = ""
    date_order: str = ""
    rules: GivenRules = NO_RULES


@dataclass(frozen=True, slots=True)
class FileBars:
    """A file's bars, and a report of reading them.

    `missing` counts the expected bars that the file lacks, `gaps` the runs of them. `suspects` are outliers and bars
    outside sessions, `suspect_texts` describe them: they are stored, since a crash is no mistake, and reported.
    `is_calendar_kept`: the calendar was chosen, or found by the bars alone; it is stored with the series.
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
    suspects: tuple[RowFault, ...]
    suspect_texts: tuple[str, ...]
    notes: tuple[str, ...]
    calendar: str = ALWAYS
    is_calendar_kept: bool = False
    rules: GivenRules = NO_RULES


def read_bars(path: Path, options: ImportOptions, *, now_ns: int) -> FileBars:
    """Return the bars in a file.

    Guarantees: times rise, lie on the timeframe's grid and not in the future; prices are above 0 and fit one another.
    A last bar that is not over yet is left out. Errors: InputError with row and column for any violation.
    """
    source = open_source(path)
    table = read_table(source)
    trades = None if options.columns else map_trades(table, source.stem)
    is_volume = volume_of(options.timeframe) is not None
    if is_volume and trades is None:
        raise file_error(
            table.name,
            "holds bars: the trades inside them are not known",
            remedy=f"make {options.timeframe} bars of a file of trades",
            code="TRADES_NEEDED",
        )
    read = (
        _read_table(source, table, options, now_ns) if trades is None else _read_trades(table, trades, options, now_ns)
    )
    bars, counts, mapping, exchange = read.bars, read.trades, read.mapping, read.exchange
    if not len(bars):
        what = "has no bar that is over" if trades is None else "has no bar whose trades are all in it"
        raise file_error(table.name, what, code="FILE_EMPTY")
    notes = [*source.notes, *table.notes, *mapping.notes, *read.notes]
    free = replace(assumed_instrument(exchange, bars.symbol, ""), qty_max=NO_LARGEST)
    options.rules.of(free, float(bars.high.max()))  # rules that fit not even one without rules are refused here
    calendar_name = calendar_for(exchange, options.calendar or None, bars.symbol, bars)
    is_found = not options.calendar and calendar_name != calendar_for(exchange, None, bars.symbol)
    if is_found:
        notes.append(f"its bars keep to the calendar {calendar_name} (another: --calendar NAME)")
    calendar = None if calendar_name == ALWAYS else calendar_of(calendar_name)
    gaps = np.empty(0, np.int64) if is_volume else _gap_lengths(bars, calendar)
    faults = [] if is_volume else check_bars(bars, outliers=OutlierDetector(), calendar=calendar)
    suspects = tuple(fault for fault in faults if not fault.is_refused)

    def described(fault: RowFault) -> str:
        place = f"row {read.rows.row(fault.row)}, " if read.rows is not None else ""
        return f"{place}{iso(fault.time_ns)}, {fault.reason.replace('_', ' ')}: {fault.detail}"

    return FileBars(
        path,
        mapping.form,
        exchange,
        bars,
        counts,
        read.stamps,
        source.sha256,
        int(gaps.sum()),
        len(gaps),
        int(gaps.max(initial=0)),
        suspects,
        tuple(described(fault) for fault in suspects),
        tuple(notes),
        calendar_name,
        is_found or bool(options.calendar),
        options.rules,
    )


@dataclass(frozen=True, slots=True)
class _Read:
    """Bars of a file, the numbers of their trades where these are known, and how they were read. `rows`: their rows in
    the file; None for bars that were built from trades."""

    bars: Bars
    trades: Ints | None
    mapping: ColumnMapping
    exchange: str
    stamps: str
    notes: list[str]
    rows: OrderedRows | None


def _read_trades(table: Table, columns: TradeColumnPositions, options: ImportOptions, now_ns: int) -> _Read:
    symbol, exchange, named = _series(table, columns.mapping, options)
    found = read_times(table, columns.mapping.time, zone=options.zone, is_utc=True, date_order=options.date_order)
    timeframe = check_bar_kind(options.timeframe) if options.timeframe else "1m"
    bars, counts, notes = bars_of_trades(
        table, columns, found, symbol=symbol, exchange=exchange, timeframe=timeframe, now_ns=now_ns
    )
    notes = [*named, *notes, *found.unused(options.zone)]
    return _Read(bars, counts, columns.mapping, exchange, found.written, notes, None)


def _read_table(source: SourceFile, table: Table, options: ImportOptions, now_ns: int) -> _Read:
    mapping = map_columns(table, source.stem, columns=options.columns)
    if options.is_end is not None:
        mapping = replace(mapping, is_end=options.is_end)
    symbol, exchange, named = _series(table, mapping, options)
    found = read_times(table, mapping.time, zone=options.zone, is_utc=mapping.is_utc, date_order=options.date_order)
    rows = OrderedRows(table, mapping, found, has_zone=options.zone is not None)
    stamps = rows.ordered(found.time_ns)
    rows.check(stamps)
    open_, high, low, close = (rows.ordered(numbers(table, position)) for position in mapping.prices)
    volume = np.zeros(len(stamps)) if mapping.volume is None else rows.ordered(numbers(table, mapping.volume))
    check_numbers(rows, mapping, [open_, high, low, close], volume)
    given = options.timeframe or (mapping.timeframe if table.metadata else "")  # our own export states it
    timeframe = find_timeframe(rows, stamps, given, mapping.timeframe)
    time_ns = opens_of(rows, stamps, timeframe, is_end=mapping.is_end)
    if mapping.volume is not None and (unsummable := find_unsummable(time_ns, volume)) is not None:
        row, why = unsummable
        column = table.column(mapping.volume)
        raise rows.fail(row, column, f"{float(volume[row])!r} {why}", code="FILE_NUMBER", remedy="round the source")
    if mapping.close_time is not None:
        check_close(rows, mapping.close_time, time_ns, timeframe)
    trades = None if mapping.trades is None else rows.ordered(numbers(table, mapping.trades)).astype(np.int64)
    keep, left_out = count_closed(rows, time_ns, timeframe, now_ns)
    bars = Bars(symbol, timeframe, time_ns, open_, high, low, close, volume)[:keep]
    notes = [*named, *rows.notes, *found.unused(options.zone), *left_out]
    notes += note_rounded(rows, [*mapping.prices, *(() if mapping.volume is None else (mapping.volume,))])
    if mapping.volume is None:
        notes.append("no volume: stored as 0")
    return _Read(bars, None if trades is None else trades[:keep], mapping, exchange, found.written, notes, rows)


def _gap_lengths(bars: Bars, calendar: Calendar | None) -> Ints:
    """Return the lengths of the gaps between the first and the last bar, in expected bars."""
    if calendar is None:
        # a month is shorter than its nominal length by days, never by a half
        steps = np.rint(np.diff(bars.time_ns) / (length_of(bars.timeframe) * NS)).astype(np.int64) - 1
        return steps[steps > 0]
    expected = calendar.expected(bars.timeframe, int(bars.time_ns[0]), int(bars.time_ns[-1]) + 1)
    is_missing = np.concatenate([[False], ~np.isin(expected, bars.time_ns), [False]]).astype(np.int8)
    edges = np.diff(is_missing)
    return np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)


def _series(table: Table, mapping: ColumnMapping, options: ImportOptions) -> tuple[str, str, list[str]]:
    """Return (symbol, exchange, notes). Errors: InputError when neither the caller nor the file names them, or they
    differ."""
    symbol = (options.symbol or mapping.symbol or _symbol_inside(table, mapping, options.symbol)).strip()
    exchange = check_exchange(options.exchange) if options.exchange else mapping.exchange
    if mapping.symbol_column is not None:
        _symbol_inside(table, mapping, symbol)
    if not symbol:
        raise file_error(
            table.name, "does not say which symbol it is of", remedy="say --symbol BTCUSDT", code="FILE_SERIES"
        )
    if not exchange:
        raise file_error(
            table.name,
            "does not say which exchange it is from",
            code="FILE_SERIES",
            remedy="say --exchange: prices of one are not prices of another",
        )
    notes = (
        []
        if exchange in EXCHANGES or not options.exchange
        else [f"{exchange} is no exchange that FKS collects from: {' '.join(EXCHANGES)}"]
    )
    stored_symbol = symbol_at(exchange, symbol)
    if not stored_symbol:
        separator = capabilities_of(exchange).separator
        raise file_error(
            table.name,
            f"is of {symbol!r}, and {exchange} writes BTC{separator}USDT",
            code="FILE_SERIES",
            remedy=f"say where the base ends: --symbol BASE{separator}QUOTE",
        )
    return stored_symbol, exchange, notes


def _symbol_inside(table: Table, mapping: ColumnMapping, given: str) -> str:
    """Return the one symbol in the file's own column, "" when it has none. Errors: InputError if `given` is another."""
    if mapping.symbol_column is None:
        return ""
    import pyarrow.compute as pc

    found = [str(name) for name in pc.unique(table.columns[mapping.symbol_column].cast("string")).to_pylist()]
    if len(found) > 1:
        raise file_error(
            table.name,
            f"holds {len(found)} symbols ({', '.join(found[:6])})",
            column=table.column(mapping.symbol_column),
            remedy="split it: one symbol and timeframe a file",
            code="FILE_SERIES",
        )
    if given and alphanumeric(given) != alphanumeric(found[0]):
        raise file_error(table.name, f"holds {found[0]}, not {given}", row=table.row(0), code="FILE_SERIES")
    return found[0]
