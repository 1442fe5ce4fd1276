"""Rebalancing: the trades that bring an allocation to its target weights, and the drift that they leave. Pure.

The capital of an allocation is its own coins and the cash that its account has free, all in one currency. An instrument
is traded once its weight leaves its band, and then to its target, with these limits:

1. Sells come first; buys get the cash of sells less their costs, in the order of their size.
2. The cash that stays is at least `cash_min` of the capital after all costs.
3. Quantities are whole lots, no order is below the minimum of its instrument or `trade_min`, and all trades together
   move at most `turnover_max` of the capital. With `collar` a buy costs at most its limit, which its cash pays for.
4. Open orders count as filled; an instrument with an order of unknown outcome is not traded.

Costs make the capital smaller and so move every weight. Planning is therefore repeated on its own result until no trade
is left, which is what makes it idempotent: on the holdings after its trades, it plans none, unless `turnover_max` or
the cash for the limits of buys limited them.

A rebalancing is started by a person, or by a trigger: a schedule, or a weight outside its band at the close of a bar.
`decide` says whether a trigger starts one now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_FLOOR, Decimal
from enum import StrEnum

from fks.model.instrument import Instrument, money
from fks.model.order import Side
from fks.model.timeframe import NS, bar_start
from fks.trading.matching import Slippage, collar

_ZERO, _ONE = Decimal(0), Decimal(1)
#: A band is at least this many times the costs of a trade, of the target weight: all costs of a plan, at most those of
#: selling and buying everything, move a weight by half of that. So an instrument is traded by one round alone.
COST_MULTIPLE = 4
#: The most of `RebalanceRules.collar`, as of the collar of entries.
COLLAR_MAX = Decimal("0.1")
#: Returns the orders, as few as the lot of market orders allows, that together trade a quantity in whole lots.
SplitAtLot = Callable[[Decimal, Instrument], tuple[Decimal, ...]]


class DriftReason(StrEnum):
    """The cause of a distance that an instrument keeps from its target."""

    BAND = "BAND"  # its weight is inside its band
    LOT = "LOT"  # less than a lot, or than the least order of the instrument
    TRADE_MIN = "TRADE_MIN"
    CASH = "CASH"  # the cash beyond the buffer does not pay for more
    TURNOVER = "TURNOVER"
    HELD = "HELD"  # open orders sell what is held already
    ORDER_UNKNOWN = "ORDER_UNKNOWN"
    PRICE_MISSING = "PRICE_MISSING"


@dataclass(frozen=True, slots=True)
class TargetWeight:
    """The share of the capital that an instrument is to have, from 0 to 1. `least` and `most`, where given, are its
    band in place of those of the rules."""

    instrument: Instrument
    weight: Decimal
    least: Decimal | None = None
    most: Decimal | None = None


@dataclass(frozen=True, slots=True)
class RebalanceRules:
    """Limits of a rebalancing. Fractions are shares of the capital, `trade_min` is in its currency.

    The band of an instrument is the smaller one of `band` and `band_relative` times its target weight. While a plan is
    carried out, an order waits as long as its price is more than `price_tolerance` (a fraction) away from the plan's,
    and after `run_max_age_s` no order is sent. `collar`: orders are limits this fraction away from the plan's price at
    most, each fills at once or expires (FOK); None: market orders.
    """

    band: Decimal = Decimal("0.02")
    band_relative: Decimal | None = None
    trade_min: Decimal = Decimal(10)
    cash_min: Decimal = Decimal("0.01")
    turnover_max: Decimal | None = None
    price_tolerance: Decimal = Decimal("0.01")
    run_max_age_s: float = 3600.0
    collar: Decimal | None = None

    def limit(self, side: Side, price: Decimal, instrument: Instrument) -> Decimal | None:
        """Return the worst price of an order that was planned at a price; None for a market order."""
        return None if self.collar is None else collar(price, self.collar, _ONE, side.sign, instrument.tick)


@dataclass(frozen=True, slots=True)
class RebalanceCosts:
    """Expected costs of a trade, fractions of its value."""

    fee_rate: Decimal = _ZERO
    slippage_rate: Decimal = _ZERO

    @staticmethod
    def at(price: Decimal | None, fee_rate: Decimal, slippage: Slippage, instrument: Instrument) -> RebalanceCosts:
        """Return the costs that a trade at a price has by a cost model; without a price the fee alone. Of slippage by
        the range of a bar, which is not known before, one tick is expected."""
        if not price:
            return RebalanceCosts(fee_rate)
        return RebalanceCosts(fee_rate, (slippage.apply(Side.BUY, price, _ZERO, instrument.tick) - price) / price)

    @property
    def rate(self) -> Decimal:
        """Return both together."""
        return self.fee_rate + self.slippage_rate


@dataclass(frozen=True, slots=True)
class AllocationHoldings:
    """The own coins of an allocation and the cash that it may spend. Quantities are by symbol, in base.

    `pending` is what its open orders may still buy (positive) or sell; `cash` is already without what open orders may
    still spend. `unknown`: symbols with an order of unknown outcome.
    """

    cash: Decimal
    quantities: Mapping[str, Decimal] = field(default_factory=dict)
    pending_buys: Mapping[str, Decimal] = field(default_factory=dict)
    pending_sells: Mapping[str, Decimal] = field(default_factory=dict)
    unknown: frozenset[str] = frozenset()

    def expected(self, symbol: str) -> Decimal:
        """Return the quantity once all open orders have filled."""
        held = self.quantities.get(symbol, _ZERO) + self.pending_buys.get(symbol, _ZERO)
        return held - self.pending_sells.get(symbol, _ZERO)

    def sellable(self, symbol: str) -> Decimal:
        """Return the quantity that no open order sells yet."""
        return max(self.quantities.get(symbol, _ZERO) - self.pending_sells.get(symbol, _ZERO), _ZERO)


@dataclass(frozen=True, slots=True)
class RebalanceTrade:
    """One order of a plan; all but `quantity` (base) is in quote. `fee` and `slippage` are expected costs, `limit` is
    the worst price at which it may fill, None for a market order."""

    number: int
    instrument: Instrument
    side: Side
    quantity: Decimal
    price: Decimal
    fee: Decimal
    slippage: Decimal
    limit: Decimal | None = None

    @property
    def value(self) -> Decimal:
        """Return the value of the trade at the price of the plan."""
        return self.quantity * self.price


@dataclass(frozen=True, slots=True)
class WeightDrift:
    """An instrument's weight before and after the trades, and its target, as shares of the capital; None without a
    price. `band`: the distance from the target up to which it is not traded, below and above. `reason`: why something
    is left, None if it is at its target."""

    instrument: Instrument
    quantity: Decimal
    price: Decimal | None
    target: Decimal
    band: tuple[Decimal, Decimal]
    weight: Decimal | None
    weight_after: Decimal | None
    reason: DriftReason | None

    @property
    def left(self) -> Decimal | None:
        """Return the weight after the trades less the target."""
        return None if self.weight_after is None else self.weight_after - self.target


@dataclass(frozen=True, slots=True)
class RebalancePlan:
    """The trades in their order, sells before buys, and the drift of each instrument. `capital` and `cash` are those
    before the trades, `cash_after` is that after their expected costs; `capital` is None if a held coin has no price,
    and then nothing is traded."""

    trades: tuple[RebalanceTrade, ...]
    drift: tuple[WeightDrift, ...]
    capital: Decimal | None
    cash: Decimal
    cash_after: Decimal

    @property
    def turnover(self) -> Decimal:
        """Return the value of all trades."""
        return sum((trade.value for trade in self.trades), _ZERO)


class Trigger(StrEnum):
    """The cause of the rebalancings of a portfolio."""

    PERSON = "person"
    SCHEDULE = "schedule"  # a schedule with the action `rebalance`
    DRIFT = "drift"  # a weight outside its band at the close of a bar


class TriggerCode(StrEnum):
    """A decision of `decide`."""

    IDLE = "IDLE"  # nothing is due
    RUNNING = "RUNNING"  # a run is under way
    APPROVAL_PENDING = "APPROVAL_PENDING"  # an automatic plan waits for a person
    COOLDOWN = "COOLDOWN"
    CANCELLED = "CANCELLED"  # the last run by drift was cancelled, by a person or a kill
    TARGETS_NEW = "TARGETS_NEW"  # the targets were changed after the bar had opened
    BARS_MISSING = "BARS_MISSING"  # the last bar of an instrument is not stored yet
    HELD = "HELD"  # a kill, a stale feed, a venue that is not reconciled: orders would be denied
    EXPIRED = "EXPIRED"  # a schedule's request was held for too long
    IN_BAND = "IN_BAND"
    NO_TRADES = "NO_TRADES"  # the plan trades nothing
    START = "START"

    @property
    def is_final(self) -> bool:
        """Return whether nothing more is decided for the same bar or the same request."""
        return self in _FINAL


_FINAL = frozenset({TriggerCode.EXPIRED, TriggerCode.IN_BAND, TriggerCode.NO_TRADES, TriggerCode.START})


@dataclass(frozen=True, slots=True)
class TriggerPolicy:
    """Conditions of the rebalancings of a portfolio without a person.

    `band`: the distance from the target, a share of the capital, beyond which a weight starts a run; None: that of the
    rules and of the targets. Weights are those at the closes of bars of `timeframe`. After the start of any run, drift
    starts none for `cooldown_s`. With `needs_approval` a person starts each plan. An allocation changes the targets
    without a person only if no weight changes by more than `change_max`.
    """

    trigger: Trigger = Trigger.PERSON
    band: Decimal | None = None
    timeframe: str = "1h"
    cooldown_s: float = 3600.0
    needs_approval: bool = False
    change_max: Decimal = Decimal("0.1")


@dataclass(frozen=True, slots=True)
class TriggerFacts:
    """Facts about a portfolio that cost one read. Times are ns UTC.

    `requested_ns`: a schedule's request that is not decided yet. `decided_ns`: close of the last bar that was decided
    on. `targets_ns`: time of the newest targets. `started_ns`: start of the newest run. `is_cancelled`: that was one by
    drift, or its plan, and was cancelled after the trigger was set.
    """

    now_ns: int
    targets_ns: int
    run_max_age_s: float
    requested_ns: int | None = None
    decided_ns: int | None = None
    started_ns: int | None = None
    is_running: bool = False
    is_approval_pending: bool = False
    is_cancelled: bool = False


@dataclass(frozen=True, slots=True)
class TriggerMarket:
    """Facts about a portfolio's instruments. `bars_ns`: the time up to which the bars of all of them are stored.
    `hold`: the denial that an order would get now. `outside`: symbols outside their band at the last closes. `trades`:
    orders of a plan now."""

    bars_ns: int | None
    hold: str | None
    outside: tuple[str, ...]
    trades: int


def decide(policy: TriggerPolicy, facts: TriggerFacts, market: TriggerMarket | None) -> TriggerCode | None:
    """Return whether a run starts now, or why not. None: that depends on the market, which was not given.

    Guarantees: START only without a run under way and without a plan that waits for a person, with targets from before
    the last bar, and with no reason for which its orders would be denied; of drift only with the last bar of each
    instrument, once for each bar, after the cooldown, and not after a cancel until a person sets the trigger or starts
    a run.
    """
    close_ns = bar_start(facts.now_ns, policy.timeframe)  # of the last bar that is over
    if policy.trigger is Trigger.DRIFT:
        is_due = facts.decided_ns is None or facts.decided_ns < close_ns
    else:
        is_due = policy.trigger is Trigger.SCHEDULE and facts.requested_ns is not None
    if not is_due:
        return TriggerCode.IDLE
    if facts.is_running:
        return _unless_old(policy, facts, TriggerCode.RUNNING)
    if facts.is_approval_pending:
        return _unless_old(policy, facts, TriggerCode.APPROVAL_PENDING)
    is_drift, started_ns = policy.trigger is Trigger.DRIFT, facts.started_ns
    if is_drift and started_ns is not None and facts.now_ns - started_ns < policy.cooldown_s * NS:
        return TriggerCode.COOLDOWN
    if is_drift and facts.is_cancelled:
        return TriggerCode.CANCELLED
    if facts.targets_ns > bar_start(close_ns - 1, policy.timeframe):
        return _unless_old(policy, facts, TriggerCode.TARGETS_NEW)
    if market is None:
        return None
    if is_drift and market.bars_ns != close_ns:
        return TriggerCode.BARS_MISSING
    if market.hold is not None:
        return _unless_old(policy, facts, TriggerCode.HELD)
    if is_drift and not market.outside:
        return TriggerCode.IN_BAND
    return TriggerCode.START if market.trades else TriggerCode.NO_TRADES


def _unless_old(policy: TriggerPolicy, facts: TriggerFacts, code: TriggerCode) -> TriggerCode:
    """Return the code, or EXPIRED for a schedule's request that is older than a run may become."""
    requested_ns = facts.requested_ns
    if policy.trigger is Trigger.SCHEDULE and requested_ns is not None:
        return TriggerCode.EXPIRED if facts.now_ns - requested_ns > facts.run_max_age_s * NS else code
    return code


