"""An order manager on the venue `ninja`, with a real link and the simulated NinjaTrader: signals in, positions out."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from fks.config.settings import Http, Risk, Settings, VenueSettings
from fks.model.futures import contract_of
from fks.model.ids import leg_id
from fks.model.order import Order, Side, State
from fks.model.signal import Kind
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.orders import OrderStore
from fks.trading.orders.messages import Limits
from tests.support.invariants import assert_journal
from tests.support.ninja_venue import ES, NinjaRig, ninja_rig
from tests.support.order_rig import Rig
from tests.support.scripted_venue import ScriptedVenue
from tests.support.strategies import collect
from tests.support.waiting import until

D = Decimal
SETTINGS = Settings(
    venue=VenueSettings(order_timeout_s=4.0, poll_delays_s=(0.05, 0.1, 0.2), sweep_s=2.0, skew_limit_ms=2_000),
    risk=Risk(
        feed_age_max_s=3600,
        notional_max_order=D(10_000_000),
        exposure_max_instrument=D(10_000_000),
        exposure_max_account=D(10_000_000),
    ),
    http=Http(order_wait_s=10.0),
)
LIMITS = Limits(unprotected_s=8.0, exit_retry_s=0.2, exit_retry_max_s=1.0)


async def seed(db: Database, price: Decimal) -> None:
    """Make an account at NinjaTrader, the front contract with a fresh feed, and an instance of one contract."""
    contract = contract_of(ES)
    assert contract is not None
    await db.sql("INSERT INTO accounts (name, venue, currency, initial_balance) VALUES ('nt', 'ninja', 'USD', 100000)")
    await db.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min, "
        "multiplier) VALUES ('ninja', $1, $2, 'USD', 0.25, 1, 1, 10000, 0, 50)",
        ES,
        contract.code,
    )
    await db.sql(
        "INSERT INTO feeds (exchange, symbol, timeframe, state, last_message_at, last_price) VALUES"
        " ('ninja', $1, 'trades', 'LIVE', now(), $2)",
        ES,
        price,
    )
    await collect(db)
    await db.sql("INSERT INTO leases (name, epoch, expires_at) VALUES ('collector:ninja', 1, now() + interval '1 day')")
    await db.sql(
        "INSERT INTO strategy_instances (id, strategy, exchange, symbol, timeframe, account_id, venue, size, pyramiding)"
        " VALUES ('one', 'sma_cross', 'ninja', $1, '1m', 1, 'ninja', 1000, 100)",
        ES,
    )


class Trading:
    """An order manager on a simulated NinjaTrader."""

    def __init__(self, nt: NinjaRig, rig: Rig) -> None:
        self.nt, self.rig = nt, rig

    async def enter(self, side: Side = Side.BUY, size: int = 2, **changes: Any) -> Order:
        """Enter with a stop 10 and a target 20 points away; return the entry once it is filled and protected."""
        price = self.nt.price
        levels = {"stop_loss": price - side.sign * 10, "take_profit": price + side.sign * 20}
        signal = await self.signal(Kind.ENTER, side=side, size=D(size), reference_price=price, **(levels | changes))
        assert await self.rig.outcome(signal) == ("ordered", None)
        entry = await self.rig.becomes((await self.rig.entry(signal)).client_order_id, State.FILLED)
        for name in "ST":
            await self.leg_is(entry, name, State.ACCEPTED, State.WORKING)
        return entry

    async def signal(self, kind: Kind, **changes: Any) -> uuid.UUID:
        where = {"venue": "ninja", "exchange": "ninja", "symbol": ES}
        return await self.rig.signal(kind, **(where | changes))

    async def leg_is(self, entry: Order, name: str, *states: State) -> Order:
        id = leg_id(entry.client_order_id, name)

        async def reached() -> Order | None:
            order = await OrderStore(self.rig.db).get(id)
            return order if order is not None and order.state in states else None

        return await until(reached, deadline_s=20)  # type: ignore[return-value]

    async def holds(self, quantity: int, instance: str = "one") -> None:
        async def is_held() -> bool:
            return await self.rig.position(instance, ES) == quantity

        await until(is_held, deadline_s=20)

    async def pages(self) -> list[str]:
        return [row["event"] for row in await self.rig.db.sql("SELECT event FROM alerts WHERE severity = 'page'")]


@contextlib.asynccontextmanager
async def ninja_trading(database: Database, bus: Bus, folder: Path) -> AsyncIterator[Trading]:
    """Run both; at the end the journal of the orders must be without a contradiction."""
    async with ninja_rig(database, bus, folder) as nt:
        await nt.connect()
        await seed(database, nt.price)
        # one that only the witness of the rig's type needs: nothing goes there
        rig = Rig(database, bus, ScriptedVenue(), settings=SETTINGS, venues={"ninja": nt.venue}, limits=LIMITS)
        await rig.start(wait_ready=False)
        await until(lambda: rig.service.is_ready, deadline_s=30)
        yield Trading(nt, rig)
        await rig.stop()
        await assert_journal(database)
