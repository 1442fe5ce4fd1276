"""A trader's day in a real browser on a running system: bar, approval, denial, backtest, kill switch, and the deaths of
what serves the pages."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from fks.interfaces.web.registry import PAGES
from tests.support.browser import (
    SIZES,
    Page,
    is_live,
    is_true,
    look_at,
    page,
    picture,
    press,
    says,
    type_,
)
from tests.support.system import System
from tests.support.users import PASSWORD, bearer, code_of, enrol, log_in
from tests.support.waiting import until, wait_until

STRATEGY = '''
from fks.model.bar import Bars
from fks.strategies.base import Decisions, Strategy


class Alternates(Strategy):
    """Wants another position every five seconds."""

    name = "alternates"

    def warmup(self) -> int:
        return 1

    def decide(self, bars: Bars) -> Decisions:
        return Decisions(target=(bars.time_ns // 5_000_000_000 % 2).astype("float64"))
'''
USER = "trader"
#: FKS_SCREENSHOTS=FOLDER writes pictures of every page with the data of a running system.
SCREENSHOTS = os.environ.get("FKS_SCREENSHOTS")
#: What Chromium itself writes about a request that got no answer, or a 5xx one: no script can prevent it.
OWN_LINES = ("Failed to load resource", "WebSocket connection to")


@pytest.fixture
def waiting(system: System) -> Iterator[System]:
    """The system with an instance whose entries wait for a person, until the test ends."""
    (system.home / "strategies").mkdir(exist_ok=True)
    (system.home / "strategies" / "alternates.py").write_text(STRATEGY)
    add = ("strategies", "add", "asks", "alternates", "--symbol", "BTC/USDT", "--timeframe", "1s")
    try:
        system.fks(*add, "--account", "demo", "--approval", "manual")
        yield system
    finally:
        system.fks("strategies", "disable", "asks", check=False)
        system.fks("resume", check=False)


async def make_user(system: System) -> str:
    """Make an administrator; return the secret of the second factor."""
    token = (system.home / "cli.token").read_text().strip()
    async with httpx.AsyncClient(base_url=system.url, trust_env=False, timeout=20.0) as client:
        body = {"name": USER, "password": PASSWORD, "scope": "admin"}
        made = await client.post("/users", json=body, headers=bearer(token))
        assert made.status_code == 201, made.text
        answer = await log_in(client, USER)
        return await enrol(client, bearer(answer.json()["access_token"]))


@pytest.mark.timeout(300)
async def test_a_trader_s_day_survives_the_deaths_of_what_serves_it(waiting: System) -> None:
    system = waiting
    secret = await make_user(system)
    async with page() as tab:
        await enter(tab, system, code_of(secret, steps=1))
        await watch_a_bar_close(tab, system)
        await approve(tab, system)
        await see_limits(tab, system)
        await read_a_denial(tab, system)
        await backtest(tab, system)
        await stop_and_release(tab, system)
        assert tab.complaints == []
        await tab.go(system.url + "/app/")
        await is_live(tab)
        await tab.run("""window.fresh = 0; document.body.addEventListener("htmx:afterRequest", (event) => {
            if (event.detail.target?.id === "region" && event.detail.successful) window.fresh += 1; })""")
        await survive(tab, "a web replica", lambda: kill_replica(system, "pages"))
        for which in ("one", "the other"):  # one of them has the socket of the page
            await survive(tab, f"{which} gateway replica", lambda: kill_replica(system, "gateway"))
        await survive(tab, "Redis", lambda: kill_redis(system))
        if SCREENSHOTS:
            await take_pictures(tab, system)
        await tab.go(system.url + "/app/orders")  # still logged in
        await says(tab, "Executions")
        assert [text for text in tab.complaints if not text.startswith(OWN_LINES)] == []


def test_hung_pages_and_a_killed_proxy_are_seen(system: System) -> None:
    hung = system.components()["pages:0"]["pid"]
    os.kill(hung, signal.SIGSTOP)
    try:
        wait_until(lambda: "pages:0 is silent" in str(system.status()["reasons"]), deadline_s=30.0)
        assert system.status()["state"] == "degraded"
    finally:
        os.kill(hung, signal.SIGKILL)
    system.back_after("pages:0", hung, deadline_s=60.0)
    proxy = system.kill("proxy")["pid"]
    system.back_after("proxy", proxy, deadline_s=60.0)
    events = [(row["child"], row["event"], row["pid"]) for row in system.json("events", "-n", "100")["items"]]
    assert ("pages:0", "replaced", hung) in events
    assert ("proxy", "exited", proxy) in events
    with system.client() as client:
        counted = re.compile(r'^fks_serve_restarts\{.*child="(pages:0|proxy)".*\} [1-9]', re.MULTILINE)
        wait_until(lambda: {*counted.findall(client.get("/metrics").text)} == {"pages:0", "proxy"}, deadline_s=30.0)


async def take_pictures(tab: Page, system: System) -> None:
    """Write every page in both sizes and themes."""
    report = (await asyncio.to_thread(system.json, "backtest", "list"))["items"][0]["id"]
    places = {each.name: each.path for each in PAGES if "{" not in each.path}
    places |= {"backtest": f"/backtests/{report}", "part": "/monitor/orders", "instance": "/strategies/sma-btc-1s"}
    places |= {"chart": "/chart?symbol=BTCUSDT&timeframe=1s&indicator=rsi"}
    places |= {f"diagrams-{name}": f"/diagrams?name={name}" for name in ("feeds", "flow", "tree")}
    for name, path in places.items():
        await tab.go(system.url + "/app" + path)
        await is_true(tab, "document.readyState === 'complete' && document.getElementById('region') !== null")
        for theme in ("light", "dark"):
            for size in SIZES:
                await look_at(tab, size, theme)
                if name.startswith(("diagrams", "chart")):
                    await asyncio.sleep(2.0)  # a frame of another origin does not say when it has drawn
                await picture(tab, Path(str(SCREENSHOTS)) / f"web-{name}-{size}-{theme}.png", size)


async def enter(tab: Page, system: System, code: str) -> None:
    await tab.go(system.url + "/")
    await is_true(tab, "document.activeElement && document.activeElement.id === 'user'")
    for text in (USER, PASSWORD, code):
        await type_(tab, text)
        await press(tab, "Tab")
    await tab.run("document.getElementById('totp').focus()")
    await press(tab, "Enter")
    await is_true(tab, "location.pathname === '/app/' && document.getElementById('live-state') !== null")
    await says(tab, "Dashboard", "USDT", "Every part reports that it is well")
    await is_live(tab)


async def watch_a_bar_close(tab: Page, system: System) -> None:
    """The bar comes by the socket into the chart, and by the page's own region into its table."""
    await tab.go(system.url + "/app/chart?symbol=BTCUSDT&timeframe=1s")
    await is_live(tab)
    await is_true(tab, "document.querySelector('#bars-chart canvas') !== null")
    await tab.run("window.bars = []; document.addEventListener('fks:message', (e) => e.detail.type === 'bar' && "
                  "e.detail.timeframe === '1s' && e.detail.symbol === 'BTCUSDT' && bars.push(e.detail))")  # fmt: skip
    await is_true(tab, "window.bars.length >= 2")
    await is_true(tab, "document.querySelector('tr[data-time]').dataset.time >= window.bars[0].time.slice(0, 19)")


