"""Whatever happens on the way: afterwards the stored bars are the exchange's own, bit for bit."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from fks.clock import FakeClock, RealClock
from fks.config.settings import DatabaseSettings
from fks.market.history.gaps import DAY_NS, GapWatch
from fks.market.history.sync import Sync, SyncStopped
from fks.model.bar import Bar
from fks.model.errors import FksError
from fks.model.timeframe import NS, bar_start, to_datetime, to_ns
from fks.store.db import Database
from tests.support import servers
from tests.support.history_exchange import HistoryExchange
from tests.support.ports import CollectingLog

MINUTE, HOUR = 60 * NS, 3600 * NS
START_NS = 1_767_225_600 * NS


async def stored(db: Database, timeframe: str) -> list[Bar]:
    rows = await db.sql("SELECT * FROM ohlcv_data WHERE timeframe = $1 ORDER BY time", timeframe)
    return [
        Bar(
            r["exchange"],
            r["symbol"],
            r["timeframe"],
            to_ns(r["time"]),
            r["open"],
            r["high"],
            r["low"],
            r["close"],
            r["volume"],
            r["trades"],
        )
        for r in rows
    ]


async def own(exchange: HistoryExchange, timeframe: str, start_ns: int, end_ns: int) -> list[Bar]:
    found: list[Bar] = []
    at = start_ns
    while page := await exchange.fetch_bars("BTCUSDT", timeframe, at, 1000, until_ns=end_ns):
        found += page
        at = page[-1].time_ns + 1
    return found


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_any_order_of_syncs_and_faults_ends_with_the_exchanges_bars(database: Database, seed: int) -> None:
    """Random: parts synced, stopped half way, lost, corrected by the exchange, which fails, forgets and remembers."""
    rng, clock, log = random.Random(seed), FakeClock(START_NS + 30 * NS), CollectingLog()
    exchange = HistoryExchange(clock)
    begin_ns = START_NS - 6 * DAY_NS
    sync = Sync(exchange, database, clock, log)
    await sync.sync("BTCUSDT", "5m", begin_ns)
    for _ in range(12):
        await clock.advance(rng.choice([60, 600, 7200]))
        exchange.page = rng.choice([100, 300, 1000])
        at = bar_start(begin_ns + rng.randrange(6 * 86400) * NS, "5m")
        what = rng.choice(["lose", "lose", "span", "correct", "stop", "fail", "fill"])
        if what == "lose":
            span = (to_datetime(at), to_datetime(at + rng.randrange(1, 20) * HOUR))
            await database.sql("DELETE FROM ohlcv_data WHERE time >= $1 AND time < $2", *span)
        elif what == "span":
            exchange.missing = [(at, at + rng.randrange(1, 40) * 5 * MINUTE)]
        elif what == "correct":
            exchange.shift = float(rng.randrange(5))
            await sync.sync("BTCUSDT", "5m", begin_ns, is_again=True)
        elif what == "fail":
            exchange.fails = 1
        windows = rng.randrange(1, 4)
        asked = iter(range(windows))
        one = Sync(
            exchange,
            database,
            clock,
            log,
            should_stop=lambda asked=asked, windows=windows: next(asked, windows) >= windows - 1,
        )  # type: ignore[misc]
        with contextlib.suppress(SyncStopped, FksError):
            await one.sync("BTCUSDT", "5m", begin_ns)
        exchange.fails = 0
        if what == "fill":
            await sync.fill(await GapWatch(database, clock, days=7).look())
    exchange.missing = []
    await clock.advance(86400 + 60)  # what was a known gap is asked for once more
    await sync.sync("BTCUSDT", "5m", begin_ns)
    await sync.sync("BTCUSDT", "5m", begin_ns, is_again=True)
    assert await stored(database, "5m") == await own(
        exchange, "5m", begin_ns, bar_start(clock.now_ns() - 10 * NS, "5m")
    )
    assert await GapWatch(database, clock, days=7).look() == []
    left = await database.sql("SELECT * FROM series s WHERE candles <> (SELECT count(*) FROM ohlcv_data)")
    assert left == []


async def test_killing_postgresql_repeatedly_loses_no_bar() -> None:
    with servers.mortal_postgres() as postgres:
        db = await Database.connect(postgres.url, DatabaseSettings(retry_s=10.0), application="test")
        clock, log = RealClock(), CollectingLog()
        exchange = HistoryExchange(clock)
        now_ns = bar_start(clock.now_ns(), "1h") - HOUR
        start_ns, kills = now_ns - 30 * DAY_NS, 0

        def kill() -> None:
            """Called within every question to the exchange: each ninth one finds the server gone."""
            nonlocal kills
            if len(exchange.asked) % 9 == 8 and kills < 3:
                kills += 1
                postgres.kill()
                postgres.start()

        exchange.before = kill
        for _ in range(5):
            with contextlib.suppress(FksError):
                await Sync(exchange, db, clock, log).sync("BTCUSDT", "1m", start_ns, now_ns)
                break
            await asyncio.sleep(0)
        exchange.before = None
        assert kills == 3
        assert await stored(db, "1m") == await own(exchange, "1m", start_ns, now_ns)
        await db.close()
