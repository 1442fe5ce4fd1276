"""The guardian: the kill switch, in a process of its own with venue sessions of its own (G5).

It needs nothing but the venues and its file. PostgreSQL down, order manager hung, Redis gone: a kill still cancels every
open order and closes our positions, capped by the venue's free balance; what it did is merged into the tables when
they are back. A guardian that dies in the middle goes on from its file when it returns, under the same ids. While a kill
is engaged others deny entries: they read the table `kill_switch` or, without a database, the file (`read_kill`).

Talked to over a unix socket (0600), one JSON object a line each way:
{"op": "kill", "scope": "system", "reason", "by", "flatten": true} · {"op": "resume", "by", "force": false} · {"op": "status"}.
Answers carry "ok"; a refusal carries "error". A kill is answered when all is quiet, or after `reply_s` with where it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from fks.clock import Clock
from fks.execution.kill_journal import (
    ABSENT,
    REFUSED,
    SENT,
    UNKNOWN,
    KillJournal,
    KillRecord,
    last_kill,
    read_kill,
)
from fks.execution.kill_positions import WINDOW_S, PositionsFile, Snapshot
from fks.execution.kill_rows import take_release
from fks.execution.kill_socket import KillSocket
from fks.execution.kill_venue import Timing, VenueKill
from fks.model.errors import FksError, InputError, OutageError
from fks.model.order import State
from fks.model.ports import Log, Meter, Venue
from fks.model.timeframe import iso, to_datetime, to_ns
from fks.store.bus import KILL, Bus
from fks.store.db import Database
from fks.store.kill import KillStore

__all__ = ["Guardian", "KillRecord", "Timing", "last_kill", "read_kill"]
_TEXT_MAX = 500
#: the state the orders table gets; how much was filled is the order manager's to book
_STATES = {SENT: State.SENDING, UNKNOWN: State.UNKNOWN, REFUSED: State.REJECTED, ABSENT: State.ABSENT}


class Guardian:
    """start, run, stop; `detail()` and `is_ready` for status. One per system. `exchange`: whose instruments its venues trade."""

    def __init__(
        self, *, venues: Mapping[str, Venue], kill_file: Path, socket_path: Path, db: Database | None, bus: Bus | None,
        clock: Clock, meter: Meter, log: Log, timing: Timing | None = None, exchange: str = "",
    ) -> None:  # fmt: skip
        self._venues = dict(venues)
        self._db = db
        self._bus = bus
        self._clock = clock
        self._meter = meter
        self._log = log
        self._timing = timing or Timing()
        self._exchange = exchange
        self._journal = KillJournal(kill_file)
        self._positions = PositionsFile(kill_file.with_name("kill-positions.json"))
        self._snapshot: Snapshot | None = None
        self._opened: set[str] = set()
        self._skews: dict[str, float] = {}
        self._works: dict[str, VenueKill] = {}
        self._work: asyncio.Task[None] | None = None
        self._socket = KillSocket(socket_path, self.answer, log)
        self._tells: set[asyncio.Task[Any]] = set()
        self._acting = asyncio.Lock()  # one kill or resume is taken at a time
        self._is_merged = False
        self._has_adopted = False
        self._database = "unknown"
        self.beat = 0.0  # monotonic time of the last turn of `run`

    # ── life ─────────────────────────────────────────────────────────────────────────────────────
    async def start(self) -> None:
        """Lock and read the file, open the socket, go on with an unfinished kill. Needs no database and no venue to be up.

        Errors: OutageError while another guardian has the file; OSError when the socket cannot be made.
        """
        if not self._journal.lock():
            raise OutageError(f"another guardian holds {self._journal.path}", remedy="it is waited for: it ends first")
        self._snapshot = self._positions.load()
        await self._socket.open()
        self.beat = self._clock.monotonic()
        await self._open_venues()
        await take_release(self._db, self._journal, self._log, timeout_s=self._timing.database_s)
        record = self._journal.record
        if record is not None and record.is_engaged:
            self._log.warning("kill.engaged_at_start", kill_id=record.kill_id, is_done=record.is_done)
            if not record.is_done:
                self._begin()
        self._meter.gauge("fks_kill_engaged", float(self._is_engaged))

    async def run(self) -> None:
        """Each second: read positions, merge what the tables lack, keep the sessions' clocks compared. Until cancelled."""
        due_skew = 0.0
        while True:
            self.beat = self._clock.monotonic()
            await self._refresh()
            if not self._has_adopted and self._database == "up":
                await self._adopt()
            if not self._is_merged:
                await self._merge(self._timing.database_s)
            if self.beat >= due_skew:
                due_skew = self.beat + self._timing.skew_s
                await self._open_venues()
                await asyncio.gather(*(self._compare_clocks(venue) for venue in self._venues.values()))
            await self._clock.sleep(self._timing.refresh_s)

    async def stop(self) -> None:
        """Close the socket and the sessions. An engaged kill stays engaged and goes on at the next start."""
        await self._socket.close()
        for task in (*self._tells, *([self._work] if self._work else [])):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        for venue in self._venues.values():
            await venue.close()
        self._journal.close()

    @property
    def is_ready(self) -> bool:
        """Whether a kill could be asked for and a venue session exists."""
        return self._socket.is_open and (not self._venues or bool(self._opened))

    def detail(self) -> dict[str, object]:
        """Return what status shows."""
        record = self._journal.record
        age = None if self._snapshot is None else (self._clock.now_ns() - self._snapshot.as_of_ns) / 1e9
        return {
            "engaged": self._is_engaged,
            "kill_id": record.kill_id if record is not None and record.is_engaged else None,
            "is_done": record.is_done if record is not None and record.is_engaged else None,
            "venues": {name: {"open": name in self._opened, "skew_ms": self._skews.get(name)} for name in self._venues},
            "positions_age_s": None if age is None else round(age, 1),
            "database": self._database,
            "journal": self._journal.error or "ok",
        }

    @property
    def _is_engaged(self) -> bool:
        return self._journal.record is not None and self._journal.record.is_engaged

    # ── the switch ───────────────────────────────────────────────────────────────────────────────
    async def kill(self, *, reason: str, by: str, flatten: bool = True, scope: str = "system") -> dict[str, Any]:
        """Engage the kill switch, or join the one engaged. Answers when all is quiet, or after `reply_s`."""
        async with self._acting:
            is_new = not self._is_engaged
            now = self._clock.now_ns()
            record = self._journal.record
            if is_new:
                record = self._journal.engage(
                    kill_id=uuid.uuid4().hex, scope=scope, reason=reason, by=by, flatten=flatten, now_ns=now
                )
                self._log.error("kill.engaged", kill_id=record.kill_id, reason=reason, by=by, flatten=flatten)
            elif record is not None and flatten and not record.flatten:
                record = self._journal.want_flatten(by=by, now_ns=now)
            assert record is not None
            self._is_merged = False
            self._meter.gauge("fks_kill_engaged", 1.0)
            if not record.is_done and (self._work is None or self._work.done()):
                self._begin()
        self._tell_later()
        await self._wait_quiet()
        return self.report(already=not is_new)

    async def resume(self, *, by: str, force: bool = False) -> dict[str, Any]:
        """Release the kill switch. Without `force` not while there is still something to cancel or close."""
        async with self._acting:
            record = self._journal.record
            if record is None or not record.is_engaged:
                await self._release_rows(by)
                return {"ok": True, "engaged": False, "already": True}
            if self._work is not None and not self._work.done():
                if not force and not all(work.quiet.is_set() for work in self._works.values()):
                    raise InputError(
                        "the kill is still at work", code="KILL_WORKING", status=409,
                        remedy="look at 'fks kill --json', or give it up with 'fks resume --force'",
                    )  # fmt: skip
                self._work.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await self._work
            record = self._journal.release(by=by, now_ns=self._clock.now_ns())
            self._is_merged = False
            self._meter.gauge("fks_kill_engaged", 0.0)
            self._log.warning("kill.released", kill_id=record.kill_id, by=by)
        await self._merge(self._timing.database_s)
        await self._release_rows(by)
        await self._publish()
        return {"ok": True, "engaged": False, "already": False, "kill_id": record.kill_id, "database": self._database}

    def report(self, *, already: bool = False) -> dict[str, Any]:
        """Return what became of the kill so far."""
        record = self._journal.record
        if record is None or not record.is_engaged:
            return {"ok": True, "engaged": False}
        works = list(self._works.values())
        remaining = [left for work in works for left in work.remaining] + self._elsewhere()
        return {
            "ok": True, "engaged": True, "already": already, "kill_id": record.kill_id, "scope": record.scope,
            "reason": record.reason, "by": record.by, "engaged_at": iso(record.engaged_ns), "flatten": record.flatten,
            "is_quiet": record.is_done or all(work.quiet.is_set() for work in works),
            "is_done": record.is_done, "cancelled": record.cancelled,
            "orders": [item.line() for item in record.orders],
            "remaining": remaining if works or not record.is_done else list(record.report.get("remaining", ())),
            "venues": [work.report() for work in works] or list(record.report.get("venues", ())),
            "database": self._database if self._is_merged else "pending", "journal": self._journal.error or "ok",
        }  # fmt: skip

    async def _adopt(self) -> None:
        """Take up a kill that another machine's guardian engaged and nobody released: our file has never heard of it."""
        try:
            async with asyncio.timeout(self._timing.database_s), self._acting:
                rows = await KillStore(self._db).engaged() if self._db is not None else []
                for row in rows:
                    if self._is_engaged or self._journal.knows(row["kill_id"]):
                        continue
                    record = self._journal.engage(
                        kill_id=row["kill_id"], scope=row["scope"], reason=row["reason"], by=row["engaged_by"],
                        flatten=row["flatten"], now_ns=to_ns(row["engaged_at"]),
                    )  # fmt: skip
                    self._log.warning("kill.adopted", kill_id=record.kill_id, reason=record.reason, by=record.by)
                    self._is_merged = False
                    self._meter.gauge("fks_kill_engaged", 1.0)
                    self._begin()
                self._has_adopted = True
        except (FksError, TimeoutError) as error:
            self._database = f"down: {error or 'no answer'}"

    def _elsewhere(self) -> list[dict[str, str]]:
        """Return positions at venues the guardian has no session with: paper lives in the order manager, which closes them."""
        held = self._snapshot.positions if self._snapshot else {}
        return [
            {
                "kind": "elsewhere", "venue": holder.venue, "symbol": holder.symbol, "instance": holder.instance,
                "quantity": format(quantity, "f"), "why": "the order manager closes it: only it has a session with this venue",
            }
            for holder, quantity in sorted(held.items()) if holder.venue not in self._venues
        ]  # fmt: skip

    def _begin(self) -> None:
        self._works = {
            name: VenueKill(
                venue, self._journal, lambda: self._snapshot,
                save=self._save_soon, clock=self._clock, log=self._log, timing=self._timing,
            )
            for name, venue in self._venues.items()
        }  # fmt: skip
        self._work = asyncio.create_task(self._carry_out(), name="kill")

    async def _carry_out(self) -> None:
        """Work at every venue at once, then write down that it is done."""
        await self._open_venues()
        await asyncio.gather(*(work.run() for work in self._works.values()))
        report = {
            key: value for key, value in self.report().items() if key in ("venues", "remaining", "cancelled", "orders")
        }
        self._journal.done(report, now_ns=self._clock.now_ns())
        self._is_merged = False
        self._log.warning("kill.done", remaining=len(report["remaining"]), cancelled=report["cancelled"])

    async def _wait_quiet(self) -> None:
        waits = [asyncio.ensure_future(work.quiet.wait()) for work in self._works.values()]
        if waits:
            _, late = await asyncio.wait(waits, timeout=self._timing.reply_s)
            for wait in late:
                wait.cancel()

    # ── venues ───────────────────────────────────────────────────────────────────────────────────
    async def _open_venues(self) -> None:
        async def open_one(name: str, venue: Venue) -> None:
            try:
                async with asyncio.timeout(self._timing.reply_s):
                    await venue.open()
                self._opened.add(name)
            except (FksError, OSError, TimeoutError) as error:
                self._log.error("guardian.venue_closed", venue=name, error=str(error))

        missing = {name: venue for name, venue in self._venues.items() if name not in self._opened}
        await asyncio.gather(*(open_one(name, venue) for name, venue in missing.items()))

    async def _compare_clocks(self, venue: Venue) -> None:
        """Keep the session's signing time right, and its connection warm."""
        try:
            self._skews[venue.name] = round(await venue.skew_ms(), 1)
        except OutageError:
            self._skews.pop(venue.name, None)

    # ── the database, when it is there ───────────────────────────────────────────────────────────
    async def _refresh(self) -> None:
        """Read positions into memory and the file; without a database both stay as they are."""
        if self._db is None:
            self._database = "none"
            return
        record = self._journal.record
        ours = [item.order.client_order_id for item in record.orders] if record is not None else []
        try:
            async with asyncio.timeout(self._timing.database_s):
                row = dict(await KillStore(self._db).snapshot(WINDOW_S, ours, self._exchange))
            self._snapshot = Snapshot.of(row)
            self._database = "up"
            self._positions.keep(row)
        except (FksError, TimeoutError) as error:
            self._database = f"down: {error or 'no answer'}"
        except Exception as error:  # a table that lacks a column must not take the kill switch down with it
            self._database = f"down: {type(error).__name__}: {error}"
            self._log.error("guardian.snapshot_failed", error=self._database)

    async def _save_soon(self) -> None:
        """Try to have the orders table know an order before its bytes leave; a slow database does not hold it up."""
        if self._database == "up":
            await self._merge(self._timing.save_s)

    async def _merge(self, timeout_s: float) -> None:
        """Bring the tables up to the file. Every statement may run twice."""
        record = self._journal.record
        if record is None or self._db is None:
            self._is_merged = True
            return
        try:
            async with asyncio.timeout(timeout_s):
                store = KillStore(self._db)
                released = None if record.released_ns is None else to_datetime(record.released_ns)
                await store.save(
                    kill_id=record.kill_id, scope=record.scope, is_engaged=record.is_engaged, reason=record.reason,
                    by=record.by, engaged_at=to_datetime(record.engaged_ns), released_by=record.released_by,
                    released_at=released, report={**record.report, "flatten": record.flatten},
                )  # fmt: skip
                for item in record.orders:
                    await store.save_order(
                        item.order, _STATES.get(item.outcome, State.WORKING), venue_order_id=item.venue_order_id,
                        code=item.code, detail=item.detail, step=item.outcome,
                    )  # fmt: skip
            # what was journaled meanwhile waits for the next turn
            self._is_merged = self._journal.record is record
        except (FksError, TimeoutError) as error:
            self._database = f"down: {error or 'no answer'}"
        except Exception as error:  # as above: the tables are a copy, the file is the truth
            self._database = f"down: {type(error).__name__}: {error}"
            self._log.error("guardian.merge_failed", error=self._database)

    async def _release_rows(self, by: str) -> None:
        if self._db is not None:
            with contextlib.suppress(FksError, TimeoutError):
                async with asyncio.timeout(self._timing.database_s):
                    await KillStore(self._db).release_all(by=by, at=to_datetime(self._clock.now_ns()))

    def _tell_later(self) -> None:
        """Tell the tables and the bus without making the kill wait for either."""
        for work in (self._merge(self._timing.database_s), self._publish()):
            task = asyncio.create_task(work)
            self._tells.add(task)
            task.add_done_callback(self._tells.discard)

    async def _publish(self) -> None:
        record = self._journal.record
        if self._bus is not None and record is not None:
            await self._bus.publish(KILL, {
                "type": "kill", "engaged": record.is_engaged, "kill_id": record.kill_id, "scope": record.scope,
                "reason": record.reason, "by": record.by,
            })  # fmt: skip

    async def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to one request of the socket. Errors: InputError for what is not understood, FksError."""
        operation = OPERATIONS.get(str(request.get("op")))
        if operation is None:
            raise InputError("not understood", code="OP_UNKNOWN", remedy=f'send {{"op": one of {sorted(OPERATIONS)}}}')
        return await operation(self, request)


async def _on_kill(guardian: Guardian, request: Mapping[str, Any]) -> dict[str, Any]:
    if request.get("scope", "system") != "system":
        raise InputError(f"scope {request['scope']!r} is not offered", code="SCOPE_UNKNOWN", remedy="use system")
    return await guardian.kill(
        reason=str(request.get("reason") or "")[:_TEXT_MAX], by=str(request.get("by") or "?")[:_TEXT_MAX],
        flatten=request.get("flatten") is not False,
    )  # fmt: skip


async def _on_resume(guardian: Guardian, request: Mapping[str, Any]) -> dict[str, Any]:
    return await guardian.resume(by=str(request.get("by") or "?")[:_TEXT_MAX], force=request.get("force") is True)


async def _on_status(guardian: Guardian, request: Mapping[str, Any]) -> dict[str, Any]:
    return {**guardian.report(), "detail": guardian.detail()}


OPERATIONS: dict[str, Callable[[Guardian, Mapping[str, Any]], Awaitable[dict[str, Any]]]] = {
    "kill": _on_kill,
    "resume": _on_resume,
    "status": _on_status,
}
