"""A fault of one part of the monitor is counted, logged once, and does not reach the others."""

from __future__ import annotations

import pytest

from fks.model.errors import OutageError
from fks.system.monitor.guard import Guard
from tests.support.ports import CollectingLog, RecordingMeter


async def test_fault_is_counted_each_time_and_logged_once(log: CollectingLog, meter: RecordingMeter) -> None:
    guard = Guard("alerts", log, meter)
    answers: list[object] = [ValueError("a"), ValueError("a"), KeyError("b"), 7, 8]

    async def part() -> object:
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    assert [await guard.call("route", part) for _ in range(5)] == [None, None, None, 7, 8]
    assert meter.total("fks_monitor_faults_total", kind="alerts.route") == 3
    assert [(level, event) for level, event, _ in log.lines] == [
        *[("error", "monitor.fault")] * 2,
        ("info", "monitor.fault_over"),
    ]
    assert log.lines[0][2] == {"part": "alerts.route", "error": "ValueError: a"}


async def test_outage_is_no_fault(log: CollectingLog, meter: RecordingMeter) -> None:
    async def part() -> None:
        raise OutageError("PostgreSQL is away")

    with pytest.raises(OutageError):
        await Guard("alerts", log, meter).call("route", part)
    assert (log.lines, meter.values) == ([], {})
