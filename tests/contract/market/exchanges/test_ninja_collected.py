"""The collector over NinjaTrader's prices, real socket and database: every stored bar is the platform's own.

The clock runs fast, so that a minute takes seconds. The bridge is restarted, loses trades and loses its price feed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fks.market.collector.collector import Collector
from fks.market.feed.machine import FeedState
from fks.model.timeframe import NS, bar_start, to_ns
from fks.store.assets import Asset, AssetStore
from fks.store.bus import Bus
from fks.store.db import Database
from fks.system.runtime import Runtime
from tests.support.collecting import running
from tests.support.fast_clock import FastClock
from tests.support.ninja_prices import MONDAY_NS, SYMBOL, Bridge, bridge_at
from tests.support.ports import CollectingLog, RecordingMeter, TestLease
from tests.support.waiting import until

SPEED = 20.0
STILL_S = 2.0  # a tenth of a second of the machine


@pytest.fixture
def start_ns() -> int:
    return MONDAY_NS


@pytest.fixture
async def bridge(tmp_path: Path, start_ns: int) -> AsyncIterator[Bridge]:
    async with bridge_at(tmp_path, FastClock(start_ns, SPEED), is_trading=True) as made:
        yield made


@pytest.fixture
async def collector(bridge: Bridge, database: Database, bus: Bus, log: CollectingLog) -> AsyncIterator[Collector]:
    async with database.transaction() as tx:
        await AssetStore(tx).enable(Asset("ninja", SYMBOL, ("1m", "5m"), channels=("trades", "quotes")), [], 0)
    settings = bridge.settings
    runtime = Runtime(settings, bridge.clock, database, bus, log, RecordingMeter(), TestLease("collector:ninja", 1))
    async with running(Collector(bridge.exchange(log), runtime)) as made:
        yield made


def is_live(collector: Collector) -> Callable[[], bool]:
    return lambda: SYMBOL in collector.feeds and collector.feeds[SYMBOL].state is FeedState.LIVE


async def stored(database: Database, timeframe: str = "1m") -> dict[int, tuple[float, ...]]:
    rows = await database.sql(
        "SELECT time, open, high, low, close, volume FROM ohlcv_data"
        " WHERE exchange = 'ninja' AND timeframe = $1 ORDER BY time",
        timeframe,
    )
    return {to_ns(row["time"]): tuple(float(number) for number in tuple(row)[1:]) for row in rows}


async def sealed(bridge: Bridge, database: Database, minutes: int) -> None:
    """Wait until so many more minutes are stored than now."""
    until_ns = bar_start(bridge.clock.now_ns(), "1m") + minutes * 60 * NS

    async def reached() -> bool:
        return max(await stored(database), default=0) >= until_ns

    await until(reached, deadline_s=40)


async def stays_live(bridge: Bridge, collector: Collector, seconds: float) -> bool:
    """Return whether the feed is live for so long. False: it was not, after this process stood still for seconds of the
    fast clock, in which nothing was received; else that fails."""
    ends_s, before_s, still_s = bridge.clock.monotonic() + seconds, bridge.clock.monotonic(), 0.0
    while (now_s := bridge.clock.monotonic()) < ends_s:
        before_s, still_s = now_s, max(still_s, now_s - before_s)
        if not is_live(collector)():
            assert still_s > STILL_S, collector.feeds[SYMBOL].error
            return False
        await asyncio.sleep(0.02)
    return True


async def check(bridge: Bridge, database: Database) -> None:
    """Every stored minute is the platform's, and none between the first and the last is missing."""
    found, own = await stored(database), bridge.bars()
    assert len(found) > 1
    assert found == {start: bar for start, bar in own.items() if min(found) <= start <= max(found)}


async def test_prices_are_collected_through_a_restart_of_the_bridge(
    bridge: Bridge, collector: Collector, database: Database
) -> None:
    await until(is_live(collector))
    await sealed(bridge, database, 1)
    bridge.server.restart_bridge()
    await until(lambda: not is_live(collector)(), deadline_s=10)
    await until(is_live(collector))
    await sealed(bridge, database, 1)
    await check(bridge, database)


async def test_lost_trades_are_a_gap_that_the_platforms_bars_fill(
    bridge: Bridge, collector: Collector, database: Database, log: CollectingLog
) -> None:
    await until(is_live(collector))
    sessions = bridge.server.sessions  # lines with MACs end the session at the first one that is lost
    sessions.bridge.config = replace(sessions.bridge.config, features=())
    bridge.server.cut()
    await until(lambda: not is_live(collector)(), deadline_s=10)
    await until(is_live(collector))
    bridge.relay.trades_to_lose = 3
    await until(lambda: "feed.gap" in log.events("warning"), deadline_s=10)
    assert not is_live(collector)()
    await until(is_live(collector))
    await sealed(bridge, database, 1)
    await check(bridge, database)


async def test_a_lost_price_feed_stops_the_feed_and_its_minutes_are_filled(
    bridge: Bridge, collector: Collector, database: Database
) -> None:
    """While it is lost no entry passes: the feed is not live, and its status says why."""
    await until(is_live(collector))
    bridge.lose_prices()
    await until(lambda: collector.feeds[SYMBOL].state is FeedState.BACKFILL, deadline_s=5)
    await until(lambda: "ConnectionLost" in collector.feeds[SYMBOL].error, deadline_s=5)
    bridge.regain_prices()
    await until(is_live(collector))
    await sealed(bridge, database, 1)
    await check(bridge, database)


async def test_a_quiet_market_stays_live_and_its_last_minute_is_sealed(
    bridge: Bridge, collector: Collector, database: Database
) -> None:
    await until(is_live(collector))
    await until(lambda: bool(collector.feeds[SYMBOL].last_price), deadline_s=10)
    bridge.server.platform.broker = False  # nothing is traded any more; md_status goes on
    last_ns = max(bridge.bars())

    async def is_sealed() -> bool:
        return max(await stored(database), default=0) >= last_ns

    await until(is_sealed)
    for _ in range(5):
        await until(is_live(collector))
        if await stays_live(bridge, collector, 90.0):
            break
    else:
        pytest.fail("this machine stood still in each of five looks")
    assert (await stored(database)).keys() <= bridge.bars().keys()
    assert max(await stored(database)) == last_ns
    await check(bridge, database)


@pytest.mark.parametrize(
    ("start_ns", "is_problem"), [(MONDAY_NS, True), (MONDAY_NS - 48 * 3600 * NS, False)], ids=["open", "weekend"]
)
async def test_a_lost_price_feed_is_a_problem_only_while_the_market_is_open(
    bridge: Bridge, collector: Collector, is_problem: bool
) -> None:
    bridge.server.platform.broker = False
    bridge.lose_prices()
    await until(lambda: SYMBOL in collector.feeds and "ConnectionLost" in collector.feeds[SYMBOL].error, deadline_s=20)
    until_s = bridge.clock.monotonic() + 3 * bridge.settings.data.stale_min_s
    await until(lambda: bridge.clock.monotonic() > until_s, deadline_s=20)
    assert collector.feeds[SYMBOL].state is not FeedState.LIVE
    assert [problem.about for problem in collector.problems()] == ([SYMBOL] if is_problem else [])
