"""Faults of the actors: killed, stopped, with a blocked loop; the supervisor; the order manager with many orders."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import struct
import time
from functools import partial

import asyncpg

from benchmarks.faults.entries import SYMBOL, VENUE, look_up, requested, serving, small
from benchmarks.faults.rig import ACTORS, Missed, Rig, Sample
from benchmarks.faults.serving import READY, denied_without_feed
from fks.system.process.heartbeat import heartbeat_file

GUARDIAN, ORDERS, COLLECTOR = "guardian", "orders", "collector:binance"
STARTS_MAX = 5
WATCH_S = 1.0  # the order manager looks at the feeds once a second
AWAY_S = 7.0
MARKET_DATA = ("/api/v3/aggTrades", "/api/v3/klines")  # without them no feed is whole, so none is live
BLOCKER = '''
"""A strategy whose decision never returns while a file exists: what a hung event loop looks like from outside."""
import time
from pathlib import Path
from typing import ClassVar

import numpy as np

from fks.model.bar import Bars
from fks.strategies.base import Decisions, Strategy

FLAG = Path(r"{flag}")


class Blocker(Strategy):
    """Always flat; blocks the loop it is called on while FLAG exists."""

    name: ClassVar[str] = "blocker"

    def warmup(self) -> int:
        return 1

    def decide(self, bars: Bars) -> Decisions:
        if FLAG.exists():
            FLAG.with_suffix(".since").write_text(str(time.time()))
        while FLAG.exists():
            time.sleep(0.02)
        return Decisions(np.zeros(len(bars)))
'''


async def killed(rig: Rig, name: str) -> dict[str, Sample]:
    """kill -9: detected is the supervisor's own row, serving is the first beat of the new process under its epoch; of
    the order manager an entry that its READY venue sent."""
    before = {row["name"]: row["epoch"] for row in await rig.rows("SELECT name, epoch FROM leases")}
    pids = await rig.pids()
    body = await small(rig) if name == ORDERS else None
    at, pid = await rig.kill(name)
    sample, started = await _restarted(rig, name, at, body)
    if name == GUARDIAN:  # it takes its lease itself, under the name of its machine: its events carry no epoch
        held = await rig.until(partial(_lease_since, rig, name, started["at"]), 10.0, "lease of the guardian")
        if held["epoch"] < before.get(name, 0):
            sample.wrong.append(f"its lease has epoch {held['epoch']}, below {before[name]}")
    elif name in before and not started["epoch"] > before[name]:
        sample.wrong.append(f"epoch {started['epoch']} is not above {before[name]}")
    if started["pid"] == pid:
        sample.wrong.append("the same pid came back")
    now = await rig.pids()
    if others := [other for other, was in pids.items() if other != name and now.get(other) != was]:
        sample.wrong.append(f"restarted too: {', '.join(others)}")
    return {f"kill -9 {name}": sample}


async def _restarted(rig: Rig, name: str, at: float, body: dict[str, str] | None) -> tuple[Sample, asyncpg.Record]:
    """Return the times of a child that was struck, and its row of its successor's start. `body`: the entry to request,
    for the order manager. Errors: Missed."""
    async with serving(rig, body, at) if body else contextlib.nullcontext() as served:
        exited = await rig.event(name, ("exited",), at)
        started = await rig.event(name, ("started",), at)
        sample = Sample(exited["at"] - at, started["at"] - at, at=at)
        if served is not None:
            sample.note = f"first heartbeat after {sample.serving:.2f} s"
            sample.serving = await served
    return sample, started


async def _lease_since(rig: Rig, name: str, at: float) -> asyncpg.Record | None:
    """Return a lease if it was renewed after a moment."""
    rows = await rig.rows("SELECT epoch FROM leases WHERE name = $1 AND updated_at > to_timestamp($2)", name, at)
    return rows[0] if rows else None


async def collector(rig: Rig) -> dict[str, Sample]:
    """kill -9 of the collector, until every feed is live again."""
    found = await killed(rig, COLLECTOR)
    at = found[f"kill -9 {COLLECTOR}"].at
    return found | {"  its feeds live": Sample(None, await _live_at(rig, at) - at)}


async def feed_away(rig: Rig) -> dict[str, Sample]:
    """kill -9 of the collector while the exchange answers no request for market data: entries are requested all the
    while, and every one is denied until the feeds are live."""
    body = await small(rig)
    faults = [await _refused(rig, path) for path in MARKET_DATA]
    try:
        async with requested(rig, body) as entries:
            found = await killed(rig, COLLECTOR)
            sample = found[f"kill -9 {COLLECTOR}"]
            await asyncio.sleep(max(0.0, sample.at + AWAY_S - time.time()))
            while faults:
                await rig.outside.exchange("DELETE", f"/sim/faults?id={faults.pop()}")
            live_at = await _live_at(rig, sample.at, SYMBOL)

            async def admitted() -> float | None:
                await look_up(rig, entries)
                return min((e.sent for e in entries if e.sent is not None and e.sent > live_at), default=None)

            sample.serving = await rig.until(admitted, 30.0, "entry after the feed was live") - sample.at
    finally:
        for number in faults:
            await rig.outside.exchange("DELETE", f"/sim/faults?id={number}")
    assert sample.detected is not None
    since = sample.at + sample.detected + WATCH_S
    note, wrong = denied_without_feed(entries, since, live_at)
    sample.note = f"{note}; feed live after {live_at - sample.at:.2f} s"
    sample.wrong += wrong
    return {f"kill -9 {COLLECTOR}, no market data for {AWAY_S:g} s: entries denied, then admitted": sample}


async def _refused(rig: Rig, path: str) -> int:
    """Let the exchange answer every request for a path with 503; return the fault's number."""
    fault = {"kind": "503", "path": path, "count": 1_000_000}
    return int((await rig.outside.exchange("POST", "/sim/faults", fault))["id"])


