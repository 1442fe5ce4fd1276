"""What supervision needs of the world it supervises; `actors.system` provides it on Ray, tests on asyncio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from fks.supervision.exits import Exit, How
from fks.supervision.spec import ChildSpec


class Child(Protocol):
    """A handle to one process of a child. Every way to its end tells the same facts: an `Exit`."""

    async def join(self) -> Exit:
        """Wait until its process ends; NORMAL when it was asked to, CRASH or NODE_LOST when it was not."""
        ...

    def felt(self) -> Mapping[str, object] | None:
        """Return its beat as far as it can be had without asking, or None: then `health` tells. Never waits."""
        ...

    async def health(self, *, timeout_s: float) -> Mapping[str, object]:
        """Return its beat. Errors: TimeoutError, or OutageError when it cannot be reached."""
        ...

    async def begin(self) -> None:
        """Tell one that was spawned with a wait that the wait is over. Never raises; the word may be lost."""
        ...

    async def stop(self, deadline_s: float) -> Exit:
        """Ask it to drain and end in order; kill it when the deadline passes (KILLED). Never raises for a dead one."""
        ...

    async def kill(self, how: How, reason: str) -> Exit:
        """Kill its process and return what is known of its end, as `how` for `reason`.

        A hung one on this host is asked for its traceback first, for 0.2 s at most. `is_gone` is true only when the
        process is proven to be no more.
        """
        ...


class World(Protocol):
    """What the supervisor needs of the cluster."""

    was_reconstructed: bool

    def node_id(self) -> str:
        """Return the id of the node this process runs on, as the beats of children name theirs."""
        ...

    async def find(self, spec: ChildSpec) -> Child | None:
        """Return the child of that name, if there is one; it may be dead already."""
        ...

    async def spawn(self, spec: ChildSpec, epoch: int, wait_s: float) -> Child:
        """Return a new child that begins after `wait_s`, or when it is told to. Kills nobody.

        Errors: OutageError when its name stays taken: then `find` tells by whom.
        """
        ...
