"""Comparison for formats that were not recorded: ccxt.pro's handlers, which are in use elsewhere, decode our tapes of
bybit and okx."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from fks.config.libraries import CCXT_INNER, CCXT_KEPT, only
from fks.market.exchanges.base import Wire
from fks.market.exchanges.bybit.wire import BybitWire
from fks.market.exchanges.okx.wire import OkxWire
from fks.model.bar import PublicTrade
from fks.model.market import BarSeen, Book
from tests.support.ccxt_feeds import Client
from tests.support.exchange_cases import CASES, of_kind

with only("ccxt", inner=CCXT_INNER, kept=CCXT_KEPT | {"bybit", "okx"}):
    from ccxt.pro.bybit import bybit
    from ccxt.pro.okx import okx

MS = 1_000_000
READERS: dict[str, tuple[Any, type[Any], str]] = {
    "bybit": (bybit, BybitWire, "wss://stream.bybit.com/v5/public/spot"),
    "okx": (okx, OkxWire, "wss://ws.okx.com:8443/ws/v5/public"),
}


@pytest.fixture(params=sorted(READERS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def theirs(name: str, what: str) -> Any:
    """Return ccxt's exchange after it has handled the tape's messages of one kind."""
    kind, _, url = READERS[name]
    exchange, client = kind(), Client(url, {"books5:BTC/USDT": True})  # without it ccxt drops okx's books
    market = exchange.safe_market_structure(
        {
            "id": CASES[name].symbol,
            "symbol": "BTC/USDT",
            "base": "BTC",
            "quote": "USDT",
            "baseId": "BTC",
            "quoteId": "USDT",
            "type": "spot",
            "spot": True,
            "active": True,
            "precision": {"amount": 1e-8, "price": 1e-8},
        }
    )
    exchange.markets, exchange.symbols, exchange.ids = {"BTC/USDT": market}, ["BTC/USDT"], [market["id"]]
    exchange.markets_by_id = {market["id"]: [market]}
    for text in CASES[name].tape.frames[what]:
        exchange.handle_message(client, json.loads(text))
    return exchange


def ours(name: str, what: str) -> list[Any]:
    wire: Wire = READERS[name][1]()
    wire.subscribe_frames(CASES[name].wanted)
    return [event for text in CASES[name].tape.frames[what] for event in wire.receive(text.encode(), 1)]


async def test_trades(name: str) -> None:
    reported = [
        PublicTrade(
            name,
            CASES[name].symbol,
            int(row["id"]),
            row["timestamp"] * MS,
            Decimal(str(row["price"])),
            Decimal(str(row["amount"])),
            is_buyer_maker=row["side"] == "sell",
            received_ns=1,  # ccxt's side is the taker's
        )
        for row in theirs(name, "trade").trades["BTC/USDT"]
    ]
    assert len(reported) == 2
    assert ours(name, "trade") == reported


async def test_bars(name: str) -> None:
    (kept,) = theirs(name, "bar").ohlcvs["BTC/USDT"].values()
    bar = of_kind(ours(name, "bar"), BarSeen)[-1].bar
    assert [list(row) for row in kept][-1] == [bar.time_ns // MS, bar.open, bar.high, bar.low, bar.close, bar.volume]


async def test_books(name: str) -> None:
    reported = theirs(name, "book").orderbooks["BTC/USDT"]
    book = of_kind(ours(name, "book"), Book)[-1]
    for side, levels in (("bids", book.bids), ("asks", book.asks)):
        assert [tuple(level[:2]) for level in reported[side]] == [(float(price), float(size)) for price, size in levels]


async def test_rest_trades_and_listing(name: str) -> None:
    kind = READERS[name][0]
    path = {"bybit": ("/v5/market/recent-trade", "result", "list"), "okx": ("/api/v5/market/history-trades", "data")}[
        name
    ]
    found: Any = json.loads(CASES[name].tape.http[path[0]][1])
    for key in path[1:]:
        found = found[key]
    reported = sorted(
        (int(row["id"]), row["timestamp"] * MS, row["side"] == "sell") for row in (kind().parse_trade(r) for r in found)
    )
    assert reported == [(trade.trade_id, trade.time_ns, trade.is_buyer_maker) for trade in CASES[name].trades]
