"""Check of a strategy by prefixes: it uses no later bar, and its declared warm-up suffices.

**No look-ahead.** For many k the decisions over the first k bars must equal the first k decisions over all bars. The k
are the edges (right after the warm-up, the end), every place where the target changes, and random ones. Each of them
is asked of a copy of the strategy that has seen no bar: a value fitted to the first bars it is given, and kept, shows.
Two of them are asked of one that is made again from its source file: what its class or module keeps shows.
`ensure_causal` does the same at 20 places all over the tape of a run: a strategy that first acts years into it, or at
prices that the synthetic tape lacks, is seen there. Of a strategy whose decisions depend on few bars it asks about few:
where a target changes in a window that ends at the place, and is the same with the bars of the window alone, no later
bar was used. Nothing here sees a strategy that reads its future from a file. docs/look-ahead.md has a hundred examples.

**Own columns.** The decisions up to a bar must stay when values that were known after it are taken away, or are others,
while all bars are there. In synthetic columns a value is known up to 20 bars after the time it is of: a strategy that
looks values up by that time is seen.

**Warm-up.** A run that starts later must, after its own warm-up, want what the run from the first bar wants. A strategy
that holds until a condition occurs has one legitimate difference: the late run is flat while the long run still holds
what it entered before. So the late run may be flat until both agree for the first time; from then on they must be
equal. That is "equal targets on the check tape", not a bound for every tape: recursive averages only ever converge.
A strategy made of others (`parts`) holds what they hold without showing it: each part is checked, and the whole from
the bar on at which all parts agree.

Both run on a seeded synthetic tape (trends, flats, jumps, ties on a coarse tick) and on the tapes given.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import chain
from operator import attrgetter
from pathlib import Path
from types import ModuleType

import numpy as np

from fks.model.bar import Bars, Feature, Floats, Ints
from fks.model.timeframe import NS, TIMEFRAMES, iso
from fks.strategies.base import (
    BarStrategy,
    Decisions,
    Strategy,
    StrategyError,
    ensure_prices,
    evaluate,
    fitted_on,
    is_unfitted,
    warmup_of,
)
from fks.strategies.base.fitted import state_values
from fks.strategies.base.location import defined_at
from fks.strategies.base.remote import RemoteStrategy

_SEED = 20260101
_PREFIXES = 40
_STARTS = 8
_WINDOW = 256  # bars after a warm-up that are compared before each of these places
_PLACES = 20  # prefixes of the tape of a run
_AFRESH = (0.3, 0.7)  # of these prefixes, in order, the ones that a strategy from its file is asked about
_CHANGES = 4  # of these prefixes, the ones after which own columns are changed
_LATE = 20  # bars after which a value of a synthetic column may be known
_AGAIN = "_made_again_"  # in the name of a module that the check makes
_AT_ONCE = 40  # executions of a file: more than the threads of a pool check at a time are one inside the other
_NEAR = 1e-6  # what a recursive average may still differ by after its warm-up


class ReenteredError(StrategyError):
    """A strategy's file began work while a check executed that file again. A class of its own: what else the execution
    raises leaves a part of the check out."""


@dataclass(frozen=True, slots=True)
class CheckViolation:
    """A failed check: the bar and both values."""

    check: str  # lookahead | warmup
    tape: str
    column: str
    index: int
    time_ns: int
    seen: float
    expected: float
    detail: str

    def __str__(self) -> str:
        return (
            f"{self.detail}: at bar {self.index} ({iso(self.time_ns)}) of the {self.tape} tape {self.column} is "
            f"{self.seen:g} and should be {self.expected:g}"
        )


def synthetic(count: int, timeframe: str = "1m") -> Bars:
    """Return `count` seeded bars on a 0.01 grid: trends, calm, exact flats, jumps. The same in every run and
    version."""
    dice = np.random.Generator(np.random.PCG64(_SEED))
    regime = np.repeat(dice.integers(0, 4, count // 60 + 1), 60)[:count]
    drift = np.choose(regime, [0.0, 6.0, -6.0, 0.0])
    width = np.choose(regime, [15.0, 25.0, 25.0, 1.0])
    steps = np.rint(drift + width * dice.standard_normal(count))
    steps[regime == 3] = np.clip(steps[regime == 3], -1, 1)
    steps += np.where(dice.random(count) < 0.004, np.rint(400.0 * dice.standard_normal(count)), 0.0)
    close = 20_000.0 + np.cumsum(steps)  # a day or so moves it by a tenth: thresholds in percent are crossed too
    close += np.maximum(0.0, 1_000.0 - close.min())
    open_ = np.concatenate([close[:1], close[:-1]])
    reach = np.rint(np.abs(dice.standard_normal((2, count))) * width / 2.0)
    high, low = np.maximum(open_, close) + reach[0], np.minimum(open_, close) - reach[1]
    start = 1_767_225_600 * NS
    times = start + np.arange(count, dtype=np.int64) * (TIMEFRAMES[timeframe] or 30 * 86400) * NS
    volume = np.rint(dice.random(count) * 1e4) / 1e2
    return Bars("SYNTHETIC", timeframe, times, open_ / 100.0, high / 100.0, low / 100.0, close / 100.0, volume)


def with_inputs(strategy: Strategy, bars: Bars) -> Bars:
    """Return bars with synthetic ones of the strategy's inputs, and synthetic columns, beside them where they lack any.

    Inputs follow `bars` for a while and come back to it, and lack one bar in two hundred. Columns wander about 0 and
    lack one value in a hundred; half of the values are known at once, the others up to 20 bars later. The same in every
    run and version.
    """
    others = {}
    features = {}
    rows = np.arange(len(bars))
    for number, name in enumerate(strategy.features()):
        dice = np.random.Generator(np.random.PCG64(_SEED + 1000 + number))
        values = np.cumsum(dice.standard_normal(len(bars))) / 10.0
        values -= np.convolve(values, np.full(50, 0.02), mode="full")[: len(bars)]
        values[dice.random(len(bars)) < 0.01] = np.nan
        known = rows + np.maximum(dice.integers(-_LATE, _LATE + 1, len(bars)), 0)
        latest = np.full(len(bars) + _LATE, -1)
        np.maximum.at(latest, known, rows)
        latest = np.maximum.accumulate(latest)[: len(bars)]
        if name not in bars.features:
            features[name] = Feature(
                np.where(latest < 0, np.nan, values[latest]), np.where(latest < 0, -1, bars.time_ns[latest])
            )
    if features:
        bars = bars.with_features(features)
    if bars.inputs:
        return bars
    for number, symbol in enumerate(strategy.inputs()):
        dice = np.random.Generator(np.random.PCG64(_SEED + 1 + number))
        apart = np.zeros(len(bars))
        steps = dice.standard_normal(len(bars)) * 0.001
        for i in range(1, len(bars)):
            apart[i] = 0.95 * apart[i - 1] + steps[i]
        close = np.round(bars.close * np.exp(apart) / 10.0, 3)
        open_ = np.concatenate([close[:1], close[:-1]])
        high, low = np.maximum(open_, close) + 0.01, np.minimum(open_, close) - 0.01
        kept = dice.random(len(bars)) >= 0.005
        columns = (column[kept] for column in (open_, high, low, close, bars.volume))
        others[symbol] = Bars(symbol, bars.timeframe, bars.time_ns[kept], *columns)
    return bars.joined(others) if others else bars


def check_strategy(
    strategy: Strategy, tapes: Sequence[Bars] = (), *, prefixes: int = _PREFIXES
) -> list[CheckViolation]:
    """Return what is wrong with the strategy, nothing when it may be used. Takes milliseconds to tens of them.

    `tapes`: real bars to check on besides the synthetic ones; those too short for the warm-up are left out.
    Errors: StrategyError STRATEGY_WRONG or STRATEGY_RAISED when it cannot be evaluated, STRATEGY_REENTERED
    (`ensure_not_reentered`).
    """
    ensure_not_reentered("a check")
    if isinstance(strategy, RemoteStrategy):
        return [CheckViolation(*found) for found in strategy.violations("check_strategy", tapes, prefixes)]
    warmup = warmup_of(strategy)
    training = strategy.training() if is_unfitted(strategy) else 0
    made = synthetic(max(600, 4 * warmup) + training)
    if training:
        _ensure_same_fit(strategy, with_inputs(strategy, made), training)
    for tape in (made, *tapes):
        if len(tape) < warmup + training + 20:
            continue
        fitted, bars = _fitted(strategy, with_inputs(strategy, tape))
        found = next(_lookahead(fitted, bars, prefixes), None) or next(warmups(fitted, bars), None)
        if found:
            return [found]
    return []


def _fitted(strategy: Strategy, bars: Bars) -> tuple[Strategy, Bars]:
    """Return the strategy fitted on the first bars, and the bars after them; both as given when it has its state."""
    if not is_unfitted(strategy):
        return strategy, bars
    count = strategy.training()
    return fitted_on(_copy_of(strategy), (bars[:count],)), bars[count:]


def _ensure_same_fit(strategy: Strategy, bars: Bars, training: int) -> None:
    """Refuse a `fit` whose state is not that of its panel alone: other than before after it was given more bars, or
    other than that of a strategy made again from its file. Errors: StrategyError STRATEGY_REFUSED."""
    untouched, part, whole = _copy_of(strategy), (bars[:training],), (bars,)
    kept = [state_values(_copy_of(untouched), panel) for panel in (part, whole, part)]
    cold = _made_again(untouched)
    if kept[0] == kept[2] and (cold is None or kept[1] == state_values(cold, whole)):
        return
    raise StrategyError(
        f"strategy {strategy.name} is refused: fit() of the same {len(bars)} or fewer bars gave two states; a later "
        "fold, or chance, would be in one of an earlier",
        code="STRATEGY_REFUSED",
        remedy=f"keep nothing between calls and seed what is random, in {defined_at(type(strategy), 'fit')}",
    )


def warmups(strategy: Strategy, bars: Bars) -> Iterator[CheckViolation]:
    """Yield what is wrong with the warm-up of each part, then of the whole."""
    if isinstance(strategy, RemoteStrategy):
        yield from (CheckViolation(*found) for found in strategy.violations("warmups", [bars]))
        return
    for part in strategy.parts():
        for found in warmups(part, bars):
            yield replace(found, detail=f"its part {part.name}: {found.detail}")
    yield from _warmup(strategy, bars)


def _leaves(strategy: Strategy) -> Iterator[Strategy]:
    """Yield the parts that have no parts of their own."""
    for part in strategy.parts():
        yield from _leaves(part) if part.parts() else (part,)


def ensure_checked(strategy: Strategy, tapes: Sequence[Bars] = ()) -> None:
    """Refuse a strategy that fails its check. Errors: StrategyError STRATEGY_REFUSED showing the bar, both values and
    the method to correct; those of `check_strategy`."""
    for finding in check_strategy(strategy, tapes):
        raise _refused(strategy, finding)


def _refused(strategy: Strategy, finding: CheckViolation) -> StrategyError:
    return StrategyError(
        f"strategy {strategy.name} is refused: {finding}", code="STRATEGY_REFUSED", remedy=remedy_of(strategy, finding)
    )


def remedy_of(strategy: Strategy, finding: CheckViolation) -> str:
    """Return what to change, and in which line of the strategy's file."""
    if finding.check == "lookahead":
        return f"use only rows up to the bar that decides, in {defined_at(type(strategy), 'decide')}"
    return f"declare a longer warm-up, in {defined_at(type(strategy), 'warmup')}"


