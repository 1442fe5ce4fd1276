"""A link to a NinjaTrader bridge under test: real rows, a bridge on a real socket, a database that can go away."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fks.bridge.ninja_link.service import LinkOptions, LinkPorts, NinjaLink
from fks.clock import RealClock
from fks.clock.waiting import end_task
from fks.model.errors import OutageError
from fks.model.ninja import NINJA, BridgePlatform, LineMacRule, NinjaRequest, RequestKind, RequestRecord
from fks.store.db import Database
from fks.store.facts import FactStore
from fks.store.leases import raise_epoch
from fks.store.ninja import NinjaStore
from tests.support.ninja import SECRET
from tests.support.ports import CollectingLog, RecordingMeter, TestLease
from tests.support.waiting import until

BODY = {
    "account": "Sim101", "instrument": "ES 03-25", "action": "buy", "qty": 1, "type": "limit", "price": "4500.25",
    "sl_points": "10", "tp_points": "20",
}  # fmt: skip


@dataclass
class Outage:
    """A database that can be away: every call through a `Gated` store then fails. `calls` counts them by name."""

    is_down: bool = False
    calls: Counter[str] = field(default_factory=Counter)


class Gated:
    """A store that raises OutageError while `outage` lasts."""

    def __init__(self, store: Any, outage: Outage) -> None:
        self._store, self._outage = store, outage

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)

        async def gated(*args: Any, **named: Any) -> Any:
            self._outage.calls[name] += 1
            if self._outage.is_down:
                raise OutageError("PostgreSQL does not answer (test)")
            return await call(*args, **named)

        return gated


class LinkRig:
    """One group on one database; `running` is one process of the link after the other."""

    def __init__(
        self,
        db: Database,
        port: int,
        *,
        group: str = "sim",
        secret: bytes = SECRET,
        platform: BridgePlatform = NINJA,
        line_mac: LineMacRule = "auto",
    ) -> None:
        self.db, self.port, self.group, self.secret, self.platform = db, port, group, secret, platform
        self.line_mac: LineMacRule = line_mac
        self.asker = NinjaStore(db)
        self.outage = Outage()
        self.log, self.meter = CollectingLog(), RecordingMeter()
        self.lease = TestLease(platform.link(group), 0)
        self.notified = 0
        self._woken: NinjaLink | None = None

    async def make(self, *, is_required: bool = False) -> NinjaLink:
        """Return a new link, started, with a new epoch."""
        name = self.platform.link(self.group)
        self.lease = TestLease(name, await raise_epoch(self.db, name, "test"))
        options = LinkOptions(
            self.group, "127.0.0.1", self.port, 2.0, self.secret, is_required, self.platform, self.line_mac
        )
        ports = LinkPorts(
            Gated(NinjaStore(self.db, self.lease), self.outage), Gated(FactStore(self.db), self.outage), self._notify,
            RealClock(), self.log, self.meter, self.lease,
        )  # fmt: skip
        link = NinjaLink(options, ports)
        await link.start()
        self._woken = link
        return link

    @contextlib.asynccontextmanager
    async def running(self, *, is_required: bool = False, is_killed: bool = False) -> AsyncIterator[NinjaLink]:
        """Run a new link. `is_killed`: it ends without a drain, as by a signal."""
        link = await self.make(is_required=is_required)
        task = asyncio.create_task(link.run())
        try:
            yield link
            if not is_killed:
                await link.drain()
        finally:
            await end_task(task)

    async def _notify(self) -> None:
        self.notified += 1

    async def ask(
        self, id: str, kind: RequestKind = RequestKind.SIGNAL, /, *, valid_s: float | None = 30.0, **changes: Any
    ) -> None:
        """Store a request and wake the link."""
        fields: Mapping[str, Any] = {**(BODY if kind is RequestKind.SIGNAL else {}), **changes}
        body = {key: value for key, value in fields.items() if value is not None}
        now_ns = time.time_ns()
        until_ns = None if valid_s is None else now_ns + int(valid_s * 1e9)
        assert await self.asker.ask(
            NinjaRequest(id, self.platform.key(self.group), kind, body, "test", until_ns), now_ns
        )
        if self._woken is not None:
            self._woken.wake()

    async def polls(self, count: int = 2) -> None:
        """Wait until the link has looked at the rows so often again, or has tried to."""
        before = self.outage.calls["expire"]
        await until(lambda: self.outage.calls["expire"] >= before + count)

    async def row(self, id: str) -> RequestRecord:
        found = await self.asker.answer_of(id)
        assert found is not None
        return found

    async def alerts(self) -> list[tuple[str, str]]:
        """Return severity and event of the alerts, oldest first."""
        rows = await self.db.sql("SELECT severity, event FROM alerts ORDER BY id")
        return [(row["severity"], row["event"]) for row in rows]
