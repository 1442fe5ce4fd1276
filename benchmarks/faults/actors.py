"""Faults of the actors: killed, stopped, with a blocked loop; the supervisor; the order manager with many orders."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

import httpx

from benchmarks.faults.rig import ACTORS, Missed, Rig, Sample

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
        while FLAG.exists():
            time.sleep(0.02)
        return Decisions(np.zeros(len(bars)))
'''


async def killed(rig: Rig, name: str) -> dict[str, Sample]:
    """kill -9: detected is the supervisor's own row, serving is the first beat of the new process under its epoch."""
    before = {row["name"]: row["epoch"] for row in await rig.rows("SELECT name, epoch FROM leases")}
    pids = await rig.pids()
    at, pid = await rig.kill(name)
    exited = await rig.event(name, ("exited",), at)
    started = await rig.event(name, ("started",), at)
    sample = Sample(exited["at"] - at, started["at"] - at)
    if name in before and not started["epoch"] > before[name]:
        sample.wrong.append(f"epoch {started['epoch']} is not above {before[name]}")
    if started["pid"] == pid:
        sample.wrong.append("the same pid came back")
    now = await rig.pids()
    if others := [other for other, was in pids.items() if other != name and now.get(other) != was]:
        sample.wrong.append(f"restarted too: {', '.join(others)}")
    return {f"kill -9 {name}": sample}


async def collector(rig: Rig) -> dict[str, Sample]:
    """kill -9 of the collector, until every feed is live again; entries are tried all the while."""
    async with rig.client() as client:
        price = await rig.price(client)
        tries: list[tuple[float, bool]] = []
        work = asyncio.create_task(killed(rig, "collector:binance"))
        started = asyncio.get_running_loop().time()
        knock = asyncio.create_task(_entries(rig, client, price, tries))
        try:
            found = await work
            sample = next(iter(found.values()))
            assert sample.serving is not None
            assert sample.detected is not None
            kill_at = (await rig.event("collector:binance", ("started",), 0))["at"]
            newest = await rig.rows(
                "SELECT extract(epoch FROM time)::float8 AS at FROM actor_events WHERE child = 'collector:binance'"
                " AND event = 'started' ORDER BY id DESC LIMIT 1"
            )
            kill_at = newest[0]["at"] - sample.serving

            async def look() -> float | None:
                rows = await rig.rows(
                    "SELECT state, extract(epoch FROM updated_at)::float8 AS at FROM feeds WHERE timeframe = 'trades'"
                    " AND epoch = (SELECT epoch FROM leases WHERE name = 'collector:binance')"
                )
                return max(row["at"] for row in rows) if rows and all(r["state"] == "LIVE" for r in rows) else None

            await rig.until(look, 60.0, "live feeds")
            lines = [e["at"] for e in rig.lines("collector:binance", kill_at)
                     if e["event"] == "feed.state" and e.get("state") == "LIVE"]  # fmt: skip
            live = Sample(None, max(lines) - kill_at)
        finally:
            knock.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await knock
        del started
    inside = [ok for when, ok in tries if kill_at + sample.detected < when < kill_at + live.serving]
    live.note = f"{sum(inside)} of {len(inside)} entries admitted between detection and live"
    return found | {"  its feeds live": live}


async def _entries(rig: Rig, client: httpx.AsyncClient, price: float, tries: list[tuple[float, bool]]) -> None:
    """Try to enter ten times a second; note when, and whether it was let in."""
    import time

    while True:
        when = time.time()
        body = {"symbol": "BTCUSDT", "side": "buy", "type": "limit", "quantity": "0.0002", "price": str(int(price * 0.95))}
        with contextlib.suppress(httpx.HTTPError):
            answer = await client.post("/orders", json=body, headers={"Idempotency-Key": rig.key()})
            if answer.status_code in (202, 422):
                tries.append((when, answer.status_code == 202))
        await asyncio.sleep(0.2)


async def resting(rig: Rig, count: int = 1000) -> int:
    """Place resting orders until that many are open; return how many are. The exchange lets in 100 each 10 s."""
    open_count = "SELECT count(*) FROM orders WHERE state IN ('ACCEPTED', 'WORKING') AND venue = 'ccxt'"
    async with rig.client() as client:
        body = {"symbol": "ETHUSDT", "side": "buy", "type": "limit", "quantity": "0.01",
                "price": str(int(await rig.price(client, "ETHUSDT") * 0.92))}  # fmt: skip
        while True:
            have = int((await rig.rows(open_count))[0][0])
            if have >= count:
                return have
            for _ in range(min(80, count - have)):
                await client.post("/orders", json=body, headers={"Idempotency-Key": rig.key()})
            await asyncio.sleep(2.0)


