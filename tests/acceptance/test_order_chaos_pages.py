"""Kills of the order manager alone send no page: its positions have their stops back within seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from fks.store.bus import Bus
from tests.support.invariants import assert_none
from tests.support.order_chaos import BESIDE, FAULTS, REFUSING, SEED, order_chaos

#: for a minute after a step of the clock no order counts as absent: a position whose stop was on its way has a page then
QUIET = [name for name in BESIDE if name != "clock steps"]


@pytest.mark.timeout(240)
async def test_kills_without_refusals_send_no_page(bus: Bus, redis_url: str, tmp_path: Path) -> None:
    async with order_chaos(bus, redis_url, tmp_path / "exchange", SEED, beside=QUIET) as chaos:
        await chaos.run(lives_min=8, faults=[fault for fault in FAULTS if fault not in REFUSING])
        assert_none(await chaos.findings())
        assert await chaos.pages() == []
        assert chaos.points > chaos.kills / 2
