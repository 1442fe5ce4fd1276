"""An order manager ends in the middle of something, its home is upgraded from the revision before, the new one goes on.

Since that revision API keys and webhooks trade instances of their own; before, they shared the instance of persons.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from fks.model.order import Role, Side, State
from fks.model.signal import Kind
from fks.store import migrate
from tests.support.invariants import assert_journal, assert_once
from tests.support.order_rig import Rig
from tests.support.soak_cases import soaked
from tests.support.waiting import until

D = Decimal
BEFORE = "0048"
PROGRAM: dict[str, Any] = {"instance": "key:bot", "source": "principal:bot", "timeframe": None, "size": D(10)}
STRATEGY: dict[str, Any] = {"instance": "one"}
#: each buys 10; less the fee 9.99 is held
OWNERS = [pytest.param(STRATEGY, id="strategy"), pytest.param(PROGRAM, id="program")]


@pytest.fixture(autouse=True)
async def audited(idle: Rig) -> AsyncIterator[None]:
    """No order is sent twice, and the journal adds up, in each test."""
    yield
    assert_once(idle.venue.received)
    await assert_journal(idle.db)


async def upgraded(rig: Rig, database_url: str) -> Rig:
    """Bring the database of a dead order manager to the revision before, as its home was, and back; start a new one."""
    await rig.crash()
    await migrate.downgrade(database_url, BEFORE)
    (row,) = await rig.db.sql("SELECT count(*) FILTER (WHERE instance LIKE 'key:%') AS n FROM orders")
    assert row["n"] == 0, "programs traded as persons did"
    await migrate.upgrade(database_url)
    rig.own = rig.db  # the role of a clone is its template's, and an upgrade grants to those of its own database
    return await rig.start()


async def enter(rig: Rig, owner: dict[str, Any], **changes: Any) -> str:
    """Buy with a stop for an owner and return the entry's id."""
    kind = Kind.ORDER if owner is PROGRAM else Kind.ENTER
    id = await rig.signal(kind, **(owner | {"stop_loss": D(90), "take_profit": None} | changes))
    assert await rig.outcome(id) == ("ordered", None)
    return (await rig.entry(id)).client_order_id


def resting(rig: Rig) -> list[Role]:
    return [held.order.role for held in rig.venue.live()]


async def held_of_all(rig: Rig) -> Decimal:
    rows = await rig.db.sql("SELECT coalesce(sum(quantity), 0) AS held FROM positions WHERE symbol = 'BTCUSDT'")
    held: Decimal = rows[0]["held"]
    return held


def sold(rig: Rig) -> Decimal:
    return sum((fill.quantity for fill in rig.venue.trades if fill.side is Side.SELL), D(0))


@pytest.mark.parametrize(
    ("owner", "close"),
    soaked(
        [
            *((PROGRAM, close) for close in ("hang", "lost", "refuse:-1015")),
            *((STRATEGY, close) for close in ("lost", "hang", "refuse:-1015")),
        ],
        4,
    ),
)
async def test_an_exit_ends_flat(rig: Rig, database_url: str, owner: dict[str, Any], close: str) -> None:
    """Its stop is down; the close has executed without an answer, has no known outcome, or was refused."""
    await enter(rig, owner)
    await until(lambda: resting(rig) == [Role.STOP_LOSS])
    rig.venue.script.append(close)
    sent = len(rig.venue.received)
    await rig.signal(Kind.EXIT, **(owner | {"size": None}))
    await until(lambda: len(rig.venue.received) > sent)
    await upgraded(rig, database_url)

    async def is_flat() -> bool:
        return await held_of_all(rig) < D("0.001")

    await until(is_flat)
    assert sold(rig) == D("9.99")
    assert resting(rig) == []


@pytest.mark.parametrize(
    ("owner", "close"),
    soaked([(owner, close) for owner in (PROGRAM, STRATEGY) for close in ("hang", "refuse:-1015")], 2),
)
async def test_a_kill_ends_flat(idle: Rig, database_url: str, owner: dict[str, Any], close: str) -> None:
    """At a venue where the order manager closes for a kill: the close has executed without an answer, or was refused."""
    idle.venue.capabilities = replace(idle.venue.capabilities, has_guardian=False)
    rig = await idle.start()
    await enter(rig, owner)
    await until(lambda: resting(rig) == [Role.STOP_LOSS])
    rig.venue.script.append(close)
    sent = len(rig.venue.received)
    await rig.db.sql("INSERT INTO kill_switch (kill_id, report) VALUES ('k', '{\"flatten\": true}')")
    await until(lambda: len(rig.venue.received) > sent, deadline_s=10)
    await upgraded(rig, database_url)

    async def is_flat() -> bool:
        return await held_of_all(rig) < D("0.001")

    await until(is_flat)
    assert sold(rig) == D("9.99")
    assert resting(rig) == []


@pytest.mark.parametrize("owner", OWNERS)
async def test_an_entry_that_filled_in_the_outage_is_protected_and_its_owner_can_close_it(
    rig: Rig, database_url: str, owner: dict[str, Any]
) -> None:
    rig.venue.script.append("rest")
    entry = await enter(rig, owner)
    await rig.becomes(entry, State.WORKING)
    await rig.crash()
    rig.venue.fill(entry, D(10), D(100))
    await upgraded(rig, database_url)
    await until(lambda: resting(rig) == [Role.STOP_LOSS], deadline_s=10)
    assert await rig.position(owner["instance"]) == await held_of_all(rig) == D("9.99")
    await rig.signal(Kind.EXIT, **(owner | {"size": None}))

    async def is_flat() -> bool:
        return await held_of_all(rig) < D("0.001")

    await until(is_flat)
    assert resting(rig) == []


async def test_a_program_that_sold_more_than_its_own_leaves_its_stop(rig: Rig, database_url: str) -> None:
    """Before the upgrade the oldest entry closed first. Counted by executions the part that is left belongs to the
    person, whose entry had no stop; it keeps the program's."""
    person: dict[str, Any] = PROGRAM | {"instance": "", "source": "principal:user:1"}
    program: dict[str, Any] = PROGRAM | {"instance": ""}
    await rig.signal(Kind.ORDER, **person, take_profit=None)
    await until(lambda: len(rig.venue.trades) == 1)
    await rig.signal(Kind.ORDER, **program, stop_loss=D(90), take_profit=None)
    await until(lambda: resting(rig) == [Role.STOP_LOSS])
    await rig.signal(Kind.ORDER, **(program | {"side": Side.SELL, "size": D(15)}))
    await until(lambda: [held.order.quantity for held in rig.venue.live()] == [D("4.98")])
    await upgraded(rig, database_url)
    # the stop follows the position only if it belongs to the same instance
    await rig.signal(Kind.ORDER, **(person | {"side": Side.SELL, "size": D("0.98")}), take_profit=None)
    await until(lambda: [held.order.quantity for held in rig.venue.live()] == [D(4)], deadline_s=10)
    assert await held_of_all(rig) == await rig.position("") == D(4)
