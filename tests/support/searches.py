"""Finished searches of parameters, as rows."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from fks.store.db import Database
from fks.store.jobs import JobStore

BEST = {"fast": 5, "slow": 20, "short": False, "sl_pct": None, "tp_pct": None, "trail_pct": None}


async def search_of(
    db: Database,
    findings: list[str] | None = None,
    *,
    strategy: str = "sma_cross",
    timeframe: str = "1m",
    best: Mapping[str, Any] = BEST,
) -> uuid.UUID:
    """Return a finished search of a strategy on BTCUSDT."""
    id = await JobStore(db).submit("optimization", {})
    job = await JobStore(db).claim(["optimization"])
    assert job is not None
    result = {
        "name": "one",
        "strategy": strategy,
        "symbol": "BTCUSDT",
        "timeframe": timeframe,
        "findings": findings or [],
        "best": {"all_params": dict(best)},
        "overfitting": {"trials": 9, "deflated_sharpe": 0.97, "cross_validation": None},
        "out_of_sample": None,
        "inputs_hash": "x",
        "objectives": ["sharpe"],
        "from": "2026-01-01T00:00:00Z",
        "to": "2026-02-01T00:00:00Z",
    }
    await JobStore(db).finish(job, "done", result=result)
    return id
