"""Seconds from the submission of a backtest on a live cluster to its first line of work, and to its result.

    python benchmarks/submit.py [--rounds 7]

A whole demo system in a temporary FKS_HOME. The first backtest of a cluster starts a process (cold); each later one
finds one that was kept ready (warm), and is submitted once there is one. Running = the first heartbeat that the job's
own process wrote. Every job has other parameters, so that no stored result answers. Before anything is timed, the fills
of a job are compared with those of the compiled engine in this process, and afterwards those of each other job. Limits:
0.5 s warm, 2 s cold. Exits 1 when fills differ or a limit is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._results import run, same
from benchmarks.faults.rig import Rig
from fks.research import backtest
from fks.research.backtest.frames import sample
from fks.strategies.sma_cross import SmaCross

READY_S = 60.0
SINCE, UNTIL = "2026-03-01", "2026-03-05"


def fills_of(fast: int) -> str:
    """Return the hash of the fills that the compiled engine makes here on the same bars."""
    bars = sample()
    low, high = (np.searchsorted(bars.time_ns, np.datetime64(day, "ns").astype(np.int64)) for day in (SINCE, UNTIL))
    return backtest.run(SmaCross(fast=fast, slow=fast + 2), bars[low:high], engine="compiled").fills_hash


async def submitted(rig: Rig, client: httpx.AsyncClient, fast: int) -> tuple[float, float]:
    """Return the seconds to running and to the result of one backtest of four days of stored minutes."""
    spec = {
        "strategy": "sma_cross",
        "params": {"fast": fast, "slow": fast + 2},
        "symbol": "BTC/USDT",
        "timeframe": "1m",
        "from": SINCE,
        "to": UNTIL,
    }
    start = time.time()
    answer = await client.post("/backtests?again=true", json=spec)
    assert answer.status_code in (200, 202), answer.text
    id = answer.json()["id"]
    running = None
    while True:
        (row,) = await rig.rows(
            "SELECT state, beat_at, started_at, error, result->>'fills_hash' AS fills FROM jobs WHERE id = $1::text::uuid",
            id,
        )
        if running is None and row["beat_at"] is not None and row["beat_at"] > row["started_at"]:
            running = row["beat_at"].timestamp() - start
        if row["state"] in ("done", "failed"):
            took = running if running is not None else time.time() - start, time.time() - start
            same(f"the state of the job, {row['error']}", row["state"], "done")
            same(f"the fills of the job with fast {fast}", row["fills"], fills_of(fast))
            return took
        await asyncio.sleep(0.005)


async def ready(rig: Rig) -> None:
    """Wait until a process is kept ready."""
    deadline = time.monotonic() + READY_S
    while not rig.ray_pids("ray::Job") and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
    await asyncio.sleep(5.0)  # until it has loaded everything


async def main(repeats: int) -> int:
    with tempfile.TemporaryDirectory(prefix="fks-submit-") as made:
        os.chmod(made, 0o755)  # the database's own user must come through
        rig = Rig.at(Path(made) / "home")
        try:
            await asyncio.to_thread(rig.system.up)
            await asyncio.to_thread(rig.system.fks, "data", "sample", timeout_s=120.0)
            await rig.healthy()
            async with rig.client() as client:
                cold = await submitted(rig, client, 3)
                warm = []
                for number in range(repeats):
                    await ready(rig)
                    warm.append(await submitted(rig, client, 4 + number))
        finally:
            await rig.close()
            await asyncio.to_thread(rig.system.down)
    print(f"{'':6}{'running s':>11}{'limit':>7}{'result s':>10}")
    print(f"{'cold':6}{cold[0]:11.2f}{2.0:7.1f}{cold[1]:10.2f}")
    running = statistics.median(row[0] for row in warm)
    print(f"{'warm':6}{running:11.2f}{0.5:7.1f}{statistics.median(row[1] for row in warm):10.2f}   median of {repeats}")
    return int(cold[0] > 2.0 or running > 0.5)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", dest="repeats", type=int, default=7)
    run(lambda: asyncio.run(main(parser.parse_args().repeats)))
