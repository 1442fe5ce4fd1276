"""SIGSTOP, a successor under a new epoch, SIGCONT: a zombie writes nothing and sends nothing, and ends by itself.

Witnesses: a proxy on the zombie's way to the exchange that notes every order and cancel it lets through, the exchange's
own log, and triggers on every table that note the writer (the name of its connection).
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest

from fks.model.order import OrderType, State
from fks.model.signal import Kind
from fks.model.timeframe import to_datetime
from fks.store.bus import BARS, WAKE, Bus
from fks.store.db import Database
from fks.store.leases import raise_epoch
from fks.store.orders import OrderStore
from tests.support import zombie_process
from tests.support.children import Child
from tests.support.invariants import assert_once
from tests.support.local_exchange import LocalExchange
from tests.support.order_rig import Rig, seed
from tests.support.scripted_venue import ScriptedVenue
from tests.support.soak_cases import soaked
from tests.support.strategies import EVERY_EDGE, add_account, add_instance, bars_of, seal
from tests.support.waiting import until
from tests.support.zombie_process import RENEW_S, TTL_S

ENDS_S = RENEW_S + 5.0  # one renewal, and the patience a loaded machine needs
WRITES = re.compile(rb"(POST|DELETE) /api/v3/order")


class Wire:
    """A proxy to the exchange that notes each order or cancel on its way out."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname, parts.port)
        self.seen: list[float] = []  # monotonic times
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        for work in (self._pump(reader, far_writer, is_out=True), self._pump(far_reader, writer, is_out=False)):
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_out: bool) -> None:
        try:
            while data := await reader.read(65536):
                if is_out:
                    self.seen.extend(time.monotonic() for _ in WRITES.findall(data))
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


class Process:
    """One life of a role; `pid` may be stopped and continued."""

    def __init__(self, process: Child) -> None:
        self._process = process
        self.pid = process.pid

    @staticmethod
    async def start(**given: Any) -> Process:
        process = Child(zombie_process.main, given, is_read=True)
        found = Process(process)
        reader = await process.reader()
        if not given.get("is_expected_to_stop"):
            async with asyncio.timeout(30):
                assert await reader.readline() == b"ready\n"
        return found

    async def stopped(self) -> None:
        await until(lambda: psutil.Process(self.pid).status() == psutil.STATUS_STOPPED, deadline_s=20)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    async def ends(self) -> int:
        async with asyncio.timeout(ENDS_S):
            return await self._process.ended()

    async def kill(self) -> None:
        self._process.kill()
        await self._process.ended()


@pytest.fixture  # one of its own: orders that a database does not have deny entries
def exchange(tmp_path: Path) -> Iterator[LocalExchange]:
    found = LocalExchange(tmp_path / "exchange", ("--rate-limits", "off")).start()
    yield found
    found.stop()


@pytest.fixture
async def witnessed(database: Database) -> Database:
    """A database that notes each write, its writer and its time."""
    await database.sql(
        "CREATE TABLE witness (at timestamptz DEFAULT clock_timestamp(), who text, place text, what text)"
    )
    await database.sql(
        "CREATE FUNCTION note_writer() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO witness (who, place, what) VALUES (current_setting('application_name'), TG_TABLE_NAME, TG_OP);"
        " RETURN NULL; END $$"
    )
    rows = await database.sql(
        "SELECT c.relname AS name FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN "
        "('r', 'p')"
        " AND NOT c.relispartition AND c.relname NOT IN ('witness', 'alembic_version')"
    )
    for row in rows:
        await database.sql(
            f"CREATE TRIGGER witnessed AFTER INSERT OR UPDATE OR DELETE ON {row['name']}"
            " FOR EACH ROW EXECUTE FUNCTION note_writer()"
        )
    return database


async def _wrote(db: Database, who: str, since: Any) -> list[tuple[str, str]]:
    rows = await db.sql("SELECT place, what FROM witness WHERE who = $1 AND at > $2", f"fks {who}", since)
    return [(row["place"], row["what"]) for row in rows]


async def _now(db: Database) -> Any:
    return (await db.sql("SELECT clock_timestamp() AS now"))[0]["now"]


@pytest.fixture
async def rig(witnessed: Database, bus: Bus, exchange: LocalExchange) -> Rig:
    """Give the tests their queries of signals and orders; the services are processes of their own."""
    exchange.clear()
    await seed(witnessed)
    price = Decimal(str(exchange.ask("GET", "/api/v3/ticker/price", None, symbol="BTCUSDT")["price"]))
    await witnessed.sql("UPDATE instruments SET lot_step = 0.00001, qty_min = 0.00001 WHERE symbol = 'BTCUSDT'")
    await witnessed.sql("UPDATE feeds SET last_price = $1 WHERE symbol = 'BTCUSDT'", price)
    return Rig(witnessed, bus, ScriptedVenue())


