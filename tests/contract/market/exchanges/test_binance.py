"""BinanceExchange over real sockets: a scripted peer that replays recorded frames and misbehaves, and the local
exchange."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from aiohttp import WSCloseCode, web

from fks.clock import RealClock
from fks.config.settings import Data, Settings, Sim
from fks.market.exchanges.base import ExchangeAddresses
from fks.market.exchanges.binance.exchange import BinanceExchange
from fks.market.exchanges.registry import EXCHANGES, endpoint_of, make_exchange
from fks.model.bar import Bar, BarClosed, PublicTrade
from fks.model.errors import ConfigError, InputError, OutageError, PeerError
from fks.model.instrument import Lot, PercentPrice, find_instrument
from fks.model.market import BarSeen, Book, Channel, Discontinuity, MarketEvent, Quote, Subscription, Suspect
from fks.model.order import OrderType
from fks.model.ports import Exchange
from fks.model.timeframe import NS, bar_end
from tests.support.local_exchange import LocalExchange
from tests.support.ports import CollectingLog
from tests.support.recorded import agg_trades, public_trades, raw_trades

ROWS = agg_trades(raw_trades())


def frame(row: dict[str, Any]) -> str:
    return json.dumps({"stream": f"{row['s'].lower()}@{row['e']}", "data": row})


class Peer:
    """Sends the messages of a test. `script` is called with each socket once it has subscribed."""

    def __init__(self) -> None:
        self.rest: Callable[[web.Request], Any] = lambda request: []
        self.script: Callable[[web.WebSocketResponse], Any] | None = None
        self.asked: list[dict[str, str]] = []
        self.subscribed: list[list[str]] = []
        self.url = ""
        self.reply: dict[str, Any] | None = None
        self.newest: web.Request | None = None

    def abort(self) -> None:
        """Cut the newest connection without a close frame."""
        assert self.newest is not None
        assert self.newest.transport is not None
        self.newest.transport.abort()

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(dict(request.query))
        found = self.rest(request)
        return found if isinstance(found, web.Response) else web.json_response(found)

    async def stream(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        self.newest = request
        await socket.prepare(request)
        subscribe_request = await socket.receive_json()
        self.subscribed.append(subscribe_request["params"])
        await socket.send_json(self.reply or {"result": None, "id": subscribe_request["id"]})
        if self.script is not None:
            await self.script(socket)
        while not socket.closed:
            await socket.receive()
        return socket


@contextlib.asynccontextmanager
async def served(peer: Peer) -> AsyncIterator[Peer]:
    app = web.Application()
    app.router.add_get("/api/v3/{name}", peer.answer)
    app.router.add_get("/stream", peer.stream)
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    peer.url = f"127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield peer
    finally:
        await runner.cleanup()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with served(Peer()) as running:
        yield running


@contextlib.asynccontextmanager
async def opened(rest: str, ws: str, log: CollectingLog) -> AsyncIterator[Exchange]:
    settings = Settings(data=Data(rest_url=rest, ws_url=ws))
    exchange = make_exchange("binance", settings=settings, node=None, clock=RealClock(), log=log)
    await exchange.open()
    try:
        yield exchange
    finally:
        await exchange.close()


@pytest.fixture
async def exchange(peer: Peer, log: CollectingLog) -> AsyncIterator[Exchange]:
    async with opened(f"http://{peer.url}", f"ws://{peer.url}", log) as made:
        yield made


TRADES = (Subscription(Channel.TRADES, "BTCUSDT"),)


async def received(
    exchange: Exchange, count: int, wanted: Sequence[Subscription] = TRADES, *, into: list[MarketEvent] | None = None
) -> list[MarketEvent]:
    """Return the first `count` events of a fresh subscription, trades without the time of receipt."""
    events: list[MarketEvent] = [] if into is None else into
    async with asyncio.timeout(10), contextlib.aclosing(exchange.watch(wanted)) as stream:  # type: ignore[type-var]
        async for batch in stream:
            events += [plain(event) for event in batch]
            if len(events) >= count:
                break
    return events


def plain(event: MarketEvent) -> MarketEvent:
    """Return a trade as REST and the slow way know it."""
    return msgspec.structs.replace(event, received_ns=0) if isinstance(event, PublicTrade) else event


def test_folder_registry_and_tapes_agree() -> None:
    import pkgutil

    import fks.market.exchanges

    modules = {module.name for module in pkgutil.iter_modules(fks.market.exchanges.__path__)}
    assert set(EXCHANGES) <= modules - {"base", "registry"}


async def test_recorded_frames_arrive_exact_and_in_order(peer: Peer, exchange: Exchange) -> None:
    async def play(socket: web.WebSocketResponse) -> None:
        for row in ROWS:
            await socket.send_str(frame(row))

    peer.script = play
    assert await received(exchange, len(ROWS)) == public_trades(ROWS)
    assert peer.subscribed == [["btcusdt@aggTrade"]]


async def test_a_burst_beyond_ccxts_cache_is_not_cut(peer: Peer, exchange: Exchange) -> None:
    many = [{**ROWS[0], "a": number} for number in range(5000)]

    async def play(socket: web.WebSocketResponse) -> None:
        await asyncio.gather(*(socket.send_str(frame(row)) for row in many))

    peer.script = play
    assert [event.trade_id for event in await received(exchange, 5000)] == list(range(5000))  # type: ignore[union-attr]


def kline(trades: int, *, is_over: bool) -> str:
    bar = {
        "t": 60_000,
        "T": 119_999,
        "s": "BTCUSDT",
        "i": "1m",
        "f": 1,
        "L": 3,
        "n": trades,
        "x": is_over,
        "o": "1.5",
        "c": "1.6",
        "h": "1.7",
        "l": "1.4",
        "v": "10",
        "q": "16",
        "V": "5",
        "Q": "8",
        "B": "0",
    }
    return json.dumps({"stream": "btcusdt@kline_1m", "data": {"e": "kline", "E": 120_001, "s": "BTCUSDT", "k": bar}})


async def test_end_of_a_bar_is_reported_once_and_unfinished_bars_conflate(peer: Peer, exchange: Exchange) -> None:
    async def play(socket: web.WebSocketResponse) -> None:
        for text in (kline(1, is_over=False), frame(ROWS[0]), kline(2, is_over=False), kline(3, is_over=True)):
            await socket.send_str(text)

    peer.script = play
    events: list[MarketEvent] = []
    while not any(isinstance(event, BarClosed) for event in events):
        events += await received(exchange, 3, [*TRADES, Subscription(Channel.BARS, "BTCUSDT", "1m")])
    assert public_trades(ROWS[:1])[0] in events
    assert events[-1] == BarClosed("binance", "BTCUSDT", "1m", 60 * NS, 3)
    closed = [event for event in events if isinstance(event, BarSeen) and event.is_closed]
    assert [event.bar for event in closed] == [Bar("binance", "BTCUSDT", "1m", 60 * NS, 1.5, 1.7, 1.4, 1.6, 10.0, 3)]
    assert peer.subscribed[0] == ["btcusdt@aggTrade", "btcusdt@kline_1m"]


@pytest.mark.parametrize("how", ["closed", "cut"])
async def test_a_lost_connection_is_an_outage_after_what_came_before(peer: Peer, exchange: Exchange, how: str) -> None:
    async def play(socket: web.WebSocketResponse) -> None:
        await socket.send_str(frame(ROWS[0]))
        if how == "closed":
            await socket.close(code=WSCloseCode.GOING_AWAY)
        else:
            peer.abort()

    peer.script = play
    events: list[MarketEvent] = []
    with pytest.raises(OutageError):
        await received(exchange, 2, into=events)
    assert events in ([], public_trades(ROWS[:1])) if how == "cut" else events == public_trades(ROWS[:1])
    peer.script = lambda socket: socket.send_str(frame(ROWS[1]))
    assert await received(exchange, 1) == public_trades(ROWS[1:2])  # the next call dials again


async def test_a_refused_subscription_ends_the_connection(peer: Peer, exchange: Exchange) -> None:
    peer.reply = {"error": {"code": 2, "msg": "Invalid request"}, "id": 1}
    with pytest.raises(PeerError, match="Invalid request"):
        await received(exchange, 1)


async def test_budget_is_taken_usage_is_reported_and_a_refusal_pauses(peer: Peer, log: CollectingLog) -> None:
    budget = RecordingBudget()
    exchange = BinanceExchange(ExchangeAddresses(f"http://{peer.url}", f"ws://{peer.url}"), RealClock(), log, budget)
    await exchange.open()
    try:
        peer.rest = lambda request: web.json_response([], headers={"X-MBX-USED-WEIGHT-1M": "417"})
        await exchange.fetch_trades("BTCUSDT", from_id=1, since_ns=None, limit=10)
        peer.rest = lambda request: web.json_response(
            {"code": -1121, "msg": "Invalid symbol."}, status=400, headers={"X-MBX-USED-WEIGHT-1M": "431"}
        )
        with pytest.raises(InputError):
            await exchange.fetch_bars("NOSUCH", "1m", None, 5)
        peer.rest = lambda request: web.json_response(
            {"code": -1003, "msg": "x"}, status=429, headers={"Retry-After": "7"}
        )
        with pytest.raises(OutageError):
            await exchange.fetch_bars("BTCUSDT", "1m", None, 5)
    finally:
        await exchange.close()
    answered = [("take", 4), ("seen", 417), ("take", 2), ("seen", 431)]
    assert budget.calls == [*answered, ("take", 2), ("pause", 7.0)]


class RecordingBudget:
    """A Budget that notes what is asked of it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, float]] = []

    async def take(self, weight: int = 1) -> None:
        self.calls.append(("take", weight))

    async def take_connect(self) -> None:
        self.calls.append(("dial", 1))

    def seen(self, used: int) -> None:
        self.calls.append(("seen", used))

    def pause(self, seconds: float) -> None:
        self.calls.append(("pause", seconds))


