"""The gateway's fixtures, and the pages beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.api_fixtures import gateway, seeded  # noqa: F401
from tests.support.gateway import Running
from tests.support.web import Web, pages_beside


@pytest.fixture
async def web(gateway: Running) -> AsyncIterator[Web]:  # noqa: F811 - the fixture of that name
    """The pages beside a gateway with two instruments and two accounts."""
    async with pages_beside(gateway) as web:
        yield web
