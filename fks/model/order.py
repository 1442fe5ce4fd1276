"""Orders: sides, types, states, the order itself, its fills, and a venue's answers and reports about it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, fields
from decimal import Decimal
from enum import StrEnum
from operator import attrgetter
from typing import Final


class Side(StrEnum):
    BUY = "buy"
    SELL = "sell"

    @property
    def opposite(self) -> Side:
        return Side.SELL if self is Side.BUY else Side.BUY

    @property
    def sign(self) -> int:
        """Return +1 for buy, -1 for sell: the sign of a fill in the position."""
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
    """Purpose of an order; part of its client order id."""

    ENTRY = "entry"
    EXIT = "exit"
    STOP_LOSS = "sl"
    TAKE_PROFIT = "tp"
    ORDER = "order"  # a person's order request
    KILL = "kill"
    LIQUIDATION = "liquidation"  # closed by force: the account no longer covers its margin


class State(StrEnum):
    """The thirteen order states; docs/orders.md has the transitions."""

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
#: Code of a leg that waits, at the venue too, for the complete fill of its entry: it went out with it as one request.
PENDING = "PENDING"
#: code of a leg at the venue whose price and quantity are in the shares of before a split
OLD_SHARES = "OLD_SHARES"
#: Counts as exposure and is reconciled after a restart.
OPEN = LIVE | {State.INTENDED, State.SENDING, State.UNKNOWN}
#: Row number in the journal of an event that no transition of `fks.trading.orders.machine` takes. It is here for the
#: auditor, which reads the journal and imports no code of orders.
QUARANTINE_ROW: Final = 42


class Request(StrEnum):
    """The one open request of an order, orthogonal to its state."""

    NONE = "none"
    CANCEL = "cancel"
    CANCEL_UNKNOWN = "cancel_unknown"
    CANCEL_WANTED = "cancel_wanted"
    REPLACE = "replace"
    REPLACE_UNKNOWN = "replace_unknown"


class Refusal(StrEnum):
    """Reasons for which a venue (or our own last check before the bytes) refused, without venue-specific terms. Stored;
    append-only.

    The venue's own code and text stay beside it, for people; no decision depends on them.
    """

    RATE_LIMITED = "rate_limited"  # 429, too many orders: the same request passes later
    BANNED = "banned"  # 418: the address is locked out until `retry_after_s`
    UNAVAILABLE = "unavailable"  # never left, or the venue takes no orders now
    CLOCK_SKEW = "clock_skew"  # the timestamp lay outside the venue's window
    NOT_SENT = "not_sent"  # refused by our last check before the bytes: nothing left
    INSUFFICIENT_BALANCE = "insufficient_balance"
    QUANTITY = "quantity"  # lot, market lot or notional filter
    PRICE = "price"  # tick or percent-price filter
    HALTED = "halted"  # the instrument does not trade now
    WOULD_TRIGGER = "would_trigger"  # the stop's price is passed already
    WOULD_MATCH = "would_match"  # a maker-only order would take
    TOO_MANY_ORDERS = "too_many_orders"  # the venue's limit of open (algo) orders
    UNKNOWN_ORDER = "unknown_order"  # of a cancel: no proof of absence
    PERMISSION = "permission"  # key, account or order type is not permitted
    OTHER = "other"

    @property
    def is_passing(self) -> bool:
        """Return whether the same request may be accepted later without a change."""
        return self in _PASSING


_PASSING = frozenset(
    {Refusal.RATE_LIMITED, Refusal.BANNED, Refusal.UNAVAILABLE, Refusal.CLOCK_SKEW, Refusal.NOT_SENT, Refusal.HALTED}
)


@dataclass(frozen=True, slots=True)
class Order:
    """An intent that risk answered, on disk under its `client_order_id`.

    Units: quantities in base, prices in quote per base, fees in `fee_currency` of each fill.
    `quantity` is the requested one, `filled` the sum of fills (gross of fees), `reported_cum_qty` the highest
    cumulative
    quantity the venue ever reported: while it is above `filled`, executions are missing here and are fetched.
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
    attempt: int
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
    reported_cum_qty: Decimal = Decimal(0)
    venue_time_ns: int = 0  # the venue's time of its newest report of this order
    venue_order_id: str | None = None
    parent_id: str | None = None
    group_id: str | None = None  # the orders of one list at the venue share it
    # our denial code, or the venue's refusal code; PENDING of a leg that waits there, OLD_SHARES
    code: str | None = None
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
    sent_ns: int | None = None  # when the first byte left; None = not known yet, or nothing left
    updated_ns: int = 0
    refusal: Refusal | None = None  # why it was REJECTED, or let expire

    @property
    def is_open(self) -> bool:
        return self.state in OPEN

    @property
    def is_close(self) -> bool:
        """Return whether the venue made it for a fill of its parent, without a client id of ours: those have attempts
        below 0, so that ours count on without them."""
        return self.attempt < 0

    @property
    def is_pending(self) -> bool:
        """Return whether it is a leg that was sent with its entry and waits for that one's complete fill."""
        return self.code == PENDING and self.is_open

    @property
    def is_in_old_shares(self) -> bool:
        """Return whether it is a leg that rests at a price of before a split."""
        return self.code == OLD_SHARES and self.is_open

    @property
    def remaining(self) -> Decimal:
        """Return what the venue could still fill; never negative."""
        return max(self.quantity - self.filled, Decimal(0)) if self.is_open else Decimal(0)


