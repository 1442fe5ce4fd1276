"""The collector over an exchange of the long tail: a market that goes on, a connection that is cut, and everything is there once.

The market speaks OKX's documented wire, on both of its sockets and by REST; ids have holes, so nothing but the time tells what
was missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from fks.clock import RealClock
from fks.config.settings import Data, Settings
from fks.data.collector import Collector
from fks.exchanges.registry import make_exchange
from fks.store.bus import Bus
from fks.store.db import Database
from tests.support.collecting import Held, running
from tests.support.exchange_cases import CASES
from tests.support.exchange_peer import Peer, playing
from tests.support.ports import CollectingLog, RecordingMeter
from tests.support.waiting import until

MS = 1_000_000


@dataclass
class Market:
    """Trades every 40 ms, ids by threes; REST has them all, sockets those of their time."""

    trades: list[dict[str, str]] = field(default_factory=list)

    def trade(self) -> dict[str, str]:
        """Return the next trade."""
        number, now_ms = 1000 + 3 * len(self.trades), RealClock().now_ns() // MS
        price = f"{100 + len(self.trades) % 17}.{len(self.trades) % 10}"
        row = {"instId": "BTC-USDT", "tradeId": str(number), "px": price, "sz": "0.5", "side": "buy", "source": "0", "ts": str(now_ms)}
        self.trades.append(row)
        return row

    def bars(self, length_ms: int) -> dict[int, list[str]]:
        """Return open time -> candle of all bars that traded."""
        groups: dict[int, list[dict[str, str]]] = {}
        for row in self.trades:
            groups.setdefault(int(row["ts"]) // length_ms * length_ms, []).append(row)
        made = {}
        for start, rows in groups.items():
            prices = [float(row["px"]) for row in rows]
            ohlcv = (prices[0], max(prices), min(prices), prices[-1], 0.5 * len(rows))
            over = int(RealClock().now_ns() // MS >= start + length_ms)
            made[start] = [str(start), *(repr(value) for value in ohlcv), "1", "1", str(over)]
        return made

    def rest(self, request: web.Request) -> web.Response | None:
        """Answer as OKX does: newest first, neither end included."""
        q = request.query
        below, above = int(q.get("after", 2**62)), int(q.get("before", -1))
        if request.path.endswith("history-trades"):
            key = "ts" if q.get("type") == "2" else "tradeId"
            rows: list[Any] = [row for row in reversed(self.trades) if int(row[key]) < below][:100]
        elif "candles" in request.path:
            length = {"1s": 1_000, "1m": 60_000}.get(q["bar"])
            found = self.bars(length) if length else {}
            rows = [found[start] for start in sorted(found, reverse=True) if above < start < below][: int(q["limit"])]
        else:
            return None
        return web.json_response({"code": "0", "msg": "", "data": rows})


def frame(channel: str, row: Any) -> str:
    """Return a message of a channel."""
    return json.dumps({"arg": {"channel": channel, "instId": "BTC-USDT"}, "data": [row]})


@pytest.fixture
async def market(peer: Peer) -> AsyncIterator[Market]:
    made = Market()
    peer.rest = made.rest

    async def go_on() -> None:
        while True:
            texts = [frame("trades-all", made.trade())]
            for bar, length_ms in (("1s", 1_000), ("1m", 60_000)):
                texts += [frame(f"candle{bar}", row) for row in list(made.bars(length_ms).values())[-2:]]
            for path, socket in list(peer.sockets):
                for text in texts if path.endswith("business") else ():
                    with contextlib.suppress(ConnectionError):
                        await socket.send_str(text)
            await asyncio.sleep(0.04)

    task = asyncio.create_task(go_on())
    yield made
    task.cancel()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with playing(CASES["okx"]) as running_:
        yield running_


async def test_okx_is_collected_through_a_cut(peer: Peer, market: Market, database: Database, bus: Bus, log: CollectingLog) -> None:
    data = Data(
        exchange="okx", symbols=("BTC-USDT",), timeframes=("1s", "1m"), rest_url=f"http://{peer.url}", ws_url=f"ws://{peer.url}",
        backfill_bars=0, stale_min_s=2.0,
    )  # fmt: skip
    settings = Settings(data=data)
    clock = RealClock()
    exchange = make_exchange("okx", settings=settings, node=None, clock=clock, log=log)
    collector = Collector(exchange, database, bus, clock, RecordingMeter(), log, settings, Held("collector:okx", 1))

    async def stored() -> dict[int, tuple[float, ...]]:
        rows = await database.sql(
            "SELECT time, open, high, low, close, volume FROM ohlcv_data WHERE exchange = 'okx' AND timeframe = '1s' ORDER BY time"
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
    rows = await database.sql("SELECT trade_id FROM market_trades WHERE exchange = 'okx' ORDER BY trade_id")
    ids = [row["trade_id"] for row in rows]
    known = [int(row["tradeId"]) for row in market.trades]
    assert ids == [number for number in known if ids[0] <= number <= ids[-1]]


async def _has(stored: Any, moment_ms: int) -> bool:
    return moment_ms in await stored()
