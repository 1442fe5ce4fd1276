"""Amendments and cancels of many orders in a person's name: rows for the order manager, and the answers to them.

An amendment is committed before it is answered, and one of an order is open at a time; the same one again is the same
row. Cancelling all orders of a symbol is idempotent: it names what it asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from fks.clock import Clock
from fks.config.settings import Settings
from fks.interfaces.entry.order_entry import EntryAnswer, break_even_in, check_plan, order_body, positive, targets_in
from fks.model.account import keeps_bracket
from fks.model.backoff import Backoff
from fks.model.errors import InputError, conflict, not_found, unprocessable
from fks.model.order import OPEN, Order, OrderType, Role
from fks.model.parent import ParentPlan
from fks.model.untrusted import shown
from fks.store.bus import WAKE, Bus
from fks.store.db import Database
from fks.store.orders import OrderStore
from fks.store.settlements import OrderAmendment, SettlementStore

_POLL = Backoff(0.005, 0.1)
_ENTRY, _EXITS = ("price", "quantity"), ("stop_loss", "targets", "break_even")
_PRICED = (OrderType.LIMIT, OrderType.STOP_LIMIT)


class Amending:
    """Takes amendments of orders, and cancels of all orders of a symbol. Holds no state; many may exist."""

    def __init__(self, db: Database, bus: Bus, clock: Clock, settings: Settings) -> None:
        self._bus, self._clock, self._settings = bus, clock, settings
        self._orders, self._store = OrderStore(db), SettlementStore(db)

    async def amend(self, client_order_id: str, body: Mapping[str, object], principal: str) -> EntryAnswer:
        """Commit an amendment of an order and wait up to `http.order_wait_s` for its outcome.

        `body`: price and quantity of a resting order, or stop_loss, targets and break_even of a parent. The answer is
        202 with the order and `amendment`: its state (requested, accepted, refused), why it was refused, and the id
        of the request that took the order's place. Errors: InputError (404 unknown, 409 ended, or another amendment of
        it is open, 422 values); OutageError.
        """
        order = await self._orders.get(client_order_id)
        if order is None:
            raise not_found("ORDER_UNKNOWN", f"unknown order {client_order_id!r}")
        wanted = await self._wanted(order, body)
        now_ns = self._clock.now_ns()
        request = await self._store.request_amendment(client_order_id, by=principal, now_ns=now_ns, **wanted)
        if any(getattr(request, name) != value for name, value in wanted.items()):
            raise _conflict("AMENDMENT_OPEN", "another amendment of the order is not done", "try again in a moment")
        await self._bus.publish(WAKE, {"type": "amend", "client_order_id": client_order_id})
        request = await self._await_end(request)
        found = await self._orders.get(client_order_id) or order
        return EntryAnswer(202, order_body(found) | {"amendment": _body(request)})

    async def cancel_all(
        self,
        symbols: Sequence[str],
        principal: str,
        accounts: Sequence[int] | None = None,
        *,
        instance: str | None = None,
        exchange: str | None = None,
        drops_protection: bool = False,
    ) -> dict[str, Any]:
        """Request the cancel of all open entries and persons' orders of `symbols` (None: of all accounts, instances,
        exchanges), and with `drops_protection` the end of the stop losses and take profits there, which then are not
        placed again. Return their ids. Idempotent. Errors: InputError 409 while a parent is being amended;
        OutageError."""
        scope = list(symbols), accounts, instance, exchange
        parents = await self._store.protected_parents(*scope) if drops_protection else []
        orders = await self._store.resting_orders(*scope)
        for name in orders:
            await self._orders.want_cancel(name, by=principal, now_ns=self._clock.now_ns())
        dropped = []
        for name in parents:
            order = await self._orders.get(name)
            if order is None or keeps_bracket(order.venue):
                continue  # its venue alone places and ends the legs
            now_ns = self._clock.now_ns()
            request = await self._store.request_amendment(name, drops_protection=True, by=principal, now_ns=now_ns)
            if not request.drops_protection:
                raise _conflict("AMENDMENT_OPEN", f"an amendment of {name} is not done", "try again in a moment")
            dropped.append(name)
        await self._bus.publish(WAKE, {"type": "cancel"})
        return {"cancelled": orders, "unprotected": dropped}

    async def _wanted(self, order: Order, body: Mapping[str, object]) -> dict[str, Any]:
        """Return what a body changes. Errors: InputError."""
        given = {name for name, value in body.items() if value is not None}
        if unknown := sorted(given - {*_ENTRY, *_EXITS}):
            fields = ", ".join((*_ENTRY, *_EXITS))
            raise _bad(f"unknown field {shown(unknown[0])}", f"use {fields}", "FIELD_UNKNOWN")
        if not given or (given & {*_ENTRY} and given & {*_EXITS}):
            raise _bad("nothing, or too much at once, is amended", "give price and quantity, or exits", "AMENDMENT")
        numbers = {name: positive(name, body.get(name)) for name in ("price", "quantity", "stop_loss")}
        if order.role is not Role.ORDER:
            raise _conflict(
                "NOT_AMENDABLE", f"the order is not a person's but of role {order.role.value}", "exit, or cancel it"
            )
        if given & {*_ENTRY}:
            return self._wanted_of_entry(order, numbers)
        if keeps_bracket(order.venue):
            raise _conflict("LEG_KEPT", f"{order.venue} keeps stop and target by itself", "move them at the platform")
        if order.stop_loss is None:
            raise _conflict("NOT_AMENDABLE", "the order has no stop loss", "send one with a stop loss")
        plan = await self._plan(order, body) if given & {"targets", "break_even"} else None
        return {"stop_loss": numbers["stop_loss"], "plan": plan}

    @staticmethod
    def _wanted_of_entry(order: Order, numbers: Mapping[str, Decimal | None]) -> dict[str, Any]:
        if order.state not in OPEN:
            raise _conflict("ORDER_ENDED", f"the order has ended: {order.state.value}", "send a new one")
        price, quantity = numbers["price"], numbers["quantity"]
        if price is not None and order.type not in _PRICED:
            raise _bad(f"a {order.type.value} order has no price to amend", "amend its quantity", "PRICE")
        if quantity is not None and quantity <= order.filled:
            raise _bad(f"{order.filled:f} of it has filled", "give more than that, or cancel it", "QUANTITY")
        return {"price": price, "quantity": quantity}

    async def _plan(self, order: Order, body: Mapping[str, object]) -> ParentPlan:
        """Return the order's plan with the members of a body."""
        known = None if order.signal_id is None else (await self._orders.plans([order])).get(order.signal_id)
        assert order.stop_loss is not None
        plan = known or ParentPlan(order.stop_loss)
        if body.get("targets") is not None:
            plan = replace(plan, targets=targets_in(body["targets"]))
        if body.get("break_even") is not None:
            plan = replace(plan, break_even=break_even_in(body["break_even"]))
        check_plan(plan, order.side)
        return plan

    async def _await_end(self, request: OrderAmendment) -> OrderAmendment:
        deadline, pause_s = self._clock.monotonic() + self._settings.http.order_wait_s, 0.0
        while request.finished_ns is None and self._clock.monotonic() < deadline:
            pause_s = _POLL.next_s(pause_s)
            await self._clock.sleep(pause_s)
            request = await self._store.amendment(request.id) or request
        return request


def _body(request: OrderAmendment) -> dict[str, Any]:
    """Return an amendment as JSON."""
    state = "requested" if request.finished_ns is None else "accepted" if request.error is None else "refused"
    successor = None if request.successor is None else str(request.successor)
    return {"id": request.id, "by": request.by, "state": state, "detail": request.error, "successor": successor}


def _bad(message: str, remedy: str, code: str) -> InputError:
    return unprocessable(code, message, remedy)


def _conflict(code: str, message: str, remedy: str) -> InputError:
    return conflict(code, message, remedy)
