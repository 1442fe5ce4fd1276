"""One running system for the whole acceptance suite; a test that breaks it leaves it healthy again."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.system import System
from tests.support.waiting import wait_until

# a suite in the background of a shell has SIGINT ignored, and hands that on: the commands under test must hear Ctrl-C
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def running() -> Iterator[System]:
    """Start a system in a directory of its own and stop it at the end."""
    with tempfile.TemporaryDirectory(prefix="fks-acc-") as place:
        Path(place).chmod(0o755)
        system = System.at(Path(place) / "home")
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
