"""300 protected entries, every process but the exchange killed -9 after at most ten of them. `make soak`;
FKS_DEAD_ENTRIES sets another number, FKS_SOAK_SEED replays another run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fks.store.bus import Bus
from tests.support.everything_dead import everything
from tests.support.invariants import assert_none

ENTRIES = int(os.environ.get("FKS_DEAD_ENTRIES", "300"))
SEED = int(os.environ.get("FKS_SOAK_SEED", "20261120"))


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_no_filled_entry_is_ever_without_its_stop_in_many_outages(
    bus: Bus, redis_url: str, tmp_path: Path
) -> None:
    async with everything(tmp_path, bus, redis_url, entries=ENTRIES, seed=SEED) as dead:
        await dead.run(ENTRIES)
        found = await dead.findings()
        print(dict(sorted(dead.counts.items())))
        assert_none(found)
        assert dead.counts["entries filled whole"] >= ENTRIES / 2, dead.counts
        assert dead.counts["killed at a point"] >= dead.counts["hours"] / 2, dead.counts
