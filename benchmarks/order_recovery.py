"""Time from the kill of an order manager until it has reconciled its venue and trades again, by the number of orders to
compare.

    python benchmarks/order_recovery.py [--open 1000] [--history 10000] [--repeat 3]

The order manager alone (no Ray) on a real database and the local exchange over real sockets: so many open orders, then
so many executed ones besides, then kill -9 and a new process on the same database. Seconds from the kill to READY,
worst of `repeat`, beside the limit. The open orders of the journal are compared with the exchange's before the first
kill and after each recovery. Exit 1 when they differ or a limit is missed."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._results import run, same
from fks.model.order import OrderType, Side
from fks.model.signal import Kind, Signal
from fks.store import migrate
from fks.store.bus import WAKE, Bus
from fks.store.db import Database
from fks.store.signals import SignalStore
from tests.support import servers
from tests.support.local_exchange import LocalExchange
from tests.support.order_chaos import SYMBOLS, OrderChaos
from tests.support.order_rig import signal_of
from tests.support.waiting import until

BATCH = 50
VALID_NS = 600 * 10**9
LIMITS_S = {"open": 3.0, "history": 10.0}
OPEN = ["ACCEPTED", "WORKING", "PARTIAL"]


def order(chaos: OrderChaos, number: int, *, rests: bool) -> Signal:
    """Return a person's buy of some 10 USDT: a limit far below the market, or at the market."""
    symbol = list(SYMBOLS)[number % len(SYMBOLS)]
    tick, step = (Decimal(text) for text in SYMBOLS[symbol])
    price = chaos.price(symbol)
    kind: dict[str, Any] = {"type": OrderType.MARKET}
    if rests:
        kind = {"type": OrderType.LIMIT, "limit_price": (price * Decimal("0.95")).quantize(tick)}
    return signal_of(
        Kind.ORDER,
        id=uuid.uuid4(),
        source="principal:me",
        instance="",
        params_version=0,
        symbol=symbol,
        timeframe=None,
        side=Side.BUY,
        size=(10 / price // step + 1) * step,
        reference_price=None,
        valid_until_ns=time.time_ns() + VALID_NS,  # a slow machine must not deny it for its age
        **kind,
    )


async def fill_up(chaos: OrderChaos, count: int, *, rests: bool) -> None:
    """Place so many orders, in batches."""

    async def is_idle() -> bool:
        rows = await chaos.db.sql("SELECT count(*) AS n FROM signals WHERE state = 'ready'")
        return bool(rows[0]["n"] == 0)

    for start in range(0, count, BATCH):
        signals = [order(chaos, start + n, rests=rests) for n in range(min(BATCH, count - start))]
        await SignalStore(chaos.db).insert(signals)
        await chaos.bus.publish(WAKE, {"type": "signal"})
        await until(is_idle, deadline_s=120)


async def compare(chaos: OrderChaos) -> None:
    """Compare the open orders of the journal and their filled quantities with the exchange's, once no order waits for
    an answer."""

    async def is_settled() -> bool:
        rows = await chaos.db.sql("SELECT count(*) AS n FROM orders WHERE state IN ('INTENDED', 'SENDING', 'UNKNOWN')")
        return bool(rows[0]["n"] == 0)

    await until(is_settled, deadline_s=120)
    rows = await chaos.db.sql("SELECT client_order_id, quantity, filled FROM orders WHERE state = ANY($1)", OPEN)
    ours = {row["client_order_id"]: (row["quantity"], row["filled"]) for row in rows}
    theirs = {
        row["clientOrderId"]: (Decimal(row["origQty"]), Decimal(row["executedQty"]))
        for row in chaos.exchange.account()["open_orders"]
    }
    same("the open orders", ours, theirs)


async def recover(chaos: OrderChaos, what: str, repeat: int) -> bool:
    """Kill and start `repeat` times; print the line and return whether the limit holds."""
    took: list[float] = []
    await compare(chaos)
    for _ in range(repeat):
        begun = time.monotonic()
        await chaos.lives.kill()
        await chaos.begin()
        await until(lambda: chaos.lives.has_sent("ready"), deadline_s=120, every_s=0.02)
        took.append(time.monotonic() - begun)
        await compare(chaos)
    rows = await chaos.db.sql("SELECT state, count(*) AS n FROM orders GROUP BY 1 ORDER BY 1")
    held = ", ".join(f"{row['n']} {row['state']}" for row in rows)
    worst, limit = max(took), LIMITS_S[what]
    print(f"{what:<8} {worst:6.2f} s  limit {limit:g} s  ratio {worst / limit:.2f}  ({held})", flush=True)
    return worst <= limit


async def main(options: argparse.Namespace, database_url: str, redis_url: str, folder: Path) -> bool:
    """Measure both lines."""
    await migrate.upgrade(database_url)
    db, bus = await Database.connect(database_url, application="bench"), await Bus.connect(redis_url)
    exchange = LocalExchange(folder / "exchange", ("--rate-limits", "off", "--balance", "USDT=10000000")).start()
    chaos = OrderChaos(db, bus, exchange, {"database_url": database_url, "redis_url": redis_url}, 1)
    try:
        await chaos.open()
        for symbol in SYMBOLS:
            exchange.ask("POST", "/sim/filters", {"symbol": symbol, "orders_max": 5000})
        await chaos.begin()
        await until(lambda: chaos.lives.has_sent("ready"), deadline_s=60)
        await fill_up(chaos, options.open, rests=True)
        is_good = await recover(chaos, "open", options.repeat)
        await fill_up(chaos, options.history, rests=False)
        return await recover(chaos, "history", options.repeat) and is_good
    finally:
        await chaos.close()
        exchange.stop()
        await db.close()
        await bus.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--open", type=int, default=1000)
    parser.add_argument("--history", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    with (
        servers.home() as paths,
        servers.running_postgres(paths) as postgres,
        servers.running_redis(paths) as cache,
        tempfile.TemporaryDirectory() as place,
    ):
        run(lambda: not asyncio.run(main(given, postgres.url(), cache.url(), Path(place))))
