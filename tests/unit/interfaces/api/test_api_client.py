"""A listener's queue: conflated messages, dropped ones and those never dropped, and snapshots that messages follow
without a gap."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fks.interfaces.api import client as module
from fks.interfaces.api.client import QUEUE_MAX, SocketClient
from fks.interfaces.api.subscriptions import contained_bars
from fks.interfaces.api.topics import Topic, topics_of

BARS = Topic("bars", "binance", "BTCUSDT", "1m")


def bar(n: int, **other: Any) -> dict[str, Any]:
    return {"type": "bar", "exchange": "binance", "symbol": "BTCUSDT", "timeframe": "1m", "time": n, **other}


def quote(n: int, symbol: str = "BTCUSDT") -> dict[str, Any]:
    return {"type": "quote", "exchange": "binance", "symbol": symbol, "bid": n}


def taken(client: SocketClient) -> list[Mapping[str, Any]]:
    """Return what waits; with an empty queue it would wait, and nothing would wake it."""
    found = asyncio.run(client.take(0.01)) if client.has_news else []
    return [json.loads(received.data) for received in found]


def test_topics_are_every_combination_and_only_bars_have_timeframes() -> None:
    found = topics_of(["bars", "quotes"], [("binance", "BTCUSDT"), ("binance", "ETHUSDT")], ["1m", "5m"])
    assert len(found) == 6
    assert Topic("quotes", "binance", "ETHUSDT") in found
    assert topics_of(["orders"]) == {Topic("orders")}


def test_a_topic_lets_through_its_exchange_symbol_and_timeframe() -> None:
    client = SocketClient([BARS, Topic("quotes"), Topic("orders", "", "BTCUSDT")])
    assert client.wants("bars", bar(1))
    assert not client.wants("bars", {**bar(1), "exchange": "bybit"})
    assert not client.wants("bars", {**bar(1), "timeframe": "5m"})
    assert client.wants("quotes", quote(1, "ANY"))
    assert client.wants("orders", {"symbol": "BTCUSDT", "venue": "paper"})
    assert not client.wants("orders", {"symbol": "ETHUSDT", "exchange": "binance"})
    assert not client.wants("prices", quote(1))


def test_the_newest_quote_takes_the_place_of_the_one_before() -> None:
    client = SocketClient([Topic("quotes"), Topic("orders")])
    client.put("quotes", quote(1))
    client.put("orders", {"n": 1})
    client.put("quotes", quote(2))
    client.put("quotes", quote(3, "ETHUSDT"))
    assert taken(client) == [quote(2), {"n": 1}, quote(3, "ETHUSDT")]
    client.put("quotes", quote(4))
    assert taken(client) == [quote(4)]


def test_messages_of_a_new_subscription_follow_its_snapshot() -> None:
    client = SocketClient()
    client.begin([BARS])
    for n in (1, 2, 3):
        client.put("bars", bar(n))
    assert taken(client) == []
    client.release(BARS, {"type": "snapshot"}, lambda message: message["time"] < 3)
    client.put("bars", bar(4))
    assert taken(client) == [{"type": "snapshot"}, bar(3), bar(4)]


def test_a_correction_is_in_the_snapshot_only_when_the_snapshot_is_as_new() -> None:
    prices = {"open": "1.0", "high": "2.0", "low": "0.5", "close": "1.5", "volume": "3.0"}
    stored = bar(1, revision=1, **prices)
    received = contained_bars([stored])
    assert [received(bar(1, revision=n, **prices)) for n in (0, 1, 2)] == [True, True, False]
    assert not received(bar(2, **prices))
    assert not received({**bar(1, **prices), "timeframe": "5m"})
    before, now = bar(1, **{**prices, "close": "1.4"}), bar(1, **prices)  # of collectors that send no revision
    assert contained_bars([stored])(now)
    received = contained_bars([stored])
    assert [received(before), received(now)] == [False, False], "the last one counts"


def test_a_snapshot_that_could_not_be_read_loses_nothing_for_others() -> None:
    every = Topic("bars")
    client = SocketClient([every])
    client.begin([BARS])
    client.put("bars", bar(1))
    client.give_up([BARS], {BARS})
    assert taken(client) == [bar(1)]
    assert client.topics == {every}
    alone = SocketClient()
    alone.begin([BARS])
    alone.put("bars", bar(1))
    alone.give_up([BARS], {BARS})
    assert taken(alone) == []


def test_unsubscribed_messages_are_dropped_from_the_queue() -> None:
    client = SocketClient([BARS, Topic("orders")])
    client.put("bars", bar(1))
    client.put("gap", {"type": "gap"})
    client.put("orders", {"symbol": "X", "n": 1})
    client.drop([BARS])
    client.answer({"type": "unsubscribed"})
    assert taken(client) == [{"type": "gap"}, {"symbol": "X", "n": 1}, {"type": "unsubscribed"}]


def test_orders_that_cannot_be_held_give_the_client_up() -> None:
    client = SocketClient()
    client.begin([Topic("orders")])
    for n in range(QUEUE_MAX + 1):
        client.put("orders", {"n": n})
    assert client.is_overrun


@given(
    st.lists(st.sampled_from(["bars", "quotes", "book", "orders", "take", "answer"]), max_size=120),
    st.integers(min_value=3, max_value=8),
)
def test_whatever_comes_all_is_delivered_conflated_or_counted(steps: list[str], space: int) -> None:
    before, module.QUEUE_MAX = module.QUEUE_MAX, space
    try:
        client, sent, got, dropped = SocketClient(topics_of(["bars", "quotes", "book", "orders"])), [], [], 0
        for n, step in enumerate([*steps, "take"]):
            if step == "take":
                for message in taken(client):
                    dropped += message.get("count", 0)
                    got += [message] if "n" in message else []
            elif not client.is_overrun:
                message = {"n": n, "channel": step, "exchange": "x", "symbol": str(n % 2) if step != "answer" else None}
                client.answer(message) if step == "answer" else client.put(step, message)
                sent += [] if client.is_overrun else [message]
        for kept in ("orders", "answer"):
            assert [m["n"] for m in got if m["channel"] == kept] == [m["n"] for m in sent if m["channel"] == kept]
        for channel in ("bars", "quotes", "book"):
            numbers = [m["n"] for m in got if m["channel"] == channel]
            assert numbers == sorted(numbers) or channel != "bars"
        bars_lost = sum(m["channel"] == "bars" for m in sent) - sum(m["channel"] == "bars" for m in got)
        assert 0 <= bars_lost <= dropped
        if not dropped:
            for channel, symbol in (("quotes", "0"), ("quotes", "1"), ("book", "0"), ("book", "1")):
                sought = [m["n"] for m in sent if (m["channel"], m["symbol"]) == (channel, symbol)]
                events = [m["n"] for m in got if (m["channel"], m["symbol"]) == (channel, symbol)]
                assert sought[-1:] == events[-1:], "the newest arrives"
                assert events == sorted(events)
    finally:
        module.QUEUE_MAX = before
