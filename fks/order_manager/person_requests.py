"""The order manager's reader of what persons ask for beside orders: settlements, and comparisons with a venue."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from fks.clock import Clock
from fks.model.errors import OutageError
from fks.model.ports import Lease, Log, Venue
from fks.order_manager.ledger import Ledger
from fks.order_manager.settlement import Settlements
from fks.order_manager.venue_session import VenueSession
from fks.store.db import Database
from fks.store.settlements import SettlementStore

_POLL_S = 1.0
_COMPARE_S = 60.0
_LOOK_S = 0.05


class PersonRequests:
    """Reads the tables once a second, sooner when woken. Holds no state: the rows are the requests.

    It runs beside everything else: a venue that answers slowly delays other requests of persons and nothing more.
    """

    def __init__(
        self,
        db: Database,
        ledger: Ledger,
        venues: Mapping[str, Venue],
        sessions: Mapping[str, VenueSession],
        clock: Clock,
        lease: Lease,
        log: Log,
    ) -> None:
        self._store = SettlementStore(db, lease)
        self._settlements = Settlements(db, ledger, venues, clock, lease, log)
        self._db, self._sessions = db, sessions
        self._clock, self._log = clock, log
        self._again = asyncio.Event()

    def wake(self) -> None:
        """Look now instead of at the next second."""
        self._again.set()

    async def run(self) -> None:
        """Carry out requests for ever; an outage skips a turn. Errors: StaleEpochError."""
        while True:
            self._again.clear()
            try:
                await self._settlements.apply_confirmed()
                requests = await self._store.reconcile_requests(list(self._sessions))
                await asyncio.gather(*(self._reconcile(venue, ids) for venue, ids in requests.items()))
            except OutageError as error:
                self._log.debug("person_requests.skipped", error=str(error))
            waiter = asyncio.ensure_future(self._again.wait())
            sleeper = asyncio.ensure_future(self._clock.sleep(_POLL_S))
            try:
                await asyncio.wait({waiter, sleeper}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiter.cancel()
                sleeper.cancel()

    async def _reconcile(self, venue: str, ids: list[int]) -> None:
        """Compare the journal with a venue from the start, and keep what was found."""
        session, began_s = self._sessions[venue], self._clock.monotonic()
        wanted, newest = session.compare_now(), await self._db.fetchval("settlements.newest_trade")
        while session.status.compares_done < wanted and self._clock.monotonic() - began_s < _COMPARE_S:
            await self._clock.sleep(_LOOK_S)
        is_done = session.status.compares_done >= wanted
        row = await self._db.fetchrow("settlements.compared", venue, newest)
        assert row is not None
        result = {
            "state": session.status.state,
            "detail": session.status.detail,
            "seconds": round(self._clock.monotonic() - began_s, 3),
            **dict(row),
        }
        error = (
            None
            if is_done
            else f"{venue} was not compared within {_COMPARE_S:g} s: {session.status.detail or 'no answer'}"
        )
        await self._store.finish_reconcile(ids, result, error, self._clock.now_ns())
        self._log.info("venue.reconciled", venue=venue, seconds=result["seconds"], error=error or "")
