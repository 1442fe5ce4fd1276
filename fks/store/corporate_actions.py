"""Corporate actions of shares in their table: splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from fks.bars.splits import SplitDay
from fks.store.base import SqlStore, columns_of, query, reads
from fks.store.db import Querier


@dataclass(frozen=True, slots=True)
class ListedSplit:
    """A split with the symbol of an exchange that it is of, and the source that named it."""

    exchange: str
    symbol: str
    split: SplitDay
    source: str = ""


reads(SplitDay, new="new_shares", old="old_shares")


class CorporateActionStore(SqlStore[Querier], queries="corporate_actions"):
    """The table `corporate_actions`."""

    async def splits(self, exchange: str, symbol: str) -> list[SplitDay]:
        """Return the splits of one symbol, oldest first."""
        return [row.split for row in await self.listed(exchange, symbol)]

    @query("splits")
    async def listed(self, exchange: str | None = None, symbol: str | None = None) -> list[ListedSplit]:
        """Return the splits of everything, or of one exchange or symbol, by symbol and day."""

    async def put(self, rows: Sequence[ListedSplit]) -> int:
        """Store splits in one statement, each in place of the one of its symbol and day; return how many are new or
        other ones now. No symbol has two of one day."""
        columns = columns_of(rows, "exchange", "symbol", "split.day", "split.new", "split.old", "source")
        return len(await self._db.fetch("corporate_actions.put", *columns))

    async def remove(self, exchange: str, symbol: str, day: date) -> bool:
        """Remove the split of a day; return whether there was one."""
