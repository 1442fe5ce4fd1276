"""The pages on a demo system of their own: server time, first paint, from a message to the screen, and twenty tabs.

    python benchmarks/web.py [--repeats 10] [--seconds 30] [--tabs 20]

Before anything is timed, the titles and headings of each page that is made here are compared with those that the
replica serves; exits 1 when they differ or a limit is missed. Server time: each page is made in this process as a
replica makes it, against the system's gateway; its limit is three times the time in which at least one of its reads of
the gateway was under way. First paint: a headless Chromium with an empty cache opens the dashboard. From a message to
the screen: a bar is published on the bus, and the chart of its series has drawn it. Tabs: processor time of the
system's processes with open dashboards, less that without, as cores and in CPU seconds a minute by part; the browser's
own, which runs on the readers' machines, stands apart."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._results import run, same
from fks.clock import RealClock
from fks.config.paths import Paths
from fks.config.secrets import derived, load_secrets
from fks.config.settings import Http
from fks.interfaces.web.app import create_app
from fks.interfaces.web.assets import AssetFiles
from fks.interfaces.web.client import BrowserCaller, GatewayClient
from fks.interfaces.web.registry import PAGES
from fks.interfaces.web.site import SiteDeps
from fks.model.timeframe import iso
from fks.store.bus import BARS, Bus
from tests.support.browser import close_shared, is_live, is_true
from tests.support.ports import CollectingLog
from tests.support.system import System
from tests.support.web_session import logged_in, session_of

READS_RATIO_MAX, PAINT_MAX_S, SCREEN_MAX_S, CORES_MAX = 3.0, 1.5, 0.3, 0.3
USER = "bench"


class Timed(GatewayClient):
    """A gateway client that measures in how much time at least one call was under way."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.busy_s = 0.0
        self._open, self._since = 0, 0.0

    async def _call(
        self, method: str, caller: BrowserCaller, path: str, headers: Mapping[str, str] | None = None, **more: Any
    ) -> httpx.Response:
        if self._open == 0:
            self._since = time.perf_counter()
        self._open += 1
        try:
            return await super()._call(method, caller, path, headers, **more)
        finally:
            self._open -= 1
            if self._open == 0:
                self.busy_s += time.perf_counter() - self._since


def headings(page: str) -> list[str]:
    """Return the title and the headings of a page, without numbers: those change while it trades."""
    found = re.findall(r"<(title|h1|h2|h3)\b[^>]*>(.*?)</\1>", page, re.S)
    return [f"{tag}: {re.sub(r'<[^>]*>|[0-9.,:]+', '', text).strip()}" for tag, text in found]


async def server_times(system: System, cookie: str, repeats: int) -> list[tuple[str, float, float]]:
    """Return (page, median seconds, median seconds of its gateway reads)."""
    secrets = load_secrets(Paths.of(system.home))
    gateway = Timed(system.url, forward_key=derived(secrets.session_key.get_secret_value(), "pages"))
    app = create_app(
        SiteDeps(http=Http(), clock=RealClock(), log=CollectingLog(), gateway=gateway, assets=AssetFiles())
    )
    transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 40000))
    found = []
    async with httpx.AsyncClient(
        transport=transport, base_url=system.url, cookies={"fks_session": cookie}, timeout=60.0
    ) as client:
        for each in PAGES:
            if "{" in each.path:
                continue
            mine = await client.get(each.path)
            async with httpx.AsyncClient(cookies={"fks_session": cookie}, timeout=60.0) as other:
                theirs = await other.get(f"{system.url}/app{each.path}")
            same(f"the status of {each.name}", mine.status_code, theirs.status_code)
            same(f"the headings of {each.name}", headings(mine.text), headings(theirs.text))
            same(f"whether {each.name} has a title", bool(headings(mine.text)), True)
            whole, reads = [], []
            for _ in range(repeats + 1):
                gateway.busy_s, begun = 0.0, time.perf_counter()
                answer = await client.get(each.path)
                whole.append(time.perf_counter() - begun)
                reads.append(gateway.busy_s)
                assert answer.status_code == 200, (each.name, answer.status_code)
            found.append((each.name, statistics.median(whole[1:]), statistics.median(reads[1:])))
    await gateway.close()
    return found


async def first_paint(system: System, cookie: str, repeats: int) -> tuple[float, float]:
    """Return the median seconds to the first contentful paint of the dashboard, and to its last number, with an empty
    cache."""
    paint, whole = [], []
    for _ in range(repeats):
        async with logged_in(system, cookie) as tab:
            await tab.go(system.url + "/app/")
            await is_true(tab, f"{_PAINT} !== undefined && document.readyState === 'complete'")
            paint.append(await tab.run(f"{_PAINT}.startTime") / 1e3)
            parsed = await tab.run("performance.getEntriesByType('navigation')[0].domInteractive") / 1e3
            whole.append(max(parsed, paint[-1]))
    return statistics.median(paint), statistics.median(whole)


_PAINT = "performance.getEntriesByName('first-contentful-paint')[0]"


