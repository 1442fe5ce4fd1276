"""Checks of a file's rows: times in order and on the grid, numbers that form valid bars."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from fks.market.bars.aggregate import length_of, starts_of
from fks.market.files.column_mapping import ColumnMapping
from fks.market.files.errors import file_error
from fks.market.files.table import Table
from fks.market.files.times import Stamps, read_times
from fks.model.bar import Floats, Ints
from fks.model.errors import InputError
from fks.model.timeframe import NS, TIMEFRAMES, bar_end, check_timeframe, iso

_DIGITS = 15  # that every float64 holds
_CHANCE = 1e6  # odds against seeing a larger timeframe by chance in a file of a rarely traded market
PRICES = ("open", "high", "low", "close")
_COLUMNS = "say which column is which: --columns time,open,high,low,close,volume"


class OrderedRows:
    """Rows in ascending order of time: a file with the newest first is reversed, any other disorder is an error."""

    def __init__(self, table: Table, mapping: ColumnMapping, stamps: Stamps, *, has_zone: bool) -> None:
        """`has_zone`: the caller gave the zone of timestamps without one."""
        self.table, self.column, self.stamps = table, table.column(mapping.time[0]), stamps
        self.is_assumed_utc = not (stamps.is_zoned or stamps.is_day or has_zone)  # the form defines UTC
        time_ns = stamps.time_ns
        self.is_turned = is_newest_first(time_ns)
        self.notes = ("newest first: turned round",) if self.is_turned else ()

    def ordered(self, values: Any) -> Any:
        return values[::-1].copy() if self.is_turned else values

    def row(self, index: int) -> int:
        """Return the line of the file that holds row `index`."""
        return self.table.row(len(self.table) - 1 - index if self.is_turned else index)

    def fail(self, index: int, column: str, what: str, *, code: str = "FILE_BROKEN", remedy: str = "") -> InputError:
        return file_error(self.table.name, what, row=self.row(index), column=column, code=code, remedy=remedy)

    def check(self, time_ns: Ints) -> None:
        """Raise for the first timestamp that is not later than the one before it."""
        if time_ns.min() < 0:
            index = int(np.argmin(time_ns))
            raise self.fail(index, self.column, f"{iso(int(time_ns[index]))} is before 1970")
        steps = np.flatnonzero(np.diff(time_ns) <= 0)
        if not len(steps):
            return
        index = int(steps[0]) + 1
        this, before = iso(int(time_ns[index])), iso(int(time_ns[index - 1]))
        is_same = this == before
        what = (
            f"{this} stands twice, in row {self.row(index - 1)} as well" if is_same else f"{this} comes after {before}"
        )
        remedy = "keep one of them" if is_same else "sort the rows by time"
        if (
            time_ns[index - 1] - time_ns[index] <= 3600 * NS
            and this[5:7] in ("04", "10", "11")
            and not self.stamps.is_counted
        ):
            then = "say --timezone" if not self.stamps.is_zoned else "its stamps are wrong: export in UTC"
            remedy += f"; or is it local time, in which an hour is twice in autumn? then {then}"
        raise self.fail(index, self.column, what, code="FILE_ORDER", remedy=remedy)


def is_newest_first(time_ns: Ints) -> bool:
    """Return whether most rows are older than the one before them; a single step back is none of order."""
    steps = np.sign(np.diff(time_ns)).sum()
    return bool(steps < 0)


# ── numbers ──────────────────────────────────────────────────────────────────────────────────────
def numbers(table: Table, position: int) -> Floats:
    """Return a column as float64, each nearest to its text. Errors: InputError at the first cell that is no number."""
    import pyarrow as pa
    import pyarrow.compute as pc

    cells = table.columns[position]
    kind = cells.type
    if not (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
    ):
        raise table.error(f"holds {kind}, not numbers", position=position, code="FILE_NUMBER")
    if pa.types.is_decimal(kind) or (pa.types.is_floating(kind) and kind.bit_width < 64):
        cells = cells.cast(pa.string())  # the float64 nearest to the text; Arrow's own cast is off by a bit
    try:
        values = pc.fill_null(cells.cast(pa.float64()), float("nan")).to_numpy(zero_copy_only=False)
    except pa.ArrowException:
        values = _slowly(table, position)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        index = int(bad[0])
        shown = cells[index].as_py()
        what = "is empty" if shown in (None, "") else f"{shown!r} is not a number"
        if isinstance(shown, str) and "," in shown:
            what += " here"
        remedy = (
            "numbers have a point and no thousands separator: 1234.5" if isinstance(shown, str) and "," in shown else ""
        )
        raise table.error(what, at=index, position=position, remedy=remedy, code="FILE_NUMBER")
    found: Floats = values
    return found


def _slowly(table: Table, position: int) -> Floats:
    values = np.empty(len(table))
    for index, cell in enumerate(table.columns[position].to_pylist()):
        try:
            values[index] = float(str(cell).strip()) if "_" not in str(cell) else np.nan
        except ValueError:
            values[index] = np.nan
    return values


def note_rounded(rows: OrderedRows, positions: list[int]) -> list[str]:
    """Return the note on numbers that float64 does not hold exactly: mostly those of more than 15 digits."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = []
    for position in positions:
        cells = rows.table.columns[position]
        if pa.types.is_floating(cells.type):
            continue
        texts = cells.cast(pa.string())
        long = np.flatnonzero(pc.greater(pc.binary_length(texts), _DIGITS).to_numpy(zero_copy_only=False))
        for index, text in zip(long.tolist(), texts.take(pa.array(long)).to_pylist(), strict=True):
            if Decimal(repr(float(text))) != Decimal(text):
                found.append((rows.table.row(index), position, text))
    if not found:
        return []
    row, position, text = min(found)
    return [
        f"{len(found)} numbers have more than {_DIGITS} digits and are stored rounded; the first: row {row}, "
        f"column {rows.table.column(position)}: {text} as {float(text)!r}"
    ]


