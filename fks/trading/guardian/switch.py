"""The kill switch of one scope: its file, its rows, and its work at each venue where something may lie in the scope.

Kills of several scopes may be engaged together, and each works on its own: a venue that does not answer holds up those
alone that concern it. Of the kills that contain a position one closes it: the one that has flattened the longest
(`KillRecord.rank`). The others leave it and its orders alone, until that one is released.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fks.model.account import Environment
from fks.model.errors import conflict
from fks.model.kill import KillMode, KillScope, ScopeKind
from fks.model.ninja import platform_of
from fks.model.order import Order
from fks.model.ports import Venue
from fks.model.timeframe import iso
from fks.store.bus import KILL
from fks.trading.guardian.context import GuardianContext
from fks.trading.guardian.flatten import KillShare, line_of
from fks.trading.guardian.journal import Asked, KillJournal, KillRecord
from fks.trading.guardian.kill_work import KillWork
from fks.trading.guardian.lease import HELD, GuardianLease
from fks.trading.guardian.ninja_kill import NinjaKill
from fks.trading.guardian.ninja_session import NinjaSession
from fks.trading.guardian.positions import DatabaseSnapshot, Holder
from fks.trading.guardian.rows import KillTables
from fks.trading.guardian.venue_kill import VenueKill

_CANCEL_AGAIN_S = 1.0
_ORDERS_MAX = 50  # in an answer: the newest
_TAKE_TRIES = 3  # how often a predecessor's orders are asked for; after that the venue alone is asked about each id


#: what pages a person about a kill
PAGES = _STUCK, _UNFINISHED = ("kill.stuck", "kill.unfinished")
_KEPT_FIELDS = ("venues", "remaining", "cancelled", "orders")


@dataclass(frozen=True)
class KillSite:
    """The parts of a guardian that the kills of all scopes share.

    `look` returns the snapshot with the orders of the side journal; `snapshot` without. `opened` opens the session of a
    venue, or gives up. `switches` returns the switches of all scopes. `changed` is called after a kill was engaged or
    released.
    """

    venues: Mapping[str, Venue]
    bridges: Sequence[NinjaSession]
    lease: GuardianLease
    look: Callable[[], DatabaseSnapshot | None]
    snapshot: Callable[[], DatabaseSnapshot | None]
    opened: Callable[[str], Awaitable[None]]
    switches: Callable[[], Sequence[ScopeSwitch]]
    changed: Callable[[], None]


class Progress:
    """The progress of a kill over all venues. Writes into the kill's file when nothing is left to do, and when
    something is after all. Each cause has one page, which ends with it."""

    def __init__(
        self,
        context: GuardianContext,
        works: Callable[[], Sequence[KillWork]],
        journal: KillJournal,
        tables: KillTables,
        report: Callable[[], Mapping[str, Any]],
    ) -> None:
        """`works`: returns those on which it depends whether the kill is done: of a part that another kill is in charge
        of, that one's."""
        self._works = works
        self._journal = journal
        self._tables = tables
        self._report = report
        self._clock, self._log, self._timing = context.clock, context.log, context.timing
        self._paged: dict[str, object] = {}  # causes of pages -> symbols that the open page names; None = it is ended
        self._unsettled_s: float | None = None  # monotonic, since when it is not done

    async def run(self) -> None:
        """Look every round until cancelled."""
        while True:
            self._note(self._works())
            await self._clock.sleep(self._timing.round_s)

    def _note(self, works: Sequence[KillWork]) -> None:
        record, now = self._journal.record, self._clock.monotonic()
        is_settled = all(work.is_settled for work in works)
        if record is None:
            return
        if is_settled and not record.is_done:
            report = {key: value for key, value in self._report().items() if key in _KEPT_FIELDS}
            self._journal.done(report, now_ns=self._clock.now_ns())
            self._tables.is_merged = False
            self._log.warning("kill.done", remaining=len(report["remaining"]), cancelled=report["cancelled"])
        elif record.is_done and not is_settled:
            why = next((work.state for work in works if not work.is_settled), "")
            self._journal.reopen(why, now_ns=self._clock.now_ns())
            self._tables.is_merged = False
            self._log.error("kill.reopened", kill_id=record.kill_id)
        stuck = self._stuck(works)
        why = "; ".join(f"{symbol}: {why}" for symbol, why in sorted(stuck.items()))
        of = "" if KillScope.parse(record.scope).is_system else f" of {record.scope}"
        self._page_while(_STUCK, f"the kill{of} could not close {why}" if stuck else "", record, sorted(stuck))
        if is_settled:
            self._unsettled_s = None
        elif self._unsettled_s is None:
            self._unsettled_s = now
        states = ", ".join(f"{work.report()['name']}: {work.state} {work.detail}".strip() for work in works)
        is_late = self._unsettled_s is not None and now - self._unsettled_s > self._timing.page_s
        late = f"a kill{of} is not done after {self._timing.page_s:g} s ({states})" if is_late else ""
        self._page_while(_UNFINISHED, late, record)

    def _stuck(self, works: Sequence[KillWork]) -> dict[str, str]:
        """Return the symbols that a person must look at, and why."""
        record = self._journal.record
        lines = record.report["remaining"] if record is not None and record.is_done else []
        found = {line["symbol"]: "close it at the venue" for line in lines if line["kind"] == "stuck"}
        for work in works:
            for symbol, why in work.stuck.items():
                found[symbol] = f"{why}, it goes on every {self._timing.retry_max_s:g} s"
        return found

    def _page_while(self, event: str, message: str, record: KillRecord, symbols: Sequence[str] = ()) -> None:
        """Page once while a cause holds, and end the page with it; one of before a restart, too. The open page changes
        with its symbols, so that each of them is named in it."""
        named = symbols if message else None
        if event not in self._paged or self._paged[event] != named:
            self._paged[event] = named
            if message:
                scope = {} if KillScope.parse(record.scope).is_system else {"scope": record.scope}
                self._tables.page(event, message, kill_id=record.kill_id, symbols=list(symbols), **scope)
            else:
                self._tables.end_page(event)


