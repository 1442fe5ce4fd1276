"""Rows of NinjaTrader bridges for the venue `ninja`, fenced by the order manager's lease, and their wake-ups."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from fks.clock import Clock
from fks.clock.waiting import wait_for_event
from fks.model.ninja import LinkRecord, NinjaEvent, NinjaRequest, RequestRecord
from fks.model.ports import Lease
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.ninja import NinjaStore, events_topic, requests_topic


class NinjaRows:
    """Implements `fks.venues.ninja.rows.Rows`. A lost wake-up costs its waiter its time-out, never a row."""

    def __init__(self, db: Database, bus: Bus, lease: Lease | None, clock: Clock) -> None:
        self._store, self._bus, self._clock = NinjaStore(db, lease), bus, clock
        self._woken: dict[str, asyncio.Event] = {}
        self._listeners: dict[str, asyncio.Task[None]] = {}

    async def ask(self, request: NinjaRequest) -> bool:
        is_stored = await self._store.ask(request, self._clock.now_ns())
        if is_stored:
            await self._bus.publish(requests_topic(request.group), {"id": request.id})
        return is_stored

    async def withdraw(self, id: str) -> bool:
        return await self._store.withdraw(id, self._clock.now_ns())

    async def answer_of(self, id: str) -> RequestRecord | None:
        return await self._store.answer_of(id)

    async def link(self, group: str) -> LinkRecord | None:
        return await self._store.link(group)

    async def events_after(self, group: str, epoch: str | None, seq: int, limit: int) -> Sequence[NinjaEvent]:
        return await self._store.events_after(group, epoch, seq, limit)

    async def events_of(self, signal_id: str) -> Sequence[NinjaEvent]:
        return await self._store.events_of(signal_id)

    async def executions(self, group: str, account: str, instrument: str, since_ns: int) -> Sequence[NinjaEvent]:
        return await self._store.executions(group, account, instrument, since_ns)

    async def leg_names(self, group: str, account: str, since_ns: int) -> Sequence[tuple[str, str]]:
        return await self._store.leg_names(group, account, since_ns)

    async def entries(self, account_id: int, venue: str, symbol: str) -> Sequence[tuple[str, str]]:
        return await self._store.entries(account_id, venue, symbol)

    async def wait(self, group: str, timeout_s: float) -> None:
        woken = self._woken.setdefault(group, asyncio.Event())
        if group not in self._listeners:
            self._listeners[group] = asyncio.create_task(self._listen(group), name=f"ninja {group} wake-ups")
        if await wait_for_event(woken, timeout_s):
            woken.clear()

    async def close(self) -> None:
        """End the listening tasks."""
        for task in self._listeners.values():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._listeners.clear()

    async def _listen(self, group: str) -> None:
        messages: AsyncIterator[object] = self._bus.subscribe(events_topic(group))
        async for _ in messages:
            self._woken[group].set()
