"""The plan of a parent order: an entry with several targets, or with a stop that moves to break-even. Pure values.

The plan is a row of its own (`parent_orders`), written with the signal. The stop loss itself is that of the entry; its
children are ordinary legs of the entry.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Decimal
from typing import Any

from fks.model.instrument import Instrument

TARGETS_MAX = 5
#: Attempts of each target of an entry: its legs are numbered from the target's number (from 0) times this.
TARGET_ATTEMPTS = 1_000_000
_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class ProfitTarget:
    """A price at which `share` of the entry's quantity is closed; the shares of a plan are 1 together."""

    price: Decimal
    share: Decimal


@dataclass(frozen=True, slots=True)
class BreakEven:
    """The rule by which the stop moves to the entry's average price, `offset_ticks` beyond it in the entry's favour
    (negative: before it). One of the two conditions is set: target number `after_target` (from 1) is executed, or the
    price has come `at_risk` times the distance between the average price and the first stop."""

    after_target: int | None = None
    at_risk: Decimal | None = None
    offset_ticks: int = 0


@dataclass(frozen=True, slots=True)
class ParentPlan:
    """The exits of an entry beside its stop loss: `targets`, nearest first, and a move of the stop. Without targets its
    take profit is the entry's own. `stop_loss` is the first one: risk is measured from it."""

    stop_loss: Decimal
    targets: tuple[ProfitTarget, ...] = ()
    break_even: BreakEven | None = None

    @property
    def is_moved_by_price(self) -> bool:
        """Return whether a price moves the stop, not a target."""
        return self.break_even is not None and self.break_even.at_risk is not None


def shares_of(quantity: Decimal, plan: ParentPlan, instrument: Instrument | None) -> list[Decimal]:
    """Return how much of `quantity` (base) each target of a plan closes, on the lot grid of the instrument; the last
    one closes the rest."""
    shares = [quantity * target.share for target in plan.targets[:-1]]
    shares = shares if instrument is None else [instrument.round_quantity(share) for share in shares]
    return [*shares, quantity - sum(shares, _ZERO)]


def parts_of(left: Decimal, shares: Sequence[Decimal], closed: Sequence[Decimal]) -> list[Decimal]:
    """Return how much of `left`, the part of an entry that is held, each target still closes: its share (`shares_of`)
    less its `closed` part, nearest first while something is left, and the last one the rest."""
    parts = []
    for share, done in zip(shares[:-1], closed, strict=False):
        parts.append(min(max(share - done, _ZERO), left))
        left -= parts[-1]
    return [*parts, left]


def join_small(parts: list[Decimal], least: Sequence[Decimal], resting: Collection[int] = ()) -> None:
    """Add each part that could not rest by itself (`least`: the least quantities that do) to its neighbour: the next
    one, else the one before. One that rests already (`resting`, by number) stays."""
    for at, part in enumerate(parts):
        if part == 0 or at in resting or part >= least[at]:
            continue
        others = [*range(at + 1, len(parts)), *range(at - 1, -1, -1)]
        host = next((other for other in others if parts[other]), None)
        if host is not None:
            parts[host] += parts[at]
            parts[at] = _ZERO


def least_resting(prices: Sequence[Decimal], instrument: Instrument) -> Decimal:
    """Return the least quantity (base, on the lot grid) of orders that the venue takes at the lower of `prices`."""
    steps = instrument.notional_min / (min(prices) * instrument.multiplier * instrument.lot_step)
    return max(instrument.qty_min, steps.to_integral_value(ROUND_CEILING) * instrument.lot_step)


def plan_on_grid(plan: ParentPlan, side: str, instrument: Instrument) -> ParentPlan:
    """Return the plan of an entry with its prices on the tick grid, as those of single exits are rounded. `side`: of
    the exits. A person's plan is on the grid, or denied."""
    return replace(
        plan,
        stop_loss=instrument.round_price(plan.stop_loss, side=side, is_stop=True),
        targets=tuple(replace(one, price=instrument.round_price(one.price, side=side)) for one in plan.targets),
    )


def break_even_stop(average: Decimal, sign: int, rule: BreakEven, instrument: Instrument) -> Decimal:
    """Return where the stop of an entry on a side (`sign` 1 long, -1 short) is at break-even, on the tick grid."""
    beyond = average + sign * rule.offset_ticks * instrument.tick
    return instrument.round_price(beyond, side="sell" if sign > 0 else "buy", is_stop=True)


def is_at_risk_multiple(price: Decimal, average: Decimal, sign: int, plan: ParentPlan) -> bool:
    """Return whether a price has come `at_risk` times the distance between average price and first stop; False for a
    plan without that condition."""
    rule = plan.break_even
    if rule is None or rule.at_risk is None:
        return False
    return (price - average) * sign >= rule.at_risk * abs(average - plan.stop_loss)


def plan_json(plan: ParentPlan) -> dict[str, Any]:
    """Return the plan as JSON; numbers as text."""
    rule = plan.break_even
    return {
        "stop_loss": f"{plan.stop_loss:f}",
        "targets": [{"price": f"{one.price:f}", "share": f"{one.share:f}"} for one in plan.targets],
        "break_even": None
        if rule is None
        else {
            "after_target": rule.after_target,
            "at_risk": None if rule.at_risk is None else f"{rule.at_risk:f}",
            "offset_ticks": rule.offset_ticks,
        },
    }


def plan_of(json: Mapping[str, Any]) -> ParentPlan:
    """Return the plan that `plan_json` made."""
    rule = json["break_even"]
    return ParentPlan(
        Decimal(json["stop_loss"]),
        tuple(ProfitTarget(Decimal(one["price"]), Decimal(one["share"])) for one in json["targets"]),
        None
        if rule is None
        else BreakEven(
            rule["after_target"],
            None if rule["at_risk"] is None else Decimal(rule["at_risk"]),
            rule["offset_ticks"],
        ),
    )
