"""Time without a stop, against cases that were worked out by hand: 100 ms to the exchange, so 0.3 s an execution."""

from __future__ import annotations

from decimal import Decimal

import pytest

from fks.lab.chaos.protection_time import LogLineKind, PositionLogLine, protection_time

D = Decimal


def bought(at_s: float, quantity: str, position: str = "p") -> PositionLogLine:
    return PositionLogLine(at_s, position, LogLineKind.EXECUTION, D(quantity))


def stop(at_s: float, quantity: str, order_id: str = "1", position: str = "p") -> PositionLogLine:
    return PositionLogLine(at_s, position, LogLineKind.STOP, D(quantity), order_id)


CASES = {
    "covered within its allowance": ([bought(0, "2"), stop(0.25, "2")], 200, 0, 0, 0),
    "covered after its allowance": ([bought(0, "2"), stop(0.8, "2")], 200, 1.0, 0.5, 0),
    "never covered": ([bought(0, "2")], 200, 2 * 99.7, 99.7, 0),
    "covered in part": ([bought(0, "2"), stop(0.2, "1.5")], 200, 0.5 * 99.7, 99.7, 0),
    "replaced with a gap of 0.2 s": (
        [bought(0, "2"), stop(0.1, "2"), stop(50, "0"), stop(50.2, "2", "2")], 200, 0.4, 0.2, 1,
    ),
    "a larger one first, then the smaller ends": (
        [bought(0, "2"), stop(0.1, "2"), stop(50, "3", "2"), stop(50.2, "0")], 200, 0, 0, 0,
    ),
    "grown by a list for the difference": (
        [bought(0, "2"), stop(0.1, "2"), bought(10, "3"), stop(10.3, "3", "2")], 200 + 270, 0, 0, 0,
    ),
    "grown by taking the first down: its part has no allowance": (
        [bought(0, "2"), stop(0.1, "2"), bought(10, "3"), stop(10.1, "0"), stop(10.4, "5", "2")],
        200 + 270, 2 * 0.2 + 5 * 0.1, 0.3, 1,
    ),
    "reduced in place to what is left": (
        [bought(0, "2"), stop(0.1, "2"), stop(40, "1"), bought(40.3, "-1")], 2 * 40.3 + 59.7, 0.3, 0.3, 1,
    ),
    "sold first, then reduced": ([bought(0, "2"), stop(0.1, "2"), bought(40, "-1"), stop(40.2, "1")], 140, 0, 0, 0),
    "two gaps of 0.1 s": (
        [bought(0, "2"), *(stop(s, q, i) for s, q, i in (
            (0.1, "2", "1"), (30, "0", "1"), (30.1, "2", "2"), (60, "0", "2"), (60.1, "2", "3")))],
        200, 0.4, 0.1, 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("lines", "held", "unprotected", "gap_max_s", "taken_down"), CASES.values(), ids=list(CASES))
def test_time_without_a_stop(
    lines: list[PositionLogLine], held: float, unprotected: float, gap_max_s: float, taken_down: int
) -> None:
    found = protection_time(lines, latency_s=0.1, until_s=100.0, least=D("0.05"), step=D("0.001"))
    assert (found.held, found.unprotected, found.gap_max_s) == pytest.approx((held, unprotected, gap_max_s))
    assert (found.positions, found.taken_down) == (1, taken_down)
    assert found.executions == sum(line.kind is LogLineKind.EXECUTION for line in lines)
    assert found.share == pytest.approx(unprotected / held)


def test_how_long_a_position_had_no_stop_at_all() -> None:
    halves = [bought(0, "2"), stop(0.1, "1", "1"), stop(0.2, "1", "2"), stop(50, "0", "1"), stop(50.2, "1", "3")]
    both = [*halves, stop(70, "0", "2"), stop(70.1, "0", "3"), stop(70.4, "2", "4")]
    alone = [protection_time(lines, latency_s=0.1, until_s=100.0).no_stop_max_s for lines in (halves, both)]
    assert alone == pytest.approx([0, 0.3])


def test_only_positions_that_were_held_for_a_minute_count() -> None:
    short = [bought(0, "1", "short"), bought(59.9, "-1", "short")]
    twice = [bought(0, "1"), stop(0.1, "1"), stop(70, "0"), bought(70, "-1"), bought(80, "1")]
    dust = [
        bought(0, "1", "dust"),
        stop(0.1, "1", position="dust"),
        stop(65, "0", position="dust"),
        bought(65, "-0.99", "dust"),
    ]
    found = protection_time([*short, *twice, *dust], latency_s=0.1, until_s=100.0, least=D("0.05"))
    assert (found.positions, found.held, found.unprotected) == (2, pytest.approx(135), 0)
    assert protection_time(short, latency_s=0.1, until_s=100.0).share == 0


def test_less_than_a_lot_or_than_the_smallest_order_needs_no_stop() -> None:
    lines = [bought(0, "1.0004"), stop(0.1, "1"), bought(0, "0.04", "small")]
    assert protection_time(lines, latency_s=0.1, until_s=100.0, least=D("0.05"), step=D("0.001")).unprotected == 0
