"""Every order transition lives in this file; docs/orders.md is drawn from the table below, and nothing else moves an
order.

There are two machines, side by side. The *state* is the order's at the venue: thirteen of them, six open, seven
terminal. The *request* is ours, under way meanwhile (cancel, replace): it is kept apart, because as part of the state it
would hide the executed quantity.

INTENDED: no byte ever left, so it may still be sent. SENDING: bytes may have left; found in the journal by a later
epoch it is UNKNOWN. UNKNOWN: sent, outcome unproven; it is queried and never sent again, under any id. Terminal: nothing
is sent or polled any more, but a fill counts in every state.

Events come from us (deny, intend, send, abandon, cancel), from the venue (ack, refuse, report, fill, bust), from a
missing answer (ambiguous, absent, session broke), and from a person (settle). The venue reports in its answers and in
its stream, and either may come first: the order in which reports arrive must not matter. Three rules make that true:

  * A report is a snapshot, a fill an increment. Only fills move `filled`; a report raises `reported_cum_qty`. While
    that is above `filled`, executions are missing and are fetched, and the instrument takes no new risk.
  * A fill that an ended order's last report had counted completes it without changing its state; one beyond that is
    late (row 36): it is booked, the order lives again, and it is queried.
  * A report that is older than the state (row 41) is kept in the journal and changes nothing.

Row 41 is tried first. Then the rows of the state and event in the table's order, the first
whose guard holds. Then row 42: kept in quarantine, paged, never an exception; a fill among those is booked as external.

Riders, applied after every row: ending an order closes its request; a wanted cancel is sent as soon as the order is
known to be open (second half of row 30; after a start, once the venue has reported it); missing executions are fetched;
any report of the venue about an order ends its staleness. No row repeats a cancel that got lost (rows 32 and 33): the
owner of the order's requests does, by row 29, once it found the order open, unless the cancel was withdrawn (row 46).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from itertools import product
from typing import Any, Final

from fks.model.order import LIVE, OPEN, QUARANTINE_ROW, Order, Request, State, evolve
from fks.trading.orders import events as e
from fks.trading.orders import rules as r
from fks.trading.orders.rules import ENDED, Change, Guard


class Act(StrEnum):
    """An effect of a transition. The first three are part of its transaction, the rest come after the commit."""

    RESERVE = "count it as exposure"
    RELEASE = "stop counting it as exposure"
    BOOK = "book the fill: execution, position, order"
    BOOK_EXTERNAL = "book the fill to the account as external"
    WRITE = "write the bytes, once"
    SEND_CANCEL = "send the cancel"
    ASK = "ask the venue by client order id, on the ladder of C1"
    FETCH_FILLS = "fetch the missing executions"
    PROTECT = "fit SL and TP to the position"
    CANCEL_UNLESS_VALID = "cancel it unless its signal is still valid and it was not cancelled"
    REEVALUATE = "send or abandon it"
    NOTIFY = "notify the strategy"
    ALERT = "raise an alert"
    PAGE = "page a person"
    HALT = "halt the strategy"


@dataclass(frozen=True, slots=True)
class OrderTransition:
    """One transition. `states` None stands for "no order yet"; `guard` and `target` have docstrings that docs show."""

    number: int
    states: frozenset[State] | None
    event: type[e.Event]
    guard: Guard
    target: Change
    acts: tuple[Act, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """The result of one event: the order after it, the effects, and the row of the table.

    `is_changed`: a field of the order is another one now; else it is the same object as before. `quantity_before`: of an
    order whose quantity the event changed.
    """

    before: State | None
    order: Order
    acts: tuple[Act, ...]
    number: int
    is_changed: bool
    quantity_before: Decimal | None = None

    @property
    def is_quarantined(self) -> bool:
        return self.number == QUARANTINE_ROW

    @property
    def is_impossible_fill(self) -> bool:
        return self.number == IMPOSSIBLE_FILL_ROW


def _in(*states: State) -> frozenset[State]:
    return frozenset(states)


S = State
A = Act
SENDING, UNKNOWN, INTENDED = _in(S.SENDING), _in(S.UNKNOWN), _in(S.INTENDED)
NEVER_SENT = _in(S.DENIED, S.ABANDONED)
ANY = frozenset(State)
#: Rows that are compared by number; the third is `fks.model.order.QUARANTINE_ROW`.
IMPOSSIBLE_FILL_ROW: Final = 40
OLD_REPORT_ROW: Final = 41

TRANSITIONS: tuple[OrderTransition, ...] = (
    OrderTransition(1, None, e.Denied, r.always, r.denied, (A.NOTIFY,), "a check failed"),
    OrderTransition(2, None, e.IntendedAndSent, r.always, r.to(S.SENDING), (A.RESERVE, A.WRITE), "checks passed; one commit, then the bytes"),
    OrderTransition(3, None, e.Intended, r.always, r.to(S.INTENDED), (A.RESERVE,), "a leg, or throttled"),
    OrderTransition(4, INTENDED, e.Sent, r.always, r.sent, (A.WRITE,), "parent filled or slot free; epoch current; sized now"),
    OrderTransition(5, INTENDED, e.Abandoned, r.always, r.abandoned, (A.RELEASE,), "valid_until passed, kill, parent ended"),
    OrderTransition(5, INTENDED, e.CancelRequested, r.always, r.abandoned, (A.RELEASE,), "nothing to cancel at the venue"),
    OrderTransition(6, INTENDED, e.Replayed, r.always, r.same, (A.REEVALUATE,), "never UNKNOWN: no byte left"),
    OrderTransition(8, SENDING, e.Acked, r.reports_executed, r.as_reported, (A.PROTECT,), "fills ride along or are fetched"),
    OrderTransition(7, SENDING, e.Acked, r.always, r.as_reported, (), "client id and venue id match"),
    OrderTransition(9, SENDING, e.Refused, r.always, r.refused, (A.RELEASE, A.PROTECT, A.NOTIFY), "definitive by the table of docs/venues.md, or provably never left"),
    OrderTransition(10, SENDING, e.Ambiguous, r.always, r.to(S.UNKNOWN), (A.ASK, A.ALERT), "every other outcome"),
    OrderTransition(17, SENDING, e.DuplicateId, r.always, r.to(S.UNKNOWN), (A.ASK, A.ALERT), "evidence of existence"),
    OrderTransition(11, SENDING, e.Replayed, r.is_older_epoch, r.to(S.UNKNOWN), (A.ASK, A.ALERT), "never sent again"),
    OrderTransition(12, SENDING, e.FillSeen, r.always, r.by_quantity, (A.BOOK, A.PROTECT), "the stream is faster than the answer"),
    OrderTransition(13, SENDING, e.Reported, r.always, r.as_reported, (A.PROTECT,), "the stream is faster than the answer"),
    OrderTransition(14, UNKNOWN, e.Reported, r.reports_open, r.as_reported, (A.PROTECT,), "unblocks once no fill is missing"),
    OrderTransition(14, UNKNOWN, e.Acked, r.always, r.as_reported, (A.PROTECT,), "the answer came after all"),
    OrderTransition(15, UNKNOWN, e.Reported, r.always, r.as_reported, (A.PROTECT, A.NOTIFY), "unblocks once no fill is missing"),
    OrderTransition(16, UNKNOWN, e.FillSeen, r.always, r.by_quantity, (A.BOOK, A.PROTECT, A.ASK), "asked until a report says open or done"),
    OrderTransition(17, UNKNOWN, e.DuplicateId, r.always, r.same, (A.ASK,), "evidence of existence"),
    OrderTransition(10, UNKNOWN, e.Ambiguous, r.always, r.same, (A.ASK,), "nothing new"),
    OrderTransition(18, UNKNOWN, e.FoundAbsent, r.never_acknowledged, r.to(S.ABSENT), (A.RELEASE, A.PROTECT, A.ALERT, A.NOTIFY), "C5 satisfied"),
    OrderTransition(19, UNKNOWN, e.FoundAbsent, r.was_acknowledged, r.same, (A.PAGE,), "polling cannot prove this away"),
    OrderTransition(20, UNKNOWN, e.Settled, r.always, r.settled, (A.RELEASE, A.PROTECT, A.NOTIFY), "two-step, with a reason"),
    OrderTransition(21, _in(S.ACCEPTED), e.Reported, r.reports_open, r.as_reported, (), "triggered, or pending no more"),
    OrderTransition(22, _in(S.ACCEPTED, S.WORKING), e.FillSeen, r.always, r.by_quantity, (A.BOOK, A.PROTECT), ""),
    OrderTransition(22, _in(S.WORKING, S.PARTIAL), e.Reported, r.reports_open, r.as_reported, (), "a report announces, fills move"),
    OrderTransition(23, _in(S.PARTIAL), e.FillSeen, r.always, r.by_quantity, (A.BOOK, A.PROTECT), ""),
    OrderTransition(23, LIVE, e.Reported, r.reports_filled, r.as_reported, (A.PROTECT,), "a report announces, fills move"),
    OrderTransition(24, LIVE, e.Reported, r.reports_cancelled, r.as_reported, (A.RELEASE, A.PROTECT, A.NOTIFY), "fills first"),
    OrderTransition(24, ENDED, e.FillSeen, r.is_within_reported, r.completed, (A.BOOK, A.PROTECT), "a fill the end reported is not late"),
    OrderTransition(25, LIVE, e.Reported, r.reports_expired, r.as_reported, (A.RELEASE, A.PROTECT, A.NOTIFY), "IOC, FOK, GTD, STP, end of day"),
    OrderTransition(26, LIVE, e.Reported, r.reports_rejected, r.as_reported, (A.RELEASE, A.PROTECT, A.PAGE), "e.g. a stop refused at its trigger"),
    OrderTransition(27, LIVE, e.SessionBroke, r.always, r.stale, (), "entries are held by the venue's state, not by this"),
    OrderTransition(28, LIVE, e.NotListed, r.always, r.not_listed, (A.ASK, A.ALERT), "asked by id, then history; never assumed dead"),
    OrderTransition(29, LIVE, e.CancelRequested, r.always, r.with_request(Request.CANCEL), (A.SEND_CANCEL,), ""),
    OrderTransition(30, SENDING | UNKNOWN, e.CancelRequested, r.always, r.with_request(Request.CANCEL_WANTED), (), "sent when it proves open"),
    OrderTransition(31, OPEN - INTENDED, e.CancelAcked, r.always, r.cancelled, (A.RELEASE, A.PROTECT, A.NOTIFY), "fills first"),
    OrderTransition(32, OPEN - INTENDED, e.CancelRefused, r.cancel_unknown_order, r.with_request(Request.CANCEL_UNKNOWN), (A.ASK,), "may be filled"),
    OrderTransition(33, OPEN - INTENDED, e.CancelRefused, r.has_cancel_request, r.with_request(Request.CANCEL_UNKNOWN), (A.ASK,), "asked; repeated by row 29 if it is open"),
    OrderTransition(33, OPEN - INTENDED, e.RequestAmbiguous, r.has_cancel_request, r.with_request(Request.CANCEL_UNKNOWN), (A.ASK,), "asked; repeated by row 29 if it is open"),
    OrderTransition(34, LIVE, e.ReplaceRequested, r.has_no_request, r.with_request(Request.REPLACE), (), "reduced in place, or ended and placed again by one request, where the venue can"),
    OrderTransition(34, LIVE, e.ReplaceRequested, r.always, r.same, (), "another request is open"),
    OrderTransition(34, LIVE, e.ReplaceAcked, r.has_replace_request, r.replaced, (A.PROTECT,), "same identity"),
    OrderTransition(34, OPEN - INTENDED, e.ReplaceAcked, r.always, r.amended, (A.PROTECT,), "its cancel was wanted meanwhile"),
    OrderTransition(35, LIVE, e.ReplaceRefused, r.has_replace_request, r.with_request(Request.NONE), (A.ASK,), "as it was"),
    OrderTransition(35, OPEN - INTENDED, e.ReplaceRefused, r.always, r.same, (A.ASK,), "its cancel was wanted meanwhile"),
    OrderTransition(35, LIVE, e.RequestAmbiguous, r.has_replace_request, r.with_request(Request.REPLACE_UNKNOWN), (A.ASK,), "both count as exposure"),
    OrderTransition(36, ENDED, e.FillSeen, r.always, r.by_quantity_late, (A.BOOK, A.PROTECT, A.ASK, A.ALERT, A.PAGE), "position first"),
    OrderTransition(37, ENDED, e.Reported, r.reports_open, r.as_reported_late, (A.PROTECT, A.PAGE, A.CANCEL_UNLESS_VALID), "it lives after all"),
    OrderTransition(37, _in(S.REJECTED, S.ABSENT), e.Reported, r.always, r.as_reported_late, (A.PROTECT, A.PAGE), "it had lived after all"),
    OrderTransition(36, _in(S.CANCELLED, S.EXPIRED, S.FILLED), e.Reported, r.reports_executed, r.raise_reported, (A.ALERT,), "more was executed than its end said"),
    OrderTransition(23, _in(S.FILLED), e.FillSeen, r.is_within, r.completed, (A.BOOK, A.PROTECT), "a fill its report counted"),
    OrderTransition(38, _in(S.FILLED), e.FillSeen, r.always, r.completed, (A.BOOK, A.PROTECT, A.PAGE), "overfill: risk uses the position"),
    OrderTransition(39, ANY - NEVER_SENT - INTENDED, e.Busted, r.is_replaced, r.given_back, (A.BOOK, A.PROTECT), "the execution follows at once"),
    OrderTransition(39, ANY - NEVER_SENT - INTENDED, e.Busted, r.has_fills, r.busted, (A.BOOK, A.PROTECT, A.PAGE), "a reversing fill"),
    OrderTransition(IMPOSSIBLE_FILL_ROW, NEVER_SENT, e.FillSeen, r.always, r.same, (A.BOOK_EXTERNAL, A.PAGE, A.HALT), "IMPOSSIBLE_FILL"),
    OrderTransition(IMPOSSIBLE_FILL_ROW, NEVER_SENT, e.Reported, r.always, r.same, (A.PAGE, A.HALT), "IMPOSSIBLE_FILL"),
    OrderTransition(OLD_REPORT_ROW, LIVE | ENDED | _in(S.FILLED), e.Reported, r.is_old, r.same, (), "recorded; WORKING never follows FILLED"),
    OrderTransition(12, LIVE | ENDED | _in(S.FILLED), e.Acked, r.always, r.keep_ids, (), "a later ack is only ids"),
    OrderTransition(13, LIVE | ENDED | _in(S.FILLED), e.Ambiguous, r.always, r.same, (), "the stream has answered already"),
    OrderTransition(13, LIVE | ENDED | _in(S.FILLED), e.DuplicateId, r.always, r.same, (), "the stream has answered already"),
    OrderTransition(11, LIVE | UNKNOWN, e.Replayed, r.always, r.replayed, (A.ASK,), "reconciled before entries open; what was asked may never have left"),
    OrderTransition(27, OPEN - LIVE, e.SessionBroke, r.always, r.same, (), "nothing was known to go stale"),
    OrderTransition(27, ANY - OPEN, e.SessionBroke, r.always, r.same, (), "it ended while open orders were gone through"),
    OrderTransition(5, _in(S.ABANDONED), e.Abandoned, r.always, r.same, (), "it was given up before"),
    OrderTransition(28, ANY - LIVE, e.NotListed, r.always, r.same, (), "it ended, or is asked about, since the list was read"),
    OrderTransition(31, ANY - OPEN, e.CancelAcked, r.always, r.same, (), "it had ended before"),
    OrderTransition(32, ANY - OPEN, e.CancelRefused, r.always, r.same, (), "it had ended before"),
    OrderTransition(33, ANY - OPEN, e.RequestAmbiguous, r.always, r.same, (), "it had ended before"),
    OrderTransition(29, ANY - OPEN, e.CancelRequested, r.always, r.same, (), "nothing left to cancel"),
    OrderTransition(34, ANY - LIVE, e.ReplaceRequested, r.always, r.same, (), "nothing to change in place"),
    OrderTransition(34, ANY - OPEN, e.ReplaceAcked, r.always, r.same, (), "it had ended before"),
    OrderTransition(35, ANY - OPEN, e.ReplaceRefused, r.always, r.same, (), "it had ended before"),
    OrderTransition(43, None, e.LegReported, r.always, r.as_reported, (A.RESERVE, A.PROTECT), "the venue placed it: it keeps the bracket, or closes fills"),
    OrderTransition(44, LIVE | UNKNOWN, e.LegChanged, r.always, r.leg_changed, (A.PROTECT,), "at the venue that placed it"),
    OrderTransition(44, ANY - LIVE - UNKNOWN, e.LegChanged, r.always, r.same, (), "it had ended before"),
    OrderTransition(45, ANY - NEVER_SENT - INTENDED, e.StopMoved, r.is_nearer, r.stop_moved, (A.PROTECT,), "a trailing stop follows the closes"),
    OrderTransition(45, ANY, e.StopMoved, r.always, r.same, (), "it never moves back"),
    OrderTransition(49, ANY - NEVER_SENT - INTENDED, e.TargetMoved, r.has_take_profit, r.target_moved, (A.PROTECT,), "its strategy moves the take profit"),
    OrderTransition(49, ANY, e.TargetMoved, r.always, r.same, (), "there is none to move"),
    OrderTransition(47, ANY, e.ProtectionDropped, r.always, r.unprotected, (A.PROTECT,), "a person's own risk"),
    OrderTransition(48, OPEN - INTENDED, e.SharesSplit, r.always, r.in_old_shares, (A.PROTECT,), "a leg: replaced by one in the new shares"),
    OrderTransition(48, ANY - OPEN | INTENDED, e.SharesSplit, r.always, r.in_new_shares, (A.PROTECT,), "with the position that is made of it"),
    OrderTransition(46, OPEN - INTENDED, e.CancelWithdrawn, r.has_cancel_request, r.with_request(Request.NONE), (A.ASK,), "what left may still end it"),
    OrderTransition(46, ANY, e.CancelWithdrawn, r.always, r.same, (), "nothing to withdraw"),
    OrderTransition(46, OPEN - INTENDED, e.CancelRefused, r.always, r.same, (A.ASK,), "the cancel was withdrawn"),
    OrderTransition(46, OPEN - INTENDED, e.RequestAmbiguous, r.always, r.same, (A.ASK,), "the cancel was withdrawn"),
)  # fmt: skip

QUARANTINE = OrderTransition(QUARANTINE_ROW, ANY, e.Event, r.always, r.same, (A.PAGE,), "a pair not in this table: event kept, paged, nothing changed")  # fmt: skip


def _index(rows: Iterable[OrderTransition]) -> dict[tuple[State | None, type[e.Event]], tuple[OrderTransition, ...]]:
    found: dict[tuple[State | None, type[e.Event]], list[OrderTransition]] = {}
    for row in rows:
        for state, event in product(row.states if row.states is not None else (None,), (row.event,)):
            found.setdefault((state, event), []).append(row)
    return {key: tuple(sorted(value, key=lambda row: row.number != OLD_REPORT_ROW)) for key, value in found.items()}


_ROWS = _index(TRANSITIONS)


def begin(order: Order, event: e.Event) -> Step:
    """Return the first step of an order that is not in the journal yet (rows 1 to 3, 43). Errors: KeyError, ours."""
    row = _ROWS[None, type(event)][0]
    after = evolve(order, **row.target(order, event), updated_ns=event.recv_ns)
    acts = (*row.acts, Act.FETCH_FILLS) if after.reported_cum_qty > after.filled else row.acts
    return Step(None, after, acts, row.number, is_changed=True)


def advance(order: Order, event: e.Event) -> Step:
    """Return what `event` does to `order`. Never raises for an answer that a venue can give: row 42 takes what fits no other.

    The caller has made sure that the event's id was not applied before.
    """
    for row in _ROWS.get((order.state, type(event)), ()):
        if row.guard(order, event):
            return _ride(order, row, event)
    acts = (*QUARANTINE.acts, Act.BOOK_EXTERNAL) if isinstance(event, e.FillSeen) else QUARANTINE.acts
    return Step(order.state, order, acts, QUARANTINE.number, is_changed=False)


_VENUE_SPOKE = (e.Acked, e.Reported, e.FillSeen, e.CancelAcked)


def _sent_ns(event: e.Event) -> int | None:
    """Return when the first byte left, as far as the event knows: of an order found after a crash, when it was
    found."""
    if isinstance(event, e.Acked | e.Refused | e.Ambiguous | e.DuplicateId):
        return event.sent_ns
    return event.recv_ns if isinstance(event, e.Replayed) else None


def _ride(before: Order, row: OrderTransition, event: e.Event) -> Step:
    """Apply `row` and the riders of the module's text, in one copy of the order."""
    fields, acts = row.target(before, event), list(row.acts)

    def after(name: str) -> Any:
        return fields[name] if name in fields else getattr(before, name)

    state, request = after("state"), after("request")
    if isinstance(event, _VENUE_SPOKE) and row.number != OLD_REPORT_ROW:
        fields["venue_time_ns"] = max(event.venue_time_ns, before.venue_time_ns)
        fields["is_stale"] = False
    if before.sent_ns is None and state is not State.INTENDED:
        fields["sent_ns"] = _sent_ns(event)
    if state not in OPEN:
        fields["request"] = Request.NONE
    elif state in LIVE and request is Request.CANCEL_WANTED and not isinstance(event, e.Replayed):
        # a start sends nothing: the venue's first report does
        fields["request"] = Request.CANCEL
        acts.append(Act.SEND_CANCEL)
    if after("reported_cum_qty") > after("filled"):
        acts.append(Act.FETCH_FILLS)
    changed = {name: value for name, value in fields.items() if value != getattr(before, name)}
    order = before
    if changed:
        order = evolve(before, **changed, updated_ns=max(event.recv_ns, before.updated_ns))
    quantity = before.quantity if "quantity" in changed else None
    return Step(before.state, order, tuple(dict.fromkeys(acts)), row.number, bool(changed), quantity)
