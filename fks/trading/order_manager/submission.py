"""Submission of orders by the order manager: sizing, checks and reservation, then the one submit protocol.

What an entry, a close, a kill order and a protective leg differ in is here; how they reach the venue is
`fks.trading.orders.submit`. The journal is PostgreSQL: orders, their first events and the signal's outcome in one
statement.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Protocol, runtime_checkable
from uuid import UUID

import msgspec

from fks.model import ids
from fks.model.codes import MEANING, Code, Denial
from fks.model.errors import InputError, OutageError
from fks.model.instrument import Instrument
from fks.model.kill import Kills
from fks.model.order import (
    LIVE,
    OPEN,
    Answer,
    Order,
    OrderType,
    Outcome,
    Refusal,
    Request,
    Role,
    Side,
    State,
    TimeInForce,
    evolve,
)
from fks.model.parent import TARGET_ATTEMPTS, ParentPlan
from fks.model.ports import ClosesFills, ReplacesOrders, TakesEntryLists
from fks.model.signal import Kind, Signal, SignalState
from fks.store.orders import EventRow, Placed
from fks.store.signals import SignalRecord
from fks.trading.matching import collar
from fks.trading.order_manager.context import OrderManagerContext
from fks.trading.order_manager.copying import Copier
from fks.trading.order_manager.entry_groups import EntryGroups
from fks.trading.order_manager.ledger import event_row
from fks.trading.order_manager.venue_orders import HOLD_POLL_S, MARGIN_S, VenueOrders
from fks.trading.orders import events as e
from fks.trading.orders import messages as m
from fks.trading.orders.build import (
    denial_text,
    denied_order,
    group_of,
    leg_of,
    legs_of,
    listed_legs,
    order_of,
    target_legs,
)
from fks.trading.orders.freshness import max_age_of
from fks.trading.orders.machine import begin
from fks.trading.orders.messages import PositionKey
from fks.trading.orders.protection import target_of
from fks.trading.orders.submit import Journaled, Refuse, Submission, Submitter
from fks.trading.portfolio.position import EXTERNAL, allocate, is_shared
from fks.trading.risk.check import CHECKS, Approved, RiskDenied, capped, check
from fks.trading.risk.exits import split_at_lot
from fks.trading.risk.explain import as_payload, explain, figures
from fks.trading.risk.intent import Intent, intend_entry, intend_exit, intend_order, intent_of
from fks.trading.risk.policy import Action, Allow, Circumstances, JournalState, allowed, journals_of, stopped_by
from fks.trading.risk.sizing import Sizing, affordable_quantity
from fks.trading.risk.view import RiskView, without_replaced

_ZERO, _PERCENT = Decimal(0), Decimal(100)
_VALUED_MAX = 10_000
_RECHECK_S = 1.0  # checks older than this are repeated before the bytes (docs/write-a-strategy.md)
_ROLE_S = 0.5  # a close is due within a second: it does not wait longer for the price that gives it its role
_LEG_ROLES = (Role.STOP_LOSS, Role.TAKE_PROFIT)


@runtime_checkable
class ShowsExits(Protocol):
    """A venue that may show an exit to a person."""

    async def show_exit(self, signal: Signal) -> Answer | None: ...


@dataclass(slots=True)
class _Replaced:
    """A stop that is replaced by the request that sends its successor, and the answer about it."""

    order: Order
    answer: Answer


class Submissions:
    """Turns the core's commands into orders at the venue. Its state but which ids it wrote (`Submitter`) is soft."""

    def __init__(
        self,
        context: OrderManagerContext,
        venue_orders: VenueOrders,
        *,
        kill_file: Callable[[], Kills],
        refresh_balances: Callable[[str], Awaitable[None]],
        on_placed: Callable[[Order], None],
        copier: Copier,
        groups: EntryGroups,
    ) -> None:
        self._context = context
        self._cache = context.cache
        self._ledger = context.ledger
        self._clock = context.clock
        self._lease = context.lease
        self._venue_orders = venue_orders
        self._kill_file = kill_file
        self.refresh_balances = refresh_balances
        self._on_placed = on_placed
        self._copier, self._groups = copier, groups
        self._seen: dict[str, Approved] = {}  # of orders on their way: what their checks compared
        self._valued: OrderedDict[UUID, Decimal] = OrderedDict()  # entries -> their account's equity
        self._replaced: dict[str, _Replaced] = {}  # by the id of the successor on its way
        self._submitter = Submitter(self, at=context.at)

    def value(self, signal: Signal) -> None:
        """Note what the account of an entry in percent of the equity is worth now, the first time that it is seen. An
        exit decided on the same bar comes before the entry, and fills at a price that the decision did not know."""
        instance = self._cache.instances.get(signal.instance)
        if signal.kind is not Kind.ENTER or instance is None or signal.id in self._valued:
            return
        try:
            if not Sizing.parse(instance.sizing).needs_equity:
                return
        except InputError:  # its denial names it
            return
        if (equity := self._cache.equity(signal, self._clock.now_ns())) is not None:
            self._valued[signal.id] = equity
            while len(self._valued) > _VALUED_MAX:
                self._valued.popitem(last=False)

    def _equity(self, signal: Signal) -> Decimal | None:
        """Return what an entry's account was worth when it was seen first; now where that is not known."""
        noted = self._valued.get(signal.id)
        return self._cache.equity(signal, self._clock.now_ns()) if noted is None else noted

    # ── entries and persons' orders ──────────────────────────────────────────────────────────────
    async def entry(self, record: SignalRecord) -> None:
        """Give an entry, or a person's order, its outcome: denied with a code, or journaled and sent."""
        signal, started_s = record.signal, self._clock.monotonic()
        is_expired = signal.valid_until_ns is not None and self._clock.now_ns() > signal.valid_until_ns
        intended, verdict = self._sized(record)
        if (
            not isinstance(intended, RiskDenied)
            and (is_expired or isinstance(verdict, RiskDenied))
            and await self._adopt(record, intended)
        ):
            return
        if is_expired:
            await self.finish(
                record, SignalState.EXPIRED, Code.SIGNAL_EXPIRED, "its time was over before it could be used"
            )
            return
        if isinstance(intended, RiskDenied) and signal.group_id is None:
            await self.deny(record, intended)
            return
        if not isinstance(intended, RiskDenied) and self._may_lack_money(signal, verdict):
            await self.refresh_balances(signal.venue)  # what is known may be a fill behind: read once
            _, verdict = self._sized(record)
        if signal.group_id is not None:
            legs = await self._groups.legs(signal)
            verdict = self._groups.judge(record, legs, self._judge_leg)
            if (
                not isinstance(intended, RiskDenied)
                and isinstance(verdict, RiskDenied)
                and await self._adopt(record, intended)
            ):
                return
        elif isinstance(verdict, Approved):
            verdict = self._affordable(verdict)
        if isinstance(verdict, RiskDenied):
            await self.deny(record, verdict)
            return
        await self._submit_entry(record, verdict, started_s)

    def _sized(self, record: SignalRecord) -> tuple[Intent | RiskDenied, Approved | RiskDenied]:
        """Return the intent of an entry, or why it has none, and the verdict of the checks."""
        try:
            intended = self._intend(record)
            return intended, intended if isinstance(intended, RiskDenied) else self._check(intended)
        except ArithmeticError as error:  # numbers outside any grid: a malformed signal must not end the order manager
            no = denied(
                intend_order(record.signal),
                Code.QTY_MAX,
                "numbers to calculate with",
                type(error).__name__,
                "use smaller numbers",
            )
            return no, no

    def _may_lack_money(self, signal: Signal, verdict: Approved | RiskDenied) -> bool:
        """Return whether an entry is denied for its balance, or sized by less of it than may be there."""
        if isinstance(verdict, RiskDenied) and verdict.denial.code is Code.BALANCE:
            return True
        instance = self._cache.instances.get(signal.instance)
        instrument = self._cache.instruments.get((signal.exchange, signal.symbol))
        if signal.size is not None or instance is None or instrument is None:
            return False
        balances = (self._cache.least_balances(signal.venue), self._cache.balances.get(signal.venue, {}))
        least, known = (of.get(instrument.quote) for of in balances)
        return least != known and Sizing.parse(instance.sizing).needs_equity

    def _judge_leg(self, record: SignalRecord) -> Approved | RiskDenied:
        """Return the verdict on one leg of a group; the money of an approved one is reserved."""
        until_ns, now_ns = record.signal.valid_until_ns, self._clock.now_ns()
        intended, verdict = self._sized(record)
        if isinstance(intended, RiskDenied):
            return intended
        if until_ns is not None and now_ns > until_ns:
            return denied(intended, Code.SIGNAL_EXPIRED, "its valid_until", "its time is over", "send a new one")
        if isinstance(verdict, Approved):
            verdict = self._affordable(verdict)
        if isinstance(verdict, Approved):
            self._reserve(self._collared(order_of(verdict, epoch=self._lease.epoch, now_ns=now_ns), intended))
        return verdict

    async def _adopt(self, record: SignalRecord, intent: Intent) -> bool:
        """Journal an order that a failover may have taken out of the journal; False when the venue does not have it.

        It is journaled as UNKNOWN and queried, whatever the checks say of it now: a denied order's fills have no order.
        """
        now_ns = self._clock.now_ns()
        order = denied_order(denied(intent, Code.STALE_DECISION, "", "", ""), epoch=self._lease.epoch, now_ns=now_ns)
        if not self._venue_orders.may_have_left(order, None):
            return False
        if await self._venue_orders.left_before(order, None) is None:
            return False
        copies = tuple(self._copier.copies_of(record, intent.quantity))
        orders, legs = self._with_legs(self._collared(order, intent), intent.plan, now_ns)
        self._reserve(orders[0])
        done = await self._submitter.submit(Submission(orders, legs, record.signal.id, is_known=True, copies=copies))
        if done.orders:
            self._report(record, SignalState.ORDERED, None)
        return True

    async def _submit_entry(self, record: SignalRecord, approved: Approved, started_s: float) -> None:
        signal, intent = record.signal, approved.intent
        copies = tuple(self._copier.copies_of(record, intent.quantity))
        now_ns = self._clock.now_ns()
        order = self._collared(order_of(approved, epoch=self._lease.epoch, now_ns=now_ns), intent)
        orders, legs = self._with_legs(order, intent.plan, now_ns)
        self._reserve(orders[0])
        self._seen[order.client_order_id] = approved
        done = await self._submitter.submit(
            Submission(
                orders,
                legs,
                signal.id,
                action=Action.EXIT if approved.is_reduce_only else Action.ENTRY,
                is_by_person=intent.is_by_person,
                copies=copies,
                recheck=self._recheck(intent),
            )
        )
        self._seen.pop(order.client_order_id, None)
        if done.is_killed:
            await self.deny(record, self._as_killed(intent))
        elif done.orders:
            self._report(record, SignalState.ORDERED, None)
            sent_ns = done.orders[0].sent_ns
            if done.refused is None and sent_ns is not None:  # the answer and its commit came after the first byte
                since_s = (self._clock.now_ns() - sent_ns) / 1e9
                self._context.meter.observe(
                    "fks_order_send_seconds", max(self._clock.monotonic() - started_s - since_s, 0.0)
                )
                self._context.meter.observe("fks_order_answer_seconds", max(since_s, 0.0), venue=intent.venue)

    def _with_legs(
        self, order: Order, plan: ParentPlan | None, now_ns: int
    ) -> tuple[tuple[Order, ...], tuple[Order, ...]]:
        """Return what is sent as one request, and the legs that are journaled with it and placed after its fill: none
        where the venue holds them from the start, or keeps the bracket."""
        if self._cache.venues[order.venue].capabilities.keeps_bracket:
            return (order,), ()
        if self._makes_closes(order, plan):
            return (replace(order, group_id=group_of(order, 0)),), ()
        if plan is not None and plan.targets:
            instrument = self._cache.instruments[order.exchange, order.symbol]
            return (order,), tuple(
                target_legs(order, plan, instrument=instrument, epoch=self._lease.epoch, now_ns=now_ns)
            )
        is_list = isinstance(self._context.venues[order.venue], TakesEntryLists) and self._is_held_by_venue(order)
        if order.type is OrderType.MARKET or not is_list:
            legs = legs_of(order, quantity=order.quantity, attempt=0, epoch=self._lease.epoch, now_ns=now_ns)
            return (order,), tuple(legs)
        instrument = self._cache.instruments[order.exchange, order.symbol]
        has_fee = self._cache.venues[order.venue].capabilities.fee_in_received_asset
        fee_rate = self._context.settings.costs.fee_rate if has_fee else _ZERO
        quantity = instrument.round_quantity(order.quantity * (1 - fee_rate))
        order = replace(order, group_id=group_of(order, 0))
        legs = listed_legs(order, quantity=quantity, epoch=self._lease.epoch, now_ns=now_ns)
        return (order, *legs), ()

    def _makes_closes(self, order: Order, plan: ParentPlan | None) -> bool:
        """Return whether the fills of an entry make their own stops at the venue: it has no other exit."""
        is_wanted = self._context.settings.venue.entry_protection == "venue"
        return (
            is_wanted
            and self._cache.venues[order.venue].capabilities.closes_fills
            and order.type in (OrderType.LIMIT, OrderType.MARKET)
            and order.stop_loss is not None
            and order.take_profit is None
            and not (plan is not None and plan.targets)
            and not order.is_reduce_only
        )

    def _is_held_by_venue(self, order: Order) -> bool:
        """Return whether an entry is one whose SL and TP a venue holds from the start."""
        instrument = self._cache.instruments.get((order.exchange, order.symbol))
        exits = (order.stop_loss is not None, order.take_profit is not None)
        may_attach = self._cache.venues[order.venue].capabilities.attaches_exits and all(exits)
        may_attach = may_attach and order.side is Side.BUY and order.time_in_force is not TimeInForce.IOC
        return (
            self._context.settings.collar_pct is not None
            and instrument is not None
            and (
                may_attach
                or instrument.takes_entry_list(side=order.side.value, has_stop_loss=exits[0], has_take_profit=exits[1])
            )
            and order.type in (OrderType.LIMIT, OrderType.MARKET)
            and not order.is_reduce_only
        )

    def _sells_received(self, entry: Order) -> bool:
        """Return whether an entry's legs sell what it received, else they have a fixed size.

        The parts of an entry that rests would be locked for its legs until the last one, and nothing else could protect
        them. Where the account has enough of the asset for the fee, the venue takes it from there and the legs would
        sell more than the entry's position; legs of a fixed size take from there what the fee was more than expected.
        """
        instrument = self._cache.instruments[entry.exchange, entry.symbol]
        balance = self._cache.balances.get(entry.venue, {}).get(instrument.base)
        fee = entry.quantity * self._context.settings.costs.fee_rate
        is_deducted = balance is None or balance.free < fee
        return entry.time_in_force is TimeInForce.FOK and instrument.has_opo and is_deducted

    def _collared(self, order: Order, intent: Intent) -> Order:
        """Return a market entry that goes out as a list, or to a venue that fills by the same rule, as the limit order
        that fills at once near the price of its decision or expires; other orders as they are."""
        venue = self._context.venues[order.venue]
        has_collar = isinstance(venue, TakesEntryLists) or venue.capabilities.has_collar
        has_targets = intent.plan is not None and bool(intent.plan.targets)  # no list of a venue has several
        if order.type is not OrderType.MARKET or not has_collar or has_targets or not self._is_held_by_venue(order):
            return order
        decided = intent.reference_price or self._cache.mark(order.exchange, order.symbol)
        most_pct = self._context.settings.collar_pct
        if decided is None or most_pct is None:
            return order
        instrument = self._cache.instruments[order.exchange, order.symbol]
        price = collar(decided, most_pct, _PERCENT, order.side.sign, instrument.tick)
        beyond = f"{most_pct.normalize():f} % beyond the decision's {decided:f}"
        detail = f"a market entry that may cost {price:f} at most, {beyond}"
        return replace(order, type=OrderType.LIMIT, time_in_force=TimeInForce.FOK, price=price, detail=detail)

    def _affordable(self, approved: Approved) -> Approved | RiskDenied:
        """Return the verdict on the balance that the venue locks: a market entry with a collar may cost that much."""
        intent = approved.intent
        order = self._collared(order_of(approved, epoch=0, now_ns=0), intent)
        if order.price == intent.price:
            return approved
        costly = replace(intent, type=order.type, price=order.price)
        verdict = check(costly, self._view(costly), only={Code.BALANCE})
        return replace(verdict, intent=intent) if isinstance(verdict, RiskDenied) else approved

    def _intend(self, record: SignalRecord) -> Intent | RiskDenied:
        """Size a signal; one that cannot be sized is denied, with the missing value."""
        signal = record.signal
        instrument = self._cache.instruments.get((signal.exchange, signal.symbol))
        if signal.kind is Kind.ORDER or instrument is None:
            intent = self._dated(intend_order(signal), record)
            return capped(intent, self._view(intent)) if intent.must_reduce else intent
        instance = self._cache.instances.get(signal.instance)
        price = self._cache.mark(signal.exchange, signal.symbol)
        sizing, size = ("notional", _ZERO) if instance is None else (instance.sizing, instance.size)
        try:
            equity = self._equity(signal) if Sizing.parse(sizing).needs_equity else None
            intent = intend_entry(signal, sizing=sizing, size=size, instrument=instrument, price=price, equity=equity)
            intent = intent if equity is None or signal.size is not None else self._paid_for(intent, instrument)
        except InputError as error:
            code = Code.NO_PROTECTION if error.code == Code.NO_PROTECTION else Code.PRICE_MISSING
            return denied(intend_order(signal), code, f"what {sizing} sizes by", error.message, error.remedy)
        return self._dated(intent, record)

    def _paid_for(self, intent: Intent, instrument: Instrument) -> Intent:
        """Return an entry, a buy with at most the quantity that the account's free cash pays for."""
        view = self._view(intent)
        if intent.side is Side.SELL or view.margin is not None or view.venue.capabilities.is_margin:
            return intent
        order = denied_order(denied(intent, Code.BALANCE, "", "", ""), epoch=0, now_ns=0)
        quantity = affordable_quantity(
            intent.quantity,
            view.free(instrument.quote),
            intent.stop_price or intent.reference_price or _ZERO,
            view.costs,
            instrument,
            most=self._collared(order, intent).price,
        )
        return replace(intent, quantity=quantity)

    def _dated(self, intent: Intent, record: SignalRecord) -> Intent:
        decided_ns, max_age_s = max_age_of(record.signal, record.approved_ns, self._context.settings.risk)
        is_tape = self._context.settings.sim.fills == "tape"
        return replace(intent, decided_ns=decided_ns, max_age_s=None if is_tape else max_age_s)

    def _recheck(self, intent: Intent, lost: Collection[str] = ()) -> Callable[[Order], Refuse | None]:
        """Return what is asked between the commit and the bytes: the order's age always, everything after a wait."""
        checked_s = self._clock.monotonic()

        def recheck(order: Order) -> Refuse | None:
            if self._clock.monotonic() - checked_s <= _RECHECK_S:
                exchange_ns = self._clock.now_ns() + int((self._cache.venues[intent.venue].skew_ms or 0.0) * 1e6)
                age_s = (exchange_ns - intent.decided_ns) / 1e9
                if intent.max_age_s is None or age_s <= intent.max_age_s:
                    return None
            view = self._view(intent, lost)
            view = replace(view, open_orders=tuple(o for o in view.open_orders if o.intent_id != intent.intent_id))
            verdict = check(intent, view)
            return (
                None
                if isinstance(verdict, Approved)
                else Refuse(verdict.denial.code.value, denial_text(verdict.denial))
            )

        return recheck

    # ── closes ───────────────────────────────────────────────────────────────────────────────────
    async def close(self, command: m.SubmitClose, signal: Signal, *, lost: Collection[str] = ()) -> m.CloseDone:
        """Check and submit one closing order of an exit. `lost`: orders whose end may never be known."""
        instrument = self._cache.instruments[signal.exchange, signal.symbol]
        held = command.quantity if command.side is Side.SELL else -command.quantity
        intent = intend_exit(signal, position=held, instrument=instrument, attempt=command.attempt)
        name = ids.client_order_id(ids.intent_id(signal.id), Role.EXIT, command.attempt)
        if intent is None:
            return m.CloseDone(command.instance, name, Code.QTY_MIN.value, "less than one step")
        verdict = self._check(intent, lost)
        if isinstance(verdict, RiskDenied):
            return m.CloseDone(command.instance, name, verdict.denial.code.value, denial_text(verdict.denial))
        order = self._reserve(order_of(verdict, epoch=self._lease.epoch, now_ns=self._clock.now_ns()))
        self._seen[order.client_order_id] = verdict
        order = replace(order, is_reduce_only=True)
        done = await self._submitter.submit(
            Submission(
                (order,),
                signal_id=signal.id if command.takes_signal else None,
                action=Action.EXIT,
                is_by_person=intent.is_by_person,
                recheck=self._recheck(intent, lost),
            )
        )
        self._seen.pop(order.client_order_id, None)
        if done.is_killed:
            return m.CloseDone(command.instance, name, Code.KILLED.value, "the kill switch is engaged")
        if done.orders and command.takes_signal:
            self._context.meter.count("fks_signals_total", state=SignalState.ORDERED.value)
            if self._cache.is_journal_up:
                record = await self._ledger.patiently(lambda: self._context.signals.get(signal.id))
                if record is not None:
                    self._context.publisher.signal(record, SignalState.ORDERED)
        return m.CloseDone(command.instance, name, is_used=not done.orders)

    async def kill(self, key: PositionKey, command: m.SubmitKill) -> m.CloseDone:
        """Submit one closing order of the kill switch, under the id that the guardian would give it."""
        account_id, venue, symbol = key
        intent = ids.flatten_id(
            command.kill_id, venue=venue, account_id=account_id, symbol=symbol, instance=command.instance
        )
        now_ns = self._clock.now_ns()
        order = self._reserve(
            Order(
                client_order_id=ids.client_order_id(intent, Role.KILL, command.attempt),
                intent_id=intent,
                signal_id=None,
                account_id=account_id,
                venue=venue,
                exchange=command.exchange,
                symbol=symbol,
                instance=command.instance,
                role=Role.KILL,
                attempt=command.attempt,
                side=command.side,
                type=OrderType.MARKET,
                time_in_force=TimeInForce.GTC,
                quantity=command.quantity,
                is_reduce_only=True,
                epoch=self._lease.epoch,
                trace_id=command.kill_id[:16],
                created_ns=now_ns,
                updated_ns=now_ns,
            )
        )
        done = await self._submitter.submit(Submission((order,), action=Action.KILL))
        if done.orders:
            state = done.orders[0].state.value
            self._context.log.warning("kill.closed_here", venue=venue, symbol=symbol, state=state)
        return m.CloseDone(command.instance, order.client_order_id, is_used=True)

    # ── protection ───────────────────────────────────────────────────────────────────────────────
    async def protection(self, command: m.PlaceProtection) -> m.ProtectionDone:
        """Submit the legs of one parent: those that wait, a new attempt, or a market order when the price has
        passed."""
        parent = command.parent
        may_be_passed = command.is_refused_before or isinstance(command, m.CloseAtMarket)
        passed = await self._passed(command) if may_be_passed else None
        is_release = False
        if passed is not None:
            # the price is past the leg's already: it is closed at the market
            now_ns, instrument = self._clock.now_ns(), self._cache.instruments.get((parent.exchange, parent.symbol))
            parts = split_at_lot(command.quantity, instrument) if instrument is not None else ()
            parts = parts or (command.quantity,)
            legs = [
                leg_of(parent, passed, OrderType.MARKET, part, attempt, self._lease.epoch, now_ns)
                for attempt, part in enumerate(parts, command.attempt)
            ]
        elif command.waiting:
            is_release = True
            legs = [self._cache.orders[name] for name in command.waiting if name in self._cache.orders]
            legs = [leg for leg in legs if leg.state is State.INTENDED]
            legs = [replace(leg, quantity=command.quantity) for leg in legs]
        else:
            legs = legs_of(
                parent,
                quantity=command.quantity,
                attempt=command.attempt,
                epoch=self._lease.epoch,
                now_ns=self._clock.now_ns(),
            )
            legs = [leg for leg in legs if leg.role in command.roles]
        if not legs:
            return m.ProtectionDone(parent.client_order_id, target=command.attempt // TARGET_ATTEMPTS)
        action = Action.KILL if isinstance(command, m.PutBackProtection) else Action.LEG
        return await self._submit_legs(parent, legs, is_release=is_release, action=action)

    async def replace_stop(self, command: m.ReplaceStop) -> m.ProtectionDone:
        """Replace a stop by one request that ends it and places its successor. The outcome of each is recorded by
        itself; an unclear answer leaves both unresolved, and neither is sent again."""
        parent = command.parent
        old = await self._venue_orders.begin_replacement(command.client_order_id)
        if old is None:
            return m.ProtectionDone(parent.client_order_id, target=command.attempt // TARGET_ATTEMPTS)
        now_ns = self._clock.now_ns()
        legs = legs_of(
            parent, quantity=command.quantity, attempt=command.attempt, epoch=self._lease.epoch, now_ns=now_ns
        )
        unsent = Answer(Outcome.REFUSED, code="NOT_SENT", detail="nothing was sent", refusal=Refusal.NOT_SENT)
        replaced = self._replaced[legs[0].client_order_id] = _Replaced(old, unsent)
        try:
            done = await self._submit_legs(parent, legs[:1], is_release=False)
            await self._venue_orders.end_replacement(old, replaced.answer)
        finally:
            del self._replaced[legs[0].client_order_id]
        return done

    async def _submit_legs(
        self, parent: Order, legs: list[Order], *, is_release: bool, action: Action = Action.LEG
    ) -> m.ProtectionDone:
        has_oco = self._cache.venues[parent.venue].capabilities.has_oco
        if has_oco and {leg.role for leg in legs} == set(_LEG_ROLES):
            legs = [replace(leg, group_id=group_of(parent, leg.attempt)) for leg in legs]
            groups = [tuple(sorted(legs, key=lambda leg: leg.role is not Role.STOP_LOSS))]
        else:
            groups = [(leg,) for leg in legs]
        refusals, retry_after_s = list[Refusal](), 0.0
        for group in groups:
            if refusals:
                break  # the rest is tried again with what was refused
            if not is_release:
                for leg in group:
                    self._reserve(leg)
            done = await self._submitter.submit(
                Submission(group, is_release=is_release, action=action, recheck=self._recheck_cover(parent))
            )
            if not done.orders and not done.is_killed and self._cache.is_journal_up:
                for known in await self._ledger.patiently(lambda: self._ledger.store.legs([parent.client_order_id])):
                    self._on_placed(known)  # the attempt's ids were used before: the core learns of them
            refusals += [Refusal.NOT_SENT] if done.is_killed else []  # tried again after a wait, not at once
            ended = (State.REJECTED, State.EXPIRED)
            refusals += [after.refusal for after in done.orders if after.state in ended and after.refusal]
            retry_after_s = max([retry_after_s, *(answer.retry_after_s or 0.0 for answer in done.answers)])
        return m.ProtectionDone(parent.client_order_id, tuple(refusals), retry_after_s, target_of(legs[0]))

    def _recheck_cover(self, parent: Order) -> Callable[[Order], Refuse | None]:
        """Return what is asked before the bytes of legs for a part of `parent`: the legs that went out with it may have
        appeared at the venue."""

        def recheck(leg: Order) -> Refuse | None:
            if (replaced := self._replaced.get(leg.client_order_id)) is not None:
                old = self._cache.orders.get(replaced.order.client_order_id)
                if old is None or old.request is not Request.REPLACE:
                    return Refuse("REPLACED", "the stop that it would replace ended, or is to end")
            held = self._cache.orders.values() if parent.state in OPEN and parent.group_id is not None else ()
            is_there = any(
                o.parent_id == parent.client_order_id
                and o.group_id == parent.group_id
                and o.state in LIVE
                and not o.is_pending
                for o in held
            )
            return Refuse("COVERED", "the exits that went out with the entry are at the venue") if is_there else None

        return recheck

    async def _passed(self, command: m.PlaceProtection) -> Role | None:
        """Return the leg whose price the market has passed already: resting there is impossible, so it is closed
        now. Of a pair that was refused as one it is the leg nearer to a price that came back, the stop without a
        price."""
        parent, sign = command.parent, command.parent.side.sign
        is_known = isinstance(command, m.CloseAtMarket)
        if is_known and len(command.roles) == 1:
            return next(iter(command.roles))
        wait_s = _ROLE_S if is_known else self._context.settings.venue.order_timeout_s + MARGIN_S
        try:
            async with asyncio.timeout(wait_s):
                price = await self._context.venues[parent.venue].last_price(parent.symbol)
        except (OutageError, TimeoutError):
            price = None
        price = price or self._cache.mark(parent.exchange, parent.symbol)
        above_stop = None if price is None or parent.stop_loss is None else (price - parent.stop_loss) * sign
        below_target = None if price is None or parent.take_profit is None else (parent.take_profit - price) * sign
        if above_stop is not None and above_stop <= 0:
            return Role.STOP_LOSS
        if below_target is not None and below_target <= 0:
            return Role.TAKE_PROFIT
        if not is_known:
            return None
        is_target = above_stop is not None and below_target is not None and below_target < above_stop
        return Role.TAKE_PROFIT if is_target else Role.STOP_LOSS

    def exits_denial(self, order: Order, stop_loss: Decimal | None, plan: ParentPlan | None) -> Denial | None:
        """Return why the venue could not hold another stop or plan for an order that it has, or None."""
        quantity = order.quantity if order.state in OPEN else order.filled
        price = order.price if order.filled == 0 else None  # else the market's counts
        intent = replace(intent_of(order), quantity=quantity, price=price, stop_price=None)
        if plan is not None:
            intent = replace(intent, plan=plan, take_profit=None if plan.targets else order.take_profit)
        intent = replace(intent, stop_loss=stop_loss or order.stop_loss)
        return self._denial(intent, {Code.PRICE_TICK, Code.STOP_WRONG_SIDE, Code.NO_PROTECTION})

    def successor_denial(
        self, order: Order, price: Decimal | None, stop_price: Decimal | None, quantity: Decimal
    ) -> Denial | None:
        """Return why an order could not be followed by one at other values, or None. The balance, which it locks
        itself, and its age are left to the checks of its successor."""
        intent = replace(intent_of(order), price=price, stop_price=stop_price, quantity=quantity - order.filled)
        intent = replace(intent, decided_ns=self._clock.now_ns(), is_successor=True)
        return self._denial(intent, {code for code, _ in CHECKS} - {Code.BALANCE, Code.STALE_DECISION})

    def _denial(self, intent: Intent, only: Collection[Code]) -> Denial | None:
        try:
            view = self._view(intent)
            view = replace(view, open_orders=tuple(o for o in view.open_orders if o.intent_id != intent.intent_id))
            verdict = check(intent, view, only=only)
        except ArithmeticError as error:
            remedy = "use smaller numbers"
            verdict = denied(intent, Code.QTY_MAX, "numbers to calculate with", type(error).__name__, remedy)
        return verdict.denial if isinstance(verdict, RiskDenied) else None

    # ── checks ───────────────────────────────────────────────────────────────────────────────────
    def _check(self, intent: Intent, lost: Collection[str] = ()) -> Approved | RiskDenied:
        return check(intent, self._view(intent, lost))

    def _view(self, intent: Intent, lost: Collection[str] = ()) -> RiskView:
        view = self._cache.view(
            intent, now_ns=self._clock.now_ns(), monotonic_s=self._clock.monotonic(), is_leader=self._lease.holds()
        )
        if self._replaced:
            swaps = ((item.order.client_order_id, id) for id, item in self._replaced.items())
            view = replace(view, open_orders=without_replaced(view.open_orders, swaps))
        if view.venue.capabilities.keeps_bracket and intent.role in (Role.EXIT, Role.ORDER):
            # the venue ends these legs for a closing order: they hold nothing back
            others = tuple(o for o in view.open_orders if o.instance != intent.instance or o.role not in _LEG_ROLES)
            view = replace(view, open_orders=others)
        if intent.role is not Role.EXIT:
            return view
        if self._context.journal is JournalState.SIDE:
            view = replace(view, is_leader=True, is_journal_up=True)
        # legs whose end no venue will ever report do not count: a person was paged, what is known is closed now
        counted = (o for o in view.open_orders if o.client_order_id not in lost or o.state is not State.UNKNOWN)
        return replace(view, open_orders=tuple(counted)) if lost else view

    def _as_killed(self, intent: Intent) -> RiskDenied:
        verdict = self._check(intent)
        if isinstance(verdict, RiskDenied):
            return verdict
        return denied(intent, Code.KILLED, "not engaged", "engaged", "see `fks status`; `fks resume` clears it")

    def _reserve(self, order: Order) -> Order:
        """Put the order into the cache as if it were sent: nothing else may spend its money while it is committed."""
        self._cache.put(evolve(order, state=State.SENDING))
        return order

    # ── outcomes of signals ──────────────────────────────────────────────────────────────────────
    async def deny(self, record: SignalRecord, no: RiskDenied) -> None:
        """Keep a denial: an order row in DENIED with the code, and the signal's outcome, in one statement."""
        context, now_ns, denial = self._context, self._clock.now_ns(), no.denial
        event = e.Denied(**self._ledger.stamp("deny"), code=denial.code.value, detail=denial_text(denial))
        order = begin(denied_order(no, epoch=self._lease.epoch, now_ns=now_ns), event).order
        checks = as_payload(explain(no.intent, self._view(no.intent))) if no.intent.venue in self._cache.venues else []
        reason = {"limit": denial.limit, "observed": denial.observed, "scope": denial.scope}
        payload = {"code": denial.code.value, **reason, "checks": checks}
        row = event_row(order, event, epoch=order.epoch, payload=payload)
        journal = self._ledger.journal
        self._copier.ended(record.signal.id)
        await self._ledger.patiently(lambda: journal.deny(order, row, signal_id=record.signal.id, now_ns=now_ns))
        self._groups.ended(record.signal)
        context.meter.count("fks_signals_total", state=SignalState.DENIED.value)
        context.meter.count("fks_orders_total", state=order.state.value)
        context.meter.count("fks_denials_total", code=denial.code.value)
        context.publisher.order(order)
        context.publisher.signal(record, SignalState.DENIED, denial.code.value)
        context.log.info(
            "order.denied",
            client_order_id=order.client_order_id,
            symbol=order.symbol,
            code=denial.code.value,
            detail=denial_text(denial),
            instance=order.instance,
            trace_id=order.trace_id,
            epoch=self._lease.epoch,
        )

    async def finish(self, record: SignalRecord, state: SignalState, code: Code | None, detail: str) -> None:
        """Write the outcome of a signal that led to no order. An exit of what FKS does not hold is shown to a person
        where the account is one that a person trades."""
        self._copier.ended(record.signal.id)
        if state is SignalState.NOTHING and record.signal.is_exit:
            venue = self._context.venues.get(record.signal.venue)
            if isinstance(venue, ShowsExits) and (answer := await venue.show_exit(record.signal)) is not None:
                code = Code.RELAYED if answer.code == Code.RELAYED else code
                detail = f"{answer.detail}; {detail}"
        now_ns = self._clock.now_ns()  # of all tries: by it one whose answer was lost is recognised
        is_mine = await self._ledger.patiently(
            lambda: self._context.signals.finish(record.signal.id, state, now_ns=now_ns, code=code, detail=detail)
        )
        self._groups.ended(record.signal)
        if is_mine:
            self._report(record, state, code)

    def _report(self, record: SignalRecord, state: SignalState, code: Code | None) -> None:
        self._context.meter.count("fks_signals_total", state=state.value)
        self._context.publisher.signal(record, state, None if code is None else code.value)

    # ── the ports of the submit protocol ─────────────────────────────────────────────────────────
    async def journal(self, submission: Submission) -> Journaled:
        """See SubmitPorts. A commit whose outcome is not known is read back once PostgreSQL answers."""
        if submission.is_release:
            pairs: list[tuple[str, e.Event]] = [
                (o.client_order_id, e.Sent(**self._ledger.stamp("send"), quantity=o.quantity, group_id=o.group_id))
                for o in submission.orders
            ]
            return Journaled(tuple(await self._ledger.apply_together(pairs)))
        begun: list[Order] = []
        events: list[e.Event] = []
        for order in (*submission.orders, *submission.with_it):
            is_sent = len(begun) < len(submission.orders)
            event: e.Event = (
                e.IntendedAndSent(**self._ledger.stamp("send"))
                if is_sent
                else e.Intended(**self._ledger.stamp("intend"))
            )
            begun.append(begin(order, event).order)
            events.append(event)
        rows = [event_row(order, event, epoch=order.epoch) for order, event in zip(begun, events, strict=True)]
        if rows and (shares := self._shares(begun[0])):
            rows[0] = replace(rows[0], payload={"allocation": [[name, format(part, "f")] for name, part in shares]})
        start = self._clock.monotonic()
        placed = await self._commit(begun, events, rows, submission)
        self._context.meter.observe("fks_order_commit_seconds", self._clock.monotonic() - start)
        for order in begun:
            if order.client_order_id in placed.placed:
                self._cache.put(order)
                self._context.meter.count("fks_orders_total", state=order.state.value)
                self._context.publisher.order(order)
                self._on_placed(order)
            else:
                await self._forget(order.client_order_id)
        self._copier.committed(submission.copies if placed.is_taken else ())
        sent = tuple(order for order in begun[: len(submission.orders)] if order.client_order_id in placed.placed)
        return Journaled(sent, placed.is_killed)

    def _shares(self, order: Order) -> list[tuple[str, Decimal]]:
        """Return whose positions a person's sale closes when it is more than what persons hold; [] for other orders."""
        is_spot = not self._cache.venues[order.venue].capabilities.can_short
        shares = self._allocated(order) if order.side is Side.SELL and is_spot else []
        return shares if any(name not in (order.instance, EXTERNAL) for name, _ in shares) else []

    def _allocated(self, order: Order) -> list[tuple[str, Decimal]]:
        """Return the parts of a person's order by instance; [] for other orders."""
        if order.role is not Role.ORDER or not is_shared(order):
            return []
        buckets = self._cache.buckets((order.account_id, order.venue, order.symbol))
        return allocate(order, buckets, order.instance, is_flattening=True)

    def _names(self, order: Order) -> set[str]:
        """Return the names by which a kill of a strategy concerns an order: a person's has those of the instances, too,
        whose positions it closes. Beside the kill that closes them it would sell them twice."""
        return self._cache.names_of(order.instance, *(name for name, _ in self._allocated(order)))

    async def _forget(self, client_order_id: str) -> None:
        """Drop a reservation whose order was not journaled now; one that was journaled before counts as it is."""
        self._cache.forget(client_order_id)
        known = await self._ledger.patiently(lambda: self._ledger.store.get(client_order_id))
        if known is not None:
            self._cache.put(known)
            self._on_placed(known)

    async def _commit(
        self, orders: Sequence[Order], events: Sequence[e.Event], rows: Sequence[EventRow], submission: Submission
    ) -> Placed:
        journal, store, first = self._ledger.journal, self._ledger.store, orders[0].client_order_id
        now_ns, is_unresolved = self._clock.now_ns(), False
        stopped = stopped_by(submission.action, is_by_person=submission.is_by_person) if not submission.is_known else ()
        is_side = (
            JournalState.SIDE in journals_of(submission.action) and not submission.copies and not submission.with_it
        )
        while True:
            try:
                if is_side and await self._ledger.place_in_side_journal(orders, events, submission.signal_id):
                    return _all_of(orders)
                placed = await self._ledger.in_time(
                    journal.place(
                        orders,
                        rows,
                        signal_id=submission.signal_id,
                        now_ns=now_ns,
                        stopped_by=stopped,
                        copies=submission.copies,
                        names=self._names(orders[0]),
                    )
                )
                if first in placed.placed or not is_unresolved:
                    return placed
            except OutageError as error:
                is_unresolved, placed = True, None
                if not await self._ledger.wait_for_journal(error, is_side=is_side):
                    continue
            # the server may have finished an earlier try after it was read back: then these rows are ours, and unsent
            found = await self._ledger.patiently(lambda: store.get(first))
            if found is not None and found.epoch == self._lease.epoch and found.state is orders[0].state:
                return _all_of(orders)
            if placed is not None:
                return placed

    async def may_send(self, submission: Submission, order: Order) -> Refuse | None:
        """See SubmitPorts."""
        deadline = self._clock.monotonic() + self._context.settings.venue.order_timeout_s
        while not self._context.may_leave(submission.action):
            if self._clock.monotonic() > deadline:
                return Refuse(Code.NOT_LEADER.value, "the lease was lost between commit and send")
            await self._clock.sleep(HOLD_POLL_S)
        # the guardian's file is read here and now: after an outage of PostgreSQL it may be ahead of the table
        kills = Kills((*self._cache.kills, *self._kill_file())).over(order.venue, order.account_id, *self._names(order))
        now = Circumstances(kills.mode, submission.is_by_person, self._cache.venues[order.venue].reach)
        permission = allowed(submission.action, now)
        if not isinstance(permission, Allow):
            return Refuse(permission.code.value, f"between commit and send: {MEANING[permission.code]}")
        if order.valid_until_ns is not None and self._clock.now_ns() > order.valid_until_ns:
            return Refuse(Code.SIGNAL_EXPIRED.value, "its time was over before it could be sent")
        return None

    async def left_before(self, orders: Sequence[Order]) -> Sequence[str | None]:
        """See SubmitPorts. No other task runs between the last look and `write`, which notes the ids."""
        parent = self._cache.recall(orders[-1].parent_id or "")
        if not any(self._venue_orders.may_have_left(order, parent) for order in orders):
            return [None] * len(orders)
        return [await self._venue_orders.left_before(order, parent) for order in orders]

    async def write(self, orders: Sequence[Order]) -> tuple[Sequence[Answer], int]:
        """See SubmitPorts."""
        first, sent_ns = orders[0], self._clock.now_ns()
        self._cache.note_sent(first.account_id, self._clock.monotonic())
        answers = await self._venue_orders.send(orders, self._call(orders))
        return answers, answers[0].sent_ns or sent_ns

    async def _call(self, orders: Sequence[Order]) -> Sequence[Answer]:
        """Call the venue for one order, a stop that replaces another, an entry with its legs, or an OCO."""
        first, venue = orders[0], self._context.venues[orders[0].venue]
        replaced = self._replaced.get(first.client_order_id)
        if replaced is not None:
            replaced.answer = Answer(Outcome.AMBIGUOUS, detail="no clear answer")
            assert isinstance(venue, ReplacesOrders), "stops are replaced by one request only there"
            replaced.answer, answer = await venue.replace(replaced.order, first)
            return (answer,)
        if len(orders) == 1 and first.parent_id is None and first.group_id is not None:
            assert isinstance(venue, ClosesFills), "an entry is in a list of its own only there"
            return (await venue.submit_closing(first),)
        if len(orders) == 1:
            return (await venue.submit(first),)
        if first.parent_id is None:
            assert isinstance(venue, TakesEntryLists), "an entry's legs go out with it only there"
            return await venue.submit_entry(first, orders[1:], sells_received=self._sells_received(first))
        return await venue.submit_oco(orders[0], orders[1])

    async def record(self, order: Order, event: e.Event, answer: Answer | None) -> Order:
        """See SubmitPorts."""
        fills = () if answer is None or answer.outcome is not Outcome.ACK else answer.fills
        event = self._with_checks(order, event)
        after = await self._ledger.apply(
            order.client_order_id, event, *(self._ledger.fill_seen(fill) for fill in fills)
        )
        assert after is not None
        if answer is not None:
            self._context.log.info(
                "order.answered",
                client_order_id=order.client_order_id,
                state=after.state.value,
                symbol=order.symbol,
                outcome=answer.outcome.value,
                code=answer.code,
                trace_id=order.trace_id,
                epoch=self._lease.epoch,
            )
        return after

    def _with_checks(self, order: Order, event: e.Event) -> e.Event:
        """Return the event with the figures of the checks that the order passed. Their texts are made now, after the
        bytes."""
        approved = self._seen.pop(order.client_order_id, None)
        if approved is None or not isinstance(event, e.Acked | e.Refused | e.Ambiguous | e.DuplicateId):
            return event
        return msgspec.structs.replace(event, checks=figures(approved))

    def stamp(self, kind: str, source: str = "us") -> dict[str, Any]:
        """See SubmitPorts."""
        return self._ledger.stamp(kind, source)


def denied(intent: Intent, code: Code, limit: str, observed: str, remedy: str) -> RiskDenied:
    """Return the denial of an intent that no check saw."""
    denial = Denial(code, limit, observed, intent.symbol, remedy)
    return RiskDenied(intent, denial, (denial,))


def _all_of(orders: Sequence[Order]) -> Placed:
    return Placed(True, False, tuple(order.client_order_id for order in orders))
