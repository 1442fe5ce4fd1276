"""The rows of orders, order_events, trades and positions as statement parameters: typed values, no JSON on the way.

A single row travels as plain parameters (PostgreSQL's fastest form), several as an array of the table's row type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from operator import attrgetter, itemgetter
from typing import Any, Generic, TypeVar

from fks.model.account import Position
from fks.model.order import Fill, Order, State
from fks.model.timeframe import to_datetime
from fks.store.db import sql


@dataclass(frozen=True, slots=True)
class EventRow:
    """One step of one order, as order_events keeps it. `event` is the class name, `payload` small and JSON-able."""

    client_order_id: str
    event_id: str
    event: str
    from_state: State | None
    to_state: State
    source: str
    recv_ns: int
    epoch: int
    venue_time_ns: int = 0
    payload: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExecutionRow:
    """One execution of our accounts. `instance` is the owner of the moved position, `realized_pnl` (quote) is before
    fees."""

    fill: Fill
    instance: str
    realized_pnl: Decimal
    order_type: str = ""
    is_late: bool = False


Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class RowForm(Generic[Value]):
    """Conversion of a value to a row: `columns` with their PostgreSQL types, and `values`, which returns them in that
    order."""

    table: str
    columns: tuple[tuple[str, str], ...]
    values: Callable[[Value], Sequence[object]]

    @property
    def names(self) -> str:
        """Return the columns as a list for SQL."""
        return ", ".join(name for name, _ in self.columns)

    def parameters(self, first: int) -> str:
        """Return typed parameters for one row, numbered from `first`."""
        return ", ".join(f"${first + number}::{kind}" for number, (_, kind) in enumerate(self.columns))

    def packer(self, in_table: Sequence[str]) -> Callable[[Value], tuple[object, ...]]:
        """Return a function from a value to its row type, whose columns are `in_table`; unknown columns are null."""
        places = {name: number for number, (name, _) in enumerate(self.columns)}
        pick = itemgetter(*(places.get(name, len(places)) for name in in_table))
        return lambda value: pick((*self.values(value), None))


#: column -> attribute of Order, as it is; a StrEnum is a str
_ORDER_PLAIN = (
    ("client_order_id", "text", "client_order_id"),
    ("intent_id", "uuid", "intent_id"),
    ("signal_id", "uuid", "signal_id"),
    ("account_id", "int", "account_id"),
    ("venue", "text", "venue"),
    ("exchange", "text", "exchange"),
    ("symbol", "text", "symbol"),
    ("instance", "text", "instance"),
    ("role", "text", "role"),
    ("attempt", "int", "attempt"),
    ("side", "text", "side"),
    ("type", "text", "type"),
    ("time_in_force", "text", "time_in_force"),
    ("quantity", "numeric", "quantity"),
    ("price", "numeric", "price"),
    ("stop_price", "numeric", "stop_price"),
    ("stop_loss", "numeric", "stop_loss"),
    ("take_profit", "numeric", "take_profit"),
    ("state", "text", "state"),
    ("request", "text", "request"),
    ("filled", "numeric", "filled"),
    ("average_price", "numeric", "average_price"),
    ("reported_cum_qty", "numeric", "reported_cum_qty"),
    ("venue_order_id", "text", "venue_order_id"),
    ("parent_id", "text", "parent_id"),
    ("group_id", "text", "group_id"),
    ("code", "text", "code"),
    ("detail", "text", "detail"),
    ("refusal", "text", "refusal"),
    ("is_reduce_only", "boolean", "is_reduce_only"),
    ("is_stale", "boolean", "is_stale"),
    ("is_late", "boolean", "is_late"),
    ("is_overfilled", "boolean", "is_overfilled"),
    ("is_acknowledged", "boolean", "is_acknowledged"),
    ("epoch", "bigint", "epoch"),
    ("trace_id", "text", "trace_id"),
)
_ORDER_TIMES = (
    ("venue_time", "venue_time_ns"),
    ("valid_until", "valid_until_ns"),
    ("created_at", "created_ns"),
    ("sent_at", "sent_ns"),
    ("updated_at", "updated_ns"),
)
_plain_of = attrgetter(*(attribute for _, _, attribute in _ORDER_PLAIN))
_times_of = attrgetter(*(attribute for _, attribute in _ORDER_TIMES))


def _order_values(order: Order) -> tuple[object, ...]:
    made: dict[int | None, datetime | None] = {None: None, 0: None}  # most of an order's times are the same instant
    times = []
    for time_ns in _times_of(order):
        if time_ns not in made:
            made[time_ns] = to_datetime(time_ns)
        times.append(made[time_ns])
    return (*_plain_of(order), *times)


def _event_values(event: EventRow) -> tuple[object, ...]:
    return (
        event.client_order_id,
        event.event_id,
        event.event,
        event.from_state,
        event.to_state,
        event.source,
        to_datetime(event.venue_time_ns) if event.venue_time_ns else None,
        to_datetime(event.recv_ns),
        event.epoch,
        dict(event.payload),
    )


def _trade_values(trade: ExecutionRow) -> tuple[object, ...]:
    fill = trade.fill
    return (
        fill.fill_id,
        fill.client_order_id,
        fill.venue_order_id,
        fill.venue_trade_id,
        fill.account_id,
        fill.venue,
        fill.symbol,
        trade.instance,
        fill.side.value.upper(),
        fill.quantity,
        fill.price,
        fill.fee,
        fill.fee_currency,
        trade.realized_pnl,
        trade.order_type,
        fill.is_maker,
        trade.is_late,
        fill.source,
        to_datetime(fill.time_ns),
    )


def _position_values(position: Position) -> tuple[object, ...]:
    return (
        position.account_id,
        position.venue,
        position.symbol,
        position.instance,
        position.quantity,
        position.average_price,
        position.realized_pnl,
        position.fees,
        to_datetime(position.updated_ns),
        position.entries,
    )


ORDER: RowForm[Order] = RowForm(
    "orders",
    (*((column, kind) for column, kind, _ in _ORDER_PLAIN), *((column, "timestamptz") for column, _ in _ORDER_TIMES)),
    _order_values,
)
EVENT: RowForm[EventRow] = RowForm(
    "order_events",
    (
        ("client_order_id", "text"),
        ("event_id", "text"),
        ("event", "text"),
        ("from_state", "text"),
        ("to_state", "text"),
        ("source", "text"),
        ("venue_time", "timestamptz"),
        ("recv_time", "timestamptz"),
        ("epoch", "bigint"),
        ("payload", "jsonb"),
    ),
    _event_values,
)
TRADE: RowForm[ExecutionRow] = RowForm(
    "trades",
    (
        ("fill_id", "uuid"),
        ("client_order_id", "text"),
        ("venue_order_id", "text"),
        ("venue_trade_id", "text"),
        ("account_id", "int"),
        ("venue", "text"),
        ("symbol", "text"),
        ("instance", "text"),
        ("trade_type", "text"),
        ("quantity", "numeric"),
        ("price", "numeric"),
        ("fee", "numeric"),
        ("fee_currency", "text"),
        ("realized_pnl", "numeric"),
        ("order_type", "text"),
        ("is_maker", "boolean"),
        ("is_late", "boolean"),
        ("source", "text"),
        ("time", "timestamptz"),
    ),
    _trade_values,
)
POSITION: RowForm[Position] = RowForm(
    "positions",
    (
        ("account_id", "int"),
        ("venue", "text"),
        ("symbol", "text"),
        ("instance", "text"),
        ("quantity", "numeric"),
        ("average_price", "numeric"),
        ("realized_pnl", "numeric"),
        ("fees", "numeric"),
        ("updated_at", "timestamptz"),
        ("entries", "int"),
    ),
    _position_values,
)


def statement(query: str, *, first: int = 1, further: str = "") -> str:
    """Return the named query with the columns of the forms in the place of its words in braces.

    `first`: the number of its first parameter that belongs to an order; those of its event follow. `further`: a further
    part of the statement.
    """
    text = sql(query).replace("{further}", further)
    for form, name in ((ORDER, "order"), (EVENT, "event"), (TRADE, "fill"), (POSITION, "position")):
        text = text.replace(f"{{{name}_columns}}", form.names)
    text = text.replace("{order_values}", ORDER.parameters(first))
    return text.replace("{event_values}", EVENT.parameters(first + len(ORDER.columns)))


Packers = tuple[Callable[[Any], tuple[object, ...]], ...]
