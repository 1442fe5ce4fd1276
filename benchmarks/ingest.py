"""Bars in and out: import, idempotent merge, reading a year, and the mapped copy, each against its floor in the same
run.

    python benchmarks/ingest.py [--rows 525600] [--rounds 5]

A real embedded PostgreSQL with fsync on, the real tables with their partitions, keys and triggers. Ours and the floor
take turns, each after a checkpoint; medians. Every result is compared with what went in. Exits 1 when one differs, or a
limit of docs/performance.md is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the rigs of the tests, however this is started

import numpy as np

from benchmarks._results import run, same
from fks.config.settings import DatabaseSettings
from fks.model.bar import Bars
from fks.model.timeframe import NS, to_datetime
from fks.store import copy, migrate
from fks.store.bars import BarStore, Merged
from fks.store.columns import ColumnCache
from fks.store.db import Database
from fks.store.partitions import ensure_months
from tests.support import servers

T0 = 1_704_067_200 * NS  # 2024-01-01
PRICES = ("open", "high", "low", "close", "volume")
COLUMNS = [("time", copy.TIME), *((name, copy.FLOAT) for name in PRICES), ("trades", copy.INT4)]
READ = copy.row_form(COLUMNS[:-1])
STAGE = (
    "CREATE TEMPORARY TABLE bench_staged (time timestamptz, open float8, high float8, low float8, close float8,"
    " volume float8, trades int4) ON COMMIT DROP"
)
MERGE = """INSERT INTO ohlcv_data AS o
  (exchange, symbol, timeframe, source, time, open, high, low, close, volume, trades)
