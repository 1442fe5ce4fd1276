"""The actions that a schedule can run. Here, because the pages, which import no jobs, offer them too."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

#: action -> its parameters as a person writes them, "" where it takes none; `fks.research.jobs.actions` has the
#: functions
SCHEDULE_ACTIONS: Mapping[str, str] = MappingProxyType(
    {
        "deep-check": "",
        "backup": '{"keep": 7}',
        "sync": '{"symbol": "BTCUSDT"}',
        "drift-check": '{"instance": ID}',
        "report": '{"period": "daily"}',
        "rebalance": '{"portfolio": NAME, "calendar": "XNYS"}',
        "allocate": '{"portfolio": NAME, "method": "risk_parity", "apply": true}',
        "retention": "",
        "backtest": "{the spec of POST /backtests, of one strategy}",
        "optimize": "{the spec of POST /optimizations}",
        "forecast": "{the spec of POST /forecasts}",
    }
)
