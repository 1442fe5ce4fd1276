"""The client's session with one bridge, sans I/O: a socket's bytes and a clock in, commands and events out.

The driver of the socket calls `start`, `connected`, `dial_failed`, `receive`, `closed`, and `tick` at the latest at
`due_s`; after each call it takes the outputs with `take` and performs the commands in their order. The session connects
again by itself until `stop`, or until another instance has taken its place.

The event log: `Logged` gives every event once and in order. The application stores it and calls `stored`: up to there
the bridge is acknowledged, and from there a new connection begins. A missing number closes the connection, and the new
one asks again; nothing is ever re-ordered or guessed.

Signals: `prepare` makes the line, the application commits it with its epoch, `send` writes it, at most once for an id,
and repeats it only where `fks.bridge.ninja.signals` allows. Signals that an earlier process may have sent come in by
`adopt`.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from fks.bridge.ninja import auth, strict_json
from fks.bridge.ninja import messages as m
from fks.bridge.ninja import outputs as o
from fks.bridge.ninja.framing import LINE_MAX, LineReader
from fks.bridge.ninja.machine import LIVE, Input, LinkAct, LinkState, When, row_of
from fks.bridge.ninja.offset import SKEW_MS, WARN_MS, ClockOffset
from fks.bridge.ninja.outputs import AlarmCode
from fks.bridge.ninja.signals import ENDED, LinkSignalState, SignalAct, SignalInput, input_of_state, signal_row
from fks.model.backoff import Backoff
from fks.model.errors import BugError, PeerError
from fks.model.ninja import MT5, NINJA, BridgePlatform, LineMacRule

PORTS = (8080, 47740)
HEARTBEAT_S = 2.0  # until the bridge names its own
PING_S_MAX = 10.0  # a ping at the latest after so long, so that the offset stays measured under load
ACK_EVERY, ACK_S = 100, 1.0
BACKOFF, JITTER = Backoff(0.5, 15.0), 0.2
LONG_WAIT_S = 60.0
_BYES_WITH_MAC = frozenset({"superseded", "seq_ahead", "forged_line"})  # only after the proof of the client
CONNECT_S = 3.0
SIGNALS_MAX, REQUESTS_MAX, ENDED_IDS_MAX, PARTS_MAX = 1_000, 1_000, 10_000, 1_000
#: How long a request may take; all others have the session's time-out. The bridge gives a flatten 30 s.
REQUEST_S: dict[type[m.LinkRequest], float] = {
    m.FlattenRequest: 35.0,
    m.Kill: 35.0,
    m.HistoryRequest: 30.0,
    m.ListInstruments: 30.0,
}
ALLOWED: dict[str, tuple[type[m.LinkRequest], ...]] = {
    "control": (m.Query, m.Cancel, m.Modify, m.FlattenRequest, m.Kill, m.Resume, m.GetStatus),
    "guardian": (m.Cancel, m.FlattenRequest, m.Kill, m.GetStatus),
    "observe": (m.GetStatus,),
    "data": (m.Subscribe, m.Unsubscribe, m.HistoryRequest, m.ListInstruments),
}


class SessionClock(Protocol):
    """The clock that the session reads."""

    def now_ns(self) -> int: ...

    def monotonic(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Identity:
    """This client. `instance` is 32 hex digits, new at each start of the process; `group` names the bridge; `line_mac`:
    whether its entries need a MAC on each line."""

    group: str
    role: m.Role
    instance: str
    secret: bytes = field(repr=False)
    client: str = "fks"
    platform: BridgePlatform = NINJA
    line_mac: LineMacRule = "auto"


@dataclass(frozen=True, slots=True)
class Draws:
    """Random draws: a nonce of 64 hex digits, and a number in [0, 1) for the jitter of waits."""

    nonce: Callable[[], str]
    share: Callable[[], float]


class UnsentReason(StrEnum):
    """Reason for which a signal or request was not sent. Nothing has left."""

    NOT_READY = "not_ready"
    SUSPECT = "suspect"
    CLOCK_SKEW = "clock_skew"
    NOT_ALLOWED = "not_allowed"  # not with this role
    EPOCH_CHANGED = "epoch_changed"  # prepare it again
    EXPIRED = "expired"
    NO_LINE_MAC = "no_line_mac"  # an entry needs a session whose lines carry a MAC
    KNOWN_ID = "known_id"
    TOO_MANY = "too_many"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A signal as it will be sent: commit it, then `send` it. `valid_until_ms` is a time of the bridge's clock.
    `is_exit`: it opens nothing."""

    id: str
    line: bytes
    epoch: str
    valid_until_ms: int
    is_exit: bool = False


