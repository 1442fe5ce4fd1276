"""Decisions that a strategy instance must have made, recomputed from the stored bars. Pure.

`ORACLES` are the auditor's own calculations of the strategies that the demo runs; they share no code with them. Of any
other strategy `fks.lab.chaos.evaluated` has the targets, by the strategy's own code: that proves the worker (no bar
left out, decided twice or from another history), not the strategy's arithmetic.

A target depends on the bars alone. A stop loss, a take profit or a trailing stop that executes changes none: the exit
is still signalled when the target leaves, and ends in a signal with nothing to close.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

Closes = Sequence[tuple[int, Decimal]]  # (open time of the bar in s, close), oldest first, from the anchor
Target = tuple[int, float]  # (open time of the bar in s, the position wanted at its close)
Edge = tuple[int, str, str]  # bar, kind and side of a signal


@dataclass(frozen=True, slots=True)
class InstanceStart:
    """A strategy instance at the start of the run: the oracle starts from `cursor_s` and `target`, with the bars from
    `anchor_s` on."""

    id: str
    cursor_s: int
    target: float
    anchor_s: int = 0


@dataclass(frozen=True, slots=True)
class MissedDecisions:
    """Bars that an instance decided on too late, by its own record: from the first to the last of them (open times)."""

    instance: str
    from_s: int
    to_s: int


def sma_cross(closes: Closes, params: Mapping[str, Any]) -> Iterator[Target]:
    """Yield the targets of a crossing of two simple averages; a tie keeps the side before it."""
    fast, slow = int(params.get("fast", 20)), int(params.get("slow", 50))
    side = 0
    for place in range(slow - 1, len(closes)):
        quick = sum(close for _, close in closes[place - fast + 1 : place + 1]) * slow
        calm = sum(close for _, close in closes[place - slow + 1 : place + 1]) * fast
        side = 1 if quick > calm else -1 if quick < calm else side
        if place >= slow:
            yield closes[place][0], _wanted(side, params)


def ema_cross(closes: Closes, params: Mapping[str, Any]) -> Iterator[Target]:
    """Yield the targets of a crossing of two exponential averages, each begun with a simple one; decisions begin after
    eight times the slow one's bars."""
    fast, slow = int(params.get("fast", 12)), int(params.get("slow", 26))
    side = 0
    averages = zip(closes, _exponential(closes, fast), _exponential(closes, slow), strict=True)
    for place, ((at_s, _), quick, calm) in enumerate(averages):
        if quick is not None and calm is not None:
            side = 1 if quick > calm else -1 if quick < calm else side
        if place >= 8 * slow:
            yield at_s, _wanted(side, params)


def _exponential(closes: Closes, length: int) -> Iterator[float | None]:
    prices = [float(close) for _, close in closes]
    average: float | None = None
    for place, price in enumerate(prices):
        if place == length - 1:
            average = sum(prices[:length]) / length
        elif average is not None:
            average += (price - average) * 2.0 / (length + 1)
        yield average


def _wanted(side: int, params: Mapping[str, Any]) -> float:
    return 1.0 if side > 0 else -1.0 if side < 0 and params.get("short") else 0.0


ORACLES: Mapping[str, Callable[[Closes, Mapping[str, Any]], Iterator[Target]]] = {
    "sma_cross": sma_cross,
    "ema_cross": ema_cross,
}


def edges(targets: Sequence[Target], before: float) -> Iterator[Edge]:
    """Yield the signals that these targets give when `before` was wanted: leave the old position, then enter the new
    one; a target that grows on its side enters once more, and one that falls leaves in part."""
    for at_s, after in targets:
        is_left = before != after and before * after <= 0
        if before and (is_left or abs(after) < abs(before)):
            yield at_s, "exit", _leaving(before)
        if after and (is_left or abs(after) > abs(before)):
            yield at_s, "enter", _leaving(-after)
        before = after


def _leaving(target: float) -> str:
    return "sell" if target > 0 else "buy"


def expected_signals(
    targets: Sequence[Target], before: float, missed: Sequence[MissedDecisions], *, can_rest: bool = False
) -> tuple[set[Edge], set[Edge]]:
    """Return (required, allowed) signals when bars were missed.

    Of each missed interval the last exit from the target before it (of all, or where there is none of a part of it) is
    required if the target after it is another, and the last entry into that one is allowed. Where both are the same,
    there is no signal; with entries that may rest (`can_rest`) the exit that ends such an order and the entry are
    allowed.
    """
    found = list(edges(targets, before))
    required, allowed = set(found), set[Edge]()
    for item in missed:
        inside = [edge for edge in found if item.from_s <= edge[0] <= item.to_s]
        held = next((target for at_s, target in reversed(targets) if at_s < item.from_s), before)
        wanted = next((target for at_s, target in reversed(targets) if at_s <= item.to_s), before)
        exits = [edge for edge in inside if held and edge[1:] == ("exit", _leaving(held))]
        exits = ([edge for edge in exits if dict(targets)[edge[0]] * held <= 0] or exits)[-1:]
        entries = [edge for edge in inside if wanted and edge[1] == "enter"][-1:]
        required -= set(inside)
        if held != wanted:
            required |= set(exits)
            allowed |= set(entries)
        elif can_rest:
            allowed |= {*exits, *entries}
    return required, allowed
