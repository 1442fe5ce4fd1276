"""Contract of a strategy: parameters are fields, the decision is one pure method over columns; and its helpers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from fks.indicators.exact import keep_last
from fks.model.bar import Bars, Feature, Floats, split_digits
from fks.model.errors import FksError, InputError
from fks.model.instrument import folded
from fks.model.timeframe import iso
from fks.strategies.base.location import defined_at, one_line, raised_at

Flags = npt.NDArray[np.bool_]
_PLACES = 9


#: columns of `Decisions` in units of the price; but for the last one read where the target enters
PRICE_COLUMNS = ("stop_loss", "take_profit", "trail", "entry_limit", "entry_stop", "stop_move")
COLUMNS = ("target", *PRICE_COLUMNS, "entry_bars", "size_share")  # of `Decisions`
SHARE_PLACES = 6  # of `size_share`, and of a share that is closed
_WHOLE_WITHIN = 1e-9


class StrategyError(InputError):
    """A strategy violated its contract: by its file, its parameters or its result. The message names the bar."""


@dataclass(frozen=True, slots=True)
class Decisions:
    """Decisions of a strategy at the close of each bar; columns of the bars' length.

    `target`: -1 short, 0 flat, 1 long. Of a strategy whose positions may have several entries (`entries_max`) it is
    their number, negative for shorts: each bar on which it grows makes one more entry of the same sizing, at the
    market; 0 or the other side closes them all. All entries of a position have the protections of its first one. A
    growth while the first entry's position is not open, because a protection closed it or it was denied, is no entry:
    nothing is entered until the target returns to 0 or changes its sign.

    A target that falls on its side, from 1 to 0.4 or from 3 to 2, closes that share of what is held then (0.6, or a
    third; `closed_parts`) at the market, rounded down to a lot. The rest keeps its protections. An entry's order that
    rests ends with it.

    `stop_loss`, `take_profit`: absolute prices of the protections of an entry decided on that bar (NaN = none); they
    are read only where the target leaves 0 or changes its sign.
    `trail`: the distance, in units of the price, at which the entry's stop follows the closes (`fks.matching`, clause
    8), read on the same bars; NaN = it stays where it is.

    `entry_limit`, `entry_stop`: absolute prices of the entry's order, read on the same bars: a limit, a stop, both a
    stop-limit, NaN in both a market order. It rests from the next bar until it fills or the target changes.
    `entry_bars`: how many bars it rests at most (NaN = without end). An order whose bars passed without its price being
    reached has expired: the target is 0 from the last of them on, until the strategy changes it.

    `size_share`: the share of the configured size, 0 < share <= 1, that an entry decided on that bar has (NaN = all of
    it), read to 6 decimal places where the target enters or grows. The quantity of the full size, times it, rounded
    down to a lot: a strategy makes an entry smaller than its operator allows, never larger.
    """

    target: Floats
    stop_loss: Floats | None = None
    take_profit: Floats | None = None
    entry_limit: Floats | None = None
    entry_stop: Floats | None = None
    entry_bars: Floats | None = None
    trail: Floats | None = None
    size_share: Floats | None = None
    stop_move: Floats | None = None

    def moves(self) -> Floats | None:
        """Return `stop_move` where it is read, and NaN elsewhere; None when it moves no stop."""
        if self.stop_move is None:
            return None
        before = np.concatenate([[0.0], self.target[:-1]])
        is_price = np.isfinite(self.stop_move) & (self.stop_move > 0.0)
        found: Floats = np.where((self.target * before > 0.0) & is_price, self.stop_move, np.nan)
        return None if np.isnan(found).all() else found

    def share_at(self, index: int) -> Decimal | None:
        """Return the share of the size of an entry decided on bar `index`; None = all of it."""
        if self.size_share is None:
            return None
        share = Decimal(int(share_parts(self.size_share[index : index + 1])[0])).scaleb(-SHARE_PLACES)
        return None if share == 1 else share.normalize()


def share_parts(shares: Floats) -> npt.NDArray[np.int64]:
    """Return shares of a size in millionths, all of it where a share is NaN; one that is none is never read."""
    parts = np.rint(np.clip(shares, 0.0, 1.0) * 10.0**SHARE_PLACES)
    found: npt.NDArray[np.int64] = np.where(np.isnan(parts), 10.0**SHARE_PLACES, parts).astype(np.int64)
    return found


def closed_parts(before: float, after: float) -> int:
    """Return the share of a position, in millionths, that a change of the target closes: 0 unless it falls on its side,
    and never all."""
    if before * after <= 0.0 or abs(after) >= abs(before):
        return 0
    most = int(10**SHARE_PLACES)
    return min(round((abs(before) - abs(after)) / abs(before) * most), most - 1)


def closes_part(target: Floats) -> Flags:
    """Return on which rows `closed_parts` is not 0."""
    before, now = np.abs(target[:-1]), np.abs(target[1:])
    is_fall = (target[1:] * target[:-1] > 0.0) & (now < before)
    parts = np.rint(np.divide(before - now, before, out=np.zeros(len(now)), where=is_fall) * 10.0**SHARE_PLACES)
    found: Flags = np.concatenate([[False], parts >= 1.0])[: len(target)]
    return found


def closed_share(before: float, after: float) -> Decimal | None:
    """Return `closed_parts` as a share above 0 and below 1; None when no part is closed."""
    parts = closed_parts(before, after)
    return Decimal(parts).scaleb(-SHARE_PLACES).normalize() if parts else None


class Strategy(BaseModel, ABC):
    """Base class of strategies: a subclass declares its parameters as fields and implements two methods.

    `decide` is a pure function of the columns: no clock, no randomness, no state, no later bars. The same object runs
    in backtest, paper and live; live calls it again with more rows, always from the same anchor bar.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ClassVar[str]

    @abstractmethod
    def warmup(self) -> int:
        """Return how many bars are needed before the first valid decision; there is no decision on those."""

    @abstractmethod
    def decide(self, bars: Bars) -> Decisions:
        """Return the target position at the close of every bar of `bars`. Row i may depend on rows 0…i only."""

    def inputs(self) -> tuple[str, ...]:
        """Return the further symbols whose bars `decide` reads, in any spelling (`input_bars`): those of its parts."""
        return tuple(dict.fromkeys(symbol for part in self.parts() for symbol in part.inputs()))

    def features(self) -> tuple[str, ...]:
        """Return the names of the columns of one's own that `decide` reads (`feature`): those of its parts."""
        return tuple(dict.fromkeys(name for part in self.parts() for name in part.features()))

    def entries_max(self) -> int:
        """Return the most entries that a position of this strategy may have."""
        return 1

    def parts(self) -> tuple[Strategy, ...]:
        """Return the strategies that this one asks; their code is part of a result's fingerprint (C12)."""
        return ()


