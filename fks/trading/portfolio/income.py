"""Dividends, splits and funding that a portfolio's holdings should have had, by the events that are stored. Pure.

The expected amount of an event is the quantity held then, times its rate. An amount that is not known is None, never
zero: of a funding rate without a price, and of a time of which no event is stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Any, NamedTuple

from fks.model.cash_flows import FundingRate

#: Funding is due at least so often; a longer time without a rate is one of which none is stored.
FUNDING_GAP_NS = 8 * 3600 * 10**9 + 60 * 10**9
DIVIDEND, SPLIT, FUNDING = "dividend", "split", "funding"
#: kinds that are booked, but never expected: no table has rates of them
NOT_EXPECTED = ("interest", "swap")
_ZERO, _PART = Decimal(0), Decimal("1e-12")  # of a quantity before a split: a ratio of 1 for 3 has no last digit


class PositionMove(NamedTuple):
    """A change of a position by `quantity`: executions (signed, less fees in the asset) that no event is between, or a
    split. `ratio`: new shares for an old one, of a split whose change of the position is not known."""

    time_ns: int
    quantity: Decimal = _ZERO
    ratio: Decimal | None = None
    is_split: bool = False


@dataclass(frozen=True, slots=True)
class HeldSymbol:
    """The members' position in a symbol on an account, now, and the moves since the period began, oldest first."""

    account: str
    venue: str
    exchange: str
    symbol: str
    quote: str
    multiplier: Decimal
    quantity: Decimal
    moves: Sequence[PositionMove]

    def quantities(self, times_ns: Iterable[int]) -> dict[int, Decimal]:
        """Return the quantity at each moment: before its executions, after its split."""
        left, found, held = list(self.moves), {}, self.quantity
        for at_ns in sorted(set(times_ns), reverse=True):
            while left and (left[-1].time_ns > at_ns or (left[-1].time_ns == at_ns and not left[-1].is_split)):
                move = left.pop()
                held = held - move.quantity if move.ratio is None else (held / move.ratio).quantize(_PART)
            found[at_ns] = held
        return found


@dataclass(frozen=True, slots=True)
class ExpectedPayment:
    """The amount that an event should have brought, or cost (negative), in `currency`; of a split its shares.

    `rate`: cash a share, new shares for an old one, or the funding rate; `expected` None: not known, `note` says why.
    """

    account: str
    venue: str
    symbol: str
    kind: str
    time_ns: int
    quantity: Decimal
    rate: Decimal | None
    expected: Decimal | None
    currency: str
    note: str = ""


class BookedPayment(NamedTuple):
    """An amount that an account's books have of a kind of event."""

    account: str
    kind: str
    currency: str
    amount: Decimal


def dividends(held: HeldSymbol, listed: Iterable[tuple[int, Decimal, str]]) -> list[ExpectedPayment]:
    """Return the cash of dividends: (start of the ex-day, cash a share, currency or "" for the quote)."""
    rows = list(listed)
    at = held.quantities(time_ns for time_ns, _, _ in rows)
    return [
        _payment(held, DIVIDEND, time_ns, at[time_ns], rate, at[time_ns] * held.multiplier * rate, currency)
        for time_ns, rate, currency in rows
        if at[time_ns]
    ]


def splits(held: HeldSymbol, listed: Iterable[tuple[int, int, int]]) -> list[ExpectedPayment]:
    """Return the shares that splits bring, or take: (start of their day, new shares, old shares)."""
    rows = list(listed)
    at = held.quantities(time_ns - 1 for time_ns, _, _ in rows)
    return [
        _payment(held, SPLIT, time_ns, before, Decimal(new) / old, before * (new - old) / old, held.symbol)
        for time_ns, new, old in rows
        if (before := at[time_ns - 1])
    ]


def funding(
    held: HeldSymbol, rates: Sequence[FundingRate], closes: Mapping[int, Decimal], start_ns: int, end_ns: int
) -> list[ExpectedPayment]:
    """Return the funding of a perpetual in [start, end): a long position pays its value times the rate.

    `closes`: prices at times whose rate has no mark price. A holding of a time without a rate has no known funding.
    """
    ends = [start_ns, *(rate.time_ns for rate in rates), end_ns]
    at, found = held.quantities(ends), []
    for rate in rates:
        if quantity := at[rate.time_ns]:
            price = rate.mark if rate.mark is not None else closes.get(rate.time_ns)
            amount = None if price is None else -quantity * held.multiplier * price * rate.rate
            note = "" if price is not None else "no price is stored for that time"
            found.append(_payment(held, FUNDING, rate.time_ns, quantity, rate.rate, amount, "", note))
    for first, last in pairwise(ends):
        is_held = at[first] or at[last] or any(first <= move.time_ns < last for move in held.moves)
        if last - first > FUNDING_GAP_NS and is_held:
            note = f"no funding rate is stored for {(last - first) // (3600 * 10**9)} hours"
            found.append(_payment(held, FUNDING, first, at[first], None, None, "", note))
    return sorted(found, key=lambda row: row.time_ns)


def unlisted(held: HeldSymbol, start_ns: int) -> list[ExpectedPayment]:
    """Return an unknown dividend of a share that was held; none of its events is stored."""
    at = held.quantities([start_ns])[start_ns]
    if not at and not held.quantity and not held.moves:
        return []
    return [_payment(held, DIVIDEND, start_ns, at, None, None, "", "no event of the symbol is stored")]


def compared(expected: Iterable[ExpectedPayment], booked: Iterable[BookedPayment]) -> list[dict[str, Any]]:
    """Return the expected and the booked amounts by account, kind and currency.

    One event that is not known makes the sum, and the difference (booked less expected), not known: `known` is the sum
    of the others. Of NOT_EXPECTED it is not known.
    """
    found: dict[tuple[str, str, str], dict[str, Any]] = {}

    def line(account: str, kind: str, currency: str) -> dict[str, Any]:
        names = {"account": account, "kind": kind, "currency": currency}
        return found.setdefault((account, kind, currency), {**names, "known": _ZERO, "unknown": 0, "booked": _ZERO})

    for row in expected:
        of = line(row.account, row.kind, row.currency)
        if row.expected is None:
            of["unknown"] += 1
        else:
            of["known"] += row.expected
    for payment in booked:
        line(payment.account, payment.kind, payment.currency)["booked"] += payment.amount
    for of in found.values():
        is_known = not of["unknown"] and of["kind"] not in NOT_EXPECTED
        of["expected"] = of["known"] if is_known else None
        of["difference"] = of["booked"] - of["known"] if is_known else None
    return [found[key] for key in sorted(found)]


def _payment(
    held: HeldSymbol,
    kind: str,
    time_ns: int,
    quantity: Decimal,
    rate: Decimal | None,
    amount: Decimal | None,
    currency: str,
    note: str = "",
) -> ExpectedPayment:
    names = (held.account, held.venue, held.symbol)
    return ExpectedPayment(*names, kind, time_ns, quantity, rate, amount, currency or held.quote, note)