def has_moved(price: Decimal, planned: Decimal, tolerance: Decimal) -> bool:
    """Return whether a price is further from the planned one than a fraction of that."""
    return abs(price - planned) > tolerance * planned


def run_budget(
    cash_free: Decimal, cash_min: Decimal, trades: Iterable[tuple[Side, Decimal, Decimal, Decimal]]
) -> Decimal:
    """Return the cash that buys of a run may still spend: that of the plan beyond its buffer, with the proceeds of its
    sells, without its buys. `trades`: side, quantity, price and expected costs (a fraction) of each so far. A buy with
    a limit counts at that, whatever came of it: so its order of time among others is of no consequence."""
    for side, quantity, price, cost_rate in trades:
        kept = cost_rate * (_ONE - cash_min)  # costs lower the capital, and with it the buffer
        cash_free += quantity * price * (_ONE - kept) if side is Side.SELL else -quantity * price * (_ONE + kept)
    return cash_free


def affordable(quantity: Decimal, cost: Decimal, budget: Decimal, instrument: Instrument, *, is_limit: bool) -> Decimal:
    """Return how much of `quantity` a budget pays for at `cost` a unit, in whole lots; 0 if that is below the least
    order."""
    lot = instrument.lot(is_market=True)
    if quantity * cost > budget:
        quantity = (max(budget, _ZERO) / cost / lot.step).to_integral_value(ROUND_FLOOR) * lot.step
    least = _least_value(instrument, is_limit=is_limit)
    return quantity if quantity >= max(lot.least, lot.step) and quantity * cost >= least else _ZERO


