"""The pages in a real browser: they show the tree live, obey their own policy, and put text in as text."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fks.api import window
from fks.store.bus import FILLS, Bus
from fks.store.db import Database
from fks.web.assets import FOLDER
from tests.support.browser import Page, page, says
from tests.support.gateway import Running, running
from tests.support.programs import leave_out
from tests.support.waiting import until
from tests.support.web import pages_beside

NASTY = "<img src=x onerror=window.hacked=1>"


@pytest.fixture
async def gateway(database: Database, database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Running]:
    """A gateway with a feed, a venue, components and a nasty name in its tables."""
    await database.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min) VALUES"
        " ('binance','BTCUSDT','BTC','USDT',0.01,0.00001,0.00001,9000,5)"
    )
    await database.sql("INSERT INTO accounts (name, venue) VALUES ('demo','paper')")
    await database.sql(
        "INSERT INTO feeds (exchange, symbol, timeframe, state, last_price, last_message_at) VALUES"
        " ('binance','BTCUSDT','trades','LIVE',64000.10,now())"
    )
    await database.sql(
        "INSERT INTO venue_states (venue, account_id, state, detail) VALUES ('paper',1,'READY',$1)", NASTY
    )
    await database.sql(
        "INSERT INTO component_health (name, kind, state, pid, beat_at) VALUES"
        " ('supervisor','actor','ready',101,now()), ('orders','actor','ready',102,now()), "
        "($1,'actor','ready',103,now())",
        NASTY,
    )
    async with running(database, database_url, redis_url, tmp_path) as gateway:
        yield gateway


async def test_monitor_asks_for_a_token_then_shows_the_live_tree(
    gateway: Running, database: Database, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "CHECK_S", 0.5)
    async with page() as tab:
        await tab.go(gateway.url + "/monitor/")
        await says(tab, "A token, please")
        await _enter(tab, "fks_" + "x" * 43)
        await says(tab, "unknown or revoked")
        tab.complaints.clear()  # the browser logs the 401 that this was about
        await _enter(tab, gateway.tokens["read"])
        await says(tab, "supervisor", "orders", "gateway:0", "BTCUSDT", "64,000.10", "READY", NASTY)
        await until(lambda: _is(tab, "document.getElementById('live').className.includes('ok')"), deadline_s=20)
        await until(
            lambda: any(client.window.takes_part for client in gateway.app.state.gateway.hub.clients), deadline_s=20
        )
        await bus.publish(FILLS, _fill("1234.5"))
        await says(tab, "1,234.50")
        await database.sql("UPDATE component_health SET state = 'failed', pid = 999 WHERE name = 'orders'")
        await says(tab, "failed", "999", "orders is failed")
        await database.sql("INSERT INTO kill_switch (kill_id, reason, engaged_by) VALUES ('k','drill','me')")
        await says(tab, "Kill switch engaged", "drill")
        assert await tab.run("window.hacked") is None
        assert tab.complaints == []


async def test_the_monitor_shows_the_branches_and_what_happened(gateway: Running, database: Database) -> None:
    shape = {
        "id": "root",
        "strategy": "one_for_one",
        "limit": {"restarts_max": 20, "period_s": 60},
        "used": 1,
        "state": "ready",
        "children": [
            {"id": "orders"},
            {
                "id": "strategies",
                "strategy": "one_for_one",
                "state": "ready",
                "limit": {"restarts_max": 5, "period_s": 60},
                "used": 4,
                "children": [{"id": "strategy:0"}],
            },
        ],
    }
    await database.sql("UPDATE component_health SET detail = $1 WHERE name = 'supervisor'", {"tree": shape})
    await database.sql(
        "INSERT INTO alerts (severity, event, message, component) VALUES ('page', 'x', 'look here', 'orders')"
    )
    async with page() as tab:
        await tab.go(gateway.url + "/monitor/")
        await says(tab, "A token, please")
        tab.complaints.clear()  # the browser logs the 401 that this is about
        await _enter(tab, gateway.tokens["read"])
        await says(tab, "one_for_one", "4 / 5", "1 / 20", "strategy:0", "look here", "started")
        await database.sql(
            "INSERT INTO actor_events (child, event, reason, pid, payload) VALUES ('orders', 'exited', 'died', 12, "
            "$1), "
            "('orders', 'restarted', 'died', 12, $1), ('strategy:0', 'stopped', $2, 13, '{}')",
            {"how": "crash", "signal": 9},
            NASTY,
        )
        await says(tab, "signal 9 (SIGKILL)", NASTY)
        assert "being restarted" not in await tab.run("document.body.innerText"), "the end says it"
        assert await tab.run("window.hacked") is None
        assert tab.complaints == []


async def test_the_api_page_lists_the_routes_and_tries_one(gateway: Running) -> None:
    if not (FOLDER / "vendor" / "swagger-ui-bundle.js").is_file():
        leave_out("the npm packages of the pages are not installed: make web-assets")
    async with pages_beside(gateway) as web, page() as tab:
        await tab.go(web.url + "/monitor/")  # it keeps the token for this tab
        await says(tab, "A token, please")
        await _enter(tab, gateway.tokens["read"])
        await says(tab, "BTCUSDT")
        tab.complaints.clear()
        await tab.go(web.url + "/docs#/accounts/accounts_accounts_get")
        await says(tab, "orders", "stream", "/accounts/change", "[admin]")
        await until(lambda: _is(tab, "!!document.querySelector('.execute')"), deadline_s=20)
        await tab.run("document.querySelector('.execute').click()")
        await says(tab, "Server response", '"demo"')
        assert tab.complaints == []
        loaded = await tab.run("performance.getEntriesByType('resource').map(e => new URL(e.name).host).join()")
        assert set(loaded.split(",")) == {web.url.removeprefix("http://")}, "nothing comes from another host"


async def test_monitor_on_this_host_needs_no_token_in_the_demo(
    database: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    await database.sql(
        "INSERT INTO component_health (name, kind, state, pid, beat_at) VALUES ('orders','actor','ready',1,now())"
    )
    async with running(database, database_url, redis_url, tmp_path, sim={"enabled": True}) as gateway, page() as tab:
        await tab.go(gateway.url + "/monitor/")
        await says(tab, "orders", "gateway:0", "each second")
        assert tab.complaints == []


async def _enter(tab: Page, token: str) -> None:
    await tab.run(f"document.getElementById('token').value = '{token}'")
    await tab.run("document.getElementById('ask-go').click()")


async def _is(tab: Page, script: str) -> bool:
    return bool(await tab.look(script))


def _fill(price: str) -> dict[str, Any]:
    return {
        "type": "fill",
        "fill_id": str(uuid.uuid4()),
        "client_order_id": "a",
        "symbol": "BTCUSDT",
        "side": "buy",
        "quantity": "0.1",
        "price": price,
        "realized_pnl": "0",
        "instance": "a",
        "time": "2026-05-01T00:00:00Z",
    }