async def _live_at(rig: Rig, since: float, symbol: str = "") -> float:
    """Return when the last of the feeds, or that of a symbol, was live after the collector was killed. Errors:
    Missed."""
    await rig.until(partial(_all_live, rig, since), 60.0, "live feeds")
    return max(
        float(line["at"])
        for line in rig.lines(COLLECTOR, since)
        if line["event"] == "feed.state" and line["state"] == "LIVE" and symbol in ("", line["symbol"])
    )


async def _all_live(rig: Rig, since: float) -> bool:
    rows = await rig.rows(
        "SELECT state, extract(epoch FROM updated_at)::float8 AS at FROM feeds WHERE timeframe = 'trades'"
        " AND epoch = (SELECT epoch FROM leases WHERE name = $1)",
        COLLECTOR,
    )
    return bool(rows) and all(row["state"] == "LIVE" and row["at"] > since for row in rows)


FILLER = "BTCUSDT"  # on paper, which sets no limit of its own
PER_SYMBOL = 190  # the exchange lets 200 rest in each market, and strategies want some


async def resting(rig: Rig, count: int = 1000) -> int:
    """Place resting orders, as many as the exchange lets in, the rest on paper; return how many are open.

    The exchange takes 100 each 10 s, so this is minutes.
    """
    symbols = [row[0] for row in await rig.rows("SELECT symbol FROM feeds WHERE timeframe = 'trades'")]
    bodies = {symbol: await small(rig, symbol) for symbol in symbols}
    async with rig.client() as client:
        for _ in range(60):
            have = {
                row[0]: row[1]
                for row in await rig.rows(
                    "SELECT symbol, count(*) FROM orders WHERE state IN ('ACCEPTED', 'WORKING') AND venue = 'ccxt' "
                    "GROUP BY symbol"
                )
            }
            short = {symbol: PER_SYMBOL - have.get(symbol, 0) for symbol in bodies if have.get(symbol, 0) < PER_SYMBOL}
            if not short:
                break
            symbol, missing = max(short.items(), key=lambda item: item[1])
            for _ in range(min(80, missing)):
                await client.post("/orders", json=bodies[symbol], headers={"Idempotency-Key": rig.key()})
            await asyncio.sleep(10.0)  # the exchange's own window
        while (open_now := await open_orders(rig)) < count:
            body = {**bodies[FILLER], "account": "paper"}
            for _ in range(count - open_now):
                await client.post("/orders", json=body, headers={"Idempotency-Key": rig.key()})
    return await open_orders(rig)


async def open_orders(rig: Rig) -> int:
    """Return how many orders are open, at every venue."""
    return int((await rig.rows("SELECT count(*) FROM orders WHERE state IN ('ACCEPTED', 'WORKING', 'PARTIAL')"))[0][0])