def input_bars(strategy: Strategy, bars: Bars, symbol: str) -> Bars:
    """Return the bars of one of the strategy's inputs, aligned with `bars`: row i ends when row i of `bars` does, and
    is NaN where that symbol has no bar. Errors: StrategyError INPUT_MISSING when they were not given."""
    found = bars.inputs.get(folded(symbol))
    if found is None:
        raise StrategyError(
            f"strategy {strategy.name} reads {symbol} besides {bars.symbol}, and got no bars of it",
            code="INPUT_MISSING",
            status=422,
            remedy=f"give it bars.joined({{{symbol!r}: …}})",
        )
    return found


def feature(strategy: Strategy, bars: Bars, name: str) -> Feature:
    """Return one of the strategy's own columns: row i has the value that was known when row i of `bars` ended, and the
    time that it is of; NaN where none was. Errors: StrategyError FEATURE_MISSING when it was not given."""
    found = bars.features.get(name)
    if found is None:
        raise StrategyError(
            f"strategy {strategy.name} reads the column {name} besides {bars.symbol}, and did not get it",
            code="FEATURE_MISSING",
            status=422,
            remedy=f"return its name from features() and import it (fks data import-features), or give it "
            f"bars.with_features({{{name!r}: …}})",
        )
    return found


class Protected(Strategy):
    """A strategy whose entries may carry a stop loss, a take profit and a trailing distance of the stop, in percent of
    the deciding bar's close."""

    sl_pct: Annotated[float, Field(gt=0, lt=100)] | None = Field(None, description="stop loss, percent of the close")
    tp_pct: Annotated[float, Field(gt=0, lt=1000)] | None = Field(None, description="take profit, percent of the close")
    trail_pct: Annotated[float, Field(gt=0, lt=100)] | None = Field(
        None, description="distance at which the stop follows the closes, percent of the entry's close"
    )

    def protect(self, bars: Bars, target: Floats) -> Decisions:
        """Return the target with the protections set by the parameters; mirrored where it is short."""
        stop = None if self.sl_pct is None else _away(bars, target, -self.sl_pct)
        profit = None if self.tp_pct is None else _away(bars, target, self.tp_pct)
        trail = None if self.trail_pct is None else np.abs(bars.close) * self.trail_pct / 100.0
        return Decisions(target, stop, profit, trail=trail)


