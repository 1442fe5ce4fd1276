"""The rules of one group of accounts as checked data: each figure with its source and the day it was verified."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

#: a group without one of these is off; a firm that has no such rule says so with value = "none"
REQUIRED = ("max_loss", "daily_loss", "max_lots", "flat_by", "automation")
_ZONE: Literal["America/Chicago"] = "America/Chicago"
_NONE = "none"


def _amount(value: object) -> object:
    """Refuse booleans, which are numbers to Python, and read floats by their shortest text."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return str(value) if isinstance(value, float) else value


def _clock(value: object) -> object:
    if isinstance(value, str) and (len(value) != 5 or value[2] != ":"):
        raise ValueError('must be a time like "15:05"')
    return value


Amount = Annotated[Decimal, BeforeValidator(_amount), Field(gt=0)]
Clock = Annotated[time, BeforeValidator(_clock)]


class RuleSection(BaseModel):
    """A table of a rule file: unknown keys are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Rule(RuleSection):
    """A figure of a firm with its origin. `verified_on` None: it was not compared with the firm's own page yet."""

    source: str = Field(min_length=1)
    source_date: date | None = None
    verified_on: date | None = None
    verified_by: str = ""
    note: str = ""

    @model_validator(mode="before")
    @classmethod
    def _empty_is_unverified(cls, data: Any) -> Any:
        """Read verified_on = "" as not verified: TOML has no empty date."""
        if isinstance(data, dict) and data.get("verified_on") == "":
            return {key: value for key, value in data.items() if key != "verified_on"}
        return data

    @model_validator(mode="after")
    def _verified_by_a_person(self) -> Rule:
        if self.verified_on is not None and not self.verified_by:
            raise ValueError("verified_by must name the person who compared it on verified_on")
        return self

    @property
    def has_value(self) -> bool:
        """Return whether the firm has such a rule."""
        return getattr(self, "value", None) != _NONE


class MaxLoss(Rule):
    """Largest loss from the highest value. `trailing`: the value counts at the end of a trade date (eod), at each
    moment with open profit (intraday), or is the starting balance (static). `lock`: the threshold rises to the starting
    balance plus this and no further; None: it never stops. Units: `unit`; percent is of the starting balance."""

    value: Amount | Literal["none"]
    unit: Literal["USD", "percent"] = "USD"
    trailing: Literal["eod", "intraday", "static"]
    lock: Annotated[Decimal, BeforeValidator(_amount), Field(ge=0)] | None = None


class DailyLoss(Rule):
    """Largest loss of a trade date, open profit and loss included. Percent is of the balance at the day's start, or of
    the starting balance where that is less."""

    value: Amount | Literal["none"]
    unit: Literal["USD", "percent"] = "USD"
    action: Literal["flatten_and_block", "refuse"] = "flatten_and_block"


class MaxLots(Rule):
    """Largest number of lots over all products; a micro contract counts as `micro_factor` lots."""

    value: Amount | Literal["none"]
    micro_factor: Annotated[Decimal, BeforeValidator(_amount), Field(gt=0, le=1)] = Decimal(1)


class FlatBy(Rule):
    """Time by which no position may be open. `own`: FKS closes then; `no_entries_from`: it enters nothing from then on.
    `before_early_close_min`: minutes before an early close that count as `own` on such a day."""

    value: Clock | Literal["none"]
    tz: Literal["America/Chicago"] = _ZONE
    own: Clock | None = None
    no_entries_from: Clock | None = None
    before_early_close_min: int = Field(15, ge=1, le=240)

    @model_validator(mode="after")
    def _ordered(self) -> FlatBy:
        if isinstance(self.value, time):
            if self.value > time(17) or not self.entries_end <= self.flat_at <= self.value:
                raise ValueError("no_entries_from, own and value must be times of one day, in this order, up to 17:00")
        elif self.own is not None or self.no_entries_from is not None:
            raise ValueError('own and no_entries_from need a value other than "none"')
        return self

    @property
    def flat_at(self) -> time:
        """Return the time at which FKS closes."""
        assert isinstance(self.value, time)
        return self.own or self.value

    @property
    def entries_end(self) -> time:
        """Return the time from which on nothing is entered."""
        return self.no_entries_from or self.flat_at


class Automation(Rule):
    """Whether programs may trade. Anything but allowed and allowed_monitored means that a person places the orders."""

    value: Literal["allowed", "allowed_monitored", "relay_only", "forbidden", "unknown"]

    @property
    def is_allowed(self) -> bool:
        """Return whether FKS may send orders."""
        return self.value in ("allowed", "allowed_monitored")


class Consistency(Rule):
    """Largest share of the best day in the profit, in percent. It is shown and decides nothing."""

    value: Amount | Literal["none"]


class NewsEvent(RuleSection):
    """One release, UTC or with a zone."""

    at: datetime
    name: str = Field(min_length=1)

    @model_validator(mode="after")
    def _has_zone(self) -> NewsEvent:
        if self.at.tzinfo is None:
            raise ValueError("at must have a zone: 2026-12-10T13:30:00Z")
        return self


class News(Rule):
    """Releases around which nothing is entered."""

    value: tuple[NewsEvent, ...]
    minutes_before: int = Field(2, ge=0, le=240)
    minutes_after: int = Field(2, ge=0, le=240)
    action: Literal["refuse", "flatten_and_block"] = "refuse"

    def window_ns(self, event: NewsEvent) -> tuple[int, int]:
        """Return begin and end (ns UTC, end excluded) of the window around a release."""
        at_ns = int(event.at.astimezone(UTC).timestamp()) * 1_000_000_000
        return at_ns - self.minutes_before * 60_000_000_000, at_ns + self.minutes_after * 60_000_000_000


class Rules(RuleSection):
    """The rules; a missing one means that its figure is not known."""

    max_loss: MaxLoss | None = None
    daily_loss: DailyLoss | None = None
    max_lots: MaxLots | None = None
    flat_by: FlatBy | None = None
    automation: Automation | None = None
    consistency: Consistency | None = None
    news: News | None = None

    def present(self) -> dict[str, Rule]:
        """Return the rules that the file has, by name."""
        named = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {name: rule for name, rule in named if rule is not None}


class RuleGroup(RuleSection):
    """A rule file: one group of accounts under one program of one firm. `starting_balance` is in USD."""

    group: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")
    firm: str = ""
    program: str = ""
    starting_balance: Amount
    rules: Rules

    @property
    def max_loss(self) -> Decimal | None:
        """Return the largest loss in USD, None without such a rule."""
        rule = self.rules.max_loss
        if rule is None or not isinstance(rule.value, Decimal):
            return None
        return rule.value if rule.unit == "USD" else self.starting_balance * rule.value / 100

    def daily_loss(self, day_start_balance: Decimal) -> Decimal | None:
        """Return the largest loss of a trade date in USD, None without such a rule."""
        rule = self.rules.daily_loss
        if rule is None or not isinstance(rule.value, Decimal):
            return None
        base = min(self.starting_balance, day_start_balance)
        return rule.value if rule.unit == "USD" else base * rule.value / 100
