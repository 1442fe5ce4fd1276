"""Random runs of the audited generator through the local exchange: its fills stand the audit of a backtest's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np

from fks.strategies.base import evaluate
from fks.trading.matching import CostModel
from tests.support.exchange_replay import ExchangeReplay, play, tape_flags
from tests.support.random_runs import RandomRun
from tests.support.result_audit import AuditedRun, audit
from tests.support.sim_process import Sim

#: a limit that a bar's open fills beyond its stop: the client learns of it when that bar is complete
LATE = 684
#: situations that the runs have to reach, each so often
SITUATIONS = (
    "entry: open",
    "entry: limit",
    "own bar: the stop is passed",
    "own bar after open: the stop",
    "own bar after open: the target",
    "own bar after open: both legs",
    "own bar after limit: the stop",
    "own bar after limit: the target",
    "own bar after limit: both legs",
    "later: the stop",
    "later: the target",
)


def runs_without_stops() -> dict[str, RandomRun]:
    """Return runs by the symbols that trade them, with the costs of the exchange and cash for all. Runs with entries by
    stops are left out, whose protection the exchange cannot have before their bar is complete."""
    found = {}
    for seed in range(300, 700, 6):
        run = RandomRun(seed, is_plain=True)
        run.setup = replace(run.setup, costs=CostModel(Decimal("0.001"), "received"), cash=Decimal(1_000_000))
        stops = run.decided.entry_stop
        if seed != LATE and (stops is None or not np.isfinite(stops).any()):
            found[f"A{seed}USDT"] = run
    return found


def test_random_runs_through_the_exchange_stand_the_audit(start_sim: Callable[..., Sim], tmp_path: Path) -> None:
    runs = runs_without_stops()
    sim = start_sim(*tape_flags(tmp_path, {symbol: run.bars for symbol, run in runs.items()}))
    found = {
        symbol: ExchangeReplay(sim, symbol, run.bars, run.setup, evaluate(run.decided, run.bars))
        for symbol, run in runs.items()
    }
    play(sim, list(found.values()))
    seen, wrong = Counter[str](), {}
    for symbol, run in runs.items():
        fills, refused = tuple(found[symbol].fills), frozenset(found[symbol].refused)
        wrong[symbol] = audit(AuditedRun(run.bars, run.setup, run.decided, fills, refused), seen)
    assert {symbol: lines[:2] for symbol, lines in wrong.items() if lines} == {}
    assert sum(len(one.fills) > 1 for one in found.values()) >= 10
    assert min(seen[situation] for situation in SITUATIONS) >= 2, seen