async def test_refused_connection_is_an_outage(log: CollectingLog) -> None:
    async with opened("http://127.0.0.1:9", "ws://127.0.0.1:9", log) as exchange:
        with pytest.raises(OutageError):
            await received(exchange, 1)
        with pytest.raises(OutageError):
            await exchange.fetch_trades("BTCUSDT", from_id=None, since_ns=None, limit=1)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda r: web.Response(text="<html>busy</html>", content_type="text/html"), PeerError),
        (lambda r: web.Response(status=502, text="<html>bad gateway</html>"), OutageError),
        (lambda r: web.json_response({"code": -1003, "msg": "Too many requests."}, status=429), OutageError),
        (lambda r: web.json_response({"code": -1121, "msg": "Invalid symbol."}, status=400), InputError),
        (lambda r: web.json_response({"code": -1000, "msg": "An unknown error occurred"}, status=500), OutageError),
        (lambda r: {"not": "a list"}, PeerError),
        (lambda r: [{"a": 1}], PeerError),
        (lambda r: [{**ROWS[0], "a": 1}, {**ROWS[0], "a": 3}], PeerError),
    ],
    ids=["html", "502", "429", "symbol", "500", "no-list", "no-row", "hole-in-a-page"],
)
async def test_rest_answer_names_the_party_at_fault(
    peer: Peer, exchange: Exchange, answer: Any, error: type[Exception]
) -> None:
    peer.rest = answer
    with pytest.raises(error):
        await exchange.fetch_trades("BTCUSDT", from_id=1, since_ns=None, limit=10)


