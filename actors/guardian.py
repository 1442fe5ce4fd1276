"""Actor of the guardian: the kill switch in a process of its own (G5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fks.model.health import Check
from fks.system.runtime import Component
from fks.trading.guardian.self_checks import guardian_problems

if TYPE_CHECKING:
    from fks.trading.guardian.service import Guardian


class GuardianActor:
    """Cancels and flattens even while the order manager hangs and PostgreSQL is down.

    Hard state: its own fsynced file, merged into the tables later. Soft state: venue sessions, cached positions.
    Guarantees: a restart in the middle of a kill continues from the file and sends no order twice.
    """

    MODULES = ("fks.trading.guardian.service", "fks.trading.venues.registry", "fks.trading.venues.binance.session")

    def __init__(self, component: Component, args: tuple[str, ...]) -> None:
        self._component = component
        self._guardian: Guardian | None = None

    async def start(self) -> None:
        """Open the venue sessions and the socket. Raising is a failed start."""
        import uuid
        from functools import partial

        from fks.config.endpoints import NodeEndpoints
        from fks.market.exchanges.registry import rate_limits_of
        from fks.store.credentials import CredentialStore
        from fks.system.rate_limits.venue_budgets import venue_budget
        from fks.trading.credentials.carrier import CarriedKeys, KeyCarrier
        from fks.trading.credentials.opening import carried_venues
        from fks.trading.guardian.bridges import BridgeFiles
        from fks.trading.guardian.context import GuardianContext
        from fks.trading.guardian.lease import is_machine_alone, is_placed_here
        from fks.trading.guardian.ninja_session import NinjaSession
        from fks.trading.guardian.service import Guardian
        from fks.trading.guardian.timing import Timing
        from fks.trading.venues.registry import Making, limits_of

        c = self._component

        def making_of(carried: CarriedKeys, node: NodeEndpoints) -> Making:
            exchange, address, key = limits_of(carried.settings, node)
            limits = rate_limits_of(c.settings, exchange)
            return Making(
                settings=carried.settings,
                node=node,
                clock=c.clock,
                log=c.log,
                role="guardian",
                budget=venue_budget(c.bus, c.clock, exchange, address, key, limits=limits, is_guardian=True),
                is_key_stored=carried.held is not None,
                is_key_in_use=carried.is_in_use,
            )

        carrier = KeyCarrier.of("guardian", c, CredentialStore(c.db))
        venues, watches = await carried_venues(c.name, carrier, c.node, making_of)
        context = GuardianContext(c.clock, c.log, c.meter, Timing.of(c.settings), c.db, c.bus)
        files = BridgeFiles(c.settings, c.paths.home, c.log)
        self._guardian = Guardian(
            context,
            venues,
            kill_file=c.paths.kill_file,
            reserve=c.paths.reserve_file,
            socket_path=c.paths.guardian_socket,
            side_journal=c.paths.side_journal,
            takes_over=is_machine_alone(c.settings),
            exchanges=c.settings.venues_at_exchanges(),
            is_placed=is_placed_here(c.settings),
            credentials=watches,
            bridges=[
                NinjaSession(context, files.address(name), lambda: uuid.uuid4().hex, partial(files.changed, name))
                for name in files.groups
            ],
        )
        await self._guardian.start()

    async def run(self) -> None:
        """Work until cancelled."""
        assert self._guardian is not None
        await self._guardian.run()

    async def stop(self) -> None:
        """Close the socket and the sessions; an engaged kill stays engaged."""
        if self._guardian is not None:
            await self._guardian.stop()

    @property
    def is_ready(self) -> bool:
        return self._guardian is not None and self._guardian.is_ready

    def problems(self) -> Sequence[Check]:
        """Return venues without a session, a kill file that cannot be written, tables that cannot be read, a stuck
        loop."""
        return guardian_problems(self.detail(), stuck_max_s=self._component.settings.supervision.stuck_max_s)

    def detail(self) -> Mapping[str, object]:
        """Return the kill state and the sessions."""
        return self._guardian.detail() if self._guardian else {}
