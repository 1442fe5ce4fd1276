"""Periodic work of valuation: the value of fees in a third asset, and the equity of portfolios."""

from __future__ import annotations

from decimal import Decimal

from fks.config.settings import Settings
from fks.futures import instrument_of_symbol
from fks.model.instrument import assumed_instrument, money
from fks.portfolio.valuation import PricedPair, Rates
from fks.store.db import Querier
from fks.store.valuation import UnvaluedFee, ValuationStore

_MINUTE_NS = 60 * 10**9
_PAGE = 1000
#: Moments of which one run reads all prices: seconds of work. The rest follows in the next run.
_MOMENTS_MAX = 2000


async def value_fees(db: Querier, settings: Settings) -> str:
    """Value the fees that have no value in quote yet, newest first, and return a line about them.

    A fee in base counts at its execution's price; one in a third asset at the prices that were known in the minute of
    the execution. Without a rate a fee stays unvalued, and is tried again by the next run: bars may be imported.
    Errors: OutageError; what was written stays.
    """
    store, valued, left = ValuationStore(db), 0, 0
    rates_of = _FeeRates(store, settings, await store.pairs())
    before: int | None = None
    while fees := await store.unvalued_fees(before, _PAGE):
        found = [(fee.id, *value) for fee in fees if (value := await _value_of(fee, rates_of)) is not None]
        await store.value_fees(found)
        valued, left, before = valued + len(found), left + len(fees) - len(found), fees[-1].id
    return f"{valued} fees valued" + (f", {left} fees have no rate" if left else "")


async def _value_of(fee: UnvaluedFee, rates: _FeeRates) -> tuple[Decimal, Decimal | None] | None:
    """Return the value of a fee in quote and the rate of a third asset; None without one."""
    base, quote = fee.base, fee.quote
    if base is None or quote is None:
        item = instrument_of_symbol(fee.exchange, fee.symbol) or assumed_instrument(
            fee.exchange, fee.symbol, fee.fee_currency
        )
        base, quote = item.base, item.quote
    if not fee.fee or (fee.fee_currency and fee.fee_currency == quote):
        return fee.fee, None
    if not fee.fee_currency or not quote:
        return None
    if fee.fee_currency == base:
        return money(fee.fee * fee.price), None
    rate = await rates.at(fee.time_ns // _MINUTE_NS * _MINUTE_NS, fee.fee_currency, quote)
    return None if rate is None else (money(fee.fee * rate), rate)


class _FeeRates:
    """Rates at past moments, each read once a run; the pair itself is tried before all others are read."""

    def __init__(self, store: ValuationStore, settings: Settings, pairs: list[PricedPair]) -> None:
        self._store, self._settings, self._pairs = store, settings.portfolio, pairs
        self._possible = self._of(pairs, 0)
        self._direct: dict[tuple[int, str, str], Rates] = {}
        self._every: dict[int, Rates] = {}

    def _of(self, pairs: list[PricedPair], at_ns: int) -> Rates:
        age_max_s, equals = self._settings.rate_age_max_s, self._settings.equals
        return Rates.of(pairs, now_ns=at_ns, age_max_s=age_max_s, equals=equals)

    async def at(self, at_ns: int, currency: str, into: str) -> Decimal | None:
        if self._possible.rate(currency, into) is None:
            return None
        key = (at_ns, currency, into)
        if key not in self._direct:
            symbols = sorted({pair.symbol for pair in self._pairs if {pair.base, pair.quote} == {currency, into}})
            self._direct[key] = self._of(await self._store.prices(at_ns, symbols) if symbols else [], at_ns)
        rate = self._direct[key].rate(currency, into)
        if rate is not None:
            return rate
        if at_ns not in self._every:
            if len(self._every) >= _MOMENTS_MAX:
                return None
            self._every[at_ns] = self._of(await self._store.prices(at_ns), at_ns)
        return self._every[at_ns].rate(currency, into)
