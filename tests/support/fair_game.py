"""Backtests on random walks without drift and without costs, where no order can be expected to earn.

A walk makes steps of one tick, also between two bars, so that some open with a gap. `trades_of` has the profit of whole
trades, in ticks, by the order of the entry and its exits; `edges_of` that of single fills against the close of their
bar, by role and type of the order: 0 on average for a fill at a price that was there, more only for one that was not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import product

import numpy as np
import numpy.typing as npt

from fks.model.bar import Bars
from fks.model.instrument import Instrument
from fks.model.order import Role
from fks.model.timeframe import NS
from fks.research.backtest import Result, Setup
from fks.research.backtest.limits import UNLIMITED
from fks.research.backtest.run import EngineName
from fks.trading.matching import CostModel
from tests.support.backtests import run
from tests.support.given import Given
from tests.support.strategies import START_NS

UNIT = Instrument("x", "WALKUSD", "WALK", "USD", *map(Decimal, ("1", "1", "1", "1000000", "1")))
#: distances in ticks: of the entry's order from the close, of its limit beyond its stop, and of the exits
ENTRIES: dict[str, tuple[int | None, int | None]] = {
    "market": (None, None),
    "limit": (-20, None),
    "stop": (None, 20),
    "stop-limit, limit beyond its stop": (25, 20),
    "stop-limit, limit before its stop": (10, 20),
}
#: stop loss, take profit and trailing distance from the price that sizes the entry
EXITS: dict[str, tuple[int | None, int | None, int | None]] = {
    "none": (None, None, None),
    "target 5": (None, 5, None),
    "target 30": (None, 30, None),
    "stop 5": (5, None, None),
    "stop 30": (30, None, None),
    "stop 5, target 5": (5, 5, None),
    "stop 30, target 30": (30, 30, None),
    "stop 60, target 5": (60, 5, None),
    "trail 20": (None, None, 20),
}


@dataclass(frozen=True)
class Edge:
    """Profits in ticks of one kind: how many, their mean, its standard error, and how many bars were unclear."""

    count: int
    mean: float
    error: float
    unclear: int = 0

    @property
    def t(self) -> float:
        return self.mean / self.error if self.error else 0.0

    @classmethod
    def of(cls, ticks: Sequence[float], unclear: int = 0) -> Edge:
        values = np.array(ticks)
        return cls(len(values), float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))), unclear)


def walks(tapes: int, seed: int, *, bars: int = 400, steps: int = 200, gap_steps: int = 200) -> list[Bars]:
    """Return tapes of a walk: of each `steps` + `gap_steps` steps of one tick the first are a bar."""
    dice, found = np.random.default_rng(seed), []
    times = START_NS + np.arange(bars, dtype=np.int64) * 3600 * NS
    for _ in range(tapes):
        path = 20_000 + np.cumsum(dice.choice(np.array([-1, 1], dtype=np.int64), bars * (steps + gap_steps)))
        inside = path.reshape(bars, steps + gap_steps)[:, :steps].astype(np.float64)
        columns = (inside[:, 0], inside.max(axis=1), inside.min(axis=1), inside[:, -1])
        found.append(Bars("WALKUSD", "1h", times, *(np.ascontiguousarray(c) for c in columns), np.ones(bars)))
    return found


def games() -> Iterator[tuple[str, str]]:
    """Yield each order of an entry with each of its exits."""
    return product(ENTRIES, EXITS)


def results(entry: str, exits: str, tapes: int, *, engine: EngineName = "compiled") -> list[Result]:
    """Return the backtests of one unit, long and short in turn, with the orders of a kind, on walks of its own."""
    number = list(games()).index((entry, exits))
    setup = Setup(UNIT, CostModel(Decimal(0)), "quantity", Decimal(1), Decimal(10**9), True, limits=UNLIMITED)
    found = []
    for bars in walks(tapes, number):
        result = run(_decided(bars, ENTRIES[entry], EXITS[exits]), bars, setup, engine=engine)
        assert not result.denied, result.denied[0]
        found.append(result)
    return found


def _decided(
    bars: Bars, entry: tuple[int | None, int | None], exits: tuple[int | None, int | None, int | None]
) -> Given:
    target = np.tile([1.0, 1.0, 1.0, 0.0, -1.0, -1.0, -1.0, 0.0], len(bars) // 8 + 1)[: len(bars)]
    side, nothing = np.where(target < 0, -1, 1), None

    def away(base: npt.NDArray[np.float64], ticks: int | None) -> tuple[float, ...] | None:
        return nothing if ticks is None else tuple((base + side * ticks).tolist())

    limit, stop = (away(bars.close, ticks) for ticks in entry)
    paid = np.array(limit or stop or bars.close)
    loss, profit, trail = exits
    return Given(
        target=tuple(target.tolist()),
        entry_limit=limit,
        entry_stop=stop,
        stop=away(paid, None if loss is None else -loss),
        limit=away(paid, profit),
        trail=None if trail is None else (float(trail),) * len(bars),
    )


def trades_of(made: Iterable[Result]) -> Edge:
    """Return the profits of whole trades."""
    kept = list(made)
    return Edge.of([float(trade.pnl) for one in kept for trade in one.trades], sum(one.unclear for one in kept))


def edges_of(made: Iterable[Result], entry: str) -> dict[tuple[str, str], list[float]]:
    """Return by how many ticks each fill was better than the close of its bar, by role and type of its order."""
    found: dict[tuple[str, str], list[float]] = {}
    kinds = {Role.ENTRY: entry, Role.EXIT: "market", Role.STOP_LOSS: "stop", Role.TAKE_PROFIT: "limit"}
    for one in made:
        closes = dict(zip(one.bars.time_ns.tolist(), one.bars.close.tolist(), strict=True))
        for fill in one.fills:
            ticks = (closes[fill.time_ns] - float(fill.price)) * fill.side.sign
            found.setdefault((fill.role.value, kinds[fill.role]), []).append(ticks)
    return found
