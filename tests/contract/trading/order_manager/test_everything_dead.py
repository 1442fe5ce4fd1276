"""The venue holds the protection from the entry on: every process but the exchange is killed -9 right after the
acknowledgement of protected entries, and is back after an hour of the tape."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fks.store.bus import Bus
from tests.support.everything_dead import everything
from tests.support.invariants import assert_none

ENTRIES = 30  # `make soak` takes 300
SEED = int(os.environ.get("FKS_CHAOS_SEED", "27"))


@pytest.mark.timeout(300)
async def test_no_filled_entry_is_ever_without_its_stop(bus: Bus, redis_url: str, tmp_path: Path) -> None:
    async with everything(tmp_path, bus, redis_url, entries=ENTRIES, seed=SEED) as dead:
        await dead.run(ENTRIES)
        found = await dead.findings()
        print(dict(sorted(dead.counts.items())))
        assert_none(found)
        assert dead.counts["entries filled whole"] >= ENTRIES / 2, dead.counts
        assert dead.counts["exits filled"] >= ENTRIES / 10, dead.counts
        assert dead.counts["killed at a point"] >= dead.counts["hours"] / 2, dead.counts
