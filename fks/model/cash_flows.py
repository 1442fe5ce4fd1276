"""Events of an instrument: dividends and splits of a share, funding of a perpetual, and the end of its trading."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_CEILING, Decimal

#: exchanges of which every symbol without an expiry is a perpetual, as `fks data import` names them
_OF_PERPETUALS = frozenset(("binanceusdm", "binancecoinm", "bybitlinear"))
_PERPETUAL_ENDS = ("PERP", "SWAP")
_LEAST_PART = Decimal("1e-12")  # of a share, of an order that was split


@dataclass(frozen=True, slots=True, order=True)
class Dividend:
    """Cash for each share that is held when `day`, the ex-day, begins.

    Units: `amount` in `currency` for a share of that day ("" = the quote currency). `type` keeps several of one day
    apart, as the source names them; `declared` is the day from which on it was known.
    """

    day: date
    amount: Decimal
    currency: str = ""
    pay_day: date | None = None
    type: str = ""
    declared: date | None = None


@dataclass(frozen=True, slots=True, order=True)
class FundingRate:
    """Funding of a perpetual: a long position pays its value times `rate` at `time_ns`, a short one receives it.

    `mark` is the price of that value; None = it is not known.
    """

    time_ns: int
    rate: Decimal
    mark: Decimal | None = None


@dataclass(frozen=True, slots=True, order=True)
class SplitDay:
    """A split on the day on which its market first trades the new shares: `new` for each `old` one. 1 for 1 says that
    the price only moved."""

    day: date
    new: int
    old: int = 1

    @property
    def ratio(self) -> str:
        return f"{self.new}:{self.old}"


def split_quantity(value: Decimal, new: int, old: int) -> Decimal:
    """Return an order's quantity after a split of `new` shares for `old` ones, rounded up at 1e-12: parts of orders are
    together never less than the position that is made of them."""
    found = value * new / old
    return found if found == found.to_integral_value() else found.quantize(_LEAST_PART, ROUND_CEILING)


@dataclass(frozen=True, slots=True)
class PositionSplit:
    """The effect of a split on what an account holds of a symbol at a venue, all instances together. `id` follows from
    account, venue, symbol and day; `error`: why the positions were left as they are."""

    id: uuid.UUID
    account_id: int
    venue: str
    exchange: str
    symbol: str
    day: date
    new_shares: int
    old_shares: int
    effective_ns: int
    quantity_before: Decimal = Decimal(0)
    quantity_after: Decimal = Decimal(0)
    error: str = ""

    @property
    def key(self) -> tuple[int, str, str]:
        """Return account, venue and symbol."""
        return self.account_id, self.venue, self.symbol

    def quantity(self, value: Decimal) -> Decimal:
        """Return a quantity in the new shares."""
        return value * self.new_shares / self.old_shares

    def price(self, value: Decimal) -> Decimal:
        """Return a price, or a distance of prices, in the new shares."""
        return value * self.old_shares / self.new_shares


@dataclass(frozen=True, slots=True)
class FetchedEvents:
    """Events of one symbol as an exchange lists them. `exchange`: under which they belong, where that is another name
    than the source's own."""

    splits: tuple[SplitDay, ...] = ()
    dividends: tuple[Dividend, ...] = ()
    funding: tuple[FundingRate, ...] = ()
    exchange: str = ""


@dataclass(frozen=True, slots=True)
class InstrumentEvents:
    """Events of one instrument that move a backtest's money. `delisted` is the first day without trading.

    `is_funding_left_out`: the caller wants a perpetual without its funding.
    """

    dividends: tuple[Dividend, ...] = ()
    funding: tuple[FundingRate, ...] = ()
    delisted: date | None = None
    is_funding_left_out: bool = False


def is_perpetual(exchange: str, symbol: str) -> bool:
    """Return whether a symbol's name, or its exchange, is that of a perpetual: BTC-PERP, BTC-USDT-SWAP, TRXUSD_PERP, or
    BTCUSDT of Binance's futures."""
    name = symbol.upper()
    has_expiry = "_" in name or "-" in name  # BTCUSDT_260327, BTC-27MAR26
    return name.endswith(_PERPETUAL_ENDS) or (exchange.lower() in _OF_PERPETUALS and not has_expiry)