def ensure_causal(strategy: Strategy, bars: Bars) -> None:
    """Refuse a strategy that decides otherwise with fewer bars, at 20 places over all of `bars`: half of them where the
    target changes, the last bar, and random ones. Of a strategy with a method per bar its indicators are compared: it
    is given no later bar. About ten evaluations, one where the decisions depend on few bars. Errors: StrategyError,
    as `ensure_checked`."""
    for finding in causality(strategy, bars):
        raise _refused(strategy, finding)


def causality(strategy: Strategy, bars: Bars) -> Iterator[CheckViolation]:
    """Yield the first difference of each prefix of `ensure_causal`."""
    ensure_not_reentered("a check")
    if isinstance(strategy, RemoteStrategy):
        yield from (CheckViolation(*found) for found in strategy.violations("causality", [bars]))
        return
    if len(bars) < (strategy.training() if is_unfitted(strategy) else 0) + strategy.warmup() + 20:
        return
    strategy, bars = _fitted(strategy, bars)
    untouched = _copy_of(strategy)

    def values_of(part: Bars) -> dict[str, Floats]:
        made = _copy_of(untouched)
        if isinstance(made, BarStrategy):
            return {name: np.asarray(column) for name, column in made.indicators(part).items()}
        return dict(_columns(evaluate(made, part)))

    whole = values_of(bars)
    changes = np.flatnonzero(np.diff(whole["target"])) + 1 if "target" in whole else np.zeros(0, dtype=np.int64)
    is_near = isinstance(strategy, BarStrategy)
    warmup = strategy.warmup()
    cuts = _cuts(bars, warmup, changes, _PLACES)
    is_open = [not _is_same_window(bars, whole, values_of, k, warmup, is_near=is_near) for k in cuts.tolist()]
    parts = chain(_prefixes(bars, cuts[is_open]), _changed(bars, cuts))
    yield from _differences(bars, whole, values_of, parts, is_near=is_near)


