"""Log lines of the other machines of a cluster, read by a helper process that joins Ray."""

from __future__ import annotations

import contextlib
import queue
import subprocess
import threading
from typing import TYPE_CHECKING

from fks.monitor.logs import Line

if TYPE_CHECKING:
    from fks.config.paths import Paths

FIRST_S = 20.0  # in which the helper joins the cluster and reads the newest lines


class OtherNodes:
    """Lines of `names` from all other machines. `first` once, then `drain`; `close` ends the helper.

    Without a cluster, or while Ray is away, there are none: the lines of this machine go on.
    """

    def __init__(self, paths: Paths, names: tuple[str, ...], *, lines: int, is_following: bool) -> None:
        self._lines: queue.SimpleQueue[Line | None] = queue.SimpleQueue()
        self._process: subprocess.Popen[bytes] | None = None
        if names and is_cluster(paths):
            self._process = _helper(paths, [*(("--follow",) if is_following else ()), f"--lines={lines}", *names])
            threading.Thread(target=self._read, args=(self._process,), daemon=True).start()

    @property
    def is_open(self) -> bool:
        """Return whether there are other machines to read from."""
        return self._process is not None

    def first(self) -> list[Line]:
        """Return the newest lines of each machine. Waits FIRST_S at most."""
        found: list[Line] = []
        with contextlib.suppress(queue.Empty):
            while self._process is not None and (line := self._lines.get(timeout=FIRST_S)) is not None:
                found.append(line)
        return found

    def drain(self) -> list[Line]:
        """Return the lines that have come since."""
        found: list[Line] = []
        with contextlib.suppress(queue.Empty):
            while True:
                if (line := self._lines.get_nowait()) is not None:
                    found.append(line)
        return found

    def close(self) -> None:
        """End the helper."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for text in process.stdout:
            self._lines.put(line_of(text))
        self._lines.put(None)


def line_of(text: bytes) -> Line | None:
    """Return a line that the helper printed, its component with the name of its machine; None for the mark after the
    newest lines, and for text that is no line."""
    import orjson

    try:
        found = orjson.loads(text)
        node = found.pop("node")
        line = Line(**found)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return None
    return Line(line.time, f"{line.component}@{node}", line.level, line.event, line.fields, line.raw, line.pid)


def is_cluster(paths: Paths) -> bool:
    """Return whether this machine is one of a cluster: Ray has another address than loopback's first then."""
    from fks.config.endpoints import load_node
    from fks.model.errors import FksError

    try:
        return load_node(paths).ray_address.rpartition(":")[0] not in ("127.0.0.1", "")
    except FksError:
        return False


def _helper(paths: Paths, arguments: list[str]) -> subprocess.Popen[bytes]:
    from fks.config.load import load_settings
    from fks.config.python import module
    from fks.node.ray_node import ray_env

    env = ray_env(paths, load_settings(paths.home))
    env["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "1"  # the role of this machine is known to its keeper alone
    command = module("actors.commands", "logs", *arguments)
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
