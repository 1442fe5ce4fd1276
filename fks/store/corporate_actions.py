"""Events of instruments in their tables: splits, dividends, symbol changes and delistings of shares, funding rates of
perpetuals, and economic events. Nothing is overwritten: another content is a further revision, and a read as of a time
gives what was published by then."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from fks.model.cash_flows import Dividend, FundingRate, InstrumentEvents, PositionSplit, SplitDay
from fks.store.base import SqlStore, columns_of, query, reads
from fks.store.db import Querier

SPLIT, DIVIDEND, DELISTING, SYMBOL_CHANGE = "split", "dividend", "delisting", "symbol_change"


@dataclass(frozen=True, slots=True)
class ListedEvent:
    """A corporate action of a symbol of an exchange, with its source. `kind` says which of the fields it has: `new` for
    each `old` share, `amount` of `currency` a share, `new_symbol`; `type` keeps several dividends of one day apart.
    `published_ns` None: known from its day on; `revision` 0: not stored yet."""

    exchange: str
    symbol: str
    kind: str
    day: date
    type: str = ""
    new: int | None = None
    old: int | None = None
    amount: Decimal | None = None
    currency: str = ""
    pay_day: date | None = None
    new_symbol: str = ""
    source: str = ""
    published_ns: int | None = None
    revision: int = 0

    @property
    def split(self) -> SplitDay:
        """Return the split that a row of this kind is."""
        assert self.new is not None, f"a {self.kind} has no ratio"
        assert self.old is not None, f"a {self.kind} has no ratio"
        return SplitDay(self.day, self.new, self.old)


@dataclass(frozen=True, slots=True)
class ListedFunding:
    """A funding rate of a symbol of an exchange, with its source. `published_ns` None: known from its time on."""

    exchange: str
    symbol: str
    funding: FundingRate
    source: str = ""
    published_ns: int | None = None


@dataclass(frozen=True, slots=True)
class EconomicEvent:
    """A release of a figure, or a decision of a central bank, that concerns a currency. `importance`: low, medium or
    high; none says that it does not take place. `published_ns` None: known from its time on."""

    currency: str
    name: str
    time_ns: int
    importance: str
    actual: Decimal | None = None
    forecast: Decimal | None = None
    previous: Decimal | None = None
    source: str = ""
    published_ns: int | None = None
    revision: int = 0


@dataclass(frozen=True, slots=True)
class FundingRange:
    """The stored funding rates of a symbol: their number, and the first and last time."""

    exchange: str
    symbol: str
    rates: int
    oldest_ns: int
    newest_ns: int
    source: str


@dataclass(frozen=True, slots=True)
class UpcomingSplit:
    """A split of a symbol that an account holds, or has orders in. `calendar`: the one stored with its bars;
    `traded_ns`: the time of the account's first order in it."""

    account_id: int
    venue: str
    exchange: str
    symbol: str
    day: date
    new_shares: int
    old_shares: int
    calendar: str | None
    traded_ns: int


reads(ListedEvent, new="new_shares", old="old_shares")
reads(PositionSplit)
reads(EconomicEvent, time_ns="time")
reads(FundingRate, time_ns="time", mark="mark_price")


