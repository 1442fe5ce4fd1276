"""The gateway's own fixtures, for commands that ask the running system for something."""

import pytest

from fks.system.supervisor import operations
from tests.support.api_fixtures import fks, gateway, seeded  # noqa: F401


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that is well counts as settled at once, but in the test of settling."""
    monkeypatch.setattr(operations, "STEADY_S", 0.0)
