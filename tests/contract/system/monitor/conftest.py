"""The monitor's fixtures."""

from tests.support.api_fixtures import seeded  # noqa: F401
