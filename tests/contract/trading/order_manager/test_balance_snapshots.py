"""Snapshots of an account's balance: every five minutes of the clock, midnight UTC among them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal

import pytest

from fks.clock import FakeClock
from fks.model.timeframe import NS, iso
from fks.store.accounts import AccountStore
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.facts import Mark
from fks.store.leases import raise_epoch
from fks.system.runtime import Runtime
from fks.trading.order_manager.balances import AccountBalances, AccountStores
from fks.trading.order_manager.cache import OrderCache, VenueStatus
from fks.trading.order_manager.context import OrderManagerContext
from fks.trading.order_manager.ledger import Ledger
from fks.trading.order_manager.publisher import Publisher
from fks.trading.order_manager.tasks import Tasks
from fks.trading.orders.crash_points import nowhere
from fks.trading.portfolio.position import Position
from tests.support.order_rig import FAST, seed
from tests.support.order_values import an_instrument
from tests.support.ports import CollectingLog, RecordingMeter, TestLease
from tests.support.scripted_venue import ScriptedVenue
from tests.support.waiting import until

D = Decimal
MIDNIGHT_NS = 1_767_225_600 * NS  # 2026-01-01
START_NS = MIDNIGHT_NS - 750 * NS  # 23:47:30


class CountingClock(FakeClock):
    """A clock that counts the sleeps that began on it."""

    sleeps = 0

    async def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        await super().sleep(seconds)


@dataclass
class Snapshots:
    """The balances of one account, with a clock that the test moves."""

    db: Database
    clock: CountingClock
    venue: ScriptedVenue
    status: VenueStatus
    cache: OrderCache
    balances: AccountBalances

    async def rows(self) -> list[tuple[str, str, Decimal, Decimal | None]]:
        found = reversed(await AccountStore(self.db).history(1))
        return [(iso(row.time_ns)[11:19], row.cause, row.balance, row.equity) for row in found]

    async def advance(self, seconds: float) -> list[tuple[str, str, Decimal, Decimal | None]]:
        """Move the clock on to the loop's next turn, and return the history once the loop sleeps again."""
        sleeps = self.clock.sleeps
        await self.clock.advance(seconds)
        await until(lambda: self.clock.sleeps == sleeps + 1)
        return await self.rows()


@pytest.fixture
async def snapshots(database: Database, bus: Bus) -> AsyncIterator[Snapshots]:
    await seed(database)
    lease = TestLease("orders", await raise_epoch(database, "orders", "test"))
    clock, log, venue = CountingClock(START_NS), CollectingLog(), ScriptedVenue()
    cache, publisher = OrderCache(FAST), Publisher(database, bus, log)
    cache.accounts = {account.id: account for account in await AccountStore(database).page()}
    cache.positions[1, "ccxt", "BTCUSDT", "one"] = Position(1, "ccxt", "BTCUSDT", "one", D(2), D(100), D(0), D(0))
    status = VenueStatus("ccxt", 1, venue.capabilities, has_positions=True)
    services = FAST, clock, database, bus, log, RecordingMeter(), lease
    ledger = Ledger(Runtime(*services), cache, publisher)
    context = OrderManagerContext(*services, {"ccxt": venue}, cache, ledger, publisher, Tasks(), nowhere)
    balances = AccountBalances(context, venue, status, AccountStores.of(database, lease))
    await balances.refresh()
    running = asyncio.create_task(balances.run())
    await until(lambda: clock.sleeps == 1)
    yield Snapshots(database, clock, venue, status, cache, balances)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_snapshot_is_written_every_five_minutes_and_at_midnight(snapshots: Snapshots) -> None:
    first = ("23:47:30", "snapshot", D(100000), D(100200))
    await snapshots.clock.advance(149)
    assert await snapshots.rows() == [first]
    assert await snapshots.advance(1) == [first, ("23:50:00", "snapshot", D(100000), D(100200))]
    snapshots.venue.totals["USDT"] -= D(7)  # no execution and no transfer explains it: the next snapshot has it
    assert (await snapshots.advance(300))[2:] == [("23:55:00", "snapshot", D(99993), D(100193))]
    assert (await snapshots.advance(300))[3:] == [("00:00:00", "snapshot", D(99993), D(100193))]
    for _ in range(12):
        await snapshots.advance(300)
    hour = [f"00:{minute:02}:00" for minute in range(5, 60, 5)]
    assert [row[:2] for row in (await snapshots.rows())[4:]] == [(at, "snapshot") for at in [*hour, "01:00:00"]]


async def test_equity_converts_positions_in_another_quote_and_is_unknown_without_a_rate(snapshots: Snapshots) -> None:
    ethbtc = an_instrument(symbol="ETHBTC", base="ETH", quote="BTC")
    snapshots.cache.instruments = {**snapshots.cache.instruments, (ethbtc.exchange, "ETHBTC"): ethbtc}
    snapshots.cache.positions[1, "ccxt", "ETHBTC", "one"] = Position(
        1, "ccxt", "ETHBTC", "one", D(10), D("0.05"), D(0), D(0)
    )
    assert (await snapshots.advance(150))[-1] == ("23:50:00", "snapshot", D(100000), None)
    now_ns = snapshots.clock.now_ns()
    btcusdt = an_instrument(symbol="BTCUSDT", base="BTC", quote="USDT")
    snapshots.cache.instruments = {**snapshots.cache.instruments, (btcusdt.exchange, "BTCUSDT"): btcusdt}
    snapshots.cache.marks = {(btcusdt.exchange, "BTCUSDT"): Mark(btcusdt.exchange, "BTCUSDT", D(100), now_ns)}
    assert (await snapshots.advance(300))[-1] == ("23:55:00", "snapshot", D(100000), D(100000 + 2 * 100 + 50))


async def test_a_snapshot_that_cannot_be_read_is_left_out(snapshots: Snapshots) -> None:
    snapshots.venue.outages["balances"] = 1
    assert [row[0] for row in await snapshots.advance(150)] == ["23:47:30"]
    assert [row[0] for row in await snapshots.advance(300)] == ["23:47:30", "23:55:00"]
    snapshots.status.refusal = "another account's session"
    assert len(await snapshots.advance(300)) == 2
    snapshots.status.refusal = ""
    assert [row[0] for row in await snapshots.advance(300)] == ["23:47:30", "23:55:00", "00:05:00"]
