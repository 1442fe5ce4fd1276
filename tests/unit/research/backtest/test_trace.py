"""A decision shows the indicator columns and the strategy's own variables at its bar."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from fks.indicators import compute
from fks.model.bar import Bars
from fks.research.backtest.trace import answer_to, request_of, trace
from fks.strategies.base import Decisions, Strategy
from fks.strategies.check import with_inputs
from fks.strategies.registry import load_catalogue


def bars(close: list[float]) -> Bars:
    column = np.array(close)
    times = np.arange(len(close), dtype=np.int64) * 60_000_000_000
    return Bars("BTCUSDT", "1m", times, column, column + 1, column - 1, column, np.ones(len(close)))


def test_indicators_and_variables_are_seen_with_their_parameters() -> None:
    strategy = load_catalogue().make("rsi", {"period": 2})
    falling = bars([100.0 + i for i in range(40)] + [60.0])
    found = trace(strategy, falling)
    assert (found.warmup, found.bars, found.target_before, found.target) == (32, 41, 0.0, 1.0)
    by_name = {value.name: value for value in found.values}
    assert by_name["rsi"].params == {"period": 2.0}
    assert by_name["rsi"].now == by_name["value"].now
    assert by_name["rsi"].now is not None
    assert by_name["rsi"].now < 30 < (by_name["rsi"].before or 0)


def test_indicators_of_the_registry_are_seen_by_their_own_names() -> None:
    class Stochastic(Strategy):
        name: ClassVar[str] = "stochastic"

        def warmup(self) -> int:
            return 8

        def decide(self, bars: Bars) -> Decisions:
            slow = compute("stoch", bars, fastk_period=6)["slowk"] > compute("wma", bars, period=3)["wma"]
            return Decisions(slow.astype(float))

    found = {value.name: value for value in trace(Stochastic(), bars([100.0 + i % 7 for i in range(40)])).values}
    assert {"stoch.slowk", "stoch.slowd", "wma"} <= found.keys()
    assert found["stoch.slowk"].params["fastk_period"] == 6
    assert found["wma"].params == {"period": 3}


@pytest.mark.parametrize("name", [name for name, entry in load_catalogue().entries.items() if not entry.error])
def test_every_strategy_can_be_traced_and_decides_as_it_does(name: str) -> None:
    strategy = load_catalogue().make(name)
    steps = np.random.default_rng(7).normal(0, 1, strategy.warmup() + 50).cumsum()
    some = with_inputs(strategy, bars(list(1000 + np.round(steps, 2))))
    found = trace(strategy, some)
    assert found.target in range(-strategy.entries_max(), strategy.entries_max() + 1)
    assert found.bars == len(some)
    assert found.values or name == "buy_and_hold"


def test_a_request_goes_through_a_pipe_and_errors_come_back(tmp_path: Path) -> None:
    some = bars([100.0] * 60)
    good = answer_to(request_of("sma_cross", {"fast": 2, "slow": 5}, some, None))
    assert (good["target"], good["warmup"]) == (0.0, 5)
    assert {value["name"] for value in good["values"]} >= {"sma", "cross_side", "side"}
    assert "nonsense" in answer_to(request_of("nonsense", {}, some, None))["error"]
    (tmp_path / "bad.py").write_text(
        "from fks.strategies.base import Strategy\n\n\nclass Bad(Strategy):\n    name = 'bad'\n\n"
        "    def warmup(self):\n        return 1\n\n    def decide(self, bars):\n        raise OSError('no')\n"
    )
    assert "OSError: no" in answer_to(request_of("bad", {}, some, tmp_path))["error"]


def test_during_the_warm_up_nothing_is_wanted() -> None:
    found = trace(load_catalogue().make("sma_cross", {"fast": 2, "slow": 50}), bars([1.0, 2.0, 3.0]))
    assert (found.target, found.values) == (0.0, ())
