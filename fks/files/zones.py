"""Conversion of local time to UTC, with the hour that is skipped in spring and the one that repeats in autumn."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from fks.files.errors import file_error
from fks.files.table import Table
from fks.model.bar import Ints

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
