"""WS /ws: scopes, messages of each channel, and clients that cannot keep up."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from fks.clock import RealClock
from fks.interfaces.api import gateway as replica
from fks.interfaces.api.client import QUEUE_MAX, SocketClient
from fks.interfaces.api.hub import Hub
from fks.interfaces.api.routes import stream
from fks.interfaces.api.topics import topics_of
from fks.store.bus import BARS, FILLS, ORDERS, Bus
from tests.support.gateway import Running
from tests.support.listening import next_of
from tests.support.ports import CollectingLog
from tests.support.waiting import until

ORDER = {"type": "order", "client_order_id": "ab", "state": "FILLED", "symbol": "BTCUSDT", "filled": "0.10"}


def _open(gateway: Running, query: str = "", scope: str | None = "read", **headers: str) -> Any:
    if scope:
        headers["Authorization"] = f"Bearer {gateway.tokens[scope]}"
    return connect(gateway.ws + query, additional_headers=headers, proxy=None)


async def _greeting(socket: ClientConnection) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await asyncio.wait_for(socket.recv(), 5))
    assert found["type"] == "hello"
    return found


async def test_client_gets_its_subscriptions_and_no_more(gateway: Running, bus: Bus) -> None:
    async with _open(gateway, "?channels=orders,bars&symbol=BTC/USDT&timeframe=1m") as socket:
        assert (await _greeting(socket))["channels"] == ["bars", "orders"]
        bar = {"type": "bar", "symbol": "BTCUSDT", "timeframe": "1m", "close": "1.50"}
        await bus.publish(FILLS, {"type": "fill", "symbol": "BTCUSDT"})
        await bus.publish(BARS, {**bar, "symbol": "ETHUSDT"})
        await bus.publish(BARS, {**bar, "timeframe": "1s"})
        await bus.publish(ORDERS, ORDER)
        first = await next_of(socket, "order", "bar", "fill")
        assert first == {**ORDER, "seq": first["seq"]}  # and nothing before it
        await bus.publish(BARS, {**bar, "symbol": "ETHUSDT"})
        await bus.publish(BARS, bar)
        second = await next_of(socket, "bar")
        assert second == {**bar, "seq": second["seq"]}
        assert second["seq"] > first["seq"] > 0


async def test_ping_is_answered_and_nonsense_gets_an_error(gateway: Running) -> None:
    async with _open(gateway) as socket:
        await _greeting(socket)
        await socket.send('{"type": "ping"}')
        assert (await next_of(socket, "pong"))["time"].endswith("Z")
        for text in ("{", '{"type": "buy"}', "[]", b"\x00binary"):
            await socket.send(text)
            assert (await next_of(socket, "error"))["code"] in ("JSON_MALFORMED", "INVALID")
        await socket.send("x" * 20_000)
        with pytest.raises(ConnectionClosed) as closed:
            await next_of(socket, "never")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008


@pytest.mark.parametrize(
    ("query", "headers", "scope", "status"),
    [
        ("", {}, None, 401),
        ("?ticket=wrong", {}, None, 401),
        ("?channels=nope", {}, "read", 400),
        ("?symbol=NOPE", {}, "read", 404),
        ("", {"Origin": "https://evil.example"}, "read", 403),
    ],
)
async def test_client_without_scope_is_refused_before_the_handshake(
    gateway: Running, query: str, headers: dict[str, str], scope: str | None, status: int
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with _open(gateway, query, scope, **headers):
            pass
    assert refused.value.response.status_code == status
    assert json.loads(refused.value.response.body or b"{}")["status"] == status


async def test_a_browser_of_this_origin_comes_in_with_a_ticket_that_works_once(gateway: Running) -> None:
    async with gateway.client("read") as client:
        ticket = (await client.post("/ws/ticket")).json()["ticket"]
    async with _open(gateway, f"?ticket={ticket}", None, Origin=gateway.url) as socket:
        await _greeting(socket)
    with pytest.raises(InvalidStatus):
        async with _open(gateway, f"?ticket={ticket}", None):
            pass


async def test_a_socket_does_not_outlive_its_token(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "RECHECK_S", 0.05)
    async with gateway.client("read") as client:
        ticket = (await client.post("/ws/ticket")).json()["ticket"]
        late = (await client.post("/ws/ticket")).json()["ticket"]
    async with _open(gateway) as by_header, _open(gateway, f"?ticket={ticket}", None) as by_ticket:
        for socket in (by_header, by_ticket):
            await _greeting(socket)
        async with gateway.client("admin") as client:
            assert (await client.delete("/tokens/t-read")).status_code == 200
            await client.post("/tokens", json={"name": "t-read", "scope": "read"})  # another of that name
        for socket in (by_header, by_ticket):
            with pytest.raises(ConnectionClosed) as closed:
                await next_of(socket, "never")
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1008
    with pytest.raises(InvalidStatus):
        async with _open(gateway, f"?ticket={late}", None):
            pass


async def test_what_anyone_publishes_cannot_end_the_stream_for_all(gateway: Running, bus: Bus) -> None:
    hub: Hub = gateway.app.state.gateway.hub
    async with _open(gateway, "?channels=orders") as socket:
        await _greeting(socket)
        await bus.publish(hub.own_channel, {"n": "nonsense"})
        await bus.publish(hub.own_channel, [1])  # type: ignore[arg-type]
        await bus.publish(ORDERS, ORDER)
        found = await next_of(socket, "order")
        assert found == {**ORDER, "seq": found["seq"]}
    assert not [line for line in gateway.log.lines if line[1] == "gateway.task_died"]


async def test_of_two_that_show_one_ticket_at_once_one_comes_in(gateway: Running) -> None:
    async with gateway.client("read") as client:
        ticket = (await client.post("/ws/ticket")).json()["ticket"]

    async def attempt() -> bool:
        try:
            async with _open(gateway, f"?ticket={ticket}", None) as socket:
                await _greeting(socket)
                return True
        except InvalidStatus:
            return False

    assert sorted(await asyncio.gather(*(attempt() for _ in range(6)))) == [False] * 5 + [True]


async def test_stopping_gateway_closes_its_clients_with_a_reason(gateway: Running) -> None:
    async with _open(gateway) as socket:
        await _greeting(socket)
        await gateway.app.state.gateway.hub.close()
        with pytest.raises(ConnectionClosed) as closed:
            await next_of(socket, "never")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001


async def test_missing_tick_is_published_as_a_gap(gateway: Running, bus: Bus) -> None:
    async with _open(gateway) as socket:
        await _greeting(socket)
        hub: Hub = gateway.app.state.gateway.hub
        for number in (1, 1000):  # as when Redis was away for the ticks between them
            await bus.publish(hub.own_channel, {"n": number})
        assert "read again" in (await next_of(socket, "gap"))["reason"]


async def test_bars_are_dropped_oldest_first_and_counted() -> None:
    client = SocketClient(topics_of(["bars", "orders"]))
    for number in range(QUEUE_MAX + 10):
        client.put("bars", {"n": number})
    client.put("orders", {"n": "order"})
    found = [json.loads(received.data) for received in await client.take(1.0)]
    assert found[0] == {"type": "dropped", "channels": ["bars"], "count": 11, "counts": {"bars": 11}}
    assert found[1] == {"n": 11}
    assert found[-1] == {"n": "order"}
    assert not client.is_overrun


async def test_orders_are_never_dropped_the_slow_client_is_given_up_instead() -> None:
    client = SocketClient(topics_of(["orders"]))
    for number in range(QUEUE_MAX + 1):
        client.put("orders", {"n": number})
    assert client.is_overrun
    assert len(await client.take(1.0)) == QUEUE_MAX


async def test_a_full_gateway_refuses_more(bus: Bus) -> None:
    hub = Hub(bus, RealClock(), CollectingLog())
    clients = [SocketClient(topics_of(["bars"])) for _ in range(101)]
    assert [hub.join(client) for client in clients] == [True] * 100 + [False]
    hub.leave(clients[0])
    assert hub.join(clients[100])


async def test_a_replicas_own_work_goes_on_after_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "BEAT_S", 0.01)
    log, tries = CollectingLog(), 0

    async def work() -> None:
        nonlocal tries
        tries += 1
        raise ExceptionGroup("in a group", [KeyError("a mistake")])

    task = asyncio.create_task(replica.run_for_ever(work, SimpleNamespace(log=log, clock=RealClock())))  # type: ignore[arg-type]
    await until(lambda: tries >= 3)
    task.cancel()
    assert "KeyError" in str(log.lines)
