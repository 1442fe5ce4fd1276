"""Valuation: rates between currencies from prices with an age, and the value of holdings in one currency. Pure.

This is the one rule by which amounts are converted: limits, fees, and portfolios use it. No two currencies are taken
as equal, stablecoins neither, unless they are configured as equal. A rate that is missing or too old is reported and
makes a total incomplete; it is never zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import ROUND_HALF_EVEN, Decimal
from typing import NamedTuple

from fks.model.instrument import Instrument

#: Prices that one rate may be the product of.
LEGS_MAX = 3
_ZERO, _ONE, _MONEY = Decimal(0), Decimal(1), Decimal("1e-8")


@dataclass(frozen=True, slots=True)
class PricedPair:
    """The last price of one pair at one exchange, and its time (ns). Without metadata `base` and `quote` are empty."""

    exchange: str
    symbol: str
    base: str
    quote: str
    price: Decimal
    time_ns: int


@dataclass(frozen=True, slots=True)
class Rate:
    """The value of one unit of a currency in another. `time_ns`: of the oldest price in it, None where no price was
    needed. `legs`: the symbols whose prices it is the product of."""

    value: Decimal
    time_ns: int | None
    legs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Leg:
    value: Decimal
    time_ns: int | None
    name: str


class Rates:
    """Exchange rates: the product of the fewest prices that lead from one currency to the other, at most LEGS_MAX.

    Among equally short ways the first by the names of the currencies between is used. Where several exchanges have a
    price of the same pair, `preferred` is used first, then the others by name.
    """

    def __init__(
        self,
        prices: Mapping[tuple[str, str], Decimal],
        instruments: Mapping[tuple[str, str], Instrument],
        preferred: str = "",
    ) -> None:
        self._legs: dict[str, dict[str, _Leg]] = {}
        self._found: dict[str, dict[str, Rate | None]] = {}  # by target
        self._old: Rates | None = None
        for key in sorted(prices, key=lambda item: (item[0] != preferred, item)):
            instrument, price = instruments.get(key), prices[key]
            if instrument is not None and price > 0:
                self._add(instrument.base, instrument.quote, _Leg(price, None, key[1]))

    @classmethod
    def of(
        cls, pairs: Iterable[PricedPair], *, now_ns: int, age_max_s: float, equals: Iterable[tuple[str, str]] = ()
    ) -> Rates:
        """Return the rates of prices that are at most `age_max_s` old at `now_ns`; a later price is not used.

        `equals`: pairs of currencies that are configured as equal. `stale` finds the rates of older prices.
        """
        listed = sorted(pairs, key=lambda pair: (pair.base, pair.quote, -pair.time_ns, pair.exchange))
        fresh, every = cls({}, {}), cls({}, {})
        oldest_ns = now_ns - int(age_max_s * 1e9)
        for one, other in equals:
            for rates in (fresh, every):
                rates._add(one, other, _Leg(_ONE, None, f"{one}={other}"))
        for pair in listed:
            leg = _Leg(pair.price, pair.time_ns, pair.symbol)
            if pair.quote and pair.price > 0 and pair.time_ns <= now_ns:
                every._add(pair.base, pair.quote, leg)
                if pair.time_ns >= oldest_ns:
                    fresh._add(pair.base, pair.quote, leg)
        fresh._old = every
        return fresh

    @classmethod
    def stored(cls, rates: Mapping[str, Rate], into: str) -> Rates:
        """Return rates that were kept, by currency, into one currency; there are no others."""
        found = cls({}, {})
        found._found[into] = dict(rates)
        return found

    def _add(self, base: str, quote: str, leg: _Leg) -> None:
        if base == quote or quote in self._legs.get(base, {}):
            return
        self._legs.setdefault(base, {})[quote] = leg
        self._legs.setdefault(quote, {}).setdefault(base, replace(leg, value=_ONE / leg.value))

    def rate(self, currency: str, into: str) -> Decimal | None:
        """Return the value of one unit of `currency` in `into`; None without a price."""
        found = self.find(currency, into)
        return None if found is None else found.value

    def find(self, currency: str, into: str) -> Rate | None:
        """Return the rate with its prices and its age; None without one."""
        found = self._found.setdefault(into, {})
        if currency not in found:
            found[currency] = Rate(_ONE, None, ()) if currency == into else self._shortest(currency, into)
        return found[currency]

    def known(self, into: str) -> Mapping[str, Rate | None]:
        """Return the rates into a currency that `find` was asked for before, of a thousand holdings the fast way."""
        return self._found.setdefault(into, {})

    def stale(self, currency: str, into: str) -> Rate | None:
        """Return the rate of prices of any age, for a message about a rate that is too old; None without one."""
        return self.find(currency, into) if self._old is None else self._old.find(currency, into)

    def _shortest(self, currency: str, into: str) -> Rate | None:
        reached = {currency}
        ways: list[tuple[str, tuple[_Leg, ...]]] = [(currency, ())]
        for _ in range(LEGS_MAX):
            following: list[tuple[str, tuple[_Leg, ...]]] = []
            for at, legs in ways:
                beside = self._legs.get(at, {})
                if into in beside:
                    return _product((*legs, beside[into]))
                for name in sorted(beside):
                    if name not in reached:
                        reached.add(name)
                        following.append((name, (*legs, beside[name])))
            ways = following
        return None


def _product(legs: tuple[_Leg, ...]) -> Rate:
    value = _ONE
    for leg in legs:
        value *= leg.value
    times = [leg.time_ns for leg in legs if leg.time_ns is not None]
    return Rate(value, min(times) if times else None, tuple(leg.name for leg in legs))


def valued(amounts: Mapping[str, Decimal], rates: Mapping[str, Decimal]) -> tuple[Decimal, tuple[str, ...]]:
    """Return the sum of amounts by currency at `rates`, and the currencies that have no rate."""
    missing = tuple(sorted(currency for currency in amounts if currency not in rates))
    return sum((value * rates[c] for c, value in amounts.items() if c in rates), _ZERO), missing


def rates_into(rates: Rates, into: str, currencies: Iterable[str]) -> dict[str, Decimal]:
    """Return the rate of each currency that has one."""
    return {name: rate for name in currencies if (rate := rates.rate(name, into)) is not None}


@dataclass(frozen=True, slots=True)
class PortfolioHolding:
    """One thing that a portfolio holds: an amount of an asset, or contracts with their open profit.

    The `amount` of `asset` is valued: of coins the quantity, of contracts the open profit in their quote currency;
    None if that is not known, and `missing` says why. `is_cash`: it is in the currency of its account. `instance`: the
    strategy that is a member by itself, else "". `invested`: of such a strategy the money, by currency, that it has
    taken from its account less what it has given back.
    """

    account: str
    asset: str
    amount: Decimal | None
    instance: str = ""
    symbol: str = ""
    quantity: Decimal | None = None
    is_cash: bool = False
    invested: Mapping[str, Decimal] = field(default_factory=dict)
    missing: str | None = None
    venue: str = ""


class ValuedHolding(NamedTuple):
    """A holding in the portfolio's currency. `value` None: it has no rate, and `missing` says why."""

    holding: PortfolioHolding
    value: Decimal | None
    rate: Rate | None = None
    missing: str | None = None


