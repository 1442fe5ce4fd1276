"""Subscribing over a socket: a snapshot, then what happens, without a hole; and nothing that a client says hurts anyone."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from fks.api import client as queue
from fks.api import snapshots, window
from fks.api.client import Client
from fks.api.hub import Hub
from fks.api.routes import stream
from fks.model.bar import PublicTrade
from fks.model.market import Quote
from fks.model.timeframe import NS
from fks.store.bus import BARS, ORDERS, Bus
from fks.store.db import Database
from fks.store.latest import PRICES, Latest, key_of
from tests.support.gateway import Running
from tests.support.waiting import until

AT = 1_777_600_000 * NS
STORED = (
    "INSERT INTO ohlcv_data (time, symbol, timeframe, open, high, low, close, volume)"
    " SELECT '2026-05-01T00:00:00Z'::timestamptz + n * interval '1 minute', 'BTCUSDT', '1m', 1.5, 2.5, 0.5, 2, n"
    " FROM generate_series($1::int, $2::int) n"
)


def _open(gateway: Running, query: str = "?channels=-") -> Any:
    headers = {"Authorization": f"Bearer {gateway.tokens['read']}"}
    return connect(gateway.ws + query, additional_headers=headers, proxy=None, compression=None)


async def _next(socket: ClientConnection, *kinds: str) -> dict[str, Any]:
    async with asyncio.timeout(5):
        while True:
            found: dict[str, Any] = json.loads(await socket.recv())
            if found["type"] in kinds:
                return found


async def _say(socket: ClientConnection, **message: object) -> None:
    await socket.send(json.dumps(message))


def _bar(n: int, **other: object) -> dict[str, object]:
    prices = {"open": "1.5", "high": "2.5", "low": "0.5", "close": "2.0", "volume": f"{n}.0"}
    names = {"exchange": "binance", "symbol": "BTCUSDT", "timeframe": "1m"}
    return {"type": "bar", **names, "time": f"2026-05-01T00:{n:02}:00Z", **prices, **other}


async def test_bars_begin_with_a_snapshot_and_go_on(gateway: Running, seeded: Database, bus: Bus) -> None:
    await seeded.sql(STORED, 0, 9)
    async with _open(gateway) as socket:
        assert (await _next(socket, "hello"))["channels"] == []
        await _say(socket, type="subscribe", id=7, channels=["bars"], symbols=["BTC/USDT"], timeframes=["1m"], bars=3)
        told = await _next(socket, "subscribed", "error")
        assert (told["id"], told["symbols"], told["timeframes"]) == (7, ["binance:BTCUSDT"], ["1m"])
        shot = await _next(socket, "snapshot")
        assert (shot["channel"], shot["exchange"], shot["symbol"], shot["timeframe"]) == ("bars", "binance", "BTCUSDT", "1m")
        assert shot["items"] == [_bar(n, revision=0) for n in (7, 8, 9)]
        await bus.publish(BARS, _bar(10))
        await bus.publish(BARS, {**_bar(10), "timeframe": "5m"})
        await bus.publish(BARS, _bar(9, revision=1))  # a correction
        await bus.publish(BARS, _bar(11))
        assert [(await _next(socket, "bar"))["time"][14:16] for _ in range(3)] == ["10", "09", "11"]


async def test_what_happens_while_the_snapshot_is_read_comes_after_it_and_once(
    gateway: Running, seeded: Database, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    await seeded.sql(STORED, 0, 9)
    hub: Hub = gateway.app.state.gateway.hub
    read = snapshots._bars

    async def slowly(*args: Any) -> Any:
        hub.spread("bars", _bar(9))  # told before, contained
        hub.spread("bars", _bar(10))  # told while it is read, and committed
        await seeded.sql(STORED, 10, 10)
        found = await read(*args)
        hub.spread("bars", _bar(11))  # committed after
        return found

    monkeypatch.setattr(snapshots, "_bars", slowly)
    async with _open(gateway) as socket:
        await _say(socket, type="subscribe", channels=["bars"], symbols=["BTCUSDT"], timeframes=["1m"], bars=2)
        assert [bar["time"][14:16] for bar in (await _next(socket, "snapshot"))["items"]] == ["09", "10"]
        hub.spread("bars", _bar(12))
        assert [(await _next(socket, "bar"))["time"][14:16] for _ in range(2)] == ["11", "12"]


async def test_prices_and_quotes_come_from_redis_and_are_listened_to_while_wanted(
    gateway: Running, seeded: Database, bus: Bus
) -> None:
    hub: Hub = gateway.app.state.gateway.hub
    await bus.delete(key_of("binance", "BTCUSDT"))
    latest = Latest(bus)
    trade = PublicTrade("binance", "BTCUSDT", 1, AT, Decimal("64000.10"), Decimal(1), True, 1, AT)
    quote = Quote("binance", "BTCUSDT", AT, Decimal("1.1"), Decimal(2), Decimal("1.2"), Decimal(3), AT)
    assert not hub._is_hearing
    async with _open(gateway) as socket:
        await latest.tell([trade])
        await _say(socket, type="subscribe", channels=["prices", "quotes"], symbols=["BTCUSDT"])
        shots = {shot["channel"]: shot for shot in [await _next(socket, "snapshot"), await _next(socket, "snapshot")]}
        assert [item["price"] for item in shots["prices"]["items"]] == ["64000.10"]
        assert shots["quotes"]["items"] == []
        assert hub._is_hearing
        await latest.tell([quote])  # nothing told after the snapshot is missed: the subscription stands
        assert (await _next(socket, "quote"))["ask"] == "1.2"
        await bus.publish(PRICES, {"type": "price", "exchange": "binance", "symbol": "ETHUSDT", "price": "1"})
        await latest.tell([trade])
        assert (await _next(socket, "price"))["symbol"] == "BTCUSDT"
        await _say(socket, type="unsubscribe", channels=["quotes"])
        assert (await _next(socket, "unsubscribed"))["count"] == 1
        await latest.tell([quote, trade])
        assert (await _next(socket, "price", "quote"))["type"] == "price"
    await until(lambda: not hub._is_hearing)


async def test_feeds_without_a_symbol_are_all_feeds(gateway: Running, seeded: Database) -> None:
    await seeded.sql(
        "INSERT INTO feeds (exchange, symbol, timeframe, state) VALUES ('binance','BTCUSDT','trades','LIVE'),"
        " ('binance','ETHUSDT','trades','STALE'), ('binance','ETHUSDT','1m','LIVE')"
    )
    async with _open(gateway) as socket:
        await _say(socket, type="subscribe", channels=["feeds", "orders"])
        assert (await _next(socket, "subscribed"))["channels"] == ["feeds", "orders"]
        items = (await _next(socket, "snapshot"))["items"]
        assert [(item["symbol"], item["state"]) for item in items] == [("BTCUSDT", "LIVE"), ("ETHUSDT", "STALE")]


async def test_an_order_of_a_subscribed_symbol_is_heard_whatever_its_exchange(gateway: Running, bus: Bus) -> None:
    async with _open(gateway) as socket:
        await _say(socket, type="subscribe", channels=["orders"], symbols=["BTC/USDT"])
        await _next(socket, "subscribed")
        await bus.publish(ORDERS, {"type": "order", "symbol": "ETHUSDT"})
        await bus.publish(ORDERS, {"type": "order", "symbol": "BTCUSDT", "venue": "paper"})
        assert (await _next(socket, "order"))["symbol"] == "BTCUSDT"


WRONG = (
    ({"type": "subscribe"}, "INVALID", "channels"),
    ({"type": "subscribe", "channels": ["nope"]}, "CHANNEL_UNKNOWN", "'nope'"),
    ({"type": "subscribe", "channels": "bars"}, "INVALID", "channels"),
    ({"type": "subscribe", "channels": ["bars"], "symbols": ["NOPE"]}, "SYMBOL_UNKNOWN", "'NOPE'"),
    ({"type": "subscribe", "channels": ["bars"], "timeframes": ["7m"]}, "TIMEFRAME_UNKNOWN", "'7m'"),
    ({"type": "subscribe", "channels": ["bars"], "symbols": [5]}, "INVALID", "symbols"),
    ({"type": "subscribe", "channels": ["bars"], "bars": 0}, "INVALID", "bars=0"),
    ({"type": "subscribe", "channels": ["bars"], "bars": True}, "INVALID", "bars=True"),
    ({"type": "subscribe", "channels": ["bars"], "symbol": "BTCUSDT"}, "INVALID", "'symbol'"),
    ({"type": "subscribe", "channels": ["bars"], "id": {}}, "INVALID", "id"),
    ({"type": "unsubscribe", "symbols": ["NOPE"]}, "SYMBOL_UNKNOWN", "'NOPE'"),
    ({"type": "checked", "n": 1_000}, "INVALID", "no check 1000"),
    ({"type": "checked", "n": True}, "INVALID", "n is no number"),
    ({"type": "checked"}, "INVALID", "n is no number"),
    ({"type": "buy"}, "INVALID", "subscribe"),
    ({"type": ["ping"]}, "INVALID", "subscribe"),
)


async def test_a_mistake_is_told_and_the_socket_stays(gateway: Running) -> None:
    async with _open(gateway) as socket:
        for message, code, said in WRONG:
            await _say(socket, **message)
            told = await _next(socket, "error", "subscribed", "unsubscribed")
            assert (told["type"], told.get("code")) == ("error", code), message
            assert said in told["detail"], message
            assert told["remedy"]
        await _say(socket, type="ping", id="x")
        assert (await _next(socket, "pong"))["id"] == "x"


async def test_an_outage_is_told_and_nothing_is_half_subscribed(
    gateway: Running, seeded: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fks.model.errors import OutageError

    hub: Hub = gateway.app.state.gateway.hub

    async def away(*args: Any) -> Any:
        raise OutageError("PostgreSQL does not answer")

    monkeypatch.setattr(snapshots, "_bars", away)
    async with _open(gateway) as socket:
        await _next(socket, "hello")
        await _say(socket, type="subscribe", id=1, channels=["bars"], symbols=["BTCUSDT"])
        told = await _next(socket, "error")
        assert (told["code"], told["id"]) == ("UNAVAILABLE", 1)
        (client,) = hub._clients
        assert not client.topics
        assert not client._held


async def test_one_who_does_not_read_is_cut_off_and_the_others_hear_on(
    gateway: Running, seeded: Database, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "SEND_S", 0.3)
    monkeypatch.setattr(queue, "QUEUE_MAX", 50)
    hub: Hub = gateway.app.state.gateway.hub
    async with _open(gateway, "?channels=orders") as slow, _open(gateway, "?channels=orders") as fast:
        await _next(slow, "hello")
        await _next(fast, "hello")
        slow.transport.pause_reading()  # type: ignore[attr-defined]
        number, heard = 0, 0
        text = "x" * 50_000
        async with asyncio.timeout(20):
            while len(hub) == 2:
                hub.spread("orders", {"type": "order", "n": number, "symbol": "BTCUSDT", "text": text})
                number += 1
                heard = (await _next(fast, "order"))["n"]
        assert heard == number - 1, "the fast one missed nothing"
        slow.transport.resume_reading()  # type: ignore[attr-defined]
        with pytest.raises(ConnectionClosed) as closed:
            await _next(slow, "never")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1013
    assert ("gateway.slow_listener", ["orders"]) in [(line[1], line[2].get("channels")) for line in gateway.log.lines]


async def test_what_a_slow_listener_misses_is_told_and_counted(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "QUEUE_MAX", 5)
    hub: Hub = gateway.app.state.gateway.hub
    async with _open(gateway, "?channels=bars") as socket:
        await _next(socket, "hello")
        for n in range(12):  # at once: the sender has no turn in between
            hub.spread("bars", _bar(n))
        assert (await _next(socket, "dropped"))["counts"] == {"bars": 7}
        assert [(await _next(socket, "bar"))["time"][14:16] for _ in range(5)] == ["07", "08", "09", "10", "11"]
        counted = gateway.app.state.gateway.meter.snapshot()
        assert [value for name, value in counted.items() if "fks_market_dropped_total" in str(name)] == [7.0]


# ── behind Serve, whose proxy takes everything ───────────────────────────────────────────────────
class Endless:
    """A listener whose server takes everything at once, like Ray Serve's: no send ever waits."""

    def __init__(self, gateway: Running) -> None:
        self.sent: list[dict[str, Any]] = []
        self.closed: dict[str, Any] | None = None
        self._said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._said.put_nowait({"type": "websocket.connect"})
        self._gateway = gateway
        self.client: Client | None = None

    async def listen(self, channels: str) -> None:
        """Serve the socket until it ends."""
        token = self._gateway.tokens["read"].encode()
        scope = {
            "type": "websocket", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "ws", "path": "/ws", "raw_path": b"/ws",
            "root_path": "", "query_string": f"channels={channels}".encode(), "headers": [(b"authorization", b"Bearer " + token)],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "subprotocols": [], "state": {}, "extensions": {},
        }  # fmt: skip
        await self._gateway.app(scope, self._said.get, self._take)

    async def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "websocket.send":
            self.sent.append(json.loads(message["text"]))
            (self.client,) = self._gateway.app.state.gateway.hub._clients
        elif message["type"] == "websocket.close":
            self.closed = message

    def say(self, **message: object) -> None:
        self._said.put_nowait({"type": "websocket.receive", "text": json.dumps(message)})

    def leave(self) -> None:
        self._said.put_nowait({"type": "websocket.disconnect", "code": 1000})

    def of(self, kind: str) -> list[Any]:
        return [message["n"] for message in self.sent if message["type"] == kind]


