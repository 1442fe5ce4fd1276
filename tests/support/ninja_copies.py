"""A trade copier under test: an order manager, two simulated NinjaTraders on real sockets, three accounts."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from fks.bridge.ninja_link.service import NinjaLink
from fks.bridge.peer.bridge import BridgeConfig
from fks.clock import RealClock
from fks.config.settings import Http, Ninja, Risk, Settings, VenueSettings
from fks.lab.sim.nt8.server import BridgeServer, ServerOptions
from fks.model.futures import contract_of
from fks.model.ids import copy_signal_id, intent_id
from fks.model.ninja import NinjaRequest
from fks.model.order import Side
from fks.model.signal import Kind
from fks.store.bus import Bus
from fks.store.db import Database
from fks.trading.order_manager.ninja_rows import NinjaRows
from fks.trading.orders.messages import Limits
from fks.trading.venues.ninja.venue import NinjaConfig, NinjaVenue
from tests.support.ninja_link import LinkRig
from tests.support.ninja_venue import ES
from tests.support.order_rig import Rig
from tests.support.ports import CollectingLog
from tests.support.scripted_venue import ScriptedVenue
from tests.support.strategies import collect
from tests.support.waiting import DEFAULT_S, until

D = Decimal
#: venue -> group and account at NinjaTrader
PLACES = {"ninja": ("sim", "Sim101"), "ninja:beside": ("sim", "Sim102"), "ninja:apart": ("other", "F-1")}
ACCOUNT_IDS = {venue: number for number, venue in enumerate(PLACES, 1)}
#: `first_sync_s`: a busy machine reads three accounts for longer than 5 s after a start, and entries would be denied
LIMITS = Limits(unprotected_s=8.0, exit_retry_s=0.2, exit_retry_max_s=1.0, first_sync_s=60.0)


class Rows(NinjaRows):
    """Rows that wake the links of the test in this process as the bus would."""

    links: dict[str, NinjaLink]

    async def ask(self, request: NinjaRequest) -> bool:
        is_stored = await super().ask(request)
        if (link := self.links.get(request.group)) is not None:
            link.wake()
        return is_stored


@dataclass
class Bridge:
    """One simulated NinjaTrader and its link, which may be ended."""

    server: BridgeServer
    link_rig: LinkRig
    links: dict[str, NinjaLink]
    is_killed: bool = False
    _stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def connect(self) -> None:
        await until(lambda: self.server.sessions.bridge.is_ready)
        link = await self._stack.enter_async_context(self.link_rig.running())
        self.links[self.link_rig.group] = link
        await until(lambda: link.can_trade)

    async def kill(self) -> None:
        """End the platform's process, bridge included; the link stays, and finds no one."""
        self.is_killed = True
        await self.server.stop()

    async def close(self) -> None:
        await self._stack.aclose()
        if not self.is_killed:
            await self.server.stop()


@dataclass
class Copying:
    """The leader trades `Sim101`; `beside` is at the same NinjaTrader, `apart` at another one."""

    db: Database
    rig: Rig
    bridges: dict[str, Bridge]

    async def order(self, signal: Any, venue: str, deadline_s: float = DEFAULT_S) -> tuple[str, str | None, Any]:
        """Wait for what became of a leader's signal at a venue: state, code, and the first order's id."""
        id = signal if venue == "ninja" else copy_signal_id(intent_id(signal), ACCOUNT_IDS[venue])

        async def settled() -> Any:
            rows = await self.db.sql(
                "SELECT s.state, s.code, o.client_order_id, o.state AS order_state, o.code AS order_code FROM signals s"
                " LEFT JOIN orders o ON o.signal_id = s.id AND o.parent_id IS NULL WHERE s.id = $1 AND s.state <> 'ready'"
                " AND (o.state IS NULL OR o.state NOT IN ('INTENDED', 'SENDING', 'UNKNOWN', 'ACCEPTED', 'WORKING', 'PARTIAL'))"
                " ORDER BY o.attempt LIMIT 1",
                id,
            )
            return rows[0] if rows else None

        row = await until(settled, deadline_s=deadline_s)
        return row["order_state"] or row["state"], row["order_code"] or row["code"], row["client_order_id"]

    async def held(self) -> dict[str, Decimal]:
        """Return what each account holds."""
        rows = await self.db.sql("SELECT venue, sum(quantity) AS quantity FROM positions GROUP BY venue")
        return {row["venue"]: row["quantity"] for row in rows if row["quantity"]}

    async def holds(self, **contracts: int) -> None:
        """Wait until the accounts hold so much: `lead`, `beside`, `apart`."""
        names = {"lead": "ninja", "beside": "ninja:beside", "apart": "ninja:apart"}
        wanted = {names[name]: D(count) for name, count in contracts.items() if count}

        async def is_held() -> bool:
            return await self.held() == wanted

        await until(is_held)

    def submits(self, client_order_id: str) -> int:
        """Return how many orders of an id the platforms were given."""
        name = f"FKS:{client_order_id}:E"
        return sum(bridge.server.platform.submits_of(name) for bridge in self.bridges.values())

    @property
    def price(self) -> Decimal:
        last = self.bridges["sim"].server.platform.last_trade(ES)
        assert last is not None
        return last.price


