"""The start command of `ray up` with another build: the link, the keeper and what it takes over. On a database machine,
whose keeper runs no Ray."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psutil
import pytest

from fks.config import builds
from fks.config.paths import Paths
from fks.system.node.control_socket import ask
from fks.system.node.lock import keeper_lock
from tests.support.builds import make_build, version_of
from tests.support.free_port import free_port
from tests.support.system import System

ADDRESS = "127.0.0.5"
DIES = """

def _dies(*args: object, **options: object) -> None:
    import os
    import signal

    os.kill(os.getppid(), signal.SIGKILL)
    os._exit(1)


Keeper.__init__ = _dies
"""


@pytest.mark.timeout(500)
def test_start_command_of_another_build_takes_over_what_runs(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    system, root = System.at(tmp_path / "home", HOME=str(tmp_path)), tmp_path / "fks"
    ports = ["--postgres-port", str(free_port(ADDRESS)), "--redis-port", str(free_port(ADDRESS))]
    for name, text in (("a", "a"), ("b", "b"), ("packages", "b")):  # "packages": the same FKS as b
        make_build(root, name, change=("fks/__init__.py", f"#: {text}\n"))
    make_build(root, "broken", change=("fks/system/node/keeper.py", DIES))

    def start(build: str, *args: str, **settings: str) -> subprocess.CompletedProcess[str]:
        env = {name: value for name, value in (system.env | settings).items() if name != "PYTHONPATH"}
        program = root / "builds" / build / "bin" / "fks"
        subprocess.run([program, "node", "prepare"], env=env, check=True, capture_output=True)
        command = [program, "node", "database", "--address", ADDRESS, *ports, "--detach", *args]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)

    def state() -> tuple[str, str, dict[str, int]]:
        """Return the running keeper's build, where the link leads, and the servers' pids."""
        pids: dict[str, int] = system.node["pids"]
        version = str(ask(Paths.of(system.home).keeper_socket, "progress")["version"])
        return version, (root / "venv").resolve().name, {name: pids[name] for name in ("postgres", "redis", "tls")}

    try:
        done = start("a")
        assert done.returncode == 0, done.stdout + done.stderr
        version, link, servers = state()
        assert (version, link) == (version_of(root / "builds" / "a"), "a")

        refused = start("b", FKS_DATABASE_URL="postgresql://fks:x@192.0.2.1/fks?sslmode=verify-full&sslrootcert=system")
        assert refused.returncode == 2, refused.stdout + refused.stderr
        assert state() == (version, "a", servers), "settings with which it would not start: nothing has changed"

        done = start("b")
        assert done.returncode == 0, done.stdout + done.stderr
        assert state() == (version_of(root / "builds" / "b"), "b", servers)
        assert all(psutil.pid_exists(pid) for pid in servers.values())

        done = start("packages")
        assert done.returncode == 0, done.stdout + done.stderr
        assert state() == (version_of(root / "builds" / "b"), "packages", servers), "other packages are switched, too"

        started = state()
        for left in ("packages", "broken"):  # an upgrade, and one that was interrupted once it had switched the link
            builds.switch(root / "builds" / left)
            done = start("broken")
            assert done.returncode not in (0, 2), done.stdout + done.stderr
            assert "it runs again" in done.stderr, done.stderr
            version, link, pids = state()
            assert (version, pids) == (started[0], started[2])
            assert link in ("b", "packages")

        with keeper_lock(Paths.of(system.home).run / "upgrade.lock"):
            refused = start("broken")
        assert refused.returncode == 2, refused.stdout + refused.stderr
        assert "brings this machine to another build" in refused.stderr
        assert state()[0] == started[0]
    finally:
        system.down()
