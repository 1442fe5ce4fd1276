"""The pages in a real browser beside a real gateway: keys, live updates, the kill switch, accessibility, screenshots."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fks.interfaces.web.registry import PAGES
from fks.store.bus import FEEDS, JOBS, SIGNALS, Bus
from fks.store.db import Database
from fks.trading.guardian.service import GuardianSocket
from tests.support.browser import SIZES, Page, is_live, is_true, look_at, page, picture, press, says, type_
from tests.support.portfolios import portfolio_with_targets
from tests.support.ports import CollectingLog
from tests.support.programs import leave_out
from tests.support.users import PASSWORD, code_of
from tests.support.waiting import until
from tests.support.web import Web, make_user
from tests.support.web_rows import Rows, add_forecasts, add_language_models, populate

ROOT = Path(__file__).parents[4]
AXE = ROOT / ".web-packages" / "node_modules" / "axe-core" / "axe.min.js"
VENDOR = ROOT / "fks" / "interfaces" / "web" / "vendor" / "htmx.min.js"
#: FKS_SCREENSHOTS=docs/images writes the pictures of docs/web.md again.
SCREENSHOTS = os.environ.get("FKS_SCREENSHOTS")
#: axe-core's rules of WCAG 2.2 AA and good practice; in the second theme and layout those that depend on either. The
#: elements are the same in both, and each was judged by every rule in the first.
ALL_RULES = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
SEEN_RULES = {
    "type": "rule",
    "values": [
        "color-contrast",
        "link-in-text-block",
        "scrollable-region-focusable",
        "target-size",
        "region",
        "bypass",
    ],
}
#: Pages that are judged with their head and navigation, which are the same on every page; and what is judged of the rest.
WHOLE = ("login", "dashboard", "monitor")
REST = "{exclude: [['header.top'], ['nav.side'], ['footer']]}"
SHOWN = ("dashboard", "signals", "orders", "accounts", "stop", "alerts")


@pytest.fixture(autouse=True)
def _packages() -> None:
    if not (AXE.is_file() and VENDOR.is_file()):
        leave_out("the npm packages of the pages are not installed: make web-assets")


@pytest.fixture
async def guardian(web: Web) -> AsyncIterator[list[Mapping[str, Any]]]:
    """A guardian's control socket that engages and releases at once; the requests that it received."""
    asked: list[Mapping[str, Any]] = []
    paths, db = web.gateway.app.state.gateway.deps.paths, web.gateway.app.state.gateway.db

    async def answer(request: Mapping[str, Any]) -> dict[str, Any]:
        asked.append(request)
        if request["op"] == "resume":
            await db.sql(
                "UPDATE kill_switch SET released_at = now(), released_by = $1, is_engaged = false", request["by"]
            )
            return {"ok": True, "engaged": False, "already": False, "kill_id": "k1"}
        await db.sql(
            "INSERT INTO kill_switch (kill_id, reason, engaged_by) VALUES ('k1', $1, $2)",
            request["reason"],
            request["by"],
        )
        return {
            "ok": True,
            "engaged": True,
            "already": False,
            "kill_id": "k1",
            "is_quiet": True,
            "cancelled": 2,
            "remaining": [],
        }

    socket = GuardianSocket(paths.guardian_socket, answer, CollectingLog())
    await socket.open()
    yield asked
    await socket.close()


async def enter(tab: Page, web: Web, name: str, code: str = "") -> None:
    """Log in by keyboard."""
    await tab.go(web.url + "/app/login")
    await is_true(tab, "document.activeElement && document.activeElement.id === 'user'")
    await type_(tab, name)
    await press(tab, "Tab")
    await type_(tab, PASSWORD)
    await press(tab, "Tab")
    if code:
        await type_(tab, code)
    await press(tab, "Enter")
    await is_true(tab, "location.pathname === '/app/' && document.getElementById('live-state') !== null")


async def test_a_trader_approves_by_keyboard_reads_a_denial_and_stops_everything(
    web: Web, database: Database, bus: Bus, guardian: list[Mapping[str, Any]]
) -> None:
    rows = await populate(database)
    secret = await make_user(web, "root", "admin")
    async with page() as tab:
        await enter(tab, web, "root", code_of(str(secret), steps=1))
        await says(tab, "Dashboard", "64,123.45", "Positions", "Live")
        await is_live(tab)
        await _approve(tab, web, database, bus, rows)
        await _read_denial(tab, web, rows)
        await _stop(tab, web, guardian)
        assert tab.complaints == []