def settings_of(copies: Sequence[str]) -> Settings:
    """Return settings with three accounts at two bridges, and the rules for copies."""
    ninja: dict[str, Any] = {
        "groups": {"sim": {"port": 8081}, "other": {"port": 8082}},
        "account": "Sim101",
        "account_group": "sim",
        "accounts": {"beside": {"group": "sim", "account": "Sim102"}, "apart": {"group": "other", "account": "F-1"}},
        "copies": tuple(copies),
    }
    return Settings(
        ninja=Ninja(**ninja),
        venue=VenueSettings(order_timeout_s=4.0, poll_delays_s=(0.05, 0.1, 0.2), sweep_s=2.0, skew_limit_ms=2_000),
        risk=Risk(
            feed_age_max_s=3600,
            notional_max_order=D(10_000_000),
            exposure_max_instrument=D(10_000_000),
            exposure_max_account=D(10_000_000),
        ),
        http=Http(order_wait_s=10.0),
    )


async def seed(db: Database, price: Decimal) -> None:
    """Make an account for each venue, the front contract with a fresh feed, and an instance of one contract."""
    contract = contract_of(ES)
    assert contract is not None
    for venue in PLACES:
        await db.sql(
            "INSERT INTO accounts (name, venue, currency, initial_balance) VALUES ($1, $2, 'USD', 100000)",
            venue.replace("ninja", "nt"),
            venue,
        )
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


@contextlib.asynccontextmanager
async def copying(
    db: Database, bus: Bus, folder: Path, copies: Sequence[str], modes: dict[str, str] | None = None
) -> AsyncIterator[Copying]:
    """Yield a running copier. `modes`: of accounts at their bridge; auto where none is given."""
    clock, links = RealClock(), dict[str, NinjaLink]()
    rows = Rows(db, bus, None, clock)
    rows.links = links
    bridges: dict[str, Bridge] = {}
    async with contextlib.AsyncExitStack() as stack:
        for group in ("sim", "other"):
            names = [account for of, account in PLACES.values() if of == group]
            accounts = tuple((name, (modes or {}).get(name, "auto"), True) for name in names)
            config = BridgeConfig(group=group, settle_ms=200, signals_per_s=50)
            server = BridgeServer(
                ServerOptions(data_dir=folder / group, accounts=accounts, instruments=(ES,), config=config), clock
            )
            await server.open()
            link_rig = LinkRig(db, server.port, group=group, secret=server.secret)
            bridges[group] = Bridge(server, link_rig, links)
            stack.push_async_callback(bridges[group].close)
        await asyncio.gather(*(bridge.connect() for bridge in bridges.values()))
        last = bridges["sim"].server.platform.last_trade(ES)
        assert last is not None
        await seed(db, last.price)
        settings = settings_of(copies)
        shown = {rule.venue for rule in settings.ninja.copy_rules() if rule.mode == "relay"}
        venues = {
            venue: NinjaVenue(
                NinjaConfig(group, account, 3.0, ACCOUNT_IDS[venue], name=venue, is_shown=venue in shown),
                rows,
                clock,
                CollectingLog(),
            )
            for venue, (group, account) in PLACES.items()
        }
        rig = Rig(db, bus, ScriptedVenue(), settings=settings, venues=venues, limits=LIMITS)
        await rig.start(wait_ready=False)
        stack.push_async_callback(rows.close)
        stack.push_async_callback(rig.stop)
        await until(lambda: rig.service.is_ready, deadline_s=90)
        yield Copying(db, rig, bridges)


async def enter(trading: Copying, size: int = 1, **changes: Any) -> uuid.UUID:
    """Have the leader enter with a stop 10 and a target 20 points away; return the signal's id."""
    price, side = trading.price, changes.get("side", Side.BUY)
    levels = {"stop_loss": price - side.sign * 10, "take_profit": price + side.sign * 20}
    where = {"venue": "ninja", "exchange": "ninja", "symbol": ES, "reference_price": price, "size": D(size)}
    return await trading.rig.signal(changes.pop("kind", Kind.ENTER), **(where | levels | changes))
