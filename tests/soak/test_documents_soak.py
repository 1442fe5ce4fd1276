"""The long cells of the notebooks, and each command of the tutorial and of the example pages on a real system."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tests.support.notebooks import NOTEBOOKS, executed, outputs

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.soak
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_long_cells_print_what_is_stored_in_them(path: Path) -> None:
    assert outputs(executed(path, with_long=True)) == outputs(nbformat.read(path, as_version=4))


@pytest.mark.soak
def test_every_command_of_the_tutorial_does_what_its_page_shows() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/examples.py", "--check"], cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
