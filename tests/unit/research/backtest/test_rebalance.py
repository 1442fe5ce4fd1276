"""Backtests of portfolios: runs by schedule and drift, allocations, and what holds on any bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.model.bar import Bars
from fks.model.errors import InputError
from fks.model.instrument import Instrument
from fks.model.order import Side
from fks.model.timeframe import NS, TIMEFRAMES
from fks.research.backtest.rebalance import (
    AllocationSchedule,
    PortfolioBacktest,
    PortfolioSetup,
    portfolio_document_of,
    run_portfolio,
)
from fks.trading.matching import CostModel, Slippage
from fks.trading.portfolio.allocation import AllocationConstraints, AllocationMethod, AllocationOptions
from fks.trading.portfolio.rebalance import RebalanceRules, TargetWeight, Trigger, TriggerPolicy

D = Decimal
START_NS, HOUR_NS = 1_767_225_600 * NS, 3600 * NS  # 2026-01-01, a Thursday
DRIFT = TriggerPolicy(Trigger.DRIFT, cooldown_s=0)
SCHEDULE = TriggerPolicy(Trigger.SCHEDULE)
RULES = RebalanceRules(band=D("0.01"), cash_min=D("0.02"))


def instrument(name: str) -> Instrument:
    values = {"tick": "0.0001", "lot_step": "0.001", "qty_min": "0.001", "qty_max": "100000", "notional_min": "5"}
    found: dict[str, Any] = {field: D(value) for field, value in values.items()}
    return Instrument("binance", f"{name}USDT", name, "USDT", **found)


def tape(
    item: Instrument, closes: Sequence[float], opens: Sequence[float] | None = None, timeframe: str = "1h"
) -> Bars:
    """Return bars with these closes, opening where the one before closed unless opens are given."""
    close = np.array(closes, dtype=np.float64)
    open_ = np.concatenate([close[:1], close[:-1]]) if opens is None else np.array(opens, dtype=np.float64)
    times = START_NS + np.arange(len(close), dtype=np.int64) * TIMEFRAMES[timeframe] * NS
    high, low = np.maximum(open_, close), np.minimum(open_, close)
    return Bars(item.symbol, timeframe, times, open_, high, low, close, np.ones(len(close)), exchange="binance")


def market(seed: int, count: int = 5, bars: int = 200, *, has_gaps: bool = False) -> tuple[list[Bars], PortfolioSetup]:
    """Return random bars of some instruments, and a setup with targets of 90 % in all."""
    draw = np.random.default_rng(seed)
    items = [instrument(f"A{at}") for at in range(count)]
    found = []
    for item in items:
        moves = np.exp(draw.standard_t(4, bars) * 0.01)
        closes = np.round(float(draw.uniform(1, 500)) * np.cumprod(moves), 4)
        opens = np.concatenate([closes[:1], closes[:-1]])
        if has_gaps:
            opens = np.round(opens * np.exp(draw.normal(0, 0.004, bars)), 4)
        found.append(tape(item, closes, opens))
    shares = draw.integers(1, 10, count)
    weights = [D(int(share)) * D("0.9") / D(int(shares.sum())) for share in shares]
    targets = tuple(TargetWeight(item, round(weight, 4)) for item, weight in zip(items, weights, strict=True))
    return found, PortfolioSetup(tuple(items), targets, RULES, DRIFT)


def steps_of(found: PortfolioBacktest) -> list[tuple[int, str, str, str]]:
    """Return run, side, symbol and quantity of each fill."""
    return [(n, f.side.value, symbol, f"{f.quantity.normalize():f}") for n, symbol, f in found.fills]


# ── runs ─────────────────────────────────────────────────────────────────────────────────────────
BTC, ETH = instrument("BTC"), instrument("ETH")
HALVES = (TargetWeight(BTC, D("0.45")), TargetWeight(ETH, D("0.45")))


def test_a_schedule_trades_at_the_next_open_sells_before_buys() -> None:
    prices = ([100, 100, 100, 200, 200, 200], [10, 10, 10, 10, 10, 10])
    bars = [tape(BTC, prices[0]), tape(ETH, prices[1])]
    requests = (START_NS + HOUR_NS, START_NS + 4 * HOUR_NS + HOUR_NS // 2)
    setup = PortfolioSetup((BTC, ETH), HALVES, RULES, SCHEDULE, CostModel(D("0.001"), "quote"), requests_ns=requests)
    found = run_portfolio(bars, setup)
    assert steps_of(found) == [
        (1, "buy", "BTCUSDT", "45"),
        (1, "buy", "ETHUSDT", "450"),
        (2, "sell", "BTCUSDT", "12.395"),  # of 14,491 a weight of 0.45 at 200
        (2, "buy", "ETHUSDT", "202.095"),
    ]
    assert [run.started_ns for run in found.runs] == [START_NS + HOUR_NS, START_NS + 5 * HOUR_NS]
    assert [(run.state, run.reason) for run in found.runs] == [("done", None)] * 2
    assert [row.fee for _, _, row in found.fills][:2] == [D("4.5"), D("4.5")]
    assert found.decisions == {"START": 2}


def test_an_order_expires_at_an_open_beyond_its_collar_and_the_others_go_on() -> None:
    closes, opens = ([100.0] * 6, [10.0] * 6), ([100.0, 100.0, 100.51, 100.0, 100.5, 100.0], [10.0] * 6)
    bars = [tape(item, *prices) for item, *prices in zip((BTC, ETH), closes, opens, strict=True)]
    setup = PortfolioSetup((BTC, ETH), HALVES, replace(RULES, collar=D("0.005")), replace(DRIFT, timeframe="2h"))
    found = run_portfolio(bars, setup)
    assert steps_of(found) == [(1, "buy", "ETHUSDT", "450"), (2, "buy", "BTCUSDT", "44.979")]
    first, second = found.runs
    assert (first.state, first.reason, first.ended_ns) == ("partial", "SLIPPAGE_GUARD", START_NS + 2 * HOUR_NS)
    assert (second.state, second.steps[0].trade.limit) == ("done", D("100.5"))
    assert found.fills[1][2].price == D("100.5"), "a fill at the limit is one"
    assert portfolio_document_of(found)["runs"][1]["steps"][0]["limit_price"] == "100.5"
    slipped = replace(setup, costs=CostModel(slippage=Slippage.parse("1 tick")))
    assert [run.reason for run in run_portfolio(bars, slipped).runs][:2] == ["SLIPPAGE_GUARD", "SLIPPAGE_GUARD"]


def test_drift_starts_a_run_at_the_close_that_left_the_band() -> None:
    bars = [tape(BTC, [100, 100, 100, 101, 130, 130, 130]), tape(ETH, [10] * 7)]
    found = run_portfolio(bars, PortfolioSetup((BTC, ETH), HALVES, RULES, replace(DRIFT, band=D("0.03"))))
    assert [(run.started_ns - START_NS) // HOUR_NS for run in found.runs] == [1, 5]
    assert found.runs[1].outside == ("BTCUSDT", "ETHUSDT")
    assert found.decisions == {"START": 2, "IN_BAND": 4}
    cooled = replace(DRIFT, band=D("0.03"), cooldown_s=5 * 3600.0)
    found = run_portfolio(bars, PortfolioSetup((BTC, ETH), HALVES, RULES, cooled))
    assert [(run.started_ns - START_NS) // HOUR_NS for run in found.runs] == [1, 6]


def test_drift_is_measured_at_the_closes_of_its_own_timeframe() -> None:
    closes = [100.0] * 30 + [150.0] * 30
    bars = [tape(BTC, closes), tape(ETH, [10] * 60)]
    found = run_portfolio(bars, PortfolioSetup((BTC, ETH), HALVES, RULES, replace(DRIFT, timeframe="1d")))
    assert [(run.started_ns - START_NS) // HOUR_NS for run in found.runs] == [24, 48]


def test_a_step_waits_for_its_price_until_the_run_is_too_old() -> None:
    rules = replace(RULES, price_tolerance=D("0.01"), run_max_age_s=2 * 3600.0)
    opens = [100, 105, 105, 105, 105, 105]
    bars = [tape(BTC, [100, 105, 105, 105, 105, 105], opens), tape(ETH, [10] * 6)]
    setup = PortfolioSetup((BTC, ETH), HALVES, rules, SCHEDULE, requests_ns=(START_NS + HOUR_NS,))
    found = run_portfolio(bars, setup)
    assert steps_of(found) == [(1, "buy", "ETHUSDT", "450")]
    [run] = found.runs
    assert (run.state, run.reason, run.ended_ns) == ("partial", "MAX_AGE", START_NS + 4 * HOUR_NS)
    back = [tape(BTC, [100, 100.5, 105, 105, 105, 105], [100, 105, 100.5, 105, 105, 105]), bars[1]]
    assert steps_of(run_portfolio(back, setup)) == [(1, "buy", "ETHUSDT", "450"), (1, "buy", "BTCUSDT", "45")][::-1]


def test_buys_wait_for_a_sell_that_waits() -> None:
    rules = replace(RULES, run_max_age_s=8 * 3600.0)
    closes = [100, 100, 100, 200, 200, 200, 200, 200]
    late = tape(BTC, closes, [100, 100, 100, 100, 230, 200, 200, 200])
    bars, requests = [late, tape(ETH, [10] * 8)], (START_NS + HOUR_NS, START_NS + 4 * HOUR_NS)
    found = run_portfolio(bars, PortfolioSetup((BTC, ETH), HALVES, rules, SCHEDULE, requests_ns=requests))
    times = [(f.side.value, (f.time_ns - START_NS) // HOUR_NS) for n, _, f in found.fills if n == 2]
    assert times == [("sell", 5), ("buy", 5)]


def test_a_buy_becomes_smaller_for_what_the_cash_pays() -> None:
    """The open is above the close that the plan was made at, within the tolerance."""
    rules = replace(RULES, cash_min=D("0.1"), price_tolerance=D("0.05"))
    bars = [tape(BTC, [100, 100, 100], [100, 104, 100]), tape(ETH, [10] * 3)]
    setup = PortfolioSetup((BTC, ETH), HALVES, rules, SCHEDULE, CostModel(D(0)), requests_ns=(START_NS + HOUR_NS,))
    found = run_portfolio(bars, setup)
    [run] = found.runs
    assert (run.state, run.reason) == ("partial", "CASH")
    assert D(1000) <= found.cash < D(1001)


def test_a_coin_without_a_bar_holds_a_start() -> None:
    bars = [tape(BTC, [100] * 6), tape(ETH, [10] * 6)]
    ahead = np.arange(6) != 1
    bars[1] = replace(
        bars[1], **{n: getattr(bars[1], n)[ahead] for n in ("time_ns", "open", "high", "low", "close", "volume")}
    )
    requests = (START_NS + 2 * HOUR_NS,)
    setup = PortfolioSetup((BTC, ETH), HALVES, RULES, SCHEDULE, requests_ns=requests, allow_gaps=True)
    found = run_portfolio(bars, setup)
    assert [(run.started_ns - START_NS) // HOUR_NS for run in found.runs] == [3]
    with pytest.raises(InputError) as error:
        run_portfolio(bars, replace(setup, allow_gaps=False))
    assert error.value.code == "TAPE_GAPS"
    long = replace(setup, rules=replace(RULES, run_max_age_s=1800.0))
    assert run_portfolio(bars, long).decisions == {"EXPIRED": 1}


# ── allocations ──────────────────────────────────────────────────────────────────────────────────
def allocated(times_ns: Sequence[int], **changes: Any) -> AllocationSchedule:
    limits = AllocationConstraints(invested=0.98)
    method, times = AllocationMethod.INVERSE_VOLATILITY, tuple(times_ns)
    return replace(AllocationSchedule(method, times, limits, timeframe="1h", window_days=2), **changes)


def test_weights_are_estimated_from_bars_before_alone() -> None:
    bars, setup = market(3, bars=24 * 10)
    times = [START_NS + day * 24 * HOUR_NS for day in (4, 6, 8)]
    policy = TriggerPolicy(Trigger.SCHEDULE, change_max=D(1))
    setup = replace(
        setup,
        targets=(),
        policy=policy,
        start_ns=START_NS + 48 * HOUR_NS,
        requests_ns=tuple(time_ns + HOUR_NS for time_ns in [START_NS + 48 * HOUR_NS, *times]),
        allocation=allocated(times),
    )
    found = run_portfolio(bars, setup)
    assert [row.as_of_ns for row in found.allocations] == [setup.start_ns, *times]
    assert all(row.is_applied for row in found.allocations)
    assert len(found.runs) == 4
    for row in found.allocations:
        rows = slice(*np.searchsorted(bars[0].time_ns, [row.as_of_ns - 48 * HOUR_NS, row.as_of_ns]))
        spread = np.array([(np.diff(part.close[rows]) / part.close[rows][:-1]).std(ddof=1) for part in bars])
        wanted = 0.98 / spread / (1 / spread).sum()
        assert np.allclose([float(row.weights[part.symbol]) for part in bars], wanted, atol=2e-6)
    few = replace(setup, allocation=allocated(times, window_days=4))
    with pytest.raises(InputError) as error:
        run_portfolio(bars, few)
    assert error.value.code == "COVERAGE_LOW", "four days before the start are not there"


def test_weights_that_change_too_much_are_refused() -> None:
    bars, setup = market(3, bars=24 * 6)
    fixed = allocated(
        [START_NS + 48 * HOUR_NS],
        method=AllocationMethod.FIXED,
        options=AllocationOptions(fixed={part.symbol: 0.18 for part in bars}),
    )
    policy = replace(SCHEDULE, change_max=D("0.001"))
    found = run_portfolio(bars, replace(setup, policy=policy, allocation=fixed))
    assert [row.is_applied for row in found.allocations] == [False]
    assert found.targets == setup.targets
    found = run_portfolio(bars, replace(setup, policy=replace(policy, change_max=D("0.5")), allocation=fixed))
    assert {target.weight for target in found.targets} == {D("0.18")}


def test_targets_of_the_last_bar_start_nothing() -> None:
    bars, setup = market(3, bars=24 * 6)
    at_ns = START_NS + 72 * HOUR_NS
    policy = TriggerPolicy(Trigger.SCHEDULE, change_max=D(1))
    setup = replace(setup, policy=policy, requests_ns=(at_ns,), allocation=allocated([at_ns]))
    [run] = run_portfolio(bars, setup).runs
    assert run.started_ns == at_ns + HOUR_NS


# ── what holds on any bars ───────────────────────────────────────────────────────────────────────
COSTS = (CostModel(D("0.001")), CostModel(D("0.002"), "quote"), CostModel(D(0), slippage=Slippage.parse("3 bps")))


@given(st.integers(0, 10_000), st.booleans(), st.sampled_from(COSTS[:2]), st.sampled_from([None, "0.05", "0.3"]))
def test_cash_and_holdings_stay_within_their_bounds(
    seed: int, has_gaps: bool, costs: CostModel, turnover: str | None
) -> None:
    bars, setup = market(seed, bars=80, has_gaps=has_gaps)
    rules = replace(RULES, turnover_max=None if turnover is None else D(turnover))
    found = run_portfolio(bars, replace(setup, costs=costs, rules=rules))
    assert found.runs
    cash, held = setup.cash, {item.symbol: D(0) for item in setup.instruments}
    for run in found.runs:
        assert run.plan.capital is not None
        assert run.plan.cash == cash
        least, fees = cash, D(0)
        fills = [(step.trade.instrument.symbol, step.fill) for step in run.steps if step.fill is not None]
        sides = [fill.side for _, fill in sorted(fills, key=lambda row: row[1].time_ns)]
        assert sides == sorted(sides, key=lambda side: side is Side.BUY)
        for symbol, fill in fills:
            in_quote = fill.fee if fill.fee_currency == "USDT" else fill.fee * fill.price
            fees += in_quote
            if fill.side is Side.SELL:
                assert fill.quantity <= held[symbol]
            held[symbol] += fill.side.sign * fill.quantity - (fill.fee if fill.fee_currency != "USDT" else 0)
            cash -= fill.side.sign * fill.quantity * fill.price + (fill.fee if fill.fee_currency == "USDT" else 0)
        buffer = min(rules.cash_min * (run.plan.capital - fees), least)
        assert cash >= buffer - D("1e-7"), "below the buffer, or below what it was"
    assert (cash, held) == (found.cash, dict(found.quantities))


@given(st.integers(0, 10_000), st.sampled_from(COSTS))
def test_a_run_ends_within_one_lot_and_the_band(seed: int, costs: CostModel) -> None:
    bars, setup = market(seed, bars=80)  # each opens where the last one closed, as the plan assumes
    found = run_portfolio(bars, replace(setup, costs=costs))
    assert found.runs
    for run in found.runs:
        assert run.state == "done"
        capital = sum((row.quantity * row.price for row in run.drift if row.price), found.setup.cash)
        for row in run.drift:
            assert row.left is not None
            assert row.price is not None
            lot = max(row.instrument.lot_step * row.price, row.instrument.notional_min, setup.rules.trade_min)
            assert abs(row.left) <= max(row.band) + lot / capital * 2, row


@given(st.integers(0, 10_000), st.sampled_from(COSTS))
def test_equity_is_cash_and_the_value_of_what_was_filled(seed: int, costs: CostModel) -> None:
    bars, setup = market(seed, bars=60, has_gaps=True)
    found = run_portfolio(bars, replace(setup, costs=costs))
    for at, end_ns in enumerate(found.ends_ns.tolist()):
        equity = setup.cash
        for _, symbol, fill in found.fills:
            if fill.time_ns < end_ns:
                part = next(part for part in bars if part.symbol == symbol)
                close = D(repr(float(part.close[at])))
                equity += fill.side.sign * fill.quantity * (close - fill.price)
                equity -= fill.fee if fill.fee_currency == "USDT" else fill.fee * close
        assert abs(D(float(found.equity[at])) - equity) <= D("1e-8")


@given(st.integers(0, 10_000))
def test_no_close_outside_its_band_is_missed(seed: int) -> None:
    """The float64 weights that choose the closes to look at lose none."""
    bars, setup = market(seed, bars=80, has_gaps=True)
    band = D("0.015")
    found = run_portfolio(bars, replace(setup, policy=replace(DRIFT, band=band)))
    starts = {run.started_ns for run in found.runs}
    looked_at = 0
    for at, end_ns in enumerate(found.ends_ns[:-1].tolist()):
        held = {item.symbol: D(0) for item in setup.instruments}
        cash = setup.cash
        before = [run for run in found.runs if run.started_ns < end_ns]
        if any(run.ended_ns is None or run.ended_ns > end_ns for run in before):
            continue  # a run was under way
        for number, symbol, fill in found.fills:
            if number <= len(before):
                held[symbol] += fill.side.sign * fill.quantity - (fill.fee if fill.fee_currency != "USDT" else 0)
                cash -= fill.side.sign * fill.quantity * fill.price + (fill.fee if fill.fee_currency == "USDT" else 0)
        values = {part.symbol: held[part.symbol] * D(repr(float(part.close[at]))) for part in bars}
        capital = cash + sum(values.values())
        is_outside = any(abs(values[t.instrument.symbol] / capital - t.weight) > band for t in setup.targets)
        assert is_outside == (end_ns in starts)
        looked_at += 1
    assert sum(found.decisions.values()) == looked_at


@given(st.integers(0, 10_000), st.integers(20, 70))
def test_later_bars_change_no_earlier_run(seed: int, row: int) -> None:
    bars, setup = market(seed, bars=80, has_gaps=True)
    at_ns = int(bars[0].time_ns[row])
    times = [START_NS + hour * HOUR_NS for hour in (48, 56, 64)]
    setup = replace(setup, policy=replace(DRIFT, change_max=D(1)), allocation=allocated(times, window_days=1))
    changed = []
    for place, part in enumerate(bars):
        factor = np.where(np.arange(len(part)) < row, 1.0, 1.0 + 0.3 * (place + 1))
        changed.append(replace(part, **{n: getattr(part, n) * factor for n in ("open", "high", "low", "close")}))
    first, second = run_portfolio(bars, setup), run_portfolio(changed, setup)

    def before(found: PortfolioBacktest) -> list[Any]:
        runs = [run for run in found.runs if run.ended_ns is not None and run.ended_ns < at_ns]
        rows = [row for row in found.allocations if row.as_of_ns <= at_ns]
        return [(run.started_ns, run.plan, run.steps, run.state) for run in runs] + rows

    assert before(first) == before(second)
    count = int(np.searchsorted(first.ends_ns, at_ns, side="right"))
    assert np.array_equal(first.equity[:count], second.equity[:count])


# ── document ─────────────────────────────────────────────────────────────────────────────────────
def test_a_document_has_each_run_and_repeats() -> None:
    bars, setup = market(5)
    found = run_portfolio(bars, setup)
    document = portfolio_document_of(found, sources=["here"] * len(bars))
    assert document == portfolio_document_of(run_portfolio(bars, setup), sources=["here"] * len(bars))
    assert len(document["runs"]) == document["statistics"]["runs"] == len(found.runs) > 5
    assert sum(len(run["steps"]) for run in document["runs"]) == len(found.fills) == document["statistics"]["fills"]
    assert document["equity"][-1][1] == pytest.approx(document["statistics"]["final_equity"])
    more = replace(setup, rules=replace(RULES, trade_min=D(20)))
    assert run_portfolio(bars, more).inputs_hash != found.inputs_hash
    assert (found.inputs_hash, found.fills_hash) == (document["inputs_hash"], document["fills_hash"])


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"policy": TriggerPolicy()}, "PORTFOLIO_TRIGGER"),
        ({"policy": replace(DRIFT, timeframe="1m")}, "PORTFOLIO_TRIGGER"),
        ({"targets": ()}, "PORTFOLIO_TARGETS"),
        ({"targets": (TargetWeight(BTC, D("0.99")),)}, "PORTFOLIO_TARGETS"),
        ({"targets": (TargetWeight(instrument("SOL"), D("0.5")),)}, "PORTFOLIO_TARGETS"),
        ({"instruments": (BTC, replace(ETH, multiplier=D(5)))}, "PORTFOLIO_INSTRUMENT"),
        ({"instruments": (ETH, BTC)}, "PORTFOLIO_BARS"),
        ({"start_ns": START_NS + 100 * HOUR_NS}, "NO_DATA"),
    ],
)
def test_inputs_that_make_no_portfolio_are_refused(changes: dict[str, Any], code: str) -> None:
    bars = [tape(BTC, [100] * 6), tape(ETH, [10] * 6)]
    with pytest.raises(InputError) as error:
        run_portfolio(bars, replace(PortfolioSetup((BTC, ETH), HALVES, RULES, DRIFT), **changes))
    assert error.value.code == code
