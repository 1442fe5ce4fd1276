"""A supervisor of strategy workers in a few lines, in real processes, and a strategy that takes its worker down."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from fks.model.errors import OutageError
from fks.store.challengers import SHADOW_WORKER
from fks.store.db import Database
from fks.store.supervision import TreeJournal
from tests.support import strategy_process
from tests.support.children import Child
from tests.support.strategy_process import lease_name

SILENCE_S = 4.0  # after which this supervisor kills
FATAL = 7.77
DEADLY = """
import faulthandler
import os
import re

import numpy as np
from fks.strategies.base import Decisions, Strategy

class Deadly(Strategy):
    name = "deadly"
    way: str = "exit"
    def warmup(self) -> int:
        return 2
    def decide(self, bars) -> Decisions:
        if 7.77 in bars.close:
            if self.way == "exit":
                os._exit(7)
            if self.way == "segv":
                faulthandler._sigsegv()
            if self.way == "hold":  # for ever, and no other thread gets to run
                re.match("(a+)+$", "a" * 60 + "b")
            while True:
                pass
        return Decisions(np.zeros(len(bars)))
"""


class SmallTree:
    """A supervisor in a few lines: restarts what ends or falls silent, and gives isolated instances workers of their
    own, and the challengers one."""

    def __init__(self, db: Database, urls: tuple[str, str], home: Path) -> None:
        self._db, self._urls, self._home = db, urls, home
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.starts: dict[str, int] = {}
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._tasks["strategy:0"] = asyncio.create_task(self._keep("strategy:0", None))
        self._watch = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """End all workers. Raises what ended a task of this supervisor: a worker that it no longer keeps."""
        assert self._watch is not None
        tasks = [self._watch, *self._tasks.values()]
        for task in tasks:
            task.cancel()
        for found in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(found, Exception):
                raise found

    async def _follow(self) -> None:
        while True:
            with contextlib.suppress(OutageError):  # a statement that is late: the next look, as the supervisor does
                await self._look()
            await asyncio.sleep(0.05)

    async def _look(self) -> None:
        found = await TreeJournal(self._db).wanted()
        wanted = {lease_name(only): only for only in found.isolated}
        wanted |= {SHADOW_WORKER: None} if found.has_challengers else {}
        for name, only in wanted.items():
            if name not in self._tasks:
                self._tasks[name] = asyncio.create_task(self._keep(name, only))
        for name in set(self._tasks) - set(wanted) - {"strategy:0"}:
            self._tasks.pop(name).cancel()

    async def _keep(self, name: str, only: str | None) -> None:
        is_shadow = name == SHADOW_WORKER
        while True:
            self.starts[name] = self.starts.get(name, 0) + 1
            given = (*self._urls, self.starts[name], self._home, only, is_shadow, 3.0)
            process = Child(strategy_process.main, *given, is_read=True)
            try:
                reader, patience = await process.reader(), 15.0
                while await _line(reader, patience):
                    patience = SILENCE_S
            finally:
                process.kill()
                await process.ended()
            crash = self._home / "run" / f"{name}.crash"
            if crash.exists():
                crash.rename(crash.with_suffix(".dump"))


async def _line(stream: asyncio.StreamReader, patience_s: float) -> bytes:
    """Return the next line; nothing when the process ended, or was silent for too long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience_s):
            return await stream.readline()
    return b""
