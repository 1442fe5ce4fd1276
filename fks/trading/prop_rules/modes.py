"""Mode of an account under a group's rules: automated only with complete, verified rules that allow it."""

from __future__ import annotations

from datetime import date
from enum import StrEnum

from fks.trading.prop_rules.rules import REQUIRED, Rule, RuleGroup

AGE_MAX_DAYS = 30  # figures that were verified longer ago are not relied on: firms change them without notice


class Mode(StrEnum):
    """The handling of an account's signals: send them, show them to a person, or nothing."""

    AUTO = "auto"
    RELAY = "relay"
    OFF = "off"


def age_days(rule: Rule, today: date) -> int | None:
    """Return the days since the figure was verified with the firm; None when it never was."""
    return None if rule.verified_on is None else (today - rule.verified_on).days


def problems_of(group: RuleGroup | None, today: date) -> list[tuple[Mode, str]]:
    """Return the reasons for which the group's accounts are not automated, each with the mode that it allows."""
    if group is None:
        return [(Mode.OFF, "there is no rule file")]
    present = group.rules.present()
    found = [(Mode.OFF, f"{name} is missing") for name in REQUIRED if name not in present]
    for name, rule in present.items():
        age = age_days(rule, today)
        if age is None:
            found.append((Mode.RELAY, f"{name} was not verified with the firm"))
        elif age < 0:
            found.append((Mode.OFF, f"{name} is verified on {rule.verified_on}, which is in the future"))
        elif age > AGE_MAX_DAYS:
            found.append((Mode.RELAY, f"{name} was verified {age} days ago, more than {AGE_MAX_DAYS}"))
    automation = group.rules.automation
    if automation is not None and not automation.is_allowed:
        found.append((Mode.RELAY, f"the firm's rule on automation is {automation.value}"))
    return found


def mode_of(wanted: Mode, group: RuleGroup | None, today: date) -> Mode:
    """Return the mode of an account that is set to `wanted`: never more than the rules allow. `today`: UTC."""
    order = [Mode.OFF, Mode.RELAY, Mode.AUTO]
    return min([wanted, *(mode for mode, _ in problems_of(group, today))], key=order.index)
