"""Orders of ours that a restored database does not have: one page each, and no entry in their symbol, until a person
closes their incidents."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fks.clock import RealClock
from fks.model.ids import client_order_id
from fks.model.order import Fill, Lookup, OrderType, Presence, Role, State
from fks.model.signal import Kind
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.incidents import Incident, IncidentStore, Resolution
from fks.store.orders import OrderStore
from fks.trading.order_manager import lost_orders
from tests.support.invariants import assert_journal
from tests.support.local_exchange import LocalExchange
from tests.support.order_rig import Rig, seed
from tests.support.order_values import an_order
from tests.support.outage_rig import venue_of
from tests.support.scripted_venue import ScriptedVenue
from tests.support.waiting import until

D = Decimal


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_orders, "GRACE_S", 0.3)


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalExchange]:
    found = LocalExchange(Path(tmp_path_factory.mktemp("exchange")), ("--rate-limits", "off")).start()
    yield found
    found.stop()


@pytest.fixture
async def wire(database: Database, bus: Bus, exchange: LocalExchange) -> AsyncIterator[Rig]:
    """A rig at the local exchange."""
    await seed(database)
    venue = venue_of(exchange)
    price = await venue.last_price("BTCUSDT")
    await database.sql("UPDATE instruments SET lot_step = 0.00001, qty_min = 0.00001 WHERE symbol = 'BTCUSDT'")
    await database.sql("UPDATE feeds SET last_price = $1 WHERE symbol = 'BTCUSDT'", price)
    rig = Rig(database, bus, ScriptedVenue(), venues={"ccxt": venue})
    yield await rig.start()
    await rig.stop()


async def restore_older(db: Database, instance: str) -> None:
    """Make the database one of before the orders of an instance, as a restored backup is."""
    rows = await db.sql("SELECT client_order_id FROM orders WHERE instance = $1", instance)
    for table in ("order_events", "trades", "orders"):
        ids = [row["client_order_id"] for row in rows]
        await db.sql(f"DELETE FROM {table} WHERE client_order_id = ANY($1::text[])", ids)
    for table in ("positions", "signals"):
        await db.sql(f"DELETE FROM {table} WHERE instance = $1", instance)


async def paged(rig: Rig, count: int) -> list[str]:
    """Wait for the pages about lost orders; return the client ids, sorted."""

    async def found() -> list[str]:
        rows = await rig.db.sql("SELECT payload FROM alerts WHERE event = 'order.lost' AND severity = 'page'")
        return sorted(row["payload"]["client_order_id"] for row in rows)

    async def are_there() -> bool:
        return len(await found()) >= count

    await until(are_there)
    before = rig.service.cache.venues["ccxt"].compares_done
    await until(lambda: rig.service.cache.venues["ccxt"].compares_done >= before + 2)
    return await found()


async def open_incidents(rig: Rig) -> list[Incident]:
    return [item for item in await IncidentStore(rig.db).page(is_open=True) if item.kind == "order"]


async def close(rig: Rig, resolution: Resolution) -> None:
    """Close all incidents in a person's name."""
    for item in await open_incidents(rig):
        now_ns = rig.clock.now_ns()
        await IncidentStore(rig.db).close(item.id, by="ann", resolution=resolution, reason="I looked", now_ns=now_ns)


async def are_settled(rig: Rig) -> None:
    """Wait until no entry is denied for a lost order."""
    await until(lambda: not rig.service.cache.venues["ccxt"].lost)


async def entry(rig: Rig, **changes: Any) -> tuple[str, str | None]:
    return await rig.outcome(await rig.signal(Kind.ENTER, **changes))


