"""The rows of the journal at one moment, to be compared with each other."""

from __future__ import annotations

import contextlib
from typing import Any

from fks.model.errors import OutageError
from fks.store.db import Database
from tests.support.waiting import until


async def rows_at_one_moment(database: Database, *tables: str) -> dict[str, list[Any]]:
    """Return the rows of tables of one snapshot: the last write of an order manager may be committed after its end.

    A database that just came back refuses the first questions.
    """

    async def read() -> dict[str, list[Any]]:
        with contextlib.suppress(OutageError):
            async with database.transaction(isolation="repeatable_read", is_readonly=True) as session:
                return {name: list(await session.sql(f"SELECT * FROM {name}")) for name in tables}
        return {}

    return await until(read, deadline_s=20)
