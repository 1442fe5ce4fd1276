"""Intents: a signal, sized and rounded. The only rounding of prices and quantities there is, in every mode (G6)."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from decimal import Decimal

from fks.model.codes import Code
from fks.model.errors import unprocessable
from fks.model.ids import client_order_id, intent_id
from fks.model.instrument import Instrument, distance_of
from fks.model.order import Order, OrderType, Role, Side, TimeInForce
from fks.model.parent import ParentPlan, plan_on_grid
from fks.model.signal import Kind, Signal
from fks.trading.risk.sizing import entry_quantity, exit_quantity

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Intent:
    """A sized request to trade; nothing is promised. Units as in Order; `reference_price` is the divisor of the
    sizing."""

    intent_id: uuid.UUID
    signal_id: uuid.UUID | None
    account_id: int
    venue: str
    exchange: str
    symbol: str
    instance: str
    role: Role
    side: Side
    type: OrderType
    time_in_force: TimeInForce
    quantity: Decimal
    price: Decimal | None = None
    stop_price: Decimal | None = None
    stop_loss: Decimal | None = None
    take_profit: Decimal | None = None
    trail: Decimal | None = None  # in quote: the distance at which the stop loss follows the closes
    reference_price: Decimal | None = None
    valid_until_ns: int | None = None
    decided_ns: int = 0  # of the decision, on the exchange's clock
    max_age_s: float | None = None  # for how long the decision may be traded; None = no limit
    attempt: int = 0
    is_by_person: bool = False
    must_reduce: bool = False  # denied unless it can only bring the holding nearer to zero
    is_successor: bool = False  # of an entry: over what one at another price has not filled, and no further one
    is_add: bool = False  # of an entry: denied while the position that it adds to is not open
    plan: ParentPlan | None = None  # of a parent order
    trace_id: str = ""

    @property
    def take_profits(self) -> dict[str, Decimal]:
        """Return the prices at which it takes profit, by name: the take profit, or the targets of its plan."""
        targets = () if self.plan is None else self.plan.targets
        found = {} if self.take_profit is None else {"take_profit": self.take_profit}
        return found | {f"target {number}": target.price for number, target in enumerate(targets, 1)}

    @property
    def client_order_id(self) -> str:
        """Return the one id this intent's order has, now and after any restart."""
        return client_order_id(self.intent_id, self.role, self.attempt)


_ROLES = {Kind.ENTER: Role.ENTRY, Kind.EXIT: Role.EXIT, Kind.ORDER: Role.ORDER}


def intend_entry(
    signal: Signal,
    *,
    sizing: str,
    size: Decimal,
    instrument: Instrument,
    price: Decimal | None,
    equity: Decimal | None = None,
) -> Intent:
    """Return the intent of an ENTER signal. `price` sizes it when the signal carries no reference price; `equity`: what
    the account is worth, in quote, for sizings in percent of it.

    Errors: InputError PRICE_MISSING, SIZING_UNKNOWN or NO_PROTECTION, from sizing.
    """
    reference = signal.reference_price or signal.limit_price or price or _ZERO
    if signal.trail is not None and signal.stop_loss is None:
        sized_at = _order_price(signal, instrument) or reference
        signal = replace(signal, stop_loss=_first_stop(signal, sized_at, instrument))
    if signal.size is not None:
        quantity = instrument.round_quantity(signal.size)
    else:
        stop = signal.stop_loss
        if stop is not None:
            stop = instrument.round_price(stop, side=signal.side.opposite.value, is_stop=True)
        sized_at = _order_price(signal, instrument) or reference
        quantity = entry_quantity(
            sizing,
            size,
            sized_at,
            instrument,
            equity=equity,
            stop_loss=stop,
            volatility=signal.volatility,
            share=signal.size_share,
        )
    return _intent(signal, quantity, instrument, reference or None)


def _first_stop(signal: Signal, sized_at: Decimal, instrument: Instrument) -> Decimal:
    """Return where a trailing stop begins whose entry has no stop loss: that far from the price that sizes it."""
    assert signal.trail is not None, "it trails"
    stop = sized_at - signal.side.sign * distance_of(signal.trail, instrument.tick)
    if stop <= 0:
        raise unprocessable(
            Code.NO_PROTECTION,
            f"the stop would trail {signal.trail} from {sized_at}",
            "give a distance below the price",
        )
    return stop