def _away(bars: Bars, target: Floats, percent: float) -> Floats:
    price = bars.close * (1.0 + target * percent / 100.0)
    return np.where((target != 0.0) & (price > 0.0), price, np.nan)


def side_to_target(side: Floats, *, short: bool) -> Floats:
    """Return the target of a trend side (1 up, -1 down, 0 unknown): long when up, when down short or flat.

    The short one is `side` itself, not a copy.
    """
    return side if short else np.maximum(side, 0.0)


def hold(enter: Flags, leave: Flags) -> Floats:
    """Return 1 from a bar with `enter` until a bar with `leave`, else 0. Where both are set, `leave` wins."""
    event = np.where(leave, -1.0, np.where(enter, 1.0, 0.0))
    return np.maximum(keep_last(event), 0.0)


def evaluate(strategy: Strategy, bars: Bars) -> Decisions:
    """Return the strategy's decisions, checked: right shapes and targets, nothing during warm-up.

    The strategy gets columns it cannot write to: they are shared with the next evaluation.

    With no more bars than the warm-up, `decide` is not called. Errors: StrategyError naming the first wrong bar, or
    the line of the strategy's file where it raised.
    """
    return checked(strategy, decide(strategy, bars), bars)


def checked(strategy: Strategy, decisions: Decisions, bars: Bars) -> Decisions:
    """Return decisions on `bars` with their targets checked, and none during warm-up. Errors: StrategyError."""
    warmup = warmup_of(strategy)
    target = decisions.target.copy()
    target[:warmup] = 0.0
    most = strategy.entries_max()
    before = np.concatenate([[0.0], target[:-1]])
    is_same = target * before > 0.0
    grown = np.where(is_same, np.abs(target) - np.abs(before), np.abs(target))
    is_whole = np.abs(grown - np.rint(grown)) < _WHOLE_WITHIN  # a sum of floats
    if warmup < len(target) and _began_whole(decisions.target, warmup):
        is_whole[warmup] = True
    is_wrong = ~(np.abs(target) <= most) | ((grown > 0.0) & ~is_whole) | (is_same & (grown > 0.0) & (most == 1))
    if is_wrong.any():
        raise target_wrong(strategy, decisions, bars, int(np.argmax(is_wrong)))
    if most > 1:
        _ensure_market_entries(strategy, replace(decisions, target=target), bars)
    return replace(decisions, target=target)


def _began_whole(target: Floats, index: int) -> bool:
    """Return whether the rows before `index` on its side begin with a whole number of entries: a part of these may have
    been closed before the first decision."""
    rows = np.flatnonzero(~(target[:index] * target[index] > 0.0))
    start = float(target[rows[-1] + 1 if len(rows) else 0])
    return start.is_integer()


def _ensure_market_entries(strategy: Strategy, decisions: Decisions, bars: Bars) -> None:
    """Refuse positions of several entries that enter by an order that rests. Errors: StrategyError."""
    target = decisions.target
    before = np.concatenate([[0.0], target[:-1]])
    for name in ("entry_limit", "entry_stop"):
        column = getattr(decisions, name)
        if column is not None and (rests := (target != before) & (target != 0.0) & np.isfinite(column)).any():
            bar = _bar(bars, int(np.argmax(rests)))
            raise _broken(strategy, f"{name} is set at bar {bar}; positions of several entries enter at the market")


def opened_at(target: Floats, index: int) -> int:
    """Return the row of the first entry of the position that row `index` wants; its protections are those of all."""
    side = np.sign(target[index])
    other = np.flatnonzero(np.sign(target[:index]) != side)
    return int(other[-1]) + 1 if len(other) else 0


def decide(strategy: Strategy, bars: Bars) -> Decisions:
    """Return the strategy's decisions as it made them, with their shapes checked alone: targets may be wrong, and there
    may be some during warm-up, which mean nothing. See `evaluate`. Errors: StrategyError, also when it raises.

    Over a split of shares the strategy is asked for each part between two splits, with the bars so far in the shares of
    that part: no decision sees a later split. Its prices are returned in shares of the columns.
    """
    if not len(bars) or not any(part.splits for part in (bars, *bars.inputs.values())):
        return _decide(strategy, bars)
    rows = bars.split_rows
    places = bars.splits[0].places + split_digits(bars.splits) if bars.splits else 0  # of the columns
    parts: list[dict[str, Floats]] = []
    for start, end in zip([0, *rows], [*rows, len(bars)], strict=True):
        part, factor = _decide(strategy, bars.known(end)), bars.split_factor(end - 1)
        columns = {name: column[start:] for name in COLUMNS if (column := getattr(part, name)) is not None}
        if factor != 1.0:
            columns |= {name: np.round(columns[name] / factor, places) for name in PRICE_COLUMNS if name in columns}
        parts.append(columns)
    sizes = [len(part["target"]) for part in parts]
    return Decisions(
        **{
            name: np.concatenate(
                [part.get(name, np.full(size, np.nan)) for part, size in zip(parts, sizes, strict=True)]
            )
            for name in COLUMNS
            if any(name in part for part in parts)
        }
    )


