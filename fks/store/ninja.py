"""Requests to NinjaTrader bridges, their events, and the state of each link, in the database.

A request is committed before its asker waits for it, its line before the first byte leaves, an event before the bridge
is acknowledged. The link `ninja:<group>` writes fenced by its lease, an asker by its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fks.model.errors import BugError, StaleEpochError
from fks.model.ninja import (
    LinkRecord,
    LinkReport,
    NinjaEvent,
    NinjaRequest,
    RequestRecord,
    RequestState,
    sources_of,
)
from fks.model.timeframe import iso, to_datetime
from fks.store.base import FencedStore, query, reads
from fks.store.db import Querier
from fks.store.leases import fence_of


def requests_topic(group: str) -> str:
    """Return the Redis channel that wakes the link of `group`: a request is committed."""
    return f"ninja:{group}:requests"


def events_topic(group: str) -> str:
    """Return the Redis channel that wakes readers of `group`: an answer or an event is committed."""
    return f"ninja:{group}:events"


@dataclass(frozen=True, slots=True)
class WaitingRequests:
    """The number of requests of a group in a state that is not final, and the age of the oldest."""

    group: str
    state: RequestState
    count: int
    age_s: float


_event = reads(NinjaEvent, epoch="bridge_epoch", at_ns="at")
reads(WaitingRequests, group="group_name")
reads(NinjaRequest, group="group_name", valid_until_ns="valid_until")
_request = reads(RequestRecord)
reads(LinkRecord, group="group_name")


class NinjaStore(FencedStore[Querier], queries="ninja"):
    """Reads and writes. `lease`: of the caller, which fences what it writes; None for a person. Errors: OutageError."""

    # ── askers ───────────────────────────────────────────────────────────────────────────────────
    async def ask(self, request: NinjaRequest, now_ns: int) -> bool:
        """Store a request; True: it is stored, now or by an earlier call. False: another request has this id, or a
        newer epoch owns the caller's lease. Safe to repeat. Publish on `requests_topic` afterwards."""
        found = await self._db.fetchrow(
            "ninja.ask", request.id, request.group, request.kind.value, _clean(request.body), request.asked_by,
            _time(request.valid_until_ns), to_datetime(now_ns), *fence_of(self._lease),
        )  # fmt: skip
        return found is not None

    async def withdraw(self, id: str, now_ns: int) -> bool:
        """Withdraw a request. True proves that no byte of it has left, and none will."""

    @query("get")
    async def answer_of(self, id: str) -> RequestRecord | None:
        """Return a request with its state and answer, or None."""

    async def events_after(self, group: str, epoch: str | None, seq: int, limit: int = 1_000) -> list[NinjaEvent]:
        """Return the events after number `seq` of the journal `epoch`, oldest first, through changes of the journal;
        from the first one that is kept when `epoch` is None."""

    async def events_of(self, signal_id: str) -> list[NinjaEvent]:
        """Return the events of one signal, oldest first."""

    async def executions(self, group: str, account: str, instrument: str, since_ns: int) -> list[NinjaEvent]:
        """Return the executions of an account in an instrument whose events are of `since_ns` or later (the bridge's
        clock), oldest first."""
        rows = await self._db.fetch("ninja.executions", group, account, instrument, to_datetime(max(since_ns, 0)))
        return [_event(row) for row in rows]

    async def leg_names(self, group: str, account: str, since_ns: int) -> list[tuple[str, str]]:
        """Return signal id and name of every stop and target reported since a moment."""

    async def entries(self, account_id: int, venue: str, symbol: str) -> list[tuple[str, str]]:
        """Return instance and id of the entries that may fill, or whose instance holds the contract; newest first."""

    async def last_events(self, count: int = 1) -> list[tuple[str, NinjaEvent]]:
        """Return the newest `count` events of each group, each group's oldest first."""
        return [(row["group_name"], _event(row)) for row in await self._db.fetch("ninja.last_events", count)]

    async def link(self, group: str) -> LinkRecord | None:
        """Return the state of a link; None: no actor ever wrote one."""

    async def links(self) -> list[LinkRecord]:
        """Return the state of every link, by group."""

    async def waiting(self) -> list[WaitingRequests]:
        """Return how many requests have no final answer, by group and state."""

    # ── the link ─────────────────────────────────────────────────────────────────────────────────
    async def claim(self, group: str, limit: int, now_ns: int, *, has_signals: bool = True) -> list[RequestRecord]:
        """Return the requests that wait and are valid: kills and flattens first, signals last, each oldest first.

        They stay NEW until `mark_sending`. Without `has_signals` signals are left out. A row that is being withdrawn
        is left out and not waited for.
        """
        rows = await self._db.fetch("ninja.claim", group, limit, has_signals, to_datetime(now_ns))
        return [_request(row) for row in rows]

    async def mark_sending(self, prepared: Sequence[tuple[str, bytes, str | None]]) -> set[str]:
        """Commit the lines of requests, (id, line, bridge_epoch); return the ids that may be sent now.

        The others were withdrawn meanwhile. Safe to repeat with the same lines.
        Errors: StaleEpochError when a newer epoch owns the lease.
        """
        ids, lines, epochs = [of[0] for of in prepared], [of[1] for of in prepared], [of[2] for of in prepared]
        rows = await self._db.fetch("ninja.mark_sending", *self._fence(), ids, lines, epochs)
        if not rows:
            await self._check_lease()
        return {row["id"] for row in rows}

    async def release(self, id: str) -> bool:
        """Return a request to NEW: the session refused to write it, so that no byte has left."""
        return await self._db.fetchrow("ninja.release", *self._fence(), id) is not None

    async def record_answer(
        self,
        id: str,
        state: RequestState,
        *,
        now_ns: int | None,
        answer: Mapping[str, Any] | None = None,
        code: str = "",
        detail: str = "",
    ) -> bool:
        """Write what became of a request; False: its state may not be left for `state`, or a newer epoch owns the
        lease. Safe to repeat. `now_ns`: None while there is no answer."""
        sources = [of.value for of in sources_of(state)]
        row = await self._db.fetchrow(
            "ninja.record_answer", *self._fence(), id, sources, state.value, None if answer is None else _clean(answer),
            _clean(code), _clean(detail), _time(now_ns),
        )  # fmt: skip
        return row is not None

    async def expire(self, group: str, now_ns: int) -> list[str]:
        """End the requests that wait and whose time is over; return their ids."""
        return [row["id"] for row in await self._db.fetch("ninja.expire", *self._fence(), group, to_datetime(now_ns))]

    @query("open")
    async def open_requests(self, group: str) -> list[RequestRecord]:
        """Return the requests that may have left and have no final answer, oldest first."""

    async def record_events(self, group: str, events: Sequence[NinjaEvent]) -> int:
        """Store the next events, all of one journal and in order, and move `stored_seq` to the last one.

        Returns how many were new; repeating it changes nothing. The first event follows what is stored, or it is of the
        kind `epoch` or `gap`. The row of the link must be there.
        Errors: StaleEpochError when a newer epoch owns the lease; BugError when the events do not fit.
        """
        first, last = events[0], events[-1]
        found = await self._db.fetchrow(
            "ninja.record_events", *self._fence(), group, first.epoch, last.seq, first.kind in ("epoch", "gap"),
            first.seq, [_event_json(event) for event in events],
        )  # fmt: skip
        assert found is not None
        if not found["is_held"]:
            raise self._superseded()
        if not found["is_stored"]:
            raise BugError(f"events {first.seq} to {last.seq} of {first.epoch} do not follow what is stored of {group}")
        return int(found["count"])

    async def record_link(self, group: str, report: LinkReport) -> tuple[str | None, int, bool]:
        """Write the state of a link; return the journal, the number up to which its events are stored, and whether
        lines of this bridge ever carried a MAC.

        Errors: StaleEpochError when a newer epoch owns the lease.
        """
        found = await self._db.fetchrow(
            "ninja.record_link", *self._fence(), group, report.state, report.is_ready, report.is_halted,
            [_clean(account) for account in report.accounts], report.offset_ms, _clean(report.alarm),
            None if report.snapshot is None else _clean(report.snapshot), _time(report.snapshot_ns),
            report.has_line_mac,
        )  # fmt: skip
        if found is None:
            raise self._superseded()
        return found["bridge_epoch"], found["stored_seq"], found["has_line_mac"]

    async def prune(self, group: str) -> int:
        """Delete requests and events of more than 90 days ago; return the number of events."""

    def _fence(self) -> tuple[str, int]:
        if self._lease is None:
            raise BugError("only the holder of the link's lease writes this")
        return self._lease.name, self._lease.epoch

    async def _check_lease(self) -> None:
        name, epoch = self._fence()
        if not await self._db.fetchval("ninja.holds_lease", name, epoch):
            raise self._superseded()

    def _superseded(self) -> StaleEpochError:
        name, epoch = self._fence()
        return StaleEpochError(f"lease {name} epoch {epoch}: a newer epoch owns it", remedy="stop at once")


def _clean(value: Any) -> Any:
    """Return `value` without the character that PostgreSQL cannot hold: an event must not stop the log."""
    match value:
        case str():
            return value.replace("\x00", "\ufffd")
        case Mapping():
            return {_clean(key): _clean(of) for key, of in value.items()}
        case list() | tuple():
            return [_clean(of) for of in value]
        case _:
            return value


def _event_json(event: NinjaEvent) -> dict[str, Any]:
    return {
        "seq": event.seq,
        "kind": _clean(event.kind),
        "account": _clean(event.account),
        "signal_id": _clean(event.signal_id),
        "body": _clean(event.body),
        "at": iso(event.at_ns),
    }


def _time(moment_ns: int | None) -> datetime | None:
    return None if moment_ns is None else to_datetime(moment_ns)
