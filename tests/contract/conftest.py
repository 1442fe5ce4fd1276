"""Fixtures of all contract tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fks.entry import logins


@pytest.fixture(scope="session", autouse=True)
def _cheap_passwords() -> Iterator[None]:
    """Hash passwords at the least cost in this process: hundreds of logins, each a fifth of a second of CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logins, "HASH_COST", {"time_cost": 1, "memory_cost": 32, "parallelism": 1})
        yield
