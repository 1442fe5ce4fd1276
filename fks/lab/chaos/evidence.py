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
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from fks.lab.chaos.auditor import Evidence
from fks.lab.chaos.cover import SmallestAmounts
from fks.lab.chaos.decisions import ORACLES, InstanceStart, MissedDecisions, Target
from fks.lab.chaos.evaluated import strategy_of, targets_of
from fks.lab.chaos.outside import RAY_TITLE, Outside, SystemProcess
from fks.lab.chaos.stops import StopEvidence
from fks.model.bar import Bars
from fks.model.errors import FksError, OutageError
from fks.model.instrument import folded

PAGE = 1000  # klines an answer
MEMORY_MB_MAX, FDS_MAX = 200.0, 80  # growth of one process in a run before it counts as a leak
BACKENDS_MAX = 20  # connections one component may hold
BAR_COLUMNS = ("open", "high", "low", "close", "volume")
PAGES = f"{RAY_TITLE}ServeReplica:pages"
JOB, KEPT_JOB_S = "Job", 900.0  # a job that runs for longer in a demo is one that hangs
#: titles of Ray's own workers, without the prefix: up to the first of `.:_ `
RAYS_OWN = frozenset(
    {"IDLE", "SPILL", "RESTORE", "DELETE", "DashboardAgent", "RuntimeEnvAgent", "ServeController", "ProxyActor"}
)
LOADED_S = 30.0  # until each enabled instance has a cursor, after a start
ORPHAN_S = 45.0  # a Ray process unknown to the tree counts as left over when it is older than this
_INSTANCES = """
SELECT i.*, f.sealed_through FROM strategy_instances i
  LEFT JOIN feeds f USING (exchange, symbol, timeframe) ORDER BY i.id"""
_DECIDED = """
SELECT extract(epoch FROM time)::bigint AS at_s, open, high, low, close, volume FROM ohlcv_data
 WHERE exchange = $1 AND symbol = $2 AND timeframe = $3 AND time >= to_timestamp($4::float8) AND is_complete
   AND open IS NOT NULL AND high IS NOT NULL AND low IS NOT NULL AND close IS NOT NULL AND volume IS NOT NULL
 ORDER BY time"""
_SYMBOLS = "SELECT symbol FROM feeds WHERE exchange = $1 AND timeframe = $2"
_INSTRUMENTS = "SELECT symbol, lot_step, notional_min FROM instruments"
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
    instances: dict[str, InstanceStart]
    sealed: dict[str, int]
    sizes: dict[str, Size]


async def take_baseline(outside: Outside) -> Baseline:
    """Take the baseline, once no enabled instance is still on its way to its first bar (for LOADED_S at most). Errors:
    OutageError."""
    end_s = outside.clock.monotonic() + LOADED_S
    while True:
        rows = [row for row in await outside.sql(_INSTANCES) if row["is_enabled"]]
        if all(row["cursor_time"] or row["state"] == "CRASHED" for row in rows) or outside.clock.monotonic() > end_s:
            break
        await outside.clock.sleep(0.5)
    instances = {
        row["id"]: InstanceStart(
            row["id"],
            int(row["cursor_time"].timestamp()),
            float(row["last_target"]),
            int(row["anchor_time"].timestamp()),
        )
        for row in rows
        if row["cursor_time"] is not None and row["anchor_time"] is not None and row["state"] in ("RUNNING", "LOADING")
    }
    sealed = {row["symbol"]: row["at_s"] for row in await outside.sql(_SEALED)}
    return Baseline(outside.now_s(), instances, sealed, await sizes(outside))


