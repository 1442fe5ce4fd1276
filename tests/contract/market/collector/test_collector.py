"""The collector against the real local exchange: it stores the exchange's data, whatever dies in between."""

from __future__ import annotations

import asyncio
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fks.clock import RealClock
from fks.config.settings import Data, DatabaseSettings
from fks.market.files.sample import SAMPLE, sample_tape
from fks.model.errors import OutageError, StaleEpochError
from fks.model.feed import TRADES, FeedRow
from fks.model.timeframe import NS, to_datetime
from fks.store.bars import BarStore
from fks.store.bus import BARS, Bus
from fks.store.db import Database
from fks.store.feeds import FeedStore
from fks.store.leases import raise_epoch
from tests.support import servers
from tests.support.children import Child
from tests.support.collecting import (
    FEW,
    NAME,
    bar_of,
    check_stored,
    collect,
    later,
    make_collector,
    running,
    sealed_ns,
    settings_for,
    state,
)
from tests.support.cut_link import KINDS, behind_a_link, partition_s
from tests.support.local_exchange import LocalExchange
from tests.support.ports import CollectingLog, RecordingMeter
from tests.support.soak_cases import soaked
from tests.support.waiting import until

#: Events of which one reports a fault of the stream.
_FOUND = {"feed.disconnected", "feed.gap"}


EXCHANGE_SEED = 11


async def test_from_nothing_to_live_in_every_timeframe(
    database: Database,
    as_collector: Database,
    bus: Bus,
    log: CollectingLog,
    meter: RecordingMeter,
    exchange: LocalExchange,
) -> None:
    settings = settings_for(exchange.info, symbols=FEW["symbols"], backfill_bars=30)
    messages: list[dict[str, Any]] = []

    async def listen() -> None:
        async for _, payload in bus.subscribe(BARS):
            messages.append(payload)

    listener = asyncio.create_task(listen())
    async with running(make_collector(settings, as_collector, bus, log, meter=meter)) as collector:
        await until(lambda: collector.is_ready, deadline_s=60)  # the local exchange makes up its days when first asked
        await later(database, 6)
        await until(lambda: sum(m["timeframe"] == "1s" for m in messages) >= 10)  # published after they are stored
        await until(lambda: [feed["state"] for feed in collector.detail()["feeds"]] == ["LIVE", "LIVE"])  # type: ignore[attr-defined]
        # counted after they are published
        await until(lambda: meter.total("fks_bars_sealed_total", timeframe="1s") > 10)
    listener.cancel()
    await check_stored(database, exchange, Data().timeframes)
    seconds = [(m["symbol"], m["time"]) for m in messages if m["timeframe"] == "1s"]
    assert len(seconds) == len(set(seconds))
    for symbol in FEW["symbols"]:
        assert [time for name, time in seconds if name == symbol] == sorted(
            time for name, time in seconds if name == symbol
        )
    stored = {
        bar_of(row) for row in await database.sql("SELECT * FROM ohlcv_data WHERE source = 'live' AND timeframe = '1s'")
    }
    prices = {(bar.symbol, repr(bar.close), repr(bar.volume)) for bar in stored}
    assert {(m["symbol"], m["close"], m["volume"]) for m in messages if m["timeframe"] == "1s"} <= prices
    assert "bar.sealed" in log.events("info")
    assert (await database.sql("SELECT count(*) FROM instruments"))[0][0] >= 5


@pytest.mark.parametrize(
    "fault",
    soaked([{"kind": "cut_stream"}, {"kind": "trade_gap", "count": 3}, {"kind": "server_shutdown"}], 2),
    ids=lambda fault: str(fault["kind"]),
)
async def test_gap_in_the_stream_leaves_none_in_the_store(
    database: Database,
    as_collector: Database,
    bus: Bus,
    log: CollectingLog,
    exchange: LocalExchange,
    fault: dict[str, Any],
) -> None:
    async with running(make_collector(settings_for(exchange.info, **FEW), as_collector, bus, log)) as collector:
        await until(lambda: collector.is_ready)
        for turn in range(6):
            # a feed that fell silent for another reason, as on a busy machine, may have hidden a gap: once more
            if turn >= 2 and (_FOUND & set(log.events()) or "feed.stale" not in log.events()):
                break
            exchange.fault(**fault)
            await later(database, 3)
        await until(lambda: collector.is_ready)
    await check_stored(database, exchange)
    assert _FOUND & set(log.events())


