"""Subscribing over a socket: a snapshot, then what happens, without a hole; and nothing that a client says hurts
anyone."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from fks.interfaces.api import client as queue
from fks.interfaces.api import subscriptions
from fks.interfaces.api.hub import Hub
from fks.interfaces.api.routes import stream
from fks.model.bar import PublicTrade
from fks.model.market import Quote
from fks.model.timeframe import NS
from fks.store.bus import BARS, ORDERS, Bus
from fks.store.db import Database
from fks.store.latest import PRICES, Latest
from tests.support.gateway import Running, hold_lease
from tests.support.listening import STORED, bar_message, next_of, open_socket, say
from tests.support.waiting import until

AT = 1_777_600_000 * NS


async def test_bars_begin_with_a_snapshot_and_go_on(gateway: Running, seeded: Database, bus: Bus) -> None:
    await seeded.sql(STORED, 0, 9)
    async with open_socket(gateway) as socket:
        assert (await next_of(socket, "hello"))["channels"] == []
        await say(socket, type="subscribe", id=7, channels=["bars"], symbols=["BTC/USDT"], timeframes=["1m"], bars=3)
        received = await next_of(socket, "subscribed", "error")
        assert (received["id"], received["symbols"], received["timeframes"]) == (7, ["binance:BTCUSDT"], ["1m"])
        shot = await next_of(socket, "snapshot")
        assert (shot["channel"], shot["exchange"], shot["symbol"], shot["timeframe"]) == (
            "bars",
            "binance",
            "BTCUSDT",
            "1m",
        )
        assert shot["items"] == [bar_message(n, revision=0) for n in (7, 8, 9)]
        await bus.publish(BARS, bar_message(10))
        await bus.publish(BARS, {**bar_message(10), "timeframe": "5m"})
        await bus.publish(BARS, bar_message(9, revision=1))  # a correction
        await bus.publish(BARS, bar_message(11))
        assert [(await next_of(socket, "bar"))["time"][14:16] for _ in range(3)] == ["10", "09", "11"]


async def test_what_happens_while_the_snapshot_is_read_comes_after_it_and_once(
    gateway: Running, seeded: Database, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    await seeded.sql(STORED, 0, 9)
    hub: Hub = gateway.app.state.gateway.hub
    read = subscriptions.stored_bars

    async def slowly(*args: Any) -> Any:
        hub.spread("bars", bar_message(9))  # published before, contained
        hub.spread("bars", bar_message(10))  # published while it is read, and committed
        await seeded.sql(STORED, 10, 10)
        found = await read(*args)
        hub.spread("bars", bar_message(11))  # committed after
        return found

    monkeypatch.setattr(subscriptions, "stored_bars", slowly)
    async with open_socket(gateway) as socket:
        await say(socket, type="subscribe", channels=["bars"], symbols=["BTCUSDT"], timeframes=["1m"], bars=2)
        assert [bar["time"][14:16] for bar in (await next_of(socket, "snapshot"))["items"]] == ["09", "10"]
        hub.spread("bars", bar_message(12))
        assert [(await next_of(socket, "bar"))["time"][14:16] for _ in range(2)] == ["11", "12"]


async def test_client_that_reconnects_is_sent_what_it_missed_or_asked_to_read(gateway: Running, bus: Bus) -> None:
    hub: Hub = gateway.app.state.gateway.hub
    async with open_socket(gateway) as socket:
        opening = await next_of(socket, "hello")
        await say(socket, type="subscribe", channels=["orders"])
        assert "resumed" not in await next_of(socket, "subscribed")
        hub.spread("orders", {"type": "order", "symbol": "BTCUSDT", "n": 1})
        last = await next_of(socket, "order")
    assert last["seq"] > opening["seq"]
    await until(lambda: not hub.clients)
    hub.spread("orders", {"type": "order", "symbol": "BTCUSDT", "n": 2})
    hub.spread("signals", {"type": "signal", "symbol": "BTCUSDT", "n": 3})
    async with open_socket(gateway) as socket:
        assert (await next_of(socket, "hello"))["stream"] == opening["stream"]
        await say(
            socket, type="subscribe", channels=["orders"], after={"stream": opening["stream"], "seq": last["seq"]}
        )
        first, second = [await next_of(socket, "order", "signal", "subscribed") for _ in range(2)]
        assert {first["type"], second["type"]} == {"order", "subscribed"}
        assert (first if first["type"] == "order" else second)["n"] == 2
        assert (second if first["type"] == "order" else first)["resumed"] is True
        await say(socket, type="subscribe", channels=["orders"], after={"stream": "another", "seq": last["seq"]})
        assert (await next_of(socket, "subscribed"))["resumed"] is False
        await say(socket, type="subscribe", channels=["orders"], after={"stream": opening["stream"]})
        assert (await next_of(socket, "error"))["code"] == "INVALID"


async def test_busy_channels_are_subscribed_only_while_wanted(gateway: Running, seeded: Database, bus: Bus) -> None:
    hub: Hub = gateway.app.state.gateway.hub
    latest = Latest(bus)
    trade = PublicTrade("binance", "BTCUSDT", 1, AT, Decimal("64000.10"), Decimal(1), True, 1, AT)
    quote = Quote("binance", "BTCUSDT", AT, Decimal("1.1"), Decimal(2), Decimal("1.2"), Decimal(3), AT)
    assert not hub.is_busy_subscribed
    async with open_socket(gateway) as socket:
        await latest.publish([trade])
        await say(socket, type="subscribe", channels=["prices", "quotes"], symbols=["BTCUSDT"])
        shots = {
            shot["channel"]: shot for shot in [await next_of(socket, "snapshot"), await next_of(socket, "snapshot")]
        }
        assert [item["price"] for item in shots["prices"]["items"]] == ["64000.10"]
        assert shots["quotes"]["items"] == []
        assert hub.is_busy_subscribed
        await latest.publish([quote])  # nothing published after the snapshot is missed: the subscription stands
        assert (await next_of(socket, "quote"))["ask"] == "1.2"
        await bus.publish(PRICES, {"type": "price", "exchange": "binance", "symbol": "ETHUSDT", "price": "1"})
        await latest.publish([trade])
        assert (await next_of(socket, "price"))["symbol"] == "BTCUSDT"
        await say(socket, type="unsubscribe", channels=["quotes"])
        assert (await next_of(socket, "unsubscribed"))["count"] == 1
        await latest.publish([quote, trade])
        assert (await next_of(socket, "price", "quote"))["type"] == "price"
    await until(lambda: not hub.is_busy_subscribed)


async def test_feeds_without_a_symbol_are_all_feeds(gateway: Running, seeded: Database) -> None:
    await seeded.sql(
        "INSERT INTO feeds (exchange, symbol, timeframe, state, epoch) VALUES ('binance','BTCUSDT','trades','LIVE',1),"
        " ('binance','ETHUSDT','trades','STALE',1), ('binance','ETHUSDT','1m','LIVE',1)"
    )
    await hold_lease(seeded, epoch=1)
    async with open_socket(gateway) as socket:
        await say(socket, type="subscribe", channels=["feeds", "orders"])
        assert (await next_of(socket, "subscribed"))["channels"] == ["feeds", "orders"]
        items = (await next_of(socket, "snapshot"))["items"]
        assert [(item["symbol"], item["state"]) for item in items] == [("BTCUSDT", "LIVE"), ("ETHUSDT", "STALE")]


async def test_order_of_a_subscribed_symbol_arrives_for_any_exchange(gateway: Running, bus: Bus) -> None:
    async with open_socket(gateway) as socket:
        await say(socket, type="subscribe", channels=["orders"], symbols=["BTC/USDT"])
        await next_of(socket, "subscribed")
        await bus.publish(ORDERS, {"type": "order", "symbol": "ETHUSDT"})
        await bus.publish(ORDERS, {"type": "order", "symbol": "BTCUSDT", "venue": "paper"})
        assert (await next_of(socket, "order"))["symbol"] == "BTCUSDT"


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


async def test_invalid_request_gets_an_error_and_the_socket_stays(gateway: Running) -> None:
    async with open_socket(gateway) as socket:
        for message, code, output in WRONG:
            await say(socket, **message)
            received = await next_of(socket, "error", "subscribed", "unsubscribed")
            assert (received["type"], received.get("code")) == ("error", code), message
            assert output in received["detail"], message
            assert received["remedy"]
        await say(socket, type="ping", id="x")
        assert (await next_of(socket, "pong"))["id"] == "x"


async def test_outage_gets_an_error_and_subscribes_nothing(
    gateway: Running, seeded: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fks.model.errors import OutageError

    hub: Hub = gateway.app.state.gateway.hub

    async def away(*args: Any) -> Any:
        raise OutageError("PostgreSQL does not answer")

    monkeypatch.setattr(subscriptions, "stored_bars", away)
    async with open_socket(gateway) as socket:
        await next_of(socket, "hello")
        await say(socket, type="subscribe", id=1, channels=["bars"], symbols=["BTCUSDT"])
        received = await next_of(socket, "error")
        assert (received["code"], received["id"]) == ("UNAVAILABLE", 1)
        (client,) = hub.clients
        assert not client.topics
        assert not client.held


async def test_client_that_does_not_read_is_cut_and_others_go_on(
    gateway: Running, seeded: Database, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "SEND_S", 0.3)
    monkeypatch.setattr(queue, "QUEUE_MAX", 50)
    hub: Hub = gateway.app.state.gateway.hub
    async with open_socket(gateway, "?channels=orders") as slow, open_socket(gateway, "?channels=orders") as fast:
        await next_of(slow, "hello")
        await next_of(fast, "hello")
        slow.transport.pause_reading()  # type: ignore[attr-defined]
        number, events = 0, 0
        text = "x" * 50_000
        async with asyncio.timeout(20):
            while len(hub) == 2:
                hub.spread("orders", {"type": "order", "n": number, "symbol": "BTCUSDT", "text": text})
                number += 1
                events = (await next_of(fast, "order"))["n"]
        assert events == number - 1, "the fast one missed nothing"
        slow.transport.resume_reading()  # type: ignore[attr-defined]
        with pytest.raises(ConnectionClosed) as closed:
            await next_of(slow, "never")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1013
    assert ("gateway.slow_listener", ["orders"]) in [(line[1], line[2].get("channels")) for line in gateway.log.lines]


async def test_messages_dropped_for_a_slow_client_are_reported_and_counted(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "QUEUE_MAX", 5)
    hub: Hub = gateway.app.state.gateway.hub

    def dropped() -> float:
        """Return the count of this process: other tests count, too."""
        counted = gateway.app.state.gateway.meter.snapshot()
        return sum(
            value for name, value in counted.items() if "fks_market_dropped_total" in str(name) and "bars" in str(name)
        )

    before = dropped()
    async with open_socket(gateway, "?channels=bars") as socket:
        await next_of(socket, "hello")
        for n in range(12):  # at once: the sender has no turn in between
            hub.spread("bars", bar_message(n))
        assert (await next_of(socket, "dropped"))["counts"] == {"bars": 7}
        assert [(await next_of(socket, "bar"))["time"][14:16] for _ in range(5)] == ["07", "08", "09", "10", "11"]
        assert dropped() - before == 7.0
