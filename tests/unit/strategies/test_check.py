"""The check at load: what looks ahead or needs more history than it declares is refused, with the bar shown."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import PrivateAttr

from fks.indicators import ema
from fks.model.bar import Bars
from fks.model.timeframe import NS
from fks.strategies.base import (
    BarStrategy,
    Context,
    Decisions,
    Protected,
    Strategy,
    StrategyError,
    ensure_prices,
    evaluate,
)
from fks.strategies.check import check_strategy, ensure_causal, ensure_checked, synthetic
from fks.strategies.registry import load_catalogue

BUILTIN = ("bollinger", "buy_and_hold", "ema_cross", "macd", "rsi", "sma_cross")


class Made(Strategy):
    """A strategy around a function of the columns."""

    name: ClassVar[str] = "made"
    how: Any
    bars: int = 1

    def warmup(self) -> int:
        return self.bars

    def decide(self, bars: Bars) -> Decisions:
        found = self.how(bars)
        return found if isinstance(found, Decisions) else Decisions(np.asarray(found, dtype=float))


LOOKING_AHEAD = {
    "the next bar": lambda b: np.append(b.close[1:], b.close[-1:]) > b.close,
    "the bar after the next": lambda b: np.append(b.close[2:], [0.0, 0.0]) > b.close,
    "a mean over everything": lambda b: b.close > b.close.mean(),
    "a maximum over everything": lambda b: b.close > 0.97 * b.close.max(),
    "the last bar": lambda b: np.full(len(b), b.close[-1] > b.close[0]),
    "the number of bars": lambda b: np.arange(len(b)) > len(b) - 5,
    "a later bar's stop": lambda b: Decisions(np.ones(len(b)), stop_loss=np.full(len(b), b.close.min() - 1.0)),
    "filling holes backwards": lambda b: np.where(np.arange(len(b)) % 2, 0, np.append((b.close[1:] > b.open[1:]), [0])),
}


@pytest.mark.parametrize("how", LOOKING_AHEAD.values(), ids=list(LOOKING_AHEAD))
def test_looking_ahead_is_caught(how: Any) -> None:
    (finding,) = check_strategy(Made(how=how))
    assert finding.check == "lookahead"
    assert 0 <= finding.index < 600
    assert finding.seen != finding.expected


def _late(bars: Bars) -> np.ndarray:
    """Return the sign of the next bar from bar 4,000 on."""
    ahead = np.append(bars.close[1:], bars.close[-1:]) > bars.close
    return np.where(np.arange(len(bars)) < 4_000, False, ahead)


def _dear(bars: Bars) -> np.ndarray:
    """Return the sign of the next bar where a price is above every one of the synthetic tapes'."""
    ahead = np.append(bars.close[1:], bars.close[-1:]) > bars.close
    return ahead & (bars.close > 1_000.0)


class Scaled(Strategy):
    """Long above the mean of all bars that it was first given, which it keeps."""

    name: ClassVar[str] = "scaled"
    _mean: float | None = PrivateAttr(None)

    def warmup(self) -> int:
        return 1

    def decide(self, bars: Bars) -> Decisions:
        if self._mean is None:
            self._mean = float(bars.close.mean())
        return Decisions((bars.close > self._mean).astype(float))


def test_looking_ahead_late_on_a_tape_is_caught_there() -> None:
    tape = synthetic(12_000)
    dear = replace(tape, **{name: getattr(tape, name) * 50 for name in ("open", "high", "low", "close")})
    for how, bars in ((_late, tape), (_dear, dear)):
        strategy = Made(how=how)
        ensure_checked(strategy, [tape[:3000]])
        with pytest.raises(StrategyError, match="looks ahead") as caught:
            ensure_causal(strategy, bars)
        assert caught.value.code == "STRATEGY_REFUSED"


@pytest.mark.parametrize("is_used", [False, True])
def test_bound_of_later_prices_in_the_ticks_is_caught(is_used: bool) -> None:
    """A run keeps the ticks of its bars, with their bounds: a part of them has its own."""
    tape = synthetic(12_000)
    later = np.arange(len(tape)) >= 9_000
    tape = replace(tape, high=np.where(later, tape.high * 2, tape.high))
    if is_used:
        assert tape.ticks.most
    for at in (lambda b: np.arange(len(b)) > 6_000, lambda b: b.close > b.open):  # once, and all the time
        strategy = Made(how=lambda b, at=at: at(b) & (b.ticks.close * 3 < b.ticks.most * 2))
        with pytest.raises(StrategyError, match="looks ahead"):
            ensure_causal(strategy, tape)


