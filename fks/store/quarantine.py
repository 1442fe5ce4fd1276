"""The quarantine: suspect messages and bars, with reason and numbers, until they are settled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import asyncpg

from fks.model.bar import Bar
from fks.model.market import Suspect
from fks.model.timeframe import to_datetime, to_ns
from fks.store.base import RowCount, SqlStore, columns_of, query, reads
from fks.store.db import Querier

TEXT_MAX = 4000  # characters stored of a message
NAME_MAX = 200  # characters stored of a name: an index holds no more than 2.7 kB
#: errors of a refused row; a retry would not help
_NOT_TAKEN = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)
_COLUMNS = ("open", "high", "low", "close", "volume")

#: open time of a bar, and its open, high, low, close and volume as text
Numbers = tuple[int, str, str, str, str, str]


class SettledAs(StrEnum):
    """Result of a settled row. CONFIRMED: the exchange returned it again, or a person accepted it. REFUSED: it is wrong
    and stays out."""

    CONFIRMED = "confirmed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class QuarantinedRow:
    """A suspect message or bar. `payload` has all its numbers, so that it can be stored later; `source` is its origin
    (live, klines, sync, import); `timeframe` and `time_ns` are of bars, `time_ns` of trades too."""

    exchange: str
    symbol: str
    channel: str
    reason: str
    payload: dict[str, Any] = field(default_factory=dict)
    timeframe: str | None = None
    time_ns: int | None = None
    source: str = "live"

    @staticmethod
    def bar(bar: Bar, reason: str, detail: str, *, source: str) -> QuarantinedRow:
        """Return a suspect bar; prices go in as the exchange's text again."""
        numbers = dict(zip(_COLUMNS, numbers_of(bar)[1:], strict=True))
        payload: dict[str, Any] = {"detail": detail, **numbers, "trades": bar.trades}
        return QuarantinedRow(bar.exchange, bar.symbol, "bars", reason, payload, bar.timeframe, bar.time_ns, source)

    @staticmethod
    def suspect(exchange: str, suspect: Suspect, *, source: str = "live") -> QuarantinedRow:
        """Return a suspect message; a long one is cut and marked as cut."""
        text = suspect.text if len(suspect.text) <= TEXT_MAX else suspect.text[:TEXT_MAX] + "…"
        return QuarantinedRow(exchange, suspect.symbol, suspect.channel, suspect.reason, {"text": text}, source=source)


@dataclass(frozen=True, slots=True)
class HeldRow:
    """A row of the quarantine."""

    id: int
    held: QuarantinedRow
    received_ns: int
    verdict: SettledAs | None = None
    settled_ns: int | None = None


#: called with a row that PostgreSQL does not take, and the reason
Refused = Callable[[QuarantinedRow, Exception], None]


reads(QuarantinedRow, time_ns="time")


class QuarantineStore(SqlStore[Querier], queries="quarantine"):
    """The table `quarantine`. Errors of all methods: OutageError."""

    def __init__(self, db: Querier, refused: Refused | None = None) -> None:
        """Make a store. `refused` is called with rows that PostgreSQL does not take, and `add` goes on; None: `add`
        raises the error."""
        super().__init__(db)
        self._refused = refused

    async def add(self, items: Sequence[QuarantinedRow]) -> int:
        """Store suspect items; return how many are new: repeated items fill no table.

        Texts come from outside: characters that PostgreSQL cannot hold become "�", names longer than NAME_MAX are cut.
        """
        try:
            return await self._add([_storable(item) for item in items])
        except _NOT_TAKEN as error:
            if self._refused is None:
                raise
            if len(items) == 1:
                self._refused(items[0], error)
                return 0
        return sum([await self.add([item]) for item in items])  # one bad row costs no other

    async def _add(self, items: Sequence[QuarantinedRow]) -> int:
        if not items:
            return 0
        unique = list({_key(item): item for item in items}.values())
        names = ("exchange", "symbol", "channel", "timeframe", "time_ns", "reason", "payload", "source")
        columns = columns_of(unique, *names)
        return len(await self._db.fetch("quarantine.add", *columns))

    async def rows(
        self, exchange: str | None = None, symbol: str | None = None, *, with_settled: bool = False, limit: int = 100
    ) -> list[HeldRow]:
        """Return the newest first."""

    async def confirmed(self, exchange: str, symbol: str, timeframe: str, start_ns: int, end_ns: int) -> set[Numbers]:
        """Return the numbers of the bars with start <= open time < end that were held and then confirmed.

        A source that brings the same bar again (a sync) finds `numbers_of` it here and need not query again.
        """
        rows = await self._db.fetch(
            "quarantine.confirmed", exchange, symbol, timeframe, to_datetime(start_ns), to_datetime(end_ns)
        )
        return {(to_ns(row["time"]), *(row["payload"].get(name, "") for name in _COLUMNS)) for row in rows}

    @query("count")
    async def counts(self) -> list[dict[str, Any]]:
        """Return exchange, symbol, channel, timeframe, reason, held, oldest, newest of the unsettled values."""

    @query(retry=True)
    async def settle(self, ids: Sequence[int], verdict: SettledAs) -> RowCount:
        """Settle rows; return how many. The first result of a row stands."""

    async def settle_bars(
        self, exchange: str, symbol: str, timeframe: str, times_ns: Sequence[int], verdict: SettledAs
    ) -> int:
        """Settle all rows of some bars; return how many."""
        times = [to_datetime(time_ns) for time_ns in times_ns]
        return len(await self._db.fetch("quarantine.settle_bars", exchange, symbol, timeframe, times, verdict.value))

    @query(retry=True)
    async def forget(self, before_ns: int) -> RowCount:
        """Drop what was received before a moment, settled or not; return how many rows."""


def numbers_of(bar: Bar) -> Numbers:
    """Return the numbers that distinguish a bar from another of its series."""
    return (bar.time_ns, repr(bar.open), repr(bar.high), repr(bar.low), repr(bar.close), repr(bar.volume))


def _storable(item: QuarantinedRow) -> QuarantinedRow:
    """Return `item` with texts that PostgreSQL holds."""
    exchange, symbol, channel, source = (
        _text(name)[:NAME_MAX] for name in (item.exchange, item.symbol, item.channel, item.source)
    )
    reason, payload = _text(item.reason)[:TEXT_MAX], _texts(item.payload)
    return replace(
        item, exchange=exchange, symbol=symbol, channel=channel, source=source, reason=reason, payload=payload
    )


def _text(text: str) -> str:
    return text.replace("\0", "�").encode("utf-8", "replace").decode()


def _texts(value: Any) -> Any:
    """Return a JSON value with texts that PostgreSQL holds."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict):
        return {_text(key): _texts(one) for key, one in value.items()}
    return [_texts(one) for one in value] if isinstance(value, list | tuple) else value


def _key(item: QuarantinedRow) -> tuple[object, ...]:
    return (
        item.exchange,
        item.symbol,
        item.channel,
        item.timeframe,
        item.time_ns,
        item.reason,
        repr(sorted(item.payload.items())),
    )
