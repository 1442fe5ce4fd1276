"""For any input a wire returns values, a suspect or one of our errors; and a suspect message is reported as
missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.market.exchanges.base import SubscriptionsAnswered, Wire
from fks.market.exchanges.binance.wire import BinanceWire
from fks.market.exchanges.coinbase.wire import CoinbaseWire
from fks.market.exchanges.kraken.wire import KrakenWire
from fks.model.bar import BarClosed, PublicTrade
from fks.model.errors import OutageError, PeerError
from fks.model.market import BarSeen, Book, Channel, Discontinuity, Quote, Subscription, Suspect

TIME = "2026-08-09T21:05:48.251397169Z"
#: a good message of each channel, as documented
GOOD: dict[str, dict[Channel, dict[str, Any]]] = {
    "binance": {
        Channel.TRADES: {"stream": "btcusdt@aggTrade", "data": {
            "e": "aggTrade", "E": 1, "s": "BTCUSDT", "a": 7, "p": "1.50", "q": "2", "f": 1, "l": 2, "T": 5, "m": True, "M": True}},
        Channel.QUOTES: {"stream": "btcusdt@bookTicker", "data": {"u": 1, "s": "BTCUSDT", "b": "1", "B": "2", "a": "3", "A": "4"}},
        Channel.BOOK: {"stream": "btcusdt@depth20@100ms", "data": {"lastUpdateId": 1, "bids": [["1", "2"]], "asks": [["3", "1"]]}},
        Channel.BARS: {"stream": "btcusdt@kline_1m", "data": {"e": "kline", "E": 1, "s": "BTCUSDT", "k": {
            "t": 60000, "T": 119999, "s": "BTCUSDT", "i": "1m", "f": 1, "L": 3, "o": "1", "c": "2", "h": "3", "l": "1", "v": "9",
            "n": 3, "x": True, "q": "1", "V": "1", "Q": "1", "B": "0"}}},
    },
    "kraken": {
        Channel.TRADES: {"channel": "trade", "type": "update", "data": [{
            "symbol": "BTC/USD", "side": "sell", "price": 1.5, "qty": 2.0, "ord_type": "market", "trade_id": 7, "timestamp": TIME}]},
        Channel.QUOTES: {"channel": "ticker", "type": "update", "data": [{
            "symbol": "BTC/USD", "bid": 1.5, "bid_qty": 2.0, "ask": 1.6, "ask_qty": 3.0, "last": 1.5, "timestamp": TIME}]},
        Channel.BARS: {"channel": "ohlc", "type": "update", "timestamp": TIME, "data": [{
            "symbol": "BTC/USD", "interval": 1, "interval_begin": "2026-08-09T21:05:00.000000000Z", "open": 1.0, "high": 3.0,
            "low": 1.0, "close": 2.0, "volume": 9.0, "trades": 3, "vwap": 1.5, "timestamp": TIME}]},
        Channel.BOOK: {"channel": "book", "type": "snapshot", "data": [{
            "symbol": "BTC/USD", "bids": [{"price": 1.5, "qty": 2.0}], "asks": [{"price": 1.6, "qty": 1.0}],
            "checksum": 678407182, "timestamp": TIME}]},
    },
    "coinbase": {
        Channel.TRADES: {"channel": "market_trades", "timestamp": TIME, "sequence_num": 0, "events": [{"type": "update", "trades": [{
            "product_id": "BTC-USD", "trade_id": "7", "price": "1.50", "size": "2", "time": TIME, "side": "BUY"}]}]},
        Channel.QUOTES: {"channel": "ticker", "timestamp": TIME, "sequence_num": 0, "events": [{"type": "update", "tickers": [{
            "type": "ticker", "product_id": "BTC-USD", "price": "1.5", "best_bid": "1", "best_bid_quantity": "2", "best_ask": "3",
            "best_ask_quantity": "4"}]}]},
        Channel.BARS: {"channel": "candles", "timestamp": TIME, "sequence_num": 0, "events": [{"type": "update", "candles": [{
            "product_id": "BTC-USD", "start": "1786309500", "open": "1", "high": "3", "low": "1", "close": "2", "volume": "9"}]}]},
        Channel.BOOK: {"channel": "l2_data", "timestamp": TIME, "sequence_num": 0, "events": [{
            "type": "snapshot", "product_id": "BTC-USD", "updates": [
                {"side": "bid", "event_time": TIME, "price_level": "1", "new_quantity": "2"},
                {"side": "offer", "event_time": TIME, "price_level": "3", "new_quantity": "4"}]}]},
    },
}  # fmt: skip
MADE: dict[str, tuple[Callable[[], Wire], str, str]] = {
    "binance": (BinanceWire, "BTCUSDT", "1m"),
    "kraken": (KrakenWire, "BTC/USD", "1m"),
    "coinbase": (CoinbaseWire, "BTC-USD", "5m"),
}
KINDS = {Channel.TRADES: PublicTrade, Channel.QUOTES: Quote, Channel.BOOK: Book, Channel.BARS: BarSeen}
CASES = [(name, channel) for name, channels in GOOD.items() for channel in channels]
VALUES = PublicTrade | Quote | Book | BarSeen | BarClosed


def made(name: str) -> tuple[Wire, str]:
    make, symbol, timeframe = MADE[name]
    wire = make()
    wire.subscribe_frames(
        [Subscription(channel, symbol, timeframe if channel is Channel.BARS else "") for channel in Channel]
    )
    return wire, symbol


def encoded(message: Any) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


@pytest.mark.parametrize(("name", "channel"), CASES)
def test_a_good_message_gives_its_value(name: str, channel: Channel) -> None:
    wire, symbol = made(name)
    event = wire.receive(encoded(GOOD[name][channel]), 9)[0]
    assert isinstance(event, KINDS[channel])
    assert (event.bar if isinstance(event, BarSeen) else event).symbol == symbol
    assert event.received_ns == 9
    if isinstance(event, PublicTrade):
        assert (event.trade_id, event.price, event.quantity, event.is_buyer_maker) == (
            7,
            Decimal("1.5"),
            Decimal(2),
            True,
        )


@pytest.mark.parametrize(("name", "channel"), CASES)
def test_a_new_field_at_any_depth_changes_nothing_and_is_counted(name: str, channel: Channel) -> None:
    plain = made(name)[0].receive(encoded(GOOD[name][channel]), 9)

    def widened(value: Any) -> Any:
        if isinstance(value, dict):
            return {**{key: widened(inner) for key, inner in value.items()}, "brand_new": {"x": [1]}}
        return [widened(item) for item in value] if isinstance(value, list) else value

    wire, _ = made(name)
    assert list(wire.receive(encoded(widened(GOOD[name][channel])), 9)) == list(plain)
    assert {key.rpartition(".")[2] for key in wire.counters.unknown} == {"brand_new"}  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "channel"), CASES)
@given(st.data())
def test_spoilt_message_is_suspect_or_still_a_value(name: str, channel: Channel, data: st.DataObject) -> None:
    """One leaf of a good message is exchanged for something else."""
    message = json.loads(encoded(GOOD[name][channel]))
    leaves: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key in value if isinstance(value, dict) else range(len(value)):
            leaves.append((value, key))
            if isinstance(value[key], dict | list):
                walk(value[key])

    walk(message)
    holder, key = data.draw(st.sampled_from(leaves))
    holder[key] = data.draw(
        st.sampled_from(
            [None, "", "NaN", "Infinity", "-1", "0", "1e999", "x", -1, 0, 2**70, 1.5, True, [], {}, [[]], ["a"], "é"]
        )
    )
    wire, symbol = made(name)
    try:
        events = wire.receive(encoded(message), 9)
    except (OutageError, PeerError):
        return
    for event in events:
        assert isinstance(event, VALUES | SubscriptionsAnswered | Suspect | Discontinuity)
        if isinstance(event, PublicTrade):
            assert 0 < event.price < 10**30
            assert 0 <= event.quantity < 10**30
    if events and isinstance(events[0], Suspect):
        assert events[0].text
        assert (
            channel is Channel.QUOTES
            or any(isinstance(event, Discontinuity) for event in events)
            or events[0].channel == "subscribe"
        )
    assert all(getattr(event, "symbol", symbol) in (symbol, "") for event in events)


@pytest.mark.parametrize("name", GOOD)
@given(
    st.one_of(
        st.binary(max_size=60), st.sampled_from(["{}", "[]", "1", '"x"', "null", '{"data":', "[[["]).map(str.encode)
    )
)
def test_noise_is_survived(name: str, noise: bytes) -> None:
    wire, _ = made(name)
    found = wire.receive(noise, 9)
    assert all(isinstance(event, Suspect | Discontinuity) for event in found)
    good = wire.receive(encoded(GOOD[name][Channel.TRADES]), 9)
    assert isinstance(good[0], PublicTrade)


@pytest.mark.parametrize("name", GOOD)
def test_unknown_message_is_counted_and_spoilt_trade_affects_no_other(name: str) -> None:
    wire, symbol = made(name)
    unknown = {
        "binance": {"stream": "btcusdt@newThing", "data": {}},
        "kraken": {"channel": "new_thing", "data": []},
        "coinbase": {"channel": "new_thing", "sequence_num": 0, "timestamp": TIME, "events": []},
    }
    assert not wire.receive(encoded(unknown[name]), 9)
    assert sum(wire.counters.unknown.values()) == 1  # type: ignore[attr-defined]
    text = (
        encoded(GOOD[name][Channel.TRADES]).replace(b"1.5", b"-1.5").replace(b'"sequence_num":0', b'"sequence_num":1')
    )
    events = wire.receive(text, 9)
    assert [type(event) for event in events] == [Suspect, Discontinuity]
    assert isinstance(events[0], Suspect)
    assert (events[0].channel, events[0].symbol, events[0].received_ns) == ("trades", symbol, 9)
    assert events[0].text == text.decode()
    good = encoded(GOOD[name][Channel.TRADES]).replace(b'"sequence_num":0', b'"sequence_num":2')
    assert [type(event) for event in wire.receive(good, 9)] == [PublicTrade]


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("time", 1_900_000_000_000_000),
        ("time", 4_102_444_800_001),
        ("time", -5),
        ("id", 2**63),
        ("id", 10**20),
        ("id", -1),
    ],
)
def test_trade_that_no_store_could_hold_is_suspect(name: str, field: str, value: int) -> None:
    """A time in microseconds, one after 2100 or before 1970, an id of more than 63 bits."""
    message = json.loads(encoded(GOOD[name][Channel.TRADES]))
    row = {
        "binance": lambda: message["data"],
        "kraken": lambda: message["data"][0],
        "coinbase": lambda: message["events"][0]["trades"][0],
    }[name]()
    key = {
        "binance": {"time": "T", "id": "a"},
        "kraken": {"time": "timestamp", "id": "trade_id"},
        "coinbase": {"time": "time", "id": "trade_id"},
    }[name][field]
    years = {
        1_900_000_000_000_000: "9999-01-01T00:00:00Z",
        4_102_444_800_001: "2100-01-01T00:00:00.001Z",
        -5: "1969-12-31T23:59:59.995Z",
    }
    reported: Any = years[value] if field == "time" else str(value)
    row[key] = value if name == "binance" or (name == "kraken" and field == "id") else reported
    suspect, gone = made(name)[0].receive(encoded(message), 9)
    assert isinstance(suspect, Suspect)
    assert isinstance(gone, Discontinuity)
    assert gone.channel is Channel.TRADES
