"""Alerts settle themselves over real rows: raised while the cause lasts, resolved when it is over, kept for the
record."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest

from fks.model.errors import InputError
from fks.store.db import Database
from fks.store.facts import FactStore
from fks.store.nodes import NodeStore
from fks.store.supervision import HealthRow, TreeJournal
from fks.system.monitor.alerts import NewAlerts, listed, settle_what_is_over


@pytest.fixture
async def account(database: Database) -> Database:
    await database.sql("INSERT INTO accounts (name, venue) VALUES ('demo','paper')")
    return database


async def _settle(db: Database) -> list[str]:
    now = (await db.sql("SELECT now() AS at"))[0]["at"] + timedelta(seconds=1)
    return [row["event"] for row in await settle_what_is_over(db, now)]


async def _page_silent(db: Database) -> None:
    """Page for the machine `w1`, which has no row any more: that page is over."""
    await db.sql(
        "INSERT INTO alerts (severity, event, message, component) VALUES ('page', 'node.silent', 'w1 is silent', 'w1')"
    )


async def _open(db: Database) -> list[str]:
    return [row["event"] for row in await listed(db, is_all=False, limit=10)]


async def test_a_child_that_came_back_settles_its_own_page(account: Database) -> None:
    journal = TreeJournal(account)
    await journal.page("child.escalated", "orders died 6 times in 60 s", "orders")
    for state, up_s, settled in (("failed", 60, []), ("ready", 2, []), ("ready", 60, ["child.escalated"])):
        await journal.write_health([HealthRow("orders", "actor", state, 7, "n", 6, None, None)])
        await account.sql(
            "UPDATE component_health SET beat_at = now(), since = now() - make_interval(secs => $1)", up_s
        )
        assert await _settle(account) == settled
    assert await _open(account) == []
    kept = await listed(account, is_all=True, limit=10)
    assert (kept[0]["resolved_at"] is not None, kept[0]["payload"]["resolved_by"]) == (True, "its cause is over")


async def test_page_of_a_service_of_the_keeper_waits_for_that_service(account: Database) -> None:
    journal = TreeJournal(account)
    await journal.page("child.escalated", "redis died 6 times in 60 s", "redis")
    for state, settled in (("failed", []), ("ready", ["child.escalated"])):
        rows = [("orders", "actor", "ready"), ("redis", "service", state)]
        await journal.write_health([HealthRow(*row, 7, "n", 6, None, None) for row in rows])
        await account.sql("UPDATE component_health SET beat_at = now(), since = now() - interval '60 seconds'")
        await account.sql("UPDATE alerts SET time = now() - interval '60 seconds'")
        assert await _settle(account) == settled, state


async def _order(db: Database, name: str, state: str) -> None:
    await db.sql(
        "INSERT INTO orders (client_order_id, intent_id, account_id, venue, symbol, role, side, type, quantity, state)"
        " VALUES ($1, $2, 1, 'paper', 'BTCUSDT', 'entry', 'buy', 'market', 1, $3)",
        name,
        uuid.uuid4(),
        state,
    )


async def test_alerts_about_orders_and_positions_settle_with_them(account: Database) -> None:
    facts = FactStore(account)
    about: dict[str, Any] = {"client_order_id": "a", "symbol": "BTCUSDT", "instance": ""}
    await _order(account, "a", "UNKNOWN")
    await account.sql("INSERT INTO positions (account_id, venue, symbol, quantity) VALUES (1, 'paper', 'BTCUSDT', 1)")
    for severity, event in (
        ("page", "order.unknown"),
        ("page", "exit.rejected"),
        ("page", "order.lost"),
    ):
        await facts.note_alert(severity, event, event, "orders", about)
    assert await _settle(account) == []
    await account.sql("UPDATE orders SET state = 'FILLED' WHERE client_order_id = 'a'")
    assert await _settle(account) == ["order.unknown"]
    await account.sql("UPDATE positions SET quantity = 0")
    assert await _settle(account) == ["exit.rejected"]
    assert await _open(account) == ["order.lost"], "only a person can say that this is well"


async def test_an_alert_ends_with_the_position_of_its_own_account(account: Database) -> None:
    await account.sql("INSERT INTO accounts (name, venue) VALUES ('other','paper')")
    await account.sql(
        "INSERT INTO positions (account_id, venue, symbol, quantity)"
        " VALUES (1, 'paper', 'BTCUSDT', 1), (2, 'paper', 'BTCUSDT', 1)"
    )
    about = {"account_id": 1, "venue": "paper", "symbol": "BTCUSDT", "instance": ""}
    await FactStore(account).note_alert("page", "exit.rejected", "refused", "orders", about)
    assert await _settle(account) == []
    await account.sql("UPDATE positions SET quantity = 0 WHERE account_id = 1")
    assert await _settle(account) == ["exit.rejected"]


async def test_page_of_an_exit_that_waits_while_flat_stays_open(account: Database) -> None:
    """An exit behind an entry without an outcome, and one beside an entry that the venue neither reduces nor ends: no
    position is there yet."""
    about = {"account_id": 1, "venue": "paper", "symbol": "BTCUSDT", "instance": "i"}
    facts, signal = FactStore(account), uuid.uuid4()
    await account.sql(
        "INSERT INTO signals (id, source, account_id, instance, symbol, venue, kind, side, state, ts_event)"
        " VALUES ($1, 'strategy:i', 1, 'i', 'BTCUSDT', 'paper', 'exit', 'sell', 'ready', now())",
        signal,
    )
    await facts.note_alert(
        "page", "exit.waiting", "its entry has no outcome", "orders", {**about, "client_order_id": ""}
    )
    await _order(account, "a", "WORKING")
    await facts.note_alert("page", "exit.waiting", "it sells too much", "orders", {**about, "client_order_id": "a"})
    assert await _settle(account) == []
    await account.sql("UPDATE signals SET state = 'ordered' WHERE id = $1", signal)
    assert await _settle(account) == ["exit.waiting"]
    await account.sql("UPDATE orders SET state = 'CANCELLED' WHERE client_order_id = 'a'")
    assert await _settle(account) == ["exit.waiting"]


async def test_page_of_the_order_managers_kill_ends_with_the_position(account: Database) -> None:
    about = {"account_id": 1, "venue": "paper", "symbol": "BTCUSDT", "instance": ""}
    await account.sql("INSERT INTO positions (account_id, venue, symbol, quantity) VALUES (1, 'paper', 'BTCUSDT', 1)")
    await FactStore(account).note_alert("page", "kill.stuck", "it closed nothing", "orders", about)
    guardians = {"kill_id": "k", "symbols": ["BTCUSDT"]}
    await FactStore(account).note_alert("page", "kill.stuck", "of before an upgrade", "guardian", guardians)
    assert await _settle(account) == []
    await account.sql("UPDATE positions SET quantity = 0")
    assert await _settle(account) == ["kill.stuck"]
    assert await _open(account) == ["kill.stuck"], "the guardian ends its own"


async def test_an_alert_below_many_that_wait_for_a_person_settles(account: Database) -> None:
    await _page_silent(account)
    await account.sql(
        "INSERT INTO alerts (severity, event, message, component)"
        " SELECT 'page', 'order.rejected', n::text, 'orders' FROM generate_series(1, 1100) AS n"
    )
    assert await _settle(account) == ["node.silent"]


async def test_a_condition_has_one_alert_which_ends_with_it(account: Database) -> None:
    facts = FactStore(account)

    async def note(condition: str | None) -> int | None:
        return await facts.note_alert("page", "position.unprotected", "no stop", "orders", {}, condition)

    first = await note("one")
    assert [await note("one") for _ in range(9)] == [None] * 9
    assert first is not None
    assert None not in (await note("two"), await note(None), await note(None))
    await facts.end_alert("it has its stop", "one")
    await facts.end_alert("it has its stop", "one", "none")
    row = (await account.sql("SELECT payload FROM alerts WHERE resolved_at IS NOT NULL"))[0]
    assert row["payload"]["resolve_message"] == "it has its stop"
    assert await note("one") is not None, "the condition began again"


@pytest.mark.parametrize(("severity", "event"), [("warning", "ninja.alarm"), ("page", "position.unprotected")])
async def test_alert_of_a_condition_is_ended_by_its_owner_alone(account: Database, severity: str, event: str) -> None:
    about = {"symbol": "BTCUSDT", "venue": "paper", "instance": ""}
    await FactStore(account).note_alert(severity, event, "it lasts", "orders", about, "the condition")
    await account.sql("UPDATE alerts SET time = now() - interval '2 days'")
    assert await _settle(account) == [], "its owner has reported no end"
    await FactStore(account).end_alert("it is over", "the condition")
    assert await _open(account) == []


async def test_new_alert_is_published_once_but_not_the_order_managers(account: Database) -> None:
    journal, new_alerts = TreeJournal(account), NewAlerts(account)
    await journal.page("child.escalated", "old new_alerts", "orders")
    assert await new_alerts.new() == []
    await journal.page("child.escalated", "it died", "orders")
    await FactStore(account).note_alert("page", "order.lost", "told already", "orders", {})
    assert [(row["type"], row["component"], row["message"]) for row in await new_alerts.new()] == [
        ("alert", "orders", "it died")
    ]
    assert await new_alerts.new() == []


async def test_silent_machine_is_not_back_though_its_last_state_was_ready(account: Database) -> None:
    await account.sql(
        "INSERT INTO alerts (severity, event, message, component) VALUES ('page', 'node.silent', 'w1 is gone', 'w1')"
    )
    await account.sql(
        "INSERT INTO nodes (name, role, state, beat_at) VALUES ('w1', 'worker', 'ready', now() - interval '1 minute')"
    )
    assert await _settle(account) == []
    await account.sql("UPDATE nodes SET beat_at = now()")
    assert await _settle(account) == ["node.silent"]


async def test_a_machine_that_falls_silent_is_paged_once_and_forgotten_on_demand(account: Database) -> None:
    nodes = NodeStore(account)
    await account.sql(
        "INSERT INTO nodes (name, role, state, beat_at) VALUES ('w1', 'worker', 'ready', now()), "
        "('w2', 'worker', 'ready', now() - interval '1 minute')"
    )
    assert await nodes.page_silent() == ["w2"]
    assert await nodes.page_silent() == []
    assert await _settle(account) == []
    with pytest.raises(InputError, match="still speaks"):
        await nodes.forget("w1")
    assert (await nodes.forget("w2"), await nodes.forget("w2")) == (True, False)
    assert await _settle(account) == ["node.silent"]
    assert [row.name for row in await nodes.all()] == ["w1"]


async def test_a_silent_machine_is_forgotten_some_time_after_its_page(account: Database) -> None:
    nodes = NodeStore(account)
    await account.sql(
        "INSERT INTO nodes (name, role, state, beat_at) VALUES ('w1', 'worker', 'ready', now() - interval '2 days'), "
        "('w2', 'worker', 'ready', now() - interval '2 days')"
    )
    await account.sql("INSERT INTO component_health (name, kind, state) VALUES ('keeper@w1', 'service', 'ready')")
    assert sorted(await nodes.page_silent()) == ["w1", "w2"]
    assert await nodes.forget_silent(3600.0) == [], "the whole cluster was away: the page came just now"
    await account.sql("UPDATE alerts SET time = now() - interval '61 minutes'")
    await account.sql("UPDATE nodes SET beat_at = now() - interval '59 minutes' WHERE name = 'w2'")
    assert await nodes.forget_silent(3600.0) == ["w1"], "the other one has spoken since"
    assert [row.name for row in await nodes.all()] == ["w2"]
    assert await account.sql("SELECT name FROM component_health WHERE name LIKE '%@w1'") == []
    assert await _settle(account) == ["node.silent"]
    assert await nodes.forget_silent(3600.0) == []
