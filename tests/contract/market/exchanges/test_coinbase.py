"""CoinbaseExchange over real sockets. The stream is *recorded* where the data set is; the rest is *documented*
(docs.cdp.coinbase.com/advanced-trade: products, candles, market trades)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web

from fks.market.exchanges.coinbase.exchange import CoinbaseExchange
from fks.market.exchanges.coinbase.wire import CoinbaseWire
from fks.model.bar import Bar, PublicTrade
from fks.model.errors import FksError, InputError, OutageError, PeerError
from fks.model.market import BarSeen, Book, Channel, Discontinuity, MarketEvent, Quote, Subscription, Suspect
from fks.model.timeframe import NS
from tests.support.exchange_peer import TapeClock
from tests.support.ports import CollectingLog
from tests.support.recorded import COINBASE, frames_of, slowly
from tests.support.recorded_peer import Agreeing, RecordedPeer, serving

START_S = 1_786_309_500
PRODUCT = {
    "product_id": "BTC-USD",
    "base_increment": "0.00000001",
    "quote_increment": "0.01",
    "quote_min_size": "1",
    "base_min_size": "0.00000001",
    "base_max_size": "3400",
    "is_disabled": False,
    "status": "online",
    "trading_disabled": False,
    "quote_currency_id": "USD",
    "base_currency_id": "BTC",
    "price_increment": "0.01",
    "product_type": "SPOT",
}
WANTED = [Subscription(c, s, "5m" if c is Channel.BARS else "") for c in Channel for s in ("BTC-USD", "ETH-USD")]


class Market:
    """Trades as Coinbase returns them: of a range of whole seconds the newest, newest first; candles only where
    traded."""

    def __init__(self, trades: list[tuple[int, int]]) -> None:
        self.trades = trades  # (id, ms)

    def rest(self, path: str, query: dict[str, str]) -> Any:
        if path.endswith("/products"):
            return {"products": [PRODUCT, {"product_id": "ODD-USD"}]}
        start, end = int(query.get("start", 0)), int(query.get("end", 10**12))
        if path.endswith("/candles"):
            seconds = sorted(
                {ms // 1000 // 60 * 60 for _, ms in self.trades if start <= ms // 1000 // 60 * 60 <= end}, reverse=True
            )
            assert len(seconds) <= int(query["limit"]) <= 350
            return {
                "candles": [
                    {"start": str(s), "low": "1", "high": "3.5", "open": "2", "close": "2.25", "volume": "1.5"}
                    for s in seconds
                ]
            }
        mine = [trade for trade in self.trades if start * 1000 <= trade[1] <= end * 1000]
        return {
            "trades": [_row(*trade) for trade in mine[::-1][: int(query["limit"])]],
            "best_bid": "1",
            "best_ask": "2",
        }


def _row(number: int, ms: int) -> dict[str, str]:
    when = datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{ms % 1000:03d}Z"
    return {
        "trade_id": str(number),
        "product_id": "BTC-USD",
        "price": "2.50",
        "size": "0.1",
        "time": when,
        "side": "BUY",
    }


def trade(number: int, ms: int) -> PublicTrade:
    return PublicTrade("coinbase", "BTC-USD", number, ms * 1_000_000, Decimal("2.50"), Decimal("0.1"), True)


@pytest.fixture
async def peer() -> AsyncIterator[RecordedPeer]:
    async with serving(RecordedPeer()) as running:
        yield running


@pytest.fixture
async def coinbase(peer: RecordedPeer, log: CollectingLog) -> AsyncIterator[CoinbaseExchange]:
    clock = TapeClock((START_S + 3600) * NS - time.time_ns())
    made = CoinbaseExchange(peer.endpoint, clock, log, Agreeing())
    await made.open()
    yield made
    await made.close()


async def test_documented_instruments_are_exact(
    coinbase: CoinbaseExchange, peer: RecordedPeer, log: CollectingLog
) -> None:
    peer.rest = Market([]).rest
    (btc,) = await coinbase.instruments()
    assert (btc.symbol, btc.name, btc.tick, btc.lot_step, btc.qty_max) == (
        "BTC-USD",
        "BTC/USD",
        Decimal("0.01"),
        Decimal("1E-8"),
        Decimal(3400),
    )
    assert btc.is_trading
    assert "instrument.broken" in log.events("warning")


async def test_documented_bars_over_silences_are_found(coinbase: CoinbaseExchange, peer: RecordedPeer) -> None:
    minutes = [0, 1, 50, 58, 59, 60]  # the last one is not over
    peer.rest = Market([(n, (START_S + minute * 60) * 1000) for n, minute in enumerate(minutes)]).rest
    whole = [Bar("coinbase", "BTC-USD", "1m", (START_S + m * 60) * NS, 2.0, 3.5, 1.0, 2.25, 1.5) for m in minutes[:-1]]
    assert await coinbase.fetch_bars("BTC-USD", "1m", START_S * NS, 350) == whole
    assert (
        await coinbase.fetch_bars("BTC-USD", "1m", (START_S + 120) * NS, 5) == whole[2:3]
    )  # five empty stretches before it
    assert await coinbase.fetch_bars("BTC-USD", "1m", None, 2) == whole[3:]
    assert await coinbase.fetch_bars("BTC-USD", "1m", START_S * NS, 9, until_ns=(START_S + 120) * NS) == whole[:2]
    assert await coinbase.fetch_bars("BTC-USD", "1m", (START_S + 3600) * NS, 9) == []
    with pytest.raises(InputError):
        await coinbase.fetch_bars("BTC-USD", "4h", None, 9)


async def test_documented_trades_of_a_busy_stretch_are_whole(coinbase: CoinbaseExchange, peer: RecordedPeer) -> None:
    """2,400 trades in two minutes: of ten minutes, Coinbase would return only the newest thousand."""
    rows = [(n, START_S * 1000 + n * 50) for n in range(2400)]
    peer.rest = Market(rows).rest
    found: list[PublicTrade] = []
    while not found or found[-1].trade_id < 2399:
        since_ns = found[-1].time_ns if found else START_S * NS
        found += [
            t
            for t in await coinbase.fetch_trades("BTC-USD", from_id=None, since_ns=since_ns, limit=1000)
            if t not in found[-2:]
        ]
    assert found == [trade(*row) for row in rows]
    assert await coinbase.fetch_trades("BTC-USD", from_id=None, since_ns=None, limit=2) == [
        trade(*row) for row in rows[-2:]
    ]


async def test_documented_trades_after_a_long_silence_are_found(coinbase: CoinbaseExchange, peer: RecordedPeer) -> None:
    peer.rest = Market([(1, START_S * 1000), (2, (START_S + 3000) * 1000)]).rest
    assert await coinbase.fetch_trades("BTC-USD", from_id=None, since_ns=(START_S + 1) * NS, limit=9) == [
        trade(2, (START_S + 3000) * 1000)
    ]
    assert await coinbase.fetch_trades("BTC-USD", from_id=None, since_ns=(START_S + 3001) * NS, limit=9) == []


async def test_second_with_too_many_trades_is_an_error(coinbase: CoinbaseExchange, peer: RecordedPeer) -> None:
    peer.rest = Market([(n, START_S * 1000) for n in range(1500)]).rest
    with pytest.raises(PeerError, match="one second"):
        await coinbase.fetch_trades("BTC-USD", from_id=None, since_ns=START_S * NS, limit=1000)
    with pytest.raises(InputError):
        await coinbase.fetch_trades("BTC-USD", from_id=7, since_ns=None, limit=1000)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (web.Response(text="<html>busy</html>", content_type="text/html"), PeerError),
        (web.Response(status=502, text="<html>bad gateway</html>"), OutageError),
        (web.json_response({"message": "Too many requests"}, status=429), OutageError),
        ({"no": "candles"}, PeerError),
        ({"candles": [{"start": "1"}]}, PeerError),
    ],
    ids=["html", "502", "429", "no-list", "no-row"],
)
async def test_rest_answer_names_the_party_at_fault(
    coinbase: CoinbaseExchange, peer: RecordedPeer, answer: Any, error: type[FksError]
) -> None:
    peer.rest = lambda path, query: answer
    with pytest.raises(error):
        await coinbase.fetch_bars("BTC-USD", "1m", None, 5)


async def test_the_recorded_stream_over_a_socket_gives_what_the_wire_gives(
    coinbase: CoinbaseExchange, peer: RecordedPeer
) -> None:
    peer.frames, peer.frames_after = [frame for _, frame in frames_of(COINBASE)], 5
    wire = CoinbaseWire()
    wire.subscribe_frames(WANTED)
    expected = [event for frame in peer.frames for event in wire.receive(frame, 0) if isinstance(event, PublicTrade)]
    trades: list[MarketEvent] = []
    kinds: set[type] = set()
    async with asyncio.timeout(20), contextlib.aclosing(coinbase.watch(WANTED)) as stream:  # type: ignore[type-var]
        async for batch in stream:
            kinds |= {type(event) for event in batch}
            trades += [event for event in batch if isinstance(event, PublicTrade)]
            if len(trades) >= len(expected):
                break
    key = [(t.symbol, t.trade_id, t.time_ns, t.price, t.quantity) for t in trades if isinstance(t, PublicTrade)]
    assert key == [(t.symbol, t.trade_id, t.time_ns, t.price, t.quantity) for t in expected]
    assert {PublicTrade, BarSeen, Quote, Book} <= kinds
    assert not {Discontinuity, Suspect} & kinds
    sent = {(sent["channel"], tuple(sent.get("product_ids", ()))) for sent in peer.received}
    assert sent == {(name, ("BTC-USD", "ETH-USD")) for name in ("market_trades", "candles", "ticker", "level2")} | {
        ("heartbeats", ())
    }


# ── the wire alone ───────────────────────────────────────────────────────────────────────────────
def test_recorded_lost_message_is_a_discontinuity_in_every_channel() -> None:
    frames = [frame for _, frame in frames_of(COINBASE)]
    wire = CoinbaseWire()
    wire.subscribe_frames(WANTED)
    lost = 300
    for frame in frames[:lost]:
        wire.receive(frame, 0)
    found = list(wire.receive(frames[lost + 1], 0))
    gone = [event for event in found if isinstance(event, Discontinuity)]
    assert {(event.channel, event.symbol) for event in gone} == {(item.channel, item.symbol) for item in WANTED}
    number = slowly(frames[lost])["sequence_num"]
    assert f"messages {number} to {number}" in gone[0].reason
    asked = [json.loads(frame) for frame in wire.due_frames(0.0)]
    assert [(sent["type"], sent["product_ids"]) for sent in asked] == [
        (kind, [symbol]) for symbol in ("BTC-USD", "ETH-USD") for kind in ("unsubscribe", "subscribe")
    ]
    after = [event for frame in frames[lost + 2 :] for event in wire.receive(frame, 0)]
    assert not [event for event in after if isinstance(event, Book | Discontinuity)]  # no book before its snapshot
    assert [event for event in after if isinstance(event, PublicTrade)]
    assert not wire.receive(frames[-1], 0)  # a message again is none
    assert wire.counters.unknown["message again"] == 1


def test_documented_refusal_is_reported_and_the_others_stand() -> None:
    wire = CoinbaseWire()
    frames = wire.subscribe_frames([Subscription(Channel.TRADES, "NO-NE"), Subscription(Channel.QUOTES, "BTC-USD")])
    assert len(frames) == 3
    refused = wire.receive(b'{"type":"error","message":"channel subscription failed: unknown product"}', 0)
    assert [type(event) for event in refused] == [Suspect]
    stands: list[Any] = []
    for number, names in enumerate(('"ticker":["BTC-USD"]', '"ticker":["BTC-USD"],"heartbeats":["heartbeats"]')):
        stands += wire.receive(
            f'{{"channel":"subscriptions","sequence_num":{number},"timestamp":"","events":[{{"subscriptions":{{{names}}}}}]}}'.encode(),
            0,
        )
    assert len(stands) == 1
