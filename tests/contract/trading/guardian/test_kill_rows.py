"""The rows of a kill's orders: a state and the step that brought it there are written together, or neither is."""

from __future__ import annotations

import pytest

from fks.lab.chaos.run import OPEN_PAGES
from fks.model.order import Order, Role, Side, State
from fks.store.db import Database
from fks.store.kill import KillStore
from tests.support.guarded_trading import seed_account
from tests.support.order_values import an_order


async def save(store: KillStore, order: Order, state: State, step: str) -> None:
    await store.save_order(order, state, venue_order_id=None, code=None, detail="", step=step)


async def test_a_page_of_a_kill_is_one_row_that_names_its_symbols_of_now(database: Database) -> None:
    store = KillStore(database)
    for kill, symbols in (("k", ["BTCUSDT"]), ("k", ["BTCUSDT", "ETHUSDT"]), ("other", ["SOLUSDT"])):
        await store.open_alert("kill.stuck", " ".join(symbols), {"kill_id": kill, "symbols": symbols})
    alerts = await database.sql("SELECT message FROM alerts ORDER BY id")
    assert [row["message"] for row in alerts] == ["BTCUSDT ETHUSDT", "SOLUSDT"]
    pages = [(row["symbol"], row["instance"]) for row in await database.sql(OPEN_PAGES)]
    assert sorted(pages) == [("BTCUSDT", ""), ("ETHUSDT", ""), ("SOLUSDT", "")]
    await store.end_alert("kill.stuck")
    assert await database.sql(OPEN_PAGES) == []


async def rows(database: Database) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the states of the orders, and the steps with the states that they led to."""
    orders = await database.sql("SELECT state FROM orders WHERE role = 'kill'")
    steps = await database.sql("SELECT event, to_state FROM order_events ORDER BY id")
    return [row["state"] for row in orders], [(row["event"], row["to_state"]) for row in steps]


async def test_a_state_and_its_step_are_written_together(database: Database) -> None:
    """The order manager, too, has steps of these orders: none may find a state whose step is not there yet."""
    await seed_account(database, position="0.3")
    store, order = KillStore(database), an_order(role=Role.KILL, side=Side.SELL, signal_id=None)
    await save(store, order, State.SENDING, "sent")
    with pytest.raises(Exception, match="0x00"):
        await save(store, order, State.WORKING, "a step that PostgreSQL refuses\0")
    assert await rows(database) == (["SENDING"], [("sent", "SENDING")])
    await save(store, order, State.WORKING, "ended")
    await save(store, order, State.WORKING, "ended")  # the same step again is nothing
    await save(store, order, State.UNKNOWN, "late")  # the order manager has moved it on: not set back
    assert await rows(database) == (["WORKING"], [("sent", "SENDING"), ("ended", "WORKING"), ("late", "WORKING")])
