"""Faults on a feed of each wire of the local exchange: no trade and no bar is missing or wrong. `make soak`.

An hour of Binance's, fifteen minutes of Kraken's. FKS_SOAK_MINUTES shortens it, FKS_SOAK_SEED replays another run. It
fails with fewer faults, killed collectors, trades, outages or entries than `Wire.least`, and when a collector
ended by anything but its kill.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.feed_faults import WIRES, FaultRun
from tests.support.local_exchange import LocalExchange

MINUTES = {"binance": 60.0, "kraken": 15.0}
SEED = int(os.environ.get("FKS_SOAK_SEED", "20261120"))


@pytest.mark.soak
@pytest.mark.timeout(5400)
@pytest.mark.parametrize("name", WIRES)
async def test_faults_leave_the_store_equal_to_the_exchange(name: str, redis_url: str, tmp_path: Path) -> None:
    wire, minutes = WIRES[name], float(os.environ.get("FKS_SOAK_MINUTES") or MINUTES[name])
    exchange = LocalExchange(tmp_path, ["--seed", str(SEED % 1000), "--rate-limits", "off", *wire.flags]).start()
    try:
        async with FaultRun(exchange, redis_url, SEED, wire).opened() as run:
            await run.torment(minutes * 60)
            await run.settled()
            counts = await run.check()
            print(f"{name}: {counts}, of {len(run.started)} collectors")
            assert counts.lacking(wire.least, minutes * 60) == []
    finally:
        exchange.stop()
