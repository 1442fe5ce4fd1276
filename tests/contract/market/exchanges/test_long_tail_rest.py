"""Reading forward through histories that are returned backwards: bybit, okx and polygon against servers that keep their
rules.

The servers are ours, written after the exchanges' documentation (*documented*): the tests prove that any range asked
for comes whole, once, oldest first, whatever the page size, the gaps between ids or the length of the history.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web

from fks.clock import RealClock
from fks.config.settings import Data, Settings
from fks.market.exchanges.base import ExchangeAddresses
from fks.market.exchanges.registry import endpoint_of, make_exchange
from fks.model.errors import ConfigError, InputError, OutageError, PeerError
from fks.model.ports import Exchange
from fks.model.timeframe import NS
from tests.support.exchange_cases import CASES, FRIDAY, KEY, MS, NEW_YEAR
from tests.support.exchange_peer import CountingBudget, Peer, TapeClock, playing
from tests.support.ports import CollectingLog

MINUTE = 60 * NS
COUNT = 2_000
NOW = NEW_YEAR + COUNT * MINUTE + 30 * NS  # the bar number COUNT is not over


@dataclass
class Trades:
    """Public trades of the server: ids and times in ms."""

    rows: list[tuple[int, int]]

    def below(self, *, number: int | None = None, time_ms: int | None = None, limit: int) -> list[tuple[int, int]]:
        """Return the newest ones below an id or before a time, newest first."""
        found = [r for r in self.rows if (number is None or r[0] < number) and (time_ms is None or r[1] < time_ms)]
        return found[::-1][:limit]


def bars_between(first_ms: float, last_ms: float) -> list[int]:
    """Return the open times (ms) of bars in [first, last], newest first."""
    times = [(NEW_YEAR + i * MINUTE) // MS for i in range(COUNT + 1)]
    return [t for t in reversed(times) if first_ms <= t <= last_ms]


def bybit(request: web.Request) -> web.Response:
    """Klines as Bybit gives them: newest first, `limit` of the newest in [start, end]."""
    q = request.query
    rows = bars_between(float(q.get("start", 0)), float(q.get("end", "inf")))[: int(q["limit"])]
    found = {"list": [[str(t), "1", "2", "0.5", "1.5", str(t % 1000 + 1), "9"] for t in rows]}
    return web.json_response({"retCode": 0, "retMsg": "OK", "result": found, "time": NOW // MS})


class Okx:
    """Candles and trades as OKX gives them; `after` and `before` are not included, `candles` forgets after 1,440."""

    def __init__(self, trades: Trades) -> None:
        self.trades = trades
        self.requests = 0

    def __call__(self, request: web.Request) -> web.Response:
        self.requests += 1
        q = request.query
        limit = int(q["limit"])
        if request.path.endswith("history-trades"):
            after = int(q["after"]) if "after" in q else None
            by_time = q.get("type") == "2"
            rows = self.trades.below(
                number=None if by_time else after, time_ms=after if by_time else None, limit=min(limit, 100)
            )
            data: list[Any] = [
                {"instId": "BTC-USDT", "tradeId": str(n), "ts": str(t), "px": "1.5", "sz": "1", "side": "buy"}
                for n, t in rows
            ]
        else:
            is_recent = request.path.endswith("/candles")
            oldest = (NEW_YEAR + (COUNT - 1440) * MINUTE) // MS if is_recent else 0
            times = bars_between(max(float(q.get("before", -1)) + 1, oldest), float(q.get("after", "inf")) - 1)
            times = times[: min(limit, 300 if is_recent else 100)]
            over = str(NOW // MS)
            data = [
                [str(t), "1", "2", "0.5", "1.5", str(t % 1000 + 1), "9", "9", "1" if t + 60_000 <= int(over) else "0"]
                for t in times
            ]
        return web.json_response({"code": "0", "msg": "", "data": data})


def polygon(request: web.Request) -> web.Response:
    """Aggregates as Polygon gives them: from and to in the path, both included."""
    first, last = (float(part) for part in request.path.rsplit("/", 2)[1:])
    times = bars_between(first, last)
    times = times if request.query["sort"] == "desc" else times[::-1]
    rows = [
        {"t": t, "o": 1, "h": 2, "l": 0.5, "c": 1.5, "v": t % 1000 + 1, "n": 3}
        for t in times[: int(request.query["limit"])]
    ]
    return web.json_response({"status": "OK", "results": rows})


SERVERS = {"bybit": lambda: bybit, "okx": lambda: Okx(Trades([])), "polygon": lambda: polygon}


@pytest.fixture(params=sorted(SERVERS))
async def peer(request: pytest.FixtureRequest) -> AsyncIterator[Peer]:
    async with playing(CASES[request.param]) as running:
        running.rest = SERVERS[request.param]()
        yield running


async def opened(peer: Peer, log: CollectingLog, now_ns: int = NOW) -> Exchange:
    data = Data(endpoints=(f"{peer.case.name} http://{peer.url} ws://{peer.url}",), polygon_api_key=KEY)  # type: ignore[arg-type]
    clock = TapeClock(now_ns - RealClock().now_ns())
    made = make_exchange(
        peer.case.name, settings=Settings(data=data), node=None, clock=clock, log=log, budget=CountingBudget()
    )
    await made.open()
    return made


@pytest.fixture
async def exchange(peer: Peer, log: CollectingLog) -> AsyncIterator[Exchange]:
    made = await opened(peer, log)
    yield made
    await made.close()


@pytest.mark.parametrize("first", [0, 7, 700, 1990])
@pytest.mark.parametrize("limit", [1, 5, 450])
async def test_bars_from_a_moment_on_are_the_first_ones_not_the_newest(
    peer: Peer, exchange: Exchange, first: int, limit: int
) -> None:
    start = NEW_YEAR + first * MINUTE
    found = await exchange.fetch_bars(peer.case.symbol, "1m", start, limit)
    assert [bar.time_ns for bar in found] == [start + i * MINUTE for i in range(min(limit, COUNT - first))]
    assert all(bar.volume == bar.time_ns // MS % 1000 + 1 for bar in found)


async def test_bars_of_a_range_are_whole_and_end_before_its_end(peer: Peer, exchange: Exchange) -> None:
    start, end = NEW_YEAR + 10 * MINUTE + 1, NEW_YEAR + 300 * MINUTE
    found = await exchange.fetch_bars(peer.case.symbol, "1m", start, 1000, until_ns=end)
    assert [bar.time_ns for bar in found] == [NEW_YEAR + i * MINUTE for i in range(11, 300)]
    assert await exchange.fetch_bars(peer.case.symbol, "1m", end, 1000, until_ns=end) == []
    (last,) = await exchange.fetch_bars(peer.case.symbol, "1m", None, 1, until_ns=end + 1)
    assert last.time_ns == NEW_YEAR + 299 * MINUTE


async def test_later_beginning_of_a_history_is_found_with_few_requests(peer: Peer, exchange: Exchange) -> None:
    """Two years asked for, listed a day ago."""
    start = NEW_YEAR - 730 * 1440 * MINUTE
    found = await exchange.fetch_bars(peer.case.symbol, "1m", start, 1000)
    assert found
    assert found[0].time_ns == NEW_YEAR
    assert [bar.time_ns for bar in found] == [NEW_YEAR + i * MINUTE for i in range(len(found))]
    assert len(peer.asked) <= 40
    assert await exchange.fetch_bars(peer.case.symbol, "1m", start, 1000, until_ns=NEW_YEAR) == []


async def test_a_walk_over_all_pages_gives_every_bar_once(peer: Peer, exchange: Exchange) -> None:
    found, cursor = [], NEW_YEAR
    while page := await exchange.fetch_bars(peer.case.symbol, "1m", cursor, 900):
        found += page
        cursor = page[-1].time_ns + MINUTE
    assert [bar.time_ns for bar in found] == [NEW_YEAR + i * MINUTE for i in range(COUNT)]


def holed(numbers: list[int]) -> Trades:
    """Return trades with these ids, three every 10 ms."""
    return Trades([(number, NEW_YEAR // MS + i // 3 * 10) for i, number in enumerate(numbers)])


@pytest.mark.parametrize(
    "numbers",
    [list(range(1, 1501)), list(range(1, 40_000, 37)), [*range(1, 300), *range(90_000, 90_300)], [5]],
    ids=["joined", "sparse", "one-wide-hole", "one"],
)
async def test_okx_trades_are_read_forward_over_any_gaps_of_ids(numbers: list[int], log: CollectingLog) -> None:
    server = Okx(holed(numbers))
    async with playing(CASES["okx"]) as peer:
        peer.rest = server
        exchange = await opened(peer, log)
        for first in (numbers[0], numbers[len(numbers) // 2], numbers[-1]):
            found = await exchange.fetch_trades("BTC-USDT", from_id=first, since_ns=None, limit=250)
            assert [trade.trade_id for trade in found] == [n for n in numbers if n >= first][:250]
            assert [trade.trade_id for trade in found] == sorted({trade.trade_id for trade in found})
        middle_ms = server.trades.rows[len(numbers) // 2][1]
        found = await exchange.fetch_trades("BTC-USDT", from_id=None, since_ns=middle_ms * MS, limit=120)
        assert [trade.trade_id for trade in found] == [n for n, t in server.trades.rows if t >= middle_ms][:120]
        assert await exchange.fetch_trades("BTC-USDT", from_id=numbers[-1] + 1, since_ns=None, limit=10) == []
        server.requests = 0
        await exchange.fetch_trades("BTC-USDT", from_id=numbers[0], since_ns=None, limit=100)
        assert server.requests <= 5
        await exchange.close()


async def test_polygon_follows_pages_on_its_own_host_and_drops_delayed_bars(
    log: CollectingLog,
) -> None:
    pages = [{"ticker": f"T{i}", "active": True, "currency_name": "usd"} for i in range(3)]
    seen: list[tuple[str, str]] = []

    def rest(request: web.Request) -> web.Response:
        seen.append((request.headers.get("Authorization", ""), str(request.rel_url)))
        if request.path.startswith("/v2/aggs"):
            rows = [{"t": FRIDAY // MS + i * 60_000, "o": 1, "h": 1, "l": 1, "c": 1, "v": 5, "n": 1} for i in range(30)]
            return web.json_response({"status": "DELAYED", "results": rows})
        number = int(request.query.get("cursor", 0))
        following = (
            {"next_url": f"https://elsewhere.example/v3/reference/tickers?cursor={number + 1}"} if number < 2 else {}
        )
        return web.json_response({"status": "OK", "results": [pages[number]], **following})

    async with playing(CASES["polygon"]) as peer:
        peer.rest = rest
        exchange = await opened(peer, log, FRIDAY + 30 * MINUTE + NS)
        assert [item.symbol for item in await exchange.instruments()] == ["T0", "T1", "T2"]
        assert [auth for auth, _ in seen] == [f"Bearer {KEY}"] * 3
        bars = await exchange.fetch_bars("AAPL", "1m", FRIDAY, 100)
        assert [bar.time_ns for bar in bars] == [FRIDAY + i * MINUTE for i in range(15)]
        await exchange.close()


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (200, "<html>", PeerError),
        (401, "{}", ConfigError),
        (403, "{}", InputError),
        (404, "{}", InputError),
        (429, "{}", OutageError),
        (500, "{}", OutageError),
        (302, "", PeerError),
        (200, '{"results":[{"t":1}]}', PeerError),
    ],
)
async def test_polygon_answer_names_the_party_at_fault(
    log: CollectingLog, status: int, body: str, error: type[Exception]
) -> None:
    async with playing(CASES["polygon"]) as peer:
        headers = {"Location": "https://elsewhere.example/"} if status == 302 else {}
        peer.rest = lambda request: web.Response(status=status, text=body, headers=headers)
        exchange = await opened(peer, log, FRIDAY + 30 * MINUTE)
        with pytest.raises(error) as raised:
            await exchange.fetch_bars("AAPL", "1m", FRIDAY, 100)
        assert KEY not in str(raised.value)
        await exchange.close()


def test_where_an_exchange_is_found() -> None:
    class Node:
        sim: dict[str, Any] | None = None

    lines = ("kraken http://127.0.0.1:1 ws://127.0.0.1:2", "okx https://only.one")
    set_ = Settings(data=Data(exchange="kraken", endpoints=lines))
    assert endpoint_of(set_, None, "kraken") == ExchangeAddresses("http://127.0.0.1:1", "ws://127.0.0.1:2")
    assert endpoint_of(set_, Node(), "bybit") == ExchangeAddresses()  # the local exchange speaks Binance alone
    with pytest.raises(ConfigError, match=r"only\.one"):
        endpoint_of(set_, None, "okx")
    with pytest.raises(OutageError, match="local exchange"):
        endpoint_of(set_, Node(), "binance")
    own = Settings(data=Data(exchange="kraken", rest_url="http://127.0.0.1:3", ws_url="ws://127.0.0.1:3"))
    assert endpoint_of(own, None, "kraken") == ExchangeAddresses("http://127.0.0.1:3", "ws://127.0.0.1:3")
    assert endpoint_of(own, None, "okx") == ExchangeAddresses()
    assert json.dumps(KEY) not in repr(Settings(data=Data(polygon_api_key=KEY)))  # type: ignore[arg-type]