async def approve(tab: Page, system: System) -> None:
    await tab.go(system.url + "/app/signals")
    await is_live(tab)
    await says(tab, "enter buy BTCUSDT", "left", "Approve")
    await is_true(tab, "document.querySelector('[data-signal]') !== null")
    await press(tab, "j")
    await is_true(tab, "document.activeElement.matches('[data-signal]')")
    await press(tab, "a")
    await says(tab, "FILLED: buy BTCUSDT, filled")


async def see_limits(tab: Page, system: System) -> None:
    """The order manager's own figures reach the page, by the metrics that the monitor merges."""
    await tab.go(system.url + "/app/accounts?account=demo")
    for code in ("LOSS_DAY", "EXPOSURE_ACCOUNT"):
        look = f"document.querySelector('progress[aria-label=\"{code}, share used\"]') !== null"
        await until(lambda look=look: is_reloaded(tab, look), deadline_s=30, every_s=2.0)


async def is_reloaded(tab: Page, look: str) -> bool:
    """Return whether an expression is true; else load the page again."""
    found = bool(await tab.look(look))
    if not found:
        await tab.run("location.reload()")
    return found


async def read_a_denial(tab: Page, system: System) -> None:
    with system.client() as client:
        body = {"symbol": "BTC/USDT", "side": "buy", "type": "market", "quantity": "50"}
        _, answer = await asyncio.to_thread(system.order, client, body)
    assert answer.status_code == 422, answer.text
    id = answer.json()["id"]
    await tab.go(system.url + "/app/signals")
    await is_true(tab, f"document.querySelector('a[href$=\"/why/{id}\"]') !== null")
    await tab.run(f"document.querySelector('a[href$=\"/why/{id}\"]').click()")
    await says(tab, "denied", answer.json()["code"], "Checks")


