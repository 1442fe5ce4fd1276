"""Two readers, one recording: our wires and ccxt.pro's handlers tell the same trades of the same frames."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fks.exchanges.base import Wire
from fks.exchanges.binance import BinanceWire
from fks.exchanges.coinbase import CoinbaseWire
from fks.exchanges.kraken import KrakenWire
from fks.model.bar import PublicTrade
from fks.model.market import Channel, Subscription
from tests.support.ccxt_feeds import feed_of, trades_of
from tests.support.recorded import COINBASE, EXCERPT, MIXED, agg_trades, frames_of, raw_trades

KRAKEN = [  # documented: docs.kraken.com/api/docs/websocket-v2/trade
    b'{"channel":"trade","type":"snapshot","data":[{"symbol":"BTC/USD","side":"buy","price":105944.20,"qty":0.00027625,'
    b'"ord_type":"limit","trade_id":10218208,"timestamp":"2025-10-06T17:35:55.440295Z"},{"symbol":"BTC/USD","side":"sell",'
    b'"price":105910.5,"qty":0.0001246,"ord_type":"market","trade_id":10218209,"timestamp":"2025-10-06T17:35:56.123456Z"}]}',
    b'{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD","side":"sell","price":105910.5,"qty":1.50000000,'
    b'"ord_type":"market","trade_id":10218210,"timestamp":"2025-10-06T17:35:57.000001Z"}]}',
]
CASES = {
    "binance trades, recorded": ("binance", BinanceWire(trades="trade"), {"BTCUSDT": "BTC/USDT"}, EXCERPT),
    "binance aggregate trades, derived": ("binance", BinanceWire(), {"BTCUSDT": "BTC/USDT"}, None),
    "binance, other coins, recorded": (
        "binance", BinanceWire(),
        {"BLZETH": "BLZ/ETH", "LRCBTC": "LRC/BTC", "NKNUSDT": "NKN/USDT", "RUNEEUR": "RUNE/EUR"}, MIXED,
    ),
    "coinbase, recorded": ("coinbase", CoinbaseWire(), {"BTC-USD": "BTC/USD", "ETH-USD": "ETH/USD"}, COINBASE),
    "kraken, documented": ("kraken", KrakenWire(), {"BTC/USD": "BTC/USD"}, None),
}  # fmt: skip


def frames_for(name: str, path: Path | None) -> list[bytes]:
    if path is not None:
        return [frame for _, frame in frames_of(path)]
    if name == "kraken":
        return KRAKEN
    rows = agg_trades(raw_trades())
    return [json.dumps({"stream": "btcusdt@aggTrade", "data": row}).encode() for row in rows]


def ours(wire: Wire, symbols: dict[str, str], frames: Sequence[bytes]) -> list[PublicTrade]:
    wire.hello([Subscription(Channel.TRADES, symbol) for symbol in symbols])
    return [event for frame in frames for event in wire.receive(frame, 0) if isinstance(event, PublicTrade)]


def theirs(name: str, symbols: dict[str, str], frames: Sequence[bytes]) -> list[dict[str, Any]]:
    exchange, client = feed_of(name, symbols)
    for frame in frames:
        if b"rade" in frame:
            message = json.loads(frame)
            exchange.handle_message(client, message)
    return trades_of(exchange)


@pytest.mark.parametrize("case", CASES)
def test_ccxt_tells_the_same_trades(case: str) -> None:
    name, wire, symbols, path = CASES[case]
    if path is not None and not path.exists():
        pytest.skip("no data set here")
    frames = frames_for(name, path)
    mine = {(symbols[t.symbol], str(t.trade_id)): t for t in ours(wire, symbols, frames)}
    other = {(t["symbol"], t["id"]): t for t in theirs(name, symbols, frames)}
    assert mine.keys() == other.keys()
    assert mine
    for key, trade in mine.items():
        seen = other[key]
        assert trade.time_ns // 1_000_000 == seen["timestamp"]
        assert (trade.price, trade.quantity) == (Decimal(repr(seen["price"])), Decimal(repr(seen["amount"])))
        taker_side = "sell" if trade.is_buyer_maker else "buy"
        if name == "coinbase":  # of its stream ccxt hands the maker's side on as the trade's
            assert seen["side"] != taker_side
        else:
            assert seen["side"] == taker_side
