"""The order journal: one durable statement before the bytes, one more for the consequences, both fenced by the
epoch."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Generic, TypeVar

import asyncpg

from fks.model.account import Position
from fks.model.cash_flows import PositionSplit
from fks.model.errors import BugError, OutageError, StaleEpochError
from fks.model.kill import scopes_of
from fks.model.order import Fill, Order, Side
from fks.model.parent import ParentPlan, plan_json, plan_of
from fks.model.signal import Signal, SignalState
from fks.model.timeframe import to_datetime
from fks.store.base import SqlStore, columns_of, query, reads
from fks.store.db import Database, Querier, Row
from fks.store.order_rows import EVENT, ORDER, POSITION, TRADE, EventRow, ExecutionRow, Packers, statement
from fks.store.signals import SIGNAL_COLUMNS, signal_json

#: Copies of signals for other accounts, inserted if the item ($15: its number) was taken.
_COPIED = f""",
copied AS (
    INSERT INTO signals ({SIGNAL_COLUMNS})
    SELECT {SIGNAL_COLUMNS}
      FROM jsonb_array_elements($15::jsonb) AS made, jsonb_populate_record(NULL::signals, made -> 'signal')
     WHERE (made ->> 'number')::int IN (SELECT number FROM may)
    ON CONFLICT (id) DO NOTHING)"""  # noqa: S608 - names of columns
_PLACE_ONE, _PLACE_MANY, _PLACE_COPIED, _APPLY = (
    statement("orders.place_one", first=11),
    statement("orders.place_many"),
    statement("orders.place_many", further=_COPIED),
    statement("orders.apply"),
)
#: A split in the statement that changes positions and orders by it: a second one of its id fails, and changes nothing.
_APPLY_SPLIT = statement(
    "orders.apply",
    further=""",
split AS (
    INSERT INTO position_splits (id, account_id, venue, exchange, symbol, day, new_shares, old_shares, effective_at,
                                 quantity_before, quantity_after, error)
    SELECT $12::uuid, $13::int, $14::text, $15::text, $16::text, $17::date, $18::int, $19::int, $20::timestamptz,
           $21::numeric, $22::numeric, $23::text
      FROM lease),
