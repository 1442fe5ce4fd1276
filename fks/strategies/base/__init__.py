"""What a strategy file imports: the class to derive from, the shape of its answer, and the checks around one call."""

from fks.strategies.base.protect import Protected
from fks.strategies.base.strategy import Decisions, Strategy, StrategyError, evaluate
from fks.strategies.base.targets import hold, side_to_target

__all__ = ["Decisions", "Protected", "Strategy", "StrategyError", "evaluate", "hold", "side_to_target"]