@dataclass(slots=True)
class _Tracked:
    prepared: Prepared
    state: LinkSignalState
    due_s: float = 0.0


@dataclass(slots=True)
class _Pending:
    request: m.LinkRequest
    sent_s: float
    due_s: float
    is_own: bool


class ClientSession:
    """See the module. `epoch` and `seq`: the last event that the application has stored. `had_line_mac`: lines of a
    session with this bridge carried a MAC."""

    def __init__(
        self, identity: Identity, clock: SessionClock, draws: Draws, *,
        epoch: str | None = None, seq: int = 0, ports: Sequence[int] = PORTS, timeout_s: float = 5.0,
        had_line_mac: bool = False,
    ) -> None:  # fmt: skip
        self._identity, self._clock, self._draws = identity, clock, draws
        self._ports, self._timeout_s = tuple(ports), timeout_s
        self.state = LinkState.IDLE
        has_log = identity.role != "data" and epoch is not None
        self.epoch = epoch if has_log else None
        self.stored_seq = seq if has_log else 0
        self.welcome: m.Welcome | None = None
        self.offset = ClockOffset()
        self._received_seq = self.stored_seq  # handed to the application, stored or not
        self._acked_seq = self.stored_seq
        self._ack_due_s: float | None = None
        self._outputs: list[o.Output] = []
        self._untried: list[int] = []
        self._port = self._ports[0]
        self._failures = 0
        self._was_refused = False
        self._reason = ""
        self._wait_s = 0.0
        self._deadline_s = 0.0  # of the state that waits for one thing
        self._ready_s: float | None = None
        self._is_open = False
        self._reader = LineReader(LINE_MAX)
        self._nonce = self._bridge_nonce = ""
        self._macs: tuple[auth.LineMac, auth.LineMac] | None = None  # of our lines and of the bridge's
        self.had_line_mac = had_line_mac
        self._auth_sent = (0.0, 0)
        self._received_s = self._sent_s = self._pinged_s = 0.0
        self._hb_s = HEARTBEAT_S
        self._pings: OrderedDict[int, tuple[float, int]] = OrderedDict()
        self._numbers = 0
        self._skew: AlarmCode = AlarmCode.CLOCK_OK
        self._signals: dict[str, _Tracked] = {}
        self._ended_ids: OrderedDict[str, None] = OrderedDict()
        self._requests: OrderedDict[str, _Pending] = OrderedDict()
        self._parts: dict[str | None, list[m.Status]] = {}
        self._trades: dict[str, int] = {}

    # ── the socket ───────────────────────────────────────────────────────────────────────────────
    def take(self) -> list[o.Output]:
        """Return the outputs since the last call, in their order."""
        found, self._outputs = self._outputs, []
        return found

    def start(self) -> None:
        """Begin to connect."""
        self._untried = list(self._ports)
        self._apply(Input.START)

    def stop(self) -> None:
        """End the session for good."""
        self._reason = "stopped"
        self._apply(Input.STOP)

    def connected(self) -> None:
        """Report that the socket of the last `Dial` is open."""
        if self.state is not LinkState.CONNECTING:
            self._out(o.Close())
            return
        self._is_open = True
        self._apply(Input.CONNECTED)

    def dial_failed(self, reason: str) -> None:
        """Report that the socket of the last `Dial` could not be opened."""
        self._reason = reason
        self._apply(Input.FAILED)

    def closed(self, reason: str = "closed by the bridge") -> None:
        """Report that the socket was closed by the other end or broke."""
        self._is_open = False
        self._reason = reason
        self._apply(Input.CLOSED)

    def receive(self, data: bytes) -> None:
        """Process bytes of the socket."""
        if not self._is_open or not data:
            return
        if not self.has_line_mac:
            self._alive()
        self._reader.feed(data)
        while self._is_open:
            try:
                line = self._reader.next_line()
                if line is None:
                    return
                message = self._message(line)
                if isinstance(message, m.Message):
                    self._handle(message)
            except auth.ForgedLineError as error:
                self._reason = str(error)
                self._apply(Input.IMPOSTOR if self.state is LinkState.AUTH else Input.FORGED)
            except PeerError as error:
                self._violated(str(error))

    def _message(self, line: bytes) -> m.Message | m.Unknown:
        """Return the message of a line. Errors: PeerError; ForgedLineError for a line without the MAC that it needs."""
        macs, is_plain = self._macs, self.state is LinkState.AUTH and line.startswith(b"{")
        if macs is not None and not is_plain:
            line = macs[1].opened(line)
            self._alive()  # other bytes may be of a program in between that holds the bridge's lines back
        message = m.from_bridge(strict_json.loads(line), has_lots=self._identity.platform.has_lots)
        # a bridge that has another secret, or ends, can put no MAC on its last line
        is_refusal = isinstance(message, m.Bye) and message.code not in _BYES_WITH_MAC
        if macs is not None and is_plain and not is_refusal:
            raise auth.ForgedLineError("the bridge's answer does not have its MAC")
        return message

    def _alive(self) -> None:
        self._received_s = self._clock.monotonic()
        self._apply(Input.ALIVE)

    def tick(self) -> None:
        """Do what is due by now: heartbeats, time-outs, waits, acknowledgements."""
        now = self._clock.monotonic()
        if self.state in (LinkState.CONNECTING, LinkState.HELLO, LinkState.AUTH) and now >= self._deadline_s:
            self._reason = f"no answer in state {self.state}"
            self._apply(Input.TIMEOUT)
        elif self.state is LinkState.BACKOFF and now >= self._deadline_s:
            self._apply(Input.WAITED)
        elif self.state in LIVE:
            self._tick_live(now)

    def due_s(self) -> float | None:
        """Return the monotonic time at which `tick` has something to do, or None."""
        if self.state in (LinkState.CONNECTING, LinkState.HELLO, LinkState.AUTH, LinkState.BACKOFF):
            return self._deadline_s
        if self.state not in LIVE:
            return None
        times = [
            self._received_s + (2 if self.state is LinkState.READY else 3) * self._hb_s,
            min(self._sent_s + self._hb_s, self._pinged_s + PING_S_MAX),
            *(pending.due_s for pending in self._requests.values()),
            *(signal.due_s for signal in self._signals.values() if signal.state is LinkSignalState.SENT),
        ]
        if self._ack_due_s is not None:
            times.append(self._ack_due_s)
        return min(times)

    # ── the application ──────────────────────────────────────────────────────────────────────────
    def stored(self, epoch: str, seq: int) -> None:
        """Report that every event up to `seq` of `epoch` is durable. An older epoch is ignored.

        Errors: BugError for an event that was never handed out.
        """
        if epoch != self.epoch or seq <= self.stored_seq:
            return
        if seq > self._received_seq:
            raise BugError(f"event {seq} is reported as stored, the newest that came is {self._received_seq}")
        self.stored_seq = seq
        if self._identity.role != "control" or self.state not in LIVE:
            return
        if seq - self._acked_seq >= ACK_EVERY:
            self._acknowledge()
        elif self._ack_due_s is None:
            self._ack_due_s = self._clock.monotonic() + ACK_S

    def prepare(self, signal: m.SignalMessage) -> Prepared | UnsentReason:
        """Return the line of `signal`, whose times are of our clock: in it they are of the bridge's.

        Nothing is sent. The line belongs to this epoch: after another `Welcomed` prepare it again.
        """
        if self.epoch is None or self.state not in LIVE:
            return UnsentReason.NOT_READY
        shift = self.offset.ms
        there = dataclasses.replace(
            signal, created_ms=signal.created_ms + shift, valid_until=signal.valid_until + shift
        )
        return Prepared(signal.id, m.to_line(there), self.epoch, there.valid_until, signal.action == "exit")

    def send(self, prepared: Prepared) -> UnsentReason | None:
        """Send a signal that the application has committed; None when it was written."""
        refusal = self._refusal_of(prepared)
        if refusal is None:
            self._signals[prepared.id] = tracked = _Tracked(prepared, LinkSignalState.SENT)
            self._write_signal(tracked)
        return refusal

    def adopt(self, prepared: Prepared) -> UnsentReason | None:
        """Take over a signal that an earlier process may have sent: the bridge is asked for it."""
        if prepared.id in self._signals or prepared.id in self._ended_ids:
            return UnsentReason.KNOWN_ID
        if len(self._signals) >= SIGNALS_MAX:
            return UnsentReason.TOO_MANY
        self._signals[prepared.id] = _Tracked(prepared, LinkSignalState.UNANSWERED)
        if self.state in (LinkState.READY, LinkState.SUSPECT):
            self._signal(prepared.id, SignalInput.READY)
        return None

    def retry(self, signal_id: str) -> UnsentReason | None:
        """Send the same line of a RETRYABLE signal again, or drop it if that is no longer allowed."""
        tracked = self._signals.get(signal_id)
        if tracked is None or tracked.state is not LinkSignalState.RETRYABLE:
            return UnsentReason.KNOWN_ID
        refusal = self._not_sendable()
        if refusal is None:
            self._signal(signal_id, SignalInput.RETRY)
        return refusal

    def request(self, request: m.LinkRequest) -> UnsentReason | None:
        """Send a request; `Answered` or `NotAnswered` follows. None when it was written.

        Requests leave in every authenticated state, so that a flatten or kill does not wait for the replay.
        """
        if not isinstance(request, ALLOWED[self._identity.role]):
            return UnsentReason.NOT_ALLOWED
        if self.state not in LIVE:
            return UnsentReason.NOT_READY
        if request.rid in self._requests:
            return UnsentReason.KNOWN_ID
        if len(self._requests) >= REQUESTS_MAX:
            return UnsentReason.TOO_MANY
        self._ask(request, is_own=False)
        return None

    @property
    def has_line_mac(self) -> bool:
        """Whether the lines of this connection carry a MAC."""
        return self.state in LIVE and self._macs is not None

    @property
    def refuses_entries(self) -> bool:
        """Whether entries need a MAC on each line, and this connection has none. False without a connection."""
        is_needed = self._identity.line_mac == "required" or (self._identity.line_mac == "auto" and self.had_line_mac)
        return is_needed and self.state in LIVE and self._macs is None

    def new_rid(self) -> str:
        """Return a request id that this session has not used."""
        self._numbers += 1
        return f"{self._identity.instance[:8]}-{self._numbers}"

    def ping(self) -> None:
        """Measure a round trip now; `RoundTrip` follows. Only while authenticated."""
        if self.state not in LIVE:
            return
        self._numbers += 1
        now = self._clock.monotonic()
        self._pings[self._numbers] = (now, self._now_ms())
        while len(self._pings) > 16:
            self._pings.popitem(last=False)
        self._pinged_s = now
        self._write(m.Ping(n=self._numbers, t_ms=self._now_ms()))

    def signals_open(self) -> dict[str, LinkSignalState]:
        """Return the signals without a final answer."""
        return {id_: tracked.state for id_, tracked in self._signals.items()}

    # ── transitions ──────────────────────────────────────────────────────────────────────────────
    def _apply(self, given: Input) -> None:
        holds = set()
        if self._untried:
            holds.add(When.OTHER_PORT)
        if self._identity.role == "data":
            holds.add(When.DATA)
        row = row_of(self.state, given, frozenset(holds))
        if row is None:
            return
        self.state = row.target
        for act in row.acts:
            self._act(act, given)

    def _act(self, act: LinkAct, given: Input) -> None:
        now = self._clock.monotonic()
        match act:
            case LinkAct.DIAL:
                if not self._untried:
                    self._untried = list(self._ports)
                self._port = self._untried.pop(0)
                self._deadline_s = now + CONNECT_S
                self._out(o.Dial(self._port))
            case LinkAct.SEND_HELLO:
                known = self._identity
                self._reader = LineReader(LINE_MAX)
                self._deadline_s = now + self._timeout_s
                self._received_s = now
                self._macs = None
                nonce = self._draws.nonce()
                self._nonce = nonce if known.line_mac == "off" else auth.marked(nonce)
                self._write(m.Hello(
                    v=m.VERSION, client=known.client, instance=known.instance, group=known.group, role=known.role,
                    nonce=self._nonce, platform=None if known.platform is NINJA else known.platform.wire,
                ))  # fmt: skip
            case LinkAct.SEND_AUTH:
                self._deadline_s = now + self._timeout_s
                self._auth_sent = (now, self._now_ms())
                mac = auth.client_mac(
                    self._identity.secret, bridge_nonce=self._bridge_nonce, client_nonce=self._nonce,
                    instance=self._identity.instance, group=self._identity.group,
                )  # fmt: skip
                if auth.is_marked(self._nonce) and auth.is_marked(self._bridge_nonce):
                    self._macs = auth.line_macs(
                        self._identity.secret, bridge_nonce=self._bridge_nonce, client_nonce=self._nonce,
                        instance=self._identity.instance, group=self._identity.group, role=self._identity.role,
                    )  # fmt: skip
                    self._reader.limit = LINE_MAX + auth.MAC_BYTES
                self._write(m.AuthMessage(mac=mac, epoch=self.epoch, last_seq=self.stored_seq))
            case LinkAct.SEND_BYE:
                self._write(m.Bye(code="shutdown", detail=self._reason))
            case LinkAct.WELCOMED:
                self._welcomed()
            case LinkAct.GO_READY:
                self._ready_s = now
                self._out(o.Ready(is_first=True))
                for signal_id in list(self._signals):
                    self._signal(signal_id, SignalInput.READY)
                self.ping()
            case LinkAct.GO_SUSPECT:
                self._out(o.LinkSuspect())
            case LinkAct.RECOVER:
                self._out(o.Ready(is_first=False))
            case LinkAct.CLOSE:
                if self._is_open or given in (Input.TIMEOUT, Input.STOP):
                    self._out(o.Close())
                self._is_open = False
            case LinkAct.LOSE:
                self._lose(now)
            case LinkAct.WAIT:
                self._failures += 1
                full_s = BACKOFF.wait_s(self._failures) * (1 - JITTER + 2 * JITTER * self._draws.share())
                self._wait(LONG_WAIT_S if self._was_refused else full_s)
            case LinkAct.WAIT_LONG:
                self._failures += 1
                self._wait(LONG_WAIT_S)
            case LinkAct.ALARM:
                self._alarm_of(given)
            case LinkAct.STOPPED:
                self._out(o.LinkStopped(self._reason))

    def _alarm_of(self, given: Input) -> None:
        port, group = f"port {self._port}", self._identity.group
        match given:
            case Input.IMPOSTOR:
                self._was_refused = True
                self._alarm(AlarmCode.BRIDGE_AUTH, f"the program on {port} does not have the secret of {group}")
            case Input.FORGED:
                self._alarm(AlarmCode.FORGED_LINE, f"{self._reason} between FKS and {group} on {port}")
            case Input.BYE_AUTH:
                self._was_refused = True
                self._alarm(AlarmCode.AUTH_FAILED, f"the bridge on {port} refuses our secret; compare the secret files")
            case Input.BYE_SEQ_AHEAD:
                lacks = f"it lacks our event {self.stored_seq}"
                self._alarm(AlarmCode.SEQ_AHEAD, f"the bridge's journal was rolled back: {lacks}")
            case _:
                self._alarm(AlarmCode.PROTOCOL, self._reason)

    def _wait(self, wait_s: float) -> None:
        self._was_refused = False
        self._untried = list(self._ports)
        wait_s = max(wait_s, self._wait_s)
        self._wait_s = 0.0
        self._deadline_s = self._clock.monotonic() + wait_s
        self._out(o.Waiting(self._reason, wait_s))

    def _lose(self, now: float) -> None:
        if self._ready_s is not None and now - self._ready_s >= 3 * self._hb_s:
            self._failures = 0  # it worked for a while; a bridge that fails at once keeps the longer wait
        self._ready_s = None
        self._untried = []  # so that the wait comes first
        self.welcome = None
        self._ack_due_s = None
        self._pings.clear()
        self._parts.clear()
        self._trades.clear()
        self._out(o.LinkLost(self._reason))
        pending, self._requests = self._requests, OrderedDict()
        for of in pending.values():
            if not of.is_own:
                self._out(o.NotAnswered(of.request, "disconnected"))
        for signal_id in list(self._signals):
            self._signal(signal_id, SignalInput.LOST)

    def _welcomed(self) -> None:
        welcome = self.welcome
        assert welcome is not None
        now = self._clock.monotonic()
        self._hb_s = welcome.hb_ms / 1000
        self._received_s = now
        self._untried = []
        self._was_refused = False
        self.had_line_mac = self.had_line_mac or self._macs is not None
        # the port that worked is tried first from now on
        self._ports = (self._port, *(port for port in self._ports if port != self._port))
        self._out(o.Welcomed(welcome, self._port))
        self.offset = ClockOffset()
        self._measured(self._auth_sent, welcome.now_ms)
        if self._identity.role == "data":
            return
        if self.epoch is None:
            self.epoch = welcome.epoch
            self.stored_seq = self._received_seq = 0
            self._out(o.EpochChanged(None, welcome.epoch, 0))
        elif welcome.epoch != self.epoch:
            before, first = self.epoch, max(welcome.oldest_seq - 1, 0)
            self.epoch = welcome.epoch
            self.stored_seq = self._received_seq = first
            self._alarm(AlarmCode.NEW_EPOCH, f"the journal {before} is gone, {welcome.epoch} has begun")
            self._out(o.EpochChanged(before, welcome.epoch, first))
        self._acked_seq = self.stored_seq

    # ── messages ─────────────────────────────────────────────────────────────────────────────────
    def _handle(self, message: m.Message) -> None:
        if isinstance(message, m.Bye):
            self._bye(message)
        elif self.state is LinkState.HELLO:
            if not isinstance(message, m.Challenge):
                raise PeerError(f"{message.t} instead of challenge")
            self._bridge_nonce = message.nonce
            self._apply(Input.CHALLENGE)
        elif self.state is LinkState.AUTH:
            if not isinstance(message, m.Welcome):
                raise PeerError(f"{message.t} instead of welcome")
            self._check_welcome(message)
        elif isinstance(message, m.Challenge | m.Welcome):
            raise PeerError(f"a second {message.t}")
        elif isinstance(message, m.TradeMessage | m.QuoteMessage | m.MarketStatus | m.HistoryBar | m.InstrumentMessage):
            self._market(message)
        else:
            self._handle_live(message)

    def _bye(self, message: m.Bye) -> None:
        self._reason = f"bye {message.code}: {message.detail or ''}".rstrip(": ")
        self._wait_s = min((message.retry_after_ms or 0) / 1000, LONG_WAIT_S)
        self._apply({
            "forged_line": Input.FORGED,
            "auth_failed": Input.BYE_AUTH, "superseded": Input.BYE_SUPERSEDED, "seq_ahead": Input.BYE_SEQ_AHEAD,
        }.get(message.code, Input.BYE))  # fmt: skip

    def _check_welcome(self, welcome: m.Welcome) -> None:
        expected = auth.bridge_mac(
            self._identity.secret, bridge_nonce=self._bridge_nonce, client_nonce=self._nonce,
            epoch=welcome.epoch, group=self._identity.group,
        )  # fmt: skip
        if not auth.is_equal(welcome.mac, expected):
            self._reason = "welcome with a wrong mac"
            self._apply(Input.IMPOSTOR)
        elif (welcome.platform.partition(" ")[0] == MT5.wire) is not (self._identity.platform is MT5):
            self._violated(f"the program on port {self._port} serves another platform: {welcome.platform}")
        elif welcome.epoch == self.epoch and welcome.last_seq < self.stored_seq:
            self._reason = f"the journal ends at {welcome.last_seq}, we have stored {self.stored_seq}"
            self._apply(Input.BYE_SEQ_AHEAD)
        else:
            self.welcome = welcome
            self._apply(Input.WELCOME)

    def _handle_live(self, message: m.Message) -> None:
        match message:
            case m.LogEvent():
                self._logged(message)
            case m.LogGap():
                # not `message.to`: after a change of epoch that is a number of the old journal
                if self.welcome is not None:
                    self._received_seq = max(self._received_seq, self.welcome.oldest_seq - 1)
                self._out(o.LogLost(message.from_, message.to, self.epoch or ""))
            case m.ReplayEnd():
                if message.last_seq > self._received_seq:
                    self._missing(message.last_seq)
                else:
                    self._apply(Input.REPLAY_END)
            case m.Ping():
                self._write(m.Pong(n=message.n, t_ms=self._now_ms(), echo_ms=message.t_ms))
            case m.Pong():
                self._pong(message)
            case m.Ack():
                self._signal(message.id, SignalInput.ACK, message=message)
            case m.Nack():
                given = SignalInput.NACK_FINAL if message.final else SignalInput.NACK
                self._signal(message.id, given, code=message.code, message=message)
            case m.Indeterminate():
                self._signal(message.id, SignalInput.INDETERMINATE, message=message)
            case m.SigState():
                self._answer(message.rid, message)
                given, code = input_of_state(message.state), message.code or message.state
                self._signal(message.id, given, code=code, message=message)
            case m.Status():
                self._status(message)
            case m.ResultMessage():
                self._answer(message.rid, message)
            case m.LineError():
                self._alarm(AlarmCode.BRIDGE_ERROR, f"{message.code}: {message.detail}")
            case _:
                raise PeerError(f"{message.t} in state {self.state}")

    def _logged(self, event: m.LogEvent) -> None:
        if event.epoch != self.epoch:
            raise PeerError(f"an event of epoch {event.epoch} in epoch {self.epoch}")
        if event.seq <= self._received_seq:
            return
        if event.seq > self._received_seq + 1:
            self._missing(event.seq)
            return
        self._received_seq = event.seq
        if isinstance(event.body, m.UnreadableEvent):
            self._alarm(AlarmCode.BAD_EVENT, f"event {event.seq} of kind {event.kind}: {event.body.problem}")
        self._out(o.Logged(event))
        if isinstance(event.body, m.SignalEvent):
            self._signal(event.body.id, input_of_state(event.body.state), code=event.body.code or "", message=event)

    def _missing(self, seq: int) -> None:
        self._reason = f"event {seq} came after {self._received_seq}"
        self._apply(Input.HOLE)

    def _pong(self, message: m.Pong) -> None:
        sent = self._pings.pop(message.n, None)
        if sent is None:
            return
        took_s = self._measured(sent, message.t_ms)
        self._out(o.RoundTrip(took_s, self.offset.ms))

    def _measured(self, sent: tuple[float, int], bridge_ms: int) -> float:
        sent_s, sent_ms = sent
        took_s = self._clock.monotonic() - sent_s
        self.offset.add(sent_ms=sent_ms, round_trip_s=took_s, bridge_ms=bridge_ms)
        off = abs(self.offset.ms)
        skew = AlarmCode.CLOCK_OK
        if off > WARN_MS:
            skew = AlarmCode.CLOCK_SKEW if off > SKEW_MS else AlarmCode.CLOCK_OFFSET
        if skew is not self._skew:
            self._skew = skew
            self._alarm(skew, f"the bridge's clock differs by {self.offset.ms} ms")
        return took_s

    def _status(self, message: m.Status) -> None:
        parts = self._parts.setdefault(message.rid, [])
        if message.part is not None and message.part != len(parts) + 1:
            raise PeerError(f"part {message.part} of a status after {len(parts)}")
        parts.append(message)
        if message.part is not None and message.parts is not None and message.part < message.parts:
            return
        del self._parts[message.rid]
        whole = _joined(parts)
        self._out(o.Snapshot(whole))
        if whole.rid is not None:
            self._answer(whole.rid, whole)

    def _answer(self, rid: str, message: m.ResultMessage | m.SigState | m.Status) -> None:
        pending = self._requests.pop(rid, None)
        if pending is not None and not pending.is_own:
            self._out(o.Answered(pending.request, message, self._clock.monotonic() - pending.sent_s))

    def _market(
        self, message: m.TradeMessage | m.QuoteMessage | m.MarketStatus | m.HistoryBar | m.InstrumentMessage
    ) -> None:
        if self._identity.role != "data":
            raise PeerError(f"{message.t} on a {self._identity.role} session")
        if isinstance(message, m.TradeMessage):
            last = self._trades.get(message.instrument)
            self._trades[message.instrument] = message.n
            if last is not None and message.n != last + 1:
                self._out(o.TradesMissing(message.instrument, last, message.n))
        elif isinstance(message, m.HistoryBar | m.InstrumentMessage):
            pending = self._requests.get(message.rid)
            if pending is not None:
                pending.due_s = self._clock.monotonic() + REQUEST_S[type(pending.request)]
        self._out(o.MarketData(message))

    # ── signals ──────────────────────────────────────────────────────────────────────────────────
    def _refusal_of(self, prepared: Prepared) -> UnsentReason | None:
        if self._identity.role != "control":
            return UnsentReason.NOT_ALLOWED
        if prepared.id in self._signals or prepared.id in self._ended_ids:
            return UnsentReason.KNOWN_ID
        if len(self._signals) >= SIGNALS_MAX:
            return UnsentReason.TOO_MANY
        refusal = self._not_sendable()
        if refusal is not None:
            return refusal
        if prepared.epoch != self.epoch:
            return UnsentReason.EPOCH_CHANGED
        if self.refuses_entries and not prepared.is_exit:
            return UnsentReason.NO_LINE_MAC
        return None if self._is_valid(prepared) else UnsentReason.EXPIRED

    def _not_sendable(self) -> UnsentReason | None:
        if self.state is LinkState.SUSPECT:
            return UnsentReason.SUSPECT
        if self.state is not LinkState.READY:
            return UnsentReason.NOT_READY
        return UnsentReason.CLOCK_SKEW if self._skew is AlarmCode.CLOCK_SKEW else None

    def _is_valid(self, prepared: Prepared) -> bool:
        return self._now_ms() + self.offset.ms < prepared.valid_until_ms

    def _signal(self, signal_id: str, given: SignalInput, *, code: str = "", message: m.Message | None = None) -> None:
        tracked = self._signals.get(signal_id)
        if tracked is None:
            return
        may_leave = tracked.prepared.is_exit or not self.refuses_entries
        is_repeatable = may_leave and tracked.prepared.epoch == self.epoch and self._is_valid(tracked.prepared)
        row = signal_row(tracked.state, given, is_repeatable=is_repeatable)
        if row is None:
            return
        before, tracked.state = tracked.state, row.target
        if tracked.state in ENDED:
            del self._signals[signal_id]
            self._ended_ids[signal_id] = None
            while len(self._ended_ids) > ENDED_IDS_MAX:
                self._ended_ids.popitem(last=False)
        if tracked.state is not before:
            self._out(o.SignalChanged(signal_id, tracked.state, code, message))
        for act in row.acts:
            if act is SignalAct.WRITE:
                self._write_signal(tracked)
            else:
                self._ask(m.Query(rid=self.new_rid(), id=signal_id), is_own=True)

    def _write_signal(self, tracked: _Tracked) -> None:
        tracked.due_s = self._clock.monotonic() + self._timeout_s
        self._send(tracked.prepared.line)

    def _ask(self, request: m.LinkRequest, *, is_own: bool) -> None:
        now = self._clock.monotonic()
        due_s = now + REQUEST_S.get(type(request), self._timeout_s)
        self._requests[request.rid] = _Pending(request, now, due_s, is_own)
        self._write(request)

    # ── time ─────────────────────────────────────────────────────────────────────────────────────
    def _tick_live(self, now: float) -> None:
        quiet_s = now - self._received_s
        if quiet_s >= 3 * self._hb_s:
            self._reason = f"no byte for {quiet_s:.1f} s"
            self._apply(Input.SILENT)
            return
        if quiet_s >= 2 * self._hb_s:
            self._apply(Input.QUIET)
        for rid, pending in list(self._requests.items()):
            if now >= pending.due_s:
                del self._requests[rid]
                if pending.is_own:
                    assert isinstance(pending.request, m.Query)
                    self._signal(pending.request.id, SignalInput.NO_ANSWER)
                else:
                    self._out(o.NotAnswered(pending.request, "timeout"))
        for signal_id, tracked in list(self._signals.items()):
            if tracked.state is LinkSignalState.SENT and now >= tracked.due_s:
                self._signal(signal_id, SignalInput.NO_ANSWER)
        if self._ack_due_s is not None and now >= self._ack_due_s:
            self._acknowledge()
        if now >= self._sent_s + self._hb_s or now >= self._pinged_s + PING_S_MAX:
            self.ping()

    def _acknowledge(self) -> None:
        self._ack_due_s = None
        self._acked_seq = self.stored_seq
        self._write(m.EvAck(seq=self.stored_seq))

    def _now_ms(self) -> int:
        return self._clock.now_ns() // 1_000_000

    # ── outputs ──────────────────────────────────────────────────────────────────────────────────
    def _violated(self, why: str) -> None:
        self._reason = why
        self._apply(Input.VIOLATION)

    def _alarm(self, code: AlarmCode, detail: str) -> None:
        self._out(o.Alarm(code, detail))

    def _write(self, message: m.Message) -> None:
        self._send(m.to_line(message))

    def _send(self, line: bytes) -> None:
        self._sent_s = self._clock.monotonic()
        self._out(o.Write(line if self._macs is None else self._macs[0].sealed(line)))

    def _out(self, output: o.Output) -> None:
        self._outputs.append(output)


def _joined(parts: list[m.Status]) -> m.Status:
    """Return one status of its parts. An account whose lists were cut comes once, with all of them."""
    first = parts[0]
    if len(parts) == 1:
        return first
    accounts: dict[str, m.AccountStatus] = {}
    for account in (account for part in parts for account in part.accounts):
        before = accounts.get(account.name)
        accounts[account.name] = account if before is None else dataclasses.replace(
            before,
            values={**before.values, **account.values},
            positions=before.positions + account.positions,
            orders=before.orders + account.orders,
        )  # fmt: skip
    signals = tuple(signal for part in parts for signal in part.signals_open)
    return dataclasses.replace(
        parts[-1],
        accounts=tuple(accounts.values()),
        signals_open=signals,
        features=first.features,
        part=None,
        parts=None,
    )