planned AS (
    UPDATE parent_orders SET plan = made -> 'plan', updated_at = now()
      FROM jsonb_array_elements($24::jsonb) AS made
     WHERE signal_id = (made ->> 'signal_id')::uuid AND EXISTS (SELECT FROM lease))""",
)
#: items of one statement; a longer one would delay the next ones
BATCH_MAX = 64
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
__all__ = ["EventRow", "ExecutionRow", "OrderChanges", "OrderJournal", "OrderStore", "Placed", "order_of", "trade_of"]


@dataclass(slots=True)
class _Waiting(Generic[_Item, _Result]):
    item: _Item
    keys: Collection[Hashable]
    future: asyncio.Future[_Result]


class GroupCommit(Generic[_Item, _Result]):
    """One queue with at most one statement in flight: items that arrive together share it, and one WAL flush.

    Together are the items of one turn of the event loop, and those that arrive while a statement is in flight. A lone
    item waits for the end of its turn alone. Items that touch the same row go into different statements, in the order
    in which they came.

    `write` takes the items of one statement and returns a result or an exception for each, in their order. An exception
    that it raises is raised for each of its items. `keys_of` names the rows of an item.
    """

    def __init__(
        self,
        write: Callable[[Sequence[_Item]], Awaitable[Sequence[_Result | Exception]]],
        keys_of: Callable[[_Item], Collection[Hashable]],
    ) -> None:
        self._write = write
        self._keys_of = keys_of
        self._is_busy = False
        self._waiting: deque[_Waiting[_Item, _Result]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def submit(self, item: _Item) -> _Result:
        """Write the item and return its result. Cancelled while it waits, it is not written."""
        waiting = _Waiting[_Item, _Result](item, self._keys_of(item), asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if not self._is_busy:
            self._is_busy = True
            try:
                await asyncio.sleep(0)  # what one statement completed goes on in the same turn, and is written together
            except asyncio.CancelledError:
                waiting.future.cancel()
                self._go_on()
                raise
            await self._carry(self._take())
        return await waiting.future

    def _go_on(self) -> None:
        """Start the next statement, if anything waits."""
        batch = self._take()
        self._is_busy = bool(batch)
        if batch:
            self._task = asyncio.get_running_loop().create_task(self._carry(batch), name="group commit")

    def _take(self) -> list[_Waiting[_Item, _Result]]:
        """Return the items of the next statement: no two touch the same row, and none overtakes one that does."""
        batch, later, seen = list[_Waiting[_Item, _Result]](), list[_Waiting[_Item, _Result]](), set[Hashable]()
        while self._waiting and len(batch) < BATCH_MAX:
            waiting = self._waiting.popleft()
            if waiting.future.done():  # its caller was cancelled
                continue
            (later if not seen.isdisjoint(waiting.keys) else batch).append(waiting)
            seen.update(waiting.keys)
        self._waiting.extendleft(reversed(later))
        return batch

    async def _carry(self, batch: Sequence[_Waiting[_Item, _Result]]) -> None:
        try:
            results = await self._write([waiting.item for waiting in batch])
        except asyncio.CancelledError:
            for waiting in batch:
                _settle(waiting.future, OutageError("the statement was cancelled: it may have been written"))
            raise
        except Exception as error:
            for waiting in batch:
                _settle(waiting.future, error)
            if isinstance(error, OutageError):
                self._fail_waiting(error)
        else:
            for waiting, result in zip(batch, results, strict=True):
                _settle(waiting.future, result)
        finally:
            self._go_on()

    def _fail_waiting(self, error: OutageError) -> None:
        """Fail the waiting items at an outage: each caller has its own deadline."""
        while self._waiting:
            _settle(self._waiting.popleft().future, error)


def _settle(future: asyncio.Future[_Result], result: _Result | Exception) -> None:
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
        future.exception()  # seen: its caller may have been cancelled
    else:
        future.set_result(result)


@dataclass(frozen=True, slots=True)
class Placed:
    """Result of the one durable statement. `placed` are the ids that were not in the journal before."""

    is_taken: bool
    is_killed: bool
    placed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OrderChanges:
    """Changes caused by some events, to be written together: one row each, its newest state."""

    orders: Sequence[Order] = ()
    events: Sequence[EventRow] = ()
    trades: Sequence[ExecutionRow] = ()
    positions: Sequence[Position] = ()


@dataclass(frozen=True, slots=True)
class _Place:
    """One item of a place or a deny: the signal's outcome, with the orders and their first events."""

    orders: Sequence[Order]
    events: Sequence[EventRow]
    signal_id: uuid.UUID | None
    state: SignalState
    now_ns: int
    stopped_by: str
    code: str | None = None
    detail: str | None = None
    copies: Sequence[Signal] = ()
    scopes: str = "[]"  # JSON

    def keys(self) -> list[Hashable]:
        names: list[Hashable] = [order.client_order_id for order in self.orders]
        return [*names, self.signal_id] if self.signal_id is not None else names


