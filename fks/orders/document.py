"""docs/orders.md, drawn from the tables that the code runs: `python -m fks.orders.document > docs/orders.md`."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection
from enum import StrEnum

from fks.model.order import State
from fks.orders import events
from fks.orders.machine import QUARANTINE, TRANSITIONS, Act, OrderTransition
from fks.risk.policy import POLICY, Action, Deny, JournalState, KillMode, Permission, Reach, Wait

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


def document() -> str:
    """Return the whole page."""
    states = "\n".join(f"| {state.value} | {meaning} | {risk} |" for state, (meaning, risk) in _STATES.items())
    kinds = "\n".join(f"| {_event_name(event)} | {_first_line(event)} |" for event in events.EVENTS)
    acts = "\n".join(f"- {act.value}" for act in Act)
    return f"""# Orders

This page is drawn from `fks/orders/machine.py` and `fks/risk/policy.py` by
`python -m fks.orders.document > docs/orders.md`; a test keeps it true.

An order has one **state** and, beside it, one open **request** (none, cancel, replace). A row of the journal
(`order_events`) is written with every transition, in the same statement. What a signal leads to, and in which order:

1. The order manager sizes and checks the signal against one view of everything (`fks/risk`). A no is a DENIED order
   with its code.
2. The order, its first event, the legs of its protection (INTENDED) and the signal's outcome are **one durable
   statement**. It writes nothing when the signal has an outcome already, when a newer order manager owns the role, or
   while a kill is engaged that [stops it](#what-may-go).
3. Then the bytes leave, once. Whatever the answer does not prove is UNKNOWN: the order is asked about by its client
   order id at 0.25, 0.5, 1, 2, 4 … 30 s, and never sent again. While it is UNKNOWN its instrument takes no new risk.
4. Fills come from the answer, the stream, the history and the sweep, each under one id, and are booked in every state.
   Positions come from fills alone.
5. SL and TP live at the venue as an OCO over exactly what is held; an entry that fills in parts has several. The
   first part is protected at once, those within a quarter of a second are joined. What is too much is reduced in
   place where the venue can. A stop alone is replaced by one request where the venue can (Binance): the old order and
   its successor have outcomes of their own. Legs are ended, and proven ended, before an exit. A venue without OCO
   (Kraken) holds one of the two: an entry with both is denied (`NO_PROTECTION`).
6. With `venue.entry_protection = "venue"`, the default, a buy with SL or TP goes out with them as one request where
   the venue takes that (Binance). Until its complete fill they wait at the venue: ACCEPTED with the code `PENDING`,
   they cover nothing. A market order goes out as a limit near its decision that fills at once (FOK) or is EXPIRED with
   a code. The parts of an entry that rests get legs as in 5, which end once those of the request are seen on the book.
   What the venue refuses after the fill is placed as in 5. Of an unclear answer all orders are UNKNOWN and queried.
7. A stop that the venue lets expire without a fill, or that triggered and has not filled for 3 s, is closed at the
   market and pages (`stop.unfilled`).
8. Where the venue keeps the bracket (NinjaTrader), it alone places, resizes and ends SL and TP. Each leg becomes an
   order with its first report (row 43); it is compared with the position and never placed, renewed or cancelled here.
   An exit goes out at once: the venue ends the legs for it. A position whose live stops cover too little for 5 s pages.

The usual ways (all of them are in the [table](#transitions)):

```mermaid
{PICTURE}
```

## What may go
Entries, exits, protective legs, cancels and the closing orders of a kill go to a venue by one table
(`fks/risk/policy.py`), the first row that fits. The order core asks it before it commands, the checks before an order
is journaled, the statement that journals it, and the last look before the bytes. A kill cancels by it, too: the
guardian at its venues, the order manager on paper; its own orders follow the kill's rules, the stops that it puts back
between two closing orders among them. The side journal is the right to send of an order manager without lease or
PostgreSQL; it ends with any kill (below). An order that *waits* here and cannot wait, such as one that a person sent,
is denied with the code of the reason.

{policy_table()}

## Without PostgreSQL
While PostgreSQL is away, or its answer takes longer than a second, the order manager that held the lease goes on with
what protects and closes. No entry is sent.

1. Each event of an order is a line of the **side journal** (`FKS_HOME/orders.jsonl`, fsynced) before anything follows
   from it; one that the disk does not take is tried again within a second. A fill is *seen, and not yet booked*: it
   moves positions in memory, and with them the protection they want.
2. New legs and exits are lines of the file before their bytes, under the ids that they have with PostgreSQL, too.
3. The right ends when the guardian's file on this machine shows a kill: from then on the guardian alone cancels and
   closes. It is read before each send. The guardian reads the side journal in its turn: an exit of unknown outcome
   there is waited for, and a stop placed there is placed again while its position cannot be closed.
4. Where another machine could run an order manager (a cluster, or `database.url`), the right ends
   `orders.outage_hold_s` after the lease ran out, on both clocks of the lease. A successor that cannot prove its
   predecessor gone waits for the lease, 0.5 s and that time, before it looks at the venue.
5. When PostgreSQL is back, the lines are written to it in their order, each fill booked once by its id, and the file
   is emptied. An order manager that starts does so first, once it is the only process that has the file. Then it
   compares the journal with the venue, and only then it places legs.
6. A successor on another machine cannot read the file. It asks the venue by client order id about each order that may
   have been sent, before it sends one.
7. An order manager that dies meanwhile cannot start: it loads from PostgreSQL. On a machine alone (`node.role` single,
   no `database.url`) the guardian then places the stops that entries lack, and nothing else, and pages
   (`guardian.protects`). It begins once it gets the lock of the side journal, which proves that the process has ended,
   and `venue.recv_window_ms` and a second later, when the venue takes no request of that process any more; it looks
   at most every 15 s. Each stop is a line of the side journal before its bytes, with an attempt (a multiple of 1000)
   that the order manager never makes; the next order manager takes it over. An order manager that stands still keeps
   the lock, and nothing is placed beside it. The guardian leaves as it is: a position with an order of unknown outcome;
   a symbol in which an order of ours is live or was executed that its last reading of PostgreSQL, at most about a
   second before the outage, did not have; an entry of which no stop was open then, unless it could still fill; a stop
   that the market has passed (it is refused, and tried again); take profits, exits, and stops that trail, which stay
   where they were.
8. After 5 s with positions or resting orders a person is paged. Pages leave through the channels of alerts that the
   order manager read before; they may come once more when PostgreSQL is back.

Venues that keep the bracket (NinjaTrader) need none of this for protection; exits there wait for PostgreSQL.

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
order is known to be open (after a start: once the venue has reported it); a cancel that got lost is asked about and
repeated unless it was withdrawn: a cancel of protection is, once the exit that wanted it ended or gave up; missing
executions are fetched.

{table()}

What can follow:

{acts}
"""


def _first_line(event: type[events.Event]) -> str:
    return (event.__doc__ or "").strip().split("\n")[0]


if __name__ == "__main__":
    sys.stdout.write(document())
