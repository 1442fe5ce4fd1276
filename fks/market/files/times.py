"""Parsing of timestamps into ns UTC: unit, date form and zone, with the hour that is skipped in spring and the one that
repeats in autumn. Ambiguous ones are refused."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt

from fks.market.files.errors import file_error
from fks.market.files.table import Table
from fks.model.bar import Ints
from fks.model.errors import invalid

#: unit -> its ns. Each unit has its own range of numbers from 1973 to 5138, so the unit of a number is certain
UNITS = {"s": 10**9, "ms": 10**6, "µs": 10**3, "ns": 1}
_BOUNDS = {"s": 10**11, "ms": 10**14, "µs": 10**17, "ns": 2**63 - 1}
_EPOCH = re.compile(r"\d{9,19}")
_SECONDS = re.compile(r"\d{9,11}\.\d{1,9}")
_CLOCK = r"(?P<h>\d{1,2}):(?P<i>\d{2})(?::(?P<s>\d{2})(?:[.,](?P<f>\d{1,9}))?)?\s?(?P<p>[AaPp][Mm])?"
_ZONE = r"\s?(?P<z>Z|UTC|GMT|[+-]\d{2}:?\d{2}|[+-]\d{2})?"
#: forms of dates, tried in order; one form for the whole column
FORMS = {
    "iso": rf"^(?P<y>\d{{4}})[-/.](?P<m>\d{{1,2}})[-/.](?P<d>\d{{1,2}})(?:[T ;]{_CLOCK}{_ZONE})?$",
    "packed": r"^(?P<y>\d{4})(?P<m>\d{2})(?P<d>\d{2})(?:[ T]?(?P<h>\d{2}):?(?P<i>\d{2}):?(?P<s>\d{2})?(?P<z>Z)?)?$",
    "day first": rf"^(?P<d>\d{{1,2}})[-/.](?P<m>\d{{1,2}})[-/.](?P<y>\d{{4}})(?:[T ]{_CLOCK}{_ZONE})?$",
    "month first": rf"^(?P<m>\d{{1,2}})[-/.](?P<d>\d{{1,2}})[-/.](?P<y>\d{{4}})(?:[T ]{_CLOCK}{_ZONE})?$",
}

#: value of --date-order -> form
ORDERS = {"day-month": "day first", "month-day": "month first"}


class Stamps:
    """A column of times and their written form, for the report. Those that are not `is_zoned` are local time."""

    def __init__(
        self, time_ns: Ints, written: str, *, is_zoned: bool, is_day: bool = False, is_counted: bool = False
    ) -> None:
        self.time_ns = time_ns
        self.written = written
        self.is_zoned = is_zoned  # they include a zone
        self.is_day = is_day  # days without a time of day: labels without a zone
        self.is_counted = is_counted  # counted from 1970, so always UTC

    def unused(self, zone: str | None) -> list[str]:
        """Return the note on a given zone that these timestamps do not need."""
        if zone is None or not (self.is_zoned or self.is_day):
            return []
        why = (
            "days are labels, in no zone"
            if self.is_day
            else "counts from 1970 are UTC"
            if self.is_counted
            else "the stamps say theirs"
        )
        return [f"--timezone {zone} was not used: {why}"]


def zone_of(name: str) -> ZoneInfo:
    """Return the zone of this name. Errors: InputError ZONE_UNKNOWN."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise invalid(
            "ZONE_UNKNOWN", f"there is no time zone {name!r}", "UTC, America/New_York, Europe/Berlin, …"
        ) from None


def read_times(
    table: Table, positions: tuple[int, ...], *, zone: str | None, is_utc: bool = False, date_order: str = ""
) -> Stamps:
    """Return the timestamps of one column, or of a date and a time column, in UTC.

    `zone` is the caller's, for timestamps without one; `is_utc`: the file's form defines UTC. Errors: InputError naming
    row and column: not a time, mixed units or forms, no zone, an hour that does not exist.
    """
    given = zone_of(zone) if zone else None
    stamps = _read(table, positions, date_order)
    column = table.column(positions[0])
    if stamps.is_zoned or stamps.is_day or (is_utc and given is None):
        return stamps
    if given is None:
        shown = " ".join(table.cell(p, 0) for p in positions)
        raise file_error(
            table.name,
            f"{shown!r} does not say in which time zone it is",
            row=table.row(0),
            column=column,
            remedy="say --timezone UTC, or the place whose clock it is: --timezone America/New_York",
            code="TIME_NAIVE",
        )
    return Stamps(to_utc(table, column, stamps.time_ns, given), f"{stamps.written}, {zone}", is_zoned=False)