def _least_value(instrument: Instrument, *, is_limit: bool) -> Decimal:
    return instrument.notional_min if is_limit or instrument.is_notional_min_for_market else _ZERO


def weights_outside(
    drift: Sequence[WeightDrift], cash: Decimal, closes: Mapping[str, Decimal], band: Decimal | None
) -> tuple[str, ...]:
    """Return the symbols whose weight at `closes` is further from the target than `band`, None for the band of each.

    Errors: KeyError for an instrument that is held or has a target and no close.
    """
    values = {
        row.instrument.symbol: row.quantity * closes[row.instrument.symbol] if row.quantity else _ZERO for row in drift
    }
    capital = cash + sum(values.values(), _ZERO)
    if capital <= 0:
        return ()
    found = []
    for row in drift:
        below, above = row.band if band is None else (band, band)
        if not row.target - below <= values[row.instrument.symbol] / capital <= row.target + above:
            found.append(row.instrument.symbol)
    return tuple(found)


def plan(
    holdings: AllocationHoldings,
    targets: Sequence[TargetWeight],
    prices: Mapping[str, Decimal],
    rules: RebalanceRules,
    costs: Mapping[str, RebalanceCosts],
    *,
    split: SplitAtLot,
) -> RebalancePlan:
    """Return the trades that bring `holdings` to `targets`, and why any drift is left.

    `targets` name every instrument that is held, with the weight 0 for one that is to be sold; `prices` and `costs` are
    by symbol. The weights and `cash_min` add up to at most 1.
    Guarantees: no instrument is sold beyond what is held; the cash after costs is not below the buffer, or not below
    what it was; an instrument is within one lot and its band of the target, or its drift has a reason.
    """
    worker = _Planner(holdings, targets, prices, rules, costs, split)
    if worker.capital is not None:
        # each round trades an instrument whose weight left its band by the costs of the round before, at most once
        for _ in range(len(targets) + 2):
            if not worker.trade_once():
                break
    return worker.result()


