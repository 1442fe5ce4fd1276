"""Markets without anything to find and strategies without skill, where a search finds chance; and one of each with some."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import ClassVar

import numpy as np
from pydantic import Field

from fks.model.bar import Bars
from fks.model.instrument import Instrument
from fks.model.timeframe import NS, TIMEFRAMES
from fks.research.backtest import Setup
from fks.research.backtest.limits import UNLIMITED
from fks.research.backtest.metrics import moments
from fks.research.search import (
    backtest_overfitting,
    block_sums,
    deflated_sharpe,
    probabilistic_sharpe,
)
from fks.research.search.overfitting import sharpe
from fks.strategies.base import Decisions, Strategy
from fks.trading.matching import CostModel
from tests.support.strategies import START_NS

PASS = 0.95
COIN = Instrument(
    "binance",
    "LUCKUSDT",
    "CHANCE",
    "USDT",
    Decimal("0.01"),
    Decimal("0.00001"),
    Decimal("0.00001"),
    Decimal(9000),
    Decimal(5),
)


class Coin(Strategy):
    """Long or flat by a seeded coin, thrown once every `hold` bars."""

    name: ClassVar[str] = "coin"
    seed: int = Field(1, ge=0, le=1_000_000)
    hold: int = Field(5, ge=1, le=1000)

    def warmup(self) -> int:
        return 1

    def decide(self, bars: Bars) -> Decisions:
        count = len(bars)
        throws = np.random.Generator(np.random.PCG64(self.seed)).integers(0, 2, size=count // self.hold + 1)
        return Decisions(np.repeat(throws, self.hold)[:count].astype(np.float64))


def walk(count: int, seed: int, *, timeframe: str = "1h", step: float = 0.005) -> Bars:
    """Return a random walk of the price's logarithm without drift: nothing in it can be predicted."""
    dice = np.random.Generator(np.random.PCG64(seed))
    close = np.round(100.0 * np.exp(np.cumsum(dice.normal(-(step**2) / 2, step, count))), 2)
    open_ = np.concatenate([[100.0], close[:-1]])
    times = START_NS + np.arange(count, dtype=np.int64) * TIMEFRAMES[timeframe] * NS
    return Bars(
        "LUCKUSDT", timeframe, times, open_, np.maximum(open_, close), np.minimum(open_, close), close, np.ones(count)
    )


class Tide(Strategy):
    """Long in the first `share` of each day of a tape whose price rises in its first half: 0.5 is right."""

    name: ClassVar[str] = "tide"
    share: float = Field(0.1, gt=0, lt=1)

    def warmup(self) -> int:
        return 1

    def decide(self, bars: Bars) -> Decisions:
        hour = (bars.time_ns // 3_600_000_000_000 + 1) % 24
        return Decisions((hour < 24 * self.share).astype(np.float64))


def tidal(count: int) -> Bars:
    plain = walk(count, seed=9, step=0.001)
    hour = (plain.time_ns // 3_600_000_000_000) % 24
    moves = np.where(hour < 12, 0.002, -0.002) + np.diff(np.log(plain.close), prepend=np.log(100.0))
    close = np.round(100.0 * np.exp(np.cumsum(moves)), 2)
    open_ = np.concatenate([[100.0], close[:-1]])
    high, low = np.maximum(open_, close), np.minimum(open_, close)
    return Bars(plain.symbol, "1h", plain.time_ns, open_, high, low, close, np.ones(count))


def free_setup(**changes: object) -> Setup:
    """Return a setup without fees and limits: costs would make a strategy without skill a losing one, which is easier
    to see through."""
    return Setup(COIN, CostModel(Decimal(0), "quote"), limits=UNLIMITED, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Passed:
    """Shares of experiments that pass a test at a nominal 5 %."""

    experiments: int
    trials: int
    naive: float  # the best trial's probabilistic Sharpe ratio against 0
    deflated: float  # against the number of trials
    held_out: float  # against 0, on returns that did not choose it
    pbo: float  # mean over the experiments that compute it


def passes_without_skill(experiments: int, trials: int, *, periods: int = 500, seed: int = 1, pbo: int = 0) -> Passed:
    """Return how often the best of `trials` strategies without skill passes, over many independent markets.

    Each experiment draws daily returns of `trials` strategies (independent, no mean, fat tails: Student's t with 5
    degrees of freedom), takes the one with the best Sharpe ratio and tests it. Half as many further days are held out.
    """
    dice = np.random.Generator(np.random.PCG64(seed))
    naive = deflated = held = 0
    found = []
    for number in range(experiments):
        returns = 0.01 * dice.standard_t(5, size=(trials, periods + periods // 2))
        inside, outside = returns[:, :periods], returns[:, periods:]
        ratios = inside.mean(axis=1) / inside.std(axis=1, ddof=1)
        best = int(ratios.argmax())
        skew, kurtosis = moments(inside[best])
        variance = float(ratios.var(ddof=1)) if trials > 1 else 0.0
        observed = float(ratios[best])
        naive += probabilistic_sharpe(observed, periods, skew=skew, kurtosis=kurtosis) >= PASS
        deflated += (
            deflated_sharpe(observed, periods, trials=trials, variance=variance, skew=skew, kurtosis=kurtosis) >= PASS
        )
        later, shape = sharpe(outside[best]), moments(outside[best])
        assert later is not None
        held += probabilistic_sharpe(later, outside.shape[1], skew=shape[0], kurtosis=shape[1]) >= PASS
        if number < pbo and trials > 1:
            crossed = backtest_overfitting(np.stack([block_sums(row, 10) for row in inside]))
            assert crossed is not None
            found.append(crossed.pbo)
    share = 1.0 / experiments
    return Passed(
        experiments,
        trials,
        naive * share,
        deflated * share,
        held * share,
        float(np.mean(found)) if found else float("nan"),
    )
