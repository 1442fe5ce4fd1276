"""Events, commands and facts of the order core.

The core of one position key (account, venue, symbol) takes one event and the facts of that moment, and returns
commands. The driver carries them out and reports back with further events. All of them are plain values, so that a run
can be recorded and replayed (tests/tapes/orders).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

import msgspec

from fks.model.account import Balance
from fks.model.instrument import Instrument
from fks.model.kill import KillMode as KillMode
from fks.model.order import Order, Refusal, Role, Side
from fks.model.parent import ParentPlan
from fks.model.signal import Signal, SignalState
from fks.trading.risk.policy import Circumstances, JournalState, Reach

ZERO = Decimal(0)
#: (account id, venue, symbol)
PositionKey = tuple[int, str, str]


@dataclass(frozen=True, slots=True)
class Now:
    """The moment of an event: `ns` UTC for comparison with decisions, `mono_s` for deadlines."""

    ns: int
    mono_s: float


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts from outside that this key's decisions need. A snapshot, given with each event.

    Units: `base_balance` in base: the account's balance of the symbol's base at the venue; None = not read.
    `kill`, `kill_id`: of the kills of the key's account and venue; `instance_kills`: of the instances that a kill of a
    scope of their own concerns, those of the key among them. `owned_elsewhere`: the part of it that positions in other
    symbols own. `instruments` and `marks` are of this symbol, by exchange; a mark that is not fresh is left out.
    `averages`: average prices of positions, by instance.
    """

    can_commit: bool = True  # the lease is held and the journal takes commits
    has_side_journal: bool = False  # PostgreSQL is away, and protection and exits go through the side journal
    kill: KillMode = KillMode.NONE
    kill_id: str = ""
    instance_kills: Mapping[str, tuple[KillMode, str]] = field(default_factory=dict)
    is_connected: bool = True
    has_positions: bool = True  # the venue's positions were read at least once
    was_ready: bool = True  # the venue was reconciled at least once since the start
    has_oco: bool = True
    can_amend: bool = False  # the venue reduces a live order in place
    can_replace: bool = False  # the venue ends an order and places another by one request
    can_reprice: bool = False  # the venue moves the price of a live order in place
    can_short: bool = False
    closes_fills: bool = False  # the venue makes a stop for each fill of an entry that was sent so (its `group_id`)
    keeps_bracket: bool = False  # the venue alone looks after SL and TP: they are compared, never touched
    closes_on_kill: bool = False  # the order manager carries kills out there, as on paper, not the guardian
    is_tape: bool = False  # decisions have the tape's times, and bars wait for them: their age is not measured here
    account_problem: str = ""  # why no session carries the account; "" = one does
    exchange_now_ns: int = 0  # the exchange's clock
    instruments: Mapping[str, Instrument] = field(default_factory=dict)
    marks: Mapping[str, Decimal] = field(default_factory=dict)
    averages: Mapping[str, Decimal] = field(default_factory=dict)
    base_balance: Balance | None = None
    owned_elsewhere: Decimal = ZERO
    split_ns: int | None = None  # since when the shares are split that the position is not carried over to yet
    fee_rate: Decimal = ZERO  # taken out of what an entry receives
    lists_over: frozenset[str] = frozenset()  # lists of legs (`group_id`) of which one has executed all

    def circumstances(self, instance: str, *, is_by_person: bool = False) -> Circumstances:
        """Return the part of it that the policy looks at; the core sends no entry itself, so it asks no more of the
        venue than its positions."""
        reach = Reach.READY if self.is_connected and self.has_positions else Reach.AWAY
        return Circumstances(self.kill_of(instance), is_by_person, reach, self.journal)

    def kill_of(self, instance: str) -> KillMode:
        """Return the mode of the kills that concern an instance's orders and position here."""
        return self.instance_kills.get(instance, (self.kill, ""))[0]

    def kill_id_of(self, instance: str) -> str:
        """Return the id of the kill that closes an instance's position here, "" where none is known."""
        return self.instance_kills.get(instance, (self.kill, self.kill_id))[1]

    @property
    def journal(self) -> JournalState:
        """Return which journal takes commits."""
        if self.can_commit:
            return JournalState.COMMITS
        return JournalState.SIDE if self.has_side_journal else JournalState.AWAY


