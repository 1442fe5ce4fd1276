"""A listener behind Ray Serve, whose proxy takes everything: the checks that it answers, or does not, hold what it is
sent."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from fks.interfaces.api import client as queue
from fks.interfaces.api import window
from fks.interfaces.api.client import SocketClient
from fks.interfaces.api.hub import Hub
from fks.interfaces.api.routes import stream
from fks.store.db import Database
from tests.support.gateway import Running
from tests.support.listening import STORED, bar_message
from tests.support.waiting import until


class Endless:
    """A listener whose server takes everything at once, like Ray Serve's: no send ever waits."""

    def __init__(self, gateway: Running) -> None:
        self.sent: list[dict[str, Any]] = []
        self.closed: dict[str, Any] | None = None
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._incoming.put_nowait({"type": "websocket.connect"})
        self._gateway = gateway
        self.client: SocketClient | None = None

    async def listen(self, channels: str) -> None:
        """Serve the socket until it ends."""
        token = self._gateway.tokens["read"].encode()
        scope = {
            "type": "websocket",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": "/ws",
            "raw_path": b"/ws",
            "root_path": "",
            "query_string": f"channels={channels}".encode(),
            "headers": [(b"authorization", b"Bearer " + token)],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "subprotocols": [],
            "state": {},
            "extensions": {},
        }
        await self._gateway.app(scope, self._incoming.get, self._take)

    async def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "websocket.send":
            self.sent.append(json.loads(message["text"]))
            (self.client,) = self._gateway.app.state.gateway.hub.clients
        elif message["type"] == "websocket.close":
            self.closed = message

    def say(self, **message: object) -> None:
        self._incoming.put_nowait({"type": "websocket.receive", "text": json.dumps(message)})

    def leave(self) -> None:
        self._incoming.put_nowait({"type": "websocket.disconnect", "code": 1000})

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


async def test_client_that_stops_answering_is_sent_a_window_and_closed(
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
        hub.spread("bars", {**bar_message(n % 60), "n": n})
    assert listener.client is not None
    await until(lambda: listener.client and listener.client.window.is_full)
    for n in range(30, 120):
        hub.spread("bars", {**bar_message(n % 60), "n": n})
        hub.spread("quotes", {"type": "quote", "exchange": "binance", "symbol": "BTCUSDT", "n": n})
    waiting = [received.message["n"] for received in listener.client.waiting]
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
    assert ("gateway.slow_listener", ["bars", "quotes"]) in [
        (line[1], line[2].get("channels")) for line in gateway.log.lines
    ]


async def test_late_client_gets_the_newest_and_a_notice_of_dropped_messages(
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


async def test_client_that_never_answers_is_not_waited_for(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
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


async def test_client_that_never_answers_is_rate_limited_and_gets_the_newest(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
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


async def test_checks_are_read_while_earlier_requests_wait(
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
