"""Rows to broker and back, while the AddOn's process, the link's process and the connection die: nothing lost or doubled."""

from __future__ import annotations

from pathlib import Path

import pytest

from fks.store.db import Database
from tests.support import mono
from tests.support.ninja_faults import Plan, faults

SIGNALS, SEED = 60, 5  # `make soak` sends 1,000


@pytest.mark.timeout(300)
async def test_signals_are_submitted_once_while_everything_dies(
    nt8_build: mono.Build, database: Database, database_url: str, tmp_path: Path
) -> None:
    plan = Plan(SEED, SIGNALS)
    async with faults(nt8_build, tmp_path / "NinjaTrader 8", database, database_url, plan) as run:
        await run.send()
        await run.settle()
        report = await run.bridges.report()
    accepted = [state for state in (await run.states()).values() if state == "ACKED"]
    assert await database.sql("SELECT FROM ninja_links WHERE has_line_mac"), "each line carried a MAC"
    assert len(accepted) > SIGNALS * 0.7, "most signals are accepted"
    assert len(report["executions"]) > SIGNALS, "entries and exits are filled"
    assert min(run.bridges.starts, run.links.starts, run.proxy.cuts) > 3, "each part has died"
    assert run.bridges.late() > 0, "orders came late"
