"""Order managers that are killed: one process that has everything imported and forks a new self for each life.

`python -m tests.support.order_chaos_process` reads one JSON object per line: database_url, redis_url, exchange (a
LocalExchange's info), session ("own" or "ccxt"), label and count of the crash point (label "" for none), act: "kill" (kill -9 of itself) or
"database" (kill -9 of the postmaster `postmaster`), settings (overrides of `venue`). Each line is a life. It prints
{"pid": …}, {"ready": true} once entries may go everywhere, and {"ended": status} when that life is over.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Any

from fks.clock import RealClock
from fks.config.settings import Http, Risk, Settings, Venue
from fks.orders.crash_points import At, CrashPoints, nowhere
from fks.store.bus import Bus
from fks.store.db import Database
from fks.venues.binance.config import SessionConfig
from fks.venues.binance.session import BinanceVenue
from fks.venues.ccxt import CcxtVenue
from tests.support.order_rig import Rig
from tests.support.ports import CollectingLog
from tests.support.scripted_venue import ScriptedVenue

VENUE: dict[str, Any] = {
    "order_timeout_s": 0.6,
    "poll_delays_s": (0.05, 0.1, 0.2, 0.4),
    "absent_polls": 3,
    "absent_spacing_s": 0.1,
    "absent_first_s": 0.2,
    "absent_age_s": 1.2,
    "sweep_s": 1.0,
}
SESSIONS = {"own": BinanceVenue, "ccxt": CcxtVenue}
RISK = Risk(
    feed_age_max_s=3600,
    orders_per_minute=100_000,
    exposure_max_account=10**9,
    exposure_max_instrument=10**9,
    orders_open_max=100_000,
    loss_day_max=10**9,
)


def say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


def point_of(job: dict[str, Any]) -> At:
    """Return what is called at the labelled points."""
    if not job.get("label"):
        return nowhere

    def act() -> None:
        if job.get("act", "kill") == "database":
            say({"acted": True})
            os.kill(job["postmaster"], signal.SIGKILL)
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    return CrashPoints(job["label"], int(job.get("count", 1)), act)


async def live(job: dict[str, Any]) -> None:
    """Be an order manager on the local exchange until killed."""
    settings = Settings(venue=Venue(**(VENUE | job.get("settings", {}))), risk=RISK, http=Http(order_wait_s=10.0))
    db = await Database.connect(job["database_url"], application="orders")
    bus, info = await Bus.connect(job["redis_url"]), job["exchange"]
    config = SessionConfig(
        account_id=0,
        order_timeout_s=settings.venue.order_timeout_s,
        read_timeout_s=2.0,
        rest_url=info["rest"],
        ws_url=info["ws"],
        ws_api_url=info["ws_api"],
        api_key=info["api_key"],
        api_secret=info["api_secret"],
    )
    log = CollectingLog()
    venue = SESSIONS[job.get("session", "own")](config, RealClock(), log)
    rig = Rig(db, bus, ScriptedVenue(), settings, venues={"ccxt": venue}, log=log, at=point_of(job))
    await rig.start(wait_ready=False)
    assert rig.task is not None
    while not rig.task.done() and not rig.service.is_ready:
        await asyncio.sleep(0.02)
    say({"ready": True})
    await rig.task


def main() -> int:
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            devnull = os.open(os.devnull, os.O_RDONLY)
            os.dup2(devnull, 0)
            try:
                asyncio.run(live(job))
            except BaseException as error:
                import traceback

                traceback.print_exc()
                say({"failed": repr(error)})
            os._exit(3)
        say({"pid": pid})
        _, status = os.waitpid(pid, 0)
        say({"ended": status})
    return 0


if __name__ == "__main__":
    sys.exit(main())
