"""Valuation of holdings: equity is cash plus what has a rate, a rate that is missing or stale is named, flows are no
profit."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.backtest.metrics import equity_metrics_of
from fks.model.account import Position
from fks.model.order import Side
from fks.portfolio.position import apply_fill
from fks.portfolio.valuation import (
    EquityBefore,
    EquityRow,
    HeldPosition,
    PortfolioHolding,
    PricedPair,
    Rates,
    growth_of,
    holding_of,
    net_flow,
    value_holdings,
)
from tests.support.order_values import a_fill, an_instrument

D = Decimal
NOW = 10_000 * 10**9
NAMES = ("USD", "EUR", "BTC", "ETH", "BNB", "USDC")


def pair(base: str, quote: str, price: str, *, age_s: float = 0, exchange: str = "binance") -> PricedPair:
    return PricedPair(exchange, base + quote, base, quote, D(price), NOW - int(age_s * 1e9))


def rates(*pairs: PricedPair, age_max_s: float = 60, equals: tuple[tuple[str, str], ...] = ()) -> Rates:
    return Rates.of(pairs, now_ns=NOW, age_max_s=age_max_s, equals=equals)


HOLDINGS = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(-(10**6), 10**6), st.booleans()), max_size=12)
PAIRS = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES), st.integers(1, 10**6), st.sampled_from([0, 30, 90])),
    max_size=12,
)


@given(rows=HOLDINGS, prices=PAIRS)
def test_equity_is_cash_plus_value_and_what_is_missing_is_named(
    rows: list[tuple[str, int, bool]], prices: list[tuple[str, str, int, int]]
) -> None:
    held = [PortfolioHolding("a", name, D(amount) / 100, is_cash=is_cash) for name, amount, is_cash in rows]
    found = rates(*(pair(base, quote, str(D(price) / 1000), age_s=age) for base, quote, price, age in prices))
    valuation = value_holdings(held, found, "USD")
    known = [row.value for row in valuation.holdings if row.value is not None]
    assert valuation.equity == sum(known, D(0))
    others = [row.value for row in valuation.holdings if row.value is not None and not row.holding.is_cash]
    assert valuation.equity == valuation.cash + sum(others, D(0))
    without = {row.holding.asset for row in valuation.holdings if row.value is None}
    assert {text.partition("/")[0] for text in valuation.missing} == without
    assert valuation.is_complete == (not without)
    for name in {name for name, *_ in rows} - without:
        rate = found.find(name, "USD")
        assert rate is not None
        assert len(rate.legs) <= 3
        assert rate.time_ns is None or rate.time_ns >= NOW - 60 * 10**9


def test_a_stale_rate_is_named_with_its_age_and_counts_nothing() -> None:
    found = rates(pair("BTC", "USD", "50000", age_s=61), pair("ETH", "USD", "2000", age_s=60))
    valuation = value_holdings([PortfolioHolding("a", "BTC", D(1)), PortfolioHolding("a", "ETH", D(2))], found, "USD")
    assert (valuation.equity, valuation.missing) == (D(4000), ("BTC/USD: stale",))
    [row] = [row for row in valuation.holdings if row.value is None]
    assert row.rate is not None
    assert (row.rate.value, row.rate.time_ns) == (D(50000), NOW - 61 * 10**9)


def test_the_age_of_a_rate_is_that_of_its_oldest_price() -> None:
    found = rates(pair("ETH", "BTC", "0.05", age_s=50), pair("BTC", "USD", "40000", age_s=10)).find("ETH", "USD")
    assert found is not None
    assert (found.value, found.time_ns, found.legs) == (D(2000), NOW - 50 * 10**9, ("ETHBTC", "BTCUSD"))


def test_a_fresh_price_of_another_exchange_is_used_for_a_stale_one() -> None:
    one, other = pair("BTC", "USD", "50000", age_s=90), pair("BTC", "USD", "51000", age_s=5, exchange="kraken")
    assert rates(one, other).rate("BTC", "USD") == 51_000
    assert rates(pair("BTC", "USD", "1", age_s=-5)).rate("BTC", "USD") is None  # of the future


def test_a_stablecoin_is_another_currency_unless_configured() -> None:
    held = [PortfolioHolding("a", "USDC", D(100))]
    assert value_holdings(held, rates(), "USD").missing == ("USDC/USD: missing",)
    assert value_holdings(held, rates(pair("USDC", "USD", "0.97")), "USD").equity == 97
    assert value_holdings(held, rates(pair("USDC", "USD", "0.97"), equals=(("USDC", "USD"),)), "USD").equity == 100


def test_cycles_of_prices_end() -> None:
    found = rates(pair("BTC", "ETH", "20"), pair("ETH", "BNB", "4"), pair("BNB", "BTC", "0.0125"))
    assert found.rate("BTC", "USD") is None
    assert found.rate("BTC", "BNB") == D(1) / D("0.0125")


CONTRACT = HeldPosition(
    account="a", instance="one", symbol="ESH26", base="ESH26", quote="USD", quantity=D(2), average_price=D(5000),
    realized_pnl=D(300), fees=D(9), multiplier=D(50), price=D(5010), is_contract=True,
)  # fmt: skip


def test_of_a_contract_the_open_profit_counts_and_without_a_price_it_is_named() -> None:
    valuation = value_holdings([holding_of(CONTRACT, is_member=True)], rates(), "USD")
    assert (valuation.equity, valuation.invested) == (D(1000), {"USD": D(-291)})
    without = value_holdings([holding_of(replace(CONTRACT, price=None), is_member=True)], rates(), "USD")
    assert (without.equity, without.missing) == (D(0), ("price of ESH26: missing or stale",))


FILLS = st.lists(
    st.tuples(st.sampled_from(Side), st.integers(1, 50), st.integers(50, 150), st.sampled_from(["BTC", "USD"])),
    min_size=1,
    max_size=20,
)


@given(fills=FILLS, cuts=st.sets(st.integers(0, 19)))
def test_change_of_equity_is_flows_plus_profit_of_a_member_strategy(
    fills: list[tuple[Side, int, int, str]], cuts: set[int]
) -> None:
    """Whatever is bought and sold between two moments, equity - flows moves by realised + open profit - fees alone."""
    instrument = an_instrument(symbol="BTCUSD", quote="USD")
    position = Position(1, "ccxt", "BTCUSD", "one", D(0), D(0), D(0), D(0))
    flows, before = D(0), EquityBefore(D(0), {}, D(0), are_members_changed=False)
    equity = D(0)
    for number, (side, quantity, price, currency) in enumerate(fills):
        fee = D("0.01") if currency == "BTC" else D(quantity * price) / 1000
        fill = a_fill(number, side=side, quantity=D(quantity), price=D(price), fee=fee, fee_currency=currency)
        position = apply_fill(position, fill, instrument).position
        if number in cuts or number == len(fills) - 1:
            held = HeldPosition(
                account="a", instance="one", symbol="BTCUSD", base="BTC", quote="USD", quantity=position.quantity,
                average_price=position.average_price, realized_pnl=position.realized_pnl, fees=position.fees,
                multiplier=D(1), price=None, is_contract=False,
            )  # fmt: skip
            found = rates(pair("BTC", "USD", str(price)))
            valuation = value_holdings([holding_of(held, is_member=True)], found, "USD")
            flow = net_flow(valuation, valuation.invested, before, found)
            assert flow is not None
            flows, equity = flows + flow, valuation.equity
            before = EquityBefore(equity, valuation.invested, D(0), are_members_changed=False)
    open_profit = position.quantity * (D(fills[-1][2]) - position.average_price)
    profit = position.realized_pnl + open_profit - position.fees
    assert abs(equity - flows - profit) < D("1e-8")


def test_members_that_change_make_the_whole_span_a_flow() -> None:
    now = value_holdings([PortfolioHolding("a", "USD", D(150), is_cash=True)], rates(), "USD")
    before = EquityBefore(D(100), {}, D(7), are_members_changed=True)
    assert net_flow(now, {}, before, rates()) == 43
    assert net_flow(now, {}, None, rates()) == 150
    assert net_flow(now, {"USD": D(20)}, replace(before, are_members_changed=False), rates()) == 13
    assert net_flow(now, {"X": D(20)}, replace(before, are_members_changed=False), rates()) is None


def rows_of(*rows: tuple[str, str, bool]) -> list[EquityRow]:
    hour = 3_600 * 10**9
    return [EquityRow(n * hour, D(equity), D(flow), is_complete) for n, (equity, flow, is_complete) in enumerate(rows)]


def test_growth_is_time_weighted_whatever_flows() -> None:
    grown = growth_of(
        rows_of(
            ("100", "100", True),
            ("110", "0", True),  # + 10 %
            ("220", "110", True),  # the deposit is no return
            ("209", "0", True),  # - 5 %
            ("9.5", "-200", True),  # of 209, 200 went out and 9.5 are left
        )
    )
    assert [round(level, 9) for _, level in grown] == [1, 1.1, 1.1, 1.045, 1.0475]


def test_flows_of_incomplete_hours_belong_to_the_next_complete_one() -> None:
    grown = growth_of(rows_of(("7", "7", False), ("100", "100", True), ("40", "50", False), ("165", "0", True)))
    assert [round(level, 9) for _, level in grown] == [1, 1.1]
    assert growth_of([]) == []


def test_a_strategy_that_was_flat_earns_on_what_it_was_given() -> None:
    grown = growth_of(rows_of(("0", "0", True), ("1010", "1000", True), ("0", "-1015", True), ("0", "0", True)))
    assert [round(level, 9) for _, level in grown] == [1, 1.01, 1.015, 1.015]


def test_statistics_of_a_growth_curve_are_those_of_its_days() -> None:
    day = 86_400 * 10**9
    daily = np.array([0.01, -0.02, 0.015, 0.0, 0.03] * 10)
    growth = np.concatenate([[1.0], np.cumprod(1 + daily)])
    found = equity_metrics_of(np.arange(len(growth), dtype=np.int64) * day, growth)
    assert found.days == 51
    returns = np.concatenate([[0.0], daily])
    assert found.sharpe == pytest.approx(returns.mean() / returns.std(ddof=1) * np.sqrt(365), rel=1e-9)
    assert found.volatility_pct == pytest.approx(100 * returns.std(ddof=1) * np.sqrt(365), rel=1e-9)
    downside = np.sqrt((np.minimum(returns, 0) ** 2).mean())
    assert found.sortino == pytest.approx(returns.mean() / downside * np.sqrt(365), rel=1e-9)
    assert found.max_drawdown_pct == pytest.approx(2.0)
    assert found.cagr_pct == pytest.approx(100 * (growth[-1] ** (365 / 50) - 1), rel=1e-9)
    assert found.calmar == pytest.approx(found.cagr_pct / found.max_drawdown_pct)
    few = equity_metrics_of(np.arange(2, dtype=np.int64) * day, np.array([1.0, 1.1]))
    assert (few.sharpe, few.cagr_pct, few.calmar, round(few.return_pct, 9)) == (None, None, None, 10)
    assert equity_metrics_of(np.zeros(0, dtype=np.int64), np.zeros(0)).return_pct == 0
