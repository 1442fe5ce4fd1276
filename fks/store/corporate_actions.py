"""Corporate actions of shares in their table: splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from fks.bars.splits import SplitDay
from fks.store.db import Querier


@dataclass(frozen=True, slots=True)
class ListedSplit:
    """A split with the symbol of an exchange that it is of, and the source that named it."""

    exchange: str
    symbol: str
    split: SplitDay
    source: str = ""


class CorporateActionStore:
    """The table `corporate_actions`."""

    def __init__(self, db: Querier) -> None:
        self._db = db

    async def splits(self, exchange: str, symbol: str) -> list[SplitDay]:
        """Return the splits of one symbol, oldest first."""
        return [row.split for row in await self.listed(exchange, symbol)]

    async def listed(self, exchange: str | None = None, symbol: str | None = None) -> list[ListedSplit]:
        """Return the splits of everything, or of one exchange or symbol, by symbol and day."""
        rows = await self._db.fetch("corporate_actions.splits", exchange, symbol)
        return [
            ListedSplit(
                row["exchange"],
                row["symbol"],
                SplitDay(row["day"], row["new_shares"], row["old_shares"]),
                row["source"],
            )
            for row in rows
        ]

    async def put(self, rows: Sequence[ListedSplit]) -> int:
        """Store splits in one statement, each in place of the one of its symbol and day; return how many are new or
        other ones now. No symbol has two of one day."""
        columns: list[list[object]] = [
            [row.exchange for row in rows],
            [row.symbol for row in rows],
            [row.split.day for row in rows],
            [row.split.new for row in rows],
            [row.split.old for row in rows],
            [row.source for row in rows],
        ]
        return len(await self._db.fetch("corporate_actions.put", *columns))

    async def remove(self, exchange: str, symbol: str, day: date) -> bool:
        """Remove the split of a day; return whether there was one."""
        return bool(await self._db.fetch("corporate_actions.remove", exchange, symbol, day))
