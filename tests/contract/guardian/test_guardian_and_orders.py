"""The kill switch beside the real order service: positions reach zero in the books, protections end, nothing twice."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from fks.api.order_entry import EntryAnswer, OrderEntry, OrderRequest
from fks.clock import RealClock
from fks.config.settings import Http, Settings, Venue
from fks.guardian.journal import kill_mode
from fks.model.order import Outcome, Side
from fks.order_manager.service import OrderManager
from fks.runtime import Runtime
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.leases import HeldLease, raise_epoch
from fks.venues.ccxt import CcxtVenue
from tests.contract.guardian.test_guardian_kill import at_work, seed
from tests.support.guardian_process import guardian_with, venue_on
from tests.support.local_exchange import LocalExchange
from tests.support.ports import CollectingLog, RecordingMeter
from tests.support.strategies import collect
from tests.support.venue_orders import order
from tests.support.waiting import until

SETTINGS = Settings(
    http=Http(order_wait_s=10.0),
    venue=Venue(
        order_timeout_s=1.0,
        poll_delays_s=(0.1, 0.2, 0.5),
        absent_spacing_s=0.2,
        absent_first_s=0.2,
        absent_age_s=1.0,
        sweep_s=1.0,
    ),
)


@asynccontextmanager
async def trading(exchange: LocalExchange, db: Database, bus: Bus, folder: Path) -> AsyncIterator[OrderEntry]:
    """A running order service on the exchange, with a fresh price in `feeds`, and the door to it."""
    clock, log = RealClock(), CollectingLog()
    epoch = await raise_epoch(db, "orders", "test")
    lease = HeldLease(db, clock, name="orders", epoch=epoch, holder="test", ttl_s=5.0, renew_s=0.5)
    await lease.renew()
    service = OrderManager(
        Runtime(SETTINGS, clock, db, bus, log, RecordingMeter(), lease),
        {"ccxt": venue_on(exchange.info)},
        kill_file=lambda: kill_mode(folder / "kill.jsonl"),
    )

    async def tell_price() -> None:
        price = Decimal(str(exchange.ask("GET", "/api/v3/ticker/price", None, symbol="BTCUSDT")["price"]))
        await db.sql(
            "INSERT INTO feeds (exchange, symbol, timeframe, last_message_at, last_price, state)"
            " VALUES ('binance', 'BTCUSDT', 'trades', now(), $1, 'LIVE') ON CONFLICT (exchange, symbol, timeframe)"
            " DO UPDATE SET last_message_at = now(), last_price = excluded.last_price",
            price,
        )
        await collect(db)

    async def keep_fresh() -> None:
        while True:
            await asyncio.sleep(0.3)
            await tell_price()

    await tell_price()  # an order that comes before the first price is denied
    tasks = [asyncio.create_task(keep_fresh()), asyncio.create_task(lease.keep())]
    await service.start()
    tasks.append(asyncio.create_task(service.run()))
    try:
        await until(lambda: service.is_ready, deadline_s=10)
        yield OrderEntry(db, bus, clock, SETTINGS)
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await service.stop()


async def buy(door: OrderEntry, exchange: LocalExchange, quantity: str, **fields: Any) -> EntryAnswer:
    request = OrderRequest(
        symbol="BTCUSDT", side="buy", type="market", quantity=Decimal(quantity), account="demo", **fields
    )
    return await door.submit(request, "tester", uuid.uuid4().hex)


async def held(db: Database) -> Decimal:
    rows = await db.sql("SELECT coalesce(sum(quantity), 0) AS q FROM positions WHERE instance <> 'external'")
    return Decimal(rows[0]["q"])


def at(exchange: LocalExchange, factor: str) -> Decimal:
    price = Decimal(str(exchange.ask("GET", "/api/v3/ticker/price", None, symbol="BTCUSDT")["price"]))
    return (price * Decimal(factor)).quantize(Decimal("0.01"))


async def test_a_kill_beside_a_living_order_service(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path, database: Database, bus: Bus
) -> None:
    await seed(database, position=None)
    start = (await trader.balances())["BTC"].total
    async with trading(exchange, database, bus, folder) as door:
        answer = await buy(door, exchange, "0.05", stop_loss=at(exchange, "0.9"), take_profit=at(exchange, "1.1"))
        assert answer.status == 202, answer.body

        async def is_protected() -> bool:
            return len(await trader.open_orders()) == 2 and await held(database) == Decimal("0.04995")

        await until(is_protected)
        async with at_work(guardian_with({"ccxt": venue_on(exchange.info)}, folder, database)) as guardian:
            await until(lambda: guardian.detail()["database"] == "up" and (folder / "kill-positions.json").exists())
            report = await guardian.kill(reason="", by="me")
            assert report["is_quiet"], report
            await until(lambda: guardian.report()["is_done"])

            async def is_booked() -> bool:
                return abs(await held(database)) < Decimal("0.00001")

            await until(is_booked)
            assert await trader.open_orders() == []
            assert (await trader.balances())["BTC"].total - start == await held(database)
            refused = await buy(door, exchange, "0.01")
            assert (refused.status, refused.body.get("code")) == (422, "KILLED"), refused.body
            rows = await database.sql("SELECT state, filled FROM orders WHERE role = 'kill'")
            assert [(row["state"], row["filled"]) for row in rows] == [("FILLED", Decimal("0.04995"))]
            await guardian.resume(by="me")

            async def trades_again() -> bool:
                return (await buy(door, exchange, "0.01")).status == 202

            await until(trades_again, deadline_s=8, every_s=0.3)
    posts = [row["params"]["newClientOrderId"] for row in exchange.received(path="/api/v3/order", method="POST")]
    assert len(posts) == len(set(posts))


async def test_a_kill_while_the_order_service_is_dead_is_booked_when_it_is_back(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path, database: Database, bus: Bus
) -> None:
    await seed(database, position=None)
    start = (await trader.balances())["BTC"].total
    async with trading(exchange, database, bus, folder) as door:
        answer = await buy(door, exchange, "0.05")
        assert answer.status == 202, answer.body

        async def is_held() -> bool:
            return await held(database) > 0

        await until(is_held)
    async with at_work(guardian_with({"ccxt": venue_on(exchange.info)}, folder, database)) as guardian:
        await until(lambda: guardian.detail()["database"] == "up" and (folder / "kill-positions.json").exists())
        assert (await guardian.kill(reason="", by="me"))["is_quiet"]
        await until(lambda: guardian.report()["is_done"] and guardian.report()["database"] == "up")
        async with trading(exchange, database, bus, folder):

            async def is_booked() -> bool:
                return abs(await held(database)) < Decimal("0.00001")

            await until(is_booked)
            assert (await trader.balances())["BTC"].total - start == await held(database)


async def test_a_held_kill_keeps_protection_and_has_it_placed_again(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path, database: Database, bus: Bus
) -> None:
    """Somebody cancels the stop by hand while the kill is engaged: the order manager places it, the guardian lets it
    be."""
    await seed(database, position=None)
    async with trading(exchange, database, bus, folder) as door:
        answer = await buy(door, exchange, "0.05", stop_loss=at(exchange, "0.9"), take_profit=at(exchange, "1.1"))
        assert answer.status == 202, answer.body

        async def legs() -> set[str]:
            return {report.client_order_id for report in await trader.open_orders()}

        async def is_protected() -> bool:
            return len(await legs()) == 2 and await held(database) == Decimal("0.04995")

        await until(is_protected)
        first = await legs()
        async with at_work(guardian_with({"ccxt": venue_on(exchange.info)}, folder, database)) as guardian:
            await until(lambda: guardian.detail()["database"] == "up" and (folder / "kill-positions.json").exists())
            assert (await guardian.kill(reason="", by="me", flatten=False))["is_quiet"]
            await until(lambda: guardian.report()["is_done"])
            assert await legs() == first
            leg = order(
                "0.04995", side=Side.SELL, client_order_id=min(first)
            )  # one leg of an OCO takes the other along
            assert (await trader.cancel(leg)).outcome is Outcome.ACK

            async def is_protected_again() -> bool:
                now = await legs()
                return len(now) == 2 and not now & first

            await until(is_protected_again, deadline_s=10)
            await until(lambda: guardian.report()["is_done"])
            assert len(await legs()) == 2
    assert await held(database) == Decimal("0.04995")
