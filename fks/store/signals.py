"""Signals in the database: inserted once under their own id, decided once, and given exactly one outcome."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from fks.model.parent import plan_json, plan_of
from fks.model.signal import Signal, SignalState
from fks.model.timeframe import iso, to_datetime
from fks.store.base import FencedStore, query, reads
from fks.store.db import Querier


@dataclass(frozen=True, slots=True)
class SignalRecord:
    """A signal as the table holds it. `seq` is the order of arrival; `code`, `detail`, `client_order_id` its
    outcome."""

    signal: Signal
    seq: int
    code: str | None
    detail: str | None
    client_order_id: str | None
    decided_by: str | None
    decided_ns: int | None
    body_hash: str | None
    created_ns: int

    @property
    def approved_ns(self) -> int | None:
        """Return when a person approved it; None: no person did."""
        return self.decided_ns if self.decided_by else None


def signal_message(signal: Signal, state: SignalState | None = None, code: str | None = None) -> dict[str, object]:
    """Return what is published of a signal: when it was committed, or once it came to `state`, with its denial code."""
    return {
        "type": "signal",
        "id": signal.id,
        "instance": signal.instance,
        "symbol": signal.symbol,
        "kind": signal.kind,
        "side": signal.side,
        "state": state or signal.state,
        "code": code,
    }


@dataclass(frozen=True, slots=True)
class EndRequest:
    """A person's request to end the exit of a signal. `error`: why the order manager refused it; None = it did not."""

    id: int
    signal_id: uuid.UUID
    by: str
    requested_ns: int
    finished_ns: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class WaitingSignals:
    """The number of signals of one venue that are ready and have no outcome yet, and the age of the oldest."""

    count: int
    age_s: float


@dataclass(frozen=True, slots=True)
class BrokenLeg:
    """An entry whose order is at a venue or executed, the symbol of another leg that failed, and the code of that."""

    record: SignalRecord
    failed_symbol: str
    failed_code: str


reads(EndRequest)


reads(
    Signal,
    ts_event_ns="ts_event",
    valid_until_ns="valid_until",
    rests_until_ns="rests_until",
    plan=lambda row: None if (plan := row.get("plan")) is None else plan_of(plan),  # read by `ready` and `get` alone
)
record_of = reads(SignalRecord)
reads(BrokenLeg)


