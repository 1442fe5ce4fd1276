"""Values of the machine: the state of each node of the tree, events, commands. All frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from fks.system.supervision.exits import ProcessExit
from fks.system.supervision.spec import SupervisorSpec


class Phase(StrEnum):
    """A node's phase. A supervisor runs as soon as its first child may start; it is up when all of them once were."""

    IDLE = "idle"  # not wanted: before the beginning, after the end, or its supervisor does not run
    FINDING = "finding"  # looked for: an earlier supervisor may have left it running
    WAITING = "waiting"  # wanted; its turn, or its time, has not come
    STARTING = "starting"
    UP = "up"
    STOPPING = "stopping"
    CONTAINED = "contained"  # escalated: down until a timer starts it again


@dataclass(frozen=True, slots=True)
class Node:
    """The known state of one worker or supervisor.

    `run` counts its starts: events of an older one are ignored. `was_up`: it came up since its supervisor began,
    so those that wait for it may start. `is_marked`: it is to end as soon as those that started after it have; `then`
    is its next phase. `timer`: the token it waits for, 0 without one. `tries`: starts in a row that did not last.
    `window`: of a supervisor, its children's restarts as (monotonic s, child), newest first. `has_failed`: of a
    supervisor, that it ends because its window was exceeded. Of a child that may be contained: `row_s`, the first of
    the deaths that `tries` counts; `deaths`, all within the last hour, newest first; `unstable_s`, the last page for
    them; `escalation`, why it escalated, "" when it did not or a person has ended it.
    """

    phase: Phase = Phase.IDLE
    run: int = 0
    was_up: bool = False
    is_marked: bool = False
    then: Phase = Phase.IDLE
    why: str = ""
    timer: int = 0
    tries: int = 0
    up_s: float = 0.0
    window: tuple[tuple[float, str], ...] = ()
    has_failed: bool = False
    row_s: float = 0.0
    deaths: tuple[float, ...] = ()
    unstable_s: float = float("-inf")
    escalation: str = ""


@dataclass(frozen=True, slots=True)
class TreeState:
    """The whole tree as it is. `wanted`: the tree to change to as soon as all of `leaving` have ended."""

    tree: SupervisorSpec
    nodes: Mapping[str, Node]
    timers: int = 0
    wanted: SupervisorSpec | None = None
    leaving: frozenset[str] = frozenset()

    @staticmethod
    def of(tree: SupervisorSpec) -> TreeState:
        """Return the state of a tree (checked by `check_tree`) before its beginning."""
        return TreeState(tree, {id: Node() for id in _ids(tree)})

    @property
    def is_stopped(self) -> bool:
        """Return whether nothing runs and nothing is to start."""
        return self.nodes[self.tree.id].phase is Phase.IDLE


def _ids(tree: SupervisorSpec) -> list[str]:
    found = [tree.id]
    for child in tree.children:
        found += _ids(child) if isinstance(child, SupervisorSpec) else [child.id]
    return found


# ── what happens ─────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class Begin:
    """Run the tree: look for every worker, take over the living, start the rest."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """The restarts of each child before this supervisor's life, as ages in seconds: the windows go on where they were.

    `rows`: those of a child's row of deaths; one that is missing has none. `escalations`: child → why, of those that no
    person has ended.
    """

    ages: Mapping[str, tuple[float, ...]]
    rows: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    escalations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Adopted:
    """The answer to `Find`: it lives; `is_up` is false while it still starts."""

    id: str
    is_up: bool = True


@dataclass(frozen=True, slots=True)
class NotFound:
    """The answer to `Find`: there is none, or none that could be taken over."""

    id: str


@dataclass(frozen=True, slots=True)
class Started:
    """The answer to `Start`, or a child adopted while it started: it is up."""

    id: str
    run: int


@dataclass(frozen=True, slots=True)
class Exited:
    """A worker ended: by itself, killed, as it was asked, or it never came up. The answer to `Stop`, too."""

    id: str
    run: int
    exit: ProcessExit


@dataclass(frozen=True, slots=True)
class TimerFired:
    token: int


@dataclass(frozen=True, slots=True)
class RestartWanted:
    """A person wants this worker or supervisor restarted, drained: not counted, whatever state it is in."""

    id: str
    why: str


@dataclass(frozen=True, slots=True)
class TreeWanted:
    """From now on the tree is this one: added children start, missing ones end, changed ones restart. Checked
    before."""

    tree: SupervisorSpec


@dataclass(frozen=True, slots=True)
class StopWanted:
    """End everything in reverse order and stay quiet."""

    why: str = "asked"


Event = (
    Begin | Remembered | Adopted | NotFound | Started | Exited | TimerFired | RestartWanted | TreeWanted | StopWanted
)


# ── what is to be done ───────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class Find:
    """Look whether the child lives; answer Adopted or NotFound."""

    id: str
    run: int


@dataclass(frozen=True, slots=True)
class Start:
    """Start the child; answer Started or Exited with the same `run`."""

    id: str
    run: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Drain and stop the child, kill it at the deadline; answer Exited with the same `run`, for sure."""

    id: str
    run: int
    deadline_s: float
    why: str


@dataclass(frozen=True, slots=True)
class Timer:
    """Answer TimerFired with this token after so many seconds."""

    token: int
    after_s: float


@dataclass(frozen=True, slots=True)
class SendPage:
    """Page a person."""

    event: str
    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Note:
    """A line of the tree's history. `event` is one of EVENTS; `exit` is known where something ended."""

    id: str
    event: str
    reason: str
    exit: ProcessExit | None = field(default=None)


Command = Find | Start | Stop | Timer | SendPage | Note

#: every `Note.event`, described
EVENTS: Mapping[str, str] = {
    "adopted": "found alive by a new supervisor and taken over",
    "started": "up",
    "exited": "ended, asked or not; the exit tells how",
    "restarted": "will be started again; counts towards the intensity of its supervisor",
    "escalated": "died too often in a row: it is started again once a minute until a person restarts it",
    "retried": "escalated, and started again because the minute is over",
    "cleared": "a person ended its escalation",
    "added": "new in the tree",
    "removed": "no longer in the tree",
    "changed": "its row of the tree changed: it is restarted with the new one",
    "stopping": "asked to end: because its supervisor ends, its row of the tree changed, or a person wants it",
}
