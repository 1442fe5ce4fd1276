"""The files that `fks strategies new` writes: a whole strategy to change, checked like any other, and its tests."""

from __future__ import annotations

TEMPLATE = '''\
"""{title}: say here what it does and why it should earn money."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from fks.indicators import highest, lowest
from fks.model.bar import Bars
from fks.strategies.base import Decisions, Protected, hold


class {kind}(Protected):
    """Long from a close above the highest high of `entry` bars until one below the lowest low of `leave` bars."""

    name: ClassVar[str] = "{name}"

    # Parameters: fields with a default, a range and a sentence. `--set entry=30` changes one. Protected adds
    # sl_pct and tp_pct, a stop loss and a take profit in percent of the close.
    entry: int = Field(20, ge=2, le=10_000, description="bars whose highest high must be exceeded")
    leave: int = Field(10, ge=2, le=10_000, description="bars whose lowest low must hold")

    def warmup(self) -> int:
        """Bars needed before the first decision. Too few is found by the check, and refused."""
        return max(self.entry, self.leave) + 1

    def decide(self, bars: Bars) -> Decisions:
        """The wanted position at the close of every bar: 1 long, 0 flat, -1 short.

        Columns: bars.open, high, low, close, volume (float64) and time_ns. Row i may only use rows 0..i: shift a
        window by one bar, as here, when the bar itself must not be part of it. No clock, no dice, no state.
        """
        top = np.concatenate([[np.nan], highest(bars.high, self.entry)[:-1]])
        bottom = np.concatenate([[np.nan], lowest(bars.low, self.leave)[:-1]])
        # `~(close >= bottom)` is also true while there is no bottom yet (NaN): flat until both are known
        return self.protect(bars, hold(bars.close > top, ~(bars.close >= bottom)))
'''

TEST = '''\
"""Tests of {name}: python -m pytest {file}"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fks.backtest import run
from fks.market.files.sample import sample_tape
from fks.model.bar import Bars
from fks.strategies.base import evaluate
from fks.strategies.check import check_strategy
from fks.strategies.registry import load_catalogue

CATALOGUE = load_catalogue(Path(__file__).resolve().parents[1])
SAMPLE = sample_tape().bars()[:20_000]  # two weeks of real minutes of BTC/USDT, shipped with FKS


def bars_of(closes: list[float]) -> Bars:
    """Return bars of a minute that only have a close: enough to write a rule down as numbers."""
    close = np.array(closes, dtype=np.float64)
    times = np.arange(len(close), dtype=np.int64) * 60_000_000_000
    return Bars("TEST", "1m", times, close, close, close, close, np.ones(len(close)))


def test_it_does_not_look_ahead_and_its_warmup_is_long_enough() -> None:
    for params in ({{}}, {{"entry": 5, "leave": 3}}, {{"sl_pct": 1.0, "tp_pct": 2.0}}):
        assert check_strategy(CATALOGUE.make("{name}", params), [SAMPLE[:3000]]) == []


def test_it_buys_a_new_high_and_sells_a_new_low() -> None:
    strategy = CATALOGUE.make("{name}", {{"entry": 3, "leave": 2}})
    target = evaluate(strategy, bars_of([5, 5, 5, 5, 5, 6, 7, 6, 5, 5])).target
    assert target.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 0, 0]  # a close on the high is no new one


def test_it_trades_on_the_sample() -> None:
    result = run(CATALOGUE.make("{name}"), SAMPLE)
    assert len(result.trades) > 10
    assert result.fills_hash == run(CATALOGUE.make("{name}"), SAMPLE).fills_hash  # the same every time
'''
