"""Numbers of a replica's messages, and the messages sent to a client that reconnects."""

from __future__ import annotations

import pytest

from fks.clock import FakeClock
from fks.interfaces.api import hub as hubs
from fks.interfaces.api.client import SocketClient
from fks.interfaces.api.hub import Hub
from fks.interfaces.api.topics import Topic, topics_of
from fks.model.untrusted import parse
from fks.store.bus import Bus
from tests.support.ports import CollectingLog

ORDERS = topics_of(["orders"])


@pytest.fixture
def hub() -> Hub:
    return Hub(Bus(None, 1.0), FakeClock(), CollectingLog())


def order(number: int, symbol: str = "BTCUSDT") -> dict[str, object]:
    return {"type": "order", "symbol": symbol, "n": number}


def numbers(hub: Hub, seq: int, topics: frozenset[Topic] = ORDERS, stream: str | None = None) -> list[object] | None:
    found = hub.missed(hub.stream if stream is None else stream, seq, topics)
    return None if found is None else [queued.message["n"] for queued in found]


def test_missed_messages_of_the_subscription_are_replayed_once_and_in_order(hub: Hub) -> None:
    for number in range(3):
        hub.spread("orders", order(number))
        hub.spread("fills", {**order(number), "type": "fill"})
    assert numbers(hub, 0) == [0, 1, 2]
    assert numbers(hub, 2) == [1, 2]
    assert numbers(hub, 6) == []
    assert numbers(hub, 0, topics_of(["orders"], [("", "ETHUSDT")])) == []


def test_a_message_has_the_number_that_the_client_gives_back(hub: Hub) -> None:
    client = SocketClient(ORDERS)
    hub.join(client)
    hub.spread("fills", order(0))
    hub.spread("orders", order(1))
    (queued,) = client.waiting
    assert parse(queued.data) == {**order(1), "seq": 2}
    assert numbers(hub, 2) == []


def test_numbers_of_another_replica_or_of_the_future_are_not_resumed(hub: Hub) -> None:
    hub.spread("orders", order(0))
    assert numbers(hub, 0, stream="another") is None
    assert numbers(hub, 2) is None
    assert numbers(hub, -1) is None


def test_what_is_not_kept_any_more_is_not_resumed(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs, "REPLAYED_MAX", 5000)
    for number in range(hubs.KEPT_MAX + 10):
        hub.spread("orders", order(number))
    assert numbers(hub, 9) is None
    found = numbers(hub, 10)
    assert found is not None
    assert (len(found), found[0]) == (hubs.KEPT_MAX, 10)


def test_more_than_a_client_may_have_waiting_is_not_resumed(hub: Hub) -> None:
    for number in range(hubs.REPLAYED_MAX + 1):
        hub.spread("orders", order(number))
    assert numbers(hub, 0) is None
    assert len(numbers(hub, 1) or ()) == hubs.REPLAYED_MAX


def test_prices_have_no_number(hub: Hub) -> None:
    client = SocketClient(topics_of(["prices"]))
    hub.join(client)
    hub.spread("prices", {"type": "price", "exchange": "binance", "symbol": "BTCUSDT"})
    assert "seq" not in parse(client.waiting[0].data)
    assert hub.seq == 0