class ScopeSwitch:
    """`start` once; then kill, resume and `follow` in any order; `stop` once. `report` says where the kill is."""

    def __init__(self, context: GuardianContext, scope: KillScope, journal: KillJournal, site: KillSite) -> None:
        self.scope, self.journal = scope, journal
        self.tables = KillTables(context, journal, scope)
        self._context, self._site, self._lease = context, site, site.lease
        self._clock, self._log, self._timing, self._bus = context.clock, context.log, context.timing, context.bus
        self._works: dict[str, KillWork] = {}
        self._work: asyncio.Task[None] | None = None
        self._publishing: set[asyncio.Task[Any]] = set()
        self._acting = asyncio.Lock()  # one kill or resume is taken at a time
        self._resuming, self._resumed = 0, 0  # resumes under way, and ended
        # (kill, lease epoch) for which a predecessor's orders are in the file
        self._taken: tuple[str, int] | None = None
        self._takes = 0

    # ── life ─────────────────────────────────────────────────────────────────────────────────────
    async def start(self) -> None:
        """Go on with an unfinished kill."""
        if self.tables.take_release(await self.tables.elsewhere()):
            self._engage_again()
        record = self.journal.record
        if self._work is None and record is not None and record.is_engaged:
            self._log.warning(
                "kill.engaged_at_start", kill_id=record.kill_id, is_done=record.is_done, scope=record.scope
            )
            await self._take_orders()
            self._begin()

    async def turn(self) -> None:
        """Write what the tables lack."""
        if not self.tables.is_merged:
            await self.tables.merge()
        await self.tables.send_pages()

    async def stop(self) -> None:
        """End the work. An engaged kill stays engaged and goes on at the next start."""
        for task in (*self._publishing, *((self._work,) if self._work is not None else ())):
            await ended(task)

    @property
    def is_engaged(self) -> bool:
        return self.journal.record is not None and self.journal.record.is_engaged

    @property
    def is_resuming(self) -> bool:
        return self._resuming > 0

    @property
    def mode(self) -> KillMode:
        """Return the mode of the engaged kill."""
        record = self.journal.record
        return record.mode if record is not None and record.is_engaged else KillMode.NONE

    # ── the switch ───────────────────────────────────────────────────────────────────────────────
    async def kill(self, asked: Asked, wait_s: float | None = None) -> dict[str, Any]:
        """Engage the kill switch, or join the kill engaged. Answers when all is quiet, or after `wait_s`, at most
        `reply_s`."""
        async with self._acting:
            is_new = not self.is_engaged
            record = self.journal.record
            if is_new:
                self._engage(asked)
            elif record is not None:
                self.journal.join(asked)
                self.wake(is_more=asked.flatten and not record.flatten)
            self.tables.is_merged = False
            self._site.changed()
        self._publish_soon()
        await self._wait_quiet(self._timing.reply_s if wait_s is None else min(wait_s, self._timing.reply_s))
        return self.report(already=not is_new)

    def _engage(self, asked: Asked) -> None:
        record = self.journal.engage(uuid.uuid4().hex, asked)
        self._taken = record.kill_id, self._lease.epoch  # no other guardian can have sent an order of a new kill
        self._log.error(
            "kill.engaged",
            kill_id=record.kill_id,
            scope=record.scope,
            reason=asked.reason,
            by=asked.by,
            flatten=asked.flatten,
        )
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
            record = self.journal.record
            if record is None or not record.is_engaged:
                await self.tables.release_all(by, self._clock.now_ns())
                return {"ok": True, "engaged": False, "already": True}
            if not force and not all(work.quiet.is_set() for work in self._works.values()):
                raise conflict(
                    "KILL_WORKING",
                    "the kill is still at work",
                    "look at 'fks kill --json', or give it up with 'fks resume --force'",
                )
            await self._end_work()
            now = self._clock.now_ns()
            record = self.journal.release(by=by, now_ns=now)
            self.tables.is_merged = False
            self._log.warning("kill.released", kill_id=record.kill_id, scope=record.scope, by=by)
            self._released()
        await self.tables.merge()
        await self.tables.release_all(by, now)
        await self._publish()
        return {
            "ok": True,
            "engaged": False,
            "already": False,
            "kill_id": record.kill_id,
            "database": self.tables.state,
            # no session of ours may lift the own latch of a bridge
            **({"still_halted": [b.address.key for b in bridges if b.is_halted]} if (bridges := self._bridges) else {}),
        }

    def _released(self) -> None:
        """Have the other kills look now: the positions that this one was in charge of are theirs."""
        self._site.changed()
        for switch in self._beside():
            switch.wake()

    def report(self, *, already: bool = False) -> dict[str, Any]:
        """Return what became of the kill so far."""
        record = self.journal.record
        if record is None or not record.is_engaged:
            return {"ok": True, "engaged": False}
        works, together = list(self._works.values()), self._together()
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
            "is_quiet": all(switch._is_quiet for switch in together),
            "is_done": record.is_done,
            "cancelled": record.cancelled,
            "orders": [item.line() for item in record.orders[-_ORDERS_MAX:]],
            "remaining": [left for switch in together for left in switch._remaining()],
            "venues": [work.report() for work in works] or list(record.report.get("venues", ())),
            "database": self.tables.state if self.tables.is_merged else "pending",
            "journal": self.journal.error or "ok",
        }

    @property
    def _is_quiet(self) -> bool:
        record = self.journal.record
        return (record is not None and record.is_done) or all(work.quiet.is_set() for work in self._works.values())

    def _remaining(self) -> list[dict[str, str]]:
        record, works = self.journal.record, self._works.values()
        if not works and record is not None and record.is_done:
            return list(record.report.get("remaining", ()))
        return [left for work in works for left in work.remaining] + self._elsewhere()

    async def follow(self) -> frozenset[KillScope]:
        """Follow what happened at another machine's guardian: a kill engaged, more asked for, a release; then see to it
        that its flattening orders are known here. Return the other scopes of which kills are engaged in the tables."""
        resumed, is_resuming = self._resumed, self._resuming > 0
        found = await self.tables.elsewhere()
        async with self._acting:  # not while PostgreSQL is waited for: a kill waits for this lock
            # a resume releases every row: what was read before its end may be among them, and is read again
            is_old = is_resuming or self._resuming > 0 or resumed != self._resumed
            if self.tables.is_released(found):
                await self._end_work()
                self.tables.take_release(found)
                self._engage_again()  # at once: in between, entries would be allowed
                self._released()
            elif not is_old and self.tables.adopt(found):
                if self._work is None:
                    self._begin()
                else:
                    self.wake(is_more=True)
                self._site.changed()
            elif self._work is not None and self._venues() - self._works.keys():
                await self._end_work()  # a newer snapshot shows that something lies in the scope at further venues
                self._begin()
        await self._take_orders()
        return found.scopes

    def _engage_again(self) -> None:
        """Begin the kill that was asked for after a release elsewhere which this guardian had not read then: it was
        taken for one that joins."""
        record = self.journal.record
        if record is None or record.joined is None or record.released_ns is None:
            return
        if record.released_ns < record.joined.at_ns:
            self._engage(record.joined)
            self.tables.is_merged = False

    async def _take_orders(self) -> None:
        record = self.journal.record
        if record is None or not record.is_engaged or self._lease.state != HELD:
            return
        wanted = record.kill_id, self._lease.epoch
        if self._taken == wanted:
            return
        self._takes += 1
        if await self.tables.take_orders(self._site.venues) or self._takes >= _TAKE_TRIES:
            self._taken, self._takes = wanted, 0
            self.wake()

    def _why_not(self) -> str:
        """Return why this guardian must not cancel and close now, "" when it may. It decides which guardian acts; which
        orders may go is the policy's (`fks.trading.risk.policy`)."""
        why, record = self._lease.why_not, self.journal.record
        if why or record is None or self._lease.state != HELD:
            return why
        return "" if self._taken == (record.kill_id, self._lease.epoch) else "its predecessor's orders are being read"

    def _elsewhere(self) -> list[dict[str, str]]:
        """Return positions at venues that no work of this kill closes: paper lives in the order manager, which does. It
        does so, too, where a bridge would flatten more than lies in the scope: real money, so these are `pending`. What
        was held at a local exchange that no setting names any more ended with that."""
        snapshot = self._site.snapshot()
        held = snapshot.positions if snapshot is not None else {}
        bridged, real = ({bridge.address.platform for bridge in of} for of in (self._bridges, self._site.bridges))
        why = "the order manager closes it: only it has a session with this venue"
        if not self.scope.is_system:
            why = "the order manager closes it: the guardian has no session for a part of this venue"
        return [
            line_of(
                "pending" if platform_of(holder.venue) in real else "elsewhere", why, holder=holder, quantity=quantity
            )
            for holder, quantity in sorted(held.items())
            if (holder.venue == Environment.PAPER or platform_of(holder.venue) is not None)
            and holder.venue not in self._site.venues
            and platform_of(holder.venue) not in bridged
            and self._concerns(holder)
        ]

    # ── beside other kills ───────────────────────────────────────────────────────────────────────
    def _beside(self) -> list[ScopeSwitch]:
        return [switch for switch in self._site.switches() if switch is not self and switch.is_engaged]

    def _before(self) -> list[ScopeSwitch]:
        """Return the engaged kills that are in charge of what lies in their scope and in this one's."""
        record = self.journal.record
        return [
            switch
            for switch in self._beside()
            if (other := switch.journal.record) is not None and record is not None and other.rank < record.rank
        ]

    def _together(self) -> list[ScopeSwitch]:
        """Return the switches on which it depends whether all in the scope is cancelled and closed."""
        return [self, *filter(self._overlaps, self._before())]

    def _works_together(self) -> list[KillWork]:
        return [work for switch in self._together() for work in switch._works.values()]

    def _overlaps(self, other: ScopeSwitch) -> bool:
        """Return whether something lies in the scopes of both."""
        if self.scope.is_system or other.scope.is_system or (snapshot := self._site.look()) is None:
            return True
        holders = {*snapshot.positions, *(known.holder for known in snapshot.orders.values())}
        return any(snapshot.is_in(self.scope, holder) and snapshot.is_in(other.scope, holder) for holder in holders)

    def _concerns(self, holder: Holder) -> bool:
        """Return whether this kill is in charge of a holder's orders and position."""
        snapshot = self._site.snapshot() or _NOTHING
        is_in = snapshot.is_in(self.scope, holder)
        return is_in and not any(snapshot.is_in(switch.scope, holder) for switch in self._before())

    def _orders_beside(self) -> list[Order]:
        """Return the orders that kills of other scopes sent, which the database may lack."""
        journals = [switch.journal for switch in self._site.switches() if switch is not self]
        found = [item.order for journal in journals if journal.record is not None for item in journal.record.orders]
        return found + [order for journal in journals for order in journal.earlier.values()]

    # ── the work ─────────────────────────────────────────────────────────────────────────────────
    @property
    def _bridges(self) -> list[NinjaSession]:
        """Return the bridges that this kill asks: each flattens all accounts of its group, or none."""
        return list(self._site.bridges) if self.scope.is_system else []

    def _venues(self) -> set[str]:
        """Return the venues of the guardian's sessions where something may lie in the scope."""
        names, snapshot = set(self._site.venues), self._site.look()
        if self.scope.kind is ScopeKind.VENUE or (snapshot is not None and not self.scope.is_system):
            names &= (snapshot or _NOTHING).venues_of(self.scope)
        return names

    def _begin(self) -> None:
        record, names, scope = self.journal.record, self._venues(), self.scope
        is_done = record is not None and record.is_done
        share = KillShare(
            scope.kind in (ScopeKind.SYSTEM, ScopeKind.VENUE),
            int(scope.name) if scope.kind is ScopeKind.ACCOUNT and scope.name.isdecimal() else None,
            self._concerns,
            self._orders_beside,
        )
        self._works = {
            name: VenueKill(
                self._context,
                venue,
                self.journal,
                self._site.look,
                why_not=self._why_not,
                save=self._save_soon,
                is_settled=is_done,
                share=share,
            )
            for name, venue in self._site.venues.items()
            if name in names
        }
        for bridge in self._bridges:
            self._works[bridge.name] = NinjaKill(
                self._context, bridge, self.journal, why_not=lambda: self._lease.why_not, is_settled=is_done
            )
        self._work = asyncio.create_task(self._carry_out(), name=f"kill {scope}")

    async def _end_work(self) -> None:
        """Stop working: the kill is released."""
        if self._work is not None:
            await ended(self._work)
        for event in PAGES:
            self.tables.end_page(event)
        self._works, self._work = {}, None

    def wake(self, *, is_more: bool = False, is_settled: bool | None = None) -> None:
        """Have the works look now: all, or those that are, or are not, settled."""
        for work in self._works.values():
            if is_settled is None or work.is_settled == is_settled:
                work.wake(is_more=is_more)

    async def _carry_out(self) -> None:
        """Work at every venue, and look on, for as long as the kill is engaged."""
        progress = Progress(self._context, self._works_together, self.journal, self.tables, self.report)
        await asyncio.gather(progress.run(), *map(self._work_at, self._works.values()))

    async def _work_at(self, work: KillWork) -> None:
        if isinstance(work, VenueKill):
            await self._site.opened(work.name)  # may take long; nothing else waits for it
        await work.run()

    async def _wait_quiet(self, timeout_s: float) -> None:
        waits = [asyncio.ensure_future(work.quiet.wait()) for work in self._works_together()]
        if waits:
            _, late = await asyncio.wait(waits, timeout=timeout_s)
            for wait in late:
                wait.cancel()

    # ── rows and messages ────────────────────────────────────────────────────────────────────────
    async def _save_soon(self) -> None:
        """Try to have the orders table know an order before its bytes leave; a slow database does not hold it up."""
        if self.tables.state == "up":
            await self.tables.merge(self._timing.save_s)

    def _publish_soon(self) -> None:
        """Write the tables and publish on the bus, without making the kill wait for either."""
        for work in (self.tables.merge(), self._publish()):
            task = asyncio.create_task(work)
            self._publishing.add(task)
            task.add_done_callback(self._publishing.discard)

    async def _publish(self) -> None:
        record = self.journal.record
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


async def ended(task: asyncio.Task[Any]) -> None:
    """Cancel a task until it has ended: a venue's library may turn one cancellation into an error of its own, and a
    round that failed is followed by the next one. The lock of kills is held meanwhile."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_CANCEL_AGAIN_S)
    if not task.cancelled():
        task.exception()


_NOTHING = DatabaseSnapshot(0, {}, {}, {}, frozenset())