async def _takes_part(listener: Endless, hub: Hub, channel: str) -> None:
    """Make it answer its first check."""
    await until(lambda: listener.sent)
    for n in range(window.CHECK_MESSAGES):
        hub.spread(channel, {"type": "first", "n": n, "symbol": "BTCUSDT"})
    await until(lambda: listener.of("check"))
    listener.say(type="checked", n=listener.of("check")[-1])
    await until(lambda: listener.client and listener.client.window.takes_part)


async def test_one_who_stops_answering_is_sent_a_window_and_closed(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "CHECK_MESSAGES", 5)
    monkeypatch.setattr(queue, "QUEUE_MAX", 50)
    monkeypatch.setattr(stream, "SEND_S", 4.0)
    hub: Hub = gateway.app.state.gateway.hub
    listener = Endless(gateway)
    serving = asyncio.create_task(listener.listen("bars,quotes"))
    await _takes_part(listener, hub, "bars")
    for n in range(30):
        hub.spread("bars", {**_bar(n % 60), "n": n})
    assert listener.client is not None
    await until(lambda: listener.client and listener.client.window.is_full)
    for n in range(30, 120):
        hub.spread("bars", {**_bar(n % 60), "n": n})
        hub.spread("quotes", {"type": "quote", "exchange": "binance", "symbol": "BTCUSDT", "n": n})
    waiting = [told.message["n"] for told in listener.client._queue.values()]
    async with asyncio.timeout(20):
        await serving
    assert listener.closed is not None
    assert listener.closed["code"] == 1013
    sent = listener.of("bar")
    assert sent == list(range(5 * window.CHECKS_MAX)), "a window of bars and no more"
    assert not listener.of("quote")
    assert sorted(waiting) == sorted([*range(71, 120), 119]), "the newest bars, and of the quotes the last"
    counted = gateway.app.state.gateway.meter.snapshot()
    dropped = {str(name): value for name, value in counted.items() if "fks_market_dropped_total" in str(name)}
    assert [value for name, value in dropped.items() if "bars" in name] == [71 - len(sent)]
    assert ("gateway.slow_listener", ["bars", "quotes"]) in [(line[1], line[2].get("channels")) for line in gateway.log.lines]


