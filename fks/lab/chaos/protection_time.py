"""Time without a stop, exactly, from an exchange's log of executions and resting stops. Pure.

Of each position, the quantity that no stop covers is integrated over time and divided by the integral of the held
quantity, over positions held for at least HELD_MIN_S. A bought quantity needs its stop only after its allowance, 2 x
the latency to the exchange + 0.1 s: the report has to come and the order has to go. Nothing else has an allowance: a
stop that is
taken down to be replaced is missing from then on. What is below the smallest order, or a lot, needs no stop.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

HELD_MIN_S = 60.0
_ALLOWANCE_S = 0.1
_ZERO = Decimal(0)


class LogLineKind(StrEnum):
    """A line of the log."""

    EXECUTION = "execution"  # `quantity` signed, less a fee in the base asset
    STOP = "stop"  # `order_id` rests over `quantity` from now on; 0 = it has ended


@dataclass(frozen=True, slots=True)
class PositionLogLine:
    """One line of the exchange's log of a position, at its own time in seconds."""

    at_s: float
    position: str
    kind: LogLineKind
    quantity: Decimal
    order_id: str = ""


@dataclass(frozen=True, slots=True)
class ProtectionTime:
    """The integrals (base x s) over the positions that count, and what happened in them.

    `gap_max_s`: the longest time in which some of a position had no stop; `no_stop_max_s`: the longest in which all of
    it had none. `taken_down`: moments at which a stop ended or shrank before its successor stood.
    """

    held: float
    unprotected: float
    positions: int
    executions: int
    gap_max_s: float
    no_stop_max_s: float
    taken_down: int

    @property
    def share(self) -> float:
        """Return the unprotected share; 0 when nothing was held long enough."""
        return self.unprotected / self.held if self.held else 0.0


def protection_time(
    lines: Iterable[PositionLogLine],
    *,
    latency_s: float,
    until_s: float,
    least: Decimal = _ZERO,
    step: Decimal = _ZERO,
    held_min_s: float = HELD_MIN_S,
) -> ProtectionTime:
    """Return the time without a stop of all positions in a log that ends at `until_s`; `least`: the smallest quantity
    that can have a stop, `step`: its lot."""
    by_position: dict[str, list[PositionLogLine]] = {}
    for line in lines:
        by_position.setdefault(line.position, []).append(line)
    allowance_s = 2 * latency_s + _ALLOWANCE_S
    found = [
        part
        for of_one in by_position.values()
        for part in _parts(sorted(of_one, key=lambda line: line.at_s), allowance_s, until_s, least, step)
        if part.lasted_s >= held_min_s
    ]
    return ProtectionTime(
        sum(part.held for part in found),
        sum(part.unprotected for part in found),
        len(found),
        sum(part.executions for part in found),
        max((part.gap_max_s for part in found), default=0.0),
        max((part.no_stop_max_s for part in found), default=0.0),
        sum(part.taken_down for part in found),
    )


@dataclass(slots=True)
class _Part:
    """One position from its first execution until it is flat."""

    since_s: float
    lasted_s: float = 0.0
    held: float = 0.0
    unprotected: float = 0.0
    executions: int = 0
    gap_max_s: float = 0.0
    no_stop_max_s: float = 0.0
    taken_down: int = 0


def _parts(
    lines: list[PositionLogLine], allowance_s: float, until_s: float, least: Decimal, step: Decimal
) -> Iterable[_Part]:
    """Yield what the log says of one position, from each first execution until it is flat."""
    moments = sorted({line.at_s for line in lines} | {line.at_s + allowance_s for line in lines} | {until_s})
    held, stops, young, left = _ZERO, dict[str, Decimal](), list[tuple[float, Decimal]](), list(lines)
    part: _Part | None = None
    gap_since_s: float | None = None
    no_stop_since_s: float | None = None
    for at_s, next_s in zip(moments, [*moments[1:], until_s], strict=True):
        has_shrunk, has_sold = False, False
        while left and left[0].at_s <= at_s:
            line = left.pop(0)
            if line.kind is LogLineKind.STOP:
                before = stops.pop(line.order_id, _ZERO)
                has_shrunk |= line.quantity < before
                if line.quantity:
                    stops[line.order_id] = line.quantity
                continue
            has_sold |= line.quantity < 0
            held += line.quantity
            if line.quantity > 0:
                young.append((line.at_s + allowance_s, line.quantity))
            part = part or _Part(line.at_s)
            part.executions += 1
        if part is None:
            continue
        young = [(due_s, quantity) for due_s, quantity in young if due_s > at_s]
        allowed = min(sum((quantity for _, quantity in young), _ZERO), max(held, _ZERO))
        bare = max(held - allowed - sum(stops.values(), _ZERO), _ZERO)
        bare = _ZERO if held < least or bare < step else bare
        part.taken_down += has_shrunk and bare > 0
        if held <= 0 or (has_sold and held < least) or at_s >= until_s:
            part.lasted_s = at_s - part.since_s
            yield part
            part, gap_since_s, no_stop_since_s, young = None, None, None, []
            continue
        lasts_s = max(min(next_s, until_s) - at_s, 0.0)
        part.held += float(max(held, _ZERO)) * lasts_s
        part.unprotected += float(bare) * lasts_s
        gap_since_s = None if not bare else at_s if gap_since_s is None else gap_since_s
        if gap_since_s is not None:
            part.gap_max_s = max(part.gap_max_s, at_s + lasts_s - gap_since_s)
        no_stop_since_s = None if not bare or stops else at_s if no_stop_since_s is None else no_stop_since_s
        if no_stop_since_s is not None:
            part.no_stop_max_s = max(part.no_stop_max_s, at_s + lasts_s - no_stop_since_s)
