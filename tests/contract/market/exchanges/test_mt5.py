"""The exchange `mt5` over a real socket: the agent's list of instruments, ticks, quotes and minutes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest

from fks.clock import RealClock
from fks.config.settings import Mt5, Settings
from fks.market.exchanges.mt5.exchange import Mt5Exchange
from fks.market.exchanges.registry import make_exchange
from fks.model.bar import PublicTrade
from fks.model.errors import ConfigError, InputError, OutageError
from fks.model.instrument import Instrument
from fks.model.market import Channel, Subscription
from tests.support.mt5_agent import GROUP, ScriptedAgent
from tests.support.ninja import put_secret
from tests.support.ports import CollectingLog
from tests.support.waiting import until

D = Decimal
MINUTE_MS = 60_000


@pytest.fixture
async def agent() -> AsyncIterator[ScriptedAgent]:
    async with ScriptedAgent() as agent:
        yield agent


@pytest.fixture
async def exchange(agent: ScriptedAgent, tmp_path: Path) -> AsyncIterator[Mt5Exchange]:
    put_secret(tmp_path / "mt5.key")
    settings = Settings(home=tmp_path, mt5=Mt5(port=agent.port, group=GROUP, timeout_s=2.0))
    made = make_exchange("mt5", settings=settings, node=None, clock=RealClock(), log=CollectingLog())
    assert isinstance(made, Mt5Exchange)
    await made.open()
    yield made
    await made.close()


async def test_instruments_have_the_steps_of_the_platform(exchange: Mt5Exchange) -> None:
    euro, gold = await exchange.instruments()
    assert (euro.exchange, euro.symbol, euro.base, euro.quote) == ("mt5", "EURUSD", "EURUSD", "USD")
    assert (euro.tick, euro.lot_step, euro.qty_min, euro.qty_max) == (D("0.00001"), D("0.01"), D("0.01"), D(50))
    assert (euro.multiplier, gold.multiplier, gold.tick) == (100_000, 100, D("0.01"))
    assert isinstance(gold, Instrument)


async def test_hello_names_the_platform(exchange: Mt5Exchange, agent: ScriptedAgent) -> None:
    await exchange.instruments()
    [hello] = agent.lines("hello")
    assert (hello["platform"], hello["role"], hello["group"]) == ("mt5", "data", GROUP)


async def test_each_tick_is_a_trade(exchange: Mt5Exchange, agent: ScriptedAgent) -> None:
    trades: list[PublicTrade] = []

    async def read() -> None:
        async for batch in exchange.watch([Subscription(Channel.TRADES, "EURUSD")]):
            trades.extend(event for event in batch if isinstance(event, PublicTrade))

    task = asyncio.create_task(read())
    await until(lambda: agent.lines("subscribe"))
    await asyncio.sleep(0.1)
    agent.tick("EURUSD", "1.10001")
    agent.tick("EURUSD", "1.10002")
    await until(lambda: len(trades) == 2)
    task.cancel()
    assert [(trade.exchange, trade.price, trade.quantity) for trade in trades] == [
        ("mt5", D("1.10001"), 1),
        ("mt5", D("1.10002"), 1),
    ]
    assert trades[1].trade_id == trades[0].trade_id + 1


async def test_minutes_come_from_the_history(exchange: Mt5Exchange, agent: ScriptedAgent) -> None:
    first_ms = time.time_ns() // 1_000_000 // MINUTE_MS * MINUTE_MS - 3 * MINUTE_MS
    agent.bars = [
        {"at_ms": first_ms + n * MINUTE_MS, "o": D("1.1"), "h": D("1.2"), "l": D("1.0"), "c": D("1.15"), "v": 7}
        for n in range(2)
    ]
    bars = await exchange.fetch_bars("EURUSD", "1m", first_ms * 1_000_000, 10)
    assert [(bar.exchange, bar.symbol, bar.volume) for bar in bars] == [("mt5", "EURUSD", 7.0)] * 2


async def test_symbol_that_the_terminal_lacks_is_refused(exchange: Mt5Exchange) -> None:
    with pytest.raises(InputError, match="MetaTrader 5 refuses GBPUSD"):
        async for _ in exchange.watch([Subscription(Channel.TRADES, "GBPUSD")]):
            pass


async def test_bridge_of_another_platform_is_refused(
    exchange: Mt5Exchange, agent: ScriptedAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fks.market.exchanges.ninja.session.READY_S", 0.5)
    agent.welcome["platform"] = "NinjaTrader 8"
    with pytest.raises(OutageError, match="serves another platform: NinjaTrader 8"):
        await exchange.instruments()


async def test_secret_that_is_missing_names_the_file(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, mt5=Mt5(port=1, group=GROUP))
    made = make_exchange("mt5", settings=settings, node=None, clock=RealClock(), log=CollectingLog())
    await made.open()
    with pytest.raises(ConfigError, match=r"secret of MetaTrader 5 cannot be read.*mt5\.key"):
        await made.instruments()
    await made.close()