def test_the_real_exchange_is_never_taken_for_the_local_one() -> None:
    class Node:
        sim: dict[str, Any] | None = None

    with pytest.raises(OutageError, match="local exchange does not run"):
        endpoint_of(Settings(), Node())
    with pytest.raises(ConfigError, match="set both"):
        endpoint_of(Settings(data=Data(rest_url="http://127.0.0.1:1")), None)
    with pytest.raises(ConfigError, match="does not know"):
        make_exchange("nowhere", settings=Settings(), node=None, clock=RealClock(), log=CollectingLog())
    Node.sim = {"rest": "http://127.0.0.1:1", "ws": "ws://127.0.0.1:1"}
    assert endpoint_of(Settings(), Node()) == ExchangeAddresses("http://127.0.0.1:1", "ws://127.0.0.1:1")
    assert endpoint_of(Settings(sim=Sim(enabled=False)), Node()) == ExchangeAddresses()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalExchange]:
    running = LocalExchange(tmp_path_factory.mktemp("exchange"), ["--seed", "3", "--rate-limits", "off"]).start()
    yield running
    running.stop()


@pytest.fixture
async def real(local: LocalExchange, log: CollectingLog) -> AsyncIterator[Exchange]:
    async with opened(local.info["rest"], local.info["ws"], log) as made:
        yield made


