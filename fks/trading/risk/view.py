"""The view: one immutable snapshot of everything a check may use, taken at one moment by the order manager."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from fks.config.risk import Risk
from fks.model.account import Account, Balance, PortfolioLimit
from fks.model.codes import Denial
from fks.model.instrument import Instrument
from fks.model.kill import KillMode
from fks.model.margin import Margin
from fks.model.order import Order, OrderType, Side, State, TimeInForce
from fks.model.ports import VenueCapabilities
from fks.trading.matching import CostModel
from fks.trading.risk.policy import Reach

_ZERO = Decimal(0)
#: an entry that would wait longer for the venue's rate limit is denied
WAIT_MAX_S = 0.25
EVERYTHING = VenueCapabilities(types=frozenset(OrderType), times_in_force=frozenset(TimeInForce), has_oco=True)


@dataclass(frozen=True, slots=True)
class VenueView:
    """State of the venue. `state` is COLD, DOWN, SYNCING, READY or STALE; `skew_ms` None = never measured."""

    state: str = "READY"
    is_connected: bool = True
    skew_ms: float | None = 0.0
    skew_age_s: float = 0.0
    capabilities: VenueCapabilities = EVERYTHING
    wait_s: float = 0.0  # how long an entry would wait for the venue's rate limit
    is_plaintext: bool = False  # keys and orders cross a network without TLS
    key_fault: str = ""  # why the session's API key may send no entry
    is_enabled: bool = True  # a disabled venue takes no entries
    unproven: str = ""  # the plug-in that real money is at stake by, though its cases have not passed

    @property
    def reach(self) -> Reach:
        """Return how well the venue is known."""
        return reach_of(self.state, self.is_connected)


@dataclass(frozen=True, slots=True)
class RiskView:
    """Everything the checks may know. Units: prices in quote, `position` and `held` in base, signed.

    `position` is the sum over our instances, `held` also counts what fills of ours do not explain, `own` is the
    intent's instance alone (None: not known); `exposures` are absolute values of our positions in the account's
    currency by symbol, `shorts` the symbols among them that are held short, `correlations` those of their returns with
    the instrument's (None or absent: not known); `rates` what one unit of a currency is worth in it, `unvalued` the
    symbols and currencies that have no price; `loss_today` is the day's loss in it, its greatest once that reached the
    limit; `coins_of_others` is how much of the currency that the intent spends belongs to others; `open_orders` are all
    orders of the account that may still fill. `prop` is the denial by the prop firm's rules of this account, if any.
    """

    now_ns: int
    limits: Risk
    account: Account | None
    instrument: Instrument | None
    venue: VenueView = VenueView()
    account_refusal: str = ""  # why the venue's session is not this account's own
    incidents: Mapping[str, int] = field(default_factory=dict)  # assets and symbols that are unexplained -> incident
    skew_limit_ms: float = 500.0
    is_leader: bool = True
    is_journal_up: bool = True
    kill: KillMode = KillMode.NONE
    kill_scope: str = "system"  # of the newest kill that concerns the intent
    is_guardian_alive: bool = True
    escalated: tuple[str, str] | None = None  # child, why
    disk_free_mb: float | None = None  # under FKS_HOME; None: not measured
    disk_free_min_mb: float = 0.0
    mark: Decimal | None = None
    feed_age_s: float | None = 0.0
    position: Decimal = _ZERO
    held: Decimal = _ZERO
    own: Decimal | None = None
    entries: int = 0  # of the instance in the intent's direction
    pyramiding: int = 1  # most entries of one position
    exposures: Mapping[str, Decimal] = field(default_factory=dict)
    shorts: frozenset[str] = frozenset()
    correlations: Mapping[str, float | None] = field(default_factory=dict)
    open_orders: tuple[Order, ...] = ()
    marks: Mapping[str, Decimal] = field(default_factory=dict)
    instruments: Mapping[str, Instrument] = field(default_factory=dict)  # of this venue's exchange, by symbol
    costs: CostModel = field(default_factory=CostModel)  # of a buy: what it spends beside its value
    fee_in_base: Decimal = _ZERO  # most that is taken from the base of a buy, a fraction of it
    balances: Mapping[str, Balance] = field(default_factory=dict)
    orders_last_minute: int = 0
    rates: Mapping[str, Decimal] = field(default_factory=dict)
    unvalued: tuple[str, ...] = ()
    coins_of_others: Decimal = _ZERO
    loss_today: Decimal = _ZERO
    margin: Margin | None = None  # None: what is bought is paid for, or the broker checks the margin
    margin_free: Decimal = _ZERO  # quote: the account's equity less the margin of its positions
    prop: Denial | None = None
    portfolio_limits: tuple[PortfolioLimit, ...] = ()
    instance_state: str = ""  # "" = a person or a running instance; DISABLED, CRASHED

    @property
    def currency(self) -> str:
        """Return the account's currency, in which limits are valued; the instrument's quote without an account."""
        if self.account is not None:
            return self.account.currency
        return "" if self.instrument is None else self.instrument.quote

    def rate(self, currency: str) -> Decimal | None:
        """Return the value of one unit of `currency` in the account's; None without a price."""
        return Decimal(1) if currency == self.currency else self.rates.get(currency)

    def value_of(self, order: Order) -> Decimal | None:
        """Return the worst cost of the quantity that an open order may still fill, in the account's currency; None
        without a rate."""
        instrument = self.listed(order.symbol)
        rate = None if instrument is None else self.rate(instrument.quote)
        if instrument is None or rate is None:
            return None
        return order.remaining * self.price_of(order) * instrument.multiplier * rate

    def listed(self, symbol: str) -> Instrument | None:
        """Return the instrument of a symbol, None when it is not known."""
        known = self.instruments.get(symbol)
        if known is None and self.instrument is not None and self.instrument.symbol == symbol:
            return self.instrument
        return known

    def price_of(self, order: Order) -> Decimal:
        """Return the worst price (quote) an open order may cost: its limit, its stop, or the mark; 0 when none is
        known."""
        is_here = self.instrument is None or self.instrument.symbol == order.symbol
        return (
            order.price or order.stop_price or self.marks.get(order.symbol) or (self.mark if is_here else None) or _ZERO
        )

    def reserved(self, currency: str) -> Decimal:
        """Return what open orders may still spend of `currency`: quote of buys with its fees, base of sells; an OCO
        counts once."""
        total = _ZERO
        for order, left in unfilled(self.open_orders):
            known, is_buy = self.listed(order.symbol), order.side is Side.BUY
            if known is not None and currency == (known.quote if is_buy else known.base):
                total += self.costs.buy_cost(left, self.price_of(order), known) if is_buy else left
        return total

    def free(self, currency: str) -> Decimal:
        """Return what is left of `currency` beside what open orders may still spend and what belongs to others."""
        held = self.balances.get(currency)
        free = _ZERO if held is None else min(held.total - self.reserved(currency), held.free)
        return free - self.coins_of_others

    def pending(self, symbol: str, side: Side) -> Decimal:
        """Return the quantity (base) that open orders on `symbol` may still fill on `side`; an OCO counts once."""
        here = (order for order in self.open_orders if order.symbol == symbol and order.side is side)
        return sum(pending_of(here).values(), _ZERO)


