"""Kraken's wire of the local exchange, as FKS's own client and the unmodified ccxt read it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from fks.clock import RealClock
from fks.lab.sim.options import Options, WireProtocol
from fks.lab.sim.server import start
from fks.market.exchanges.base import ExchangeAddresses
from fks.market.exchanges.kraken.exchange import KrakenExchange
from fks.model.bar import PublicTrade
from fks.model.errors import InputError, OutageError
from fks.model.market import BarSeen, Book, Channel, Discontinuity, MarketEvent, Quote, Subscription
from tests.support.ccxt_feeds import kraken as kraken_of_ccxt
from tests.support.ports import CollectingLog
from tests.support.sim_process import Sim

BTC = "BTC/USDT"
TRADES = [Subscription(Channel.TRADES, BTC)]


@pytest.fixture(scope="module")
def kraken_sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    sim = Sim(tmp_path_factory.mktemp("kraken-sim"), "--wire", "kraken", "--rate-limits", "off")
    yield sim
    sim.end(15)


@pytest.fixture
async def kraken(kraken_sim: Sim) -> AsyncIterator[KrakenExchange]:
    exchange = KrakenExchange(
        ExchangeAddresses(kraken_sim.info["rest"], kraken_sim.info["ws"]), RealClock(), CollectingLog()
    )
    await exchange.open()
    try:
        yield exchange
    finally:
        await exchange.close()
        kraken_sim.call("DELETE", "/sim/faults")


async def events(
    exchange: KrakenExchange, wanted: list[Subscription], until: Callable[[list[MarketEvent]], bool]
) -> list[MarketEvent]:
    """Return all events until the condition holds."""
    found: list[MarketEvent] = []
    async with asyncio.timeout(15), contextlib.aclosing(exchange.watch(wanted)) as batches:  # type: ignore[type-var]
        async for batch in batches:
            found += batch
            if until(found):
                return found
    raise AssertionError(found)


def ids(found: list[MarketEvent]) -> list[int]:
    return [event.trade_id for event in found if isinstance(event, PublicTrade)]


async def test_instruments_have_krakens_names_and_the_markets_grid(kraken: KrakenExchange) -> None:
    found = {item.symbol: item for item in await kraken.instruments()}
    btc = found[BTC]
    assert (btc.base, btc.quote, btc.tick, btc.lot_step) == ("BTC", "USDT", Decimal("0.01"), Decimal("0.00001"))
    assert (btc.qty_min, btc.notional_min, btc.is_trading) == (Decimal("0.00001"), Decimal(5), True)


async def test_both_wires_show_the_same_trades(kraken_sim: Sim, kraken: KrakenExchange) -> None:
    newest = await kraken.fetch_trades(BTC, from_id=None, since_ns=None, limit=300)
    found = await kraken.fetch_trades(BTC, from_id=None, since_ns=newest[0].time_ns, limit=100)
    theirs = kraken_sim.get(f"/api/v3/aggTrades?symbol=BTCUSDT&limit=100&fromId={found[0].trade_id}")
    assert [(t.trade_id, t.time_ns, t.price, t.quantity, t.is_buyer_maker) for t in found] == [
        (row["a"], row["T"] * 1_000_000, Decimal(row["p"]), Decimal(row["q"]), row["m"]) for row in theirs
    ]
    assert found[0].time_ns >= newest[0].time_ns


async def test_both_wires_show_the_same_bars(kraken_sim: Sim, kraken: KrakenExchange) -> None:
    found = await kraken.fetch_bars(BTC, "5m", None, 50)
    theirs = kraken_sim.get(f"/api/v3/klines?symbol=BTCUSDT&interval=5m&limit=50&startTime={found[0].time_ns // 10**6}")
    assert len(found) == 50
    assert [(b.time_ns // 10**6, b.open, b.high, b.low, b.close, b.volume, b.trades) for b in found] == [
        (row[0], *(float(text) for text in row[1:6]), row[8]) for row in theirs[:50]
    ]
    oldest = await kraken.fetch_bars(BTC, "1m", 0, 2000)
    assert 718 <= len(oldest) <= 720  # no more than that, however far back it is asked


async def test_an_unknown_pair_is_refused_as_kraken_does(kraken: KrakenExchange) -> None:
    with pytest.raises(InputError, match="no FOO/BAR"):
        await kraken.fetch_bars("FOO/BAR", "1m", None, 5)


async def test_every_channel_arrives(kraken: KrakenExchange) -> None:
    wanted = [
        *TRADES,
        Subscription(Channel.BARS, BTC, "1m"),
        Subscription(Channel.QUOTES, BTC),
        Subscription(Channel.BOOK, BTC),
    ]

    def all_there(found: list[MarketEvent]) -> bool:
        kinds = [type(event) for event in found]
        return all(kinds.count(kind) >= 3 for kind in (PublicTrade, BarSeen, Quote, Book))

    found = await events(kraken, wanted, all_there)
    assert not [event for event in found if isinstance(event, Discontinuity)]  # every checksum was right
    assert ids(found) == list(range(ids(found)[0], ids(found)[0] + len(ids(found))))
    assert not kraken.counters.unknown
    book = [event for event in found if isinstance(event, Book)][-1]
    assert len(book.bids) == len(book.asks) == 10
    assert book.bids[0][0] < book.asks[0][0]


async def test_a_lost_trade_is_a_discontinuity(kraken_sim: Sim, kraken: KrakenExchange) -> None:
    asked = False

    def lost(found: list[MarketEvent]) -> bool:
        nonlocal asked
        if not asked and ids(found):
            kraken_sim.fault("trade_gap", symbol="BTCUSDT", count=2)
            asked = True
        return any(isinstance(event, Discontinuity) for event in found)

    assert len(ids(await events(kraken, TRADES, lost))) > 0


@pytest.mark.parametrize("kind", ["duplicate_trades", "reorder_trades"])
async def test_trades_are_repeated_and_swapped(kraken_sim: Sim, kraken: KrakenExchange, kind: str) -> None:
    kraken_sim.fault(kind, symbol="BTCUSDT", count=1)
    found = ids(await events(kraken, TRADES, lambda found: len(ids(found)) > 5))
    if kind == "duplicate_trades":
        assert len(set(found)) == len(found) - 1
    else:
        assert sorted(found) != found


async def test_a_frozen_channel_still_has_heartbeats(kraken_sim: Sim, kraken: KrakenExchange) -> None:
    kraken_sim.fault("freeze_stream", symbol="BTCUSDT", event="trade", seconds=60)
    both = [*TRADES, Subscription(Channel.TRADES, "ETH/USDT")]
    found = await events(kraken, both, lambda found: sum(e.symbol == "ETH/USDT" for e in found) > 3)  # type: ignore[union-attr]
    kraken_sim.call("DELETE", "/sim/faults")
    assert {event.symbol for event in found} == {"ETH/USDT"}  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["cut_stream", "server_shutdown"])
async def test_a_cut_connection_is_an_outage(kraken_sim: Sim, kraken: KrakenExchange, kind: str) -> None:
    asked = False

    def cut(found: list[MarketEvent]) -> bool:
        nonlocal asked
        if not asked:
            kraken_sim.fault(kind)
            asked = True
        return False

    with pytest.raises(OutageError):
        await events(kraken, TRADES, cut)


async def test_a_rest_answer_can_be_a_429(kraken_sim: Sim, kraken: KrakenExchange) -> None:
    await kraken.instruments()
    kraken_sim.fault("429", path="/0/public/Trades", seconds=1)
    with pytest.raises(OutageError):
        await kraken.fetch_trades(BTC, from_id=None, since_ns=None, limit=1)
    assert await kraken.fetch_trades(BTC, from_id=None, since_ns=None, limit=1)


async def test_the_ticker_has_the_last_price_and_the_day_of_the_other_wire(kraken_sim: Sim) -> None:
    def day() -> Any:
        return kraken_sim.get("/api/v3/ticker/24hr?symbol=BTCUSDT")

    before = day()
    while True:
        found = kraken_sim.call("GET", "/0/public/Ticker?pair=XBTUSDT")[1]["result"]["XBTUSDT"]
        if (after := day())["lastId"] == before["lastId"]:
            break
        before = after
    assert found["c"] == [f"{Decimal(before['lastPrice']):.2f}", before["lastQty"]]
    assert Decimal(found["b"][0]) < Decimal(found["a"][0])
    assert found["v"][1] == before["volume"]
    assert found["t"][1] == before["count"]
    assert [Decimal(found[name][1]) for name in "lh"] == [Decimal(before[name]) for name in ("lowPrice", "highPrice")]
    assert Decimal(found["v"][0]) <= Decimal(found["v"][1])
    assert Decimal(found["l"][1]) <= Decimal(found["o"]) <= Decimal(found["h"][1])
    assert kraken_sim.call("GET", "/0/public/Ticker?pair=NOPE")[1] == {"error": ["EQuery:Unknown asset pair"]}
    assert "XBTUSDT" in kraken_sim.call("GET", "/0/public/Ticker")[1]["result"]


async def test_ccxt_reads_it(kraken_sim: Sim) -> None:
    rest, ws = kraken_sim.info["rest"], kraken_sim.info["ws"]
    client: Any = kraken_of_ccxt()
    api = dict.fromkeys(("public", "private", "zendesk"), rest)
    client.urls["api"] = api | {"ws": {"public": ws, "publicV2": ws, "private": ws, "privateV2": ws}}
    client.options["fetchCurrencies"] = False
    client.has["fetchCurrencies"] = False
    try:
        async with asyncio.timeout(15):
            book = await client.watch_order_book(BTC, 10)
            assert len(book["bids"]) == 10
            trades = await client.watch_trades(BTC)
            assert trades[-1]["symbol"] == BTC
            bars = await client.fetch_ohlcv(BTC, "1m")
            assert len(bars) == 720
    finally:
        await client.close()


def test_without_the_option_there_is_no_kraken(sim: Sim) -> None:
    status, _ = sim.call("GET", "/0/public/Time")
    assert status == 404


async def test_the_rate_limit_is_a_request_a_second(tmp_path: Path) -> None:
    server = await start(Options(tmp_path, wire=WireProtocol.KRAKEN))
    try:
        async with aiohttp.ClientSession(server.info()["rest"]) as session:
            answers = [(await session.get("/0/public/Time")).status for _ in range(70)]
    finally:
        await server.stop()
    assert answers.index(429) in (60, 61)