@dataclass(frozen=True, slots=True)
class Limits:
    """Waits of the core, in seconds. Settings, shortened in tests."""

    clear_s: float = 2.0  # protection that is down without a close going out goes up again after this
    unprotected_s: float = 5.0  # a position that should be protected and is not for this long pages
    unprotected_within_s: float = 60.0  # or in gaps that are together as long within this time
    exit_page_s: float = 30.0  # an exit that is not done by then pages
    exit_page_again_s: float = 300.0  # and again after each of these
    exit_retry_s: float = 0.5
    exit_retry_max_s: float = 10.0
    protect_retry_s: float = 0.2
    protect_retry_max_s: float = 10.0
    triggered_s: float = 3.0  # a stop that triggered and did not fill for this long is closed at the market
    protect_join_s: float = 0.25  # after its legs went out an entry's further executions are joined for this long
    # parts that fill at once come this close together: with the last one the venue's exits are up
    sweep_s: float = 0.05
    first_sync_s: float = 5.0  # entries wait this long for a venue's first reconciliation after a start
    unresolved_s: float = 60.0  # an acknowledged order UNKNOWN for longer does not hold up an exit (a person was paged)


# ── events ───────────────────────────────────────────────────────────────────────────────────────
class CoreEvent(msgspec.Struct, frozen=True):
    """Root of the events that a core is given."""


class SignalReady(CoreEvent, frozen=True):
    """A signal waits for its outcome. `decided_ns` is its decision on the exchange's clock; `max_age_s` None = no
    limit."""

    signal: Signal
    decided_ns: int
    max_age_s: float | None


class OrderChanged(CoreEvent, frozen=True):
    """An order of the key after a committed step; `positions` are the key's quantities by instance after it."""

    order: Order
    positions: Mapping[str, Decimal]


class PositionsChanged(CoreEvent, frozen=True):
    """Quantities by instance, changed by something that is no order of ours (external holdings)."""

    positions: Mapping[str, Decimal]


class PlanChanged(CoreEvent, frozen=True):
    """The plan of a parent is another one now: a person amended it."""

    signal_id: uuid.UUID
    plan: ParentPlan


class ResumedExit(msgspec.Struct, frozen=True):
    """An exit that an earlier process had begun: its signal, its newest order, and all its orders where it closes a
    share of the position."""

    signal: Signal
    last: Order
    closes: tuple[Order, ...] = ()
    ended_by: str = ""  # the person that asked for its end, when that was not carried out yet


class Restored(CoreEvent, frozen=True):
    """The rows of the journal about the key at the start.

    `orders`: open orders, and legs of any state whose parent still matters; `entries`: executed orders the positions
    are made of, newest first; `paged`: instances whose page about a position without its protection is open; `plans`:
    of parents, by their signals.
    """

    orders: tuple[Order, ...]
    entries: tuple[Order, ...]
    positions: Mapping[str, Decimal]
    exits: tuple[ResumedExit, ...] = ()
    paged: tuple[str, ...] = ()
    plans: Mapping[uuid.UUID, ParentPlan] = {}


class EntriesRead(CoreEvent, frozen=True):
    """The journal's rows of the entries that an instance's position is made of, newest first, and of all their legs,
    and the plans of those that are parents."""

    instance: str
    entries: tuple[Order, ...]
    legs: tuple[Order, ...]
    plans: Mapping[uuid.UUID, ParentPlan] = {}


class ClosesRead(CoreEvent, frozen=True):
    """All stops that the venue had made for fills of an entry are orders here, when it had executed `filled`; None: it
    did not answer."""

    parent_id: str
    filled: Decimal | None


class SplitApplied(CoreEvent, frozen=True):
    """The key's positions, and the orders that they are made of, are in the shares after a split: orders with their
    legs, and the plans of parents."""

    orders: tuple[Order, ...]
    positions: Mapping[str, Decimal]
    plans: Mapping[uuid.UUID, ParentPlan] = {}
    effective_ns: int = 0


class EntryDone(CoreEvent, frozen=True):
    """The submission of an entry or of a person's order ended: denied, or answered by the venue (or ambiguous)."""

    signal_id: uuid.UUID


class CloseDone(CoreEvent, frozen=True):
    """The submission of a closing order ended. `code`: our own denial when it was not sent; `is_used`: its id was
    taken."""

    instance: str
    client_order_id: str
    code: str = ""
    detail: str = ""
    is_used: bool = False


class ProtectionDone(CoreEvent, frozen=True):
    """The submission of a parent's protective legs ended. `refusals`: one for each leg that was refused; `target`: the
    number of the target that they are about."""

    parent_id: str
    refusals: tuple[Refusal, ...] = ()
    retry_after_s: float = 0.0
    target: int = 0


class ExitEndRequested(CoreEvent, frozen=True):
    """A person, `by`, asked for the end of the exit that a signal began, or is waiting to begin."""

    signal_id: uuid.UUID
    by: str


class Recheck(CoreEvent, frozen=True):
    """Something outside changed (a session is back, a kill was engaged or released, a sweep is done): look again
    now."""


