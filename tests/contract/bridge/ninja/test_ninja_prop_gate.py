"""A signal over HTTP that a prop firm's rule forbids: denied by the order manager's gate, and nothing reaches the platform."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from fks.store.bus import Bus
from fks.store.db import Database
from fks.trading.order_manager.prop_rules import GuardedAccount, PropGate
from fks.trading.prop_rules import RuleGroup, shipped_group
from fks.trading.prop_rules.hours import hours_of
from tests.support.gateway import Running, running
from tests.support.ninja_trading import Trading, ninja_trading
from tests.support.ninja_venue import ACCOUNT, ES, GROUP
from tests.support.waiting import until


def rules() -> RuleGroup:
    """Return rules of 5 lots, verified by a person, without a flat-by time."""
    data = shipped_group("topstep-50k").model_dump(exclude_none=True)
    data["rules"] |= {"flat_by": {"value": "none"}}
    for rule in data["rules"].values():
        rule |= {"source": "test", "verified_on": date(2026, 11, 1), "verified_by": "a person"}
    return RuleGroup.model_validate(data)


@pytest.fixture
async def trading(database: Database, bus: Bus, tmp_path: Path) -> AsyncIterator[Trading]:
    async with ninja_trading(database, bus, tmp_path / "nt8") as trading:
        yield trading


@pytest.fixture
async def gateway(trading: Trading, database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Running]:
    async with running(trading.rig.db, database_url, redis_url, tmp_path, http={"order_wait_s": 10.0}) as gateway:
        yield gateway


async def send(gateway: Running, trading: Trading, **changes: Any) -> tuple[int, dict[str, Any]]:
    """Send a limit order below the market in the form of the replaced service."""
    price = trading.nt.price - 20
    body = {"action": "buy", "instrument": ES, "price": float(price), "tp_points": 20, "sl_points": 10, "account": "nt"}
    async with gateway.client("trade") as client:
        answer = await client.post("/api/v1/signals/send", json=body | changes)
    return answer.status_code, answer.json()


async def test_an_order_above_the_firms_cap_is_denied_with_its_code(gateway: Running, trading: Trading) -> None:
    now_ns = trading.rig.clock.now_ns()
    gate = PropGate(GuardedAccount(GROUP, ACCOUNT, "test", rules()), trading.nt.rows)
    trading.rig.service.cache.prop = {"ninja": gate}
    await trading.rig.service.refresh()
    status, body = await send(gateway, trading, quantity=6)
    # on a weekend the firm's hours deny before its cap does
    expected = "PROP_SIZE" if hours_of(rules().rules.flat_by, now_ns).is_open else "PROP_HOURS"
    assert (status, body["success"], body["code"]) == (422, False, expected)
    assert ACCOUNT in body["error"]
    (row,) = await trading.rig.db.sql("SELECT state, code FROM signals")
    assert (row["state"], row["code"]) == ("denied", expected)
    assert trading.nt.server.platform.calls == []
    assert await trading.rig.db.sql("SELECT 1 FROM ninja_requests WHERE kind = 'signal'") == []


async def test_rules_that_cannot_be_used_deny_and_without_rules_it_goes(gateway: Running, trading: Trading) -> None:
    fault = GuardedAccount(GROUP, ACCOUNT, "mine", None, "mine.toml cannot be read")
    trading.rig.service.cache.prop = {"ninja": PropGate(fault, trading.nt.rows)}
    status, body = await send(gateway, trading)
    assert (status, body["code"]) == (422, "PROP_OFF")
    trading.rig.service.cache.prop = {}
    status, body = await send(gateway, trading, quantity=2)
    assert (status, body["success"]) == (200, True), body

    def is_submitted() -> bool:
        return [call.kind for call in trading.nt.server.platform.calls] == ["submit"]

    await until(is_submitted)
