"""Values that limits compare, in each account's currency: rates, exposures, the day's loss, and the owners of coins.

Soft state beside the order cache. A day's executions, the prices at its start and its greatest loss are read again
after a restart, so LOSS_DAY holds until the day's end whatever restarts.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Protocol, TypedDict

from fks.config.settings import Settings
from fks.model.account import Account, Position
from fks.model.accounting.valuation import Rates, rates_into, valued
from fks.model.calendars import calendar_of, is_open_at
from fks.model.copies import copied_instance
from fks.model.errors import OutageError
from fks.model.futures import futures_calendar
from fks.model.instrument import Instrument
from fks.model.order import Fill, Order
from fks.store.facts import InstanceFacts, Mark
from fks.store.risk import RiskStore
from fks.trading.order_manager.correlations import Correlations
from fks.trading.portfolio.position import EXTERNAL
from fks.trading.risk.holdings import coins_of_others, entries_of
from fks.trading.risk.intent import Intent
from fks.trading.risk.valuation import DayFlows, Flow, day_start_ns, held_over, profit_of, symbol_profit

_ZERO = Decimal(0)
_NO_FLOW, _NO_FLOWS = Flow(), DayFlows()
_AT_START_NS = 5 * 10**9  # within this after the day's start the price now is the price at the start


@dataclass(frozen=True, slots=True)
class DayNews:
    """The result of a refresh: the day that began (its start, ns), and accounts whose loss reached the limit."""

    begun_ns: int | None = None
    reached: Mapping[int, Decimal] = field(default_factory=dict)


class CachedOrders(Protocol):
    """The part of the order cache, which holds these values, that is read here."""

    settings: Settings
    positions: dict[tuple[int, str, str, str], Position]
    instruments: dict[tuple[str, str], Instrument]
    accounts: dict[int, Account]
    instances: dict[str, InstanceFacts]
    marks: dict[tuple[str, str], Mark]

    def open_of(self, account_id: int) -> tuple[Order, ...]: ...
    def held_by(self, account_id: int) -> Mapping[str, Decimal]: ...
    def owned(self, account_id: int) -> list[Position]: ...
    def mark(self, exchange: str, symbol: str) -> Decimal | None: ...
    def position(self, account_id: int, venue: str, symbol: str, instance: str) -> Position: ...


class Values(TypedDict, total=False):
    """The fields of a View that this module knows; see there."""

    marks: Mapping[str, Decimal]
    instruments: Mapping[str, Instrument]
    exposures: Mapping[str, Decimal]
    shorts: frozenset[str]
    correlations: Mapping[str, float | None]
    rates: Mapping[str, Decimal]
    unvalued: tuple[str, ...]
    loss_today: Decimal
    coins_of_others: Decimal
    entries: int
    pyramiding: int


@dataclass(slots=True)
class _Listing:
    """Prices and instruments of one exchange, and the rates between currencies; made again when either was read
    again. `seen`: also metadata that this process has read before and that are gone."""

    marks: Mapping[tuple[str, str], Mark]
    listed: Mapping[tuple[str, str], Instrument]
    seen: Mapping[tuple[str, str], Instrument]
    prices: dict[str, Decimal]
    instruments: dict[str, Instrument]
    rates: Rates
    stale: frozenset[tuple[str, str]]  # whose last price is old while their market is open


@dataclass(frozen=True, slots=True)
class _Part:
    """The part of one symbol in the figures of an account, and the values it follows from beside prices."""

    held: Decimal
    flow: Flow
    quote: str
    profit: Decimal | None  # of the day, in `quote`; None: something that it needs is not known
    exposure: Decimal | None  # in the account's currency; likewise
    is_guess: bool = False  # at an old price


class _Figures:
    """Profit of the day and exposures of one account at the prices of one listing, kept by symbol.

    A symbol is valued again when its holding or the day's executions in it changed, so an order costs the valuation of
    its own symbol, however many the account holds.
    """

    def __init__(
        self, listing: _Listing, account: Account, exchange: str, start_prices: Mapping[tuple[str, str], Decimal]
    ) -> None:
        self.listing = listing
        self.account = account
        self._exchange = exchange
        self._start_prices = start_prices
        self._parts: dict[str, _Part] = {}
        self._fees: Mapping[str, Decimal] = {}

    def update(self, held: Mapping[str, Decimal], day: DayFlows) -> None:
        """Take in what is held now (base, by symbol) and the day's executions."""
        self._fees = day.fees
        for symbol in {*held, *day.flows, *self._parts}:
            quantity, flow = held.get(symbol, _ZERO), day.flows.get(symbol, _NO_FLOW)
            known = self._parts.get(symbol)
            if known is None or known.held != quantity or known.flow is not flow:
                self._parts[symbol] = self._valued(symbol, quantity, flow)

    def _valued(self, symbol: str, held: Decimal, flow: Flow) -> _Part:
        listing = self.listing
        key = _key(listing, self._exchange, symbol)
        if key is None:
            return _Part(held, flow, "", symbol_profit(held, flow, None, None, None), None)
        instrument, mark = listing.seen[key], listing.marks.get(key)
        # the last price of what is held is not its price when it is old: a loss would stay hidden. Of coins whose
        # metadata are gone no better one may ever come: they may lose what they were worth, and no more
        is_old = bool(held) and key in listing.stale
        is_guess = is_old and held > 0 and key not in listing.listed and not instrument.is_contract
        price = None if mark is None or (is_old and not is_guess) else mark.price
        profit = symbol_profit(held, flow, instrument, price, self._start_prices.get(key))
        rate, exposure = listing.rates.rate(instrument.quote, self.account.currency), None
        if price is not None and rate is not None:
            exposure = abs(held) * price * instrument.multiplier * rate
        return _Part(held, flow, instrument.quote, profit, exposure, is_guess)

    def profit(self) -> tuple[Decimal, tuple[str, ...]]:
        """Return the day's profit in the account's currency, and the holdings without a price."""
        profit = profit_of(((symbol, p.quote, p.profit) for symbol, p in self._parts.items()), self._fees)
        rates = rates_into(self.listing.rates, self.account.currency, profit.by_currency)
        total, missing = valued(profit.by_currency, rates)
        return total, (*profit.unpriced, *missing)

    def exposures(self) -> tuple[dict[str, Decimal], tuple[str, ...]]:
        """Return the value of the holdings, by symbol, in the account's currency; and those without a price."""
        held = [(symbol, part.exposure) for symbol, part in self._parts.items() if part.held]
        exposures = {symbol: exposure for symbol, exposure in held if exposure is not None}
        return exposures, tuple(symbol for symbol, exposure in held if exposure is None)

    def guesses(self) -> dict[str, Decimal]:
        """Return the exposures at an old price, by symbol: the day's loss may be greater by their sum at most."""
        parts = ((symbol, part.exposure) for symbol, part in self._parts.items() if part.held and part.is_guess)
        return {symbol: exposure for symbol, exposure in parts if exposure is not None}


