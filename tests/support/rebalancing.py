"""A portfolio that is rebalanced through a real order manager, and databases that die at a statement."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from fks.clock import Clock
from fks.config.settings import Costs
from fks.interfaces.entry.rebalancing import RebalanceDriver, RebalanceTrigger, Rebalancing, instance_of
from fks.model.errors import InputError
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.portfolios import PortfolioChanges
from fks.trading.portfolio.rebalance import RebalanceRules
from tests.support.fast_clock import FastClock
from tests.support.order_rig import FAST, Rig, seed
from tests.support.scripted_venue import ScriptedVenue
from tests.support.strategies import collect
from tests.support.waiting import until

D = Decimal
WEIGHTS = (("BTC/USDT", D("0.4")), ("ETHUSDT", D("0.3")), ("SOLUSDT", D("0.2")))
OWN = instance_of(1)
SETTINGS = FAST.model_copy(update={"costs": Costs(fee_rate=D("0.001"))})


class RebalancedPortfolio:
    """A portfolio on the account `main`, and the services that persons and the scheduler use."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.persons = Rebalancing(rig.db, rig.bus, rig.clock, rig.settings, rig.log)

    def driver(self, db: Any = None, clock: Clock | None = None) -> RebalanceDriver:
        rig = self.rig
        return RebalanceDriver(db or rig.db, rig.bus, clock or rig.clock, rig.settings, rig.log)

    def trigger(self, db: Any = None) -> RebalanceTrigger:
        return RebalanceTrigger(db or self.rig.db, self.rig.bus, self.rig.clock, self.rig.settings, self.rig.log)

    async def aim(self, *weights: tuple[str, Decimal], version: int = 0, **rules: Any) -> dict[str, Any]:
        given = {"band": D("0.005"), "cash_min": D("0.02"), **rules}
        return await self.persons.set_targets(
            "main",
            version=version,
            account=None,
            targets=[(symbol, weight, None, None) for symbol, weight in weights],
            rules=given,
            by="ann",
        )

    async def start(self) -> dict[str, Any]:
        seen = await self.persons.preview("main", "ann")
        assert seen["plan_hash"], seen
        return await self.persons.rebalance("main", seen["plan_hash"], "ann")

    async def ended(self, run: dict[str, Any], driver: RebalanceDriver | None = None) -> dict[str, Any]:
        driver = driver or self.driver()

        async def is_over() -> dict[str, Any] | None:
            await driver.advance()
            found = await self.persons.run("main", run["id"])
            return found if found["ended_at"] is not None else None

        return await until(is_over)  # type: ignore[return-value]

    async def ended_by_age(self, run: dict[str, Any], *steps: tuple[str, str | None]) -> dict[str, Any]:
        """Advance a run until its steps have come to these states (their own, and that of their order), and then from
        past its time on until it has ended."""
        driver, later = self.driver(), FastClock()

        async def has_come() -> bool:
            await driver.advance()
            found = (await self.persons.run("main", run["id"]))["steps"]
            return [(step["state"], step["order_state"]) for step in found] == [*steps]

        await until(has_come)
        later.step(RebalanceRules().run_max_age_s + 1)
        return await self.ended(run, self.driver(clock=later))

    async def held(self) -> dict[str, Decimal]:
        rows = await self.rig.db.sql("SELECT symbol, quantity FROM positions WHERE instance = $1", OWN)
        return {row["symbol"]: row["quantity"] for row in rows}

    async def refused(self, plan_hash: str) -> tuple[int, str]:
        with pytest.raises(InputError) as error:
            await self.persons.rebalance("main", plan_hash, "ann")
        return error.value.status, error.value.code


async def rebalanced(database: Database, bus: Bus, venue: ScriptedVenue) -> AsyncIterator[RebalancedPortfolio]:
    """An order manager that runs, and a portfolio with the account `main`: 10000 USDT and three instruments."""
    await seed(database)
    await database.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min) VALUES"
        " ('binance', 'SOLUSDT', 'SOL', 'USDT', 0.01, 0.1, 0.1, 100000, 5)"
    )
    await database.sql(
        "INSERT INTO feeds (exchange, symbol, timeframe, state, last_message_at, last_price) VALUES"
        " ('binance', 'SOLUSDT', 'trades', 'LIVE', now(), 2)"
    )
    await collect(database)
    venue.prices["SOLUSDT"] = D(2)
    venue.totals["USDT"] = D(10_000)
    rig = await Rig(database, bus, venue, settings=SETTINGS).start()
    await PortfolioChanges(database).add(
        "main", base_currency="USDT", benchmark=None, accounts=["main"], instances=[], by="ann"
    )

    async def are_balances_there() -> bool:
        return bool(await database.sql("SELECT FROM balances WHERE currency = 'USDT' AND free = 10000"))

    await until(are_balances_there)
    yield RebalancedPortfolio(rig)
    await rig.stop()


class Dying:
    """A database whose caller is ended, as by kill -9, at the statement with number `at`: before it, or after it. The
    statements of transactions count, too."""

    def __init__(self, db: Database, at: int, *, after: bool) -> None:
        self._db, self._left, self._after = db, at, after

    def __getattr__(self, name: str) -> Any:
        if name == "transaction":
            return self._transaction
        return self._counted(getattr(self._db, name), name)

    def _counted(self, method: Any, name: str) -> Any:
        if name not in ("fetch", "fetchrow", "fetchval", "execute"):
            return method

        async def call(*args: Any, **kwargs: Any) -> Any:
            self._left -= 1
            if self._left == 0 and not self._after:
                raise asyncio.CancelledError
            answer = await method(*args, **kwargs)
            if self._left == 0:
                raise asyncio.CancelledError
            return answer

        return call

    @asynccontextmanager
    async def _transaction(self, **how: Any) -> AsyncIterator[Any]:
        async with self._db.transaction(**how) as tx:
            yield SimpleNamespace(
                **{
                    name: self._counted(getattr(tx, name), name)
                    for name in ("fetch", "fetchrow", "fetchval", "execute")
                }
            )
