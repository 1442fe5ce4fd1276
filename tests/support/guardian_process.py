"""A guardian as a process of its own, for tests that kill -9 it."""

from __future__ import annotations

import os
import select
import signal
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fks.clock import RealClock
from fks.model.ninja import PLATFORMS
from fks.model.ports import Venue
from fks.store.db import Database
from fks.trading.guardian.context import GuardianContext
from fks.trading.guardian.ninja_session import GroupBridge, NinjaSession
from fks.trading.guardian.service import Guardian
from fks.trading.guardian.timing import Timing
from fks.trading.orders.absence import AbsenceRule
from fks.trading.venues.binance.config import SessionConfig as CcxtConfig
from fks.trading.venues.binance.session import BinanceVenue as CcxtVenue
from tests.support.children import Child
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
    absence=AbsenceRule(spacing_s=0.2, first_s=0.2, age_s=1.0),
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
    exchanges: Mapping[str, str] | None = None,
) -> Guardian:
    """Return an unstarted guardian with its files in `folder`. `exchanges`: those of the venues. `bridge`: group, port, secret and platform (ninja) of a bridge."""
    context = GuardianContext(RealClock(), CollectingLog(), RecordingMeter(), timing, db)
    platform = PLATFORMS[(bridge or {}).get("platform", "ninja")]
    address = bridge and GroupBridge(
        bridge["group"], "127.0.0.1", bridge["port"], bridge["secret"].encode(), 2.0, platform=platform
    )
    return Guardian(
        context,
        venues,
        kill_file=folder / "kill.jsonl",
        reserve=folder / "disk.reserve",
        socket_path=folder / "g.sock",
        side_journal=folder / "orders.jsonl",
        is_placed=is_placed,
        takes_over=takes_over,
        exchanges=exchanges,
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
        self._given = {
            "exchange": exchange and exchange.info,
            "bridge": bridge,
            "folder": folder,
            "database_url": database_url,
            "venue": venue,
        }
        self.process: Child | None = None

    def start(self) -> GuardianProcess:
        self.process = Child(_main, self._given, is_read=True)
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
    guardian = guardian_with(venues, given["folder"], db, bridge=given["bridge"])
    await guardian.start()
    print("ready", flush=True)
    await guardian.run()
