"""Actor of a link to the bridge of one account group: requests of rows out, answers and events into rows."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fks.model.errors import ConfigError, OutageError
from fks.model.health import Check
from fks.model.ninja import MT5, PLATFORMS
from fks.system.runtime import Component

if TYPE_CHECKING:
    from fks.bridge.ninja_link.secret_file import SecretWait
    from fks.bridge.ninja_link.service import LinkPorts, NinjaLink

OUTAGE_S = 1.0  # after PostgreSQL did not answer


class NinjaActor:
    """Holds the session with the bridge of one account group, of the platform that the component is named after.

    Hard state: ninja_requests, ninja_events, ninja_links. Soft state: the socket. Guarantees: a line is committed
    before its first byte leaves; an event is committed before the bridge is acknowledged, and stored once.
    """

    MODULES = ("fks.bridge.ninja_link.service", "fks.store.ninja", "fks.store.facts")

    def __init__(self, component: Component, args: tuple[str, ...]) -> None:
        self._component = component
        self._platform, self._group = PLATFORMS[component.name.partition(":")[0]], args[0]
        self._key = self._platform.key(self._group)  # in the tables
        self._link: NinjaLink | None = None
        self._ports: LinkPorts | None = None
        self._waiting: SecretWait | None = None

    async def start(self) -> None:
        """Read the stored state and take over what may have been sent. Raising is a failed start; a secret that cannot
        be used is none: `run` waits for it."""
        from fks.bridge.ninja_link.secret_file import SecretWait, load_secret
        from fks.bridge.ninja_link.service import LinkPorts
        from fks.store.facts import FactStore
        from fks.store.ninja import NinjaStore, events_topic

        c, name = self._component, self._group
        assert c.lease is not None
        platform, key = self._platform, self._key
        group = c.settings.links(platform).get(name)
        if group is None:
            remedy = "set mt5.group" if platform is MT5 else f"write [ninja.groups.{name}]"
            raise ConfigError(f"no group {name!r} in [{platform.name}]", remedy=f"{remedy}, or restart FKS")
        self._ports = ports = LinkPorts(
            NinjaStore(c.db, c.lease),
            FactStore(c.db),
            lambda: c.bus.publish(events_topic(key), {"group": key}),
            c.clock,
            c.log,
            c.meter,
            c.lease,
        )
        self._waiting = SecretWait(
            name, lambda: load_secret(group.secret_file, c.paths.home, group.host, platform), ports, platform
        )
        secret = await self._waiting.look()
        if secret is not None:
            self._link = await self._started(secret)

    async def run(self) -> None:
        """Wait for the secret, then keep the link and look at the rows whenever a request is published, until
        cancelled."""
        if self._link is None:
            self._link = await self._awaited()
        link = self._link
        waking = asyncio.create_task(self._wake(link))
        try:
            await link.run()
        finally:
            waking.cancel()

    async def _awaited(self) -> NinjaLink:
        """Return a started link once the secret can be used and PostgreSQL answers."""
        assert self._waiting is not None
        while True:
            secret = await self._waiting.secret()
            try:
                return await self._started(secret)
            except OutageError as error:
                self._component.log.warning("actor.waits", error=str(error))
                await self._component.clock.sleep(OUTAGE_S)

    async def _started(self, secret: bytes) -> NinjaLink:
        """Return a link that has read the stored state. Errors: OutageError, StaleEpochError."""
        from fks.bridge.ninja_link.service import LinkOptions, NinjaLink

        assert self._ports is not None
        group = self._component.settings.links(self._platform)[self._group]
        options = LinkOptions(
            self._group, group.host, group.port, group.timeout_s, secret, group.required, self._platform,
            group.line_mac,
        )  # fmt: skip
        link = NinjaLink(options, self._ports)
        await link.start()
        return link

    async def _wake(self, link: NinjaLink) -> None:
        from fks.store.ninja import requests_topic

        async for _ in self._component.bus.subscribe(requests_topic(self._key)):
            link.wake()

    async def drain(self) -> None:
        """Send nothing new, store what was received, and close the session."""
        if self._link is not None:
            await self._link.drain()

    async def stop(self) -> None:
        """Nothing is left: `drain` closed the session, and the bridge sends unstored events again."""

    @property
    def is_ready(self) -> bool:
        return self._link is not None and self._link.is_ready

    def problems(self) -> Sequence[Check]:
        """Return a secret that cannot be used, rows that cannot be written, a session that was taken, a required
        platform that cannot trade."""
        of = self._link or self._waiting
        return of.problems() if of else ()

    def detail(self) -> Mapping[str, object]:
        """Return connection, ability to trade, kill latch, accounts."""
        of = self._link or self._waiting
        return of.detail() if of else {"group": self._key}