def _read(table: Table, positions: tuple[int, ...], date_order: str) -> Stamps:
    import pyarrow as pa
    import pyarrow.compute as pc

    cells = table.columns[positions[0]]
    kind = cells.type
    if cells.null_count:
        where = int(np.flatnonzero(cells.is_null().to_numpy(zero_copy_only=False))[0])
        raise table.error("is empty", at=where, position=positions[0])
    if len(positions) == 2:
        cells = pc.binary_join_element_wise(cells.cast(pa.string()), table.columns[positions[1]].cast(pa.string()), " ")
    elif pa.types.is_timestamp(kind):
        ns = cells.cast(pa.timestamp("ns", tz=kind.tz)).cast(pa.int64()).to_numpy()
        return Stamps(ns, f"timestamp[{kind.unit}]", is_zoned=kind.tz is not None)
    elif pa.types.is_date(kind):
        return Stamps(cells.cast(pa.timestamp("ns")).cast(pa.int64()).to_numpy(), "date", is_zoned=True, is_day=True)
    elif pa.types.is_integer(kind):
        return _epoch(table, positions[0], cells.cast(pa.int64()).to_numpy())
    elif not pa.types.is_string(kind) and not pa.types.is_large_string(kind):
        raise table.error(f"holds {kind}, not times", position=positions[0])
    cells = pc.utf8_trim_whitespace(cells)
    first = cells[0].as_py()
    if _EPOCH.fullmatch(first) and not _is_packed(first):
        return _epoch(table, positions[0], _whole(table, positions[0], cells))
    if _SECONDS.fullmatch(first):
        return Stamps(_fractions(table, positions[0], cells), "seconds", is_zoned=True, is_counted=True)
    return _civil(table, positions, cells, date_order)


def _is_packed(text: str) -> bool:
    return (
        len(text) in (12, 14)
        and text[:2] in ("19", "20")
        and re.match(FORMS["packed"], text) is not None
        and (1 <= int(text[4:6]) <= 12 and 1 <= int(text[6:8]) <= 31 and int(text[8:10]) < 24)
    )


# ── counted from 1970 ────────────────────────────────────────────────────────────────────────────
def _whole(table: Table, position: int, cells: Any) -> Ints:
    import pyarrow.compute as pc

    is_whole = pc.match_substring_regex(cells, r"^\d{9,19}$").to_numpy(zero_copy_only=False)
    _all(table, position, is_whole, "is not a whole number as the stamps before it are")
    found: Ints = cells.cast("int64").to_numpy()
    return found


def _fractions(table: Table, position: int, cells: Any) -> Ints:
    import pyarrow.compute as pc

    parts = pc.extract_regex(cells, r"^(?P<s>\d{9,11})(?:\.(?P<f>\d{1,9}))?$")
    _all(table, position, parts.is_valid().to_numpy(zero_copy_only=False), "is not seconds as the stamps before it are")
    fraction = pc.utf8_rpad(parts.field("f"), 9, "0").cast("int64").to_numpy()
    found: Ints = parts.field("s").cast("int64").to_numpy() * UNITS["s"] + fraction
    return found


def _epoch(table: Table, position: int, values: Ints) -> Stamps:
    """Return timestamps counted from 1970. Errors: InputError where the unit changes, or a value is before 1973."""
    units = np.searchsorted(np.array([*_BOUNDS.values()][:-1]), values, side="right")
    changed = np.flatnonzero(units != units[0])
    names = list(UNITS)
    if (values < 10**8).any():
        where = int(np.flatnonzero(values < 10**8)[0])
        raise table.error(f"{values[where]} is no time since 1970 in any unit", at=where, position=position)
    if len(changed):
        where = int(changed[0])
        raise table.error(
            f"{values[where]} is in {names[units[where]]}, the rows before it are in {names[units[0]]}",
            at=where,
            position=position,
            remedy="split the file there; units may not be mixed",
            code="UNITS_MIXED",
        )
    unit = names[int(units[0])]
    return Stamps(values * UNITS[unit], unit, is_zoned=True, is_counted=True)


