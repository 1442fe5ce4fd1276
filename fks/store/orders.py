"""The journal of orders: one durable statement before the bytes, one more for what follows, both fenced by the epoch."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from fks.model.account import Position
from fks.model.errors import BugError, StaleEpochError
from fks.model.order import Fill, Order, OrderType, Request, Role, Side, State, TimeInForce
from fks.model.timeframe import iso, to_datetime, to_ns
from fks.store.db import Database, Querier, Row


@dataclass(frozen=True, slots=True)
class EventRow:
    """One step of one order, as order_events keeps it. `event` is the class name, `payload` small and JSON-able."""

    client_order_id: str
    event_id: str
    event: str
    from_state: State | None
    to_state: State
    source: str
    recv_ns: int
    epoch: int
    venue_time_ns: int = 0
    payload: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TradeRow:
    """One execution of our accounts. `instance` says whose position it moved, `realized_pnl` (quote) is before fees."""

    fill: Fill
    instance: str
    realized_pnl: Decimal
    order_type: str = ""
    is_late: bool = False


@dataclass(frozen=True, slots=True)
class Placed:
    """What became of the one durable statement. `placed` are the ids that were not in the journal before."""

    is_taken: bool
    is_killed: bool
    placed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """What some events did, to be written together: one row each, the newest state of it."""

    orders: Sequence[Order] = ()
    events: Sequence[EventRow] = ()
    trades: Sequence[TradeRow] = ()
    positions: Sequence[Position] = ()


class OrderJournal:
    """The order manager's writes. Each raises StaleEpochError when a newer epoch owns the lease, and then wrote nothing.

    Each may raise OutageError; then it is not known whether it was written, and the caller reads before it goes on.
    """

    def __init__(self, db: Database, *, lease: str, epoch: int) -> None:
        self._db = db
        self._lease = lease
        self._epoch = epoch

    async def place(
        self,
        orders: Sequence[Order],
        events: Sequence[EventRow],
        *,
        signal_id: uuid.UUID | None,
        now_ns: int,
        is_exempt: bool = False,
    ) -> Placed:
        """Write orders with their first events and make the signal `ordered`, or write nothing.

        Nothing is written when the signal has an outcome already, or when the kill switch is engaged and the order not
        `is_exempt` from it. Signal None: orders that no signal asks for (protections).
        """
        row = await self._db.fetchrow(
            "orders.place", self._lease, self._epoch, signal_id, orders[0].client_order_id, to_datetime(now_ns),
            [order_json(o) for o in orders], [_event_json(e) for e in events], is_exempt, retry=False,
        )  # fmt: skip
        return self._placed(row)

    async def deny(self, order: Order, event: EventRow, *, signal_id: uuid.UUID, now_ns: int) -> Placed:
        """Keep a denied intent as an order row, and make its signal `denied` with the code."""
        row = await self._db.fetchrow(
            "orders.deny", self._lease, self._epoch, signal_id, order.client_order_id, to_datetime(now_ns),
            [order_json(order)], [_event_json(event)], order.code, order.detail, retry=False,
        )  # fmt: skip
        return self._placed(row)

    async def apply(self, changes: Changes) -> bool:
        """Write what events did, in one statement. False: one of the executions is booked already; nothing was written.

        A takeover waits for it: what it wrote is there for the next epoch to read.
        """
        positions = {(p.account_id, p.venue, p.symbol, p.instance): p for p in changes.positions}
        row = await self._db.fetchrow(
            "orders.apply", self._lease, self._epoch, [order_json(o) for o in changes.orders],
            [_event_json(e) for e in changes.events], [_trade_json(t) for t in changes.trades],
            [_position_json(p) for p in positions.values()], retry=False,
        )  # fmt: skip
        assert row is not None
        if not row["is_leader"]:
            raise self._stale()
        if not row["is_fresh"]:
            return False
        if row["changed"] != len(changes.orders) or row["booked"] != len(changes.trades):
            raise BugError(
                f"the journal took {row['changed']} of {len(changes.orders)} orders and {row['booked']} of "
                f"{len(changes.trades)} fills: {[o.client_order_id for o in changes.orders]}",
                remedy="the order manager restarts and reads the journal again",
            )
        return True

    async def booked(self, fills: Sequence[uuid.UUID]) -> set[uuid.UUID]:
        """Return which of these executions are booked already."""
        return set(await self._db.fetchval("orders.booked", list(fills)))

    def _placed(self, row: Row | None) -> Placed:
        assert row is not None
        if not row["is_leader"]:
            raise self._stale()
        return Placed(row["is_taken"], row["is_killed"], tuple(row["placed"]))

    def _stale(self) -> StaleEpochError:
        return StaleEpochError(f"lease {self._lease} epoch {self._epoch}: a newer epoch owns it", remedy="stop at once")


class OrderStore:
    """Reads of orders, events and executions, and the door's one write. Takes a database or an open transaction."""

    def __init__(self, querier: Querier) -> None:
        self._db = querier

    async def get(self, client_order_id: str) -> Order | None:
        """Return one order, or None."""
        row = await self._db.fetchrow("orders.get", client_order_id)
        return None if row is None else order_of(row)

    async def by_venue_id(self, venue: str, symbol: str, venue_order_id: str) -> Order | None:
        """Return the order that the venue knows under `venue_order_id`, or None."""
        row = await self._db.fetchrow("orders.by_venue_id", venue, symbol, venue_order_id)
        return None if row is None else order_of(row)

    async def by_signal(self, signal_id: uuid.UUID) -> Order | None:
        """Return the newest order that a signal led to, or None."""
        row = await self._db.fetchrow("orders.by_signal", signal_id)
        return None if row is None else order_of(row)

    async def open(self, venues: Sequence[str]) -> list[Order]:
        """Return every order of these venues that may still fill or whose executions are not all here."""
        return [order_of(row) for row in await self._db.fetch("orders.open", list(venues))]

    async def legs(self, parents: Sequence[str]) -> list[Order]:
        """Return the protection legs of these orders, all generations, oldest first."""
        return [order_of(row) for row in await self._db.fetch("orders.legs", list(parents))]

    async def guarded(self, account_id: int, symbol: str, instance: str) -> list[Order]:
        """Return the newest executed entries of an instance, newest first (at most 20): what its position came from."""
        return [order_of(row) for row in await self._db.fetch("orders.guarded", account_id, symbol, instance)]

    async def last_decision(self, account_id: int, symbol: str, instance: str) -> Order | None:
        """Return the newest entry or exit of an instance that was not denied, or None."""
        row = await self._db.fetchrow("orders.last_decision", account_id, symbol, instance)
        return None if row is None else order_of(row)

    async def page(
        self,
        *,
        state: str | None = None,
        symbol: str | None = None,
        instance: str | None = None,
        account_id: int | None = None,
        before_ns: int | None = None,
        is_open: bool = False,
        limit: int = 100,
    ) -> list[Order]:
        """Return a page of orders, newest first; go on with the last one's `created_ns` as `before_ns`."""
        before = None if before_ns is None else to_datetime(before_ns)
        rows = await self._db.fetch("orders.page", state, symbol, instance, account_id, before, is_open, limit)
        return [order_of(row) for row in rows]

    async def events(self, client_order_id: str) -> list[EventRow]:
        """Return every step of one order, in order."""
        return [_event_of(row) for row in await self._db.fetch("orders.events", client_order_id)]

    async def fills(
        self,
        *,
        symbol: str | None = None,
        client_order_id: str | None = None,
        instance: str | None = None,
        account_id: int | None = None,
        before_id: int | None = None,
        limit: int = 100,
    ) -> list[tuple[int, TradeRow]]:
        """Return a page of executions, newest first, each with its number; go on with the last one as `before_id`."""
        rows = await self._db.fetch("orders.fills", symbol, client_order_id, instance, account_id, before_id, limit)
        return [(row["id"], trade_of(row)) for row in rows]

    async def last_fills(self, account_id: int, venue: str) -> dict[str, int]:
        """Return the time (ns) of the newest stored execution by symbol."""
        return {row["symbol"]: to_ns(row["time"]) for row in await self._db.fetch("orders.last_fills", account_id, venue)}

    async def realized_since(self, since_ns: int) -> dict[int, Decimal]:
        """Return what each account realised since then (quote, before fees)."""
        rows = await self._db.fetch("orders.realized_since", to_datetime(since_ns))
        return {row["account_id"]: row["realized"] for row in rows}

    async def want_cancel(self, client_order_id: str, *, by: str, now_ns: int) -> Order | None:
        """Write that somebody wants it cancelled; None when it is not open, or a cancel is under way already."""
        row = await self._db.fetchrow(
            "orders.want_cancel", client_order_id, to_datetime(now_ns), f"cancel:{by}:{now_ns}", {"by": by}
        )
        return None if row is None else order_of(row)

    async def wanted_cancels(self, venues: Sequence[str]) -> list[str]:
        """Return the ids of open orders whose cancel somebody asked for through the door."""
        return [row["client_order_id"] for row in await self._db.fetch("orders.wanted_cancels", list(venues))]


