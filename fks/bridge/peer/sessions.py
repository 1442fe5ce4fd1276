"""Connections of the bridge, sans I/O: opening and authentication, roles, heartbeats, replay.

Bytes and a clock in, writes and closes out. The lines, the strict JSON and the MACs are those of `fks.bridge.ninja`;
the AddOn in `nt8/` is the independent second implementation of them, and both run the same conversations. Limits of
connections and of attempts are the AddOn's alone.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from fks.bridge.ninja import strict_json
from fks.bridge.ninja.auth import (
    ALGORITHM,
    MAC_BYTES,
    ForgedLineError,
    LineMac,
    bridge_mac,
    client_mac,
    is_equal,
    is_marked,
    line_macs,
    marked,
)
from fks.bridge.ninja.framing import LINE_MAX, LINE_MAX_UNAUTHENTICATED, LineReader, LineTooLongError
from fks.bridge.peer.bridge import Bridge
from fks.bridge.peer.market_data import MarketDataServer
from fks.model.ninja import LINE_MAC

Message = dict[str, Any]
Output = tuple[int, bytes | None]  # bytes for a connection; None: its end, after what was written to it

HEARTBEAT_MS = 2_000
_SESSIONS_MAX = {"control": 2, "guardian": 2, "observe": 4, "data": 2}  # by role; a newer control supersedes
_FIRST_LINE_MS = 5_000
_REFUSED_MS = 1_000
_SEED_IDLE_MS = 60_000
_STATUS_MS = 30_000
_CLIENT_LOST_MS = 10_000
_WINDOW_MS = 60_000
_ERRORS_MAX = 3
_REQUESTS = frozenset({"signal", "query", "cancel", "modify", "flatten", "kill", "resume", "status", "evack"})
_LOTS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,8})?")
_QUANTITIES = frozenset({"qty", "filled"})  # texts where the platform has lots
_MARKET = frozenset({"subscribe", "unsubscribe", "history", "instruments"})
_ALLOWED = {
    "control": _REQUESTS,
    "guardian": frozenset({"cancel", "flatten", "kill", "status"}),
    "observe": frozenset({"status"}),
    "data": _MARKET,
}


@dataclass(slots=True)
class _Session:
    """One connection. `state`: OPEN no line yet, CHALLENGED hello was answered, REFUSED a wrong MAC whose answer waits
    a second, SEED the seed dialect, READY authenticated: `role` is set, CLOSED."""

    conn: int
    since_ms: int  # of the state
    state: str = "OPEN"
    role: str = ""
    hello: Message = field(default_factory=dict)
    nonce: str = ""
    macs: tuple[LineMac, LineMac] | None = None  # of the client's lines and of ours, where they carry one
    is_proven: bool = False  # the client has the secret
    reader: LineReader = field(default_factory=lambda: LineReader(LINE_MAX_UNAUTHENTICATED))
    received_ms: int = 0
    sent_ms: int = 0
    status_ms: int = 0
    position: int = 0  # last event sent
    lines: int = 0
    pings: int = 0
    is_half_closed: bool = False
    errors: deque[int] = field(default_factory=deque)


class BridgeSessions:
    """All connections of one bridge. `work` after each input and every 100 ms; it returns what the server does."""

    def __init__(self, bridge: Bridge, secret: bytes, new_nonce: Callable[[], str]) -> None:
        self.bridge = bridge
        self.market = MarketDataServer(bridge.platform, bridge.market_events)
        self.control_state = "CLOSED"  # of the newest control session: READY, LOST, CLOSED
        self._secret = secret
        self._new_nonce = new_nonce
        self._sessions: dict[int, _Session] = {}
        self._out: list[Output] = []
        self._lost_ms: int | None = None

    @property
    def now_ms(self) -> int:
        """Return the virtual time: timeouts do not depend on the PC's time of day."""
        return self.bridge.platform.now_ms

    def open(self, conn: int) -> None:
        """Take a new connection."""
        self._sessions[conn] = _Session(conn, self.now_ms, received_ms=self.now_ms, sent_ms=self.now_ms)

    def receive(self, conn: int, data: bytes) -> None:
        """Take bytes of a connection."""
        session = self._sessions.get(conn)
        if session is None:
            return
        if session.macs is None:
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
            if _is_seed(found):
                self._move(session, "SEED")
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

    def work(self) -> list[Output]:
        """Let the bridge work, then send what is due. Guarantees: events were written to the journal before."""
        for peer, message in self.bridge.turn():
            if peer is None:
                self._broadcast(message)
            elif peer in self._sessions:
                self._reply(self._sessions[peer], message)
        for conn, message in self.market.work():
            if conn in self._sessions:
                self._send(self._sessions[conn], message)
        for session in list(self._sessions.values()):
            self._tick(session)
        if self._lost_ms is not None and self.now_ms - self._lost_ms >= _CLIENT_LOST_MS:
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
        out, self._out = self._out, []
        return out

    # ── lines ─────────────────────────────────────────────────────────────────────────────────────

    def _on_line(self, session: _Session, line: bytes) -> None:
        if session.macs is not None:
            try:
                line = session.macs[0].opened(line)
                session.received_ms = self.now_ms  # other bytes may be of a program in between that holds lines back
            except ForgedLineError as error:
                if session.role:
                    if session.role == "control":
                        self._lose_control()
                    self._bye(session, "forged_line", str(error))
                else:
                    self._move(session, "REFUSED")
                return
        try:
            found: Message = dict(strict_json.loads(line))
        except strict_json.BadJsonError as error:
            if session.role:
                self._error(session, "bad_json", str(error))
            elif session.state == "SEED":
                failure = {"success": False, "message": f"bad_json: {error}"[:200], "signal_id": None}
                self._send(session, failure)
            else:
                self._end(session)
            return
        if session.state == "OPEN" and _is_seed(found):
            self._move(session, "SEED")
        if session.state == "OPEN":
            self._first(session, found)
        elif session.state == "CHALLENGED":
            self._authenticate(session, found)
        elif session.state == "SEED" or (session.role == "control" and _is_seed(found)):
            self.bridge.handle_seed(session.conn, found, is_authenticated=bool(session.role))
        else:
            self._message(session, found)

    def _first(self, session: _Session, found: Message) -> None:
        if found.get("t") != "hello":
            self._end(session)
        elif found.get("v") != 1:
            self._bye(session, "version", "this bridge speaks version 1")
        elif not _is_hello(found):
            self._end(session)
        else:
            session.hello, session.nonce = found, self._new_nonce()
            if is_marked(found["nonce"]) and LINE_MAC in self.bridge.config.features:
                session.nonce = marked(session.nonce)
                session.macs = line_macs(
                    self._secret,
                    bridge_nonce=session.nonce,
                    client_nonce=found["nonce"],
                    instance=found["instance"],
                    group=self.bridge.config.group,
                    role=found["role"],
                )
            self._move(session, "CHALLENGED")
            bridge = {"bridge": self.bridge.platform.bridge_version, "alg": ALGORITHM}
            self._send(session, {"t": "challenge", "v": 1, "nonce": session.nonce, **bridge})

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
            self._move(session, "REFUSED")
            return
        assert isinstance(last_seq, int)
        session.is_proven = True
        session.reader.limit = LINE_MAX + (0 if session.macs is None else MAC_BYTES)
        if epoch == self.bridge.epoch and last_seq > self.bridge.last_seq and hello["role"] != "data":
            if hello["role"] == "control":
                self.bridge.halt("seq_ahead: the client stored more events than the journal has")
            self._bye(session, "seq_ahead", f"the journal ends at {self.bridge.last_seq}")
            return
        others = [one for one in self._sessions.values() if one.role == hello["role"]]
        if len(others) >= _SESSIONS_MAX[hello["role"]]:
            self._bye(session, "session_limit", f"too many sessions of role {hello['role']}")
            return
        if hello["role"] in ("control", "guardian"):
            for other in others:
                self._bye(other, "superseded", f"a newer {hello['role']} session took over")
        session.role = hello["role"]
        self._move(session, "READY")
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
        about = {"max_line": LINE_MAX, "hb_ms": HEARTBEAT_MS, "platform": bridge.platform.label}
        self._send(session, {"t": "welcome", "mac": mac, **bridge.welcome(), **about})
        if session.role == "data":
            return
        if session.role == "control":
            self.control_state, self._lost_ms = "READY", None
        is_same = epoch == bridge.epoch or (epoch is None and last_seq == 0)
        if not is_same and last_seq:
            self._send(session, {"t": "gap", "from": 1, "to": last_seq})
        events = bridge.events_after(last_seq if is_same else 0)
        for event in events:
            self._send(session, {**event, "replay": True})
        session.position = bridge.last_seq
        self._send(session, {"t": "replay_end", "last_seq": session.position, "count": len(events)})
        self._send_status(session, bridge.status(None))

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
        if kind == "evack":
            if isinstance(found.get("seq"), int):
                self.bridge.handle(session.conn, found)
            else:
                self._error(session, "bad_field", "seq: a whole number")
        elif kind != "signal" and not (isinstance(found.get("rid"), str) and 0 < len(found["rid"]) <= 32):
            self._error(session, "bad_field", "rid: a text of at most 32 characters")
        elif kind in _MARKET:
            self.market.handle(session.conn, found)
        else:
            if self.bridge.platform.has_lots and kind == "signal":
                found = {**found, "qty": _lots(found.get("qty"))}
            self.bridge.handle(session.conn, found)

    def _refuse(self, session: _Session, found: Message) -> None:
        if found["t"] == "signal":
            signal_id = found.get("id") if isinstance(found.get("id"), str) else None
            detail = f"a {session.role} session gives no orders"
            fields = {"code": "not_control", "detail": detail, "final": False, "at_ms": self.bridge.now_ms}
            self._send(session, {"t": "nack", "id": signal_id, **fields})
        elif found["t"] != "evack":
            rid = found.get("rid") if isinstance(found.get("rid"), str) else ""
            self._send(session, {"t": "result", "rid": rid, "ok": False, "code": "not_control"})

    def _error(self, session: _Session, code: str, detail: str) -> None:
        self._send(session, {"t": "error", "code": code, "detail": detail[:200], "line_no": session.lines})
        session.errors.append(self.now_ms)
        while session.errors[0] <= self.now_ms - _WINDOW_MS:
            session.errors.popleft()
        if len(session.errors) >= _ERRORS_MAX:
            self._bye(session, "too_many_errors", f"{_ERRORS_MAX} lines were not understood")

    # ── output ────────────────────────────────────────────────────────────────────────────────────

    def _reply(self, session: _Session, message: Message) -> None:
        if message.get("t") == "status":
            self._send_status(session, message)
        else:
            self._send(session, message)
        if session.state == "SEED" and session.is_half_closed:
            self._end(session)

    def _broadcast(self, message: Message) -> None:
        for session in self._sessions.values():
            if session.role in ("", "data"):
                continue
            if message["t"] == "status":
                self._send_status(session, message)
            elif message["seq"] > session.position:
                session.position = message["seq"]
                self._send(session, message)

    def _send_status(self, session: _Session, status: Message) -> None:
        session.status_ms = self.now_ms
        for part in split_status(status):
            self._send(session, part)

    def _send(self, session: _Session, message: Message) -> None:
        session.sent_ms = self.now_ms
        if self.bridge.platform.has_lots and message.get("t") != "trade":  # of a tick the quantity is 1
            message = _lots_as_texts(message)
        line = strict_json.dumps(message)
        if session.macs is not None and session.is_proven:
            line = session.macs[1].sealed(line)
        self._out.append((session.conn, line))

    def _bye(self, session: _Session, code: str, detail: str) -> None:
        self._send(session, {"t": "bye", "code": code, "detail": detail, "retry_after_ms": None})
        self._end(session)

    def _end(self, session: _Session) -> None:
        session.state = "CLOSED"
        if session.conn in self._sessions:
            del self._sessions[session.conn]
            self.market.close(session.conn)
            self._out.append((session.conn, None))

    def _move(self, session: _Session, state: str) -> None:
        session.state, session.since_ms = state, self.now_ms

    # ── time ──────────────────────────────────────────────────────────────────────────────────────

    def _tick(self, session: _Session) -> None:
        lasted_ms = self.now_ms - session.since_ms
        if session.role:
            self._beat(session)
        elif session.state == "REFUSED" and lasted_ms >= _REFUSED_MS:
            self._bye(session, "auth_failed", "wrong MAC")
        elif session.state == "CHALLENGED" and lasted_ms >= _FIRST_LINE_MS:
            self._bye(session, "auth_timeout", "no auth within 5 s")
        else:
            is_silent = session.state == "OPEN" and lasted_ms >= _FIRST_LINE_MS
            if is_silent or (session.state == "SEED" and self.now_ms - session.received_ms >= _SEED_IDLE_MS):
                self._end(session)

    def _beat(self, session: _Session) -> None:
        now_ms = self.now_ms
        if now_ms - session.received_ms > 3 * HEARTBEAT_MS:
            if session.role == "control":
                self._lose_control()
            self._end(session)
            return
        if session.role != "data" and now_ms - session.status_ms >= _STATUS_MS:
            self._send_status(session, self.bridge.status(None))
        if now_ms - session.sent_ms >= HEARTBEAT_MS:
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


def _lots(value: object) -> object:
    """Return the number of lots in a text; any other value as it is: the check of the fields refuses it."""
    if isinstance(value, str) and _LOTS.fullmatch(value):
        return Decimal(value)
    return None if value is None else str(value)


def _lots_as_texts(value: Any) -> Any:
    """Return a message with its quantities as texts."""
    if isinstance(value, dict):
        return {
            key: strict_json.plain_number(Decimal(of)) if key in _QUANTITIES and of is not None else _lots_as_texts(of)
            for key, of in value.items()
        }
    return [_lots_as_texts(of) for of in value] if isinstance(value, list) else value


def _is_seed(found: Message) -> bool:
    return "t" not in found and "action" in found


def _is_hello(found: Message) -> bool:
    texts = all(isinstance(found.get(name), str) for name in ("client", "instance", "group", "role", "nonce"))
    return texts and found["role"] in _SESSIONS_MAX and len(found["nonce"]) == 64 and len(found["instance"]) == 32


def _is_ping(found: Message) -> bool:
    return all(isinstance(found.get(name), int) and not isinstance(found[name], bool) for name in ("n", "t_ms"))
