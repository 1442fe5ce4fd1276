"""Ports for servers that a test starts later, or starts again at the same place."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket

#: Below the ports that the kernel gives to connections and to servers without a number (32768 and more), and above
#: those of a system's own blocks. Each worker of pytest-xdist has a share of its own: one that is free now is not taken
#: by another worker before it is bound.
SHARES, COUNT = 8, 96
FIRST = 32000 + COUNT * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % SHARES)
_numbers = itertools.count(random.Random().randrange(COUNT))


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port without a listener; each call returns another one."""
    for number in itertools.islice(_numbers, COUNT):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((host, FIRST + number % COUNT))
            return FIRST + number % COUNT
    raise AssertionError(f"no port from {FIRST} to {FIRST + COUNT - 1} is free")