async def test_frozen_stream_is_stale_in_time_and_recovers(
    database: Database, as_collector: Database, bus: Bus, log: CollectingLog, exchange: LocalExchange
) -> None:
    settings = settings_for(exchange.info, stale_max_s=2.0, **FEW)
    async with running(make_collector(settings, as_collector, bus, log)) as collector:
        await until(lambda: collector.is_ready)
        await later(database, 2)
        exchange.fault("freeze_stream", seconds=5)
        limit_s = 2.0 + 1.0  # C7: stale within its limit and a second; the limit here is 2 s

        async def is_stale() -> bool:
            return await state(database) == "STALE"

        await until(is_stale, deadline_s=limit_s + 0.6)  # and how long a row may take to say so
        assert not collector.is_ready
        await until(lambda: collector.is_ready)
        await later(database, 2)
    await check_stored(database, exchange)
    assert "feed.stale" in log.events("warning")


async def test_exchange_killed_and_back_leaves_no_gap(
    database: Database, as_collector: Database, bus: Bus, log: CollectingLog, exchange: LocalExchange
) -> None:
    async with running(make_collector(settings_for(exchange.info, **FEW), as_collector, bus, log)) as collector:
        await until(lambda: collector.is_ready)
        exchange.kill()
        await until(lambda: not collector.is_ready, deadline_s=5)
        exchange.start()
        await until(lambda: collector.is_ready)
        await later(database, 3)
    await check_stored(database, exchange)


async def test_collector_killed_and_back_goes_on_where_the_store_ends(
    database: Database,
    as_collector: Database,
    database_url: str,
    redis_url: str,
    bus: Bus,
    log: CollectingLog,
    exchange: LocalExchange,
) -> None:
    spec = {"database": database_url, "redis": redis_url, "info": exchange.info, "data": FEW, "epoch": 1}
    for epoch in (1, 2):
        assert await raise_epoch(database, NAME, "test") == epoch
        process = Child(collect, {**spec, "epoch": epoch})
        try:
            await asyncio.gather(*(later(database, 4, deadline_s=30, symbol=symbol) for symbol in FEW["symbols"]))
        finally:
            process.kill()
            await process.ended()
    ended = {symbol: await sealed_ns(database, symbol=symbol) for symbol in FEW["symbols"]}
    async with running(
        make_collector(settings_for(exchange.info, **FEW), as_collector, bus, log, epoch=3)
    ) as collector:
        await until(lambda: collector.is_ready)
        await asyncio.gather(*(later(database, 2, symbol=symbol) for symbol in FEW["symbols"]))
    await check_stored(database, exchange)
    for symbol, at_ns in ended.items():
        sources = await database.sql(
            "SELECT DISTINCT source FROM ohlcv_data WHERE symbol = $1 AND timeframe = '1s' AND time > $2",
            symbol,
            to_datetime(at_ns),
        )
        assert [row[0] for row in sources] == ["live"]  # the holes were filled with trades, not with bars


async def test_newer_collector_ends_an_older_one(
    database: Database, as_collector: Database, bus: Bus, log: CollectingLog, exchange: LocalExchange
) -> None:
    old = make_collector(settings_for(exchange.info, **FEW), as_collector, bus, log, epoch=1)
    await old.start()
    task = asyncio.create_task(old.run())
    await until(lambda: old.is_ready)
    async with running(make_collector(settings_for(exchange.info, **FEW), as_collector, bus, log, epoch=2)) as new:
        await until(lambda: new.is_ready)
        with pytest.raises(StaleEpochError):
            await asyncio.wait_for(task, 5)
        await old.stop()
        await later(database, 2)
    await check_stored(database, exchange)


