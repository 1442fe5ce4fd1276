"""What supervision needs of the world it supervises; `actors.system` provides it on Ray, tests on asyncio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from fks.supervision.spec import ChildSpec


class Child(Protocol):
    """A handle to a running child."""

    async def join(self) -> str:
        """Wait until its process ends. Return "normal", or what killed it (starting with "died")."""
        ...

    async def health(self, *, with_metrics: bool, timeout_s: float) -> Mapping[str, object]:
        """Return its beat. Errors: TimeoutError, or OutageError when it cannot be reached."""
        ...

    async def stop(self, deadline_s: float) -> None:
        """Ask it to end in order; kill it when the deadline passes."""
        ...

    async def kill(self) -> bool:
        """Kill its process. Return whether it is proven gone (same node, pid vanished)."""
        ...


class World(Protocol):
    """What the supervisor needs of the cluster."""

    was_reconstructed: bool

    async def find(self, spec: ChildSpec) -> Child | None:
        """Return the child of that name, if there is one; it may be dead already."""
        ...

    async def spawn(self, spec: ChildSpec, epoch: int, wait_s: float) -> Child:
        """Return a new child that begins after `wait_s`. Errors: OutageError when its name stays taken."""
        ...
