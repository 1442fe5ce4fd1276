"""A kill in the tables: the file is merged into them, and rows that the file lacks are read.

The file is the truth about this guardian's own acts. The tables hold what happened at another machine's guardian: a
kill that was engaged there, flattening that was asked for there, its flattening orders, and a release by a person.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fks.model.errors import FksError
from fks.model.kill import KillScope
from fks.model.order import State
from fks.model.timeframe import to_datetime, to_ns
from fks.store.db import Row
from fks.store.facts import FactStore
from fks.store.kill import KillStore
from fks.trading.guardian.context import GuardianContext
from fks.trading.guardian.journal import (
    ABSENT,
    REFUSED,
    SENT,
    UNKNOWN,
    WORKING,
    Asked,
    KillJournal,
    KillRecord,
    order_from,
)
from fks.trading.guardian.positions import WINDOW_S, DatabaseSnapshot, Holder

_PAGES_MAX = 100
T = TypeVar("T")
#: the state the orders table gets; how much was filled is the order manager's to book
_STATES = {SENT: State.SENDING, UNKNOWN: State.UNKNOWN, REFUSED: State.REJECTED, ABSENT: State.ABSENT}


@dataclass(slots=True)
class Elsewhere:
    """Rows of the tables: of the kill `kill_id` of this file (its release, if a person released it), and of engaged
    kills of its scope. `scopes`: of those that are engaged beside them."""

    kill_id: str = ""
    released: Row | None = None
    engaged: Sequence[Row] = ()
    scopes: frozenset[KillScope] = frozenset()


class KillTables:
    """The rows that the guardian reads and writes while PostgreSQL answers. `state` is up, none, unknown or down with
    the reason.

    No method raises: without an answer in time the kill goes on, from the file and the rows that were read last.
    """

    def __init__(self, context: GuardianContext, journal: KillJournal, scope: KillScope = KillScope()) -> None:
        """`scope`: of the kills in `journal`."""
        self._scope = scope
        self._db, self._log, self._timing = context.db, context.log, context.timing
        self._journal = journal
        self.state = "unknown" if context.db is not None else "none"
        self.is_merged = False
        self._is_broken = False  # the last statement failed for another reason than an outage
        self._pages: deque[tuple[str, str | None, dict[str, object]]] = deque(maxlen=_PAGES_MAX)
        self._saved: dict[str, str] = {}  # flattening orders in the table -> with which outcome

    def page(self, event: str, message: str, **payload: object) -> None:
        """Page a person: logged now, an alert as soon as PostgreSQL answers."""
        self._log.error("guardian.paged", alert=event, message=message, **payload)
        self._pages.append((event, message, payload))

    def end_page(self, event: str) -> None:
        """End the page of the kill that has this event: its cause is over."""
        self._pages.append((event, None, {}))

    async def send_pages(self) -> None:
        """Write the alerts that wait, and the ends of alerts."""
        db = self._db
        if db is None:
            return

        async def write(store: KillStore) -> None:
            while self._pages:
                event, message, payload = self._pages[0]
                if message is None:
                    await store.end_alert(event, str(self._scope))
                elif "kill_id" in payload:
                    await store.open_alert(event, message, payload)
                else:
                    await FactStore(db).note_alert("page", event, message, "guardian", payload)
                self._pages.popleft()

        if self._pages:
            await self._try(write, "alerts", self._timing.database_s)

    async def snapshot(self, named: Iterable[str] = ()) -> Mapping[str, Any] | None:
        """Return the row of positions, orders and rules as they are now, or None. The orders `named` by client order id
        are among them however old."""
        record = self._journal.record
        orders = record.orders if record is not None else ()
        ours = [item.order.client_order_id for item in orders if item.filled or not item.is_settled] + list(named)

        async def read(store: KillStore) -> Mapping[str, Any]:
            row = dict(await store.snapshot(WINDOW_S, ours))
            DatabaseSnapshot.of(row)
            return row

        return await self._try(read, "snapshot", self._timing.database_s)

    async def is_traded(self, venue: str) -> bool:
        """Return whether the order manager is known to have a session with a venue."""
        return bool(await self._try(lambda store: store.has_session(venue), "sessions", self._timing.database_s))

    async def has_kill(self) -> bool:
        """Return whether the tables have a kill of any scope that is engaged: one that was asked for while no guardian
        ran is in no file."""
        return bool(await self._try(lambda store: store.engaged(), "kills", self._timing.database_s))

    async def merge(self, timeout_s: float | None = None) -> None:
        """Bring the tables up to the file. Every statement may run twice."""
        record = self._journal.record
        if record is None or self._db is None:
            self.is_merged = True
            return

        async def write(store: KillStore) -> None:
            await self._write(store, record)
            # what was journaled meanwhile waits for the next turn
            self.is_merged = self._journal.record is record

        await self._try(write, "merge", timeout_s or self._timing.database_s)

    async def elsewhere(self) -> Elsewhere:
        """Return what happened at other guardians; nothing when PostgreSQL does not answer."""
        record, found = self._journal.record, Elsewhere()

        async def read(store: KillStore) -> None:
            if record is not None and record.is_engaged:
                found.released = await store.release(record.kill_id)
            rows = [(KillScope.parse(row["scope"]), row) for row in await store.engaged()]
            found.engaged = [row for scope, row in rows if scope == self._scope]
            found.scopes = frozenset(scope for scope, _ in rows) - {self._scope}

        await self._try(read, "kills", self._timing.database_s)
        found.kill_id = record.kill_id if record is not None else ""
        return found

    def is_released(self, found: Elsewhere) -> bool:
        """Return whether a person released the file's engaged kill at another guardian."""
        record = self._journal.record
        return (
            record is not None and record.is_engaged and found.released is not None and record.kill_id == found.kill_id
        )

    def take_release(self, found: Elsewhere) -> bool:
        """Release the file's engaged kill when a person did so at another guardian; return whether that was so."""
        record, row = self._journal.record, found.released
        if not self.is_released(found) or record is None or row is None:
            return False
        self._journal.release(by=row["released_by"] or "", now_ns=to_ns(row["released_at"]))
        self._log.warning("kill.released_elsewhere", kill_id=record.kill_id, by=row["released_by"])
        return True

    def adopt(self, found: Elsewhere) -> bool:
        """Engage in the file a kill that another guardian engaged and no person released, or take over the flattening
        that was asked for there; return whether there is more to do than before."""
        is_more = False
        for row in found.engaged:
            record = self._journal.record
            if record is not None and record.is_engaged:
                if row["kill_id"] != record.kill_id or not row["flatten"] or record.flatten:
                    continue
                self._journal.want_flatten(by=row["engaged_by"], now_ns=to_ns(row["engaged_at"]))
            elif self._journal.knows(row["kill_id"]):
                continue
            else:
                asked = Asked(row["scope"], row["reason"], row["engaged_by"], row["flatten"], to_ns(row["engaged_at"]))
                self._journal.engage(row["kill_id"], asked)
            is_more, self.is_merged = True, False
            self._log.warning("kill.adopted", kill_id=row["kill_id"], reason=row["reason"], by=row["engaged_by"])
        return is_more

    async def take_orders(self, venues: Collection[str]) -> bool:
        """Note in the file the flattening orders that a predecessor sent for the engaged kill at `venues`; return
        whether all are known. A table that cannot be read for another reason than an outage counts as read."""
        record = self._journal.record
        if record is None or not record.is_engaged:
            return False

        async def read(store: KillStore) -> bool:
            for row in await store.orders(to_datetime(record.engaged_ns)):
                order = order_from(dict(row), to_ns(row["sent_at"]))
                is_of_kill = order.venue in venues and order.intent_id == Holder.of(order).kill_intent(record.kill_id)
                if is_of_kill and record.order(order.client_order_id) is None:
                    self._journal.sending(order, now_ns=order.sent_ns or 0)
                    outcome = _OUTCOMES.get(State(row["state"]), WORKING)
                    if outcome != SENT:
                        self._journal.outcome(
                            order.client_order_id,
                            outcome,
                            now_ns=order.sent_ns or 0,
                            code=row["code"],
                            detail=row["detail"] or "",
                        )
            return True

        return bool(await self._try(read, "orders", self._timing.answer_s)) or self._is_broken

    async def release_all(self, by: str, now_ns: int) -> None:
        """Leave no kill of this scope engaged in the tables that was engaged by `now_ns`, when a person released
        them."""
        at, scope = to_datetime(now_ns), str(self._scope)
        await self._try(lambda s: s.release_all(by=by, at=at, scope=scope), "merge", self._timing.database_s)

    async def _write(self, store: KillStore, record: KillRecord) -> None:
        released = None if record.released_ns is None else to_datetime(record.released_ns)
        await store.save(
            kill_id=record.kill_id,
            scope=record.scope,
            is_engaged=record.is_engaged,
            reason=record.reason,
            by=record.by,
            engaged_at=to_datetime(record.engaged_ns),
            released_by=record.released_by,
            released_at=released,
            report={**record.report, "flatten": record.flatten},
        )
        for item in record.orders:
            id = item.order.client_order_id
            if self._saved.get(id) != item.outcome:
                await store.save_order(
                    item.order,
                    _STATES.get(item.outcome, State.WORKING),
                    venue_order_id=item.venue_order_id,
                    code=item.code,
                    detail=item.detail,
                    step=item.outcome,
                )
                self._saved[id] = item.outcome

    async def _try(self, act: Callable[[KillStore], Awaitable[T]], what: str, timeout_s: float) -> T | None:
        """Return what `act` returns, None without an answer."""
        if self._db is None:
            return None
        self._is_broken = False
        try:
            async with asyncio.timeout(timeout_s):
                found = await act(KillStore(self._db))
        except (FksError, TimeoutError) as error:
            self.state = f"down: {error or 'no answer'}"
            return None
        except Exception as error:  # a table that lacks a column must not take the kill switch down with it
            self.state = f"down: {type(error).__name__}: {error}"
            self._is_broken = True
            self._log.error("guardian.table_failed", what=what, error=self.state)
            return None
        self.state = "up"
        return found


#: what the file notes of a predecessor's order in that state; the venue is asked about all but the refused and absent
#: ones
_OUTCOMES = {State.SENDING: SENT, State.UNKNOWN: UNKNOWN, State.REJECTED: REFUSED, State.ABSENT: ABSENT}
