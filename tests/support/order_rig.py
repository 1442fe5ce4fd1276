"""An order service on a real database with a scripted venue, and short ways to ask it things."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from fks.clock import Clock, RealClock
from fks.config.settings import Http, Risk, Settings, VenueSettings
from fks.model.kill import EngagedKill, Kills, KillScope
from fks.model.order import Order, OrderType, Side, State, TimeInForce
from fks.model.ports import Pager
from fks.model.ports import Venue as VenuePort
from fks.model.signal import Kind, Signal, SignalState
from fks.model.timeframe import NS, TIMEFRAMES
from fks.store.bus import WAKE, Bus
from fks.store.db import Database
from fks.store.leases import raise_epoch
from fks.store.orders import OrderStore
from fks.store.signals import SignalStore
from fks.system.runtime import Runtime
from fks.trading.guardian.journal import engaged_kills, kill_mode
from fks.trading.order_manager.service import OrderManager
from fks.trading.order_manager.side_journal import SideJournal
from fks.trading.orders.crash_points import At, nowhere
from fks.trading.orders.messages import KillMode, Limits
from fks.trading.orders.sent_ids import SentIds
from tests.support import servers
from tests.support.histories import Histories, is_recording
from tests.support.ports import CollectingLog, RecordingMeter, TestLease
from tests.support.scripted_venue import ScriptedVenue
from tests.support.strategies import collect
from tests.support.waiting import DEFAULT_S, until

D = Decimal
FAST = Settings(
    venue=VenueSettings(
        order_timeout_s=0.5, poll_delays_s=(0.01, 0.02, 0.05, 0.1), absent_polls=3, absent_spacing_s=0.02,
        absent_first_s=0.02, absent_age_s=0.3, sweep_s=0.5,
    ),
    risk=Risk(feed_age_max_s=3600),
    http=Http(order_wait_s=10.0),
)  # fmt: skip


async def seed(db: Database, *, instances: tuple[str, ...] = ("one", "two"), pyramiding: int = 1_000_000) -> None:
    """Make an account on `ccxt`, two instruments with fresh feeds, and strategy instances of 1000 USDT each.

    They may enter as often as a test likes; `pyramiding` = 1 is the default of an instance.
    """
    await db.sql(
        "INSERT INTO accounts (name, venue, initial_balance) VALUES ('main', 'ccxt', 100000), ('sheet', 'paper', "
        "100000)"
    )
    for symbol, price in (("BTCUSDT", "100"), ("ETHUSDT", "10")):
        await db.sql(
            "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min) "
            "VALUES"
            " ('binance', $1, $2, 'USDT', 0.01, 0.001, 0.001, 100000, 5)",
            symbol,
            symbol[:3],
        )
        await db.sql(
            "INSERT INTO feeds (exchange, symbol, timeframe, state, last_message_at, last_price) VALUES"
            " ('binance', $1, 'trades', 'LIVE', now(), $2::text::numeric)",
            symbol,
            price,
        )
    await collect(db)
    for name in instances:
        await db.sql(
            "INSERT INTO strategy_instances (id, strategy, exchange, symbol, timeframe, account_id, venue, size, "
            "pyramiding)"
            " VALUES ($1, 'sma_cross', 'binance', 'BTCUSDT', '1m', 1, 'ccxt', 1000, $2)",
            name,
            pyramiding,
        )


@dataclass
class Rig:
    """A running service and its surroundings for a test."""

    db: Database
    bus: Bus
    venue: ScriptedVenue
    settings: Settings = FAST
    venues: Mapping[str, VenuePort] | None = None
    meter: RecordingMeter = field(default_factory=RecordingMeter)
    log: CollectingLog = field(default_factory=CollectingLog)
    killed: bool = False
    ask_before_ns: int = 0
    at: At = nowhere
    pager: Pager | None = None
    hold_s: float = 0.0  # for a predecessor that is not proven gone
    limits: Limits | None = None
    clock: Clock = field(default_factory=RealClock)
    kill_path: Path | None = None  # of the guardian's file; None: `killed` decides
    histories: list[Histories] = field(default_factory=list)  # of the cores of each run
    lease: TestLease = field(init=False)
    service: OrderManager = field(init=False)
    task: asyncio.Task[None] | None = None
    own: Database | None = None  # the service's, with the rights of the order manager's role

    async def start(self, *, wait_ready: bool = True) -> Rig:
        """Take over the role and run."""
        await self.take_over()
        return await self.run(wait_ready=wait_ready)

    async def take_over(self) -> None:
        """Raise the epoch of the role."""
        self.lease = TestLease("orders", await raise_epoch(self.db, "orders", "test"))

    async def run(self, *, wait_ready: bool = True) -> Rig:
        """Start a service that holds the lease."""
        venues = self.venues if self.venues is not None else {self.venue.name: self.venue}
        self.histories.append(Histories(self.limits or Limits()))
        if self.own is None:
            self.own = await servers.as_role(self.db, "orders")
        self.service = OrderManager(
            Runtime(self.settings, self.clock, self.own, self.bus, self.log, self.meter, self.lease),
            venues,
            kill_file=self.read_kills,
            sent=SentIds(self.ask_before_ns),
            at=self.at,
            limits=self.limits,
            recorder=self.histories[-1] if is_recording() else None,
            side=self.side_journal(),
            pager=self.pager,
            hold_s=self.hold_s,
        )
        await self.service.start()
        self.task = asyncio.create_task(self.service.run())
        if wait_ready:
            await until(lambda: self.service.is_ready)
        return self

    def read_kill(self) -> KillMode:
        """Return what the guardian's file asks for."""
        if self.kill_path is not None:
            return kill_mode(self.kill_path)
        return KillMode.FLATTEN if self.killed else KillMode.NONE

    def read_kills(self) -> Kills:
        """Return the kills that are engaged by the guardian's file."""
        if self.kill_path is not None:
            return engaged_kills(self.kill_path)
        mode = self.read_kill()
        return Kills() if mode is KillMode.NONE else Kills((EngagedKill("", KillScope(), mode),))

    def side_journal(self) -> SideJournal | None:
        """Return the side journal of the next service; none here."""
        return None

    async def read_slow(self) -> None:
        """Have the service read at once what it reads every few seconds: instruments, accounts, instances."""
        await self.service.refresh()

    async def crash(self) -> None:
        """End it as kill -9 would: nothing is tidied up."""
        assert self.task is not None
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def restart(self, **changes: Any) -> Rig:
        """Crash and take over with a new epoch on the same venue."""
        await self.crash()
        for name, value in changes.items():
            setattr(self, name, value)
        return await self.start()

    async def hand_over(self) -> Rig:
        """Drain, stop, and take over with a new epoch on the same venue: what `fks restart orders` does."""
        await self.service.drain()
        await self.crash()
        await self.service.stop()
        return await self.start()

    async def stop(self) -> None:
        if self.task is not None and not self.task.done():
            await self.crash()
        await self.service.stop()
        if self.own is not None and self.own is not self.db:
            await self.own.close()
        self.own = None

    # ── asking ───────────────────────────────────────────────────────────────────────────────────
    async def signal(self, kind: Kind = Kind.ENTER, **changes: Any) -> uuid.UUID:
        """Insert a signal and wake the service."""
        signal = signal_of(kind, **changes)
        await SignalStore(self.db).insert([signal])
        await self.bus.publish(WAKE, {"type": "signal", "id": str(signal.id)})
        return signal.id

    async def outcome(self, signal_id: uuid.UUID, deadline_s: float = DEFAULT_S) -> tuple[str, str | None]:
        """Wait for a signal's outcome: (state, code)."""

        async def settled() -> Any:
            record = await SignalStore(self.db).get(signal_id)
            return record if record is not None and record.signal.state is not SignalState.READY else None

        record = await until(settled, deadline_s=deadline_s)
        return record.signal.state.value, record.code

    async def order_of(self, signal_id: uuid.UUID) -> Order:
        order = await OrderStore(self.db).by_signal(signal_id)
        assert order is not None
        return order

    async def entry(self, signal_id: uuid.UUID) -> Order:
        """Return the first order of a signal, not its legs."""
        rows = await self.db.sql(
            "SELECT client_order_id FROM orders WHERE signal_id = $1 AND parent_id IS NULL", signal_id
        )
        order = await OrderStore(self.db).get(rows[0]["client_order_id"])
        assert order is not None
        return order

    async def state(self, client_order_id: str) -> State:
        order = await OrderStore(self.db).get(client_order_id)
        assert order is not None
        return order.state

    async def becomes(self, client_order_id: str, *states: State, deadline_s: float = DEFAULT_S) -> Order:
        async def reached() -> Order | None:
            order = await OrderStore(self.db).get(client_order_id)
            return order if order is not None and order.state in states else None

        return await until(reached, deadline_s=deadline_s)  # type: ignore[return-value]

    async def position(self, instance: str = "one", symbol: str = "BTCUSDT") -> Decimal:
        rows = await self.db.sql("SELECT quantity FROM positions WHERE instance = $1 AND symbol = $2", instance, symbol)
        return rows[0]["quantity"] if rows else D(0)

    async def position_is(self, quantity: Decimal, instance: str = "one") -> bool:
        return await self.position(instance) == quantity

    async def held(self, symbol: str = "BTCUSDT") -> Decimal:
        """Return the sum of positions over all instances, the external part included."""
        rows = await self.db.sql(
            "SELECT coalesce(sum(quantity), 0) AS quantity FROM positions WHERE symbol = $1", symbol
        )
        return rows[0]["quantity"]  # type: ignore[no-any-return]


def _decided_now(timeframe: str | None) -> int:
    """Return the event time of a decision that is made now: of a bar its open, of a request its arrival."""
    now_ns = RealClock().now_ns()
    return now_ns if timeframe is None else now_ns - TIMEFRAMES[timeframe] * NS


def signal_of(kind: Kind = Kind.ENTER, **changes: Any) -> Signal:
    """Return a ready market signal of instance `one` in BTCUSDT at 100, changed as asked."""
    values: dict[str, Any] = {
        "id": uuid.uuid4(),
        "source": "strategy:one",
        "instance": "one",
        "params_version": 1,
        "account_id": 1,
        "venue": "ccxt",
        "exchange": "binance",
        "symbol": "BTCUSDT",
        "timeframe": "1m",
        "ts_event_ns": _decided_now(changes.get("timeframe", "1m")),
        "ordinal": 0,
        "kind": kind,
        "side": Side.SELL if kind is Kind.EXIT else Side.BUY,
        "type": OrderType.MARKET,
        "reference_price": D(100),
        "time_in_force": TimeInForce.GTC,
        "state": SignalState.READY,
        "trace_id": "trace",
    }
    return Signal(**(values | changes))
