"""Rows of NinjaTrader bridges for the venue `ninja`, fenced by the order manager's lease, and their wake-ups."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from fks.clock import Clock
from fks.clock.waiting import end_task, wait_for_event
from fks.model.ninja import NinjaRequest
from fks.model.ports import Lease
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.ninja import NinjaStore, events_topic, requests_topic


class NinjaRows(NinjaStore):
    """Implements `fks.trading.venues.ninja.rows.Rows`. A lost wake-up costs its waiter its time-out, never a row."""

    def __init__(self, db: Database, bus: Bus, lease: Lease | None, clock: Clock) -> None:
        super().__init__(db, lease)
        self._bus, self._clock = bus, clock
        self._woken: dict[str, asyncio.Event] = {}
        self._listeners: dict[str, asyncio.Task[None]] = {}

    async def ask(self, request: NinjaRequest, now_ns: int | None = None) -> bool:
        is_stored = await super().ask(request, self._clock.now_ns() if now_ns is None else now_ns)
        if is_stored:
            await self._bus.publish(requests_topic(request.group), {"id": request.id})
        return is_stored

    async def withdraw(self, id: str, now_ns: int | None = None) -> bool:
        return await super().withdraw(id, self._clock.now_ns() if now_ns is None else now_ns)

    async def wait(self, group: str, timeout_s: float) -> None:
        woken = self._woken.setdefault(group, asyncio.Event())
        if group not in self._listeners:
            self._listeners[group] = asyncio.create_task(self._listen(group), name=f"ninja {group} wake-ups")
        if await wait_for_event(woken, timeout_s):
            woken.clear()

    async def close(self) -> None:
        """End the listening tasks."""
        for task in self._listeners.values():
            await end_task(task)
        self._listeners.clear()

    async def _listen(self, group: str) -> None:
        messages: AsyncIterator[object] = self._bus.subscribe(events_topic(group))
        async for _ in messages:
            self._woken[group].set()
