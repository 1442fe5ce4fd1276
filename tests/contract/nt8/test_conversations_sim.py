"""The conversation files run against the C# AddOn under mono with the simulated platform."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import mono, nt8_host
from tests.support.conversations import conversations, parse


@pytest.mark.parametrize("path", conversations("bridge"), ids=lambda path: path.stem)
def test_addon_keeps_the_conversation(nt8_build: mono.Build, path: Path, tmp_path: Path) -> None:
    nt8_host.run(nt8_build, parse(path), tmp_path / "NinjaTrader 8")
