"""A run on a continuous future trades the contract of each day: every fill is a price of it, also at the rolls."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from fks.market.bars.columns import aggregate_bars
from fks.model.bar import Bars
from fks.model.errors import InputError
from fks.model.futures import continuous, instrument_of_symbol
from fks.model.timeframe import NS, to_ns
from fks.research.backtest import Member, Result, Setup, resample
from fks.research.backtest.limits import UNLIMITED
from fks.research.backtest.metrics import metrics_of
from fks.research.backtest.report import document_of
from fks.research.backtest.series import benchmark_of
from fks.research.backtest.statistics import statistics_of
from fks.strategies.base import Decisions, decide
from fks.strategies.registry import load_catalogue
from fks.trading.matching import Commission, CostModel, Slippage
from tests.support.backtests import run, run_account
from tests.support.given import Given

D = Decimal
NAN = float("nan")
START = to_ns(datetime(2025, 3, 10, 15, tzinfo=UTC))
GAP = 52.5
ITEM = instrument_of_symbol("cme", "ES 06-25")


class Scripted(Given):
    """Decisions as they are given, counted from the first bar: the strategy is asked for parts of the tape."""

    def decide(self, bars: Bars) -> Decisions:
        given = {name: values[: len(bars)] for name, values in self if isinstance(values, tuple)}
        return Given.decide(self.model_copy(update=given), bars)


def contract(symbol: str, base: float, volume: list[float]) -> Bars:
    """Return a bar for each of eight days: it opens at `base`, and ends one higher than the day before."""
    close = base + np.arange(1.0, 9.0)
    times = START + np.array([0, 1, 2, 3, 4, 7, 8, 9], dtype=np.int64) * 86_400 * NS
    columns = (close - 1, close + 2, close - 3, close, np.array(volume, dtype=float))
    return Bars(symbol, "1d", times, *columns, calendar="24/7")


def future(adjust: Any = "none") -> Bars:
    """Return ES: June trades more on the fourth day, so that the fifth is its first."""
    march = contract("ES 03-25", 5600.0, [100] * 8)
    june = contract("ES 06-25", 5600.0 + GAP, [1, 1, 1, 200, 200, 200, 200, 200])
    return continuous("ES ##-##", [march, june], adjust=adjust).bars


def setup(**changes: Any) -> Setup:
    assert ITEM is not None
    costs = CostModel(D(0), "quote", slippage=Slippage.parse("1 ticks"), commission=Commission.parse("2.25 each"))
    return replace(Setup(ITEM, costs, "quantity", D(2), D(10**6), True, True, UNLIMITED), **changes)


def rows(result: Result) -> list[tuple[int, str, str]]:
    days = [int((fill.time_ns - START) // (86_400 * NS)) for fill in result.fills]
    return [(day, fill.side.value, str(fill.price)) for day, fill in zip(days, result.fills, strict=True)]


def test_a_position_is_rolled_by_two_fills_at_prices_of_their_contracts() -> None:
    result = run(Scripted(target=(1.0,) * 6 + (0.0,) * 2), future(), setup())
    assert rows(result) == [
        (1, "buy", "5601.25"),  # March at its open, and a tick
        (4, "sell", "5603.75"),  # March at the last close of both, and a tick
        (4, "buy", "5656.75"),  # June at the same time
        (9, "sell", "5659.25"),
    ]
    # twice 2.5 points of 50 USD on 2 contracts, and 2.25 USD for each contract of four fills
    assert result.cash == 10**6 + 2 * D("2.5") * 100 - 8 * D("2.25")
    plain = run(Scripted(target=(1.0,) * 6 + (0.0,) * 2), contract("ES 03-25", 5600.0, [1] * 8), setup())
    assert plain.cash - result.cash == D("59.00"), "the cost of a roll: 2 x 2 x (2.25 + 0.25 x 50)"
    assert [trade.pnl for trade in result.trades] == [241, 241]
    assert document_of(result)["rolls"] == [
        {
            "time": "2025-03-14T15:00:00Z",
            "old": "ES 03-25",
            "new": "ES 06-25",
            "old_price": 5604.0,
            "new_price": 5656.5,
        }
    ]
    assert result.engine.name == "reference"


def test_the_gap_of_a_roll_moves_neither_equity_nor_benchmark() -> None:
    free = replace(setup(), costs=CostModel(D(0), "quote"))
    result = run(Scripted(target=(1.0,) * 8), future(), free)
    assert np.diff(result.equity)[1:].tolist() == [100.0] * 6, "a point a day of 2 contracts"
    assert benchmark_of(result)[-1] == pytest.approx(10**6 * (1 + 8 / 5600.0))
    nothing = run(Scripted(target=(0.0,) * 8), future(), free)
    assert (nothing.fills, nothing.cash) == ((), 10**6)


def test_the_gap_of_a_roll_is_no_return_of_buy_and_hold() -> None:
    result = run(Scripted(target=(1.0,) * 8), future(), setup())
    points = 100 * 8 / 5600.0  # eight days of a point
    assert metrics_of(result).benchmark_return_pct == pytest.approx(points)
    assert statistics_of(result).buy_and_hold_pct == pytest.approx(points)


def test_the_gap_of_a_roll_is_no_volatility_of_a_sizing() -> None:
    strategy = Scripted(target=(0.0,) * 5 + (1.0,) * 3)
    by_range = setup(sizing="atr_pct:3", size=D("0.02"), cash=D(10**8))
    rolled, plain = (run(strategy, future(adjust), by_range).fills for adjust in ("none", "difference"))
    assert [fill.quantity for fill in rolled] == [fill.quantity for fill in plain] != []


def test_bars_of_a_continuous_future_are_not_resampled() -> None:
    for larger in (resample, aggregate_bars):
        with pytest.raises(InputError) as raised:
            larger(future(), "1w")
        assert raised.value.code == "CONTINUOUS_INPUT"
    assert resample(future(), "1d").rolls == future().rolls


def test_a_stop_loss_moves_by_the_gap_of_a_roll() -> None:
    bars = future()
    low = bars.low.copy()
    low[6] = 5650.0  # June falls there: to 5597.5 of March
    bars = replace(bars, low=low)
    for stop, price in ((5598.5, "5650.75"), (5597.0, None)):
        stops = (stop,) * 8
        result = run(Scripted(target=(1.0,) * 8, stop=stops), bars, setup())
        assert [row[2] for row in rows(result)[3:]] == ([price] if price else []), stop
    short = run(Scripted(target=(-1.0,) * 8, stop=(5610.0,) * 8), bars, setup())
    assert rows(short)[3:] == [(9, "buy", "5662.75")], "5610 of March is 5662.5 of June, reached on the last day"


def test_an_entry_decided_before_a_roll_is_denied() -> None:
    result = run(Scripted(target=(0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0)), future(), setup())
    assert [(row.code, row.detail) for row in result.denied] == [
        ("ROLL", "its prices are those of the contract before")
    ]
    assert [row[0] for row in rows(result)] == [9]
    waiting = run(Scripted(target=(1.0,) * 8, entry_limit=(5590.0,) * 8), future(), setup())
    assert waiting.fills == (), "an order that rests ends at the roll"


def test_a_strategy_sees_the_prices_of_the_contract_of_its_decision() -> None:
    bars = future()
    assert np.array_equal(bars.known(4).close, bars.close[:4])
    after = bars.known(6)
    assert np.array_equal(after.close, future("difference").close[:6])
    assert (after.rolls, bars.split_rows) == ((), [4])
    crosses = load_catalogue().make("sma_cross", {"fast": 1, "slow": 2})
    made = decide(crosses, bars)
    assert np.array_equal(made.target, decide(crosses, future("difference")).target)


def test_a_contract_that_is_rolled_over_on_one_day_is_passed_in_order() -> None:
    def traded(symbol: str, base: float, *hours: tuple[int, int, int]) -> Bars:
        times = [to_ns(datetime(2025, month, day, hour, tzinfo=UTC)) for month, day, hour in sorted(hours)]
        price = np.full(len(times), base)
        volume = np.full(len(times), 10.0)
        return Bars(symbol, "1h", np.array(times, dtype=np.int64), *[price] * 4, volume, calendar="24/7")

    march = traded("ES 03-25", 5600.0, *[(3, day, 15) for day in range(3, 15)])
    june = traded("ES 06-25", 5650.0, (3, 3, 15), (6, 16, 16), (6, 16, 17))  # a hole up to the days of its own roll
    september = traded("ES 09-25", 5700.0, (3, 3, 15), *[(6, day, hour) for day in (16, 17) for hour in (15, 16, 17)])
    bars = continuous("ES ##-##", [march, june, september], adjust="none").bars
    times = [roll.time_ns for roll in bars.rolls]
    assert times == [to_ns(datetime(2025, 6, 16, 16, tzinfo=UTC))] * 2
    assert bars.close[bars.time_ns >= times[0]].tolist() == [5700.0] * 5
    result = run(Scripted(target=(1.0,) * len(bars)), bars, setup(costs=CostModel(D(0), "quote"), allow_gaps=True))
    assert [str(fill.price) for fill in result.fills] == ["5600.00", "5600.00", "5650.00", "5650.00", "5700.00"]
    assert set(result.equity.tolist()) == {10.0**6}


def test_rolls_are_part_of_the_fingerprint() -> None:
    bars, strategy = future(), Scripted(target=(1.0,) * 8)
    other = replace(bars, rolls=(replace(bars.rolls[0], new_price=5657.0),))
    found = {run(strategy, part, setup()).inputs_hash for part in (bars, other, replace(bars, rolls=()))}
    assert len(found) == 3


def test_a_continuous_future_is_refused_where_it_is_not_rolled() -> None:
    bars = future()
    with pytest.raises(InputError) as raised:
        run_account([Member(Scripted(target=(1.0,) * 8), bars, setup())])
    assert raised.value.code == "CONTINUOUS_ACCOUNT"
    with pytest.raises(InputError) as raised:
        contract("NQ 06-25", 20_000, [1] * 8).joined({"ES": bars})
    assert raised.value.code == "CONTINUOUS_INPUT"
    low = replace(bars, rolls=(replace(bars.rolls[0], old_price=9000.0, new_price=1.0),))
    with pytest.raises(InputError) as raised:
        run(Scripted(target=(1.0,) * 8), low, setup())
    assert raised.value.code == "CONTINUOUS_NEGATIVE"