async def backtest(tab: Page, system: System) -> None:
    await tab.go(system.url + "/app/backtests?strategy=sma_cross")
    await is_true(tab, "document.readyState === 'complete' && document.getElementById('start-backtest') !== null")
    fields = {"f-symbol": "BTCUSDT", "f-timeframe": "1s", "f-p-fast": "3", "f-p-slow": "8"}
    for id, value in fields.items():
        await tab.run(f"document.getElementById({json.dumps(id)}).value = {json.dumps(value)}")
    await tab.run("document.getElementById('f-allow_gaps').click()")
    await tab.run("document.getElementById('start-backtest').click()")
    await says(tab, "It is queued", "Its report")
    await tab.run("[...document.querySelectorAll('#outcome a')].find((a) => a.textContent === 'Its report').click()")
    await is_true(tab, "location.pathname.startsWith('/app/backtests/')")
    await says(tab, "done", "Statistics", "Trades")


async def stop_and_release(tab: Page, system: System) -> None:
    await tab.run("document.querySelector('a.stop').click()")
    await says(tab, "will be cancelled", "Engage the kill switch")
    await tab.run("document.getElementById('reason').focus()")
    await type_(tab, "a drill")
    await press(tab, "Enter")
    await says(tab, "The kill switch is engaged", f"Kill switch engaged by user:{USER}")
    assert (await asyncio.to_thread(system.status))["kill"]["engaged"]
    await is_true(tab, "document.getElementById('release') !== null")
    await until(lambda: is_released(tab), deadline_s=60, every_s=1.0)
    await until(lambda: not system.status()["kill"]["engaged"], deadline_s=20, every_s=0.2)


async def is_released(tab: Page) -> bool:
    """Press the button; return whether the switch was released. A kill that has just found an order that was on its way
    is at work on it, and a release waits."""
    await tab.run("document.getElementById('outcome').textContent = ''")
    await tab.run("document.getElementById('release').focus()")
    await press(tab, "Enter")
    await is_true(tab, "/is released|still at work/.test(document.getElementById('outcome').innerText)")
    if "is released" in await tab.run("document.getElementById('outcome').innerText"):
        return True
    refused = [text for text in tab.complaints if "/stop/release" in text and "409" in text]
    tab.complaints[:] = [text for text in tab.complaints if text not in refused]
    return False


async def survive(tab: Page, name: str, kill: Callable[[], None]) -> None:
    """Kill something; the page reads its numbers again by itself, and its socket is open."""
    await asyncio.to_thread(kill)
    begun = time.monotonic()
    await tab.run("window.fresh = 0")
    await is_true(tab, "window.fresh >= 3")
    await is_live(tab)
    await says(tab, "Dashboard", "Live", "USDT")
    print(f"{name} died: the page was whole again {time.monotonic() - begun:.1f} s after another one ran")


def kill_replica(system: System, name: str) -> None:
    """kill -9 one replica of a Serve application of this system and wait until another one runs."""
    found = sorted(replicas(system, name), key=lambda process: process.create_time())
    before, victim = {process.pid for process in found}, found[0]
    os.kill(victim.pid, signal.SIGKILL)
    wait_until(lambda: {process.pid for process in replicas(system, name)} - before, deadline_s=60.0, every_s=0.2)


def replicas(system: System, name: str) -> list[psutil.Process]:
    """Return the processes of a Serve application."""
    found = []
    for process in system.processes():
        try:
            if f"ServeReplica:{name}:" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def kill_redis(system: System) -> None:
    pid = system.kill("redis")["pid"]
    system.back_after("redis", pid, deadline_s=30.0)