async def test_a_position_of_after_the_backup_is_adopted(wire: Rig, exchange: LocalExchange) -> None:
    """With its stop: nothing is sent again, exits go on meanwhile, and the books are the exchange's again."""
    venue = wire.venues["ccxt"]  # type: ignore[index]
    price = await venue.last_price("BTCUSDT")
    assert price is not None
    before, after = (
        await wire.signal(reference_price=price),
        await wire.signal(reference_price=price, instance="two", stop_loss=round(price * D("0.8"), 2)),
    )
    for signal in (before, after):
        assert await wire.outcome(signal) == ("ordered", None)
        await wire.becomes((await wire.entry(signal)).client_order_id, State.FILLED)
    bought = (await wire.entry(after)).client_order_id

    def stops() -> list[str]:
        return [row["clientOrderId"] for row in exchange.account()["open_orders"]]

    await until(stops)
    (stop,), quantity = stops(), await wire.position("two")
    await wire.crash()
    await venue.close()
    await restore_older(wire.db, "two")
    second = venue_of(exchange)
    await wire.restart(venues={"ccxt": second}, ask_before_ns=RealClock().now_ns())
    assert await entry(wire, reference_price=price) == ("denied", "INCIDENT_OPEN")
    assert await paged(wire, 2) == sorted([bought, stop])
    assert "order.external" not in wire.log.events("warning")
    details = {item.subject: item.detail for item in await open_incidents(wire)}
    assert "BTCUSDT, buy " in details[bought]
    assert "BTCUSDT, sell " in details[stop]

    leave = await wire.signal(Kind.EXIT)
    assert await wire.outcome(leave) == ("ordered", None)
    await wire.becomes((await wire.entry(leave)).client_order_id, State.FILLED)
    assert await wire.position("one") < D("0.00001")

    await wire.crash()
    await second.close()
    await wire.restart(venues={"ccxt": venue_of(exchange)})
    assert await entry(wire, reference_price=price) == ("denied", "INCIDENT_OPEN")
    assert await paged(wire, 2) == sorted([bought, stop])

    await close(wire, Resolution.ADOPTED)
    await are_settled(wire)
    assert (await wire.becomes(bought, State.FILLED)).detail == "restored: ann, adopted: I looked"
    await wire.becomes(stop, State.ACCEPTED, State.WORKING)
    await until(lambda: wire.position_is(quantity, ""))
    assert stops() == [stop]

    async def are_over() -> bool:
        return not await wire.db.sql("SELECT 1 FROM alerts WHERE event = 'order.lost' AND resolved_at IS NULL")

    await until(are_over)  # the publisher writes them behind the incident
    signal = await wire.signal(reference_price=price)
    assert await wire.outcome(signal) == ("ordered", None)
    await wire.becomes((await wire.entry(signal)).client_order_id, State.FILLED)
    await OrderStore(wire.db).want_cancel(stop, by="ann", now_ns=wire.clock.now_ns())
    await wire.becomes(stop, State.CANCELLED)
    received = [row["clientOrderId"] for row in exchange.account()["orders"]]
    assert (received.count(bought), received.count(stop)) == (1, 1)

    async def is_booked() -> bool:
        return await wire.held() == (await wire.venues["ccxt"].balances())["BTC"].total  # type: ignore[index]

    await until(is_booked)  # what nobody had explained counted as external until the next comparison
    await assert_journal(wire.db)


async def test_orders_of_another_system_are_explained(rig: Rig) -> None:
    """Its executions are external, what rests stays there, and neither pages again after a restart."""
    names = [client_order_id(uuid.uuid4(), Role.ENTRY) for _ in range(2)]
    await rig.venue.submit(an_order(quantity=D(3), client_order_id=names[0]))
    await rig.venue.submit(an_order(quantity=D(1), client_order_id=names[1], type=OrderType.LIMIT, price=D(50)))
    await until(lambda: rig.service.cache.venues["ccxt"].lost)
    assert await entry(rig) == ("denied", "INCIDENT_OPEN")
    assert await entry(rig, symbol="ETHUSDT", size=D(1), reference_price=D(10)) == ("ordered", None)
    assert await paged(rig, 2) == sorted(names)
    await close(rig, Resolution.EXPLAINED)
    await are_settled(rig)
    await until(lambda: rig.position_is(D("2.997"), "external"))
    for _ in range(2):
        assert await entry(rig) == ("ordered", None)
        await rig.restart()
    assert await paged(rig, 2) == sorted(names)
    assert [held.order.client_order_id for held in rig.venue.live()] == [names[1]]
    assert await open_incidents(rig) == []


