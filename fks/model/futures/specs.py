"""Contract specifications of CME Group futures as data: tick, point value, listed months, last trading day, roll rule.

Each row has the page that it was read from and the day of that reading. They are for names, dates, backtests and checks.
Of a live account the platform's own tick size and point value count: a difference to this table is refused there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from enum import StrEnum

from fks.model.errors import not_found

#: codes of the months January to December, as all exchanges write them
MONTH_CODES = "FGHJKMNQUVXZ"
_READ = date(2026, 11, 20)  # the day on which the pages below were read


class LastDay(StrEnum):
    """Rule for the last trading day of a contract. Days are business days of the exchange; docs/futures.md."""

    THIRD_FRIDAY = "third_friday"  # or the business day before it
    CRUDE_OIL = "crude_oil"  # 3 before the 25th of the month before the contract month
    CRUDE_OIL_CASH = "crude_oil_cash"  # 1 before that of CRUDE_OIL
    METALS = "metals"  # third last of the contract month
    TREASURY = "treasury"  # 7 before the last of the contract month
    CURRENCY = "currency"  # 2 before the third Wednesday of the contract month


@dataclass(frozen=True, slots=True)
class ContractSpec:
    """Specification of one product. Units: `tick` in price units, `point_value` in USD for one price unit.

    `months`: codes of the listed months that FKS accepts; `front_months`: those that can be the front month, as the
    others trade thinly. `last_time`: end of trading on the last day, None: the session's end. `has_notice`: it is
    delivered, and notices begin on the last business day of the month before the contract month. `full_size`: root of
    the contract that a micro is a part of, and how many micros make one; (root, 1) for a full-size one.
    `is_in_32nds`: prices are shown in 32nds of a point.
    """

    root: str
    name: str
    exchange: str
    tick: Decimal
    point_value: Decimal
    months: str
    front_months: str
    last_day: LastDay
    last_time: time | None
    has_notice: bool
    full_size: tuple[str, int]
    is_in_32nds: bool
    source: str
    source_date: date = _READ
    currency: str = "USD"
    calendar: str = "CMES"

    @property
    def tick_value(self) -> Decimal:
        """Return the value of one tick of one contract, in USD."""
        return (self.tick * self.point_value).normalize()

    @property
    def is_micro(self) -> bool:
        """Return whether it is a part of another contract."""
        return self.full_size[1] > 1


def spec_of(root: str) -> ContractSpec:
    """Return the specification of a root. Errors: InputError CONTRACT_UNKNOWN naming the known ones."""
    found = SPECS.get(root.strip().upper())
    if found is None:
        raise not_found(
            "CONTRACT_UNKNOWN", f"there is no contract specification for {root!r}", f"known are {' '.join(SPECS)}"
        )
    return found


_INDEX, _CRUDE, _METAL, _BOND, _FX = "HMUZ", MONTH_CODES, "GJMQVZ", "HMUZ", "HMUZ"
_OPEN, _NOON, _FIXING = time(8, 30), time(12, 1), time(9, 16)  # America/Chicago
_AMP = "https://ampfutures.com/trading-info/contract-expirations"
_MICROS = (
    "https://www.tradestation.com/learn/market-basics/futures/micro-e-mini-futures/"
    "micro-e-mini-futures-contract-specifications/"
)
_MCL_PAGE = "https://cmegroup.com/education/articles-and-reports/micro-wti-crude-oil-futures-faq.html"
_GOLD = "https://www.kgieworld.sg/futures/cme-comex-gold-contractspecs"
_BOND_PAGE = (
    "https://www.cmegroup.com/trading/interest-rates/us-treasury/30-year-us-treasury-bond_contract_specifications.html"
)
_NOTE_PAGE = "http://www.spfutures.co.nz/10-year-t-note-futures"
_EURO_PAGE = "http://www.marketswiki.com/wiki/CME_Group_Euro_FX"

_L = LastDay
#: root, product, exchange, tick, point value, listed months, front months, last day, its time, notices, full size, 32nds,
#: source
_ROWS = (
    ("ES", "E-mini S&P 500", "CME", "0.25", "50", _INDEX, _INDEX, _L.THIRD_FRIDAY, _OPEN, False, ("ES", 1), False, _AMP),
    ("MES", "Micro E-mini S&P 500", "CME", "0.25", "5", _INDEX, _INDEX, _L.THIRD_FRIDAY, _OPEN, False, ("ES", 10), False, _MICROS),
    ("NQ", "E-mini Nasdaq-100", "CME", "0.25", "20", _INDEX, _INDEX, _L.THIRD_FRIDAY, _OPEN, False, ("NQ", 1), False, _AMP),
    ("MNQ", "Micro E-mini Nasdaq-100", "CME", "0.25", "2", _INDEX, _INDEX, _L.THIRD_FRIDAY, _OPEN, False, ("NQ", 10), False, _MICROS),
    ("RTY", "E-mini Russell 2000", "CME", "0.1", "50", _INDEX, _INDEX, _L.THIRD_FRIDAY, _OPEN, False, ("RTY", 1), False, _AMP),
    ("M2K", "Micro E-mini Russell 2000", "CME", "0.1", "5", _INDEX, _INDEX, _L.THIRD_FRIDAY, _OPEN, False, ("RTY", 10), False, _MICROS),
    ("YM", "E-mini Dow", "CBOT", "1", "5", _INDEX, _INDEX, _L.THIRD_FRIDAY, _OPEN, False, ("YM", 1), False, _AMP),
    ("MYM", "Micro E-mini Dow", "CBOT", "1", "0.5", _INDEX, _INDEX, _L.THIRD_FRIDAY, _OPEN, False, ("YM", 10), False, _MICROS),
    ("CL", "WTI crude oil", "NYMEX", "0.01", "1000", _CRUDE, _CRUDE, _L.CRUDE_OIL, None, False, ("CL", 1), False, _AMP),
    ("MCL", "Micro WTI crude oil", "NYMEX", "0.01", "100", _CRUDE, _CRUDE, _L.CRUDE_OIL_CASH, None, False, ("CL", 10), False, _MCL_PAGE),
    ("GC", "Gold", "COMEX", "0.1", "100", _METAL, "GJMQZ", _L.METALS, None, True, ("GC", 1), False, _GOLD),
    ("MGC", "Micro gold", "COMEX", "0.1", "10", _METAL, "GJMQZ", _L.METALS, None, True, ("GC", 10), False, _AMP),
    ("SI", "Silver", "COMEX", "0.005", "5000", "HKNUZ", "HKNUZ", _L.METALS, None, True, ("SI", 1), False, _AMP),
    ("ZB", "30-year Treasury bond", "CBOT", "0.03125", "1000", _BOND, _BOND, _L.TREASURY, _NOON, True, ("ZB", 1), True, _BOND_PAGE),
    ("ZN", "10-year Treasury note", "CBOT", "0.015625", "1000", _BOND, _BOND, _L.TREASURY, _NOON, True, ("ZN", 1), True, _NOTE_PAGE),
    ("6E", "Euro FX", "CME", "0.00005", "125000", _FX, _FX, _L.CURRENCY, _FIXING, False, ("6E", 1), False, _EURO_PAGE),
)  # fmt: skip

#: every known specification by its root
SPECS: dict[str, ContractSpec] = {
    row[0]: ContractSpec(*row[:3], Decimal(row[3]), Decimal(row[4]), *row[5:]) for row in _ROWS
}
