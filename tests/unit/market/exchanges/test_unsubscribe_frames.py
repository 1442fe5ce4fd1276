"""Unsubscribe frames name the subscribed streams, in requests of the size that the exchange allows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fks.market.exchanges.base import ConnectionCounters, Wire
from fks.market.exchanges.binance.wire import BinanceWire
from fks.market.exchanges.bybit.wire import BybitWire
from fks.market.exchanges.coinbase.wire import CoinbaseWire
from fks.market.exchanges.kraken.wire import KrakenWire
from fks.market.exchanges.okx.wire import OkxWire
from fks.market.exchanges.polygon.wire import PolygonWire
from fks.model.market import Channel, Discontinuity, Subscription
from scripts.exchange_template.wire import TemplateWire

#: a wire, symbols of its exchange, the timeframe of its bars, the channels it has
WIRES: dict[str, tuple[Wire, list[str], str, list[Channel]]] = {
    "binance": (BinanceWire(), ["BTCUSDT", "ETHUSDT"], "1m", list(Channel)),
    "bybit": (BybitWire(), [f"COIN{n}USDT" for n in range(5)], "1m", list(Channel)),
    "coinbase": (CoinbaseWire(), ["BTC-USD", "ETH-USD"], "5m", list(Channel)),
    "kraken": (KrakenWire(), ["BTC/USD", "ETH/USD"], "1m", list(Channel)),
    "okx": (OkxWire(), ["BTC-USDT", "ETH-USDT"], "1m", list(Channel)),
    "polygon": (PolygonWire("key"), ["AAPL", "MSFT"], "1m", [Channel.TRADES, Channel.QUOTES, Channel.BARS]),
    "template": (TemplateWire(), ["BTC-USD", "ETH-USD"], "1m", [Channel.TRADES, Channel.QUOTES, Channel.BARS]),
}


def topics(frames: list[bytes], verb: str) -> list[str]:
    """Return what the frames of one verb are about, each thing once, in order."""
    found: list[str] = []
    for message in map(json.loads, frames):
        if verb not in [str(message.get(key, "")).lower() for key in ("method", "op", "action", "type")]:
            continue
        params: Any = message.get("params") or message.get("args") or message.get("streams")
        if isinstance(params, dict):  # kraken: all that makes it another subscription
            rest = {name: value for name, value in params.items() if name not in ("symbol", "snapshot")}
            found += [f"{symbol} {json.dumps(rest)}" for symbol in params["symbol"]]
        elif isinstance(params, str):  # polygon
            found += params.split(",")
        elif params is None:  # coinbase
            found += [f"{message['channel']} {symbol}" for symbol in message.get("product_ids", [])]
        else:
            found += [json.dumps(item) for item in params]
    return sorted(found)


@pytest.mark.parametrize("name", WIRES)
def test_unsubscribed_streams_are_the_subscribed_ones(name: str) -> None:
    wire, symbols, timeframe, channels = WIRES[name]
    wanted = [
        Subscription(channel, symbol, timeframe if channel is Channel.BARS else "")
        for channel in channels
        for symbol in symbols
    ]
    came = wire.subscribe_frames(wanted)
    if name == "polygon":
        early = [Subscription(Channel.TRADES, "MSFT"), Subscription(Channel.QUOTES, "MSFT")]
        assert wire.unsubscribe_frames(early[:1]) == []  # not asked for yet: it never is
        wire.receive(b'[{"ev":"status","status":"auth_success","message":""}]', 1)
        assert wire.unsubscribe_frames(early[1:]) == []
        came, wanted = wire.due_frames(0.0), [item for item in wanted if item not in early]
    assert len(topics(came, "subscribe")) == len(wanted)
    left = wire.unsubscribe_frames(wanted)
    assert topics(left, "unsubscribe") == topics(came, "subscribe")
    assert topics(left, "subscribe") == []
    assert len(left) <= len(came)
    assert not [frame for frame in wire.due_frames(0.0) if b"subscribe" in frame.lower()]


BTC, ETH = Subscription(Channel.BOOK, "BTC/USD"), Subscription(Channel.BOOK, "ETH/USD")


def test_suspect_message_of_an_unsubscribed_symbol_affects_no_other() -> None:
    for wire, frame in (
        (KrakenWire(), b'{"channel":"book","type":"update","data":[{"symbol":"ETH/USD","bids":"?"}]}'),
        (
            CoinbaseWire(),
            b'{"channel":"l2_data","sequence_num":0,"events":[{"type":"update","product_id":"ETH/USD","updates":"?"}]}',
        ),
    ):
        wire.subscribe_frames([BTC, ETH])
        wire.unsubscribe_frames([ETH])
        gone = [event for event in wire.receive(frame, 1) if isinstance(event, Discontinuity)]
        assert [event.symbol for event in gone] == ["ETH/USD"]
        assert not [frame for frame in wire.due_frames(0.0) if b"subscribe" in frame]
        wire.unsubscribe_frames([BTC])
        assert [
            event.symbol
            for event in wire.receive(frame.replace(b'_num":0', b'_num":1'), 1)
            if isinstance(event, Discontinuity)
        ] == ["ETH/USD"]


@pytest.mark.parametrize(
    ("wire", "gone", "refusal"),
    [
        (BinanceWire, Subscription(Channel.TRADES, "ETHUSDT"), '{"error":{"code":2,"msg":"Invalid request"},"id":2}'),
        (KrakenWire, ETH, '{"method":"unsubscribe","success":false,"error":"Subscription Not Found","req_id":2}'),
        (
            OkxWire,
            Subscription(Channel.TRADES, "ETH-USDT"),
            '{"event":"error","code":"60018","msg":"Wrong URL or channel:trades-all,instId:ETH-USDT doesn\'t exist."}',
        ),
    ],
    ids=["binance", "kraken", "okx"],
)
def test_a_refusal_to_let_one_go_is_counted_and_ends_nothing(wire: Any, gone: Subscription, refusal: str) -> None:
    counters = ConnectionCounters()
    made = wire(None, counters)
    made.subscribe_frames([gone])
    if isinstance(made, OkxWire):
        made.receive(b'{"event":"subscribe","arg":{"channel":"trades-all","instId":"ETH-USDT"}}', 1)
    assert made.unsubscribe_frames([gone])
    assert list(made.receive(refusal.encode(), 1)) == []
    assert sum(counters.unknown.values()) == 1
