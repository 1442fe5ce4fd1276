"""The journal of closed trades: from flat to flat, of random histories, in any order."""

from __future__ import annotations

import random
import uuid
from decimal import Decimal as D
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fks.model.accounting.attribution import AttributedFill, PortfolioState, PositionName, attribute
from fks.model.accounting.journal import JournalFill, closed_trades

NAME = PositionName("demo", "paper", "trend", "BTCUSDT")
STEP = D("0.001")


def _fill(number: int, quantity: str | D, price: str | D, **changed: Any) -> JournalFill:
    values: dict[str, Any] = {
        "id": str(number),
        "time_ns": number * 10**9,
        "name": NAME,
        "base": "BTC",
        "quote": "USDT",
        "multiplier": D(1),
        "quantity": D(quantity),
        "price": D(price),
        "decided": None,
        "fee": D(0),
        "fee_currency": "USDT",
        "fee_quote": None,
        "realized": D(0),
        "is_contract": False,
        "is_member": False,
    }
    reason = changed.pop("reason", "")
    fill = AttributedFill(**values | changed)
    return JournalFill(fill, uuid.UUID(int=number + 1), number, STEP, reason)


def test_a_trade_runs_from_flat_to_flat() -> None:
    fills = [
        _fill(0, "1", "100", decided=D("99"), fee=D("0.1"), fee_quote=D("0.1"), reason="signal: cross"),
        _fill(1, "1", "110", decided=D("110")),
        _fill(2, "-0.5", "120", realized=D("7.5")),
        _fill(3, "-1.5", "90", realized=D("-22.5"), fee=D("0.2"), fee_quote=D("0.2"), reason="stop loss"),
        _fill(4, "1", "95"),
    ]
    (trade,) = closed_trades(fills)
    assert trade.is_long
    assert (trade.entry_ns, trade.exit_ns, trade.quantity) == (0, 3 * 10**9, D(2))
    assert (trade.entry_price, trade.exit_price) == (D(105), D("97.5"))
    assert (trade.realized, trade.fees, trade.fees_unvalued) == (D("-15.0"), D("0.3"), 0)
    assert (trade.slippage, trade.undecided) == (D("-1"), 2)
    assert (trade.entry_reason, trade.exit_reason) == ("signal: cross", "stop loss")
    assert trade.excursions(D(80), None) == (D("23.809524"), D("14.285714"))
    assert trade.excursions(D(100), D(200))[0] == D("14.285714"), "an execution lies below the bars' low"


def test_a_fee_in_base_leaves_a_rest_that_is_flat_and_is_sold_later() -> None:
    buys = {"fee": D("0.0004"), "fee_currency": "BTC", "fee_quote": D("0.04")}
    fills = [
        _fill(0, "1", "100", **buys),
        _fill(1, "-0.999", "110", realized=D("9.99")),
        _fill(2, "1", "100", **buys),
        _fill(3, "-1", "90", realized=D("-10")),
    ]
    first, second = closed_trades(fills)
    assert (first.rest, second.rest) == (D("0.0006"), D("0.0002"))
    assert second.is_long
    assert second.quantity == 1
    later = closed_trades(fills[1:], after=(first.exit_fill, first.rest or D(0)))
    assert later == [second], "a journal that is read from a flat position on has the same trades"


def test_an_execution_through_zero_ends_one_trade_and_begins_another() -> None:
    fills = [
        _fill(0, "1", "100"),
        _fill(1, "-3", "110", realized=D("10"), fee=D("0.3"), fee_quote=D("0.3"), decided=D("113")),
        _fill(2, "2", "100", realized=D("20")),
    ]
    long, short = closed_trades(fills)
    assert (long.is_long, long.quantity, long.realized, long.fees, long.slippage, long.rest) == (
        *(True, D(1), D("10"), D("0.1"), D("-3"), None),
    )
    assert (short.is_long, short.quantity, short.realized, short.fees, short.slippage) == (
        *(False, D(2), D("20"), D("0.2"), D("-6")),
    )
    assert short.entry_price == 110
    assert short.excursions(D(100), D(121)) == (D(10), D("9.090909"))