async def test_executions_that_were_explained_while_nothing_ran_are_booked(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the newest execution of the symbol came long after: the venue is asked from the order's time on, once
    and not at each comparison."""
    asked, list_ = list[int](), rig.venue.fills_since

    async def fills_since(symbol: str, since_ns: int) -> list[Fill]:
        if symbol == "BTCUSDT":
            asked.append(since_ns)
        return [fill for fill in await list_(symbol, since_ns) if fill.time_ns >= since_ns]

    async def compared() -> int:
        before, asked[:] = rig.service.cache.venues["ccxt"].compares_done, []
        await until(lambda: rig.service.cache.venues["ccxt"].compares_done >= before + 2)
        return min(asked)

    monkeypatch.setattr(rig.venue, "fills_since", fills_since)
    signal = await rig.signal()
    assert await rig.outcome(signal) == ("ordered", None)
    await rig.becomes((await rig.entry(signal)).client_order_id, State.FILLED)
    name = client_order_id(uuid.uuid4(), Role.ENTRY)
    await rig.venue.submit(an_order(quantity=D(3), client_order_id=name))
    assert await paged(rig, 1) == [name]
    await rig.db.sql("UPDATE trades SET time = time + interval '1 day'")
    (lost_ns,) = [fill.time_ns for fill in rig.venue.trades if fill.client_order_id == name]
    await rig.crash()
    asked.clear()
    await rig.start()
    assert min(asked) <= lost_ns
    assert await compared() > lost_ns
    await rig.crash()
    await close(rig, Resolution.EXPLAINED)
    await rig.start()
    await until(lambda: rig.position_is(D("2.997"), "external"))
    await until(lambda: rig.db.sql("SELECT 1 FROM trades WHERE instance = 'external' AND quantity = 3"))
    await are_settled(rig)
    await compared()
    assert await rig.held() == rig.venue.totals["BTC"]


async def test_an_order_that_the_venue_does_not_describe_pages(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an incident no person could end the denial. It is adopted once the venue answers."""
    name = client_order_id(uuid.uuid4(), Role.ENTRY)

    async def query(symbol: str, client_order_id: str) -> Lookup:
        return Lookup(Presence.NO_ANSWER, detail="busy")

    with monkeypatch.context() as patch:
        patch.setattr(rig.venue, "query", query)
        await rig.venue.submit(an_order(quantity=D(3), client_order_id=name))
        assert await paged(rig, 1) == [name]
        (found,) = await open_incidents(rig)
        assert "buy 3" in found.detail
        await close(rig, Resolution.ADOPTED)
        before = rig.service.cache.venues["ccxt"].compares_done
        await until(lambda: rig.service.cache.venues["ccxt"].compares_done >= before + 2)
        assert await OrderStore(rig.db).get(name) is None
    answer, asked_from = rig.venue.query, set[int]()

    async def noted(symbol: str, client_order_id: str, since_ns: int = 0) -> Lookup:
        asked_from.add(since_ns)
        return await answer(symbol, client_order_id, since_ns)

    monkeypatch.setattr(rig.venue, "query", noted)
    await rig.becomes(name, State.FILLED)
    await until(lambda: rig.position_is(D("2.997"), ""))
    assert asked_from == {0}, "it may be older than the times that the venue showed"


@pytest.mark.parametrize("is_forgotten", [False, True])
async def test_an_order_that_ended_while_nothing_ran(rig: Rig, is_forgotten: bool) -> None:
    """Its incident denies entries from the start on, also when it was closed meanwhile. One that the venue forgot cannot
    be adopted: a person has to explain it."""
    name = client_order_id(uuid.uuid4(), Role.ENTRY)
    rig.venue.script.append("rest")
    await rig.venue.submit(an_order(quantity=D(3), client_order_id=name))
    assert await paged(rig, 1) == [name]
    await rig.crash()
    await close(rig, Resolution.ADOPTED)
    rig.venue.streams_fills = False
    rig.venue.fill(name, D(3))
    rig.venue.history_hidden = is_forgotten
    rig.venue.hidden[name] = 1_000_000 if is_forgotten else 0
    await rig.start()
    if is_forgotten:
        (again,) = await until(lambda: open_incidents(rig))
        assert (again.subject, "shows nothing any more" in again.detail) == (name, True)
        assert await entry(rig) == ("denied", "INCIDENT_OPEN")
        await close(rig, Resolution.EXPLAINED)
    else:
        await rig.becomes(name, State.FILLED)
        await until(lambda: rig.position_is(D("2.997"), ""))
    await are_settled(rig)
    assert await entry(rig) == ("ordered", None)