async def test_instruments_are_exact(real: Exchange) -> None:
    found = {item.symbol: item for item in await real.instruments()}
    btc = found["BTCUSDT"]
    assert (btc.name, btc.tick, btc.lot_step, btc.notional_min) == (
        "BTC/USDT",
        Decimal("0.01"),
        Decimal("0.00001"),
        Decimal(5),
    )
    assert btc.is_trading
    assert btc.market_lot == Lot(Decimal(0), Decimal(1_000_000), Decimal(0))
    assert (btc.orders_max, btc.algo_orders_max, btc.is_notional_min_for_market) == (200, 5, True)
    assert (btc.has_oco, btc.has_oto, btc.has_opo) == (True, True, True)
    assert btc.percent_price == PercentPrice(*(Decimal(text) for text in ("0.2", "5", "0.2", "5")))
    assert btc.order_types == {kind.value for kind in OrderType}
    assert all(find_instrument(text, [btc]) is btc for text in ("BTCUSDT", "BTC/USDT", "btc-usdt", "binance:BTCUSDT"))


async def test_bars_are_closed_and_within_what_was_asked(real: Exchange) -> None:
    last = await real.fetch_bars("BTCUSDT", "1m", None, 3)
    assert 2 <= len(last) <= 3
    first = await real.fetch_bars("BTCUSDT", "1m", last[0].time_ns - 5 * 60 * NS, 1000, until_ns=last[-1].time_ns)
    assert first[-1].time_ns == last[-1].time_ns - 60 * NS
    assert [b.time_ns for b in first] == [first[0].time_ns + i * 60 * NS for i in range(len(first))]
    assert all(bar_end(b.time_ns, "1m") <= RealClock().now_ns() for b in last)
    with pytest.raises(InputError):
        await real.fetch_bars("BTCUSDT", "5s", None, 3)


async def test_live_and_rest_trades_are_one_range_of_ids(real: Exchange) -> None:
    live = [event for event in await received(real, 3) if isinstance(event, PublicTrade)]
    page = await real.fetch_trades("BTCUSDT", from_id=live[0].trade_id, since_ns=None, limit=len(live))
    assert page == live
    since = await real.fetch_trades("BTCUSDT", from_id=None, since_ns=live[0].time_ns, limit=1000)
    assert since[0].time_ns >= live[0].time_ns
    assert live[0].trade_id in [trade.trade_id for trade in since]


async def test_every_channel_of_the_local_exchange_is_read(real: Exchange) -> None:
    wanted = [
        *TRADES,
        Subscription(Channel.QUOTES, "BTCUSDT"),
        Subscription(Channel.BOOK, "BTCUSDT"),
        Subscription(Channel.BARS, "BTCUSDT", "1s"),
    ]
    found: dict[type, MarketEvent] = {}
    async with asyncio.timeout(20), contextlib.aclosing(real.watch(wanted)) as stream:  # type: ignore[type-var]
        async for batch in stream:
            found.update({type(event): event for event in batch})
            if {PublicTrade, Quote, Book, BarSeen, BarClosed} <= set(found):
                break
    assert not {Discontinuity, Suspect} & set(found)
    book = found[Book]
    assert isinstance(book, Book)
    assert book.bids[0][0] < book.asks[0][0]
    assert 0 < len(book.bids) <= 20
    assert list(book.bids) == sorted(book.bids, reverse=True)


class Ahead(RealClock):
    """The clock of a machine that is a minute and a half ahead."""

    def now_ns(self) -> int:
        return super().now_ns() + 90 * NS


async def test_a_bar_that_still_forms_is_not_closed_because_our_clock_is_ahead(peer: Peer, log: CollectingLog) -> None:
    minute_ms = RealClock().now_ns() // (60 * NS) * 60_000  # the minute that forms now, or one that has just ended
    peer.rest = lambda request: [
        [at, "10", "11", "9", "10", "5", at + 59_999, "50", 3, "0", "0", "0"]
        for at in (minute_ms - 60_000, minute_ms, minute_ms + 60_000)
    ]
    settings = Settings(data=Data(rest_url=f"http://{peer.url}", ws_url=f"ws://{peer.url}"))
    exchange = make_exchange("binance", settings=settings, node=None, clock=Ahead(), log=log)
    await exchange.open()
    try:
        bars = await exchange.fetch_bars("BTCUSDT", "1m", None, 10)
    finally:
        await exchange.close()
    assert minute_ms + 60_000 not in [bar.time_ns // 1_000_000 for bar in bars]
    assert bars[0].time_ns // 1_000_000 == minute_ms - 60_000
    assert all(bar_end(bar.time_ns, "1m") <= RealClock().now_ns() for bar in bars)
