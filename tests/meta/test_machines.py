"""Rules for host names and pids: nothing is decided by a name, and pids of others are reached in a few places only."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMES = {"socket.gethostname", "platform.node", "os.uname", "socket.getfqdn"}
PIDS = {"os.kill", "os.killpg", "os.pidfd_open", "psutil.pid_exists", "signal.pidfd_send_signal"}
#: modules that ask for the host's name: one, for people
NAMING = {"fks/config/machine.py"}
#: modules that signal a pid, or look whether there is one, and why it is theirs
REACHING = {
    "fks/system/process/handle.py",  # behind `can_reach`
    "fks/system/process/procfs.py",
    "fks/system/process/isolated.py",  # a child that it started
    "fks/lab/chaos/outside.py",  # sends faults, after it has refused every row that cannot be reached
    "fks/system/node/ray_host.py",  # its own child
    "fks/interfaces/cli/cluster_machines.py",  # an ssh that it started, with what that started
    "fks/system/supervisor/operations.py",  # itself and a child that it started
}


def users(names: set[str]) -> set[str]:
    """Return the modules of the product that use one of these dotted names."""
    found = set()
    for path in [*ROOT.glob("fks/**/*.py"), *ROOT.glob("actors/**/*.py"), ROOT / "serve_app.py"]:
        text = path.read_text()
        if not any(name in text for name in names):
            continue  # parsing takes longer than anything else here
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in names:
                found.add(str(path.relative_to(ROOT)))
    return found


def test_host_name_is_asked_for_in_one_place() -> None:
    assert users(NAMES) == NAMING


def test_pids_are_signalled_in_few_places() -> None:
    assert users(PIDS) == REACHING