async def orders_full(rig: Rig) -> dict[str, Sample]:
    """kill -9 of the order manager with 1,000 open orders, until it has reconciled the venue that holds them."""
    have = await resting(rig)
    found = await killed(rig, "orders")
    sample = found.pop("kill -9 orders")
    row = await rig.rows(
        "SELECT extract(epoch FROM time)::float8 AS at FROM actor_events WHERE child = 'orders' AND event = 'started'"
        " ORDER BY id DESC LIMIT 1"
    )
    assert sample.serving is not None
    at = row[0]["at"] - sample.serving
    ready = await rig.line("orders", ("venue.state",), at, venue="ccxt", state="READY")
    sample.serving, sample.note = ready - at, f"{have} open orders"
    left = int((await rig.rows("SELECT count(*) FROM orders WHERE state IN ('ACCEPTED','WORKING') AND venue = 'ccxt'"))[0][0])
    if left < have:
        sample.note += f", {have - left} of them ended meanwhile"
    return {"kill -9 orders, 1,000 open orders: reconciled": sample}


async def stopped(rig: Rig, name: str) -> dict[str, Sample]:
    """SIGSTOP: no beat, so it is killed and started again."""
    at, pid = await rig.kill(name, signal.SIGSTOP)
    try:
        exited = await rig.event(name, ("exited",), at)
        started = await rig.event(name, ("started",), at)
    except Missed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        raise
    return {f"SIGSTOP {name}": Sample(exited["at"] - at, started["at"] - at)}


async def blocked(rig: Rig) -> dict[str, Sample]:
    """A decision that never returns blocks the worker's loop; its process lives and answers Ray."""
    flag = rig.system.home / "block"
    script = rig.system.home / "strategies" / "blocker.py"
    script.parent.mkdir(exist_ok=True)
    script.write_text(BLOCKER.format(flag=flag))
    known = await rig.rows("SELECT 1 FROM strategy_instances WHERE id = 'blocker'")
    if not known:
        await asyncio.to_thread(
            rig.system.fks, "strategies", "add", "blocker", "blocker", "--symbol", "BTC/USDT", "--timeframe", "1s",
            "--account", "paper", "--size", "100",
        )  # fmt: skip
    # twice a second evaluated quickly, so that it is called on the loop from then on
    cursor = "SELECT 1 FROM strategy_instances WHERE id = 'blocker' AND state = 'RUNNING' AND cursor_time > now() - interval '5 s'"

    async def runs() -> bool:
        return bool(await rig.rows(cursor))

    await rig.until(runs, 60.0, "running blocker")
    await asyncio.sleep(3.0)
    import time

    at = time.time()
    flag.touch()
    try:
        exited = await rig.event("strategy:0", ("exited",), at)
    finally:
        flag.unlink()
    started = await rig.event("strategy:0", ("started",), at)
    # the loop stops at the next sealed bar, up to a second after the flag: its own log's last word is the earlier bound
    last = max((e["at"] for e in rig.lines("strategy:0", at) if e["at"] < exited["at"]), default=at)
    del last
    return {"event loop blocked (strategy:0)": Sample(exited["at"] - at, started["at"] - at, note="from the flag; the loop blocks up to 1 s later")}


async def supervisor(rig: Rig) -> dict[str, Sample]:
    """kill -9 of the supervisor: it is back when it has adopted every child; nobody else may have died."""
    pids = await rig.pids()
    at, _ = await rig.kill("supervisor")
    adopted = [await rig.event(name, ("adopted", "started"), at) for name in ACTORS]
    sample = Sample(None, max(row["at"] for row in adopted) - at)

    async def beats() -> bool:
        rows = await rig.rows("SELECT 1 FROM component_health WHERE name = 'supervisor' AND pid <> $1 AND state = 'ready'", pids["supervisor"])
        return bool(rows)

    await rig.until(beats, 30.0, "supervisor's row")
    now = await rig.pids()
    if others := [name for name in ACTORS if now.get(name) != pids[name]]:
        sample.wrong.append(f"restarted: {', '.join(others)}")
    return {"kill -9 supervisor": sample}