def _is_same_window(
    bars: Bars,
    whole: dict[str, Floats],
    values_of: Callable[[Bars], dict[str, Floats]],
    k: int,
    warmup: int,
    *,
    is_near: bool,
) -> bool:
    """Return whether a warm-up and `_WINDOW` more of the bars before cut `k`, alone, decide as all bars. False where
    the target stays as it is there, on which rules that differ elsewhere may agree, or the strategy needs more bars."""
    begin = max(0, k - warmup - _WINDOW)
    if "target" in whole and not np.any(np.diff(whole["target"][begin + warmup : k])):
        return False
    try:
        values = values_of(bars.first(k, begin))
    except Exception:  # strategies of users may raise anything; the prefix at the cut shows what it is
        return False
    return values.keys() == whole.keys() and all(
        _first_difference(column[warmup:], whole[name][begin + warmup : k], is_near=is_near) is None
        for name, column in values.items()
    )


def _copy_of(strategy: Strategy) -> Strategy:
    """Return a copy, its memory included; the strategy itself when it holds a thing that cannot be copied."""
    try:
        return deepcopy(strategy)
    except Exception:  # objects of users may raise anything
        return strategy


def _columns(decisions: Decisions) -> Iterator[tuple[str, Floats]]:
    yield from ((name, column) for name, column in decisions.columns().items() if name != "entry_bars")