def _order_price(signal: Signal, instrument: Instrument) -> Decimal | None:
    """Return what an entry by a limit or stop order is sized at: its limit, else its stop, on the tick grid."""
    side = signal.side.value
    if signal.type is OrderType.MARKET:
        return None
    if signal.limit_price is not None:
        return instrument.round_price(signal.limit_price, side=side)
    return None if signal.stop_price is None else instrument.round_price(signal.stop_price, side=side, is_stop=True)


def intend_exit(signal: Signal, *, position: Decimal, instrument: Instrument, attempt: int = 0) -> Intent | None:
    """Return the intent that closes `position` (signed) at the market; None when less than one step is held."""
    quantity = exit_quantity(position, instrument)
    if quantity == 0:
        return None
    return Intent(
        intent_id=intent_id(signal.id),
        signal_id=signal.id,
        account_id=signal.account_id,
        venue=signal.venue,
        exchange=signal.exchange,
        symbol=signal.symbol,
        instance=signal.instance,
        role=Role.EXIT,
        side=Side.SELL if position > 0 else Side.BUY,
        type=OrderType.MARKET,
        time_in_force=TimeInForce.GTC,
        quantity=quantity,
        reference_price=signal.reference_price,
        attempt=attempt,
        is_by_person=signal.is_by_person,
        trace_id=signal.trace_id,
    )


def intend_order(signal: Signal) -> Intent:
    """Return a person's exact order, nothing rounded: values off the grid are denied and named, not changed."""
    return _intent(signal, signal.size or _ZERO, None, signal.reference_price)


def intent_of(order: Order) -> Intent:
    """Return the intent of the quantity that an open order may still fill: checks see a resting entry as this."""
    return Intent(
        intent_id=order.intent_id,
        signal_id=order.signal_id,
        account_id=order.account_id,
        venue=order.venue,
        exchange=order.exchange,
        symbol=order.symbol,
        instance=order.instance,
        role=order.role,
        side=order.side,
        type=order.type,
        time_in_force=order.time_in_force,
        quantity=order.remaining,
        price=order.price,
        stop_price=order.stop_price,
        stop_loss=order.stop_loss,
        take_profit=order.take_profit,
        attempt=order.attempt,
        is_by_person=order.role is Role.ORDER,
    )


def _intent(signal: Signal, quantity: Decimal, instrument: Instrument | None, reference: Decimal | None) -> Intent:
    def price(value: Decimal | None, on: Side, *, is_stop: bool = False) -> Decimal | None:
        if value is None or instrument is None:
            return value
        return instrument.round_price(value, side=on.value, is_stop=is_stop)

    side, plan, is_market = signal.side, signal.plan, signal.type is OrderType.MARKET
    return Intent(
        intent_id=intent_id(signal.id),
        signal_id=signal.id,
        account_id=signal.account_id,
        venue=signal.venue,
        exchange=signal.exchange,
        symbol=signal.symbol,
        instance=signal.instance,
        role=_ROLES[signal.kind],
        side=side,
        type=signal.type,
        time_in_force=signal.time_in_force,
        quantity=quantity,
        price=None if is_market else price(signal.limit_price, side),
        stop_price=None if is_market else price(signal.stop_price, side, is_stop=True),
        stop_loss=price(signal.stop_loss, side.opposite, is_stop=True),
        take_profit=price(signal.take_profit, side.opposite),
        trail=signal.trail,
        reference_price=reference,
        # a strategy's decision may be traded until then; its order, once at the venue, rests until the strategy ends it
        # or its bars are over
        valid_until_ns=signal.rests_until_ns
        if signal.source.startswith("strategy:") and not is_market
        else signal.valid_until_ns,
        is_by_person=signal.is_by_person,
        must_reduce=signal.is_reduce_only,
        is_add=signal.is_add,
        is_successor=signal.is_amended,
        plan=plan if plan is None or instrument is None else plan_on_grid(plan, side.opposite.value, instrument),
        trace_id=signal.trace_id,
    )