class _Planner:
    """The planned quantities of one call, which later rounds add to."""

    def __init__(
        self,
        holdings: AllocationHoldings,
        targets: Sequence[TargetWeight],
        prices: Mapping[str, Decimal],
        rules: RebalanceRules,
        costs: Mapping[str, RebalanceCosts],
        split: SplitAtLot,
    ) -> None:
        self._before, self._targets, self._rules, self._split = holdings, list(targets), rules, split
        self._costs = {t.instrument.symbol: costs.get(t.instrument.symbol, RebalanceCosts()) for t in targets}
        self._prices = {symbol: price for symbol, price in prices.items() if price > 0}
        self._cash = holdings.cash
        self._kept = _ZERO  # cash beside the plan's, for buys that fill at their limits
        self._traded: dict[str, Decimal] = {}  # signed, by symbol
        self._reasons: dict[str, DriftReason] = {}
        self._floor = COST_MULTIPLE * max((cost.rate for cost in self._costs.values()), default=_ZERO)
        self._start = self.capital = self._worth()
        self._is_scaled = False

    def _worth(self) -> Decimal | None:
        """Return the capital before any trade; None if a held coin has no price. A trade costs it its costs alone."""
        total = self._cash
        for target in self._targets:
            quantity = self._quantity(target.instrument.symbol)
            if quantity:
                price = self._prices.get(target.instrument.symbol)
                if price is None:
                    return None
                total += quantity * price
        return total

    def _quantity(self, symbol: str) -> Decimal:
        return self._before.expected(symbol) + self._traded.get(symbol, _ZERO)

    def band(self, target: TargetWeight) -> tuple[Decimal, Decimal]:
        """Return how far the weight may be below and above its target."""
        band = self._rules.band
        if self._rules.band_relative is not None:
            band = min(band, self._rules.band_relative * target.weight)
        below = band if target.least is None else target.weight - target.least
        above = band if target.most is None else target.most - target.weight
        floor = self._floor * target.weight
        return max(below, floor), max(above, floor)

    def trade_once(self) -> bool:
        """Trade each instrument outside its band towards its target, and return whether there was any trade."""
        capital = self.capital
        if capital is None or capital <= 0 or self._is_scaled:
            return False
        self._reasons, wanted = {}, {}
        for target in self._targets:
            symbol = target.instrument.symbol
            if symbol not in self._prices:
                self._reasons[symbol] = DriftReason.PRICE_MISSING
            elif symbol in self._before.unknown:
                self._reasons[symbol] = DriftReason.ORDER_UNKNOWN
            elif not self._is_outside(target, capital):
                self._reasons[symbol] = DriftReason.BAND
            else:
                wanted[symbol] = target.weight * capital - self._quantity(symbol) * self._prices[symbol]
        share = self._share(sum((abs(value) for value in wanted.values()), _ZERO))
        order = sorted(wanted, key=lambda symbol: (wanted[symbol] > 0, -abs(wanted[symbol]), symbol))
        instruments = {target.instrument.symbol: target.instrument for target in self._targets}
        traded = [self._trade(instruments[symbol], wanted[symbol], share) for symbol in order]
        return any(traded)

    def _is_outside(self, target: TargetWeight, capital: Decimal) -> bool:
        weight = self._quantity(target.instrument.symbol) * self._prices[target.instrument.symbol] / capital
        below, above = self.band(target)
        return weight < target.weight - below or weight > target.weight + above

    def _share(self, wanted: Decimal) -> Decimal:
        """Return the share of each wanted trade that the limit of turnover lets through."""
        if self._rules.turnover_max is None or self._start is None or not wanted:
            return _ONE
        done = sum((abs(q) * self._prices[symbol] for symbol, q in self._traded.items()), _ZERO)
        left = max(self._rules.turnover_max * self._start - done, _ZERO)
        if left >= wanted:
            return _ONE
        self._is_scaled = True
        return left / wanted

    def _trade(self, instrument: Instrument, value: Decimal, share: Decimal) -> bool:
        """Plan one trade of at most `share` of `value` (signed), and return whether it is not nothing."""
        symbol, lot = instrument.symbol, instrument.lot(is_market=True)
        price, costs = self._prices[symbol], self._costs[symbol]
        wanted = abs(value) / price
        most, reason = wanted * share, DriftReason.TURNOVER if share < 1 else None
        # costs of a trade also lower the capital, and with it the buffer that has to stay
        kept = costs.rate * (_ONE - self._rules.cash_min)
        limit = self._rules.limit(Side.BUY if value > 0 else Side.SELL, price, instrument)
        worst = price if limit is None else limit
        if value < 0:
            left = max(self._before.sellable(symbol) + min(self._traded.get(symbol, _ZERO), _ZERO), _ZERO)
            if left < most:
                most, reason = left, DriftReason.HELD
        else:
            free = self._free()
            if free < most * worst * (_ONE + kept):
                most, reason = free / (worst * (_ONE + kept)), DriftReason.CASH
        quantity = (most / lot.step).to_integral_value(ROUND_FLOOR) * lot.step
        while value > 0 and quantity > 0 and quantity * worst * (_ONE + kept) > self._free():
            quantity -= lot.step  # the division was rounded up
        least = _least_value(instrument, is_limit=limit is not None)
        is_small = quantity <= 0 or quantity < lot.least or quantity * min(price, worst) < least
        if is_small or quantity * price < self._rules.trade_min:
            self._reasons[symbol] = reason or (DriftReason.LOT if is_small else DriftReason.TRADE_MIN)
            return False
        if reason is not None:
            self._reasons[symbol] = reason
        elif quantity < wanted:
            self._reasons[symbol] = DriftReason.LOT
        sign = 1 if value > 0 else -1
        self._traded[symbol] = self._traded.get(symbol, _ZERO) + sign * quantity
        self._cash -= quantity * price * (sign + costs.rate)
        if value > 0:
            self._kept += quantity * (worst - price) * (_ONE + kept)
        assert self.capital is not None
        self.capital -= quantity * price * costs.rate
        return True

    def _free(self) -> Decimal:
        """Return the cash beyond the buffer, after the trades so far."""
        capital = self.capital
        return _ZERO if capital is None else max(self._cash - self._kept - self._rules.cash_min * capital, _ZERO)

    def result(self) -> RebalancePlan:
        """Return the plan of all rounds."""
        return RebalancePlan(
            self._orders(), tuple(self._drift(t) for t in self._targets), self._start, self._before.cash, self._cash
        )

    def _orders(self) -> tuple[RebalanceTrade, ...]:
        instruments = {target.instrument.symbol: target.instrument for target in self._targets}
        parts = sorted(
            self._traded.items(), key=lambda item: (item[1] > 0, -abs(item[1]) * self._prices[item[0]], item[0])
        )
        found: list[RebalanceTrade] = []
        for symbol, traded in parts:
            price, costs, side = self._prices[symbol], self._costs[symbol], Side.BUY if traded > 0 else Side.SELL
            for quantity in self._split(abs(traded), instruments[symbol]):
                found.append(
                    RebalanceTrade(
                        len(found) + 1,
                        instruments[symbol],
                        side,
                        quantity,
                        price,
                        money(quantity * price * costs.fee_rate),
                        money(quantity * price * costs.slippage_rate),
                        self._rules.limit(side, price, instruments[symbol]),
                    )
                )
        return tuple(found)

    def _drift(self, target: TargetWeight) -> WeightDrift:
        symbol = target.instrument.symbol
        price, after, start = self._prices.get(symbol), self.capital, self._start
        before_weight = after_weight = None
        if price is not None and start is not None and after is not None and start > 0 < after:
            before_weight = self._before.expected(symbol) * price / start
            after_weight = self._quantity(symbol) * price / after
        reason = self._reasons.get(symbol)
        if reason is None and start is None:
            reason = DriftReason.PRICE_MISSING
        if reason is DriftReason.BAND and after_weight == target.weight:
            reason = None
        return WeightDrift(
            instrument=target.instrument,
            quantity=self._before.quantities.get(symbol, _ZERO),
            price=price,
            target=target.weight,
            band=self.band(target),
            weight=before_weight,
            weight_after=after_weight,
            reason=reason,
        )