def _lookahead(strategy: Strategy, bars: Bars, prefixes: int) -> Iterator[CheckViolation]:
    """Yield the first difference of each prefix that decides otherwise than the whole."""
    untouched, used = _copy_of(strategy), _copy_of(strategy)
    whole = evaluate(used, bars)
    ensure_prices(strategy, bars, whole)
    if getattr(used, "state", None) != getattr(untouched, "state", None):
        raise StrategyError(
            f"strategy {strategy.name} is refused: decide() changed its fitted state; an instance decides on every "
            "bar, and would leave its backtest",
            code="STRATEGY_REFUSED",
            remedy=f"copy a value before changing it, in {defined_at(type(strategy), 'decide')}",
        )
    changes = np.flatnonzero(np.diff(whole.target)) + 1
    cuts = _cuts(bars, strategy.warmup(), changes, prefixes)
    columns = dict(_columns(whole))
    parts = chain(_prefixes(bars, cuts), _changed(bars, cuts))
    yield from _differences(bars, columns, lambda part: dict(_columns(evaluate(_copy_of(untouched), part))), parts)
    yield from _kept_outside(strategy, bars, columns, cuts)


def _kept_outside(strategy: Strategy, bars: Bars, whole: dict[str, Floats], cuts: Ints) -> Iterator[CheckViolation]:
    """Yield the first difference of a strategy made again from its file, which decides over a prefix first: a value
    that class or module keep of the whole is not there. None where it cannot be made, or the file was changed since."""

    def values_of(part: Bars) -> dict[str, Floats]:
        made = _made_again(strategy)
        return {} if made is None else dict(_columns(evaluate(made, part)))

    try:
        again = values_of(bars)
    except ReenteredError:
        raise
    except StrategyError:  # it needs what the process has given its module
        return
    if again.keys() != whole.keys() or any(_first_difference(whole[name], again[name]) is not None for name in again):
        return
    chosen = cuts[[int(share * len(cuts)) for share in _AFRESH]] if len(cuts) else cuts
    yield from _differences(bars, whole, values_of, chain(_prefixes(bars, chosen), _changed(bars, chosen)))


