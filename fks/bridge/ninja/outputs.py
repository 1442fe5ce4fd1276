"""Outputs of a client session: commands for the socket, and events for the application."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from fks.bridge.ninja.messages import (
    HistoryBar,
    InstrumentMessage,
    LinkRequest,
    LogEvent,
    MarketStatus,
    Message,
    QuoteMessage,
    ResultMessage,
    SigState,
    Status,
    TradeMessage,
    Welcome,
)
from fks.bridge.ninja.signals import LinkSignalState


class AlarmCode(StrEnum):
    """A notice for a person."""

    BRIDGE_AUTH = "bridge_auth"  # the program on the port does not have our secret
    AUTH_FAILED = "auth_failed"  # the bridge refuses our proof
    SEQ_AHEAD = "seq_ahead"  # the journal of the bridge was rolled back
    NEW_EPOCH = "new_epoch"  # the journal of the bridge is another one: what it knew of signals is gone
    CLOCK_OFFSET = "clock_offset"  # the two clocks differ by over 2 s
    CLOCK_SKEW = "clock_skew"  # by over 5 s: no new signals
    CLOCK_OK = "clock_ok"  # no longer
    BAD_EVENT = "bad_event"  # an event of the log is not understood; it is stored as it came
    BRIDGE_ERROR = "bridge_error"  # the bridge did not understand a line of ours
    FORGED_LINE = "forged_line"  # a line was changed, repeated or left out between the bridge and us
    PROTOCOL = "protocol"  # the bridge broke the protocol


# ── commands for the socket ──────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class Dial:
    """Open a socket to this port, then call `connected` or `dial_failed`."""

    port: int


@dataclass(frozen=True, slots=True)
class Write:
    """Send these bytes."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Close:
    """Send what is left, close the socket, and report nothing of it any more."""


# ── events for the application ───────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class Welcomed:
    """The bridge has proven the secret. `welcome` has its accounts, limits and latch."""

    welcome: Welcome
    port: int


@dataclass(frozen=True, slots=True)
class Ready:
    """Signals may be sent. `is_first`: since this connection began; else after a suspect pause."""

    is_first: bool


@dataclass(frozen=True, slots=True)
class LinkSuspect:
    """No byte came for two heartbeats: no new signals until one comes."""


@dataclass(frozen=True, slots=True)
class LinkLost:
    """An authenticated connection is lost."""

    reason: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """No connection; the next attempt begins after `wait_s`."""

    reason: str
    wait_s: float


@dataclass(frozen=True, slots=True)
class LinkStopped:
    """The session has ended for good and does not connect again."""

    reason: str


@dataclass(frozen=True, slots=True)
class Logged:
    """The next event of the log, each once and in order. The application stores it and calls `stored`."""

    event: LogEvent


@dataclass(frozen=True, slots=True)
class LogLost:
    """Events of the log are gone: reconcile from the next status. `epoch`: the journal that is valid now."""

    first: int
    last: int
    epoch: str


@dataclass(frozen=True, slots=True)
class EpochChanged:
    """The bridge has another journal. `stored` begins again at `seq` in this `epoch`."""

    before: str | None
    epoch: str
    seq: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A whole status: the answer to a request with this `rid`, or pushed by the bridge (None)."""

    status: Status


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to a request of the application. `message` of a status request is the whole status."""

    request: LinkRequest
    message: ResultMessage | SigState | Status
    took_s: float


@dataclass(frozen=True, slots=True)
class NotAnswered:
    """A request without an answer: its effect is not known. `reason`: `timeout` or `disconnected`."""

    request: LinkRequest
    reason: str


@dataclass(frozen=True, slots=True)
class SignalChanged:
    """The state of a signal. `code` and `message` come from the answer, if there was one."""

    id: str
    state: LinkSignalState
    code: str = ""
    message: Message | None = None


@dataclass(frozen=True, slots=True)
class MarketData:
    """A message of a data session."""

    message: TradeMessage | QuoteMessage | MarketStatus | HistoryBar | InstrumentMessage


@dataclass(frozen=True, slots=True)
class TradesMissing:
    """Trades of an instrument are missing between these two numbers: backfill."""

    instrument: str
    after: int
    before: int


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """A measured round trip, and the offset of the bridge's clock that follows from the last ones."""

    took_s: float
    offset_ms: int


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that a person should know."""

    code: AlarmCode
    detail: str


Command = Dial | Write | Close
Event = (
    Welcomed
    | Ready
    | LinkSuspect
    | LinkLost
    | Waiting
    | LinkStopped
    | Logged
    | LogLost
    | EpochChanged
    | Snapshot
    | Answered
    | NotAnswered
    | SignalChanged
    | MarketData
    | TradesMissing
    | RoundTrip
    | Alarm
)
Output = Command | Event
