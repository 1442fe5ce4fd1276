"""An order manager on the local exchange beside a guardian's files: the trading side of tests of the kill switch."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from fks.clock import RealClock
from fks.clock.waiting import end_task
from fks.config.settings import Http, Settings, VenueSettings
from fks.interfaces.entry.order_entry import EntryAnswer, OrderEntry, OrderRequest
from fks.model.order import OrderType, Outcome
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.leases import HeldLease, raise_epoch
from fks.system.runtime import Runtime
from fks.trading.guardian.journal import engaged_kills
from fks.trading.guardian.service import Guardian
from fks.trading.order_manager.service import OrderManager
from fks.trading.venues.ccxt import CcxtVenue
from tests.support import servers
from tests.support.guardian_process import venue_on
from tests.support.local_exchange import LocalExchange
from tests.support.ports import CollectingLog, RecordingMeter
from tests.support.strategies import collect
from tests.support.venue_orders import order
from tests.support.waiting import until

SETTINGS = Settings(
    http=Http(order_wait_s=10.0),
    venue=VenueSettings(
        order_timeout_s=1.0,
        poll_delays_s=(0.1, 0.2, 0.5),
        absent_spacing_s=0.2,
        absent_first_s=0.2,
        absent_age_s=1.0,
        sweep_s=1.0,
    ),
)


async def seed_account(database: Database, position: str | None = "0.6") -> None:
    """Make the account `demo` and BTCUSDT, and a position of instance `s1` unless it is None."""
    await database.sql("INSERT INTO accounts (name, venue) VALUES ('demo', 'ccxt')")
    await database.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min)"
        " VALUES ('binance', 'BTCUSDT', 'BTC', 'USDT', 0.01, 0.00001, 0.00001, 9000, 5)"
    )
    await database.sql("INSERT INTO assets (exchange, symbol) VALUES ('binance', 'BTCUSDT')")
    if position is not None:
        await database.sql(
            "INSERT INTO positions (account_id, venue, symbol, instance, quantity) VALUES (1, 'ccxt', 'BTCUSDT', "
            "'s1', $1)",
            Decimal(position),
        )


@asynccontextmanager
async def trading(
    exchange: LocalExchange, db: Database, bus: Bus, folder: Path, settings: Settings = SETTINGS
) -> AsyncIterator[OrderEntry]:
    """Run an order manager on the exchange, with a fresh price in `feeds`; give its order entry."""
    clock, log = RealClock(), CollectingLog()
    epoch = await raise_epoch(db, "orders", "test")
    lease = HeldLease(db, clock, name="orders", epoch=epoch, holder="test", ttl_s=5.0, renew_s=0.5)
    await lease.renew()
    own = await servers.as_role(db, "orders")
    service = OrderManager(
        Runtime(settings, clock, own, bus, log, RecordingMeter(), lease),
        {"ccxt": venue_on(exchange.info)},
        kill_file=lambda: engaged_kills(folder / "kill.jsonl"),
    )

    async def write_price() -> None:
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
            await write_price()

    await write_price()  # an order that comes before the first price is denied
    tasks = [asyncio.create_task(keep_fresh()), asyncio.create_task(lease.keep())]
    await service.start()
    tasks.append(asyncio.create_task(service.run()))
    try:
        await until(lambda: service.is_ready, deadline_s=10)
        yield OrderEntry(db, bus, clock, settings)
    finally:
        await asyncio.gather(*map(end_task, tasks))
        await service.stop()
        if own is not db:
            await own.close()


async def buy(entry: OrderEntry, exchange: LocalExchange, quantity: str, **fields: Any) -> EntryAnswer:
    """Buy BTCUSDT for the account `demo`, at the market unless `fields` say otherwise."""
    values: dict[str, Any] = {"type": "market", "quantity": Decimal(quantity), "account": "demo", **fields}
    return await entry.submit(OrderRequest(symbol="BTCUSDT", side="buy", **values), "tester", uuid.uuid4().hex)


async def held(db: Database) -> Decimal:
    """Return the sum of the positions that are ours."""
    rows = await db.sql("SELECT coalesce(sum(quantity), 0) AS q FROM positions WHERE instance <> 'external'")
    return Decimal(rows[0]["q"])


def at(exchange: LocalExchange, factor: str) -> Decimal:
    """Return so many times the market's price."""
    price = Decimal(str(exchange.ask("GET", "/api/v3/ticker/price", None, symbol="BTCUSDT")["price"]))
    return (price * Decimal(factor)).quantize(Decimal("0.01"))


async def ask(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Send a request to the guardian's control socket and return the answer."""
    reader, writer = await asyncio.open_unix_connection(folder / "g.sock")
    writer.write(json.dumps(request).encode() + b"\n")
    line = await asyncio.wait_for(reader.readline(), 20)
    writer.close()
    return dict(json.loads(line))


def write_positions(
    folder: Path,
    positions: Sequence[Sequence[Any]],
    *,
    orders: Sequence[Sequence[Any]] = (),
    booked: Sequence[Any] = (),
    identities: Sequence[Sequence[Any]] = (),
    lots: Sequence[Any] = (),
) -> None:
    """Write the file the guardian reads when the database is away. `lots`: BTCUSDT's maximum, and its market lot."""
    row = {
        "as_of_ns": time.time_ns(),
        "positions": positions,
        "orders": orders,
        "booked": booked,
        "identities": identities,
        "instruments": [["binance", "BTCUSDT", "BTC", "USDT", "0.00001", "0.00001", "5", *lots]],
    }
    (folder / "kill-positions.json").write_text(json.dumps(row))


@asynccontextmanager
async def at_work(guardian: Guardian) -> AsyncIterator[Guardian]:
    await guardian.start()
    running = asyncio.create_task(guardian.run())
    try:
        yield guardian
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await guardian.stop()


async def rest_one(trader: CcxtVenue) -> None:
    """Leave a resting buy at the exchange."""
    price = await trader.last_price("BTCUSDT")
    assert price is not None
    resting = order("0.01", type=OrderType.LIMIT, price=str((price * Decimal("0.9")).quantize(Decimal("0.01"))))
    assert (await trader.submit(resting)).outcome is Outcome.ACK


def sells(exchange: LocalExchange, since: int) -> list[dict[str, Any]]:
    """Return the flattening orders the exchange received after row `since` of its log."""
    rows = exchange.received(path="/api/v3/order", method="POST", after=since)
    return [row for row in rows if row["params"].get("side") == "SELL" and row["params"].get("type") == "MARKET"]


def mark(exchange: LocalExchange) -> int:
    rows = exchange.received()
    return int(rows[-1]["seq"]) if rows else 0