class SignalStore(FencedStore[Querier], queries="signals"):
    """Reads and writes of the signals table. Takes a database or an open transaction."""

    async def insert(self, signals: Sequence[Signal], body_hash: str | None = None) -> list[uuid.UUID]:
        """Insert the signals that are not stored yet, each with its plan, and return their ids; a replay inserts
        nothing and returns nothing."""
        if not signals:
            return []
        rows = await self._db.fetch("signals.insert", [{**planned_json(s), "body_hash": body_hash} for s in signals])
        return [row["id"] for row in rows]

    async def ready(
        self, venues: Sequence[str], limit: int = 500, *, known: Collection[uuid.UUID] = ()
    ) -> list[SignalRecord]:
        """Return signals of these venues that have no outcome and need no approval, oldest first: at most `limit` of
        one instance and symbol, and twenty times that in all. Those that are `known` are left out."""

    async def ready_elsewhere(self, venues: Sequence[str], limit: int = 500) -> list[SignalRecord]:
        """Return the oldest signals without outcome at any other venue than these: no session carries them."""

    async def waiting(self, venues: Sequence[str]) -> dict[str, WaitingSignals]:
        """Return the number and age of the signals that `ready` would find, by venue; venues without any are left
        out."""
        rows = await self._db.fetch("signals.waiting", list(venues))
        return {row["venue"]: WaitingSignals(row["count"], row["age_s"]) for row in rows}

    async def get(self, signal_id: uuid.UUID) -> SignalRecord | None:
        """Return one signal, or None."""

    async def legs(self, groups: Sequence[uuid.UUID]) -> list[SignalRecord]:
        """Return the entries of these groups."""

    async def broken(self) -> list[BrokenLeg]:
        """Return the entries that rest or are held though another leg of their group came to nothing, oldest first."""

    @query(is_fenced=True)
    async def finish(
        self,
        signal_id: uuid.UUID,
        state: SignalState,
        *,
        code: str | None = None,
        detail: str | None = None,
        now_ns: int,
    ) -> bool:
        """Write the outcome of a signal that leads to no order. False: it already had one, and keeps it. Repeated with
        the same outcome and time it returns the same: its answer may have been lost."""

    async def decide(self, signal_id: uuid.UUID, *, approve: bool, by: str, now_ns: int) -> SignalRecord | None:
        """Approve or decline a pending signal in a person's name; None when it is not pending or its time is over."""
        state = SignalState.READY if approve else SignalState.DECLINED
        row = await self._db.fetchrow("signals.decide", signal_id, state.value, by, to_datetime(now_ns))
        return None if row is None else record_of(row)

    @query(is_fenced=True)
    async def expire(self, now_ns: int) -> list[SignalRecord]:
        """End every pending signal whose `valid_until` has passed, and return those."""

    # ── keys of requests without one ─────────────────────────────────────────────────────────────
    async def derived_key(self, principal: str, body_hash: str, window_s: float) -> str | None:
        """Return the key of the caller's request with this body that arrived within `window_s`, or None."""

    async def claim_key(self, principal: str, body_hash: str, key: str, window_s: float) -> str:
        """Return the key under which the caller's request with this body is committed: `key`, or the one that another
        request with this body got within `window_s`. Of many callers at once all get the same. Safe to repeat."""
        found = await self._db.fetchval("signals.claim_key", principal, body_hash, key, window_s)
        if found is None:
            found = await self._db.fetchval("signals.claimed_key", principal, body_hash)
        assert isinstance(found, str)
        return found

    # ── ends of exits ────────────────────────────────────────────────────────────────────────────
    async def request_end(self, signal_id: uuid.UUID, *, by: str, now_ns: int) -> int | None:
        """Request the end of a signal's exit and return the request's id; None when the journal shows no such exit in
        progress. A request that is still open is returned instead of a second one."""

    async def end_request(self, id: int) -> EndRequest | None:
        """Return one request to end an exit, or None."""

    async def end_of(self, signal_id: uuid.UUID) -> EndRequest | None:
        """Return the newest request to end a signal's exit that was not refused, or None."""

    async def end_requests(self) -> list[tuple[int, str, Signal]]:
        """Return the open requests, oldest first: their id, the person, and the signal whose exit is meant."""
        rows = await self._db.fetch("signals.end_requests")
        return [(row["request_id"], row["request_by"], record_of(row).signal) for row in rows]

    @query(is_fenced=True)
    async def finish_end_request(self, id: int, error: str | None, now_ns: int) -> None:
        """Answer a request to end an exit: carried out, or refused with `error`."""

    @query(is_fenced=True)
    async def record_end(self, signal_id: uuid.UUID, detail: str) -> bool:
        """Add `detail` to a signal that led to orders. False: it did not, or a newer epoch owns the lease."""

    @query("list")
    async def page(
        self,
        *,
        state: str | None = None,
        instance: str | None = None,
        symbol: str | None = None,
        before_seq: int | None = None,
        limit: int = 100,
    ) -> list[SignalRecord]:
        """Return a page of signals, newest first; go on with the last one's `seq` as `before_seq`."""


def signal_json(signal: Signal) -> dict[str, Any]:
    """Return the signal as JSON-able columns; numbers as text, so that no number passes through a float."""
    return {
        "id": str(signal.id),
        "source": signal.source,
        "instance": signal.instance,
        "params_version": signal.params_version,
        "account_id": signal.account_id,
        "venue": signal.venue,
        "exchange": signal.exchange,
        "symbol": signal.symbol,
        "timeframe": signal.timeframe,
        "ts_event": iso(signal.ts_event_ns),
        "ordinal": signal.ordinal,
        "kind": signal.kind.value,
        "side": signal.side.value,
        "type": signal.type.value,
        "time_in_force": signal.time_in_force.value,
        **{name: None if (value := getattr(signal, name)) is None else str(value) for name in _NUMBERS},
        "valid_until": None if signal.valid_until_ns is None else iso(signal.valid_until_ns),
        "rests_until": None if signal.rests_until_ns is None else iso(signal.rests_until_ns),
        "is_reduce_only": signal.is_reduce_only,
        "is_add": signal.is_add,
        "group_id": None if signal.group_id is None else str(signal.group_id),
        "group_legs": signal.group_legs,
        "reason": signal.reason,
        "state": signal.state.value,
        "trace_id": signal.trace_id,
    }


def planned_json(signal: Signal) -> dict[str, Any]:
    """Return `signal_json` with the signal's plan, for statements that write both."""
    return {**signal_json(signal), "plan": None if signal.plan is None else plan_json(signal.plan)}


#: The columns that `signal_json` has.
SIGNAL_COLUMNS = (
    "id, source, instance, params_version, account_id, venue, exchange, symbol, timeframe, ts_event, ordinal, kind,"
    " side, type, time_in_force, size, limit_price, stop_price, stop_loss, take_profit, trail, reference_price,"
    " volatility, size_share, valid_until, rests_until, is_reduce_only, is_add, group_id, group_legs, reason, state,"
    " trace_id"
)
_NUMBERS = (
    *("size", "limit_price", "stop_price", "stop_loss", "take_profit", "trail", "reference_price", "volatility"),
    "size_share",
)