SELECT 'binance', $1, '1m', 'bench', s.* FROM bench_staged s
ON CONFLICT (symbol, timeframe, time, exchange) DO UPDATE
   SET open = EXCLUDED.open, high = EXCLUDED.high, low = EXCLUDED.low, close = EXCLUDED.close, volume = EXCLUDED.volume,
       trades = EXCLUDED.trades, updated_at = now()
 WHERE (o.open, o.high, o.low, o.close, o.volume) IS DISTINCT FROM
    (EXCLUDED.open, EXCLUDED.high, EXCLUDED.low, EXCLUDED.close, EXCLUDED.volume)"""
SELECT = """SELECT time, open, high, low, close, volume FROM ohlcv_data
WHERE symbol = $1 AND timeframe = '1m' AND exchange = 'binance' ORDER BY time"""
Work = Callable[[], Awaitable[Any]]


def made(symbol: str, count: int, *, changed: int = 0) -> Bars:
    """Return a random walk of minutes, `changed` of them with another close."""
    rng = np.random.default_rng(7)
    close = np.round(30_000 * np.exp(np.cumsum(rng.normal(0, 2e-4, count))), 2)
    opened = np.concatenate([close[:1], close[:-1]])
    high, low = np.maximum(opened, close) + 1.5, np.minimum(opened, close) - 1.5
    if changed:
        close = close.copy()
        close[:: count // changed] += 0.01
    return Bars(
        symbol,
        "1m",
        T0 + np.arange(count, dtype=np.int64) * 60 * NS,
        opened,
        high,
        low,
        close,
        np.round(rng.gamma(2.0, 3.0, count), 5),
    )


def compare(what: str, one: Bars, other: Bars) -> None:
    """Compare bars column by column."""
    for name in ("time_ns", *PRICES):
        same(f"{what}: {name}", getattr(one, name), getattr(other, name))


class Rig:
    """A database with the partitions of the bars, and the floors: the cost of the same work without FKS."""

    def __init__(self, db: Database, rows: int, repeats: int) -> None:
        self.db, self.rows, self.repeats = db, rows, repeats
        self.store = BarStore(db)
        self.is_failed = False

    def encoded(self, bars: Bars, table: str = "ohlcv_data", *, is_keyed: bool = True) -> tuple[bytearray, list[str]]:
        texts = {"symbol": bars.symbol, "timeframe": "1m", "exchange": "binance", "source": "bench"} if is_keyed else {}
        columns = [*COLUMNS, *((name, copy.text_form(text)) for name, text in texts.items())]
        values: dict[str, Any] = {
            **texts,
            "time": copy.pg_time(bars.time_ns),
            "trades": 0,
            **{n: getattr(bars, n) for n in PRICES},
        }
        return copy.encoded(columns, values, len(bars)), [name for name, _ in columns]

    async def plain_copy(self, bars: Bars) -> None:
        """The floor of an import: one binary COPY, encoded from numpy, into the same table."""
        stream, names = self.encoded(bars)
        async with self.db.transaction() as tx:
            await copy.copy_in(tx.connection, "ohlcv_data", stream, names, timeout=300)

    async def partition_copy(self, bars: Bars) -> None:
        """Run the floor of disk and keys alone: the same COPY, month by month, past the table and its triggers."""
        months = bars.time_ns.astype("datetime64[ns]").astype("datetime64[M]")
        edges = [0, *(np.flatnonzero(months[1:] != months[:-1]) + 1).tolist(), len(bars)]
        async with self.db.transaction() as tx:
            for start, end in itertools.pairwise(edges):
                table = f"ohlcv_data_p{str(months[start]).replace('-', '')}"
                stream, names = self.encoded(bars[start:end])
                await copy.copy_in(tx.connection, table, stream, names, timeout=300)

    async def staged_merge(self, bars: Bars) -> None:
        """The floor of a merge: COPY into a temporary table, one statement that leaves equal rows alone."""
        stream, names = self.encoded(bars, is_keyed=False)
        async with self.db.transaction() as tx:
            await tx.sql("SET LOCAL statement_timeout = 0")
            await tx.connection.execute(STAGE)
            await copy.copy_in(tx.connection, "bench_staged", stream, names, timeout=300)
            await tx.connection.execute(MERGE, bars.symbol, timeout=300)

    async def plain_read(self, symbol: str) -> Bars:
        """The floor of a read: the COPY stream of the rows in order, decoded."""
        async with self.db.acquire() as connection:
            rows = copy.decoded(READ, await copy.copy_out(connection, SELECT, symbol))
        return Bars(symbol, "1m", copy.time_ns_of(rows), *(rows[name].astype(np.float64) for name in PRICES))

    async def timed(self, work: Work, *, is_calm: bool = True) -> tuple[float, Any]:
        if is_calm:
            await self.db.sql("CHECKPOINT")
        start = time.perf_counter()
        answer = await work()
        return time.perf_counter() - start, answer

    def line(self, name: str, ours: list[float], floor: list[float], limit: float | None, *, is_speed: bool) -> None:
        """Print ours, the floor and the ratio: of speeds (at least `limit`) or of times (at most); None: for
        information."""
        mine, bare = statistics.median(ours), statistics.median(floor)
        ratio = bare / mine if is_speed else mine / bare
        bound, answer = "", ""
        if limit is not None:
            is_met = ratio >= limit if is_speed else ratio <= limit
            self.is_failed |= not is_met
            bound, answer = f"{'>=' if is_speed else '<='} {limit}", "yes" if is_met else "NO"
        print(
            f"| {name} | {mine:.3f} | {bare:.3f} | {self.rows / mine / 1e3:.0f} k/s | {ratio:.2f} | {bound} | {answer} |",
            flush=True,
        )


async def imports(rig: Rig) -> None:
    ours, floor, past = [], [], []
    for turn in range(rig.repeats):
        a, b, c = (made(f"{name}{turn}", rig.rows) for name in ("NEW", "BARE", "PAST"))
        for which in range(turn, turn + 3):
            if which % 3 == 0:
                seconds, merged = await rig.timed(lambda a=a: rig.store.merge(a, source="bench"))  # type: ignore[misc]
                same("what an import merged", merged, Merged(rig.rows, 0, 0))
                ours.append(seconds)
            elif which % 3 == 1:
                floor.append((await rig.timed(lambda b=b: rig.plain_copy(b)))[0])  # type: ignore[misc]
            else:
                past.append((await rig.timed(lambda c=c: rig.partition_copy(c)))[0])  # type: ignore[misc]
    for symbol in ("NEW0", "BARE0"):
        compare(f"imported bars of {symbol}", await rig.store.read(symbol, "1m"), made(symbol, rig.rows))
        same(f"the number of bars of {symbol}", (await rig.store.edges(symbol, "1m"))[0], rig.rows)
    rig.line("import of new bars / binary COPY into the same table", ours, floor, 0.9, is_speed=True)
    rig.line("the same / COPY into the partitions, past the triggers", ours, past, None, is_speed=True)
    await rig.db.sql("DELETE FROM ohlcv_data WHERE symbol LIKE 'PAST%'")
    await rig.db.sql("VACUUM ohlcv_data")


async def merges(rig: Rig, changed: int) -> None:
    ours, floor = [], []
    for turn in range(rig.repeats):
        a, b = (made(f"{name}{turn}", rig.rows, changed=changed) for name in ("NEW", "BARE"))
        for is_ours in (turn % 2 == 0, turn % 2 == 1):
            if is_ours:
                seconds, merged = await rig.timed(lambda a=a: rig.store.merge(a, source="bench"))  # type: ignore[misc]
                same(
                    "what a merge inserted, and whether it changed bars",
                    (merged.inserted, merged.changed > 0),
                    (0, changed > 0),
                )
                ours.append(seconds)
            else:
                floor.append((await rig.timed(lambda b=b: rig.staged_merge(b)))[0])  # type: ignore[misc]
        compare("merged bars", await rig.store.read(f"NEW{turn}", "1m"), a)
        compare("merged bars of the floor", await rig.store.read(f"BARE{turn}", "1m"), b)
    what = f"{changed / rig.rows:.0%} of them changed" if changed else "all of them there"
    rig.line(f"merge again, {what} / COPY + merge that skips equal rows", ours, floor, 0.9, is_speed=True)


async def reads(rig: Rig) -> None:
    ours, floor = [], []
    expected = made("NEW0", rig.rows, changed=rig.rows // 100)
    for turn in range(2 * rig.repeats + 1):
        for is_ours in (turn % 2 == 0, turn % 2 == 1):
            read = (lambda: rig.store.read("NEW0", "1m")) if is_ours else (lambda: rig.plain_read("NEW0"))
            seconds, bars = await rig.timed(read, is_calm=False)
            compare("bars read", bars, expected)
            if turn:
                (ours if is_ours else floor).append(seconds)
    rig.line("read into numpy / decoding the COPY stream", ours, floor, 1.25, is_speed=False)


async def maps(rig: Rig, folder: Path) -> None:
    """The mapped copy: fresh and used before; with every value looked at; after a new bar; after a correction."""
    cache = ColumnCache(folder, rig.db)
    first, _ = await rig.timed(lambda: cache.read("NEW0", "1m"), is_calm=False)
    mapped, summed = [], []
    for _ in range(50):
        seconds, bars = await rig.timed(lambda: cache.read("NEW0", "1m"), is_calm=False)
        mapped.append(seconds)
        start = time.perf_counter()
        for name in PRICES:
            getattr(bars, name).sum()
        summed.append(seconds + time.perf_counter() - start)
    compare("the mapped copy", bars, await rig.store.read("NEW0", "1m"))
    later = made("NEW0", rig.rows)[-1:]
    later.time_ns[:] += 60 * NS
    await rig.store.merge(later, source="bench")
    appended, bars = await rig.timed(lambda: cache.read("NEW0", "1m"), is_calm=False)
    same("the bars of the mapped copy after one more", len(bars), rig.rows + 1)
    later.close[:] += 1
    await rig.store.merge(later, source="bench")
    corrected, bars = await rig.timed(lambda: cache.read("NEW0", "1m"), is_calm=False)
    same("the last close after a correction", float(bars.close[-1]), float(later.close[0]))
    limit_s = 0.005 * max(1.0, rig.rows / 525_600)
    is_met = statistics.median(mapped) <= limit_s
    rig.is_failed |= not is_met
    print(
        f"\nmapped copy, its revision asked: p50 {statistics.median(mapped) * 1e3:.2f} ms (limit {limit_s * 1e3:.0f}: "
        f"{'yes' if is_met else 'NO'}),"
        f" every value summed {statistics.median(summed) * 1e3:.2f} ms"
    )
    print(
        f"first use {first * 1e3:.0f} ms, after one new bar {appended * 1e3:.1f} ms, after a correction "
        f"{corrected * 1e3:.0f} ms"
    )


async def main(rows: int, repeats: int) -> bool:
    with (
        servers.home() as paths,
        servers.running_postgres(paths, is_durable=True) as postgres,
        tempfile.TemporaryDirectory() as folder,
    ):
        import asyncpg

        admin = await asyncpg.connect(postgres.url("postgres"))
        await admin.execute("CREATE DATABASE bench")
        await admin.close()
        await migrate.upgrade(postgres.url("bench"))
        db = await Database.connect(
            postgres.url("bench"), DatabaseSettings(statement_timeout_s=300), application="bench"
        )
        await ensure_months(db, to_datetime(T0), to_datetime(T0 + rows * 60 * NS))
        rig = Rig(db, rows, repeats)
        print(
            f"{rows} one-minute bars, {repeats} rounds\n\n| | ours s | floor s | ours | ratio | limit | met "
            "|\n|---|---|---|---|---|---|---|"
        )
        await imports(rig)
        await merges(rig, 0)
        await merges(rig, rows // 100)
        await reads(rig)
        await maps(rig, Path(folder))
        await db.close()
        return not rig.is_failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=525_600)
    parser.add_argument("--rounds", dest="repeats", type=int, default=5)
    given = parser.parse_args()
    run(lambda: not asyncio.run(main(given.rows, given.repeats)))
