"""Ports for servers that a test starts later, or starts again at the same place."""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import socket
from collections.abc import Iterator

#: Below the ports that the kernel gives to connections and to servers without a number (32768 and more), and above
#: those of a system's own blocks. Each process that runs tests has a share of its own: a port that is free now is not
#: taken by another one before it is bound.
FIRST, SHARES, COUNT = 32000, 8, 96


@functools.cache
def _share() -> tuple[range, Iterator[int], socket.socket]:
    """Return the ports of this process, a counter of calls, and a socket at the port before them, which keeps other
    processes from the share as long as this one lives. More processes than shares have one together."""
    lock = socket.socket()
    chance = random.Random()  # a test may have seeded the module's own
    for first in chance.sample(range(FIRST, FIRST + SHARES * COUNT, COUNT), SHARES):
        with contextlib.suppress(OSError):
            lock.bind(("127.0.0.1", first))
            break
    return range(first + 1, first + COUNT), itertools.count(chance.randrange(COUNT)), lock


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port without a listener; each call returns another one."""
    ports, numbers, _ = _share()
    for number in itertools.islice(numbers, len(ports)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((host, port := ports[number % len(ports)]))
            return port
    raise AssertionError(f"no port from {ports[0]} to {ports[-1]} is free")
