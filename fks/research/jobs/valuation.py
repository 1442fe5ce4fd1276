"""Periodic work of valuation: the value of fees in a third asset, and the equity of portfolios."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from fks.config.settings import Settings
from fks.model.accounting.attribution import state_json
from fks.model.accounting.valuation import HeldPosition, PricedPair, Rate, Rates, Valuation, net_flow, value_holdings
from fks.model.calendars import calendar_of, is_open_at
from fks.model.futures import futures_calendar, instrument_of_symbol
from fks.model.instrument import assumed_instrument, money
from fks.model.timeframe import to_ns
from fks.store.db import Database, Querier
from fks.store.portfolios import Portfolio, PortfolioStore
from fks.store.valuation import UnvaluedFee, ValuationStore

_MINUTE_NS = 60 * 10**9
_PAGE = 1000
#: Moments of which one run reads all prices: seconds of work. The rest follows in the next run.
_MOMENTS_MAX = 2000


async def value_fees(db: Querier, settings: Settings) -> str:
    """Value the fees that have no value in quote yet, newest first, and return a line about them.

    A fee in base counts at its execution's price; one in a third asset at the prices that were known in the minute of
    the execution. Without a rate a fee stays unvalued, and is tried again by the next run: bars may be imported.
    Errors: OutageError; values written before stay.
    """
    store, valued, left = ValuationStore(db), 0, 0
    past = _FeeRates(store, settings, await store.pairs())
    before: int | None = None
    while fees := await store.unvalued_fees(before, _PAGE):
        found = [(fee.id, *value) for fee in fees if (value := await _value_of(fee, past)) is not None]
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
        self._store, self._settings, self._pairs = store, settings, pairs
        self._possible = rates_of(pairs, settings, 0)
        self._direct: dict[tuple[int, str, str], Rates] = {}
        self._every: dict[int, Rates] = {}

    async def at(self, at_ns: int, currency: str, into: str) -> Decimal | None:
        if self._possible.rate(currency, into) is None:
            return None
        key = (at_ns, currency, into)
        if key not in self._direct:
            symbols = sorted({pair.symbol for pair in self._pairs if {pair.base, pair.quote} == {currency, into}})
            self._direct[key] = rates_of(
                await self._store.prices(at_ns, symbols) if symbols else [], self._settings, at_ns
            )
        rate = self._direct[key].rate(currency, into)
        if rate is not None:
            return rate
        if at_ns not in self._every:
            if len(self._every) >= _MOMENTS_MAX:
                return None
            self._every[at_ns] = rates_of(await self._store.prices(at_ns), self._settings, at_ns)
        return self._every[at_ns].rate(currency, into)


def rates_of(pairs: Iterable[PricedPair], settings: Settings, at_ns: int) -> Rates:
    """Return the rates of fees and portfolios at a moment, by the settings."""
    limits = settings.portfolio
    return Rates.of(pairs, now_ns=at_ns, age_max_s=limits.rate_age_max_s, equals=limits.equals)


@dataclass(frozen=True, slots=True)
class ValuedPortfolio:
    """A portfolio's holdings at a moment, the positions in them, the prices and rates that they were valued at, and
    the money put in by then, by currency."""

    valuation: Valuation
    positions: list[HeldPosition]
    prices: list[PricedPair]
    rates: Rates
    invested: dict[str, Decimal]


async def value_portfolio(db: Querier, settings: Settings, portfolio: Portfolio, at_ns: int) -> ValuedPortfolio:
    """Return the holdings of a portfolio with their values at a moment. Errors: OutageError."""
    store, pairs = PortfolioStore(db), await ValuationStore(db).prices(at_ns)
    rates = rates_of(pairs, settings, at_ns)
    contracts = await store.contracts(portfolio.id)
    last = _contract_prices([pair for pair in pairs if pair.symbol in contracts], settings, at_ns)
    holdings, positions = await store.holdings(portfolio.id, last)
    valuation = value_holdings(holdings, rates, portfolio.base_currency)
    invested = valuation.invested
    for asset, amount in (await store.transferred(portfolio.id)).items():
        invested[asset] = invested.get(asset, Decimal(0)) + amount
    return ValuedPortfolio(valuation, positions, pairs, rates, invested)


def _contract_prices(pairs: list[PricedPair], settings: Settings, at_ns: int) -> dict[str, Decimal | None]:
    """Return the newest price of each contract; None for one that is too old while its market is open."""
    oldest_ns = at_ns - int(settings.portfolio.rate_age_max_s * 1e9)
    found: dict[str, Decimal | None] = {}
    for pair in sorted(pairs, key=lambda pair: pair.time_ns):
        is_old = pair.time_ns < oldest_ns
        if is_old and (name := futures_calendar(pair.exchange, pair.symbol)) is not None:
            is_old = is_open_at(calendar_of(name), at_ns)  # the last price of a closed session stays its price
        found[pair.symbol] = None if is_old else pair.price
    return found


def _state(now: ValuedPortfolio) -> tuple[dict[str, Any], dict[str, Rate]]:
    """Return the holdings, and the rates of all assets in them, for later valuations and attributions."""
    holdings, into = [row.holding for row in now.valuation.holdings], now.valuation.currency
    assets = {holding.asset for holding in holdings}.union(*((p.base, p.quote) for p in now.positions if p.quantity))
    rates = {asset: rate for asset in sorted(assets) if (rate := now.rates.find(asset, into)) is not None}
    return state_json(holdings, now.positions), rates


async def note_portfolio_equity(db: Database, settings: Settings, *, is_due_only: bool = False) -> str:
    """Write the equity of each active portfolio, now, and return a line about them. `is_due_only`: of those whose day
    has ended since the last one, or that had a deposit or withdrawal. Errors: OutageError."""
    noted = incomplete = 0
    due = await PortfolioStore(db).equity_due() if is_due_only else None
    for portfolio in await PortfolioStore(db).all() if due is None or due else ():
        if due is not None and portfolio.id not in due:
            continue
        async with db.transaction() as tx:
            store = PortfolioStore(tx)
            at = await store.lock(portfolio.id)
            if at is None:
                continue
            now = await value_portfolio(tx, settings, portfolio, to_ns(at))
            flow = net_flow(now.valuation, now.invested, await store.before(portfolio.id), now.rates)
            await store.note_equity(portfolio.id, at, now.valuation, flow, now.invested, *_state(now))
        noted, incomplete = noted + 1, incomplete + (not now.valuation.is_complete or flow is None)
    return f"{noted} portfolios" + (f", {incomplete} without a rate for all" if incomplete else "")