async def test_database_killed_and_back_misses_nothing(bus: Bus, log: CollectingLog, exchange: LocalExchange) -> None:
    with servers.mortal_postgres() as postgres:
        db = await Database.connect(postgres.url, DatabaseSettings(retry_s=1.0))
        async with running(make_collector(settings_for(exchange.info, **FEW), db, bus, log)) as collector:
            await until(lambda: collector.is_ready)
            postgres.kill()
            await until(lambda: not collector.is_ready, deadline_s=10)
            await until(lambda: max(f["waiting"] for f in collector.detail()["feeds"]) > 3, deadline_s=10)  # type: ignore[attr-defined]
            postgres.start()
            await until(lambda: collector.is_ready)
            await later(db, 2)
        await check_stored(db, exchange)
        await db.close()
    assert "collector.store" in log.events("warning")


@pytest.mark.parametrize("kind", KINDS)
async def test_partition_from_the_database_leaves_no_gap(
    database: Database, database_url: str, bus: Bus, log: CollectingLog, exchange: LocalExchange, kind: str
) -> None:
    async with behind_a_link(database_url) as (db, link):
        async with running(make_collector(settings_for(exchange.info, **FEW), db, bus, log)) as collector:
            await until(lambda: collector.is_ready)
            await later(database, 2)
            await link.cut(kind)
            cut_s = time.monotonic()
            await until(lambda: max(f["waiting"] for f in collector.detail()["feeds"]) > 3, deadline_s=15)  # type: ignore[attr-defined]
            await asyncio.sleep(max(partition_s(3.0) - (time.monotonic() - cut_s), 0.0))  # its length
            await link.restore()
            await until(lambda: collector.is_ready)
            await later(database, 3)
        await check_stored(database, exchange)


async def test_value_not_published_in_time_is_not_published_later() -> None:
    """The state of a feed when PostgreSQL is back is another one, and is published then."""
    with servers.mortal_postgres() as postgres:
        db = await Database.connect(postgres.url, DatabaseSettings(retry_s=60.0))
        store = FeedStore(db, "binance", 1, RealClock())
        await store.claim(["BTCUSDT"], ["1m"])
        postgres.kill()
        with pytest.raises(OutageError):
            await asyncio.wait_for(store.flush([FeedRow("BTCUSDT", TRADES, state="LIVE")], [], []), 15)
        postgres.start()
        assert await state(db) == "COLD"
        await db.close()


async def test_assets_are_followed_while_running(
    database: Database, as_collector: Database, bus: Bus, log: CollectingLog, exchange: LocalExchange
) -> None:
    await database.sql("INSERT INTO assets (exchange, symbol) VALUES ('binance', 'NOSUCHCOIN')")
    meter = RecordingMeter()
    async with running(
        make_collector(settings_for(exchange.info, **FEW), as_collector, bus, log, meter=meter)
    ) as collector:
        await until(lambda: collector.is_ready)
        await database.sql("UPDATE assets SET is_enabled = false WHERE symbol = 'ETHUSDT'")
        await database.sql("INSERT INTO assets (exchange, symbol) VALUES ('binance', 'SOLUSDT')")

        async def followed() -> bool:
            return await state(database, "ETHUSDT") == "OFF" and await state(database, "SOLUSDT") == "LIVE"

        await until(followed)
        await later(database, 1, symbol="SOLUSDT")
        assert sorted(feed["symbol"] for feed in collector.detail()["feeds"]) == ["BTCUSDT", "SOLUSDT"]  # type: ignore[attr-defined]

        async def is_left_in_peace() -> bool:
            """Whether nothing of what left comes while fifty trades of what stayed on its socket do."""
            left, stayed = (
                meter.total("fks_market_dropped_total"),
                meter.total("fks_market_trades_total", symbol="BTCUSDT"),
            )
            await until(lambda: meter.total("fks_market_trades_total", symbol="BTCUSDT") >= stayed + 50, deadline_s=30)
            return meter.total("fks_market_dropped_total") == left

        await until(is_left_in_peace, deadline_s=60)
    assert "feed.disconnected" not in log.events()
    assert ("warning", "asset.unknown", {"exchange": "binance", "symbol": "NOSUCHCOIN"}) in log.lines


