"""Rows to the broker and back, while the agent, the link's process and the connection die, on both kinds of account; and
signals through an order manager, which dies as well."""

from __future__ import annotations

from pathlib import Path

import pytest

from fks.store.bus import Bus
from fks.store.db import Database
from tests.support.mt5_kills import agent_faults, trade_while_everything_dies
from tests.support.ninja_faults import Plan
from tests.support.soak_cases import soaked

TRADED = 4
SEED = 3


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("mode", "signals"), soaked([("netting", 60), ("hedging", 60), ("netting", 200), ("hedging", 200)], 2)
)
async def test_signals_reach_the_broker_once_while_everything_dies(
    mode: str, signals: int, database: Database, database_url: str, tmp_path: Path
) -> None:
    shares = (("bridge", 1), ("link", 1), ("cut", 3), ("freeze", 1))  # agent and link also die by themselves
    plan = Plan(SEED, signals, pause_s=0.1, ready_s=0.2, turns_min=4, shares=shares)
    async with agent_faults(tmp_path / "agent", database, database_url, plan, mode) as run:
        await run.send()
        await run.settle()
    accepted = [state for state in (await run.states()).values() if state == "ACKED"]
    print(f"{mode}: {len(accepted)} of {len(run.ids)} accepted; {run.turns}")
    assert len(accepted) > len(run.ids) * 0.7, "most signals are accepted"
    assert min(run.turns.values()) > 3, run.turns


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", ["hedging", "netting"])
async def test_an_order_manager_that_dies_too_sends_each_order_once(
    mode: str, database: Database, database_url: str, bus: Bus, tmp_path: Path
) -> None:
    await trade_while_everything_dies(tmp_path / "agent", database, database_url, bus, mode, SEED, TRADED)
