"""Coinbase's market data of the local exchange, as FKS's own client reads it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal

import aiohttp
import pytest

from fks.clock import RealClock
from fks.market.exchanges.base import ExchangeAddresses
from fks.market.exchanges.coinbase.exchange import CoinbaseExchange
from fks.model.bar import PublicTrade
from fks.model.market import BarSeen, Book, Channel, Discontinuity, MarketEvent, Quote, Subscription
from tests.support.ports import CollectingLog
from tests.support.sim_process import Sim

BTC = "BTC-USDT"


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    made = Sim(tmp_path_factory.mktemp("coinbase-market"), "--wire", "coinbase", "--rate-limits", "off")
    yield made
    made.end(15)


@pytest.fixture
async def coinbase(sim: Sim) -> AsyncIterator[CoinbaseExchange]:
    exchange = CoinbaseExchange(ExchangeAddresses(sim.info["rest"], sim.info["ws"]), RealClock(), CollectingLog())
    await exchange.open()
    try:
        yield exchange
    finally:
        await exchange.close()
        sim.call("DELETE", "/sim/faults")


async def events(
    exchange: CoinbaseExchange, wanted: list[Subscription], until: Callable[[list[MarketEvent]], bool]
) -> list[MarketEvent]:
    """Return all events until the condition holds."""
    found: list[MarketEvent] = []
    async with asyncio.timeout(20), contextlib.aclosing(exchange.watch(wanted)) as batches:  # type: ignore[type-var]
        async for batch in batches:
            found += batch
            if until(found):
                return found
    raise AssertionError(found)


async def test_instruments_have_the_markets_grid(coinbase: CoinbaseExchange) -> None:
    btc = {item.symbol: item for item in await coinbase.instruments()}[BTC]
    assert (btc.base, btc.quote, btc.tick, btc.lot_step) == ("BTC", "USDT", Decimal("0.01"), Decimal("0.00001"))
    assert (btc.qty_min, btc.is_trading) == (Decimal("0.00001"), True)


async def test_both_wires_show_the_same_trades_and_bars(sim: Sim, coinbase: CoinbaseExchange) -> None:
    newest = await coinbase.fetch_trades(BTC, from_id=None, since_ns=None, limit=300)
    found = await coinbase.fetch_trades(BTC, from_id=None, since_ns=newest[0].time_ns, limit=100)
    theirs = sim.get(f"/api/v3/aggTrades?symbol=BTCUSDT&limit=100&fromId={found[0].trade_id}")
    assert [(t.trade_id, t.time_ns, t.price, t.quantity, t.is_buyer_maker) for t in found] == [
        (row["a"], row["T"] * 1_000_000, Decimal(row["p"]), Decimal(row["q"]), row["m"]) for row in theirs[: len(found)]
    ]
    assert len(found) == 100
    hour_ns = 3600 * 10**9
    bars = await coinbase.fetch_bars(BTC, "5m", newest[0].time_ns // hour_ns * hour_ns - 3 * hour_ns, 20)
    shown = sim.get(f"/api/v3/klines?symbol=BTCUSDT&interval=5m&limit=20&startTime={bars[0].time_ns // 10**6}")
    assert [(b.time_ns // 10**6, b.open, b.high, b.low, b.close, b.volume) for b in bars] == [
        (row[0], *(float(text) for text in row[1:6])) for row in shown[: len(bars)]
    ]
    assert len(bars) == 20


async def test_every_channel_arrives_whole(coinbase: CoinbaseExchange) -> None:
    wanted = [
        Subscription(Channel.TRADES, BTC),
        Subscription(Channel.BARS, BTC, "5m"),
        Subscription(Channel.QUOTES, BTC),
        Subscription(Channel.BOOK, BTC),
    ]

    def all_there(found: list[MarketEvent]) -> bool:
        kinds = [type(event) for event in found]
        return kinds.count(PublicTrade) > 60 and all(kinds.count(kind) > 1 for kind in (BarSeen, Quote, Book))

    found = await events(coinbase, wanted, all_there)
    assert not [event for event in found if isinstance(event, Discontinuity)]
    ids = [event.trade_id for event in found if isinstance(event, PublicTrade)]
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    book = next(event for event in reversed(found) if isinstance(event, Book))
    assert book.bids[0][0] < book.asks[0][0]
    assert not coinbase.counters.unknown


async def test_a_lost_trade_leaves_a_gap_in_the_sequence(sim: Sim, coinbase: CoinbaseExchange) -> None:
    wanted = [Subscription(Channel.TRADES, BTC)]
    await events(coinbase, wanted, lambda found: len(found) > 55)
    fault = sim.fault("trade_gap", count=1)
    found = await events(coinbase, wanted, lambda found: any(isinstance(event, Discontinuity) for event in found))
    assert found
    assert sim.struck(fault) == 1


async def test_the_channel_of_the_account_is_refused(sim: Sim) -> None:
    async with aiohttp.ClientSession() as http, http.ws_connect(sim.info["ws"]) as socket:
        for sent, word in (
            ({"type": "subscribe", "channel": "user"}, "authentication"),
            ({"type": "subscribe", "channel": "odd"}, "failure"),
            ({"type": "subscribe", "channel": "ticker", "product_ids": ["NO-USD"]}, "no products"),
            ([1], "failure"),
        ):
            await socket.send_json(sent)
            answer = await socket.receive_json(timeout=5)
            assert answer["type"] == "error"
            assert word in answer["message"]