async def collect(outside: Outside, baseline: Baseline) -> Evidence:
    """Return the evidence. Errors: OutageError while something is away."""
    now_s = outside.now_s()  # before the first look: what changes between two looks is younger than that
    received = await outside.exchange("GET", "/sim/received?limit=1000000")
    account = await outside.exchange("GET", "/sim/account")
    info = await outside.exchange("GET", "/sim/info")
    prices = (await outside.exchange("GET", f"/sim/state?since={round(now_s * 1000)}"))["prices"]
    connection = await outside.connect()
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):  # rows and events of one moment
            tables = {
                name: await connection.fetch(f"SELECT * FROM {name}")  # noqa: S608
                for name in ("signals", "orders", "trades", "positions")
            }
            events = [_with_payload(row) for row in await connection.fetch("SELECT * FROM order_events ORDER BY id")]
            moves = await connection.fetch("SELECT instance, time, price FROM stop_moves WHERE price IS NOT NULL")
            planned = {str(row["signal_id"]) for row in await connection.fetch("SELECT signal_id FROM parent_orders")}
            missed = [_missed(_with_payload(row)["payload"]) for row in await connection.fetch(_MISSED)]
            instances = [_with_params(row) for row in await connection.fetch(_INSTANCES)]
            closes, targets = dict[str, list[tuple[int, Decimal]]](), dict[str, list[Target]]()
            for row in instances:
                start = baseline.instances.get(row["id"])
                if start is None:
                    continue
                rows = await connection.fetch(
                    _DECIDED, row["exchange"], row["symbol"], row["timeframe"], float(start.anchor_s)
                )
                closes[row["id"]] = [(bar["at_s"], Decimal(repr(bar["close"]))) for bar in rows]
                if row["strategy"] not in ORACLES:
                    found = await _evaluated(connection, outside.paths.home / "strategies", row, start, rows)
                    targets |= {} if found is None else {row["id"]: found}
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
        now_s=now_s,
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
        targets=targets,
        rules=await rules_of(outside, prices),
        bars=bars,
        leaks=await leaks(outside, baseline),
        since_s=baseline.at_s,
        missed=missed,
        events=events,
        stop_moves=StopEvidence(moves, planned),
        is_tape=info["mode"] == "tape",
    )


async def rules_of(outside: Outside, prices: Mapping[str, str]) -> dict[str, SmallestAmounts]:
    """Return the smallest orders of each symbol that the exchange trades, at its prices. Errors: OutageError."""
    return {
        row["symbol"]: SmallestAmounts(row["lot_step"], row["notional_min"], Decimal(prices[row["symbol"]]))
        for row in await outside.sql(_INSTRUMENTS)
        if row["symbol"] in prices
    }


async def _evaluated(
    connection: Any, folder: Path, row: Mapping[str, Any], start: InstanceStart, rows: Sequence[Mapping[str, Any]]
) -> list[Target] | None:
    """Return the targets that the strategy's own code gives; None when it gives none, or a symbol that it reads has no
    bars."""
    exchange, timeframe = row["exchange"], row["timeframe"]
    try:
        strategy = strategy_of(folder, row["strategy"], row["params"])
        names = {
            folded(item["symbol"]): item["symbol"] for item in await connection.fetch(_SYMBOLS, exchange, timeframe)
        }
        inputs = {
            name: _columns(
                name,
                timeframe,
                await connection.fetch(
                    _DECIDED, exchange, names.get(folded(name), name), timeframe, float(start.anchor_s)
                ),
            )
            for name in strategy.inputs()
        }
        bars = _columns(row["symbol"], timeframe, rows)
        return await asyncio.to_thread(targets_of, strategy, bars.joined(inputs) if inputs else bars)
    except FksError:
        return None


def _columns(symbol: str, timeframe: str, rows: Sequence[Mapping[str, Any]]) -> Bars:
    times = np.array([row["at_s"] for row in rows], dtype=np.int64) * 1_000_000_000
    open_, high, low, close, volume = (np.array([row[name] for row in rows], dtype=np.float64) for name in BAR_COLUMNS)
    return Bars(symbol, timeframe, times, open_, high, low, close, volume)


def _with_payload(row: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(row)
    found["payload"] = json.loads(found["payload"]) if isinstance(found["payload"], str) else found["payload"]
    return found


def _missed(payload: Mapping[str, Any]) -> MissedDecisions:
    first, last = (int(datetime.fromisoformat(payload[name]).timestamp()) for name in ("from", "to"))
    return MissedDecisions(payload["instance"], first, last)


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


def left_over(
    tasks: Sequence[SystemProcess], known: AbstractSet[int | None], now_s: float, *, pages: int = 0
) -> list[SystemProcess]:
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