async def test_one_who_answers_late_hears_the_newest_and_what_was_dropped(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "CHECK_MESSAGES", 5)
    hub: Hub = gateway.app.state.gateway.hub
    listener = Endless(gateway)
    serving = asyncio.create_task(listener.listen("orders,quotes"))
    await _takes_part(listener, hub, "orders")
    for n in range(50):
        hub.spread("orders", {"type": "order", "n": n, "symbol": "BTCUSDT"})
        hub.spread("quotes", {"type": "quote", "exchange": "binance", "symbol": "BTCUSDT", "n": n})
    asked = 0

    def answers() -> bool:
        nonlocal asked
        if (last := listener.of("check")[-1]) > asked:
            asked = last
            listener.say(type="checked", n=last)
        return len(listener.of("order")) == 50

    await until(answers)
    assert listener.of("order") == list(range(50))
    assert listener.of("quote")[-1] == 49
    assert len(listener.of("check")) >= 10
    assert listener.closed is None
    listener.leave()
    await serving


async def test_one_who_never_answers_is_not_waited_for(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "CHECK_MESSAGES", 5)
    monkeypatch.setattr(stream, "SEND_S", 0.1)
    hub: Hub = gateway.app.state.gateway.hub
    listener = Endless(gateway)
    serving = asyncio.create_task(listener.listen("orders"))
    await until(lambda: listener.sent)
    for n in range(300):
        hub.spread("orders", {"type": "order", "n": n, "symbol": "BTCUSDT"})
    await until(lambda: len(listener.of("order")) == 300)
    assert listener.closed is None
    listener.leave()
    await serving


