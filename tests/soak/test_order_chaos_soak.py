"""Ten thousand intents reach the exchange while the order path is killed at every point under every fault. `make soak`.

FKS_SOAK_SEED replays another run, FKS_SOAK_INTENTS shortens it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fks.store.bus import Bus
from tests.support.crash_points import LABELS
from tests.support.invariants import assert_none
from tests.support.order_chaos import FAULTS, order_chaos
from tests.support.order_chaos_counts import Minimum

INTENTS = int(os.environ.get("FKS_SOAK_INTENTS", "10000"))
LONG = 3 if INTENTS >= 3_000 else 1  # long lives of each kind, a minute or two each
STRUCK = {
    "vanishing balances": INTENTS // 100,
    "bad marks": INTENTS // 100,
    "clock steps": INTENTS // 200,
    "refused exits": 3 * LONG,
    "refused kills": 5 * LONG,
    "stepped exits": LONG,
    "database killed after a fill": 1,
    "database killed after a cancel": 1,
    "webhook": INTENTS // 50,
    "session": INTENTS // 50,
    "instances side by side": INTENTS // 10,
}
MINIMUM = Minimum(intents=INTENTS, pairs=INTENTS // 50, reports=INTENTS // 100, struck=STRUCK)
SEED = int(os.environ.get("FKS_SOAK_SEED", "20261121"))


@pytest.mark.soak
@pytest.mark.timeout(14_400)
async def test_ten_thousand_intents_lose_double_and_bend_nothing(bus: Bus, redis_url: str, tmp_path: Path) -> None:
    options = {"outage_s": 5.0, "refusal_s": (30.0, 120.0)}
    async with order_chaos(bus, redis_url, tmp_path / "exchange", SEED, **options) as chaos:
        await chaos.run(lives_min=len(LABELS) * len(FAULTS), minimum=MINIMUM, most=20, long=LONG)
        assert_none(await chaos.findings())
        assert list(chaos.counts.shortfalls(MINIMUM)) == []
        assert chaos.points > chaos.kills / 2, "most lives end at their labelled point"
