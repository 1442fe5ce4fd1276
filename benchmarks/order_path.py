"""The durable statement of an order against its floor, and a signal's way from the order manager to the venue's call.

    python benchmarks/order_path.py [count] [--in-memory]

The floor is two inserts into tables with the same columns and indexes as orders and order_events, as one prepared
statement on one connection: one transaction, synchronous_commit on. The statement is that of the order manager's
journal before the bytes: it takes the signal, checks lease and kill switch, writes order and event. Both alternate on
one embedded server on a disk with fsync on, and so do journals of orders with two protective legs. Then signals go one
by one through the order manager with a venue that answers at once. Last, the way to the first byte at the local
exchange: the chain is the journal's statement and then our own Binance session, without an order manager; the order
manager with our own session and with ccxt is measured against it. Both pause 20 ms between two signals, and the signal
is inserted at once before: a process that waited, PostgreSQL's too, is slower to begin than one that is kept busy.
`order_burst.py` measures signals a second. Before anything is timed, the rows of the floor and of the journal are
compared for the same order, and the orders that the exchange received on each way; exits 1 when they differ. With
`--in-memory` the server's files lie in memory, where an fsync costs nothing: what remains is computing, so the
multiples are the highest there are."""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
import uuid
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the rigs of the tests, however this is started

from benchmarks._results import run, same
from fks.clock import RealClock
from fks.config.settings import DatabaseSettings, Risk
from fks.model.order import Order, OrderType, Outcome, Role, State
from fks.risk.policy import Action, stopped_by
from fks.store import migrate
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.leases import raise_epoch
from fks.store.order_rows import EVENT, ORDER
from fks.store.orders import EventRow, OrderJournal
from fks.store.signals import SignalStore
from fks.venues.binance.config import SessionConfig
from fks.venues.binance.session import BinanceVenue
from fks.venues.binance.venue import SpotVenue
from fks.venues.ccxt import CcxtVenue
from tests.support import servers
from tests.support.local_exchange import LocalExchange
from tests.support.order_rig import FAST, Rig, seed, signal_of
from tests.support.order_values import an_order
from tests.support.ports import CollectingLog
from tests.support.scripted_venue import ScriptedVenue

D = Decimal
STOPPED = stopped_by(Action.ENTRY)
SETTINGS = FAST.model_copy(
    update={
        "risk": Risk(
            feed_age_max_s=36000,
            orders_per_minute=10**6,
            exposure_max_instrument=D(10**9),
            exposure_max_account=D(10**9),
            loss_day_max=D(10**9),
        ),
    }
)
WARM = 30
PAUSE_S = 0.02  # between two signals
ANSWER_S = 5.0


def shown(name: str, seconds: list[float], floor: list[float]) -> str:
    """Return one line: median and 99th percentile in ms, and the median as a multiple of the floor's."""
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    ratio = statistics.median(ordered) / statistics.median(floor)
    return (
        f"{name:<52} p50 {statistics.median(ordered) * 1e3:7.3f} ms   p99 {p99 * 1e3:7.3f} ms   x floor "
        f"{ratio:5.2f}   n {len(ordered)}"
    )


def floor_statement() -> str:
    """Return the two inserts."""
    order, event = ORDER.parameters(1), EVENT.parameters(1 + len(ORDER.columns))
    return (
        f"WITH o AS (INSERT INTO floor_orders ({ORDER.names}) VALUES ({order}))"
        f" INSERT INTO floor_events ({EVENT.names}) VALUES ({event})"
    )


def made(signal_id: uuid.UUID | None, **changes: Any) -> tuple[Order, EventRow]:
    """Return an order and its first event."""
    now = time.time_ns()
    order = replace(
        an_order(),
        client_order_id=uuid.uuid4().hex,
        intent_id=uuid.uuid4(),
        signal_id=signal_id,
        created_ns=now,
        updated_ns=now,
        trace_id="trace",
        **changes,
    )
    return order, EventRow(order.client_order_id, "send:1:1", "IntendedAndSent", None, order.state, "us", now, 1)


