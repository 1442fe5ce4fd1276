"""Daily performance of each account: the view `daily_account_performance`, natively and with TimescaleDB.

Natively it is a materialised view, made by the first migration and refreshed here, every hour, without blocking its
readers. With TimescaleDB it is a continuous aggregate of the same name and columns that refreshes itself
(fks.store.timescale).

`fees` is a sum of numbers, not of money: a fee in the quote currency counts as it is, one in the base asset at the
trade's own price, and one in a third currency (BNB, say) as if it were in the quote currency, as no price of it is
known here.
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