def _price(exchange: LocalExchange) -> Decimal:
    return Decimal(str(exchange.ask("GET", "/api/v3/ticker/price", None, symbol="BTCUSDT")["price"]))


def _sends(exchange: LocalExchange) -> list[tuple[str, str]]:
    """Return (method, client order id) of every order and cancel the exchange received."""
    rows = [row for row in exchange.received(path="/api/v3/order", limit=10_000) if row["method"] in ("POST", "DELETE")]
    return [
        (row["method"], row["params"].get("newClientOrderId") or row["params"].get("origClientOrderId")) for row in rows
    ]


@pytest.mark.parametrize(
    "point",
    soaked(["between journal and bytes", "after the bytes", "before the journal", "before the answer is written"], 2),
)
async def test_a_zombie_order_manager_writes_nothing_and_sends_nothing(
    rig: Rig, exchange: LocalExchange, database_url: str, redis_url: str, point: str
) -> None:
    proxy = Wire(exchange.info["rest"])
    address = await proxy.start()
    host = urlsplit(exchange.info["rest"]).netloc
    through = {
        key: value.replace(host, address) if isinstance(value, str) else value for key, value in exchange.info.items()
    }
    common = {"role": "orders", "database_url": database_url, "redis_url": redis_url}
    first = await Process.start(
        **common, exchange=through, epoch=await raise_epoch(rig.db, "orders", "a"), application="zombie", stop_at=point
    )
    heir: Process | None = None
    try:
        before = len(_sends(exchange))
        signal_id = await rig.signal(reference_price=_price(exchange))
        await first.stopped()
        # the supervisor cannot prove it gone: a new epoch, then a whole TTL and a half second more
        epoch = await raise_epoch(rig.db, "orders", "b")
        await asyncio.sleep(TTL_S + 0.5)
        heir = await Process.start(**common, exchange=exchange.info, epoch=epoch, application="heir")
        order = await _settled(rig, signal_id)
        left, at = len(proxy.seen), await _now(rig.db)
        first.go_on()
        assert await first.ends() == 3
        assert await _wrote(rig.db, "zombie", at) == []
        assert len(proxy.seen) == left, "a zombie sent"
        # the heir trades on
        again = await rig.signal(reference_price=_price(exchange), instance="two", source="strategy:two")
        assert (found := await rig.outcome(again))[0] == "ordered", found
        await rig.becomes((await rig.entry(again)).client_order_id, State.FILLED)
        sent = _sends(exchange)[before:]
        assert_once(id for method, id in sent if method == "POST")
        assert len(sent) == len(set(sent)), f"sent twice: {sent}"
        filled = order.state is State.FILLED
        assert sent.count(("POST", order.client_order_id)) == (1 if filled else 0)
        assert filled is (point != "between journal and bytes")
        held = await rig.position("one")
        assert (held > 0) is filled
    finally:
        await first.kill()
        if heir is not None:
            await heir.kill()
        await proxy.stop()


async def _settled(rig: Rig, signal_id: Any) -> Any:
    """Wait until the successor knows what became of the signal's order."""

    async def known() -> bool:
        rows = await rig.db.sql("SELECT state FROM orders WHERE signal_id = $1 AND parent_id IS NULL", signal_id)
        return bool(rows) and rows[0]["state"] in ("FILLED", "ABSENT")

    await until(known, deadline_s=30)
    return await rig.entry(signal_id)