async def statements(db: Database, count: int) -> tuple[list[float], list[float], list[float]]:
    """Return the seconds of the floor, of placing one order, and of placing one with two legs."""
    for table, like in (("floor_orders", "orders"), ("floor_events", "order_events")):
        await db.sql(f"CREATE TABLE {table} (LIKE {like} INCLUDING ALL)")
    journal = OrderJournal(db, lease="orders", epoch=await raise_epoch(db, "orders", "bench"))
    signals = [signal_of(size=D(1)) for _ in range(2 * (count + WARM) + 1)]
    for start in range(0, len(signals), 2000):
        await SignalStore(db).insert(signals[start : start + 2000])
    ids = iter(signal.id for signal in signals)
    floor, one, three = list[float](), list[float](), list[float]()
    async with db.acquire() as connection:
        bare = await connection.prepare(floor_statement())
        order, event = made(next(ids))
        await bare.fetchval(*ORDER.values(order), *EVENT.values(event))
        await journal.place([order], [event], signal_id=order.signal_id, now_ns=order.created_ns, stopped_by=STOPPED)
        await compare_rows(db, order.client_order_id)
        for _ in range(count + WARM):
            order, event = made(None)
            start_s = time.perf_counter()
            await bare.fetchval(*ORDER.values(order), *EVENT.values(event))
            floor.append(time.perf_counter() - start_s)
            order, event = made(next(ids))
            start_s = time.perf_counter()
            placed = await journal.place(
                [order], [event], signal_id=order.signal_id, now_ns=order.created_ns, stopped_by=STOPPED
            )
            one.append(time.perf_counter() - start_s)
            assert placed.placed == (order.client_order_id,)
            order, event = made(next(ids))
            legs = [
                made(order.signal_id, role=role, state=State.INTENDED, parent_id=order.client_order_id)
                for role in (Role.STOP_LOSS, Role.TAKE_PROFIT)
            ]
            orders, events = [order, *(leg for leg, _ in legs)], [event, *(row for _, row in legs)]
            start_s = time.perf_counter()
            placed = await journal.place(
                orders, events, signal_id=order.signal_id, now_ns=order.created_ns, stopped_by=STOPPED
            )
            three.append(time.perf_counter() - start_s)
            assert len(placed.placed) == 3
    await db.sql("DELETE FROM orders")
    return floor[WARM:], one[WARM:], three[WARM:]


async def compare_rows(db: Database, client_order_id: str) -> None:
    """Compare the floor's rows of an order and its event with the journal's."""
    for theirs, ours, names in (
        ("floor_orders", "orders", ORDER.names),
        ("floor_events", "order_events", EVENT.names),
    ):
        rows = [
            [
                dict(row)
                for row in await db.sql(f"SELECT {names} FROM {table} WHERE client_order_id = $1", client_order_id)
            ]
            for table in (ours, theirs)
        ]
        same(f"the rows of {ours}", *rows)


def compare_received(exchange: LocalExchange, count: int) -> None:
    """Compare the last orders that the exchange received: each under an id of its own, all else alike."""
    bodies = [row["params"] for row in exchange.received(path="/api/v3/order", method="POST")[-count:]]
    same("the orders received", len({body["newClientOrderId"] for body in bodies}), count)
    wanted = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": D("0.001")}
    for body in bodies:
        same("an order received", {**{name: body[name] for name in wanted}, "quantity": D(body["quantity"])}, wanted)


def session(kind: type[BinanceVenue] | type[CcxtVenue], exchange: LocalExchange) -> SpotVenue:
    """Return a session at the local exchange."""
    info = exchange.info
    config = SessionConfig(
        info["api_key"], info["api_secret"], rest_url=info["rest"], ws_url=info["ws"], ws_api_url=info["ws_api"]
    )
    return kind(config, RealClock(), CollectingLog())


async def chain(db: Database, exchange: LocalExchange, count: int) -> list[float]:
    """Return the seconds from a signal to the first byte of its order: the journal's statement, then our session."""
    journal = OrderJournal(db, lease="bench", epoch=await raise_epoch(db, "bench", "bench"))
    venue, seconds = session(BinanceVenue, exchange), list[float]()
    await venue.open()
    try:
        for number in range(count + WARM):
            if number == WARM:
                compare_received(exchange, WARM)
            await asyncio.sleep(PAUSE_S)
            signal = signal_of(size=D("0.001"))
            await SignalStore(db).insert([signal])
            order, event = made(signal.id, quantity=D("0.001"), price=None, type=OrderType.MARKET)
            start_ns = time.time_ns()
            await journal.place([order], [event], signal_id=signal.id, now_ns=order.created_ns, stopped_by=STOPPED)
            answer = await venue.submit(order)
            assert answer.outcome is Outcome.ACK, answer
            assert answer.sent_ns is not None
            seconds.append((answer.sent_ns - start_ns) / 1e9)
    finally:
        await venue.close()
        await db.sql("DELETE FROM orders")
    return seconds[WARM:]


