"""The guardian: the kill switch, in a process of its own with venue sessions of its own (G5).

It needs nothing but the venues and its file. PostgreSQL down, order manager hung, Redis gone: a kill still cancels
every open order and closes our positions, capped by the venue's free balance; its acts are merged into the tables
when they are back. A NinjaTrader group is reached by a session of its own with the bridge, which flattens and keeps a
latch of its own. A guardian that dies in the middle goes on from its file when it returns, under the same ids. While
a kill is engaged others deny entries: they read the table `kill_switch` or, without a database, the file (`read_kill`).

Talked to over a unix socket (0600), one JSON object a line each way:
{"op": "kill", "scope": "system", "reason", "by", "flatten": true, "wait_s"} · {"op": "resume", "by", "force": false} ·
{"op": "status"}. Answers carry "ok"; a refusal carries "error". A kill is answered when all is quiet, or after `wait_s`
(at most `reply_s`) with where it is.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fks.guardian.context import GuardianContext
from fks.guardian.control_socket import GuardianSocket
from fks.guardian.flatten import line_of
from fks.guardian.journal import Asked, KillJournal, KillRecord, last_kill, read_kill
from fks.guardian.kill_work import KillWork
from fks.guardian.lease import HELD, UNANSWERED, GuardianLease, holder_of
from fks.guardian.ninja_kill import NinjaKill
from fks.guardian.ninja_rules import RuleWatch
from fks.guardian.ninja_session import NinjaSession
from fks.guardian.positions import DatabaseSnapshot, PositionsFile, SideOrders
from fks.guardian.progress import PAGES, Progress
from fks.guardian.rows import KillTables
from fks.guardian.takeover import Takeover
from fks.guardian.timing import Timing
from fks.guardian.venue_kill import VenueKill
from fks.model.copies import is_ninja
from fks.model.errors import FksError, InputError, OutageError
from fks.model.ports import Venue
from fks.model.timeframe import iso
from fks.risk.policy import Action, Allow, Circumstances, JournalState, KillMode, allowed
from fks.store.bus import KILL

__all__ = ["Guardian", "KillRecord", "Timing", "last_kill", "read_kill"]
_TEXT_MAX = 500
_CANCEL_AGAIN_S = 1.0
_ORDERS_MAX = 50  # in an answer: the newest
_TAKE_TRIES = 3  # how often a predecessor's orders are asked for; after that the venue alone is asked about each id


class Guardian:
    """start, run, stop; `detail()` and `is_ready` for status. One per system. `exchange`: whose instruments its venues
    trade. `bridges`: unstarted sessions with NinjaTrader groups. `side_journal`: the order manager's, on this machine.
    `takes_over`: no other machine could run an order manager, so that stops are placed in its stead (`takeover`)."""

    def __init__(
        self,
        context: GuardianContext,
        venues: Mapping[str, Venue],
        *,
        kill_file: Path,
        socket_path: Path,
        reserve: Path,
        exchange: str = "",
        is_placed: bool = True,
        bridges: Sequence[NinjaSession] = (),
        side_journal: Path | None = None,
        takes_over: bool = False,
    ) -> None:
        self._context = context
        self._venues = dict(venues)
        self._bridges = tuple(bridges)
        self._watching: list[asyncio.Task[None]] = []  # of the prop firms' rules
        self._bus, self._clock, self._meter = context.bus, context.clock, context.meter
        self._log, self._timing = context.log, context.timing
        self._exchange = exchange
        self._lease = GuardianLease(context, holder=holder_of(kill_file), is_placed=is_placed)
        self._journal = KillJournal(kill_file, reserve)
        self._positions = PositionsFile(kill_file.with_name("kill-positions.json"))
        self._snapshot: DatabaseSnapshot | None = None
        self._side = SideOrders(side_journal, context.log)
        self._opened: set[str] = set()
        self._skews: dict[str, float] = {}
        self._works: dict[str, KillWork] = {}
        self._work: asyncio.Task[None] | None = None
        self._socket = GuardianSocket(socket_path, self.answer, context.log)
        self._renewing: asyncio.Task[None] | None = None
        self._publishing: set[asyncio.Task[Any]] = set()
        self._acting = asyncio.Lock()  # one kill or resume is taken at a time
        self._resuming, self._resumed = 0, 0  # resumes under way, and ended
        self._tables = KillTables(context, self._journal)
        self._taken: tuple[str, int] | None = (
            None  # (kill, lease epoch) for which a predecessor's orders are in the file
        )
        self._takes = 0
        self._takeover: Takeover | None = None
        if takes_over and side_journal is not None:
            self._takeover = Takeover(
                context, self._venues, side_journal, self._side, self._look, self._why_no_takeover, self._tables.page
            )
        self.beat = 0.0  # monotonic time of the last turn of `run`

    # ── life ─────────────────────────────────────────────────────────────────────────────────────
    async def start(self) -> None:
        """Lock and read the file, open the socket, go on with an unfinished kill. Needs no database and no venue to be
        up.

        Errors: OutageError while another guardian has the file; OSError when the socket cannot be made.
        """
        if not self._journal.lock():
            raise OutageError(f"another guardian holds {self._journal.path}", remedy="it is waited for: it ends first")
        self._snapshot = self._positions.load()
        await self._socket.open()
        self.beat = self._clock.monotonic()
        await self._lease.renew()
        self._renewing = asyncio.create_task(self._lease.keep(), name="guardian lease")
        for bridge in self._bridges:
            bridge.start(lambda: self._lease.may_act)
            watch = RuleWatch(self._context, bridge, may_act=lambda: self._lease.may_act, page=self._tables.page)
            self._watching.append(asyncio.create_task(watch.run(), name=f"{bridge.name} rules"))
        if self._takeover is not None:
            self._watching.append(asyncio.create_task(self._takeover.run(), name="takeover"))
        await self._open_venues()
        if self._tables.take_release(await self._tables.elsewhere()):
            self._engage_again()
        record = self._journal.record
        if self._work is None and record is not None and record.is_engaged:
            self._log.warning("kill.engaged_at_start", kill_id=record.kill_id, is_done=record.is_done)
            await self._take_orders()
            self._begin()
        self._meter.gauge("fks_kill_engaged", float(self._is_engaged))

    async def run(self) -> None:
        """Each second: read positions, merge what the tables lack, keep the sessions' clocks compared. Until
        cancelled."""
        due_skew = 0.0
        while True:
            self.beat = self._clock.monotonic()
            self._journal.flush()
            await self._refresh()
            if self._tables.state == "up":
                await self._follow()
            if not self._tables.is_merged:
                await self._tables.merge()
            await self._tables.send_pages()
            if self.beat >= due_skew:
                due_skew = self.beat + self._timing.skew_s
                await self._open_venues()
                await asyncio.gather(*(self._compare_clocks(venue) for venue in self._venues.values()))
            await self._clock.sleep(self._timing.refresh_s)

    async def stop(self) -> None:
        """Close the socket and the sessions. An engaged kill stays engaged and goes on at the next start."""
        await self._socket.close()
        for task in (*self._publishing, *(task for task in (self._work, self._renewing) if task is not None)):
            await _ended(task)
        await self._lease.release()
        for task in self._watching:
            await _ended(task)
        for bridge in self._bridges:
            await bridge.close()
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
            "ninja": {
                bridge.address.group: {
                    "open": bridge.is_open,
                    "halted": bridge.is_halted,
                    "required": bridge.address.is_required,
                    "reason": bridge.reason,
                }
                for bridge in self._bridges
            },
            "positions_age_s": None if age is None else round(age, 1),
            "database": self._tables.state,
            "lease": self._lease.state,
            "looks_on": self._lease.why_not,
            "turned_s": round(self._clock.monotonic() - self.beat, 1),
            "journal": self._journal.error or "ok",
            "takeover": "off" if self._takeover is None else self._takeover.state,
        }

    @property
    def _is_engaged(self) -> bool:
        return self._journal.record is not None and self._journal.record.is_engaged

    # ── the switch ───────────────────────────────────────────────────────────────────────────────
    async def kill(
        self, *, reason: str, by: str, flatten: bool = True, scope: str = "system", wait_s: float | None = None
    ) -> dict[str, Any]:
        """Engage the kill switch, or join the one engaged. Answers when all is quiet, or after `wait_s`, at most
        `reply_s`."""
        async with self._acting:
            is_new = not self._is_engaged
            now = self._clock.now_ns()
            record = self._journal.record
            asked = Asked(scope, reason, by, flatten, now)
            if is_new:
                self._engage(asked)
            elif record is not None:
                self._journal.join(asked)
                self._wake(is_more=flatten and not record.flatten)
            self._tables.is_merged = False
            self._meter.gauge("fks_kill_engaged", 1.0)
        self._publish_soon()
        await self._wait_quiet(self._timing.reply_s if wait_s is None else min(wait_s, self._timing.reply_s))
        return self.report(already=not is_new)

    def _engage(self, asked: Asked) -> None:
        record = self._journal.engage(uuid.uuid4().hex, asked)
        self._taken = record.kill_id, self._lease.epoch  # no other guardian can have sent an order of a new kill
        self._log.error("kill.engaged", kill_id=record.kill_id, reason=asked.reason, by=asked.by, flatten=asked.flatten)
        self._begin()

    async def resume(self, *, by: str, force: bool = False) -> dict[str, Any]:
        """Release the kill switch. Without `force` not while there is still something to cancel or close."""
        self._resuming += 1
        try:
            return await self._resume(by=by, force=force)
        finally:
            self._resuming, self._resumed = self._resuming - 1, self._resumed + 1

    async def _resume(self, *, by: str, force: bool) -> dict[str, Any]:
        async with self._acting:
            record = self._journal.record
            if record is None or not record.is_engaged:
                await self._tables.release_all(by, self._clock.now_ns())
                return {"ok": True, "engaged": False, "already": True}
            if not force and not all(work.quiet.is_set() for work in self._works.values()):
                raise InputError(
                    "the kill is still at work",
                    code="KILL_WORKING",
                    status=409,
                    remedy="look at 'fks kill --json', or give it up with 'fks resume --force'",
                )
            await self._end_work()
            now = self._clock.now_ns()
            record = self._journal.release(by=by, now_ns=now)
            self._tables.is_merged = False
            self._log.warning("kill.released", kill_id=record.kill_id, by=by)
        await self._tables.merge()
        await self._tables.release_all(by, now)
        await self._publish()
        return {
            "ok": True,
            "engaged": False,
            "already": False,
            "kill_id": record.kill_id,
            "database": self._tables.state,
            **({"still_halted": self._still_halted()} if self._bridges else {}),
        }

    def _still_halted(self) -> list[str]:
        """Return the NinjaTrader groups whose own latch is on: no session of ours may lift it."""
        return [bridge.address.group for bridge in self._bridges if bridge.is_halted]

    def report(self, *, already: bool = False) -> dict[str, Any]:
        """Return what became of the kill so far."""
        record = self._journal.record
        if record is None or not record.is_engaged:
            return {"ok": True, "engaged": False}
        works = list(self._works.values())
        remaining = [left for work in works for left in work.remaining] + self._elsewhere()
        return {
            "ok": True,
            "engaged": True,
            "already": already,
            "kill_id": record.kill_id,
            "scope": record.scope,
            "reason": record.reason,
            "by": record.by,
            "engaged_at": iso(record.engaged_ns),
            "flatten": record.flatten,
            "is_quiet": record.is_done or all(work.quiet.is_set() for work in works),
            "is_done": record.is_done,
            "cancelled": record.cancelled,
            "orders": [item.line() for item in record.orders[-_ORDERS_MAX:]],
            "remaining": remaining if works or not record.is_done else list(record.report.get("remaining", ())),
            "venues": [work.report() for work in works] or list(record.report.get("venues", ())),
            "database": self._tables.state if self._tables.is_merged else "pending",
            "journal": self._journal.error or "ok",
        }

    async def _follow(self) -> None:
        """Follow what happened at another machine's guardian: a kill engaged, more asked for, a release; then see to it
        that its flattening orders are known here."""
        resumed, is_resuming = self._resumed, self._resuming > 0
        found = await self._tables.elsewhere()
        async with self._acting:  # not while PostgreSQL is waited for: a kill waits for this lock
            # a resume releases every row: what was read before its end may be among them, and is read again
            is_old = is_resuming or self._resuming > 0 or resumed != self._resumed
            if self._tables.is_released(found):
                await self._end_work()
                self._tables.take_release(found)
                self._engage_again()  # at once: in between, entries would be allowed
            elif not is_old and self._tables.adopt(found):
                self._meter.gauge("fks_kill_engaged", 1.0)
                if self._work is None:
                    self._begin()
                else:
                    self._wake(is_more=True)
        await self._take_orders()

    def _engage_again(self) -> None:
        """Begin the kill that was asked for after a release elsewhere which this guardian had not read then: it was
        taken for one that joins."""
        record = self._journal.record
        if record is None or record.joined is None or record.released_ns is None:
            return
        if record.released_ns < record.joined.at_ns:
            self._engage(record.joined)
            self._tables.is_merged = False
            self._meter.gauge("fks_kill_engaged", 1.0)

    async def _take_orders(self) -> None:
        record = self._journal.record
        if record is None or not record.is_engaged or self._lease.state != HELD:
            return
        wanted = record.kill_id, self._lease.epoch
        if self._taken == wanted:
            return
        self._takes += 1
        if await self._tables.take_orders(self._venues) or self._takes >= _TAKE_TRIES:
            self._taken, self._takes = wanted, 0
            self._wake()

    def _why_not(self) -> str:
        """Return why this guardian must not cancel and close now, "" when it may. It decides which guardian acts; which
        orders may go is the policy's (`fks.risk.policy`)."""
        why, record = self._lease.why_not, self._journal.record
        if why or record is None or self._lease.state != HELD:
            return why
        return "" if self._taken == (record.kill_id, self._lease.epoch) else "its predecessor's orders are being read"

    def _why_no_takeover(self) -> str:
        """Return why this guardian must not place stops in the order manager's stead now, "" when it may."""
        record = self._journal.record
        kill = record.mode if record is not None and record.is_engaged else KillMode.NONE
        if self._resuming or not isinstance(allowed(Action.LEG, Circumstances(kill, journal=JournalState.SIDE)), Allow):
            return "a kill is engaged: it cancels and closes"
        if self._snapshot is None:
            return "PostgreSQL was never read"
        return self._lease.why_not if self._lease.state == UNANSWERED else "PostgreSQL answers"

    def _elsewhere(self) -> list[dict[str, str]]:
        """Return positions at venues the guardian has no session with: paper lives in the order manager, which closes
        them."""
        held = self._snapshot.positions if self._snapshot else {}
        why = "the order manager closes it: only it has a session with this venue"
        return [
            line_of("elsewhere", why, holder=holder, quantity=quantity)
            for holder, quantity in sorted(held.items())
            if holder.venue not in self._venues and not (self._bridges and is_ninja(holder.venue))
        ]

    # ── the work ─────────────────────────────────────────────────────────────────────────────────
    def _begin(self) -> None:
        record = self._journal.record
        is_done = record is not None and record.is_done
        self._works = {
            name: VenueKill(
                self._context,
                venue,
                self._journal,
                self._look,
                why_not=self._why_not,
                save=self._save_soon,
                is_settled=is_done,
            )
            for name, venue in self._venues.items()
        }
        for bridge in self._bridges:
            self._works[bridge.name] = NinjaKill(
                self._context, bridge, self._journal, why_not=lambda: self._lease.why_not, is_settled=is_done
            )
        self._work = asyncio.create_task(self._carry_out(), name="kill")

    async def _end_work(self) -> None:
        """Stop working: the kill is released."""
        if self._work is not None:
            await _ended(self._work)
        for event in PAGES:
            self._tables.end_page(event)
        self._works, self._work = {}, None
        self._meter.gauge("fks_kill_engaged", 0.0)

    def _wake(self, *, is_more: bool = False, is_settled: bool | None = None) -> None:
        for work in self._works.values():
            if is_settled is None or work.is_settled == is_settled:
                work.wake(is_more=is_more)

    async def _carry_out(self) -> None:
        """Work at every venue, and look on, for as long as the kill is engaged."""
        progress = Progress(
            list(self._works.values()), self._journal, self._tables, self.report, self._clock, self._log, self._timing
        )
        bridges = [work.run() for work in self._works.values() if isinstance(work, NinjaKill)]
        await asyncio.gather(progress.run(), self._at_venues(), *bridges)

    async def _at_venues(self) -> None:
        await self._open_venues()  # may take long; a NinjaTrader group does not wait for it
        await asyncio.gather(*(work.run() for work in self._works.values() if not isinstance(work, NinjaKill)))

    async def _wait_quiet(self, timeout_s: float) -> None:
        waits = [asyncio.ensure_future(work.quiet.wait()) for work in self._works.values()]
        if waits:
            _, late = await asyncio.wait(waits, timeout=timeout_s)
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
        """Read positions into memory and the file; without a database both stay as they are. What changed is acted on
        now."""
        stored = self._side.read()  # of what leaves the file, before the tables are read
        row = await self._tables.snapshot(self._exchange, {*self._side.orders, *self._side.sent})
        if row is None:
            return
        self._side.forget(stored)
        before, self._snapshot = self._snapshot, DatabaseSnapshot.of(row)
        if before is None or self._snapshot.differs(before):
            self._wake(is_settled=True)
        try:
            self._positions.keep(row)
        except OSError as error:
            self._log.error("guardian.snapshot_failed", error=str(error))

    def _look(self) -> DatabaseSnapshot | None:
        """Return our positions and orders, those included that the order manager sent without the database."""
        self._side.read()
        return None if self._snapshot is None else self._snapshot.with_side_orders(self._side)

    async def _save_soon(self) -> None:
        """Try to have the orders table know an order before its bytes leave; a slow database does not hold it up."""
        if self._tables.state == "up":
            await self._tables.merge(self._timing.save_s)

    def _publish_soon(self) -> None:
        """Write the tables and publish on the bus, without making the kill wait for either."""
        for work in (self._tables.merge(), self._publish()):
            task = asyncio.create_task(work)
            self._publishing.add(task)
            task.add_done_callback(self._publishing.discard)

    async def _publish(self) -> None:
        record = self._journal.record
        if self._bus is not None and record is not None:
            await self._bus.publish(
                KILL,
                {
                    "type": "kill",
                    "engaged": record.is_engaged,
                    "kill_id": record.kill_id,
                    "scope": record.scope,
                    "reason": record.reason,
                    "by": record.by,
                },
            )

    async def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to one request of the socket. Errors: InputError for one not understood, FksError."""
        operation = OPERATIONS.get(str(request.get("op")))
        if operation is None:
            raise InputError("not understood", code="OP_UNKNOWN", remedy=f'send {{"op": one of {sorted(OPERATIONS)}}}')
        return await operation(self, request)


async def _ended(task: asyncio.Task[Any]) -> None:
    """Cancel a task until it has ended: a venue's library may turn one cancellation into an error of its own, and a
    round that failed is followed by the next one. The lock of kills is held meanwhile."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_CANCEL_AGAIN_S)
    if not task.cancelled():
        task.exception()


async def _on_kill(guardian: Guardian, request: Mapping[str, Any]) -> dict[str, Any]:
    if request.get("scope", "system") != "system":
        raise InputError(f"scope {request['scope']!r} is not offered", code="SCOPE_UNKNOWN", remedy="use system")
    return await guardian.kill(
        reason=str(request.get("reason") or "")[:_TEXT_MAX],
        by=str(request.get("by") or "?")[:_TEXT_MAX],
        flatten=request.get("flatten") is not False,
        wait_s=wait_s if isinstance(wait_s := request.get("wait_s"), float) else None,
    )


async def _on_resume(guardian: Guardian, request: Mapping[str, Any]) -> dict[str, Any]:
    return await guardian.resume(by=str(request.get("by") or "?")[:_TEXT_MAX], force=request.get("force") is True)


async def _on_status(guardian: Guardian, request: Mapping[str, Any]) -> dict[str, Any]:
    return {**guardian.report(), "detail": guardian.detail()}


OPERATIONS: dict[str, Callable[[Guardian, Mapping[str, Any]], Awaitable[dict[str, Any]]]] = {
    "kill": _on_kill,
    "resume": _on_resume,
    "status": _on_status,
}
