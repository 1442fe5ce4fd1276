"""Actor of a collector: market data of one exchange into the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fks.model.health import Check
from fks.system.runtime import Component

if TYPE_CHECKING:
    from fks.market.collector.collector import Collector


class CollectorActor:
    """Bars of one exchange, from its feed into the store.

    Hard state: ohlcv_data, feeds. Soft state: open bars. Guarantees: a restart fills the gap from REST before the
    feed is live; a bar is sealed and published once, in order.
    """

    MODULES = (
        "fks.market.collector.collector",
        "fks.market.history.limited_exchange",
        "fks.market.exchanges.registry",
        "fks.market.exchanges.binance.exchange",
    )

    def __init__(self, component: Component, args: tuple[str, ...]) -> None:
        self._component = component
        self._exchange = args[0]
        self._collector: Collector | None = None

    async def start(self) -> None:
        """Connect, find the last stored bar, fill the gap. Raising is a failed start."""
        from fks.market.collector.collector import Collector
        from fks.market.exchanges.registry import make_exchange
        from fks.market.history.limited_exchange import budget_for

        c = self._component
        assert c.lease is not None
        budget = budget_for(c.bus, c.clock, c.settings, c.node, self._exchange)
        exchange = make_exchange(
            self._exchange, settings=c.settings, node=c.node, clock=c.clock, log=c.log, budget=budget
        )
        if c.settings.data.tape:
            from fks.market.tape.recorded_exchange import taped

            exchange = taped(exchange, c.settings, c.clock, c.log)
        self._collector = Collector(exchange, c.runtime)
        await self._collector.start()

    async def run(self) -> None:
        """Collect until cancelled."""
        assert self._collector is not None
        await self._collector.run()

    async def drain(self) -> None:
        """Close the connections and store all that was received."""
        if self._collector is not None:
            await self._collector.drain()

    async def stop(self) -> None:
        """Flush what is sealed and close."""
        if self._collector is not None:
            await self._collector.stop()

    @property
    def is_ready(self) -> bool:
        return self._collector is not None and self._collector.is_ready

    def problems(self) -> Sequence[Check]:
        """Return silent feeds, and a store that cannot be written."""
        return self._collector.problems() if self._collector else ()

    def detail(self) -> Mapping[str, object]:
        """Return the feeds and their ages."""
        return self._collector.detail() if self._collector else {}
