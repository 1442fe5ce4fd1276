"""Approval of signals by persons: over HTTP and from bots, by the same steps."""

from __future__ import annotations

import uuid
from typing import Any

from fks.clock import Clock
from fks.model.errors import InputError, conflict, not_found
from fks.model.signal import AGENT, SignalState
from fks.store.bus import SIGNALS, WAKE, Bus
from fks.store.db import Database
from fks.store.signals import SignalStore, signal_message
from fks.store.tokens import Principal


class Approving:
    """Approves and declines pending signals. Holds no state; many may exist."""

    def __init__(self, db: Database, bus: Bus, clock: Clock) -> None:
        self._db = db
        self._bus = bus
        self._clock = clock

    async def find(self, id: uuid.UUID, caller: Principal) -> dict[str, Any]:
        """Return a signal that this caller may see. Errors: InputError 404."""
        row = await self._db.fetchrow("gateway.signal", id, caller.account_list)
        if row is None:
            raise not_found("SIGNAL_UNKNOWN", f"there is no signal {id}", "see GET /signals")
        return dict(row)

    async def pending(self, caller: Principal, limit: int = 100) -> list[dict[str, Any]]:
        """Return the signals that wait for a person and that this caller may see, newest first."""
        state = SignalState.PENDING.value
        rows = await self._db.fetch("gateway.signals", state, None, None, None, limit, None, caller.account_list)
        return [dict(row) for row in rows]

    async def decide(self, id: uuid.UUID, *, approve: bool, caller: Principal) -> dict[str, Any]:
        """Approve or decline a pending signal in the caller's name and return it. A repeat returns the same.

        Errors: InputError 404 for a signal that this caller may not see, 403 when the caller would approve a signal
        that it submitted itself, or an agent's without a logged-in session (declining is allowed), 409 when it is not
        pending any more.
        """
        before = await self.find(id, caller)
        if approve and before["source"].startswith(AGENT) and caller.session_id is None:
            raise InputError(
                f"signal {id} was proposed by an agent: a person has to approve it",
                code="SIGNAL_NEEDS_PERSON",
                status=403,
                remedy="log in and approve it on the page Signals; a token or a chat may only reject it",
            )
        if approve and before["source"] in (f"principal:{caller.name}", f"{AGENT}{caller.name}"):
            raise InputError(
                f"signal {id} was submitted by {caller.name} itself: another caller has to approve it",
                code="SIGNAL_OWN",
                status=403,
                remedy="let another person approve it, or reject it",
            )
        store = SignalStore(self._db)
        record = await store.decide(id, approve=approve, by=caller.name, now_ns=self._clock.now_ns())
        found = await self.find(id, caller)
        wanted = SignalState.READY if approve else SignalState.DECLINED
        if record is None and not (found["decided_by"] == caller.name and _came_to(found["state"], wanted)):
            raise conflict(
                "SIGNAL_NOT_PENDING", f"signal {id} is {found['state']}, not pending", "see GET /signals?state=pending"
            )
        if record is not None:
            message = signal_message(record.signal, SignalState(found["state"]), found["code"])
            await self._bus.publish_many([(WAKE, {"type": "signal"}), (SIGNALS, message)])
        return found


def _came_to(state: str, wanted: SignalState) -> bool:
    """Return whether a repeat of a decision finds its own result: then it is confirmed again."""
    if wanted is SignalState.DECLINED:
        return state == SignalState.DECLINED
    return state in (SignalState.READY, SignalState.ORDERED, SignalState.DENIED, SignalState.NOTHING)
