"""A book that broke is asked for at once, one that stays broken ever more seldom, and then its connection is over."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from fks.market.exchanges.base import BookResync, Wire
from fks.market.exchanges.base.book_resync import CALM_S, ROW_MAX
from fks.market.exchanges.bybit.wire import BybitWire
from fks.market.exchanges.coinbase.wire import CoinbaseWire
from fks.market.exchanges.kraken.wire import KrakenWire
from fks.model.errors import PeerError
from fks.model.market import Book, Channel, Subscription

TIME = "2026-08-09T21:05:48.251397169Z"


def test_the_first_is_asked_for_at_once_and_the_next_ones_ever_later() -> None:
    resync, asked, now_s = BookResync(), [], 1000.0
    while now_s < 1070.0:
        resync.broken("A")
        asked += [now_s - 1000.0 for _ in resync.due(now_s)]
        now_s += 0.5
    assert asked == [0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 63.0]


def test_one_symbol_waits_for_none_of_the_others() -> None:
    resync = BookResync()
    resync.broken("A")
    assert resync.due(0.0) == ["A"]
    resync.broken("A")
    resync.broken("B")
    assert resync.due(0.1) == ["B"]
    assert resync.due(0.9) == []
    assert resync.due(1.0) == ["A"]
    assert resync.due(9.0) == []


def test_snapshot_that_arrives_by_itself_is_not_requested() -> None:
    resync = BookResync()
    resync.broken("A")
    resync.whole("A")
    resync.whole("B")
    assert resync.due(0.0) == []


def test_a_book_that_left_is_asked_for_no_more() -> None:
    resync = BookResync()
    resync.broken("A")
    resync.broken("B")
    resync.drop("A")
    resync.broken("A")
    assert resync.due(0.0) == ["B"]


def test_a_book_that_stood_begins_a_new_row() -> None:
    resync = BookResync()
    for number in range(3 * ROW_MAX):
        resync.broken("A")
        assert resync.due(number * CALM_S) == ["A"]


def test_a_row_has_an_end() -> None:
    resync, asked = BookResync(), 0

    def break_again_and_again() -> None:
        nonlocal asked
        for now_s in range(1000):
            resync.broken("A")
            asked += len(resync.due(float(now_s)))

    with pytest.raises(PeerError, match="of A was asked for 8 times"):
        break_again_and_again()
    assert asked == ROW_MAX


# ── the wires: a snapshot that cannot be, and a good one; coinbase numbers its messages ──────────
def _kraken(number: int, *, is_good: bool) -> dict[str, Any]:
    row = {
        "symbol": "BTC/USD",
        "bids": [{"price": 1.5, "qty": 2.0}],
        "asks": [{"price": 1.6, "qty": 1.0}],
        "timestamp": TIME,
    }
    return {"channel": "book", "type": "snapshot", "data": [{**row, "checksum": 678407182 if is_good else "?"}]}


def _coinbase(number: int, *, is_good: bool) -> dict[str, Any]:
    row = {"side": "bid", "event_time": TIME, "price_level": "1" if is_good else "?", "new_quantity": "2"}
    event = {"type": "snapshot", "product_id": "BTC-USD", "updates": [row]}
    return {"channel": "l2_data", "timestamp": TIME, "sequence_num": number, "events": [event]}


def _bybit(number: int, *, is_good: bool) -> dict[str, Any]:
    data = {"s": "BTCUSDT", "b": [["5" if is_good else "?", "1"]], "a": [["6", "1"]], "u": 10, "seq": 1}
    return {
        "topic": "orderbook.50.BTCUSDT",
        "type": "snapshot",
        "ts": 1_700_000_000_000,
        "cts": 1_700_000_000_000,
        "data": data,
    }


@pytest.mark.parametrize(
    ("wire", "symbol", "snapshot"),
    [(KrakenWire(), "BTC/USD", _kraken), (CoinbaseWire(), "BTC-USD", _coinbase), (BybitWire(), "BTCUSDT", _bybit)],
    ids=["kraken", "coinbase", "bybit"],
)
def test_a_snapshot_that_cannot_be_is_asked_for_until_one_can(
    wire: Wire, symbol: str, snapshot: Callable[..., dict[str, Any]]
) -> None:
    wire.subscribe_frames([Subscription(Channel.BOOK, symbol)])

    def asked(now_s: float) -> list[bool]:
        frames = [frame for frame in wire.due_frames(now_s) if b"ping" not in frame]
        return [b"unsubscribe" in frame for frame in frames if symbol.encode() in frame]

    assert asked(0.0) == []
    for number, now_s in enumerate((1.0, 2.0, 4.0)):
        assert not [
            event for event in wire.receive(encoded(snapshot(number, is_good=False)), 1) if isinstance(event, Book)
        ]
        assert asked(now_s) == [True, False]
        assert asked(now_s) == []
    wire.receive(encoded(snapshot(3, is_good=False)), 1)
    (book,) = wire.receive(encoded(snapshot(4, is_good=True)), 1)
    assert isinstance(book, Book)
    assert asked(60.0) == []


def test_gap_while_coinbases_snapshot_is_expected_requests_it_again() -> None:
    wire = CoinbaseWire()
    wire.subscribe_frames([Subscription(Channel.BOOK, "BTC-USD")])
    for number in (0, 2):
        wire.receive(encoded({"channel": "heartbeats", "timestamp": TIME, "sequence_num": number, "events": []}), 1)
    assert [json.loads(frame)["type"] for frame in wire.due_frames(0.0)] == ["unsubscribe", "subscribe"]


def encoded(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()
