"""An order manager on the local exchange, with a real lease and a side journal, whose PostgreSQL a test kills."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import ROUND_DOWN, Decimal
from pathlib import Path
from typing import Any

from fks.clock import RealClock
from fks.config.settings import DatabaseSettings
from fks.model.order import OrderType, Outcome, State
from fks.model.tape import unpack_tape
from fks.model.timeframe import iso
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.leases import HeldLease, raise_epoch
from fks.trading.order_manager.side_journal import SideJournal
from fks.trading.venues.binance.config import SessionConfig
from fks.trading.venues.binance.session import BinanceVenue
from tests.support.invariants import assert_journal, assert_once
from tests.support.local_exchange import LocalExchange
from tests.support.order_rig import FAST, Rig, seed
from tests.support.ports import CollectingLog
from tests.support.scripted_venue import ScriptedVenue
from tests.support.servers import MortalPostgres, empty
from tests.support.sim_process import SAMPLE
from tests.support.venue_orders import order
from tests.support.waiting import until

D = Decimal
FALL = D(20)  # of the open bar, from its open to its low
TTL_S, RENEW_S = 0.6, 0.15
STOP_S = 2.0  # the promise: never longer without a stop while the venue takes orders


@dataclass
class OutageRig(Rig):
    """A Rig with a lease that runs out while PostgreSQL is away."""

    side: Path | None = None
    right_s: float | None = None  # how long it may send once its lease ran out
    ttl_s: float = TTL_S
    _keeping: asyncio.Task[None] | None = None
    _lease: HeldLease | None = field(default=None, init=False)

    async def take_over(self) -> None:
        epoch = await raise_epoch(self.db, "orders", "test")
        lease = HeldLease(
            self.db, self.clock, name="orders", epoch=epoch, holder="test", ttl_s=self.ttl_s, renew_s=RENEW_S
        )
        await lease.renew()
        self._lease = lease
        self.lease = lease  # type: ignore[assignment]
        self._keeping = asyncio.create_task(lease.keep())

    def side_journal(self) -> SideJournal | None:
        if self.side is None or self._lease is None:
            return None
        return SideJournal(
            self.side, lease=self._lease, clock=self.clock, kill_file=self.read_kill, hold_s=self.right_s
        )

    @property
    def keeping(self) -> asyncio.Task[None]:
        """Return the task that renews the lease."""
        assert self._keeping is not None
        return self._keeping

    def is_logged(self, event: str, **fields: object) -> bool:
        """Return whether an event with these fields is in the log."""
        return any(name == event and fields.items() <= has.items() for _, name, has in self.log.lines)

    async def crash(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        await super().crash()


def exchange_at_a_fall(folder: Path, *balances: str) -> LocalExchange:
    """Return an exchange, not started, whose market stands still in a bar that falls by more than FALL. `balances`:
    further ones of the account, such as BTC=1."""
    tape = unpack_tape(SAMPLE.read_bytes())
    bars = tape.bars()
    row = next(row for row in range(20_000, len(tape)) if bars.open[row] - bars.low[row] > FALL)
    arguments = ("--tape", str(SAMPLE), "--fills", "tape", "--hold", "--start", iso(int(tape.time_ns[row])))
    held = [word for balance in ("USDT=1000000", *balances) for word in ("--balance", balance)]
    return LocalExchange(folder, (*arguments, *held))


def venue_of(exchange: LocalExchange) -> BinanceVenue:
    """Return a session of the exchange's account."""
    info = exchange.info
    config = SessionConfig(
        account_id=0,
        order_timeout_s=1.0,
        read_timeout_s=3.0,
        rest_url=info["rest"],
        ws_url=info["ws"],
        ws_api_url=info["ws_api"],
        api_key=info["api_key"],
        api_secret=info["api_secret"],
    )
    return BinanceVenue(config, RealClock(), CollectingLog())


