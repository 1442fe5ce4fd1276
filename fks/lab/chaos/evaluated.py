"""Targets of strategies that the auditor has no calculation of: their own code, run once over all stored bars.

The only part of `fks.lab.chaos` that runs code of the audited system; `fks.lab.chaos.decisions` says which proof that
is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fks.lab.chaos.decisions import Target
from fks.model.bar import Bars
from fks.strategies.base import Strategy, evaluate, warmup_of
from fks.strategies.registry import NarrowCatalogue


def strategy_of(folder: Path, name: str, params: Mapping[str, Any]) -> Strategy:
    """Return the strategy with its parameters; `folder` has the users' files. Errors: InputError."""
    return NarrowCatalogue(folder).make(name, params)


def targets_of(strategy: Strategy, bars: Bars) -> list[Target]:
    """Return the target of every bar that decides. Errors: StrategyError."""
    decided = slice(warmup_of(strategy), None)
    times = (bars.time_ns[decided] // 1_000_000_000).tolist()
    return list(zip(times, evaluate(strategy, bars).target[decided].tolist(), strict=True))
