"""Public Python API of stored data, for scripts and notebooks: `from fks.data import *` (docs/read-data.md).

Bars, indicators, balances and accounts of a running system's database, as arrays or DataFrames; and calls that make an
account, record a trade or sync history. Names are loaded when first used, since an import of one module of this package
must not load pandas.

Imported by: interfaces
Begin with: `notebook.py`
Most important: `notebook.py`, `session.py`, `manual.py`
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fks.data.notebook import (
        add_features,
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
        with_features,
    )

__all__ = [
    "add_features",
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
    "with_features",
]


def __getattr__(name: str) -> Any:
    """Return a function of `fks.data.notebook`."""
    if name in __all__:
        from fks.data import notebook

        return getattr(notebook, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
