"""Fifty strategies that use later bars, and fifty that do not, each with the answer of the check.

`python -m tests.support.cheats` writes docs/look-ahead.md again, with freqtrade's answers as benchmarks/lookahead_peers.py
stored them.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from tempfile import gettempdir
from typing import Any, ClassVar

import numpy as np
from pydantic import ConfigDict, PrivateAttr

from fks.model.bar import Bars, Floats
from fks.model.tape import unpack_tape
from fks.research.backtest.run import check_tape
from fks.strategies.base import Decisions, Strategy, StrategyError
from fks.strategies.check import with_inputs
from fks.strategies.registry import load_catalogue

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "look-ahead.md"
FREQTRADE = ROOT / "tests" / "support" / "freqtrade_lookahead.json"
SAMPLE = ROOT / "fks" / "market" / "files" / "sample_data" / "BTCUSDT-1m.fksbars"
WARMUP = 60
BARS = 6_000
LATE = 4_000  # the first bar on which the late ones act

Rule = Callable[[Bars], Any]


class Ruled(Strategy):
    """A strategy of one rule: an array of the long bars, or decisions."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)
    name: ClassVar[str] = "ruled"
    rule: Rule

    def warmup(self) -> int:
        return WARMUP

    def decide(self, bars: Bars) -> Decisions:
        found = self.rule(bars)
        return found if isinstance(found, Decisions) else Decisions(np.nan_to_num(np.asarray(found, dtype=float)))


class KeptInStrategy(Strategy):
    """Long above the mean of the bars that it was given first, which it keeps."""

    name: ClassVar[str] = "fitted"
    _mean: float | None = PrivateAttr(None)

    def warmup(self) -> int:
        return WARMUP

    def mean(self, bars: Bars) -> float:
        self._mean = float(bars.close.mean()) if self._mean is None else self._mean
        return self._mean

    def decide(self, bars: Bars) -> Decisions:
        return Decisions((bars.close > self.mean(bars)).astype(float))


class KeptInClass(KeptInStrategy):
    """The same mean, in a variable of the class."""

    means: ClassVar[dict[str, float]] = {}

    def mean(self, bars: Bars) -> float:
        return self.means.setdefault(bars.symbol, float(bars.close.mean()))


MEANS: dict[str, float] = {}
MEMORY = Path(gettempdir()) / f"fks-cheat-{os.getpid()}"


class KeptInModule(KeptInStrategy):
    """The same mean, in a variable of the module."""

    def mean(self, bars: Bars) -> float:
        return MEANS.setdefault(bars.symbol, float(bars.close.mean()))


class KeptInFile(KeptInStrategy):
    """The same mean, in a file."""

    def mean(self, bars: Bars) -> float:
        if not MEMORY.exists():
            MEMORY.write_text(repr(float(bars.close.mean())))
        return float(MEMORY.read_text())


# ── helpers: columns of the bars' length ─────────────────────────────────────────────────────────
def ahead(column: Floats, bars: int = 1) -> Floats:
    """Return the column some bars later; the last value at the end. Shape: (n,) -> (n,)."""
    return np.concatenate([column[bars:], np.full(min(bars, len(column)), column[-1])])[: len(column)]


def before(column: Floats, bars: int = 1) -> Floats:
    """Return the column some bars earlier; the first value at the start."""
    return np.concatenate([np.full(min(bars, len(column)), column[0]), column[:-bars]])[: len(column)]


def centred(column: Floats, size: int) -> Floats:
    return np.convolve(column, np.ones(size) / size, mode="same")


def windows(column: Floats, size: int) -> Floats:
    """Return the last `size` values up to each bar, NaN before the first. Shape: (n,) -> (n, size)."""
    padded = np.concatenate([np.full(size - 1, np.nan), column])
    return np.lib.stride_tricks.sliding_window_view(padded, size)


def trailing(column: Floats, size: int, how: Callable[..., Any] = np.mean) -> Floats:
    found: Floats = how(windows(column, size), axis=1)
    return found


def grouped(bars: Bars, seconds: int) -> Any:
    """Return the number of the period that each bar is in."""
    return bars.time_ns // (seconds * 10**9)


def of_period(bars: Bars, column: Floats, seconds: int, how: Callable[[Floats], float]) -> Floats:
    """Return a value of the whole period on each of its bars, the later ones included."""
    _, place = np.unique(grouped(bars, seconds), return_inverse=True)
    return np.array([how(column[place == number]) for number in range(place.max() + 1)])[place]


def last_of_period(bars: Bars, seconds: int) -> Floats:
    """Return the close of the newest period that is over; NaN in the first one."""
    group = grouped(bars, seconds)
    is_first = np.concatenate([[True], group[1:] != group[:-1]])
    number = np.cumsum(is_first) - 1
    closes = np.concatenate([[np.nan], before(bars.close)[is_first][1:]])
    return closes[number]


