"""KrakenExchange over real sockets. Books are *recorded* where the data set is; the rest is *documented*
(docs.kraken.com/api/docs: AssetPairs, OHLC, Trades, WebSocket v2)."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web

from fks.clock import RealClock
from fks.market.exchanges.kraken.exchange import KrakenExchange
from fks.market.exchanges.kraken.wire import PING_S, KrakenWire
from fks.model.bar import Bar, BarClosed, PublicTrade
from fks.model.errors import FksError, InputError, OutageError, PeerError
from fks.model.market import BarSeen, Book, Channel, Discontinuity, MarketEvent, Subscription, Suspect
from fks.model.timeframe import NS
from tests.support.ports import CollectingLog
from tests.support.recorded import KRAKEN_BOOK, frames_of
from tests.support.recorded_peer import Agreeing, RecordedPeer, serving

START_S = 1_762_776_960
PAIR = {
    "altname": "XBTUSDT",
    "wsname": "XBT/USDT",
    "base": "XXBT",
    "quote": "USDT",
    "pair_decimals": 1,
    "lot_decimals": 8,
    "ordermin": "0.00005",
    "costmin": "0.5",
    "tick_size": "0.1",
    "status": "online",
}
CANDLES = [
    [START_S, "106000.1", "106050.0", "105990.0", "106038.2", "106010.0", "1.50000000", 12],
    [START_S + 60, "106038.2", "106038.2", "106038.2", "106038.2", "0.0", "0.00000000", 0],
    [START_S + 120, "106040.0", "106041.0", "106039.0", "106041.0", "106040.0", "0.25000000", 3],
]
TRADES = """{"error":[],"result":{"XBTUSDT":[["105433.60000","0.00027625",1762795433.9717445,"b","l","",10218208],
["105410.10000","0.00005000",1762795457.8467374,"s","m","",10218209]],"last":"1762795457846737461"}}"""


def rest(path: str, query: dict[str, str]) -> Any:
    if path.endswith("AssetPairs"):
        odd = {"altname": "ODD"}
        return {
            "error": [],
            "result": {"XBTUSDT": PAIR, "ODD": odd, "XDGUSD": {**PAIR, "altname": "XDGUSD", "wsname": "XDG/USD"}},
        }
    if path.endswith("OHLC"):
        return {"error": [], "result": {"XBTUSDT": CANDLES, "last": START_S + 60}}
    return web.Response(text=TRADES, content_type="application/json")


def answers(sent: dict[str, Any]) -> list[dict[str, Any]]:
    if sent["method"] != "subscribe":
        return [{"method": "pong", "req_id": sent["req_id"]}]
    channel = sent["params"]["channel"]
    return [
        {
            "method": "subscribe",
            "success": True,
            "req_id": sent["req_id"],
            "result": {"channel": channel, "symbol": symbol},
        }
        if symbol != "NO/NE"
        else {
            "method": "subscribe",
            "success": False,
            "req_id": sent["req_id"],
            "error": "Currency pair not supported",
            "symbol": symbol,
        }
        for symbol in sent["params"]["symbol"]
    ]


@pytest.fixture
async def peer() -> AsyncIterator[RecordedPeer]:
    async with serving(RecordedPeer(rest=rest, answers=answers)) as running:
        yield running


@pytest.fixture
async def kraken(peer: RecordedPeer, log: CollectingLog) -> AsyncIterator[KrakenExchange]:
    made = KrakenExchange(peer.endpoint, RealClock(), log, Agreeing())
    await made.open()
    yield made
    await made.close()


async def received(exchange: KrakenExchange, wanted: Sequence[Subscription], count: int) -> list[MarketEvent]:
    events: list[MarketEvent] = []
    async with asyncio.timeout(10), contextlib.aclosing(exchange.watch(wanted)) as stream:  # type: ignore[type-var]
        async for batch in stream:
            events += batch
            if len(events) >= count:
                return events
    return events


async def test_documented_instruments_have_the_names_of_v2(kraken: KrakenExchange, log: CollectingLog) -> None:
    found = {item.symbol: item for item in await kraken.instruments()}
    assert set(found) == {"BTC/USDT", "DOGE/USD"}
    btc = found["BTC/USDT"]
    assert (btc.tick, btc.lot_step, btc.qty_min, btc.notional_min) == (
        Decimal("0.1"),
        Decimal("1E-8"),
        Decimal("0.00005"),
        Decimal("0.5"),
    )
    assert "instrument.broken" in log.events("warning")


async def test_documented_bars_are_closed_and_empty_ones_are_flagged(
    kraken: KrakenExchange, peer: RecordedPeer
) -> None:
    bars = await kraken.fetch_bars("BTC/USDT", "1m", START_S * NS, 10)
    assert bars == [
        Bar("kraken", "BTC/USDT", "1m", START_S * NS, 106000.1, 106050.0, 105990.0, 106038.2, 1.5, 12),
        Bar("kraken", "BTC/USDT", "1m", (START_S + 60) * NS, *[106038.2] * 4, 0.0, 0, is_empty=True),
    ]
    assert peer.asked[-1] == ("/0/public/OHLC", {"pair": "XBTUSDT", "interval": "1", "since": str(START_S - 1)})
    assert await kraken.fetch_bars("BTC/USDT", "1m", None, 1) == bars[1:]
    assert await kraken.fetch_bars("BTC/USDT", "1m", START_S * NS, 10, until_ns=(START_S + 60) * NS) == bars[:1]


async def test_documented_trades_are_exact_to_the_microsecond(kraken: KrakenExchange, peer: RecordedPeer) -> None:
    found = await kraken.fetch_trades("BTC/USDT", from_id=None, since_ns=1762795433971744000, limit=10)
    assert found == [
        PublicTrade(
            "kraken", "BTC/USDT", 10218208, 1762795433971744000, Decimal("105433.6"), Decimal("0.00027625"), False
        ),
        PublicTrade("kraken", "BTC/USDT", 10218209, 1762795457846737000, Decimal("105410.1"), Decimal("0.00005"), True),
    ]
    assert str(found[0].price) == "105433.60000"
    assert peer.asked[-1][1] == {"pair": "XBTUSDT", "count": "10", "since": "1762795433971743999"}
    assert await kraken.fetch_trades("BTC/USDT", from_id=None, since_ns=None, limit=1) == found[1:]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (web.Response(text="<html>busy</html>", content_type="text/html"), PeerError),
        (web.Response(status=520, text="<html>bad gateway</html>"), OutageError),
        ({"error": ["EAPI:Rate limit exceeded"]}, OutageError),
        ({"error": ["EService:Unavailable"]}, OutageError),
        ({"error": ["EQuery:Unknown asset pair"]}, InputError),
        ({"error": [], "result": {"XBTUSDT": [["x"]], "last": 1}}, PeerError),
        ({"error": [], "result": {"XBTUSDT": []}}, PeerError),
        (
            {"error": [], "result": {"XBTUSDT": [[START_S, "1", "cheap", "1", "1", "1", "1", 1]], "last": START_S}},
            PeerError,
        ),
    ],
    ids=["html", "520", "rate", "unavailable", "symbol", "no-row", "no-last", "no-number"],
)
async def test_rest_answer_names_the_party_at_fault(
    kraken: KrakenExchange, peer: RecordedPeer, answer: Any, error: type[FksError]
) -> None:
    await kraken.instruments()
    peer.rest = lambda path, query: answer
    with pytest.raises(error):
        await kraken.fetch_bars("BTC/USDT", "1m", None, 5)


async def test_impossible_bar_of_rest_is_returned_unchanged(kraken: KrakenExchange, peer: RecordedPeer) -> None:
    """Validation follows when it is stored: it goes to the quarantine, and no other bar does."""
    await kraken.instruments()
    row = [START_S, "1", "0.5", "1", "-1", "1", "1", 1]  # high below low, and a price below zero
    peer.rest = lambda path, query: {"error": [], "result": {"XBTUSDT": [row], "last": START_S}}
    bars = await kraken.fetch_bars("BTC/USDT", "1m", None, 5)
    assert bars == [Bar("kraken", "BTC/USDT", "1m", START_S * NS, 1.0, 0.5, 1.0, -1.0, 1.0, 1)]


@pytest.mark.parametrize(
    "call", [("NO/NE", "1m"), ("BTC/USDT", "1s"), ("BTC/USDT", "1w")], ids=lambda call: "-".join(call).replace("/", "")
)
async def test_unknown_request_is_an_input_error(kraken: KrakenExchange, call: tuple[str, str]) -> None:
    with pytest.raises(InputError):
        await kraken.fetch_bars(*call, None, 5)
    with pytest.raises(InputError):
        await kraken.fetch_trades("BTC/USDT", from_id=1, since_ns=None, limit=5)


async def test_documented_subscriptions_a_refused_one_leaves_the_others(
    kraken: KrakenExchange, peer: RecordedPeer
) -> None:
    wanted = [Subscription(Channel.TRADES, symbol) for symbol in ("BTC/USD", "NO/NE")]
    wanted += [
        Subscription(Channel.BARS, "BTC/USD", "5m"),
        Subscription(Channel.QUOTES, "BTC/USD"),
        Subscription(Channel.BOOK, "BTC/USD"),
    ]
    events = await received(kraken, wanted, 1)
    assert [(type(event), getattr(event, "symbol", "")) for event in events] == [(Suspect, "NO/NE")]
    assert [sent["params"] for sent in peer.received if sent["method"] == "subscribe"] == [
        {"channel": "trade", "symbol": ["BTC/USD", "NO/NE"], "snapshot": False},
        {"channel": "ohlc", "symbol": ["BTC/USD"], "interval": 5, "snapshot": True},
        {"channel": "ticker", "symbol": ["BTC/USD"], "event_trigger": "bbo", "snapshot": True},
        {"channel": "book", "symbol": ["BTC/USD"], "depth": 10, "snapshot": True},
    ]


async def test_recorded_books_arrive(kraken: KrakenExchange, peer: RecordedPeer) -> None:
    peer.frames = [frame for _, frame in frames_of(KRAKEN_BOOK)]
    wire, last = KrakenWire(), None
    wire.subscribe_frames([Subscription(Channel.BOOK, "BTC/USD")])
    for frame in peer.frames:
        last = wire.receive(frame, 0)[0]
    assert isinstance(last, Book)
    async with (
        asyncio.timeout(10),
        contextlib.aclosing(kraken.watch([Subscription(Channel.BOOK, "BTC/USD")])) as stream,
    ):  # type: ignore[type-var]
        async for batch in stream:  # they conflate: the last one is what counts
            assert all(isinstance(event, Book) for event in batch)
            if any(
                isinstance(event, Book)
                and (event.bids, event.asks, event.time_ns) == (last.bids, last.asks, last.time_ns)
                for event in batch
            ):
                break


# ── the wire alone ───────────────────────────────────────────────────────────────────────────────
def traded(*ids: int) -> bytes:
    rows = [
        {
            "symbol": "BTC/USD",
            "side": "buy",
            "price": 1.5,
            "qty": 2.0,
            "ord_type": "limit",
            "trade_id": id_,
            "timestamp": "2025-10-06T17:35:55.440295Z",
        }
        for id_ in ids
    ]
    return json.dumps({"channel": "trade", "type": "update", "data": rows}, separators=(",", ":")).encode()


def candle(minute: int, trades: int, volume: str = "1.0") -> bytes:
    row = (
        f'{{"symbol":"BTC/USD","interval":1,"interval_begin":"2025-10-06T17:{minute:02d}:00.000000000Z","open":1.5,"high":1.5,'
        f'"low":1.5,"close":1.5,"volume":{volume},"trades":{trades},"vwap":1.5,"timestamp":"2025-10-06T17:59:00Z"}}'
    )
    return f'{{"channel":"ohlc","type":"update","data":[{row}]}}'.encode()


def test_documented_ids_a_jump_is_gone_and_a_repetition_is_not() -> None:
    wire = KrakenWire()
    wire.subscribe_frames([Subscription(Channel.TRADES, "BTC/USD")])
    shown = [
        event.trade_id if isinstance(event, PublicTrade) else event.reason
        for frame in (traded(5, 6), traded(6), traded(7, 10), traded(11))
        for event in wire.receive(frame, 0)
        if isinstance(event, PublicTrade | Discontinuity)
    ]
    assert shown == [5, 6, 6, 7, "trades 8 to 9 are missing", 10, 11]


def test_documented_a_bar_is_over_when_the_next_one_begins() -> None:
    wire = KrakenWire()
    wire.subscribe_frames([Subscription(Channel.BARS, "BTC/USD", "1m")])
    seen = [
        event
        for frame in (candle(1, 1), candle(1, 2), candle(2, 0, "0.0"), candle(1, 3))
        for event in wire.receive(frame, 0)
    ]
    assert [
        (event.is_closed, event.bar.trades, event.bar.is_empty) if isinstance(event, BarSeen) else event.trades
        for event in seen
        if isinstance(event, BarSeen | BarClosed)
    ] == [(False, 1, False), (False, 2, False), (True, 2, False), 2, (False, 0, True), (True, 3, False)]


def test_documented_a_ping_is_due_every_half_minute() -> None:
    wire = KrakenWire()
    assert [len(wire.due_frames(now_s)) for now_s in (100.0, 101.0, 100.0 + PING_S, 101.0 + PING_S)] == [1, 0, 1, 0]
