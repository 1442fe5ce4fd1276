"""Ten thousand intents through the order path while it is killed at every point under every fault. `make soak`.

FKS_SOAK_SEED replays another run, FKS_SOAK_INTENTS shortens it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fks.orders.crash_points import LABELS
from fks.store.bus import Bus
from fks.store.db import Database
from tests.support.local_exchange import LocalExchange
from tests.support.order_chaos import FAULTS, OrderChaos

INTENTS = int(os.environ.get("FKS_SOAK_INTENTS", "10000"))
SEED = int(os.environ.get("FKS_SOAK_SEED", "20261121"))


@pytest.mark.soak
@pytest.mark.timeout(5400)
async def test_ten_thousand_intents_lose_double_and_bend_nothing(
    database: Database, bus: Bus, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    exchange = LocalExchange(tmp_path / "exchange", ("--rate-limits", "off", "--balance", "USDT=1000000")).start()
    chaos = OrderChaos(database, bus, exchange, {"database_url": database_url, "redis_url": redis_url}, SEED)
    await chaos.open()
    try:
        await chaos.run(lives_min=len(LABELS) * len(FAULTS), intents=INTENTS, most=20)
        assert await chaos.findings() == []
        assert await chaos.fills() > INTENTS / 6
    finally:
        await chaos.close()
        exchange.stop()