@pytest.mark.parametrize("frames", [("1m", "5m"), ("1s", "5s", "1m", "5m")], ids=["minutes", "seconds"])
async def test_held_tape_seals_each_bar_when_it_is_over(
    database: Database, as_collector: Database, bus: Bus, log: CollectingLog, tmp_path: Path, frames: tuple[str, ...]
) -> None:
    tape = str(files("fks.market.files") / "sample_data" / SAMPLE)
    arguments = ["--tape", tape, "--fills", "tape", "--hold", "--start", "2026-03-10T00:00:00Z", "--rate-limits", "off"]
    exchange = LocalExchange(tmp_path, arguments).start()
    bars = sample_tape().bars()
    first = int(np.searchsorted(bars.time_ns, 1_773_100_800 * NS))
    settings = settings_for(exchange.info, symbols=("BTCUSDT",), timeframes=frames, backfill_bars=50, stale_min_s=60.0)
    try:
        async with running(make_collector(settings, as_collector, bus, log)) as collector:
            await until(lambda: collector.is_ready)
            for number in range(12):
                exchange.ask("POST", "/sim/tape/advance", {"bars": 1})

                async def is_sealed(at: int = first + number) -> bool:
                    return await sealed_ns(database, "1m") == bars.time_ns[at]

                await until(is_sealed)
            await until(lambda: collector.is_ready)
    finally:
        exchange.stop()
    stored = await BarStore(database).read("BTCUSDT", "1m")
    assert stored.time_ns[-1] == bars.time_ns[first + 11]
    part = bars[first + 12 - len(stored) : first + 12]
    assert len(stored) >= 50
    for name in ("time_ns", "open", "high", "low", "close", "volume"):
        assert np.array_equal(getattr(stored, name), getattr(part, name)), name
    fives = await BarStore(database).read("BTCUSDT", "5m")
    assert fives.time_ns[-1] == bars.time_ns[first + 5]
    assert fives.volume[-1] == round(bars.volume[first + 5 : first + 10].sum(), 8)


# ── draining ─────────────────────────────────────────────────────────────────────────────────────
async def test_drain_stores_all_and_the_next_collector_has_no_gap(
    database: Database, as_collector: Database, bus: Bus, exchange: LocalExchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fks.market.collector.collector.DRAIN_S", 20.0)  # it is about all, not about how soon
    monkeypatch.setattr("fks.market.collector.collector.FLUSH_S", 20.0)
    settings = settings_for(exchange.info, **FEW)
    newest: dict[str, int] = {}
    for epoch in (1, 2, 3):
        collector = make_collector(settings, as_collector, bus, CollectingLog(), epoch=epoch)
        async with running(collector):
            await until(lambda: collector.is_ready)  # noqa: B023
            await asyncio.gather(*(later(database, 2, symbol=symbol) for symbol in FEW["symbols"]))
            await until(lambda: all((f.last_id or -1) > newest.get(f.symbol, -1) for f in collector.feeds.values()))  # noqa: B023
            await collector.drain()
            for feed in collector.feeds.values():
                assert [*feed.unstored.sealed, *feed.unstored.trades, *feed.backlog.events] == [], (
                    "received and not stored"
                )
                stored = await database.sql("SELECT max(trade_id) FROM market_trades WHERE symbol = $1", feed.symbol)
                assert stored[0][0] == feed.last_id
                assert feed.last_id > newest.get(feed.symbol, -1)
                newest[feed.symbol] = feed.last_id
            received = {feed.symbol: feed.last_id for feed in collector.feeds.values()}
        assert {feed.symbol: feed.last_id for feed in collector.feeds.values()} == received, "it went on listening"
    await check_stored(database, exchange)


async def test_silent_feed_is_a_problem_until_its_next_message(
    database: Database, as_collector: Database, bus: Bus, exchange: LocalExchange
) -> None:
    settings = settings_for(exchange.info, **FEW, stale_min_s=1.0, stale_max_s=1.0)
    collector = make_collector(settings, as_collector, bus, CollectingLog())
    async with running(collector):
        await until(lambda: collector.is_ready and not collector.problems())
        exchange.fault("freeze_stream", seconds=4)
        found = await until(collector.problems)
        assert {(p.name, p.is_mended_by_restart) for p in found} == {("feed", True)}
        await until(lambda: collector.is_ready and not collector.problems())
