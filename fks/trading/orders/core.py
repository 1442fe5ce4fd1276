"""The order core of one position key (account, venue, symbol): events in, commands out. Pure.

It decides when a signal is submitted, carries exits through their table (`fks.trading.orders.exits`), keeps protection
equal to the position (`fks.trading.orders.protection`) and reacts to the kill switch. It knows no clock, socket or
table: the driver (`fks.trading.order_manager.position_workers`) gives each event with the moment and the facts, and
carries the commands out.

Hard state: none; everything follows from the journal (`Restored`). Soft state: the queue of signals, exits in progress,
waits between attempts.

Rules:
  * Signals of one instance are decided in their order; one entry of the key is submitted at a time.
  * While an exit of an instance is in progress, no entry of that instance goes out; one that becomes stale is denied.
  * Protection is looked after in every state of an exit but CLEARING and CLOSING, and under a held kill.
  * Under a kill that flattens, the core starts nothing, except at a venue that only the order manager can flatten.
  * Where the venue keeps the bracket (`Facts.keeps_bracket`), legs are never placed, renewed or cancelled: they are
    compared with the position, and an exit or a kill goes out at once, since the venue ends the legs for it.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from uuid import UUID

from fks.model.backoff import Backoff
from fks.model.ids import client_order_id, intent_id
from fks.model.instrument import Instrument
from fks.model.order import LIVE, OPEN, Order, OrderType, Refusal, Request, Role, Side, State
from fks.model.parent import ParentPlan, break_even_stop, is_at_risk_multiple
from fks.model.signal import Kind, Signal, SignalState, is_program
from fks.trading.orders import messages as m
from fks.trading.orders.absence import is_unresolvable
from fks.trading.orders.exits import Exit, ExitAct, ExitState, Situation, next_row
from fks.trading.orders.protection import (
    LISTS_MAX,
    LISTS_OF_SYMBOL_MAX,
    Cover,
    Entries,
    LegAction,
    LegStep,
    Want,
    can_rest,
    diff,
    least_that_rests,
    next_attempt,
    split,
    target_of,
    without_close,
)
from fks.trading.portfolio.position import EXTERNAL
from fks.trading.risk.exits import Books, closable, is_dust, left_at_venue, split_at_lot
from fks.trading.risk.policy import Action, Allow, JournalState, Wait, action_of, allowed, is_ended
from fks.trading.risk.sizing import part_quantity
from fks.trading.risk.view import is_list_over, without_replaced

_LEG_ROLES = frozenset({Role.STOP_LOSS, Role.TAKE_PROFIT})
_CANCELLING = frozenset({Request.CANCEL, Request.CANCEL_WANTED, Request.CANCEL_UNKNOWN})
_CLOSING_ROLES = frozenset({Role.EXIT, Role.KILL, Role.ORDER})
_ENDED_SIGNALS_MAX = 2000
_FORGOTTEN_MAX = 1000
_KILL_IN_VAIN_MAX = 5  # orders of a kill in a row that closed nothing: then a person is paged
_IN_VAIN_MAX = 2  # of an OCO or of an amendment: then the stop alone, or a replacement
_GAPS_MAX = 1000  # short gaps of a position's cover that are remembered
_MARK_LOOK_S = 1.0  # between two looks at the price that moves a stop to break-even
_CLOSES_S = 1.0  # after a fill, and after no answer: then the venue is asked for the stops that it makes for fills
_AMENDING = (Request.REPLACE, Request.REPLACE_UNKNOWN)
#: refusals that a stop without its take profit would meet as well
_NOT_OF_A_PAIR = (Refusal.INSUFFICIENT_BALANCE, Refusal.TOO_MANY_ORDERS)
ZERO = Decimal(0)


@dataclass(slots=True)
class _Queue:
    """Signals of one instance that wait, oldest first."""

    waiting: deque[m.SignalReady] = field(default_factory=deque)
    page_at_s: float | None = None  # when an exit among them pages next


@dataclass(slots=True)
class _Protection:
    """The state of one parent's legs between attempts."""

    is_placing: bool = False
    placing: Decimal = ZERO  # commanded, and not in the journal yet
    is_refused: bool = False
    triggered: str = ""  # the stop that is cancelled because it triggered and does not fill
    is_closing: bool = False  # the newest command closes a leg that the market has passed, and nothing executed yet
    pairs_refused: int = 0  # an OCO's refusals in a row that the same request would meet again
    amends_refused: int = 0
    amending: Decimal = ZERO  # the quantity that an amendment was commanded to reduce
    replaced: str = ""  # the stop that the newest replacement ends
    successor: str = ""  # what it puts in its place
    is_swapping: bool = False  # that replacement has no outcome yet
    swaps_refused: int = 0
    repricing: str = ""  # the leg that the newest move in place is about
    reprice_to: Decimal | None = None
    moves_refused: int = 0
    grow_at_s: float = 0.0  # until then further executions are joined
    is_replacing: bool = False  # a list gave way to one that is placed next
    lists_max: int = LISTS_OF_SYMBOL_MAX
    page_at_s: float | None = None  # when exits that wait with an entry, and would sell too much, page next
    closes_of: Decimal = ZERO  # what the entry had executed when the venue's stops for it were waited for
    closes_ask_s: float = 0.0
    closes_lacking: Decimal = ZERO  # of it, what the venue has proven to have made no stop for
    pending_until_s: float | None = None  # then legs that wait at the venue for an entry that ended are queried
    retry_at_s: float = 0.0
    retry_s: float = 0.0


def _is_refused(leg: Order) -> bool:
    """Return whether the venue refused a leg, at once or when it was to get to the book or to execute."""
    return leg.state is State.REJECTED or (leg.state is State.EXPIRED and leg.refusal is not None)


def _key_of(leg: Order) -> tuple[str, int]:
    return leg.parent_id or "", target_of(leg)


def _cover_lost_ns(order: Order) -> int:
    """Return when an order may have begun a gap in a position's cover; 0 if it cannot have. An executed entry begins
    one, whatever changed after its execution, and so does a leg that does not count any more; a leg that was refused,
    or that the venue never reported, never counted."""
    if order.parent_id is None:
        return min(order.venue_time_ns or order.updated_ns, order.updated_ns) if order.filled > 0 else 0
    was_there = order.is_acknowledged and not _is_refused(order)
    return order.updated_ns if was_there and (order.state not in LIVE or order.request is not Request.NONE) else 0


@dataclass(slots=True)
class _KillClose:
    """The state of one kill's closing orders of one instance."""

    attempt: int = 0
    held: Decimal = ZERO  # when the last one was made
    in_vain: int = 0  # attempts in a row that closed nothing
    retry_at_s: float = 0.0

    def is_vain(self, held: Decimal) -> bool:
        """Return whether the last one closed nothing of the position."""
        return bool(self.attempt) and abs(held) >= abs(self.held)


@dataclass(slots=True)
class _Uncovered:
    """The time for which an instance's position had less cover than it should have, and the page about it."""

    since_s: float | None = None  # of the gap that lasts
    gaps: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_GAPS_MAX))  # too short to page
    is_paged: bool = False
    covered_s: float | None = None  # since when, once it was paged

    def recent_s(self, from_s: float) -> float:
        """Return how long the short gaps since `from_s` were, all together."""
        while self.gaps and self.gaps[0][1] <= from_s:
            self.gaps.popleft()
        return sum((end_s - max(start_s, from_s) for start_s, end_s in self.gaps), 0.0)


@dataclass(slots=True)
class _Missing:
    """An instance holds more than its known entries executed: since when, and the position when they were read."""

    since_s: float
    read_for: Decimal = ZERO


