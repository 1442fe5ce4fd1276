"""The strategy's contract: parameters are fields, the decision is one pure method over columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from fks.model.bar import Bars, Floats
from fks.model.errors import InputError


class StrategyError(InputError):
    """A strategy broke its contract: its file, its parameters or what it returned. The message names the bar."""


@dataclass(frozen=True, slots=True)
class Decisions:
    """What a strategy wants at the close of each bar; columns of the bars' length.

    `target`: -1 short, 0 flat, 1 long. `stop_loss`, `take_profit`: absolute prices of the protections of an entry
    decided on that bar (NaN = none); they are read only where the target leaves 0 or changes its sign.
    """

    target: Floats
    stop_loss: Floats | None = None
    take_profit: Floats | None = None


class Strategy(BaseModel, ABC):
    """Derive from this, declare parameters as fields, and answer two questions.

    `decide` is a pure function of the columns: no clock, no dice, no state, no look at later bars. The same object runs
    in backtest, paper and live; live calls it again with more rows, always from the same anchor bar.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ClassVar[str]

    @abstractmethod
    def warmup(self) -> int:
        """Return how many bars the decision needs before its first valid one: nothing is decided on those."""

    @abstractmethod
    def decide(self, bars: Bars) -> Decisions:
        """Return the wanted position at the close of every bar of `bars`. Row i may depend on rows 0…i only."""


def evaluate(strategy: Strategy, bars: Bars) -> Decisions:
    """Return the strategy's decisions, checked: right shapes, targets only -1, 0 and 1, nothing during warm-up.

    The strategy gets columns it cannot write to: they are shared with the next evaluation.

    With no more bars than the warm-up the strategy is not asked. Errors: StrategyError naming the first wrong bar;
    whatever the strategy itself raises goes through.
    """
    count, warmup = len(bars), strategy.warmup()
    if count <= warmup:
        return Decisions(np.zeros(count))
    decisions = strategy.decide(_readonly(bars))
    if not isinstance(decisions, Decisions):
        raise _broken(strategy, f"decide() returned {type(decisions).__name__}, not Decisions")
    target = _column(strategy, "target", decisions.target, count).copy()
    target[:warmup] = 0.0
    wrong = np.flatnonzero(~np.isin(target, (-1.0, 0.0, 1.0)))
    if len(wrong):
        at = int(wrong[0])
        raise _broken(strategy, f"target is {target[at]} at bar {at}; it may be -1, 0 or 1")
    stop, profit = (
        None if column is None else _column(strategy, name, column, count)
        for name, column in (("stop_loss", decisions.stop_loss), ("take_profit", decisions.take_profit))
    )
    return Decisions(target, stop, profit)


def _readonly(bars: Bars) -> Bars:
    view = bars[:]
    for column in (view.time_ns, view.open, view.high, view.low, view.close, view.volume):
        column.setflags(write=False)
    return view


def _column(strategy: Strategy, name: str, column: object, count: int) -> Floats:
    values = np.asarray(column, dtype=np.float64)
    if values.shape != (count,):
        raise _broken(strategy, f"{name} has shape {values.shape} for {count} bars")
    return values


def _broken(strategy: Strategy, what: str) -> StrategyError:
    return StrategyError(
        f"strategy {strategy.name}: {what}", code="STRATEGY_WRONG", status=422, remedy="mend the strategy's decide()"
    )