async def test_a_zombie_cancels_nothing(rig: Rig, exchange: LocalExchange, database_url: str, redis_url: str) -> None:
    proxy = Wire(exchange.info["rest"])
    address = await proxy.start()
    host = urlsplit(exchange.info["rest"]).netloc
    through = {
        key: value.replace(host, address) if isinstance(value, str) else value for key, value in exchange.info.items()
    }
    common = {"role": "orders", "database_url": database_url, "redis_url": redis_url}
    first = await Process.start(
        **common,
        exchange=through,
        epoch=await raise_epoch(rig.db, "orders", "a"),
        application="zombie",
        stop_at="before a cancel's bytes",
    )
    heir: Process | None = None
    try:
        low = (_price(exchange) * Decimal("0.96")).quantize(Decimal("0.01"))
        signal_id = await rig.signal(
            Kind.ORDER,
            source="person",
            instance="",
            timeframe=None,
            type=OrderType.LIMIT,
            size=Decimal("0.01"),
            limit_price=low,
        )
        assert await rig.outcome(signal_id) == ("ordered", None)
        order = await rig.entry(signal_id)
        await rig.becomes(order.client_order_id, State.WORKING, State.ACCEPTED)
        await OrderStore(rig.db).want_cancel(order.client_order_id, by="test", now_ns=time.time_ns())
        await rig.bus.publish(WAKE, {})
        await first.stopped()
        epoch = await raise_epoch(rig.db, "orders", "b")
        await asyncio.sleep(TTL_S + 0.5)
        heir = await Process.start(**common, exchange=exchange.info, epoch=epoch, application="heir")
        await rig.becomes(order.client_order_id, State.CANCELLED)
        left, at = len(proxy.seen), await _now(rig.db)
        first.go_on()
        assert await first.ends() == 3
        assert await _wrote(rig.db, "zombie", at) == []
        assert len(proxy.seen) == left, "a zombie cancelled"
    finally:
        await first.kill()
        if heir is not None:
            await heir.kill()
        await proxy.stop()


async def test_a_zombie_strategy_worker_inserts_no_signal(
    witnessed: Database, bus: Bus, database_url: str, redis_url: str
) -> None:
    db = witnessed
    dice = np.random.default_rng(5)
    bars = bars_of((10_000 + np.cumsum(dice.integers(-30, 31, 60))) / 100.0)
    await add_account(db)
    await add_instance(db, "a", "sma_cross", {"fast": 2, "slow": 4, "short": True}, **EVERY_EDGE)
    await seal(db, bars[:10])
    common = {"role": "strategy", "database_url": database_url, "redis_url": redis_url}
    first = await Process.start(
        **common, epoch=await raise_epoch(db, "strategy:0", "a"), application="zombie", stop_at="before the signals"
    )
    heir: Process | None = None
    try:
        await seal(db, bars[10:40])
        await bus.publish(BARS, {"symbol": bars.symbol, "timeframe": "1m"})
        await first.stopped()
        heir = await Process.start(**common, epoch=await raise_epoch(db, "strategy:0", "b"), application="heir")

        async def decided() -> bool:
            rows = await db.sql("SELECT cursor_time = $1 AS is_done FROM strategy_instances", _time(bars, 39))
            return bool(rows[0]["is_done"])

        await until(decided)
        count = (await db.sql("SELECT count(*) AS n FROM signals"))[0]["n"]
        assert count > 5
        at = await _now(db)
        first.go_on()
        assert await first.ends() == 3
        assert await _wrote(db, "zombie", at) == []
        assert (await db.sql("SELECT count(*) AS n FROM signals"))[0]["n"] == count
    finally:
        await first.kill()
        if heir is not None:
            await heir.kill()


async def test_a_zombie_collector_seals_no_bar_and_moves_no_feed(
    witnessed: Database, exchange: LocalExchange, database_url: str, redis_url: str
) -> None:
    db = witnessed
    await db.sql("INSERT INTO assets (exchange, symbol) VALUES ('binance', 'BTCUSDT')")
    common = {"role": "collector", "database_url": database_url, "redis_url": redis_url, "exchange": exchange.info}
    first = await Process.start(
        **common, epoch=await raise_epoch(db, "collector:binance", "a"), application="zombie", stop_at="before the bars"
    )
    heir: Process | None = None
    try:
        await first.stopped()
        epoch = await raise_epoch(db, "collector:binance", "b")
        heir = await Process.start(**common, epoch=epoch, application="heir")

        async def seals() -> bool:
            rows = await db.sql(
                "SELECT max(sealed_through) > $1 AS is_on FROM feeds WHERE timeframe = '1s' AND epoch = $2", at, epoch
            )
            return bool(rows[0]["is_on"])

        at = await _now(db)
        await until(seals, deadline_s=20)
        at = await _now(db)
        first.go_on()
        assert await first.ends() == 3
        assert await _wrote(db, "zombie", at) == []
        await until(seals, deadline_s=20)  # the heir collects on
        assert [row["epoch"] for row in await db.sql("SELECT DISTINCT epoch FROM feeds")] == [epoch]
    finally:
        await first.kill()
        if heir is not None:
            await heir.kill()


def _time(bars: Any, index: int) -> Any:
    return to_datetime(int(bars.time_ns[index]))
