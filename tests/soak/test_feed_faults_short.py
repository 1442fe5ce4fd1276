"""Against an exchange that stalls, cuts, repeats, reorders and refuses, with collector and PostgreSQL killed: the rows
stored afterwards equal the exchange's data, bit for bit. `make soak` runs the same for an hour
(tests/soak/test_feed_soak.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.feed_faults import WIRES, FaultRun, Wire
from tests.support.local_exchange import LocalExchange


@pytest.mark.soak
@pytest.mark.timeout(180)
@pytest.mark.parametrize("wire", WIRES.values(), ids=list(WIRES))
async def test_whatever_happens_to_a_feed_the_store_equals_the_exchange(
    wire: Wire, redis_url: str, tmp_path: Path
) -> None:
    exchange = LocalExchange(tmp_path, ["--seed", "31", "--rate-limits", "off", *wire.flags]).start()
    try:
        async with FaultRun(exchange, redis_url, 13, wire).opened() as run:
            await run.torment(wire.short_s)
            await run.settled()
            counts = await run.check()
            print(counts)
            assert counts.lacking(wire.least, wire.short_s) == []
    finally:
        exchange.stop()
