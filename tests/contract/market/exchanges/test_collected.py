"""The collector over an exchange of the long tail: a market that goes on, a connection that is cut, and everything is
there once.

The market speaks OKX's documented wire, on both of its sockets and by REST.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from fks.clock import RealClock
from fks.config.settings import Data, Settings
from fks.market.collector.collector import Collector
from fks.market.exchanges.registry import make_exchange
from fks.store.bus import Bus
from fks.store.db import Database
from fks.system.runtime import Runtime
from tests.support.collecting import running
from tests.support.exchange_cases import CASES
from tests.support.exchange_peer import Peer, playing
from tests.support.okx_market import Market, trading
from tests.support.ports import CollectingLog, RecordingMeter, TestLease
from tests.support.waiting import until


@pytest.fixture
async def market(peer: Peer) -> AsyncIterator[Market]:
    async with trading(peer) as made:
        yield made


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with playing(CASES["okx"]) as running_:
        yield running_


async def test_okx_is_collected_through_a_cut(
    peer: Peer, market: Market, database: Database, bus: Bus, log: CollectingLog
) -> None:
    data = Data(
        exchange="okx",
        symbols=("BTC-USDT",),
        timeframes=("1s", "1m"),
        rest_url=f"http://{peer.url}",
        ws_url=f"ws://{peer.url}",
        backfill_bars=0,
        stale_min_s=2.0,
    )
    settings = Settings(data=data)
    clock = RealClock()
    exchange = make_exchange("okx", settings=settings, node=None, clock=clock, log=log)
    lease = TestLease("collector:okx", 1)
    collector = Collector(exchange, Runtime(settings, clock, database, bus, log, RecordingMeter(), lease))

    async def stored() -> dict[int, tuple[float, ...]]:
        rows = await database.sql(
            "SELECT time, open, high, low, close, volume FROM ohlcv_data WHERE exchange = 'okx' AND timeframe = '1s'"
            " AND NOT is_empty ORDER BY time"
        )
        return {round(row["time"].timestamp() * 1000): tuple(float(v) for v in tuple(row)[1:]) for row in rows}

    async with running(collector):
        await until(lambda: len(market.trades) > 60, deadline_s=10)
        await until(stored, deadline_s=15)
        await peer.cut("aborted")
        cut_at = len(market.trades)
        await until(lambda: len(market.trades) > cut_at + 75, deadline_s=15)
        last_ms = int(market.trades[cut_at + 50]["ts"]) // 1000 * 1000
        await until(lambda: _has(stored, last_ms), deadline_s=20)
    found = await stored()
    own = {start: tuple(float(v) for v in row[1:6]) for start, row in market.bars(1_000).items() if row[8] == "1"}
    first = min(found)
    assert found == {start: bar for start, bar in own.items() if first <= start <= max(found)}
    empty = await database.sql("SELECT time FROM ohlcv_data WHERE exchange = 'okx' AND timeframe = '1s' AND is_empty")
    assert not {round(row["time"].timestamp() * 1000) for row in empty} & set(own)
    rows = await database.sql("SELECT trade_id FROM market_trades WHERE exchange = 'okx' ORDER BY trade_id")
    ids = [row["trade_id"] for row in rows]
    known = [int(row["tradeId"]) for row in market.trades]
    assert ids == [number for number in known if ids[0] <= number <= ids[-1]]


async def _has(stored: Any, moment_ms: int) -> bool:
    return moment_ms in await stored()
