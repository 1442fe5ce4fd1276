"""The order manager's reader of what persons ask for beside orders: settlements, ends of exits, comparisons with a
venue."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from fks.model.errors import OutageError
from fks.model.signal import SignalState
from fks.order_manager.context import OrderManagerContext
from fks.order_manager.position_workers import PositionWorkers
from fks.order_manager.settlement import Settlements
from fks.order_manager.venue_session import VenueSession
from fks.store.db import Database
from fks.store.settlements import SettlementStore
from fks.store.signals import SignalStore

_POLL_S = 1.0
COMPARE_S = 60.0
_LOOK_S = 0.05


class PersonRequests:
    """Reads the tables once a second, sooner when woken. Holds no state: the rows are the requests.

    It runs beside everything else: a venue that answers slowly delays other requests of persons and nothing more.
    """

    def __init__(
        self, context: OrderManagerContext, db: Database, sessions: Mapping[str, VenueSession], workers: PositionWorkers
    ) -> None:
        self._store = SettlementStore(db, context.lease)
        self._signals = SignalStore(db, context.lease)
        self._settlements = Settlements(db, context.ledger, context.venues, context.clock, context.lease, context.log)
        self._db, self._sessions, self._workers = db, sessions, workers
        self._clock, self._log = context.clock, context.log
        self._again = asyncio.Event()

    def wake(self) -> None:
        """Look now instead of at the next second."""
        self._again.set()

    async def run(self) -> None:
        """Carry out requests for ever; an outage skips a turn. Errors: StaleEpochError."""
        while True:
            self._again.clear()
            try:
                await self.end_exits()
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

    async def end_exits(self) -> None:
        """End the exits that persons want ended, and answer: it ends, or there is none to end. Errors: OutageError.

        A request for the venue of another order manager stays open: only that one knows.
        """
        for id, by, signal in await self._signals.end_requests():
            is_ending = self._workers.end_exit(signal, by)
            if is_ending is False and signal.state is SignalState.READY:  # no core has received it yet
                is_ending = await self._signals.finish(
                    signal.id,
                    SignalState.NOTHING,
                    now_ns=self._clock.now_ns(),
                    detail=f"{by} ended the exit before its first order",
                )
                self._workers.end_exit(signal, by)  # one may have received it meanwhile
                if not is_ending:
                    continue
            if is_ending is None or (not is_ending and signal.venue not in self._sessions):
                continue
            error = None if is_ending else "its exit is not in progress any more"
            await self._signals.finish_end_request(id, error, self._clock.now_ns())
            self._log.info("exit.end_requested", signal=str(signal.id), by=by, error=error or "")

    async def _reconcile(self, venue: str, ids: list[int]) -> None:
        """Compare the journal with a venue from the start, and keep what was found."""
        session, began_s = self._sessions[venue], self._clock.monotonic()
        wanted, newest = session.compare_now(), await self._db.fetchval("settlements.newest_trade")
        while session.status.compares_done < wanted and self._clock.monotonic() - began_s < COMPARE_S:
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
            else f"{venue} was not compared within {COMPARE_S:g} s: {session.status.detail or 'no answer'}"
        )
        await self._store.finish_reconcile(ids, result, error, self._clock.now_ns())
        self._log.info("venue.reconciled", venue=venue, seconds=result["seconds"], error=error or "")
