"""Rules of alerts as data: their kinds, their checks and those that come with FKS."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

#: Lowest first.
SEVERITIES = ("info", "warning", "error", "page")
#: The longest look back of a rule of kind `rate`; occurrences are read this far back.
WINDOW_MAX_S = 3600.0
NAME = r"[a-z0-9][a-z0-9._-]{0,63}"
Names = Annotated[tuple[Annotated[str, Field(max_length=64)], ...], Field(max_length=20)]
_YEAR_S = 366 * 86400.0


class RuleKind(StrEnum):
    THRESHOLD = "threshold"  # a measure is beyond the limit
    DURATION = "duration"  # it has been beyond the limit for `for_s`
    ABSENCE = "absence"  # nothing of that name was seen for `for_s`
    RATE = "rate"  # `count` occurrences within `window_s`; window_s 0: each occurrence is a notice of its own
    ROUTE = "route"  # raises nothing: it selects the channels for alerts that other parts raise


class AlertRule(BaseModel):
    """One rule. `on` is the pattern of a measure's or an occurrence's name; of a route, of an alert's event."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=f"^{NAME}$", description="name of the rule")
    kind: RuleKind = Field(description="threshold, duration, absence, rate or route")
    on: str = Field(min_length=1, max_length=128, description="what it is about; * stands for anything")
    severity: str = Field("warning", description="info, warning, error or page")
    above: float | None = Field(
        None, allow_inf_nan=False, description="threshold, duration: fires at this value or more"
    )
    below: float | None = Field(None, allow_inf_nan=False, description="threshold, duration: or at this one or less")
    for_s: float = Field(0.0, ge=0, le=_YEAR_S, description="duration, absence: seconds until it fires")
    count: int = Field(1, ge=1, le=10_000, description="rate: occurrences that fire it")
    window_s: float = Field(0.0, ge=0, le=WINDOW_MAX_S, description="rate: within so many seconds")
    by: Names = Field((), description="labels of which each combination is an alert of its own; none: all labels")
    group_s: float = Field(0.0, ge=0, le=86400.0, description="at most one message in so many seconds, for all of them")
    channels: Names = Field((), description="channels that are notified; none: all that take its severity")
    escalate_after_s: float | None = Field(
        None, gt=0, le=_YEAR_S, description="notify escalate_to when nobody has acknowledged it for so long"
    )
    escalate_to: Names = Field((), description="channels of the escalation")
    message: str = Field("", max_length=500, description="text, with {label} and {value}; none: the event's own")
    resolve_message: str = Field("", max_length=500, description="text when it is over")
    is_resolve_sent: bool = Field(True, description="whether the end is sent, too")
    is_enabled: bool = Field(True, description="whether the rule is used")

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity is one of {', '.join(SEVERITIES)}")
        is_level = self.kind in (RuleKind.THRESHOLD, RuleKind.DURATION)
        if is_level != ((self.above is None) != (self.below is None)):
            raise ValueError("threshold and duration take one of above and below; the other kinds take neither")
        if (self.kind in (RuleKind.DURATION, RuleKind.ABSENCE)) != (self.for_s > 0):
            raise ValueError("duration and absence need for_s; the other kinds take none")
        if self.kind is not RuleKind.RATE and (self.count != 1 or self.window_s):
            raise ValueError("count and window_s belong to rate")
        if self.count > 1 and not self.window_s:
            raise ValueError("a rate with a count needs window_s")
        if (self.escalate_after_s is None) != (not self.escalate_to):
            raise ValueError("escalate_after_s and escalate_to belong together")
        return self

    @property
    def is_notice(self) -> bool:
        """Return whether each occurrence is a notice of its own, which has no end."""
        return self.kind is RuleKind.RATE and not self.window_s

    def matches(self, name: str) -> bool:
        """Return whether the rule is about a name."""
        return fnmatchcase(name, self.on)

    def is_beyond(self, value: float) -> bool:
        """Return whether a measure's value is beyond the limit."""
        return value >= self.above if self.above is not None else self.below is not None and value <= self.below


class Silence(BaseModel):
    """Alerts whose event and component match are not delivered before `until`. What is still open then is delivered."""

    model_config = ConfigDict(frozen=True)

    event: str = "*"
    component: str = "*"
    until: datetime

    def covers(self, event: str, component: str, now: datetime) -> bool:
        """Return whether it holds back an alert now."""
        return now < self.until and fnmatchcase(event, self.event) and fnmatchcase(component, self.component)


#: The rules that come with FKS. A row of the same name takes the place of one of them.
DEFAULTS: tuple[AlertRule, ...] = (
    AlertRule(name="fill", kind=RuleKind.RATE, on="trade.fill", severity="info", group_s=10),
    AlertRule(
        name="denial", kind=RuleKind.RATE, on="signal.denied", severity="warning", window_s=900,
        by=("instance", "symbol", "code"), group_s=60, is_resolve_sent=False,
    ),
    AlertRule(
        name="approval", kind=RuleKind.THRESHOLD, on="signal.pending", severity="warning", above=1, by=("id",),
        message="approve or decline: {what}", resolve_message="decided: {what}",
    ),
    AlertRule(name="unknown-order", kind=RuleKind.ROUTE, on="order.unknown", severity="page"),
    AlertRule(name="unprotected", kind=RuleKind.ROUTE, on="position.*", severity="page"),
    AlertRule(
        name="kill", kind=RuleKind.THRESHOLD, on="kill.switch", severity="page", above=1, by=("scope",),
        message="the kill switch{of} is engaged by {by}: {reason}",
        resolve_message="the kill switch{of} was released",
    ),
    AlertRule(
        name="drawdown", kind=RuleKind.THRESHOLD, on="account.drawdown_percent", severity="error", above=10,
        by=("account",),
        message="account {account} is {value}% below its highest equity of 30 days",
        resolve_message="account {account} is no longer 10% below its highest equity of 30 days",
    ),
    AlertRule(name="service", kind=RuleKind.DURATION, on="service.down", severity="error", above=1, for_s=10,
        by=("service",)),
    AlertRule(name="check", kind=RuleKind.THRESHOLD, on="check.down", severity="warning", above=1, by=("service",)),
    AlertRule(
        name="serve", kind=RuleKind.RATE, on="serve.replaced", severity="error", count=3, window_s=600, by=("child",),
        message="{child} was replaced by Ray Serve {value} times in 10 minutes; see 'fks events {child}'",
    ),
    AlertRule(name="report", kind=RuleKind.ROUTE, on="report", severity="info"),
    AlertRule(name="other", kind=RuleKind.ROUTE, on="*", severity="warning", group_s=30),
)  # fmt: skip


def rule_for(event: str, rules: tuple[AlertRule, ...], name: str | None = None) -> AlertRule | None:
    """Return the rule that selects the channels for an alert: the one that raised it (`name`), else the enabled one
    route with the longest pattern that matches its event."""
    named = next((rule for rule in rules if rule.name == name), None)
    if named is not None:
        return named
    found = [rule for rule in rules if rule.kind is RuleKind.ROUTE and rule.is_enabled and rule.matches(event)]
    return max(found, key=lambda rule: (len(rule.on.replace("*", "")), rule.name), default=None)