async def one_by_one(rig: Rig, count: int, size: Decimal) -> None:
    """Give the order manager signals, each 20 ms after the venue answered the order of the one before it.

    The answer is read from the meter: a poll of the database would be a load of its own. A signal without an answer
    within some seconds (denied, or ambiguous) is printed with what became of it, and is no sample.
    """
    for _ in range(count):
        answered, deadline = _answered(rig), time.monotonic() + ANSWER_S
        id = await rig.signal(size=size)
        while _answered(rig) == answered:
            if time.monotonic() > deadline:
                found = await rig.db.sql(
                    "SELECT s.state AS signal, s.code, s.detail, o.state AS order, o.code AS answer, o.detail AS text"
                    "  FROM signals s LEFT JOIN orders o ON o.signal_id = s.id WHERE s.id = $1",
                    id,
                )
                print(f"no answer within {ANSWER_S:g} s: {[dict(row) for row in found]}")
                break
            await asyncio.sleep(0.002)
        await asyncio.sleep(PAUSE_S)


def _answered(rig: Rig) -> int:
    return len(rig.meter.observed.get("fks_order_send_seconds", ()))


async def through_manager(db: Database, bus: Bus, venue: SpotVenue, exchange: LocalExchange, count: int) -> list[float]:
    """Return the seconds from the claim of a signal to the first byte of its order, sent by an order manager."""
    rig = Rig(db, bus, ScriptedVenue(), settings=SETTINGS, venues={"ccxt": venue})
    await rig.start()
    try:
        await one_by_one(rig, WARM, D("0.001"))
        compare_received(exchange, WARM)
        await one_by_one(rig, count, D("0.001"))
    finally:
        await rig.stop()
    return rig.meter.observed["fks_order_send_seconds"][WARM:]


async def to_first_byte(db: Database, bus: Bus, folder: Path, count: int) -> None:
    """Print the way to the first byte at the local exchange: the chain, the order manager, and that on ccxt."""
    exchange = LocalExchange(folder, ["--rate-limits", "off", "--balance", "USDT=100000000"]).start()
    try:
        asked = session(BinanceVenue, exchange)
        price = await asked.last_price("BTCUSDT")
        await asked.close()
        await db.sql("UPDATE instruments SET lot_step = 0.00001, qty_min = 0.00001 WHERE symbol = 'BTCUSDT'")
        await db.sql("UPDATE feeds SET last_price = $1 WHERE symbol = 'BTCUSDT'", price)
        floor = await chain(db, exchange, count)
        print(shown("chain: the statement, then our session's first byte", floor, floor))
        for name, kind in (("our own session", BinanceVenue), ("ccxt", CcxtVenue)):
            seconds = await through_manager(db, bus, session(kind, exchange), exchange, count)
            print(shown(f"in the order manager: claim to first byte, {name}", seconds, floor))
    finally:
        exchange.stop()


async def main(count: int, is_on_disk: bool = True) -> None:
    with (
        servers.home(is_on_disk=is_on_disk) as paths,
        servers.running_postgres(paths, is_durable=True) as postgres,
        servers.running_redis(paths) as redis,
    ):
        await migrate.upgrade(postgres.url())
        db = await Database.connect(postgres.url(), DatabaseSettings(), application="bench")
        await seed(db)
        await db.sql("UPDATE strategy_instances SET pyramiding = 1000000")
        floor, one, three = await statements(db, count)
        print(shown("floor: two inserts, same columns and indexes", floor, floor))
        print(shown("journal: one order, its event, the signal's outcome", one, floor))
        print(shown("journal: the same with two protective legs", three, floor))
        venue = ScriptedVenue(totals={"USDT": D(10**12)}, fee_rate=D(0))
        rig = await Rig(db, await Bus.connect(redis.url()), venue, settings=SETTINGS).start()
        await one_by_one(rig, count + WARM, D(1))
        commit, send = (
            rig.meter.observed["fks_order_commit_seconds"][WARM:],
            rig.meter.observed["fks_order_send_seconds"][WARM:],
        )
        print(shown("in the order manager: the durable statement", commit, floor))
        print(shown("in the order manager: claim to the venue's call", send, floor))
        states = {row["state"] for row in await db.sql("SELECT DISTINCT state FROM signals")}
        same("the outcomes of the signals", states, {"ordered"})
        same("the orders at the venue", (len(venue.received), len(set(venue.received))), (count + WARM, count + WARM))
        await rig.stop()
        await db.sql("TRUNCATE orders, order_events, trades, positions, signals, venue_states, incidents CASCADE")
        await db.sql("UPDATE accounts SET environment = NULL, uid = NULL")
        with tempfile.TemporaryDirectory() as folder:
            await to_first_byte(db, await Bus.connect(redis.url()), Path(folder), count)
        await db.close()


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:] if argument.isdigit()]
    run(lambda: asyncio.run(main(numbers[0] if numbers else 300, "--in-memory" not in sys.argv)))
