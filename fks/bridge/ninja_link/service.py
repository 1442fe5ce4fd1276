"""Driver of one link to the bridge of a platform: rows in, lines out; answers and events in, rows out.

It decides nothing about orders. A request's line is committed (SENDING) before its first byte leaves, and an event is
committed before the bridge is acknowledged. While PostgreSQL is away the connection stays, nothing is sent, nothing is
acknowledged, and received lines wait in memory; then it goes on. One process per group holds the lease and writes.

Of a signal the same line is sent again only where `fks.bridge.ninja.signals` allows it. After a restart the bridge is
asked about every signal that may have left.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from fks.bridge.ninja import messages as m
from fks.bridge.ninja import outputs as o
from fks.bridge.ninja.fields import FieldError, written
from fks.bridge.ninja.machine import LIVE, LinkState
from fks.bridge.ninja.outputs import AlarmCode
from fks.bridge.ninja.session import SIGNALS_MAX, ClientSession, Identity, Prepared, UnsentReason
from fks.bridge.ninja.signals import ENDED, LinkSignalState
from fks.bridge.ninja_link.link import Link, ports_of, system_draws
from fks.bridge.ninja_link.requests import (
    JOURNAL_LOST,
    MS_NS,
    RequestChange,
    message_of,
    outcome_of_request,
    outcome_of_signal,
    prepared_of,
    row_of_event,
)
from fks.clock import Clock
from fks.clock.waiting import wait_for_event
from fks.model.backoff import Backoff
from fks.model.errors import OutageError, StaleEpochError
from fks.model.health import Check, failed
from fks.model.ninja import (
    EXIT_ENTRIES,
    NINJA,
    TRADING_CODE,
    BridgePlatform,
    LineMacRule,
    LinkReport,
    NinjaEvent,
    RequestKind,
    RequestRecord,
    RequestState,
)
from fks.model.ports import Lease, Log, Meter

POLL_S = 1.0  # between two looks at the rows, when nothing wakes the link
BEAT_S = 1.0  # between two writes of the link's row, when nothing changes
BEAT_LEAST_S = 0.05
AGAIN_S = 0.5  # after PostgreSQL did not answer
CLAIM_MAX, EVENTS_BATCH, EVENTS_MAX = 100, 500, 50_000
EXECUTIONS_MAX = 20_000  # kept to find the change of an amendment
DRAIN_S = 2.0
DISCONNECTED_S = 30.0  # without a connection: a person is paged, if the platform is required
PRUNE_S = 3_600.0
RETRY: Final = Backoff(0.5, 5.0)  # of a signal that the bridge refused for now
_PAGES: Final = frozenset(
    {
        AlarmCode.BRIDGE_AUTH,
        AlarmCode.AUTH_FAILED,
        AlarmCode.SEQ_AHEAD,
        AlarmCode.NEW_EPOCH,
        AlarmCode.CLOCK_SKEW,
        AlarmCode.FORGED_LINE,
    }
)
#: Conditions in which no session begins; each attempt finds them again.
_NO_SESSION: Final = (
    AlarmCode.BRIDGE_AUTH,
    AlarmCode.AUTH_FAILED,
    AlarmCode.SEQ_AHEAD,
    AlarmCode.FORGED_LINE,
    AlarmCode.PROTOCOL,
)
_NO_LINE_MAC: Final = "line_mac_required"  # code of a refused entry, and of the alert
_JOURNAL_ERROR: Final = "journal_error"  # code and condition of a bridge that cannot write its journal
_HALT: Final = "halt"
_CLOCK: Final = (AlarmCode.CLOCK_OFFSET, AlarmCode.CLOCK_SKEW, AlarmCode.CLOCK_OK)
T = TypeVar("T")


def _disabled(account: str) -> str:
    """Return the condition of an account that can trade nothing."""
    return f"trading_disabled|{account}"


class LinkView:
    """The state of the platform behind a link: connected, able to trade, halted, accounts, alarm. Pure.

    `apply` each event of the session, in order.
    """

    def __init__(self) -> None:
        self.is_halted = False
        self._features: tuple[str, ...] = ()
        self.skew = ""  # text of the alarm about the clocks, while there is one
        self.is_skewed = False  # so far off that no signal is sent
        self.journal_error = ""  # why the bridge cannot write its journal, while it cannot: it takes exits, no entries
        self.line_mac = ""  # why the link sends no entry on this session, which has no MAC on its lines
        self.alarm = ""
        self.snapshot_ns: int | None = None
        self._is_platform_ready = False
        self._accounts: dict[str, m.AccountInfo] = {}
        self._status: m.Status | None = None
        self._trading: dict[str, int] = {}  # accounts in which the platform executes nothing, and its code

    @property
    def accounts(self) -> tuple[m.AccountInfo, ...]:
        """Return the accounts of the group, as last reported."""
        return tuple(self._accounts.values())

    def apply(self, event: o.Event, now_ns: int) -> bool:
        """Take in one event; return whether the row changes by it."""
        match event:
            case o.Welcomed(welcome=welcome):
                self.is_halted, self._is_platform_ready = welcome.halted, welcome.ready
                self.journal_error, self._features = welcome.journal_error or "", welcome.features or ()
                self._accounts = {account.name: account for account in welcome.accounts}
            case o.Ready(is_first=True):
                self.alarm = ""
            case o.Snapshot(status=status):
                self._status, self.snapshot_ns = status, now_ns
                self.is_halted, self._is_platform_ready = status.halted, status.ready
                self.journal_error = status.journal_error or ""
                self._accounts = m.accounts_after(self._accounts.values(), status)
                self._trading = {of.name: of.trading_code for of in status.accounts if of.trading_code}
            case o.Logged(event=m.LogEvent(body=m.Halt(on=is_on))):
                self.is_halted = is_on
            case o.Logged():
                return False
            case o.Alarm(code=code, detail=detail) if code in _CLOCK:
                self.is_skewed = code is AlarmCode.CLOCK_SKEW
                self.skew = "" if code is AlarmCode.CLOCK_OK else f"{code.value}: {detail}"
            case o.Alarm(code=code, detail=detail):
                self.alarm = f"{code.value}: {detail}"
            case o.LinkStopped(reason=reason):
                self.alarm = f"stopped: {reason}"
            case o.Ready() | o.LinkSuspect() | o.LinkLost() | o.Waiting():
                pass
            case _:
                return False
        return True

    @property
    def alarms(self) -> str:
        """Return what a person should know of the link now."""
        return " | ".join(text for text in (self.alarm, self.skew, self.journal_error, self.line_mac) if text)

    def is_ready(self, state: LinkState) -> bool:
        """Return whether a signal may be sent now, the kill latch apart."""
        return state is LinkState.READY and self._is_platform_ready and not self.is_skewed

    def report(self, state: LinkState, offset_ms: int, *, has_snapshot: bool, has_line_mac: bool) -> LinkReport:
        """Return the row; with the last status when `has_snapshot`."""
        status = self._status if has_snapshot else None
        can_name = EXIT_ENTRIES in self._features
        accounts: list[dict[str, Any]] = [
            {**written(account), EXIT_ENTRIES: can_name}
            | ({TRADING_CODE: self._trading[account.name]} if account.name in self._trading else {})
            for account in self.accounts
        ]
        if state not in LIVE:
            accounts = [{**account, "connected": False} for account in accounts]
        return LinkReport(
            state=state.value,
            is_ready=self.is_ready(state),
            is_halted=self.is_halted,
            accounts=tuple(accounts),
            offset_ms=offset_ms,
            alarm=self.alarms,
            snapshot=None if status is None else m.as_object(status),
            snapshot_ns=None if status is None else self.snapshot_ns,
            has_line_mac=has_line_mac,
        )


class LinkRows(Protocol):
    """The rows of the link (`fks.store.ninja`). Errors: OutageError; StaleEpochError of the fenced ones."""

    async def record_link(self, group: str, report: LinkReport) -> tuple[str | None, int, bool]: ...
    async def open_requests(self, group: str) -> list[RequestRecord]: ...
    async def claim(self, group: str, limit: int, now_ns: int, *, has_signals: bool = True) -> list[RequestRecord]: ...
    async def mark_sending(self, prepared: Sequence[tuple[str, bytes, str | None]]) -> set[str]: ...
    async def release(self, id: str) -> bool: ...
    async def expire(self, group: str, now_ns: int) -> list[str]: ...
    async def record_events(self, group: str, events: Sequence[NinjaEvent]) -> int: ...
    async def prune(self, group: str) -> int: ...
    async def record_answer(
        self,
        id: str,
        state: RequestState,
        *,
        now_ns: int | None,
        answer: Mapping[str, Any] | None = None,
        code: str = "",
        detail: str = "",
    ) -> bool: ...


class LinkAlerts(Protocol):
    """Keeps alerts (`fks.store.facts`). Errors: OutageError."""

    async def note_alert(
        self,
        severity: str,
        event: str,
        message: str,
        component: str,
        payload: Mapping[str, object],
        condition: str | None = None,
    ) -> int | None: ...

    async def end_alert(self, message: str, *conditions: str) -> None: ...


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """A group and its bridge. `is_required`: without it the system is not ready."""

    group: str
    host: str
    port: int
    timeout_s: float
    secret: bytes = field(repr=False)
    is_required: bool = False
    platform: BridgePlatform = NINJA
    line_mac: LineMacRule = "auto"


@dataclass(frozen=True, slots=True)
class LinkPorts:
    """The ports of the link. `notify` wakes readers of answers and events; a lost wake-up costs them a poll."""

    rows: LinkRows
    alerts: LinkAlerts
    notify: Callable[[], Awaitable[object]]
    clock: Clock
    log: Log
    meter: Meter
    lease: Lease


@dataclass(slots=True)
class _Sent:
    """A signal that may have left. `epoch`: of its line; `valid_until_ms`: on the bridge's clock."""

    epoch: str
    valid_until_ms: int
    is_unanswered: bool = False  # its row says so already
    refusals: int = 0
    retry_s: float | None = None  # monotonic time of the next attempt
    is_given_up: bool = False  # its row has a final answer: it is dropped once it is no longer valid


