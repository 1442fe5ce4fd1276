"""Connections of the bridge, sans I/O: opening and authentication, roles, heartbeats, replay, limits.

Bytes and a clock in, writes and closes out. The lines, the strict JSON and the MACs are those of `fks.ninja`; the AddOn
in `nt8/` is the independent second implementation of them, and both run the same conversations.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fks.ninja import strict_json
from fks.ninja.auth import ALGORITHM, bridge_mac, client_mac, is_equal
from fks.ninja.framing import LINE_MAX, LINE_MAX_UNAUTHENTICATED, LineReader, LineTooLongError
from fks.sim.nt8.bridge import Bridge, Broadcast, Reply
from fks.sim.nt8.market_data import MarketData

Message = dict[str, Any]

# (state, event) -> next state. OPEN: no line yet; CHALLENGED: hello was answered; REFUSED: a wrong MAC, the answer
# waits a second; REPLAYING: events of the log are sent; LOST: no byte for three heartbeats; SEED: the seed dialect.
TABLE: dict[tuple[str, str], str] = {
    ("OPEN", "hello"): "CHALLENGED",
    ("OPEN", "seed"): "SEED",
    ("OPEN", "other"): "CLOSED",
    ("OPEN", "timeout"): "CLOSED",
    ("CHALLENGED", "good"): "REPLAYING",
    ("CHALLENGED", "bad"): "REFUSED",
    ("CHALLENGED", "timeout"): "CLOSED",
    ("REFUSED", "timeout"): "CLOSED",
    ("REPLAYING", "sent"): "READY",
    ("REPLAYING", "timeout"): "CLOSED",
    ("REPLAYING", "silence"): "LOST",
    ("READY", "silence"): "LOST",
    ("SEED", "timeout"): "CLOSED",
}
CONNECTIONS_MAX = 8
UNAUTHENTICATED_MAX = 3
OBSERVERS_MAX = 4
READERS_MAX = 2
BACKLOG_MAX = 8 << 20  # bytes that a slow client may leave unread
SLOW_BACKLOG = 256 << 10  # above it a data session gets no quotes
_ROLES = frozenset({"control", "guardian", "observe", "data"})
_FIRST_LINE_MS = 5_000
_REFUSED_MS = 1_000
_SEED_IDLE_MS = 60_000
_STATUS_MS = 30_000
_WINDOW_MS = 60_000
_FAILURES_MAX = 5
_ERRORS_MAX = 3
_BLOCKED_MS = 10_000
_REPLAY_STEP = 500
_REQUESTS = frozenset({"signal", "query", "cancel", "modify", "flatten", "kill", "resume", "status", "evack"})
_MARKET = frozenset({"subscribe", "unsubscribe", "history"})
_ALLOWED = {
    "control": _REQUESTS,
    "guardian": frozenset({"cancel", "flatten", "kill", "status"}),
    "observe": frozenset({"status"}),
    "data": _MARKET,
}


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes for a connection."""

    conn: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """The end of a connection, after what was written to it."""

    conn: int


Output = Write | Close


@dataclass(slots=True)
class _Session:
    """One connection."""

    conn: int
    address: str
    is_local: bool
    opened_ms: int
    state: str = "OPEN"
    role: str = ""
    hello: Message = field(default_factory=dict)
    nonce: str = ""
    mac: str = ""
    reader: LineReader = field(default_factory=lambda: LineReader(LINE_MAX_UNAUTHENTICATED))
    received_ms: int = 0
    sent_ms: int = 0
    since_ms: int = 0  # of the state
    status_ms: int = 0
    position: int = 0  # last event sent
    replayed: int = 0
    lines: int = 0
    pings: int = 0
    sent_bytes: int = 0
    backlog_since_ms: int | None = None
    is_half_closed: bool = False
    errors: deque[int] = field(default_factory=deque)


