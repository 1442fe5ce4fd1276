"""The pages of the tree: what happened, and what the person who reads it can do."""

from __future__ import annotations

from fks.supervision.exits import Exit
from fks.supervision.spec import SupervisorSpec
from fks.supervision.state import Node, Page


def exceeded(spec: SupervisorSpec) -> str:
    """Return in words that the window of a supervisor was exceeded."""
    return f"more than {spec.limit.restarts_max} restarts in {spec.limit.period_s:g} s"


def escalation(parent: SupervisorSpec, node: Node, exit: Exit, now_s: float) -> str:
    """Return why a child escalated."""
    row = f"{node.tries} deaths in {now_s - node.row_s:.0f} s, none after {parent.backoff.reset_s:g} s up"
    return f"{row}; the last: {exit.reason}"


def escalated(id: str, why: str, retry_s: float) -> Page:
    """Return the page for a child that is contained from now on."""
    text = f"{id}: {why}; the others run on; it is started again every {retry_s:g} s until you end that"
    return Page("child.escalated", id, f"{text}: 'fks restart {id}'; see 'fks events {id} --full'")


def branch_escalated(id: str, why: str) -> Page:
    """Return the page for a supervisor that ends its children and leaves the rest to its parent."""
    return Page("child.escalated", id, f"{id}: {why}; all its children start anew")


def unstable(id: str, deaths: int, exit: Exit) -> Page:
    """Return the page for a child that dies too often within an hour, and too seldom to escalate."""
    text = f"{id}: {deaths} deaths within an hour, the last: {exit.reason}"
    return Page("child.unstable", id, f"{text}; it is restarted each time; see 'fks events {id} --full'")
