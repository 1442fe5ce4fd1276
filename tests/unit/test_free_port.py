"""Ports of a test process are its own, with and without pytest-xdist."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

#: Takes ports where no other process that runs tests does: all shares may have their owner.
CODE = """
from tests.support import free_port as module
module.FIRST = 20000
print(*(module.free_port() for _ in range(96)), flush=True)
input()
"""


def test_processes_side_by_side_have_no_port_in_common() -> None:
    command, root = [sys.executable, "-c", CODE], Path(__file__).parents[2]
    pipe = subprocess.PIPE
    found = []
    children = [subprocess.Popen(command, cwd=root, stdin=pipe, stdout=pipe, text=True) for _ in range(3)]
    for child in children:
        assert child.stdout is not None
        found.append({int(port) for port in child.stdout.readline().split()})
    for child in children:
        child.communicate("\n", timeout=10.0)
    assert min(map(len, found)) >= 20
    assert len(set().union(*found)) == sum(map(len, found))
