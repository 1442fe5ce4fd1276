"""A kill at one venue: cancel open orders, prove the end of unresolved ones, close positions, and look on while it is
engaged.

Each round reads the venue again (open orders, balances, executions) and acts on the difference, so a restart, a lost
answer or an order that arrives late changes nothing but the number of rounds. The work is settled once nothing is open,
unresolved or left to close for `settle_s`; rounds go on after that, further apart, and a late order or fill starts them
again.

A kill that keeps positions (`flatten=False`) ends entries only. Protection and exits stay, also those the order manager
places while it is engaged: an order is kept when the journal says that it only reduces. One that the snapshot lacks
(PostgreSQL away, or the order younger than it) is kept when it can only reduce what is held, also when what is held is
not known.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from decimal import Decimal

from fks.model.account import VenueIdentity
from fks.model.errors import OutageError
from fks.model.ids import is_ours
from fks.model.kill import KillMode
from fks.model.order import OrderType, Report, Role, Side, evolve
from fks.model.ports import Venue
from fks.model.timeframe import NS
from fks.trading.guardian.context import GuardianContext
from fks.trading.guardian.flatten import KillShare, VenueFlatten, line_of
from fks.trading.guardian.journal import KillJournal, KillRecord
from fks.trading.guardian.kill_work import KillWork, at_once
from fks.trading.guardian.orders_at_venue import OrderAtVenue, OrdersAtVenue, order_of
from fks.trading.guardian.positions import DatabaseSnapshot, Holder
from fks.trading.risk.policy import Action, is_ended
from fks.trading.venues.closed import ClosedVenue


class VenueKill(KillWork):
    """The work of one kill at one venue. `run` goes on until cancelled; `state` and `remaining` always say where it is.

    `why_not`: the reason why this guardian must not act now, "" when it may; asked before each round and each send.
    `is_settled`: as the file says; the first round looks whether it still is.
    """

    def __init__(
        self,
        context: GuardianContext,
        venue: Venue,
        journal: KillJournal,
        look: Callable[[], DatabaseSnapshot | None],
        *,
        why_not: Callable[[], str],
        save: Callable[[], Awaitable[None]],
        is_settled: bool = False,
        share: KillShare | None = None,
    ) -> None:
        super().__init__(context, venue.name, is_settled=is_settled)
        self._share = share or KillShare()
        self._unknown_ns: dict[str, int] = {}  # open orders that the snapshot lacks -> when they were first listed
        self._venue = venue
        self._journal = journal
        self._look = look
        self._why_not = why_not
        self._orders = OrdersAtVenue(venue, context)
        self._flatten = VenueFlatten(context, self._orders, journal, save=save, why_not=why_not, share=self._share)
        self._identity: VenueIdentity | None = None  # whose account the session is
        self._symbols: set[str] = set()  # where orders of any kind were seen open

    async def _round(self) -> bool:
        """Do what can be done now; return whether nothing is left that could be."""
        if why := self._why_not():
            self.state, self.detail = "looks_on", why
            return False
        record = self._journal.record
        assert record is not None
        snapshot = self._look()
        if self._is_unused(record, snapshot):
            self.state, self.detail = "unused", "it is closed, and no account of FKS ever had a session there"
            return True
        is_named = snapshot is None or not snapshot.identities or await self._knows_identity()
        if snapshot is not None and self._identity is not None:
            if snapshot.is_foreign(self._venue.name, self._identity):
                self.state = "refused"
                self.detail = (
                    f"the session is {self._identity}, and what we hold and ordered there is other accounts': "
                    "nothing is touched"
                )
                return False
            snapshot = snapshot.of_session(self._identity)
        reports = await self._venue.open_orders()
        is_past_start = self._share.is_past_start(record, self._clock.now_ns(), self._timing)
        shared, unattributed = self._shared(reports, snapshot, is_past_start=is_past_start)
        self._symbols |= {report.symbol for report in shared}
        # a stop that the flattening placed again itself is kept
        ending = [
            report
            for report in shared
            if not self._flatten.keeps(report.client_order_id)
            and is_ended(self._action_of(report, snapshot), record.mode)
        ]
        self._note_stops(ending, snapshot)
        await at_once(self._cancel, self._orders.take_list(ending, {report.client_order_id for report in reports}))
        self._note_unresolved(snapshot, record.mode)
        await at_once(self._prove, self._orders.due())
        is_flat, left = await self._close(snapshot if is_named else None) if record.flatten else (True, [])
        self.stuck = self._flatten.stuck
        self.rest_s = 0.0 if ending or self._orders.unresolved else self._flatten.rest_s
        self.remaining = [*self._lines_of_unresolved(), *unattributed, *left]
        is_quiet = is_flat and not ending and not self._orders.unresolved and not unattributed
        self.state = ("flat" if record.flatten else "cancelled") if is_quiet else "working"
        self.detail = "positions unknown" if record.flatten and snapshot is None else ""
        return is_quiet

    def _is_unused(self, record: KillRecord, snapshot: DatabaseSnapshot | None) -> bool:
        """Return whether the venue is closed here, and nothing of ours can be there. Only a snapshot of after the start
        of the kill shows it: each order that was sent is in the journal, and no entry is sent since then."""
        is_closed = isinstance(self._venue, ClosedVenue) and not self._venue.is_made
        is_known = snapshot is not None and snapshot.as_of_ns > record.engaged_ns
        return is_closed and is_known and snapshot is not None and snapshot.is_unused(self.name)

    async def _knows_identity(self) -> bool:
        """Learn whose account the session is; without that orders are cancelled, and no position is closed."""
        if self._identity is None:
            with contextlib.suppress(OutageError):
                self._identity = await self._venue.identity()
        return self._identity is not None

    # ── which orders ─────────────────────────────────────────────────────────────────────────────
    def _shared(
        self, reports: list[Report], snapshot: DatabaseSnapshot | None, *, is_past_start: bool
    ) -> tuple[list[Report], list[dict[str, str]]]:
        """Return the open orders that are this kill's to look after, and lines of those of which that is not known yet.

        An order of ours that a snapshot of after its first listing lacks is another system's on the same account. One
        that is listed first after the start of the kill is of those beside it.
        """
        others = {order.client_order_id: order for order in self._share.orders()}
        is_all = self._share.is_all or self._is_session_of(self._share.account_id, snapshot)
        shared, unattributed = [], []
        listed = self._unknown_ns
        self._unknown_ns = {}
        for report in reports:
            id = report.client_order_id
            known = None if snapshot is None else snapshot.orders.get(id)
            holder = known.holder if known else Holder.of(others[id]) if id in others else None
            if is_all if holder is None else self._share.concerns(holder):
                shared.append(report)
            elif holder is None and is_ours(id):
                if id not in listed and is_past_start and snapshot is not None:
                    continue
                since_ns = self._unknown_ns[id] = listed.get(id, self._clock.now_ns())
                if snapshot is None or snapshot.as_of_ns < since_ns + round(self._timing.attribute_s * NS):
                    why = f"whose order {id} is, is not known: the database is asked"
                    unattributed.append(line_of("in_doubt", why, symbol=report.symbol, venue=self._venue.name))
        return shared, unattributed

    def _is_session_of(self, account_id: int | None, snapshot: DatabaseSnapshot | None) -> bool:
        """Return whether the session is known to be that account's."""
        if account_id is None or snapshot is None or self._identity is None:
            return False
        known = snapshot.identities.get(account_id)
        return known is not None and known.is_session(self._identity)

    def _action_of(self, report: Report, snapshot: DatabaseSnapshot | None) -> Action:
        """Return the kind of an order; one that the snapshot lacks is an exit when it can only reduce what is held."""
        known = None if snapshot is None else snapshot.orders.get(report.client_order_id)
        if known is not None and known.role:
            return known.action
        if not self._venue.capabilities.can_short:
            is_exit = report.side is not Side.BUY  # what is sold there was held
        else:
            held = Decimal(0) if snapshot is None else snapshot.net(self._venue.name, report.symbol)
            is_exit = snapshot is None or report.side is None or held * report.side.sign < 0
        return Action.EXIT if is_exit else Action.ENTRY

    def _note_unresolved(self, snapshot: DatabaseSnapshot | None, kill: KillMode) -> None:
        """Take up the orders that are SENDING or UNKNOWN in the journal; those that have ended there since, by a
        person too, are proven."""
        record = self._journal.record
        if snapshot is None or record is None:
            return
        for id, known in snapshot.orders.items():
            if known.holder.venue != self._venue.name or record.order(id) is not None:
                continue
            if not self._share.concerns(known.holder):
                self._orders.drop(id)
                continue  # our own flattening orders are settled where they are sent
            if known.is_ended:
                self._orders.drop(id)
            elif known.is_unresolved and is_ended(known.action, kill):
                order = self._orders.about(
                    id,
                    known.holder.symbol,
                    role=known.role,
                    sent_ns=known.changed_ns,
                    is_acknowledged=known.is_acknowledged,
                )
                order.must_end = True

    def _note_stops(self, ending: list[Report], snapshot: DatabaseSnapshot | None) -> None:
        """Write into the file which stops are about to end, so that they can be placed again while the venue refuses to
        close their position."""
        record = self._journal.record
        noted = set() if record is None else {stop.client_order_id for stop in record.stops}
        for report in ending:
            known = None if snapshot is None else snapshot.orders.get(report.client_order_id)
            is_stop = known is not None and known.role == Role.STOP_LOSS.value and report.stop_price is not None
            if known is not None and is_stop and known.parent_id and report.client_order_id not in noted:
                is_limit, holder = report.price is not None, known.holder
                stop = evolve(
                    order_of(self._venue.name, report.client_order_id, report.symbol, report),
                    account_id=holder.account_id,
                    instance=holder.instance,
                    exchange=known.exchange,
                    role=Role.STOP_LOSS,
                    type=OrderType.STOP_LIMIT if is_limit else OrderType.STOP,
                    quantity=(report.quantity or Decimal(0)) - report.filled,
                    price=report.price,
                    stop_price=report.stop_price,
                    parent_id=known.parent_id,
                )
                self._journal.stop(stop, now_ns=self._clock.now_ns())

    # ── cancelling and proving ───────────────────────────────────────────────────────────────────
    async def _prove(self, order: OrderAtVenue) -> None:
        """Cancel an unresolved order by its client id, and ask the venue what became of it."""
        await self._cancel(order)
        await self._orders.ask(order)

    async def _cancel(self, order: OrderAtVenue) -> None:
        """Cancel one order, and write an answer into the file that is another one than the last."""
        before = order.cancel_outcome
        answer = await self._orders.cancel(order)
        if answer.outcome is not before:
            self._journal.cancelled(
                venue=self._venue.name,
                symbol=order.symbol,
                client_order_id=order.client_order_id,
                outcome=answer.outcome.value,
                detail=answer.detail,
                now_ns=self._clock.now_ns(),
            )

    # ── closing ──────────────────────────────────────────────────────────────────────────────────
    async def _close(self, snapshot: DatabaseSnapshot | None) -> tuple[bool, list[dict[str, str]]]:
        """Return whether nothing more can be closed, and the rest."""
        if snapshot is None:
            return False, [line_of("pending", "our positions are not known: the database was never reached")]
        unclear = [order.client_order_id for order in self._orders.unresolved]
        is_flat = await self._flatten.step(snapshot, self._symbols, unclear, self._orders.open_ids)
        return is_flat, self._flatten.remaining

    def _lines_of_unresolved(self) -> list[dict[str, str]]:
        return [
            line_of(
                "in_doubt",
                f"whether order {order.client_order_id} is live is not proven: the venue is asked",
                symbol=order.symbol,
                venue=self._venue.name,
            )
            for order in self._orders.unresolved
        ]
