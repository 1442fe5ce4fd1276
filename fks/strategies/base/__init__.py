"""Imports of a strategy file: the base classes, the decisions that `decide` returns, and helpers for targets."""

from fks.strategies.base.bar_strategy import BarStrategy, Context
from fks.strategies.base.strategy import (
    PRICE_COLUMNS,
    Decisions,
    EntryOrder,
    Protected,
    Strategy,
    StrategyError,
    checked,
    decide,
    ensure_prices,
    evaluate,
    hold,
    input_bars,
    opened_at,
    side_to_target,
    target_wrong,
    warmup_of,
)

__all__ = [
    "PRICE_COLUMNS",
    "BarStrategy",
    "Context",
    "Decisions",
    "EntryOrder",
    "Protected",
    "Strategy",
    "StrategyError",
    "checked",
    "decide",
    "ensure_prices",
    "evaluate",
    "hold",
    "input_bars",
    "opened_at",
    "side_to_target",
    "target_wrong",
    "warmup_of",
]
