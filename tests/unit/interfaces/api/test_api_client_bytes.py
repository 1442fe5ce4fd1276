"""Byte limits of a client's queue: the order of drops, disconnects, and requests that are not read."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.interfaces.api import client as module
from fks.interfaces.api import requests
from fks.interfaces.api.client import ANSWERS_BYTES, QUEUE_BYTES, QUEUE_MAX, SocketClient
from fks.interfaces.api.requests import Requests
from fks.interfaces.api.topics import Topic, topics_of

LARGE = "x" * (QUEUE_BYTES // 10)
FEEDS = Topic("feeds", "binance", "BTCUSDT")


def feed(n: int, text: str = LARGE, symbol: str = "BTCUSDT") -> dict[str, Any]:
    return {"type": "feed", "exchange": "binance", "symbol": symbol, "n": n, "text": text}


def size_of(client: SocketClient) -> int:
    """Return the bytes that wait, answers aside."""
    waiting = [received for received in client.waiting if received.channel]
    return sum(
        len(received.data) for received in [*waiting, *(received for held in client.held.values() for received in held)]
    )


async def taken(client: SocketClient) -> list[Any]:
    return [json.loads(received.data) for received in await client.take(0.01)]


async def test_large_messages_are_dropped_oldest_first_and_counted() -> None:
    client = SocketClient(topics_of(["feeds", "orders"]))
    for n in range(20):
        client.put("feeds", feed(n))
        assert size_of(client) <= QUEUE_BYTES
    client.put("orders", feed(20))
    assert not client.is_overrun
    received, *rest = await taken(client)
    assert received["counts"] == {"feeds": 12}
    assert [message["n"] for message in rest] == list(range(12, 21))


async def test_large_orders_are_never_dropped_the_client_is_given_up_instead() -> None:
    client = SocketClient(topics_of(["orders"]))
    for n in range(20):
        client.put("orders", feed(n))
        assert size_of(client) <= QUEUE_BYTES
    assert client.is_overrun
    assert [message["n"] for message in await taken(client)] == list(range(9))


async def test_a_book_in_the_place_of_another_counts_once() -> None:
    client = SocketClient(topics_of(["book"]))
    for n in range(100):
        client.put("book", feed(n, symbol="XY"[n % 2]))
    assert [message["n"] for message in await taken(client)] == [98, 99]
    client.put("book", feed(0, "small"))
    client.put("book", feed(1, "x" * (QUEUE_BYTES - 200), "Y"))
    client.put("book", feed(2))
    assert not client.is_overrun
    received, last = await taken(client)
    assert (received["counts"], last["n"]) == ({"book": 1}, 1)


async def test_what_is_held_for_a_snapshot_counts_too() -> None:
    client = SocketClient()
    client.begin([FEEDS])
    for n in range(20):
        client.put("feeds", feed(n))
        assert size_of(client) <= QUEUE_BYTES
    client.release(FEEDS, {"type": "snapshot"}, lambda message: message["n"] == 11)
    received, snapshot, *rest = await taken(client)
    assert (received["counts"], snapshot["type"]) == ({"feeds": 11}, "snapshot")
    assert [message["n"] for message in rest] == list(range(12, 20))


async def test_an_order_goes_before_the_books_that_are_held_for_their_snapshots() -> None:
    books = [Topic("book", "binance", f"COIN{n}") for n in range(5)]
    client = SocketClient(topics_of(["orders"]))
    client.begin(books)
    for n in range(20):
        client.put("book", feed(n, symbol=f"COIN{n % 5}"))
    assert client.bytes_waiting == size_of(client)
    for n in range(9):
        client.put("orders", feed(n))
        assert size_of(client) == client.bytes_waiting <= QUEUE_BYTES
    assert not client.is_overrun
    received, *rest = await taken(client)
    assert received["channels"] == ["book"]
    assert [message["n"] for message in rest] == list(range(9))


async def test_what_is_held_and_may_not_be_dropped_gives_the_client_up() -> None:
    client = SocketClient()
    client.begin([Topic("orders")])
    for n in range(10):
        client.put("orders", feed(n))
    assert client.is_overrun
    assert size_of(client) == client.bytes_waiting <= QUEUE_BYTES


async def test_waiting_answers_do_not_disconnect_a_client() -> None:
    client = SocketClient(topics_of(["orders"]))
    for n in range(2 * QUEUE_MAX):
        client.answer({"type": "snapshot", "n": n, "items": ["x" * 10_000]})
    client.put("orders", {"n": 2 * QUEUE_MAX})
    assert not client.is_overrun
    assert [received.channel for received in await client.take(0.01, most=2 * QUEUE_MAX)] == [""] * 2 * QUEUE_MAX
    assert await taken(client) == [{"n": 2 * QUEUE_MAX}]


async def test_client_with_unread_answers_waits_with_its_next_request() -> None:
    client = SocketClient()
    await client.wait_drained()
    for n in range(3):
        client.answer({"type": "snapshot", "n": n, "items": ["x" * ANSWERS_BYTES]})
    waiting = asyncio.create_task(client.wait_drained())
    for n in range(3):
        await asyncio.sleep(0)
        assert not waiting.done()
        (received,) = await client.take(20, most=1)
        assert json.loads(received.data)["n"] == n
    async with asyncio.timeout(20):
        await waiting


async def test_requests_wait_in_their_order_and_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "REQUESTS_SIZE", 1000)
    asked = Requests()
    async with asyncio.timeout(20):
        for n in range(4):
            await asked.put(f"{n}" * 200)
        fifth = asyncio.create_task(asked.put(""))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not fifth.done()
        assert [await asked.get() for _ in range(4)] == [f"{n}" * 200 for n in range(4)]
        await fifth
        assert await asked.get() == ""


STEPS = st.one_of(
    st.tuples(st.sampled_from(["feeds", "book", "orders", "answer"]), st.integers(0, 400), st.sampled_from("XY")),
    st.tuples(st.sampled_from(["take", "begin", "release", "give_up", "drop"]), st.just(1), st.sampled_from("XY")),
)


@given(st.lists(STEPS, max_size=60))
def test_whatever_happens_the_bytes_are_those_that_wait(steps: list[tuple[str, int, str]]) -> None:
    before, module.QUEUE_BYTES = module.QUEUE_BYTES, 1000
    try:
        client = SocketClient(topics_of(["feeds", "book", "orders"]))
        for step, size, symbol in steps:
            topic = Topic("feeds", "binance", symbol)
            if step == "take":
                if client.has_news:
                    asyncio.run(client.take(0.01, most=size))
            elif step == "begin":
                client.begin([topic])
            elif step == "release":
                client.release(topic, {"type": "snapshot"}, lambda message: False)
            elif step == "give_up":
                client.give_up([topic], [])
            elif step == "drop":
                client.drop([topic])
            elif step == "answer":
                client.answer(feed(0, "x" * size, symbol))
            else:
                client.put(step, feed(0, "x" * size, symbol))
            assert client.bytes_waiting == size_of(client) <= 1000
            assert client.messages_waiting == sum(bool(received.channel) for received in client.waiting)
            assert client.answer_bytes == sum(len(received.data) for received in client.waiting if not received.channel)
    finally:
        module.QUEUE_BYTES = before
