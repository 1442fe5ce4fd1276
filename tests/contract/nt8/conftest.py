"""The C# side compiled once for all tests of this folder."""

from __future__ import annotations

import pytest

from tests.support import mono


@pytest.fixture(scope="session")
def nt8_build(tmp_path_factory: pytest.TempPathFactory) -> mono.Build:
    """The compiled programs; without mono the test is skipped, or fails where FKS_REQUIRE_ALL is set."""
    mono.require()
    return mono.compile_all(tmp_path_factory.mktemp("nt8"))