async def _approve(tab: Page, web: Web, database: Database, bus: Bus, rows: Rows) -> None:
    await tab.go(web.url + "/app/signals")
    await says(tab, "Wait for a decision (2)", "left")
    await is_live(tab)
    first = await tab.run("document.querySelector('[data-signal]').id")
    await press(tab, "j")
    await is_true(tab, f"document.activeElement.id === '{first}'")
    await press(tab, "j")
    await press(tab, "k")
    await is_true(tab, f"document.activeElement.id === '{first}'")
    await press(tab, "a")
    await says(tab, "Approved; the order manager has not decided yet", "Wait for a decision (1)")
    id = first.removeprefix("signal-")
    await database.sql(
        "UPDATE signals SET state = 'ordered', client_order_id = $2 WHERE id = $1::text::uuid", id, rows.order
    )
    await database.sql(
        "UPDATE orders SET state = 'FILLED', filled = 0.35, average_price = 63500.5 WHERE client_order_id = $1",
        rows.order,
    )
    await says(tab, "FILLED", "filled 0.35 of 0.35 at 63,500.5")
    other = rows.second if str(rows.first) == id else rows.first
    await database.sql("UPDATE signals SET state = 'expired' WHERE id = $1", other)
    await bus.publish(SIGNALS, {"type": "signal", "id": str(other), "symbol": "BTCUSDT", "state": "expired"})
    await says(tab, "No signal waits")  # a message of the gateway was enough: nothing was pressed


async def _read_denial(tab: Page, web: Web, rows: Rows) -> None:
    await tab.go(web.url + "/app/signals")
    await says(tab, "FEED_STALE")
    await tab.run(f"document.querySelector('a[href$=\"/why/{rows.denied}\"]').click()")
    await says(tab, "denied FEED_STALE", "the newest price is 12.4 s old", "Reason")


async def _stop(tab: Page, web: Web, guardian: list[Mapping[str, Any]]) -> None:
    await tab.run("document.querySelector('a.stop').click()")
    await says(tab, "1 open order will be cancelled", "2 positions will be closed at market")
    await tab.run("document.getElementById('reason').focus()")
    await type_(tab, "drill")
    await press(tab, "Enter")
    await says(tab, "The kill switch is engaged", "Kill switch engaged by user:root", "Release the kill switch")
    assert guardian[-1] == {
        "op": "kill",
        "scope": "system",
        "reason": "drill",
        "by": "user:root",
        "flatten": True,
        "wait_s": 0.3,
    }
    await tab.run("document.getElementById('release').focus()")
    await press(tab, "Enter")
    await says(tab, "The kill switch is released", "2 positions will be closed at market")
    assert guardian[-1] == {"op": "resume", "by": "user:root", "force": False}


async def test_a_page_says_when_it_is_not_live_and_reads_again_after_it(web: Web, database: Database) -> None:
    await populate(database)
    await make_user(web, "ann", "read")
    async with page() as tab:
        await enter(tab, web, "ann")
        await is_live(tab)
        gateway = web.gateway.app.state.gateway
        before = web.reads
        await tab.run("""window.said = ""; new MutationObserver(() => { window.said += document.body.innerText; }).observe(
            document.getElementById("live-state"), { subtree: true, childList: true, characterData: true })""")
        for client in list(gateway.hub.clients):
            client.close()
        await is_true(tab, "window.said.includes('Not live')")  # it may be live again already
        await is_live(tab)
        await until(lambda: web.reads > before, deadline_s=10)
        assert tab.complaints == []


async def test_pages_of_data_and_jobs_are_read_again_at_a_message(web: Web, database: Database, bus: Bus) -> None:
    """The page of data reads by itself once a minute, and not within 30 s of its last read: a message is the cause."""
    await make_user(web, "ann", "read")
    add = "INSERT INTO assets (exchange, symbol, is_enabled) VALUES ('binance', $1, true)"
    async with page() as tab:
        await enter(tab, web, "ann")
        for path in ("/app/backtests", "/app/searches/" + "0" * 32, "/app/schedules"):
            await tab.go(web.url + path)
            await is_live(tab)
            assert await tab.run("document.body.dataset.live") == "jobs"
        await tab.go(web.url + "/app/data")
        await is_live(tab)
        assert await tab.run("document.body.dataset.every") == "60"
        feed = {"type": "feed", "exchange": "binance", "symbol": "ETHUSDT", "state": "LIVE"}
        for symbol, channel, message in (("ETHUSDT", FEEDS, feed), ("SOLUSDT", JOBS, {"type": "job", "id": "1"})):
            await database.sql(add, symbol)

            async def is_shown(symbol: str = symbol, channel: str = channel, message: Any = message) -> bool:
                await bus.publish(channel, message)
                return bool(await tab.look(f"document.querySelector('#assets a[href*=\"symbol={symbol}\"]') !== null"))

            await until(is_shown, deadline_s=20, every_s=0.2)


