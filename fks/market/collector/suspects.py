"""Suspect messages of one exchange on their way to the quarantine."""

from __future__ import annotations

from collections import deque

from fks.model.market import Suspect
from fks.model.ports import Log, Meter
from fks.store.db import Database
from fks.store.quarantine import QuarantinedRow, QuarantineStore

SUSPECTS_MAX = 1_000  # beyond it the oldest are dropped, counted


class Suspects:
    """Messages that failed validation and that the store does not have yet."""

    def __init__(self, exchange: str, db: Database, meter: Meter, log: Log) -> None:
        self._exchange, self._meter, self._log = exchange, meter, log
        self._store = QuarantineStore(db, self._not_held)
        self._held: deque[QuarantinedRow] = deque(maxlen=SUSPECTS_MAX)

    def add(self, event: Suspect) -> None:
        """Keep a message until `store` takes it."""
        self._log.warning(
            "feed.suspect", exchange=self._exchange, symbol=event.symbol, channel=event.channel, reason=event.reason
        )
        if len(self._held) == SUSPECTS_MAX:
            self._meter.count("fks_market_dropped_total", channel="suspects")
        self._held.append(QuarantinedRow.suspect(self._exchange, event))

    async def store(self) -> None:
        """Put what waits into the quarantine. Errors: OutageError; then it waits on."""
        if self._held:
            held = list(self._held)
            await self._store.add(held)
            for _ in held:
                self._held.popleft()

    def _not_held(self, held: QuarantinedRow, error: Exception) -> None:
        """Count and log a message that PostgreSQL cannot hold; the others are stored."""
        self._meter.count("fks_market_dropped_total", channel="suspects")
        self._log.warning(
            "quarantine.refused", exchange=self._exchange, symbol=held.symbol, channel=held.channel, error=str(error)
        )
