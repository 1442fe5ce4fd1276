"""Native partitions: bars by month, public trades by day, made ahead and dropped when old.

A row outside every partition falls into the table's default one. When its partition is made later, such rows move into
it in the same transaction, so a partition can always be made and no row is ever lost or seen twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg

from fks.model.timeframe import NS, TIMEFRAMES, to_ns
from fks.store.db import Database, Transaction
from fks.store.prune import PruneStore

MONTHS_AHEAD = 2
DAYS_AHEAD = 3
YEARS_MAX = 20  # of partitions in one go; older rows stay in the default one
PIECE = 50_000  # bars deleted in one transaction
_LOCK_WAIT = "1s"  # a reader may hold the table; others queue behind us, so we do not wait long


@dataclass(frozen=True, slots=True)
class PartitionSpan:
    """One partition: its table, its name and the half-open time it holds."""

    table: str
    name: str
    start: datetime
    end: datetime


def month_of(moment: datetime) -> PartitionSpan:
    """Return the partition of ohlcv_data that holds `moment` (UTC), whether it is there or not."""
    start = datetime(moment.year, moment.month, 1, tzinfo=UTC)
    end = datetime(start.year + start.month // 12, start.month % 12 + 1, 1, tzinfo=UTC)
    return PartitionSpan("ohlcv_data", f"ohlcv_data_p{start:%Y%m}", start, end)


def months(start: datetime, end: datetime) -> Iterator[PartitionSpan]:
    """Yield the partitions of ohlcv_data from the month of `start` to the month of `end`."""
    span = month_of(start)
    while span.start <= end:
        yield span
        span = month_of(span.end)


def days(start: datetime, end: datetime) -> Iterator[PartitionSpan]:
    """Yield the partitions of market_trades from the day of `start` to the day of `end`."""
    moment = datetime(start.year, start.month, start.day, tzinfo=UTC)
    while moment <= end:
        following = moment + timedelta(days=1)
        yield PartitionSpan("market_trades", f"market_trades_p{moment:%Y%m%d}", moment, following)
        moment = following


async def ensure_partitions(db: Database, now: datetime, *, since: datetime | None = None) -> list[str]:
    """Make the partitions that are missing from `since` (for bars; default this month) to some time ahead of `now`.

    Returns the names made. Call it with `since` before a backfill. One that a busy table does not let us make is left
    for the next call: rows wait in the default partition meanwhile. Errors: OutageError.
    """
    now = now.astimezone(UTC)
    wanted = [
        *months(_recent(since or now, now), now + timedelta(days=31 * MONTHS_AHEAD)),
        *days(now - timedelta(days=1), now + timedelta(days=DAYS_AHEAD)),
    ]
    return await _ensure(db, wanted)


async def ensure_months(db: Database, start: datetime, end: datetime) -> list[str]:
    """Make the partitions of ohlcv_data that are missing from `start` to `end`; return their names. Errors:
    OutageError."""
    return await _ensure(db, list(months(_recent(start, end), end.astimezone(UTC))))


def _recent(start: datetime, end: datetime) -> datetime:
    """Return where partitions begin: before that, rows are few (days, weeks) and each partition makes every query's
    plan longer."""
    return max(min(start, end), end - timedelta(days=366 * YEARS_MAX)).astimezone(UTC)


async def _ensure(db: Database, wanted: Sequence[PartitionSpan]) -> list[str]:
    there = await _existing(db)
    if not there:  # not natively partitioned: TimescaleDB makes its own chunks
        return []
    made: list[str] = []
    busy: set[str] = set()
    for span in wanted:
        if span.name in there or span.table in busy:
            continue
        try:
            made += [span.name] if await db.fetchval("store.make_partition", span.table, span.start) else []
        except (asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError):
            busy.add(span.table)
    return made


async def drop_old_trades(db: Database, now: datetime, *, keep_h: float) -> list[str]:
    """Drop the partitions of market_trades that hold nothing younger than `keep_h` hours; return their names.

    Old rows of the default partition are deleted too. Errors: OutageError.
    """
    limit = now.astimezone(UTC) - timedelta(hours=keep_h)
    there, dropped = await _existing(db), []
    if not there:  # TimescaleDB's chunks; not run here (docs/storage.md)
        return [
            row[0] for row in await db.sql("SELECT drop_chunks('market_trades', older_than => $1::timestamptz)", limit)
        ]
    for name in sorted(there):
        start = _day_of(name)
        if start is None or start + timedelta(days=1) > limit:
            continue
        with suppress(asyncpg.LockNotAvailableError):
            async with db.transaction() as tx:
                await _impatient(tx)
                await tx.sql(f"DROP TABLE IF EXISTS {name}")
            dropped.append(name)
    await db.execute("store.delete_old_trades", limit, retry=True)
    return dropped


async def drop_old_bars(db: Database, now: datetime, keep_days: Mapping[str, float]) -> int:
    """Delete bars of the timeframes in `keep_days` that are older than so many days, to the day; return how many.

    They are no longer wanted, so no sync fetches them again. Works in pieces with short locks, and drops months that
    are
    then empty. Errors: OutageError.
    """
    now = now.astimezone(UTC)
    # once a day: each deletion makes mapped copies start again
    midnight = datetime(now.year, now.month, now.day, tzinfo=UTC)
    store, deleted = PruneStore(db), 0
    for timeframe, days_kept in keep_days.items():
        limit = midnight - timedelta(days=days_kept)
        piece_ns = PIECE * (TIMEFRAMES[timeframe] or 31 * 86400) * NS
        while rows := await db.fetch("store.series_before", timeframe, limit):  # with the oldest bar each has by now
            for row in rows:
                at_ns = to_ns(row["oldest"])
                until_ns = min(at_ns + piece_ns, to_ns(limit))
                count = await store.series(row["exchange"], row["symbol"], timeframe, at_ns, until_ns)
                deleted += count
                if not count:  # its row in `series` is wrong: a partition was dropped by hand
                    await db.fetchval("store.recount", row["exchange"], row["symbol"], timeframe)
    if deleted:
        await _drop_empty_months(db, midnight)
    return deleted


async def _drop_empty_months(db: Database, before: datetime) -> None:
    for name in sorted(await _existing(db)):
        prefix = "ohlcv_data_p"
        if not name.startswith(prefix):
            continue
        month = month_of(datetime.strptime(name.removeprefix(prefix), "%Y%m").replace(tzinfo=UTC))
        if month.end >= before or await db.sql(f"SELECT 1 FROM {name} LIMIT 1"):  # noqa: S608
            continue
        with suppress(asyncpg.LockNotAvailableError):
            async with db.transaction() as tx:
                await _impatient(tx)
                await tx.sql(f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE")
                if not await tx.sql(f"SELECT 1 FROM {name} LIMIT 1"):  # noqa: S608
                    await tx.sql(f"DROP TABLE {name}")


def _day_of(name: str) -> datetime | None:
    prefix = "market_trades_p"
    if not name.startswith(prefix):
        return None
    return datetime.strptime(name.removeprefix(prefix), "%Y%m%d").replace(tzinfo=UTC)


async def _existing(db: Database) -> set[str]:
    return {row["name"] for row in await db.fetch("store.partitions")}


async def _impatient(tx: Transaction) -> None:
    await tx.sql(f"SET LOCAL lock_timeout = '{_LOCK_WAIT}'")
