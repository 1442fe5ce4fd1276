"""The identity of this machine: an id file made once per FKS_HOME, bound to the boot of the kernel.

A host name is no identity: containers share one, and people change it. Two processes are on the same machine only if id
and boot agree. A copy of FKS_HOME is another machine: elsewhere the boot differs, on the same kernel the file's place
does.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from fks.config.paths import Paths

if TYPE_CHECKING:
    from fks.config.settings import Settings


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine: `id` lasts as long as its file, `boot` until the kernel starts again."""

    id: str
    boot: str


def machine_of(paths: Paths) -> Machine:
    """Return the machine that this FKS_HOME is on; its file is made at the first call.

    Errors: OSError when it cannot be written.
    """
    return Machine(_id_in(paths.machine_file) or _make(paths.machine_file), boot_id())


def process_space() -> str:
    """Return a text that two processes share if and only if one can reach the other by its pid: boot and pid
    namespace."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{boot_id()}:{namespace}"


def can_reach(space: object) -> bool:
    """Return whether a process that reported `space` (`process_space`) can be reached by its pid from here.

    Every signal to a pid of a row or a beat, and every proof that such a process has ended, asks this first. A process
    that reported no space cannot be reached.
    """
    return bool(space) and space == process_space()


def is_in_this_space(pid: int) -> bool:
    """Return whether a process that /proc shows belongs to this pid namespace: the processes of a container below are
    shown as well, and may have this FKS_HOME's path in theirs."""
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/pid") == os.readlink("/proc/self/ns/pid")
    return not os.path.exists("/proc/self/ns/pid")  # without namespaces all processes share one


def host_name() -> str:
    """Return the name of this machine, for people: several machines may have one name, so nothing is decided by it."""
    return os.uname().nodename


def node_name(settings: Settings) -> str:
    """Return the name of this machine in the cluster: its own, else the host name."""
    return settings.node.name or host_name()


def boot_id() -> str:
    """Return the id of this boot of the kernel."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    import psutil

    return f"{psutil.boot_time():.0f}"


def _id_in(file: Path) -> str:
    """Return the id that the file holds, "" when there is none or the file is a copy of another one."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        document = orjson.loads(file.read_bytes())
        if (document["inode"], document["file"]) == (file.stat().st_ino, str(file.resolve())):
            return str(document["id"])
    return ""


def _make(file: Path) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    made = file.with_name(f".{file.name}.{os.getpid()}")
    made.unlink(missing_ok=True)
    id = uuid.uuid4().hex
    with open(made, "wb", opener=lambda path, flags: os.open(path, flags | os.O_EXCL, 0o600)) as stream:
        facts = {"id": id, "inode": os.fstat(stream.fileno()).st_ino, "file": str(file.resolve())}
        stream.write(orjson.dumps(facts))
        stream.flush()
        os.fsync(stream.fileno())
    made.replace(file)
    return id
