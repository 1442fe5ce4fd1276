"""The venue `ninja` under test: real rows, a real link, and the simulated NinjaTrader on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from fks.bridge.ninja_link.service import NinjaLink
from fks.bridge.peer.bridge import BridgeConfig
from fks.clock import RealClock
from fks.lab.sim.nt8.server import BridgeServer, ServerOptions, front_contract
from fks.model.ids import client_order_id
from fks.model.ninja import NinjaRequest
from fks.model.order import Fill, Order, OrderType, Report, Role, Side, State
from fks.model.ports import VenueEvent
from fks.store.bus import Bus
from fks.store.db import Database
from fks.trading.order_manager.ninja_rows import NinjaRows
from fks.trading.venues.ninja.venue import NinjaConfig, NinjaVenue
from tests.support.ninja_link import LinkRig
from tests.support.order_values import an_order
from tests.support.ports import CollectingLog
from tests.support.waiting import until

D = Decimal
ES = front_contract("ES", RealClock().now_ns() // 1_000_000)
GROUP, ACCOUNT = "sim", "Sim101"


class WakingRows(NinjaRows):
    """Rows that wake the link of the test in this process as the bus would."""

    link_now: Callable[[], NinjaLink | None] = lambda: None

    async def ask(self, request: NinjaRequest) -> bool:
        is_stored = await super().ask(request)
        if (link := self.link_now()) is not None:
            link.wake()
        return is_stored


@dataclass
class NinjaRig:
    """One simulated NinjaTrader, its link (may be away) and the venue; `events`: the venue's reports."""

    db: Database
    bus: Bus
    server: BridgeServer
    link_rig: LinkRig
    rows: WakingRows
    venue: NinjaVenue
    config: NinjaConfig
    clock: RealClock
    log: CollectingLog
    events: list[VenueEvent] = field(default_factory=list)
    link: NinjaLink | None = None
    _numbers: Any = field(default_factory=itertools.count)
    _stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def up(self) -> None:
        """Run the link until it can trade, admit the session, and read its events."""
        await self.connect()
        await self.venue.open()
        self.venue.admit(await self.venue.identity())
        task = asyncio.create_task(self._read())
        self._stack.callback(task.cancel)

    async def connect(self) -> None:
        """Run a new link."""
        await until(lambda: self.server.sessions.bridge.is_ready)  # its accounts have settled: the next status is later
        self._linked = contextlib.AsyncExitStack()
        self.link = link = await self._linked.enter_async_context(self.link_rig.running())
        await until(lambda: link.can_trade, deadline_s=20)

        async def is_written() -> bool:
            row = await self.rows.link(GROUP)
            return row is not None and row.can_trade and row.report.snapshot is not None

        await until(is_written, deadline_s=20)

    async def cut(self) -> None:
        """End the link."""
        self.link = None
        await self._linked.aclose()

    async def down(self) -> None:
        await self._stack.aclose()
        if self.link is not None:
            await self.cut()
        await self.rows.close()
        await self.server.stop()

    async def _read(self) -> None:
        async for event in self.venue.events():
            self.events.append(event)

    def order(self, role: Role = Role.ENTRY, **changes: Any) -> Order:
        """Return a buy of one contract at the market with a stop and a target, SENDING."""
        intent = uuid.uuid4()
        is_entry = role is Role.ENTRY
        price = self.price
        side = changes.get("side", Side.BUY if is_entry else Side.SELL)
        values: dict[str, Any] = {
            "client_order_id": client_order_id(intent, role),
            "intent_id": intent,
            "venue": "ninja",
            "exchange": "ninja",
            "symbol": ES,
            "role": role,
            "side": side,
            "quantity": D(1),
            "stop_loss": price - side.sign * 10 if is_entry else None,
            "take_profit": price + side.sign * 20 if is_entry else None,
            "is_reduce_only": not is_entry,
        }
        return an_order(**(values | changes))

    def limit(self, **changes: Any) -> Order:
        """Return an entry that rests 20 points below the market."""
        price = self.price
        levels = {"price": price - 20, "stop_loss": price - 40, "take_profit": price + 10}
        return replace(self.order(), type=OrderType.LIMIT, **(levels | changes))

    @property
    def price(self) -> Decimal:
        last = self.server.platform.last_trade(ES)
        assert last is not None
        return last.price

    def reports(self, client_order_id: str) -> list[Report]:
        return [one for one in self.events if isinstance(one, Report) and one.client_order_id == client_order_id]

    def fills(self, client_order_id: str | None = None) -> list[Fill]:
        found = [one for one in self.events if isinstance(one, Fill)]
        return [one for one in found if client_order_id in (None, one.client_order_id)]

    async def reported(self, client_order_id: str, *states: State) -> Report:
        """Wait until the newest report of an order says one of `states`."""

        def newest() -> Report | None:
            found = self.reports(client_order_id)
            return found[-1] if found and found[-1].state in states else None

        return await until(newest, deadline_s=15)  # type: ignore[return-value]

    def submits(self, client_order_id: str) -> int:
        """Return how many orders of that id the platform was given."""
        return self.server.platform.submits_of(f"FKS:{client_order_id}:E")


@contextlib.asynccontextmanager
async def ninja_rig(database: Database, bus: Bus, folder: Path, **options: Any) -> AsyncIterator[NinjaRig]:
    """Yield a rig whose link does not run yet."""
    clock = RealClock()
    config = options.pop("config", BridgeConfig(settle_ms=200))
    server = BridgeServer(ServerOptions(data_dir=folder, instruments=(ES,), config=config, **options), clock)
    await server.open()
    rows = WakingRows(database, bus, None, clock)
    ours, log = NinjaConfig(GROUP, ACCOUNT, timeout_s=3.0, account_id=1), CollectingLog()
    venue, link = NinjaVenue(ours, rows, clock, log), LinkRig(database, server.port, secret=server.secret)
    rig = NinjaRig(database, bus, server, link, rows, venue, ours, clock, log)
    rows.link_now = lambda: rig.link
    try:
        yield rig
    finally:
        await rig.down()
