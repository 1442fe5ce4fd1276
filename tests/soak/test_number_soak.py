"""Every dear number in every place of the gateway that takes one; `make test-all` has a sample of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from fks.store.db import Database
from tests.support.api_fixtures import seeded  # noqa: F401
from tests.support.gateway import running
from tests.support.number_fuzz import assert_no_number_hurts


@pytest.mark.soak
async def test_no_number_blocks_the_gateway_or_makes_it_fail(
    seeded: Database,  # noqa: F811 - the fixture of that name
    database_url: str,
    redis_url: str,
    tmp_path: Path,
) -> None:
    """No order manager runs, so the gateway does not wait for orders."""
    async with running(seeded, database_url, redis_url, tmp_path, http={"order_wait_s": 0.001}) as gateway:
        await assert_no_number_hurts(gateway, seeded, each=None, least=4000)