def test_look_ahead_of_a_rule_that_seldom_acts_is_caught() -> None:
    """Two entries in 60,000 bars, each above the mean of them all: bars between them show nothing."""

    def seldom(bars: Bars) -> np.ndarray:
        is_due = bars.time_ns // (60 * NS) % 20_000 < 3
        return is_due & (bars.close > bars.close.mean() + 0.5 * bars.close.std())

    tape = synthetic(60_000)
    assert np.count_nonzero(np.diff(seldom(tape))) == 4
    with pytest.raises(StrategyError, match="looks ahead"):
        ensure_causal(Made(how=seldom), tape)


def test_rules_of_few_bars_are_asked_about_few_bars() -> None:
    """All bars once, then some hundred bars at each place; a rule of all bars before is asked about as
    many parts as there are places."""
    tape, asked = synthetic(60_000), list[int]()

    def counted(bars: Bars) -> np.ndarray:
        asked.append(len(bars))
        return np.append(False, bars.close[1:] > bars.close[:-1])

    ensure_causal(Made(how=counted), tape)
    assert len(asked) > 25
    assert sum(asked) < len(tape) + len(asked) * 300
    few = sum(asked)
    asked.clear()

    def mean(bars: Bars) -> np.ndarray:
        asked.append(len(bars))
        return bars.close > np.cumsum(bars.close) / np.arange(1, len(bars) + 1)

    ensure_causal(Made(how=mean), tape)
    assert sum(asked) > 4 * few


def test_a_window_that_cannot_be_decided_shows_nothing() -> None:
    """A window without the first bar shows nothing: neither a refusal nor that no later bar was used."""
    tape = synthetic(12_000)

    def whole_only(bars: Bars) -> np.ndarray:
        assert bars.time_ns[0] == tape.time_ns[0]
        return np.append(False, bars.close[1:] > bars.close[:-1])

    ensure_causal(Made(how=whole_only), tape)
    with pytest.raises(StrategyError, match="looks ahead"):
        ensure_causal(Made(how=lambda bars: whole_only(bars) & (bars.close > bars.close.mean())), tape)


def test_what_is_fitted_to_the_first_bars_and_kept_is_caught() -> None:
    class Local(Scaled):
        """A class that cannot be made again from its file."""

        name: ClassVar[str] = "local"

    for strategy in (Scaled(), Local()):
        (finding,) = check_strategy(strategy)
        assert finding.check == "lookahead"


def test_indicators_of_a_method_per_bar_are_compared_over_the_whole_tape() -> None:
    class Peeks(BarStrategy):
        name: ClassVar[str] = "peeks"

        def warmup(self) -> int:
            return 1

        def indicators(self, bars: Bars) -> dict[str, Any]:
            return {"up": _late(bars).astype(float)}

        def on_bar(self, ctx: Context, bar: Any) -> None:
            ctx.buy() if bar.up else ctx.close()

    with pytest.raises(StrategyError, match=r"looks ahead.* up is"):
        ensure_causal(Peeks(), synthetic(9_000))


@pytest.mark.parametrize("name", BUILTIN)
def test_built_in_strategies_pass_on_a_whole_tape(name: str) -> None:
    ensure_causal(load_catalogue().make(name), synthetic(9_000))


SHORT_OF_HISTORY = {
    "an EMA with a short warm-up": (lambda b: b.close > np.nan_to_num(ema(b.close, 200)), 200),
    "the very first price": (lambda b: b.close > b.close[0], 5),
    "a running maximum": (lambda b: b.close >= np.maximum.accumulate(b.close), 50),
    "the bar's number": (lambda b: np.arange(len(b)) % 7 < 3, 10),
}


@pytest.mark.parametrize(("how", "bars"), SHORT_OF_HISTORY.values(), ids=list(SHORT_OF_HISTORY))
def test_a_short_warmup_is_caught(how: Any, bars: int) -> None:
    (finding,) = check_strategy(Made(how=how, bars=bars))
    assert finding.check == "warmup"


def test_the_refusal_shows_bar_time_and_both_values() -> None:
    with pytest.raises(StrategyError) as caught:
        ensure_checked(Made(how=LOOKING_AHEAD["the next bar"]))
    assert caught.value.code == "STRATEGY_REFUSED"
    assert "looks ahead" in caught.value.message
    assert "at bar 1 (2026-01-01T00:01:00Z) of the SYNTHETIC tape target is" in caught.value.message


@pytest.mark.parametrize("name", BUILTIN)
def test_built_in_strategies_pass_on_synthetic_bars_quickly(name: str) -> None:
    strategy = load_catalogue().make(name)
    check_strategy(strategy)
    start = time.process_time()
    assert check_strategy(strategy) == []
    assert time.process_time() - start < 0.1
    assert len(np.unique(evaluate(strategy, synthetic(4000)).target)) > 1 or name == "buy_and_hold"  # the tape moves it


