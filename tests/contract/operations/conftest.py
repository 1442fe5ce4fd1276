"""The gateway's own fixtures, for commands that ask the running system for something."""

from tests.contract.api.conftest import gateway, seeded  # noqa: F401
