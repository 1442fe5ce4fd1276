"""One running system for the whole acceptance suite; a test that breaks it leaves it healthy again."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.system import System
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
# a suite in the background of a shell has SIGINT ignored, and hands that on: the commands under test must hear Ctrl-C
signal.signal(signal.SIGINT, signal.default_int_handler)


def copy_sources(place: Path) -> Path:
    """Return `place`, with everything there that a running system is made of."""
    for name in ("fks", "actors"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "serve_app.py", place)
    return place


@pytest.fixture(scope="session")
def running() -> Iterator[System]:
    """Start a system in a directory of its own and stop it at the end."""
    with tempfile.TemporaryDirectory(prefix="fks-acc-") as place:
        Path(place).chmod(0o755)
        # from sources of its own, so that a test may change what is installed under it
        system = System.at(Path(place) / "home", PYTHONPATH=str(copy_sources(Path(place) / "installed")))
        try:
            system.up()
            yield system
        finally:
            system.down()


@pytest.fixture
def system(running: System) -> System:
    """Return the running system, healthy: every component up, feeds fresh, the kill switch released."""
    wait_until(lambda: running.status()["state"] == "healthy", deadline_s=60.0, every_s=0.5)
    return running
