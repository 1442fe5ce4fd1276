"""What a wire unsubscribes is what it subscribed, in as many requests as the exchange lets it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fks.exchanges._template import TemplateWire
from fks.exchanges.base import Wire
from fks.exchanges.binance import BinanceWire
from fks.exchanges.bybit import BybitWire
from fks.exchanges.coinbase import CoinbaseWire
from fks.exchanges.kraken import KrakenWire
from fks.exchanges.okx import OkxWire
from fks.exchanges.polygon import PolygonWire
from fks.model.market import Channel, Subscription

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
        if isinstance(params, dict):  # kraken
            found += [f"{params['channel']} {params.get('interval', '')} {symbol}" for symbol in params["symbol"]]
        elif isinstance(params, str):  # polygon
            found += params.split(",")
        elif params is None:  # coinbase
            found += [f"{message['channel']} {symbol}" for symbol in message.get("product_ids", [])]
        else:
            found += [json.dumps(item) for item in params]
    return sorted(found)


@pytest.mark.parametrize("name", WIRES)
def test_what_leaves_is_what_came(name: str) -> None:
    wire, symbols, timeframe, channels = WIRES[name]
    wanted = [Subscription(channel, symbol, timeframe if channel is Channel.BARS else "") for channel in channels for symbol in symbols]
    came = wire.hello(wanted)
    if name == "polygon":
        assert wire.bye([Subscription(Channel.TRADES, "MSFT")]) == []  # not asked for yet: it never is
        wire.receive(b'[{"ev":"status","status":"auth_success","message":""}]', 1)
        came, wanted = wire.pulse(0.0), [item for item in wanted if item != Subscription(Channel.TRADES, "MSFT")]
    assert len(topics(came, "subscribe")) == len(wanted)
    left = wire.bye(wanted)
    assert topics(left, "unsubscribe") == topics(came, "subscribe")
    assert topics(left, "subscribe") == []
    assert len(left) <= len(came)
    assert not [frame for frame in wire.pulse(0.0) if b"subscribe" in frame.lower()]
