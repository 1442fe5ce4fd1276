"""Table of the alerts that FKS raises: the part that raises each one, and how it ends.

An alert ends in one of four ways, and in no other. A person can settle any alert before that.

- `OWNER`: it was raised for a condition. The part that raised it reports the end of the condition, and no rule ends it.
- `ROWS`: a rule finds in the tables that its cause is over.
- `AGE`: it is a warning or a notice about something that happened, and ends after 24 h.
- `PERSON`: it is a page or an error about something that happened, and waits for a person.

An event of which alerts end in two ways has two rows, which differ in the condition or the severity of the alert.
Alerts of the user's rules are not in the table: the rule that raised one ends it (`fks/system/alerts/engine.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from fks.model.order import OPEN
from fks.system.monitor.status import WELL

#: A child that was down must be well for this long before its alert is over.
CALM = timedelta(seconds=10)
WARNING_KEPT = timedelta(hours=24)


class End(StrEnum):
    """A way in which an alert ends."""

    OWNER = "the part that raised it"
    ROWS = "a rule over rows"
    AGE = "age"
    PERSON = "a person"


@dataclass(frozen=True, slots=True)
class AlertPlace:
    """A position's key."""

    account_id: int
    venue: str
    symbol: str
    instance: str


@dataclass(frozen=True, slots=True)
class AlertFacts:
    """The rows that the rules use, read together. `orders`: by client order id."""

    now: datetime
    components: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    services: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # children of keepers
    orders: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    held: frozenset[AlertPlace] = frozenset()  # with a position
    exits: frozenset[AlertPlace] = frozenset()  # with an exit that no order was made of
    instances: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # strategy instances in trouble
    nodes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # language models that are not run


Rule = Callable[[Mapping[str, Any], AlertFacts], bool]


@dataclass(frozen=True, slots=True)
class AlertEnd:
    """The end of the alerts of one event. `event` may end in `*`: every event that begins so and has no row of its own.

    `when`: the end in words, for docs/alerts.md. `rule`: of `ROWS`, whether the cause is over.
    """

    event: str
    raised_by: str
    end: End
    when: str = ""
    rule: Rule | None = None


def _child_is_back(alert: Mapping[str, Any], facts: AlertFacts) -> bool:
    row = facts.components.get(alert["component"]) or facts.services.get(alert["component"])
    if row is None:  # no longer in the tree, or a supervisor of it: its children decide
        return _has_passed(CALM, alert["time"], facts) and all(_is_calm(c, facts) for c in facts.components.values())
    return _is_calm(row, facts)


def _is_an_hour_old(alert: Mapping[str, Any], facts: AlertFacts) -> bool:
    return _has_passed(timedelta(hours=1), alert["time"], facts)  # it is raised again while the child goes on dying


def _is_calm(row: Mapping[str, Any], facts: AlertFacts) -> bool:
    return row["state"] in WELL and row["since"] is not None and _has_passed(CALM, row["since"], facts)


def _has_passed(wait: timedelta, since: datetime, facts: AlertFacts) -> bool:
    return facts.now - since > wait


def _instance_runs(alert: Mapping[str, Any], facts: AlertFacts) -> bool:
    name = alert["payload"].get("instance") or alert["component"]
    row = facts.instances.get(str(name))
    return row is None or bool(row["is_enabled"] and not row["error"])


def _is_together_again(alert: Mapping[str, Any], facts: AlertFacts) -> bool:
    row = facts.instances.get(str(alert["payload"].get("instance")))
    return row is None or not row["is_isolated"]


def _node_is_back(alert: Mapping[str, Any], facts: AlertFacts) -> bool:
    row = facts.nodes.get(str(alert["payload"].get("node") or alert["component"]))
    return row is None or row["state"] in WELL


def _model_is_run(alert: Mapping[str, Any], facts: AlertFacts) -> bool:
    """Return whether its model is no longer in the state that the alert is about, or came into it once more."""
    row = facts.models.get(str(alert["payload"].get("model")))
    return row is None or alert["time"] < row["state_at"]


def _is_known_again(alert: Mapping[str, Any], facts: AlertFacts) -> bool:
    order = facts.orders.get(str(alert["payload"].get("client_order_id")))
    return order is not None and order["state"] not in ("UNKNOWN", "SENDING")


def _is_flat(alert: Mapping[str, Any], facts: AlertFacts) -> bool:
    return "symbol" in alert["payload"] and not _is_among(alert, facts.held)


