"""Life cycle of the client's connection to one bridge: every transition is a row of the table below.

The session performs the actions in the order written. The first row of a state and input whose condition holds applies.
A pair without a row changes nothing.

Two ports are tried in turn, because another program may own the first one; a port is trusted only after the bridge has
proven the secret. Only when the last port has failed does the client wait.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """State of the connection."""

    IDLE = "IDLE"  # not started
    CONNECTING = "CONNECTING"  # the socket is being opened
    HELLO = "HELLO"  # hello is sent, the challenge is awaited
    AUTH = "AUTH"  # our proof is sent, the bridge's is awaited
    REPLAY = "REPLAY"  # authenticated; missed events arrive
    READY = "READY"
    SUSPECT = "SUSPECT"  # no byte for two heartbeats: no new signals
    BACKOFF = "BACKOFF"  # waiting before the next attempt
    STOPPED = "STOPPED"  # for good


class Input(StrEnum):
    """An event of a connection."""

    START = "start"
    CONNECTED = "socket open"
    FAILED = "socket not opened"
    CHALLENGE = "challenge"
    WELCOME = "welcome, its MAC right"
    IMPOSTOR = "welcome, its MAC wrong"
    REPLAY_END = "replay_end"
    ALIVE = "any byte"
    QUIET = "no byte for 2 heartbeats"
    SILENT = "no byte for 3 heartbeats"
    TIMEOUT = "no answer in time"
    HOLE = "a seq is missing"
    VIOLATION = "a line that breaks the protocol"
    CLOSED = "socket closed by the bridge"
    BYE = "bye"
    BYE_AUTH = "bye auth_failed"
    BYE_SUPERSEDED = "bye superseded"
    BYE_SEQ_AHEAD = "bye seq_ahead, or a journal behind our last event"
    WAITED = "wait is over"
    STOP = "stop of the application"


class When(StrEnum):
    """Condition of a row."""

    ALWAYS = ""
    OTHER_PORT = "another port is not tried yet"
    DATA = "role data"


class Act(StrEnum):
    """An effect of a transition."""

    DIAL = "open a socket to the next port"
    SEND_HELLO = "send hello"
    SEND_AUTH = "send auth"
    SEND_BYE = "send bye"
    WELCOMED = "publish the bridge's state"
    GO_READY = "publish ready; query the signals without an answer"
    GO_SUSPECT = "publish suspect"
    RECOVER = "publish ready"
    CLOSE = "close the socket"
    LOSE = "publish the loss; signals and requests in flight have no answer"
    WAIT = "wait: 0.5 s doubled up to 15 s, ±20 %"
    WAIT_LONG = "wait 60 s"
    ALARM = "raise an alarm"
    STOPPED = "publish the end"


@dataclass(frozen=True, slots=True)
class Row:
    """One transition."""

    states: frozenset[State]
    input: Input
    target: State
    acts: tuple[Act, ...]
    when: When = When.ALWAYS
    note: str = ""


def _in(*states: State) -> frozenset[State]:
    return frozenset(states)


S = State
I = Input  # noqa: E741 - one letter, as the table is read by column
A = Act
UNTRUSTED = _in(S.CONNECTING, S.HELLO, S.AUTH)
LIVE = _in(S.REPLAY, S.READY, S.SUSPECT)
ANY = frozenset(State)

TRANSITIONS: tuple[Row, ...] = (
    Row(_in(S.IDLE), I.START, S.CONNECTING, (A.DIAL,)),
    Row(_in(S.CONNECTING), I.CONNECTED, S.HELLO, (A.SEND_HELLO,), note="the client speaks first"),
    Row(_in(S.HELLO), I.CHALLENGE, S.AUTH, (A.SEND_AUTH,)),
    Row(_in(S.AUTH), I.WELCOME, S.READY, (A.WELCOMED, A.GO_READY), When.DATA, "no log on a data session"),
    Row(_in(S.AUTH), I.WELCOME, S.REPLAY, (A.WELCOMED,)),
    Row(_in(S.AUTH), I.IMPOSTOR, S.CONNECTING, (A.ALARM, A.CLOSE, A.DIAL), When.OTHER_PORT),
    Row(_in(S.AUTH), I.IMPOSTOR, S.BACKOFF, (A.ALARM, A.CLOSE, A.WAIT_LONG), note="another program is on the port"),
    Row(UNTRUSTED, I.BYE_AUTH, S.CONNECTING, (A.ALARM, A.CLOSE, A.DIAL), When.OTHER_PORT),
    Row(UNTRUSTED, I.BYE_AUTH, S.BACKOFF, (A.ALARM, A.CLOSE, A.WAIT_LONG), note="five failures a minute shut us out"),
    *(Row(UNTRUSTED, way, S.CONNECTING, (A.CLOSE, A.DIAL), When.OTHER_PORT)
      for way in (I.FAILED, I.TIMEOUT, I.CLOSED, I.VIOLATION, I.BYE)),
    *(Row(UNTRUSTED, way, S.BACKOFF, (A.CLOSE, A.WAIT))
      for way in (I.FAILED, I.TIMEOUT, I.CLOSED, I.VIOLATION, I.BYE)),
    Row(_in(S.REPLAY), I.REPLAY_END, S.READY, (A.GO_READY,)),
    Row(_in(S.READY), I.QUIET, S.SUSPECT, (A.GO_SUSPECT,)),
    Row(_in(S.SUSPECT), I.ALIVE, S.READY, (A.RECOVER,)),
    Row(LIVE, I.SILENT, S.BACKOFF, (A.CLOSE, A.LOSE, A.WAIT), note="half-open"),
    Row(LIVE, I.HOLE, S.BACKOFF, (A.CLOSE, A.LOSE, A.WAIT), note="asked again from the last stored event"),
    Row(LIVE, I.VIOLATION, S.BACKOFF, (A.ALARM, A.CLOSE, A.LOSE, A.WAIT)),
    Row(LIVE, I.CLOSED, S.BACKOFF, (A.CLOSE, A.LOSE, A.WAIT)),
    Row(LIVE, I.BYE, S.BACKOFF, (A.CLOSE, A.LOSE, A.WAIT)),
    Row(LIVE, I.BYE_AUTH, S.BACKOFF, (A.ALARM, A.CLOSE, A.LOSE, A.WAIT_LONG)),
    Row(UNTRUSTED, I.BYE_SUPERSEDED, S.STOPPED, (A.CLOSE, A.STOPPED), note="the supervisor decides"),
    Row(LIVE, I.BYE_SUPERSEDED, S.STOPPED, (A.CLOSE, A.LOSE, A.STOPPED), note="another instance took over"),
    Row(UNTRUSTED, I.BYE_SEQ_AHEAD, S.BACKOFF, (A.ALARM, A.CLOSE, A.WAIT_LONG), note="the journal was rolled back"),
    Row(LIVE, I.BYE_SEQ_AHEAD, S.BACKOFF, (A.ALARM, A.CLOSE, A.LOSE, A.WAIT_LONG)),
    Row(_in(S.BACKOFF), I.WAITED, S.CONNECTING, (A.DIAL,)),
    Row(LIVE, I.STOP, S.STOPPED, (A.SEND_BYE, A.CLOSE, A.LOSE, A.STOPPED)),
    Row(ANY - LIVE - _in(S.STOPPED), I.STOP, S.STOPPED, (A.CLOSE, A.STOPPED)),
)  # fmt: skip


def _index(rows: Iterable[Row]) -> dict[tuple[State, Input], tuple[Row, ...]]:
    found: dict[tuple[State, Input], list[Row]] = {}
    for row in rows:
        for state in row.states:
            found.setdefault((state, row.input), []).append(row)
    return {key: tuple(value) for key, value in found.items()}


_ROWS = _index(TRANSITIONS)


def row_of(state: State, given: Input, holds: frozenset[When]) -> Row | None:
    """Return the row that applies, or None where nothing changes. `holds`: the conditions that are true now."""
    for row in _ROWS.get((state, given), ()):
        if row.when is When.ALWAYS or row.when in holds:
            return row
    return None
