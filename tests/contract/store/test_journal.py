"""The journal: each item of a statement has its own outcome, whatever is written with it."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from decimal import Decimal

import asyncpg
import pytest

from fks.model.account import Position
from fks.model.errors import BugError, StaleEpochError
from fks.model.kill import KillScope
from fks.model.order import Order, State
from fks.model.timeframe import NS
from fks.store.db import Database
from fks.store.leases import raise_epoch
from fks.store.orders import EventRow, ExecutionRow, OrderChanges, OrderJournal, OrderStore, Placed
from fks.store.signals import SignalStore
from tests.support.order_rig import seed, signal_of
from tests.support.order_values import a_fill, an_order

D = Decimal
NOW = 1_800_000_000 * NS


@pytest.fixture
async def journal(database: Database) -> OrderJournal:
    await seed(database)
    return OrderJournal(database, lease="orders", epoch=await raise_epoch(database, "orders", "test"))


async def ready(db: Database, count: int) -> list[uuid.UUID]:
    signals = [signal_of(size=D(1)) for _ in range(count)]
    await SignalStore(db).insert(signals)
    return [signal.id for signal in signals]


def made(signal_id: uuid.UUID | None, **changes: object) -> Order:
    return replace(
        an_order(), client_order_id=uuid.uuid4().hex, signal_id=signal_id, created_ns=NOW, updated_ns=NOW, **changes
    )  # type: ignore[arg-type]


def first(order: Order) -> EventRow:
    return EventRow(
        order.client_order_id, "send:1:1", "IntendedAndSent", None, order.state, "us", NOW, 1, payload={"n": D(1)}
    )


async def place(journal: OrderJournal, order: Order, *others: Order, stopped_by: str = "held flatten") -> Placed:
    orders = [order, *others]
    return await journal.place(
        orders, [first(each) for each in orders], signal_id=order.signal_id, now_ns=NOW, stopped_by=stopped_by.split()
    )


async def test_journal_has_an_event_as_it_was_received(journal: OrderJournal, database: Database) -> None:
    order = made(None)
    await place(journal, order)
    written = first(order)
    assert await journal.has([written])
    assert not await journal.has([replace(written, recv_ns=NOW + 1000)]), "the same execution, seen again"
    assert not await journal.has([replace(written, event_id="send:1:2"), first(made(None))])
    await raise_epoch(database, "orders", "test")
    with pytest.raises(StaleEpochError):
        await journal.has([written])


async def test_places_at_the_same_time_have_an_outcome_each(journal: OrderJournal, database: Database) -> None:
    signals = await ready(database, 4)
    orders = [made(signal_id) for signal_id in signals]
    again = made(signals[0])
    leg = made(None, parent_id=orders[1].client_order_id, state=State.INTENDED)
    denied = replace(made(signals[3]), state=State.DENIED, code="BALANCE", detail="too little")
    found = await asyncio.gather(
        place(journal, orders[0]),
        place(journal, orders[1], leg),
        place(journal, again),
        place(journal, orders[2]),
        journal.deny(denied, first(denied), signal_id=signals[3], now_ns=NOW),
    )
    names = [order.client_order_id for order in orders]
    assert found == [
        Placed(True, False, (names[0],)),
        Placed(True, False, (names[1], leg.client_order_id)),
        Placed(False, False, ()),
        Placed(True, False, (names[2],)),
        Placed(True, False, (denied.client_order_id,)),
    ]
    states = [(await SignalStore(database).get(signal)).signal.state.value for signal in signals]  # type: ignore[union-attr]
    assert states == ["ordered", "ordered", "ordered", "denied"]
    store = OrderStore(database)
    assert await store.get(leg.client_order_id) == leg
    assert await store.get(again.client_order_id) is None
    (event,) = await store.events(names[2])
    assert (event.event, event.payload) == ("IntendedAndSent", {"n": "1"})
    later = await asyncio.gather(place(journal, made(signals[0])), place(journal, made(None)))
    assert [each.is_taken for each in later] == [False, True]


async def test_copies_are_inserted_with_the_order_of_their_signal_or_not_at_all(
    journal: OrderJournal, database: Database
) -> None:
    signals = await ready(database, 3)
    copies = [signal_of(size=D(number + 1), ts_event_ns=NOW, stop_loss=D("9.5"), reason="copy") for number in range(3)]
    await database.sql("UPDATE signals SET state = 'denied' WHERE id = $1", signals[1])

    async def placed(number: int) -> Placed:
        order = made(signals[number])
        copy = [copies[number]]
        return await journal.place(
            [order], [first(order)], signal_id=signals[number], now_ns=NOW, stopped_by=["held", "flatten"], copies=copy
        )

    found = await asyncio.gather(placed(0), placed(1), placed(2), place(journal, made(None)))
    assert [each.is_taken for each in found] == [True, False, True, True]
    await database.sql("INSERT INTO kill_switch (kill_id, reason) VALUES ('k', 'test')")
    assert not (await placed(1)).is_taken
    stored = [await SignalStore(database).get(copy.id) for copy in copies]
    assert [None if record is None else record.signal for record in stored] == [copies[0], None, copies[2]]


@pytest.mark.parametrize(
    ("report", "mode", "other"), [("{}", "flatten", "held"), ('{"flatten": false}', "held", "flatten")]
)
async def test_kill_switch_stops_what_its_mode_stops(
    journal: OrderJournal, database: Database, report: str, mode: str, other: str
) -> None:
    signals = await ready(database, 4)
    await database.sql(f"INSERT INTO kill_switch (kill_id, report) VALUES ('k', '{report}')")
    orders = [made(signal) for signal in signals]
    alone = await place(journal, orders[0])
    found = await asyncio.gather(
        place(journal, orders[1]),
        place(journal, orders[2], stopped_by=other),
        place(journal, orders[3], stopped_by=mode),
        place(journal, made(None), stopped_by=""),
    )
    assert [alone.is_killed, *(each.is_killed for each in found)] == [True, True, False, True, False]
    assert [alone.is_taken, *(each.is_taken for each in found)] == [False, False, True, False, True]
    assert {row["state"] for row in await database.sql("SELECT state FROM signals WHERE id <> $1", signals[2])} == {
        "ready"
    }


@pytest.mark.parametrize(
    ("scope", "stopped"),
    [
        ("strategy:sma-btc", [0]),
        ("strategy:sma", [0, 1]),
        ("account:2", [2]),
        ("venue:ccxt", [0, 1, 2]),
        ("system", [0, 1, 2, 3]),
        ("pair:BTCUSDT", [0, 1, 2, 3]),  # not understood: the whole system
    ],
)
async def test_kill_stops_the_orders_of_its_scope(
    journal: OrderJournal, database: Database, scope: str, stopped: list[int]
) -> None:
    places = [("ccxt", 1, "sma-btc", "sma"), ("ccxt", 1, "sma-eth", "sma"), ("ccxt", 2, "", ""), ("paper", 1, "", "")]
    await database.sql("INSERT INTO kill_switch (kill_id, scope) VALUES ('k', $1)", scope)

    async def placed(venue: str, account_id: int, instance: str, strategy: str) -> Placed:
        order = made(None, venue=venue, account_id=account_id, instance=instance)
        return await journal.place(
            [order], [first(order)], signal_id=None, now_ns=NOW, stopped_by=["held", "flatten"], names=[strategy]
        )

    alone = [await placed(*place) for place in places]
    together = await asyncio.gather(*(placed(*place) for place in places))
    for found in (alone, together):
        assert [number for number, each in enumerate(found) if each.is_killed] == stopped
        assert [number for number, each in enumerate(found) if not each.placed] == stopped


@pytest.mark.parametrize(
    "scope",
    ["strategy:a\nb", "strategy:a", "strategy:\n", "strategy: a", "strategy:A", "\nvenue:x", " strategy:x", "Strategy:x",
     "strategy:", "venue:ccxt ", "strategy:a:b/c%2F?\"\\", "", "\uff53trategy:x", "account:01"],
)  # fmt: skip
async def test_statement_and_policy_take_a_text_for_the_same_scope(
    journal: OrderJournal, database: Database, scope: str
) -> None:
    await database.sql("INSERT INTO kill_switch (kill_id, scope) VALUES ('k', $1)", scope)
    for instance in ["a\nb", "a", 'a:b/c%2F?"\\']:
        orders = [made(None, venue="ccxt", account_id=1, instance=instance) for _ in range(3)]
        alone, *together = [
            await place(journal, orders[0]),
            *await asyncio.gather(*(place(journal, o) for o in orders[1:])),
        ]
        expected = KillScope.parse(scope).contains("ccxt", 1, instance)
        assert [each.is_killed for each in (alone, *together)] == [expected] * 3


async def test_newer_epoch_refuses_every_item(journal: OrderJournal, database: Database) -> None:
    signals = await ready(database, 3)
    await raise_epoch(database, "orders", "successor")
    found = await asyncio.gather(*(place(journal, made(signal)) for signal in signals), return_exceptions=True)
    assert [type(each) for each in found] == [StaleEpochError] * 3
    with pytest.raises(StaleEpochError):  # alone: a statement of its own
        await place(journal, made(signals[0]))
    assert await database.sql("SELECT 1 FROM orders") == []


async def test_row_that_the_server_refuses_ends_alone(journal: OrderJournal, database: Database) -> None:
    signals = await ready(database, 4)
    orders = [made(signal) for signal in signals]
    orders[2] = replace(orders[2], account_id=99)  # no such account
    found = await asyncio.gather(*(place(journal, order) for order in orders), return_exceptions=True)
    assert isinstance(found[2], asyncpg.ForeignKeyViolationError)
    assert [each.is_taken for each in found if isinstance(each, Placed)] == [True, True, True]


async def test_applies_at_the_same_time_have_an_outcome_each(journal: OrderJournal, database: Database) -> None:
    orders = [made(signal) for signal in await ready(database, 4)]
    for order in orders:
        await place(journal, order)
    fills = [replace(a_fill(n, quantity=D(10)), client_order_id=o.client_order_id) for n, o in enumerate(orders)]
    done = [
        replace(o, state=State.FILLED, filled=D(10), sent_ns=NOW, venue_order_id=str(n)) for n, o in enumerate(orders)
    ]

    def changes(number: int, fill_number: int) -> OrderChanges:
        order = done[number]
        position = Position(1, "ccxt", f"S{number}", "one", D(10), D(100), D(0), D(0), NOW)
        event = EventRow(
            order.client_order_id, f"fill:{number}", "FillSeen", State.SENDING, State.FILLED, "rest", NOW, 1
        )
        return OrderChanges(
            [order],
            [event],
            [ExecutionRow(fills[fill_number], "one", D(0))],
            [position, replace(position, quantity=D(9))],
        )

    assert await journal.apply(changes(0, 0))
    stranger = made(None)
    found = await asyncio.gather(
        journal.apply(changes(1, 1)),
        journal.apply(changes(2, 0)),  # this execution is booked already
        journal.apply(OrderChanges([stranger])),
        journal.apply(changes(3, 3)),
        return_exceptions=True,
    )
    assert [found[0], found[1], found[3]] == [True, False, True]
    assert isinstance(found[2], BugError)
    store = OrderStore(database)
    assert [(await store.get(o.client_order_id)) for o in done[:2]] == done[:2]
    assert await store.get(orders[2].client_order_id) == orders[2]
    held = {row["symbol"]: row["quantity"] for row in await database.sql("SELECT symbol, quantity FROM positions")}
    assert held == {"S0": D(9), "S1": D(9), "S3": D(9)}
    assert len(await database.sql("SELECT 1 FROM trades")) == 3