async def test_equity_chart_stays_while_the_dashboard_is_read_again(web: Web, database: Database, bus: Bus) -> None:
    """Its points are read at most once a minute, however often an event replaces the numbers around it."""
    rows = await populate(database)
    await make_user(web, "ann", "read")
    async with page() as tab:
        await enter(tab, web, "ann")
        await is_true(tab, "document.querySelector('#equity-1 canvas') !== null")
        await is_live(tab)
        await tab.run("document.getElementById('equity-1').isKept = true; 0")
        for id in (rows.first, rows.second):
            await database.sql("UPDATE signals SET state = 'expired' WHERE id = $1", id)
            shown = await tab.run("document.querySelectorAll('#signals li').length")

            async def is_read_again(before: int = shown) -> bool:
                await bus.publish(SIGNALS, {"type": "signal", "id": "1", "symbol": "BTCUSDT", "state": "expired"})
                return bool(await tab.look(f"document.querySelectorAll('#signals li').length < {before}"))

            await until(is_read_again, deadline_s=20, every_s=0.2)
        kept = (
            "(box => box.isKept === true && box.querySelector('canvas') !== null)(document.getElementById('equity-1'))"
        )
        assert await tab.run(kept)
        reads = "performance.getEntriesByType('resource').filter(e => e.name.includes('/equity/demo?days=7')).length"
        assert await tab.run(reads) == 1
        assert tab.complaints == []


async def test_a_burst_of_messages_is_read_twice_a_second_at_most(web: Web, database: Database, bus: Bus) -> None:
    await populate(database)
    await make_user(web, "ann", "read")
    async with page() as tab:
        await enter(tab, web, "ann")
        await is_live(tab)
        await tab.run(
            "window.loads = []; document.body.addEventListener('htmx:beforeRequest', () => loads.push(Date.now()))"
        )
        for number in range(200):
            await bus.publish(SIGNALS, {"type": "signal", "id": str(number), "symbol": "BTCUSDT", "state": "ready"})
        await is_true(tab, "window.loads.length >= 3")
        times = await tab.run("window.loads")
        assert all(later - earlier >= 490 for earlier, later in itertools.pairwise(times)), times


async def test_chart_draws_a_model_and_its_interval(web: Web, database: Database) -> None:
    await populate(database)
    await database.sql(
        "INSERT INTO ohlcv_data (time, symbol, timeframe, open, high, low, close, volume, exchange)"
        " SELECT date_trunc('minute', now()) - n * interval '1 min', 'BTCUSDT', '1m', p, p + 90, p - 80, p + 5, 1.5, 'binance'"
        " FROM generate_series(1, 300) n, LATERAL (SELECT 64000 + 900 * sin(n / 9.0) AS p) x"
    )
    await add_forecasts(database, 60)
    await make_user(web, "ann", "read")
    async with page() as tab:
        await enter(tab, web, "ann")
        await tab.go(web.url + "/app/chart?symbol=BTCUSDT&timeframe=1m&forecast=ar")
        await is_true(tab, "Number(document.getElementById('bars-chart')?.dataset.forecasts) === 60")
        assert tab.complaints == []


_JOIN = """
import(document.querySelector('script[src*="bars-chart.js"]').src).then(({joined}) => {
  const one = (kind, bar, side = 'belowBar') => ({kind, bar, time: bar, position: side, shape: kind, text: kind});
  const found = [one('signal', 1), one('order', 1), one('fill', 1), one('fill', 1), one('fill', 3), one('fill', 3, 'aboveBar'), one('fill', 30)];
  const shown = (spacing) => joined(found, spacing).map((m) => [m.position[0], m.time, m.shape, m.text].join(' '));
  return JSON.stringify([shown(5), shown(20), shown(200)]);
})
"""


