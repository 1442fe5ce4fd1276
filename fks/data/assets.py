"""What one exchange lists, and which of it is collected."""

from __future__ import annotations

from collections.abc import Sequence

from fks.clock import Clock
from fks.model.ports import Exchange, Log
from fks.store.db import Database
from fks.store.instruments import InstrumentStore

LISTED_S = 3600.0  # how often the listing is fetched: rules and trading states change rarely


class Assets:
    """Keeps the table `instruments` fresh and reads the table `assets`. Errors: OutageError, PeerError."""

    def __init__(self, exchange: Exchange, db: Database, clock: Clock, log: Log) -> None:
        self._exchange = exchange
        self._store = InstrumentStore(db)
        self._clock = clock
        self._log = log
        self._known: set[str] = set()
        self._listed_s = float("-inf")
        self._warned: set[str] = set()

    async def add(self, symbols: Sequence[str]) -> None:
        """Collect `symbols`, in any spelling, unless somebody decided about them before."""
        spelled = [symbol.upper().replace("/", "").replace("-", "") for symbol in symbols]
        await self._store.add_assets(self._exchange.name, spelled)

    async def wanted(self) -> list[str]:
        """Return the enabled symbols that the exchange lists; one it does not is named in the log once."""
        if self._clock.monotonic() - self._listed_s > LISTED_S:
            instruments = await self._exchange.instruments()
            await self._store.merge(instruments)
            self._known = {item.symbol for item in instruments}
            self._listed_s = self._clock.monotonic()
        enabled = await self._store.enabled(self._exchange.name)
        for symbol in sorted(set(enabled) - self._known - self._warned):
            self._warned.add(symbol)
            self._log.warning("asset.unknown", exchange=self._exchange.name, symbol=symbol)
        return [symbol for symbol in enabled if symbol in self._known]
