"""One collector on one core: trades a second from a real socket into bars and PostgreSQL, a trade's way to Redis,
memory of 500 symbols.

    python benchmarks/collector.py [--trades 300000] [--seconds 10]

An exchange in another process speaks Binance's wire: frames made beforehand, REST that has the same trades. The
collector is the real one, with every timeframe, a real PostgreSQL and a real Redis. The stored trades, and the minute
bars built from them, are compared with the trades made before a figure is printed. Exits 1 when they differ, or a limit
of docs/performance.md is missed."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import multiprocessing
import socket
import sys
import time
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the rigs of the tests, however this is started

import psutil
from aiohttp import web

from benchmarks._results import run, same
from fks.config.secrets import load_secrets
from fks.market.bars.aggregate import BarStart
from fks.market.feed import machine as m
from fks.market.feed.feed import FeedSpec, SymbolFeed
from fks.model.bar import PublicTrade
from fks.model.timeframe import NS, bar_start
from fks.store import migrate
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.latest import PRICES
from fks.system.servers.embedded import PostgresServer, RedisServer, start_and_wait
from tests.support import servers
from tests.support.collecting import make_collector, running, settings_for
from tests.support.ports import CollectingLog
from tests.support.waiting import until

FRAMES = ("1m", "5m", "15m", "30m", "1h", "4h", "1d", "1w", "1M")
BLOCK = 500  # frames written at once
SPAN_MS = 180_000  # of the market's time, for all trades of the burst: two whole minutes lie within
RATE_MIN, P99_MAX_MS, MEMORY_MAX_MB = 50_000, 10.0, 600


def trade(number: int, time_ms: int) -> dict[str, Any]:
    """Return one aggregate trade of the made market."""
    return {
        "a": number,
        "p": f"{65_000 + number % 97}.{number % 90 + 10}",
        "q": f"0.0{number % 900 + 100}",
        "f": number,
        "l": number,
        "T": time_ms,
        "m": number % 2 == 0,
        "M": True,
    }


def time_of(number: int, begin_ms: int, burst: int) -> int:
    """Return when a trade of the burst happened, by the market's clock."""
    return begin_ms + number * SPAN_MS // burst


