"""MetaTrader 5 over HTTP and as commands: the link, its account, orders, positions, prices and health."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest

from fks.interfaces.cli import cli
from fks.interfaces.cli.base import OK, run
from fks.model.ninja import LinkReport
from fks.store.db import Database
from fks.store.leases import raise_epoch
from fks.store.ninja import NinjaStore
from tests.support.api_fixtures import Fks
from tests.support.gateway import Running, running
from tests.support.mt5_agent import ACCOUNT, GROUP, ScriptedAgent
from tests.support.ninja import put_secret
from tests.support.ports import TestLease

D = Decimal
MT5 = {"enabled": True, "group": GROUP, "account_number": int(ACCOUNT)}
KEY = f"mt5:{GROUP}"


@pytest.fixture
async def gateway(seeded: Database, database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Running]:
    async with running(seeded, database_url, redis_url, tmp_path, mt5=MT5) as gateway:
        yield gateway


@pytest.fixture
async def link(seeded: Database) -> NinjaStore:
    """The row as the actor mt5:demo writes it, and that of a NinjaTrader group of the same name."""
    agent = ScriptedAgent()
    agent.lots["EURUSD"] = D("0.25")
    agent.trading_code = 10027
    account = {**agent.welcome["accounts"][0], "trading_code": 10027}
    for key in (KEY, GROUP):
        store = NinjaStore(seeded, TestLease(f"x:{key}", await raise_epoch(seeded, f"x:{key}", "test")))
        snapshot = agent.status_line(None)
        await store.record_link(
            key, LinkReport("READY", True, False, (account,), 3, snapshot=snapshot, snapshot_ns=10**18)
        )
    return store


async def test_link_is_shown_with_agent_account_and_positions(gateway: Running, link: NinjaStore) -> None:
    async with gateway.client("read") as client:
        [item] = (await client.get("/meta/links")).json()["items"]
        others = (await client.get("/ninja/links")).json()["items"]
    assert (item["group"], item["state"], item["connected"], item["enabled"]) == (GROUP, "READY", True, True)
    assert (item["agent"], item["server_offset_s"], item["last_error"]) == (
        "fks-mt5/1.0.0", 7200, "10027 autotrading disabled",
    )  # fmt: skip
    assert (item["accounts"][0]["margin_mode"], item["accounts"][0]["trading_code"]) == ("hedging", 10027)
    assert [(of["instrument"], of["side"], of["qty"]) for of in item["positions"]] == [("EURUSD", "long", "0.25")]
    assert [of["group"] for of in others] == [GROUP], "a group of NinjaTrader may have the same name"


async def test_orders_positions_and_prices_are_those_of_the_venue(
    gateway: Running, link: NinjaStore, seeded: Database
) -> None:
    await seeded.sql("INSERT INTO accounts (name, venue, currency) VALUES ('fx', 'mt5', 'USD')")
    await seeded.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min,"
        " multiplier) VALUES ('mt5', 'EURUSD', 'EURUSD', 'USD', 0.00001, 0.01, 0.01, 50, 0, 100000)"
    )
    await seeded.sql(
        "INSERT INTO feeds (exchange, symbol, timeframe, state, last_message_at, last_price)"
        " VALUES ('mt5', 'EURUSD', 'trades', 'LIVE', now(), 1.1)"
    )
    await seeded.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity, average_price, realized_pnl, fees)"
        " SELECT id, 'mt5', 'EURUSD', 'one', 0.25, 1.09, 0, 0 FROM accounts WHERE name = 'fx'"
    )
    async with gateway.client("read") as client:
        [position] = (await client.get("/meta/positions")).json()["items"]
        market = (await client.get("/meta/market/EURUSD")).json()
        orders = (await client.get("/meta/orders")).json()
        every = (await client.get("/orders")).json()
    assert (position["symbol"], float(position["quantity"]), float(position["unrealized_pnl"])) == (
        "EURUSD", 0.25, 250.0,
    )  # fmt: skip
    assert (market["exchange"], float(market["price"])) == ("mt5", 1.1)
    assert all(order["exchange"] == "mt5" for order in orders["items"])
    assert len(orders["items"]) <= len(every["items"])


async def test_health_is_that_of_the_replaced_service(gateway: Running, link: NinjaStore) -> None:
    async with gateway.client("read") as client:
        answer = await client.get("/meta/health")
        body = answer.json()
        ready = (await client.get("/fks_meta/ready")).json()
    assert (answer.status_code, body["service"], body["status"]) == (503, "fks_meta", "down")
    assert "fks accounts create NAME --venue mt5" in body["dependencies"]["mt5"]
    assert (ready["mt5_connected"], ready["mt5_can_trade"]) == (True, True)


async def test_status_command_shows_the_link(gateway: Running, link: NinjaStore, fks: Fks) -> None:
    code, out, _ = await fks("mt5", "status")
    assert code == OK
    for part in (GROUP, "READY", "fks-mt5/1.0.0", "12 USD hedging", "10027", "+2 h", "long 0.25 EURUSD"):
        assert part in out, out
    code, out, _ = await fks("mt5", "status", "--json")
    assert (code, json.loads(out)["schema"]) == (OK, "fks.mt5.status/1")


async def test_an_account_of_the_venue_is_created(gateway: Running, fks: Fks, seeded: Database) -> None:
    code, out, _ = await fks("accounts", "create", "fx", "--venue", "mt5")
    assert code == OK, out
    [row] = await seeded.sql("SELECT venue FROM accounts WHERE name = 'fx'")
    assert row["venue"] == "mt5"


async def test_test_command_checks_the_connection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_secret(tmp_path / "mt5.key")
    async with ScriptedAgent() as agent:
        (tmp_path / "fks.toml").write_text(f'[mt5]\nport = {agent.port}\ngroup = "{GROUP}"\ntimeout_s = 2.0\n')
        command = ["--home", str(tmp_path), "mt5", "test", "--pings", "2"]
        assert await asyncio.to_thread(run, cli, command) == OK
        out = capsys.readouterr().out
        assert await asyncio.to_thread(run, cli, [*command, "--json"]) == OK
        document = json.loads(capsys.readouterr().out)
    assert f"group {GROUP}, mt5 5.0 build 4885" in out
    assert "the agent's clock" in out
    assert (document["schema"], document["status"]["agent"]) == ("fks.mt5.test/1", "fks-mt5/1.0.0")