def reach_of(state: str, is_connected: bool) -> Reach:
    """Return how well a venue is known, from the state of its session."""
    if not is_connected:
        return Reach.AWAY
    return Reach.READY if state == "READY" else Reach.UNRECONCILED


def is_dormant(order: Order) -> bool:
    """Return whether the order is a leg that waits for its parent: the position it will close does not exist yet."""
    return order.is_reduce_only and (order.state is State.INTENDED or order.is_pending)


def is_list_over(order: Order, lists_over: Collection[str]) -> bool:
    """Return whether an order is a leg that fills no more: it is of one of these lists, which have executed."""
    return order.parent_id is not None and order.group_id in lists_over


def unfilled(orders: Iterable[Order]) -> list[tuple[Order, Decimal]]:
    """Return orders, without dormant legs, each with the quantity that it may still fill. Of the legs of an OCO the
    first stands for all: a quantity that one of them has executed is no other's to fill."""
    lists: dict[object, list[Order]] = {}
    for number, order in enumerate(orders):
        if not is_dormant(order):
            key = number if order.group_id is None else (order.group_id, order.side)
            lists.setdefault(key, []).append(order)
    return [(tied[0], _left(tied)) for tied in lists.values()]


def _left(tied: Sequence[Order]) -> Decimal:
    most = max((order.quantity for order in tied if order.is_open), default=_ZERO)
    return max(most - max(order.filled for order in tied), _ZERO)


def pending_of(orders: Iterable[Order]) -> dict[str, Decimal]:
    """Return the quantities that open orders may still fill, by instance; an OCO counts once."""
    totals: dict[str, Decimal] = {}
    for order, left in unfilled(orders):
        totals[order.instance] = totals.get(order.instance, _ZERO) + left
    return totals


def without_replaced(orders: Iterable[Order], replacements: Iterable[tuple[str, str]]) -> tuple[Order, ...]:
    """Return orders without the smaller one of each stop and its successor (ids) for which a request is on its way that
    ends the one and places the other: one of the two is at the venue."""
    by_id = {order.client_order_id: order for order in orders}
    for pair in replacements:
        if all(id in by_id for id in pair):
            del by_id[min(pair, key=lambda id: by_id[id].remaining)]
    return tuple(by_id.values())
