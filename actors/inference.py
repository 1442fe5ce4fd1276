"""Actor of a model: one replica, one process, no credential."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from fks.ai.engines import engine_of
from fks.ai.engines.deployment import Deployment
from fks.ai.engines.queue import InferenceQueue
from fks.system.process.self_checks import memory_mb
from fks.system.runtime import IsolatedComponent


class InferenceActor:
    """Serves the model of its deployment to the gateway, the scheduler and jobs.

    Hard state: none. Soft state: the model, and the requests at work. Guarantees: none beyond each answer's own; it
    reads no table and writes none.
    """

    def __init__(self, component: IsolatedComponent, args: tuple[str, ...]) -> None:
        self._component = component
        self._deployment = Deployment.load(args[0])
        self._engine = engine_of(self._deployment)
        self._queue = InferenceQueue(self._engine, monotonic=component.clock.monotonic)
        self._is_loaded = False

    async def start(self) -> None:
        """Load the model. Raising is a failed start; OutageError, while the server of the model is away, waits."""
        await self._engine.load()
        self._is_loaded = True
        self._component.log.info("model.loaded", model=self._deployment.name, engine=self._deployment.engine)

    async def run(self) -> None:
        """Return never: `call` does the work."""
        await asyncio.Event().wait()

    async def call(self, message: Mapping[str, object]) -> dict[str, object]:
        """Return the answer of the queue to a message."""
        return await self._queue.call(message)

    async def stop(self) -> None:
        """Free the model."""
        await self._engine.close()

    @property
    def is_ready(self) -> bool:
        return self._is_loaded

    def detail(self) -> Mapping[str, object]:
        """Return the model, the memory of the process, and the requests: a process without Redis reports them here."""
        # whole MB: a row that changed is written whole
        return {"model": self._deployment.name, "memory_mb": round(memory_mb()), **self._queue.detail()}
