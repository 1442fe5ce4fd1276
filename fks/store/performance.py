"""Daily performance of each account: the view `daily_account_performance`, natively and with TimescaleDB.

Natively it is a materialised view, made by the first migration and refreshed here, every hour, without blocking its
readers. With TimescaleDB it is a continuous aggregate of the same name and columns that refreshes itself
(fks.store.timescale).

`fees` is in the quote currency: a fee in the base asset counts at the trade's own price, and one in a third currency
(BNB, say) as it was valued from bars of its own time (fks.research.jobs.valuation). `fees_unvalued` counts the fees
that have no rate; they are not in `fees`, which is null when no fee of the day has one.
"""

from __future__ import annotations

import asyncpg

from fks.model.errors import OutageError
from fks.store.db import Database, sql

_LIMIT_S = 300.0  # years of executions; a background task


async def refresh(db: Database) -> str:
    """Refresh the view and return a line about it. Readers see the old days meanwhile. Errors: OutageError."""
    if not await db.fetchval("performance.is_ours"):
        return "refreshes itself"
    try:
        async with db.transaction() as tx:
            await tx.sql(f"SET LOCAL statement_timeout = '{int(_LIMIT_S)}s'")
            await tx.connection.execute(sql("performance.refresh"), timeout=_LIMIT_S + 5.0)
    except asyncpg.QueryCanceledError as error:
        raise OutageError(f"daily_account_performance took more than {_LIMIT_S:.0f} s: {error}") from error
    return "refreshed"