_TIMES = {
    "venue_time_ns": "venue_time", "valid_until_ns": "valid_until", "created_ns": "created_at", "sent_ns": "sent_at",
    "updated_ns": "updated_at",
}  # fmt: skip
_PLAIN = (
    "client_order_id", "account_id", "venue", "exchange", "symbol", "instance", "generation", "venue_order_id",
    "parent_id", "group_id", "code", "detail", "is_reduce_only", "is_stale", "is_late", "is_overfilled",
    "is_acknowledged", "epoch", "trace_id",
)  # fmt: skip
_MONEY = ("quantity", "price", "stop_price", "stop_loss", "take_profit", "filled", "average_price", "announced")


def order_json(order: Order) -> dict[str, Any]:
    """Return the order as JSON-able columns of its table; numbers as text, so that nothing passes through a float."""
    columns: dict[str, Any] = {name: getattr(order, name) for name in _PLAIN}
    columns.update({name: _text(getattr(order, name)) for name in _MONEY})
    columns.update({column: _iso(getattr(order, name)) for name, column in _TIMES.items()})
    columns.update(
        intent_id=str(order.intent_id), signal_id=None if order.signal_id is None else str(order.signal_id),
        role=order.role.value, side=order.side.value, type=order.type.value, time_in_force=order.time_in_force.value,
        state=order.state.value, request=order.request.value,
    )  # fmt: skip
    return columns


