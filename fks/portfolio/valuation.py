"""Valuation: rates between currencies from prices with an age, and the value of holdings in one currency. Pure.

This is the one rule by which amounts are converted: limits, fees, and portfolios use it. No two currencies are taken
as equal, stablecoins neither, unless they are configured as equal. A rate that is missing or too old is reported and
makes a total incomplete; it is never zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal

from fks.model.instrument import Instrument

#: Prices that one rate may be the product of.
LEGS_MAX = 3
_ZERO, _ONE = Decimal(0), Decimal(1)


@dataclass(frozen=True, slots=True)
class PricedPair:
    """The last price of one pair at one exchange, and its time (ns)."""

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
        self._found: dict[tuple[str, str], Rate | None] = {}
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
            if pair.price > 0 and pair.time_ns <= now_ns:
                every._add(pair.base, pair.quote, leg)
                if pair.time_ns >= oldest_ns:
                    fresh._add(pair.base, pair.quote, leg)
        fresh._old = every
        return fresh

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
        if currency == into:
            return Rate(_ONE, None, ())
        key = (currency, into)
        if key not in self._found:
            self._found[key] = self._shortest(currency, into)
        return self._found[key]

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
class Holding:
    """One thing that a portfolio holds: an amount of an asset, or contracts with their open profit.

    `amount` of `asset` is what is valued: of coins the quantity, of contracts the open profit in their quote currency.
    `amount` None: the open profit is not known, as the contract has no price. `is_cash`: it is in the currency of its
    account. `instance`: of a strategy that is a member by itself, else "".
    """

    account: str
    asset: str
    amount: Decimal | None
    instance: str = ""
    symbol: str = ""
    quantity: Decimal | None = None
    is_cash: bool = False


@dataclass(frozen=True, slots=True)
class ValuedHolding:
    """A holding in the portfolio's currency. `value` None: it has no rate, and `missing` says why."""

    holding: Holding
    value: Decimal | None
    rate: Rate | None = None
    missing: str | None = None


@dataclass(frozen=True, slots=True)
class Valuation:
    """Holdings valued in one currency. `equity` is `cash` plus the value of what has a rate; it is the whole equity
    only if `missing` is empty, which names each rate that is missing or stale."""

    currency: str
    holdings: tuple[ValuedHolding, ...]
    cash: Decimal
    equity: Decimal
    missing: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Return whether each holding has a rate."""
        return not self.missing


def value_holdings(holdings: Iterable[Holding], rates: Rates, currency: str) -> Valuation:
    """Return `holdings` valued in `currency`. Guarantees: equity = cash + the values of all other valued holdings."""
    rows = tuple(_valued_holding(holding, rates, currency) for holding in holdings)
    cash = sum((row.value for row in rows if row.value is not None and row.holding.is_cash), _ZERO)
    rest = sum((row.value for row in rows if row.value is not None and not row.holding.is_cash), _ZERO)
    missing = tuple(sorted({row.missing for row in rows if row.missing is not None}))
    return Valuation(currency, rows, cash, cash + rest, missing)


def _valued_holding(holding: Holding, rates: Rates, currency: str) -> ValuedHolding:
    if holding.amount is None:
        return ValuedHolding(holding, None, missing=f"{holding.symbol} price: missing or stale")
    found = rates.find(holding.asset, currency)
    if found is not None:
        return ValuedHolding(holding, holding.amount * found.value, found)
    old = rates.stale(holding.asset, currency)
    reason = "missing" if old is None else "stale"
    return ValuedHolding(holding, None, old, f"{holding.asset}/{currency}: {reason}")
