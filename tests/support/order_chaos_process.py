"""Order managers in processes of their own that are killed: `Child(live, job)`.

The job: database_url, redis_url, exchange (a LocalExchange's info), kill_file (the guardian's), side (a path; without
it there is no side journal), session ("own" or "ccxt"), label and count of the crash point (label "" for none),
settings (overrides of `venue`), step_s and step_after_s (by how much its wall clock is set, so long after it is
ready), postgres (the pid of a postmaster), postgres_at ("fill" or "cancel": kill -9 it once an execution is on disk, or
once a leg's cancel is acknowledged) and postgres_after_s (not before it is ready for so long). It prints {"ready":
true} once entries may go everywhere, {"stepped": seconds}, {"acted": label} right before it kills itself (-9) at its
point, {"logged": event} for each error in its log, and {"failed": exception} when it ends by itself.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

from fks.config.settings import Http, Risk, Settings, VenueSettings
from fks.model.order import Answer, Order, Outcome, Role
from fks.store.bus import Bus
from fks.store.db import Database
from fks.trading.orders.crash_points import At, nowhere
from fks.trading.venues.binance.config import SessionConfig
from fks.trading.venues.binance.session import BinanceVenue
from fks.trading.venues.binance.venue import SpotVenue
from fks.trading.venues.ccxt import CcxtVenue
from tests.support.crash_points import CrashPoints
from tests.support.fast_clock import FastClock
from tests.support.order_rig import Rig
from tests.support.outage_rig import OutageRig
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
    notional_max_order=10**9,
    orders_per_minute=100_000,
    exposure_max_account=10**9,
    exposure_max_instrument=10**9,
    orders_open_max=100_000,
    loss_day_max=10**9,
)


def say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


class ReportingLog(CollectingLog):
    """A log that sends its errors to the test. Pages are rows already."""

    def error(self, event: str, **fields: object) -> None:
        super().error(event, **fields)
        if "severity" not in fields:
            say({"logged": event, "fields": {name: str(value) for name, value in fields.items()}})


def point_of(job: dict[str, Any]) -> At:
    """Return what is called at the labelled points."""
    if job.get("postgres_at") == "fill":
        return lambda label: kill_postgres(job) if label == "fill.after" else None
    if not job.get("label"):
        return nowhere

    def act() -> None:
        say({"acted": job["label"]})
        os.kill(os.getpid(), signal.SIGKILL)

    return CrashPoints(job["label"], int(job.get("count", 1)), act)


def kill_postgres(job: dict[str, Any]) -> None:
    """kill -9, once, and not before the order manager is ready for so long."""
    if job.get("may_kill") and (pid := job.pop("postgres", 0)):
        os.kill(pid, signal.SIGKILL)


def killing(venue: SpotVenue, job: dict[str, Any]) -> SpotVenue:
    """Return a session that kills PostgreSQL when a leg's cancel was acknowledged, before anybody knows of it."""
    cancel = venue.cancel

    async def cancel_and_kill(order: Order) -> Answer:
        answer = await cancel(order)
        if order.role in (Role.STOP_LOSS, Role.TAKE_PROFIT) and answer.outcome is Outcome.ACK:
            kill_postgres(job)
        return answer

    venue.cancel = cancel_and_kill  # type: ignore[method-assign]
    return venue


async def live(job: dict[str, Any]) -> None:
    """Be an order manager on the local exchange until killed."""
    try:
        await _work(job)
    except BaseException as error:
        say({"failed": repr(error)})
        raise


async def _work(job: dict[str, Any]) -> None:
    settings = Settings(
        venue=VenueSettings(**(VENUE | job.get("settings", {}))), risk=RISK, http=Http(order_wait_s=10.0)
    )
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
    log = ReportingLog()
    clock = FastClock()
    venue: SpotVenue = SESSIONS[job.get("session", "own")](config, clock, log)
    if job.get("postgres_at") == "cancel":
        venue = killing(venue, job)
    made = OutageRig if job.get("side") else Rig
    rig = made(db, bus, ScriptedVenue(), settings, venues={"ccxt": venue}, log=log, at=point_of(job), clock=clock)
    if isinstance(rig, OutageRig):
        rig.side = Path(job["side"])
    if job.get("kill_file"):
        rig.kill_path = Path(job["kill_file"])
    await rig.start(wait_ready=False)
    assert rig.task is not None
    while not rig.task.done() and not rig.service.is_ready:
        await asyncio.sleep(0.02)
    say({"ready": True})
    await asyncio.sleep(job.get("postgres_after_s", 0))
    job["may_kill"] = True
    if "step_s" in job:
        await asyncio.sleep(job["step_after_s"])
        clock.step(job["step_s"])
        say({"stepped": job["step_s"]})
    await rig.task
