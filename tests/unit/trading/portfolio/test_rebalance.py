"""Plans of rebalancing: what is traded, what is left and why, and the guarantees of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.model.instrument import Instrument
from fks.model.order import Side
from fks.trading.portfolio.rebalance import (
    AllocationHoldings,
    DriftReason,
    RebalanceCosts,
    RebalancePlan,
    RebalanceRules,
    TargetWeight,
    plan,
)
from fks.trading.risk.exits import split_at_lot

D = Decimal
FREE = RebalanceRules(band=D(0), trade_min=D(0), cash_min=D(0))


def an_instrument(symbol: str = "BTC", **changes: Any) -> Instrument:
    values: dict[str, Any] = {"lot_step": "0.001", "qty_min": "0.001", "qty_max": 9000, "notional_min": 5}
    values = {name: D(value) for name, value in (values | changes).items()}
    return Instrument("binance", f"{symbol}USDT", symbol, "USDT", D("0.01"), **values)


BTC, ETH, SOL = an_instrument(), an_instrument("ETH"), an_instrument("SOL")
PRICES = {"BTCUSDT": D(100), "ETHUSDT": D(10), "SOLUSDT": D(1)}


def planned(
    cash: int,
    weights: Mapping[Instrument, str],
    held: Mapping[str, str] | None = None,
    rules: RebalanceRules = FREE,
    cost: str = "0",
    **more: Any,
) -> RebalancePlan:
    quantities = {symbol: D(quantity) for symbol, quantity in (held or {}).items()}
    targets = [TargetWeight(instrument, D(weight)) for instrument, weight in weights.items()]
    costs = {instrument.symbol: RebalanceCosts(D(cost)) for instrument in weights}
    prices = more.pop("prices", PRICES)
    return plan(AllocationHoldings(D(cash), quantities, **more), targets, prices, rules, costs, split=split_at_lot)


def trades_of(found: RebalancePlan) -> list[tuple[str, str, Decimal]]:
    return [(trade.side.value, trade.instrument.base, trade.quantity) for trade in found.trades]


def reasons_of(found: RebalancePlan) -> dict[str, str | None]:
    return {row.instrument.base: row.reason for row in found.drift}


def test_cash_buys_the_target_weights_largest_first() -> None:
    found = planned(1000, {BTC: "0.25", ETH: "0.5", SOL: "0.25"})
    assert trades_of(found) == [("buy", "ETH", D(50)), ("buy", "BTC", D("2.5")), ("buy", "SOL", D(250))]
    assert (found.capital, found.cash_after, found.turnover) == (D(1000), D(0), D(1000))
    assert reasons_of(found) == {"BTC": None, "ETH": None, "SOL": None}


def test_sells_come_before_the_buys_that_they_pay_for() -> None:
    found = planned(0, {BTC: "0.5", ETH: "0.5", SOL: "0"}, {"BTCUSDT": "8", "SOLUSDT": "200"})
    assert trades_of(found) == [("sell", "BTC", D(3)), ("sell", "SOL", D(200)), ("buy", "ETH", D(50))]


def test_an_instrument_inside_its_band_is_not_traded() -> None:
    held = {"BTCUSDT": "5.2", "ETHUSDT": "48"}
    rules = replace(FREE, band=D("0.03"))
    found = planned(0, {BTC: "0.5", ETH: "0.5"}, held, rules)
    assert (trades_of(found), reasons_of(found)) == ([], {"BTC": "BAND", "ETH": "BAND"})
    relative = replace(rules, band_relative=D("0.03"))
    assert trades_of(planned(0, {BTC: "0.5", ETH: "0.5"}, held, relative)) == [
        ("sell", "BTC", D("0.2")),
        ("buy", "ETH", D(2)),
    ]


def test_bounds_of_a_weight_are_its_band_in_place_of_the_rules() -> None:
    targets = [TargetWeight(BTC, D("0.5"), D("0.4"), D("0.52"))]
    for quantity, traded in (("4.1", []), ("3.9", [("buy", "BTC", D("1.1"))]), ("5.3", [("sell", "BTC", D("0.3"))])):
        holdings = AllocationHoldings(D(1000) - D(quantity) * 100, {"BTCUSDT": D(quantity)})
        found = plan(holdings, targets, PRICES, FREE, {}, split=split_at_lot)
        assert trades_of(found) == traded, quantity


def test_what_an_order_cannot_be_is_left_with_its_reason() -> None:
    assert reasons_of(planned(8, {BTC: "0.5"})) == {"BTC": "LOT"}, "4 is below the least notional"
    assert reasons_of(planned(30, {BTC: "0.5"}, rules=replace(FREE, trade_min=D(20)))) == {"BTC": "TRADE_MIN"}
    coarse = an_instrument(lot_step=1, qty_min=1)
    found = planned(1000, {coarse: "0.55"})
    assert (trades_of(found), reasons_of(found)) == ([("buy", "BTC", D(5))], {"BTC": "LOT"})


def test_the_cash_buffer_stays_after_fees() -> None:
    found = planned(1000, {BTC: "0.9"}, rules=replace(FREE, cash_min=D("0.1")), cost="0.01")
    after = found.capital - found.trades[0].value * D("0.01")  # type: ignore[operator]
    assert found.cash_after >= D("0.1") * after
    assert found.trades[0].fee == found.trades[0].value * D("0.01")
    assert reasons_of(found) == {"BTC": "BAND"}, "the buffer and the costs left less than the band"
    held = {"ETHUSDT": "50"}
    found = planned(100, {BTC: "0.6", ETH: "0"}, held, replace(FREE, cash_min=D("0.1")), unknown=frozenset({"ETHUSDT"}))
    assert (trades_of(found), found.cash_after) == ([("buy", "BTC", D("0.4"))], D(60))
    assert reasons_of(found) == {"BTC": "CASH", "ETH": "ORDER_UNKNOWN"}


def test_the_limit_of_turnover_makes_all_trades_smaller() -> None:
    found = planned(0, {BTC: "0.5", ETH: "0.5"}, {"BTCUSDT": "10"}, replace(FREE, turnover_max=D("0.2")))
    assert trades_of(found) == [("sell", "BTC", D(1)), ("buy", "ETH", D(10))]
    assert reasons_of(found) == {"BTC": "TURNOVER", "ETH": "TURNOVER"}


def test_open_orders_count_as_filled_and_are_not_sold_again() -> None:
    found = planned(500, {BTC: "0.5"}, pending_buys={"BTCUSDT": D(5)})
    assert trades_of(found) == []
    found = planned(0, {BTC: "0"}, {"BTCUSDT": "5"}, pending_sells={"BTCUSDT": D(3)})
    assert trades_of(found) == [("sell", "BTC", D(2))]
    found = planned(0, {BTC: "0", ETH: "0"}, {"BTCUSDT": "5", "ETHUSDT": "9"}, unknown=frozenset({"BTCUSDT"}))
    assert (trades_of(found), reasons_of(found)["BTC"]) == ([("sell", "ETH", D(9))], "ORDER_UNKNOWN")


def test_without_the_price_of_a_held_coin_nothing_is_traded() -> None:
    prices = {"ETHUSDT": D(10)}
    found = planned(1000, {BTC: "0.5", ETH: "0.5"}, {"BTCUSDT": "1"}, prices=prices)
    assert (trades_of(found), found.capital) == ([], None)
    assert set(reasons_of(found).values()) == {DriftReason.PRICE_MISSING}
    found = planned(1000, {BTC: "0.5", ETH: "0.5"}, prices=prices)
    assert trades_of(found) == [("buy", "ETH", D(50))], "a coin that is not held has no part in the capital"
    assert reasons_of(found)["BTC"] == "PRICE_MISSING"


def test_a_trade_above_the_largest_lot_becomes_several_orders() -> None:
    small = an_instrument(qty_max=2)
    assert [trade.quantity for trade in planned(1000, {small: "0.5"}).trades] == [
        D("1.667"),
        D("1.667"),
        D("1.666"),
    ]


def test_with_a_collar_trades_are_limits_that_the_cash_pays_for() -> None:
    rules = replace(FREE, collar=D("0.00333"))
    found = planned(100, {BTC: "0.9", ETH: "0.1"}, {"ETHUSDT": "90"}, rules)
    assert [(trade.instrument.base, trade.price, trade.limit) for trade in found.trades] == [
        ("ETH", D(10), D("9.97")),  # 9.9667, rounded towards the price
        ("BTC", D(100), D("100.33")),
    ]
    assert trades_of(found) == [("sell", "ETH", D(80)), ("buy", "BTC", D("8.97"))]
    assert reasons_of(found) == {"ETH": None, "BTC": "CASH"}, "900 pay for 8.97 at the limit"
    assert found.cash_after == D(3)
    assert planned(100, {BTC: "0.9"}).trades[0].limit is None


def test_the_least_notional_counts_at_the_limit_of_a_sell() -> None:
    market = replace(an_instrument("ETH"), is_notional_min_for_market=False)
    held = {"ETHUSDT": "0.505"}
    assert trades_of(planned(0, {market: "0"}, {"ETHUSDT": "0.1"})) == [("sell", "ETH", D("0.1"))]
    assert trades_of(planned(0, {market: "0"}, held, replace(FREE, collar=D("0.005")))) == [("sell", "ETH", D("0.505"))]
    assert reasons_of(planned(0, {market: "0"}, held, replace(FREE, collar=D("0.02")))) == {"ETH": "LOT"}


# ── guarantees ───────────────────────────────────────────────────────────────────────────────────
_money = st.integers(0, 10**9).map(lambda n: D(n) / 100)
_share = st.integers(0, 100).map(lambda n: D(n) / 100)


@st.composite
def situations(draw: st.DrawFn) -> dict[str, Any]:
    names = ["A", "B", "C", "D"][: draw(st.integers(1, 4))]
    parts = [draw(st.integers(0, 100)) for _ in names]
    cash_min = draw(st.sampled_from(["0", "0.01", "0.2"]))
    total = max(sum(parts), 1)
    weights = [(1 - D(cash_min)) * part / total * draw(_share) for part in parts]
    instruments = [
        an_instrument(
            name,
            lot_step=(step := draw(st.sampled_from(["0.0001", "0.01", "1"]))),
            qty_min=step,
            qty_max=draw(st.sampled_from([50, 10**9])),
            notional_min=draw(st.sampled_from([0, 5])),
        )
        for name in names
    ]
    held = {item.symbol: D(draw(st.integers(0, 10**7))) / 10_000 for item in instruments}
    sells = {symbol: quantity * draw(_share) for symbol, quantity in held.items()} if draw(st.booleans()) else {}
    cost = RebalanceCosts(D(draw(st.sampled_from(["0", "0.001", "0.01"]))), D(draw(st.sampled_from(["0", "0.0005"]))))
    return {
        "holdings": AllocationHoldings(draw(_money), held, {}, sells),
        "targets": [
            TargetWeight(item, weight.quantize(D("0.0001"), "ROUND_FLOOR"))
            for item, weight in zip(instruments, weights, strict=True)
        ],
        "prices": {item.symbol: D(draw(st.integers(1, 10**7))) / 100 for item in instruments},
        "rules": RebalanceRules(
            band=D(draw(st.sampled_from(["0", "0.01", "0.1"]))),
            band_relative=draw(st.sampled_from([None, D("0.2")])),
            trade_min=D(draw(st.sampled_from([0, 10]))),
            cash_min=D(cash_min),
            turnover_max=draw(st.sampled_from([None, D("0.1")])),
            collar=draw(st.sampled_from([None, D("0.001"), D("0.1")])),
        ),
        "costs": {item.symbol: cost for item in instruments},
    }


def after_fills(found: RebalancePlan, situation: Mapping[str, Any]) -> AllocationHoldings:
    """Return the holdings once the orders of a plan have filled at its prices, with its costs."""
    holdings: AllocationHoldings = situation["holdings"]
    cash, quantities = holdings.cash, dict(holdings.quantities)
    for trade in found.trades:
        symbol, sign = trade.instrument.symbol, trade.side.sign
        quantities[symbol] += sign * trade.quantity
        cash -= trade.value * (sign + situation["costs"][symbol].rate)
    return replace(holdings, cash=cash, quantities=quantities)


@given(situations())
def test_a_plan_keeps_its_guarantees(situation: dict[str, Any]) -> None:
    found = plan(**situation, split=split_at_lot)
    holdings, rules, prices = situation["holdings"], situation["rules"], situation["prices"]
    sides = [trade.side for trade in found.trades]
    assert sides == sorted(sides, key=lambda side: side is Side.BUY), "sells come before buys"
    for symbol in prices:
        sold = sum(t.quantity for t in found.trades if (t.instrument.symbol, t.side) == (symbol, Side.SELL))
        assert sold <= holdings.sellable(symbol), "never more than is held"
    after = after_fills(found, situation)
    assert after.cash == found.cash_after
    capital = after.cash + sum(after.expected(symbol) * price for symbol, price in prices.items())
    beyond = sum((t.limit - t.price) * t.quantity for t in found.trades if t.side is Side.BUY and t.limit is not None)
    assert after.cash - beyond >= min(rules.cash_min * capital, holdings.cash), "never below the buffer"
    for trade in found.trades:
        lot = trade.instrument.lot(is_market=True)
        assert trade.quantity % lot.step == 0
        assert lot.least <= trade.quantity <= lot.most
    for row in found.drift:
        if row.reason in (None, DriftReason.BAND) and row.left is not None:
            lot = row.instrument.lot_step * prices[row.instrument.symbol] / capital
            assert -row.band[0] - lot <= row.left <= row.band[1] + lot, "a larger drift has a reason"


@given(situations())
def test_planning_again_after_the_fills_gives_no_trade(situation: dict[str, Any]) -> None:
    found = plan(**situation, split=split_at_lot)
    if any(row.reason is DriftReason.TURNOVER for row in found.drift):
        return  # the rest is for the next rebalancing
    if situation["rules"].collar is not None and any(row.reason is DriftReason.CASH for row in found.drift):
        return  # so is what the cash for the limits would have bought
    again = plan(**(situation | {"holdings": after_fills(found, situation)}), split=split_at_lot)
    assert again.trades == ()


def test_a_limited_turnover_comes_to_the_targets_in_several_plans() -> None:
    weights, rules = {BTC: "0.5", ETH: "0.5"}, replace(FREE, turnover_max=D("0.3"), trade_min=D(5))
    held, cash = {"BTCUSDT": "10"}, 0
    for _ in range(5):
        found = planned(cash, weights, held, rules)
        for trade in found.trades:
            symbol = trade.instrument.symbol
            held = held | {symbol: str(D(held.get(symbol, "0")) + trade.side.sign * trade.quantity)}
    assert {symbol: D(quantity) for symbol, quantity in held.items()} == {"BTCUSDT": D(5), "ETHUSDT": D(50)}


@pytest.mark.parametrize("count", [200])
def test_hundreds_of_instruments_are_planned_at_once(count: int) -> None:
    items = [an_instrument(f"X{number}") for number in range(count)]
    prices = {item.symbol: D(10 + number) for number, item in enumerate(items)}
    found = planned(1_000_000, dict.fromkeys(items, "0.004"), prices=prices, cost="0.001")
    assert len(found.trades) == count