def order_of(row: Row) -> Order:
    """Return a row of the orders table as a value."""
    times = {name: _ns(row[column]) for name, column in _TIMES.items()}
    for name in ("venue_time_ns", "created_ns", "updated_ns"):
        times[name] = times[name] or 0
    return Order(
        intent_id=row["intent_id"], signal_id=row["signal_id"], role=Role(row["role"]), side=Side(row["side"]),
        type=OrderType(row["type"]), time_in_force=TimeInForce(row["time_in_force"]), state=State(row["state"]),
        request=Request(row["request"]), **{name: row[name] for name in (*_PLAIN, *_MONEY)}, **times,  # type: ignore[arg-type]
    )  # fmt: skip


def _event_json(event: EventRow) -> dict[str, Any]:
    return {
        "client_order_id": event.client_order_id, "event_id": event.event_id, "event": event.event,
        "from_state": None if event.from_state is None else event.from_state.value, "to_state": event.to_state.value,
        "source": event.source, "venue_time": _iso(event.venue_time_ns), "recv_time": iso(event.recv_ns),
        "epoch": event.epoch, "payload": dict(event.payload),
    }  # fmt: skip


def _event_of(row: Row) -> EventRow:
    return EventRow(
        client_order_id=row["client_order_id"], event_id=row["event_id"], event=row["event"],
        from_state=None if row["from_state"] is None else State(row["from_state"]), to_state=State(row["to_state"]),
        source=row["source"], recv_ns=to_ns(row["recv_time"]), epoch=row["epoch"],
        venue_time_ns=_ns(row["venue_time"]) or 0, payload=row["payload"],
    )  # fmt: skip


def _trade_json(trade: TradeRow) -> dict[str, Any]:
    fill = trade.fill
    return {
        "fill_id": str(fill.fill_id), "client_order_id": fill.client_order_id, "venue_order_id": fill.venue_order_id,
        "venue_trade_id": fill.venue_trade_id, "account_id": fill.account_id, "venue": fill.venue,
        "symbol": fill.symbol, "instance": trade.instance, "trade_type": fill.side.value.upper(),
        "quantity": _text(fill.quantity), "price": _text(fill.price), "fee": _text(fill.fee),
        "fee_currency": fill.fee_currency, "realized_pnl": _text(trade.realized_pnl), "order_type": trade.order_type,
        "is_maker": fill.is_maker, "is_late": trade.is_late, "source": fill.source, "time": iso(fill.time_ns),
    }  # fmt: skip


def trade_of(row: Row) -> TradeRow:
    """Return a row of the trades table as a value."""
    fill = Fill(
        fill_id=row["fill_id"], client_order_id=row["client_order_id"], venue_order_id=row["venue_order_id"],
        venue_trade_id=row["venue_trade_id"], account_id=row["account_id"], venue=row["venue"], symbol=row["symbol"],
        side=Side(row["trade_type"].lower()), quantity=row["quantity"], price=row["price"], fee=row["fee"],
        fee_currency=row["fee_currency"], time_ns=to_ns(row["time"]), is_maker=row["is_maker"], source=row["source"],
    )  # fmt: skip
    return TradeRow(fill, row["instance"], row["realized_pnl"], row["order_type"], row["is_late"])


def _position_json(position: Position) -> dict[str, Any]:
    return {
        "account_id": position.account_id, "venue": position.venue, "symbol": position.symbol,
        "instance": position.instance, "quantity": _text(position.quantity),
        "average_price": _text(position.average_price), "realized_pnl": _text(position.realized_pnl),
        "fees": _text(position.fees), "updated_at": iso(position.updated_ns),
    }  # fmt: skip


def _text(value: Decimal | None) -> str | None:
    return None if value is None else format(value, "f")


def _iso(time_ns: int | None) -> str | None:
    return None if not time_ns else iso(time_ns)


def _ns(moment: datetime | None) -> int | None:
    return None if moment is None else to_ns(moment)
