"""The trade copier over HTTP and as a command: rules, what each account did of a signal, and what differs; relays."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fks.interfaces.cli.base import OK
from fks.model.ids import client_order_id, copy_signal_id, intent_id
from fks.model.ninja import NinjaEvent, NinjaRequest, RequestKind, RequestState
from fks.model.order import Role
from fks.model.signal import Kind
from fks.store.db import Database
from fks.store.leases import raise_epoch
from fks.store.ninja import NinjaStore
from fks.store.signals import SignalStore
from tests.support.api_fixtures import Fks
from tests.support.gateway import Running, running
from tests.support.order_rig import signal_of
from tests.support.ports import TestLease

ES = "ES 12-26"
NINJA: dict[str, Any] = {
    "groups": {"sim": {"port": 8081}, "apex": {"port": 8082}},
    "account": "Sim101",
    "account_group": "sim",
    "accounts": {"half": {"group": "sim", "account": "Sim102"}, "shown": {"group": "apex", "account": "APEX-1"}},
    "copies": ("half 0.5x", "shown 1 relay"),
}


@pytest.fixture
async def gateway(seeded: Database, database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Running]:
    async with running(seeded, database_url, redis_url, tmp_path, ninja=NINJA) as gateway:
        yield gateway


@pytest.fixture
async def ids(seeded: Database) -> dict[str, Any]:
    """A signal of the leader, filled; a copy that was denied, and one that was shown and traded by hand."""
    accounts = {}
    for name, venue in (("lead", "ninja"), ("half", "ninja:half"), ("shown", "ninja:shown")):
        rows = await seeded.sql(
            "INSERT INTO accounts (name, venue, currency, initial_balance) VALUES ($1, $2, 'USD', 0) RETURNING id",
            name,
            venue,
        )
        accounts[name] = rows[0]["id"]
    leader = signal_of(Kind.ENTER, venue="ninja", exchange="ninja", symbol=ES, account_id=accounts["lead"])
    intent = intent_id(leader.id)
    found: dict[str, Any] = {"lead": leader.id}
    signals = [leader]
    for name in ("half", "shown"):
        found[name] = copy_signal_id(intent, accounts[name])
        signals.append(replace(leader, id=found[name], account_id=accounts[name], venue=f"ninja:{name}"))
    await SignalStore(seeded).insert(signals)
    for name, state, code, price in (
        ("lead", "FILLED", None, "6000.25"),
        ("half", "DENIED", "PROP_SIZE", None),
        ("shown", "REJECTED", "RELAYED", None),
    ):
        own = intent_id(found[name])
        order = client_order_id(own, Role.ENTRY)
        await seeded.sql(
            "INSERT INTO orders (client_order_id, intent_id, signal_id, account_id, venue, exchange, symbol, role, side, type,"
            " quantity, filled, average_price, state, code, epoch, time_in_force) VALUES ($1, $2, $3, $4, $5, 'ninja', $6,"
            " 'entry', 'buy', 'market', 2, $7, $8::text::numeric, $9, $10, 1, 'gtc')",
            order, own, found[name], accounts[name], "ninja" if name == "lead" else f"ninja:{name}", ES,
            2 if price else 0, price, state, code,
        )  # fmt: skip
        await seeded.sql(
            "UPDATE signals SET state = $2, code = $3, client_order_id = $4 WHERE id = $1",
            found[name], "denied" if state == "DENIED" else "ordered", code if state == "DENIED" else None, order,
        )  # fmt: skip
    await seeded.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity) VALUES ($1, 'ninja', $2, 'one', 2)",
        accounts["lead"],
        ES,
    )
    store = NinjaStore(seeded, TestLease("ninja:apex", await raise_epoch(seeded, "ninja:apex", "test")))
    now_ns, id = time.time_ns(), client_order_id(intent_id(found["shown"]), Role.ENTRY)
    body = {"account": "APEX-1", "instrument": ES, "action": "buy", "qty": 1, "type": "market"}
    await store.ask(NinjaRequest(id, "apex", RequestKind.SIGNAL, body, "ninja:shown", now_ns + 10**10), now_ns)
    assert await store.mark_sending([(id, b"x", "e" * 32)]) == {id}
    await store.record_answer(id, RequestState.ACKED, now_ns=now_ns, answer={"state": "relayed"})
    by_hand = {"exec_id": "X1", "op": "add", "side": "buy", "qty": 1, "price": "6001.5", "instrument": ES}
    await store.record_link("apex", _report())
    await store.record_events("apex", [NinjaEvent("e" * 32, 0, "epoch", None, None, {"before": None}, now_ns)])
    await store.record_events("apex", [NinjaEvent("e" * 32, 1, "exec", "APEX-1", None, by_hand, now_ns)])
    return found


def _report() -> Any:
    from fks.model.ninja import LinkReport

    return LinkReport("READY", True, False, (), 0)


async def test_each_account_is_shown_with_its_rule_outcome_and_difference(
    gateway: Running, ids: dict[str, Any]
) -> None:
    async with gateway.client("read") as client:
        body = (await client.get("/api/v1/ninja/copies")).json()
    assert body["leader"] == {"venue": "ninja", "account": "lead", "group": "sim", "platform_account": "Sim101"}
    rules = {
        of["name"]: (of["venue"], of["account"], of["size"], of["is_ratio"], of["mode"]) for of in body["followers"]
    }
    assert rules == {
        "half": ("ninja:half", "half", "0.5", True, "auto"),
        "shown": ("ninja:shown", "shown", "1", False, "relay"),
    }
    differences = {of["name"]: (of["leader"], of["expected"], of["held"]) for of in body["positions"]}
    assert {name: tuple(float(value) for value in of) for name, of in differences.items()} == {
        "half": (2.0, 1.0, 0.0),
        "shown": (2.0, 1.0, 0.0),
    }
    (signal,) = body["signals"]
    assert signal["id"] == str(ids["lead"])
    outcomes = [(of["account"], of["state"], of["code"]) for of in signal["orders"]]
    assert outcomes == [("lead", "FILLED", None), ("half", "DENIED", "PROP_SIZE"), ("shown", "REJECTED", "RELAYED")]


async def test_a_shown_signal_has_its_code_and_what_was_traded_by_hand(gateway: Running, ids: dict[str, Any]) -> None:
    async with gateway.client("read") as client:
        body = (await client.get(f"/api/v1/signals/{ids['shown']}")).json()
        leader = (await client.get(f"/api/v1/signals/{ids['lead']}")).json()
    assert (body["state"], body["code"]) == ("ordered", "RELAYED")
    assert (body["relay"]["group"], body["relay"]["account"], body["relay"]["symbol"]) == ("apex", "APEX-1", ES)
    (execution,) = body["relay"]["executions"]
    assert (execution["exec_id"], execution["side"], float(execution["price"])) == ("X1", "buy", 6001.5)
    assert (leader["code"], leader["relay"]) == (None, None)


async def test_the_command_shows_followers_and_signals(fks: Fks, gateway: Running, ids: dict[str, Any]) -> None:
    code, out, _ = await fks("ninja", "status")
    assert code == OK
    assert "0.5x auto" in out
    assert f"{ES}: holds 0, should hold 1" in out
    assert "PROP_SIZE" in out
    assert "RELAYED" in out
    code, out, _ = await fks("ninja", "status", "--json")
    assert [of["name"] for of in json.loads(out)["copies"]["followers"]] == ["half", "shown"]


async def test_the_open_profit_of_a_contract_counts_its_point_value(
    gateway: Running, ids: dict[str, Any], seeded: Database
) -> None:
    await seeded.sql("UPDATE positions SET average_price = 6000 WHERE venue = 'ninja'")
    await seeded.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min, "
        "multiplier) VALUES ('ninja', $1, 'ESZ26', 'USD', 0.25, 1, 1, 100, 0, 50)",
        ES,
    )
    await seeded.sql(
        "INSERT INTO feeds (exchange, symbol, timeframe, state, last_message_at, last_price) VALUES"
        " ('ninja', $1, 'trades', 'LIVE', now(), 6001.5)",
        ES,
    )
    async with gateway.client("read") as client:
        rows = (await client.get("/positions")).json()["items"]
    assert [float(row["unrealized_pnl"]) for row in rows if row["symbol"] == ES] == [
        150.0
    ]  # two contracts, 1.5 points, 50 USD a point
