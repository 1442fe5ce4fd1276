"""A HALT is on disk before the execution that causes it is booked, and it names the instance that a copy stands for."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest

from fks.model import ids
from fks.model.order import Role
from tests.support.crash_points import CrashPoints
from tests.support.order_rig import Rig
from tests.support.waiting import until


class PulledPlugError(Exception):
    """The process ends here: what comes after it in the same task does not happen."""


@pytest.mark.parametrize("label", ["fill.before", "fill.after"])
async def test_halt_survives_a_crash_around_the_commit_of_its_cause(idle: Rig, label: str) -> None:
    """Booked, the execution is never seen as new again: the halt has to be on disk with it."""

    def act() -> None:
        raise PulledPlugError

    points = CrashPoints(label, 2, act)  # the first execution is the entry's own
    idle.at = points
    await idle.start()
    await idle.outcome(await idle.signal())
    denied = await idle.signal(size=999)
    await idle.outcome(denied)
    await until(lambda: idle.service.cache.position(1, "ccxt", "BTCUSDT", "one").quantity > 0)
    name = ids.client_order_id(ids.intent_id(denied), Role.ENTRY)
    wrong = replace(idle.venue.trades[0], fill_id=uuid.uuid4(), venue_trade_id="77", client_order_id=name)
    idle.venue.push(wrong)
    await until(lambda: points.passed[label] == 2)
    await idle.restart()
    assert await idle.outcome(await idle.signal()) == ("denied", "STRATEGY_CRASHED")


async def test_an_impossible_execution_of_a_copy_halts_the_instance_that_it_repeats(rig: Rig) -> None:
    await rig.outcome(await rig.signal())
    await until(lambda: rig.service.cache.position(1, "ccxt", "BTCUSDT", "one").quantity > 0)
    denied = await rig.signal(size=999, instance="copy:one", source="copy:one")
    assert (await rig.outcome(denied))[0] == "denied"
    name = ids.client_order_id(ids.intent_id(denied), Role.ENTRY)
    rig.venue.push(replace(rig.venue.trades[0], fill_id=uuid.uuid4(), venue_trade_id="77", client_order_id=name))
    await until(lambda: "IMPOSSIBLE_FILL" in rig.log.events("error"))
    assert await rig.outcome(await rig.signal()) == ("denied", "STRATEGY_CRASHED")
    (row,) = await rig.db.sql("SELECT state FROM strategy_instances WHERE id = 'one'")
    assert row["state"] == "CRASHED"


async def test_a_halt_lasts_until_a_person_enables_the_instance_again(rig: Rig) -> None:
    await rig.outcome(await rig.signal())
    denied = await rig.signal(size=999)
    await rig.outcome(denied)
    await until(lambda: rig.service.cache.position(1, "ccxt", "BTCUSDT", "one").quantity > 0)
    name = ids.client_order_id(ids.intent_id(denied), Role.ENTRY)
    rig.venue.push(replace(rig.venue.trades[0], fill_id=uuid.uuid4(), venue_trade_id="77", client_order_id=name))
    await until(lambda: "IMPOSSIBLE_FILL" in rig.log.events("error"))
    assert await rig.outcome(await rig.signal()) == ("denied", "STRATEGY_CRASHED")
    await rig.db.sql("UPDATE strategy_instances SET is_enabled = true, state = 'NEW', error = NULL WHERE id = 'one'")
    await until(lambda: rig.service.cache.instance_state("one") == "")
    assert await rig.outcome(await rig.signal()) == ("ordered", None)
