"""One leased role as a process of its own that stops itself (SIGSTOP) at a chosen point, to be continued as a zombie.

Given: role (orders, strategy, collector), database_url, redis_url, epoch, application, stop_at, exchange (a
LocalExchange's info), home. It holds a real lease and keeps it, as the Shell does, and ends with 3 when a newer epoch
owns it. Prints "ready" when it works.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
from collections.abc import Callable
from typing import Any

from fks.clock import RealClock
from fks.market.collector.collector import Collector
from fks.market.exchanges.registry import make_exchange
from fks.model.errors import StaleEpochError
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.feeds import FeedStore
from fks.store.leases import HeldLease
from fks.store.orders import OrderJournal
from fks.store.strategies import StrategyStore
from fks.system.runtime import Runtime
from fks.trading.order_manager.service import OrderManager
from fks.trading.order_manager.submission import Submissions
from fks.trading.strategy_worker.worker import StrategyWorker
from fks.trading.venues.ccxt import CcxtConfig, CcxtVenue
from tests.support.collecting import settings_for
from tests.support.order_rig import FAST
from tests.support.ports import CollectingLog, RecordingMeter

TTL_S, RENEW_S = 2.0, 0.5
#: where a process may stop itself: the method and whether before or after it did its work
POINTS: dict[str, tuple[type, str, bool]] = {
    "before the journal": (OrderJournal, "place", False),
    "between journal and bytes": (CcxtVenue, "submit", False),
    "after the bytes": (CcxtVenue, "submit", True),
    "before the answer is written": (Submissions, "record", False),
    "before a cancel's bytes": (CcxtVenue, "cancel", False),
    "before the signals": (StrategyStore, "commit", False),
    "before the bars": (FeedStore, "flush", False),
}


def stop_once(kind: type, name: str, is_after: bool, works: asyncio.Event) -> None:
    """Have the process stop itself the first time `kind.name` is called once it `works`."""
    original: Callable[..., Any] = getattr(kind, name)
    has_stopped = False

    def stop() -> None:
        nonlocal has_stopped
        if works.is_set() and not has_stopped:
            has_stopped = True
            os.kill(os.getpid(), signal.SIGSTOP)

    @functools.wraps(original)
    async def stopping(*args: Any, **named: Any) -> Any:
        if not is_after:
            stop()
        found = await original(*args, **named)
        if is_after:
            stop()
        return found

    setattr(kind, name, stopping)


async def main(given: dict[str, Any]) -> int:
    works = asyncio.Event()
    if given.get("stop_at"):
        stop_once(*POINTS[given["stop_at"]], works)
    db = await Database.connect(given["database_url"], application=given["application"])
    bus, clock, log, meter = await Bus.connect(given["redis_url"]), RealClock(), CollectingLog(), RecordingMeter()
    name = {"orders": "orders", "strategy": "strategy:0", "collector": "collector:binance"}[given["role"]]
    lease = HeldLease(
        db, clock, name=name, epoch=given["epoch"], holder=given["application"], ttl_s=TTL_S, renew_s=RENEW_S
    )
    work: OrderManager | StrategyWorker | Collector
    try:
        await lease.renew()
        keeper = asyncio.create_task(lease.keep())
        if given["role"] == "orders":
            info = given["exchange"]
            config = CcxtConfig(
                order_timeout_s=1.0,
                read_timeout_s=3.0,
                rest_url=info["rest"],
                ws_url=info["ws"],
                ws_api_url=info["ws_api"],
                api_key=info["api_key"],
                api_secret=info["api_secret"],
            )
            venue = CcxtVenue(config, clock, log, lease.holds)
            work = OrderManager(Runtime(FAST, clock, db, bus, log, meter, lease), {"ccxt": venue})
        elif given["role"] == "collector":
            settings = settings_for(given["exchange"], symbols=("BTCUSDT",), timeframes=("1s", "1m"), backfill_bars=5)
            source = make_exchange("binance", settings=settings, node=None, clock=clock, log=log)
            work = Collector(source, Runtime(settings, clock, db, bus, log, meter, lease))
        else:
            work = StrategyWorker(Runtime(FAST, clock, db, bus, log, meter, lease), 0)
        await work.start()
        run = asyncio.create_task(work.run())
        while not work.is_ready:
            await asyncio.sleep(0.02)
        print("ready", flush=True)
        works.set()
        done, _ = await asyncio.wait({run, keeper}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    except StaleEpochError:
        return 3
    return 1
