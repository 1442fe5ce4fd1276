"""One module for each exchange whose order API FKS knows as data. `NAMES` lists them; `dialect` loads one."""

from __future__ import annotations

import importlib

from fks.trading.venues.ccxt.dialect import Dialect, StandIn

NAMES = ("bybit", "coinbase", "kraken", "okx")


def dialect(name: str) -> Dialect:
    """Return the dialect of one of `NAMES`. Errors: KeyError for another name."""
    if name not in NAMES:
        raise KeyError(name)
    found: Dialect = importlib.import_module(f"fks.trading.venues.ccxt.dialects.{name}").DIALECT
    return found


def stand_in(name: str) -> StandIn | None:
    """Return where the cases of one of `NAMES` run, `STAND_IN` of its module; None for one that is not traded."""
    found: StandIn | None = getattr(
        importlib.import_module(f"fks.trading.venues.ccxt.dialects.{name}"), "STAND_IN", None
    )
    return found
