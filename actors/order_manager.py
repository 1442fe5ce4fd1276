"""The order manager's actor: signals in, orders out, positions from fills."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fks.model.health import Problem
from fks.monitor.component import Component

if TYPE_CHECKING:
    from fks.execution.orders import OrderService


class OrderManagerActor:
    """Turns signals into orders at the venues, and keeps knowing what became of them.

    Hard state: signals, orders, order_events, trades, positions. Soft state: venue sessions, the open-order map.
    Guarantees: an order is on disk before its bytes leave and is sent at most once; every signal has one outcome; no
    entry before the venue is reconciled.
    """

    MODULES = ("fks.execution.orders", "fks.execution.guardian", "fks.venues.registry", "fks.venues.ccxt")

    def __init__(self, component: Component, args: tuple[str, ...]) -> None:
        self._component = component
        self._service: OrderService | None = None

    async def start(self) -> None:
        """Replay the journal and open the venue sessions. Raising is a failed start."""
        from fks.execution.guardian import read_kill
        from fks.execution.orders import OrderService
        from fks.venues.registry import make_venues

        c = self._component
        assert c.lease is not None
        venues = make_venues(
            role="orders", settings=c.settings, node=c.node, secrets=c.secrets, clock=c.clock, log=c.log,
            may_send=c.lease.holds,
        )  # fmt: skip

        def is_killed() -> bool:
            try:
                return read_kill(c.paths.kill_file) is not None
            except OSError:  # it is there and cannot be read: nobody knows, so entries are denied
                return True

        self._service = OrderService(
            db=c.db, bus=c.bus, venues=venues, settings=c.settings, clock=c.clock, meter=c.meter, log=c.log,
            lease=c.lease, is_killed=is_killed,
        )  # fmt: skip
        await self._service.start()

    async def run(self) -> None:
        """Work signals and venue events until cancelled."""
        assert self._service is not None
        await self._service.run()

    async def drain(self) -> None:
        """Decide nothing new, finish what is being sent, flush the journal."""
        if self._service is not None:
            await self._service.drain()

    async def stop(self) -> None:
        """Send nothing more, commit what is in hand, close the sessions."""
        if self._service is not None:
            await self._service.stop()

    @property
    def is_ready(self) -> bool:
        return self._service is not None and self._service.is_ready

    def problems(self) -> Sequence[Problem]:
        """Return a journal that is down, venues that are away, signals that wait too long."""
        return self._service.problems() if self._service else ()

    def detail(self) -> Mapping[str, object]:
        """Return what status shows: open and unknown orders, venue states."""
        return self._service.detail() if self._service else {}
