"""G5 with a real PostgreSQL that is killed -9 under a running guardian, and comes back."""

from __future__ import annotations

import asyncio
import subprocess
import time
from decimal import Decimal
from pathlib import Path

from fks.config.secrets import load_secrets
from fks.config.settings import Database as DatabaseSettings
from fks.execution.guardian import read_kill
from fks.store import migrate
from fks.store.db import Database
from fks.store.embedded import PostgresServer, start_and_wait
from fks.venues.ccxt import CcxtVenue
from tests.contract.guardian.test_guardian_kill import at_work, rest_one, seed
from tests.support import servers
from tests.support.guardian_process import guardian_with, venue_on
from tests.support.local_exchange import LocalExchange
from tests.support.waiting import until


async def test_postgres_is_killed_then_the_switch_is_thrown(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path
) -> None:
    with servers.home() as paths:
        server = PostgresServer(paths, load_secrets(paths))
        process = start_and_wait(server, log=paths.logs / "postgres.log")
        try:
            await migrate.upgrade(server.url("fks"))
            db = await Database.lazy(server.url("fks"), DatabaseSettings(connect_timeout_s=1.0))
            await seed(db, position="0.3")
            await rest_one(trader)
            before = (await trader.balances())["BTC"].total
            async with at_work(guardian_with({"ccxt": venue_on(exchange.info)}, folder, db)) as guardian:
                await until(lambda: (folder / "kill-positions.json").exists())
                assert isinstance(process, subprocess.Popen)
                process.kill()
                process.wait(5)
                await until(lambda: str(guardian.detail()["database"]).startswith("down"))
                start = time.monotonic()
                report = await guardian.kill(reason="no database", by="me")
                assert report["is_quiet"], report
                assert time.monotonic() - start < 3.0
                assert report["database"] == "pending"
                assert before - (await trader.balances())["BTC"].total == Decimal("0.3")
                assert await trader.open_orders() == []
                assert read_kill(folder / "kill.jsonl") is not None
                process = await asyncio.to_thread(start_and_wait, server, log=paths.logs / "postgres.log")
                await until(lambda: guardian.report()["database"] == "up", deadline_s=20)
                (row,) = await db.sql("SELECT is_engaged, reason FROM kill_switch")
                assert (row["is_engaged"], row["reason"]) == (True, "no database")
                assert len(await db.sql("SELECT 1 FROM orders WHERE role = 'kill'")) == 1
            await db.close()
        finally:
            server.stop(process)
