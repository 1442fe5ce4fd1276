"""The profit of one trading day in each currency, for limits. Pure.

Every limit is valued in the account's currency, at the rates of `fks.model.accounting.valuation`; without a rate
entries are denied (PRICE_MISSING).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from fks.model.instrument import Instrument
from fks.model.order import Fill, Side
from fks.model.timeframe import to_datetime, to_ns
from fks.trading.portfolio.position import net_quantity

_ZERO = Decimal(0)


def day_start_ns(now_ns: int, zone: str, hour: int) -> int:
    """Return the start of a moment's trading day: the last time that it was `hour` o'clock in `zone`."""
    here = to_datetime(now_ns).astimezone(ZoneInfo(zone))
    start = here.replace(hour=hour, minute=0, second=0, microsecond=0, fold=0)
    if start > here:
        before = (here - timedelta(days=1)).date()
        start = datetime(before.year, before.month, before.day, hour, tzinfo=here.tzinfo)
    return to_ns(start)


@dataclass(frozen=True, slots=True)
class Flow:
    """Amounts that a day's executions in one symbol moved: base bought less sold (net of base fees), quote received
    less paid."""

    quantity: Decimal = _ZERO
    cash: Decimal = _ZERO


@dataclass(frozen=True, slots=True)
class DayFlows:
    """A day's executions of one account: flows by symbol, and fees by currency that were not taken from the base
    bought."""

    flows: Mapping[str, Flow] = field(default_factory=dict)
    fees: Mapping[str, Decimal] = field(default_factory=dict)

    def after(self, fill: Fill, instrument: Instrument) -> DayFlows:
        """Return the flows with one more execution."""
        return self.with_turnover(
            instrument, fill.side, fill.quantity, fill.quantity * fill.price, fill.fee, fill.fee_currency
        )

    def with_turnover(
        self, instrument: Instrument, side: Side, quantity: Decimal, value: Decimal, fee: Decimal, fee_currency: str
    ) -> DayFlows:
        """Return the flows with executions on one side. Units: `quantity` base, `value` = sum of quantity times
        price."""
        old = self.flows.get(instrument.symbol, Flow())
        moved = Flow(
            old.quantity + net_quantity(side, quantity, fee, fee_currency, instrument),
            old.cash - side.sign * value * instrument.multiplier,
        )
        fees = self.fees
        if fee and fee_currency != instrument.base:
            fees = {**fees, fee_currency: fees.get(fee_currency, _ZERO) + fee}
        return DayFlows({**self.flows, instrument.symbol: moved}, fees)


@dataclass(frozen=True, slots=True)
class DayProfit:
    """The profit of a day by currency (a loss is negative), and the symbols whose price is missing for it."""

    by_currency: Mapping[str, Decimal]
    unpriced: tuple[str, ...] = ()


def symbol_profit(
    now: Decimal, flow: Flow, instrument: Instrument | None, price: Decimal | None, start_price: Decimal | None
) -> Decimal | None:
    """Return what one symbol adds to the day's profit, in its quote; None without an instrument or a price for it.

    It is the holding of `now` at its price, less the holding of the start at its price then (without one: at the price
    now), plus the quote that executions brought in.
    """
    before = now - flow.quantity
    if not (now or before or flow.cash):
        return _ZERO
    if instrument is None or ((now or before) and price is None):
        return None
    if price is None:
        return flow.cash
    start = price if start_price is None else start_price
    return flow.cash + (now * price - before * start) * instrument.multiplier


def day_profit(
    positions: Mapping[str, Decimal],
    day: DayFlows,
    instruments: Mapping[str, Instrument],
    prices: Mapping[str, Decimal],
    start_prices: Mapping[str, Decimal],
) -> DayProfit:
    """Return realised profit, the change of open profit since the day's start, and all fees, by currency.

    They are one sum (`symbol_profit`), less fees: so nothing but the prices at the day's start has to be remembered.
    `positions`: base held now by symbol, without external holdings.
    """
    parts: list[tuple[str, str, Decimal | None]] = []
    for symbol in sorted({*positions, *day.flows}):
        instrument = instruments.get(symbol)
        now, flow = positions.get(symbol, _ZERO), day.flows.get(symbol, Flow())
        profit = symbol_profit(now, flow, instrument, prices.get(symbol), start_prices.get(symbol))
        parts.append((symbol, "" if instrument is None else instrument.quote, profit))
    return profit_of(parts, day.fees)


def profit_of(parts: Iterable[tuple[str, str, Decimal | None]], fees: Mapping[str, Decimal]) -> DayProfit:
    """Return the sum of what symbols add to the day's profit, less fees. `parts`: symbol, quote, `symbol_profit`."""
    totals: dict[str, Decimal] = {currency: -fee for currency, fee in fees.items()}
    unpriced: list[str] = []
    for symbol, quote, profit in parts:
        if profit is None:
            unpriced.append(symbol)
        elif profit:
            totals[quote] = totals.get(quote, _ZERO) + profit
    return DayProfit({currency: value for currency, value in totals.items() if value}, tuple(unpriced))


def held_over(positions: Mapping[str, Decimal], day: DayFlows) -> list[str]:
    """Return the symbols of which something was held when the day began: these need a price of that moment."""
    symbols = {*positions, *day.flows}
    return sorted(s for s in symbols if positions.get(s, _ZERO) != day.flows.get(s, Flow()).quantity)