# ── written as dates ─────────────────────────────────────────────────────────────────────────────
def _civil(table: Table, positions: tuple[int, ...], cells: Any, date_order: str) -> Stamps:
    import pyarrow.compute as pc

    form = _form(table, positions[0], cells, date_order)
    parts = pc.extract_regex(cells, FORMS[form])
    names = [field.name for field in parts.type]
    shape = f"is not written as {cells[0].as_py()!r} before it"
    _all(table, positions[0], parts.is_valid().to_numpy(zero_copy_only=False), shape, code="UNITS_MIXED")
    texts = {name: parts.field(name) for name in names}
    has_clock = pc.not_equal(texts["h"], "").to_numpy(zero_copy_only=False)
    _all(table, positions[0], has_clock == has_clock[0], shape, code="UNITS_MIXED")
    number = {name: _number(texts.get(name), len(cells)) for name in "ymdhis"}
    _halves(texts.get("p"), number)
    swapped = np.flatnonzero((number["m"] > 12) & (number["m"] <= 31) & (number["d"] <= 12))
    if len(swapped):
        where = int(swapped[0])
        other = next((option for option, name in ORDERS.items() if name != form), "")
        raise table.error(
            f"{table.cell(positions[0], where)!r} is a day or a time of day that there is not: day and month may be "
            "the other way round",
            at=where,
            position=positions[0],
            code="TIME_UNKNOWN",
            remedy=f"say --date-order {other}" if form in ORDERS.values() else "write 2024-05-31",
        )
    limits = {"m": (1, 12), "d": (1, 31), "h": (0, 23), "i": (0, 59), "s": (0, 59)}
    for name, (low, high) in limits.items():
        is_in = (number[name] >= low) & (number[name] <= high)
        _all(table, positions[0], is_in, "is a day or a time of day that there is not")
    months = ((number["y"] - 1970) * 12 + number["m"] - 1).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + (number["d"] - 1)
    _all(table, positions[0], days.astype("datetime64[M]") == months, "is a day that there is not")
    seconds = days.astype(np.int64) * 86400 + number["h"] * 3600 + number["i"] * 60 + number["s"]
    time_ns = seconds * UNITS["s"]
    if "f" in texts:
        time_ns = time_ns + _number(pc.utf8_rpad(texts["f"], 9, "0"), len(cells))
    zones = texts.get("z")
    shift, is_zoned = _offsets(table, positions[0], zones) if zones is not None else (np.int64(0), False)
    return Stamps(time_ns - shift, f"{form} date", is_zoned=is_zoned, is_day=not bool(has_clock[0]))


def _form(table: Table, position: int, cells: Any, date_order: str) -> str:
    """Return the form of the column's first cell. Dates with dots have the day first; for others with the year at the
    end, `date_order` has to be given: many files fit both orders."""
    first = cells[0].as_py()
    fitting = [name for name, form in FORMS.items() if re.match(form, first)]
    if not fitting:
        raise table.error(
            f"{first!r} is not a time",
            position=position,
            code="TIME_UNKNOWN",
            remedy="s, ms, µs or ns since 1970, 2024-05-31T23:59:00Z, 20240531 235900, 31.05.2024 23:59; or name "
            "--columns",
        )
    if fitting[0] != "day first" or "." in first:
        return fitting[0]
    if date_order:
        return ORDERS[date_order]
    raise table.error(
        f"{first!r} may have the day or the month first",
        position=position,
        code="TIME_UNKNOWN",
        remedy="say --date-order day-month or --date-order month-day",
    )


def _number(texts: Any, count: int) -> Ints:
    """Return the numbers in a column of digits, 0 where there are none."""
    import pyarrow.compute as pc

    if texts is None:
        return np.zeros(count, np.int64)
    filled = pc.if_else(pc.equal(pc.fill_null(texts, ""), ""), "0", pc.fill_null(texts, ""))
    found: Ints = filled.cast("int64").to_numpy().copy()
    return found


