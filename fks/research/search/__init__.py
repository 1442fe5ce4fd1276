"""Search of parameters: spaces, plans, splits, and statistics that distinguish skill from chance.

`search(strategy class, space, bars, setup, plan)` needs no database and no Ray. Each trial is a whole backtest by
`fks.research.backtest`; the winner is judged on bars that did not choose it, and deflated by the number of trials.
"""

from fks.research.backtest.metrics import probabilistic_sharpe
from fks.research.search.evaluate import SearchTask, Trial, evaluate, evaluate_ranges, run_range
from fks.research.search.montecarlo import TradeRuns, resample_trades
from fks.research.search.objectives import OBJECTIVES, metrics_of, period_returns
from fks.research.search.overfitting import (
    Overfitting,
    backtest_overfitting,
    block_sums,
    deflated_sharpe,
    expected_best_sharpe,
    track_record_needed,
)
from fks.research.search.plans import Plan, Proposal, planner_of
from fks.research.search.run import Search, search, serial, task_of
from fks.research.search.space import Dimension, Space, space_of
from fks.research.search.splits import Split, Validation, combinatorial_purged, hold_out, purged_k_fold, walk_forward
from fks.research.search.stability import Neighbourhood, Surface

__all__ = [
    "OBJECTIVES",
    "Dimension",
    "Neighbourhood",
    "Overfitting",
    "Plan",
    "Proposal",
    "Search",
    "SearchTask",
    "Space",
    "Split",
    "Surface",
    "TradeRuns",
    "Trial",
    "Validation",
    "backtest_overfitting",
    "block_sums",
    "combinatorial_purged",
    "deflated_sharpe",
    "evaluate",
    "evaluate_ranges",
    "expected_best_sharpe",
    "hold_out",
    "metrics_of",
    "period_returns",
    "planner_of",
    "probabilistic_sharpe",
    "purged_k_fold",
    "resample_trades",
    "run_range",
    "search",
    "serial",
    "space_of",
    "task_of",
    "track_record_needed",
    "walk_forward",
]