class OrderJournal:
    """The order manager's writes. Each raises StaleEpochError when a newer epoch owns the lease, and then wrote
    nothing.

    Each may raise OutageError; then it is not known whether it was written, and the caller asks (`has`, `booked`, or a
    read of the order) before it goes on.
    Concurrent calls of place, deny and apply are written together (`GroupCommit`), each with its own result.
    """

    def __init__(self, db: Database, *, lease: str, epoch: int) -> None:
        self._db = db
        self._lease = lease
        self._epoch = epoch
        self._places = GroupCommit[_Place, Placed](self._write_places, _Place.keys)
        self._changes = GroupCommit[OrderChanges, bool](partial(self._each_or_all, self._apply_many), _rows_of)
        self._packers: Packers | None = None

    async def place(
        self,
        orders: Sequence[Order],
        events: Sequence[EventRow],
        *,
        signal_id: uuid.UUID | None,
        now_ns: int,
        stopped_by: Collection[str],
        copies: Sequence[Signal] = (),
        names: Collection[str] = (),
    ) -> Placed:
        """Write orders with their first events, make the signal `ordered` and insert its `copies`, or write nothing.

        Nothing is written when the signal has an outcome already, or while a kill in whose scope they lie is engaged in
        a mode of `stopped_by` (held, flatten). `names`: by which a kill of a strategy concerns them, their instance's
        among them. Signal None: orders without a signal (protections).
        """
        state, modes, first = SignalState.ORDERED, ",".join(stopped_by), orders[0]
        scopes = json.dumps([str(scope) for scope in scopes_of(first.venue, first.account_id, first.instance, *names)])
        return await self._places.submit(
            _Place(orders, events, signal_id, state, now_ns, modes, copies=copies, scopes=scopes)
        )

    async def deny(self, order: Order, event: EventRow, *, signal_id: uuid.UUID, now_ns: int) -> Placed:
        """Store a denied intent as an order row, and make its signal `denied` with the code."""
        return await self._places.submit(
            _Place([order], [event], signal_id, SignalState.DENIED, now_ns, "", order.code, order.detail)
        )

    async def split(self, changes: OrderChanges, split: PositionSplit, plans: Mapping[uuid.UUID, ParentPlan]) -> None:
        """Write a split with the orders, positions and plans of parents that it changes, in one statement.

        The caller knows that the split is not stored. Errors: StaleEpochError, OutageError.
        """
        given = columns_of(
            [split],
            *("id", "account_id", "venue", "exchange", "symbol", "day", "new_shares", "old_shares", "effective_ns"),
            *("quantity_before", "quantity_after", "error"),
        )
        made = [{"signal_id": str(id), "plan": plan_json(plan)} for id, plan in plans.items()]
        taken = (await self._apply_many([changes], _APPLY_SPLIT, *(values[0] for values in given), made))[0]
        if isinstance(taken, Exception):
            raise taken

    async def apply(self, changes: OrderChanges) -> bool:
        """Write the changes in one statement. False: one of the executions is booked already; nothing was written.

        A takeover waits for it: its rows are there for the next epoch to read.
        """
        return await self._changes.submit(changes)

    async def has(self, events: Sequence[EventRow]) -> bool:
        """Return whether these events, received at these times, are in the journal: written in one statement, all of
        them are or none."""
        row = await self._db.fetchrow(
            "orders.has",
            self._lease,
            self._epoch,
            [event.client_order_id for event in events],
            [event.event_id for event in events],
            [to_datetime(event.recv_ns) for event in events],
        )
        return bool(self._led(row)["is_there"])

    # ── writing ──────────────────────────────────────────────────────────────────────────────────
    async def _write_places(self, items: Sequence[_Place]) -> Sequence[Placed | Exception]:
        if len(items) > 1 or len(items[0].orders) != 1 or len(items[0].events) != 1 or items[0].copies:
            return await self._each_or_all(self._place_many, items)
        item = items[0]
        row = await self._db.hot_row(
            _PLACE_ONE,
            self._lease,
            self._epoch,
            item.signal_id,
            item.state,
            item.orders[0].client_order_id,
            to_datetime(item.now_ns),
            item.code,
            item.detail,
            item.stopped_by,
            item.scopes,
            *ORDER.values(item.orders[0]),
            *EVENT.values(item.events[0]),
            what="orders.place_one",
        )
        row = self._led(row)
        return [Placed(row["is_taken"], row["is_killed"], tuple(row["placed"]))]

    async def _place_many(self, items: Sequence[_Place]) -> Sequence[Placed | Exception]:
        order, event, *_ = await self._packed()
        made = [
            {"number": number, "signal": signal_json(copy)} for number, item in enumerate(items) for copy in item.copies
        ]
        row = await self._db.hot_row(
            _PLACE_COPIED if made else _PLACE_MANY,
            self._lease,
            self._epoch,
            list(range(len(items))),
            [i.signal_id for i in items],
            [i.state for i in items],
            [i.orders[0].client_order_id for i in items],
            [to_datetime(i.now_ns) for i in items],
            [i.code for i in items],
            [i.detail for i in items],
            [i.stopped_by for i in items],
            [i.scopes for i in items],
            [order(o) for i in items for o in i.orders],
            _numbers(i.orders for i in items),
            [event(e) for i in items for e in i.events],
            *([made] if made else []),
            what="orders.place_many",
        )
        row = self._led(row)
        taken, placed, killed = set(row["taken"]), set(row["placed"]), set(row["killed"])
        return [
            Placed(
                number in taken,
                number in killed,
                tuple(o.client_order_id for o in item.orders if number in taken and o.client_order_id in placed),
            )
            for number, item in enumerate(items)
        ]

    async def _apply_many(
        self, items: Sequence[OrderChanges], text: str = _APPLY, *further: object
    ) -> Sequence[bool | Exception]:
        order, event, trade, position = await self._packed()
        moved = [_newest(item.positions) for item in items]
        row = await self._db.hot_row(
            text,
            self._lease,
            self._epoch,
            [order(o) for i in items for o in i.orders],
            _numbers(i.orders for i in items),
            [event(e) for i in items for e in i.events],
            _numbers(i.events for i in items),
            [trade(t) for i in items for t in i.trades],
            _numbers(i.trades for i in items),
            [position(p) for each in moved for p in each],
            _numbers(moved),
            list(range(len(items))),
            *further,
            what="orders.apply",
        )
        row = self._led(row)
        fresh, changed, booked = set(row["fresh"]), set(row["changed"]), set(row["booked"])
        results: list[bool | Exception] = []
        for number, item in enumerate(items):
            orders = [o.client_order_id for o in item.orders if o.client_order_id not in changed]
            fills = [t.fill.fill_id for t in item.trades if t.fill.fill_id not in booked]
            if number not in fresh:
                results.append(False)
            elif orders or fills:
                results.append(
                    BugError(
                        f"the journal did not take {len(orders)} of {len(item.orders)} orders and {len(fills)} of "
                        f"{len(item.trades)} fills: {[o.client_order_id for o in item.orders]}",
                        remedy="the order manager restarts and reads the journal again",
                    )
                )
            else:
                results.append(True)
        return results

    async def _each_or_all(
        self, write: Callable[[Sequence[_Item]], Awaitable[Sequence[_Result | Exception]]], items: Sequence[_Item]
    ) -> Sequence[_Result | Exception]:
        """Write items together; when the server refuses one of their rows, write each by itself, so that only that one
        fails."""
        try:
            return await write(items)
        except asyncpg.PostgresError:
            if len(items) == 1:
                raise
        results: list[_Result | Exception] = []
        for item in items:
            try:
                results.extend(await write([item]))
            except asyncpg.PostgresError as error:
                results.append(error)
        return results

    async def _packed(self) -> Packers:
        if self._packers is None:
            found = [
                await self._db.fetchval("orders.columns_of", form.table) for form in (ORDER, EVENT, TRADE, POSITION)
            ]
            order, event, trade, position = found
            self._packers = ORDER.packer(order), EVENT.packer(event), TRADE.packer(trade), POSITION.packer(position)
        return self._packers

    async def booked(self, account_id: int, fills: Sequence[Fill]) -> set[uuid.UUID]:
        """Return the ids of those executions of an account that are booked already, under these ids or earlier ones."""
        ids, *names = columns_of(fills, "fill_id", "venue", "symbol", "venue_trade_id")
        return set(await self._db.fetchval("orders.booked", ids, account_id, *names))

    def _led(self, row: Row | None) -> Row:
        assert row is not None
        if not row["is_leader"]:
            raise self._stale()
        return row

    def _stale(self) -> StaleEpochError:
        return StaleEpochError(f"lease {self._lease} epoch {self._epoch}: a newer epoch owns it", remedy="stop at once")


