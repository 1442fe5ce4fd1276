"""An order manager on the venue `mt5`, with a real link and the scripted agent: signals in, lots out."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from fks.bridge.ninja.fields import read
from fks.bridge.ninja.messages import InstrumentMessage
from fks.bridge.ninja_link.service import NinjaLink
from fks.clock import RealClock
from fks.market.exchanges.mt5.exchange import instrument_of
from fks.model.ids import leg_id
from fks.model.ninja import MT5
from fks.model.order import Order, Side, State
from fks.model.signal import Kind
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.instruments import InstrumentStore
from fks.store.orders import OrderStore
from fks.trading.venues.ninja.venue import NinjaConfig, NinjaVenue
from tests.support.invariants import assert_journal
from tests.support.mt5_agent import ACCOUNT, EURUSD, GROUP, ScriptedAgent
from tests.support.ninja_link import LinkRig
from tests.support.ninja_trading import LIMITS, SETTINGS
from tests.support.ninja_venue import WakingRows
from tests.support.order_rig import Rig
from tests.support.ports import CollectingLog
from tests.support.scripted_venue import ScriptedVenue
from tests.support.strategies import collect
from tests.support.waiting import until

D = Decimal
KEY = MT5.key(GROUP)


@dataclass
class Mt5Rig:
    """The agent, its link (may be away), and the venue."""

    agent: ScriptedAgent
    link_rig: LinkRig
    rows: WakingRows
    venue: NinjaVenue
    link: NinjaLink | None = None
    _linked: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def connect(self) -> None:
        """Run a new link until it can trade."""
        self._linked = contextlib.AsyncExitStack()
        self.link = link = await self._linked.enter_async_context(self.link_rig.running())

        async def is_written() -> bool:
            row = await self.rows.link(KEY)
            return link.is_connected and row is not None and row.is_connected and row.report.snapshot is not None

        await until(is_written, deadline_s=20)

    async def cut(self) -> None:
        """End the link."""
        self.link = None
        await self._linked.aclose()

    def fills(self, client_order_id: str) -> list[Decimal]:
        """Return the lots that the platform filled of an entry."""
        return [lots for name, _, lots in self.agent.executions if name == f"FKS:{client_order_id}:E"]


@contextlib.asynccontextmanager
async def mt5_rig(database: Database, bus: Bus) -> AsyncIterator[Mt5Rig]:
    """Yield a rig whose link does not run yet."""
    clock = RealClock()
    async with ScriptedAgent() as agent:
        rows = WakingRows(database, bus, None, clock)
        config = NinjaConfig(GROUP, ACCOUNT, timeout_s=3.0, account_id=1, name=MT5.name, platform=MT5)
        venue = NinjaVenue(config, rows, clock, CollectingLog())
        rig = Mt5Rig(agent, LinkRig(database, agent.port, group=GROUP, platform=MT5), rows, venue)
        rows.link_now = lambda: rig.link
        try:
            yield rig
        finally:
            if rig.link is not None:
                await rig.cut()
            await rows.close()


async def seed(db: Database) -> None:
    """Make an account at MetaTrader 5, EURUSD with a fresh feed, and an instance."""
    row = read(InstrumentMessage, {"rid": "r", **EURUSD})
    await InstrumentStore(db).merge([instrument_of(row, RealClock().now_ns())])
    await db.sql("INSERT INTO accounts (name, venue, currency, initial_balance) VALUES ('fx', 'mt5', 'USD', 10000)")
    await db.sql(
        "INSERT INTO feeds (exchange, symbol, timeframe, state, last_message_at, last_price) VALUES"
        " ('mt5', 'EURUSD', 'trades', 'LIVE', now(), 1.1)"
    )
    await collect(db)
    await db.sql("INSERT INTO leases (name, epoch, expires_at) VALUES ('collector:mt5', 1, now() + interval '1 day')")
    await db.sql(
        "INSERT INTO strategy_instances (id, strategy, exchange, symbol, timeframe, account_id, venue, size, pyramiding)"
        " VALUES ('one', 'sma_cross', 'mt5', 'EURUSD', '1m', 1, 'mt5', 1000, 100)"
    )


class Mt5Trading:
    """An order manager on a scripted agent."""

    def __init__(self, mt5: Mt5Rig, rig: Rig) -> None:
        self.mt5, self.rig = mt5, rig

    async def signal(self, kind: Kind = Kind.ENTER, **changes: Any) -> uuid.UUID:
        """Commit a signal in EURUSD; an entry has a stop 100 and a target 200 points away."""
        values: dict[str, Any] = {"venue": "mt5", "exchange": "mt5", "symbol": "EURUSD"}
        if kind is Kind.ENTER:
            sign = changes.get("side", Side.BUY).sign
            price = self.mt5.agent.prices["EURUSD"]
            values |= {"size": D("0.03"), "reference_price": price, "side": Side.BUY}
            values |= {"stop_loss": price - sign * D("0.001"), "take_profit": price + sign * D("0.002")}
        return await self.rig.signal(kind, **(values | changes))

    async def enter(self, **changes: Any) -> Order:
        """Enter; return the entry once it is filled and its legs work."""
        signal = await self.signal(**changes)
        outcome = await self.rig.outcome(signal)
        assert outcome == ("ordered", None), await self.rig.db.sql("SELECT * FROM signals")
        entry = await self.rig.becomes((await self.rig.entry(signal)).client_order_id, State.FILLED)
        for name in "ST":
            await self.leg_is(entry, name, State.ACCEPTED, State.WORKING)
        return entry

    async def leg_is(self, entry: Order, name: str, *states: State) -> Order:
        async def reached() -> Order | None:
            order = await OrderStore(self.rig.db).get(leg_id(entry.client_order_id, name))
            return order if order is not None and order.state in states else None

        return await until(reached, deadline_s=20)  # type: ignore[return-value]

    async def holds(self, lots: str) -> None:
        async def is_held() -> bool:
            return await self.rig.position(symbol="EURUSD") == D(lots)

        await until(is_held, deadline_s=20)


@contextlib.asynccontextmanager
async def mt5_trading(database: Database, bus: Bus) -> AsyncIterator[Mt5Trading]:
    """Run both; at the end the journal of the orders must be without a contradiction."""
    async with mt5_rig(database, bus) as mt5:
        await mt5.connect()
        await seed(database)
        rig = Rig(database, bus, ScriptedVenue(), settings=SETTINGS, venues={"mt5": mt5.venue}, limits=LIMITS)
        await rig.start(wait_ready=False)
        await until(lambda: rig.service.is_ready, deadline_s=30)
        yield Mt5Trading(mt5, rig)
        await rig.stop()
        await assert_journal(database)