@given(st.data())
@settings(max_examples=settings.default.max_examples // 2)
def test_built_in_strategies_pass_with_any_parameters(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([n for n in BUILTIN if n != "buy_and_hold"]))
    fast = data.draw(st.integers(2, 40))
    slow = fast + data.draw(st.integers(1, 60))
    params: dict[str, Any] = {
        "sma_cross": {"fast": fast, "slow": slow},
        "ema_cross": {"fast": fast, "slow": slow},
        "macd": {"fast": fast, "slow": slow, "signal": data.draw(st.integers(2, 20))},
        "rsi": {"period": fast},
        "bollinger": {"period": slow, "deviations": data.draw(st.sampled_from([0.5, 1.0, 2.5]))},
    }[name]
    params |= {"short": data.draw(st.booleans()), "sl_pct": data.draw(st.sampled_from([None, 0.5, 3.0]))}
    assert check_strategy(load_catalogue().make(name, params)) == []


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            lambda b: np.full(len(b), 0.5),
            r"target is 0.5 at bar 1 \(2026-01-01T00:01:00Z\); it may be -1, 0 or 1; correct decide\(\) in test_check.py",
        ),
        (lambda b: np.full(len(b), np.nan), r"target is nan at bar 1 \(2026-01-01T00:01:00Z\)"),
        (lambda b: np.zeros(3), r"target has shape \(3,\) for 50 bars"),
        (lambda b: Decisions(np.zeros(len(b)), stop_loss=np.zeros(2)), r"stop_loss has shape \(2,\)"),
    ],
)
def test_a_broken_answer_names_the_bar(how: Any, message: str) -> None:
    with pytest.raises(StrategyError, match=message):
        evaluate(Made(how=how), synthetic(50))


def test_a_strategy_cannot_change_the_bars() -> None:
    def how(bars: Bars) -> Any:
        bars.close[0] = 1.0
        return np.zeros(len(bars))

    bars = synthetic(50)
    with pytest.raises(
        StrategyError, match=r"raised ValueError: .*read-only; correct test_check\.py line \d+: `bars\.c"
    ):
        evaluate(Made(how=how), bars)
    bars.close[0] = 1.0  # the caller still may


def test_a_protection_is_read_only_where_the_target_enters() -> None:
    def how(bars: Bars) -> Decisions:
        stop = np.full(len(bars), -1.0)
        stop[5] = 3.0
        return Decisions((np.arange(len(bars)) >= 5).astype(float), stop_loss=stop)

    bars = synthetic(50)
    ensure_prices(Made(how=how), bars, evaluate(Made(how=how), bars))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            lambda b: Decisions(np.ones(len(b)), stop_loss=np.full(len(b), -3.5)),
            r"stop_loss is -3.5 at bar 1 \(2026-01-01T00:01:00Z\), where it enters; it may be a price above 0, or NaN",
        ),
        (lambda b: Decisions(np.ones(len(b)), take_profit=np.zeros(len(b))), "take_profit is 0 at bar 1 "),
        (lambda b: Decisions(np.ones(len(b)), trail=np.zeros(len(b))), "trail is 0 at bar 1 "),
        (
            lambda b: Decisions(np.ones(len(b)), stop_loss=b.close * 0.9, stop_move=np.zeros(len(b))),
            r"stop_move is 0 at bar 2 \(.*\), where it holds; it may be a price above 0, or NaN",
        ),
    ],
)
def test_a_protection_that_is_no_price_is_refused(how: Any, message: str) -> None:
    with pytest.raises(StrategyError, match=message):
        check_strategy(Made(how=how))


def test_what_is_no_decision_at_all_is_named() -> None:
    class Wrong(Made):
        def decide(self, bars: Bars) -> Decisions:
            return None  # type: ignore[return-value]

    with pytest.raises(StrategyError, match="returned NoneType, not Decisions"):
        evaluate(Wrong(how=None), synthetic(50))


def test_nothing_is_decided_during_warmup_or_without_enough_bars() -> None:
    strategy = Made(how=lambda b: np.ones(len(b)), bars=10)
    assert evaluate(strategy, synthetic(50)).target[:11].tolist() == [0.0] * 10 + [1.0]
    assert evaluate(strategy, synthetic(10)).target.tolist() == [0.0] * 10
    assert evaluate(strategy, synthetic(1)[:0]).target.tolist() == []


def test_protections_are_percent_of_the_close_and_mirror_for_shorts() -> None:
    class Sides(Protected):
        name: ClassVar[str] = "sides"

        def warmup(self) -> int:
            return 0

        def decide(self, bars: Bars) -> Decisions:
            return self.protect(bars, np.array([1.0, -1.0, 0.0]))

    bars = synthetic(3)
    found = Sides(sl_pct=2.0, tp_pct=4.0).decide(bars)
    assert found.stop_loss is not None
    assert found.take_profit is not None
    assert np.allclose(found.stop_loss[:2], bars.close[:2] * [0.98, 1.02])
    assert np.allclose(found.take_profit[:2], bars.close[:2] * [1.04, 0.96])
    assert np.isnan([found.stop_loss[2], found.take_profit[2]]).all()
