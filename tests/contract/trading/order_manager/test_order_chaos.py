"""The order manager is killed at every labelled point while the exchange misbehaves: the exchange's log decides."""

from __future__ import annotations

from pathlib import Path

import pytest

from fks.store.bus import Bus
from tests.support.invariants import assert_none
from tests.support.order_chaos import SEED, order_chaos
from tests.support.order_chaos_counts import Minimum

LIVES_MIN = 32
STRUCK = {
    "vanishing balances": 2,
    "bad marks": 1,
    "clock steps": 1,
    "refused exits": 1,
    "refused kills": 1,
    "stepped exits": 1,
    "database killed after a fill": 1,
    "database killed after a cancel": 1,
    "webhook": 5,
    "session": 5,
    "instances side by side": 50,
}
# a busy machine answers late: more is denied
MINIMUM = Minimum(intents=300, pairs=5, reports=1, struck=STRUCK, denied_share=0.4)


@pytest.mark.timeout(480)
async def test_kills_at_every_point_lose_double_and_bend_nothing(bus: Bus, redis_url: str, tmp_path: Path) -> None:
    """Each label and each fault of the exchange several times, and refusals for seconds; `make soak` takes every pair of
    them, refusals of 30 to 120 s, and 10,000 intents."""
    async with order_chaos(bus, redis_url, tmp_path / "exchange", SEED) as chaos:
        await chaos.run(lives_min=LIVES_MIN, minimum=MINIMUM, long=1)
        assert_none(await chaos.findings())
        assert list(chaos.counts.shortfalls(MINIMUM)) == []
        assert chaos.points > chaos.kills / 2, "most lives end at their labelled point"
