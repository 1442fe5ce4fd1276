"""The journal of a database, looked at by the auditor's own rules (`fks.chaos.fold`)."""

from __future__ import annotations

from fks.chaos.fold import journal_errors
from fks.store.db import Database


async def errors_of_journal(database: Database) -> list[str]:
    """Return the errors of the journal at one moment: the last write of an order manager may be committed after
    its end."""
    async with database.transaction(isolation="repeatable_read", is_readonly=True) as session:
        orders = await session.sql("SELECT * FROM orders")
        steps = await session.sql("SELECT * FROM order_events ORDER BY id")
        trades = await session.sql("SELECT * FROM trades")
    return list(journal_errors(orders, steps, trades))
