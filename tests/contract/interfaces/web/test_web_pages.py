"""The pages in a real browser: they show the tree live, obey their own policy, and put text in as text."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fks.interfaces.api import window
from fks.interfaces.web.assets import FOLDER
from fks.store.db import Database
from tests.support.browser import Page, is_live, is_true, page, press, says, type_
from tests.support.gateway import Running, running
from tests.support.programs import leave_out
from tests.support.users import PASSWORD
from tests.support.waiting import until
from tests.support.web import Web, make_user, pages_beside

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


async def test_monitor_asks_for_a_login_then_shows_the_live_tree(
    gateway: Running, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "CHECK_S", 0.5)
    async with pages_beside(gateway) as web, page() as tab:
        await _enter(tab, web)
        await says(tab, "supervisor", "orders", "gateway:0", "Feeds live", "READY", NASTY)
        await is_live(tab)
        await until(
            lambda: any(client.window.takes_part for client in gateway.app.state.gateway.hub.clients), deadline_s=20
        )
        await database.sql("UPDATE component_health SET state = 'failed', pid = 999 WHERE name = 'orders'")
        await says(tab, "failed", "999", "orders is failed")
        assert "Settings" not in await _headings(tab)
        await database.sql("UPDATE component_health SET config_version = 7 WHERE name = 'orders'")
        await until(lambda: _has_settings(tab), deadline_s=20)
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
    async with pages_beside(gateway) as web, page() as tab:
        await _enter(tab, web)
        rules = ("one_for_one", "4 of 5 restarts within 60 s", "1 of 20 restarts within 60 s")
        await says(tab, *rules, "strategy:0", "look here", "started")
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
        await tab.go(web.url + "/docs#/accounts/accounts_accounts_get")
        await says(tab, "orders", "stream", "/accounts/change", "[admin]")
        await _authorize(tab, gateway.tokens["read"])
        await is_true(tab, "!!document.querySelector('.execute')")
        await tab.run("document.querySelector('.execute').click()")
        await says(tab, "Server response", '"demo"')
        assert tab.complaints == []
        loaded = await tab.run("performance.getEntriesByType('resource').map(e => new URL(e.name).host).join()")
        assert set(loaded.split(",")) == {web.url.removeprefix("http://")}, "nothing comes from another host"


async def _enter(tab: Page, web: Web) -> None:
    """Ask the gateway for the monitor page, and log in where it leads to."""
    await make_user(web, "ann", "read")
    await tab.go(web.url + "/monitor/")
    await is_true(tab, "document.activeElement && document.activeElement.id === 'user'")
    await type_(tab, "ann")
    await press(tab, "Tab")
    await type_(tab, PASSWORD)
    await press(tab, "Enter")
    await is_true(tab, "location.pathname === '/app/monitor' && document.getElementById('live-state') !== null")


async def _authorize(tab: Page, token: str) -> None:
    """Give Swagger UI a token in its own dialog."""
    await tab.run("document.querySelector('.btn.authorize').click()")
    await is_true(tab, "!!document.querySelector('.auth-container input')")
    await tab.run("document.querySelector('.auth-container input').focus()")
    await type_(tab, token)
    await tab.run("document.querySelector('.auth-btn-wrapper .authorize').click()")
    await is_true(tab, "!document.querySelector('.auth-container input')")
    await tab.run("document.querySelector('.auth-btn-wrapper .btn-done').click()")


async def _headings(tab: Page) -> str:
    return str(await tab.look("[...document.querySelectorAll('main th')].map(e => e.innerText).join()"))


async def _has_settings(tab: Page) -> bool:
    return "Settings" in await _headings(tab)