@dataclass
class Outage:
    """One test's surroundings: the server that is killed, the exchange, the order manager."""

    postgres: MortalPostgres
    exchange: LocalExchange
    rig: OutageRig
    owner: BinanceVenue  # the account's owner, who trades by hand

    async def rest(self, instance: str = "one", *, stop_below: Decimal = D(500)) -> str:
        """Have an entry of 1000 USDT with a stop below its limit rest at the exchange, where the open bar's low will
        be; return its id."""
        price = await self.price() - D(5)
        signal = await self.rig.signal(
            type=OrderType.LIMIT,
            limit_price=price,
            stop_loss=price - stop_below,
            reference_price=price,
            instance=instance,
        )
        assert (await self.rig.outcome(signal))[0] == "ordered"
        entry = (await self.rig.entry(signal)).client_order_id
        await self.rig.becomes(entry, State.WORKING)
        return entry

    async def price(self) -> Decimal:
        price = await self.owner.last_price("BTCUSDT")
        assert price is not None
        return price

    async def fill(self) -> Decimal:
        """End the open bar: what rests above its low is filled; return how much."""
        resting = [row for row in self.open_orders() if row["side"] == "BUY"]
        await asyncio.to_thread(self.exchange.ask, "POST", "/sim/tape/advance", {"bars": 1})
        assert not [row for row in self.open_orders() if row["side"] == "BUY"], "the entry is filled"
        return sum((D(row["origQty"]) for row in resting), D(0))

    def open_orders(self) -> list[dict[str, Any]]:
        """Return what rests at the exchange, as the exchange itself says."""
        return list(self.exchange.account()["open_orders"])

    def stops(self) -> list[dict[str, Any]]:
        return [row for row in self.open_orders() if row["side"] == "SELL" and "STOP" in row["type"]]

    def covers(self, quantity: Decimal) -> bool:
        """Return whether the live stops at the exchange would sell what an entry of `quantity` left after its fee."""
        live = sum((D(row["origQty"]) - D(row["executedQty"]) for row in self.stops()), D(0))
        return live >= (quantity * D("0.999")).quantize(D("0.00001"), ROUND_DOWN)

    def is_flat(self) -> bool:
        """Return whether the account holds less than a lot: its orders are the only ones."""
        return D(self.exchange.free("BTC")) < D("0.00001") and not self.stops()

    def new_venues(self) -> dict[str, BinanceVenue]:
        """Return the venues of another life."""
        return {"ccxt": venue_of(self.exchange)}

    def sent(self) -> list[str]:
        """Return the client ids of all orders that the exchange received, in their order."""
        found: list[str] = []
        for row in self.exchange.received():
            params = row["params"]
            names = ("newClientOrderId", "aboveClientOrderId", "belowClientOrderId")
            if row["method"] == "POST":
                found += [params[name] for name in names if name in params]
        return found

    async def cancel(self, client_order_id: str) -> None:
        """The account's owner cancels an order."""
        live = order("1", symbol="BTCUSDT", client_order_id=client_order_id)
        assert (await self.owner.cancel(live)).outcome is Outcome.ACK

    def start_postgres(self) -> None:
        self.postgres.start()

    async def end(self) -> None:
        """Start PostgreSQL again and wait until entries may go."""
        await asyncio.to_thread(self.postgres.start)
        await until(lambda: self.rig.service.is_ready, deadline_s=20)

    async def settled(self) -> None:
        """Wait until the books equal the exchange's, every order has an outcome, and no id was sent twice; then the side
        journal is empty."""
        db = self.rig.db

        async def is_settled() -> bool:
            open_ = await db.sql(
                "SELECT 1 FROM orders WHERE state IN ('SENDING', 'UNKNOWN') OR reported_cum_qty > filled"
            )
            ids = {row["client_order_id"] for row in await db.sql("SELECT client_order_id FROM orders")}
            booked = await db.sql("SELECT client_order_id, sum(quantity) AS quantity FROM trades GROUP BY 1")
            account, ours = self.exchange.account(), dict[str, Decimal]()
            names = {(row["symbol"], row["orderId"]): row["clientOrderId"] for row in account["orders"]}
            for fill in account["fills"]:
                name = names[fill["symbol"], fill["orderId"]]
                ours[name] = ours.get(name, D(0)) + D(fill["qty"])
            return not open_ and ids >= ours.keys() and ours == dict(booked)

        await until(is_settled, deadline_s=15)
        assert_once(self.sent())
        side = self.rig.side
        await until(lambda: side is None or not side.exists() or side.read_bytes() == b"")
        await assert_journal(db)


@asynccontextmanager
async def outage_rig(
    postgres: MortalPostgres, exchange: LocalExchange, bus: Bus, side: Path | None, **changes: Any
) -> AsyncIterator[Outage]:
    """Give a seeded order manager that is not started, on an empty database."""
    await empty(postgres)
    db = await Database.connect(postgres.url, DatabaseSettings(), application="test")
    await seed(db)
    await db.sql("UPDATE instruments SET lot_step = 0.00001, qty_min = 0.00001 WHERE symbol = 'BTCUSDT'")
    owner, venue = venue_of(exchange), venue_of(exchange)
    await owner.open()
    found = Outage(postgres, exchange, OutageRig(db, bus, ScriptedVenue(), FAST, {"ccxt": venue}, side=side), owner)
    for name, value in changes.items():
        setattr(found.rig, name, value)
    await db.sql("UPDATE feeds SET last_price = $1 WHERE symbol = 'BTCUSDT'", await found.price())
    try:
        yield found
    finally:
        if found.rig.task is not None:
            await found.rig.stop()
        with contextlib.suppress(TimeoutError):
            await owner.close()
        await db.close()
