"""OTP's supervisor of permanent children by its manual, naive and in one thread: the reference of the machine.

Shares only terms with `fks.system.supervision`. Every restart is done to its end before the next event. The top is
no OTP supervisor: it stands for the starter of the tree, restarts a branch alone, and leaves it down past its
intensity.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Thing:
    """A worker (no children) or a supervisor, and its life."""

    id: str
    intensity: int = 0
    period: float = 0.0
    children: list[Thing] = field(default_factory=list)
    is_alive: bool = False
    restarts: list[float] = field(default_factory=list)

    @property
    def is_supervisor(self) -> bool:
        return bool(self.children)


class Failed(Exception):
    """A start in the middle of a restart that did not succeed."""

    def __init__(self, thing: Thing) -> None:
        self.thing = thing


class Otp:
    """A tree under way. `log` has every ("start" | "fail" | "stop", worker) in order."""

    def __init__(self, top: Thing) -> None:
        self.top = top
        self.now = 0.0
        self.log: list[tuple[str, str]] = []
        self.branches: dict[str, list[float]] = {}  # the top's windows, one for each branch
        self.fails: dict[str, int] = {}  # the next starts of a worker, within a running supervisor, that fail
        self.parents = {child.id: parent for parent in everything(top) for child in parent.children}
        self.things = {thing.id: thing for thing in everything(top)}
        for child in top.children:
            self.start(child)

    def start(self, thing: Thing, *, may_fail: bool = False) -> None:
        if thing.is_supervisor:
            thing.restarts = []
            for child in thing.children:
                self.start(child)
        elif may_fail and self.fails.get(thing.id, 0) > 0:
            self.fails[thing.id] -= 1
            self.log.append(("fail", thing.id))
            raise Failed(thing)
        else:
            self.log.append(("start", thing.id))
        thing.is_alive = True

    def terminate(self, thing: Thing) -> None:
        if thing.is_alive and not thing.is_supervisor:
            self.log.append(("stop", thing.id))
        for child in reversed(thing.children):
            self.terminate(child)
        thing.is_alive = False

    def die(self, id: str) -> None:
        """A worker exits by itself."""
        thing = self.things[id]
        thing.is_alive = False
        self.restart(self.parents[id], thing)

    def restart(self, parent: Thing, thing: Thing) -> None:
        if not self.add_restart(parent, thing):
            if parent is not self.top:
                self.terminate(parent)
                self.restart(self.parents[parent.id], parent)
            return
        try:
            self.start(thing, may_fail=True)
        except Failed as failed:
            self.restart(parent, failed.thing)

    def add_restart(self, parent: Thing, thing: Thing) -> bool:
        """Return whether one more is allowed."""
        window = self.branches.setdefault(thing.id, []) if parent is self.top else parent.restarts
        window.append(self.now)
        window[:] = [t for t in window if self.now - t <= parent.period]
        return len(window) <= parent.intensity

    def running(self) -> set[str]:
        return {thing.id for thing in everything(self.top) if thing.is_alive and not thing.is_supervisor}


def everything(top: Thing) -> list[Thing]:
    return [top] + [found for child in top.children for found in everything(child)]
