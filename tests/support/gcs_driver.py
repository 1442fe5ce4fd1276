"""A driver on a running Ray: calls held handles without a pause while its GCS is killed, then says what it saw.

`python -m tests.support.gcs_driver ADDRESS HOST_PID KILLS`, with the environment of the node, prints one JSON line.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

import psutil
import ray


class Counter:
    """An actor that counts."""

    def __init__(self) -> None:
        self._count = 0

    async def count(self) -> tuple[int, int]:
        self._count += 1
        return os.getpid(), self._count


def main(address: str, host: int, kills: int) -> None:
    ray.init(address=address, namespace="test", log_to_driver=False, logging_level="ERROR")
    kind: Any = ray.remote(num_cpus=0)(Counter)
    held = kind.options(name="held", lifetime="detached").remote()
    pid, _ = ray.get(held.count.remote())
    seen: dict[str, Any] = {"calls": 0, "slowest_call_s": 0.0, "get_actor_s": [], "create_s": []}
    is_over = threading.Event()

    def call() -> None:
        while not is_over.is_set():
            start = time.monotonic()
            ray.get(held.count.remote(), timeout=10.0)
            seen["slowest_call_s"] = max(seen["slowest_call_s"], time.monotonic() - start)
            seen["calls"] += 1

    caller = threading.Thread(target=call)
    caller.start()
    for number in range(kills):
        gcs = next(child for child in psutil.Process(host).children() if child.name() == "gcs_server")
        start = time.monotonic()
        gcs.kill()
        found = ray.get_actor("held")
        seen["get_actor_s"].append(time.monotonic() - start)
        fresh = kind.options(name=f"fresh{number}", lifetime="detached").remote()
        ray.get(fresh.count.remote(), timeout=30.0)
        seen["create_s"].append(time.monotonic() - start)
        seen["is_same_process"] = ray.get(found.count.remote())[0] == pid
    is_over.set()
    caller.join()
    sys.stdout.write(json.dumps(seen) + "\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
