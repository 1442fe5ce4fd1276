"""The platforms that FKS reaches by a bridge of its own, requests to a bridge, its events and the state of the link to
it, as rows of the database hold them.

`orders` and persons ask, the actor `ninja:<group>` or `mt5:<group>` sends and answers. None of them imports another:
they share these values and the rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal

#: States of a connection whose bridge has proven the secret (`fks.bridge.ninja.machine.LIVE`).
CONNECTED: Final = frozenset({"REPLAY", "READY", "SUSPECT"})
#: Whether entries need a MAC on each line of the session. `auto`: once the bridge was seen to do it; `off`: never done.
LineMacRule = Literal["auto", "required", "off"]
FRESH_S: Final = 5.0  # a link's row is written at least each second; an older one is of a dead link


@dataclass(frozen=True, slots=True)
class BridgePlatform:
    """A trading platform at the other end of the wire protocol. `name`: of its venue, its exchange, the role of its
    links and its section of the settings; `title`: for persons; `wire`: in `hello`; `peer`: the program of ours beside
    the platform; `key_file`: the secret's default file in FKS_HOME.

    `has_lots`: quantities are lots on the step of an instrument that the peer lists; otherwise whole contracts of a
    futures calendar (`fks.model.futures`). `account_setting`: names the account that is traded; `foreign_prefix`: of
    our names for orders that are not of FKS. `key_file_remedy`, `update_remedy`, `resume_remedy`: the actions after a
    secret that cannot be used, with a peer that is too old, and while its kill latch is on.
    """

    name: str
    title: str
    wire: str
    peer: str
    key_file: str
    has_lots: bool
    key_file_remedy: str
    update_remedy: str
    resume_remedy: str
    account_setting: str
    foreign_prefix: str

    def link(self, group: str) -> str:
        """Return the name of the actor that keeps the link of a group, and of its lease."""
        return f"{self.name}:{group}"

    def key(self, group: str) -> str:
        """Return the name of a group in tables, topics and labels: groups of two platforms may have one name."""
        return self.link(group) if self.has_lots else group


NINJA: Final = BridgePlatform(
    name="ninja",
    title="NinjaTrader",
    wire="ninjatrader",
    peer="bridge",
    key_file="ninja.key",
    has_lots=False,
    key_file_remedy="copy secret.key of the NinjaTrader machine there, or name the file in ninja.secret_file",
    update_remedy="update the AddOn",
    resume_remedy="press FKS Resume on its status indicator",
    account_setting="account",
    foreign_prefix="nt8",
)
MT5: Final = BridgePlatform(
    name="mt5",
    title="MetaTrader 5",
    wire="mt5",
    peer="agent",
    key_file="mt5.key",
    has_lots=True,
    key_file_remedy="copy the agent's secret file there, or name the file in mt5.secret_file",
    update_remedy="update the agent",
    resume_remedy="lift the latch at the agent, on its machine",
    account_setting="account_number",
    foreign_prefix="mt5",
)
PLATFORMS: Final[Mapping[str, BridgePlatform]] = {of.name: of for of in (NINJA, MT5)}


def platform_of(venue: str) -> BridgePlatform | None:
    """Return the platform of a venue, `ninja:NAME` included; None for a venue without a bridge."""
    return PLATFORMS.get(venue.partition(":")[0])


def platform_of_key(key: str) -> BridgePlatform:
    """Return the platform of a group, by its name in tables."""
    return MT5 if key.startswith(f"{MT5.name}:") else NINJA


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
    """A request to the bridge of `group` (`BridgePlatform.key`).

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


#: Feature of a bridge that puts a MAC on each line of a session with a client that does.
LINE_MAC: Final = "line_mac"
#: Feature of a bridge whose exits may name the entries that they close, and member of its accounts in a report.
EXIT_ENTRIES = "exit_entries"
#: Member of an account in a report while its platform executes nothing: the platform's code.
TRADING_CODE = "trading_code"


@dataclass(frozen=True, slots=True)
class LinkReport:
    """The state of a link, as its actor writes it. `accounts`: name, sim, mode, connected, exit_entries.

    `snapshot`: the bridge's last status, None: as before. `is_ready`: the platform is ready and the log is replayed.
    `has_line_mac`: the lines of a session with this bridge carry a MAC, or once did."""

    state: str
    is_ready: bool
    is_halted: bool
    accounts: tuple[Mapping[str, Any], ...]
    offset_ms: int
    alarm: str = ""
    snapshot: Mapping[str, Any] | None = None
    snapshot_ns: int | None = None
    has_line_mac: bool = False


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