def _decide(strategy: Strategy, bars: Bars) -> Decisions:
    if len(bars) <= warmup_of(strategy):
        return Decisions(np.zeros(len(bars)))
    found = called(strategy, bars)
    if found.size_share is not None:
        _ensure_shares(strategy, found, bars)
    if found.entry_bars is None or (found.entry_limit is None and found.entry_stop is None):
        return found
    return replace(found, target=_expired(found, bars))


def called(strategy: Strategy, bars: Bars) -> Decisions:
    """Return what `decide` returns, with the shapes of its columns checked. Errors: StrategyError, also when it
    raises."""
    count = len(bars)
    try:
        decisions = strategy.decide(_readonly(bars))
    except FksError:
        raise
    except Exception as error:  # user code may raise anything
        raise raised(strategy, f"decide() with {count} bars", error) from error
    if not isinstance(decisions, Decisions):
        raise _broken(strategy, f"decide() returned {type(decisions).__name__}, not Decisions")
    columns = {
        name: _column(strategy, name, column, count)
        for name in COLUMNS
        if (column := getattr(decisions, name)) is not None
    }
    return Decisions(**columns)


def _ensure_shares(strategy: Strategy, decisions: Decisions, bars: Bars) -> None:
    """Refuse an entry of a share that is not above 0 and at most 1. Errors: StrategyError."""
    assert decisions.size_share is not None
    target, shares = decisions.target.copy(), decisions.size_share
    target[: warmup_of(strategy)] = 0.0
    before = np.concatenate([[0.0], target[:-1]])
    is_entry = (target != 0.0) & ((target * before <= 0.0) | (np.abs(target) > np.abs(before)))
    least = 0.5 * 10.0**-SHARE_PLACES
    wrong = np.flatnonzero(is_entry & ~np.isnan(shares) & ~((shares > least) & (shares <= 1.0)))
    if len(wrong):
        at = int(wrong[0])
        what = f"size_share is {shares[at]:g} at bar {_bar(bars, at)}, where it enters"
        raise _broken(strategy, f"{what}; it may be above 0 and at most 1, or NaN for all of the size")


def _expired(decisions: Decisions, bars: Bars) -> Floats:
    """Return the target, 0 where an entry's order has expired: from the last bar that it may rest on, unless the bars
    reached its price, until the target changes otherwise than by a fall on its side."""
    target = decisions.target.copy()
    nothing = np.full(len(target), np.nan)
    limits = nothing if decisions.entry_limit is None else decisions.entry_limit
    stops = nothing if decisions.entry_stop is None else decisions.entry_stop
    lives = nothing if decisions.entry_bars is None else decisions.entry_bars
    before = np.concatenate([[0.0], decisions.target[:-1]])
    is_same = (decisions.target * before > 0.0) & (np.abs(decisions.target) < np.abs(before))
    falls = np.append(np.flatnonzero(closes_part(decisions.target)), len(target))
    changes = np.flatnonzero((decisions.target != before) & ~is_same)
    ends = np.append(changes[1:], len(target))
    rests = np.isfinite(lives[changes]) & (np.isfinite(limits[changes]) | np.isfinite(stops[changes]))
    for start, end in zip(changes[rests].tolist(), ends[rests].tolist(), strict=True):
        side, last = target[start], start + max(int(lives[start]), 1)
        if side != 0.0 and last < min(end, falls[np.searchsorted(falls, start)]):  # a fall ends it, too
            order = EntryOrder(int(side), limits[start], stops[start])
            rows = range(start + 1, last + 1)
            if not any(order.reach(bars.open[row], bars.high[row], bars.low[row]) is not None for row in rows):
                target[last:end] = 0.0
    return target


