"""A Shell in a process of its own, without a cluster: hosts one small child; its role is the argument.

Reads commands from stdin, one a line: `stop` asks for an orderly end, `beat` prints the beat as JSON, `block` blocks
the work loop for ever. Ends with exit code 0 when the Shell has ended in order.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from actors import tree
from actors.shell import Shell
from fks.model.errors import StaleEpochError
from fks.model.health import Check


class Steady:
    """A child that lives until it is stopped, and writes what happens to it to stdout."""

    def __init__(self, component: Any, args: tuple[str, ...]) -> None:
        self.is_ready = True
        self.found: list[Check] = []

    async def start(self) -> None:
        print("start", flush=True)

    async def run(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            print("run cancelled", flush=True)

    async def drain(self) -> None:
        print("drain", flush=True)

    async def stop(self) -> None:
        print("stop", flush=True)

    def detail(self) -> Mapping[str, object]:
        return {}

    def problems(self) -> Sequence[Check]:
        return self.found


class Raises(Steady):
    """A child whose work ends with an error that quotes a secret."""

    async def run(self) -> None:
        raise RuntimeError("the url was postgresql://fks:hunter2hunter2@127.0.0.1/fks")


class Superseded(Steady):
    async def run(self) -> None:
        raise StaleEpochError("a newer epoch owns it")


class Faults(Steady):
    async def run(self) -> None:
        ctypes.string_at(0)


class Blocks(Steady):
    async def run(self) -> None:
        await asyncio.sleep(0)
        print("blocked", flush=True)
        time.sleep(3600)  # noqa: ASYNC251  the loop that hangs


ROLES = {"steady": Steady, "raises": Raises, "superseded": Superseded, "faults": Faults, "blocks": Blocks}


async def main(role: str) -> None:
    tree.CLASSES.update(ROLES)
    shell = Shell(role, f"test:{role}", (), 7, False, 0.0, lambda role, component: {})
    loop = asyncio.get_running_loop()

    def listen() -> None:
        for line in sys.stdin:
            if line.strip() == "stop":
                asyncio.run_coroutine_threadsafe(shell.stop(), loop)
                return
            elif line.strip() == "beat":
                print(
                    orjson.dumps(asyncio.run_coroutine_threadsafe(shell.health(), loop).result()).decode(), flush=True
                )
        os._exit(9)  # our parent has ended

    threading.Thread(target=listen, daemon=True).start()
    print(await shell.join(), flush=True)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