def check_numbers(rows: OrderedRows, mapping: ColumnMapping, prices: list[Floats], volume: Floats) -> None:
    names = [rows.table.column(position) for position in mapping.prices]
    open_, high, low, close = prices
    for name, column in zip(names, prices, strict=True):
        _each(rows, name, column > 0, column, "is not above 0")
    top, bottom = np.maximum(open_, close), np.minimum(open_, close)
    broken = (high < top) | (low > bottom)
    if broken.sum() * 4 > len(high):  # not a bad row, but the wrong columns
        index = int(np.flatnonzero(broken)[0])
        shown = " ".join(
            f"{name} {column[index]!r}" for name, column in zip(PRICES, map(np.ndarray.tolist, prices), strict=True)
        )
        raise rows.fail(
            index,
            names[1],
            f"{shown}: {int(broken.sum())} of {len(high)} rows have no such order, so the columns are other ones",
            remedy=_COLUMNS,
            code="FILE_COLUMNS",
        )
    _each(rows, names[1], high >= top, high, "is below the bar's open or close")
    _each(rows, names[2], low <= bottom, low, "is above the bar's open or close")
    if mapping.volume is not None:
        _each(rows, rows.table.column(mapping.volume), volume >= 0, volume, "is below 0")


def _each(rows: OrderedRows, column: str, is_good: npt.NDArray[np.bool_], values: Floats, what: str) -> None:
    bad = np.flatnonzero(~is_good)
    if len(bad):
        index = int(bad[0])
        more = f" ({len(bad)} rows so)" if len(bad) > 1 else ""
        raise rows.fail(index, column, f"{float(values[index])!r} {what}{more}", code="FILE_NUMBER")


# ── time ─────────────────────────────────────────────────────────────────────────────────────────
def find_timeframe(rows: OrderedRows, time_ns: Ints, given: str, named: str) -> str:
    """Return the timeframe: the `given` one, that of the file's name, or the most frequent step.

    Errors: InputError; also for bars of a larger timeframe than that of the file's name. A given one is not checked for
    that.
    """
    known = check_timeframe(given) if given else named
    if len(time_ns) < 2:
        if not known:
            raise rows.fail(
                0, rows.column, "one row does not show its timeframe", remedy="say --timeframe 1m", code="FILE_SERIES"
            )
        return known
    steps, counts = np.unique(np.diff(time_ns), return_counts=True)
    frequent = int(steps[np.argmax(counts)])
    months = 28 * 86400 * NS <= frequent <= 31 * 86400 * NS
    found = "1M" if months else next((name for name, s in TIMEFRAMES.items() if s * NS == frequent), "")
    if (known and steps[0] < length_of(known) * NS and known != "1M") or (known == "1M" and not months):
        index = int(np.flatnonzero(np.diff(time_ns) == (steps[0] if known != "1M" else frequent))[0]) + 1
        step_s = (steps[0] if known != "1M" else frequent) / NS
        raise rows.fail(
            index,
            rows.column,
            f"comes {step_s:g} s after the row before: these are not {known} bars",
            remedy=f"say --timeframe {found}" if found else "",
            code="FILE_SERIES",
        )
    if named and not given:
        _check_named(rows, time_ns, named, found)
    if not (known or found):
        raise rows.fail(
            1,
            rows.column,
            f"most rows are {frequent / NS:g} s apart, and there are no such bars",
            code="FILE_SERIES",
            remedy=f"use one of {' '.join(TIMEFRAMES)}",
        )
    return known or found


