"""Generator of the tables of docs/orders.md, from those that the code runs: `python scripts/orders_page.py`."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from enum import StrEnum
from pathlib import Path

from fks.model.kill import KillMode
from fks.model.order import State
from fks.trading.orders import events
from fks.trading.orders.machine import QUARANTINE, TRANSITIONS, Act, OrderTransition
from fks.trading.risk.policy import POLICY, Action, Deny, JournalState, Permission, Reach, Wait

PAGE = Path(__file__).resolve().parents[1] / "docs" / "orders.md"
_STATES: dict[State, tuple[str, str]] = {
    State.DENIED: ("our own no; nothing was ever sent", "no"),
    State.INTENDED: ("committed, provably not sent: a leg that waits for its parent", "reserved"),
    State.ABANDONED: ("an INTENDED order given up before any byte left", "no"),
    State.SENDING: ("committed; bytes may have left", "yes, all of it"),
    State.UNKNOWN: ("sent or possibly sent; the outcome is not proven", "yes, in the worse direction"),
    State.ACCEPTED: ("the venue has it, not in the book yet (a stop that waits)", "yes"),
    State.WORKING: ("the venue says open, nothing filled", "yes"),
    State.PARTIAL: ("open, some filled", "yes"),
    State.FILLED: ("all filled, or closed as done by the venue", "the position"),
    State.CANCELLED: ("ended by the venue on request; it may have fills", "the filled part"),
    State.EXPIRED: ("ended by the venue by its rules", "the filled part"),
    State.REJECTED: ("the venue's definitive no", "no"),
    State.ABSENT: ("UNKNOWN, proven never to have arrived", "no, but watched"),
}
#: the transitions that most orders take
PICTURE = """stateDiagram-v2
    [*] --> DENIED: a check failed
    [*] --> SENDING: committed, then sent once
    [*] --> INTENDED: a leg waits for its entry
    INTENDED --> SENDING: its entry is filled
    INTENDED --> ABANDONED: not needed
    SENDING --> REJECTED: a definitive no
    SENDING --> UNKNOWN: no proof
    SENDING --> ACCEPTED: a stop rests
    SENDING --> WORKING: in the book
    UNKNOWN --> WORKING: found
    UNKNOWN --> ABSENT: proven absent
    ACCEPTED --> FILLED: triggered
    WORKING --> PARTIAL: a fill
    PARTIAL --> FILLED: the last fill
    WORKING --> FILLED: filled
    WORKING --> CANCELLED: cancelled"""


def table() -> str:
    """Return the transitions as a markdown table, in the order of their numbers."""
    rows = sorted((*TRANSITIONS, QUARANTINE), key=lambda row: row.number)
    lines = [
        "| # | From | Event | When | To | What follows | Note |",
        "|---|---|---|---|---|---|---|",
        *map(_line, rows),
    ]
    return "\n".join(lines)


def _line(row: OrderTransition) -> str:
    whence = "–" if row.states is None else _names(row.states)
    acts = "; ".join(act.value for act in row.acts) or "–"
    guard, target = (row.guard.__doc__ or "").strip(), (row.target.__doc__ or "").strip()
    return f"| {row.number} | {whence} | {_event_name(row.event)} | {guard} | {target} | {acts} | {row.note or '–'} |"


def policy_table() -> str:
    """Return what may go to a venue as a markdown table, in the order of its rows."""
    lines = ["| # | Request | Kill | By | Venue | Journal | Answer | Live ones |", "|---|---|---|---|---|---|---|---|"]
    for number, row in enumerate(POLICY, 1):
        by = {None: "any", True: "a person", False: "a strategy"}[row.is_by_person]
        journal = _values(row.journals, JournalState)
        cells = (_values(row.actions, Action), _values(row.kills, KillMode), by, _values(row.venues, Reach), journal)
        live = "the kill cancels them" if row.ends else "–"
        lines.append(f"| {number} | {' | '.join(cells)} | {_permission(row.permission)} | {live} |")
    return "\n".join(lines)


def _values(values: Collection[StrEnum] | None, kinds: type[StrEnum]) -> str:
    is_any = values is None or len(values) == len(kinds)
    return "any" if is_any else ", ".join(kind.value for kind in kinds if kind in (values or ()))


def _permission(permission: Permission) -> str:
    if isinstance(permission, Wait):
        return f"wait: {permission.reason}"
    return f"deny `{permission.code}`" if isinstance(permission, Deny) else "allow"


def _names(states: frozenset[State]) -> str:
    return "any" if states == frozenset(State) else ", ".join(state.value for state in State if state in states)


def _event_name(event: type[events.Event]) -> str:
    return "any other" if event is events.Event else re.sub(r"(?<!^)([A-Z])", r" \1", event.__name__).lower()


def states() -> str:
    """Return the states as a markdown table."""
    rows = [f"| {state.value} | {meaning} | {risk} |" for state, (meaning, risk) in _STATES.items()]
    return "\n".join(["| State | Meaning | Money at risk |", "|---|---|---|", *rows])


def event_kinds() -> str:
    """Return the events as a markdown table."""
    rows = [f"| {_event_name(event)} | {_first_line(event)} |" for event in events.EVENTS]
    return "\n".join(["| Event | Meaning |", "|---|---|", *rows])


_BLOCKS: dict[str, Callable[[], str]] = {
    "picture": lambda: f"```mermaid\n{PICTURE}\n```",
    "policy": policy_table,
    "states": states,
    "events": event_kinds,
    "transitions": table,
    "acts": lambda: "\n".join(f"- {act.value}" for act in Act),
}


def rewritten(text: str) -> str:
    """Return the page with its generated blocks rewritten. Errors: KeyError for an unknown block."""
    block = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)
    return block.sub(lambda found: f"{found[1]}{_BLOCKS[found[2]]()}\n{found[3]}", text)


def _first_line(event: type[events.Event]) -> str:
    return (event.__doc__ or "").strip().split("\n")[0]


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