_NAMES = tuple(field.name for field in fields(Order))
_PLACES = {name: place for place, name in enumerate(_NAMES)}
_read = attrgetter(*_NAMES)
_WRITES = tuple(getattr(Order, name).__set__ for name in _NAMES)


def evolve(order: Order, **changes: object) -> Order:
    """Return a copy of `order` with `changes`: `dataclasses.replace`, in a third of its time.

    Each event of an order makes one. Errors: TypeError when a name is no field.
    """
    values = list(_read(order))
    for name, value in changes.items():
        if name not in _PLACES:
            raise TypeError(f"no field of an order: {name}")
        values[_PLACES[name]] = value
    copy = object.__new__(Order)
    for write, value in zip(_WRITES, values, strict=True):
        write(copy, value)
    return copy


@dataclass(frozen=True, slots=True)
class Fill:
    """One execution that a venue reported: a fact, booked once under `fill_id`, never refused."""

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
    source: str = "stream"  # stream | rest | reconcile | paper | liquidation: the venue closed by force


@dataclass(frozen=True, slots=True)
class ExecutedOrder:
    """An entry or exit that a venue of bars is given again after a restart: the bar that executed it, and the order as
    that bar met it (`type`: market for one that fills at once or expires)."""

    client_order_id: str
    symbol: str
    instance: str
    role: Role
    time_ns: int
    side: Side
    type: OrderType = OrderType.MARKET
    price: Decimal | None = None
    stop_price: Decimal | None = None
    filled_at: Decimal | None = None  # what it paid or brought in
    is_unprotected: bool = False  # an entry whose legs were ended, and are to be placed again


class Outcome(StrEnum):
    """Outcome of one send or cancel."""

    ACK = "ack"  # the venue has it: id and our client id came back
    REFUSED = "refused"  # a definitive refusal of the venue, or bytes provably never left
    AMBIGUOUS = "ambiguous"  # any other result: UNKNOWN, never sent again
    EXISTS = "exists"  # "duplicate client id": evidence that it exists; query


@dataclass(frozen=True, slots=True)
class BracketLeg:
    """A leg that the venue placed by itself for an order of ours: `parent_id` is our id of that order.

    `number` counts the legs of one role, from 1; 0: the venue does not count them. The quantity and the limit price are
    those of the report.
    """

    parent_id: str
    role: Role  # STOP_LOSS or TAKE_PROFIT
    number: int
    stop_price: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """The venue's snapshot of one order (REST answer, stream, query)."""

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
    refusal: Refusal | None = None  # of a REJECTED report, and of an EXPIRED one whose reason is one
    leg: BracketLeg | None = None  # of an order that a venue placed which keeps brackets itself
    stop_price: Decimal | None = None  # in the answer to a request; None where the venue does not name it


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a send or a cancel. A send's fills are included when the venue returned them.

    `refusal` is set exactly when `outcome` is REFUSED; `code` and `detail` are the venue's own text. `sent_ns` is the
    time of the first byte where the venue knows it: a send may have waited for the rate limit or a connection.
    """

    outcome: Outcome
    report: Report | None = None
    fills: tuple[Fill, ...] = ()
    code: str | None = None
    detail: str = ""
    retry_after_s: float | None = None
    refusal: Refusal | None = None
    sent_ns: int | None = None


class Presence(StrEnum):
    FOUND = "found"
    NOT_FOUND = "not_found"  # counts as one of the polls that prove an order absent
    NO_ANSWER = "no_answer"  # counts as no poll


@dataclass(frozen=True, slots=True)
class Lookup:
    """The answer to a query by client order id."""

    presence: Presence
    report: Report | None = None
    detail: str = ""
