"""The instrument database of the simulated platform: futures contracts by NinjaTrader's name, `ES 03-25`.

It repeats figures of `fks.model.futures` on purpose: it stands for NinjaTrader's own database, which the bridge asks, and FKS
compares its specifications with. A wrong figure there would not be noticed if both had the same source. A test compares
the two tables.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal

from fks.bridge.peer.platform import PlatformContract

_NAME = re.compile(r"([A-Z0-9]{1,4}) (0[1-9]|1[0-2])-([0-9]{2})")
_FRIDAY = 4

# root: tick, value of one point in USD, first price of the simulated market
_ROOTS = {
    "ES": ("0.25", "50", "4500"), "MES": ("0.25", "5", "4500"), "NQ": ("0.25", "20", "16000"),
    "MNQ": ("0.25", "2", "16000"), "RTY": ("0.10", "50", "2000"), "M2K": ("0.10", "5", "2000"),
    "YM": ("1", "5", "38000"), "MYM": ("1", "0.50", "38000"), "CL": ("0.01", "1000", "75"),
    "MCL": ("0.01", "100", "75"), "GC": ("0.10", "100", "2000"), "MGC": ("0.10", "10", "2000"),
    "SI": ("0.005", "5000", "25"), "ZB": ("0.03125", "1000", "118"), "ZN": ("0.015625", "1000", "110"),
    "6E": ("0.00005", "125000", "1.08"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SimulatedContract(PlatformContract):
    """One futures contract. Units: `tick` and prices in price units, `point_value` in USD for one unit."""

    expiry: date
    root: str
    point_value: Decimal
    first_price: Decimal


def find_contract(name: str) -> SimulatedContract | None:
    """Return the contract with NinjaTrader's name `name`, or None when the database has no such root.

    The expiry is the third Friday of the month: exact for the stock indices, near enough for the others here.
    """
    found = _NAME.fullmatch(name)
    if found is None or found[1] not in _ROOTS:
        return None
    tick, point_value, first_price = _ROOTS[found[1]]
    first = date(2000 + int(found[3]), int(found[2]), 1)
    expiry = first + timedelta(days=(_FRIDAY - first.weekday()) % 7 + 14)
    return SimulatedContract(name, Decimal(tick), expiry, found[1], Decimal(point_value), Decimal(first_price))