def _check_named(rows: OrderedRows, time_ns: Ints, named: str, found: str) -> None:
    """Refuse bars of a larger timeframe than that of the file's name. `found`: the timeframe of the most frequent step,
    "" for none.

    Bars of a rarely traded market have irregular times: only a few rows fall on a larger grid by chance.
    """
    steps = np.diff(time_ns)
    shared = length_of("1M") * NS if found == "1M" and steps.min() >= 28 * 86400 * NS else int(np.gcd.reduce(steps))
    ratio = shared / (length_of(named) * NS)
    if ratio <= 1 or len(steps) * math.log(ratio) < math.log(_CHANCE):
        return
    is_whole = bool(found) and shared == length_of(found) * NS
    every = "a month" if found == "1M" else f"a multiple of {shared / NS:.9g} s"
    raise rows.fail(
        1,
        rows.column,
        f"comes {steps[0] / NS:.9g} s after the row before, and every step is {every}: these are not {named} bars",
        remedy=f"{f'say --timeframe {found}, or' if is_whole else 'if nobody traded in between, say'} --timeframe "
        f"{named}"
        f"{' if nobody traded in between' if is_whole else ''}",
        code="FILE_SERIES",
    )


def opens_of(rows: OrderedRows, time_ns: Ints, timeframe: str, *, is_end: bool) -> Ints:
    """Return open times. Errors: InputError for a timestamp at which no bar begins (or ends)."""
    if is_end and timeframe == "1M":
        raise rows.fail(0, rows.column, "months by their ends are not read", remedy="stamp bars with their open")
    opens = time_ns - length_of(timeframe) * NS if is_end else time_ns
    off = opens - starts_of(opens, timeframe)
    bad = np.flatnonzero(off)
    if not len(bad):
        return opens
    index = int(bad[0])
    text = f"{iso(int(time_ns[index]))} is not where a {timeframe} bar {'ends' if is_end else 'begins'} in UTC"
    same = np.unique(off)
    if len(same) <= 2 and (same % (900 * NS) == 0).all() and length_of(timeframe) > 900:
        off_h = max(same) / NS / 3600
        text += f", {off_h:g} h off; so is every row" if len(same) == 1 else f", {off_h:g} h off; others are not"
        zone_remedy = "say --timezone with the place whose clock it is, or export in UTC"
        raise rows.fail(
            index,
            rows.column,
            f"{text}: these are stamps of local time",
            code="TIME_LOCAL",
            remedy=zone_remedy
            if rows.is_assumed_utc
            else f"export {timeframe} bars of UTC, or smaller bars and make these of them with --larger",
        )
    if not is_end and (off == length_of(timeframe) * NS - off).all():
        text += ": are these bar ends?"
    raise rows.fail(index, rows.column, text, code="TIME_GRID", remedy="bars of 24-hour UTC days only")


def check_close(rows: OrderedRows, position: int, opens: Ints, timeframe: str) -> None:
    """Check the close times of Binance rows: one unit before the next bar."""
    closes = rows.ordered(read_times(rows.table, (position,), zone=None, is_utc=True).time_ns)
    ends = starts_of(opens + 32 * 86400 * NS, timeframe) if timeframe == "1M" else opens + length_of(timeframe) * NS
    off = ends - closes
    bad = np.flatnonzero((off <= 0) | (off > 1_000_000))
    if len(bad):
        index = int(bad[0])
        raise rows.fail(
            index,
            rows.table.column(position),
            f"{iso(int(closes[index]))} is not the end of a {timeframe} bar that opens {iso(int(opens[index]))}",
            code="TIME_GRID",
        )


def count_closed(rows: OrderedRows, time_ns: Ints, timeframe: str, now_ns: int) -> tuple[int, list[str]]:
    """Return (number of closed bars, notes). Errors: InputError when a bar begins in the future."""
    future = np.flatnonzero(time_ns > now_ns)
    if len(future):
        index = int(future[0])
        raise rows.fail(
            index,
            rows.column,
            f"{iso(int(time_ns[index]))} is in the future",
            code="TIME_FUTURE",
            remedy="a wrong zone, bar ends taken for opens (--stamps), or this machine's clock is wrong",
        )
    if bar_end(int(time_ns[-1]), timeframe) > now_ns:
        return len(time_ns) - 1, [f"the bar that opens {iso(int(time_ns[-1]))} is not over yet: left out"]
    return len(time_ns), []