async def test_one_who_never_answers_is_sent_no_faster_than_so_and_the_newest_at_last(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "SILENT_BYTES", 3_000)
    monkeypatch.setattr(window, "SILENT_BYTES_S", 2_000)
    hub: Hub = gateway.app.state.gateway.hub
    listener = Endless(gateway)
    serving = asyncio.create_task(listener.listen("quotes"))
    await until(lambda: listener.sent)
    for n in range(500):
        hub.spread("quotes", {"type": "quote", "n": n, "symbol": "BTCUSDT"})
        await asyncio.sleep(0)
    await until(lambda: 499 in listener.of("quote"), deadline_s=30)
    assert len(listener.of("quote")) < 300
    assert listener.closed is None
    listener.leave()
    await serving


async def test_checks_are_taken_though_what_was_asked_for_before_them_waits(
    gateway: Running, seeded: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "CHECK_MESSAGES", 5)
    monkeypatch.setattr(queue, "ANSWERS_BYTES", 50_000)
    await seeded.sql(STORED, 0, 1000)
    hub: Hub = gateway.app.state.gateway.hub
    listener = Endless(gateway)
    serving = asyncio.create_task(listener.listen("orders"))
    await _takes_part(listener, hub, "orders")
    wanted = {"channels": ["bars"], "symbols": ["BTCUSDT"], "timeframes": ["1m"], "bars": 1000}
    for n in range(30):
        listener.say(type="subscribe", id=n, **wanted)
    assert listener.client is not None
    await until(lambda: listener.client and listener.client.window.is_full, deadline_s=20)
    asked = 0

    def answers() -> bool:
        nonlocal asked
        if (last := listener.of("check")[-1]) > asked:
            asked = last
            listener.say(type="checked", n=last)
        return sum(message["type"] == "snapshot" for message in listener.sent) == 30

    await until(answers, deadline_s=20)
    assert [message["id"] for message in listener.sent if message["type"] == "subscribed"] == list(range(30))
    assert listener.closed is None
    listener.leave()
    await serving
