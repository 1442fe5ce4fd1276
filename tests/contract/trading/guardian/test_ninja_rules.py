"""The guardian flattens an account at NinjaTrader when the prop firm's rules demand it, with no other process there."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from fks.clock import RealClock
from fks.lab.sim.nt8.server import BridgeServer
from fks.trading.guardian.context import GuardianContext
from fks.trading.guardian.ninja_session import GroupBridge, NinjaSession, RuleWatch
from fks.trading.prop_rules import RuleGroup, shipped_group
from tests.support.guardian_process import QUICK
from tests.support.nt8_platform import held, open_position, platform, resting
from tests.support.ports import CollectingLog, RecordingMeter
from tests.support.waiting import until


def rules(**changes: Any) -> RuleGroup:
    """Topstep's rules with a day without a flat-by time, so that the moment of the test does not matter."""
    data = shipped_group("topstep-50k").model_dump(exclude_none=True)
    data["rules"] |= {"flat_by": {"value": "none"}, "max_loss": {"value": "none", "trailing": "eod"}, **changes}
    for rule in data["rules"].values():
        rule |= {"source": "test", "verified_on": date(2026, 11, 1), "verified_by": "a person"}
    return RuleGroup.model_validate(data)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[BridgeServer]:
    async with platform(tmp_path / "nt8") as server:
        await open_position(server)
        yield server


class Watched:
    """A session, its watch, and the pages."""

    def __init__(self, server: BridgeServer, group: RuleGroup | None, *, may_act: bool = True, **of: RuleGroup) -> None:
        self.pages: list[str] = []
        context = GuardianContext(RealClock(), CollectingLog(), RecordingMeter(), QUICK)
        address = GroupBridge("sim", "127.0.0.1", server.port, server.secret, rules=group, account_rules=of)
        self.session = NinjaSession(context, address, lambda: uuid.uuid4().hex)
        self.watch = RuleWatch(context, self.session, may_act=lambda: may_act, page=self.page)
        self.session.start(lambda: True)

    def page(self, event: str, message: str) -> None:
        self.pages.append(event)

    async def look(self) -> None:
        await until(lambda: self.session.is_open)
        await self.watch.look()


async def test_static_loss_that_is_reached_flattens_and_pages_once(server: BridgeServer) -> None:
    # 50,000 in the account: a group that began at 60,000 has lost 10,000 of 2,000
    group = rules(max_loss={"value": 2000, "trailing": "static"}).model_copy(update={"starting_balance": 60_000})
    watched = Watched(server, group)
    await watched.look()
    await until(lambda: held(server) == 0 and not resting(server))
    assert watched.pages == ["prop.flatten"]
    await watched.look()
    assert watched.pages == ["prop.flatten"], "nothing is left to close"
    assert not server.sessions.bridge.halted, "a rule sets no kill latch"
    await watched.session.close()


async def test_account_within_its_rules_is_left_alone(server: BridgeServer) -> None:
    watched = Watched(server, rules())
    await watched.look()
    assert (held(server), watched.pages) == (2, [])
    await watched.session.close()


async def test_account_with_rules_of_its_own_is_judged_by_those(server: BridgeServer) -> None:
    lost = rules(max_loss={"value": 2000, "trailing": "static"}).model_copy(update={"starting_balance": 60_000})
    lenient = Watched(server, lost, Sim101=rules())
    await lenient.look()
    assert (held(server), lenient.pages) == (2, []), "the group's rules are not this account's"
    await lenient.session.close()
    strict = Watched(server, None, Sim101=lost)
    await strict.look()
    await until(lambda: held(server) == 0 and not resting(server))
    assert strict.pages == ["prop.flatten"]
    await strict.session.close()


async def test_guardian_that_must_not_act_only_looks_on(server: BridgeServer) -> None:
    group = rules(max_loss={"value": 2000, "trailing": "static"}).model_copy(update={"starting_balance": 60_000})
    watched = Watched(server, group, may_act=False)
    await watched.look()
    assert (held(server), watched.pages) == (2, [])
    await watched.session.close()


async def test_another_secret_and_other_rules_count_without_a_restart(server: BridgeServer) -> None:
    watched = Watched(server, None)
    right = watched.session.address
    lost = rules(max_loss={"value": 2000, "trailing": "static"}).model_copy(update={"starting_balance": 60_000})
    await watched.session.close()
    changes: list[GroupBridge] = []
    context = GuardianContext(RealClock(), CollectingLog(), RecordingMeter(), QUICK)
    session = watched.session = NinjaSession(
        context,
        replace(right, secret=b"a secret that is another one by now"),
        lambda: uuid.uuid4().hex,
        lambda: changes.pop() if changes else None,
    )
    watched.watch = RuleWatch(context, session, may_act=lambda: True, page=watched.page)
    session.start(lambda: True)
    await until(lambda: session.reason != "not connected yet")
    assert not session.is_open
    changes.append(right)
    await watched.look()
    assert (held(server), watched.pages) == (2, []), "it has no rules yet"
    changes.append(replace(right, rules=lost))
    await until(lambda: session.address.has_rules)
    assert session.is_open, "the connection went on"
    await watched.look()
    await until(lambda: held(server) == 0 and not resting(server))
    assert watched.pages == ["prop.flatten"]
    await session.close()