def _made_again(strategy: Strategy) -> Strategy | None:
    """Return the strategy made again from its source file, without what its class or module keeps; None where that
    cannot be done. The file of the running program is never executed. Errors: StrategyError STRATEGY_REENTERED."""
    kind = type(strategy)
    name = kind.__module__
    if strategy.parts() or "<locals>" in kind.__qualname__ or name == "__main__" or _AGAIN in name:
        return None
    module = ModuleType(name)
    module.__name__ += f"{_AGAIN}{id(module):x}"  # of its own: checks may run side by side
    try:
        file = inspect.getfile(kind)
        if _is_running(file):
            return None
        if sum(one.startswith(name + _AGAIN) for one in list(sys.modules)) >= _AT_ONCE:  # begun in further threads
            raise _reentered(file, "a check", "")
        module.__file__ = file
        sys.modules[module.__name__] = module  # pydantic looks types up there
        exec(compile(Path(file).read_bytes(), file, "exec"), module.__dict__)  # noqa: S102  it was imported from there
        again: Strategy = attrgetter(kind.__qualname__)(module).model_validate(dict(strategy))
    except ReenteredError:
        raise
    except (Exception, SystemExit):  # modules of users may raise anything
        return None
    finally:
        sys.modules.pop(module.__name__, None)
    return again


def _is_running(file: str) -> bool:
    """Return whether a file is that of the running program, whichever name its classes have: that of an import, or
    `__mp_main__` in a process that was spawned."""
    program = getattr(sys.modules.get("__main__"), "__file__", None)
    return program is not None and Path(program).resolve() == Path(file).resolve()


