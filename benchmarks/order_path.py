"""The durable statement of an order against its floor, and a signal's way from the order manager to the venue's call.

    python benchmarks/order_path.py [count] [--in-memory]

The floor is two inserts into tables with the same columns and indexes as orders and order_events, as one prepared
statement on one connection: one transaction, synchronous_commit on. The statement is that of the order manager's
journal before the bytes: it takes the signal, checks lease and kill switch, writes order and event. Both alternate on
one embedded server on a disk with fsync on, and so do journals of orders with two protective legs. Then signals go one
by one through the order manager with a venue that answers at once. Last, the way to the first byte at Binance (our own
session, and ccxt), Coinbase, Kraken and MetaTrader 5, each at a local peer: from the claim of a signal by the order
manager on, against the chain, in turn. The chain is the journal's statement and then the first byte of our own Binance
session, without an order manager; of MetaTrader 5 the statement and one call of a Ray actor until that has received the
order. There the bytes are those that the agent reads, through a link in a process of its own, and the part from the
call of the venue on is printed, too. Limits: 2.5 times the chain, 1.5 at MetaTrader 5.

Between two signals are 20 ms, and a signal is inserted at once before: a process that waited, PostgreSQL's too, is
slower to begin than one that is kept busy. `order_burst.py` measures signals a second. The rows of the floor and of the
journal are compared for the same order. Each order must have filled whole in the journal, under an id of its own, and
its peer must have received it once. Exits 1 when they differ, or a limit is missed. With `--in-memory` the server's
files lie in memory, where an fsync costs nothing: what remains is computing, so the multiples are the highest there
are."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the rigs of the tests, however this is started

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a Ray of our own on loopback; else it writes a token file
import ray

from benchmarks import ninja_path
from benchmarks._results import run, same
from fks.clock import RealClock
from fks.config.settings import DatabaseSettings, Risk
from fks.model.ninja import MT5
from fks.model.order import Order, OrderType, Outcome, Role, State
from fks.model.ports import Venue as VenuePort
from fks.model.timeframe import to_ns
from fks.store import migrate
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.leases import raise_epoch
from fks.store.order_rows import EVENT, ORDER
from fks.store.orders import EventRow, OrderJournal
from fks.store.signals import SignalStore
from fks.system.process.garbage import freeze_loaded
from fks.system.servers.embedded import PostgresServer
from fks.trading.order_manager.ninja_rows import NinjaRows
from fks.trading.risk.policy import Action, stopped_by
from fks.trading.venues.binance.config import SessionConfig
from fks.trading.venues.binance.session import BinanceVenue
from fks.trading.venues.binance.venue import SpotVenue
from fks.trading.venues.ccxt import CcxtVenue
from fks.trading.venues.ninja.venue import NinjaConfig, NinjaVenue
from tests.support import servers
from tests.support.dialect_rig import WIRES, Wire, exchange_of, session_at
from tests.support.dialect_rig import seed as seed_dialect
from tests.support.local_exchange import LocalExchange, wait_for_price
from tests.support.mt5_agent import ACCOUNT, ScriptedAgent
from tests.support.mt5_trading import seed as seed_mt5
from tests.support.order_rig import FAST, Rig, seed, signal_of
from tests.support.order_values import an_order
from tests.support.ports import CollectingLog
from tests.support.scripted_venue import ScriptedVenue
from tests.support.waiting import until

D = Decimal
STOPPED = stopped_by(Action.ENTRY)
SETTINGS = FAST.model_copy(
    update={
        "risk": Risk(
            feed_age_max_s=36000,
            mark_age_max_s=36000,  # the price is written once
            orders_per_minute=10**6,
            exposure_max_instrument=D(10**9),
            exposure_max_account=D(10**9),
            notional_max_order=D(10**9),
            loss_day_max=D(10**9),
        ),
    }
)
WARM = 30
FLAGS = ["--rate-limits", "off", "--balance", "USDT=100000000"]
PAUSE_S = 0.02  # between two signals
ANSWER_S = 5.0
LIMIT, MT5_LIMIT = 2.5, 1.5  # times the chain


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


def session(kind: type[BinanceVenue] | type[CcxtVenue], exchange: LocalExchange) -> SpotVenue:
    """Return a session at the local exchange."""
    info = exchange.info
    config = SessionConfig(
        info["api_key"], info["api_secret"], rest_url=info["rest"], ws_url=info["ws"], ws_api_url=info["ws_api"]
    )
    return kind(config, RealClock(), CollectingLog())


class Chain:
    """The least that an order costs: the statement of the journal, then `send`, which returns when the bytes left (ns).

    `seconds`: of each order, from the statement on.
    """

    def __init__(self, db: Database, epoch: int, send: Callable[[Order], Awaitable[int]]) -> None:
        self._db, self._send = db, send
        self._journal, self.seconds = OrderJournal(db, lease="bench", epoch=epoch), list[float]()

    async def order(self) -> None:
        """Insert a signal; journal and send its order."""
        signal = signal_of(size=D("0.001"))
        await SignalStore(self._db).insert([signal])
        order, event = made(signal.id, quantity=D("0.001"), price=None, type=OrderType.MARKET)
        start_ns = time.time_ns()
        await self._journal.place([order], [event], signal_id=signal.id, now_ns=start_ns, stopped_by=STOPPED)
        self.seconds.append((await self._send(order) - start_ns) / 1e9)


async def one_by_one(rig: Rig, count: int, chain: Chain | None = None, **signal: Any) -> None:
    """Give the order manager signals, each 20 ms after the venue answered the order of the one before it, with one order
    of the chain after each.

    The answer is read from the meter: a poll of the database would be a load of its own. A signal without an answer
    within some seconds (denied, or ambiguous) is printed with what became of it, and is no sample.
    """
    for _ in range(count):
        answered, deadline = _answered(rig), time.monotonic() + ANSWER_S
        id = await rig.signal(**signal)
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
        if chain is not None:
            await chain.order()
            await asyncio.sleep(PAUSE_S)


def _answered(rig: Rig) -> int:
    return len(rig.meter.observed.get("fks_order_send_seconds", ()))


async def filled(rig: Rig, quantity: Decimal, count: int) -> list[tuple[str, int]]:
    """Return id and time of the send (ns) of each order of the journal, oldest first, once so many have filled whole."""

    async def found() -> list[Any] | None:
        rows = await rig.db.sql("SELECT client_order_id, state, filled, sent_at FROM orders ORDER BY created_at")
        done = [row for row in rows if (row["state"], row["filled"]) == ("FILLED", quantity)]
        return done if len(done) >= count else None

    rows = await until(found, deadline_s=60)
    assert rows is not None
    same("the orders that filled", len({row["client_order_id"] for row in rows}), count)
    return [(row["client_order_id"], to_ns(row["sent_at"])) for row in rows]


@dataclass(frozen=True)
class Way:
    """The way to one venue. `received`: when its peer read the bytes of an order (ns), by id; None: the session says."""

    name: str
    venue: VenuePort
    place: dict[str, Any]  # venue, exchange, symbol and size of a signal
    limit: float
    received: Mapping[str, int] | None = None

    async def measure(self, db: Database, bus: Bus, chain: Chain, count: int) -> bool:
        """Print the time from the claim of a signal to the first byte, and that of the chain, which takes turns with it;
        return whether it is over the limit."""
        await db.sql("UPDATE strategy_instances SET pyramiding = 1000000")
        wanted = {"exchange": self.place["exchange"], "order_timeout_s": 3.0, "skew_limit_ms": 2000.0}
        settings = SETTINGS.model_copy(update={"venue": SETTINGS.venue.model_copy(update=wanted)})
        rig = Rig(db, bus, ScriptedVenue(), settings=settings, venues={self.place["venue"]: self.venue})
        await rig.start()
        freeze_loaded()  # as the order manager's process does when it has started
        try:
            await one_by_one(rig, WARM, chain, **self.place)
            await filled(rig, self.place["size"], WARM)
            chain.seconds.clear()
            await one_by_one(rig, count, chain, **self.place)
            rows = (await filled(rig, self.place["size"], WARM + count))[WARM:]
        finally:
            await rig.stop()
        ours = rig.meter.observed["fks_order_send_seconds"][WARM:]
        print(shown(f"{self.name}: the chain", chain.seconds, chain.seconds))
        if self.received is not None:  # the session returns once the request is answered
            later = [(self.received[id] - sent_ns) / 1e9 for id, sent_ns in rows]
            print(shown(f"{self.name}: the venue's call to the bytes at the peer", later, chain.seconds))
            ours = [send_s + more_s for send_s, more_s in zip(ours, later, strict=True)]
        print(shown(f"{self.name}: claim to first byte (limit {self.limit} x)", ours, chain.seconds))
        return statistics.median(ours) > self.limit * statistics.median(chain.seconds)


def compare_received(exchange: LocalExchange, path: str, count: int) -> None:
    """Compare the orders that an exchange received: so many, each under an id of its own."""
    made = [id for row in exchange.received(path=path, limit=1_000_000) for id in row["client_order_ids"]]
    same(f"the orders at {path}", (len(made), len(set(made))), (count, count))


async def at_binance(db: Database, bus: Bus, exchange: LocalExchange, folder: Path, chain: Chain, count: int) -> bool:
    """Measure our own session, at the exchange of the chain, and that over ccxt, at one of its own: an execution of
    ours without a row denies entries."""
    await seed(db)
    await db.sql("UPDATE instruments SET lot_step = 0.00001, qty_min = 0.00001 WHERE symbol = 'BTCUSDT'")
    place = {"venue": "ccxt", "exchange": "binance", "symbol": "BTCUSDT", "size": D("0.001")}
    apart = LocalExchange(folder / "ccxt", FLAGS).start()
    is_over = False
    try:
        for name, kind, at, orders in (
            ("binance", BinanceVenue, exchange, 2),  # the chain's beside
            ("binance over ccxt", CcxtVenue, apart, 1),
        ):
            price = D(wait_for_price(at, "BTCUSDT"))
            await db.sql("UPDATE feeds SET last_price = $1 WHERE symbol = 'BTCUSDT'", price)
            await db.sql("TRUNCATE orders, order_events, trades, positions, signals, venue_states, incidents CASCADE")
            await db.sql("UPDATE accounts SET environment = NULL, uid = NULL, network_epoch = NULL")
            is_over |= await Way(name, session(kind, at), place, LIMIT).measure(db, bus, chain, count)
            compare_received(at, "/api/v3/order", orders * (count + WARM))
    finally:
        apart.stop()
    return is_over


async def at_dialect(wire: Wire, db: Database, bus: Bus, folder: Path, chain: Chain, count: int) -> bool:
    """Measure the exchange of a dialect."""
    exchange = exchange_of(wire, folder)
    try:
        await seed_dialect(db, wire)
        await db.sql("UPDATE feeds SET last_price = $1", D(wait_for_price(exchange, "BTCUSDT")))
        place = {"venue": "ccxt", "exchange": wire.exchange, "symbol": wire.symbol, "size": D("0.001")}
        is_over = await Way(wire.exchange, session_at(wire, exchange), place, LIMIT).measure(db, bus, chain, count)
        compare_received(exchange, wire.add, count + WARM)
        return is_over
    finally:
        exchange.stop()


class TimedAgent(ScriptedAgent):
    """Keeps when the line of each signal was read: UTC ns by id."""

    def __init__(self) -> None:
        super().__init__()
        self.read_ns: dict[str, int] = {}

    def answers_to(self, found: dict[str, Any], opening: dict[str, Any]) -> list[dict[str, Any]]:
        if found["t"] == "signal":
            self.read_ns.setdefault(found["id"], time.time_ns())
        return super().answers_to(found, opening)


async def at_mt5(db: Database, bus: Bus, urls: tuple[str, str], chain: Chain, count: int) -> bool:
    """Measure MetaTrader 5: the bytes at a scripted agent, through a link in a process of its own."""
    async with TimedAgent() as agent:
        rows = NinjaRows(db, bus, None, RealClock())
        argv = [sys.executable, str(Path(ninja_path.__file__)), "--link", *urls, str(agent.port), MT5.name]
        process = await asyncio.create_subprocess_exec(*argv)
        try:
            async with asyncio.timeout(30.0):
                while (link := await rows.link(MT5.key(ninja_path.GROUP))) is None or not link.can_trade:
                    await asyncio.sleep(0.1)
            await seed_mt5(db)
            config = NinjaConfig(ninja_path.GROUP, ACCOUNT, account_id=1, name=MT5.name, platform=MT5)
            venue = NinjaVenue(config, rows, RealClock(), CollectingLog())
            place = {
                "venue": "mt5",
                "exchange": "mt5",
                "symbol": "EURUSD",
                "size": D("0.01"),
                "reference_price": D("1.1"),
            }
            is_over = await Way("mt5", venue, place, MT5_LIMIT, agent.read_ns).measure(db, bus, chain, count)
            same("the signals that the agent received", len(agent.lines("signal")), count + WARM)
            return is_over
        finally:
            process.kill()
            await process.wait()
            await rows.close()


async def ways(postgres: PostgresServer, bus: Bus, redis_url: str, count: int) -> bool:
    """Measure the way to each venue, each in a database of its own; return whether one is over its limit."""
    is_over = False
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))

        async def database(name: str) -> Database:
            await servers.administer(postgres, f"CREATE DATABASE {name} TEMPLATE bench_empty")
            made = await Database.connect(postgres.url(name), DatabaseSettings(), application=name)
            stack.push_async_callback(made.close)
            return made

        of_chain = await database("bench_chain")
        await seed(of_chain)
        epoch = await raise_epoch(of_chain, "bench", "bench")
        exchange = LocalExchange(folder / "binance", FLAGS).start()
        stack.callback(exchange.stop)
        least = session(BinanceVenue, exchange)
        await least.open()
        stack.push_async_callback(least.close)

        async def first_byte(order: Order) -> int:
            answer = await least.submit(order)
            assert answer.outcome is Outcome.ACK, answer
            assert answer.sent_ns is not None
            return answer.sent_ns

        chain = Chain(of_chain, epoch, first_byte)
        is_over |= await at_binance(await database("bench_binance"), bus, exchange, folder, chain, count)
        for wire in WIRES:
            db = await database(f"bench_{wire.exchange}")
            is_over |= await at_dialect(wire, db, bus, folder, chain, count)
        ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
        stack.callback(ray.shutdown)
        peer = ray.remote(RayPeer).remote()

        async def ray_hop(order: Order) -> int:
            received_ns: int = await peer.take.remote(order)
            return received_ns

        urls = postgres.url("bench_mt5"), redis_url
        is_over |= await at_mt5(await database("bench_mt5"), bus, urls, Chain(of_chain, epoch, ray_hop), count)
    return is_over


class RayPeer:
    """An actor that says when it received an order."""

    async def take(self, order: Order) -> int:
        return time.time_ns()


async def main(count: int, is_on_disk: bool = True) -> bool:
    """Measure and print; return whether a way is over its limit."""
    with (
        servers.home(is_on_disk=is_on_disk) as paths,
        servers.running_postgres(paths, is_durable=True) as postgres,
        servers.running_redis(paths) as redis,
    ):
        await migrate.upgrade(postgres.url())
        name = urlsplit(postgres.url()).path.strip("/")
        await servers.administer(postgres, f"CREATE DATABASE bench_empty TEMPLATE {name}")
        db = await Database.connect(postgres.url(), DatabaseSettings(), application="bench")
        await seed(db)
        await db.sql("UPDATE strategy_instances SET pyramiding = 1000000")
        floor, one, three = await statements(db, count)
        print(shown("floor: two inserts, same columns and indexes", floor, floor))
        print(shown("journal: one order, its event, the signal's outcome", one, floor))
        print(shown("journal: the same with two protective legs", three, floor))
        venue = ScriptedVenue(totals={"USDT": D(10**12)}, fee_rate=D(0))
        rig = await Rig(db, await Bus.connect(redis.url()), venue, settings=SETTINGS).start()
        await one_by_one(rig, count + WARM, size=D(1))
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
        await db.close()
        return await ways(postgres, await Bus.connect(redis.url()), redis.url(), count)


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:] if argument.isdigit()]
    run(lambda: asyncio.run(main(numbers[0] if numbers else 300, "--in-memory" not in sys.argv)))
