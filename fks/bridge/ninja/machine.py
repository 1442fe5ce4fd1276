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


class LinkState(StrEnum):
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
    ALIVE = "any byte, or a line with its MAC where lines carry one"
    QUIET = "no byte for 2 heartbeats"
    SILENT = "no byte for 3 heartbeats"
    TIMEOUT = "no answer in time"
    HOLE = "a seq is missing"
    VIOLATION = "a line that breaks the protocol"
    FORGED = "a line without its MAC"
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


class LinkAct(StrEnum):
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
class LinkTransition:
    """One transition."""

    states: frozenset[LinkState]
    input: Input
    target: LinkState
    acts: tuple[LinkAct, ...]
    when: When = When.ALWAYS
    note: str = ""


def _in(*states: LinkState) -> frozenset[LinkState]:
    return frozenset(states)


S = LinkState
I = Input  # noqa: E741 - one letter, as the table is read by column
A = LinkAct
UNTRUSTED = _in(S.CONNECTING, S.HELLO, S.AUTH)
LIVE = _in(S.REPLAY, S.READY, S.SUSPECT)
ANY = frozenset(LinkState)

TRANSITIONS: tuple[LinkTransition, ...] = (
    LinkTransition(_in(S.IDLE), I.START, S.CONNECTING, (A.DIAL,)),
    LinkTransition(_in(S.CONNECTING), I.CONNECTED, S.HELLO, (A.SEND_HELLO,), note="the client speaks first"),
    LinkTransition(_in(S.HELLO), I.CHALLENGE, S.AUTH, (A.SEND_AUTH,)),
    LinkTransition(_in(S.AUTH), I.WELCOME, S.READY, (A.WELCOMED, A.GO_READY), When.DATA, "no log on a data session"),
    LinkTransition(_in(S.AUTH), I.WELCOME, S.REPLAY, (A.WELCOMED,)),
    LinkTransition(_in(S.AUTH), I.IMPOSTOR, S.CONNECTING, (A.ALARM, A.CLOSE, A.DIAL), When.OTHER_PORT),
    LinkTransition(_in(S.AUTH), I.IMPOSTOR, S.BACKOFF, (A.ALARM, A.CLOSE, A.WAIT_LONG),
        note="another program is on the port"),
    LinkTransition(UNTRUSTED, I.BYE_AUTH, S.CONNECTING, (A.ALARM, A.CLOSE, A.DIAL), When.OTHER_PORT),
    LinkTransition(UNTRUSTED, I.BYE_AUTH, S.BACKOFF, (A.ALARM, A.CLOSE, A.WAIT_LONG),
        note="five failures a minute shut us out"),
    *(LinkTransition(UNTRUSTED, way, S.CONNECTING, (A.CLOSE, A.DIAL), When.OTHER_PORT)
      for way in (I.FAILED, I.TIMEOUT, I.CLOSED, I.VIOLATION, I.BYE)),
    *(LinkTransition(UNTRUSTED, way, S.BACKOFF, (A.CLOSE, A.WAIT))
      for way in (I.FAILED, I.TIMEOUT, I.CLOSED, I.VIOLATION, I.BYE)),
    LinkTransition(_in(S.REPLAY), I.REPLAY_END, S.READY, (A.GO_READY,)),
    LinkTransition(_in(S.READY), I.QUIET, S.SUSPECT, (A.GO_SUSPECT,)),
    LinkTransition(_in(S.SUSPECT), I.ALIVE, S.READY, (A.RECOVER,)),
    LinkTransition(LIVE, I.SILENT, S.BACKOFF, (A.CLOSE, A.LOSE, A.WAIT), note="half-open"),
    LinkTransition(LIVE, I.HOLE, S.BACKOFF, (A.CLOSE, A.LOSE, A.WAIT), note="asked again from the last stored event"),
    LinkTransition(LIVE, I.VIOLATION, S.BACKOFF, (A.ALARM, A.CLOSE, A.LOSE, A.WAIT)),
    LinkTransition(LIVE, I.FORGED, S.BACKOFF, (A.ALARM, A.CLOSE, A.LOSE, A.WAIT)),
    LinkTransition(LIVE, I.CLOSED, S.BACKOFF, (A.CLOSE, A.LOSE, A.WAIT)),
    LinkTransition(LIVE, I.BYE, S.BACKOFF, (A.CLOSE, A.LOSE, A.WAIT)),
    LinkTransition(LIVE, I.BYE_AUTH, S.BACKOFF, (A.ALARM, A.CLOSE, A.LOSE, A.WAIT_LONG)),
    LinkTransition(UNTRUSTED, I.BYE_SUPERSEDED, S.STOPPED, (A.CLOSE, A.STOPPED), note="the supervisor decides"),
    LinkTransition(LIVE, I.BYE_SUPERSEDED, S.STOPPED, (A.CLOSE, A.LOSE, A.STOPPED), note="another instance took over"),
    LinkTransition(UNTRUSTED, I.BYE_SEQ_AHEAD, S.BACKOFF, (A.ALARM, A.CLOSE, A.WAIT_LONG),
        note="the journal was rolled back"),
    LinkTransition(LIVE, I.BYE_SEQ_AHEAD, S.BACKOFF, (A.ALARM, A.CLOSE, A.LOSE, A.WAIT_LONG)),
    LinkTransition(_in(S.BACKOFF), I.WAITED, S.CONNECTING, (A.DIAL,)),
    LinkTransition(LIVE, I.STOP, S.STOPPED, (A.SEND_BYE, A.CLOSE, A.LOSE, A.STOPPED)),
    LinkTransition(ANY - LIVE - _in(S.STOPPED), I.STOP, S.STOPPED, (A.CLOSE, A.STOPPED)),
)  # fmt: skip


def _index(rows: Iterable[LinkTransition]) -> dict[tuple[LinkState, Input], tuple[LinkTransition, ...]]:
    found: dict[tuple[LinkState, Input], list[LinkTransition]] = {}
    for row in rows:
        for state in row.states:
            found.setdefault((state, row.input), []).append(row)
    return {key: tuple(value) for key, value in found.items()}


_ROWS = _index(TRANSITIONS)


def row_of(state: LinkState, given: Input, holds: frozenset[When]) -> LinkTransition | None:
    """Return the row that applies, or None where nothing changes. `holds`: the conditions that are true now."""
    for row in _ROWS.get((state, given), ()):
        if row.when is When.ALWAYS or row.when in holds:
            return row
    return None
