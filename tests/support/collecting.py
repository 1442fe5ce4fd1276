"""A collector on real parts for tests; `python -m tests.support.collecting …` is one in a process of its own, to
kill."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast

from fks.clock import RealClock
from fks.collector.collector import Collector
from fks.config.settings import Data, Settings
from fks.exchanges.base import Endpoint
from fks.exchanges.registry import endpoint_of, make_exchange
from fks.feed.feed import SymbolFeed
from fks.model.ports import Lease
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.leases import HeldLease
from tests.support.ports import CollectingLog, RecordingMeter

NAME = "collector:binance"
LEASE_S = 3.0


@dataclass(frozen=True)
class Held:
    """A lease that holds."""

    name: str
    epoch: int

    def holds(self) -> bool:
        return True


def settings_for(info: dict[str, Any], **data: Any) -> Settings:
    """Return settings that collect from the exchange `info` describes, with the short waits of the test profile."""
    return Settings(data=Data(rest_url=info["rest"], ws_url=info["ws"], **{"stale_min_s": 2.0, **data}))


def make_collector(
    settings: Settings,
    db: Database,
    bus: Bus,
    log: CollectingLog,
    *,
    epoch: int = 1,
    meter: RecordingMeter | None = None,
    lease: Lease | None = None,
) -> Collector:
    """Return a collector, not started."""
    clock = RealClock()
    assert endpoint_of(settings, None) != Endpoint()
    exchange = make_exchange("binance", settings=settings, node=None, clock=clock, log=log)
    return Collector(exchange, db, bus, clock, meter or RecordingMeter(), log, settings, lease or Held(NAME, epoch))


@contextlib.asynccontextmanager
async def running(collector: Collector, *, is_clean: bool = True) -> AsyncIterator[Collector]:
    """Start and run it; at the end stop it, or leave as kill -9 would (nothing more is written)."""
    await collector.start()
    task = asyncio.create_task(collector.run())
    try:
        yield collector
    finally:
        task.cancel()
        await asyncio.wait({task}, timeout=8)
        assert task.done(), f"it did not end: {[(t, t.get_stack()) for t in asyncio.all_tasks()]}"
        if not task.cancelled() and task.exception() is not None:
            raise task.exception()  # type: ignore[misc]
        if is_clean:
            await collector.stop()
        else:
            await collector._exchange.close()


async def _main(spec: dict[str, Any]) -> None:
    db = await Database.connect(spec["database"], application="collecting")
    bus = await Bus.connect(spec["redis"])
    log = CollectingLog(lines=Told())
    _tell_vouching(log)
    lease = HeldLease(
        db, RealClock(), name=NAME, epoch=spec["epoch"], holder="test", ttl_s=LEASE_S, renew_s=LEASE_S / 3
    )
    await lease.renew()
    collector = make_collector(
        settings_for(spec["info"], **spec["data"]),
        db,
        bus,
        log,
        epoch=spec["epoch"],
        meter=cast(RecordingMeter, NoMeter()),
        lease=lease,
    )
    await collector.start()
    async with asyncio.TaskGroup() as group:
        group.create_task(lease.keep())
        group.create_task(collector.run())


class Newest(list[Any]):
    """A log that holds the newest lines only: what runs for an hour must not grow by what it says."""

    def append(self, line: Any) -> None:
        super().append(line)
        if len(self) > 1000:
            del self[:500]


class Told(Newest):
    """Lines that are also written to stderr, each with its time: why a feed was live is known afterwards."""

    def append(self, line: Any) -> None:
        super().append(line)
        print(time.time_ns(), *line, file=sys.stderr, flush=True)


def _tell_vouching(log: CollectingLog) -> None:
    """Have each proof that nothing is missing told, too."""
    vouch = SymbolFeed.vouch

    def told(feed: SymbolFeed, now_s: float) -> None:
        log.debug("feed.vouch", symbol=feed.symbol, is_behind=feed._is_behind, state=str(feed.state))
        vouch(feed, now_s)

    SymbolFeed.vouch = told  # type: ignore[method-assign]


class NoMeter:
    """A Meter that remembers nothing."""

    def count(self, name: str, value: float = 1, **labels: str) -> None: ...
    def gauge(self, name: str, value: float, **labels: str) -> None: ...
    def observe(self, name: str, value: float, **labels: str) -> None: ...


if __name__ == "__main__":
    asyncio.run(_main(json.loads(sys.argv[1])))
