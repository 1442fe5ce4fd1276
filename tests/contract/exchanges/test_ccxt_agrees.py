"""Two readers, one recording: our wires and ccxt.pro's handlers tell the same of the same frames."""

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
from fks.model.market import BarSeen, Book, Channel, Quote, Subscription
from tests.support.ccxt_feeds import feed_of, trades_of
from tests.support.recorded import COINBASE, EXCERPT, KRAKEN_BOOK, MIXED, SHARED, agg_trades, frames_of, raw_trades

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


COINS = {"BLZETH": "BLZ/ETH", "LRCBTC": "LRC/BTC", "NKNUSDT": "NKN/USDT", "RUNEEUR": "RUNE/EUR"}
ENDS = {
    "binance, recorded": ("binance", BinanceWire(), COINS, MIXED, "1m"),
    "binance's busiest, recorded": ("binance", BinanceWire(), {"BTCUSDT": "BTC/USDT"}, SHARED, "1m"),
    "coinbase, recorded": ("coinbase", CoinbaseWire(), {"BTC-USD": "BTC/USD", "ETH-USD": "ETH/USD"}, COINBASE, "5m"),
    "kraken, recorded": ("kraken", KrakenWire(), {"BTC/USD": "BTC/USD"}, KRAKEN_BOOK, "1m"),
}
READ_BY_BOTH = (b"@kline", b"@bookTicker", b'"book"', b'"l2_data"', b'"ticker"')


@pytest.mark.parametrize("case", ENDS)
def test_ccxt_ends_with_the_same_quotes_bars_and_books(case: str) -> None:
    """ccxt keeps the newest of each: after the whole recording it is what we told last."""
    name, wire, symbols, path, timeframe = ENDS[case]
    if not path.exists():
        pytest.skip("no data set here")
    wire.hello([Subscription(c, s, timeframe if c is Channel.BARS else "") for c in Channel for s in symbols])
    exchange, client = feed_of(name, symbols)
    quotes: dict[str, Quote] = {}
    bars: dict[str, BarSeen] = {}
    books: dict[str, Book] = {}
    for received_ns, frame in frames_of(path):
        for event in wire.receive(frame, received_ns):
            if isinstance(event, Quote):
                quotes[symbols[event.symbol]] = event
            elif isinstance(event, BarSeen):
                bars[symbols[event.bar.symbol]] = event
            elif isinstance(event, Book):
                books[symbols[event.symbol]] = event
        if any(mark in frame[:60] for mark in READ_BY_BOTH):
            exchange.handle_message(client, json.loads(frame))
    assert quotes or bars or books
    for symbol, quote in quotes.items():
        seen = (exchange.bidsasks if name == "binance" else exchange.tickers)[symbol]
        told = [float(number) for number in (quote.bid, quote.bid_size, quote.ask, quote.ask_size)]
        assert told == [seen["bid"], seen["bidVolume"], seen["ask"], seen["askVolume"]]
    for symbol, kept in exchange.ohlcvs.items():
        bar = bars[symbol].bar
        assert kept[timeframe][-1] == [bar.time_ns // 1_000_000, bar.open, bar.high, bar.low, bar.close, bar.volume]
    for symbol, book in books.items():
        for mine, other in ((book.bids, exchange.orderbooks[symbol]["bids"]), (book.asks, exchange.orderbooks[symbol]["asks"])):
            assert [[float(price), float(size)] for price, size in mine] == [level[:2] for level in other[: len(mine)]]
