"""The conversation files run against the C# AddOn under mono with the simulated platform."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import mono, nt8_host, nt8_script

PATHS = sorted(nt8_script.FOLDER.glob("*.txt"))
AGAINST_BRIDGE = [path for path in PATHS if "bridge" in nt8_script.load(path).against]


@pytest.mark.parametrize("path", AGAINST_BRIDGE, ids=lambda path: path.stem)
def test_addon_keeps_the_conversation(nt8_build: mono.Build, path: Path, tmp_path: Path) -> None:
    nt8_host.run(nt8_build, nt8_script.load(path), tmp_path / "NinjaTrader 8")
