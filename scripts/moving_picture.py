"""Record a demo in which the order manager is killed, and draw the moving picture of README.md from the record.

    python scripts/moving_picture.py                     # both: docs/images/kill.gif and kill.png, in two minutes
    python scripts/moving_picture.py --record run.json   # record only
    python scripts/moving_picture.py --draw run.json     # draw only

The record holds the exchange's own state (price, open orders, executions), ten times a second, and the rows of
`actor_events` and `trades`. The picture plays it at real speed, without a cut. It needs chromium and ffmpeg.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import asyncpg
import httpx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from fks.lab.chaos.auditor import made_by  # noqa: E402
from tests.support.browser import close_shared, is_true, page  # noqa: E402

FKS = str(Path(sys.executable).parent / "fks")
INSTANCE, SYMBOL = "sma-btc-1s", "BTCUSDT"
BEFORE_S, AFTER_S = 6.0, 14.0  # of the kill: the length of the picture
EVERY_S = 0.1
STILL_S = 0.6  # after the kill: the order manager is dead, its stop is at the exchange
TRIES = 8
SIZE = (960, 540)
PALETTE = "split[a][b];[a]palettegen=max_colors=96:stats_mode=full[p];[b][p]paletteuse=dither=none:diff_mode=rectangle"
_EVENTS = """
SELECT extract(epoch FROM time)::float8 AS at, child, event, reason, pid, epoch FROM actor_events
 WHERE time > to_timestamp($1) AND event IN ('exited', 'started') ORDER BY id"""
_TRADES = """
SELECT extract(epoch FROM t.time)::float8 AS at, t.symbol, t.trade_type, t.quantity::text, t.price::text, o.role,
       o.instance
  FROM trades t JOIN orders o USING (client_order_id)
 WHERE t.time > to_timestamp($1) AND o.venue = 'ccxt' ORDER BY t.time"""
_READY = """
SELECT extract(epoch FROM updated_at)::float8 AS at FROM venue_states
 WHERE venue = 'ccxt' AND account_id <> 0 AND state = 'READY' AND updated_at > to_timestamp($1)"""


class Recorder:
    """Samples of a running demo."""

    def __init__(self, home: Path) -> None:
        self.node = json.loads((home / "run" / "node.json").read_text())
        self.samples: list[dict[str, Any]] = []
        self._home = home

    async def run(self) -> dict[str, Any]:
        """Return the record of a kill while a position was open, after which trading went on."""
        self._db = await asyncpg.connect(self.node["database_url"])
        try:
            async with httpx.AsyncClient(base_url=self.node["sim"]["rest"], trust_env=False) as self._exchange:
                for _ in range(TRIES):
                    if (record := await self._attempt()) is not None:
                        return record
        finally:
            await self._db.close()
        raise SystemExit(f"in {TRIES} kills none had a fill on both sides of it; run it again")

    async def _attempt(self) -> dict[str, Any] | None:
        self.samples = []
        pid = self._pid("orders")
        start = time.time()
        bought = 0.0
        while True:
            await self._sample()
            stops = [row for row in self.samples[-1]["orders"] if row["type"] == "STOP_LOSS"]
            bought = (bought or time.time()) if stops else 0.0
            if bought and time.time() > start + BEFORE_S and 0.3 < time.time() - bought < 0.8:
                break
        at = time.time()
        os.kill(pid, signal.SIGKILL)
        while time.time() < at + AFTER_S:
            await self._sample()
        since = at - BEFORE_S
        events = [dict(row) for row in await self._db.fetch(_EVENTS, since)]
        trades = [dict(row) for row in await self._db.fetch(_TRADES, since - 30)]
        back = next((row["at"] for row in events if row["child"] == "orders" and row["event"] == "started"), None)
        shown = [row["at"] for row in trades if row["symbol"] == SYMBOL and row["instance"] == INSTANCE]
        if back is None or sum(t < at for t in shown if t > since) < 1 or sum(t > back for t in shown) < 2:
            return None
        ready = await self._db.fetchrow(_READY, back - 1)
        if doubled := [id for id, times in Counter(await self._received()).items() if times > 1]:
            raise SystemExit(f"the exchange received these orders twice: {', '.join(doubled)}")
        pids = {name: self._pid(name) for name in ("guardian", "collector:binance", "strategy:0", "supervisor")}
        return {
            "killed_at": at,
            "pid": pid,
            "back_at": back,
            "ready_at": ready and ready["at"],
            "new_pid": self._pid("orders"),
            "pids": pids,
            "before_s": BEFORE_S,
            "after_s": AFTER_S,
            "samples": [row for row in self.samples if row["at"] > since - 1],
            "events": events,
            "trades": trades,
        }

    async def _received(self) -> list[str]:
        """Return the client order id of each request for an order, as often as the exchange received it."""
        rows = (await self._exchange.get("/sim/received?limit=1000000")).json()["items"]
        return [id for row in rows for id in made_by(row)]

    async def _sample(self) -> None:
        state = (await self._exchange.get("/sim/state")).json()
        orders = [
            {key: row[key] for key in ("clientOrderId", "type", "side", "origQty", "price", "stopPrice")}
            for row in state["open_orders"]
            if row["symbol"] == SYMBOL and row["status"] != "PENDING_NEW"
        ]
        self.samples.append({"at": time.time(), "price": float(state["prices"][SYMBOL]), "orders": orders})
        await asyncio.sleep(EVERY_S)

    def _pid(self, name: str) -> int:
        done = subprocess.run([FKS, "--home", str(self._home), "status", "--json"], capture_output=True, check=True)
        return next(int(row["pid"]) for row in json.loads(done.stdout)["components"] if row["name"] == name)


def record() -> dict[str, Any]:
    """Return the record of a demo of its own, in a new home that is removed afterwards."""
    home = Path(tempfile.mkdtemp(prefix="fks-picture-"))
    env = {key: value for key, value in os.environ.items() if not key.startswith("FKS_")}
    env |= {"FKS_HOME": str(home), "FKS_HTTP_PORT": "0", "FKS_RAY_DASHBOARD_PORT": "0"}
    try:
        subprocess.run([FKS, "up", "--detach"], env=env, check=True)
        time.sleep(30.0)  # the averages have their bars, and the machine is calm
        return asyncio.run(Recorder(home).run())
    finally:
        subprocess.run([FKS, "down"], env=env, check=False)
        shutil.rmtree(home, ignore_errors=True)


async def draw_frames(found: dict[str, Any], frames: Path, frames_per_s: int) -> None:
    """Write the frames as 0000.png and following, and still.png."""
    count = int((found["before_s"] + found["after_s"]) * frames_per_s)
    moments = {f"{number:04d}.png": number / frames_per_s for number in range(count)}
    moments["still.png"] = found["before_s"] + STILL_S
    async with page() as tab:
        await tab.call(
            "Emulation.setDeviceMetricsOverride", width=SIZE[0], height=SIZE[1], deviceScaleFactor=1.5, mobile=False
        )
        await tab.go((frames / "page.html").as_uri())
        await is_true(tab, "typeof draw === 'function'")
        for name, at_s in moments.items():
            await tab.run(f"draw({at_s})")
            shot = await tab.call("Page.captureScreenshot", format="png")
            await asyncio.to_thread((frames / name).write_bytes, base64.b64decode(shot["data"]))
        if tab.complaints:
            raise SystemExit(f"the page of the picture is wrong: {tab.complaints}")


def draw(found: dict[str, Any], into: Path, frames_per_s: int) -> None:
    """Write kill.gif and kill.png into a directory."""
    text = (ROOT / "scripts" / "moving_picture.html").read_text().replace("/*RECORD*/null", json.dumps(found))
    with tempfile.TemporaryDirectory(prefix="fks-picture-") as folder:
        frames = Path(folder)
        (frames / "page.html").write_text(text)
        asyncio.run(draw_frames(found, frames, frames_per_s))
        close_shared()
        shutil.copy(frames / "still.png", into / "kill.png")
        command = [
            "ffmpeg",
            "-loglevel",
            "error",
            "-y",
            "-framerate",
            str(frames_per_s),
            "-i",
            str(frames / "%04d.png"),
        ]
        subprocess.run([*command, "-filter_complex", PALETTE, "-loop", "0", str(into / "kill.gif")], check=True)
    print(f"{into / 'kill.gif'}: {(into / 'kill.gif').stat().st_size / 1e6:.2f} MB")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, metavar="FILE", help="record only")
    parser.add_argument("--draw", type=Path, metavar="FILE", help="draw only")
    parser.add_argument("--into", type=Path, default=ROOT / "docs" / "images", metavar="DIR")
    parser.add_argument("--frames", type=int, default=10, help="a second (default: 10)")
    options = parser.parse_args()
    found = json.loads(options.draw.read_text()) if options.draw else record()
    print(f"the order manager was back {found['back_at'] - found['killed_at']:.2f} s after its kill")
    if options.record:
        options.record.write_text(json.dumps(found))
        return 0
    draw(found, options.into, options.frames)
    return 0


if __name__ == "__main__":
    sys.exit(main())
