"""Actor of the monitor: metrics of all components, alerts, database and Redis."""

from __future__ import annotations

from fks.monitor.watcher import Watcher
from fks.runtime import Component


class MonitorActor(Watcher):
    """One `Watcher`."""

    def __init__(self, component: Component, args: tuple[str, ...]) -> None:
        super().__init__(component)

    async def stop(self) -> None:
        """Nothing is left to be written."""
