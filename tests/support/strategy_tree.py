"""A supervisor of strategy workers in a few lines, in real processes, and a strategy that takes its worker down."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path

from fks.store.challengers import SHADOW_WORKER
from fks.store.db import Database
from fks.store.supervision import TreeJournal
from tests.support.strategy_process import lease_name

ROOT = Path(__file__).parents[2]
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
        for task in (self._watch, *self._tasks.values()):
            assert task is not None
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            wanted = await TreeJournal(self._db).wanted()
            isolated, has_challengers = wanted.isolated, wanted.has_challengers
            wanted = {lease_name(only): only for only in isolated} | ({SHADOW_WORKER: None} if has_challengers else {})
            for name, only in wanted.items():
                if name not in self._tasks:
                    self._tasks[name] = asyncio.create_task(self._keep(name, only))
            for name in set(self._tasks) - set(wanted) - {"strategy:0"}:
                self._tasks.pop(name).cancel()
            await asyncio.sleep(0.05)

    async def _keep(self, name: str, only: str | None) -> None:
        is_shadow = name == SHADOW_WORKER
        while True:
            self.starts[name] = self.starts.get(name, 0) + 1
            given = json.dumps({"home": str(self._home), "only": only, "shadow": is_shadow, "evaluate_s": 3.0})
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tests.support.strategy_process",
                *self._urls,
                str(self.starts[name]),
                given,
                cwd=ROOT,
                stdout=asyncio.subprocess.PIPE,
            )
            assert process.stdout is not None
            try:
                patience = 15.0
                while await _line(process.stdout, patience):
                    patience = SILENCE_S
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
            crash = self._home / "run" / f"{name}.crash"
            if crash.exists():
                crash.rename(crash.with_suffix(".dump"))


async def _line(stream: asyncio.StreamReader, patience_s: float) -> bytes:
    """Return the next line; nothing when the process ended, or was silent for too long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience_s):
            return await stream.readline()
    return b""
