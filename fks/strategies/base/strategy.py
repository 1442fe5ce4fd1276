"""Contract of a strategy: parameters are fields, the decision is one pure method over columns; and its helpers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import pairwise
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from fks.indicators.exact import keep_last
from fks.model.bar import Bars, Feature, Floats, split_digits
from fks.model.errors import FksError, InputError
from fks.model.instrument import folded
from fks.model.parent import TARGETS_MAX, BreakEven, ParentPlan, ProfitTarget
from fks.model.signal import EntryGroup
from fks.model.timeframe import iso
from fks.strategies.base.location import defined_at, one_line, raised_at

Flags = npt.NDArray[np.bool_]
_PLACES = 9


_MOVES = ("stop_move", "take_profit_move", "entry_limit_move", "entry_stop_move")
#: columns of `Decisions` in units of the price; but for the moves read where the target enters
PRICE_COLUMNS = ("stop_loss", "take_profit", "trail", "entry_limit", "entry_stop", *_MOVES)
_BREAK_EVEN = ("break_even_after", "break_even_risk", "break_even_ticks")
#: of `Decisions`, but for those of its targets
_COLUMNS = ("target", *PRICE_COLUMNS, "entry_bars", "size_share", *_BREAK_EVEN)
COLUMNS_MAX = len(_COLUMNS) + 2 * TARGETS_MAX
SHARE_PLACES = 6  # of `size_share`, and of a share that is closed
_WHOLE_WITHIN = 1e-9


class StrategyError(InputError):
    """A strategy violated its contract: by its file, its parameters or its result. The message names the bar."""

    def __init__(self, message: str, *, code: str = "STRATEGY_WRONG", status: int = 422, remedy: str = "") -> None:
        super().__init__(message, code=code, status=status, remedy=remedy)


@dataclass(frozen=True, slots=True)
class Decisions:
    """Decisions of a strategy at the close of each bar; columns of the bars' length.

    `target`: -1 short, 0 flat, 1 long. Of a strategy whose positions may have several entries (`entries_max`) it is
    their number, negative for shorts: each bar on which it grows makes one more entry of the same sizing, at the
    market; 0 or the other side closes them all. All entries of a position have the protections of its first one. A
    growth while the first entry's position is not open, because a protection closed it or it was denied, is no entry:
    nothing is entered until the target returns to 0 or changes its sign.

    A target that falls on its side, from 1 to 0.4 or from 3 to 2, closes that share of the position at that time (0.6,
    or a third; `closed_parts`) at the market, rounded down to a lot. The rest keeps its protections. An entry's order
    that rests ends with it.

    `stop_loss`, `take_profit`: absolute prices of the protections of an entry decided on that bar (NaN = none); they
    are read only where the target leaves 0 or changes its sign.
    `trail`: the distance, in units of the price, at which the entry's stop follows the closes (`fks.trading.matching`,
    clause 8), read on the same bars; NaN = it stays where it is.

    `entry_limit`, `entry_stop`: absolute prices of the entry's order, read on the same bars: a limit, a stop, both a
    stop-limit, NaN in both a market order. It rests from the next bar until it fills or the target changes.
    `entry_bars`: how many bars it rests at most (NaN = without end). An order whose bars passed without its price being
    reached has expired: the target is 0 from the last of them on, until the strategy changes it.

    `size_share`: the share of the configured size, 0 < share <= 1, that an entry decided on that bar has (NaN = all of
    it), read to 6 decimal places where the target enters or grows. The quantity of the full size, times it, rounded
    down to a lot: a strategy makes an entry smaller than its operator allows, never larger.

    `targets`: the prices at which parts of an entry take profit, instead of `take_profit`, nearest first and at most
    five; each is a column of prices (NaN = the entry has no such target) and one of shares, which are 1 together, read
    to 6 decimal places. They need a stop loss, which is that of all parts, and a position of one entry.
    `break_even_after`: the number of the target, from 1, with whose execution the stop moves to the entry's average
    price; or `break_even_risk`: the multiple of the distance from that price to the stop loss that a close has to come.
    Both count from the next bar on. `break_even_ticks`: whole ticks beyond that price, in the entry's favour.
    NaN = none. All of these are read where the target enters.

    `stop_move`, `take_profit_move`: absolute prices to which the stop loss and the take profit of the position move
    (NaN = they stay), read where the target was on that side at the bar before, from the next bar on. A stop only
    moves nearer to the market. A take profit moves both ways; a price that the close has reached leaves it, and so does
    every price where the entry has none, or several targets.

    `entry_limit_move`, `entry_stop_move`: absolute prices to which the limit and the stop of an entry's order that
    rests move (NaN = they stay), read where the target stays as it was since the order was decided, from the next bar
    on. Only a price that the order has moves. With another price it is a new order over what has not filled, for the
    bars that are left of `entry_bars`; its quantity and its protections stay. Nothing moves once it has filled.
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
    take_profit_move: Floats | None = None
    entry_limit_move: Floats | None = None
    entry_stop_move: Floats | None = None
    targets: tuple[tuple[Floats, Floats], ...] = ()
    break_even_after: Floats | None = None
    break_even_risk: Floats | None = None
    break_even_ticks: Floats | None = None

    @classmethod
    def of(cls, columns: Mapping[str, Floats]) -> Decisions:
        """Return the decisions whose `columns` these are."""
        known = {name: one for name, one in columns.items() if not name.startswith(("target_", "share_"))}
        numbers = range(1, 1 + sum(name.startswith("target_") for name in columns))
        return cls(**known, targets=tuple((columns[f"target_{n}"], columns[f"share_{n}"]) for n in numbers))

    def columns(self) -> dict[str, Floats]:
        """Return the columns that there are, by name; those of target number 1 are `target_1` and `share_1`."""
        found = {name: column for name in _COLUMNS if (column := getattr(self, name)) is not None}
        for number, (prices, shares) in enumerate(self.targets, 1):
            found |= {f"target_{number}": prices, f"share_{number}": shares}
        return found

    @property
    def has_plans(self) -> bool:
        """Return whether entries may have targets or a move to break-even."""
        read = [prices for prices, _ in self.targets]
        read += [column for column in (self.break_even_after, self.break_even_risk) if column is not None]
        return any(bool(np.isfinite(column).any()) for column in read)

    def plan_at(self, index: int) -> ParentPlan | None:
        """Return the plan of an entry decided on bar `index`, with prices as they were decided; None without one. One
        target alone is the entry's take profit (`take_profit_at`), and in no plan."""
        after, risk, ticks = (
            None if column is None or not np.isfinite(column[index]) else float(column[index])
            for column in (self.break_even_after, self.break_even_risk, self.break_even_ticks)
        )
        rule = None
        if after is not None:
            rule = BreakEven(after_target=int(after), offset_ticks=int(ticks or 0))
        elif risk is not None:
            rule = BreakEven(at_risk=Decimal(repr(risk)), offset_ticks=int(ticks or 0))
        prices = self._targets_at(index)
        if self.stop_loss is None or not np.isfinite(self.stop_loss[index]) or (len(prices) < 2 and rule is None):
            return None
        shares = [Decimal(round(share * 10**SHARE_PLACES)).scaleb(-SHARE_PLACES) for _, share in prices[:-1]]
        shares.append(1 - sum(shares, Decimal(0)))
        targets = zip((Decimal(repr(price)) for price, _ in prices), shares, strict=False)
        stop = Decimal(repr(float(self.stop_loss[index])))
        return ParentPlan(stop, tuple(ProfitTarget(*one) for one in targets) if len(prices) > 1 else (), rule)

    def take_profit_at(self, index: int) -> float:
        """Return the take profit of an entry decided on bar `index`, that of its only target included; NaN without
        one."""
        prices = self._targets_at(index)
        if prices:
            return prices[0][0] if len(prices) == 1 else float("nan")
        return float("nan") if self.take_profit is None else float(self.take_profit[index])

    def _targets_at(self, index: int) -> list[tuple[float, float]]:
        found = ((float(prices[index]), float(shares[index])) for prices, shares in self.targets)
        return [one for one in found if np.isfinite(one[0])]

    def moves(self) -> Floats | None:
        """Return `stop_move` where it is read, and NaN elsewhere; None when it moves no stop."""
        return self._read_moves(self.stop_move)

    def take_profit_moves(self, close: Floats) -> Floats | None:
        """Return `take_profit_move` where it is read, given the closes, and NaN elsewhere; None when it moves none."""
        found = self._read_moves(self.take_profit_move)
        if found is None:
            return None
        found = np.where((found - close) * self.target > 0.0, found, np.nan)
        return None if np.isnan(found).all() else found

    def entry_moves(self) -> tuple[Floats | None, Floats | None]:
        """Return `entry_limit_move` and `entry_stop_move` where they are read, and NaN elsewhere; None for one that
        moves nothing."""
        return (
            self._read_entry_moves(self.entry_limit_move, self.entry_limit),
            self._read_entry_moves(self.entry_stop_move, self.entry_stop),
        )

    def _read_entry_moves(self, prices: Floats | None, placed: Floats | None) -> Floats | None:
        found = self._read_moves(prices)
        if found is None or placed is None:
            return None
        before = np.concatenate([[0.0], self.target[:-1]])
        opened = np.maximum.accumulate(np.where(self.target * before > 0.0, 0, np.arange(len(before))))
        can_move = np.isfinite(placed[opened]) & (self.target == self.target[opened])
        found = np.where(can_move, found, np.nan)
        return None if np.isnan(found).all() else found

    def _read_moves(self, prices: Floats | None) -> Floats | None:
        if prices is None:
            return None
        before = np.concatenate([[0.0], self.target[:-1]])
        is_price = np.isfinite(prices) & (prices > 0.0)
        found: Floats = np.where((self.target * before > 0.0) & is_price, prices, np.nan)
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

    def training(self) -> int:
        """Return how many bars before the first decision the strategy is fitted on; 0: it has nothing to fit
        (`fks.strategies.base.fitted`)."""
        return 0

    def group(self, symbol: str) -> EntryGroup | None:
        """Return the group whose entries are made together or not at all, when `symbol` is the one that is traded; None
        by default. All legs return the same one."""
        return None

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
            remedy=f"give it bars.joined({{{symbol!r}: …}})",
        )
    return found