class AccountValues:
    """Values for the checks of one order manager. Everything but `refresh` is synchronous and reads no table."""

    def __init__(self, store: RiskStore | None = None, correlations: Correlations | None = None) -> None:
        self._store = store
        self._correlations = Correlations() if correlations is None else correlations
        self._day_ns = 0
        self._flows: dict[int, DayFlows] = {}
        self._noted: set[uuid.UUID] = set()  # executions of the day that are in the flows
        self._meanwhile: list[tuple[Fill, str, Instrument]] | None = None  # booked while a day's rows are read
        self._start_prices: dict[tuple[str, str], Decimal] = {}
        self._losses: dict[int, Decimal] = {}  # the greatest of the day, by account
        self._saved: dict[int, Decimal] = {}
        self._news = DayNews()  # found, and not returned yet
        self._listings: dict[str, _Listing] = {}
        self._seen: dict[tuple[str, str], Instrument] = {}  # the newest metadata of each instrument
        self._closed: frozenset[tuple[str, str]] = frozenset()  # feeds whose market is closed now
        self._figures: dict[tuple[int, str], _Figures] = {}  # by account and the exchange whose prices come first

    # ── the day ──────────────────────────────────────────────────────────────────────────────────
    def note(self, fill: Fill, instance: str, instrument: Instrument) -> None:
        """Count an execution that was booked; the same one again, or one of an earlier day, changes nothing."""
        if (
            (fill.time_ns < self._day_ns and self._meanwhile is None)
            or instance == EXTERNAL
            or fill.fill_id in self._noted
        ):
            return
        if self._meanwhile is not None:
            self._meanwhile.append((fill, instance, instrument))
            return
        self._noted.add(fill.fill_id)
        self._flows[fill.account_id] = self._flows.get(fill.account_id, DayFlows()).after(fill, instrument)

    async def refresh(self, cache: CachedOrders, now_ns: int) -> DayNews:
        """Begin a new day when it is time, and store what a restart must not forget.

        Errors: OutageError; the next call does what this one could not, and returns what this one found.
        """
        if self._store is None:
            return DayNews()
        limits = cache.settings.risk
        if names := {feed: name for feed in cache.marks if (name := futures_calendar(*feed)) is not None}:
            # the first look at a market makes its calendar, which takes seconds
            self._closed = await asyncio.to_thread(_closed_of, names, now_ns)
        day_ns = day_start_ns(now_ns, limits.day_zone, limits.day_start_hour)
        if day_ns != self._day_ns:
            await self._begin(cache, day_ns)
            self._news = DayNews(begun_ns=day_ns)
        for account_id in list(cache.accounts):
            await self._save_start_prices(cache, account_id, now_ns)
            self._loss_of(cache, cache.accounts[account_id], "", now_ns)
            loss, saved = self._losses.get(account_id, _ZERO), self._saved.get(account_id)
            if loss >= limits.loss_day_max and (saved is None or loss > saved):
                await self._store.save_loss(account_id, self._day_ns, loss)
                self._saved[account_id] = loss
                if saved is None or saved < limits.loss_day_max:
                    self._news = replace(self._news, reached={**self._news.reached, account_id: loss})
        news = self._news
        try:
            await self._correlations.refresh(cache.marks.keys(), limits, now_ns)
        except OutageError:
            if news == DayNews():
                raise
            # the next call reads them again; what was stored above is reported by this call or never
        self._news = DayNews()
        return news

    async def _begin(self, cache: CachedOrders, day_ns: int) -> None:
        assert self._store is not None
        self._meanwhile = []
        try:
            rows = await self._store.turnover(day_ns)
            prices, losses = await self._store.start_prices(day_ns), await self._store.losses(day_ns)
        except BaseException:
            meanwhile, self._meanwhile = self._meanwhile, None
            self._note_all(meanwhile)
            raise
        meanwhile, self._meanwhile = self._meanwhile, None
        self._day_ns, self._start_prices = day_ns, prices
        self._losses, self._saved = dict(losses), dict(losses)
        self._flows, self._noted = {}, set()
        self._figures.clear()
        self._seen.update(cache.instruments)
        for row in rows:
            instrument = next((i for (_, symbol), i in self._seen.items() if symbol == row.symbol), None)
            if instrument is None:
                continue  # nothing about it can be priced
            self._noted.update(row.fill_ids)
            self._flows[row.account_id] = self._flows.get(row.account_id, DayFlows()).with_turnover(
                instrument, row.side, row.quantity, row.value, row.fee, row.fee_currency
            )
        self._note_all(meanwhile)

    def _note_all(self, booked: list[tuple[Fill, str, Instrument]]) -> None:
        for fill, instance, instrument in booked:
            self.note(fill, instance, instrument)

    async def _save_start_prices(self, cache: CachedOrders, account_id: int, now_ns: int) -> None:
        """Find and store the price at the day's start of each holding of then: the price now when the day is seconds
        old, else the close of the minute before it, else the first price that is known."""
        assert self._store is not None
        flows = self._flows.get(account_id, DayFlows())
        for symbol in held_over(cache.held_by(account_id), flows):
            for key in [key for key in cache.marks if key[1] == symbol and key not in self._start_prices]:
                price = cache.mark(*key)
                if now_ns - self._day_ns > _AT_START_NS:
                    price = await self._store.close_before(*key, self._day_ns) or price
                if price is not None:
                    await self._store.save_start_price(self._day_ns, *key, price)
                    self._start_prices[key] = price
                    self._figures.clear()

    def _loss_of(
        self, cache: CachedOrders, account: Account, exchange: str, now_ns: int
    ) -> tuple[Decimal, tuple[str, ...]]:
        """Return the greatest loss of the day so far when it reached the limit, else the loss now; and the symbols
        without a price."""
        total, unvalued = self._figures_of(cache, account, exchange, now_ns).profit()
        loss = -total
        if not unvalued and loss > self._losses.get(account.id, _ZERO):
            self._losses[account.id] = loss
        worst = self._losses.get(account.id, _ZERO)
        return (worst if worst >= cache.settings.risk.loss_day_max else loss), unvalued

    def _figures_of(self, cache: CachedOrders, account: Account, exchange: str, now_ns: int) -> _Figures:
        """Return the figures of an account as of now."""
        listing = self._listing(cache, exchange, now_ns)
        known = self._figures.get((account.id, exchange))
        if known is None or known.listing is not listing or known.account is not account:
            known = self._figures[account.id, exchange] = _Figures(listing, account, exchange, self._start_prices)
        known.update(cache.held_by(account.id), self._flows.get(account.id, _NO_FLOWS))
        return known

    def figures(self, cache: CachedOrders, now_ns: int) -> dict[str, tuple[Decimal | None, Decimal | None]]:
        """Return each account's profit of the day and exposure, by name; None where something held has no price."""
        found = {}
        for account in cache.accounts.values():
            now = self._figures_of(cache, account, "", now_ns)
            profit, unpriced = now.profit()
            exposures, unvalued = now.exposures()
            exposure, is_old = sum(exposures.values(), _ZERO), bool(now.guesses())
            found[account.name] = (None if unpriced or is_old else profit, None if unvalued or is_old else exposure)
        return found

    # ── views ────────────────────────────────────────────────────────────────────────────────────
    def of(self, cache: CachedOrders, intent: Intent, now_ns: int) -> Values:
        """Return what a view of `intent` needs."""
        listing = self._listing(cache, intent.exchange, now_ns)
        account = cache.accounts.get(intent.account_id)
        if account is None:
            return Values(marks=listing.prices, instruments=listing.instruments)
        orders = cache.open_of(account.id)
        prices, instruments = listing.prices, listing.instruments
        for order in orders:
            if order.symbol not in instruments and (order.exchange, order.symbol) in self._seen:
                instruments = {**instruments, order.symbol: self._seen[order.exchange, order.symbol]}
                if (price := cache.mark(order.exchange, order.symbol)) is not None:
                    prices = {**prices, order.symbol: price}
        quotes = {i.quote for o in orders if (i := instruments.get(o.symbol)) is not None}
        instrument = instruments.get(intent.symbol)
        if instrument is not None:
            quotes.add(instrument.quote)
        loss, unvalued = self._loss_of(cache, account, intent.exchange, now_ns)
        held = cache.held_by(account.id)
        figures = self._figures_of(cache, account, intent.exchange, now_ns)
        exposures, unpriced = figures.exposures()
        unvalued, guesses = (*unvalued, *unpriced), figures.guesses()
        if loss + sum(guesses.values(), _ZERO) >= cache.settings.risk.loss_day_max:
            unvalued = (*unvalued, *guesses)
        entries, pyramiding = 0, 1
        if instrument is not None and intent.instance:
            own = cache.position(account.id, intent.venue, intent.symbol, intent.instance)
            entries = entries_of(intent, own, orders, instrument, prices.get(intent.symbol))
            instance = cache.instances.get(copied_instance(intent.instance) or intent.instance)
            pyramiding = 1 if instance is None else instance.pyramiding
        return Values(
            marks=prices,
            instruments=instruments,
            exposures=exposures,
            shorts=frozenset(symbol for symbol, quantity in held.items() if quantity < 0),
            correlations=self._correlations.of(
                (intent.exchange, intent.symbol),
                (key for s in {*held, *(o.symbol for o in orders)} if (key := _key(listing, intent.exchange, s))),
                cache.settings.risk,
                now_ns,
            ),
            rates=rates_into(listing.rates, account.currency, quotes),
            unvalued=tuple(sorted(set(unvalued))),
            loss_today=loss,
            coins_of_others=coins_of_others(intent, cache.owned(account.id), orders, instruments),
            entries=entries,
            pyramiding=pyramiding,
        )

    def rates(self, cache: CachedOrders, exchange: str, now_ns: int) -> Rates:
        """Return the rates of last prices, those of `exchange` first."""
        return self._listing(cache, exchange, now_ns).rates

    def _listing(self, cache: CachedOrders, exchange: str, now_ns: int) -> _Listing:
        known = self._listings.get(exchange)
        if known is not None and known.marks is cache.marks and known.listed is cache.instruments:
            return known
        self._seen.update(cache.instruments)
        oldest_ns = now_ns - int(cache.settings.risk.rate_age_max_s * 1e9)
        stale_ns = now_ns - int(cache.settings.risk.mark_age_max_s * 1e9)
        fresh = {
            key: mark.price
            for key, mark in cache.marks.items()
            if mark.price is not None and mark.message_ns is not None and mark.message_ns >= oldest_ns
        }
        made = _Listing(
            marks=cache.marks,
            listed=cache.instruments,
            seen=self._seen,
            prices={
                symbol: m.price for (on, symbol), m in cache.marks.items() if on == exchange and m.price is not None
            },
            instruments={symbol: i for (on, symbol), i in self._seen.items() if on == exchange},
            rates=Rates(fresh, cache.instruments, exchange),
            stale=frozenset(
                key
                for key, mark in cache.marks.items()
                if (mark.message_ns is None or mark.message_ns < stale_ns) and key not in self._closed
            ),
        )
        self._listings[exchange] = made
        return made


def _key(listing: _Listing, exchange: str, symbol: str) -> tuple[str, str] | None:
    """Return where a symbol is listed, or was: at `exchange`, else at another one, by name, that has a price of it."""
    for known in (listing.listed, listing.seen):
        if (exchange, symbol) in known:
            return exchange, symbol
        if found := [key for key in known if key[1] == symbol]:
            return min(found, key=lambda key: (key not in listing.marks, key))
    return None


def _closed_of(calendars: Mapping[tuple[str, str], str], now_ns: int) -> frozenset[tuple[str, str]]:
    """Return the feeds whose market is closed: their last price is fresh however old it is. A market without a calendar
    is always open."""
    shut = {name for name in {*calendars.values()} if not is_open_at(calendar_of(name), now_ns)}
    return frozenset(feed for feed, name in calendars.items() if name in shut)
