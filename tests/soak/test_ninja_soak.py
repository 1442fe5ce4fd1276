"""A thousand signals to the C# AddOn while its process, the link's process and the connection die. `make soak`.

FKS_SOAK_SEED replays another run, FKS_SOAK_SIGNALS shortens it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fks.store.db import Database
from tests.support import mono
from tests.support.ninja_faults import Plan, faults
from tests.support.programs import require

SIGNALS = int(os.environ.get("FKS_SOAK_SIGNALS", "1000"))
SEED = int(os.environ.get("FKS_SOAK_SEED", "20261122"))


@pytest.mark.soak
@pytest.mark.timeout(5400)
async def test_a_thousand_signals_are_submitted_once_while_everything_dies(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    require("mcs", "mono")
    (tmp_path / "build").mkdir()
    build = mono.compile_all(tmp_path / "build")
    async with faults(build, tmp_path / "NinjaTrader 8", database, database_url, Plan(SEED, SIGNALS)) as run:
        await run.send()
        await run.settle()
        report = await run.bridges.report()
    accepted = [state for state in (await run.states()).values() if state == "ACKED"]
    print(f"{len(accepted)} of {SIGNALS} accepted, {len(report['executions'])} executions; {run.bridges.starts} starts of the AddOn, "
          f"{run.links.starts} of the link, {run.proxy.cuts} cuts, {run.bridges.late()} late orders")  # fmt: skip
    assert len(accepted) > SIGNALS * 0.7, "most signals are accepted"
    assert min(run.bridges.starts, run.links.starts, run.proxy.cuts) > SIGNALS / 50, "each part has died"
    assert run.bridges.late() > SIGNALS / 100, "orders came late"
