"""Events to orders: one at a time per account, venue and symbol, on disk before in memory, whatever PostgreSQL does.

The effect of events is computed once. After a write of unknown outcome (a connection lost at the commit) the same
effect is written again, which changes nothing where the first try took; whether executions that are booked then were
its own the journal knows by its events. While PostgreSQL is away, events go to the side journal: their effect is known
here, seen and not yet booked, and is written to PostgreSQL when it is back. Without a side journal they wait, in the
order they came.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, TypeVar

from fks.model.account import Position
from fks.model.cash_flows import PositionSplit
from fks.model.copies import copied_instance
from fks.model.errors import OutageError
from fks.model.futures import instrument_of_symbol
from fks.model.instrument import Instrument, assumed_instrument
from fks.model.order import BracketLeg, Fill, Order, Report, Role, Side, State, evolve
from fks.model.parent import ParentPlan
from fks.model.timeframe import iso
from fks.store.corporate_actions import CorporateActionStore
from fks.store.facts import FactStore
from fks.store.incidents import IncidentKind, IncidentStore
from fks.store.orders import EventRow, ExecutionRow, OrderChanges, OrderJournal, OrderStore
from fks.store.positions import PositionStore
from fks.system.runtime import Runtime
from fks.trading.order_manager.cache import OrderCache
from fks.trading.order_manager.person_fills import BUST, PERSON, PersonFills, bust_id, bust_payload, reversal
from fks.trading.order_manager.publisher import Publisher
from fks.trading.order_manager.side_journal import SideJournal
from fks.trading.orders import events as e
from fks.trading.orders.build import reported_leg
from fks.trading.orders.crash_points import At, nowhere
from fks.trading.orders.machine import Act, Step, advance, begin
from fks.trading.orders.messages import PositionKey, SplitApplied
from fks.trading.orders.side_lines import Happened, PlacedOrders
from fks.trading.portfolio.position import EXTERNAL, allocate, apply_fill, is_shared, share_of

_RECENT_MAX = 50_000
_ZERO = Decimal(0)
_RETRY_S = 0.2
_ANSWER_S = 1.0  # a statement without an answer for so long counts as an outage, where there is a side journal
_DRAIN_POLL_S = 0.01
#: Called after each commit, with the order after it and its steps; with None when positions changed without an order.
#: It must not wait.
OnCommit = Callable[[PositionKey, Order | None, Sequence[Step]], None]
T = TypeVar("T")


@dataclass(slots=True)
class _Plan:
    """The effect of some events, computed on a copy."""

    order: Order
    steps: list[tuple[e.Event, Step]] = field(default_factory=list)
    trades: list[ExecutionRow] = field(default_factory=list)
    positions: dict[tuple[int, str, str, str], Position] = field(default_factory=dict)
    fills: list[tuple[Fill, bool]] = field(default_factory=list)
    is_side: bool = False  # in the side journal, not in PostgreSQL yet
    is_tried: bool = False  # a write of it began: without an answer it may be in PostgreSQL


class Ledger:
    """The only writer of orders after they were placed, of executions and of positions."""

    def __init__(
        self,
        runtime: Runtime,
        cache: OrderCache,
        publisher: Publisher,
        *,
        side: SideJournal | None = None,
        is_patient: bool = True,
        at: At = nowhere,
        on_commit: OnCommit = lambda key, order, steps: None,
    ) -> None:
        """`is_patient`: outages are waited out; the one that writes the side journal to PostgreSQL raises them."""
        self._at, self._on_commit = at, on_commit
        self._runtime, self._side, self._is_patient = runtime, side, is_patient
        self._is_draining = self._is_side_paged = False
        self._returning = asyncio.Lock()
        self.journal = OrderJournal(runtime.db, lease=runtime.lease.name, epoch=runtime.lease.epoch)
        self.store = OrderStore(runtime.db)
        self._facts = FactStore(runtime.db, runtime.lease)
        self._db, self._lease, self._clock = runtime.db, runtime.lease, runtime.clock
        self._meter, self._log = runtime.meter, runtime.log
        self._cache = cache
        self._publisher = publisher
        self._locks: dict[PositionKey, asyncio.Lock] = {}
        self._recent: OrderedDict[uuid.UUID, None] = OrderedDict()
        self._person_fills = PersonFills()
        self._number = 0

    # ── events ───────────────────────────────────────────────────────────────────────────────────
    def stamp(self, kind: str, source: str = "us") -> dict[str, Any]:
        """Return the fields every event has, with an id that no other event of this or an earlier epoch has."""
        self._number += 1
        return {
            "event_id": f"{kind}:{self._lease.epoch}:{self._number}",
            "source": source,
            "recv_ns": self._clock.now_ns(),
        }

    def reported(self, report: Report) -> e.Reported:
        """Return the event of a report. Its id is its own: the same report may change something a second time."""
        stamp = self.stamp(f"report:{report.state.value}:{report.filled:f}", report.source)
        return e.Reported(**stamp, venue_time_ns=report.time_ns, report=report)

    def fill_seen(self, fill: Fill) -> e.FillSeen:
        """Return the event of a fill; the same fill has the same id, wherever it was seen."""
        return e.FillSeen(
            event_id=f"fill:{fill.fill_id}",
            source=fill.source,
            venue_time_ns=fill.time_ns,
            recv_ns=self._clock.now_ns(),
            fill=fill,
        )

    # ── applying ─────────────────────────────────────────────────────────────────────────────────
    async def apply(
        self, client_order_id: str, *events: e.Event, guard: Callable[[Order], bool] | None = None
    ) -> Order | None:
        """Apply events to an order, in memory or only in the journal; return it after them, None when it is not ours.

        `guard` looks at the order once nothing else can change it: False applies nothing and returns None.
        Returned: their effect is on disk. Errors: StaleEpochError.
        """
        first = await self.find(client_order_id)
        if first is None:
            return None
        key = (first.account_id, first.venue, first.symbol)
        async with self._lock(key):
            if guard is not None and not guard(await self.find(client_order_id) or first):
                return None
            plan = await self._commit(key, first, events)
            self._remember(plan)
        self._on_commit(key, plan.order, [step for _, step in plan.steps])
        is_unlisted = (plan.order.exchange, plan.order.symbol) not in self._cache.instruments
        if plan.trades and is_unlisted and not plan.is_side:
            await self._report_unlisted(plan.order)
        return plan.order

    async def apply_together(self, pairs: Sequence[tuple[str, e.Event]]) -> list[Order]:
        """Apply one event each to orders of one key that memory keeps, all of them on disk or none.

        Nothing is applied, and nothing returned, when one of them has ended meanwhile.
        """
        first = self._cache.recall(pairs[0][0])
        if first is None:
            return []
        key = (first.account_id, first.venue, first.symbol)
        async with self._lock(key):
            if any(name not in self._cache.orders for name, _ in pairs):
                return []
            plans = [self._plan(self._cache.orders[name], [event], set()) for name, event in pairs]
            while True:
                try:
                    await self._until_drained()
                    if (side := self._side_journal()) is None:
                        await self._write(*plans)
                        break
                    side.note(pairs)
                    for plan in plans:
                        plan.is_side = True
                    break
                except OutageError as error:
                    await self.wait_for_journal(error, is_side=True)
            for plan in plans:
                self._remember(plan)
        for plan in plans:
            self._on_commit(key, plan.order, [step for _, step in plan.steps])
        return [plan.order for plan in plans]

    async def report(self, report: Report) -> Order | None:
        """Apply what a venue says of an order; None when it is not ours.

        A leg that the venue placed by itself for an order of ours becomes an order with its first report, and takes
        over the prices and the quantity of each further one.
        """
        if report.leg is None:
            return await self.apply(report.client_order_id, self.reported(report))
        order = await self.find(report.client_order_id) or await self._journal_leg(report, report.leg)
        if order is None:
            return None
        events: list[e.Event] = [self.reported(report)]
        quantity = order.quantity if report.quantity is None else report.quantity
        is_changed = (quantity, report.price, report.leg.stop_price) != (order.quantity, order.price, order.stop_price)
        if is_changed and report.time_ns >= order.venue_time_ns:
            stamp = self.stamp("leg-changed", report.source)
            changed = e.LegChanged(**stamp, quantity=quantity, price=report.price, stop_price=report.leg.stop_price)
            events.insert(0, changed)
        return await self.apply(report.client_order_id, *events)

    async def _journal_leg(self, report: Report, leg: BracketLeg) -> Order | None:
        """Write the order of a reported leg with its first event in one statement; None when its entry is not ours."""
        parent = await self.find(leg.parent_id)
        if parent is None:
            return None
        async with self._lock((parent.account_id, parent.venue, parent.symbol)):
            known = await self.find(report.client_order_id)
            if known is not None:
                return known
            if not leg.number:
                made = await self.patiently(lambda: self.store.legs([parent.client_order_id]))
                leg = replace(leg, number=min((one.attempt for one in made if one.is_close), default=0))
            now_ns = self._clock.now_ns()
            event = e.LegReported(**self.stamp("leg", report.source), venue_time_ns=report.time_ns, report=report)
            order = reported_leg(parent, report, leg, epoch=self._lease.epoch, now_ns=now_ns)
            return await self._begin(order, event)

    async def _begin(self, order: Order, event: e.Event) -> Order:
        """Write an order that is at the venue, with its first event, in one statement."""
        step = begin(order, event)
        row, now_ns = self._row(event, step), self._clock.now_ns()
        # written again after an outage it changes nothing: the id is the row's key
        await self.patiently(
            lambda: self.journal.place([step.order], [row], signal_id=None, now_ns=now_ns, stopped_by=())
        )
        self._cache.put(step.order)
        self._meter.count("fks_orders_total", state=step.order.state.value)
        self._publisher.order(step.order)
        self._on_commit((order.account_id, order.venue, order.symbol), step.order, [step])
        return step.order

    async def adopt(self, order: Order) -> None:
        """Write an order that a venue has and no row, as one of unknown outcome: the venue is asked about it, and its
        executions are booked to it."""
        async with self._lock((order.account_id, order.venue, order.symbol)):
            if await self.find(order.client_order_id) is None:
                await self._begin(order, e.IntendedAndSent(**self.stamp("adopt", "person")))
        found = e.DuplicateId(**self.stamp("found", "reconcile"), sent_ns=order.sent_ns)
        await self.apply(order.client_order_id, found)

    async def find(self, client_order_id: str) -> Order | None:
        """Return an order from memory or the journal."""
        known = self._cache.recall(client_order_id)
        return known or await self.patiently(lambda: self.store.get(client_order_id))

    @property
    def is_idle(self) -> bool:
        """Return whether no event is being worked in or written."""
        return not any(lock.locked() for lock in self._locks.values())

    def is_booked(self, fill: Fill) -> bool:
        """Return whether the fill was booked lately by this process; False may also mean long ago."""
        return fill.fill_id in self._recent

    async def _commit(self, key: PositionKey, first: Order, events: Sequence[e.Event]) -> _Plan:
        client_order_id, skip = first.client_order_id, set[uuid.UUID]()
        plan: _Plan | None = None
        while True:
            try:
                await self._until_drained()
                if (side := self._side_journal()) is not None:
                    return self._commit_to_side(side, self._cache.recall(client_order_id) or first, events, skip)
                if plan is None:
                    order = self._cache.recall(client_order_id) or await self.store.get(client_order_id)
                    assert order is not None
                    plan = self._plan(order, events, skip)
                await self._halt(plan)
                if plan.trades:
                    self._at("fill.before")
                if await self._write(plan):
                    if plan.trades:
                        self._at("fill.after")
                    return plan
                skip |= await self.journal.booked(key[0], [trade.fill for trade in plan.trades])
                await self._read_again(key, client_order_id)  # an earlier self had booked: the journal knows more
                plan = None
            except OutageError as error:
                await self.wait_for_journal(error, is_side=True)

    async def _write(self, *plans: _Plan) -> bool:
        """Write plans in one statement, all of them or none; again after a try without an answer. False: one of the
        executions was booked before, and not by such a try. Errors: OutageError; StaleEpochError."""
        changes, is_again = self._changes(*plans), any(plan.is_tried for plan in plans)
        if not (changes.orders or changes.events or changes.trades):
            return True
        for plan in plans:
            plan.is_tried = True
        if await self.in_time(self.journal.apply(changes)):
            return True
        return is_again and await self.in_time(self.journal.has(changes.events))

    def _commit_to_side(
        self, side: SideJournal, order: Order, events: Sequence[e.Event], skip: set[uuid.UUID]
    ) -> _Plan:
        """Write events to the side journal; return what they did. Errors: OutageError when it takes nothing."""
        plan = self._plan(order, events, skip)
        plan.is_side = True
        if any(step.is_changed or step.acts for _, step in plan.steps):
            self._at("aside.before")
            side.note([(order.client_order_id, event) for event in events])
            self._at("aside.after")
        if any(Act.HALT in step.acts for _, step in plan.steps):  # its row is written when PostgreSQL is back
            self._cache.halted[copied_instance(order.instance) or order.instance] = self._clock.monotonic()
        return plan

    async def _halt(self, plan: _Plan) -> None:
        """Deny the instance's entries where a step asks for that: in memory, and in its row, which a restart reads.

        The row is written before the step: once on disk, its cause is never seen as new again. Errors: OutageError.
        """
        if not any(Act.HALT in step.acts for _, step in plan.steps):
            return
        instance = copied_instance(plan.order.instance) or plan.order.instance
        if instance and instance not in self._cache.halted:
            name = plan.order.client_order_id
            await self._facts.halt(instance, f"halted: an execution of order {name} that was never sent")
            self._cache.halted[instance] = self._clock.monotonic()

    async def _read_again(self, key: PositionKey, client_order_id: str) -> None:
        """Read an order and its key's positions into memory. Errors: OutageError."""
        order = await self.store.get(client_order_id)
        positions = await PositionStore(self._db).page(account_id=key[0], symbol=key[2], venues=[key[1]])
        self._person_fills.load(await self.store.person_fills())
        if order is not None:
            self._cache.put(order)
        for position in positions:
            self._cache.put_position(position)

    def _plan(self, order: Order, events: Sequence[e.Event], skip: set[uuid.UUID]) -> _Plan:
        plan = _Plan(order)
        seen: set[uuid.UUID] = set()
        for event in events:
            if isinstance(event, e.Busted) and bust_id(event) in skip:
                continue
            if isinstance(event, e.FillSeen):
                fill_id = event.fill.fill_id
                if fill_id in skip or fill_id in seen or fill_id in self._recent:
                    continue
                seen.add(fill_id)
                fill = replace(event.fill, account_id=order.account_id, client_order_id=order.client_order_id)
                for bust in self._person_fills.replaced_by(fill, plan.trades):
                    self._advance(plan, bust)
            self._advance(plan, event)
        return plan

    def _advance(self, plan: _Plan, event: e.Event) -> None:
        before = plan.order
        step = advance(before, event)
        # one that the side journal holds stays what it was to the epoch that wrote it: a start asks about it
        if step.order.epoch < self._lease.epoch and self._is_patient:
            step = replace(step, order=evolve(step.order, epoch=self._lease.epoch))
        plan.order = step.order
        plan.steps.append((event, step))
        is_ours = Act.BOOK in step.acts
        if isinstance(event, e.FillSeen):
            fill = replace(event.fill, account_id=before.account_id, client_order_id=before.client_order_id)
            is_new = before.role is Role.ENTRY and before.filled == 0
            instance = EXTERNAL if not is_ours else before.instance
            self._move(plan, fill, before, instance, step.order.is_late, is_new_entry=is_new)
        elif isinstance(event, e.Busted) and is_ours:
            self._move(plan, reversal(event, before), before, event.instance or before.instance, False)

    def _move(
        self, plan: _Plan, fill: Fill, order: Order, instance: str, is_late: bool, *, is_new_entry: bool = False
    ) -> None:
        """Compute the positions after `fill`: its instance's, and EXTERNAL's for the part that the instance does not
        hold."""
        instrument = self._instrument(order, fill)
        key = (order.account_id, order.venue, order.symbol)
        buckets = self._cache.buckets(key) | {name[3]: p.quantity for name, p in plan.positions.items()}
        can_short = self._cache.venues[order.venue].capabilities.can_short
        shares = [(instance, fill.quantity)]
        if fill.side is Side.SELL and not can_short and instance != EXTERNAL and fill.source != BUST:
            shares = allocate(fill, buckets, instance, is_flattening=is_shared(order))
        realized, taken = _ZERO, _ZERO
        for name, quantity in shares:
            position_key = (*key, name)
            part = share_of(fill, quantity, taken)
            position = plan.positions.get(position_key) or self._cache.position(*position_key)
            booking = apply_fill(position, part, instrument, is_new_entry=is_new_entry and name == instance)
            plan.positions[position_key] = booking.position
            realized, taken = realized + booking.realized, taken + quantity
        plan.trades.append(ExecutionRow(fill, instance, realized, order.type.value, is_late))
        if fill.source not in (PERSON, BUST):  # the venue's balances hold what a person reports of the past already
            plan.fills.append((fill, order.is_acknowledged and order.price is not None))

    def _instrument(self, order: Order, fill: Fill) -> Instrument:
        """Return the instrument of an execution of `order`; without metadata one made from its symbol and its fee."""
        known = self._cache.instruments.get((order.exchange, order.symbol))
        known = known or instrument_of_symbol(order.exchange, order.symbol)
        return known or assumed_instrument(order.exchange, order.symbol, fill.fee_currency)

    async def _report_unlisted(self, order: Order) -> None:
        """Open an incident for a symbol in which executions were booked without metadata."""
        detail = (
            f"executions in {order.symbol} of {order.exchange} were booked without its metadata: check the position"
        )
        incidents, now_ns = IncidentStore(self._db, self._lease), self._clock.now_ns()
        found = await self.patiently(
            lambda: incidents.open(
                order.account_id, IncidentKind.INSTRUMENT, order.symbol, detail=detail, now_ns=now_ns
            )
        )
        if found is not None and found[1]:
            self._publisher.alert(
                "page", "fill.no_metadata", detail, venue=order.venue, symbol=order.symbol, incident=found[0].id
            )

    def _changes(self, *plans: _Plan) -> OrderChanges:
        return OrderChanges(
            orders=[plan.order for plan in plans if any(step.is_changed for _, step in plan.steps)],
            events=[
                self._row(event, step)
                for plan in plans
                for event, step in plan.steps
                if step.is_changed or isinstance(event, e.FillSeen) or step.is_impossible_fill or step.is_quarantined
            ],
            trades=[trade for plan in plans for trade in plan.trades],
            positions=[position for plan in plans for position in plan.positions.values()],
        )

    def _row(self, event: e.Event, step: Step) -> EventRow:
        payload = {"row": step.number, **quantity_of(step), **payload_of(event)}
        return event_row(step.order, event, epoch=self._lease.epoch, before=step.before, payload=payload)

    def _remember(self, plan: _Plan) -> None:
        """Bring memory up to the state on disk, and publish it; a line of the side journal once it is booked."""
        for trade in plan.trades:
            self._recent[trade.fill.fill_id] = None
            self._person_fills.note(trade)
        while len(self._recent) > _RECENT_MAX:
            self._recent.popitem(last=False)
        for position in plan.positions.values():
            self._cache.put_position(position)
        for fill, was_resting in plan.fills:
            self._cache.move_balances(fill, self._instrument(plan.order, fill), was_resting)
        for trade in plan.trades:
            self._cache.values.note(trade.fill, trade.instance, self._instrument(plan.order, trade.fill))
        order = plan.order
        self._cache.put(order)
        if plan.is_side:
            for trade in plan.trades:
                quantity, symbol = str(trade.fill.quantity), order.symbol
                self._log.warning("fill.seen", client_order_id=order.client_order_id, symbol=symbol, quantity=quantity)
            return
        is_published = bool(plan.trades)
        for _, step in plan.steps:
            if step.before is not step.order.state:
                self._meter.count("fks_orders_total", state=step.order.state.value)
                is_published = True
        if is_published:
            self._publisher.order(order)
        for trade in plan.trades:
            self._meter.count("fks_fills_total", symbol=trade.fill.symbol)
            at = self._cache.position(order.account_id, order.venue, order.symbol, trade.instance)
            self._publisher.fill(trade, at.quantity)
            self._log.info(
                "fill.booked",
                client_order_id=order.client_order_id,
                symbol=order.symbol,
                side=trade.fill.side.value,
                quantity=str(trade.fill.quantity),
                price=str(trade.fill.price),
                trace_id=order.trace_id,
                epoch=self._lease.epoch,
                source=trade.fill.source,
            )

    # ── splits of shares ─────────────────────────────────────────────────────────────────────────
    async def split(self, split: PositionSplit) -> SplitApplied:
        """Carry a key's positions, and the orders and plans that they are made of, over to the shares after a split:
        once, in one statement. One with an `error` is only stored.

        Returned: the orders, positions and plans as they are on disk, whichever process applied it. Legs at the venue
        are marked and stay as they are. The caller has seen to it that no entry is open. Errors: StaleEpochError.
        """

        async def apply() -> SplitApplied:
            async with self._lock(split.key):
                await self._until_up()
                if not await CorporateActionStore(self._db).is_applied(split.id):
                    await self._write_split(split)
                await self._read_again(split.key, "")
                orders, plans = await self._made_of(split.key)
                for order in orders:
                    self._cache.put(order)
                return SplitApplied(tuple(orders), self._cache.buckets(split.key), plans, split.effective_ns)

        return await self.patiently(apply)

    async def _made_of(self, key: PositionKey) -> tuple[list[Order], dict[uuid.UUID, ParentPlan]]:
        """Return the entries that a key's positions are made of, with their legs of all attempts, and their plans."""
        entries: list[Order] = []
        for instance, held in self._cache.buckets(key).items():
            entries += await self.store.entries_of(*key, instance, abs(held)) if held else []
        legs = await self.store.legs([entry.client_order_id for entry in entries])
        return [*entries, *legs], await self.store.plans(entries)

    async def _write_split(self, split: PositionSplit) -> None:
        # what is not ours follows from the venue's balance
        positions = [
            p
            for p in self._cache.positions.values()
            if (p.account_id, p.venue, p.symbol) == split.key and p.instance != EXTERNAL
        ]
        changes, changed, instrument = OrderChanges(), dict[uuid.UUID, ParentPlan](), None
        if not split.error:
            instrument = self._cache.instruments.get((split.exchange, split.symbol))
            orders, plans = await self._made_of(split.key)
            steps = [advance(order, self._split_event(split, order, instrument)) for order in orders]
            changed = {
                id: replace(
                    plan,
                    stop_loss=split.price(plan.stop_loss),
                    targets=tuple(replace(one, price=split.price(one.price)) for one in plan.targets),
                )
                for id, plan in plans.items()
            }
            changes = OrderChanges(
                [step.order for step in steps],
                [
                    self._row(self._split_event(split, order, instrument), step)
                    for order, step in zip(orders, steps, strict=True)
                ],
                positions=[_after_split(position, split, instrument) for position in positions],
            )
        before = sum((position.quantity for position in positions), _ZERO)
        after = sum((position.quantity for position in changes.positions), _ZERO) if not split.error else before
        self._at("split.before")
        await self.in_time(
            self.journal.split(changes, replace(split, quantity_before=before, quantity_after=after), changed)
        )
        self._at("split.after")

    def _split_event(self, split: PositionSplit, order: Order, instrument: Instrument | None) -> e.SharesSplit:
        """Return the event of a split for one order; its prices are on the tick grid, the stop farther from the
        market."""
        away = order.side.opposite.value

        def price(value: Decimal | None, *, is_stop: bool) -> Decimal | None:
            if value is None or instrument is None:
                return None if value is None else split.price(value)
            return instrument.round_price(split.price(value), side=away, is_stop=is_stop)

        return e.SharesSplit(
            **self.stamp("split") | {"event_id": f"split:{split.id}"},
            new=split.new_shares,
            old=split.old_shares,
            before=order.quantity,
            stop_loss=price(order.stop_loss, is_stop=True),
            take_profit=price(order.take_profit, is_stop=False),
        )

    # ── what is not ours, and what was found at the start ────────────────────────────────────────
    async def book_external(self, fill: Fill, exchange: str) -> bool:
        """Book an execution that no order of ours explains; False when it was booked before.

        Where the venue keeps the bracket it also closes by itself (its guard, a person on its platform), and an account
        on margin is closed by force: what such an execution takes from the account's position is taken from the
        instances that hold it.
        """
        instrument = self._cache.instruments.get((exchange, fill.symbol))
        if instrument is None or fill.fill_id in self._recent:
            return False
        key = (fill.account_id, fill.venue, fill.symbol)
        booking: OrderChanges | None = None

        async def book() -> bool:
            nonlocal booking
            async with self._lock(key):
                await self._until_up()
                if booking is not None:  # a try had no answer
                    await self._read_again(key, "")
                if not await self.journal.booked(fill.account_id, [fill]):
                    booking = self._external_booking(fill, key, instrument)
                    await self.in_time(self.journal.apply(booking))
                    for position in booking.positions:
                        self._cache.put_position(position)
                self._recent[fill.fill_id] = None
                if booking is None:
                    return False
                self._note_external(booking.trades[0], instrument)
                return True

        is_new = await self.patiently(book)  # the key's events are not held up by an outage
        self.positions_changed(key)
        return is_new

    def positions_changed(self, key: PositionKey) -> None:
        """Report that positions changed without an order."""
        self._on_commit(key, None, ())

    def _external_booking(self, fill: Fill, key: PositionKey, instrument: Instrument) -> OrderChanges:
        shares = self._external_shares(fill, key)
        positions: dict[str, Position] = {}
        realized, taken = _ZERO, _ZERO
        for name, quantity in shares:
            part = share_of(fill, quantity, taken) if quantity > 0 else replace(fill, quantity=quantity, fee=_ZERO)
            booking = apply_fill(positions.get(name) or self._cache.position(*key, name), part, instrument)
            positions[name] = booking.position
            realized, taken = realized + booking.realized, taken + max(quantity, _ZERO)
        name = shares[0][0] if len(shares) == 1 else EXTERNAL
        return OrderChanges(trades=[ExecutionRow(fill, name, realized)], positions=list(positions.values()))

    def _note_external(self, trade: ExecutionRow, instrument: Instrument) -> None:
        """Bring memory up to an execution on disk that no order of ours explains, and publish it."""
        fill = trade.fill
        if fill.source == Role.LIQUIDATION:
            self._cache.move_balances(fill, instrument, was_resting=False)
        else:
            self._cache.note_flow(fill, instrument)
        self._cache.values.note(fill, trade.instance, instrument)
        at = self._cache.position(fill.account_id, fill.venue, fill.symbol, trade.instance)
        self._publisher.fill(trade, at.quantity)

    def _external_shares(self, fill: Fill, key: PositionKey) -> list[tuple[str, Decimal]]:
        status = self._cache.venues.get(fill.venue)
        is_made = fill.source == Role.LIQUIDATION or (status is not None and status.capabilities.keeps_bracket)
        if not is_made:
            return [(EXTERNAL, fill.quantity)]
        buckets, is_forced = self._cache.buckets(key), fill.source == Role.LIQUIDATION
        # a forced close leaves nothing: what instances hold against each other is closed between them
        against = [(name, held) for name, held in buckets.items() if is_forced and held * fill.side.sign > 0]
        whole = replace(fill, quantity=fill.quantity + sum((abs(held) for _, held in against), _ZERO))
        return [
            *((name, -abs(held)) for name, held in against),
            *allocate(whole, buckets, EXTERNAL, is_flattening=True),
        ]

    async def apply_at_start(self, pairs: Iterable[tuple[Order, e.Event]]) -> list[Order]:
        """Apply one event each to many orders in one statement, before anything else runs."""
        self._person_fills.load(await self.patiently(self.store.person_fills))
        plans = [self._plan(order, [event], set()) for order, event in pairs]
        changes = self._changes(*plans)
        if changes.orders:
            await self.patiently(lambda: self.journal.apply(changes))
        for plan in plans:
            self._cache.put(plan.order)
        return [plan.order for plan in plans]

    # ── patience ─────────────────────────────────────────────────────────────────────────────────
    async def patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return what `call` returns, called again after every outage: only for an event that may happen twice."""
        while True:
            try:
                return await call()
            except OutageError as error:
                await self.wait_for_journal(error)

    async def read(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return what a read of the tables returns, however long that takes. Where there is a side journal an outage is
        raised: what goes on without PostgreSQL does not wait. Errors: OutageError."""
        if self._side is None:
            return await self.patiently(call)
        try:
            return await self.in_time(call())
        except OutageError as error:
            self.note_away(error)
            raise

    async def wait_for_journal(self, error: OutageError, *, is_side: bool = False) -> bool:
        """Return True once PostgreSQL answers, and holds what the side journal held, or False as soon as the side
        journal takes a line that may be written there (`is_side`). Meanwhile no entry is sent (JOURNAL_DOWN)."""
        if not self._is_patient:
            raise error
        self.note_away(error)
        while not (is_side and self._side is not None and self._side.is_usable):
            await self._clock.sleep(_RETRY_S)
            try:
                await self.come_back()
                return True
            except OutageError:
                continue
        return False

    def note_away(self, error: OutageError) -> None:
        """Note that PostgreSQL does not answer, and page once when the side journal takes nothing either."""
        if self._cache.is_journal_up:
            self._cache.is_journal_up = False
            self._publisher.alert("error", "journal.down", f"no entry is sent until PostgreSQL is back: {error}")
        if self._side is not None and self._side.error is not None and not self._is_side_paged:
            self._is_side_paged = True
            text = f"protection and exits wait for the disk or PostgreSQL: {self._side.error}"
            self._publisher.alert("page", "journal.side_failed", text)

    async def come_back(self) -> None:
        """Use PostgreSQL again, after what the side journal holds is written to it. Errors: OutageError, and nothing is
        lost; StaleEpochError when a newer epoch owns the lease."""
        await self._db.ping()
        async with self._returning:
            await self._drain()
            if not self._cache.is_journal_up:
                self._cache.is_journal_up, self._is_side_paged = True, False
                self._log.info("journal.up")

    # ── the side journal ─────────────────────────────────────────────────────────────────────────
    def _side_journal(self) -> SideJournal | None:
        """Return the side journal while lines are written to it, None while PostgreSQL takes them. Errors: OutageError
        while neither may: PostgreSQL gets nothing before the lines that the file holds."""
        side = None if self._cache.is_journal_up else self._side
        if side is not None and not side.is_usable:
            if side.depth:
                raise OutageError("the side journal takes nothing", detail=side.error or "")
            return None
        return side

    @property
    def may_send_by_side_journal(self) -> bool:
        """Return whether protection and exits may be sent though PostgreSQL, or the lease, is away."""
        return self._side is not None and not self._is_draining and self._side.may_send()

    async def in_time(self, work: Awaitable[T]) -> T:
        """Return what a statement returns. Errors: OutageError, soon where there is a side journal."""
        try:
            async with asyncio.timeout(None if self._side is None and self._is_patient else _ANSWER_S):
                return await work
        except TimeoutError:
            raise OutageError("PostgreSQL does not answer", detail=f"no answer within {_ANSWER_S:g} s") from None

    async def place_in_side_journal(
        self, orders: Sequence[Order], events: Sequence[e.Event], signal_id: uuid.UUID | None
    ) -> bool:
        """Write new protective legs or exits to the side journal; False while PostgreSQL takes them. Errors:
        OutageError."""
        await self._until_drained()
        side = self._side_journal()
        if side is None:
            return False
        self._at("aside.before")
        side.place(orders, events, signal_id)
        self._at("aside.after")
        return True

    async def _until_drained(self) -> None:
        while self._is_draining:
            await self._clock.sleep(_DRAIN_POLL_S)

    async def _until_up(self) -> None:
        """Return if PostgreSQL holds what the side journal held. Errors: OutageError while it is away."""
        await self._until_drained()
        if not self._cache.is_journal_up:
            raise OutageError("PostgreSQL is away")

    async def _drain(self) -> None:
        """Write the lines of the side journal to PostgreSQL, in their order, and empty it.

        They are applied to PostgreSQL's rows, in a memory of its own: a line that is there already changes nothing.
        """
        if self._side is None or not self._side.depth:
            return
        self._is_draining = True
        try:
            runtime, cache = self._runtime, self._cache
            copy = OrderCache(cache.settings, instruments=cache.instruments, venues=cache.venues)
            ledger = Ledger(runtime, copy, self._publisher, is_patient=False, at=self._at)
            for line in self._side.read():
                self._at("drain.before")
                await ledger.in_time(ledger.repeat(line))
                self._at("drain.after")
            self._side.empty()
            self._log.warning("journal.drained", orders=len(copy.orders))
        finally:
            self._is_draining = False

    async def repeat(self, line: PlacedOrders | Happened) -> None:
        """Do to what PostgreSQL has what a line of the side journal did here. Errors: OutageError."""
        if isinstance(line, PlacedOrders):
            await self._insert(line)
            return
        for name, event in line.events:
            await self._apply_again(name, event)

    async def _insert(self, line: PlacedOrders) -> None:
        rows = [
            event_row(order, event, epoch=order.epoch) for order, event in zip(line.orders, line.events, strict=True)
        ]
        ids = [line.signal_id] if line.signal_id is None else [line.signal_id, None]  # it may have an outcome by now
        for signal_id in ids:
            if await self.store.get(line.orders[0].client_order_id) is None:
                now_ns = line.orders[0].created_ns
                await self.journal.place(line.orders, rows, signal_id=signal_id, now_ns=now_ns, stopped_by=())

    async def _apply_again(self, client_order_id: str, event: e.Event) -> None:
        order = self._cache.recall(client_order_id)
        if order is None:
            order = await self.store.get(client_order_id)
            if order is None:  # its row is lost: the venue is asked about it
                self._log.error("journal.order_missing", client_order_id=client_order_id)
                return
            await self._read_again((order.account_id, order.venue, order.symbol), client_order_id)
        if await self.journal.has([event_row(order, event, epoch=self._lease.epoch)]):
            self._publisher.order(order)  # a write without an answer took, here or before the line was written
            return
        await self.apply(client_order_id, event)

    def _lock(self, key: PositionKey) -> asyncio.Lock:
        return self._locks.setdefault(key, asyncio.Lock())


