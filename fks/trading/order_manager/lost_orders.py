"""Orders of one venue under client ids of ours of which this database has no row: it was restored from a backup of
before them, or another FKS trades the account.

Each is an incident of kind `order`, which pages; entries in its symbol are denied until a person closes it. An adopted
order becomes a row, and its executions are booked to it. Executions of any other are booked as external.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal

from fks.model.errors import OutageError
from fks.model.order import LIVE, Fill, Order, OrderType, Presence, Report, Role, Side, State, TimeInForce
from fks.model.ports import Venue
from fks.model.timeframe import NS
from fks.store.incidents import Incident, IncidentKind, IncidentStore, Resolution
from fks.trading.order_manager.cache import VenueStatus
from fks.trading.order_manager.context import OrderManagerContext

GRACE_S = 30.0  # for which a row may come after its order: the guardian's come late
_READ_S = 15.0
_BOOKED_NS = 7 * 86_400 * NS  # after that the executions of an order whose incident was closed are booked
_LOST_MAX = 1000  # orders that are looked after; a further one is taken up by the next comparison with the venue
# by: has a price, has a stop price
_TYPES = {
    (False, False): OrderType.MARKET,
    (True, False): OrderType.LIMIT,
    (False, True): OrderType.STOP,
    (True, True): OrderType.STOP_LIMIT,
}


@dataclass(slots=True)
class _LostOrder:
    symbol: str
    time_ns: int  # the earliest that the venue named
    since_s: float
    read_ns: int = 0  # when its symbol's executions since then were read
    incident: int = 0  # 0: not opened yet
    is_paged: bool = False
    side: Side | None = None  # by its report, an execution or a leg: a bridge's events name none
    report: Report | None = None
    fills: dict[uuid.UUID, Fill] = field(default_factory=dict)


class LostOrders:
    """Hard state: incidents. Soft state: what the venue showed of each order since this process began."""

    def __init__(
        self, context: OrderManagerContext, venue: Venue, status: VenueStatus, incidents: IncidentStore
    ) -> None:
        self._context, self._venue, self._status, self._incidents = context, venue, status, incidents
        self._clock, self._ledger, self._publisher = context.clock, context.ledger, context.publisher
        self._lost: dict[str, _LostOrder] = {}
        self._explained: set[str] = set()
        self._turn = asyncio.Lock()

    async def load(self) -> None:
        """Take up what the account's incidents say is not settled: the orders may have ended at the venue since, and
        the executions of one that a person closed may not be booked yet."""
        account = self._status.account_id
        page = await self._ledger.patiently(lambda: self._incidents.page(account_id=account, limit=_LOST_MAX))
        now_ns = self._clock.now_ns()
        for item in page:
            if item.kind == IncidentKind.ORDER and now_ns - (item.closed_ns or now_ns) < _BOOKED_NS:
                seen = _LostOrder(str(item.payload["symbol"]), int(str(item.payload["time_ns"])), 0.0, item.id)
                self._lost.setdefault(item.subject, seen)
        self._deny()

    def note(self, seen: Report | Fill) -> None:
        """Take up an order by its report or execution: entries in its symbol are denied from now on."""
        name, is_over = seen.client_order_id or "", False
        if isinstance(seen, Report):
            name = name if seen.leg is None else seen.leg.parent_id
            is_over = seen.state not in LIVE  # its executions come by themselves
        is_new = name not in self._lost
        if name in self._explained or (is_new and (is_over or len(self._lost) >= _LOST_MAX)):
            return
        now_ns = self._clock.now_ns()
        lost = self._lost.setdefault(name, _LostOrder(seen.symbol, now_ns, self._clock.monotonic()))
        lost.time_ns = min(lost.time_ns, seen.time_ns or now_ns)
        lost.side = seen.side or lost.side
        if isinstance(seen, Fill):
            lost.fills[seen.fill_id] = seen
        elif seen.leg is None:
            lost.report = seen
        elif seen.side is not None:
            lost.side = seen.side.opposite
        self._deny()

    def is_explained(self, client_order_id: str | None) -> bool:
        """Return whether a person said that the order is not ours."""
        return client_order_id in self._explained

    def times(self) -> dict[str, int]:
        """Return by symbol from when on its executions are looked for (ns)."""
        found: dict[str, int] = {}
        for lost in self._lost.values():
            since_ns = max(lost.time_ns, lost.read_ns)
            found[lost.symbol] = min(found.get(lost.symbol, since_ns), since_ns)
        return found

    def note_read(self, since: Mapping[str, int], asked_ns: int) -> None:
        """Note that at `asked_ns` the executions since these times, by symbol, were read."""
        for lost in self._lost.values():
            if since.get(lost.symbol, asked_ns) <= max(lost.time_ns, lost.read_ns):
                lost.read_ns = asked_ns

    def fills(self) -> Iterator[Fill]:
        """Return the executions that wait for a person: the venue's balances hold them already."""
        return (fill for lost in self._lost.values() for fill in lost.fills.values())

    async def settled(self) -> list[Fill]:
        """Look after each order; return the executions of those that have a row by now or are explained."""
        found: list[Fill] = []
        async with self._turn:
            for name, lost in list(self._lost.items()):
                if not self._context.cache.is_journal_up:
                    lost.since_s = self._clock.monotonic()  # no row can come
                    continue
                try:
                    async with asyncio.timeout(_READ_S):
                        is_settled = await self._look(name, lost)
                except (OutageError, TimeoutError):
                    continue
                if is_settled:
                    found += self._lost.pop(name).fills.values()
                    self._publisher.end_alert(_condition(name), "it is settled")
            self._deny()
        return found

    def _deny(self) -> None:
        denied: dict[str, int] = {}
        for lost in self._lost.values():
            denied[lost.symbol] = min(denied.get(lost.symbol, lost.incident), lost.incident)
        self._status.lost = denied

    async def _look(self, name: str, lost: _LostOrder) -> bool:
        """Return whether it is settled. Errors: OutageError, TimeoutError."""
        account, now_ns = self._status.account_id, self._clock.now_ns()
        if await self._ledger.find(name) is not None:
            if lost.incident:
                await self._incidents.end(
                    account, IncidentKind.ORDER, name, now_ns=now_ns, resolution="the order has a row"
                )
            return True
        known = await self._incidents.last_of(account, IncidentKind.ORDER, name)
        if known is not None and not known.is_open:
            if not _is_adopted(known):
                self._explained.add(name)
                return True
            if await self._adopt(name, lost, known):
                return False
            known, lost.is_paged = None, False
        if not lost.is_paged and (known is not None or self._clock.monotonic() - lost.since_s >= GRACE_S):
            await self._page(name, lost, known or await self._open(name, lost))
        return False

    async def _reported(self, name: str, lost: _LostOrder, *, needs_answer: bool) -> Report | None:
        """Return the order as the venue shows it, else by what was seen of it; None where there is neither. Errors:
        OutageError."""
        lookup = await self._venue.query(lost.symbol, name)
        if lookup.presence is Presence.NO_ANSWER and needs_answer:
            raise OutageError(f"{self._venue.name} does not say what order {name} is: {lookup.detail}")
        report, fills = lookup.report or lost.report, list(lost.fills.values())
        if report is None and fills:
            filled = sum((fill.quantity for fill in fills), Decimal(0))
            number, time_ns, side = fills[0].venue_order_id, fills[-1].time_ns, fills[0].side
            report = Report(name, number, lost.symbol, State.FILLED, filled, time_ns, side=side, quantity=filled)
        return None if report is None else replace(report, side=report.side or lost.side)

    async def _open(self, name: str, lost: _LostOrder) -> Incident | None:
        report = await self._reported(name, lost, needs_answer=False)
        text = "of which it shows nothing any more: it cannot be adopted"
        if report is not None and report.side is not None and report.quantity is not None:
            at = "" if report.price is None else f" at {report.price:f}"
            at += "" if report.stop_price is None else f" stop {report.stop_price:f}"
            text = f"{report.side.value} {report.quantity:f}{at}, {report.state.value}, executed {report.filled:f}"
        opened = await self._incidents.open(
            self._status.account_id,
            IncidentKind.ORDER,
            name,
            detail=f"{self._venue.name} has an order of ours that this database does not: {lost.symbol}, {text}",
            now_ns=self._clock.now_ns(),
            payload={"symbol": lost.symbol, "time_ns": lost.time_ns},
        )
        return None if opened is None else opened[0]

    async def _page(self, name: str, lost: _LostOrder, incident: Incident | None) -> None:
        if incident is None:  # a newer epoch owns the lease
            return
        lost.incident, lost.is_paged = incident.id, True
        self._publisher.alert(
            "page",
            "order.lost",
            f"{incident.detail}, client id {name}. This database was restored from a backup of before it, or another "
            f"FKS trades the account. Entries in {lost.symbol} are denied. Look at it there, then: fks incidents close "
            f"{lost.incident} --as adopted (record it here), or --as explained (not ours, or ended by hand)",
            condition=_condition(name),
            client_order_id=name,
            symbol=lost.symbol,
            venue=self._venue.name,
            incident=lost.incident,
        )

    async def _adopt(self, name: str, lost: _LostOrder, incident: Incident) -> bool:
        """Write the order's row; return False where the venue shows nothing that one could be made of."""
        report = await self._reported(name, lost, needs_answer=True)
        if report is None or report.side is None or not report.quantity:
            return False
        first_ns = min(lost.time_ns, report.time_ns or lost.time_ns)
        await self._ledger.adopt(
            Order(
                client_order_id=name,
                intent_id=uuid.UUID(name),  # that of the lost row cannot be computed from its client id
                signal_id=None,
                account_id=self._status.account_id,
                venue=self._venue.name,
                exchange=self._context.cache.exchange_of(self._venue.name, lost.symbol),
                symbol=lost.symbol,
                instance="",
                role=Role.ORDER,
                attempt=0,
                side=report.side,
                type=_TYPES[report.price is not None, report.stop_price is not None],
                time_in_force=TimeInForce.GTC,
                quantity=report.quantity,
                price=report.price,
                stop_price=report.stop_price,
                detail=f"restored: {incident.closed_by}, {incident.resolution}",
                epoch=self._context.lease.epoch,
                created_ns=first_ns,
                sent_ns=first_ns,
            )
        )
        return True


def _is_adopted(incident: Incident) -> bool:
    return (incident.resolution or "").startswith(Resolution.ADOPTED)


def _condition(client_order_id: str) -> str:
    return f"lost:{client_order_id}"