async def test_marks_that_overlap_are_joined_with_a_count(web: Web, database: Database) -> None:
    """Zoomed out, the marks of bars beside each other are one; of one bar, those of one kind. Zooming in parts them."""
    rows = await populate(database)
    await database.sql(
        "INSERT INTO ohlcv_data (time, symbol, timeframe, open, high, low, close, volume, exchange)"
        " SELECT date_trunc('minute', now()) - n * interval '1 min', 'BTCUSDT', '1m', 64000, 64010, 63990, 64005, 1.5,"
        " 'binance' FROM generate_series(1, 300) n"
    )
    await database.sql(
        "INSERT INTO trades (fill_id, client_order_id, account_id, venue, symbol, instance, trade_type, quantity, price,"
        " fee, time) SELECT gen_random_uuid(), $1, 1, 'paper', 'BTCUSDT', 'sma-btc', 'BUY', 0.1, 64000, 0,"
        " date_trunc('minute', now()) - n * interval '1 min' FROM generate_series(1, 60) n",
        rows.order,
    )
    await make_user(web, "ann", "read")
    async with page() as tab:
        await enter(tab, web, "ann")
        await tab.go(web.url + "/app/chart?symbol=BTCUSDT")
        await is_true(tab, "Number(document.getElementById('bars-chart')?.dataset.marks) > 0")
        far, near, single = json.loads(await tab.run(_JOIN))
        assert far == ["a 3 fill fill", "b 1 circle 5", "b 30 fill fill"]
        assert near == ["a 3 fill fill", "b 1 signal ", "b 1 order ", "b 1 fill 2", "b 3 fill ", "b 30 fill fill"]
        assert single == [
            "a 3 fill fill",
            "b 1 signal signal",
            "b 1 order order",
            "b 1 fill 2",
            "b 3 fill fill",
            "b 30 fill fill",
        ]
        joined = await tab.run("Number(document.getElementById('bars-chart').dataset.marks)")
        assert joined < 30, "sixty executions, in bars beside each other"
        await look_at(tab, "wide", "light")
        place = "(r => JSON.stringify([r.right - 120, r.top + 100]))(document.getElementById('bars-chart').getBoundingClientRect())"
        x, y = json.loads(await tab.run(place))

        async def is_apart() -> bool:
            await tab.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-100)
            return int(await tab.run("document.getElementById('bars-chart').dataset.marks")) >= 60

        await until(is_apart, deadline_s=30, every_s=0.1)
        assert tab.complaints == []


#: By table: the cells that stand in the first line of its first row.
_FIRST_LINES = """JSON.stringify(Object.fromEntries([...document.querySelectorAll('.table-responsive')].map(box => {
  const cells = [...box.querySelector('tbody tr').children].map(e => [e, e.getBoundingClientRect()]).filter(([, r]) => r.height);
  const end = Math.min(...cells.map(([, r]) => r.bottom));
  return [box.ariaLabel, cells.filter(([, r]) => r.top < end).map(([e]) => e.innerText)];
})))"""
_SIDEWAYS = """[...document.querySelectorAll('.table-responsive')].filter(e => e.scrollWidth > e.clientWidth + 1)
  .map(e => `${e.ariaLabel} ${e.scrollWidth} of ${e.clientWidth} px`).join(', ')"""


async def test_tables_on_a_phone_show_every_column_important_ones_first(web: Web, database: Database) -> None:
    rows = await populate(database)
    await add_language_models(database)
    await make_user(web, "ann", "read")
    faults = {}
    async with page() as tab:
        await enter(tab, web, "ann")
        await look_at(tab, "phone", "light")
        for each in PAGES:
            await tab.go(web.url + "/app" + each.path.replace("{what}", rows.order))
            await is_true(tab, "document.readyState === 'complete' && document.getElementById('region') !== null")
            await tab.run("document.querySelectorAll('details[data-free]').forEach(e => { e.open = true; })")
            if sideways := await tab.run(_SIDEWAYS):
                faults[each.name] = sideways
            if each.name == "orders":
                first = json.loads(await tab.run(_FIRST_LINES))
                tree = (await tab.call("Accessibility.getFullAXTree"))["nodes"]
    assert faults == {}
    assert first["Positions"] == ["BTCUSDT", "1.50000", "+6,185.18"]
    assert first["Open orders"][0:3:2] == ["BTCUSDT", "0.35000"]
    assert first["Executions"] == ["BTCUSDT", "buy", "0.35000", "63,500.50"]
    roles = [node["role"]["value"] for node in tree if not node["ignored"]]
    assert (roles.count("table"), roles.count("columnheader")) == (4, 9 + 10 + 9 + 7), "a grid is still a table"
    assert roles.count("rowheader") >= 8


