"""Collection of the auditor's evidence: the exchange's records, the journal's rows, bars of both, and leaks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import psutil

from fks.chaos.auditor import Evidence, Instance, Missed
from fks.chaos.outside import RAY_TITLE, Outside, Task
from fks.model.errors import OutageError

PAGE = 1000  # klines an answer
MEMORY_MB_MAX, FDS_MAX = 200.0, 80  # growth of one process in a run before it counts as a leak
BACKENDS_MAX = 20  # connections one component may hold
PAGES = f"{RAY_TITLE}ServeReplica:pages"
JOB, KEPT_JOB_S = "Job", 900.0  # a job that runs for longer in a demo is one that hangs
#: titles of Ray's own workers, without the prefix: up to the first of `.:_ `
RAYS_OWN = frozenset(
    {"IDLE", "SPILL", "RESTORE", "DELETE", "DashboardAgent", "RuntimeEnvAgent", "ServeController", "ProxyActor"}
)
ORPHAN_S = 45.0  # a Ray process unknown to the tree counts as left over when it is older than this
_INSTANCES = """
SELECT i.*, f.sealed_through FROM strategy_instances i
  LEFT JOIN feeds f USING (exchange, symbol, timeframe) ORDER BY i.id"""
_CLOSES = """
SELECT extract(epoch FROM time)::bigint AS at_s, close FROM ohlcv_data
 WHERE exchange = $1 AND symbol = $2 AND timeframe = $3 AND time >= $4 AND is_complete AND open IS NOT NULL
   AND high IS NOT NULL AND low IS NOT NULL AND close IS NOT NULL AND volume IS NOT NULL ORDER BY time"""
_BARS = """
SELECT extract(epoch FROM time)::bigint AS at_s, close, volume FROM ohlcv_data
 WHERE symbol = $1 AND timeframe = '1s' AND time BETWEEN to_timestamp($2::float8) AND to_timestamp($3::float8)
   AND is_complete AND close IS NOT NULL"""
_MISSED = "SELECT payload FROM actor_events WHERE event = 'strategy.missed' ORDER BY id"
_SEALED = """
SELECT symbol, extract(epoch FROM sealed_through)::bigint AS at_s FROM feeds
 WHERE timeframe = '1s' AND sealed_through IS NOT NULL"""


@dataclass(frozen=True, slots=True)
class Size:
    """Memory and file descriptors of a process."""

    pid: int
    memory_mb: float
    fds: int


@dataclass(frozen=True, slots=True)
class Baseline:
    """State when the run began: the oracle's start, the first bar that counts, every component's size."""

    at_s: float
    instances: dict[str, Instance]
    sealed: dict[str, int]
    sizes: dict[str, Size]


async def take_baseline(outside: Outside) -> Baseline:
    """Take the baseline. Errors: OutageError."""
    rows = await outside.sql(_INSTANCES)
    instances = {
        row["id"]: Instance(row["id"], int(row["cursor_time"].timestamp()), float(row["last_target"]))
        for row in rows
        if row["cursor_time"] is not None and row["state"] == "RUNNING"
    }
    sealed = {row["symbol"]: row["at_s"] for row in await outside.sql(_SEALED)}
    return Baseline(outside.now_s(), instances, sealed, await sizes(outside))


async def collect(outside: Outside, baseline: Baseline) -> Evidence:
    """Return the evidence. Errors: OutageError while something is away."""
    received = await outside.exchange("GET", "/sim/received?limit=1000000")
    account = await outside.exchange("GET", "/sim/account")
    info = await outside.exchange("GET", "/sim/info")
    connection = await outside.connect()
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):  # rows and events of one moment
            tables = {
                name: await connection.fetch(f"SELECT * FROM {name}")  # noqa: S608
                for name in ("signals", "orders", "trades", "positions")
            }
            events = [_with_payload(row) for row in await connection.fetch("SELECT * FROM order_events ORDER BY id")]
        missed = [_missed(_with_payload(row)["payload"]) for row in await connection.fetch(_MISSED)]
        instances = [_with_params(row) for row in await connection.fetch(_INSTANCES)]
        closes = {
            row["id"]: [
                (bar["at_s"], Decimal(repr(bar["close"])))
                for bar in await connection.fetch(
                    _CLOSES, row["exchange"], row["symbol"], row["timeframe"], row["anchor_time"]
                )
            ]
            for row in instances
            if row["anchor_time"] is not None
        }
        sealed = {row["symbol"]: row["at_s"] for row in await connection.fetch(_SEALED)}
        ours = {
            symbol: {
                row["at_s"]: _values(row["close"], row["volume"])
                for row in await connection.fetch(_BARS, symbol, float(since + 1), float(sealed.get(symbol, since)))
            }
            for symbol, since in baseline.sealed.items()
        }
    finally:
        await connection.close()
    bars = {
        symbol: (ours[symbol], await _klines(outside, symbol, since + 1, sealed.get(symbol, since)))
        for symbol, since in baseline.sealed.items()
    }
    return Evidence(
        now_s=outside.now_s(),
        received=received["items"],
        exchange_orders=account["orders"],
        exchange_fills=account["fills"],
        signals=tables["signals"],
        orders=tables["orders"],
        trades=tables["trades"],
        positions=tables["positions"],
        instances=instances,
        started=baseline.instances,
        closes=closes,
        bars=bars,
        leaks=await leaks(outside, baseline),
        since_s=baseline.at_s,
        missed=missed,
        events=events,
        is_tape=info["mode"] == "tape",
    )


def _with_payload(row: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(row)
    found["payload"] = json.loads(found["payload"]) if isinstance(found["payload"], str) else found["payload"]
    return found


def _missed(payload: Mapping[str, Any]) -> Missed:
    first, last = (int(datetime.fromisoformat(payload[name]).timestamp()) for name in ("from", "to"))
    return Missed(payload["instance"], first, last)


def _with_params(row: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(row)
    found["params"] = json.loads(found["params"]) if isinstance(found["params"], str) else found["params"]
    return found


def _values(close: object, volume: object) -> tuple[Decimal, Decimal]:
    return Decimal(str(close)).normalize(), Decimal(str(volume)).normalize()


async def _klines(outside: Outside, symbol: str, first_s: int, last_s: int) -> dict[int, tuple[Decimal, Decimal]]:
    found: dict[int, tuple[Decimal, Decimal]] = {}
    at_s = first_s
    while at_s <= last_s:
        path = (
            f"/api/v3/klines?symbol={symbol}&interval=1s&startTime={at_s * 1000}&endTime={last_s * 1000}&limit={PAGE}"
        )
        rows = await outside.exchange("GET", path)
        if not rows:
            break
        found |= {row[0] // 1000: _values(row[4], row[5]) for row in rows}
        at_s = rows[-1][0] // 1000 + 1
    return found


# ── what is left over ────────────────────────────────────────────────────────────────────────────────────────────────
async def sizes(outside: Outside) -> dict[str, Size]:
    """Return the size of every component with a process."""
    found = {}
    for row in await outside.sql("SELECT name, pid FROM component_health WHERE pid IS NOT NULL"):
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(row["pid"])
            found[row["name"]] = Size(row["pid"], process.memory_full_info().pss / 2**20, process.num_fds())
    return found


def left_over(tasks: Sequence[Task], known: AbstractSet[int | None], now_s: float, *, pages: int = 0) -> list[Task]:
    """Return the processes that no row of `known` pids names and that are old enough to have one.

    Every process of Ray's is one of ours unless Ray's own name is in its title: a class that is added to the tree is
    seen without an entry here. A job's process has no row; one that is ready for the next job waits for KEPT_JOB_S.
    Replicas of the pages have no row, as they open no database: the newest `pages` of them are expected.
    """
    found = []
    expected = sorted((task for task in tasks if task.title.startswith(PAGES)), key=lambda task: -task.born_s)[:pages]
    for task in tasks:
        if task in expected:
            continue
        name = re.split(r"[.:_ ]", task.title.removeprefix(RAY_TITLE), maxsplit=1)[0]
        limit_s = KEPT_JOB_S if name == JOB else ORPHAN_S
        if name not in RAYS_OWN and task.pid not in known and now_s - task.born_s > limit_s:
            found.append(task)
    return found


async def leaks(outside: Outside, baseline: Baseline) -> list[str]:
    """Return leaked and grown resources, as text. Errors: OutageError."""
    rows = await outside.sql("SELECT name, pid FROM component_health")
    names, pids = {row["name"] for row in rows}, {row["pid"] for row in rows}
    found = [
        f"process {task.pid} ({task.title[:40]}) is in nobody's row"
        for task in left_over(await asyncio.to_thread(outside.of_home), pids, outside.now_s(), pages=outside.pages())
    ]
    sessions = await outside.sql(
        "SELECT application_name AS name, state, extract(epoch FROM clock_timestamp() - xact_start)::float8 AS age_s"
        "  FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'fks %'"
    )
    for name, count in sorted(Counter(row["name"].removeprefix("fks ") for row in sessions).items()):
        if count > BACKENDS_MAX:
            found.append(f"{name} holds {count} database connections")
        if ":" in name and name not in names and not name.startswith("gateway:"):
            found.append(f"{count} database connections of {name}, which does not run")
    found += [
        f"a transaction of {row['name']} is open for {row['age_s']:.0f} s"
        for row in sessions
        if row["state"] == "idle in transaction" and (row["age_s"] or 0) > 15
    ]
    for name, now in sorted((await sizes(outside)).items()):
        then = baseline.sizes.get(name)
        if then is not None and now.memory_mb - then.memory_mb > MEMORY_MB_MAX:
            found.append(f"{name} grew from {then.memory_mb:.0f} to {now.memory_mb:.0f} MB")
        if then is not None and now.fds - then.fds > FDS_MAX:
            found.append(f"{name} has {now.fds} open files and sockets, it had {then.fds}")
    return found


async def try_collect(outside: Outside, baseline: Baseline) -> Evidence | None:
    """Return the evidence, or None while something is away."""
    try:
        return await collect(outside, baseline)
    except OutageError:
        return None