def test_an_execution_that_was_taken_back_is_none() -> None:
    fills = [_fill(0, "1", "100"), _fill(1, "-1", "110", realized=D("10")), _fill(2, "-1", "105", realized=D("5"))]
    busts = {fills[1].fill_id: (D(1), D(0), D("-10"))}
    (trade,) = closed_trades(fills, busts)
    assert (trade.exit_price, trade.realized, trade.fills) == (D(105), D(5), (fills[0].fill_id, fills[2].fill_id))


def test_a_fee_without_a_rate_is_counted() -> None:
    fills = [_fill(0, "1", "100", fee=D("0.1"), fee_currency="BNB"), _fill(1, "-1", "100")]
    (trade,) = closed_trades(fills)
    assert (trade.fees, trade.fees_unvalued) == (D(0), 1)


@st.composite
def _contracts(draw: st.DrawFn) -> list[JournalFill]:
    """Executions of a contract by average cost, from flat to flat."""
    fills, held, average = list[JournalFill](), D(0), D(0)
    steps = draw(st.lists(st.tuples(st.integers(-5, 5), st.integers(90, 110), st.integers(0, 3)), max_size=25))
    for number, (wanted, at, cost) in enumerate([*steps, (None, 100, 1)]):
        quantity = -held if wanted is None else D(wanted)
        if not quantity:
            continue
        price, after, realized = D(at), held + quantity, D(0)
        if held * quantity >= 0:
            average = (held * average + quantity * price) / after
        else:
            closed = min(abs(held), abs(quantity)) * (1 if held > 0 else -1)
            realized = ((price - average) * closed).quantize(D("1e-8"))
            average = average if held * after > 0 else price
        held = after
        fee, decided = D(cost) / 7, draw(st.sampled_from([None, price + 1, price - 1]))
        fee = fee.quantize(D("1e-8"))
        made = {"fee": fee, "fee_quote": fee, "realized": realized, "decided": decided, "is_contract": True}
        fills.append(_fill(number, quantity, price, **made))
    return fills


@given(_contracts(), st.randoms(use_true_random=False))
def test_trades_add_up_to_the_attribution_in_any_order(fills: list[JournalFill], rand: random.Random) -> None:
    trades = closed_trades(fills)
    shuffled = fills[:]
    rand.shuffle(shuffled)
    assert closed_trades(shuffled) == trades
    realized, fees = sum((t.realized for t in trades), D(0)), sum((t.fees for t in trades), D(0))
    first = PortfolioState(0, D(1000), {}, frozenset(), {}, (), {"USDT": D(1), "BTC": D(100)})
    last = PortfolioState(10**12, D(1000) + realized - fees, {}, frozenset(), {}, (), {"USDT": D(1), "BTC": D(100)})
    split = attribute(first, last, [it.fill for it in fills])
    parts = split.totals()
    assert parts["price"] + parts["slippage"] == realized
    assert parts["fees"] == -fees
    assert parts["slippage"] == sum((t.slippage for t in trades), D(0))
    assert split.rest == 0
    for left, right in pairwise(trades):
        assert left.exit_ns <= right.entry_ns


@given(_contracts(), st.integers(0, 24))
def test_a_journal_read_from_a_flat_position_on_is_the_same(fills: list[JournalFill], at: int) -> None:
    trades = closed_trades(fills)
    ends = [place for place, trade in enumerate(trades) if trade.rest is not None]
    if not ends:
        return
    place = ends[at % len(ends)]
    base = trades[place]
    assert base.rest is not None
    later = [it for it in fills if it.fill.time_ns >= base.exit_ns]
    assert closed_trades(later, after=(base.exit_fill, base.rest)) == trades[place + 1 :]
