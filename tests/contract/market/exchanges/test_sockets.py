"""A wire on a real socket: what comes when the peer, the taker or the wire itself misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
from aiohttp import WSMsgType, web

from fks.clock import RealClock
from fks.market.exchanges.base import SubscriptionsAnswered, Wire, socket
from fks.market.exchanges.base import book_resync as anew
from fks.market.exchanges.base.socket import Sockets
from fks.market.exchanges.binance.wire import BinanceWire
from fks.market.exchanges.kraken.wire import KrakenWire
from fks.model.bar import PublicTrade
from fks.model.errors import FksError, InputError, OutageError, PeerError
from fks.model.market import Book, Channel, Discontinuity, MarketEvent, Quote, Subscription, Suspect
from tests.support.ports import CollectingLog
from tests.support.waiting import until

Script = Callable[[web.WebSocketResponse], Awaitable[None]]
Answer = Callable[[web.WebSocketResponse, dict[str, Any]], Awaitable[None]]
BTC = Subscription(Channel.TRADES, "BTCUSDT")
QUOTES = Subscription(Channel.QUOTES, "BTCUSDT")


def trade(number: int, price: str = "1.5") -> str:
    data = {
        "e": "aggTrade",
        "E": 1,
        "s": "BTCUSDT",
        "a": number,
        "p": price,
        "q": "2",
        "f": 1,
        "l": 1,
        "T": 5,
        "m": True,
        "M": True,
    }
    return json.dumps({"stream": "btcusdt@aggTrade", "data": data})


def quote(number: int) -> str:
    data = {"u": number, "s": "BTCUSDT", "b": "1", "B": "2", "a": "3", "A": "4"}
    return json.dumps({"stream": "btcusdt@bookTicker", "data": data})


class Peer:
    """Records requests, answers subscriptions as Binance does unless `is_deaf`, then plays `script`."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.open = 0
        self.is_deaf = False
        self.refusal: tuple[int, dict[str, str]] | None = None  # status and headers
        self.script: Script | None = None
        self.answer: Answer | None = None  # called with every request
        self.url = ""

    async def stream(self, request: web.Request) -> web.StreamResponse:
        if self.refusal is not None:
            return web.Response(status=self.refusal[0], headers=self.refusal[1])
        ws = web.WebSocketResponse(autoclose=False)
        await ws.prepare(request)
        self.open += 1
        try:
            async for message in ws:
                if message.type is WSMsgType.TEXT:
                    await self.receive(ws, json.loads(message.data))
        finally:
            self.open -= 1
        return ws

    async def receive(self, ws: web.WebSocketResponse, request: dict[str, Any]) -> None:
        is_first = not self.received
        self.received.append(request)
        if request.get("method") == "SUBSCRIBE" and not self.is_deaf:
            await ws.send_json({"result": None, "id": request["id"]})
        if self.script is not None and is_first:
            await self.script(ws)
        if self.answer is not None:
            await self.answer(ws, request)


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    made = Peer()
    app = web.Application()
    app.router.add_get("/{any:.*}", made.stream)
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"ws://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest.fixture
async def sockets(log: CollectingLog) -> AsyncIterator[Sockets]:
    made = Sockets("binance", RealClock(), log)
    yield made
    await made.close()


async def events_of(
    sockets: Sockets, wire: Wire, wanted: Sequence[Subscription], is_enough: Callable[[list[MarketEvent]], object]
) -> list[MarketEvent]:
    events: list[MarketEvent] = []
    async with asyncio.timeout(10), contextlib.aclosing(sockets.listen(wire, wanted)) as stream:  # type: ignore[type-var]
        async for batch in stream:
            events += batch
            if is_enough(events):
                break
    return events


async def ended(sockets: Sockets, wire: Wire, kind: type[FksError]) -> FksError:
    """Return the error that ends a connection."""
    with pytest.raises(kind) as found:
        await events_of(sockets, wire, [BTC], lambda events: False)
    return found.value


async def test_the_first_batch_says_that_the_subscriptions_stand(peer: Peer, sockets: Sockets) -> None:
    assert await events_of(sockets, BinanceWire(peer.url), [BTC], lambda events: True) == []
    assert peer.received == [{"method": "SUBSCRIBE", "params": ["btcusdt@aggTrade"], "id": 1}]


