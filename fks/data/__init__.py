"""Sync, gaps, import and export of market data, and the shipped sample.

`from fks.data import *` gives what scripts and notebooks call (docs/read-data.md). Names are loaded when first used:
most who import this package want one module of it, and pandas is large.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fks.data.notebook import (
        connect,
        create_account,
        disconnect,
        get_accounts,
        get_balance_history,
        get_indicator,
        get_ohlcv_arrays,
        get_ohlcv_data,
        get_ohlcv_table,
        get_sync_status,
        record_trade,
        service,
    )

__all__ = [
    "connect",
    "create_account",
    "disconnect",
    "get_accounts",
    "get_balance_history",
    "get_indicator",
    "get_ohlcv_arrays",
    "get_ohlcv_data",
    "get_ohlcv_table",
    "get_sync_status",
    "record_trade",
    "service",
]


def __getattr__(name: str) -> Any:
    """Return a call of `fks.data.notebook`."""
    if name in __all__:
        from fks.data import notebook

        return getattr(notebook, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
