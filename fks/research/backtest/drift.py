"""Drift of a live strategy: its steps compared with those of a backtest on the same bars. Pure.

A step is one fill that a decision leads to: the entry, the exit, the stop loss or the take profit of the position that
an entry opened. Steps of both sides are matched by the decision's bar and the role. The price difference of a matched
step is slippage: positive when live paid more, or received less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from fks.model.order import Role, Side
from fks.research.backtest.result import Result

_ZERO = Decimal(0)
_BPS = Decimal(10_000)
#: roles that a decision of the strategy leads to at once; the others protect what an entry opened
_DECIDED = (Role.ENTRY, Role.EXIT)


@dataclass(frozen=True, slots=True)
class DecidedFill:
    """One fill of a decision. `decided_ns`: open time of the deciding bar (of a protection: of its entry's bar); `fee`
    in quote."""

    decided_ns: int
    role: Role
    side: Side
    quantity: Decimal
    price: Decimal
    fee: Decimal
    time_ns: int

    @property
    def key(self) -> tuple[int, Role]:
        return self.decided_ns, self.role


class DifferenceKind(StrEnum):
    """The kind of difference between live and backtest in one step."""

    NONE = "none"
    NOT_MADE = "not made"  # the backtest has it; live has no fill
    EXTRA = "extra"  # live has it, the backtest does not
    QUANTITY = "quantity"  # both have it, and the filled quantities differ


@dataclass(frozen=True, slots=True)
class Compared:
    """A step of either side. `reason`: why live did not make it, a denial code where there is one. `slippage` and `fee`
    (live's less the backtest's) in quote, `slippage_bps` of the backtest's price."""

    expected: DecidedFill | None
    made: DecidedFill | None
    difference: DifferenceKind
    reason: str = ""
    slippage: Decimal = _ZERO
    slippage_bps: Decimal = _ZERO
    fee: Decimal = _ZERO


@dataclass(frozen=True, slots=True)
class Drift:
    """The comparison. `matched`: steps that both sides have; `cost`: what slippage and fees of those took, in quote;
    `mismatch`: the share of steps that only one side has, 0 to 1; `slippage_bps`: mean of the matched steps, weighted
    by their value; `fees_unvalued`: live fees that have no rate in quote and are in no sum."""

    steps: tuple[Compared, ...]
    from_ns: int
    to_ns: int
    expected: int
    made: int
    matched: int
    mismatch: Decimal
    slippage: Decimal
    slippage_bps: Decimal
    fees: Decimal
    fees_unvalued: int = 0

    @property
    def cost(self) -> Decimal:
        return self.slippage + self.fees


def expected_steps(result: Result, from_ns: int) -> list[DecidedFill]:
    """Return the steps of a backtest whose decision bar opens at or after `from_ns`."""
    steps: list[DecidedFill] = []
    times, item = result.bars.time_ns, result.setup.instrument
    opened_ns = 0
    columns = result.fill_columns
    decided = columns.bar - 1 if columns.decided is None else columns.decided
    for fill, index in zip(result.fills, decided.tolist(), strict=True):
        if fill.role in _DECIDED:
            decided_ns = int(times[max(index, 0)])
            opened_ns = decided_ns if fill.role is Role.ENTRY else opened_ns
        else:  # of several entries each has its own legs
            decided_ns = opened_ns if columns.decided is None else int(times[index])
        fee = fill.fee * (fill.price if fill.fee_currency == item.base else 1)
        if decided_ns >= from_ns:
            steps.append(DecidedFill(decided_ns, fill.role, fill.side, fill.quantity, fill.price, fee, fill.time_ns))
    return steps


def compare(
    expected: Sequence[DecidedFill],
    made: Sequence[DecidedFill],
    reasons: Mapping[tuple[int, Role], str],
    *,
    from_ns: int,
    to_ns: int,
    lot_step: Decimal,
) -> Drift:
    """Return the drift over decisions of bars that open in [from_ns, to_ns).

    `reasons`: why live made no fill of a decision, by its bar and role. Quantities that differ by less than one lot are
    the same. Several live fills of one decision (attempts of an exit) are one step at their mean price.
    """
    wanted = {step.key: step for step in expected if from_ns <= step.decided_ns < to_ns}
    done = _joined([step for step in made if from_ns <= step.decided_ns < to_ns])
    rows = [
        _compared(wanted.get(key), done.get(key), reasons.get(key, ""), lot_step)
        for key in sorted({*wanted, *done}, key=lambda key: (key[0], key[1].value))
    ]
    both = [row for row in rows if row.expected is not None and row.made is not None]
    value = sum((row.expected.price * row.made.quantity for row in both if row.expected and row.made), _ZERO)
    slippage = sum((row.slippage for row in both), _ZERO)
    return Drift(
        steps=tuple(rows),
        from_ns=from_ns,
        to_ns=to_ns,
        expected=len(wanted),
        made=len(done),
        matched=len(both),
        mismatch=Decimal(len(rows) - len(both)) / len(rows) if rows else _ZERO,
        slippage=slippage,
        slippage_bps=slippage / value * _BPS if value else _ZERO,
        fees=sum((row.fee for row in both), _ZERO),
    )


def _joined(steps: Sequence[DecidedFill]) -> dict[tuple[int, Role], DecidedFill]:
    found: dict[tuple[int, Role], DecidedFill] = {}
    for step in steps:
        before = found.get(step.key)
        if before is None:
            found[step.key] = step
            continue
        quantity = before.quantity + step.quantity
        price = (before.price * before.quantity + step.price * step.quantity) / quantity
        found[step.key] = DecidedFill(
            step.decided_ns, step.role, step.side, quantity, price, before.fee + step.fee, step.time_ns
        )
    return found


def _compared(expected: DecidedFill | None, made: DecidedFill | None, reason: str, lot_step: Decimal) -> Compared:
    if made is None:
        return Compared(expected, None, DifferenceKind.NOT_MADE, reason or "no fill")
    if expected is None:
        return Compared(None, made, DifferenceKind.EXTRA)
    is_same = abs(expected.quantity - made.quantity) < lot_step
    per_unit = made.side.sign * (made.price - expected.price)
    return Compared(
        expected,
        made,
        DifferenceKind.NONE if is_same else DifferenceKind.QUANTITY,
        slippage=per_unit * made.quantity,
        slippage_bps=per_unit / expected.price * _BPS,
        # of the quantity that live filled
        fee=made.fee - expected.fee * made.quantity / expected.quantity,
    )
