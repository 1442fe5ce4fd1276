"""Pages that are open all day: messages at 24 times the usual rate, and nothing grows in the browser or in what serves
it. `make soak`. FKS_SOAK_MINUTES: its length, 60 by default."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import statistics
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fks.model.timeframe import iso
from fks.store.bus import ALERTS, BARS, FILLS, ORDERS, SIGNALS, Bus
from tests.support.browser import Page, is_live
from tests.support.system import System
from tests.support.web_session import logged_in, session_of

MINUTES = float(os.environ.get("FKS_SOAK_MINUTES", "60"))
FASTER = 24.0
RATE_S = 30.0  # in which the rate of the system itself is counted
WARM_UP_S = 60.0
SAMPLE_S = 20.0
PAGES = {
    "dashboard": "/app/",
    "chart": "/app/chart?symbol=BTCUSDT&timeframe=1m",
    "signals": "/app/signals",
    "accounts": "/app/accounts",
    "monitor": "/app/monitor",
}
#: Metrics of a tab after a garbage collection -> what a page of another length may add.
TAB_SLACK = {"JSHeapUsedSize": 1.0e6, "old copies": 0.6, "JSEventListeners": 60.0, "Documents": 2.0}
#: Of a process -> likewise. Connections come and go with what is under way.
PROCESS_SLACK = {"memory": 4.0e6, "sockets": 12.0, "files": 12.0}
GROWTH_MAX = 1.10
ATTACHED = """(() => { const walker = document.createTreeWalker(document, NodeFilter.SHOW_ALL); let count = 1;
while (walker.nextNode()) count += 1; return count; })()"""
COUNT = """window.count = 0; window.loads = 0; document.addEventListener("fks:message", () => { window.count += 1; });
document.body.addEventListener("htmx:afterSwap", () => { window.loads += 1; })"""


@pytest.fixture
def system() -> Iterator[System]:
    with tempfile.TemporaryDirectory(prefix="fks-soak-") as place:
        Path(place).chmod(0o755)
        found = System.at(Path(place) / "home", FKS_WEB_ENABLED="true", FKS_AUTH_LIMIT_PER_HOUR="0")
        try:
            found.up()
            yield found
        finally:
            found.down()


@pytest.mark.soak
@pytest.mark.timeout(5400)
async def test_pages_at_24_times_their_rate_do_not_grow(system: System) -> None:
    cookie = await session_of(system, "soak")
    bus = await Bus.connect(system.node["redis_url"])
    async with contextlib.AsyncExitStack() as stack:
        tabs = {}
        for name, path in PAGES.items():
            tab = tabs[name] = await stack.enter_async_context(logged_in(system, cookie))
            await tab.call("Performance.enable")
            await tab.call("HeapProfiler.enable")
            await tab.go(system.url + path)
            await is_live(tab)
            await tab.run(COUNT)
        await asyncio.sleep(RATE_S)
        base = float(await tabs["dashboard"].run("window.count")) / RATE_S
        assert base > 0, "the system sends nothing by itself"
        publishing = asyncio.create_task(publish(bus, base * FASTER))
        try:
            series = await watched(system, tabs)
        finally:
            publishing.cancel()
        received = await tabs["dashboard"].run("window.count") / (MINUTES * 60)
        loads = {name: await tab.run("window.loads") / MINUTES for name, tab in tabs.items()}
        complaints = [line for tab in tabs.values() for line in tab.complaints]
    await bus.close()
    print(f"\nmessages a second: by itself {base:.2f}, received {received:.1f}; regions loaded a minute: {loads}")
    faults = [found for (owner, name), values in series.items() if (found := growth(owner, name, values))]
    assert faults == []
    assert complaints == []
    assert received >= base * FASTER * 0.5, "the messages did not arrive"


async def publish(bus: Bus, rate: float) -> None:
    """Publish messages of every kind that a page reads after, until cancelled."""
    begun, number = time.monotonic(), 0
    bar = {"type": "bar", "exchange": "binance", "symbol": "BTCUSDT", "timeframe": "1m", "volume": "1"}
    prices = dict.fromkeys(("open", "high", "low", "close"), "64000.5")
    while True:
        id = str(uuid.uuid4())
        await bus.publish(
            *(
                (SIGNALS, {"type": "signal", "id": id, "symbol": "BTCUSDT", "state": "ready"}),
                (ORDERS, {"type": "order", "id": id, "symbol": "BTCUSDT", "state": "FILLED"}),
                (FILLS, {"type": "fill", "id": id, "symbol": "BTCUSDT", "quantity": "1"}),
                (ALERTS, {"type": "alert", "id": id, "severity": "info"}),
                (BARS, {**bar, **prices, "time": iso(int(time.time() // 60 * 60) * 10**9)}),
            )[number % 5]
        )
        number += 1
        await asyncio.sleep(max(0.0, begun + number / rate - time.monotonic()))


async def watched(system: System, tabs: dict[str, Page]) -> dict[tuple[str, str], list[float]]:
    """Return the samples of every tab and process by (owner, name), after the warm-up."""
    series: dict[tuple[str, str], list[float]] = defaultdict(list)
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < MINUTES * 60:
        if passed > WARM_UP_S:
            for name, tab in tabs.items():
                for metric, value in (await of_tab(tab)).items():
                    series[name, metric].append(value)
            for owner, name, value in of_replicas(system):
                series[owner, name].append(value)
        await asyncio.sleep(SAMPLE_S)  # the pace of the samples
    return series


async def of_tab(tab: Page) -> dict[str, float]:
    """Return the metrics of a tab in which nothing waits for the garbage collector."""
    await tab.run("performance.clearResourceTimings()")  # the browser keeps 250 of them
    await tab.call("HeapProfiler.collectGarbage")
    found = {row["name"]: row["value"] for row in (await tab.call("Performance.getMetrics"))["metrics"]}
    # nodes that are not shown any more, in copies of the page: the browser keeps what was replaced last, and a table
    # grows while the system trades
    attached = float(await tab.run(ATTACHED))
    found["old copies"] = (found["Nodes"] - attached) / attached
    return {name: found[name] for name in TAB_SLACK}


def of_replicas(system: System) -> list[tuple[str, str, float]]:
    """Return (process, name, value) of the replicas and the proxy."""
    found = []
    for process in system.processes():
        with contextlib.suppress(psutil.Error):
            if title := re.search(r"ServeReplica:\w+|ProxyActor", " ".join(process.cmdline())):
                owner = f"{title[0]} {process.pid}"
                found.append((owner, "memory", float(process.memory_full_info().uss)))
                found.append((owner, "sockets", float(len(process.net_connections()))))
                found.append((owner, "files", float(process.num_fds())))
    return found


def growth(owner: str, name: str, values: list[float]) -> str:
    """Print the samples; return what is wrong with them: the median of the last third above that of the first."""
    third = max(1, len(values) // 3)
    first, last = statistics.median(values[:third]), statistics.median(values[-third:])
    digits = 2 if name == "old copies" else 0
    shown = "".join(f"{value:14,.{digits}f}" for value in (values[0], first, last, values[-1]))
    print(f"{owner:44}{name:18}{shown}")
    slack = {**TAB_SLACK, **PROCESS_SLACK}[name]
    return f"{owner} {name}: {first:,.2f} -> {last:,.2f}" if last > first * GROWTH_MAX + slack else ""
