"""Ports of supervision: a child process and the cluster. `actors.system` implements them on Ray,
`fks.system.node.service` for the services of a machine, tests on asyncio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from fks.system.supervision.exits import How, ProcessExit
from fks.system.supervision.spec import ChildSpec


class Child(Protocol):
    """A handle to one process of a child. Each of its ends is described by an `ProcessExit`."""

    async def join(self) -> ProcessExit:
        """Wait until its process ends; NORMAL when it was asked to, CRASH or NODE_LOST when it was not."""
        ...

    def read_heartbeat(self) -> Mapping[str, object] | None:
        """Return its beat from shared memory; None when it has to be called (`health`). Never waits."""
        ...

    async def health(self, *, timeout_s: float) -> Mapping[str, object]:
        """Return its beat. Errors: TimeoutError, or OutageError when it cannot be reached."""
        ...

    async def begin(self) -> None:
        """End the wait of a child that was spawned with one. Never raises; the message may be lost."""
        ...

    async def stop(self, deadline_s: float) -> ProcessExit:
        """Have it drain and end in order; kill it when the deadline passes (KILLED). Never raises for a dead one."""
        ...

    async def kill(self, how: How, reason: str) -> ProcessExit:
        """Kill its process and return what is known of its end, as `how` for `reason`.

        A hung one on this host first writes its stacks, for 0.2 s at most. `is_gone` is true only when the process is
        proven to have ended.
        """
        ...


class ChildSource(Protocol):
    """Finds and starts children."""

    async def find(self, spec: ChildSpec) -> Child | None:
        """Return the child of that name, if there is one; it may be dead already."""
        ...

    async def spawn(self, spec: ChildSpec, epoch: int, wait_s: float) -> Child:
        """Return a new child that begins after `wait_s`, or when `begin` is called. Kills no process.

        Errors: OutageError when its name stays taken: then `find` returns the holder.
        """
        ...


class World(ChildSource, Protocol):
    """The cluster, as the supervisor uses it."""

    was_reconstructed: bool

    def node_id(self) -> str:
        """Return the id of the node this process runs on, as in the beats of children."""
        ...

    async def misplaced(self, specs: Sequence[ChildSpec]) -> str | None:
        """Return a child that should be started again on another node; None when all are where they belong, or that
        is unknown."""
        ...
