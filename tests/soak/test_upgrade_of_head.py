"""The start command of `ray up` with another build, on a real head: every part is brought back."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fks.config.paths import Paths
from fks.system.node.control_socket import ask
from tests.support.builds import make_build, version_of
from tests.support.free_port import free_port
from tests.support.system import System
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]
ADDRESS = "127.0.0.7"
DIES = "\nraise RuntimeError('this build has a part that does not start')\n"
BUILDS = {
    "a": ("fks/__init__.py", "#: a\n"),
    "broken": ("actors/monitor.py", DIES),
}


class Head:
    """A head on this machine, with builds beside each other."""

    def __init__(self, place: Path) -> None:
        self.root = place / "fks"
        self.system = System.at(place / "home", HOME=str(place), FKS_SIM_ENABLED="true")
        self._port = str(free_port(ADDRESS))
        for name, change in BUILDS.items():
            make_build(self.root, name, change=change)

    def start(self, build: str, timeout_s: float = 540.0) -> subprocess.CompletedProcess[str]:
        """Run the start command of a build, as `ray up` does."""
        env = {name: value for name, value in self.system.env.items() if name != "PYTHONPATH"}
        program = self.root / "builds" / build / "bin" / "fks"
        subprocess.run([program, "node", "prepare"], env=env, check=True, capture_output=True)
        command = [program, "node", "head", "--address", ADDRESS, "--port", self._port, "--detach"]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout_s)

    def versions(self) -> set[str]:
        """Return the builds that the keeper and the children run."""
        parts = [row for row in self.system.components().values() if row["kind"] == "actor"]
        keeper: dict[str, Any] = ask(Paths.of(self.system.home).keeper_socket, "progress")
        return {str(keeper["version"]), *(str(row["version"]) for row in parts)}

    def version(self, build: str) -> str:
        return version_of(self.root / "builds" / build)

    @property
    def link(self) -> str:
        return (self.root / "venv").resolve().name


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    place = tmp_path_factory.mktemp("head")
    place.chmod(0o755)
    found = Head(place)
    try:
        done = found.start("a")
        assert done.returncode == 0, done.stdout + done.stderr
        yield found
    finally:
        found.system.down()


def test_build_of_before_is_brought_back_where_a_part_does_not_start(head: Head) -> None:
    before = {head.version("a")}
    wait_until(lambda: head.versions() == before, deadline_s=120.0, every_s=1.0)
    done = head.start("broken")
    print(done.stdout + done.stderr)
    assert done.returncode not in (0, 2), done.stdout + done.stderr
    assert f"the build of before, {head.root}/builds/a: it runs again" in done.stderr
    assert (head.versions(), head.link) == (before, "a")
