"""Pages that need neither PostgreSQL nor another process: sent through the channels that were in force last.

For a process whose money is at risk while PostgreSQL is away. The alert's row follows when PostgreSQL is back, and is
routed as any other: the page may come twice.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial

from fks.clock import Clock
from fks.model.backoff import Backoff
from fks.model.errors import OutageError
from fks.model.ports import Log
from fks.system.alerts.channels import AlertChannel, DeliveryResult, Text, send
from fks.system.alerts.directory import Directory
from fks.system.alerts.texts import REPEATED

READ_EVERY_S = 30.0
SEND_MAX_S = 60.0
TRIES_MAX = 8
UNDER_WAY_MAX = 50
RETRY = Backoff(2.0, 60.0)
Sender = Callable[[AlertChannel, Text, str], DeliveryResult]


class DirectPager:
    """Soft state: the channels, and the attempts under way. `run` keeps the channels current."""

    def __init__(self, directory: Directory, clock: Clock, log: Log, *, hosts: tuple[str, ...]) -> None:
        self._directory, self._clock, self._log = directory, clock, log
        self._sender = partial(send, allowed=hosts)
        self._channels: tuple[AlertChannel, ...] = ()
        self._sending: set[asyncio.Task[None]] = set()
        self._number = 0

    async def run(self) -> None:
        """Read the channels now and then, for ever; while PostgreSQL is away the last ones stay."""
        while True:
            with contextlib.suppress(OutageError):
                await self.read()
            await self._clock.sleep(READ_EVERY_S)

    async def read(self) -> None:
        """Read the channels. Errors: OutageError."""
        self._channels = await self._directory.channels()

    def page(self, event: str, message: str) -> None:
        """Send a page to every channel, in tasks of their own. Never waits."""
        self._number += 1
        for channel in self._channels:
            if not channel.is_enabled or len(self._sending) >= UNDER_WAY_MAX:
                continue
            text = Text(f"\N{POLICE CARS REVOLVING LIGHT} PAGE: {event}", f"{message}\nPostgreSQL is away")
            task = asyncio.create_task(
                self._deliver(channel, text, f"fks-direct-{self._clock.now_ns()}-{self._number}")
            )
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _deliver(self, channel: AlertChannel, text: Text, key: str) -> None:
        wait_s = 0.0
        for attempt in range(TRIES_MAX):
            shown = Text(text.title, f"{text.body}\n{REPEATED}") if attempt else text
            try:
                async with asyncio.timeout(SEND_MAX_S):
                    outcome = await asyncio.to_thread(self._sender, channel, shown, key)
            except TimeoutError:
                outcome = DeliveryResult("unclear", f"no end within {SEND_MAX_S:g} s")
            if outcome.result in ("sent", "refused"):
                break
            wait_s = max(RETRY.next_s(wait_s), outcome.retry_after_s or 0.0)
            await self._clock.sleep(wait_s)
        self._log.warning("page.sent_directly", channel=channel.name, outcome=outcome.result, error=outcome.error)