@dataclass(frozen=True, slots=True)
class Valuation:
    """Holdings valued in one currency. `equity` is `cash` plus the values of all other holdings that have a rate;
    it is the whole equity only if `missing` is empty, which names each rate that is missing or stale."""

    currency: str
    holdings: tuple[ValuedHolding, ...]
    cash: Decimal
    equity: Decimal
    missing: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Return whether each holding has a rate."""
        return not self.missing

    @property
    def invested(self) -> dict[str, Decimal]:
        """Return the money by currency that member strategies have taken from their accounts, less what they gave
        back."""
        found: dict[str, Decimal] = {}
        for row in self.holdings:
            for currency, amount in row.holding.invested.items():
                found[currency] = found.get(currency, _ZERO) + amount
        return found


def value_holdings(holdings: Iterable[PortfolioHolding], rates: Rates, currency: str) -> Valuation:
    """Return `holdings` valued in `currency`. Guarantees: equity = cash + the values of all other valued holdings,
    each rounded once to 1e-8."""
    rows: list[ValuedHolding] = []
    known = rates.known(currency).get
    make, add = tuple.__new__, rows.append  # a call of the class takes three times as long
    cash = rest = _ZERO
    missing: set[str] = set()
    for holding in holdings:
        asset, amount = holding.asset, holding.amount
        rate = known(asset) or rates.find(asset, currency)
        if amount is None or rate is None:
            row = _unvalued(holding, rates, currency)
            missing.add(row.missing or asset)
        else:
            value = (amount * rate.value).quantize(_MONEY, ROUND_HALF_EVEN)
            row = make(ValuedHolding, (holding, value, rate, None))
            if holding.is_cash:
                cash += value
            else:
                rest += value
        add(row)
    return Valuation(currency, tuple(rows), cash, cash + rest, tuple(sorted(missing)))


def _unvalued(holding: PortfolioHolding, rates: Rates, currency: str) -> ValuedHolding:
    if holding.amount is None:
        return ValuedHolding(holding, None, missing=holding.missing or f"{holding.symbol}: missing")
    old = rates.stale(holding.asset, currency)
    reason = "missing" if old is None else "stale"
    return ValuedHolding(holding, None, old, f"{holding.asset}/{currency}: {reason}")


@dataclass(frozen=True, slots=True)
class HeldPosition:
    """A position as a portfolio counts it. Money in quote; `price` is the last one that is not too old, or None.

    `fees` are all fees that have a value. `is_contract`: it was not paid for, so that only its open profit counts.
    """

    account: str
    instance: str
    symbol: str
    base: str
    quote: str
    quantity: Decimal
    average_price: Decimal
    realized_pnl: Decimal
    fees: Decimal
    multiplier: Decimal
    price: Decimal | None
    is_contract: bool
    venue: str = ""
    is_member: bool = False  # its strategy is a member by itself, without its account


def holding_of(position: HeldPosition, *, is_member: bool) -> PortfolioHolding:
    """Return a position as a holding. `is_member`: its strategy is a member by itself, without its account.

    Such a strategy has no cash of its own: the price of a position flows in when it opens, and out when it closes. So
    its equity is the value of its holdings, and the change of `invested` (their cost, less realised profit, plus fees)
    is the flow between two moments. Guarantees: equity - invested is its profit (realised + open - fees).
    """
    instance = position.instance if is_member else ""
    cost = _ZERO if position.is_contract else position.quantity * position.average_price * position.multiplier
    invested = {position.quote: cost - position.realized_pnl + position.fees} if is_member else {}
    if not position.is_contract:
        asset, amount, missing = position.base, position.quantity, None
    elif not position.quantity:
        asset, amount, missing = position.quote, _ZERO, None
    elif position.price is None:
        asset, amount, missing = position.quote, None, f"price of {position.symbol}: missing or stale"
    else:
        profit = (position.price - position.average_price) * position.quantity * position.multiplier
        asset, amount, missing = position.quote, profit, None
    return PortfolioHolding(
        account=position.account,
        asset=asset,
        amount=amount,
        instance=instance,
        symbol=position.symbol,
        quantity=position.quantity,
        invested=invested,
        missing=missing,
        venue=position.venue,
    )


@dataclass(frozen=True, slots=True)
class EquityBefore:
    """The last complete equity of a portfolio, `invested` as it was then, and the `flows` of incomplete rows since."""

    equity: Decimal
    invested: Mapping[str, Decimal]
    flows: Decimal
    are_members_changed: bool


def net_flow(
    now: Valuation, invested: Mapping[str, Decimal], before: EquityBefore | None, rates: Rates
) -> Decimal | None:
    """Return the money that flowed in (positive) or out since the last row; None if a flow has no rate.

    `invested`: by currency, the deposits less withdrawals of member accounts since they joined, and what member
    strategies have taken from their accounts. The first complete row is all flow. When members changed, the whole
    change of equity is a flow: that span earns nothing. Guarantees: over complete rows, change of equity = flows +
    profit.
    """
    if before is None:
        return now.equity if now.is_complete else _ZERO
    if before.are_members_changed and now.is_complete:
        return now.equity - before.equity - before.flows
    total = -before.flows
    for currency in sorted({*invested, *before.invested}):
        moved = invested.get(currency, _ZERO) - before.invested.get(currency, _ZERO)
        if moved:
            rate = rates.rate(currency, now.currency)
            if rate is None:
                return None
            total += moved * rate
    return total


@dataclass(frozen=True, slots=True)
class EquityRow:
    """The equity of a portfolio at one time (ns) and the money that flowed in since the row before."""

    time_ns: int
    equity: Decimal
    net_flow: Decimal
    is_complete: bool


def growth_of(rows: Iterable[EquityRow]) -> list[tuple[int, float]]:
    """Return (time, growth) of the complete rows, oldest first: the time-weighted growth of 1 since the first of them.

    An inflow counts from the start of its span, an outflow until its end: a span grows by
    (equity + out) / (equity before + in). Flows of incomplete rows belong to the span that the next complete row ends.
    A span that began with nothing, and got nothing, grows by 1.
    Source: the modified Dietz method with the flows at the ends (GIPS Standards, 2020, calculation of returns).
    """
    found: list[tuple[int, float]] = []
    level, flow, before = 1.0, _ZERO, _ZERO
    for row in rows:
        flow += row.net_flow
        if not row.is_complete:
            continue
        if found:
            start, end = before + max(flow, _ZERO), row.equity + max(-flow, _ZERO)
            level *= float(end / start) if start > 0 else 1.0
        found.append((row.time_ns, level))
        before, flow = row.equity, _ZERO
    return found


def money_weighted_return(rows: Iterable[EquityRow]) -> float | None:
    """Return the money-weighted return over the whole span of the complete rows, as a fraction: the rate at which the
    first equity and the flows grow to the last equity. None where no rate, or more than one sign change, exists.

    A flow counts from the time of its row. Source: GIPS Standards, 2020, money-weighted return (internal rate of
    return), not annualised.
    """
    listed = list(rows)
    complete = [row for row in listed if row.is_complete]
    if len(complete) < 2 or complete[0].equity <= 0:
        return None
    first, last = complete[0], complete[-1]
    span = last.time_ns - first.time_ns
    flows = [
        ((last.time_ns - row.time_ns) / span, float(row.net_flow))
        for row in listed
        if row.net_flow and first.time_ns < row.time_ns <= last.time_ns
    ]
    paid = [(1.0, float(first.equity)), *flows]

    def surplus(growth: float) -> float:
        return float(sum(amount * growth**left for left, amount in paid)) - float(last.equity)

    low, high = 0.0, 1.0
    while surplus(high) < 0.0:
        high *= 2.0
        if high > 1e12:
            return None
    if surplus(low) > 0.0:
        return None
    for _ in range(200):
        middle = (low + high) / 2.0
        low, high = (middle, high) if surplus(middle) < 0.0 else (low, middle)
    return high - 1.0