class NinjaLink:
    """One link. `start`, then `run` until cancelled; `wake` when a request was committed."""

    def __init__(self, options: LinkOptions, ports: LinkPorts) -> None:
        self._options, self._ports = options, ports
        self._title = options.platform.title
        self._group, self._rows, self._clock = options.platform.key(options.group), ports.rows, ports.clock
        self._component = options.platform.link(options.group)
        self._view = LinkView()
        self._session: ClientSession | None = None
        self._link: Link | None = None
        self._sent: dict[str, _Sent] = {}
        self._asked: dict[str, float] = {}  # requests other than signals, and when they were sent
        self._events: deque[NinjaEvent] = deque()
        self._outcomes: dict[str, RequestChange] = {}  # by request, the newest alone: an earlier one says nothing more
        self._alerts: deque[Callable[[], Awaitable[object]]] = deque(maxlen=1_000)
        self._has_events, self._has_outcomes, self._has_alerts = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._has_requests, self._has_changed = asyncio.Event(), asyncio.Event()
        self._are_rows_down = False
        self._is_draining = False
        self._is_superseded = False
        self._is_paged = False
        self._lost_s = ports.clock.monotonic()  # since when there is no connection
        self._expired_s = float("-inf")
        self._executions: OrderedDict[tuple[str, str], tuple[object, ...]] = OrderedDict()  # by account and id
        self._written_ns: int | None = None  # time of the status that the row has

    # ── life ─────────────────────────────────────────────────────────────────────────────────────
    async def start(self) -> None:
        """Read what is stored, and take over the signals that an earlier process may have sent. Opens no socket.

        Errors: OutageError, StaleEpochError.
        """
        options = self._options
        first = LinkReport(LinkState.IDLE.value, False, False, (), 0)
        epoch, seq, had_line_mac = await self._rows.record_link(self._group, first)
        identity = Identity(
            options.group, "control", uuid.uuid4().hex, options.secret, platform=options.platform,
            line_mac=options.line_mac,
        )  # fmt: skip
        self._session = ClientSession(
            identity, self._clock, system_draws(), epoch=epoch, seq=seq, ports=ports_of(options.port),
            timeout_s=options.timeout_s, had_line_mac=had_line_mac,
        )  # fmt: skip
        self._link = Link(self._session, options.host, self._clock, self._publish)
        adopted = 0
        for record in await self._rows.open_requests(self._group):
            if record.request.kind is RequestKind.SIGNAL:
                adopted += self._adopt(record)
            else:
                outcome = RequestChange(
                    record.request.id, RequestState.UNANSWERED, code="restarted", is_final=False,
                    detail="the link was started again before an answer; repeat it if needed",
                )  # fmt: skip
                await self._record(outcome)
        self._ports.log.info("ninja.started", group=self._group, epoch=epoch, seq=seq, adopted=adopted)

    async def run(self) -> None:
        """Keep the link, until cancelled. Errors: StaleEpochError when a newer instance has taken over."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_link(), name="link")
                tasks.create_task(self._store_events(), name="events")
                tasks.create_task(self._store_outcomes(), name="outcomes")
                tasks.create_task(self._send_requests(), name="requests")
                tasks.create_task(self._beat(), name="beat")
                tasks.create_task(self._keep_alerts(), name="alerts")
        except BaseExceptionGroup as group:
            if (stale := group.subgroup(StaleEpochError)) is not None:
                raise StaleEpochError(str(stale.exceptions[0])) from group
            raise

    def wake(self) -> None:
        """Look at the rows now."""
        self._has_requests.set()

    async def drain(self) -> None:
        """Send nothing new, wait a moment for answers, store what was received, and close the session."""
        self._is_draining = True
        end_s = self._clock.monotonic() + DRAIN_S
        while self._clock.monotonic() < end_s and self._is_working():
            await self._clock.sleep(0.02)
        if self._session is not None and self._link is not None:
            self._session.stop()
            self._link.flush()
        while self._clock.monotonic() < end_s and (self._events or self._outcomes):
            await self._clock.sleep(0.02)

    # ── health ───────────────────────────────────────────────────────────────────────────────────
    @property
    def is_connected(self) -> bool:
        """Whether the bridge has proven the secret on a connection that lives."""
        return self._session is not None and self._session.state in LIVE

    @property
    def can_trade(self) -> bool:
        """Whether a signal would be sent now."""
        return self._session is not None and self._view.is_ready(self._session.state) and not self._view.is_halted

    @property
    def is_ready(self) -> bool:
        """Whether the link does its work: the platform may be away, unless it is required."""
        return self._session is not None and (self.can_trade or not self._options.is_required)

    def problems(self) -> Sequence[Check]:
        """Return rows that cannot be written, a session that another instance took, a required platform that is not
        able to trade."""
        found: list[Check] = []
        if self._are_rows_down:
            found.append(failed("database", "PostgreSQL does not answer: nothing is sent or acknowledged"))
        if self._is_superseded:
            found.append(failed("ninja", "another client took the session of this group", self._group))
        elif self._options.is_required and not self.can_trade:
            found.append(failed("ninja", f"{self._title} is required and {self._state_text()}", self._group))
        return found

    def detail(self) -> Mapping[str, object]:
        """Return connection, ability to trade, the kill latch, accounts and the log's position."""
        session = self._session
        return {
            "group": self._group,
            "state": "IDLE" if session is None else session.state.value,
            "connected": self.is_connected,
            "can_trade": self.can_trade,
            "halted": self._view.is_halted,
            "required": self._options.is_required,
            "accounts": [account.name for account in self._view.accounts],
            "bridge_epoch": None if session is None else session.epoch,
            "stored_seq": 0 if session is None else session.stored_seq,
            "signals_open": len(self._sent),
            "line_mac": session is not None and session.has_line_mac,
            "alarm": self._view.alarms,
        }

    def _state_text(self) -> str:
        if not self.is_connected:
            return "is not connected"
        return "its kill latch is set" if self._view.is_halted else "is not ready to trade"

    # ── the session ──────────────────────────────────────────────────────────────────────────────
    async def _keep_link(self) -> None:
        assert self._link is not None
        await self._link.run()
        if self._is_draining:
            return
        # an older process of this group finds here that it has lost its lease, and ends without a page
        await self._persist(self._write_row)
        self._is_superseded = True
        self._alert(
            "page", "ninja.superseded",
            f"{self._component}: another client took the session of the bridge; this one sends nothing any more: find "
            f"it, end it, then `fks restart {self._component}`",
        )  # fmt: skip

    def _publish(self, event: o.Event) -> None:
        """Take an event of the session: no waiting here."""
        error = self._view.journal_error
        if self._view.apply(event, self._clock.now_ns()):
            self._has_changed.set()
        if error != self._view.journal_error:
            self._journal_changed(self._view.journal_error)
        match event:
            case o.Logged(event=logged):
                self._queue_event(row_of_event(logged))
                self._ports.meter.count("fks_ninja_events_total", group=self._group, kind=_known_kind(logged))
                self._note_event(logged)
            case o.EpochChanged():
                body = {"before": event.before}
                self._queue_event(NinjaEvent(event.epoch, event.seq, "epoch", None, None, body, self._clock.now_ns()))
            case o.LogLost():
                self._lose(event)
            case o.SignalChanged():
                self._signal_changed(event)
            case o.Answered() | o.NotAnswered():
                sent_s = self._asked.pop(event.request.rid, None)
                if sent_s is not None:
                    self._queue_outcome(outcome_of_request(event))
            case o.Alarm():
                self._alarm(event)
            case o.RoundTrip():
                self._ports.meter.observe("fks_ninja_round_trip_seconds", event.took_s, group=self._group)
                self._ports.meter.gauge("fks_clock_offset_seconds", event.offset_ms / 1000, source=self._component)
            case _:
                self._connection_changed(event)

    def _connection_changed(self, event: o.Event) -> None:
        log, group = self._ports.log, self._group
        match event:
            case o.Welcomed():
                log.info("ninja.connected", group=group, port=event.port, platform=event.welcome.platform)
                self._is_paged = False
            case o.Ready():
                self._has_requests.set()
                self._note_line_mac()
                self._end_what_is_over()
            case o.LinkLost():
                self._lost_s = self._clock.monotonic()
                log.warning("ninja.disconnected", group=group, reason=event.reason)
                self._ports.meter.count("fks_ninja_disconnects_total", group=group)
            case o.Waiting():
                log.info("ninja.waiting", group=group, reason=event.reason, seconds=round(event.wait_s, 1))
            case o.LinkSuspect():
                log.warning("ninja.suspect", group=group)
            case _:
                return

    def _note_line_mac(self) -> None:
        """Page a session that takes no entries because its lines have no MAC, once."""
        assert self._session is not None
        self._view.line_mac = self._line_mac_text() if self._session.refuses_entries else ""
        if self._view.line_mac:
            text = f"{self._component}: entries are refused, exits go on: {self._view.line_mac}"
            self._alert("page", "ninja.alarm", text, lasting=_NO_LINE_MAC, code=_NO_LINE_MAC)

    def _end_what_is_over(self) -> None:
        """End the alerts of conditions that do not hold as a session begins: an earlier process may have raised them,
        and no event reports what ended while none was connected."""
        over = ["unreachable", *_NO_SESSION]
        over += [] if self._view.line_mac else [_NO_LINE_MAC]
        over += [] if self._view.journal_error else [_JOURNAL_ERROR]
        over += [] if self._view.is_halted else [_HALT]
        over += [] if self._view.skew else _CLOCK
        self._end_alert(f"{self._component}: connected to {self._title}", *over)

    def _line_mac_text(self) -> str:
        platform = self._options.platform
        return (
            f"the lines of this session carry no MAC, and {platform.name}.line_mac asks for it: "
            f"{platform.update_remedy}, or set {platform.name}.line_mac = off"
        )

    def _alarm(self, event: o.Alarm) -> None:
        if event.code is AlarmCode.CLOCK_OK:
            self._ports.log.info("ninja.clock_ok", group=self._group, detail=event.detail)
        if event.code in _CLOCK:
            self._end_alert(f"{self._component}: {event.detail}", *(code for code in _CLOCK if code is not event.code))
        if event.code is AlarmCode.CLOCK_OK:
            return
        severity = "page" if event.code in _PAGES else "warning"
        is_lasting = event.code in (*_NO_SESSION, *_CLOCK)
        text = f"{self._component}: {event.detail}"
        self._alert(severity, "ninja.alarm", text, lasting=event.code if is_lasting else None, code=event.code.value)

    def _journal_changed(self, error: str) -> None:
        """Page a bridge that cannot write its journal, once, and end that when it can."""
        if error:
            text = f"{self._component}: {error}: {self._title} takes exits and protects, but no entry: make space there"
            self._alert("page", "ninja.alarm", text, lasting=_JOURNAL_ERROR, code=_JOURNAL_ERROR)
        else:
            self._end_alert(f"{self._component}: the bridge writes its journal again", _JOURNAL_ERROR)

    def _note_event(self, event: m.LogEvent) -> None:
        """Page what the bridge itself raised, and ask for a new status when the platform's state changes."""
        match event.body:
            case m.RiskAlarm() as risk:
                text = f"{self._component}: {risk.code}: {risk.detail or ''} ({risk.account or 'no account'})"
                if risk.code == "trading_enabled":
                    self._end_alert(text, _disabled(risk.account or ""))
                    return
                lasting = _disabled(risk.account or "") if risk.code == "trading_disabled" else None
                about = {"code": risk.code, "account": risk.account or "", "id": risk.id or ""}
                self._alert("page", "ninja.risk", text, lasting=lasting, **about)
            case m.Halt() as halt:
                word = "set" if halt.on else "lifted"
                text = f"{self._component}: the kill latch of the bridge is {word}: {halt.reason or 'no reason given'}"
                if not halt.on:
                    self._end_alert(text, _HALT)
                lasting = _HALT if halt.on else None
                self._alert("page" if halt.on else "warning", "ninja.halt", text, lasting=lasting, on=halt.on)
            case m.ExecutionEvent() as execution:
                self._note_execution(execution)
            case m.ConnectionState() if not event.replay and self._session is not None:
                self._session.request(m.GetStatus(rid=self._session.new_rid()))

    def _note_execution(self, execution: m.ExecutionEvent) -> None:
        """Page an execution that the broker amends in quantity, price or side: it stays booked as first reported."""
        key = execution.account or "", execution.exec_id
        form = execution.side, execution.qty, execution.price
        before = self._executions.get(key)
        if execution.op == "add":
            self._executions[key] = form
            while len(self._executions) > EXECUTIONS_MAX:
                self._executions.popitem(last=False)
            return
        now = "removed" if execution.op == "remove" else " ".join(map(str, form))
        was = "not known here" if before is None else " ".join(map(str, before))
        fields = {"exec_id": execution.exec_id, "account": key[0], "before": was, "now": now}
        if execution.op == "update" and before == form:
            self._ports.log.info("ninja.execution_repeated", group=self._group, **fields)
            return
        text = f"{self._component}: the broker amended execution {execution.exec_id} of {key[0]}: was {was}, is {now}"
        self._alert(
            "page", "ninja.execution_amended", f"{text}; it stays booked as it was: compare the position", **fields
        )

    def _lose(self, event: o.LogLost) -> None:
        session = self._session
        assert session is not None
        if session.welcome is None:
            return
        text = f"{self._component}: events {event.first} to {event.last} of the bridge's log are gone"
        self._alert("page", "ninja.log_lost", text, first=event.first, last=event.last)
        seq, newest = session.welcome.oldest_seq - 1, self._events[-1] if self._events else None
        if newest is not None and newest.epoch == event.epoch and newest.seq >= seq:
            return  # another journal begins here: its row makes readers reconcile
        if seq > session.stored_seq:
            body = {"first": event.first, "last": event.last}
            self._queue_event(NinjaEvent(event.epoch, seq, "gap", None, None, body, self._clock.now_ns()))

    def _queue_event(self, event: NinjaEvent) -> None:
        if len(self._events) >= EVENTS_MAX:
            # the bridge keeps what is not acknowledged, so a new process loses nothing
            raise OutageError(f"{self._component}: {EVENTS_MAX} events wait for PostgreSQL", remedy="see the database")
        self._events.append(event)
        self._has_events.set()

    def _queue_outcome(self, outcome: RequestChange) -> None:
        self._outcomes[outcome.id] = outcome
        self._has_outcomes.set()

    # ── signals ──────────────────────────────────────────────────────────────────────────────────
    def _adopt(self, record: RequestRecord) -> bool:
        """Take over a signal of an earlier process; return whether the bridge is asked about it."""
        assert self._session is not None
        prepared = prepared_of(record)
        if prepared is None or record.code == JOURNAL_LOST:
            return False
        refusal = self._session.adopt(prepared)
        if refusal is not None:
            self._ports.log.warning("ninja.not_adopted", group=self._group, id=prepared.id, reason=refusal.value)
            return False
        is_unanswered = record.state is RequestState.UNANSWERED
        self._sent[prepared.id] = _Sent(prepared.epoch, prepared.valid_until_ms, is_unanswered)
        return True

    def _signal_changed(self, event: o.SignalChanged) -> None:
        session, sent = self._session, self._sent.get(event.id)
        if session is None or sent is None:
            return
        outcome = outcome_of_signal(event, is_same_journal=sent.epoch == session.epoch)
        is_unanswered = outcome is not None and outcome.state is RequestState.UNANSWERED
        is_known = is_unanswered and sent.is_unanswered and event.state not in ENDED
        if outcome is not None and not sent.is_given_up and not is_known:
            self._queue_outcome(outcome)
        sent.is_unanswered = is_unanswered or sent.is_unanswered
        sent.retry_s = None
        if event.state in ENDED:
            del self._sent[event.id]
        elif event.state is LinkSignalState.RETRYABLE:
            sent.refusals += 1
            sent.is_given_up = sent.is_given_up or (outcome is not None and outcome.is_final)
            sent.retry_s = self._clock.monotonic() + RETRY.wait_s(sent.refusals)
            self._has_requests.set()  # the wait of that loop becomes shorter

    def _retry(self) -> None:
        """Send signals again that the bridge refused for now, and drop those whose time is over."""
        session, link, now_s = self._session, self._link, self._clock.monotonic()
        assert session is not None
        assert link is not None
        there_ms = self._clock.now_ns() // MS_NS + session.offset.ms
        for id, sent in list(self._sent.items()):
            if sent.retry_s is None or now_s < sent.retry_s:
                continue
            sent.retry_s = now_s + POLL_S
            if sent.is_given_up and there_ms < sent.valid_until_ms:
                continue
            if not self._is_draining and self._ports.lease.holds() and session.retry(id) is UnsentReason.KNOWN_ID:
                sent.retry_s = None
        link.flush()

    # ── requests ─────────────────────────────────────────────────────────────────────────────────
    async def _send_requests(self) -> None:
        while True:
            due = [sent.retry_s for sent in self._sent.values() if sent.retry_s is not None]
            wait_s = min([POLL_S, *(max(0.0, at - self._clock.monotonic()) for at in due)])
            await wait_for_event(self._has_requests, wait_s, self._clock)
            self._has_requests.clear()
            try:
                self._retry()
                await self._expire()
                while not self._is_draining and await self._send_batch() == CLAIM_MAX:
                    continue
                self._rows_are(is_down=False)
            except OutageError as error:
                self._rows_are(is_down=True, error=error)

    async def _expire(self) -> None:
        if self._clock.monotonic() - self._expired_s < POLL_S:
            return
        expired = await self._rows.expire(self._group, self._clock.now_ns())
        self._expired_s = self._clock.monotonic()
        for _ in expired:
            self._ports.meter.count("fks_ninja_requests_total", group=self._group, state=RequestState.EXPIRED.value)
        if expired:
            await self._ports.notify()

    async def _send_batch(self) -> int:
        """Claim requests, commit their lines, send them; return how many were claimed. Errors: OutageError."""
        session, link = self._session, self._link
        assert session is not None
        assert link is not None
        if session.state not in LIVE or not self._ports.lease.holds():
            return 0
        has_signals = session.state is LinkState.READY and not self._view.is_skewed and len(self._sent) < SIGNALS_MAX
        claimed = await self._rows.claim(self._group, CLAIM_MAX, self._clock.now_ns(), has_signals=has_signals)
        batch: list[tuple[RequestRecord, Prepared | m.LinkRequest, bytes]] = []
        for record in claimed:
            try:
                message = message_of(record, has_lots=self._options.platform.has_lots)
                is_entry = isinstance(message, m.SignalMessage) and message.action != "exit"
                if is_entry and session.refuses_entries:
                    raise FieldError(_NO_LINE_MAC, self._line_mac_text())
                ready = session.prepare(message) if isinstance(message, m.SignalMessage) else message
                if isinstance(ready, UnsentReason):
                    continue  # it stays NEW
                batch.append((record, ready, ready.line if isinstance(ready, Prepared) else m.to_line(ready)))
            except (FieldError, ValueError) as error:
                code, text = (error.code, error.detail) if isinstance(error, FieldError) else ("bad_field", str(error))
                await self._record(RequestChange(record.request.id, RequestState.NACKED, None, code, text))
        if not batch:
            return 0
        lines = [(record.request.id, line, session.epoch) for record, _, line in batch]
        may_send = await self._persist(lambda: self._rows.mark_sending(lines))
        refused: list[str] = []
        for record, ready, _ in batch:
            if record.request.id in may_send and not self._send(record, ready):
                refused.append(record.request.id)
        link.flush()
        for id in refused:
            await self._persist(lambda id=id: self._rows.release(id))  # type: ignore[misc]
        return len(claimed)

    def _send(self, record: RequestRecord, ready: Prepared | m.LinkRequest) -> bool:
        """Write a committed request; False: no byte of it has left, and it may be released."""
        session, id = self._session, record.request.id
        assert session is not None
        if not self._ports.lease.holds():
            return False
        if isinstance(ready, Prepared):
            self._sent[id] = _Sent(ready.epoch, ready.valid_until_ms)
            refusal = session.send(ready)
            if refusal is not None:
                del self._sent[id]
        else:
            until_ns = record.request.valid_until_ns
            is_over = until_ns is not None and self._clock.now_ns() >= until_ns
            refusal = UnsentReason.EXPIRED if is_over else session.request(ready)
            if refusal is None:
                self._asked[id] = self._clock.monotonic()
        if refusal is None:
            waited_s = max(0.0, (self._clock.now_ns() - record.created_ns) / 1e9)
            self._ports.meter.observe("fks_ninja_send_seconds", waited_s, group=self._group)
            return True
        self._ports.log.info("ninja.not_sent", group=self._group, id=id, reason=refusal.value)
        if refusal is UnsentReason.KNOWN_ID:
            # this session has had the id before: what became of it, the bridge knows
            text = "this id was sent before"
            self._queue_outcome(RequestChange(id, RequestState.UNANSWERED, None, "known_id", text, is_final=False))
            return True
        return False

    # ── rows ─────────────────────────────────────────────────────────────────────────────────────
    async def _store_events(self) -> None:
        session, link = self._session, self._link
        assert session is not None
        assert link is not None
        while True:
            await self._has_events.wait()
            self._has_events.clear()
            while self._events:
                batch = self._next_events()
                await self._persist(lambda batch=batch: self._rows.record_events(self._group, batch))  # type: ignore[misc]
                for _ in batch:
                    self._events.popleft()
                session.stored(batch[-1].epoch, batch[-1].seq)
                link.flush()
                await self._ports.notify()

    def _next_events(self) -> list[NinjaEvent]:
        """Return the oldest events that one statement stores: a marker only as the first, one journal."""
        batch: list[NinjaEvent] = []
        for event in self._events:
            starts_anew = event.kind in ("epoch", "gap") or event.epoch != self._events[0].epoch
            if len(batch) == EVENTS_BATCH or (batch and starts_anew):
                break
            batch.append(event)
        return batch

    async def _store_outcomes(self) -> None:
        while True:
            await self._has_outcomes.wait()
            self._has_outcomes.clear()
            while self._outcomes:
                id, outcome = next(iter(self._outcomes.items()))
                await self._record(outcome)
                if self._outcomes.get(id) is outcome:
                    del self._outcomes[id]

    async def _record(self, outcome: RequestChange) -> None:
        now_ns = self._clock.now_ns() if outcome.is_final else None
        is_written = await self._persist(
            lambda: self._rows.record_answer(
                outcome.id, outcome.state, now_ns=now_ns, answer=outcome.answer, code=outcome.code,
                detail=outcome.detail,
            )
        )  # fmt: skip
        if is_written:
            self._ports.meter.count("fks_ninja_requests_total", group=self._group, state=outcome.state.value)
            if outcome.is_final:
                self._ports.log.info(
                    "ninja.answered", group=self._group, id=outcome.id, state=outcome.state.value, code=outcome.code
                )
            await self._ports.notify()

    async def _beat(self) -> None:
        pruned_s = self._clock.monotonic()
        while True:
            self._has_changed.clear()
            try:
                await self._write_row()
                if self._clock.monotonic() - pruned_s >= PRUNE_S:
                    pruned_s = self._clock.monotonic()
                    await self._rows.prune(self._group)
            except OutageError as error:
                self._rows_are(is_down=True, error=error)
            self._page_if_lost()
            await self._clock.sleep(BEAT_LEAST_S)
            await wait_for_event(self._has_changed, BEAT_S - BEAT_LEAST_S, self._clock)

    async def _write_row(self) -> None:
        """Write the link's row. Errors: OutageError, StaleEpochError."""
        session = self._session
        assert session is not None
        snapshot_ns = self._view.snapshot_ns
        report = self._view.report(
            session.state, session.offset.ms, has_snapshot=snapshot_ns is not None and snapshot_ns != self._written_ns,
            has_line_mac=session.had_line_mac,
        )  # fmt: skip
        await self._rows.record_link(self._group, report)
        self._written_ns = snapshot_ns
        meter = self._ports.meter
        meter.gauge("fks_ninja_connected", float(self.is_connected), group=self._group)
        meter.gauge("fks_ninja_ready", float(self.can_trade), group=self._group)

    def _page_if_lost(self) -> None:
        if self.is_connected or self._is_paged or self._is_superseded or not self._options.is_required:
            return
        if self._clock.monotonic() - self._lost_s >= DISCONNECTED_S:
            self._is_paged = True
            text = f"{self._component}: no connection to {self._title} for {DISCONNECTED_S:g} s, and it is required"
            self._alert("page", "ninja.unreachable", text, lasting="unreachable")

    def _alert(self, severity: str, event: str, message: str, *, lasting: str | None = None, **payload: object) -> None:
        """Log and keep an alert. `lasting`: the name of a condition, of which one alert is open until `_end_alert`."""
        log, condition = self._ports.log, None if lasting is None else f"{self._component}|{lasting}"
        (log.error if severity == "page" else log.warning)(event, message=message, **payload)
        note = self._ports.alerts.note_alert
        self._alerts.append(partial(note, severity, event, message, self._component, payload, condition))
        self._has_alerts.set()

    def _end_alert(self, message: str, *lasting: str) -> None:
        conditions = [f"{self._component}|{name}" for name in lasting]
        self._alerts.append(partial(self._ports.alerts.end_alert, message, *conditions))
        self._has_alerts.set()

    async def _keep_alerts(self) -> None:
        while True:
            await self._has_alerts.wait()
            self._has_alerts.clear()
            while self._alerts:
                await self._persist(self._alerts.popleft())

    async def _persist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return what `call` returns, as soon as PostgreSQL answers. Errors: StaleEpochError."""
        while True:
            try:
                found = await call()
            except OutageError as error:
                self._rows_are(is_down=True, error=error)
                await self._clock.sleep(AGAIN_S)
            else:
                self._rows_are(is_down=False)
                return found

    def _rows_are(self, *, is_down: bool, error: OutageError | None = None) -> None:
        if is_down is self._are_rows_down:
            return
        self._are_rows_down = is_down
        if is_down:
            self._ports.log.warning("ninja.rows_down", group=self._group, error=str(error))
        else:
            self._ports.log.info("ninja.rows_up", group=self._group)

    def _is_working(self) -> bool:
        open_now = self._session.signals_open().values() if self._session is not None else ()
        is_sent = self.is_connected and any(state is LinkSignalState.SENT for state in open_now)
        return bool(is_sent or self._events or self._outcomes)


def _known_kind(event: m.LogEvent) -> str:
    """Return the kind for a metric's label: kinds that the bridge names freely are counted together."""
    return "unknown" if isinstance(event.body, m.UnreadableEvent) else event.kind
