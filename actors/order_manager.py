"""Actor of the order manager: signals in, orders out, positions from fills."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fks.model.health import Check
from fks.system.runtime import Component

if TYPE_CHECKING:
    from fks.trading.order_manager.ninja_rows import NinjaRows
    from fks.trading.order_manager.service import OrderManager


class OrderManagerActor:
    """Turns signals into orders at the venues, and tracks their outcomes.

    Hard state: signals, orders, order_events, trades, positions. Soft state: venue sessions, the open-order map.
    Guarantees: an order is on disk before its bytes leave and is sent at most once; every signal has one outcome; no
    entry before the venue is reconciled.
    """

    MODULES = (
        "fks.trading.order_manager.service",
        "fks.trading.order_manager.ninja_rows",
        "fks.trading.guardian.service",
        "fks.trading.venues.registry",
        "fks.trading.venues.binance.session",
    )

    def __init__(self, component: Component, args: tuple[str, ...]) -> None:
        self._component = component
        self._service: OrderManager | None = None
        self._ninja: NinjaRows | None = None

    async def start(self) -> None:
        """Replay the journal and open the venue sessions. Raising is a failed start."""
        from fks.config.endpoints import NodeEndpoints
        from fks.market.exchanges.registry import rate_limits_of
        from fks.store.alerting import AlertingStore
        from fks.store.credentials import CredentialStore
        from fks.store.failover import watch_failover
        from fks.system.alerts.channels import Sealer
        from fks.system.alerts.direct import DirectPager
        from fks.system.alerts.directory import Directory
        from fks.system.process.garbage import freeze_loaded
        from fks.system.rate_limits.venue_budgets import venue_budget
        from fks.trading.credentials.carrier import CarriedKeys, KeyCarrier
        from fks.trading.credentials.opening import carried_venues
        from fks.trading.guardian.journal import engaged_kills, kill_mode
        from fks.trading.guardian.lease import is_machine_alone, is_placed_here
        from fks.trading.order_manager.ninja_rows import NinjaRows
        from fks.trading.order_manager.prop_rules import prop_gates
        from fks.trading.order_manager.service import OrderManager
        from fks.trading.order_manager.side_journal import SideJournal
        from fks.trading.orders.sent_ids import SentIds
        from fks.trading.venues.registry import Making, limits_of

        c = self._component
        assert c.lease is not None
        is_alone = is_machine_alone(c.settings)
        hold_s, lease, side = c.settings.orders.outage_hold_s, c.lease, None
        if is_placed_here(c.settings, c.name):
            side = SideJournal(
                c.paths.side_journal,
                lease=lease,
                clock=c.clock,
                kill_file=lambda: kill_mode(c.paths.kill_file),
                hold_s=None if is_alone else hold_s,
                reserve=c.paths.reserve_file,
            )
        history = await watch_failover(
            c.db,
            file=c.paths.database_record,
            lease=c.lease,
            clock=c.clock,
            is_live=c.settings.venue.live,
            arrived_s=None if is_alone else c.settings.venue.absent_age_s,
        )
        if history.change is not None:
            c.log.warning("database.changed", reason=history.change, epoch=c.lease.epoch)
        ninja = self._ninja = NinjaRows(c.db, c.bus, c.lease, c.clock)

        def making_of(carried: CarriedKeys, node: NodeEndpoints) -> Making:
            exchange, address, key = limits_of(carried.settings, node)
            limits = rate_limits_of(c.settings, exchange)
            return Making(
                settings=carried.settings,
                node=node,
                clock=c.clock,
                log=c.log,
                may_send=lease.holds,
                may_protect=lambda: lease.holds() or (side is not None and side.may_send()),
                budget=venue_budget(c.bus, c.clock, exchange, address, key, limits=limits),
                ninja=ninja,
                is_key_stored=carried.held is not None,
                is_key_in_use=carried.is_in_use,
            )

        carrier = KeyCarrier.of("orders", c, CredentialStore(c.db))
        venues, watches = await carried_venues(c.name, carrier, c.node, making_of)
        self._service = OrderManager(
            c.runtime,
            venues,
            kill_file=lambda: engaged_kills(c.paths.kill_file),
            sent=SentIds(history.ask_before_ns),
            side=side,
            hold_s=0.0 if is_alone or c.is_predecessor_gone else hold_s,
            pager=DirectPager(
                Directory(AlertingStore(c.db), c.settings.alerts, Sealer(c.session_key)),
                c.clock,
                c.log,
                hosts=c.settings.alerts.hosts,
            ),
            credentials=watches,
        )
        gates = prop_gates(c.settings, c.paths.home, self._ninja)
        for venue, gate in gates.items():
            if gate.fault:
                c.log.error("risk.prop_rules_unusable", venue=venue, reason=gate.fault)
        self._service.cache.prop = gates
        await self._service.start()
        freeze_loaded()

    async def run(self) -> None:
        """Work signals and venue events until cancelled."""
        assert self._service is not None
        await self._service.run()

    async def drain(self) -> None:
        """Decide nothing new, finish what is being sent, flush the journal."""
        if self._service is not None:
            await self._service.drain()

    async def stop(self) -> None:
        """Send nothing more, commit what is in progress, close the sessions."""
        if self._service is not None:
            await self._service.stop()
        if self._ninja is not None:
            await self._ninja.close()

    @property
    def is_ready(self) -> bool:
        return self._service is not None and self._service.is_ready

    def problems(self) -> Sequence[Check]:
        """Return a journal that is down, venues that are unavailable, signals that wait too long."""
        return self._service.problems() if self._service else ()

    def detail(self) -> Mapping[str, object]:
        """Return open and unknown orders and the states of the venues."""
        return self._service.detail() if self._service else {}
