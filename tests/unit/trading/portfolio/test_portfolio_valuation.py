"""Valuation of holdings: equity is cash plus what has a rate, a rate that is missing or stale is named, flows are no
profit."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from decimal import Decimal

import empyrical
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.model.account import Position
from fks.model.accounting.valuation import (
    EquityBefore,
    EquityRow,
    HeldPosition,
    PortfolioHolding,
    PricedPair,
    Rates,
    growth_of,
    holding_of,
    money_weighted_return,
    net_flow,
    value_holdings,
)
from fks.model.order import Side
from fks.model.timeframe import to_ns
from fks.research.backtest.metrics import benchmark_metrics_of, equity_metrics_of
from fks.trading.portfolio.position import apply_fill
from fks.trading.portfolio.risk import AccountMargin, margin_of
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


def test_statistics_of_a_growth_curve_are_those_of_its_days_in_empyrical() -> None:
    """Its first day counts, without a return; the yearly rate is that of the time between the first day and the last."""
    day, year = 86_400 * 10**9, {"annualization": 365}
    daily = np.array([0.01, -0.02, 0.015, 0.0, 0.03] * 10)
    growth = np.concatenate([[1.0], np.cumprod(1 + daily)])
    found = equity_metrics_of(np.arange(len(growth), dtype=np.int64) * day, growth)
    assert found.days == 51
    returns = np.concatenate([[0.0], daily])
    assert found.return_pct == pytest.approx(100 * empyrical.cum_returns_final(returns), rel=1e-9)
    assert found.sharpe == pytest.approx(empyrical.sharpe_ratio(returns, **year), rel=1e-9)
    assert found.volatility_pct == pytest.approx(100 * empyrical.annual_volatility(returns, **year), rel=1e-9)
    assert found.sortino == pytest.approx(empyrical.sortino_ratio(returns, **year), rel=1e-9)
    assert found.max_drawdown_pct == pytest.approx(-100 * empyrical.max_drawdown(returns), rel=1e-9)
    assert found.cagr_pct == pytest.approx(100 * empyrical.cagr(daily, **year), rel=1e-9)
    assert found.calmar == pytest.approx(empyrical.calmar_ratio(daily, **year), rel=1e-9)
    few = equity_metrics_of(np.arange(2, dtype=np.int64) * day, np.array([1.0, 1.1]))
    assert (few.sharpe, few.cagr_pct, few.calmar, round(few.return_pct, 9)) == (None, None, None, 10)
    assert equity_metrics_of(np.zeros(0, dtype=np.int64), np.zeros(0)).return_pct == 0


def test_against_a_benchmark_as_empyrical_has_it() -> None:
    draw = np.random.default_rng(8)
    market = draw.normal(0.001, 0.02, 200)
    own = 0.6 * market + draw.normal(0.0005, 0.01, 200)
    day = 86_400 * 10**9
    times = np.arange(200, dtype=np.int64) * day + 1
    growth, levels = np.cumprod(1 + own), 40_000 * np.cumprod(np.concatenate([[1.0], 1 + market]))
    found = benchmark_metrics_of(times, growth, levels)
    assert found.beta == pytest.approx(empyrical.beta(own, market), rel=1e-9)
    assert found.alpha_pct == pytest.approx(100 * empyrical.alpha(own, market, annualization=365), rel=1e-9)
    assert found.benchmark_return_pct == pytest.approx(100 * empyrical.cum_returns_final(market), rel=1e-9)
    spread = (own - market).std(ddof=1)
    assert found.tracking_error_pct == pytest.approx(100 * spread * 365**0.5, rel=1e-9)
    assert found.information_ratio == pytest.approx(empyrical.excess_sharpe(own, market) * 365**0.5, rel=1e-9)
    gap = levels.copy()
    gap[50] = np.nan
    assert benchmark_metrics_of(times, growth, gap).benchmark_days == 198, "the two days of the gap do not count"
    cash = benchmark_metrics_of(times, growth, 1.04 ** (np.arange(201) / 365))
    assert (cash.beta, cash.alpha_pct) == (None, None)
    assert cash.information_ratio is not None


def test_the_money_weighted_return_makes_the_flows_grow_to_the_end() -> None:
    rows = [
        EquityRow(0, D(100), D(100), True),
        EquityRow(50, D(210), D(100), True),
        EquityRow(100, D("207.9"), D(0), True),
    ]
    found = money_weighted_return(rows)
    assert found is not None
    assert 100 * (1 + found) + 100 * (1 + found) ** 0.5 == pytest.approx(207.9, rel=1e-12)
    assert money_weighted_return(rows[:1]) is None
    lost = [EquityRow(0, D(100), D(100), True), EquityRow(10, D(0), D(0), True)]
    assert money_weighted_return(lost) == pytest.approx(-1.0)


def day_ns(day: str) -> int:
    return to_ns(datetime.fromisoformat(f"{day}T00:00:00+00:00"))


@pytest.mark.parametrize(("flow", "after", "end"), [(100_000, 1_262_484, 1_192_328), (-100_000, 1_062_484, 1_003_440)])
def test_the_time_weighted_return_is_that_of_the_published_example(flow: int, after: int, end: int) -> None:
    """Investopedia, "Time-Weighted Rate of Return (TWR)", its two investors, read 2026-11: 1,000,000 grow to 1,162,484 by
    August 15, then 100,000 are paid in, or out. Both have 16.25 %, -5.56 % and together 9.79 %, whatever flowed."""
    rows = [
        EquityRow(0, D(1_000_000), D(1_000_000), True),
        EquityRow(227, D(1_162_484), D(0), True),
        EquityRow(228, D(after), D(flow), True),
        EquityRow(365, D(end), D(0), True),
    ]
    growth = [level for _, level in growth_of(rows)]
    assert 100 * (growth[1] - 1) == pytest.approx(16.25, abs=0.005)
    assert growth[2] == growth[1], "a payment is no return"
    assert 100 * (growth[3] / growth[2] - 1) == pytest.approx(-5.56, abs=0.005)
    assert 100 * (growth[3] - 1) == pytest.approx(9.79, abs=0.005)


def test_the_money_weighted_return_is_that_of_the_published_example() -> None:
    """Microsoft Excel, XIRR function, its example, read 2026-11: 0.373362535 a year of 365 days. Ours is over the whole
    span, 456 days."""
    paid = (("2008-03-01", 2750), ("2008-10-30", 4250), ("2009-02-15", 3250), ("2009-04-01", 2750))
    rows = [EquityRow(day_ns("2008-01-01"), D(10_000), D(10_000), True)]
    rows += [EquityRow(day_ns(day), D(0) if day == "2009-04-01" else D(9_000), D(-out), True) for day, out in paid]
    found = money_weighted_return(rows)
    assert found is not None
    assert (1 + found) ** (365 / 456) - 1 == pytest.approx(0.373362535, abs=1e-8)


def margins(cash: str, *positions: HeldPosition) -> list[AccountMargin]:
    holdings = [
        PortfolioHolding("a", "USD", D(cash), is_cash=True),
        *(holding_of(p, is_member=False) for p in positions),
    ]
    return margin_of(value_holdings(holdings, rates(), "USD"), positions, rates())


def test_margin_is_of_the_contract_that_takes_the_equity_first() -> None:
    """By hand: 2 ES at 5010 are 501,000, with 1,000 open profit; 20 MES less 4 held short by another instance."""
    small = replace(CONTRACT, symbol="MESH26", base="MESH26", multiplier=D(5), quantity=D(-20), average_price=D(5010))
    other = replace(small, instance="two", quantity=D(4))
    (found,) = margins("9000", CONTRACT, small, other)
    assert (found.account, found.equity, found.contracts) == ("a", D(10000), D(501000 + 400800))
    assert found.leverage == pytest.approx(90.18)
    assert (found.symbol, found.price, found.zero_price) == ("ESH26", D(5010), D(4910))
    assert found.distance == pytest.approx(100 / 5010)


def test_margin_of_a_rich_or_an_empty_account() -> None:
    (rich,) = margins("1000000", CONTRACT)
    assert (rich.symbol, rich.distance) == (None, None), "the price would have to fall below zero"
    (short,) = margins("1000000", replace(CONTRACT, quantity=D(-2)))
    assert short.zero_price == D(5010) + (D(1000000) - D(1000)) / 100
    (gone,) = margins("-1000", CONTRACT)
    assert (gone.leverage, gone.symbol) == (None, None)
    assert margins("5000") == []
    assert margins("5000", replace(CONTRACT, price=None)) == []
