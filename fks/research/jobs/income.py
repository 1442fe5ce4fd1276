"""Dividends, splits and funding of a portfolio: expected by the stored events, beside what is booked."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import NamedTuple

from fks.market.history.gaps import calendar_for
from fks.model.calendars import ALWAYS, midnight_ns
from fks.model.cash_flows import is_perpetual
from fks.model.futures import instrument_of_symbol
from fks.model.instrument import assumed_instrument
from fks.model.timeframe import to_datetime, to_ns
from fks.store.corporate_actions import DIVIDEND, SPLIT, CorporateActionStore
from fks.store.db import Database, Row, Transaction
from fks.store.valuation import ValuationStore
from fks.trading.portfolio.income import (
    BookedPayment,
    ExpectedPayment,
    HeldSymbol,
    PositionMove,
    dividends,
    funding,
    splits,
    unlisted,
)

#: A close is the price of a funding time until so long after its bar.
_PRICE_AGE_S = 3600.0


class _Events(NamedTuple):
    """The stored events of a held symbol, and the amounts that they make of its quantities. `times_ns`: those at which
    a quantity is asked for."""

    row: Row
    place: tuple[str, str, str, str, str, Decimal]
    times_ns: list[int]
    of: Callable[[HeldSymbol], list[ExpectedPayment]]


async def expected_income(
    db: Database, portfolio_id: int, start_ns: int, end_ns: int
) -> tuple[list[ExpectedPayment], list[BookedPayment]]:
    """Return the amounts that the events in [start, end) should have brought the present members' positions, oldest
    first, and the booked ones: splits that were applied, and differences that a person adopted as dividend or funding.

    All is of one moment; start and end are whole microseconds. Errors: OutageError.
    """
    start_ns, end_ns = (at_ns - at_ns % 1000 for at_ns in (start_ns, end_ns))
    start, end = to_datetime(start_ns), to_datetime(end_ns)
    found: list[ExpectedPayment] = []
    async with db.transaction(isolation="repeatable_read", is_readonly=True) as tx:
        rows = await tx.fetch("portfolios.held", portfolio_id, start)
        symbols = [await _events_of(tx, row, start_ns, end_ns) for row in rows]
        moves: dict[tuple[int, str, str], list[PositionMove]] = {}
        for row in await tx.fetch("portfolios.position_splits", portfolio_id, start):
            move = PositionMove(to_ns(row["time"]), row["quantity"], row["ratio"], is_split=True)
            moves.setdefault(_key(row), []).append(move)
        times = {start_ns, end_ns, *(at_ns for one in symbols for at_ns in one.times_ns)}
        times |= {move.time_ns for of in moves.values() for move in of}
        for row in await tx.fetch("portfolios.position_moves", portfolio_id, [to_datetime(at) for at in sorted(times)]):
            moves.setdefault(_key(row), []).append(PositionMove(to_ns(row["time"]), row["quantity"]))
        for one in symbols:
            of = sorted(moves.get(_key(one.row), []), key=lambda move: (move.time_ns, not move.is_split))
            if one.row["quantity"] or of:
                found += one.of(HeldSymbol(*one.place, one.row["quantity"], of))
        booked = [BookedPayment(**dict(row)) for row in await tx.fetch("portfolios.booked", portfolio_id, start, end)]
    return sorted(found, key=lambda row: (row.time_ns, row.account, row.symbol, row.kind)), booked


def _key(row: Row) -> tuple[int, str, str]:
    return row["account_id"], row["venue"], row["symbol"]


async def _events_of(tx: Transaction, row: Row, start_ns: int, end_ns: int) -> _Events:
    exchange, symbol, quote, multiplier = row["exchange"] or "", row["symbol"], row["quote"], row["multiplier"]
    contract = instrument_of_symbol(exchange, symbol)
    if quote is None:
        item = contract or assumed_instrument(exchange, symbol, "")
        quote, multiplier = item.quote, item.multiplier
    place, store = (row["account"], row["venue"], exchange, symbol, quote, multiplier), CorporateActionStore(tx)
    rates = await store.funding(exchange, symbol, start_ns, end_ns)
    if rates or is_perpetual(exchange, symbol):
        times = [rate.time_ns for rate in rates if rate.mark is None]
        closes: dict[int, Decimal] = {}
        if times:
            stored = await ValuationStore(tx).closes_at([(exchange, symbol)], times, _PRICE_AGE_S)
            prices = zip(times, stored.get((exchange, symbol), ()), strict=False)
            closes = {at: Decimal(repr(float(price))) for at, price in prices if price == price}
        every = [rate.time_ns for rate in rates]
        return _Events(row, place, every, lambda held: funding(held, rates, closes, start_ns, end_ns))
    calendar = calendar_for(exchange, row["calendar"], symbol)
    events = await store.events(exchange, symbol)
    if not events and contract is None and calendar != ALWAYS:
        return _Events(row, place, [], lambda held: unlisted(held, start_ns))
    days = [(midnight_ns(calendar, event.day), event) for event in events]
    inside = [(at_ns, event) for at_ns, event in days if start_ns <= at_ns < end_ns]
    paid = [
        (at_ns, event.amount, event.currency)
        for at_ns, event in inside
        if event.kind == DIVIDEND and event.amount is not None
    ]
    split = [(at_ns, event.split.new, event.split.old) for at_ns, event in inside if event.kind == SPLIT]
    every = [at_ns for at_ns, _ in inside]
    return _Events(row, place, every, lambda held: dividends(held, paid) + splits(held, split))