def smoothed(column: Floats, share: float = 0.1) -> Floats:
    """Return an exponential average from the first value on."""
    found, now = np.empty(len(column)), float(column[0])
    for place, value in enumerate(column.tolist()):
        now += share * (value - now)
        found[place] = now
    return found


def fitted_line(column: Floats, degree: int) -> Floats:
    x = np.linspace(-1.0, 1.0, len(column))
    found: Floats = np.polyval(np.polyfit(x, column, degree), x)
    return found


def low_pass(column: Floats) -> Floats:
    spectrum = np.fft.rfft(column)
    spectrum[len(spectrum) // 20 + 1 :] = 0
    return np.fft.irfft(spectrum, len(column))


def first_barrier(close: Floats, share: float = 0.002, most: int = 50) -> Any:
    """Return whether the price rises by a share before it falls by it, within some bars."""
    found = np.zeros(len(close))
    for place in range(len(close)):
        part = close[place + 1 : place + 1 + most] / close[place] - 1.0
        up, down = (np.flatnonzero(hit)[:1] for hit in (part >= share, part <= -share))
        found[place] = bool(len(up)) and (not len(down) or up[0] < down[0])
    return found


def regression(bars: Bars, labels_known: int, window: int | None) -> Any:
    """Return the forecast of a least-squares fit of the next return on two past ones: on all bars, or at each 50th bar
    on a window of those whose label was known `labels_known` bars before."""
    returns = np.diff(np.log(bars.close), prepend=np.log(bars.close[:1]))
    x = np.column_stack([returns, before(returns), np.ones(len(returns))])
    y = ahead(returns)
    if window is None:
        return x @ np.linalg.lstsq(x, y, rcond=None)[0] > 0
    found = np.zeros(len(y))
    step = 50 * 60 * 10**9  # refits are at fixed times, not at places of the tape
    refits = np.flatnonzero(bars.time_ns // step != before(bars.time_ns // step))
    for place, end in zip(refits, [*refits[1:], len(y)], strict=True):
        known = slice(max(place - labels_known - window + 1, 0), max(place - labels_known + 1, 0))
        if known.stop - known.start == window:
            weights = np.linalg.lstsq(x[known], y[known], rcond=None)[0]
            found[place:end] = x[place:end] @ weights
    return found > 0


def long_with(bars: Bars, **levels: Floats) -> Decisions:
    """Return honest targets with levels that are given."""
    return Decisions((bars.close > trailing(bars.close, 20)).astype(float), **levels)


def is_late(bars: Bars) -> Any:
    return bars.time_ns >= bars.time_ns[0] + LATE * 60 * 10**9


CHEATS: dict[str, Rule] = {
    # later rows
    "close of the next bar": lambda b: ahead(b.close) > b.close,
    "open of the next bar": lambda b: ahead(b.open) > b.close,
    "high of the next bar": lambda b: ahead(b.high) > b.high,
    "low of the next bar": lambda b: ahead(b.low) > b.low,
    "close five bars later": lambda b: ahead(b.close, 5) > b.close,
    "close two hundred bars later": lambda b: ahead(b.close, 200) > b.close,
    "volume of the next bar": lambda b: ahead(b.volume) > b.volume,
    "whether bars are missing next": lambda b: ahead(b.time_ns) - b.time_ns > 60 * 10**9,
    "the next bar, first used after 4,000 bars": lambda b: is_late(b) & (ahead(b.close) > b.close),
    "the next bar, at one price in a thousand": lambda b: (np.round(b.close * 100) % 1000 == 0) & (ahead(b.close) > b.close),
    "the next bar, where the volume is tripled": lambda b: (b.volume > 3 * trailing(b.volume, 50)) & (ahead(b.close) > b.close),
    "best close of the next fifty bars": lambda b: np.maximum.accumulate(b.close[::-1])[::-1] > b.close * 1.002,
    "deepest fall that follows": lambda b: b.close / np.minimum.accumulate(b.low[::-1])[::-1] < 1.001,
    "which barrier is reached first": lambda b: first_barrier(b.close),
    "last close of the tape": lambda b: b.close < b.close[-1],
    "number of bars to the end": lambda b: np.arange(len(b)) < len(b) - 100,
    "length of the tape": lambda b: np.full(len(b), len(b) % 2),
    "return of the whole tape": lambda b: np.full(len(b), b.close[-1] > b.close[0]),
    # windows around the bar
    "centred mean": lambda b: b.close > centred(b.close, 21),
    "centred mean of the volume": lambda b: b.volume > centred(b.volume, 11),
    "central difference": lambda b: np.gradient(b.close) > 0,
    "lowest low of five bars on both sides": lambda b: b.low == np.minimum(trailing(b.low, 6, np.min), trailing(b.low[::-1], 6, np.min)[::-1]),
    "highest high of five bars on both sides": lambda b: b.high == np.maximum(trailing(b.high, 6, np.max), trailing(b.high[::-1], 6, np.max)[::-1]),
    "average backwards": lambda b: b.close < smoothed(b.close[::-1])[::-1],
    "average forwards and backwards": lambda b: b.close < smoothed(smoothed(b.close)[::-1])[::-1],
    "low-pass of all bars": lambda b: b.close < low_pass(b.close),
    # statistics of the whole tape
    "mean of all bars": lambda b: b.close < b.close.mean(),
    "distance from the mean in standard deviations": lambda b: (b.close - b.close.mean()) / b.close.std() < -0.5,
    "range of all bars": lambda b: (b.close - b.low.min()) / (b.high.max() - b.low.min()) < 0.3,
    "rank among all bars": lambda b: np.argsort(np.argsort(b.close)) < len(b) // 3,
    "quantile of the volume": lambda b: b.volume > np.quantile(b.volume, 0.9),
    "median of the range": lambda b: b.high - b.low > np.median(b.high - b.low),
    "hundred best returns": lambda b: np.isin(np.arange(len(b)), np.argsort(np.diff(b.close, append=b.close[-1:]))[-100:]),
    "line through all bars": lambda b: b.close < fitted_line(b.close, 1),
    "parabola through all bars": lambda b: b.close < fitted_line(b.close, 2),
    "mean of its hour of the day over all days": lambda b: of_period(b, b.close, 3600, np.mean) > b.close,
    "regression fitted on all bars": lambda b: regression(b, 1, None),
    "regression with the label of the present bar": lambda b: regression(b, 0, 9),
    # periods that are not over
    "close of the hour that the bar is in": lambda b: of_period(b, b.close, 3600, lambda c: c[-1]) > b.close,
    "high of the day that the bar is in": lambda b: of_period(b, b.high, 86_400, np.max) > b.close * 1.01,
    "volume-weighted price of the whole session": lambda b: of_period(b, b.close * b.volume, 86_400, np.sum) / of_period(b, b.volume, 86_400, np.sum) > b.close,
    "values filled backwards": lambda b: ahead(np.where(np.arange(len(b)) % 7, np.roll(b.close, -1), b.close), 1) > b.close,
    # prices of orders
    "stop loss under the next low": lambda b: long_with(b, stop_loss=ahead(b.low) * 0.999),
    "take profit at the next high": lambda b: long_with(b, take_profit=np.maximum(ahead(b.high), b.close * 1.0001)),
    "limit of the entry at the next low": lambda b: long_with(b, entry_limit=ahead(b.low)),
    "trailing distance by the coming range": lambda b: long_with(b, trail=ahead(b.high, 3) - ahead(b.low, 3) + 0.01),
}  # fmt: skip
KEPT: dict[str, type[Strategy]] = {
    "mean of the first call, kept in the strategy": KeptInStrategy,
    "mean of the first call, kept in its class": KeptInClass,
    "mean of the first call, kept in its module": KeptInModule,
    "mean of the first call, kept in a file": KeptInFile,
}
HONEST: dict[str, Rule] = {
    "last close against the one before": lambda b: b.close > before(b.close),
    "close of twenty bars ago": lambda b: b.close > before(b.close, 20),
    "trailing mean": lambda b: b.close > trailing(b.close, 20),
    "trailing median": lambda b: b.close > trailing(b.close, 21, np.median),
    "trailing distance in standard deviations": lambda b: b.close < trailing(b.close, 30) - trailing(b.close, 30, np.std),
    "trailing range": lambda b: b.close > (trailing(b.low, 40, np.min) + trailing(b.high, 40, np.max)) / 2,
    "trailing rank": lambda b: (windows(b.close, 30) < b.close[:, None]).sum(axis=1) > 20,
    "trailing quantile of the volume": lambda b: b.volume > np.quantile(windows(b.volume, 40), 0.9, axis=1),
    "breakout of the last fifty highs": lambda b: b.close >= trailing(before(b.high), 50, np.max),
    "low confirmed five bars later": lambda b: before(b.low, 5) == trailing(b.low, 11, np.min),
    "line through the last thirty bars": lambda b: windows(b.close, 30) @ (np.arange(30) - 14.5) > 0,
    "sum of the last returns": lambda b: trailing(np.diff(b.close, prepend=b.close[:1]), 12, np.sum) > 0,
    "close of the last whole hour": lambda b: b.close > last_of_period(b, 900),
    "hour of the day": lambda b: b.time_ns // (3600 * 10**9) % 24 >= 12,
    "regression on past labels": lambda b: regression(b, 1, 9),
    "stop loss and target from the bar": lambda b: long_with(b, stop_loss=b.low * 0.99, take_profit=b.close * 1.02),
    "limit at the last low": lambda b: long_with(b, entry_limit=b.low),
    "trailing distance by the last range": lambda b: long_with(b, trail=trailing(b.high, 14, np.max) - trailing(b.low, 14, np.min) + 0.01),
}  # fmt: skip


def honest() -> Iterator[tuple[str, Strategy]]:
    """Yield honest strategies by name: rules of their own, and built-in ones, plain and with protections."""
    catalogue = load_catalogue()
    for name, rule in HONEST.items():
        yield name, Ruled(rule=rule)
    for text, params in (
        ("", {}),
        (", stop and target", {"sl_pct": 0.5, "tp_pct": 1.0}),
        (", trailing", {"trail_pct": 0.5}),
    ):
        for name, entry in sorted(catalogue.entries.items()):
            if (
                entry.kind is not None
                and set(params) <= set(entry.kind.model_fields)
                and (name != "grid" or not params)
            ):
                yield f"`{name}`{text}", catalogue.make(name, params)


def cheats() -> Iterator[tuple[str, Strategy]]:
    """Yield fifty strategies that use later bars."""
    for name, rule in CHEATS.items():
        yield name, Ruled(rule=rule)
    for name, make in KEPT.items():
        yield name, make()


@cache
def tape() -> Bars:
    """Return bars of the shipped sample, a few of them missing."""
    bars = unpack_tape(SAMPLE.read_bytes()).bars()[:BARS]
    kept = np.random.default_rng(7).random(len(bars)) > 0.01
    columns = (getattr(bars, name)[kept] for name in ("time_ns", "open", "high", "low", "close", "volume"))
    return Bars(bars.symbol, bars.timeframe, *columns)


def finding(strategy: Strategy) -> str:
    """Return why the check of a run refuses a strategy, "" when it does not."""
    try:
        check_tape(strategy, with_inputs(strategy, tape()))
    except StrategyError as error:
        return error.message
    finally:
        MEMORY.unlink(missing_ok=True)
    return ""


@cache
def findings() -> tuple[dict[str, str], dict[str, str]]:
    """Return what the check says of each cheat, and of the first fifty honest ones."""
    fair = dict(islice(honest(), 50))
    return {name: finding(one) for name, one in cheats()}, {name: finding(one) for name, one in fair.items()}


def page() -> str:
    """Return the page of the documentation."""
    found, fair = findings()
    stored = json.loads(FREQTRADE.read_text())
    theirs = {name: stored["answers"].get(name, "not run") for name in [*found, *fair]}
    ahead_of, fair_of = (
        ", ".join(f"{count} {text}" for text, count in Counter(theirs[name] for name in names).most_common())
        for names in (found, fair)
    )
    others = "; ".join(f"{name}: {theirs[name]}" for name in fair if theirs[name] in ("refused", "too few trades"))
    caught, passed = sum(map(bool, found.values())), sum(not text for text in fair.values())
    rows = "\n".join(
        f"| {name} | {'refused' if text else 'not noticed'} | {theirs[name]} |" for name, text in found.items()
    )
    return f"""# What the check of a strategy finds

Every run of a backtest and every instance that is added checks its strategy first ([write a strategy](write-a-strategy.md#what-is-checked)): decisions over fewer bars must be the
same as over more. Here are {len(found)} ways to use later bars, each a strategy of its own, and {len(fair)} strategies that use none, on {BARS:,} minutes of the sample. A test makes this page
from them.

**{caught} of {len(found)}** that look ahead are refused, and **{passed} of {len(fair)}** honest ones pass. What is not noticed keeps a value of the first call in a file:
a file of settings looks the same. A result that is [too good](backtest-report.md) is marked all the same.

The last column is `freqtrade lookahead-analysis` of {stored["version"].replace("==", " ")} on the same minutes ({stored["date"]}, `python benchmarks/lookahead_peers.py --names "" --write`), which makes a virtualenv for it.
It repeats a backtest until each of the first 20 entries and exits and compares the columns of the frame; with fewer than 10 trades it gives no answer. Those that look ahead:
{ahead_of}. Honest ones: {fair_of}.

Both decide by the same code: the rise of a target is freqtrade's entry and its end the exit, and targets and levels are columns of the frame. A strategy that writes its averages there, too, shows
freqtrade more. Missing minutes are filled beforehand, as freqtrade does itself: with holes in its file it took honest strategies for biased where a repeated backtest ended at one. It loads a
strategy's file anew for each backtest, so that a variable of a class or module is not kept.

| It uses | FKS | freqtrade |
|---|---|---|
{rows}

The honest ones: {", ".join(fair)}.

Of these freqtrade answers other than "not noticed": {others or "none"}. The translation leaves out positions of several entries (`dca`, `grid`), parts of one (`scale_out`) and two symbols (`pairs`).
"""


if __name__ == "__main__":
    PAGE.write_text(page())
