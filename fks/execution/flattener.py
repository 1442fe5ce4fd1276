"""The kill switch at venues that live in the order manager alone (paper): the guardian has no session there.

Hard state: the journal; order ids follow from the kill, as the guardian's do, so a restart repeats nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from decimal import Decimal

from fks.clock import Clock
from fks.execution.book import Book, Place
from fks.execution.exits import closing
from fks.execution.kill_journal import flatten_id
from fks.execution.ledger import Ledger
from fks.execution.sender import Sender
from fks.model.account import Position
from fks.model.errors import OutageError
from fks.model.ids import client_order_id
from fks.model.order import LIVE, Order, OrderType, Role, Side, State, TimeInForce
from fks.model.ports import Lease, Log
from fks.portfolio.position import EXTERNAL
from fks.store.facts import Facts

_PERIOD_S = 1.0
_ENDED_S = 5.0
_GENERATIONS_MAX = 10


class Flattener:
    """While a kill that flattens is engaged: ends every order at `venues`, then closes every position of ours there."""

    def __init__(
        self, venues: Collection[str], book: Book, facts: Facts, ledger: Ledger, sender: Sender, clock: Clock,
        lease: Lease, log: Log,
    ) -> None:  # fmt: skip
        self._venues = frozenset(venues)
        self._book = book
        self._facts = facts
        self._ledger = ledger
        self._sender = sender
        self._clock = clock
        self._lease = lease
        self._log = log

    async def run(self) -> None:
        """Look each second, for ever; an outage skips a turn."""
        while True:
            await self._clock.sleep(_PERIOD_S)
            if not self._book.is_killed or not self._lease.holds():
                continue
            try:
                kill_id = await self._facts.flattening_kill()
            except OutageError:
                continue
            if kill_id is not None:
                await self._flatten(kill_id)

    async def _flatten(self, kill_id: str) -> None:
        places: set[Place] = {(o.account_id, o.venue, o.symbol) for o in self._book.orders.values() if o.venue in self._venues}
        places |= {key[:3] for key, position in self._book.positions.items() if key[1] in self._venues and position.quantity}
        for place in sorted(places):
            async with self._book.deciding(place):
                if not await self._end_orders(place):
                    continue
                for key, position in list(self._book.positions.items()):
                    if key[:3] == place and key[3] != EXTERNAL and position.quantity > 0:
                        await self._close(kill_id, position)

    async def _end_orders(self, place: Place) -> bool:
        """Cancel what is open, our own closing orders apart; False when its end is not proven yet."""
        theirs = [order for order in self._book.open_at(place) if order.role is not Role.KILL]
        for order in theirs:
            if order.state in LIVE or order.state is State.INTENDED:
                await self._sender.cancel(order.client_order_id, by="", reason="kill")
        return await self._book.wait_until([order.client_order_id for order in theirs], lambda order: False, _ENDED_S)

    async def _close(self, kill_id: str, position: Position) -> None:
        place = (position.account_id, position.venue, position.symbol)
        found = [(on, i) for (on, symbol), i in self._book.instruments.items() if symbol == position.symbol]
        if not found:
            return
        exchange, instrument = found[0]
        held = position.quantity + closing(self._book, place, position.instance, position.quantity)
        quantity = instrument.round_quantity(max(held, Decimal(0)))
        if quantity < max(instrument.qty_min, instrument.lot_step):
            return
        for generation in range(_GENERATIONS_MAX):
            order = self._order(kill_id, position, exchange, quantity, generation)
            self._book.put(replace(order, state=State.SENDING))
            placed = await self._sender.place([order], sent=1, signal_id=None, is_exempt=True)
            if order.client_order_id in placed.placed:
                after = await self._sender.send(self._book.orders[order.client_order_id])
                state = "" if after is None else after.state.value
                self._log.warning("kill.closed_here", venue=position.venue, symbol=position.symbol, state=state)
                return

    def _order(self, kill_id: str, position: Position, exchange: str, quantity: Decimal, generation: int) -> Order:
        intent = flatten_id(
            kill_id, venue=position.venue, account_id=position.account_id, symbol=position.symbol, instance=position.instance
        )
        now_ns = self._clock.now_ns()
        return Order(
            client_order_id=client_order_id(intent, Role.KILL, generation), intent_id=intent, signal_id=None,
            account_id=position.account_id, venue=position.venue, exchange=exchange, symbol=position.symbol,
            instance=position.instance, role=Role.KILL, generation=generation, side=Side.SELL, type=OrderType.MARKET,
            time_in_force=TimeInForce.GTC, quantity=quantity, is_reduce_only=True, epoch=self._lease.epoch,
            trace_id=kill_id[:16], created_ns=now_ns, updated_ns=now_ns,
        )  # fmt: skip
