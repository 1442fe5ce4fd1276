"""Signals a second through the order manager: buys and sells in 16 instruments, every check on, filled by the paper
venue.

    python benchmarks/order_burst.py [signals] [--profile] [--in-memory]

PostgreSQL is the embedded server on a disk, with fsync and synchronous_commit on. A signal counts when its order is
filled and booked: two durable statements, or its share of them. Orders and positions are compared with the signals
before anything is timed, and at the end; exits 1 when they differ. `--profile` prints where the order manager's
process spent its time; with `--in-memory` an fsync costs nothing."""

from __future__ import annotations

import asyncio
import cProfile
import pstats
import resource
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the rigs of the tests, however this is started

import psutil

from benchmarks._results import run, same
from fks.clock import RealClock
from fks.config.settings import DatabaseSettings, Risk, VenueSettings
from fks.model.order import Side
from fks.model.signal import Kind
from fks.model.timeframe import NS
from fks.store import migrate
from fks.store.bus import WAKE, Bus
from fks.store.db import Database
from fks.store.signals import SignalStore
from fks.system.process.garbage import freeze_loaded
from fks.system.servers.embedded import postgres_pid
from fks.trading.matching import CostModel
from fks.trading.venues.paper import PaperVenue
from tests.support import servers
from tests.support.order_rig import FAST, Rig, seed, signal_of
from tests.support.scripted_venue import ScriptedVenue
from tests.support.strategies import collect

D = Decimal
INSTRUMENTS, SIDES = 16, (Side.BUY, Side.SELL)
WARM = 160
SETTINGS = FAST.model_copy(
    update={
        "venue": VenueSettings(),
        "risk": Risk(
            feed_age_max_s=36000,
            orders_per_minute=10**6,
            exposure_max_instrument=D(10**9),
            exposure_max_account=D(10**9),
        ),
    }
)


async def seed_instruments(db: Database) -> list[str]:
    """Make 16 instruments with live feeds at a price of 100, and return their symbols."""
    await seed(db, instances=())
    symbols = [f"C{number:02}USDT" for number in range(INSTRUMENTS)]
    for symbol in symbols:
        await db.sql(
            "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min) "
            "VALUES"
            " ('binance', $1, $2, 'USDT', 0.01, 0.001, 0.001, 100000, 5)",
            symbol,
            symbol[:3],
        )
        await db.sql(
            "INSERT INTO feeds (exchange, symbol, timeframe, state, last_message_at, last_price) VALUES"
            " ('binance', $1, 'trades', 'LIVE', now(), 100)",
            symbol,
        )
        await db.sql(
            "INSERT INTO strategy_instances (id, strategy, exchange, symbol, timeframe, account_id, venue, size, "
            "pyramiding)"
            " VALUES ($1, 'sma_cross', 'binance', $1, '1m', 2, 'paper', 1000, 1000000)",
            symbol,
        )
    await collect(db)
    await db.sql("UPDATE accounts SET initial_balance = 1000000000000 WHERE venue = 'paper'")
    return symbols


async def burst(rig: Rig, symbols: list[str], count: int) -> float:
    """Insert `count` signals at once; return the seconds until each of their orders is filled and booked."""
    until_ns = time.time_ns() + 3600 * NS
    signals: list[Any] = [
        signal_of(
            Kind.ORDER,
            side=side,
            size=D(1) if side is Side.BUY else D("0.999"),
            symbol=symbol,
            instance="",
            timeframe=None,
            account_id=2,
            venue="paper",
            source="token:bench",
            valid_until_ns=until_ns,
        )
        for symbol, side in ((symbols[n % INSTRUMENTS], SIDES[n // INSTRUMENTS % 2]) for n in range(count))
    ]
    before = (await rig.db.sql("SELECT count(*) AS n FROM trades"))[0]["n"]
    for start in range(0, count, 2000):
        await SignalStore(rig.db).insert(signals[start : start + 2000])
    booked = rig.meter.total("fks_fills_total")  # counted after its commit; asking the table would be a load of its own
    start_s = time.perf_counter()
    await rig.bus.publish(WAKE, {"type": "signal"})
    while rig.meter.total("fks_fills_total") < booked + count:
        if time.perf_counter() - start_s > 120:
            raise AssertionError(await rig.db.sql("SELECT state, code, detail, count(*) FROM signals GROUP BY 1, 2, 3"))
        await asyncio.sleep(0.01)
    seconds = time.perf_counter() - start_s
    assert (await rig.db.sql("SELECT count(*) AS n FROM trades"))[0]["n"] == before + count
    return seconds


async def compare(db: Database, count: int) -> None:
    """Compare orders and positions with the signals: each filled, and every bought quantity sold again."""
    rows = await db.sql("SELECT state, count(*) AS n FROM orders GROUP BY state")
    same("the orders by state", {row["state"]: row["n"] for row in rows}, {"FILLED": count})
    held = await db.sql("SELECT instance, symbol, quantity FROM positions WHERE quantity <> 0")
    same("what is held", [tuple(row) for row in held], [])


def cpu_s(pids: list[int]) -> float:
    """Return the CPU seconds of processes and their children."""
    total = 0.0
    for pid in pids:
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            times = process.cpu_times()
            total += times.user + times.system
    return total


async def main(count: int, is_profiled: bool, is_on_disk: bool = True) -> None:
    with (
        servers.home(is_on_disk=is_on_disk) as paths,
        servers.running_postgres(paths, is_durable=True) as postgres,
        servers.running_redis(paths) as redis,
    ):
        await migrate.upgrade(postgres.url())
        db = await Database.connect(postgres.url(), DatabaseSettings(), application="bench")
        symbols = await seed_instruments(db)
        paper = PaperVenue((), CostModel(D("0.001"), "received"), {}, RealClock(), mode="last")
        rig = await Rig(
            db, await Bus.connect(redis.url()), ScriptedVenue(), settings=SETTINGS, venues={"paper": paper}
        ).start()
        for symbol in symbols:
            paper.on_price(symbol, D(100))
        freeze_loaded()  # as the actor does after its start
        await burst(rig, symbols, WARM)  # plans, caches and files are warm
        await compare(db, WARM)
        profile = cProfile.Profile(time.process_time)
        if is_profiled:
            profile.enable()
        server = [postgres_pid(paths) or 0]
        used, served = resource.getrusage(resource.RUSAGE_SELF), cpu_s(server)
        seconds = await burst(rig, symbols, count)
        now, served = resource.getrusage(resource.RUSAGE_SELF), cpu_s(server) - served
        profile.disable()
        own = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
        print(
            f"{count / seconds:.0f} signals/s over {INSTRUMENTS} instruments, from ready to filled and booked, n "
            f"{count}"
        )
        print(
            f"CPU a signal: order manager {own / count * 1e6:.0f} us, PostgreSQL {served / count * 1e6:.0f} us; "
            f"elapsed {seconds / count * 1e6:.0f} us"
        )
        await compare(db, count + WARM)
        if is_profiled:
            pstats.Stats(profile).sort_stats("tottime").print_stats(45)
            pstats.Stats(profile).sort_stats("cumtime").print_stats("fks/", 60)
        await rig.stop()
        await db.close()


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:] if argument.isdigit()]
    run(
        lambda: asyncio.run(
            main(numbers[0] if numbers else 4000, "--profile" in sys.argv, "--in-memory" not in sys.argv)
        )
    )