class Sessions:
    """All connections of one bridge. `work` after each input and every 100 ms; it returns what the server does."""

    def __init__(self, bridge: Bridge, secret: bytes, new_nonce: Callable[[], str]) -> None:
        self.bridge = bridge
        self.market = MarketData(bridge.platform)
        self.control_state = "CLOSED"  # of the newest control session: READY, LOST, CLOSED
        self.alarms: list[str] = []
        self._secret = secret
        self._new_nonce = new_nonce
        self._sessions: dict[int, _Session] = {}
        self._out: list[Output] = []
        self._failures: dict[str, deque[int]] = {}
        self._refused_until: dict[str, int] = {}
        self._lost_ms: int | None = None

    @property
    def now_ms(self) -> int:
        """Return the virtual time: timeouts do not depend on the PC's time of day."""
        return self.bridge.platform.now_ms

    @property
    def connections(self) -> int:
        return len(self._sessions)

    def open(self, conn: int, address: str) -> bool:
        """Take a new connection; False: it is closed without a byte, too many are open or its address is refused."""
        waiting = sum(one.role == "" and one.state != "SEED" for one in self._sessions.values())
        is_refused = self._refused_until.get(address, 0) > self.now_ms
        if len(self._sessions) >= CONNECTIONS_MAX or waiting >= UNAUTHENTICATED_MAX or is_refused:
            return False
        session = _Session(conn, address, address in ("127.0.0.1", "::1"), self.now_ms)
        session.received_ms = session.sent_ms = session.since_ms = self.now_ms
        self._sessions[conn] = session
        return True

    def receive(self, conn: int, data: bytes) -> None:
        """Take bytes of a connection."""
        session = self._sessions.get(conn)
        if session is None or session.state in ("REFUSED", "CLOSED"):
            return
        session.received_ms = self.now_ms
        session.reader.feed(data)
        try:
            while session.state not in ("REFUSED", "CLOSED") and (line := session.reader.next_line()) is not None:
                session.lines += 1
                self._on_line(session, line)
        except LineTooLongError:
            if session.role:
                self._bye(session, "line_too_long", f"a line has over {LINE_MAX} bytes")
            else:
                self._end(session)

    def half_close(self, conn: int) -> None:
        """The peer sends no more: in the seed dialect, and only there, one complete object without LF counts."""
        session = self._sessions.get(conn)
        if session is None:
            return
        session.is_half_closed = True
        rest = session.reader.rest
        if session.state in ("OPEN", "SEED") and rest.strip():
            try:
                found = strict_json.loads(rest)
            except strict_json.BadJsonError:
                self._end(session)
                return
            if "t" not in found and "action" in found:
                self._move(session, "seed")
                self.bridge.handle_seed(conn, found, is_authenticated=False)
                return
        if session.state != "SEED":
            self.disconnect(conn)

    def disconnect(self, conn: int) -> None:
        """The connection is gone."""
        session = self._sessions.get(conn)
        if session is not None:
            if session.role == "control":
                self._lose_control()
            self._end(session)

    def set_backlog(self, conn: int, size: int) -> None:
        """Report how many bytes of a connection are not sent yet."""
        session = self._sessions.get(conn)
        if session is None:
            return
        self.market.set_slow(conn, is_slow=size > SLOW_BACKLOG)
        if size == 0:
            session.backlog_since_ms = None
        elif session.backlog_since_ms is None:
            session.backlog_since_ms = self.now_ms
        is_blocked = session.state == "REPLAYING" and session.backlog_since_ms is not None
        if size > BACKLOG_MAX or (is_blocked and self.now_ms - (session.backlog_since_ms or 0) > _BLOCKED_MS):
            self.disconnect(conn)

    def state_of(self, conn: int) -> str:
        return self._sessions[conn].state if conn in self._sessions else "CLOSED"

    def work(self) -> list[Output]:
        """Let the bridge work, then send what is due. Guarantees: events were synced to the journal before."""
        for one in self.bridge.turn():
            if isinstance(one, Reply):
                self._reply(one)
            else:
                self._broadcast(one)
        for conn, message in self.market.work():
            if conn in self._sessions:
                self._send(self._sessions[conn], message)
        for session in list(self._sessions.values()):
            self._replay(session)
            self._tick(session)
        if self._lost_ms is not None and self.now_ms - self._lost_ms >= self.bridge.config.client_lost_grace_ms:
            self._lost_ms = None
            self.control_state = "CLOSED"
            self.bridge.client_lost()
        out, self._out = self._out, []
        return out

    def shutdown(self) -> list[Output]:
        """Say goodbye on every connection."""
        for session in list(self._sessions.values()):
            if session.role:
                self._bye(session, "shutdown", "the bridge ends")
            else:
                self._end(session)
        self.market.stop()
        out, self._out = self._out, []
        return out

    # ── lines ─────────────────────────────────────────────────────────────────────────────────────

    def _on_line(self, session: _Session, line: bytes) -> None:
        try:
            found: Message = dict(strict_json.loads(line))
        except strict_json.BadJsonError as error:
            if session.role:
                self._error(session, "bad_json", str(error))
            elif session.state == "SEED":
                failure = {"success": False, "message": f"bad_json: {error}"[:200], "signal_id": None}
                self._send(session, failure)
            else:
                self._move(session, "other")
            return
        if session.state == "OPEN":
            self._first(session, found)
        elif session.state == "CHALLENGED":
            self._authenticate(session, found)
        elif session.state == "SEED":
            self.bridge.handle_seed(session.conn, found, is_authenticated=False)
        elif "t" not in found and "action" in found and session.role == "control":
            self.bridge.handle_seed(session.conn, found, is_authenticated=True)
        else:
            self._message(session, found)

    def _first(self, session: _Session, found: Message) -> None:
        if found.get("t") == "hello":
            if found.get("v") != 1:
                self._bye(session, "version", "this bridge speaks version 1")
            elif not _is_hello(found):
                self._move(session, "other")
            else:
                session.hello, session.nonce = found, self._new_nonce()
                self._move(session, "hello")
                bridge = {"bridge": "fks-nt8/1.0.0", "alg": ALGORITHM}
                self._send(session, {"t": "challenge", "v": 1, "nonce": session.nonce, **bridge})
        elif "t" not in found and "action" in found:
            self._move(session, "seed")
            self.bridge.handle_seed(session.conn, found, is_authenticated=False)
        else:
            self._move(session, "other")

    def _authenticate(self, session: _Session, found: Message) -> None:
        hello = session.hello
        expected = client_mac(
            self._secret,
            bridge_nonce=session.nonce,
            client_nonce=hello["nonce"],
            instance=hello["instance"],
            group=self.bridge.config.group,
        )
        last_seq, epoch = found.get("last_seq"), found.get("epoch")
        is_good = (
            found.get("t") == "auth"
            and isinstance(found.get("mac"), str)
            and is_equal(found["mac"], expected)
            and isinstance(last_seq, int)
            and last_seq >= 0
            and (epoch is None or isinstance(epoch, str))
        )
        if not is_good:
            self._fail(session)
            return
        assert isinstance(last_seq, int)
        session.reader.limit = LINE_MAX
        if epoch == self.bridge.epoch and last_seq > self.bridge.last_seq and hello["role"] != "data":
            if hello["role"] == "control":
                self.bridge.halt("seq_ahead: the client stored more events than the journal has")
                self.alarms.append("seq_ahead")
            self._bye(session, "seq_ahead", f"the journal ends at {self.bridge.last_seq}")
            return
        if self._is_crowded(hello["role"]):
            self._bye(session, "session_limit", f"too many sessions of role {hello['role']}")
            return
        self._supersede(hello["role"])
        session.role = hello["role"]
        self._move(session, "good")
        self._welcome(session, epoch, last_seq)

    def _welcome(self, session: _Session, epoch: str | None, last_seq: int) -> None:
        bridge = self.bridge
        hello = session.hello
        mac = bridge_mac(
            self._secret,
            bridge_nonce=session.nonce,
            client_nonce=hello["nonce"],
            epoch=bridge.epoch,
            group=bridge.config.group,
        )
        about = {"max_line": LINE_MAX, "platform": "simulated NinjaTrader 8"}
        self._send(session, {"t": "welcome", "mac": mac, **bridge.welcome(), **about})
        if session.role == "data":
            self.market.open(session.conn)
            session.state = "READY"
            return
        if session.role == "control":
            self.control_state, self._lost_ms = "READY", None
        oldest = bridge.oldest_seq
        is_same = epoch == bridge.epoch or (epoch is None and last_seq == 0)
        gap_end = oldest - 1 if is_same else max(last_seq, oldest - 1)
        session.position = max(last_seq, oldest - 1) if is_same else oldest - 1
        if (begin := last_seq + 1 if is_same else 1) <= gap_end:
            self._send(session, {"t": "gap", "from": begin, "to": gap_end})

    def _fail(self, session: _Session) -> None:
        self._move(session, "bad")
        failures = self._failures.setdefault(session.address, deque())
        failures.append(self.now_ms)
        while failures[0] <= self.now_ms - _WINDOW_MS:
            failures.popleft()
        if len(failures) >= _FAILURES_MAX:
            failures.clear()
            self._refused_until[session.address] = self.now_ms + _WINDOW_MS
            self.alarms.append("auth_failed")

    def _is_crowded(self, role: str) -> bool:
        limit = {"observe": OBSERVERS_MAX, "data": READERS_MAX}.get(role)
        return limit is not None and sum(one.role == role for one in self._sessions.values()) >= limit

    def _supersede(self, role: str) -> None:
        if role in ("control", "guardian"):
            for other in list(self._sessions.values()):
                if other.role == role:
                    self._bye(other, "superseded", f"a newer {role} session took over")

    def _message(self, session: _Session, found: Message) -> None:
        kind = found.get("t")
        if kind == "ping":
            if not _is_ping(found):
                self._error(session, "bad_field", "ping: n and t_ms are whole numbers")
                return
            self._send(session, {"t": "pong", "n": found["n"], "t_ms": self.bridge.now_ms, "echo_ms": found["t_ms"]})
        elif kind == "pong":
            return
        elif kind == "bye":
            if session.role == "control":
                self.control_state = "CLOSED"
            self._end(session)
        elif not isinstance(kind, str) or kind not in _REQUESTS | _MARKET:
            self._error(session, "unknown_type", f"unknown type {kind!r}"[:200])
        elif kind not in _ALLOWED[session.role]:
            self._refuse(session, found)
        else:
            self._request(session, kind, found)

    def _request(self, session: _Session, kind: str, found: Message) -> None:
        if kind == "signal" and session.state == "REPLAYING":
            self._nack(session, found, "replaying", "signals are taken after replay_end")
        elif kind == "evack":
            if isinstance(found.get("seq"), int):
                self.bridge.handle(session.conn, found)
            else:
                self._error(session, "bad_field", "seq: a whole number")
        elif kind != "signal" and not (isinstance(found.get("rid"), str) and 0 < len(found["rid"]) <= 32):
            self._error(session, "bad_field", "rid: a text of at most 32 characters")
        elif kind in _MARKET:
            self.market.handle(session.conn, found)
        else:
            self.bridge.handle(session.conn, found)

    def _refuse(self, session: _Session, found: Message) -> None:
        if found["t"] == "signal":
            self._nack(session, found, "not_control", f"a {session.role} session gives no orders")
        elif found["t"] != "evack":
            rid = found.get("rid") if isinstance(found.get("rid"), str) else ""
            self._send(session, {"t": "result", "rid": rid, "ok": False, "code": "not_control"})

    def _nack(self, session: _Session, found: Message, code: str, detail: str) -> None:
        signal_id = found.get("id") if isinstance(found.get("id"), str) else None
        fields = {"code": code, "detail": detail, "final": False, "at_ms": self.bridge.now_ms}
        self._send(session, {"t": "nack", "id": signal_id, **fields})

    def _error(self, session: _Session, code: str, detail: str) -> None:
        self._send(session, {"t": "error", "code": code, "detail": detail[:200], "line_no": session.lines})
        session.errors.append(self.now_ms)
        while session.errors[0] <= self.now_ms - _WINDOW_MS:
            session.errors.popleft()
        if len(session.errors) >= _ERRORS_MAX:
            self._bye(session, "too_many_errors", f"{_ERRORS_MAX} lines were not understood")

    # ── output ────────────────────────────────────────────────────────────────────────────────────

    def _reply(self, reply: Reply) -> None:
        session = self._sessions.get(reply.peer)
        if session is None:
            return
        if reply.message.get("t") == "status":
            self._send_status(session, reply.message)
        else:
            self._send(session, reply.message)
        if session.state == "SEED" and session.is_half_closed:
            self._end(session)

    def _broadcast(self, one: Broadcast) -> None:
        for session in self._sessions.values():
            if session.role in ("", "data") or session.state != "READY":
                continue
            if one.message["t"] == "status":
                self._send_status(session, one.message)
            elif one.message["seq"] > session.position:
                session.position = one.message["seq"]
                self._send(session, one.message)

    def _replay(self, session: _Session) -> None:
        if session.state != "REPLAYING":
            return
        events = self.bridge.events_after(session.position)
        for event in events[:_REPLAY_STEP]:
            self._send(session, {**event, "replay": True})
            session.position = event["seq"]
            session.replayed += 1
        if len(events) <= _REPLAY_STEP:
            self._send(session, {"t": "replay_end", "last_seq": session.position, "count": session.replayed})
            self._move(session, "sent")
            self._send_status(session, self.bridge.status(None))

    def _send_status(self, session: _Session, status: Message) -> None:
        session.status_ms = self.now_ms
        for part in split_status(status):
            self._send(session, part)

    def _send(self, session: _Session, message: Message) -> None:
        data = strict_json.dumps(message)
        session.sent_ms = self.now_ms
        session.sent_bytes += len(data)
        self._out.append(Write(session.conn, data))

    def _bye(self, session: _Session, code: str, detail: str) -> None:
        self._send(session, {"t": "bye", "code": code, "detail": detail, "retry_after_ms": None})
        self._end(session)

    def _end(self, session: _Session) -> None:
        session.state = "CLOSED"
        if session.conn in self._sessions:
            del self._sessions[session.conn]
            self.market.close(session.conn)
            self._out.append(Close(session.conn))

    def _move(self, session: _Session, event: str) -> None:
        session.state = TABLE.get((session.state, event), session.state)
        session.since_ms = self.now_ms
        if session.state == "CLOSED":
            self._end(session)

    # ── time ──────────────────────────────────────────────────────────────────────────────────────

    def _tick(self, session: _Session) -> None:
        now_ms = self.now_ms
        if session.state in ("OPEN", "CHALLENGED"):
            if now_ms - session.opened_ms >= _FIRST_LINE_MS:
                if session.state == "CHALLENGED":
                    self._bye(session, "auth_timeout", "no auth within 5 s")
                else:
                    self._move(session, "timeout")
        elif session.state == "REFUSED":
            if now_ms - session.since_ms >= _REFUSED_MS:
                self._bye(session, "auth_failed", "wrong MAC")
        elif session.state == "SEED":
            if now_ms - session.received_ms >= _SEED_IDLE_MS:
                self._move(session, "timeout")
        elif session.role:
            self._beat(session)

    def _beat(self, session: _Session) -> None:
        now_ms, every = self.now_ms, self.bridge.config.hb_ms
        if now_ms - session.received_ms > 3 * every:
            self._move(session, "silence")
            if session.role == "control":
                self._lose_control()
            self._end(session)
            return
        if session.role != "data" and session.state == "READY" and now_ms - session.status_ms >= _STATUS_MS:
            self._send_status(session, self.bridge.status(None))
        if now_ms - session.sent_ms >= every:
            session.pings += 1
            self._send(session, {"t": "ping", "n": session.pings, "t_ms": self.bridge.now_ms})

    def _lose_control(self) -> None:
        self.control_state, self._lost_ms = "LOST", self.now_ms


def split_status(status: Message, limit: int = LINE_MAX) -> list[Message]:
    """Return a status as one line, or cut into parts that each fit into a line."""
    if len(strict_json.dumps(status)) <= limit:
        return [status]
    empty: Message = {**status, "accounts": [], "signals_open": []}
    parts: list[Message] = []
    signals = status["signals_open"]
    parts += [{**empty, "signals_open": signals[at : at + 300]} for at in range(0, len(signals), 300)]
    for account in status["accounts"]:
        orders = account["orders"]
        for at in range(0, max(len(orders), 1), 100):
            parts.append({**empty, "accounts": [{**account, "orders": orders[at : at + 100]}]})
    return [{**part, "part": number, "parts": len(parts)} for number, part in enumerate(parts, 1)]


def _is_hello(found: Message) -> bool:
    texts = all(isinstance(found.get(name), str) for name in ("client", "instance", "group", "role", "nonce"))
    return texts and found["role"] in _ROLES and len(found["nonce"]) == 64 and len(found["instance"]) == 32


def _is_ping(found: Message) -> bool:
    return all(isinstance(found.get(name), int) and not isinstance(found[name], bool) for name in ("n", "t_ms"))
