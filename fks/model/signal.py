"""Signals: decisions of strategies and requests of persons, before risk."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from fks.model.copies import copied_instance
from fks.model.order import OrderType, Side, TimeInForce
from fks.model.parent import ParentPlan

#: How the instances of API keys, webhooks and portfolios begin: `key:NAME`, `webhook:NAME`, `portfolio:ID`. No
#: strategy's has a colon.
KEY, WEBHOOK, PORTFOLIO = "key:", "webhook:", "portfolio:"
#: How the source of a signal begins that an agent proposed: a person in a logged-in session has to approve it.
AGENT = "agent:"


def is_program(instance: str) -> bool:
    """Return whether an instance, or the one that it copies, is an API key's, a webhook's or a portfolio's."""
    return (copied_instance(instance) or instance).startswith((KEY, WEBHOOK, PORTFOLIO))


class Kind(StrEnum):
    ENTER = "enter"  # open in `side`; size None = the instance's sizing
    EXIT = "exit"  # close what the instance holds
    ORDER = "order"  # a person's exact order: size is the quantity in base


class SignalState(StrEnum):
    """A signal's life. Exactly one of the last five is its outcome, written once."""

    PENDING = "pending"  # waits for a person's approval
    READY = "ready"  # approved (or auto): the order manager may claim it
    ORDERED = "ordered"  # led to an order (its client id is in client_order_id)
    DENIED = "denied"  # denied by risk: code
    EXPIRED = "expired"  # valid_until passed before it could be used
    DECLINED = "declined"  # a person declined it
    NOTHING = "nothing"  # the wanted state held already (exit while flat)


OUTCOMES = frozenset(
    {SignalState.ORDERED, SignalState.DENIED, SignalState.EXPIRED, SignalState.DECLINED, SignalState.NOTHING}
)


@dataclass(frozen=True, slots=True)
class EntryGroup:
    """The legs of a decision that are entered together or not at all: a name that all of them compute, and their
    symbols in the common spelling (`folded`), in an order that is the same for all."""

    name: str
    symbols: tuple[str, ...]


#: `ordinal` of a signal that takes the place of a strategy's entry that rests, at another price
AMENDED = 9


@dataclass(frozen=True, slots=True)
class Signal:
    """A dated request to trade. `source` is `strategy:<instance>`, `principal:<name>` or `agent:<name>`;
    `id` is deterministic (fks.model.ids)."""

    id: uuid.UUID
    source: str
    instance: str  # strategy instance id, the program's own (`is_program`), or "" for a person
    params_version: int
    account_id: int
    venue: str
    exchange: str
    symbol: str
    timeframe: str | None
    ts_event_ns: int  # bar OPEN time for strategies, receive time for persons
    ordinal: int
    kind: Kind
    side: Side
    type: OrderType = OrderType.MARKET
    size: Decimal | None = None
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    stop_loss: Decimal | None = None
    take_profit: Decimal | None = None
    trail: Decimal | None = None  # of a strategy's entry, in quote: the distance at which its stop follows the closes
    time_in_force: TimeInForce = TimeInForce.GTC
    reference_price: Decimal | None = None  # close of the deciding bar: what sizing divides by
    volatility: Decimal | None = None  # of a bar, in quote, for sizings that divide by it
    #: above 0; None = all. Of an entry: the share of its instance's size, at most 1; of an exit: of what its instance
    #: holds, below 1
    size_share: Decimal | None = None
    valid_until_ns: int | None = None
    rests_until_ns: int | None = None  # of a strategy's limit or stop entry: its order's end at the latest
    is_reduce_only: bool = False  # of a person's order: denied unless it can only bring the position nearer to zero
    is_add: bool = False  # of a strategy's entry: it adds to a position that an earlier one opened, and opens none
    plan: ParentPlan | None = None  # of a parent order: its targets, and the move of its stop
    group_id: uuid.UUID | None = None  # of an entry that is made with others or not at all, and of the exit of such one
    group_legs: str = ""  # their symbols, one after the other
    reason: str = ""
    state: SignalState = SignalState.READY
    trace_id: str = ""

    @property
    def is_amended(self) -> bool:
        """Return whether it is of the order that takes the place of a strategy's entry at another price."""
        return self.ordinal == AMENDED and self.kind is Kind.ENTER

    @property
    def is_by_person(self) -> bool:
        """Return whether a person asked for it: not a strategy, nor a program for its own instance."""
        return self.source.startswith("principal:") and not is_program(self.instance)

    @property
    def is_exit(self) -> bool:
        """Return whether it only closes the position of its instance."""
        return self.kind is Kind.EXIT