def _halves(texts: Any, number: dict[str, Ints]) -> None:
    import pyarrow.compute as pc

    if texts is None:
        return
    half = pc.utf8_lower(texts)
    is_am, is_pm = (pc.equal(half, name).to_numpy(zero_copy_only=False) for name in ("am", "pm"))
    number["h"][is_am & (number["h"] == 12)] = 0
    number["h"][is_pm & (number["h"] < 12)] += 12


def _offsets(table: Table, position: int, zones: Any) -> tuple[Ints | np.int64, bool]:
    """Return (ns to subtract from each timestamp, whether they include a zone)."""
    kinds = zones.dictionary_encode()
    texts = kinds.dictionary.to_pylist()
    if texts == [""]:
        return np.int64(0), False
    codes = kinds.indices.to_numpy()
    if "" in texts:
        _all(
            table,
            position,
            (codes == texts.index("")) == (codes[0] == texts.index("")),
            "has a zone where others have none, or none",
        )
    shifts = np.array([_shift(text) for text in texts], np.int64)
    return shifts[codes] * UNITS["s"], True


def _shift(text: str) -> int:
    if text in ("", "Z", "UTC", "GMT"):
        return 0
    digits = text[1:].replace(":", "").ljust(4, "0")
    return (int(digits[:2]) * 3600 + int(digits[2:4]) * 60) * (-1 if text[0] == "-" else 1)


def _all(table: Table, position: int, is_good: npt.NDArray[np.bool_], what: str, *, code: str = "TIME_UNKNOWN") -> None:
    """Raise for the first row that is not good."""
    if bool(np.all(is_good)):
        return
    where = int(np.flatnonzero(~is_good)[0])
    shown = table.cell(position, where)
    text = f"{shown!r} {what}" if shown else "is empty"
    raise table.error(text, at=where, position=position, code=code)


_STEP_NS = 900 * 10**9  # since 1970 all offsets change at quarter hours


def to_utc(table: Table, column: str, local_ns: Ints, zone: ZoneInfo) -> Ints:
    """Return timestamps of local time in UTC. They have to be in order, oldest or newest first.

    A repeated hour is resolved by the order of the rows: its second part begins where the time steps back. Errors:
    InputError for a skipped hour, and for a repeated one without such a step.
    """
    if np.sign(np.diff(local_ns)).sum() < 0:
        return _ascending(table, column, local_ns[::-1], zone, is_turned=True)[::-1]
    return _ascending(table, column, local_ns, zone, is_turned=False)


def _ascending(table: Table, column: str, local_ns: Ints, zone: ZoneInfo, *, is_turned: bool) -> Ints:
    quarters, index = np.unique(local_ns // _STEP_NS, return_inverse=True)
    early = np.array([_offset(int(q), zone, 0) for q in quarters], np.int64)
    late = np.array([_offset(int(q), zone, 1) for q in quarters], np.int64)
    first, second = early[index], late[index]

    def fail(where: int, what: str) -> Exception:
        row = table.row(len(local_ns) - 1 - where if is_turned else where)
        shown = str(np.datetime64(int(local_ns[where]), "ns").astype("datetime64[s]")).replace("T", " ")
        return file_error(
            table.name, f"{shown} {what}", row=row, column=column, code="TIME_NAIVE", remedy="export the file in UTC"
        )

    skipped = np.flatnonzero(first < second)  # before the change the offset is the smaller one
    if len(skipped):
        raise fail(int(skipped[0]), f"was skipped by the clocks of {zone.key}: they went forward")
    made = local_ns - first
    twice = np.flatnonzero(first > second)
    for run in np.split(twice, np.flatnonzero(np.diff(twice) != 1) + 1) if len(twice) else []:
        begin = max(int(run[0]), 1)
        back = [row for row in range(begin, int(run[-1]) + 1) if local_ns[row] <= local_ns[row - 1]]
        if len(back) != 1:
            raise fail(int(run[0]), f"was twice in {zone.key}, and the rows do not tell which is meant")
        made[back[0] : run[-1] + 1] = local_ns[back[0] : run[-1] + 1] - second[back[0] : run[-1] + 1]
    return made


def _offset(quarter: int, zone: ZoneInfo, fold: int) -> int:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=quarter * 900)
    offset = moment.replace(tzinfo=zone, fold=fold).utcoffset()
    assert offset is not None
    return round(offset.total_seconds()) * 10**9