class CorporateActionStore(SqlStore[Querier], queries="corporate_actions"):
    """The tables `corporate_actions`, `funding_rates` and `economic_events`. `known_ns`: only what was published by
    then (None: now); `skip` and `limit`: after so many rows, and at most so many (None: all)."""

    async def splits(self, exchange: str, symbol: str, known_ns: int | None = None) -> list[SplitDay]:
        """Return the splits of one symbol, oldest first."""
        return [row.split for row in await self.events(exchange, symbol, known_ns) if row.kind == SPLIT]

    @query("events")
    async def events(
        self,
        exchange: str | None = None,
        symbol: str | None = None,
        known_ns: int | None = None,
        skip: int = 0,
        limit: int | None = None,
    ) -> list[ListedEvent]:
        """Return the newest revision of each event, of everything or of one exchange or symbol, by symbol and day."""

    async def upcoming_splits(self, venues: Sequence[str], until_ns: int) -> list[UpcomingSplit]:
        """Return the splits up to a day, the oldest first, of symbols that are held or have open orders at the venues
        and were traded before; without those that were applied."""

    @query("position_split")
    async def is_applied(self, id: uuid.UUID) -> bool:
        """Return whether a split was applied to a position, or refused for good."""

    @query("position_splits")
    async def applied_splits(self, account_id: int, venue: str, symbol: str) -> list[PositionSplit]:
        """Return the splits that were applied to an account's positions in a symbol at a venue, oldest first."""

    async def traded_since(
        self, account_id: int, venue: str, symbol: str, since_ns: int, asset: str
    ) -> tuple[int, Decimal]:
        """Return the number of executions since a time, and their bought less their sold quantity, less fees in
        `asset`."""

    async def instrument_events(
        self, exchange: str, symbol: str, end_ns: int | None = None, known_ns: int | None = None
    ) -> InstrumentEvents:
        """Return the dividends, the funding before `end_ns` (None: all of it) and the delisting of one symbol."""
        rows = await self.events(exchange, symbol, known_ns)
        dividends = [
            Dividend(row.day, row.amount, row.currency, row.pay_day, row.type)
            for row in rows
            if row.kind == DIVIDEND and row.amount is not None
        ]
        delisted = min((row.day for row in rows if row.kind == DELISTING), default=None)
        funding = await self.funding(exchange, symbol, None, end_ns, known_ns)
        return InstrumentEvents(tuple(dividends), tuple(funding), delisted)

    async def put(self, rows: Sequence[ListedEvent]) -> int:
        """Store events in one statement; return how many are new or other ones now. No two are of one symbol, kind, day
        and type."""
        names = ("exchange", "symbol", "kind", "day", "type", "new", "old", "amount", "currency", "pay_day")
        columns = columns_of(rows, *names, "new_symbol", "source", "published_ns")
        return len(await self._db.fetch("corporate_actions.put", *columns))

    async def withdraw(self, exchange: str, symbol: str, kind: str, day: date) -> bool:
        """Note that the events of a kind and a day are none; return whether there was one."""

    async def funding(
        self, exchange: str, symbol: str, start_ns: int | None, end_ns: int | None, known_ns: int | None = None
    ) -> list[FundingRate]:
        """Return the funding rates of one symbol in [start, end), oldest first."""

    async def funding_ranges(
        self, exchange: str | None = None, symbol: str | None = None, skip: int = 0, limit: int | None = None
    ) -> list[FundingRange]:
        """Return the number and the range of the stored funding rates of each symbol."""

    @query("economic")
    async def economic_events(
        self, currency: str | None = None, known_ns: int | None = None, skip: int = 0, limit: int | None = None
    ) -> list[EconomicEvent]:
        """Return the newest revision of each economic event, of a currency or of all, by time."""

    async def put_economic(self, rows: Sequence[EconomicEvent]) -> int:
        """Store economic events in one statement; return how many are new, or other ones now. No two are of one
        currency, name, time and time of publication."""
        names = ("currency", "name", "time_ns", "importance", "actual", "forecast", "previous", "source")
        return len(await self._db.fetch("corporate_actions.put_economic", *columns_of(rows, *names, "published_ns")))

    async def put_funding(self, rows: Sequence[ListedFunding]) -> int:
        """Store funding rates in one statement; return how many are new or other ones now. No two are of one symbol and
        time."""
        times = columns_of([row.funding for row in rows], "time_ns")
        columns = columns_of(rows, "exchange", "symbol", "funding.rate", "funding.mark", "source", "published_ns")
        return len(await self._db.fetch("corporate_actions.put_funding", *columns[:2], *times, *columns[2:]))
