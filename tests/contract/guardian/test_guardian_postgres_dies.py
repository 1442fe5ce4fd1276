"""G5 with a real PostgreSQL that is killed -9 under a running guardian, and comes back."""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal
from pathlib import Path

from fks.config.settings import Database as DatabaseSettings
from fks.guardian.service import read_kill
from fks.store import migrate
from fks.store.db import Database
from fks.venues.ccxt import CcxtVenue
from tests.support import servers
from tests.support.guarded_trading import at_work, rest_one, seed_account
from tests.support.guardian_process import guardian_with, venue_on
from tests.support.local_exchange import LocalExchange
from tests.support.waiting import until


async def test_postgres_is_killed_then_the_switch_is_thrown(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path
) -> None:
    with servers.mortal_postgres() as postgres:
        await migrate.upgrade(postgres.url)
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
            assert before - (await trader.balances())["BTC"].total == Decimal("0.3")
            assert await trader.open_orders() == []
            assert read_kill(folder / "kill.jsonl") is not None
            await asyncio.to_thread(postgres.start)
            await until(lambda: guardian.report()["database"] == "up", deadline_s=20)
            (row,) = await db.sql("SELECT is_engaged, reason FROM kill_switch")
            assert (row["is_engaged"], row["reason"]) == (True, "no database")
            assert len(await db.sql("SELECT 1 FROM orders WHERE role = 'kill'")) == 1
        await db.close()
