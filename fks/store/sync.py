"""The table `sync_status`: wanted history of each series, and the progress of its sync.

pending (requested) → running (a runner has it; `cursor`: everything wanted from there on is done) → done | failed. A
runner that dies leaves `running` behind with an old `updated_at`: the next one takes it over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fks.store.base import SqlStore, query, reader, reads
from fks.store.db import Database, Row

RETRY_S = 60.0  # after an outage of the exchange
SILENT_S = 60.0  # a runner beats four times as often
ENDLESS = "infinity is no time to fetch from or to; say a date in wanted_from, or none"


@dataclass(frozen=True, slots=True)
class SyncRow:
    """One row. `wanted_from_ns` None: the default history; `wanted_to_ns` None: up to the present."""

    exchange: str
    symbol: str
    timeframe: str
    status: str
    wanted_from_ns: int | None
    wanted_to_ns: int | None
    cursor_ns: int | None
    candles: int
    oldest_ns: int | None
    newest_ns: int | None
    error: str | None
    last_sync_ns: int | None


@dataclass(frozen=True, slots=True)
class Begun:
    """Wanted span of a row when its sync began, and the part that was done before (`done_from_ns` None: nothing)."""

    from_ns: int
    to_ns: int | None
    done_from_ns: int | None
    done_to_ns: int | None


reads(Begun, from_ns="wanted_from", to_ns="wanted_to", done_from_ns="done_from", done_to_ns="done_to")


def finite(row: Row) -> dict[str, Any]:
    """Return a row of `sync_status`; as failed, without those times, when it has infinite ones.

    asyncpg returns them as naive first and last times of Python, which cannot be computed with.
    """
    found = dict(row)
    endless = [name for name, value in found.items() if isinstance(value, datetime) and value.tzinfo is None]
    return found if not endless else found | {"sync_status": "failed", "error": ENDLESS} | dict.fromkeys(endless)


_finite_row = reads(
    SyncRow,
    status="sync_status",
    wanted_from_ns="wanted_from",
    wanted_to_ns="wanted_to",
    cursor_ns="cursor",
    oldest_ns="oldest",
    newest_ns="newest",
)


@reader
def _row(row: Row) -> SyncRow:
    return _finite_row(finite(row))


class SyncStore(SqlStore[Database], queries="sync"):
    """Reads and writes `sync_status`. Errors of all methods: OutageError.

    A row with an infinite time reads as failed: it cannot be done, and delays no other.
    """

    async def all(self) -> list[dict[str, Any]]:
        """Return every row, by symbol and timeframe, with the stored span of its series (stored, stored_from,
        stored_to)."""
        return [finite(row) for row in await self._db.fetch("sync.all")]

    async def get(self, exchange: str, symbol: str, timeframe: str) -> SyncRow | None:
        """Return one row, or None."""

    @query(retry=True)
    async def want(
        self,
        exchange: str,
        symbol: str,
        timeframes: Sequence[str],
        from_ns: int | None = None,
        to_ns: int | None = None,
    ) -> None:
        """Request the history of `symbol`: a running system begins within seconds. Idempotent."""

    @query(retry=True)
    async def begin(
        self, exchange: str, symbol: str, timeframe: str, from_ns: int, to_ns: int | None, *, default_ns: int
    ) -> Begun:
        """Record that the sync of [from, to) runs from now on, besides the span wanted already; return the sum.

        `default_ns`: the start of history for a waiting row without one.
        """

    async def claim(self, exchange: str, *, retry_s: float = RETRY_S, silent_s: float = SILENT_S) -> SyncRow | None:
        """Take the next sync that waits, or whose runner was silent for `silent_s`; None when there is none."""

    async def waiting(self, *, retry_s: float = RETRY_S, silent_s: float = SILENT_S) -> list[str]:
        """Return the exchanges for which `claim` would find something."""

    @query(retry=True)
    async def advance(self, exchange: str, symbol: str, timeframe: str, cursor_ns: int) -> None:
        """Record that everything wanted from `cursor_ns` on is done; it is also a beat."""

    @query(retry=True)
    async def beat(self, exchange: str, symbol: str, timeframe: str) -> None:
        """Record that the sync's runner is alive: more often than each SILENT_S, or another runner takes the sync
        over."""

    @query(retry=True)
    async def finish(self, exchange: str, symbol: str, timeframe: str, from_ns: int, to_ns: int | None) -> None:
        """Record that [from, to) is done, with the present span of the series; the row waits again when it wants
        more."""

    async def give_up(self, exchange: str, symbol: str, timeframe: str, error: str, *, is_final: bool) -> None:
        """Note why the sync stopped. Not final: it waits for RETRY_S and is tried again."""
        status = "failed" if is_final else "pending"
        await self._db.execute("sync.give_up", exchange, symbol, timeframe, status, error[:500], retry=True)

    async def respell(self, exchange: str, symbol: str, spelled: str) -> None:
        """Rename the wanted history of `symbol`, failed rows included, to the exchange's own spelling."""
        async with self._db.transaction() as tx:
            for row in await tx.fetch("sync.drop", exchange, symbol):
                await tx.execute(
                    "sync.want", exchange, spelled, [row["timeframe"]], row["wanted_from"], row["wanted_to"]
                )

    async def refuse(self, exchange: str, error: str) -> None:
        """Fail every waiting sync of `exchange` with the reason."""
        await self._db.execute("sync.refuse", exchange, error[:500], retry=True)

    @query(retry=False)
    async def submit_job(self, exchanges: Sequence[str], submitted_by: str) -> bool:
        """Queue the job that runs the syncs of `exchanges`; False when one is queued or runs already."""

    @query(retry=True)
    async def forget_jobs(self) -> None:
        """Forget sync jobs that ended a day ago."""