async def orders_full(rig: Rig) -> dict[str, Sample]:
    """kill -9 of the order manager with 1,000 open orders, until it has reconciled the venue that holds them and
    serves."""
    have = await resting(rig)
    sample = (await killed(rig, ORDERS))[f"kill -9 {ORDERS}"]
    ready = await rig.line(ORDERS, ("venue.state",), sample.at, venue=VENUE, state=READY)
    sample.note = f"{have} open orders, reconciled after {ready - sample.at:.2f} s"
    held = await rig.rows(
        "SELECT venue, count(*) FROM orders WHERE state IN ('ACCEPTED', 'WORKING', 'PARTIAL') GROUP BY venue"
    )
    sample.note += " (" + ", ".join(f"{row[1]} on {row[0]}" for row in held) + " afterwards)"
    return {"kill -9 orders, 1,000 open orders: reconciled": sample}


async def stopped(rig: Rig, name: str) -> dict[str, Sample]:
    """SIGSTOP: no beat, so it is killed and started again."""
    body = await small(rig) if name == ORDERS else None
    at, pid = await rig.kill(name, signal.SIGSTOP)
    try:
        sample, _ = await _restarted(rig, name, at, body)
    except Missed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        raise
    return {f"SIGSTOP {name}": sample}


async def blocked(rig: Rig) -> dict[str, Sample]:
    """A decision that never returns blocks the worker's loop; its process lives and answers Ray."""
    flag = rig.system.home / "block"
    script = rig.system.home / "strategies" / "blocker.py"
    script.parent.mkdir(exist_ok=True)
    script.write_text(BLOCKER.format(flag=flag))
    # a new one each time: an instance that hung its worker twice is set apart, and the worker is rid of it
    id = f"blocker-{int(time.time())}"
    await asyncio.to_thread(
        rig.system.fks,
        "strategies",
        "add",
        id,
        "blocker",
        "--symbol",
        "BTC/USDT",
        "--timeframe",
        "1s",
        "--account",
        "paper",
        "--size",
        "100",
    )
    # evaluated quickly a few times, so that it is called on the loop from then on
    cursor = (
        f"SELECT 1 FROM strategy_instances WHERE id = '{id}' AND state = 'RUNNING' AND cursor_time > now() - "
        "interval '5 s'"
    )

    async def runs() -> bool:
        return bool(await rig.rows(cursor))

    await rig.until(runs, 60.0, "running blocker")
    await asyncio.sleep(3.0)
    at = time.time()
    flag.touch()
    try:
        exited = await rig.event("strategy:0", ("exited",), at)
    finally:
        flag.unlink()
    started = await rig.event("strategy:0", ("started",), at)
    await asyncio.to_thread(rig.system.fks, "strategies", "disable", id, check=False)
    blocked_at = float(flag.with_suffix(".since").read_text())
    note = "from the moment it blocked, as the strategy wrote it down"
    return {"event loop blocked (strategy:0)": Sample(exited["at"] - blocked_at, started["at"] - blocked_at, note=note)}


HOARDER = '''
"""A strategy that takes memory once, until its process has as many MB as a file says: a leak, as seen from outside."""
import threading
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import psutil

from fks.model.bar import Bars
from fks.strategies.base import Decisions, Strategy

FLAG = Path(r"{flag}")
KEPT, STEP_MB = [], 8


class Hoarder(Strategy):
    """Always flat; keeps memory until its process has as many MB as FLAG says."""

    name: ClassVar[str] = "hoarder"

    def warmup(self) -> int:
        return 1

    def decide(self, bars: Bars) -> Decisions:
        if FLAG.exists():
            wanted = int(FLAG.read_text())
            FLAG.unlink()
            threading.Thread(target=hoard, args=(wanted,), daemon=True).start()
        return Decisions(np.zeros(len(bars)))


def hoard(wanted_mb):
    """In small steps beside the loop, which must not stand still for it."""
    while psutil.Process().memory_info().rss <= wanted_mb * 2**20:
        KEPT.append(np.ones(STEP_MB * 2**17))
        time.sleep(0.002)
    FLAG.with_suffix(".since").write_text(str(time.time()))
'''


