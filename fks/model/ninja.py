"""Requests to a NinjaTrader bridge, its events and the state of the link to it, as rows of the database hold them.

`orders` and persons ask, the actor `ninja:<group>` sends and answers. None of them imports another: they share these
values and the rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

#: States of a connection whose bridge has proven the secret (`fks.ninja.machine.LIVE`).
CONNECTED: Final = frozenset({"REPLAY", "READY", "SUSPECT"})
FRESH_S: Final = 5.0  # a link's row is written at least each second; an older one is of a dead link


class RequestKind(StrEnum):
    SIGNAL = "signal"
    CANCEL = "cancel"
    MODIFY = "modify"
    FLATTEN = "flatten"
    KILL = "kill"
    RESUME = "resume"
    STATUS = "status"
    QUERY = "query"


class RequestState(StrEnum):
    """A request's life. ACKED, NACKED, EXPIRED and WITHDRAWN are final."""

    NEW = "NEW"  # no byte of it has left
    SENDING = "SENDING"  # its line is committed: it may have left
    ACKED = "ACKED"  # the bridge has taken it; what it led to is in the events
    NACKED = "NACKED"  # it is never executed: `code`
    INDETERMINATE = "INDETERMINATE"  # the bridge itself does not know; an event follows
    UNANSWERED = "UNANSWERED"  # it may have arrived; a signal is asked about, never made a second time
    EXPIRED = "EXPIRED"  # it was not executed and never will be: too late
    WITHDRAWN = "WITHDRAWN"  # by its asker, before a byte left


S = RequestState

#: The states that each state may be left for.
TRANSITIONS: Final[Mapping[RequestState, frozenset[RequestState]]] = {
    S.NEW: frozenset({S.SENDING, S.WITHDRAWN, S.EXPIRED, S.NACKED}),  # NACKED: no message can be made of it
    # NEW: the session refused to write it, so that no byte left, and it may be withdrawn again
    S.SENDING: frozenset({S.NEW, S.ACKED, S.NACKED, S.INDETERMINATE, S.UNANSWERED, S.EXPIRED}),
    S.UNANSWERED: frozenset({S.ACKED, S.NACKED, S.INDETERMINATE, S.EXPIRED}),
    S.INDETERMINATE: frozenset({S.ACKED, S.NACKED, S.EXPIRED}),
    S.ACKED: frozenset(),
    S.NACKED: frozenset(),
    S.EXPIRED: frozenset(),
    S.WITHDRAWN: frozenset(),
}
FINAL: Final = frozenset(state for state, targets in TRANSITIONS.items() if not targets)
#: Sent, perhaps, and without a final answer: a new process asks the bridge about them.
OPEN: Final = frozenset({S.SENDING, S.UNANSWERED, S.INDETERMINATE})


def sources_of(target: RequestState) -> frozenset[RequestState]:
    """Return the states from which `target` may be reached."""
    return frozenset(state for state, targets in TRANSITIONS.items() if target in targets)


@dataclass(frozen=True, slots=True)
class NinjaRequest:
    """A request to the bridge of `group`.

    `id`: of a signal its id on the wire (the client_order_id of the order), else the request id; at most 32 characters.
    `body`: the other fields of the wire message without `t`, times by our clock, prices as text. `valid_until_ns`: no
    byte leaves later; only a signal must have one.
    """

    id: str
    group: str
    kind: RequestKind
    body: Mapping[str, Any]
    asked_by: str
    valid_until_ns: int | None = None


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """A request as the table holds it. `line`: the bytes that were sent or may have been, prepared for the bridge's
    journal `bridge_epoch`. `answer`: the bridge's message, numbers as text where they have decimals."""

    request: NinjaRequest
    seq: int
    state: RequestState
    asker_epoch: int | None
    line: bytes | None
    bridge_epoch: str | None
    answer: Mapping[str, Any] | None
    code: str
    detail: str
    created_ns: int
    answered_ns: int | None


@dataclass(frozen=True, slots=True)
class NinjaEvent:
    """An event of the bridge's log, in the journal `epoch` under the number `seq`.

    `body`: the whole line, prices as text. `at_ns`: the bridge's clock. `received_ns`: 0 until it is stored. Two kinds
    are the link's own, and each means that a reader must reconcile from a snapshot: `epoch` (another journal begins
    after `seq`; body: `before`) and `gap` (events up to `seq` are lost; body: `first`, `last`).
    """

    epoch: str
    seq: int
    kind: str
    account: str | None
    signal_id: str | None
    body: Mapping[str, Any]
    at_ns: int
    received_ns: int = 0


#: Feature of a bridge whose exits may name the entries that they close, and member of its accounts in a report.
EXIT_ENTRIES = "exit_entries"


@dataclass(frozen=True, slots=True)
class LinkReport:
    """The state of a link, as its actor writes it. `accounts`: name, sim, mode, connected, exit_entries.

    `snapshot`: the bridge's last status, None: as before. `is_ready`: the platform is ready and the log is replayed."""

    state: str
    is_ready: bool
    is_halted: bool
    accounts: tuple[Mapping[str, Any], ...]
    offset_ms: int
    alarm: str = ""
    snapshot: Mapping[str, Any] | None = None
    snapshot_ns: int | None = None


@dataclass(frozen=True, slots=True)
class LinkRecord:
    """The row of a link. `age_s`: since it was written, by the database's clock."""

    group: str
    writer_epoch: int
    bridge_epoch: str | None
    stored_seq: int
    report: LinkReport
    age_s: float

    @property
    def is_fresh(self) -> bool:
        """Whether the actor of the link lives."""
        return self.age_s <= FRESH_S

    @property
    def is_connected(self) -> bool:
        """Whether the bridge has proven the secret on a connection that lives."""
        return self.is_fresh and self.report.state in CONNECTED

    @property
    def can_trade(self) -> bool:
        """Whether a signal would be sent now."""
        return self.is_fresh and self.report.is_ready and not self.report.is_halted
