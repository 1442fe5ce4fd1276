"""Every dear number in every place of the gateway that takes one; `make test` has a sample of them."""

from __future__ import annotations

import pytest

from fks.store.db import Database
from tests.support.api_fixtures import gateway, seeded  # noqa: F401
from tests.support.gateway import Running
from tests.support.number_fuzz import assert_no_number_hurts


@pytest.mark.soak
async def test_no_number_blocks_the_gateway_or_makes_it_fail(
    gateway: Running,  # noqa: F811 - the fixture of that name
    seeded: Database,  # noqa: F811
) -> None:
    await assert_no_number_hurts(gateway, seeded, each=None, least=4000)
