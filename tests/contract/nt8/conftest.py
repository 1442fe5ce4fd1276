"""The C# side compiled once for all tests of this folder."""

from __future__ import annotations

import pytest

from tests.support import mono
from tests.support.programs import require


@pytest.fixture(scope="session")
def nt8_build(tmp_path_factory: pytest.TempPathFactory) -> mono.Build:
    """The compiled programs."""
    require("mcs", "mono")
    return mono.compile_all(tmp_path_factory.mktemp("nt8"))
