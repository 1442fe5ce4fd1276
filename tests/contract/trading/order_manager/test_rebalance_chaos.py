"""Rebalancings of 20 instruments while everything beneath them dies, and the rules by which their venue's log is judged."""

from __future__ import annotations

import asyncio
from collections import Counter
from decimal import Decimal

import pytest

from fks.model.order import Fill, Side
from tests.support.invariants import assert_none
from tests.support.rebalance_chaos import chaos, judge, judge_run

D = Decimal


async def test_rebalancings_under_faults_order_once_and_keep_their_bounds(redis_url: str) -> None:
    """500 seeds in the soak."""
    found = await asyncio.gather(*(chaos(redis_url, number) for number in (3, 7, 10)))
    assert [one.seed for one in found] == [3, 7, 10]
    assert_none(finding for one in found for finding in one.findings)
    faults = sum((one.faults for one in found), Counter[str]())
    for kind in ("scheduler killed", "starter killed", "order manager killed", "PostgreSQL killed", "venue silent"):
        assert faults[kind], f"{kind}: {faults}"
    assert faults["scheduler killed"] >= 10
    assert sum(one.orders for one in found) >= 30
    further = iter(range(11, 17))  # a busy machine may end the three in parts
    while "done" not in {one.run["state"] for one in found}:
        found.append(await chaos(redis_url, next(further)))
        assert_none(found[-1].findings)


def fill(side: Side, quantity: str, price: str = "10", fee: str = "0", symbol: str = "C00USDT") -> Fill:
    """Return an execution as the venue logs it."""
    fee_in = symbol[:3] if side is Side.BUY else "USDT"
    return Fill(
        fill_id="f", client_order_id="o", venue_order_id="1", venue_trade_id="1", account_id=1, venue="ccxt",
        symbol=symbol, side=side, quantity=D(quantity), price=D(price), fee=D(fee), fee_currency=fee_in, time_ns=0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("received", "trades", "count"),
    [
        (["a", "b"], [fill(Side.SELL, "5"), fill(Side.BUY, "13")], 0),
        (["a", "b", "a"], [], 1),
        ([], [fill(Side.SELL, "5"), fill(Side.SELL, "0.001")], 1),
        ([], [fill(Side.BUY, "5", fee="0.005"), fill(Side.SELL, "10")], 1),
        ([], [fill(Side.BUY, "9")], 1),
        ([], [fill(Side.SELL, "5", fee="0.1"), fill(Side.BUY, "13")], 1),
    ],
    ids=["all well", "an id twice", "sold beyond", "sold the fee", "below the buffer", "below by the fee"],
)
def test_a_log_that_breaks_a_rule_is_found(received: list[str], trades: list[Fill], count: int) -> None:
    """Of 5 coins at 10, 100 in cash, and a buffer of 20."""
    assert len(judge(received, trades, {"C00USDT": D(5)}, D(100), D(20))) == count


@pytest.mark.parametrize(
    ("state", "reason", "weight", "count"),
    [
        ("done", None, "0.1201", 0),
        ("done", None, "0.1203", 1),
        ("done", None, "0.0797", 1),
        ("partial", "CASH", "0.5", 0),
        ("partial", None, "0.1", 1),
        ("cancelled", "by ann", "0.1", 1),
        ("running", None, "0.1", 1),
    ],
)
def test_a_run_that_ends_elsewhere_is_found(state: str, reason: str | None, weight: str, count: int) -> None:
    """A lot of 0.001 at 200 is 0.0002 of 1000; the band is 0.08 to 0.12."""
    item = {"symbol": "C00USDT", "weight": weight, "weight_min": "0.08", "weight_max": "0.12"}
    run = {"state": state, "reason": reason, "items": [item]}
    assert len(judge_run(run, {"C00USDT": D(200)}, D(1000))) == count
