"""An hour of faults on a feed: no trade and no bar is missing or wrong, and nothing grows. `make soak`.

FKS_SOAK_MINUTES shortens it, FKS_SOAK_SEED replays another run.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.collecting import check_stored
from tests.support.feed_faults import FaultRun
from tests.support.local_exchange import LocalExchange

MINUTES = float(os.environ.get("FKS_SOAK_MINUTES", "60"))
SEED = int(os.environ.get("FKS_SOAK_SEED", "20261120"))


@pytest.mark.soak
@pytest.mark.timeout(5400)
async def test_an_hour_of_faults_leaves_the_store_equal_to_the_exchange(redis_url: str, tmp_path: Path) -> None:
    exchange = LocalExchange(tmp_path, ["--seed", str(SEED % 1000), "--rate-limits", "off"]).start()
    try:
        async with FaultRun(exchange, redis_url, SEED).opened() as run:
            await run.torment(MINUTES * 60)
            await run.settled()
            trades, _ = await run.check_trades(), await check_stored(run.db, exchange)
            outages, (let_in, refused) = await run.check_outages(), await run.check_entries()
            assert min(let_in, refused) > 0  # most of the time something is wrong
            print(
                f"{len(run.done)} faults, {run.epoch} collectors, {trades} trades, {outages} outages, "
                f"{let_in} entries let in and {refused} refused"
            )
    finally:
        exchange.stop()