class OrderCore:
    """See the module's text. `handle` is the only way in; `wake_at_s` is when it wants a Tick."""

    def __init__(self, key: m.PositionKey, limits: m.Limits) -> None:
        self.key = key
        self.wake_at_s: float | None = None
        self._limits = limits
        self._orders: dict[str, Order] = {}  # that may still fill, or whose executions are not all here
        self._legs: dict[str, dict[str, Order]] = {}  # by parent, all attempts
        self._entries: dict[str, Entries] = {}  # by instance: what positions are made of
        self._parents: dict[str, Order] = {}
        self._plans: dict[UUID, ParentPlan] = {}  # by the parent's signal
        self._moved_stops: dict[str, tuple[Decimal, float]] = {}  # by parent: commanded, and until when
        self._positions: dict[str, Decimal] = {}
        self._queues: dict[str, _Queue] = {}
        self._forgotten: OrderedDict[str, Decimal] = OrderedDict()  # entries, and what their legs executed
        self._known: set[UUID] = set()
        self._ended: OrderedDict[UUID, str] = OrderedDict()  # and the person that ended its exit, or ""
        self._entering: UUID | None = None
        self._exits: dict[str, Exit] = {}
        self._protection: dict[tuple[str, int], _Protection] = {}  # by parent and target (`Want.key`)
        self._commanded: dict[str, float] = {}  # orders with a command that is not seen yet, and until when
        self._withdrawn: set[str] = set()  # orders whose cancels were withdrawn, until that shows
        self._unknown_since: dict[str, float] = {}  # UNKNOWN orders; after a restart it counts from zero
        self._uncovered: dict[str, _Uncovered] = {}  # by instance
        self._restored_since_s: dict[str, float] = {}  # by instance: the last loss of cover that the journal shows
        self._triggered_s: dict[str, float] = {}  # stops that triggered, since when
        self._alerted_unprotectable: set[str] = set()
        self._is_crowded = False  # the venue refused a list more
        self._missing: dict[str, _Missing] = {}
        self._kill_closes: dict[tuple[str, str], _KillClose] = {}  # by kill and instance
        self._kill_busy: set[str] = set()
        self._split_ns = 0  # of the last split that was applied: later an entry of before is not taken either
        self._started_s: float | None = None
        self._now = m.Now(0, 0.0)
        self._facts = m.Facts()
        self._out: list[m.CoreCommand] = []

    # ── in ───────────────────────────────────────────────────────────────────────────────────────
    def handle(self, event: m.CoreEvent, now: m.Now, facts: m.Facts) -> list[m.CoreCommand]:
        """Return the commands that follow from `event`. Never raises for anything that a venue, a person or a strategy
        can cause."""
        self._now, self._facts, self._out = now, facts, []
        self.wake_at_s = None
        if self._started_s is None:
            self._started_s = now.mono_s
        self._absorb(event)
        if facts.closes_on_kill and (facts.kill is not m.KillMode.NONE or facts.instance_kills):
            self._kill()
        self._start_signals()
        begun = list(self._exits)
        while begun:  # what waits behind an exit begins when that ends: no further event may come
            ended = [instance for instance in begun if not self._exit(instance)]
            self._start_signals(ended)
            begun = [instance for instance in ended if instance in self._exits]
        self._page_queued_exits()
        instances = self._instances()
        for instance in instances:
            self._read_missing_entries(instance)
            wants = self._wants(instance)
            self._break_even(instance, wants)
            self._protect(instance, wants)
            self._watch_protection(instance, wants)
            self._watch_triggered(instance)
        self._restored_since_s.clear()  # a later gap has its own start
        self._forget_flat(instances)
        return self._out

    @property
    def is_idle(self) -> bool:
        """Return whether nothing is on its way that was commanded."""
        return (
            self._entering is None
            and not self._kill_busy
            and not self._commanded
            and not any(item.is_placing for item in self._protection.values())
            and not any(self._is_moving(name, stop) for name, (stop, _) in self._moved_stops.items())
            and not any(item.is_submitting for item in self._exits.values())
        )

    def _is_moving(self, name: str, stop: Decimal) -> bool:
        """Return whether the parent's stop has not come to where it was commanded to."""
        parent = self._parents.get(name)
        now = None if parent is None else parent.stop_loss
        return parent is not None and now is not None and (stop - now) * parent.side.sign > 0

    @property
    def has_exits(self) -> bool:
        """Return whether an exit is in progress: some facts are needed by exits alone."""
        return bool(self._exits)

    def held_entries(self, instruments: Mapping[str, Instrument]) -> dict[str, list[Order]]:
        """Return the entries with protections that each instance's position is made of, newest first. `instruments`: by
        exchange, as they are known now; those of the last event may be older."""
        found = {}
        for instance in self._positions:
            if entries := [entry for entry in self._made_of(instance, instruments) if entry.role is Role.ENTRY]:
                found[instance] = entries
        return found

    def _made_of(self, instance: str, instruments: Mapping[str, Instrument]) -> list[Order]:
        """Return the entries and persons' orders with protections that an instance's position is made of."""
        entries = self._entries.get(instance)
        if not entries:
            return []
        return entries.made_of(self._positions.get(instance, ZERO), instruments.get(entries.newest.exchange))

    def plan_of(self, entry: Order) -> ParentPlan | None:
        """Return the plan of an entry, or None."""
        return None if entry.signal_id is None else self._plans.get(entry.signal_id)

    @property
    def waiting_on_exit(self) -> int:
        """Return how many signals wait for an exit that is not done: its own, and those behind it."""
        behind = sum(len(self._queues[name].waiting) for name in self._exits if name in self._queues)
        return behind + sum(not exit_.is_taken for exit_ in self._exits.values())

    def is_ended_by_person(self, signal_id: UUID) -> bool:
        """Return whether the exit of a signal was ended by a person, or ends because of one."""
        is_ending = any(exit_.signal.id == signal_id and exit_.ended_by for exit_ in self._exits.values())
        return is_ending or bool(self._ended.get(signal_id))

    def exit_of(self, instance: str) -> Exit | None:
        """Return the exit in progress of an instance, or None."""
        return self._exits.get(instance)

    def unresolvable(self, instance: str) -> frozenset[str]:
        """Return the orders of an instance that hold up no exit (`fks.trading.orders.absence.is_unresolvable`)."""
        mine = (order for order in self._orders.values() if order.instance == instance)
        return frozenset(order.client_order_id for order in mine if self._is_unresolvable(order))

    def _absorb(self, event: m.CoreEvent) -> None:
        if isinstance(event, m.OrderChanged):
            self._positions = dict(event.positions)
            self._take_order(event.order)
        elif isinstance(event, m.SignalReady):
            if event.signal.id not in self._known and event.signal.id not in self._ended:
                self._known.add(event.signal.id)
                if event.signal.plan is not None:
                    self._plans[event.signal.id] = event.signal.plan
                queue = self._queues.setdefault(event.signal.instance, _Queue())
                queue.waiting.append(event)
                if event.signal.is_exit and queue.page_at_s is None:
                    queue.page_at_s = self._now.mono_s + self._limits.exit_page_s
        elif isinstance(event, m.EntryDone):
            self._entry_done(event.signal_id)
        elif isinstance(event, m.CloseDone):
            self._close_done(event)
        elif isinstance(event, m.ProtectionDone):
            self._protection_done(event)
        elif isinstance(event, m.PositionsChanged):
            self._positions = dict(event.positions)
        elif isinstance(event, m.PlanChanged):
            self._plans[event.signal_id] = event.plan
        elif isinstance(event, m.SplitApplied):
            self._positions, self._split_ns = dict(event.positions), event.effective_ns
            self._plans |= event.plans
            for exit_ in self._exits.values():
                exit_.part = None  # worked out in the old shares
            for order in event.orders:
                self._moved_stops.pop(order.client_order_id, None)  # commanded in the old shares
                self._take_order(order)
        elif isinstance(event, m.ExitEndRequested):
            self._end_exit(event)
        elif isinstance(event, m.Restored):
            self._restore(event)
        elif isinstance(event, m.EntriesRead):
            self._take_read(event)
        elif isinstance(event, m.ClosesRead):
            self._closes_read(event)
        elif isinstance(event, m.Recheck):
            self._commanded.clear()
            for item in self._protection.values():
                item.retry_at_s = 0.0

    def _take_order(self, order: Order) -> None:
        name = order.client_order_id
        if order.state in OPEN or order.reported_cum_qty > order.filled:
            self._orders[name] = order
        else:
            self._orders.pop(name, None)
        if order.state is State.UNKNOWN:
            self._unknown_since.setdefault(name, self._now.mono_s)
        else:
            self._unknown_since.pop(name, None)
        if order.request is not Request.NONE or name not in self._orders:
            self._commanded.pop(name, None)
        if order.request is Request.NONE or name not in self._orders:
            self._withdrawn.discard(name)
        if order.parent_id is not None:
            legs = self._legs.setdefault(order.parent_id, {})
            self._note_leg(order, legs.get(name))
            legs[name] = order
            if order.instance in self._entries:
                self._entries[order.instance].note(order.parent_id, self._executed(order.parent_id))
        elif order.role in (Role.ENTRY, Role.ORDER):
            if order.stop_loss is not None or order.take_profit is not None or name in self._parents:
                self._parents[name] = order
            if order.filled > 0 or name in self._entries.get(order.instance, ()):
                self._entries.setdefault(order.instance, Entries()).put(order, self._executed(name))
        exit_ = self._exits.get(order.instance)
        if exit_ is not None and order.signal_id == exit_.signal.id and (order.role is Role.EXIT or exit_.is_single):
            newest = exit_.order
            exit_.closed[name] = order.filled
            if newest is None or order.attempt >= newest.attempt:  # an earlier attempt may still report a late fill
                exit_.order = order

    def _executed(self, name: str) -> Decimal:
        """Return what the legs of an entry executed."""
        known = sum((leg.filled for leg in self._legs.get(name, {}).values()), ZERO)
        return max(known, self._forgotten.get(name, ZERO))

    def _restore(self, event: m.Restored) -> None:
        self._positions = dict(event.positions)
        self._plans |= event.plans
        self._uncovered |= {instance: _Uncovered(is_paged=True) for instance in event.paged}
        for order in (*event.entries, *event.orders):
            self._take_order(order)
            if lost_ns := _cover_lost_ns(order):
                ago_s = max((self._now.ns - lost_ns) / 1e9, 0.0)
                before_s = self._restored_since_s.get(order.instance, self._now.mono_s - ago_s)
                self._restored_since_s[order.instance] = max(before_s, self._now.mono_s - ago_s)
        for resumed in event.exits:
            is_open = resumed.last.client_order_id in self._orders
            self._known.add(resumed.signal.id)
            self._exits[resumed.last.instance] = Exit(
                resumed.signal,
                state=ExitState.CLOSING if is_open else ExitState.WAITING,
                is_taken=True,
                attempt=resumed.last.attempt + (not is_open),
                order=resumed.last,
                closed={order.client_order_id: order.filled for order in resumed.closes},
                ended_by=resumed.ended_by,
                page_at_s=self._now.mono_s + self._limits.exit_page_s,
            )

    def _take_read(self, event: m.EntriesRead) -> None:
        """Take in entries and legs that were forgotten; the known ones are newer than those that were read."""
        self._plans = {**event.plans, **self._plans}
        entries = self._entries.get(event.instance, ())
        known = {name for legs in self._legs.values() for name in legs}
        for entry in event.entries:
            self._forgotten.pop(entry.client_order_id, None)
        for order in (*event.entries, *event.legs):
            if order.client_order_id not in known and order.client_order_id not in entries:
                self._take_order(order)

    # ── signals ──────────────────────────────────────────────────────────────────────────────────
    def _start_signals(self, only: Collection[str] | None = None) -> None:
        """Begin with the signals that may begin (of these instances only)."""
        for instance, queue in list(self._queues.items()):
            if only is not None and instance not in only:
                continue
            while queue.waiting and self._start(instance, queue.waiting[0]):
                queue.waiting.popleft()
            if not queue.waiting:
                del self._queues[instance]

    def _start(self, instance: str, ready: m.SignalReady) -> bool:
        """Begin with a signal; True when the queue need not keep it any longer."""
        signal = ready.signal
        if signal.id in self._ended:
            return True
        if signal.id == self._entering:
            return False
        split_ns = self._facts.split_ns
        if split_ns is not None and (signal.is_exit or signal.ts_event_ns >= split_ns):
            return False  # sized and priced once the position is in the new shares
        if not signal.is_exit and signal.ts_event_ns < (split_ns or self._split_ns):
            limit, observed = "a price of after the split", "it was decided before a split of the shares"
            self._deny(ready, "STALE_DECISION", limit, observed, "send a new one")
            return True
        if signal.is_exit:
            is_entering = any(item.signal.id == self._entering for item in self._queues[instance].waiting)
            if is_entering or not self._makes_way(instance, signal):
                return False
            if signal.size_share is not None and self._facts.keeps_bracket:
                venue, remedy = self.key[1], "close all of it, or trade the strategy at another venue"
                self._deny(ready, "TYPE_UNSUPPORTED", f"what {venue} can do", "closes a part of a position", remedy)
                return True
            self._exits[instance] = Exit(signal, page_at_s=self._now.mono_s + self._limits.exit_page_s)
            return True
        if self._facts.account_problem:
            self._deny(
                ready,
                "ACCOUNT_UNKNOWN",
                "a configured venue with the account",
                self._facts.account_problem,
                "configure the venue, or name an account that trades",
            )
            return True
        if self._is_stale(ready) and (instance in self._exits or not self._facts.can_commit):
            if self._facts.can_commit:
                age_s = (self._facts.exchange_now_ns - ready.decided_ns) / 1e9
                observed = f"decided {age_s:.1f} s ago, while an exit was in progress"
                self._deny(ready, "STALE_DECISION", f"{ready.max_age_s:g} s", observed, "send a new one")
                return True
            return False
        if instance in self._exits or self._entering is not None or not self._facts.can_commit:
            if ready.max_age_s is not None:
                self._wake_in(1.0)
            return False
        assert self._started_s is not None
        if not self._facts.was_ready and self._now.mono_s - self._started_s < self._limits.first_sync_s:
            self._wake_in(self._started_s + self._limits.first_sync_s - self._now.mono_s)
            return False
        instrument = self._facts.instruments.get(signal.exchange)
        if self._is_held_by_own_legs(signal) and not self._postponed(signal, instrument):
            self._exits[instance] = Exit(signal, is_single=True, page_at_s=self._now.mono_s + self._limits.exit_page_s)
            return True
        self._entering = signal.id
        self._out.append(m.SubmitEntry(signal.id))
        return False

    def _makes_way(self, instance: str, signal: Signal) -> bool:
        """Return whether an exit may begin: no other one is in progress, but for one of a share that has no order on
        its way, which an exit of all takes the place of."""
        running = self._exits.get(instance)
        if running is None:
            return True
        if signal.size_share is not None or running.signal.size_share is None or running.state is ExitState.CLOSING:
            return False
        del self._exits[instance]
        self._forget(running.signal.id)
        if not running.is_taken:
            detail = "an exit of all of the position took its place"
            self._out.append(m.FinishSignal(running.signal.id, SignalState.NOTHING, detail=detail))
        return True

    def _is_stale(self, ready: m.SignalReady) -> bool:
        if ready.max_age_s is None or self._facts.is_tape:
            return False
        return (self._facts.exchange_now_ns - ready.decided_ns) / 1e9 > ready.max_age_s

    def _deny(self, ready: m.SignalReady, code: str, limit: str, observed: str, remedy: str) -> None:
        self._out.append(m.DenySignal(ready.signal.id, code, limit, observed, remedy))
        self._forget(ready.signal.id)

    def _is_held_by_own_legs(self, signal: Signal) -> bool:
        """Return whether a person closes at the market what only its own SL and TP hold back: those come down first.

        A resting order never takes a stop's place: it is submitted as it is, and denied when the stop holds the
        position.
        """
        if signal.kind is not Kind.ORDER or signal.type is not OrderType.MARKET or signal.size is None:
            return False
        if self._facts.keeps_bracket:
            return False
        held = self._positions.get(signal.instance, ZERO)
        if held * signal.side.sign >= 0 or signal.size > abs(held) or signal.stop_loss or signal.take_profit:
            return False
        legs = [
            order for order in self._orders.values() if order.instance == signal.instance and order.role in _LEG_ROLES
        ]
        instrument = self._facts.instruments.get(signal.exchange)
        is_held = signal.size > closable(self._books(), signal.side, None)
        return bool(legs) and (is_held or bool(self._overreaching(signal.instance, instrument)))

    def _entry_done(self, signal_id: UUID) -> None:
        if self._entering == signal_id:
            self._entering = None
        for exit_ in self._exits.values():
            if exit_.is_single and exit_.signal.id == signal_id:
                exit_.is_submitting = False
        self._forget(signal_id)

    def _forget(self, signal_id: UUID, ended_by: str = "") -> None:
        self._known.discard(signal_id)
        self._ended[signal_id] = ended_by
        while len(self._ended) > _ENDED_SIGNALS_MAX:
            forgotten, _ = self._ended.popitem(last=False)
            if all(parent.signal_id != forgotten for parent in self._parents.values()):
                self._plans.pop(forgotten, None)  # until then a late fill of its order still finds it

    # ── exits ────────────────────────────────────────────────────────────────────────────────────
    def _end_exit(self, event: m.ExitEndRequested) -> None:
        """Mark the exit of a signal as ended by a person; one that waits behind another exit ends at once."""
        for exit_ in self._exits.values():
            if exit_.signal.id == event.signal_id:
                exit_.ended_by = event.by
        for queue in self._queues.values():
            for item in [item for item in queue.waiting if item.signal.id == event.signal_id and item.signal.is_exit]:
                queue.waiting.remove(item)
                self._forget(event.signal_id, event.by)
                detail = f"{event.by} ended the exit before its first order"
                self._out.append(m.FinishSignal(event.signal_id, SignalState.NOTHING, detail=detail))

    def _exit(self, instance: str) -> bool:
        """Carry an exit on as far as it goes now. Return whether it is still in progress."""
        exit_ = self._exits[instance]
        for order in self._entries_open(instance, exit_):
            self._cancel(order, "exit")
        if exit_.ended_by:
            for order in [o for o in self._orders.values() if o.instance == instance and o.role is Role.EXIT]:
                self._cancel(order, f"{exit_.ended_by} ended the exit")
        for _ in range(8):
            now = self._situation(instance, exit_)
            row = next_row(exit_, now)
            is_change = row.target is not exit_.state
            exit_.state = row.target
            self._exit_act(instance, exit_, row.act, now)
            if exit_.state is ExitState.ENDED or not is_change:
                break
        if exit_.state is ExitState.ENDED:
            return False
        if exit_.state is ExitState.CLEARING:
            if not self._gives_back_part(instance, exit_):
                self._cancel_legs(self._legs_of(instance), "exit")
            if exit_.is_single and not self._facts.can_amend:
                for entry in self._overreaching(instance, self._facts.instruments.get(exit_.signal.exchange)):
                    self._cancel(entry, "exit")
            self._wake_in(exit_.clear_by_s - self._now.mono_s)
        else:
            self._wait(exit_, now)
        self._page_slow_exit(instance, exit_, now)
        return True

    def _wait(self, exit_: Exit, now: Situation) -> None:
        if exit_.state is not ExitState.WAITING:
            return
        if not self._is_due(exit_.retry_at_s):
            return
        exit_.last_problem = now.postponed or ("" if now.quantity > 0 else "the venue has less than is held")
        if exit_.is_short and not now.postponed and now.quantity <= 0 and not (now.is_flat or now.is_dust):
            # the venue's balance is what holds it back: it may be behind our fills
            self._back_off(exit_)
            self._out.append(m.RefreshBalances())
        self._wake_in(self._limits.exit_retry_s)

    def _exit_act(self, instance: str, exit_: Exit, act: ExitAct, now: Situation) -> None:
        if act is ExitAct.CANCEL_LEGS:
            exit_.clear_by_s, exit_.cleared_for = now.now_s + self._limits.clear_s, now.quantity
        elif act is ExitAct.SUBMIT:
            self._submit_close(instance, exit_, now)
        elif act is ExitAct.NEXT_ATTEMPT:
            self._attempt_ended(instance, exit_)
        elif act is ExitAct.GIVE_UP_CLEARING:
            exit_.last_problem = now.postponed or "its protection could not be cancelled in time"
            self._back_off(exit_)
        elif act is not ExitAct.NOTHING:
            self._finish_exit(instance, exit_, act)

    def _submit_close(self, instance: str, exit_: Exit, now: Situation) -> None:
        exit_.is_submitting = True
        if exit_.is_single:
            self._out.append(m.SubmitEntry(exit_.signal.id))
            return
        exit_.close_id = client_order_id(intent_id(exit_.signal.id), Role.EXIT, exit_.attempt)
        self._out.append(
            m.SubmitClose(
                exit_.signal.id, instance, now.side, now.quantity, exit_.attempt, takes_signal=not exit_.is_taken
            )
        )

    def _close_done(self, event: m.CloseDone) -> None:
        exit_ = self._exits.get(event.instance)
        is_exits = exit_ is not None and event.client_order_id == exit_.close_id
        if event.instance in self._kill_busy and not is_exits:
            self._kill_busy.discard(event.instance)
            for close in [close for key, close in self._kill_closes.items() if key[1] == event.instance]:
                close.attempt += event.is_used
            return
        if exit_ is None or not exit_.is_submitting or exit_.is_single:
            return
        exit_.is_submitting = False
        if event.code or event.is_used:
            exit_.state = ExitState.WAITING
            exit_.attempt += event.is_used
            exit_.last_problem = f"{event.code} {event.detail}".strip()
            self._back_off(exit_)
        else:
            exit_.is_taken = True

    def _attempt_ended(self, instance: str, exit_: Exit) -> None:
        """Count the attempt and decide how long to wait before the next one."""
        order = exit_.order
        exit_.attempt += 1
        if order is None or order.state is State.FILLED:
            exit_.retry_s = exit_.retry_at_s = 0.0
            return
        if order.filled > 0:
            exit_.retry_s = 0.0
        self._back_off(exit_)
        exit_.last_problem = f"{order.state.value} {order.code or ''} {order.detail or ''}".strip()
        refusal = order.refusal
        if order.state is not State.REJECTED or (refusal is not None and refusal.is_passing):
            return
        exit_.is_short = exit_.is_short or refusal is Refusal.INSUFFICIENT_BALANCE
        self._out.append(m.RefreshBalances())
        if refusal is not Refusal.INSUFFICIENT_BALANCE and not exit_.is_paged:
            exit_.is_paged = True
            exit_.page_at_s = self._now.mono_s + self._limits.exit_page_again_s
            self._alert(
                "page",
                "exit.rejected",
                f"the exit of {self.key[2]} was refused and is tried again: {exit_.last_problem}",
                instance,
                order.client_order_id,
            )

    def _back_off(self, exit_: Exit) -> None:
        exit_.retry_s = Backoff(self._limits.exit_retry_s, self._limits.exit_retry_max_s).next_s(exit_.retry_s)
        exit_.retry_at_s = self._now.mono_s + exit_.retry_s

    def _finish_exit(self, instance: str, exit_: Exit, act: ExitAct) -> None:
        del self._exits[instance]
        self._forget(exit_.signal.id, exit_.ended_by if act is ExitAct.FINISH_PERSON else "")
        if act is ExitAct.FINISH_SINGLE:
            return
        if act is ExitAct.FINISH_PERSON:
            held = self._positions.get(instance, ZERO)
            detail = f"{exit_.ended_by} ended the exit; {held.normalize():f} is still held"
            self._alert("warning", "exit.ended", f"{self.key[2]}: {detail}", instance)
            if exit_.is_taken:
                self._out.append(m.RecordExitEnd(exit_.signal.id, detail))
                return
        elif exit_.is_single:
            # it cannot close anything now: the submission says why, with its code
            self._out.append(m.SubmitEntry(exit_.signal.id))
            return
        elif act is ExitAct.FINISH_PART:
            detail = "the part of the position that it closes is below the venue's smallest order"
        elif act is ExitAct.FINISH_FLAT:
            detail = "nothing is held that an order could close"
        else:
            detail = "dust: what is held is below the venue's smallest order"
        if not exit_.is_taken:
            self._out.append(m.FinishSignal(exit_.signal.id, SignalState.NOTHING, detail=detail))

    def _page_slow_exit(self, instance: str, exit_: Exit, now: Situation) -> None:
        if self._facts.kill_of(instance) is m.KillMode.FLATTEN:
            return
        if now.now_s < exit_.page_at_s and (exit_.is_paged or not self._facts.account_problem):
            self._wake_in(exit_.page_at_s - now.now_s)
            return
        exit_.is_paged = True
        exit_.page_at_s = now.now_s + self._limits.exit_page_again_s
        why = now.postponed or exit_.last_problem or "waits for the venue"
        self._alert(
            "page", "exit.waiting", f"the exit of {self.key[2]} is not done: {exit_.state.value}, {why}", instance
        )

    def _page_queued_exits(self) -> None:
        """Page about exits that wait behind an entry of their own instance; behind an exit, that one pages."""
        for instance, queue in self._queues.items():
            if not any(item.signal.is_exit for item in queue.waiting):
                queue.page_at_s = None
            is_killed = self._facts.kill_of(instance) is m.KillMode.FLATTEN
            if queue.page_at_s is None or instance in self._exits or is_killed:
                continue
            if not self._is_due(queue.page_at_s):
                continue
            queue.page_at_s = self._now.mono_s + self._limits.exit_page_again_s
            self._alert(
                "page", "exit.waiting", f"the exit of {self.key[2]} has to wait: its entry has no outcome yet", instance
            )

    def _situation(self, instance: str, exit_: Exit) -> Situation:
        """Return what the table looks at."""
        held = self._positions.get(instance, ZERO)
        instrument = self._facts.instruments.get(exit_.signal.exchange)
        side = Side.SELL if held > 0 else Side.BUY
        has_attempt = any(
            order.instance == instance
            and (order.role in (Role.EXIT, Role.KILL) or (exit_.is_single and order.signal_id == exit_.signal.id))
            for order in self._orders.values()
        )
        may_fill = any(not self._is_unresolvable(order) for order in self._entries_open(instance, exit_))
        is_seen = self._facts.is_connected and self._facts.has_positions  # else the journal may be behind the venue
        is_dusty, is_part_closed, quantity = False, False, ZERO
        postponed = self._postponed(exit_.signal, instrument)
        if instrument is not None and held:
            mark = self._facts.marks.get(exit_.signal.exchange)
            price = max(mark or ZERO, self._facts.averages.get(instance, ZERO)) or None  # one of them may be wrong
            is_dusty = is_dust(held, price if mark else None, instrument)
            if exit_.signal.size_share is not None:
                if exit_.part is None and is_seen and not may_fill:
                    of = abs(held) + sum(exit_.closed.values(), ZERO)
                    exit_.part = part_quantity(of, exit_.signal.size_share, instrument)
                if exit_.part is None and may_fill:
                    postponed = postponed or "an entry may still fill: the size of the part is not known"
                is_part_closed = exit_.part is not None and is_dust(exit_.left or ZERO, price, instrument)
            is_clearing = exit_.state is ExitState.CLEARING
            allowed = self._closable(instance, side, is_capped=exit_.is_short and not is_clearing)
            if is_clearing:
                # the venue's balance may still show what the legs locked: what it had before they came down counts
                allowed = min(allowed, exit_.cleared_for)
            if exit_.left is not None and not exit_.is_single:
                allowed = min(allowed, exit_.left)
            if not is_dust(allowed, price, instrument):
                quantity = split_at_lot(allowed, instrument)[0]
        if exit_.is_single and exit_.signal.size is not None:
            quantity = exit_.signal.size if quantity > 0 else ZERO
        return Situation(
            now_s=self._now.mono_s,
            side=side,
            is_flat=held == 0 and not may_fill and is_seen,
            is_dust=is_dusty and not may_fill and is_seen,
            is_part_closed=is_part_closed,
            quantity=quantity,
            postponed=postponed,
            has_legs=not self._facts.keeps_bracket and self._has_legs(instance, exit_),
            has_attempt=has_attempt,
        )

    def _postponed(self, signal: Signal, instrument: Instrument | None) -> str:
        """Return why no close can go now; "" = it can."""
        facts = self._facts
        permission = allowed(Action.EXIT, facts.circumstances(signal.instance, is_by_person=signal.is_by_person))
        if isinstance(permission, Wait):
            return facts.account_problem or permission.reason
        if facts.split_ns is not None:
            return "a split of the shares is due"  # a quantity of before it is another part of the position
        if facts.journal is JournalState.SIDE and signal.kind is Kind.ORDER:
            return "PostgreSQL is away"  # a person's order has one attempt, and its outcome is read from the journal
        if instrument is None:
            return "the instrument's metadata is missing"
        return "" if instrument.is_trading else "the instrument is halted"

    def _books(self) -> Books:
        """Return the key's books. What will never be reported holds nothing up: a person was paged. Nor does a leg
        whose list has executed."""
        over = self._facts.lists_over
        orders = (o for o in self._orders.values() if not (self._is_unresolvable(o) or is_list_over(o, over)))
        swaps = ((item.replaced, item.successor) for item in self._protection.values() if item.is_swapping)
        return Books(self._positions, without_replaced(orders, swaps))

    def _closable(self, instance: str, side: Side, *, is_capped: bool = False) -> Decimal:
        """Return how much of an instance a close may move, `is_capped` at what the venue has."""
        books, balance = self._books(), self._facts.base_balance
        at_venue = None
        if is_capped and side is Side.SELL and not self._facts.can_short and balance is not None:
            at_venue = left_at_venue(books, instance, balance, self._facts.owned_elsewhere)
        can_short = self._facts.can_short or side is Side.BUY  # what our books show as sold short is bought back
        return closable(books, side, instance, ends_legs=True, can_short=can_short, at_venue=at_venue)

    def _is_unresolvable(self, order: Order) -> bool:
        since_s = self._unknown_since.get(order.client_order_id, self._now.mono_s)
        return is_unresolvable(order, self._now.mono_s - since_s, self._limits.unresolved_s)

    def _entries_open(self, instance: str, exit_: Exit) -> list[Order]:
        if exit_.is_single:
            return []
        return [o for o in self._orders.values() if o.instance == instance and o.role is Role.ENTRY]

    def _legs_of(self, instance: str) -> list[Order]:
        """Return the instance's legs that live, or may live, at the venue."""
        # a pending leg ends with its entry
        return [
            order
            for order in self._orders.values()
            if order.instance == instance
            and order.role in _LEG_ROLES
            and order.state is not State.INTENDED
            and not (order.is_pending and order.parent_id in self._orders)
            and not self._is_unresolvable(order)
        ]

    def _gives_back_part(self, instance: str, exit_: Exit) -> bool:
        """Return whether legs are reduced for an order over a part of the position, none of them cancelled."""
        size = exit_.left if exit_.state is ExitState.CLEARING else None
        return self._facts.can_amend and size is not None and size < abs(self._positions.get(instance, ZERO))

    def _keeps_wants(self, instance: str, exit_: Exit) -> bool:
        """Return whether protection is looked after while legs come down: of the rest that an order over a part leaves,
        or of the quantity that an entry may still add to a position that a person's order closes."""
        is_single = exit_.is_single and exit_.state is ExitState.CLEARING and self._facts.can_amend
        return is_single or self._gives_back_part(instance, exit_)

    def _has_legs(self, instance: str, exit_: Exit) -> bool:
        is_placing = self._is_placing(instance)
        if self._gives_back_part(instance, exit_) and exit_.left is not None:
            of = None if exit_.is_single else instance
            return is_placing or exit_.left > closable(self._books(), exit_.signal.side, of)
        is_placing |= any(self._awaits_closes(one) for one in self._parents.values() if one.instance == instance)
        return is_placing or bool(self._legs_of(instance)) or self._waits_for_entry(instance, exit_)

    def _is_placing(self, instance: str) -> bool:
        """Return whether legs of an instance were commanded and are not in the journal yet."""
        return any(
            item.is_placing and (parent := self._parents.get(name)) is not None and parent.instance == instance
            for (name, _), item in self._protection.items()
        )

    def _awaits_closes(self, parent: Order) -> bool:
        """Return whether the venue makes stops for fills of an entry, and neither reported all of them nor proved that
        there are no more: a second stop beside one of them, or a close, might sell coins that are not of the
        position. Or it reported a stop before its fill: the position grows by that fill."""
        if not self._facts.closes_fills or parent.group_id is None:
            return False
        lacking = without_close(parent, self._legs.get(parent.client_order_id, {}).values())
        if lacking < 0:
            return parent.state in OPEN or parent.reported_cum_qty > parent.filled
        item = self._protection.setdefault((parent.client_order_id, 0), _Protection())
        if lacking <= item.closes_lacking:
            return False
        if item.closes_of != parent.filled:
            item.closes_of, item.closes_ask_s = parent.filled, self._now.mono_s + _CLOSES_S
        if self._now.mono_s >= item.closes_ask_s:
            item.closes_ask_s = math.inf
            self._out.append(m.ReadCloses(parent))
        elif item.closes_ask_s < math.inf:
            self._wake_in(item.closes_ask_s - self._now.mono_s)
        return True

    def _closes_read(self, event: m.ClosesRead) -> None:
        item, parent = self._protection.get((event.parent_id, 0)), self._parents.get(event.parent_id)
        if item is None or parent is None:
            return
        if event.filled is None:
            item.closes_ask_s = self._now.mono_s + _CLOSES_S
            return
        item.closes_of = ZERO  # what it executed meanwhile is asked about
        legs = self._legs.get(event.parent_id, {}).values()
        item.closes_lacking = without_close(parent, legs) - (parent.filled - event.filled)

    def _waits_for_entry(self, instance: str, exit_: Exit) -> bool:
        """Return whether an entry may add more than the exits that wait with it at the venue should sell, or its cancel
        is not in the journal yet: if everything dies once the close has left, nothing else ends them."""
        instrument = self._facts.instruments.get(exit_.signal.exchange)
        entries = [entry for entry in self._entries_open(instance, exit_) if not self._is_unresolvable(entry)]
        is_uncancelled = any(entry.request not in _CANCELLING for entry in entries)
        return instrument is not None and (is_uncancelled or bool(self._overreaching(instance, instrument)))

    def _overreaching(self, instance: str, instrument: Instrument | None) -> list[Order]:
        """Return the open entries whose exits, which wait with them at the venue, would sell more than they may still
        add."""
        open_ = [
            want
            for want in (self._wants(instance) if instrument is not None else ())
            if (entry := self._orders.get(want.parent.client_order_id)) is not None and not self._is_unresolvable(entry)
        ]
        covers = (Cover(want, tuple(self._legs_for(want)), fee_rate=self._facts.fee_rate) for want in open_)
        return [cover.want.parent for cover in covers if instrument is not None and cover.beyond(instrument) > 0]

    # ── protection ───────────────────────────────────────────────────────────────────────────────
    def _instances(self) -> list[str]:
        """Return the instances whose protection may need something: they hold something, or have legs."""
        found = {instance for instance, quantity in self._positions.items() if quantity and instance != EXTERNAL}
        found |= {order.instance for order in self._orders.values() if order.parent_id is not None}
        return sorted(found)

    def _read_missing_entries(self, instance: str) -> None:
        """Have entries read that were forgotten: a trade that the venue takes back brings back what they had bought.

        For a moment a position may be ahead of its entry, which is reported next.
        """
        held = self._positions.get(instance, ZERO)
        entries = self._entries.get(instance)
        if not held or (entries is not None and entries.covers(held)):
            self._missing.pop(instance, None)
            return
        missing = self._missing.setdefault(instance, _Missing(self._now.mono_s))
        if missing.read_for == held or not self._is_due(missing.since_s + self._limits.protect_retry_s):
            return
        missing.read_for = held
        self._out.append(m.ReadEntries(instance, abs(held)))

    def _wants(self, instance: str) -> list[Want]:
        """Return what each entry of the instance wants protected, beyond what closing orders are closing already."""
        entries = self._entries.get(instance)
        held = self._positions.get(instance, ZERO)
        if not entries:
            return []
        instrument = self._facts.instruments.get(entries.newest.exchange)
        away = Side.SELL if held > 0 else Side.BUY
        # a person's resting sale closes nothing while the market is far from it
        still = sum(
            (
                order.remaining
                for order in self._orders.values()
                if order.instance == instance
                and order.side is away
                and order.role in _CLOSING_ROLES
                and (order.role is not Role.ORDER or order.type is OrderType.MARKET)
            ),
            ZERO,
        )
        exit_ = self._exits.get(instance)
        if exit_ is not None and self._keeps_wants(instance, exit_):
            still += exit_.left or ZERO
        wants = entries.desired(held, still, instrument)
        if self._plans:
            wants = split(wants, self._plans, self._legs, instrument)
        if entries.may_drop(held):
            self._drop_old_entries(entries, held)
        return wants

    def _drop_old_entries(self, entries: Entries, held: Decimal) -> None:
        """Forget entries that the position is not made of any more, once none of their legs may fill, or is on its way
        to the journal."""
        placing = {name for (name, _), item in self._protection.items() if item.is_placing}
        open_ = {
            entry.client_order_id
            for entry in entries.newest_first()
            if entry.state in OPEN
            or entry.client_order_id in placing
            or any(leg in self._orders for leg in self._legs.get(entry.client_order_id, ()))
        }
        for entry in entries.not_held(held, open_):
            name = entry.client_order_id
            entries.pop(name)
            for leg in self._legs.get(name, ()):
                self._triggered_s.pop(leg, None)
            self._forget_parent(name)
            self._alerted_unprotectable.discard(name)

    def _forget_flat(self, instances: list[str]) -> None:
        """Forget entries and parents that nothing can come of any more."""
        for instance in [name for name in self._entries if name not in instances]:
            self._drop_old_entries(self._entries[instance], ZERO)
            if not self._entries[instance]:
                del self._entries[instance]
        for instance in [name for name in self._uncovered if name not in instances]:
            self._end_unprotected(instance, is_flat=True)
        for name, parent in list(self._parents.items()):
            legs = self._legs.get(name, {})
            if parent.state not in OPEN and not parent.filled and not any(leg in self._orders for leg in legs):
                self._forget_parent(name)

    def _forget_parent(self, name: str) -> None:
        self._parents.pop(name, None)
        if executed := self._executed(name):  # a late report may still bring it back
            self._forgotten[name] = executed
            self._forgotten.move_to_end(name)
            if len(self._forgotten) > _FORGOTTEN_MAX:
                self._forgotten.popitem(last=False)
        for key in [(name, target_of(leg)) for leg in self._legs.pop(name, {}).values()]:
            self._protection.pop(key, None)
        self._protection.pop((name, 0), None)
        self._moved_stops.pop(name, None)

    def _break_even(self, instance: str, wants: Sequence[Want]) -> None:
        """Command the moves of stops to break-even that are due. A stop never moves back: the order's own table refuses
        that, so that a repeated command changes nothing. While a split is due the market is in other shares."""
        if self._facts.split_ns is not None:
            return
        for parent in self._made_of(instance, self._facts.instruments) if self._plans else ():
            plan, leg = self.plan_of(parent), ""
            rule = None if plan is None else plan.break_even
            instrument = self._facts.instruments.get(parent.exchange)
            average, sign = parent.average_price, parent.side.sign
            if plan is None or rule is None or instrument is None or average is None or parent.stop_loss is None:
                continue
            stop = break_even_stop(average, sign, rule, instrument)
            if (stop - parent.stop_loss) * sign <= 0:
                continue
            if rule.at_risk is not None and instance and not is_program(instance):
                continue  # a strategy's: by the closes of its bars (`TrailingStops`), as a backtest has it
            if rule.at_risk is not None:
                mark = self._facts.marks.get(parent.exchange)
                is_due = mark is not None and is_at_risk_multiple(mark, average, sign, plan)
                self._wake_in(_MARK_LOOK_S)
            else:
                done = [
                    one.client_order_id
                    for want in wants
                    if want.parent.client_order_id == parent.client_order_id
                    and (want.target or 0) + 1 >= (rule.after_target or 1)
                    and want.quantity == 0
                    for one in self._legs_for(want)
                    if one.filled > 0 and one.role is Role.TAKE_PROFIT
                ]
                is_due, leg = bool(done), done[-1] if done else ""
            name = parent.client_order_id
            commanded, until_s = self._moved_stops.get(name, (None, 0.0))
            if is_due and (commanded != stop or self._now.mono_s >= until_s):
                self._moved_stops[name] = stop, self._now.mono_s + self._limits.clear_s
                self._out.append(m.MoveStop(name, stop, leg))

    def _legs_for(self, want: Want) -> list[Order]:
        """Return the legs of the want's parent, those of its target alone where it has targets."""
        name, target = want.key
        return [leg for leg in self._legs.get(name, {}).values() if target_of(leg) == target]

    def _protect(self, instance: str, wanted_now: list[Want]) -> None:
        facts, exit_, is_for_kill = self._facts, self._exits.get(instance), self._is_close_paused(instance)
        if facts.split_ns is not None:  # a leg that is placed now would be in the old shares
            return
        action = Action.KILL if is_for_kill else Action.LEG
        if facts.keeps_bracket or not isinstance(allowed(action, facts.circumstances(instance)), Allow):
            return
        is_ending = exit_ is not None and exit_.state in (ExitState.CLEARING, ExitState.CLOSING)
        if exit_ is not None and is_ending and not is_for_kill and not self._keeps_wants(instance, exit_):
            return
        wants, held = {want.key: want for want in wanted_now}, self._positions.get(instance, ZERO)
        if any(want.parent.exchange not in facts.instruments for want in wants.values()):
            return  # without metadata no quantity is known to be right: what lives at the venue stays
        for name, legs in self._legs.items():
            parent = self._parents.get(name)
            if (name, 0) in wants and not self._plans:
                continue
            for leg in legs.values():
                key = _key_of(leg)
                is_open = leg.client_order_id in self._orders and leg.instance == instance
                if parent is not None and is_open and key not in wants:
                    wants[key] = Want(parent, ZERO, ZERO, key[1] or None)
                elif is_open and leg.is_close and leg.state in LIVE and not (held or parent or name in self._orders):
                    # its entry, whose executions are all booked, is forgotten: the venue showed it only then
                    self._cancel(leg, "its entry's position is closed")
        covers = [self._cover(want) for want in wants.values()]
        for exchange in dict.fromkeys(cover.want.parent.exchange for cover in covers):
            instrument = facts.instruments[exchange]
            here = [cover for cover in covers if cover.want.parent.exchange == exchange]
            steps = diff(here, instrument)
            for step in steps:
                self._correct(step, instrument)
            for cover in here:
                self._watch_pending(cover)
                self._page_overreaching(cover, instrument)
            self._keep_wanted(here, [step.cover for step in steps if step.action is not LegAction.WAIT])

    def _cover(self, want: Want) -> Cover:
        """Return a want with what there is of it; an entry's growth is joined for a moment while legs of it live."""
        facts, legs = self._facts, tuple(self._legs_for(want))
        item = self._protection.setdefault(want.key, _Protection())
        if not item.grow_at_s and want.parent.filled > 0 and any(leg.is_pending for leg in legs):
            item.grow_at_s = self._now.mono_s + self._limits.sweep_s
        may_grow = item.is_replacing or self._is_due(item.grow_at_s)
        return Cover(
            want,
            legs,
            item.placing,
            is_placing=item.is_placing,
            may_grow=may_grow,
            lists_max=min(item.lists_max, self._lists_max(want)),
            can_amend=facts.can_amend and item.amends_refused < _IN_VAIN_MAX,
            can_replace=facts.can_replace and item.swaps_refused < _IN_VAIN_MAX,
            can_reprice=facts.can_reprice and item.moves_refused < _IN_VAIN_MAX,
            has_oco=facts.has_oco,
            is_stop_alone=item.pairs_refused >= _IN_VAIN_MAX,
            triggered=item.triggered,
            closes_due=self._awaits_closes(want.parent),
            fee_rate=facts.fee_rate,
        )

    def _watch_pending(self, cover: Cover) -> None:
        """Query legs that wait at the venue although their entry has ended: its report of them may be lost."""
        item = self._protection[cover.want.key]
        if cover.want.parent.state in OPEN or not any(leg.is_pending for leg in cover.legs):
            item.pending_until_s = None
            return
        if item.pending_until_s is None:
            item.pending_until_s = self._now.mono_s + self._limits.protect_join_s
        if not self._is_due(item.pending_until_s):
            return
        for leg in cover.legs:
            if leg.is_pending and leg.state in LIVE and self._is_first_command(leg):
                self._out.append(m.QueryOrder(leg.client_order_id))

    def _page_overreaching(self, cover: Cover, instrument: Instrument) -> None:
        """Page on the schedule of exits while those that wait with an entry would sell more than it may still add, and
        neither they nor the entry can be changed; an exit of the instance pages itself."""
        item, entry = self._protection[cover.want.key], cover.want.parent
        beyond = cover.beyond(instrument) if entry.state in OPEN else ZERO
        if beyond <= 0 or entry.instance in self._exits:
            item.page_at_s = None
            return
        if item.page_at_s is None:
            item.page_at_s = self._now.mono_s + self._limits.exit_page_s
        elif self._now.mono_s >= item.page_at_s:
            item.page_at_s = self._now.mono_s + self._limits.exit_page_again_s
            what = f"exits that wait with an entry would sell {beyond.normalize():f} more than it adds"
            text = f"{self.key[2]}: {what}, and the venue neither reduces them nor ends it"
            self._alert("page", "exit.waiting", text, entry.instance, entry.client_order_id)
        self._wake_in(item.page_at_s - self._now.mono_s)

    def _lists_max(self, want: Want) -> int:
        """Return how many lists a parent, or one of its targets, may have: more than its own while the symbol has fewer
        than its most. Each target has one, and another one while the symbol allows more than one for each target."""
        live = {
            (_key_of(leg), leg.attempt) for leg in self._orders.values() if leg.role in _LEG_ROLES and leg.state in LIVE
        }
        own = sum(key == want.key for key, _ in live)
        if want.target is not None:
            plan = self.plan_of(want.parent)
            others = {key for key, _ in live if key[0] == want.key[0]} | {want.key}
            missing = 0 if plan is None else max(len(plan.targets) - len(others), 0)
            return 1 if self._is_crowded else max(own + LISTS_OF_SYMBOL_MAX - len(live) - missing, 1)
        return LISTS_MAX if self._is_crowded else max(LISTS_MAX, own + max(LISTS_OF_SYMBOL_MAX - len(live), 0))

    def _correct(self, step: LegStep, instrument: Instrument) -> None:
        cover, legs = step.cover, step.legs
        item = self._protection[cover.want.key]
        item.is_replacing |= step.action in (LegAction.CANCEL, LegAction.AMEND, LegAction.REPLACE)
        if step.action is LegAction.CANCEL:
            self._cancel_legs(legs, "protection")
        elif step.action is LegAction.ABANDON:
            for leg in legs:
                if self._is_first_command(leg):
                    self._out.append(m.AbandonOrder(leg.client_order_id, "nothing left to protect"))
        elif step.action is LegAction.PLACE:
            self._place(step, item, instrument)
        elif step.action is LegAction.AMEND and self._is_due(item.retry_at_s) and self._is_first_command(legs[0]):
            item.amending, item.replaced = legs[0].quantity, ""
            self._out.append(m.AmendLegs(tuple(leg.client_order_id for leg in legs), step.quantity))
        elif step.action is LegAction.REPRICE and self._is_due(item.retry_at_s) and self._is_first_command(legs[0]):
            parent, item.repricing = cover.want.parent, legs[0].client_order_id
            price = parent.stop_loss if legs[0].type is OrderType.STOP else parent.take_profit
            assert price is not None, "a leg is left behind by a price that its parent has"
            item.reprice_to = price
            self._out.append(m.RepriceLeg(item.repricing, price))
        elif step.action is LegAction.REPLACE and self._is_due(item.retry_at_s) and self._is_first_command(legs[0]):
            item.is_placing = item.is_swapping = True
            item.placing, item.replaced = step.quantity, legs[0].client_order_id
            parent, attempt = cover.want.parent, next_attempt(cover.legs, cover.want.key[1])
            item.successor = client_order_id(parent.intent_id, Role.STOP_LOSS, attempt)
            self._out.append(m.ReplaceStop(parent, item.replaced, step.quantity, attempt))

    def _place(self, step: LegStep, item: _Protection, instrument: Instrument) -> None:
        cover, parent = step.cover, step.cover.want.parent
        if not can_rest(parent, step.quantity, instrument):
            if parent.client_order_id not in self._alerted_unprotectable:
                self._alerted_unprotectable.add(parent.client_order_id)
                self._alert(
                    "warning",
                    "position.unprotectable",
                    f"{self.key[2]}: what is held is below the venue's minimum",
                    parent.instance,
                    parent.client_order_id,
                )
            return
        place, roles = m.PlaceProtection, cover.roles
        if self._is_close_paused(parent.instance):
            place = m.PutBackProtection
        elif cover.passed:
            place, roles = m.CloseAtMarket, cover.passed
        is_closing = place is m.CloseAtMarket
        is_at_once = is_closing and cover.is_close_due and not item.is_closing  # a close that was not sent waits
        if not is_at_once and not self._is_due(item.retry_at_s):
            return
        is_pair_left = cover.is_stop_alone and parent.take_profit is not None and not cover.has_stop_alone
        if is_pair_left and not is_closing:
            self._alert(
                "warning",
                "position.stop_alone",
                f"{self.key[2]}: the venue refuses the take profit {parent.take_profit:f} with the stop, which is "
                "placed alone",
                parent.instance,
                parent.client_order_id,
            )
        item.is_placing, item.placing, item.is_replacing = True, step.quantity, False
        item.grow_at_s, item.is_closing = self._now.mono_s + self._limits.protect_join_s, is_closing
        self._out.append(
            place(
                parent,
                roles,
                step.quantity,
                next_attempt(cover.legs, cover.want.key[1]),
                tuple(leg.client_order_id for leg in step.legs),
                is_refused_before=item.is_refused or any(map(_is_refused, cover.legs)),
            )
        )

    def _note_leg(self, leg: Order, before: Order | None) -> None:
        """Take in a leg's change: one that was commanded is in the journal now; an amendment that changed nothing
        counts as refused."""
        item = self._protection.setdefault(_key_of(leg), _Protection())
        if leg.state is not State.INTENDED and not leg.is_close and (before is None or before.state is State.INTENDED):
            item.placing = ZERO
        if before is not None and not before.is_pending and _is_refused(leg) and not _is_refused(before):
            self._page_unfilled(leg)
        if before is None or before.request not in _AMENDING or leg.request is not Request.NONE:
            return
        if leg.client_order_id == item.replaced:
            return  # counted with the outcome of its successor
        is_commanded = leg.client_order_id == item.repricing
        is_moved = (leg.price, leg.stop_price) != (before.price, before.stop_price)
        is_moved |= is_commanded and item.reprice_to in (leg.price, leg.stop_price)
        if is_moved or is_commanded:
            item.repricing, item.moves_refused = "", 0 if is_moved else item.moves_refused + (leg.state in LIVE)
            item.retry_at_s = 0.0 if is_moved else self._now.mono_s + self._limits.protect_retry_s
            return
        mine = self._legs.get(leg.parent_id or "", {}).values()
        is_tied = any(one.role is Role.STOP_LOSS and one.group_id == leg.group_id for one in mine)
        if leg.group_id is not None and leg.role is Role.TAKE_PROFIT and is_tied:
            return  # an OCO's answer is one
        if leg.quantity < max(before.quantity, item.amending):  # the venue's report may have come before its answer
            item.amends_refused = 0
        elif leg.state in LIVE:
            item.amends_refused += 1
            item.retry_at_s = self._now.mono_s + self._limits.protect_retry_s

    def _page_unfilled(self, leg: Order) -> None:
        if leg.role is Role.STOP_LOSS and leg.state is State.EXPIRED:
            detail = f"{self.key[2]}: a stop triggered and did not fill ({leg.code}); it is closed at the market"
            self._alert("page", "stop.unfilled", detail, leg.instance, leg.client_order_id)

    def _watch_triggered(self, instance: str) -> None:
        """Cancel stops that triggered and do not fill: their part of the position is closed at the market then."""
        if self._facts.keeps_bracket:
            return
        for leg in self._legs_of(instance):
            name = leg.client_order_id
            if leg.type is not OrderType.STOP or leg.state not in (State.WORKING, State.PARTIAL):
                self._triggered_s.pop(name, None)
                continue
            due_s = self._triggered_s.setdefault(name, self._now.mono_s) + self._limits.triggered_s
            if self._is_due(due_s) and self._cancel(leg, "a stop that triggered does not fill"):
                item = self._protection[_key_of(leg)]
                item.is_refused, item.triggered = True, name
                detail = f"{self.key[2]}: a stop triggered and did not fill; it is closed at the market"
                self._alert("page", "stop.unfilled", detail, instance, name)

    def _protection_done(self, event: m.ProtectionDone) -> None:
        item = self._protection.setdefault((event.parent_id, event.target), _Protection())
        item.is_placing, item.placing = False, ZERO
        is_swap, item.is_swapping = item.is_swapping, False
        if is_swap and event.refusals:
            replaced = self._legs.get(event.parent_id, {}).get(item.replaced)
            if replaced is None or replaced.state not in OPEN:  # it ended and its successor was refused: placed at once
                item.is_refused = not all(refusal.is_passing for refusal in event.refusals)
                return
            item.swaps_refused += not all(refusal.is_passing for refusal in event.refusals)
        if not event.refusals:
            item.swaps_refused = item.moves_refused = 0
            item.is_refused, item.is_closing, item.pairs_refused = False, False, 0
            item.retry_s, item.retry_at_s = 0.0, 0.0
            return
        item.is_refused = not all(refusal.is_passing for refusal in event.refusals)
        is_pair = len(event.refusals) > 1 and not any(refusal in _NOT_OF_A_PAIR for refusal in event.refusals)
        item.pairs_refused += item.is_refused and is_pair
        if Refusal.TOO_MANY_ORDERS in event.refusals:
            item.lists_max, self._is_crowded = 1 if self._is_crowded else LISTS_MAX, True
        item.retry_s = Backoff(self._limits.protect_retry_s, self._limits.protect_retry_max_s).next_s(item.retry_s)
        item.retry_at_s = self._now.mono_s + max(item.retry_s, event.retry_after_s)

    def _watch_protection(self, instance: str, wants: list[Want]) -> None:
        """Page when a position that should have a stop, or a take profit alone, has had none for some seconds, whatever
        the cause: at a stretch, or in gaps that are together as long within a minute.

        Parts that could not rest alone count where their sum could.
        """
        missing, small, least, name = ZERO, ZERO, ZERO, "take profit"
        for want in wants:
            role = Role.STOP_LOSS if want.parent.stop_loss is not None else Role.TAKE_PROFIT
            if (role is Role.TAKE_PROFIT and want.parent.take_profit is None) or want.quantity == 0:
                continue
            name = "stop" if role is Role.STOP_LOSS else name
            instrument = self._facts.instruments.get(want.parent.exchange)
            legs = self._legs_for(want)
            # at prices of before a split they protect nothing
            placed = () if self._facts.split_ns is not None else (leg for leg in legs if not leg.is_in_old_shares)
            mine = (leg for leg in placed if leg.state in LIVE and leg.role is role and not leg.is_pending)
            # one whose end has no proven outcome may be gone at the venue
            # while a replacement is on its way the old stop rests
            is_unclear = any(leg.state is State.UNKNOWN for leg in legs)
            unproven = _CANCELLING.union(_AMENDING) if is_unclear else _CANCELLING
            live = sum((leg.remaining for leg in mine if leg.request not in unproven), ZERO)
            if instrument is None or can_rest(want.parent, want.quantity, instrument):
                missing += max(want.quantity - live, ZERO)
            else:
                small += max(want.quantity - live, ZERO)
                least = max(least, least_that_rests(want.parent, instrument))
        missing += small if small >= least else ZERO
        if missing == 0:
            exit_ = self._exits.get(instance)
            if exit_ is not None and exit_.state is ExitState.CLOSING:
                return  # a close that is on its way may be refused: until it is executed nothing began or ended
            self._end_unprotected(instance, is_flat=not self._positions.get(instance))
            return
        gap, limits, now_s = self._uncovered.setdefault(instance, _Uncovered()), self._limits, self._now.mono_s
        gap.covered_s = None
        if gap.since_s is None:
            gap.since_s = self._restored_since_s.get(instance, now_s)
        recent_s = gap.recent_s(now_s - limits.unprotected_within_s)
        due_s = gap.since_s + limits.unprotected_s - recent_s
        if self._started_s is not None and gap.since_s < self._started_s:  # an earlier process left it: placed first
            known = all(want.parent.exchange in self._facts.instruments for want in wants)  # else it may be dust
            # processes may have died one after another
            is_long = gap.since_s < self._started_s - 2 * limits.unprotected_s
            due_s = max(due_s, self._started_s + limits.unprotected_s / ((5 if is_long else 2) if known else 1))
        if self._is_due(due_s) and not gap.is_paged:
            gap.is_paged = True
            how_long = f"of the last {limits.unprotected_within_s:g} s" if recent_s else "s"
            text = f"{missing:f} of the position has had no {name} for {limits.unprotected_s:g} {how_long}"
            self._alert("page", "position.unprotected", f"{self.key[2]}: {text}", instance)

    def _end_unprotected(self, instance: str, *, is_flat: bool) -> None:
        """End the gap in a position's cover, and the alert about it once the position is flat, or has had its stop for
        as long as it takes to page: a stop that comes and goes is one alert."""
        gap, limits, now_s = self._uncovered.get(instance), self._limits, self._now.mono_s
        if gap is None:
            return
        if gap.since_s is not None and gap.since_s < now_s < gap.since_s + limits.unprotected_s:
            gap.gaps.append((gap.since_s, now_s))
        gap.since_s = None
        gap.covered_s = now_s if gap.covered_s is None else gap.covered_s
        recent_s = gap.recent_s(now_s - limits.unprotected_within_s)
        due_s = gap.covered_s + limits.unprotected_s
        if gap.is_paged and not is_flat and (now_s < due_s or recent_s >= limits.unprotected_s):
            self._wake_in(due_s - now_s if now_s < due_s else 1.0)
            return
        if gap.is_paged:
            text = (
                f"{self.key[2]}: the position is flat" if is_flat else f"{self.key[2]}: the position is protected again"
            )
            self._out.append(m.EndAlert("position.unprotected", text, instance))
            gap.is_paged = False
        if is_flat or not gap.gaps:
            del self._uncovered[instance]

    # ── kill ─────────────────────────────────────────────────────────────────────────────────────
    def _kill(self) -> None:
        """React to a kill at a venue where only the order manager has a session, and which it therefore carries out:
        cancel, then close when it flattens. A position whose next closing order waits keeps its stop until then."""
        facts = self._facts
        kept = _LEG_ROLES if self._facts.keeps_bracket else frozenset()  # the venue ends these for the closing order
        theirs = [
            o
            for o in self._orders.values()
            if o.role is not Role.KILL
            and o.role not in kept
            and is_ended(action_of(o.role, is_reduce_only=o.is_reduce_only), facts.kill_of(o.instance))
            and not (o.role in _LEG_ROLES and self._is_close_paused(o.instance))
        ]
        for order in theirs:
            self._cancel(order, "kill")
        # while a split is due, the books do not show how much the venue has
        if (theirs or facts.split_ns is not None) and not facts.keeps_bracket:
            return
        for instance, held in self._positions.items():
            is_short = held < 0 and facts.can_short
            if instance == EXTERNAL or (held <= 0 and not is_short) or instance in self._kill_busy:
                continue
            if not isinstance(allowed(Action.KILL, facts.circumstances(instance)), Allow):
                continue
            kill_id = facts.kill_id_of(instance)
            for exchange, instrument in facts.instruments.items():
                quantity = self._closable(instance, Side.BUY if is_short else Side.SELL)
                if is_dust(quantity, None, instrument):
                    continue
                close = self._kill_closes.setdefault((kill_id, instance), _KillClose())
                if kill_id and self._may_close_for_kill(instance, close, held):
                    self._kill_busy.add(instance)
                    self._out.append(
                        m.SubmitKill(
                            kill_id,
                            instance,
                            exchange,
                            Side.BUY if is_short else Side.SELL,
                            split_at_lot(quantity, instrument)[0],
                            close.attempt,
                        )
                    )
                break

    def _may_close_for_kill(self, instance: str, close: _KillClose, held: Decimal) -> bool:
        """Return whether the kill's next closing order may go now, and count those that closed nothing.

        After such an order the next one waits, ever longer; after some of them in a row a person is paged, once.
        """
        if wait_s := self._kill_wait_s(instance):
            self._wake_in(wait_s)
            return False
        if close.attempt and self._is_placing(instance):  # its stop is just being put back: that ends first
            return False
        close.in_vain = close.in_vain + 1 if close.is_vain(held) else 0
        close.held = held
        wait = Backoff(self._limits.exit_retry_s, self._limits.exit_retry_max_s)
        close.retry_at_s = self._now.mono_s + wait.wait_s(close.in_vain + 1)
        if close.in_vain == _KILL_IN_VAIN_MAX:
            self._alert(
                "page",
                "kill.stuck",
                f"the kill's last {close.in_vain} orders in {self.key[2]} closed nothing, {held.normalize():f} is "
                f"held; it goes on every {self._limits.exit_retry_max_s:g} s",
                instance,
            )
        return True

    def _kill_wait_s(self, instance: str) -> float:
        """Return how long the kill's next closing order of an instance waits after one that closed nothing."""
        close = self._kill_closes.get((self._facts.kill_id_of(instance), instance))
        if close is None or not close.is_vain(self._positions.get(instance, ZERO)):
            return 0.0
        return max(close.retry_at_s - self._now.mono_s, 0.0)

    def _is_close_paused(self, instance: str) -> bool:
        """Return whether a kill that is carried out here waits with its next closing order, and none is on its way:
        until then the position has its protection again."""
        if not self._facts.closes_on_kill or instance in self._kill_busy or not self._kill_wait_s(instance):
            return False
        return not any(o.role is Role.KILL and o.instance == instance for o in self._orders.values())

    # ── out ──────────────────────────────────────────────────────────────────────────────────────
    def _cancel(self, order: Order, reason: str) -> bool:
        """Command one cancel; False when it is under way already. It is not commanded again: the owner of the order's
        requests sends it as soon as it may, and repeats one that got lost."""
        if order.request in _CANCELLING or not self._is_first_command(order, for_s=math.inf):
            return False
        self._out.append(m.CancelOrder(order.client_order_id, reason))
        return True

    def _keep_wanted(self, covers: Sequence[Cover], changing: Sequence[Cover]) -> None:
        """Withdraw the cancels of legs that are wanted as they are: the exit that wanted them gone has ended, or
        waits."""
        for cover in covers:
            item = self._protection[cover.want.key]
            is_wanted = 0 < cover.closing == cover.want.quantity and all(map(cover.is_right, cover.lists))
            legs = {leg.client_order_id: leg for list_ in cover.lists for leg in list_.legs}
            if is_wanted and all(leg.request is Request.NONE for leg in legs.values()):
                item.is_replacing = False
            if cover in changing or item.is_replacing or not is_wanted:
                continue
            for name, leg in legs.items():
                if leg.request in _CANCELLING and name in self._orders and name not in self._withdrawn:
                    self._withdrawn.add(name)
                    self._out.append(m.WithdrawCancel(name))

    def _is_first_command(self, order: Order, *, for_s: float | None = None) -> bool:
        """Return whether nothing is commanded of the order already; what shows no effect `for_s` (None: `clear_s`) is
        commanded again. That repeats no request to the venue: of each kind its owner has one at a time on its way."""
        until_s = self._commanded.get(order.client_order_id)
        is_away = self._facts.journal is JournalState.AWAY
        if until_s is not None and (self._now.mono_s < until_s or is_away):
            if until_s < math.inf:
                self._wake_in(max(until_s - self._now.mono_s, 1.0))
            return False
        self._commanded[order.client_order_id] = self._now.mono_s + (self._limits.clear_s if for_s is None else for_s)
        return True

    def _cancel_legs(self, legs: Iterable[Order], reason: str) -> None:
        """Cancel legs; the sibling of an OCO ends with its leg, at the venue, and is queried."""
        groups: set[str] = {leg.group_id for leg in legs if leg.group_id and leg.request in _CANCELLING}
        for leg in legs:
            if leg.group_id is not None and leg.group_id in groups:
                if leg.request not in _CANCELLING and self._is_first_command(leg):
                    self._out.append(m.QueryOrder(leg.client_order_id))
                continue
            if leg.group_id is not None:
                groups.add(leg.group_id)
            self._cancel(leg, reason)

    def _alert(self, severity: str, event: str, message: str, instance: str, client_order_id: str = "") -> None:
        self._out.append(m.RaiseAlert(severity, event, message, instance, client_order_id))

    def _is_due(self, at_s: float) -> bool:
        """Return whether a wait is over; until then the core wants a Tick at its end."""
        if self._now.mono_s < at_s:
            self._wake_in(at_s - self._now.mono_s)
        return self._now.mono_s >= at_s

    def _wake_in(self, seconds: float) -> None:
        at_s = self._now.mono_s + max(seconds, 0.01)
        self.wake_at_s = at_s if self.wake_at_s is None else min(self.wake_at_s, at_s)
