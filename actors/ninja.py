"""Actor of a link to one NinjaTrader bridge: requests of rows out, answers and events into rows."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fks.model.errors import ConfigError
from fks.model.health import FailedCheck
from fks.runtime import Component

if TYPE_CHECKING:
    from fks.ninja_link.service import NinjaLink


class NinjaActor:
    """Holds the session with the bridge of one account group.

    Hard state: ninja_requests, ninja_events, ninja_links. Soft state: the socket. Guarantees: a line is committed
    before its first byte leaves; an event is committed before the bridge is acknowledged, and stored once.
    """

    MODULES = ("fks.ninja_link.service", "fks.store.ninja", "fks.store.facts")

    def __init__(self, component: Component, args: tuple[str, ...]) -> None:
        self._component = component
        self._group = args[0]
        self._link: NinjaLink | None = None

    async def start(self) -> None:
        """Read the stored state and take over what may have been sent. Raising is a failed start."""
        from fks.ninja_link.secret_file import load_secret
        from fks.ninja_link.service import LinkOptions, LinkPorts, NinjaLink
        from fks.store.facts import Facts
        from fks.store.ninja import NinjaStore, events_topic

        c, name = self._component, self._group
        assert c.lease is not None
        group = c.settings.ninja.links().get(name)
        if group is None:
            raise ConfigError(f"no group {name!r} in [ninja]", remedy=f"write [ninja.groups.{name}], or restart FKS")
        secret = load_secret(group.secret_file, c.paths.home, group.host)
        options = LinkOptions(name, group.host, group.port, group.timeout_s, secret, group.required)
        ports = LinkPorts(
            NinjaStore(c.db, c.lease),
            Facts(c.db),
            lambda: c.bus.publish(events_topic(name), {"group": name}),
            c.clock,
            c.log,
            c.meter,
            c.lease,
        )
        link = NinjaLink(options, ports)
        await link.start()
        self._link = link

    async def run(self) -> None:
        """Keep the link, and look at the rows whenever a request is published, until cancelled."""
        assert self._link is not None
        waking = asyncio.create_task(self._wake(self._link))
        try:
            await self._link.run()
        finally:
            waking.cancel()

    async def _wake(self, link: NinjaLink) -> None:
        from fks.store.ninja import requests_topic

        async for _ in self._component.bus.subscribe(requests_topic(self._group)):
            link.wake()

    async def drain(self) -> None:
        """Send nothing new, store what was received, and close the session."""
        if self._link is not None:
            await self._link.drain()

    async def stop(self) -> None:
        """Nothing is left: `drain` closed the session, and what was not stored the bridge sends again."""

    @property
    def is_ready(self) -> bool:
        return self._link is not None and self._link.is_ready

    def problems(self) -> Sequence[FailedCheck]:
        """Return rows that cannot be written, a session that was taken, a required platform that cannot trade."""
        return self._link.problems() if self._link else ()

    def detail(self) -> Mapping[str, object]:
        """Return connection, ability to trade, kill latch, accounts."""
        return self._link.detail() if self._link else {"group": self._group}
