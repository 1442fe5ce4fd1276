"""Life cycle of a signal at the client: every transition is a row of the table below.

A signal is one line with one id. The same line may be sent again only while the bridge's journal is the one that it
was first sent to (same epoch) and the signal is still valid: the bridge submits an id that it knows at most once. In
another epoch that memory is gone, and the line is never sent again. No second id is ever made for one intention.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class LinkSignalState(StrEnum):
    """The state of a signal."""

    SENT = "SENT"  # the line is written; no answer yet
    UNANSWERED = "UNANSWERED"  # the connection was lost before an answer
    QUERIED = "QUERIED"  # the bridge is asked for its state
    RETRYABLE = "RETRYABLE"  # refused for now; the same line may be sent again
    INDETERMINATE = "INDETERMINATE"  # the bridge itself does not know; an event follows
    ACKED = "ACKED"  # the bridge has it; its life goes on in the event log
    NACKED = "NACKED"  # it will never be executed
    DROPPED = "DROPPED"  # the bridge does not know it, and it may not be sent again


ENDED = frozenset({LinkSignalState.ACKED, LinkSignalState.NACKED, LinkSignalState.DROPPED})


class SignalInput(StrEnum):
    """An event of a signal."""

    ACK = "ack"
    NACK_FINAL = "nack, final"
    NACK = "nack, not final"
    INDETERMINATE = "indeterminate"
    LOST = "connection lost"
    READY = "connection ready"
    NO_ANSWER = "no answer in time"
    FOUND = "sigstate or event: it has an order or had one"
    REFUSED = "sigstate or event: it is not submitted"
    UNRESOLVED = "sigstate or event: result unknown"
    UNKNOWN_ID = "sigstate unknown_id"
    RETRY = "retry of the application"


class SignalAct(StrEnum):
    """An effect of a transition. Every change of state is reported besides."""

    WRITE = "send the same line"
    QUERY = "send query"


@dataclass(frozen=True, slots=True)
class SignalRow:
    """One transition. `is_repeatable`: same epoch, still valid on the bridge's clock, and allowed on this connection;
    None: either way."""

    states: frozenset[LinkSignalState]
    input: SignalInput
    target: LinkSignalState
    acts: tuple[SignalAct, ...] = ()
    is_repeatable: bool | None = None
    note: str = ""


def _in(*states: LinkSignalState) -> frozenset[LinkSignalState]:
    return frozenset(states)


S = LinkSignalState
I = SignalInput  # noqa: E741 - one letter, as the table is read by column
A = SignalAct
OPEN = frozenset(LinkSignalState) - ENDED

TRANSITIONS: tuple[SignalRow, ...] = (
    SignalRow(OPEN, I.ACK, S.ACKED),
    SignalRow(OPEN, I.NACK_FINAL, S.NACKED),
    SignalRow(_in(S.SENT), I.NACK, S.RETRYABLE),
    SignalRow(OPEN, I.INDETERMINATE, S.INDETERMINATE),
    SignalRow(_in(S.SENT, S.QUERIED), I.LOST, S.UNANSWERED),
    SignalRow(_in(S.UNANSWERED), I.READY, S.QUERIED, (A.QUERY,)),
    SignalRow(_in(S.SENT, S.QUERIED), I.NO_ANSWER, S.QUERIED, (A.QUERY,), note="the bridge answers in order"),
    SignalRow(_in(S.INDETERMINATE), I.READY, S.INDETERMINATE, (A.QUERY,), note="its event may be among the lost ones"),
    SignalRow(OPEN, I.FOUND, S.ACKED, note="an event may come before the answer to the query"),
    SignalRow(OPEN, I.REFUSED, S.NACKED),
    SignalRow(_in(S.QUERIED, S.UNANSWERED, S.SENT), I.UNRESOLVED, S.INDETERMINATE),
    SignalRow(_in(S.QUERIED), I.UNKNOWN_ID, S.SENT, (A.WRITE,), True),
    SignalRow(_in(S.QUERIED), I.UNKNOWN_ID, S.DROPPED, (), False, "another journal, or too late"),
    SignalRow(_in(S.RETRYABLE), I.RETRY, S.SENT, (A.WRITE,), True),
    SignalRow(_in(S.RETRYABLE), I.RETRY, S.DROPPED, (), False, "another journal, or too late"),
)


def _index(rows: Iterable[SignalRow]) -> dict[tuple[LinkSignalState, SignalInput], tuple[SignalRow, ...]]:
    found: dict[tuple[LinkSignalState, SignalInput], list[SignalRow]] = {}
    for row in rows:
        for state in row.states:
            found.setdefault((state, row.input), []).append(row)
    return {key: tuple(value) for key, value in found.items()}


_ROWS = _index(TRANSITIONS)


def signal_row(state: LinkSignalState, given: SignalInput, *, is_repeatable: bool) -> SignalRow | None:
    """Return the row that applies, or None where nothing changes."""
    for row in _ROWS.get((state, given), ()):
        if row.is_repeatable is None or row.is_repeatable is is_repeatable:
            return row
    return None


_FOUND = frozenset(
    "submitted working open cancelling cancelled expired rejected closed flattening relayed".split()  # noqa: SIM905
)


def input_of_state(bridge_state: str) -> SignalInput:
    """Return what a bridge's state of a signal means. A state that is not known counts as unresolved."""
    if bridge_state in _FOUND:
        return I.FOUND
    if bridge_state in ("nacked", "not_submitted"):
        return I.REFUSED
    return I.UNKNOWN_ID if bridge_state == "unknown_id" else I.UNRESOLVED
