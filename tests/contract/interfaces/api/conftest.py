"""The gateway's fixtures."""

from tests.support.api_fixtures import fks, gateway, seeded  # noqa: F401
