"""Actor of a strategy worker: one shard of the strategy instances, one isolated instance, or all challengers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fks.model.health import Check
from fks.system.process.crash_files import last_crash_file
from fks.system.runtime import Component

if TYPE_CHECKING:
    from fks.trading.strategy_worker.worker import StrategyWorker

SHADOW_NICE = 10  # a champion that wants the processor too gets nine times as much of it


class StrategyActor:
    """Turns sealed bars into signals for the instances of its shard.

    Hard state: strategy_instances (cursor, anchor), signals. Soft state: bar columns. Guarantees: signals are committed
    together with the cursor, so a restart repeats no signal and skips no bar. The worker of the challengers writes
    challengers and challenger_decisions instead, and never a signal.
    """

    MODULES = ("fks.trading.strategy_worker.worker",)

    def __init__(self, component: Component, args: tuple[str, ...]) -> None:
        self._component = component
        # ("solo", instance id), ("shadow",) of the challengers, else (shard,)
        self._is_shadow, is_solo = args[0] == "shadow", args[0] == "solo"
        self._only = args[1] if is_solo else None
        self._shard = 0 if is_solo or self._is_shadow else int(args[0])
        self._worker: StrategyWorker | None = None

    async def start(self) -> None:
        """Load the instances and replay sealed bars from their anchors. Raising is a failed start."""
        from fks.trading.strategy_worker.worker import StrategyWorker

        c = self._component
        if self._is_shadow:
            os.nice(SHADOW_NICE)
        self._worker = StrategyWorker(
            c.runtime,
            self._shard,
            home=c.paths.home,
            only=self._only,
            is_shadow=self._is_shadow,
            crash_file=last_crash_file(c.paths, c.name),
        )
        await self._worker.start()

    async def run(self) -> None:
        """Evaluate bars as they seal until cancelled."""
        assert self._worker is not None
        await self._worker.run()

    async def drain(self) -> None:
        """Finish the bars in progress and commit their signals."""
        if self._worker is not None:
            await self._worker.drain()

    async def stop(self) -> None:
        """Nothing is held that the database does not hold."""
        if self._worker is not None:
            await self._worker.stop()

    @property
    def is_ready(self) -> bool:
        return self._worker is not None and self._worker.is_ready

    def problems(self) -> Sequence[Check]:
        """Return instances that do not advance though there are bars for them, and tables that cannot be read."""
        return self._worker.problems() if self._worker else ()

    def detail(self) -> Mapping[str, object]:
        """Return the instances and their cursors."""
        return self._worker.detail() if self._worker else {}
