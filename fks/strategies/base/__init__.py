"""Imports of a strategy file: the base classes, the decisions that `decide` returns, and helpers for targets."""

from fks.strategies.base.strategy import (
    Decisions,
    Protected,
    Strategy,
    StrategyError,
    checked,
    decide,
    evaluate,
    hold,
    side_to_target,
    target_wrong,
)

__all__ = [
    "Decisions",
    "Protected",
    "Strategy",
    "StrategyError",
    "checked",
    "decide",
    "evaluate",
    "hold",
    "side_to_target",
    "target_wrong",
]
