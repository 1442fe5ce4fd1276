"""The guardian: the kill switch, in a process of its own with venue sessions of its own (G5).

It needs nothing but the venues and its file. PostgreSQL down, order manager hung, Redis gone: a kill still cancels
every open order and closes our positions, capped by the venue's free balance; its acts are merged into the tables
when they are back. A group of a platform is reached by a session of its own with the bridge, which flattens and keeps a
latch of its own. A guardian that dies in the middle goes on from its file when it returns, under the same ids. While
a kill is engaged others deny entries: they read the table `kill_switch` or, without a database, the file (`read_kill`).

Talked to over a unix socket (0600), one JSON object a line each way:
{"op": "kill", "scope": "system", "reason", "by", "flatten": true, "wait_s"} · {"op": "resume", "scope", "by", "force":
false} · {"op": "status", "scope"}. Answers carry "ok"; a refusal carries "error". A kill is answered when all is quiet,
or after `wait_s` (at most `reply_s`) with where it is. A scope is `system` (the default), `venue:NAME`, `account:NAME`
or `strategy:NAME`; each has a switch of its own (`fks.trading.guardian.switch`).
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fks.clock.waiting import end_task
from fks.model.account import Environment
from fks.model.errors import FksError, InputError, OutageError, invalid
from fks.model.kill import KillScope, ScopeKind, account_number
from fks.model.ninja import platform_of
from fks.model.ports import Log, Venue
from fks.trading.credentials.carrier import CredentialWatch
from fks.trading.guardian.context import GuardianContext
from fks.trading.guardian.journal import (
    Asked,
    KillJournal,
    scope_file,
    scope_files,
    scope_of_file,
)
from fks.trading.guardian.lease import UNANSWERED, GuardianLease, holder_of
from fks.trading.guardian.ninja_session import NinjaSession, RuleWatch
from fks.trading.guardian.positions import DatabaseSnapshot, PositionsFile, SideOrders
from fks.trading.guardian.switch import KillSite, ScopeSwitch, ended
from fks.trading.guardian.takeover import Takeover
from fks.trading.risk.policy import Action, Allow, Circumstances, JournalState, allowed
from fks.trading.venues.closed import ClosedVenue, unconfigured_venue

_TEXT_MAX = 500
_BRIEF = ("kill_id", "reason", "by", "flatten", "is_quiet", "is_done")
_RELEASED = {"ok": True, "engaged": False}


_LINE_MAX = 65_536


class GuardianSocket:
    """The control socket, for this user alone. Serves `answer`: answers carry "ok"; a refusal has "error", "remedy"
    and "code". Callers do not disturb each other."""

    def __init__(self, path: Path, answer: Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]], log: Log) -> None:
        self._path = path
        self._answer = answer
        self._log = log
        self._server: asyncio.AbstractServer | None = None
        self._talks: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Listen, in place of a dead predecessor's socket. Errors: OSError."""
        self._path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)  # the supervisor runs one guardian at a time
        mask = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._talk, self._path, limit=_LINE_MAX)
        finally:
            os.umask(mask)

    async def close(self) -> None:
        """Stop listening, hang up, remove the socket."""
        if self._server is not None:
            self._server.close()
            self._server = None
            self._path.unlink(missing_ok=True)
        for task in list(self._talks):
            await end_task(task)

    @property
    def is_open(self) -> bool:
        return self._server is not None and self._server.is_serving()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one caller until it hangs up. One that goes away early does not end what it asked for."""
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        try:
            while line := await reader.readline():
                writer.write(json.dumps(await self._reply(line), default=str).encode() + b"\n")
                await writer.drain()
        except (ValueError, OSError):  # a line without end, a caller gone
            pass
        finally:
            self._talks.discard(task)
            writer.close()

    async def _reply(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
        except ValueError:
            request = None
        if not isinstance(request, dict):
            return {"ok": False, "error": "not a JSON object", "remedy": 'send {"op": "status"}', "code": "OP_UNKNOWN"}
        try:
            return await self._answer(request)
        except FksError as error:
            code = getattr(error, "code", "FAILED")
            return {"ok": False, "error": error.message, "remedy": error.remedy, "code": code}
        except Exception as error:  # the caller gets an answer, whatever was raised
            self._log.error("guardian.request_failed", error=f"{type(error).__name__}: {error}")
            return {
                "ok": False,
                "error": f"{type(error).__name__}: {error}",
                "remedy": "see 'fks logs guardian'",
                "code": "BUG",
            }


class Guardian:
    """start, run, stop; `detail()` and `is_ready` for status. One per system. `exchanges`: those of its venues, by the
    venue's name. `bridges`: unstarted sessions with groups of platforms. `side_journal`: the order manager's, on this
    machine. `takes_over`: no other machine could run an order manager, so that stops are placed in its stead
    (`takeover`)."""

    def __init__(
        self,
        context: GuardianContext,
        venues: Mapping[str, Venue],
        *,
        kill_file: Path,
        socket_path: Path,
        reserve: Path,
        exchanges: Mapping[str, str] | None = None,
        is_placed: bool = True,
        bridges: Sequence[NinjaSession] = (),
        side_journal: Path | None = None,
        takes_over: bool = False,
        credentials: Sequence[CredentialWatch] = (),
    ) -> None:
        self._context = context
        self._venues = dict(venues)
        self._bridges, self._credentials = tuple(bridges), credentials
        self._watching: list[asyncio.Task[None]] = []  # of the prop firms' rules
        self._clock, self._meter = context.clock, context.meter
        self._log, self._timing = context.log, context.timing
        self._exchanges = exchanges or {}
        self._lease = GuardianLease(context, holder=holder_of(kill_file), is_placed=is_placed)
        self._reserve = reserve
        self._positions = PositionsFile(kill_file.with_name("kill-positions.json"), self._exchanges)
        self._snapshot: DatabaseSnapshot | None = None
        self._side = SideOrders(side_journal, context.log)
        self._opened: set[str] = set()
        self._closed_why: dict[str, str] = {}  # venue -> why its session did not open at the last try
        self._skews: dict[str, float] = {}
        self._opening: dict[str, asyncio.Lock] = {}
        self._socket = GuardianSocket(socket_path, self.answer, context.log)
        self._renewing: asyncio.Task[None] | None = None
        self._site = KillSite(
            self._venues,
            self._bridges,
            self._lease,
            self._look,
            lambda: self._snapshot,
            self._open_venue,
            lambda: list(self._switches.values()),
            self._changed,
        )
        self._system = ScopeSwitch(context, KillScope(), KillJournal(kill_file, reserve), self._site)
        self._switches = {self._system.scope: self._system}
        self._tables = self._system.tables
        self._takeover: Takeover | None = None
        if takes_over and side_journal is not None:
            self._takeover = Takeover(
                context,
                self._venues,
                side_journal,
                self._side,
                self._look_for_takeover,
                self._why_no_takeover,
                self._tables.page,
            )
        self.beat = 0.0  # monotonic time of the last turn of `run`

    # ── life ─────────────────────────────────────────────────────────────────────────────────────
    async def start(self) -> None:
        """Lock and read the file, open the socket, go on with an unfinished kill. Needs no database and no venue to be
        up.

        Errors: OutageError while another guardian has the file, or where no kill could reach a venue that is traded;
        OSError when the socket cannot be made.
        """
        journal = self._system.journal
        if not journal.lock():
            raise OutageError(f"another guardian holds {journal.path}", remedy="it is waited for: it ends first")
        self._snapshot = self._positions.load()
        try:
            for path in scope_files(journal.path):
                self._switch(scope_of_file(journal.path, path))
        except OSError as error:  # others read the same error as a kill of the whole system
            self._log.error("guardian.kills_unreadable", error=str(error))
        self._cover_unconfigured()
        await self._check_closed()
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
        for keys in self._credentials:
            self._watching.append(asyncio.create_task(keys.run(self._key_alert), name="credentials"))
        await self._open_venues()
        await asyncio.gather(*(switch.start() for switch in self._switches.values()))
        self._changed()

    async def run(self) -> None:
        """Each second: read positions, merge what the tables lack, keep the sessions' clocks compared. Until
        cancelled. Errors: OutageError as `start`."""
        due_skew = 0.0
        while True:
            self.beat = self._clock.monotonic()
            for switch in self._switches.values():
                switch.journal.flush()
            await self._refresh()
            if self._tables.state == "up":
                await self._follow()
                await self._check_closed()
            await asyncio.gather(*(switch.turn() for switch in self._switches.values()))
            if self.beat >= due_skew:
                due_skew = self.beat + self._timing.skew_s
                await self._open_venues()
                await asyncio.gather(*(self._compare_clocks(venue) for venue in self._venues.values()))
            await self._clock.sleep(self._timing.refresh_s)

    async def stop(self) -> None:
        """Close the socket and the sessions. An engaged kill stays engaged and goes on at the next start."""
        await self._socket.close()
        for switch in self._switches.values():
            await switch.stop()
        if self._renewing is not None:
            await ended(self._renewing)
        await self._lease.release()
        for task in self._watching:
            await ended(task)
        for bridge in self._bridges:
            await bridge.close()
        for venue in self._venues.values():
            await venue.close()
        for switch in self._switches.values():
            switch.journal.close()

    @property
    def is_ready(self) -> bool:
        """Whether a kill could be asked for and a venue session exists."""
        return self._socket.is_open and (not self._venues or bool(self._opened))

    def detail(self) -> dict[str, object]:
        """Return what status shows."""
        engaged = self._engaged
        record = engaged[0].journal.record if engaged else None
        age = None if self._snapshot is None else (self._clock.now_ns() - self._snapshot.as_of_ns) / 1e9
        return {
            "engaged": bool(engaged),
            "kill_id": None if record is None else record.kill_id,
            "is_done": None if record is None else record.is_done,
            "scopes": [str(switch.scope) for switch in engaged],
            "venues": {
                name: {
                    "open": name in self._opened,
                    "skew_ms": self._skews.get(name),
                    "reason": self._closed_why.get(name, ""),
                }
                for name in self._venues
            },
            "ninja": {
                bridge.address.key: {
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
            "journal": next((of.journal.error for of in self._switches.values() if of.journal.error), "ok"),
            "takeover": "off" if self._takeover is None else self._takeover.state,
        }

    # ── the switches ─────────────────────────────────────────────────────────────────────────────
    async def kill(
        self, *, reason: str, by: str, flatten: bool = True, scope: str = "system", wait_s: float | None = None
    ) -> dict[str, Any]:
        """Engage the kill switch of a scope, or join the kill engaged. Answers when all is quiet, or after `wait_s`, at
        most `reply_s`.

        Errors: InputError SCOPE_UNKNOWN.
        """
        of = self.scope_of(scope)
        asked = Asked(str(of), reason, by, flatten, self._clock.now_ns())
        return self._with_others(of, await self._switch(of).kill(asked, wait_s))

    async def resume(self, *, by: str, force: bool = False, scope: str = "system") -> dict[str, Any]:
        """Release the kill switch of a scope. Without `force` not while there is still something to cancel or close."""
        of = self.scope_of(scope)
        return self._with_others(of, await self._switch(of).resume(by=by, force=force))

    def report(self, *, scope: str = "system") -> dict[str, Any]:
        """Return what became of the kill of a scope so far."""
        of = self.scope_of(scope)
        return self._with_others(of, self._switches[of].report() if of in self._switches else _RELEASED)

    def scope_of(self, text: str) -> KillScope:
        """Return the scope that a person means; an account may be named by its name or its number.

        Errors: InputError SCOPE_UNKNOWN for one of which nothing is known, where the database was ever read.
        """
        scope, known = KillScope.parse(text), self._snapshot
        if scope.is_system:
            if text != str(scope):
                raise _unknown(text, ["system", "venue:NAME", "account:NAME", "strategy:NAME"])
            return scope
        accounts = {} if known is None else {name: str(id) for id, (name, _) in known.accounts.items()}
        if scope.kind is ScopeKind.ACCOUNT:
            scope = KillScope(scope.kind, account_number(scope.name, accounts))
        if scope.kind is ScopeKind.VENUE:  # the venue of `venue.exchange` may be named by the exchange
            at = {exchange: venue for venue, exchange in self._exchanges.items()}
            scope = KillScope(scope.kind, at.get(scope.name, scope.name))
        if scope in self._switches:
            return scope
        holders = set() if known is None else set(known.positions)
        pairs = [] if known is None else [*known.accounts.values(), *known.instances.values()]
        if scope.kind is ScopeKind.VENUE:
            is_listed = True
            names = {*self._venues, *(bridge.address.platform.name for bridge in self._bridges)}
            names |= {venue for _, venue in pairs} | {holder.venue for holder in holders}
        elif scope.kind is ScopeKind.ACCOUNT:
            is_listed, names = bool(accounts) or not scope.name.isdecimal(), set(accounts.values())
        else:
            is_listed, names = known is not None, {holder.instance for holder in holders}
            if known is not None:
                names |= {name for id, (strategy, _) in known.instances.items() for name in (id, strategy)}
        if is_listed and scope.name not in names:
            raise _unknown(text, sorted(accounts if scope.kind is ScopeKind.ACCOUNT else names - {""}))
        return scope

    def _switch(self, scope: KillScope) -> ScopeSwitch:
        """Return the switch of a scope; one that was never used before is made."""
        if scope not in self._switches:
            journal = KillJournal(scope_file(self._system.journal.path, scope), self._reserve)
            self._switches[scope] = ScopeSwitch(self._context, scope, journal, self._site)
            self._switches[scope].tables.state = self._system.tables.state
        return self._switches[scope]

    def _with_others(self, scope: KillScope, answer: dict[str, Any]) -> dict[str, Any]:
        """Return an answer with the kills of other scopes that are engaged, if there are any."""
        others = {str(of): switch.report() for of, switch in self._switches.items() if of != scope}
        beside = [
            {"scope": of, **{name: report[name] for name in _BRIEF}}
            for of, report in others.items()
            if report["engaged"]
        ]
        return answer | ({"beside": beside} if beside else {})

    @property
    def _engaged(self) -> list[ScopeSwitch]:
        return [switch for switch in self._switches.values() if switch.is_engaged]

    def _changed(self) -> None:
        self._meter.gauge("fks_kill_engaged", float(bool(self._engaged)))

    async def _follow(self) -> None:
        """Follow the guardians of other machines in each scope, each on its own."""
        scopes = await self._system.follow()
        others = {self._switch(scope) for scope in scopes if not scope.is_system} | {*self._engaged} - {self._system}
        await asyncio.gather(*(switch.follow() for switch in others))

    def _why_no_takeover(self) -> str:
        """Return why this guardian must not place stops in the order manager's stead now, "" when it may."""
        kill = Circumstances(self._system.mode, journal=JournalState.SIDE)
        is_resuming = any(switch.is_resuming for switch in self._switches.values())
        if is_resuming or not isinstance(allowed(Action.LEG, kill), Allow):
            return "a kill is engaged: it cancels and closes"
        if self._snapshot is None:
            return "PostgreSQL was never read"
        return self._lease.why_not if self._lease.state == UNANSWERED else "PostgreSQL answers"

    def _look_for_takeover(self) -> DatabaseSnapshot | None:
        """Return the snapshot without the entries that an engaged kill is in charge of."""
        snapshot = self._look()
        return None if snapshot is None else snapshot.without(switch.scope for switch in self._engaged)

    # ── venues ───────────────────────────────────────────────────────────────────────────────────
    async def _open_venues(self) -> None:
        await asyncio.gather(*map(self._open_venue, self._venues))

    async def _open_venue(self, name: str) -> None:
        """Open the session of a venue, unless it is open; one try."""
        async with self._opening.setdefault(name, asyncio.Lock()):
            if name in self._opened:
                return
            try:
                async with asyncio.timeout(self._timing.reply_s):
                    await self._venues[name].open()
                self._opened.add(name)
                self._closed_why.pop(name, None)
            except (FksError, OSError, TimeoutError) as error:
                self._closed_why[name] = str(error)
                self._log.error("guardian.venue_closed", venue=name, error=str(error))

    async def _check_closed(self) -> None:
        """Let this process end where the order manager trades at a venue that is closed here, unless a kill is at work,
        or wanted: entries are denied while no guardian runs, and a new one reads the settings of then. Errors:
        OutageError."""
        for name in self._exchanges.keys() - self._venues.keys():  # left out, since it had no key at the start
            is_needed = not self._engaged and await self._tables.is_traded(name)
            if is_needed and not await self._tables.has_kill():
                raise OutageError(f"the order manager trades at {name}, and the guardian started without its key")
        for name, venue in self._venues.items():
            if not isinstance(venue, ClosedVenue) or venue.is_made or self._engaged:
                continue
            if await self._tables.is_traded(name):
                await self._open_venue(name)
                if not venue.is_made and not await self._tables.has_kill():
                    raise OutageError(f"the order manager trades at {name}: {self._closed_why.get(name, '')}")

    def _cover_unconfigured(self) -> None:
        """Have a closed venue wherever something is held that no setting names any more: no kill is done without it.
        What was held at a local exchange ended with that."""
        if (known := self._snapshot) is None:
            return
        for holder in known.holders():
            is_real = (of := known.identities.get(holder.account_id)) is None or of.environment is not Environment.SIM
            if holder.venue not in (*self._venues, Environment.PAPER) and platform_of(holder.venue) is None and is_real:
                self._venues[holder.venue] = unconfigured_venue(holder.venue)

    async def _compare_clocks(self, venue: Venue) -> None:
        """Keep the session's signing time right, and its connection warm."""
        try:
            self._skews[venue.name] = round(await venue.skew_ms(), 1)
        except OutageError:
            self._skews.pop(venue.name, None)

    def _key_alert(self, level: str, event: str, message: str, /) -> None:
        if level == "page":
            self._tables.page(event, message)
        else:
            self._log.warning("guardian.key", alert=event, message=message)

    # ── the database, when it is there ───────────────────────────────────────────────────────────
    async def _refresh(self) -> None:
        """Read positions into memory and the file; without a database both stay as they are. What changed is acted on
        now."""
        stored = self._side.read()  # of what leaves the file, before the tables are read
        row = await self._tables.snapshot({*self._side.orders, *self._side.sent})
        if row is None:
            return
        self._side.forget(stored)
        before, self._snapshot = self._snapshot, DatabaseSnapshot.of(row, self._exchanges)
        self._cover_unconfigured()
        for switch in self._switches.values():
            if before is None or self._snapshot.differs(before, switch.scope):
                switch.wake(is_settled=True)
        try:
            self._positions.keep(row)
        except OSError as error:
            self._log.error("guardian.snapshot_failed", error=str(error))

    def _look(self) -> DatabaseSnapshot | None:
        """Return our positions and orders, those included that the order manager sent without the database."""
        self._side.read()
        return None if self._snapshot is None else self._snapshot.with_side_orders(self._side)

    async def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to one request of the socket. Errors: InputError for one not understood, FksError."""
        operation = OPERATIONS.get(str(request.get("op")))
        if operation is None:
            raise invalid("OP_UNKNOWN", "not understood", f'send {{"op": one of {sorted(OPERATIONS)}}}')
        return await operation(self, request)


def _unknown(text: str, known: Sequence[str]) -> InputError:
    return invalid("SCOPE_UNKNOWN", f"scope {text!r} is not known", f"use one of: {', '.join(known)}")


async def _on_kill(guardian: Guardian, request: Mapping[str, Any]) -> dict[str, Any]:
    return await guardian.kill(
        scope=_scope(request),
        reason=_text(request.get("reason") or ""),
        by=_text(request.get("by") or "?"),
        flatten=request.get("flatten") is not False,
        wait_s=wait_s if isinstance(wait_s := request.get("wait_s"), float) else None,
    )


async def _on_resume(guardian: Guardian, request: Mapping[str, Any]) -> dict[str, Any]:
    return await guardian.resume(
        by=_text(request.get("by") or "?"), force=request.get("force") is True, scope=_scope(request)
    )


async def _on_status(guardian: Guardian, request: Mapping[str, Any]) -> dict[str, Any]:
    return {**guardian.report(scope=_scope(request)), "detail": guardian.detail()}


def _text(value: object) -> str:
    """Return a text that the file and PostgreSQL can keep: bytes of a terminal that were no UTF-8 are none."""
    return str(value)[:_TEXT_MAX].replace("\0", "").encode(errors="replace").decode()


def _scope(request: Mapping[str, Any]) -> str:
    scope = request.get("scope")
    return str(KillScope()) if scope is None else str(scope)


OPERATIONS: dict[str, Callable[[Guardian, Mapping[str, Any]], Awaitable[dict[str, Any]]]] = {
    "kill": _on_kill,
    "resume": _on_resume,
    "status": _on_status,
}
