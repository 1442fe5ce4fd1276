"""Events of an instrument: dividends and splits of a share, funding of a perpetual, and the end of its trading."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

#: exchanges of which every symbol without an expiry is a perpetual, as `fks data import` names them
_OF_PERPETUALS = frozenset(("binanceusdm", "binancecoinm", "bybitlinear"))
_PERPETUAL_ENDS = ("PERP", "SWAP")


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