async def to_screen(system: System, cookie: str, count: int) -> list[float]:
    """Return the seconds from the publication of bars to the frame in which the chart has them."""
    bus = await Bus.connect(system.node["redis_url"])
    found: list[float] = []
    async with logged_in(system, cookie) as tab:
        await tab.go(system.url + "/app/chart?symbol=BTCUSDT&timeframe=1m")
        await is_live(tab)
        await is_true(tab, "document.querySelector('#bars-chart canvas') !== null")
        await tab.run(
            "window.seen = {}; document.addEventListener('fks:message', (e) => { const n = e.detail.bench;"
            " if (n !== undefined) requestAnimationFrame(() => { window.seen[n] = Date.now(); }); })"
        )
        for number in range(count):
            begun = time.time()
            bar = {"type": "bar", "exchange": "binance", "symbol": "BTCUSDT", "timeframe": "1m", "bench": number}
            prices = dict.fromkeys(("open", "high", "low", "close"), "64000.5")
            await bus.publish(BARS, {**bar, **prices, "time": iso(int(begun // 60 * 60) * 10**9), "volume": "1"})
            await is_true(tab, f"window.seen[{number}] !== undefined")
            found.append(await tab.run(f"window.seen[{number}]") / 1e3 - begun)
    await bus.close()
    return found


#: Parts of the system by what stands in the command line of their processes.
PARTS = {"web replica": "ServeReplica:pages", "gateway replicas": "ServeReplica:gateway", "proxy": "ProxyActor"}
PARTS |= {"PostgreSQL": "postgres", "Redis": "redis-server"}


def processor_s(system: System) -> Counter[str]:
    """Return the processor time so far by part; `browser` is none of the system."""
    total: Counter[str] = Counter()
    own = [(process, "browser") for process in psutil.Process().children(recursive=True)]
    # PostgreSQL's backends write over their environment, by which the others are found
    found = {child for process in system.processes() for child in (process, *_children(process))}
    for process, name in [*((process, "") for process in found), *own]:
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline())
            times = process.cpu_times()
            part = name or next((part for part, mark in PARTS.items() if mark in line), "rest of the system")
            total[part] += times.user + times.system
    return total


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True) if process.name() == "postgres" else []
    except psutil.Error:
        return []


async def tabs_cost(system: System, cookie: str, tabs: int, seconds: float) -> tuple[Counter[str], Counter[str]]:
    """Return the processor seconds a minute by part, without and with open dashboards."""

    async def a_minute() -> Counter[str]:
        before, begun = processor_s(system), time.monotonic()
        await asyncio.sleep(seconds)
        after, passed = processor_s(system), time.monotonic() - begun
        return Counter({part: max(0.0, after[part] - before[part]) * 60 / passed for part in after})

    without = await a_minute()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(tabs):
            tab = await stack.enter_async_context(logged_in(system, cookie))
            await tab.go(system.url + "/app/")
            await is_live(tab)
        return without, await a_minute()


def shown(name: str, ours: float, limit: float, unit: str) -> bool:
    """Print one row; return whether it keeps its limit."""
    print(f"{name:44}{ours:10.3f}{limit:10.3f}{ours / limit:8.2f} {unit}{'' if ours <= limit else '   MISSED'}")
    return ours <= limit


async def main(repeats: int, seconds: float, tabs: int) -> int:
    print(f"load of this machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(prefix="fks-bench-web-") as place:
        system = System.at(Path(place) / "home", FKS_WEB_ENABLED="true", FKS_AUTH_LIMIT_PER_HOUR="0")
        try:
            system.up()
            cookie = await session_of(system, USER)
            print(f"{'':44}{'ours':>10}{'limit':>10}{'ratio':>8}")
            kept = [
                shown(f"server time of {name}", whole, READS_RATIO_MAX * reads, "s")
                for name, whole, reads in await server_times(system, cookie, repeats)
            ]
            paint, whole = await first_paint(system, cookie, 5)
            kept.append(shown("first paint of the dashboard", paint, PAINT_MAX_S, "s"))
            print(f"{'its numbers are there':44}{whole:10.3f}")
            lags = sorted(await to_screen(system, cookie, 100))
            print(f"{'message to screen, p50':44}{statistics.median(lags):10.3f}")
            kept.append(shown("message to screen, p95", lags[94], SCREEN_MAX_S, "s"))
            without, with_ = await tabs_cost(system, cookie, tabs, seconds)
            idle, busy = (sum(found.values()) - found["browser"] for found in (without, with_))
            kept.append(shown(f"cores added by {tabs} open dashboards", (busy - idle) / 60, CORES_MAX, "cores"))
            print(f"{f'CPU seconds a minute of {tabs} open dashboards':44}{busy - idle:10.2f}")
            for part in (*PARTS, "rest of the system", "browser"):
                print(f"{'  ' + part:44}{with_[part] - without[part]:10.2f}  ({without[part]:.2f} without)")
        finally:
            close_shared()
            system.down()
    print(f"load of this machine: {os.getloadavg()[0]:.1f}")
    return 0 if all(kept) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--tabs", type=int, default=20)
    given = parser.parse_args()
    run(lambda: asyncio.run(main(given.repeats, given.seconds, given.tabs)))