class EntryOrder:
    """The order of an entry as its bars fill it, in floats: `side` 1 or -1, `limit` and `stop` NaN for none."""

    __slots__ = ("is_triggered", "limit", "side", "stop")

    def __init__(self, side: int, limit: float, stop: float) -> None:
        self.side, self.limit, self.stop = side, limit, stop
        self.is_triggered = stop != stop  # NaN: there is no stop to wait for

    def reach(self, open_: float, high: float, low: float) -> float | None:
        """Return the price at which the next bar fills it, or None. Call it once per bar, in order."""
        side, limit = self.side, self.limit
        if not self.is_triggered:
            if (high < self.stop) if side > 0 else (low > self.stop):
                return None
            self.is_triggered = True
            price = max(open_, self.stop) if side > 0 else min(open_, self.stop)
            return None if (price - limit) * side > 0 else price
        if (open_ - limit) * side <= 0:
            return open_
        return limit if (low <= limit if side > 0 else high >= limit) else None


def trailed(price: float, distance: float, side: int) -> float:
    """Return where a trailing stop of a position on `side` (1 or -1) is after a close, in floats."""
    return round(price - side * distance, _PLACES)  # a difference of floats is not the decimal that the engines have


def ensure_prices(strategy: Strategy, bars: Bars, decisions: Decisions) -> None:
    """Refuse a protection that is no price where the target enters; elsewhere it is not read. Errors: StrategyError.

    Part of the check of a strategy; the engines take a level as it is.
    """
    target = decisions.target
    is_entry = (target != 0.0) & (np.sign(target) != np.sign(np.concatenate([[0.0], target[:-1]])))
    for name in PRICE_COLUMNS:
        column, is_read = getattr(decisions, name), is_entry if name != "stop_move" else (target != 0.0) & ~is_entry
        if column is not None and (is_wrong := is_read & (column <= 0.0)).any():
            at = int(np.argmax(is_wrong))
            where = f"at bar {_bar(bars, at)}, where it {'enters' if name != 'stop_move' else 'holds'}"
            raise _broken(strategy, f"{name} is {column[at]:g} {where}; it may be a price above 0, or NaN for none")


def target_wrong(strategy: Strategy, decisions: Decisions, bars: Bars, index: int) -> StrategyError:
    """Return the error of a target that is none of -1, 0 and 1, or of the entries that a position may have."""
    most, target = strategy.entries_max(), float(decisions.target[index])
    before = float(decisions.target[index - 1]) if index > warmup_of(strategy) else 0.0
    if before * target > 0.0 and abs(before) < abs(target) <= most == 1:
        grows = f"target grows from {before:g} to {target:g} at bar {_bar(bars, index)}"
        return _broken(strategy, f"{grows}; entries_max() says how many entries a position may have, and is 1")
    allowed = "-1, 0 or 1" if most == 1 else f"a whole number from -{most} to {most}"
    return _broken(strategy, f"target is {target} at bar {_bar(bars, index)}; it may be {allowed}")


def _readonly(bars: Bars) -> Bars:
    view = bars[:]
    for part in (view, *view.inputs.values()):
        for column in (part.time_ns, part.open, part.high, part.low, part.close, part.volume):
            column.setflags(write=False)
    for one in view.features.values():
        one.values.setflags(write=False)
        one.time_ns.setflags(write=False)
    return view


def _column(strategy: Strategy, name: str, column: object, count: int) -> Floats:
    values = np.asarray(column, dtype=np.float64)
    if values.shape != (count,):
        raise _broken(strategy, f"{name} has shape {values.shape} for {count} bars")
    return values


def _bar(bars: Bars, at: int) -> str:
    return f"{at} ({iso(int(bars.time_ns[at]))})"


def warmup_of(strategy: Strategy) -> int:
    """Return the warm-up of a strategy. Errors: StrategyError when it raises, or gives no number of bars."""
    try:
        bars = strategy.warmup()
    except FksError:
        raise
    except Exception as error:  # user code may raise anything
        raise raised(strategy, "warmup()", error) from error
    if isinstance(bars, bool) or not isinstance(bars, int | np.integer) or bars < 0:
        raise _broken(strategy, f"warmup() returned {bars!r}, which is no number of bars", "warmup")
    return int(bars)


def raised(strategy: Strategy, what: str, error: Exception) -> StrategyError:
    """Return the error of a strategy whose code raised: the call, the exception, and its own line."""
    place = raised_at(error, type(strategy))
    return StrategyError(
        f"strategy {strategy.name}: {what} raised {one_line(error)}",
        code="STRATEGY_RAISED",
        status=422,
        remedy=f"correct {place or 'its code'}",
    )


def _broken(strategy: Strategy, what: str, method: str = "decide") -> StrategyError:
    return StrategyError(
        f"strategy {strategy.name}: {what}",
        code="STRATEGY_WRONG",
        status=422,
        remedy=f"correct {defined_at(type(strategy), method)}",
    )
