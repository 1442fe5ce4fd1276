"""G5 with a real PostgreSQL that is killed -9 under a running guardian, or partitioned from it, and comes back."""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal
from pathlib import Path

import pytest

from fks.config.settings import DatabaseSettings
from fks.store.db import Database
from fks.trading.guardian.journal import read_kill
from fks.trading.venues.ccxt import CcxtVenue
from tests.support import servers
from tests.support.cut_link import KINDS, behind_a_link, partition_s
from tests.support.guarded_trading import at_work, rest_one, seed_account
from tests.support.guardian_process import guardian_with, venue_on
from tests.support.invariants import assert_closed
from tests.support.local_exchange import LocalExchange
from tests.support.waiting import until


async def test_postgres_is_killed_then_the_switch_is_thrown(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path
) -> None:
    with servers.mortal_postgres() as postgres:
        db = await Database.lazy(postgres.url, DatabaseSettings(connect_timeout_s=1.0))
        await seed_account(db, position="0.3")
        await rest_one(trader)
        before = (await trader.balances())["BTC"].total
        async with at_work(guardian_with({"ccxt": venue_on(exchange.info)}, folder, db)) as guardian:
            await until(lambda: (folder / "kill-positions.json").exists())
            postgres.kill()
            await until(lambda: str(guardian.detail()["database"]).startswith("down"))
            start = time.monotonic()
            report = await guardian.kill(reason="no database", by="me")
            assert report["is_quiet"], report
            assert time.monotonic() - start < 3.0
            assert report["database"] == "pending"
            assert_closed(before - (await trader.balances())["BTC"].total - Decimal("0.3"))
            assert await trader.open_orders() == []
            assert read_kill(folder / "kill.jsonl") is not None
            await asyncio.to_thread(postgres.start)
            await until(lambda: guardian.report()["database"] == "up")
            (row,) = await db.sql("SELECT is_engaged, reason FROM kill_switch")
            assert (row["is_engaged"], row["reason"]) == (True, "no database")
            assert len(await db.sql("SELECT 1 FROM orders WHERE role = 'kill'")) == 1
        await db.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_kill_in_a_partition_acts_at_once_and_is_booked_after_it(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path, database: Database, database_url: str, kind: str
) -> None:
    """The switch is thrown the moment that the database falls silent, or is gone: nothing waits until that is noticed."""
    await seed_account(database, position="0.3")
    await rest_one(trader)
    before = (await trader.balances())["BTC"].total
    async with (
        behind_a_link(database_url) as (db, link),
        at_work(guardian_with({"ccxt": venue_on(exchange.info)}, folder, db)) as guardian,
    ):
        await until(lambda: (folder / "kill-positions.json").exists())
        await link.cut(kind)
        start = time.monotonic()
        report = await guardian.kill(reason="partition", by="me")
        assert report["is_quiet"], report
        assert time.monotonic() - start < 5.0  # a lease and an answer that do not come, then as without a partition
        assert_closed(before - (await trader.balances())["BTC"].total - Decimal("0.3"))
        assert await trader.open_orders() == []
        await asyncio.sleep(max(partition_s(2.0) - (time.monotonic() - start), 0.0))  # its length
        assert await database.sql("SELECT 1 FROM kill_switch") == []
        await link.restore()
        await until(lambda: guardian.report()["database"] == "up")
        (row,) = await database.sql("SELECT is_engaged, reason FROM kill_switch")
        assert (row["is_engaged"], row["reason"]) == (True, "partition")
        assert len(await database.sql("SELECT 1 FROM orders WHERE role = 'kill'")) == 1
        assert_closed(before - (await trader.balances())["BTC"].total - Decimal("0.3"))
