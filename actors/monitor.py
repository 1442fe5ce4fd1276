"""Actor of the monitor: metrics of all components, alerts and their delivery, database and Redis."""

from __future__ import annotations

import asyncio

from fks.alerts.channels import Sealer
from fks.alerts.service import AlertService
from fks.monitor.watcher import Watcher
from fks.runtime import Component


class MonitorActor(Watcher):
    """One `Watcher`, and beside it the delivery of alerts: nothing that trades waits for either."""

    def __init__(self, component: Component, args: tuple[str, ...]) -> None:
        super().__init__(component)
        self._alerts = AlertService(
            component.db,
            component.bus,
            component.clock,
            component.log,
            component.meter,
            component.settings,
            Sealer(component.secrets.session_key),
            lease=component.lease,
        )

    async def run(self) -> None:
        """Watch, and deliver alerts, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(super().run(), name="watch")
            tasks.create_task(self._alerts.run(), name="alerts")

    async def stop(self) -> None:
        """Nothing is left to be written: an attempt to send that was under way is made again by the next process."""