class Tick(CoreEvent, frozen=True):
    """Time passed."""


# ── commands ─────────────────────────────────────────────────────────────────────────────────────
class CoreCommand(msgspec.Struct, frozen=True):
    """Root of the commands of a core."""


class SubmitEntry(CoreCommand, frozen=True):
    """Size, check and submit an entry or a person's order; report EntryDone."""

    signal_id: uuid.UUID


class SubmitClose(CoreCommand, frozen=True):
    """Submit a market order that closes `quantity` of an instance's position; report CloseDone."""

    signal_id: uuid.UUID
    instance: str
    side: Side
    quantity: Decimal
    attempt: int
    takes_signal: bool  # the signal gets its outcome with this order


class SubmitKill(CoreCommand, frozen=True):
    """Submit a market order that closes an instance's position for the kill switch; report CloseDone."""

    kill_id: str
    instance: str
    exchange: str
    side: Side
    quantity: Decimal
    attempt: int


class PlaceProtection(CoreCommand, frozen=True):
    """Submit the protective legs of `parent` over `quantity`; report ProtectionDone.

    `waiting`: legs that are journaled and were never sent; without any, new ones of attempt `attempt` are made.
    `is_refused_before`: the venue refused the last ones: when the market has passed a leg's price, it is closed at the
    market.
    """

    parent: Order
    roles: frozenset[Role]
    quantity: Decimal
    attempt: int
    waiting: tuple[str, ...] = ()
    is_refused_before: bool = False


class CloseAtMarket(PlaceProtection, frozen=True):
    """Close `quantity` at the market, wherever the price is now, in one of `roles`: that leg of `parent` was refused
    because the market had passed its price. Report ProtectionDone."""


class PutBackProtection(PlaceProtection, frozen=True):
    """Submit legs as those of a kill that is carried out here, between its closing orders."""


class AmendLegs(CoreCommand, frozen=True):
    """Reduce legs of one list, on the book or waiting with their entry, to `quantity` in place: one request, which
    changes both legs of an OCO."""

    client_order_ids: tuple[str, ...]
    quantity: Decimal


class RepriceLeg(CoreCommand, frozen=True):
    """Move the trigger of a live stop, or the limit of a live take profit, to `price` in place, by one request."""

    client_order_id: str
    price: Decimal


class ReplaceStop(CoreCommand, frozen=True):
    """Replace a live stop of `parent` that has no other leg by one over `quantity` at the parent's stop loss, by one
    request; report ProtectionDone."""

    parent: Order
    client_order_id: str
    quantity: Decimal
    attempt: int


class MoveStop(CoreCommand, frozen=True):
    """Move the stop loss of a parent, only nearer to the market. `leg`: the one whose execution moves it, none where a
    price does."""

    client_order_id: str
    stop_loss: Decimal
    leg: str = ""


class ReadEntries(CoreCommand, frozen=True):
    """Read the entries that `held` (absolute) of an instance is made of; report EntriesRead."""

    instance: str
    held: Decimal


class ReadCloses(CoreCommand, frozen=True):
    """Ask the venue which stops it made for fills of an entry; report ClosesRead."""

    parent: Order


class CancelOrder(CoreCommand, frozen=True):
    client_order_id: str
    reason: str


class WithdrawCancel(CoreCommand, frozen=True):
    """Want an order live whose cancel was commanded and is not proven: it is not repeated."""

    client_order_id: str


class QueryOrder(CoreCommand, frozen=True):
    """Query the venue by client order id until nothing about the order is unresolved."""

    client_order_id: str


class AbandonOrder(CoreCommand, frozen=True):
    """End an order whose bytes never left."""

    client_order_id: str
    reason: str


class FinishSignal(CoreCommand, frozen=True):
    """Write the outcome of a signal that led to no order."""

    signal_id: uuid.UUID
    state: SignalState
    code: str = ""
    detail: str = ""


class RecordExitEnd(CoreCommand, frozen=True):
    """Add to a signal that led to orders already that a person ended its exit."""

    signal_id: uuid.UUID
    detail: str


class DenySignal(CoreCommand, frozen=True):
    """Deny an entry without submitting it."""

    signal_id: uuid.UUID
    code: str
    limit: str
    observed: str
    remedy: str


class RefreshBalances(CoreCommand, frozen=True):
    pass


class RaiseAlert(CoreCommand, frozen=True):
    """`severity` is `page` or `warning`."""

    severity: str
    event: str
    message: str
    instance: str
    client_order_id: str = ""


class EndAlert(CoreCommand, frozen=True):
    """The condition of the alert `event` of an instance is over."""

    event: str
    message: str
    instance: str