async def test_no_event_before_the_subscriptions_stand_within_a_time_limit(
    peer: Peer, sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def early(ws: web.WebSocketResponse) -> None:
        await ws.send_str(trade(1))

    peer.is_deaf, peer.script = True, early
    monkeypatch.setattr(socket, "CONNECT_S", 3.0)
    assert "not answered" in str(await ended(sockets, BinanceWire(peer.url), OutageError))
    assert sockets.counters.frames == 1


async def test_a_long_list_is_asked_for_in_parts_and_each_is_awaited(peer: Peer, sockets: Sockets) -> None:
    wanted = [Subscription(Channel.TRADES, f"COIN{n}USDT") for n in range(250)]
    await events_of(sockets, BinanceWire(peer.url), wanted, lambda events: True)
    assert [len(request["params"]) for request in peer.received] == [100, 100, 50]


async def test_leaving_is_quick_though_the_peer_does_not_answer(peer: Peer, sockets: Sockets) -> None:
    async def freeze(ws: web.WebSocketResponse) -> None:
        await ws.send_str(trade(1))
        await asyncio.Event().wait()

    peer.script = freeze
    start = time.monotonic()
    await events_of(sockets, BinanceWire(peer.url), [BTC], len)
    await sockets.close()
    assert time.monotonic() - start < 5.0  # aiohttp alone waits ten seconds


async def test_several_at_once_and_one_ends_alone(peer: Peer, sockets: Sockets) -> None:
    streams = [sockets.listen(BinanceWire(peer.url), [BTC]) for _ in range(3)]
    for stream in streams:
        assert await anext(stream) == []
    assert peer.open == 3
    await streams[0].aclose()  # type: ignore[attr-defined]
    await until(lambda: peer.open == 2)
    for stream in streams[1:]:
        await stream.aclose()  # type: ignore[attr-defined]
    assert sockets.counters.connects == 3


async def test_slow_reader_costs_no_memory_and_gets_a_discontinuity(peer: Peer, sockets: Sockets) -> None:
    async def flood(ws: web.WebSocketResponse) -> None:
        for number in range(1, 1001):
            await ws.send_str(quote(number))
            await ws.send_str(trade(number))

    peer.script = flood
    sockets.kept_max = 300
    stream = sockets.listen(BinanceWire(peer.url), [BTC, QUOTES])
    assert await anext(stream) is not None
    await until(lambda: sockets.counters.frames >= 2001)
    events: list[MarketEvent] = []
    async with asyncio.timeout(10):
        while not any(isinstance(event, Quote) for event in events):
            events += await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    trades = [event for event in events if isinstance(event, PublicTrade)]
    gone = [event for event in events if isinstance(event, Discontinuity)]
    assert {(event.channel, event.symbol) for event in gone} == {(Channel.TRADES, "BTCUSDT")}
    assert len(trades) + sockets.counters.overflowed[Channel.TRADES] >= 1000 - 300  # the first batch had some, maybe
    assert len([event for event in events if isinstance(event, Quote)]) == 1
    assert sockets.counters.conflated[Channel.QUOTES] >= 600


async def test_a_mistake_of_ours_ends_the_connection_loudly(peer: Peer, sockets: Sockets, log: CollectingLog) -> None:
    class Mistaken(BinanceWire):
        def receive(self, frame: bytes, received_ns: int) -> Sequence[MarketEvent | SubscriptionsAnswered]:
            return super().receive(frame, received_ns) if b"stream" not in frame else [{}["nothing"]]

    async def play(ws: web.WebSocketResponse) -> None:
        await ws.send_str(trade(1))

    peer.script = play
    assert "KeyError" in str(await ended(sockets, Mistaken(peer.url), PeerError))
    assert "exchange.frame_broken" in log.events("error")


async def test_unknown_messages_are_logged_once(peer: Peer, sockets: Sockets, log: CollectingLog) -> None:
    async def play(ws: web.WebSocketResponse) -> None:
        for _ in range(3):
            await ws.send_json({"stream": "btcusdt@brandNew", "data": {}})

    peer.script = play
    stream = sockets.listen(BinanceWire(peer.url, sockets.counters), [BTC])
    assert await anext(stream) == []
    await until(lambda: "exchange.unknown" in log.events("warning"))
    await stream.aclose()  # type: ignore[attr-defined]
    assert [fields["what"] for _, event, fields in log.lines if event == "exchange.unknown"] == [["message brandNew"]]
    assert sockets.counters.unknown == {"message brandNew": 3}


async def test_quarantine_has_an_end(peer: Peer, sockets: Sockets) -> None:
    async def play(ws: web.WebSocketResponse) -> None:
        for _ in range(100):
            await ws.send_str(trade(1, "NaN"))
        await ws.send_str(trade(1))
        for _ in range(101):
            await ws.send_str(trade(1, "0"))

    peer.script = play
    events: list[MarketEvent] = []

    def note(batch: list[MarketEvent]) -> bool:
        events[:] = batch
        return False

    with pytest.raises(PeerError, match="in a row"):
        await events_of(sockets, BinanceWire(peer.url), [BTC], note)
    assert sockets.counters.suspects == 201
    assert sum(isinstance(event, Suspect) for event in events) == 201
    assert sum(isinstance(event, PublicTrade) for event in events) == 1


async def test_unknown_subscription_is_refused_before_connecting(peer: Peer, sockets: Sockets) -> None:
    with pytest.raises(InputError, match="no 5s bars"):
        await events_of(sockets, BinanceWire(peer.url), [Subscription(Channel.BARS, "BTCUSDT", "5s")], len)
    assert sockets.counters.connects == 0


@pytest.mark.parametrize(
    ("status", "headers", "wait_s"),
    [
        (429, {"Retry-After": "17"}, 17.0),
        (418, {"Retry-After": "120"}, 120.0),
        (429, {}, 0.0),
        (503, {"Retry-After": "17"}, 0.0),
    ],
)
async def test_too_many_connects_are_refused_with_a_wait(
    peer: Peer, sockets: Sockets, status: int, headers: dict[str, str], wait_s: float
) -> None:
    peer.refusal = status, headers
    refused = await ended(sockets, BinanceWire(peer.url), OutageError)
    assert isinstance(refused, OutageError)
    assert refused.wait_s == wait_s


class Reluctant:
    """A budget that gives leave to dial when a test says so."""

    def __init__(self) -> None:
        self.leave = asyncio.Event()

    async def take_connect(self) -> None:
        await self.leave.wait()

    async def take(self, weight: int = 1) -> None: ...
    def seen(self, used: int) -> None: ...
    def pause(self, seconds: float) -> None: ...


async def test_waiting_for_a_connect_permit_is_logged_once(
    peer: Peer, log: CollectingLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Reluctant()
    sockets = Sockets("binance", RealClock(), log, budget=budget)
    with monkeypatch.context() as patched:
        patched.setattr(socket, "PERMIT_LOG_S", 0.5)
        waiting = [asyncio.create_task(sockets.connect_permit()) for _ in range(3)]
        await until(lambda: log.events())
    assert not any(task.done() for task in waiting)
    budget.leave.set()
    await asyncio.gather(*waiting)
    assert (sockets.counters.connects, log.events()) == (0, ["feed.dial_waits"])
    await sockets.close()


@pytest.fixture
def wrong_book(peer: Peer) -> None:
    """Each subscription to a book brings one that breaks: only the wire's own patience keeps it from going round and
    round."""
    row = {
        "symbol": "BTC/USD",
        "bids": [{"price": 1.5, "qty": 2.0}],
        "asks": [{"price": 1.6, "qty": 1.0}],
        "checksum": 1,
    }
    wrong = json.dumps({"channel": "book", "type": "snapshot", "data": [row]}, separators=(",", ":"))

    async def answer(ws: web.WebSocketResponse, request: dict[str, Any]) -> None:
        if request["method"] == "subscribe":
            result = {"channel": "book", "symbol": "BTC/USD"}
            await ws.send_json({"method": "subscribe", "success": True, "req_id": request["req_id"], "result": result})
            await ws.send_str(wrong)

    peer.answer = answer


@pytest.mark.usefixtures("wrong_book")
async def test_a_book_that_is_never_right_ends_its_connection(
    peer: Peer, sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anew, "ROW_MAX", 1)
    with pytest.raises(PeerError, match="in a row"):
        await events_of(sockets, KrakenWire(peer.url), [Subscription(Channel.BOOK, "BTC/USD")], lambda events: False)


@pytest.mark.usefixtures("wrong_book")
async def test_a_book_that_is_never_right_is_not_asked_for_without_end(peer: Peer, sockets: Sockets) -> None:
    gone, start_s = 0, time.monotonic()
    stream = sockets.listen(KrakenWire(peer.url), [Subscription(Channel.BOOK, "BTC/USD")])
    async with asyncio.timeout(30):
        while gone < 3:  # of the first one, of one asked for at once, of one asked for a second later
            gone += sum(isinstance(event, Discontinuity) for event in await anext(stream))
    await stream.aclose()  # type: ignore[attr-defined]
    took_s = time.monotonic() - start_s
    assert took_s >= 1.0
    assert sum(request["method"] == "subscribe" for request in peer.received) <= 2 + took_s


async def test_new_snapshot_of_a_broken_book_is_requested_at_once(peer: Peer, sockets: Sockets) -> None:
    def book(checksum: int) -> str:
        row = {
            "symbol": "BTC/USD",
            "bids": [{"price": 1.5, "qty": 2.0}],
            "asks": [{"price": 1.6, "qty": 1.0}],
            "checksum": checksum,
        }
        return json.dumps({"channel": "book", "type": "snapshot", "data": [row]}, separators=(",", ":"))

    async def play(ws: web.WebSocketResponse) -> None:
        await ws.send_json(
            {"method": "subscribe", "success": True, "req_id": 1, "result": {"channel": "book", "symbol": "BTC/USD"}}
        )
        await ws.send_str(book(678407182))
        await ws.send_str(book(1))

    peer.script = play
    wanted = [Subscription(Channel.BOOK, "BTC/USD")]
    async with asyncio.timeout(10), contextlib.aclosing(sockets.listen(KrakenWire(peer.url), wanted)) as stream:  # type: ignore[type-var]
        events: list[MarketEvent] = []
        async for batch in stream:
            events += batch
            if any(isinstance(event, Discontinuity) for event in events):
                break
        await until(
            lambda: (
                [request["method"] for request in peer.received if request["method"] != "ping"][1:]
                == ["unsubscribe", "subscribe"]
            )
        )
    assert not any(
        isinstance(event, Book)
        for event in events[events.index(next(e for e in events if isinstance(e, Discontinuity))) :]
    )