@pytest.mark.timeout(400)  # axe-core looks at each element of twelve pages: minutes on a loaded machine
async def test_every_page_is_accessible_in_both_themes(web: Web, database: Database) -> None:
    """axe-core finds nothing serious, nothing is wider than a phone, and the pictures of the docs are made."""
    rows = await populate(database)
    await add_language_models(database)
    secret = await make_user(web, "root", "admin")
    axe = AXE.read_text()
    faults: list[str] = []
    async with page() as tab:
        await tab.go(web.url + "/app/login")
        for theme in ("light", "dark"):
            faults += await _look(tab, axe, "login", theme)
        await enter(tab, web, "root", code_of(str(secret), steps=1))
        for each in PAGES:
            await tab.go(web.url + "/app" + each.path.replace("{what}", str(rows.denied)))
            await is_true(tab, "document.readyState === 'complete' && document.getElementById('region') !== null")
            for theme in ("light", "dark"):
                faults += await _look(tab, axe, each.name, theme)
    assert faults == [], "\n".join(faults)
    assert tab.complaints == []


async def test_portfolio_is_rebalanced_by_its_preview_wide_and_on_a_phone(web: Web, database: Database) -> None:
    await portfolio_with_targets(web.gateway, database)
    secret = await make_user(web, "ann", "trade")
    axe, faults = AXE.read_text(), []
    async with page() as tab:
        await enter(tab, web, "ann", code_of(str(secret), steps=1))
        await tab.go(web.url + "/app/portfolios")
        await says(tab, "Equity of main", "Value at risk", "Weights and targets")
        for theme in ("light", "dark"):
            faults += await _look(tab, axe, "portfolios", theme)
            if SCREENSHOTS:
                for size in ("wide", "phone"):
                    await look_at(tab, size, theme)
                    await picture(tab, Path(SCREENSHOTS) / f"web-portfolios-{size}-{theme}.png", size)
        assert faults == []
        await tab.run("[...document.querySelectorAll('button')].find(b => b.textContent.includes('Preview')).click()")
        await says(tab, "Nothing is traded yet", "Send these orders")
        await look_at(tab, "phone", "light")
        assert await tab.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        await tab.run(
            "[...document.querySelectorAll('button')].find(b => b.textContent === 'Send these orders').click()"
        )
        await says(tab, "The rebalancing of main is running", "Steps of")
        await is_true(tab, "document.body.innerText.includes('1. buy')")
        assert tab.complaints == []


async def _look(tab: Page, axe: str, name: str, theme: str) -> list[str]:
    found = []
    for size, (width, _) in SIZES.items():
        is_judged = (size, theme) in (("wide", "light"), ("phone", "dark"))  # each theme and each layout once
        is_drawn = SCREENSHOTS and name in (*SHOWN, "login")
        if not is_judged and not is_drawn:
            continue
        await look_at(tab, size, theme)
        if is_drawn:
            await picture(tab, Path(str(SCREENSHOTS)) / f"web-{name}-{size}-{theme}.png", size)
        if not is_judged:
            continue
        wide = await tab.run("document.documentElement.scrollWidth")  # of the layout: a theme is colours alone
        if wide > width:
            found.append(f"{name} {theme} {size}: {wide} px wide: {await tab.run(_TOO_WIDE)}")
        if not await tab.run("typeof axe === 'object'"):
            await tab.run(axe + ";0")
        place = "document" if name in WHOLE else REST
        chosen = json.dumps(ALL_RULES if theme == "light" else SEEN_RULES)
        options = "{resultTypes: ['violations'], elementRef: false, runOnly: " + chosen + "}"
        answer = await tab.run(
            f"axe.run({place}, {options})"
            ".then(r => JSON.stringify(r.violations.map(v => [v.impact, v.id, v.nodes.map(n => n.html.slice(0, 120)).slice(0, 3), "
            "v.nodes[0].any.map(a => a.message).slice(0, 1)])))"
        )
        for impact, rule, nodes, why in json.loads(answer):
            if impact in ("serious", "critical"):
                found.append(f"{name} {theme} {size}: {rule} {why} {nodes}")
    return found


#: The innermost elements that reach beyond the screen and do not lie in a box that scrolls.
_TOO_WIDE = """[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1
  && !e.closest('.table-responsive, .visually-hidden, .skip')).map(e => e.outerHTML.slice(0, 90)).slice(-4).join(' ')"""
