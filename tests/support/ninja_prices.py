"""NinjaTrader's prices for tests: the simulated platform and bridge on a real socket, and a clock that runs fast."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from fks.clock import Clock
from fks.config.settings import Data, Ninja, Settings
from fks.lab.sim.nt8.server import BridgeServer, ServerOptions
from fks.market.exchanges.ninja.exchange import NinjaExchange
from fks.market.exchanges.registry import make_exchange
from fks.model.ports import Budget
from fks.model.timeframe import NS, to_ns
from tests.support.ports import CollectingLog

MONDAY_NS = 1_738_594_800 * NS  # 2025-02-03 15:00 UTC, 09:00 in Chicago: Globex is open, ES 03-25 the front month
SYMBOL = "ES 03-25"
ACCOUNT = "Sim101"


class Relay:
    """A server between the exchange and the bridge that drops `trades_to_lose` trades on their way."""

    def __init__(self, to_port: int) -> None:
        self.trades_to_lose = 0
        self._to_port = to_port

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection until either side ends."""
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._to_port)

        async def up() -> None:
            while data := await reader.read(65_536):
                there_writer.write(data)

        async def down() -> None:
            async for line in there_reader:
                if self.trades_to_lose and b'"t":"trade"' in line:
                    self.trades_to_lose -= 1
                else:
                    writer.write(line)

        tasks = {asyncio.create_task(up()), asyncio.create_task(down())}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            there_writer.close()
            writer.close()


@dataclass
class Bridge:
    """A running simulated bridge, and how to reach it: through the relay."""

    folder: Path
    port: int
    clock: Clock
    server: BridgeServer
    relay: Relay

    @property
    def settings(self) -> Settings:
        """Return settings whose `[ninja]` is this bridge."""
        ninja = Ninja(port=self.port, secret_file=str(self.folder / "secret.key"), timeout_s=2.0)
        return Settings(ninja=ninja, data=Data(exchange="ninja", timeframes=("1m", "5m"), backfill_bars=5))

    def exchange(self, log: CollectingLog, budget: Budget | None = None) -> NinjaExchange:
        """Return the exchange at this bridge, not opened."""
        made = make_exchange("ninja", settings=self.settings, node=None, clock=self.clock, log=log, budget=budget)
        assert isinstance(made, NinjaExchange)
        return made

    def trade(self, price: str, qty: int = 1, side: str = "") -> None:
        """Print a trade at the platform, now."""
        self.server.platform.advance(self.clock.now_ns() // 1_000_000)
        self.server.platform.trade(SYMBOL, Decimal(price), qty, side=side)

    def lose_prices(self) -> None:
        """Lose the price feed; the order feed stays."""
        self.server.platform.set_status(ACCOUNT, "Connected", "ConnectionLost")

    def regain_prices(self) -> None:
        """Connect the price feed again."""
        self.server.platform.set_status(ACCOUNT, "Connected", "Connected")

    def bars(self) -> dict[int, tuple[float, float, float, float, float]]:
        """Return the platform's minutes of SYMBOL by their start in ns: open, high, low, close, volume."""
        found = {}
        for bar in self.server.platform.bars(SYMBOL, "1m", 0, 2**62):
            start_ns = to_ns(bar.close.replace(tzinfo=self.server.platform.zone)) - 60 * NS
            found[start_ns] = (float(bar.o), float(bar.h), float(bar.l), float(bar.c), float(bar.v))
        return found


@contextlib.asynccontextmanager
async def bridge_at(folder: Path, clock: Clock, *, port: int = 0, is_trading: bool = False) -> AsyncIterator[Bridge]:
    """A running bridge. `is_trading`: its market trades by itself, four times a second, else only by `trade`."""
    instruments = (SYMBOL,) if is_trading else ()
    server = BridgeServer(ServerOptions(folder, instruments=instruments, start_ms=clock.now_ns() // 1_000_000), clock)
    server.platform.broker = is_trading
    await server.open()
    relay = Relay(server.port)
    listener = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    try:
        yield Bridge(folder, int(listener.sockets[0].getsockname()[1]), clock, server, relay)
    finally:
        async with asyncio.timeout(5):
            await server.stop()
            listener.close()
