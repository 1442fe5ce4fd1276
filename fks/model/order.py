"""Orders as values: sides, types, states, the order itself, its fills, and what a venue can say about one."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum


class Side(StrEnum):
    BUY = "buy"
    SELL = "sell"

    @property
    def opposite(self) -> Side:
        return Side.SELL if self is Side.BUY else Side.BUY

    @property
    def sign(self) -> int:
        """Return +1 for buy, -1 for sell: what a fill adds to a position."""
        return 1 if self is Side.BUY else -1


class OrderType(StrEnum):
    MARKET = "market"
    LIMIT = "limit"
    STOP = "stop"
    STOP_LIMIT = "stop_limit"
    TAKE_PROFIT = "take_profit"  # a resting limit on the profit side: a TP leg


class TimeInForce(StrEnum):
    GTC = "gtc"
    IOC = "ioc"
    FOK = "fok"


class Role(StrEnum):
    """What an order is for; part of its client order id."""

    ENTRY = "entry"
    EXIT = "exit"
    STOP_LOSS = "sl"
    TAKE_PROFIT = "tp"
    ORDER = "order"  # a person's order through a door
    KILL = "kill"


class State(StrEnum):
    """The thirteen states of peers.md §4.1 and no others."""

    DENIED = "DENIED"
    INTENDED = "INTENDED"
    ABANDONED = "ABANDONED"
    SENDING = "SENDING"
    UNKNOWN = "UNKNOWN"
    ACCEPTED = "ACCEPTED"
    WORKING = "WORKING"
    PARTIAL = "PARTIAL"
    FILLED = "FILLED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    REJECTED = "REJECTED"
    ABSENT = "ABSENT"


#: No more sends or polls; fills, busts and positive reports are still accepted (except in the first two).
TERMINAL = frozenset(
    {State.DENIED, State.ABANDONED, State.FILLED, State.CANCELLED, State.EXPIRED, State.REJECTED, State.ABSENT}
)
#: The venue has it and it may still fill.
LIVE = frozenset({State.ACCEPTED, State.WORKING, State.PARTIAL})
#: Counts as exposure and is reconciled after a restart.
OPEN = LIVE | {State.INTENDED, State.SENDING, State.UNKNOWN}


class Request(StrEnum):
    """The one open request of an order, orthogonal to its state (peers.md §4)."""

    NONE = "none"
    CANCEL = "cancel"
    CANCEL_UNKNOWN = "cancel_unknown"
    CANCEL_WANTED = "cancel_wanted"
    REPLACE = "replace"
    REPLACE_UNKNOWN = "replace_unknown"


@dataclass(frozen=True, slots=True)
class Order:
    """An intent that risk answered, on disk under its `client_order_id`.

    Units: quantities in base, prices in quote per base, fees in `fee_currency` of each fill.
    `quantity` is what was asked, `filled` the sum of fills (gross of fees), `announced` the highest cumulative quantity
    the venue ever reported: while it is above `filled`, executions are missing here and are fetched.
    """

    client_order_id: str
    intent_id: uuid.UUID
    signal_id: uuid.UUID | None
    account_id: int
    venue: str
    exchange: str
    symbol: str
    instance: str
    role: Role
    generation: int
    side: Side
    type: OrderType
    time_in_force: TimeInForce
    quantity: Decimal
    price: Decimal | None = None
    stop_price: Decimal | None = None
    stop_loss: Decimal | None = None
    take_profit: Decimal | None = None
    state: State = State.INTENDED
    request: Request = Request.NONE
    filled: Decimal = Decimal(0)
    average_price: Decimal | None = None
    announced: Decimal = Decimal(0)
    venue_time_ns: int = 0  # the venue's time of the newest thing it said of this order
    venue_order_id: str | None = None
    parent_id: str | None = None
    group_id: str | None = None  # the legs of one OCO share it
    code: str | None = None  # our denial code, or the venue's refusal code
    detail: str | None = None
    is_reduce_only: bool = False
    is_stale: bool = False
    is_late: bool = False
    is_overfilled: bool = False
    is_acknowledged: bool = False
    epoch: int = 0
    trace_id: str = ""
    valid_until_ns: int | None = None
    created_ns: int = 0
    sent_ns: int | None = None
    updated_ns: int = 0

    @property
    def is_open(self) -> bool:
        return self.state in OPEN

    @property
    def remaining(self) -> Decimal:
        """Return what the venue could still fill; never negative."""
        return max(self.quantity - self.filled, Decimal(0)) if self.is_open else Decimal(0)


@dataclass(frozen=True, slots=True)
class Fill:
    """One execution a venue reports: a fact, booked once under `fill_id`, never refused."""

    fill_id: uuid.UUID
    client_order_id: str | None  # None: not one of ours (external)
    venue_order_id: str | None
    venue_trade_id: str
    account_id: int
    venue: str
    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal
    fee: Decimal
    fee_currency: str
    time_ns: int
    is_maker: bool = False
    source: str = "stream"  # stream | rest | reconcile | paper


class Outcome(StrEnum):
    """What became of one send or cancel, decided by peers.md §6.1 alone."""

    ACK = "ack"  # the venue has it: id and our client id came back
    REFUSED = "refused"  # a definitive no of the venue, or bytes provably never left
    AMBIGUOUS = "ambiguous"  # everything else: UNKNOWN, never sent again
    EXISTS = "exists"  # "duplicate client id": evidence that it exists; query


@dataclass(frozen=True, slots=True)
class Report:
    """A snapshot of what the venue says of one order now (REST answer, stream, query)."""

    client_order_id: str
    venue_order_id: str | None
    symbol: str
    state: State  # one of ACCEPTED WORKING PARTIAL FILLED CANCELLED EXPIRED REJECTED
    filled: Decimal
    time_ns: int
    side: Side | None = None
    quantity: Decimal | None = None
    price: Decimal | None = None
    source: str = "rest"
    code: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a send or a cancel. A send's fills ride along when the venue gave them."""

    outcome: Outcome
    report: Report | None = None
    fills: tuple[Fill, ...] = ()
    code: str | None = None
    detail: str = ""
    retry_after_s: float | None = None


class Presence(StrEnum):
    FOUND = "found"
    NOT_FOUND = "not_found"  # counts as one poll of C5
    NO_ANSWER = "no_answer"  # counts as nothing


@dataclass(frozen=True, slots=True)
class Lookup:
    """The answer to a query by client order id."""

    presence: Presence
    report: Report | None = None
    detail: str = ""
