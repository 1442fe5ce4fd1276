"""NinjaTrader's prices over a real socket, against the simulated bridge: the cases of every exchange that apply to it.

The numbers are those of test_every_exchange.py, whose server speaks HTTP and websockets. X-27 and X-5x are its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from fks.bridge.peer import platform
from fks.config.settings import Ninja, Settings
from fks.market.exchanges.ninja.exchange import NinjaExchange
from fks.market.exchanges.registry import capabilities_of, make_exchange
from fks.market.history.sync import Sync
from fks.model.bar import PublicTrade
from fks.model.errors import ConfigError, InputError, OutageError, PeerError
from fks.model.futures import contract_of
from fks.model.futures.instrument import CALENDAR
from fks.model.market import Channel, Discontinuity, MarketEvent, Quote, Subscription, Suspect
from fks.model.timeframe import NS, to_ns
from fks.store.db import Database
from tests.support.exchange_peer import CountingBudget
from tests.support.fast_clock import FastClock
from tests.support.free_port import free_port
from tests.support.ninja import put_secret
from tests.support.ninja_prices import MONDAY_NS, SYMBOL, Bridge, bridge_at
from tests.support.ports import CollectingLog
from tests.support.waiting import until

TRADES = (Subscription(Channel.TRADES, SYMBOL),)
BOTH = (*TRADES, Subscription(Channel.QUOTES, SYMBOL))


@pytest.fixture
def clock() -> FastClock:
    return FastClock(MONDAY_NS)


@pytest.fixture
async def bridge(tmp_path: Path, clock: FastClock) -> AsyncIterator[Bridge]:
    async with bridge_at(tmp_path, clock) as made:
        yield made


@pytest.fixture
def budget() -> CountingBudget:
    return CountingBudget()


@pytest.fixture
async def exchange(bridge: Bridge, log: CollectingLog, budget: CountingBudget) -> AsyncIterator[NinjaExchange]:
    made = bridge.exchange(log, budget)
    await made.open()
    yield made
    async with asyncio.timeout(10):
        await made.close()


class Listener:
    """One open `watch`: its events so far."""

    def __init__(self, stream: AsyncGenerator[list[MarketEvent], None]) -> None:
        self._stream = stream
        self.events: list[MarketEvent] = []

    async def until(self, kind: type[Any], count: int = 1) -> list[Any]:
        """Read until `count` events of a kind came; return them."""
        async with asyncio.timeout(8):
            while len(found := [event for event in self.events if isinstance(event, kind)]) < count:
                self.events += await anext(self._stream)
        return found


@contextlib.asynccontextmanager
async def listening(exchange: NinjaExchange, wanted: tuple[Subscription, ...] = TRADES) -> AsyncIterator[Listener]:
    """A `watch` whose subscriptions stand, with the state of the price feed known."""
    stream = exchange.watch(wanted)
    async with asyncio.timeout(15), contextlib.aclosing(stream):  # type: ignore[type-var]
        assert await anext(stream) == []
        yield Listener(stream)  # type: ignore[arg-type]


async def present(exchange: NinjaExchange) -> PublicTrade:
    """Return the mark of the present."""
    (mark,) = await exchange.fetch_trades(SYMBOL, from_id=None, since_ns=None, limit=1)
    return mark


async def later(exchange: NinjaExchange, from_id: int) -> list[PublicTrade]:
    return await exchange.fetch_trades(SYMBOL, from_id=from_id, since_ns=None, limit=1000)


def put_bars(bridge: Bridge, *closes: str, zone: str = "UTC") -> None:
    """Give the platform a history of minutes with these local times of their close."""
    bridge.server.platform.zone = ZoneInfo(zone)
    prices = [Decimal(text) for text in ("5770.25", "5771.5", "5769", "5771")]
    made = [platform.PlatformBar(datetime.fromisoformat(close), *prices, 812) for close in closes]
    bridge.server.platform.set_bars(SYMBOL, "1m", made)


def at(text: str) -> int:
    return to_ns(datetime.fromisoformat(text))


# ── the module ───────────────────────────────────────────────────────────────────────────────────
async def test_x11_it_connects_to_nothing_and_reads_no_secret_by_being_opened(log: CollectingLog) -> None:
    settings = Settings(ninja=Ninja(port=free_port(), secret_file="/nowhere/ninja.key"))
    made = make_exchange("ninja", settings=settings, node=None, clock=FastClock(MONDAY_NS), log=log)
    await made.open()
    assert [item.symbol for item in await made.instruments() if item.base == "ESH25"] == [SYMBOL]
    assert made.counters.connects == 0
    await made.close()
    assert capabilities_of("ninja").calendar == CALENDAR


async def test_x20_the_listing_has_the_rules_of_contracts_and_marks_expired_ones(exchange: NinjaExchange) -> None:
    found = {item.symbol: item for item in await exchange.instruments()}
    contract = found["ZN 03-25"]
    assert (contract.tick, contract.lot_step, contract.multiplier) == (Decimal("0.015625"), Decimal(1), Decimal(1000))
    assert (found["ES 12-24"].is_trading, found[SYMBOL].is_trading, found["ES 06-25"].is_trading) == (False, True, True)
    assert all(contract_of(symbol) is not None for symbol in found)


# ── history ──────────────────────────────────────────────────────────────────────────────────────
async def test_x21_bars_are_exact_closed_oldest_first_and_within_what_was_asked(
    bridge: Bridge, exchange: NinjaExchange
) -> None:
    put_bars(bridge, "2025-02-03T14:57", "2025-02-03T14:59", "2025-02-03T15:00", "2025-02-03T15:01")  # the last is open
    bars = await exchange.fetch_bars(SYMBOL, "1m", None, 10)
    assert [bar.time_ns for bar in bars] == [at(f"2025-02-03T{time}Z") for time in ("14:56", "14:58", "14:59")]
    assert (bars[0].open, bars[0].high, bars[0].low, bars[0].close, bars[0].volume) == (
        5770.25,
        5771.5,
        5769,
        5771,
        812,
    )
    assert await exchange.fetch_bars(SYMBOL, "1m", None, 2) == bars[1:]
    assert await exchange.fetch_bars(SYMBOL, "1m", bars[0].time_ns + 1, 10) == bars[1:]
    assert await exchange.fetch_bars(SYMBOL, "1m", bars[0].time_ns, 1) == bars[:1]
    until_ns = bars[-1].time_ns + 59 * NS
    assert await exchange.fetch_bars(SYMBOL, "1m", None, 10, until_ns=until_ns) == bars[:-1]
    assert await exchange.fetch_bars(SYMBOL, "1m", until_ns, 10, until_ns=until_ns) == []
    for timeframe in ("1d", "5m", "7m", ""):
        with pytest.raises(InputError) as refused:
            await exchange.fetch_bars(SYMBOL, timeframe, None, 10)
        assert refused.value.code == "TIMEFRAME_UNKNOWN"


async def test_x21_bars_before_a_long_silence_are_found_in_requests_of_31_days(
    bridge: Bridge, exchange: NinjaExchange, budget: CountingBudget
) -> None:
    put_bars(bridge, "2024-10-01T12:00", "2025-01-31T21:00")
    assert len(await exchange.fetch_bars(SYMBOL, "1m", at("2024-10-02T00:00Z"), 10_000)) == 1
    assert budget.taken > 3
    assert [bar.time_ns for bar in await exchange.fetch_bars(SYMBOL, "1m", None, 1)] == [at("2025-01-31T20:59Z")]


async def test_x21_history_across_a_weekend_and_a_change_of_the_clocks(bridge: Bridge, exchange: NinjaExchange) -> None:
    """Conversation C24. The offset from UTC differs before and after."""
    put_bars(
        bridge, "2024-11-01T16:00", "2024-11-03T17:01", "2025-01-31T16:00", "2025-02-02T17:01", zone="America/Chicago"
    )
    bars = await exchange.fetch_bars(SYMBOL, "1m", at("2024-10-28T00:00Z"), 10_000)
    assert [bar.time_ns for bar in bars] == [at("2024-11-01T20:59Z"), at("2024-11-03T23:00Z")]
    bars = await exchange.fetch_bars(SYMBOL, "1m", None, 2)
    assert [bar.time_ns for bar in bars] == [at("2025-01-31T21:59Z"), at("2025-02-02T23:00Z")]


async def test_x21_unknown_contract_is_the_callers_fault(exchange: NinjaExchange) -> None:
    with pytest.raises(InputError) as refused:
        await exchange.fetch_bars("ESX 03-25", "1m", None, 1)
    assert (refused.value.code, refused.value.status) == ("SYMBOL_UNKNOWN", 404)


async def test_x23_history_requests_and_connects_are_paid_for(
    bridge: Bridge, exchange: NinjaExchange, budget: CountingBudget
) -> None:
    put_bars(bridge, "2025-02-03T14:57")
    await exchange.fetch_bars(SYMBOL, "1m", None, 1)
    await exchange.connect_permit()
    assert (budget.taken, budget.connects) == (1, 1)


async def test_x27_history_requests_follow_one_another(bridge: Bridge, exchange: NinjaExchange) -> None:
    put_bars(bridge, *(f"2025-02-03T14:{minute}" for minute in range(10, 59)))
    found = await asyncio.gather(*(exchange.fetch_bars(SYMBOL, "1m", None, count) for count in (1, 20, 49)))
    assert [len(bars) for bars in found] == [1, 20, 49]


async def test_x28_a_sync_fetches_the_sessions_of_a_week_once(
    bridge: Bridge, exchange: NinjaExchange, database: Database, log: CollectingLog, budget: CountingBudget
) -> None:
    """`fks data sync`: the weekend is no gap, a larger bar is made of minutes, and a repeat requests nothing."""
    friday = [f"2025-01-31T15:{minute}" for minute in range(51, 60)] + ["2025-01-31T16:00"]
    put_bars(bridge, *friday, "2025-02-02T17:01", "2025-02-02T17:02", zone="America/Chicago")
    sync = Sync(exchange, database, bridge.clock, log)
    begin, end = at("2025-01-31T21:50Z"), at("2025-02-02T23:02Z")
    done = await sync.sync(SYMBOL, "1m", begin, end)
    assert (done.fetched, done.candles, done.absent) == (12, 12, 0)
    hours = await sync.sync(SYMBOL, "1h", at("2025-01-31T21:00Z"), at("2025-02-02T23:00Z"))
    assert hours.fetched == 1
    taken = budget.taken
    assert (await sync.sync(SYMBOL, "1m", begin, end)).fetched == 0
    assert budget.taken == taken


# ── live ─────────────────────────────────────────────────────────────────────────────────────────
async def test_x30_trades_and_quotes_are_exact_and_in_order(bridge: Bridge, exchange: NinjaExchange) -> None:
    async with listening(exchange, BOTH) as listener:
        bridge.trade("4500.25", 2, "buy")
        bridge.trade("4500.00", 1, "sell")
        now_ms = bridge.server.platform.now_ms
        prices = Decimal("4500.00"), 11, Decimal("4500.25"), 7
        bridge.server.platform.show_quote(platform.PlatformQuote(SYMBOL, now_ms, *prices))
        first, second = await listener.until(PublicTrade, 2)
        (quote,) = await listener.until(Quote)
    assert (first.price, first.quantity, first.is_buyer_maker) == (Decimal("4500.25"), Decimal(2), False)
    assert (second.price, second.quantity, second.is_buyer_maker) == (Decimal("4500.00"), Decimal(1), True)
    assert second.trade_id == first.trade_id + 1
    assert second.time_ns == now_ms * 1_000_000
    assert second.received_ns >= MONDAY_NS
    assert (quote.bid, quote.bid_size, quote.ask, quote.ask_size) == tuple(Decimal(number) for number in prices)


async def test_x30_a_watch_gets_only_the_channels_it_wants(bridge: Bridge, exchange: NinjaExchange) -> None:
    async with listening(exchange) as trades, listening(exchange, BOTH[1:]) as quotes:
        bridge.trade("4500.25")
        bridge.server.platform.show_quote(
            platform.PlatformQuote(SYMBOL, bridge.server.platform.now_ms, Decimal(4500), 1, Decimal(4501), 1)
        )
        await trades.until(PublicTrade)
        await quotes.until(Quote)
        assert {type(event) for event in trades.events} == {PublicTrade}
        assert {type(event) for event in quotes.events} == {Quote}


async def test_x32_impossible_trade_is_suspect_and_a_discontinuity(bridge: Bridge, exchange: NinjaExchange) -> None:
    async with listening(exchange) as listener:
        bridge.trade("4500.25")
        bridge.trade("0")
        bridge.trade("4500.50")
        good = await listener.until(PublicTrade, 2)
        (suspect,) = await listener.until(Suspect)
        assert suspect.symbol == SYMBOL
        assert '"price":0' in suspect.text
        assert good[1].trade_id == good[0].trade_id + 2
        assert [event.channel for event in await listener.until(Discontinuity)] == [Channel.TRADES]
        assert exchange.counters.suspects == 1


async def test_x33_unknown_channel_is_refused_before_connecting(exchange: NinjaExchange) -> None:
    for channel in (Channel.BARS, Channel.BOOK):
        with pytest.raises(InputError):
            await anext(exchange.watch([Subscription(channel, SYMBOL)]))
    assert exchange.counters.connects == 0


async def test_x33_a_refused_instrument_is_suspect_and_the_others_stand(
    bridge: Bridge, exchange: NinjaExchange
) -> None:
    stream = exchange.watch([*TRADES, Subscription(Channel.TRADES, "ES 03-20")])
    async with asyncio.timeout(8), contextlib.aclosing(stream):  # type: ignore[type-var]
        (suspect,) = await anext(stream)
        assert isinstance(suspect, Suspect)
        assert "ES 03-20" in suspect.reason
        bridge.trade("4500.25")
        assert isinstance((await anext(stream))[0], PublicTrade)
    with pytest.raises(InputError):
        await anext(exchange.watch([Subscription(Channel.TRADES, "ES 03-20")]))


async def test_x34_leaving_unsubscribes_and_the_session_stays(bridge: Bridge, exchange: NinjaExchange) -> None:
    async with listening(exchange):
        pass
    bridge.trade("4500.25")
    await exchange.fetch_bars(
        SYMBOL, "1m", None, 1
    )  # by its answer the bridge has read the unsubscription and the trade
    async with listening(exchange) as listener:
        bridge.trade("4501.25")
        assert [trade.price for trade in await listener.until(PublicTrade)] == [Decimal("4501.25")]
    assert exchange.counters.connects == 1


async def test_x36_one_symbol_is_unsubscribed_and_the_others_stand(bridge: Bridge, exchange: NinjaExchange) -> None:
    left = Subscription(Channel.TRADES, "NQ 03-25")
    async with listening(exchange, (*TRADES, left)) as listener:
        exchange.unsubscribe([left, Subscription(Channel.TRADES, "CL 03-25")])
        bridge.server.platform.trade("NQ 03-25", Decimal(16_000))
        bridge.trade("4500.25")
        await listener.until(PublicTrade)
        assert {event.symbol for event in listener.events if isinstance(event, PublicTrade)} == {SYMBOL}
        with pytest.raises(OutageError):
            await exchange.fetch_trades("NQ 03-25", from_id=None, since_ns=None, limit=1)


# ── trouble ──────────────────────────────────────────────────────────────────────────────────────
async def test_x40_a_restarted_bridge_is_an_outage_and_its_count_begins_again(
    bridge: Bridge, exchange: NinjaExchange
) -> None:
    """Conversation C22. What was traded meanwhile is in no run: ids show the gap, whatever `n` is."""
    async with listening(exchange) as listener:
        bridge.trade("4500.25")
        (before,) = await listener.until(PublicTrade)
        bridge.server.restart_bridge()
        with pytest.raises(OutageError):
            await listener.until(PublicTrade, 999)
    async with listening(exchange) as listener:
        bridge.trade("4500.50")
        (after,) = await listener.until(PublicTrade)
        assert after.trade_id > before.trade_id + 1
        with pytest.raises(PeerError, match="past trades"):
            await later(exchange, before.trade_id + 1)
    assert exchange.counters.connects == 2


async def test_x41_refused_connection_is_an_outage_that_names_the_address(
    tmp_path: Path, log: CollectingLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fks.market.exchanges.ninja.session.READY_S", 0.5)
    put_secret(tmp_path / "key")
    port = free_port()
    settings = Settings(ninja=Ninja(port=port, secret_file=str(tmp_path / "key")))
    made = make_exchange("ninja", settings=settings, node=None, clock=FastClock(MONDAY_NS), log=log)
    try:
        for call in (made.watch(TRADES).__anext__, lambda: made.fetch_bars(SYMBOL, "1m", None, 1)):
            with pytest.raises(OutageError, match=f"127.0.0.1:{port}"):
                await call()
    finally:
        await made.close()


async def test_x41_closing_ends_a_call_that_waits_and_connects_no_more(
    bridge: Bridge, exchange: NinjaExchange, log: CollectingLog
) -> None:
    bridge.server.platform.trade(SYMBOL, Decimal(4500))
    waiting = asyncio.create_task(exchange.fetch_bars(SYMBOL, "1m", None, 1))
    await asyncio.sleep(0)  # it has begun to connect
    await exchange.close()
    with pytest.raises(OutageError):
        await waiting
    with pytest.raises(OutageError, match="closed"):
        await exchange.fetch_bars(SYMBOL, "1m", None, 1)
    await exchange.open()
    assert await exchange.fetch_bars(SYMBOL, "1m", None, 1) == []


async def test_x42_another_secret_is_refused_and_in_no_error_or_log(
    bridge: Bridge, log: CollectingLog, tmp_path: Path
) -> None:
    secret = "not-the-secret-of-that-bridge-at-all"
    (tmp_path / "other").write_text(secret)
    settings = Settings(ninja=Ninja(port=bridge.port, secret_file=str(tmp_path / "other")))
    made = make_exchange("ninja", settings=settings, node=None, clock=bridge.clock, log=log)
    with pytest.raises(ConfigError, match="secret") as refused:
        await anext(made.watch(TRADES))
    assert secret not in repr([refused.value, made, log.lines])
    await made.close()


async def test_x42_a_missing_secret_is_the_operators_fault(log: CollectingLog, tmp_path: Path) -> None:
    made = make_exchange("ninja", settings=Settings(home=tmp_path), node=None, clock=FastClock(MONDAY_NS), log=log)
    with pytest.raises(ConfigError, match=r"ninja\.key"):
        await anext(made.watch(TRADES))
    await made.close()


async def test_x43_missing_answer_is_an_outage(
    tmp_path: Path, log: CollectingLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    monkeypatch.setattr("fks.market.exchanges.ninja.session.READY_S", 0.5)
    server = await asyncio.start_server(deaf, "127.0.0.1", 0)
    put_secret(tmp_path / "key")
    port = server.sockets[0].getsockname()[1]
    settings = Settings(ninja=Ninja(port=port, secret_file=str(tmp_path / "key")))
    made = make_exchange("ninja", settings=settings, node=None, clock=FastClock(MONDAY_NS), log=log)
    with pytest.raises(OutageError):
        await anext(made.watch(TRADES))
    await made.close()
    server.close()


# ── a quiet market and a lost feed ───────────────────────────────────────────────────────────────
async def test_x50_a_quiet_market_is_proven_by_the_state_of_its_feed(bridge: Bridge, exchange: NinjaExchange) -> None:
    async with listening(exchange) as listener:
        bridge.trade("4500.25")
        (trade,) = await listener.until(PublicTrade)
        assert await later(exchange, trade.trade_id + 1) == []
        assert [found.price for found in await later(exchange, trade.trade_id)] == [trade.price]
        mark = await present(exchange)
        assert (mark.trade_id, mark.quantity) == (trade.trade_id, Decimal(0))
        assert abs(mark.time_ns - bridge.clock.now_ns()) < NS


async def test_x51_a_lost_price_feed_is_a_discontinuity_and_then_an_outage(
    bridge: Bridge, exchange: NinjaExchange
) -> None:
    """Conversation C23."""
    async with listening(exchange, BOTH) as listener:
        bridge.trade("4500.25")
        (trade,) = await listener.until(PublicTrade)
        bridge.lose_prices()
        gone = await listener.until(Discontinuity, 2)
        assert {event.channel for event in gone} == {Channel.TRADES, Channel.QUOTES}
        assert "ConnectionLost" in gone[0].reason
        with pytest.raises(OutageError, match="ConnectionLost"):
            await later(exchange, trade.trade_id + 1)
        bridge.regain_prices()

        async def answered() -> bool:
            try:
                return bool(await present(exchange))
            except OutageError:
                return False

        await until(answered)
        with pytest.raises(PeerError):  # what was traded meanwhile is in the platform's bars alone
            await later(exchange, trade.trade_id + 1)
        bridge.trade("4501.25")
        assert (await listener.until(PublicTrade, 2))[1].trade_id > trade.trade_id + 1


async def test_x52_bars_begin_with_a_minute_whose_trades_all_arrived(bridge: Bridge, exchange: NinjaExchange) -> None:
    async with listening(exchange) as listener:
        bridge.trade("4500.25")
        await listener.until(PublicTrade)
        with pytest.raises(OutageError, match="next minute"):
            await exchange.fetch_trades(SYMBOL, from_id=None, since_ns=MONDAY_NS, limit=10)


async def test_x54_prices_of_a_bridge_whose_clock_is_wrong_are_not_trusted(bridge: Bridge, log: CollectingLog) -> None:
    ahead = FastClock(bridge.clock.now_ns() + 6 * NS)
    made = make_exchange("ninja", settings=bridge.settings, node=None, clock=ahead, log=log)
    assert isinstance(made, NinjaExchange)
    async with listening(made):
        with pytest.raises(OutageError, match=r"differs by -\d\.\d s") as refused:
            await present(made)
    # of the six seconds, the time between the two clocks' beginnings is missing, and half of the look at the other one
    found = re.search(r"-\d\.\d", str(refused.value))
    assert found is not None
    assert 5.0 < -float(found[0]) < 7.0
    await made.close()


async def test_x53_a_third_data_session_is_an_outage_that_says_so(
    bridge: Bridge, exchange: NinjaExchange, log: CollectingLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [bridge.exchange(log) for _ in range(2)]
    async with listening(exchange), listening(others[0]):
        monkeypatch.setattr("fks.market.exchanges.ninja.session.READY_S", 0.5)
        with pytest.raises(OutageError, match="session_limit"):
            await anext(others[1].watch(TRADES))
    for other in others:
        await other.close()