def _rows_of(changes: OrderChanges) -> list[Hashable]:
    """Return the keys of the rows that changes touch."""
    names: list[Hashable] = [order.client_order_id for order in changes.orders]
    names += [event.client_order_id for event in changes.events]
    names += [trade.fill.fill_id for trade in changes.trades]
    names += [(t.fill.account_id, t.fill.venue, t.fill.symbol, t.fill.venue_trade_id) for t in changes.trades]
    return names + [(p.account_id, p.venue, p.symbol, p.instance, "position") for p in changes.positions]


def _newest(positions: Sequence[Position]) -> list[Position]:
    """Return the last one of each position: a statement touches a row once."""
    return list({(p.account_id, p.venue, p.symbol, p.instance): p for p in positions}.values())


def _numbers(groups: Iterable[Sequence[object]]) -> list[int]:
    """Return for each member of the groups the number of its group."""
    return [number for number, group in enumerate(groups) for _ in group]


order_of = reads(Order, venue_time_ns="venue_time", valid_until_ns="valid_until")
reads(EventRow, recv_ns="recv_time", venue_time_ns="venue_time")
reads(Fill, side=lambda row: Side(row["trade_type"].lower()), time_ns="time")
trade_of = reads(ExecutionRow)


class OrderStore(SqlStore[Querier], queries="orders"):
    """Reads of orders, events and executions, and the cancel request. Takes a database or an open transaction."""

    async def get(self, client_order_id: str) -> Order | None:
        """Return one order, or None."""

    async def allocation(self, client_order_id: str) -> list[tuple[str, str]]:
        """Return the instances, and how much of each, whose positions a person's sale closes; [] when it closes those
        of persons alone."""
        row = await self._db.fetchrow("orders.allocation", client_order_id)
        return [] if row is None else [(name, quantity) for name, quantity in row["allocation"]]

    async def by_venue_id(self, venue: str, symbol: str, venue_order_id: str) -> Order | None:
        """Return the order with that `venue_order_id`, or None."""

    async def by_signal(self, signal_id: uuid.UUID) -> Order | None:
        """Return the newest order that a signal led to, or None."""

    async def closes(self, signal_id: uuid.UUID) -> list[Order]:
        """Return the closing orders of an exit, oldest first."""

    async def open(self, venues: Sequence[str]) -> list[Order]:
        """Return every order of these venues that may still fill or whose executions are not all here."""

    async def legs(self, parents: Sequence[str]) -> list[Order]:
        """Return the protection legs of these orders, of all attempts, oldest first."""

    async def plans(self, orders: Iterable[Order]) -> dict[uuid.UUID, ParentPlan]:
        """Return the plans of those of `orders` that are parents, by their signals."""
        ids = {order.signal_id for order in orders if order.parent_id is None and order.signal_id is not None}
        rows = await self._db.fetch("orders.plans", sorted(ids)) if ids else []
        return {row["signal_id"]: plan_of(row["plan"]) for row in rows}

    @query("first_fill")
    async def first_fill_ns(self, client_order_id: str) -> int | None:
        """Return the time (ns) of an order's first execution, or None."""

    async def entries_of(self, account_id: int, venue: str, symbol: str, instance: str, held: Decimal) -> list[Order]:
        """Return the executed entries that make up `held` (absolute) of an instance, newest first."""

    async def is_ended_by_person(self, client_order_id: str) -> bool:
        """Return whether a person asked for the order's cancel."""

    async def last_decision(self, account_id: int, symbol: str, instance: str) -> Order | None:
        """Return the newest entry, exit or person's order of an instance that was not denied, or None."""

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

    async def events(self, client_order_id: str) -> list[EventRow]:
        """Return every step of one order, in order."""

    async def fills(
        self,
        *,
        symbol: str | None = None,
        client_order_id: str | None = None,
        instance: str | None = None,
        account_id: int | None = None,
        before_id: int | None = None,
        limit: int = 100,
    ) -> list[tuple[int, ExecutionRow]]:
        """Return a page of executions, newest first, each with its number; go on with the last one as `before_id`."""
        rows = await self._db.fetch("orders.fills", symbol, client_order_id, instance, account_id, before_id, limit)
        return [(row["id"], trade_of(row)) for row in rows]

    async def person_fills(self) -> list[ExecutionRow]:
        """Return the executions that persons reported when they settled orders, and reversed ones, oldest first."""

    async def trade(self, fill_id: uuid.UUID) -> ExecutionRow | None:
        """Return one execution, or None."""

    async def newest_fill(self, account_id: int, venue: str) -> Fill | None:
        """Return the account's newest execution at a venue that carries the venue's own id, or None."""
        row = await self._db.fetchrow("orders.newest_fill", account_id, venue)
        return None if row is None else trade_of(row).fill

    async def last_fills(self, account_id: int, venue: str) -> dict[str, int]:
        """Return the time (ns) of the newest stored execution by symbol."""

    async def want_cancel(self, client_order_id: str, *, by: str, now_ns: int) -> Order | None:
        """Record the request to cancel an order; None when it is not open, or a cancel is under way already."""
        row = await self._db.fetchrow(
            "orders.want_cancel", client_order_id, to_datetime(now_ns), f"cancel:{by}:{now_ns}", {"by": by}
        )
        return None if row is None else order_of(row)

    async def wanted_cancels(self, venues: Sequence[str]) -> list[str]:
        """Return the ids of open orders whose cancel was requested."""