def ensure_not_reentered(work: str) -> None:
    """Refuse work, "a backtest", that the top level of a strategy's file begins while a check executes that file again:
    it would begin again in each check, the one of this work included. Errors: StrategyError STRATEGY_REENTERED with
    the file and the line."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "<module>" and _AGAIN in str(frame.f_globals.get("__name__")):
            raise _reentered(frame.f_code.co_filename, work, f", in line {frame.f_lineno}")
        frame = frame.f_back


def _reentered(file: str, work: str, where: str) -> ReenteredError:
    return ReenteredError(
        f"{Path(file).name} begins {work} whenever it is imported{where}, and the check of its strategy executes it",
        code="STRATEGY_REENTERED",
        remedy='put that line below `if __name__ == "__main__":`, or in another file',
    )


def _cuts(bars: Bars, warmup: int, changes: Ints, most: int) -> Ints:
    """Return where to cut the bars: at the edges, right after up to `most` changes of the target, and at random."""
    count = len(bars)
    dice = np.random.Generator(np.random.PCG64(_SEED + count))
    near = np.concatenate([changes, changes + 1, changes + 2])
    if len(near) > most:
        near = dice.choice(near, most, replace=False)
    edges = np.array([warmup + 1, warmup + 2, count - 1])
    cuts = np.unique(np.concatenate([edges, near, dice.integers(warmup + 1, count, most // 2)]))
    return cuts[(cuts > warmup) & (cuts < count)]


def _differences(
    bars: Bars,
    whole: dict[str, Floats],
    values_of: Callable[[Bars], dict[str, Floats]],
    parts: Iterable[tuple[int, Bars, str]],
    *,
    is_near: bool = False,
) -> Iterator[CheckViolation]:
    """Yield the first difference of each part, up to its cut, from the columns of the whole; `is_near`: beyond the last
    digits of a float."""
    for k, part, detail in parts:
        for name, values in values_of(part).items():
            before = whole[name][:k] if name in whole else np.full(k, np.nan)
            at = _first_difference(values[:k], before, is_near=is_near)
            if at is not None:
                yield CheckViolation(
                    "lookahead",
                    bars.symbol,
                    name,
                    at,
                    int(bars.time_ns[at]),
                    float(whole[name][at]) if name in whole else np.nan,
                    float(values[at]),
                    f"it looks ahead: {detail}",
                )


def _prefixes(bars: Bars, cuts: Ints) -> Iterator[tuple[int, Bars, str]]:
    """Yield cuts with the bars before them, and the difference."""
    for k in cuts.tolist():
        yield k, bars.first(k), f"with only {k} bars it decides otherwise than with {len(bars)}"


def _changed(bars: Bars, cuts: Ints) -> Iterator[tuple[int, Bars, str]]:
    """Yield some of the cuts with all bars, whose own columns are the same before them, and the difference: the values
    that were known later are taken away, or drawn from all that the column has."""
    if not bars.features or not len(cuts):
        return
    dice = np.random.Generator(np.random.PCG64(_SEED + len(bars)))
    for k in dice.choice(cuts, min(_CHANGES, len(cuts)), replace=False).tolist():
        gone, other = {}, {}
        for name, one in bars.features.items():
            held = np.minimum(np.arange(len(bars)), k - 1)
            gone[name] = Feature(one.values[held], one.time_ns[held])
            drawn = dice.choice(np.append(np.unique(one.values), [0.0, 1.0]), len(bars) - k)  # rare values often
            other[name] = Feature(np.append(one.values[:k], drawn), one.time_ns)
        detail = f"values in its columns after bar {k - 1} it decides otherwise"
        yield k, bars.with_features(gone), f"without {detail}"
        yield k, bars.with_features(other), f"with other {detail}"


def _first_difference(left: Floats, right: Floats, *, is_near: bool = False) -> int | None:
    differ = (left != right) & ~(np.isnan(left) & np.isnan(right))
    if is_near and differ.any():
        differ &= ~np.isclose(left, right, rtol=_NEAR, atol=_NEAR, equal_nan=True)
    return int(np.argmax(differ)) if differ.any() else None


def _warmup(strategy: Strategy, bars: Bars) -> Iterator[CheckViolation]:
    """Yield the first difference of each later start that is still there after the warm-up."""
    if isinstance(strategy, BarStrategy):
        yield from _indicator_warmup(strategy, bars)
        return
    whole = evaluate(strategy, bars)
    count, warmup = len(bars), strategy.warmup()
    last = count - warmup - 10
    if last < 1:
        return
    leaves = [(leaf, evaluate(leaf, bars).target) for leaf in _leaves(strategy)]
    dice = np.random.Generator(np.random.PCG64(_SEED - count))
    starts = np.unique(np.concatenate([[1, min(last, warmup + 1)], dice.integers(1, last + 1, _STARTS)]))
    for start in starts:
        at, part = int(start), evaluate(strategy, bars[int(start) :])
        agreed = max((_agreed(leaf, target, bars, at, warmup) for leaf, target in leaves), default=0)
        late, early = part.target[warmup + agreed :], whole.target[at + warmup + agreed :]
        equal = late == early
        joined = int(np.argmax(equal)) if equal.any() else len(equal)
        is_bad = ~equal
        is_bad[:joined] = late[:joined] != 0.0  # until they agree the late run may only be flat
        wrong = int(np.argmax(is_bad)) if is_bad.any() else None
        if wrong is not None:
            index = at + warmup + agreed + wrong
            yield CheckViolation(
                "warmup",
                bars.symbol,
                "target",
                index,
                int(bars.time_ns[index]),
                float(late[wrong]),
                float(early[wrong]),
                f"its warm-up of {warmup} bars is too short: started {at} bars later it decides otherwise",
            )


def _indicator_warmup(strategy: BarStrategy, bars: Bars) -> Iterator[CheckViolation]:
    """Yield the first indicator value that a later start gives otherwise after the warm-up.

    What such a strategy remembers of earlier bars is its own, and has no bound: its indicators have.
    """
    whole, warmup = strategy.indicators(bars), strategy.warmup()
    last = len(bars) - warmup - 10
    if last < 1:
        return
    dice = np.random.Generator(np.random.PCG64(_SEED - len(bars)))
    for start in np.unique(np.concatenate([[1, min(last, warmup + 1)], dice.integers(1, last + 1, _STARTS)])):
        at = int(start)
        part = strategy.indicators(bars[at:])
        for name, column in whole.items():
            early, late = np.asarray(column)[at + warmup :], np.asarray(part[name])[warmup:]
            wrong = np.flatnonzero(~np.isclose(early, late, rtol=_NEAR, atol=_NEAR, equal_nan=True))
            if len(wrong):
                index = at + warmup + int(wrong[0])
                yield CheckViolation(
                    "warmup",
                    bars.symbol,
                    name,
                    index,
                    int(bars.time_ns[index]),
                    float(late[wrong[0]]),
                    float(early[wrong[0]]),
                    f"its warm-up of {warmup} bars is too short: {at} bars later an indicator has another value",
                )
                return


def _agreed(leaf: Strategy, whole: Floats, bars: Bars, at: int, warmup: int) -> int:
    """Return how many bars after `warmup` a start at row `at` first wants what `leaf` wants from the first row on."""
    equal = evaluate(leaf, bars[at:]).target[warmup:] == whole[at + warmup :]
    return int(np.argmax(equal)) if equal.any() else len(equal)
