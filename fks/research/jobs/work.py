"""Context of a job while it runs: its data, its progress, and whether it is to stop."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from pathlib import Path

from fks.ai.engines.port import InferenceCall
from fks.config.endpoints import NodeEndpoints
from fks.config.settings import Settings
from fks.research.jobs.backtest import BarsRequest, LoadedBars
from fks.research.jobs.bars import load_stored
from fks.store.columns import ColumnCache
from fks.store.db import Database


class Cancelled(Exception):
    """A person cancelled the job, or it was given to another runner."""


class JobWork:
    """Context of a job's own thread: data through the loop, and progress to report.

    `advance` raises Cancelled after the job was cancelled; a kind calls it as often as it can. A kind that runs on the
    loop uses `db` and checks `stop`.
    """

    def __init__(
        self,
        db: Database,
        loop: asyncio.AbstractEventLoop,
        folder: Path,
        settings: Settings,
        node: NodeEndpoints | None,
        inference: InferenceCall | None = None,
        gpus: int = 0,
    ) -> None:
        """`inference`: to the processes of models; None where they cannot be reached. `gpus`: reserved for the
        process."""
        self.folder, self.db, self.settings, self.node, self.inference = folder, db, settings, node, inference
        self.share, self.gpus = 0.0, gpus
        self.stop = threading.Event()
        self._loop = loop

    def advance(self, share: float) -> None:
        self.share = max(self.share, share)
        if self.stop.is_set():
            raise Cancelled

    def load_bars(self, request: BarsRequest) -> LoadedBars:
        columns = None if self.node is None else ColumnCache.of(self.db, self.settings)
        loading = load_stored(self.db, request, columns)
        future: Future[LoadedBars] = asyncio.run_coroutine_threadsafe(loading, self._loop)
        return future.result()
