"""A guardian as a process of its own: `python -m tests.support.guardian_process '<json>'`, for tests that kill -9 it.

JSON: exchange (a LocalExchange's info, or null), folder, database_url?, timing, ninja? (group, port, secret). Prints one
line when it listens.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fks.clock import RealClock
from fks.guardian.context import GuardianContext
from fks.guardian.ninja_session import GroupBridge, NinjaSession
from fks.guardian.service import Guardian, Timing
from fks.model.ports import Venue
from fks.store.db import Database
from fks.venues.binance.config import SessionConfig as CcxtConfig
from fks.venues.binance.session import BinanceVenue as CcxtVenue
from tests.support.local_exchange import LocalExchange
from tests.support.ports import CollectingLog, RecordingMeter

#: waits short enough for a test, C5 included
QUICK = Timing(
    refresh_s=0.1,
    reply_s=6.0,
    round_s=0.05,
    round_max_s=0.2,
    settle_s=0.3,
    watch_max_s=0.2,
    history_s=1.0,
    retry_s=0.1,
    retry_max_s=0.5,
    absent_spacing_s=0.2,
    absent_first_s=0.2,
    absent_age_s=1.0,
    lease_ttl_s=1.5,
    lease_renew_s=0.1,
)


def venue_on(exchange: dict[str, Any], **changes: Any) -> CcxtVenue:
    """Return an unopened ccxt venue on a local exchange."""
    config = CcxtConfig(
        exchange["api_key"],
        exchange["api_secret"],
        account_id=1,
        rest_url=exchange["rest"],
        ws_url=exchange["ws"],
        ws_api_url=exchange["ws_api"],
        **{"order_timeout_s": 1.0, "read_timeout_s": 2.0, **changes},
    )
    return CcxtVenue(config, RealClock(), CollectingLog())


def guardian_with(
    venues: dict[str, Venue],
    folder: Path,
    db: Database | None,
    timing: Timing = QUICK,
    *,
    is_placed: bool = True,
    takes_over: bool = False,
    bridge: dict[str, Any] | None = None,
) -> Guardian:
    """Return an unstarted guardian with its files in `folder`. `bridge`: group, port and secret of a NinjaTrader."""
    context = GuardianContext(RealClock(), CollectingLog(), RecordingMeter(), timing, db)
    address = bridge and GroupBridge(bridge["group"], "127.0.0.1", bridge["port"], bridge["secret"].encode(), 2.0)
    return Guardian(
        context,
        venues,
        kill_file=folder / "kill.jsonl",
        reserve=folder / "disk.reserve",
        socket_path=folder / "g.sock",
        side_journal=folder / "orders.jsonl",
        is_placed=is_placed,
        takes_over=takes_over,
        bridges=[NinjaSession(context, address, lambda: uuid.uuid4().hex)] if address else [],
    )


class GuardianProcess:
    """Starts and kills the process."""

    def __init__(
        self,
        exchange: LocalExchange | None,
        folder: Path,
        database_url: str | None = None,
        *,
        bridge: dict[str, Any] | None = None,
        **venue: Any,
    ) -> None:
        self._argument = json.dumps(
            {
                "exchange": exchange and exchange.info,
                "bridge": bridge,
                "folder": str(folder),
                "database_url": database_url,
                "timing": asdict(QUICK),
                "venue": venue,
            }
        )
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> GuardianProcess:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.guardian_process", self._argument], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], 20.0)
        if not ready:
            self.kill()  # a test that fails here leaves no process behind
        assert ready, "the guardian did not start"
        assert self.process.stdout.readline() == "ready\n"
        return self

    def kill(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(5)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(5)


async def _main(given: dict[str, Any]) -> None:
    url = given["database_url"]
    db = await Database.lazy(url, application="guardian") if url else None
    venues: dict[str, Venue] = {"ccxt": venue_on(given["exchange"], **given["venue"])} if given["exchange"] else {}
    guardian = guardian_with(venues, Path(given["folder"]), db, Timing(**given["timing"]), bridge=given["bridge"])
    await guardian.start()
    print("ready", flush=True)
    await guardian.run()


if __name__ == "__main__":
    asyncio.run(_main(json.loads(sys.argv[1])))
