"""Live steps against the steps of a backtest."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from fks.model.instrument import Instrument
from fks.model.order import Role, Side
from fks.research.backtest.drift import DecidedFill, DifferenceKind, compare, expected_steps
from fks.research.backtest.limits import UNLIMITED
from fks.research.backtest.result import Setup
from fks.research.backtest.run import run
from fks.strategies.check import synthetic
from fks.strategies.sma_cross import SmaCross
from fks.trading.matching import CostModel

D = Decimal
STEP = D("0.001")
END = 10**18
INSTRUMENT = Instrument("binance", "BTCUSDT", "BTC", "USDT", D("0.01"), D("0.00001"), D("0.00001"), D(9000), D(5))


def step(at: int, role: Role, side: Side, price: str, quantity: str = "1", fee: str = "0.1") -> DecidedFill:
    return DecidedFill(at, role, side, D(quantity), D(price), D(fee), at + 1)


BOUGHT, SOLD = step(1, Role.ENTRY, Side.BUY, "100"), step(5, Role.EXIT, Side.SELL, "110")


def test_equal_steps_are_no_drift() -> None:
    drift = compare([BOUGHT, SOLD], [BOUGHT, SOLD], {}, from_ns=0, to_ns=END, lot_step=STEP)
    assert (drift.expected, drift.made, drift.matched, drift.mismatch) == (2, 2, 2, 0)
    assert (drift.slippage, drift.fees, drift.cost) == (0, 0, 0)


def test_paying_more_and_receiving_less_are_both_positive_slippage() -> None:
    made = [replace(BOUGHT, price=D("100.5"), fee=D("0.2")), replace(SOLD, price=D("109.8"))]
    drift = compare([BOUGHT, SOLD], made, {}, from_ns=0, to_ns=END, lot_step=STEP)
    assert (drift.slippage, drift.fees, drift.cost) == (D("0.7"), D("0.1"), D("0.8"))
    assert [row.slippage_bps for row in drift.steps] == [50, D("0.2") / 110 * 10_000]
    assert drift.slippage_bps == D("0.7") / 210 * 10_000


def test_missing_and_extra_steps_are_named_with_the_reason() -> None:
    reasons = {(1, Role.ENTRY): "EXPOSURE_INSTRUMENT"}
    drift = compare([BOUGHT], [SOLD], reasons, from_ns=0, to_ns=END, lot_step=STEP)
    assert [(row.difference, row.reason) for row in drift.steps] == [
        (DifferenceKind.NOT_MADE, "EXPOSURE_INSTRUMENT"),
        (DifferenceKind.EXTRA, ""),
    ]
    assert (drift.mismatch, drift.cost) == (1, 0)


def test_several_fills_of_one_decision_are_one_step_at_the_mean_price() -> None:
    made = [replace(SOLD, quantity=D("0.25"), price=D(109)), replace(SOLD, quantity=D("0.75"), price=D(111))]
    (row,) = compare([SOLD], made, {}, from_ns=0, to_ns=END, lot_step=STEP).steps
    assert row.made is not None
    assert (row.difference, row.made.quantity, row.made.price) == (DifferenceKind.NONE, 1, D("110.5"))
    assert row.slippage == D("-0.5")


def test_quantities_less_than_a_lot_apart_are_the_same() -> None:
    near, far = replace(BOUGHT, quantity=D("1.0009")), replace(BOUGHT, quantity=D("0.5"))
    found = [
        compare([BOUGHT], [made], {}, from_ns=0, to_ns=END, lot_step=STEP).steps[0].difference for made in (near, far)
    ]
    assert found == [DifferenceKind.NONE, DifferenceKind.QUANTITY]


def test_steps_outside_the_span_are_left_out() -> None:
    drift = compare([BOUGHT, SOLD], [], {}, from_ns=2, to_ns=5, lot_step=STEP)
    assert drift.steps == ()


def test_steps_of_a_backtest_have_the_bar_of_their_decision() -> None:
    tape = synthetic(300)
    setup = Setup(INSTRUMENT, CostModel(D("0.001"), "received"), "quantity", D(1), cash=D(10**9), limits=UNLIMITED)
    result = run(SmaCross(fast=3, slow=9, sl_pct=0.1), tape, setup)
    steps = expected_steps(result, 0)
    assert {step.role for step in steps} == {Role.ENTRY, Role.EXIT, Role.STOP_LOSS}
    minute = 60 * 10**9
    opened = 0
    for found, fill in zip(steps, result.fills, strict=True):
        if found.role in (Role.ENTRY, Role.EXIT):
            assert found.decided_ns == fill.time_ns - minute
            opened = found.decided_ns if found.role is Role.ENTRY else opened
        else:
            assert found.decided_ns == opened
        in_quote = fill.fee * fill.price if fill.fee_currency == "BTC" else fill.fee
        assert (found.price, found.fee) == (fill.price, in_quote)
    assert compare(steps, steps, {}, from_ns=0, to_ns=END, lot_step=STEP).mismatch == 0
