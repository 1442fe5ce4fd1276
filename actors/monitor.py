"""Actor of the monitor: metrics of all components, alerts and their delivery, commands by chat, database and Redis."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial

from fks.model.errors import OutageError
from fks.model.health import Check
from fks.system.alerts.channels import Sealer
from fks.system.alerts.service import AlertService
from fks.system.monitor.guard import Guard
from fks.system.monitor.watcher import Watcher
from fks.system.process.self_checks import stuck_problems
from fks.system.runtime import Component

CHAT_AGAIN_S = 5.0


class MonitorActor(Watcher):
    """One `Watcher`, and beside it the delivery of alerts and the commands by chat: nothing that trades waits for
    any of them."""

    def __init__(self, component: Component, args: tuple[str, ...]) -> None:
        super().__init__(component)
        self._component = component
        self._alerts = AlertService(
            component.db,
            component.bus,
            component.clock,
            component.log,
            component.meter,
            component.settings,
            Sealer(component.session_key),
            lease=component.lease,
        )

    async def run(self) -> None:
        """Watch, deliver alerts, and take commands, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(super().run(), name="watch")
            tasks.create_task(self._alerts.run(), name="alerts")
            chat = self._component.settings.chat
            if chat.telegram_token is not None or chat.discord_token is not None:
                # imports the gateway's parts, which a node without a bot does not need
                from fks.interfaces.chat.service import services_of

                for name in services_of(chat):
                    tasks.create_task(self._take_commands(name), name=f"chat of {name}")

    async def _take_commands(self, service: str) -> None:
        """Take commands by one service; a fault in that begins it again, and ends nothing else."""
        from fks.interfaces.chat.service import serve

        c = self._component
        guard = Guard("chat", c.log, c.meter)
        while True:
            with contextlib.suppress(OutageError):
                await guard.call("bot", partial(serve, c, service))
            await c.clock.sleep(CHAT_AGAIN_S)

    def problems(self) -> Sequence[Check]:
        """Return what the watcher finds, and a delivery of alerts that is stuck."""
        c = self._component
        silent_s = c.clock.monotonic() - self._alerts.turned_s
        return [*super().problems(), *stuck_problems("alerts", silent_s, c.settings.supervision.stuck_max_s)]

    async def stop(self) -> None:
        """Nothing is left to be written: an attempt to send that was under way is made again by the next process."""
