"""docs/orders.md, drawn from the table that the code runs: `python -m fks.orders.document > docs/orders.md`."""

from __future__ import annotations

import re
import sys

from fks.model.order import State
from fks.orders import events
from fks.orders.machine import QUARANTINE, TRANSITIONS, Act, Row

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


def _line(row: Row) -> str:
    whence = "–" if row.states is None else _names(row.states)
    acts = "; ".join(act.value for act in row.acts) or "–"
    guard, target = (row.guard.__doc__ or "").strip(), (row.target.__doc__ or "").strip()
    return f"| {row.number} | {whence} | {_event_name(row.event)} | {guard} | {target} | {acts} | {row.note or '–'} |"


def _names(states: frozenset[State]) -> str:
    return "any" if states == frozenset(State) else ", ".join(state.value for state in State if state in states)


def _event_name(event: type[events.Event]) -> str:
    return "any other" if event is events.Event else re.sub(r"(?<!^)([A-Z])", r" \1", event.__name__).lower()


def document() -> str:
    """Return the whole page."""
    states = "\n".join(f"| {state.value} | {meaning} | {risk} |" for state, (meaning, risk) in _STATES.items())
    kinds = "\n".join(f"| {_event_name(event)} | {_first_line(event)} |" for event in events.EVENTS)
    acts = "\n".join(f"- {act.value}" for act in Act)
    return f"""# Orders

This page is drawn from `fks/orders/machine.py` by
`python -m fks.orders.document > docs/orders.md`; a test keeps it true.

An order has one **state** and, beside it, one open **request** (none, cancel, replace). A row of the journal
(`order_events`) is written with every transition, in the same statement. What a signal leads to, and in which order:

1. The order manager sizes and checks the signal against one view of everything (`fks/risk`). A no is a DENIED order
   with its code.
2. The order, its first event, the legs of its protection (INTENDED) and the signal's outcome are **one durable
   statement**. It writes nothing when the signal has an outcome already, when a newer order manager owns the role, or
   while the kill switch is engaged.
3. Then the bytes leave, once. Whatever the answer does not prove is UNKNOWN: the order is asked about by its client
   order id at 0.25, 0.5, 1, 2, 4 … 30 s, and never sent again. While it is UNKNOWN its instrument takes no new risk.
4. Fills come from the answer, the stream, the history and the sweep, each under one id, and are booked in every state.
   Positions come from fills alone.
5. SL and TP live at the venue as one OCO over exactly what is held. They are ended, and proven ended, before an exit.
6. Where the venue keeps the bracket (NinjaTrader), it alone places, resizes and ends SL and TP. Each leg becomes an
   order with its first report (row 43); it is compared with the position and never placed, renewed or cancelled here.
   An exit goes out at once: the venue ends the legs for it. A position whose live stops cover too little for 5 s pages.

The usual ways (all of them are in the [table](#transitions)):

```mermaid
{PICTURE}
```

## States
| State | Meaning | Money at risk |
|---|---|---|
{states}

The last five end an order for us: nothing more is sent or polled, but fills and positive reports are still booked.

## Events
| Event | Meaning |
|---|---|
{kinds}

## Transitions
Row 41 is tried first, then the rows of a state and event in their order, the first whose condition holds; row 42 takes
what fits no other. Riders after every row: ending an order closes its request; a wanted cancel goes out as soon as the
order is known to be open; a cancel that got lost is asked about and repeated; missing executions are fetched.

{table()}

What can follow:

{acts}
"""


def _first_line(event: type[events.Event]) -> str:
    return (event.__doc__ or "").strip().split("\n")[0]


if __name__ == "__main__":
    sys.stdout.write(document())