async def memory(rig: Rig) -> dict[str, Sample]:
    """A strategy takes its worker above 1.25 times the ceiling: the worker is drained and started again."""
    flag, ceiling_mb = rig.system.home / "hoard", int(rig.system.env["FKS_SUPERVISION_MEMORY_MAX_MB"])
    script = rig.system.home / "strategies" / "hoarder.py"
    script.parent.mkdir(exist_ok=True)
    script.write_text(HOARDER.format(flag=flag))
    id = f"hoarder-{int(time.time())}"
    options = ("--symbol", "BTC/USDT", "--timeframe", "1s", "--account", "paper", "--size", "100")
    await asyncio.to_thread(rig.system.fks, "strategies", "add", id, "hoarder", *options)

    async def runs() -> bool:
        return bool(await rig.rows("SELECT 1 FROM strategy_instances WHERE id = $1 AND state = 'RUNNING'", id))

    await rig.until(runs, 60.0, "running hoarder")
    at = time.time()
    flag.write_text(str(round(ceiling_mb * 1.25)))
    exited = await rig.event("strategy:0", ("exited",), at)
    started = await rig.event("strategy:0", ("started",), at)
    await asyncio.to_thread(rig.system.fks, "strategies", "disable", id, check=False)
    mark = flag.with_suffix(".since")
    if not mark.exists():  # so slow a machine that it stood above the ceiling itself for three heartbeats
        raise Missed(f"memory above 1.25 times the ceiling: {exited['reason']}")
    since = float(mark.read_text())
    mark.unlink()
    note = f"ceiling {ceiling_mb} MB, {exited['reason']}; from the moment that it had the memory"
    return {
        "memory above 1.25 times its ceiling (strategy:0)": Sample(
            exited["at"] - since, started["at"] - since, note=note
        )
    }


async def locked(rig: Rig, name: str) -> dict[str, Sample]:
    """Another session holds the rows that the strategy worker writes. Its lease is not renewed behind its own write, and
    its self-check fails, since sealed bars wait: whichever the system of this row finds first ends it."""
    connection = await asyncpg.connect(rig.system.node["database_url"], timeout=2.0)
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.fetch("SELECT id FROM strategy_instances FOR UPDATE")
        at = time.time()
        exited = await rig.event("strategy:0", ("exited",), at, deadline_s=240.0)
        await transaction.rollback()
        started = await rig.event("strategy:0", ("started",), at)
    finally:
        await connection.close()
    return {f"{name} (strategy:0)": Sample(exited["at"] - at, started["at"] - at, note=exited["reason"])}


async def stopped_starting(rig: Rig, name: str = "strategy:0") -> dict[str, Sample]:
    """SIGSTOP of a child that has answered and is not up yet. One that was up sooner is tried again."""
    for _ in range(STARTS_MAX):
        sample, was_up = await _stopped_at_start(rig, name)
        if not was_up:
            return {f"SIGSTOP {name} while it starts": sample}
        await rig.healthy()
    raise Missed(f"{name} was up {STARTS_MAX} times before it was stopped")


async def _stopped_at_start(rig: Rig, name: str) -> tuple[Sample, bool]:
    """Stop the next process of a child at its first heartbeat; return the times, and whether it was up by then."""
    old = (await rig.pids())[name]
    killed_at, _ = await rig.kill(name)
    pulse = heartbeat_file(rig.system.home / "run", name)

    async def fresh() -> int | None:
        with contextlib.suppress(OSError, struct.error):
            (pid,) = struct.unpack_from("@q", pulse.read_bytes())
            return pid if pid not in (0, old) else None
        return None

    at = rig.end(pid := await rig.until(fresh, 30.0, "heartbeat of the next process", every_s=0.002), signal.SIGSTOP)
    try:
        exited = await rig.event(name, ("exited",), at)
        started = await rig.event(name, ("started",), exited["at"])
    except Missed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        raise
    query = "SELECT 1 FROM actor_events WHERE child = $1 AND event = 'started' AND time > to_timestamp($2)"
    early = await rig.rows(f"{query} AND time < to_timestamp($3)", name, killed_at, exited["at"])
    return Sample(exited["at"] - at, started["at"] - at, note=exited["reason"]), bool(early)


async def supervisor(rig: Rig) -> dict[str, Sample]:
    """kill -9 of the supervisor: it is back when it has adopted every child; no other process may have died."""
    pids = await rig.pids()
    at, _ = await rig.kill("supervisor")
    adopted = [await rig.event(name, ("adopted", "started"), at) for name in ACTORS]
    sample = Sample(None, max(row["at"] for row in adopted) - at)

    async def beats() -> bool:
        query = "SELECT 1 FROM component_health WHERE name = 'supervisor' AND pid <> $1 AND state = 'ready'"
        return bool(await rig.rows(query, pids["supervisor"]))

    await rig.until(beats, 30.0, "supervisor's row")
    now = await rig.pids()
    if others := [name for name in ACTORS if now.get(name) != pids[name]]:
        sample.wrong.append(f"restarted: {', '.join(others)}")
    return {"kill -9 supervisor": sample}