def _is_exit_done(alert: Mapping[str, Any], facts: AlertFacts) -> bool:
    """An exit may wait for an entry that has filled nothing yet: flat alone does not end it."""
    order = facts.orders.get(str(alert["payload"].get("client_order_id")))
    is_open = order is not None and order["state"] in OPEN
    return _is_flat(alert, facts) and not is_open and not _is_among(alert, facts.exits)


def _is_among(alert: Mapping[str, Any], places: Iterable[AlertPlace]) -> bool:
    """Return whether an alert is about one of the places; about an account or a venue only if it names one."""
    about = alert["payload"]
    return any(
        (place.symbol, place.instance) == (about.get("symbol"), about.get("instance") or "")
        and place.venue == about.get("venue", place.venue)
        and place.account_id == about.get("account_id", place.account_id)
        for place in places
    )


def _database_answers(alert: Mapping[str, Any], facts: AlertFacts) -> bool:
    return True  # these facts were read from it


_FLAT: Final = "the position is closed"
_ANSWERS: Final = "PostgreSQL answers: the alert is written then"
ALERTS: Final[tuple[AlertEnd, ...]] = (
    # the tree of processes
    AlertEnd(
        "child.escalated", "supervisor, keeper", End.ROWS,
        "the child has been well for 10 s; of a supervisor, all actors have", _child_is_back,
    ),
    AlertEnd(
        "child.unstable", "supervisor, keeper", End.ROWS,
        "an hour has passed; it is raised again while the child goes on dying", _is_an_hour_old,
    ),
    AlertEnd("config.failed", "supervisor", End.PERSON),
    AlertEnd("node.silent", "monitor", End.ROWS, "its keeper beats again, or the machine is forgotten", _node_is_back),
    AlertEnd("demo.switched_off", "keeper", End.AGE),
    AlertEnd("venue.plaintext", "keeper", End.PERSON),
    # strategies and models
    AlertEnd(
        "strategy.disabled", "strategy worker", End.ROWS,
        "a person switches the instance on or off, or removes it", _instance_runs,
    ),
    AlertEnd(
        "strategy.isolated", "strategy worker", End.ROWS,
        "the instance is switched off, or shares a worker again", _is_together_again,
    ),
    AlertEnd("strategy.challenger_disabled", "strategy worker", End.AGE),
    AlertEnd("strategy.challenger_proposed", "jobs", End.AGE),
    AlertEnd("strategy.drift", "jobs", End.PERSON),
    AlertEnd("strategy.drift", "jobs", End.AGE),
    AlertEnd("forecast.drift", "scheduler", End.OWNER, "the version no longer drifts by it, or predicts no more"),
    AlertEnd("forecast.demoted", "scheduler", End.AGE),
    AlertEnd("ai.failed", "monitor", End.ROWS, "the model is deployed again, or removed", _model_is_run),
    AlertEnd(
        "ai.unschedulable", "monitor", End.ROWS,
        "the model has a place, is deployed again, or is removed", _model_is_run,
    ),
    # portfolios
    AlertEnd("portfolio.run_automatic", "scheduler", End.AGE),
    AlertEnd("portfolio.approval", "scheduler", End.AGE),
    AlertEnd("portfolio.trigger_expired", "scheduler", End.AGE),
    AlertEnd("portfolio.allocation_refused", "scheduler", End.AGE),
    # the journal
    AlertEnd("journal.down", "order manager", End.ROWS, _ANSWERS, _database_answers),
    AlertEnd("journal.side_failed", "order manager", End.ROWS, _ANSWERS, _database_answers),
    # orders, exits and positions
    AlertEnd("order.unknown", "order manager", End.ROWS, "the outcome of the order is known", _is_known_again),
    AlertEnd("order.lost", "order manager", End.OWNER, "the incident is closed, or the order has a row"),
    AlertEnd("order.external", "order manager", End.AGE),
    AlertEnd("order.group_broken", "order manager", End.AGE),
    AlertEnd("order.stop_kept", "order manager", End.AGE),
    AlertEnd("order.quarantine", "order manager", End.PERSON),
    AlertEnd("order.quarantine", "order manager", End.AGE),
    AlertEnd("order.*", "order manager", End.PERSON),
    AlertEnd("order.*", "order manager", End.AGE),
    AlertEnd("IMPOSSIBLE_FILL", "order manager", End.PERSON),
    AlertEnd(
        "exit.waiting", "order manager", End.ROWS,
        "the position is closed, no exit waits, and the order that it names is not open", _is_exit_done,
    ),
    AlertEnd("exit.rejected", "order manager", End.ROWS, _FLAT, _is_flat),
    AlertEnd("exit.ended", "order manager", End.ROWS, _FLAT, _is_flat),
    AlertEnd("stop.unfilled", "order manager", End.ROWS, _FLAT, _is_flat),
    AlertEnd("position.unprotectable", "order manager", End.ROWS, _FLAT, _is_flat),
    AlertEnd(
        "position.unprotected", "order manager", End.OWNER,
        "the position is flat, or has had its stop for as long as it takes to page",
    ),
    AlertEnd("position.stop_alone", "order manager", End.AGE),
    AlertEnd("position.split", "order manager", End.AGE),
    AlertEnd("position.split_waits", "order manager", End.PERSON),
    AlertEnd("position.split_refused", "order manager", End.PERSON),
    AlertEnd("futures.roll_due", "order manager", End.AGE),
    AlertEnd("futures.expiry_near", "order manager", End.PERSON),
    AlertEnd("copy.account_missing", "order manager", End.AGE),
    AlertEnd("copy.diverged", "order manager", End.AGE),
    AlertEnd("fill.external", "order manager", End.AGE),
    AlertEnd("fill.liquidation", "order manager", End.PERSON),
    AlertEnd("fill.no_metadata", "order manager", End.PERSON),
    AlertEnd("risk.loss_day", "order manager", End.AGE),
    # venues and accounts
    AlertEnd("venue.closed", "order manager", End.PERSON),
    AlertEnd("account.drift", "order manager", End.PERSON),
    AlertEnd("account.identity_refused", "order manager", End.PERSON),
    AlertEnd("venue.key_may_withdraw", "order manager, guardian", End.PERSON),
    AlertEnd("venue.key_file_lost", "order manager, guardian", End.PERSON),
    AlertEnd("venue.key_refused", "order manager, guardian", End.AGE),
    AlertEnd("venue.key_unbound", "order manager, guardian", End.AGE),
    # kills
    AlertEnd("kill.stuck", "guardian", End.OWNER, "nothing of the kill is stuck, or the kill is released"),
    AlertEnd("kill.unfinished", "guardian", End.OWNER, "the kill is done, or released"),
    AlertEnd("kill.stuck", "order manager", End.ROWS, _FLAT, _is_flat),
    AlertEnd("guardian.protects", "guardian", End.PERSON),
    AlertEnd("prop.flatten", "guardian", End.PERSON),
    AlertEnd("prop.not_flat", "guardian", End.PERSON),
    # NinjaTrader and MetaTrader 5
    AlertEnd("ninja.unreachable", "bridge link", End.OWNER, "a session with the bridge begins"),
    AlertEnd(
        "ninja.alarm", "bridge link", End.OWNER,
        "what `code` names is over: a session begins, the clocks agree, the lines have a MAC, the bridge writes its "
        "journal",
    ),
    AlertEnd("ninja.alarm", "bridge link", End.PERSON),
    AlertEnd("ninja.alarm", "bridge link", End.AGE),
    AlertEnd("ninja.risk", "bridge link", End.OWNER, "`trading_disabled`: the account can trade again"),
    AlertEnd("ninja.risk", "bridge link", End.PERSON),
    AlertEnd("ninja.halt", "bridge link", End.OWNER, "the kill latch is lifted"),
    AlertEnd("ninja.halt", "bridge link", End.AGE),
    AlertEnd("ninja.superseded", "bridge link", End.PERSON),
    AlertEnd("ninja.secret_unusable", "bridge link", End.PERSON),
    AlertEnd("ninja.execution_amended", "bridge link", End.PERSON),
    AlertEnd("ninja.log_lost", "bridge link", End.PERSON),
)  # fmt: skip
_RULES: Final = {row.event: row.rule for row in ALERTS if row.rule is not None}


def rule_of(event: str) -> Rule | None:
    """Return the rule over rows that ends alerts of an event; None when no rule does."""
    return _RULES.get(event)


def is_over(alert: Mapping[str, Any], facts: AlertFacts) -> bool:
    """Return whether an alert without a condition has ended, by a rule or by its age."""
    rule = rule_of(alert["event"])
    if rule is not None:
        return rule(alert, facts)
    return alert["severity"] in ("info", "warning") and _has_passed(WARNING_KEPT, alert["time"], facts)