def group_of(strategy: Strategy, symbol: str) -> EntryGroup | None:
    """Return the strategy's group when `symbol` is the one that is traded. Errors: StrategyError for a wrong one."""
    found = strategy.group(symbol)
    if found is None:
        return None
    legs = found.symbols
    is_plain = found.name.isprintable() and all(leg == folded(leg) and leg.isprintable() for leg in legs)
    if not is_plain or len(set(legs)) != len(legs) or len(legs) < 2 or folded(symbol) not in legs:
        raise StrategyError(
            f"strategy {strategy.name}: its group for {symbol} is {found}",
            remedy="return a name and two or more symbols as BTCUSDT is written, its own among them, from group()",
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
    if not ((target == np.rint(target)) & (np.abs(target) <= most)).all():  # parts are closed, or one is wrong
        _ensure_targets(strategy, decisions, target, bars)
    if most > 1:
        _ensure_market_entries(strategy, replace(decisions, target=target), bars)
    return replace(decisions, target=target)


def _ensure_targets(strategy: Strategy, decisions: Decisions, target: Floats, bars: Bars) -> None:
    """Refuse a target beyond the entries that a position may have, or that grows otherwise than by whole ones. Errors:
    StrategyError."""
    warmup, most = warmup_of(strategy), strategy.entries_max()
    before = np.concatenate([[0.0], target[:-1]])
    is_same = target * before > 0.0
    grown = np.where(is_same, np.abs(target) - np.abs(before), np.abs(target))
    is_whole = np.abs(grown - np.rint(grown)) < _WHOLE_WITHIN  # a sum of floats
    if warmup < len(target) and _began_whole(decisions.target, warmup):
        is_whole[warmup] = True
    is_wrong = ~(np.abs(target) <= most) | ((grown > 0.0) & ~is_whole) | (is_same & (grown > 0.0) & (most == 1))
    if is_wrong.any():
        raise target_wrong(strategy, decisions, bars, int(np.argmax(is_wrong)))


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
    that part: no decision sees a later split. Its prices are returned in shares of the columns. Over a roll of a
    continuous future it is asked in the same way, on the contract of each part.
    """
    if not len(bars) or not any(part.splits or part.rolls for part in (bars, *bars.inputs.values())):
        return _decide(strategy, bars)
    rows = bars.split_rows
    places = bars.splits[0].places + split_digits(bars.splits) if bars.splits else 0  # of the columns
    parts: list[dict[str, Floats]] = []
    for start, end in zip([0, *rows], [*rows, len(bars)], strict=True):
        part, factor = _decide(strategy, bars.known(end)), bars.split_factor(end - 1)
        columns = {name: column[start:] for name, column in part.columns().items()}
        if factor != 1.0:
            prices = [name for name in columns if name in PRICE_COLUMNS or name.startswith("target_")]
            columns |= {name: np.round(columns[name] / factor, places) for name in prices}
        parts.append(columns)
    sizes = [len(part["target"]) for part in parts]
    return Decisions.of(
        {
            name: np.concatenate(
                [part.get(name, np.full(size, np.nan)) for part, size in zip(parts, sizes, strict=True)]
            )
            for name in dict.fromkeys(name for part in parts for name in part)
        }
    )


def _decide(strategy: Strategy, bars: Bars) -> Decisions:
    if len(bars) <= warmup_of(strategy):
        return Decisions(np.zeros(len(bars)))
    found = called(strategy, bars)
    if found.size_share is not None:
        _ensure_shares(strategy, found, bars)
    if found.has_plans:
        _ensure_plans(strategy, found, bars)
    if any(column is not None for column in found.entry_moves()) and group_of(strategy, bars.symbol) is not None:
        raise _broken(strategy, "the order of an entry is moved, and those of a group are made together")
    if found.entry_bars is None or (found.entry_limit is None and found.entry_stop is None):
        return found
    return replace(found, target=_expired(found, bars))


def called(strategy: Strategy, bars: Bars) -> Decisions:
    """Return what `decide` returns, with the shapes of its columns checked. Errors: StrategyError, also when it
    raises."""
    count = len(bars)
    try:
        decisions = strategy.decide(readonly(bars))
    except FksError:
        raise
    except (Exception, SystemExit) as error:  # user code may raise anything
        raise raised(strategy, f"decide() with {count} bars", error) from error
    if not isinstance(decisions, Decisions):
        raise _broken(strategy, f"decide() returned {type(decisions).__name__}, not Decisions")
    if len(decisions.targets) > TARGETS_MAX:
        raise _broken(strategy, f"an entry has at most {TARGETS_MAX} targets, not {len(decisions.targets)}")
    return Decisions.of({name: _column(strategy, name, column, count) for name, column in decisions.columns().items()})


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


def _ensure_plans(strategy: Strategy, decisions: Decisions, bars: Bars) -> None:
    """Refuse targets, or a move to break-even, that an entry cannot have. Errors: StrategyError."""
    target = decisions.target.copy()
    target[: warmup_of(strategy)] = 0.0
    side = np.sign(target)
    for index in np.flatnonzero((side != 0.0) & (side != np.concatenate([[0.0], side[:-1]]))).tolist():
        if wrong := _wrong_plan(decisions, index, strategy.entries_max()):
            raise _broken(strategy, f"{wrong} at bar {_bar(bars, index)}")


def _wrong_plan(decisions: Decisions, index: int, entries_max: int) -> str:
    """Return what is wrong with the targets and the break-even of an entry decided on bar `index`, or nothing."""

    def value(column: Floats | None) -> float:
        return float("nan") if column is None else float(column[index])

    prices = [value(column) for column, _ in decisions.targets]
    shares = [value(column) for _, column in decisions.targets]
    count = len([price for price in prices if np.isfinite(price)])
    after, risk, ticks = (value(getattr(decisions, name)) for name in _BREAK_EVEN)
    sign, least = float(np.sign(decisions.target[index])), 10.0**-SHARE_PLACES
    if not np.isfinite([*prices, after, risk]).any():
        return ""
    if entries_max > 1:
        return "a position of several entries takes no targets and no break-even"
    if not np.isfinite(value(decisions.stop_loss)):
        return "targets and break-even need a stop_loss"
    if not all(np.isfinite(prices[:count])):
        return "the targets are not without a gap: the first ones are the nearest"
    if count and np.isfinite(value(decisions.take_profit)):
        return "an entry has targets or a take_profit, not both"
    if any(price <= 0.0 for price in prices[:count]):
        return "a target may be a price above 0, or NaN for none"
    if any((later - one) * sign <= 0.0 for one, later in pairwise(prices[:count])):
        return "the targets are not in their order, the nearest first and each at its own price"
    if count and not (all(share >= least for share in shares[:count]) and abs(sum(shares[:count]) - 1.0) < least):
        return (
            f"the shares of the targets are {sum(shares[:count]):g} together, and each may be above 0, all 1 together"
        )
    if np.isfinite(after) and np.isfinite(risk):
        return "break-even is by a target or by the risk, not both"
    if np.isfinite(after) and not (after.is_integer() and 1 <= after <= max(count, 1)):
        return f"break_even_after is {after:g}, and there is no such target"
    if np.isfinite(risk) and risk <= 0.0:
        return f"break_even_risk is {risk:g}; it may be above 0"
    if np.isfinite(ticks) and not ticks.is_integer():
        return f"break_even_ticks is {ticks:g}; it may be a whole number"
    return ""


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
    moves = [nothing if column is None else column for column in decisions.entry_moves()]
    rests = np.isfinite(lives[changes]) & (np.isfinite(limits[changes]) | np.isfinite(stops[changes]))
    for start, end in zip(changes[rests].tolist(), ends[rests].tolist(), strict=True):
        side, last = target[start], start + max(int(lives[start]), 1)
        if side != 0.0 and last < min(end, falls[np.searchsorted(falls, start)]):  # a fall ends it, too
            order = EntryOrder(int(side), limits[start], stops[start])
            for row in range(start + 1, last + 1):
                if order.reach(bars.open[row], bars.high[row], bars.low[row], bars.close[row]) is not None:
                    break
                order = order.moved(float(moves[0][row]), float(moves[1][row]))
            else:
                target[last:end] = 0.0
    return target


class EntryOrder:
    """The order of an entry as its bars fill it, in floats: `side` 1 or -1, `limit` and `stop` NaN for none.
    `is_limit`: it rests as a limit, as its stop has triggered beyond it or it has none."""

    __slots__ = ("is_limit", "limit", "side", "stop")

    def __init__(self, side: int, limit: float, stop: float) -> None:
        self.side, self.limit, self.stop = side, limit, stop
        self.is_limit = stop != stop  # NaN: there is no stop to wait for

    def moved(self, limit: float, stop: float) -> EntryOrder:
        """Return the order at other prices, NaN for one that stays; itself when none is another one."""
        has_limit, has_stop = limit == limit and limit != self.limit, stop == stop and stop != self.stop
        if not (has_limit or has_stop):
            return self
        return EntryOrder(self.side, limit if has_limit else self.limit, stop if has_stop else self.stop)

    def reach(self, open_: float, high: float, low: float, close: float) -> float | None:
        """Return the price at which the next bar fills it, or None. Call it once per bar, in order."""
        side, limit = self.side, self.limit
        if not self.is_limit:
            if (high < self.stop) if side > 0 else (low > self.stop):
                return None
            price = max(open_, self.stop) if side > 0 else min(open_, self.stop)
            if not (price - limit) * side > 0:
                return price
            self.is_limit = True
            return limit if (close - limit) * side <= 0 else None
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
        column, is_read = getattr(decisions, name), is_entry if name not in _MOVES else (target != 0.0) & ~is_entry
        if column is not None and (is_wrong := is_read & (column <= 0.0)).any():
            at = int(np.argmax(is_wrong))
            where = f"at bar {_bar(bars, at)}, where it {'enters' if name not in _MOVES else 'holds'}"
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


def readonly(bars: Bars) -> Bars:
    """Return bars whose columns cannot be written to."""
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
    except (Exception, SystemExit) as error:  # user code may raise anything
        raise raised(strategy, "warmup()", error) from error
    if isinstance(bars, bool) or not isinstance(bars, int | np.integer) or bars < 0:
        raise _broken(strategy, f"warmup() returned {bars!r}, which is no number of bars", "warmup")
    return int(bars)


def raised(strategy: Strategy, what: str, error: BaseException) -> StrategyError:
    """Return the error of a strategy whose code raised: the call, the exception, and its own line."""
    place = raised_at(error, type(strategy))
    return StrategyError(
        f"strategy {strategy.name}: {what} raised {one_line(error)}",
        code="STRATEGY_RAISED",
        remedy=f"correct {place or 'its code'}",
    )


def _broken(strategy: Strategy, what: str, method: str = "decide") -> StrategyError:
    return StrategyError(f"strategy {strategy.name}: {what}", remedy=f"correct {defined_at(type(strategy), method)}")
