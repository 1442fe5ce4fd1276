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

#: the columns after account_id and day, as in migration 0001. Realised PnL and fees are in the quote currency: a
#: fee taken in the base asset counts at the trade's own price; one in a third currency counts as it stands
COLUMNS = """
       count(*) AS trades,
       count(*) FILTER (WHERE realized_pnl > 0) AS wins,
       count(*) FILTER (WHERE realized_pnl < 0) AS losses,
       (count(*) FILTER (WHERE realized_pnl > 0))::float8
           / NULLIF(count(*) FILTER (WHERE realized_pnl <> 0), 0) AS win_rate,
       sum(realized_pnl) AS total_pnl,
       sum(realized_pnl) / NULLIF(count(*) FILTER (WHERE realized_pnl <> 0), 0) AS average_trade,
       sum(CASE WHEN fee_currency <> '' AND starts_with(symbol, fee_currency) THEN fee * price ELSE fee END) AS fees,
       sum(quantity * price) AS volume"""


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
