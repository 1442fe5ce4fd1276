"""Kills of the order manager alone send no page: its positions have their stops back within seconds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fks.store.bus import Bus
from tests.support.invariants import assert_none
from tests.support.order_chaos import BESIDE, FAULTS, REFUSING, SEED, OrderChaos, order_chaos

STEPS = "clock steps"
#: instances whose stops, targets or exits were on their way at a kill, or were refused since our clock was wrong
_DELAYED = """
SELECT DISTINCT o.symbol, o.instance FROM order_events e JOIN orders o USING (client_order_id)
 WHERE o.role IN ('sl', 'tp', 'exit')
   AND (e.event = 'Replayed' AND e.to_state = 'UNKNOWN' OR e.event = 'Refused' AND e.payload->>'code' = '-1021')
"""


@asynccontextmanager
async def killed(bus: Bus, redis_url: str, folder: Path, **options: Any) -> AsyncIterator[OrderChaos]:
    """A run of kills at an exchange that refuses nothing; nothing is wrong at its end."""
    async with order_chaos(bus, redis_url, folder / "exchange", SEED, **options) as chaos:
        await chaos.run(lives_min=8, faults=[fault for fault in FAULTS if fault not in REFUSING])
        assert_none(await chaos.findings())
        assert chaos.points > chaos.kills / 2
        yield chaos


@pytest.mark.timeout(240)
async def test_kills_without_refusals_send_no_page(bus: Bus, redis_url: str, tmp_path: Path) -> None:
    async with killed(bus, redis_url, tmp_path, beside=[name for name in BESIDE if name != STEPS]) as chaos:
        assert await chaos.pages() == []


@pytest.mark.timeout(240)
async def test_steps_of_the_clock_page_only_for_what_was_on_its_way(bus: Bus, redis_url: str, tmp_path: Path) -> None:
    """For a minute after a step no order counts as absent, so a stop that a kill met on its way is not sent again, and a
    person is told."""
    async with killed(bus, redis_url, tmp_path) as chaos:
        assert chaos.struck[STEPS] > 0
        delayed = {tuple(row) for row in await chaos.db.sql(_DELAYED)}
        pages = await chaos.db.sql(
            "SELECT event, payload->>'symbol' AS symbol, payload->>'instance' AS instance FROM alerts"
            " WHERE severity = 'page'"
        )
        print(f"{len(pages)} pages, {len(delayed)} delayed: {pages}")
        assert {row["event"] for row in pages} <= {"position.unprotected"}
        assert {(row["symbol"], row["instance"]) for row in pages} <= delayed