def _after_split(position: Position, split: PositionSplit, instrument: Instrument | None) -> Position:
    """Return a position in the shares after a split. A part of a lot is dropped: a broker pays cash for it."""
    quantity = split.quantity(abs(position.quantity))
    quantity = quantity if instrument is None else instrument.round_quantity(quantity)
    return replace(
        position,
        quantity=quantity if position.quantity > 0 else -quantity,
        average_price=split.price(position.average_price),
    )


def event_row(
    order: Order,
    event: e.Event,
    *,
    epoch: int,
    before: State | None = None,
    payload: Mapping[str, object] | None = None,
) -> EventRow:
    """Return the row of an event after which an order is this one; `before` None: it is the order's first."""
    return EventRow(
        client_order_id=order.client_order_id,
        event_id=event.event_id,
        event=type(event).__name__,
        from_state=before,
        to_state=order.state,
        source=event.source,
        recv_ns=event.recv_ns,
        epoch=epoch,
        venue_time_ns=event.venue_time_ns,
        payload=payload or {},
    )


def quantity_of(step: Step) -> dict[str, object]:
    """Return what order_events keeps of a change of the order's quantity: its row has the last one alone."""
    return {} if step.quantity_before is None else {"quantity_before": f"{step.quantity_before:f}"}


def payload_of(event: e.Event) -> dict[str, object]:
    """Return what order_events keeps of an event besides its kind and times: small and JSON-able."""
    if isinstance(event, e.FillSeen):
        fill = event.fill
        return {
            "fill_id": str(fill.fill_id),
            "quantity": f"{fill.quantity:f}",
            "price": f"{fill.price:f}",
            "fee": f"{fill.fee:f}",
            "fee_currency": fill.fee_currency,
            "venue_trade_id": fill.venue_trade_id,
        }
    if isinstance(event, e.Reported | e.Acked | e.LegReported):
        report = event.report
        message: dict[str, object] = {
            "says": report.state.value,
            "filled": f"{report.filled:f}",
            "venue_order_id": report.venue_order_id,
            "code": report.code,
            "detail": report.detail,
        }
        return message | (_leg_of(event) if isinstance(event, e.LegReported) else _checks_of(event))
    if isinstance(event, e.LegChanged | e.ReplaceAcked):
        return _leg_of(event)
    if isinstance(event, e.StopMoved):
        return {"stop_loss": f"{event.stop_loss:f}", "bar": iso(event.bar_ns)}
    if isinstance(event, e.TargetMoved):
        return {"take_profit": f"{event.take_profit:f}", "bar": iso(event.bar_ns)}
    if isinstance(event, e.SharesSplit):
        return {"new": event.new, "old": event.old, "before": f"{event.before:f}"}
    if isinstance(event, e.Busted):
        return bust_payload(event)
    names = ("code", "detail", "reason", "by", "polls", "age_s", "outcome")
    found = {name: value for name in names if (value := getattr(event, name, None)) is not None and value != ""}
    return found | _checks_of(event)


def _leg_of(event: e.LegReported | e.LegChanged | e.ReplaceAcked) -> dict[str, object]:
    """Return quantity and prices of an order that the venue placed or changed."""
    if isinstance(event, e.LegChanged | e.ReplaceAcked):
        found = {"quantity": event.quantity, "price": event.price, "stop_price": event.stop_price}
    else:
        report = event.report
        stop_price = None if report.leg is None else report.leg.stop_price
        found = {"quantity": report.quantity, "price": report.price, "stop_price": stop_price}
    return {name: f"{value:f}" for name, value in found.items() if value is not None}


def _checks_of(event: e.Event) -> dict[str, object]:
    checks = getattr(event, "checks", ())
    return {"checks": checks} if checks else {}
