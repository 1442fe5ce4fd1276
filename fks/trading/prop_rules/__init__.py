"""Rules of prop firms as data, and their evaluation: verdicts for entries and required actions. Pure.

The rules refuse entries and never exits. A value that is not known counts as a failed check.
"""

from fks.trading.prop_rules.account import AccountState, EntryRequest, Holding, WorkingEntry
from fks.trading.prop_rules.evaluation import (
    ORDER_CODES,
    Distance,
    RequiredAction,
    RuleDenial,
    check_entry,
    consistency_pct,
    distances,
    drawdown_threshold,
    required_action,
)
from fks.trading.prop_rules.groups import SHIPPED, find_group, parse_group, shipped_group
from fks.trading.prop_rules.hours import Hours, hours_of
from fks.trading.prop_rules.modes import Mode, age_days, mode_of, problems_of
from fks.trading.prop_rules.rules import RuleGroup

__all__ = [
    "ORDER_CODES",
    "SHIPPED",
    "AccountState",
    "Distance",
    "EntryRequest",
    "Holding",
    "Hours",
    "Mode",
    "RequiredAction",
    "RuleDenial",
    "RuleGroup",
    "WorkingEntry",
    "age_days",
    "check_entry",
    "consistency_pct",
    "distances",
    "drawdown_threshold",
    "find_group",
    "hours_of",
    "mode_of",
    "parse_group",
    "problems_of",
    "required_action",
    "shipped_group",
]
