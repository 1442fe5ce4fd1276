"""Ownership of the coins that an order would spend, and the number of entries of a position. Pure.

Coins that an instance bought are reserved for it, both as base and as another pair's quote. External coins of the
currency that a buy pays with are cash; external coins of the currency that a sell delivers may be sold by persons only.
Persons may also spend coins that persons bought, and sell what any instance holds in the symbol: the sale is allocated
to the instances that hold it (`fks.trading.portfolio.position.allocate`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

from fks.model.account import Position
from fks.model.instrument import Instrument
from fks.model.order import Order, Role, Side
from fks.trading.portfolio.position import EXTERNAL
from fks.trading.risk.exits import is_dust
from fks.trading.risk.intent import Intent
from fks.trading.risk.view import pending_of

_ZERO = Decimal(0)


def coins_of_others(
    intent: Intent, positions: Iterable[Position], orders: Sequence[Order], instruments: Mapping[str, Instrument]
) -> Decimal:
    """Return how much of the currency that `intent` spends belongs to others, beyond what their open orders reserve.

    `positions` and `orders` are the account's, `instruments` those of the venue by symbol.
    """
    instrument = instruments.get(intent.symbol)
    if instrument is None:
        return _ZERO
    is_buy = intent.side is Side.BUY
    spent = instrument.quote if is_buy else instrument.base
    total = _ZERO
    for position in positions:
        known = instruments.get(position.symbol)
        if position.quantity <= 0 or known is None or known.base != spent:
            continue
        owner = position.instance
        is_own = not is_buy and position.symbol == intent.symbol and owner == intent.instance
        is_own |= not is_buy and position.symbol == intent.symbol and intent.is_by_person and not intent.instance
        is_free = intent.is_by_person if owner in ("", EXTERNAL) else False
        if is_own or is_free or (is_buy and owner == EXTERNAL):
            continue
        sells = pending_of(o for o in orders if o.symbol == position.symbol and o.side is Side.SELL)
        total += max(position.quantity - sells.get(owner, _ZERO), _ZERO)
    return total


def entries_of(
    intent: Intent, position: Position, orders: Iterable[Order], instrument: Instrument, price: Decimal | None
) -> int:
    """Return how many entries the instance has in the intent's direction: filled ones of its position, and open
    ones. The intent's own order, reserved when it is checked again before its bytes, is none of them."""
    opening = [
        order
        for order in orders
        if order.symbol == intent.symbol
        and order.instance == intent.instance
        and order.side is intent.side
        and order.role is Role.ENTRY
        and order.is_open
        and order.intent_id != intent.intent_id
    ]
    unfilled = sum(order.filled == 0 for order in opening)
    is_held = position.quantity * intent.side.sign > 0 and not is_dust(position.quantity, price, instrument)
    return max(len(opening) - unfilled, max(position.entries, 1) if is_held else 0) + unfilled
