"""Exit quantities: at most the holding and what the venue has of it, split at the market lot, with dust recognised.

An exit of at most the holding is never finally denied (docs/trade.md), so these functions return a quantity, not a
denial; 0 means that nothing can be sent now, and `is_dust` says whether anything ever could.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import ROUND_FLOOR, Decimal

from fks.model.account import Balance
from fks.model.instrument import Instrument, Lot
from fks.model.order import LIVE, Order, Role, Side
from fks.portfolio.position import EXTERNAL
from fks.risk.view import is_dormant

_ZERO = Decimal(0)
_LEGS = frozenset({Role.STOP_LOSS, Role.TAKE_PROFIT})


def exit_quantity_allowed(
    instance: str,
    *,
    buckets: Mapping[str, Decimal],
    orders: Iterable[Order],
    instrument: Instrument,
    balance: Balance | None,
    owned_elsewhere: Decimal = _ZERO,
    can_short: bool = False,
    limit: Decimal | None = None,
) -> Decimal:
    """Return how much (base, on the market lot's grid) an exit of `instance` may close now, its own SL and TP taken as
    gone.

    It is the least of `limit` (the rest of a resumed exit), the instance's holding beyond its own other closing orders,
    and on a spot venue the venue's holding: its balance without holdings of other instances and external ones and
    without
    amounts locked by orders unknown to us.

    `buckets`: signed quantity by instance of the position key, the external holding included. `orders`: the open orders
    of the position key. `balance`: the venue's balance of the base currency; None = not read yet, no cap by it.
    `owned_elsewhere`: holdings of the same base currency by positions in other symbols.
    """
    orders = tuple(orders)
    held = buckets.get(instance, _ZERO)
    away = Side.SELL if held > 0 else Side.BUY
    pending = pending_of(
        order for order in orders if order.side is away and not (order.instance == instance and order.role in _LEGS)
    )
    own = pending.pop(instance, _ZERO)
    allowed = abs(held) - own
    if held > 0 and not can_short and balance is not None:
        foreign = max(balance.locked - _locked(orders), _ZERO)
        owned = _owned_by_others(instance, buckets, pending) + owned_elsewhere
        allowed = min(allowed, balance.total - foreign - owned - own)
    if limit is not None:
        allowed = min(allowed, limit)
    step = instrument.lot(is_market=True).step
    return max((allowed / step).to_integral_value(ROUND_FLOOR) * step, _ZERO)


def split_at_lot(quantity: Decimal, instrument: Instrument) -> tuple[Decimal, ...]:
    """Return the quantities of the market orders that together close `quantity`: as few as the market lot allows.

    They are as equal as the grid allows, so that no last one falls below the minimum. Empty when `quantity` is less
    than one step.
    """
    return split_quantity(quantity, instrument.lot(is_market=True))


def split_quantity(quantity: Decimal, lot: Lot) -> tuple[Decimal, ...]:
    """Return `split_at_lot` for a lot."""
    steps = int((quantity / lot.step).to_integral_value(ROUND_FLOOR))
    most = max(int((lot.most / lot.step).to_integral_value(ROUND_FLOOR)), 1)
    if steps <= 0:
        return ()
    count = -(-steps // most)
    each, more = divmod(steps, count)
    return tuple((each + (place < more)) * lot.step for place in range(count))


def is_dust(quantity: Decimal, price: Decimal | None, instrument: Instrument) -> bool:
    """Return whether no market order can close `quantity` (signed): below one step, the least lot, or the least
    notional.

    Without a price the notional is not checked: the quantity is then no dust while its lot is large enough.
    """
    lot = instrument.lot(is_market=True)
    rounded = (abs(quantity) / lot.step).to_integral_value(ROUND_FLOOR) * lot.step
    if rounded <= 0 or rounded < lot.least:
        return True
    if price is None or not instrument.is_notional_min_for_market:
        return False
    return rounded * price * instrument.multiplier < instrument.notional_min


def _owned_by_others(instance: str, buckets: Mapping[str, Decimal], pending: Mapping[str, Decimal]) -> Decimal:
    """Return the quantity that is not the instance's: the others' holdings, and their orders' sells beyond all of
    these.

    A person's order that sells more than persons' own bucket sells external holdings, so these are counted once.
    """
    held = {name: max(quantity, _ZERO) for name, quantity in buckets.items() if name != instance}
    beyond = sum((max(quantity - held.get(name, _ZERO), _ZERO) for name, quantity in pending.items()), _ZERO)
    return sum(held.values(), _ZERO) + max(beyond - held.get(EXTERNAL, _ZERO), _ZERO)


def pending_of(orders: Iterable[Order]) -> dict[str, Decimal]:
    """Return the quantities that open orders may still fill, by instance; an OCO counts once."""
    totals: dict[str, Decimal] = {}
    groups = set[str]()
    for order in orders:
        if is_dormant(order) or (order.group_id is not None and order.group_id in groups):
            continue
        if order.group_id is not None:
            groups.add(order.group_id)
        totals[order.instance] = totals.get(order.instance, _ZERO) + order.remaining
    return totals


def _locked(orders: Iterable[Order]) -> Decimal:
    """Return how much base the venue locks for orders of ours that it is known to have."""
    return sum(pending_of(o for o in orders if o.side is Side.SELL and o.state in LIVE).values(), _ZERO)
