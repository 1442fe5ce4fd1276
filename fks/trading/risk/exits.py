"""The quantity that may close a position, the part of it that a market order can sell, and dust. Pure.

`closable` is the one place that decides how much a close may move: for exits, for checks of orders that must reduce,
for order entry and for the kill switch. An exit of at most the holding is never finally denied (docs/trade.md), so it
returns a quantity, not a denial; 0 means that nothing can be sent now, and `is_dust` says whether anything ever could.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal

from fks.model.account import Balance
from fks.model.instrument import Instrument
from fks.model.order import LIVE, Order, Role, Side
from fks.trading.portfolio.position import EXTERNAL
from fks.trading.risk.intent import Intent
from fks.trading.risk.view import RiskView, pending_of

_ZERO = Decimal(0)
_LEGS = frozenset({Role.STOP_LOSS, Role.TAKE_PROFIT})


@dataclass(frozen=True, slots=True)
class Books:
    """Our own books of one position key: quantities by instance (base, signed, external holdings included), and its
    orders that may still fill."""

    held: Mapping[str, Decimal]
    orders: tuple[Order, ...] = ()

    def pending(self, side: Side, ending: str | None = None) -> dict[str, Decimal]:
        """Return what orders on a side may still fill, by instance; the legs of the instance `ending` are taken as
        gone."""
        return pending_of(o for o in self.orders if o.side is side and not (o.instance == ending and o.role in _LEGS))


def closable(
    books: Books,
    side: Side,
    instance: str | None,
    *,
    ends_legs: bool = False,
    can_short: bool = False,
    at_venue: Decimal | None = None,
) -> Decimal:
    """Return how much (base, not rounded) one more order on `side` may close; 0 = nothing.

    An instance closes its own holding beyond its own orders on that side, and where no short is possible never more
    than the whole key holds beyond all of these orders: less than nothing in the external bucket is a quantity that the
    venue lacks. A person (`instance` None) closes the holdings of all together. `ends_legs`: the instance's own SL and
    TP come down first. `at_venue`: the venue's holding for it, where that counts.
    """
    pending = books.pending(side, instance if ends_legs else None)
    most = -side.sign * sum(books.held.values(), _ZERO) - sum(pending.values(), _ZERO)
    if instance is not None:
        own = -side.sign * books.held.get(instance, _ZERO) - pending.get(instance, _ZERO)
        most = own if can_short else min(own, most)
    return max(most if at_venue is None else min(most, at_venue), _ZERO)


def left_to_close(intent: Intent, view: RiskView) -> Decimal:
    """Return how much an order may close beside every other one that may still fill."""
    is_all = view.own is None or intent.is_by_person
    own = _ZERO if view.own is None else view.own
    here = tuple(order for order in view.open_orders if order.symbol == intent.symbol)
    held = {EXTERNAL: view.held - own, intent.instance: own}
    return closable(Books(held, here), intent.side, None if is_all else intent.instance)


def left_at_venue(books: Books, instance: str, balance: Balance, owned_elsewhere: Decimal = _ZERO) -> Decimal:
    """Return how much the venue has for an exit of `instance`, whose own SL and TP are taken as gone: its balance
    without holdings of other instances and external ones, without amounts locked by orders unknown to us, and without
    what the instance's other orders sell.

    `balance`: of the base currency. `owned_elsewhere`: holdings of the same base by positions in other symbols.
    """
    pending = books.pending(Side.SELL, instance)
    own = pending.pop(instance, _ZERO)
    ours = pending_of(o for o in books.orders if o.side is Side.SELL and o.state in LIVE)
    foreign = max(balance.locked - sum(ours.values(), _ZERO), _ZERO)
    return balance.total - foreign - _owned_by_others(instance, books.held, pending) - owned_elsewhere - own


def split_at_lot(quantity: Decimal, instrument: Instrument) -> tuple[Decimal, ...]:
    """Return the quantities of the market orders that together close `quantity`: as few as the market lot allows.

    They are as equal as the grid allows, so that no last one falls below the minimum. Empty when `quantity` is less
    than one step.
    """
    lot = instrument.lot(is_market=True)
    steps = int((quantity / lot.step).to_integral_value(ROUND_FLOOR))
    if steps <= 0:
        return ()
    most = max(int((min(lot.most, quantity) / lot.step).to_integral_value(ROUND_FLOOR)), 1)
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