def play(port: int, begin_ms: int, burst: int, start: Any) -> None:
    """Be the exchange: trade 0 is over, `burst` trades come as fast as they are read once `start` is set, then 1,000 a
    second."""

    async def info(_: web.Request) -> web.Response:
        filters = [
            {"filterType": "LOT_SIZE", "stepSize": "0.00001", "minQty": "0.00001", "maxQty": "9000"},
            {"filterType": "PRICE_FILTER", "tickSize": "0.01"},
            {"filterType": "NOTIONAL", "minNotional": "5"},
        ]
        row = {"symbol": "BTCUSDT", "baseAsset": "BTC", "quoteAsset": "USDT", "status": "TRADING", "filters": filters}
        return web.json_response({"symbols": [row]})

    async def trades(request: web.Request) -> web.Response:
        return web.json_response([trade(0, begin_ms)] if int(request.query.get("fromId", 0)) == 0 else [])

    async def klines(_: web.Request) -> web.Response:
        return web.json_response([])

    async def stream(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(compress=False)
        await ws.prepare(request)
        asked = json.loads((await ws.receive()).data)
        await ws.send_str(json.dumps({"result": None, "id": asked["id"]}))
        blocks = [
            b"".join(
                _wired(_frame(n, time_of(n, begin_ms, burst))) for n in range(first, min(first + BLOCK, burst + 1))
            )
            for first in range(1, burst + 1, BLOCK)
        ]
        while not start.is_set():
            await asyncio.sleep(0.05)
        transport = request.transport
        assert isinstance(transport, asyncio.Transport)
        for block in blocks:  # sending frame by frame would measure us
            while transport.get_write_buffer_size() > len(block):
                await asyncio.sleep(0)
            transport.write(block)
        number, began = burst, time.time()
        with contextlib.suppress(ConnectionError):
            while not ws.closed:
                due = burst + int((time.time() - began) * 1000)
                while number < due:
                    number += 1
                    await ws.send_str(_frame(number, max(begin_ms + SPAN_MS, int(time.time() * 1000))))
                await asyncio.sleep(0.001)
        return ws

    app = web.Application()
    app.add_routes(
        [
            web.get("/api/v3/exchangeInfo", info),
            web.get("/api/v3/aggTrades", trades),
            web.get("/api/v3/klines", klines),
            web.get("/{tail:.*}", stream),
        ]
    )
    web.run_app(app, host="127.0.0.1", port=port, print=None)


def _frame(number: int, time_ms: int) -> str:
    data = {"e": "aggTrade", "E": time_ms, "s": "BTCUSDT", **trade(number, time_ms)}
    return json.dumps({"stream": "btcusdt@aggTrade", "data": data}, separators=(",", ":"))


def _wired(frame: str) -> bytes:
    """Return a text message as a server sends it."""
    data = frame.encode()
    assert 126 <= len(data) < 65_536
    return b"\x81\x7e" + len(data).to_bytes(2, "big") + data


async def compare(db: Database, begin_ms: int, burst: int) -> None:
    """Compare the stored trades with those made, and each minute bar that is over with its trades."""
    made = [trade(number, time_of(number, begin_ms, burst)) for number in range(1, burst + 1)]
    rows = await db.sql(
        "SELECT trade_id, price, quantity, time FROM market_trades WHERE trade_id BETWEEN 1 AND $1 ORDER BY trade_id",
        burst,
    )
    same(
        "the trades stored",
        [(row["trade_id"], row["price"], row["quantity"], round(row["time"].timestamp() * 1000)) for row in rows],
        [(one["a"], Decimal(one["p"]), Decimal(one["q"]), one["T"]) for one in made],
    )
    minutes: dict[int, list[dict[str, Any]]] = {}
    for one in made:
        minutes.setdefault(one["T"] // 60_000, []).append(one)
    whole = sorted(minutes)[1:-1]  # the first began before the burst, the last goes on
    query = "SELECT time, open, high, low, close, volume, trades FROM ohlcv_data WHERE timeframe = '1m' AND is_complete"

    async def are_stored() -> bool:
        return {round(bar["time"].timestamp()) // 60 for bar in await db.sql(query)} >= set(whole)

    await until(are_stored, deadline_s=30)
    bars = await db.sql(query)
    ours = {
        round(bar["time"].timestamp()) // 60: (*list(bar)[1:5], round(bar["volume"], 6), bar["trades"]) for bar in bars
    }
    for minute in whole:
        prices = [float(one["p"]) for one in minutes[minute]]
        volume = round(float(sum(Decimal(one["q"]) for one in minutes[minute])), 6)
        wanted = (prices[0], max(prices), min(prices), prices[-1], volume, len(prices))
        same(f"the bar of minute {minute}", ours.get(minute), wanted)


async def measure(
    url: str, redis_url: str, port: int, start: Any, burst: int, seconds: float, begin_ms: int
) -> tuple[float, float, float, float]:
    """Return trades a second until their bars are built and until they are stored, p99 in ms, and how busy our core
    was."""
    db, bus = await Database.connect(url), await Bus.connect(redis_url)
    info = {"rest": f"http://127.0.0.1:{port}", "ws": f"ws://127.0.0.1:{port}"}
    settings = settings_for(info, symbols=("BTCUSDT",), timeframes=FRAMES, backfill_bars=0, stale_min_s=30.0)
    late: list[float] = []
    collector = make_collector(settings, db, bus, CollectingLog())

    async def listen() -> None:
        async for _, message in (await Bus.connect(redis_url)).subscribe(PRICES):
            late.append(time.time() - datetime.fromisoformat(message["received"]).timestamp())

    async with running(collector):
        await until(lambda: collector.is_ready, deadline_s=30)
        feed = collector.feeds["BTCUSDT"]
        feed.keep_trades(10**9)
        cpu = time.process_time()
        start.set()
        began = time.perf_counter()
        await until(lambda: feed.last_id is not None and feed.last_id >= burst, deadline_s=120)
        built = time.perf_counter() - began
        await until(lambda: feed.stored_id >= burst, deadline_s=120)
        took = time.perf_counter() - began
        share = (time.process_time() - cpu) / took
        count = (await db.sql("SELECT count(*) FROM market_trades WHERE trade_id BETWEEN 1 AND $1", burst))[0][0]
        same("the number of trades stored", count, burst)
        await compare(db, begin_ms, burst)
        listener = asyncio.create_task(listen())
        await asyncio.sleep(1.0)
        late.clear()
        await asyncio.sleep(seconds)
        listener.cancel()
    await db.close()
    await bus.close()
    return burst / built, burst / took, sorted(late)[int(len(late) * 0.99)] * 1000, share


def memory_mb(symbols: int = 500) -> float:
    """Return what feeds of so many symbols with nine timeframes add to a process, each with a minute of trades
    waiting."""
    gc.collect()
    before = psutil.Process().memory_info().rss
    begin = bar_start(time.time_ns(), "1m")
    feeds = []
    for number in range(symbols):
        feed = SymbolFeed(FeedSpec(f"S{number}", 10, 120, FRAMES), 0.0)
        feed.handle(m.Claimed(begin, 0.0, {}, None))
        trades = [
            PublicTrade("binance", feed.symbol, n, begin + n * NS // 10, Decimal(f"{n}.01"), Decimal("0.5"), False)
            for n in range(1, 600)
        ]
        start = BarStart("binance", feed.symbol, FRAMES, begin, previous=Decimal(1))
        feed.handle(m.Recovered(begin + 60 * NS, 60.0, m.Recovery(start, 0, trades=trades)))
        feeds.append(feed)
    return (psutil.Process().memory_info().rss - before) / 2**20


def main() -> int:
    """Measure, print ours and the limit, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trades", type=int, default=300_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    start = multiprocessing.Event()
    begin_ms = int(time.time() * 1000) - SPAN_MS
    exchange = multiprocessing.Process(target=play, args=(port, begin_ms, given.trades, start), daemon=True)
    exchange.start()
    try:
        with servers.home() as paths, servers.running_redis(paths) as redis:
            assert isinstance(redis, RedisServer)
            server = PostgresServer(paths, load_secrets(paths), is_durable=True)
            process = start_and_wait(server, log=paths.logs / "postgres.log")
            try:
                asyncio.run(migrate.upgrade(server.url()))
                rate, stored, p99_ms, share = asyncio.run(
                    measure(server.url(), redis.url(), port, start, given.trades, given.seconds, begin_ms)
                )
            finally:
                server.stop(process)
    finally:
        exchange.terminate()
    base_mb = psutil.Process().memory_info().rss / 2**20
    grown_mb = base_mb + memory_mb()
    rows = (
        ("trades/s, built", rate, RATE_MIN, rate >= RATE_MIN),
        ("p99 to Redis, ms", p99_ms, P99_MAX_MS, p99_ms <= P99_MAX_MS),
        ("500 symbols x 9, MB", grown_mb, MEMORY_MAX_MB, grown_mb <= MEMORY_MAX_MB),
    )
    for name, value, limit, is_met in rows:
        print(f"{name:<22} {value:>12,.1f}   limit {limit:>8,}   {'ok' if is_met else 'MISSED'}")
    print(f"{stored:,.0f} trades/s until PostgreSQL had them; we used {share:.0%} of a core meanwhile")
    return 0 if all(row[3] for row in rows) else 1


if __name__ == "__main__":
    run(main)
