"""Specs of the tree: one row per child, checked field by field when loaded, started in waves and stopped in reverse.

The words are OTP's: a supervisor has an intensity, a child a shutdown time. Every child is permanent, and every
supervisor is one_for_one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from fks.config.settings import Supervision
from fks.model.backoff import Backoff
from fks.model.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Intensity:
    """More than `restarts_max` restarts within `period_s` seconds: give up."""

    restarts_max: int
    period_s: float


@dataclass(frozen=True, slots=True)
class Containment:
    """Ends a crash loop at the child that crashes: its siblings run on, and it is started every `retry_s` until a
    person restarts it.

    Each child is counted for itself, over its deaths in a row between which it was never up for
    `RestartBackoff.reset_s`. The row is too long past the supervisor's `Intensity`, or, with ROW_MIN deaths, `row_s`
    after its first one: however long one round of start, life and backoff takes, one of the two limits is reached.
    `deaths_hour_max`: more deaths of one child in an hour page, however long it was up between them.
    """

    retry_s: float = 60.0
    row_s: float = float("inf")
    deaths_hour_max: int = 10


@dataclass(frozen=True, slots=True)
class RestartBackoff(Backoff):
    """The wait before a restart: none for the first in a row, then that of `Backoff`.

    A child that was up for `reset_s` has lasted: its row of deaths ends.
    """

    first_s: float = 0.1
    max_s: float = 10.0
    jitter: float = 0.2
    reset_s: float = 60.0


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One worker of the tree. `role` names the class, `args` are arguments of its constructor.

    `is_leased`: the child writes under an epoch that the supervisor raises before it starts it.
    `after`: ids of siblings that must have come up before this one may start; they stop after it. `stop_s`: what
    draining and stopping may take together. `resources`: what its node must offer, e.g. {"ninja": 0.001}.
    `spreads`: where it needs nothing else of a node, it runs on a worker (`fks.system.supervision.placement`).
    `node_id`: of the node on which it has its place, "" for any.
    `memory_max_mb`: resident memory above which it is drained and restarted. How often it may be restarted is its
    supervisor's to say. Any other row for the same id is a reason to restart the child.
    """

    id: str
    role: str
    stop_s: float
    args: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    is_leased: bool = True
    start_s: float = 30.0
    resources: dict[str, float] = field(default_factory=dict)
    memory_max_mb: int = 2048
    spreads: bool = False
    node_id: str = ""


@dataclass(frozen=True, slots=True)
class SupervisorSpec:
    """One supervisor of the tree: an ordered list of children, workers or supervisors.

    `limit` counts the restarts of all its children together; past it the supervisor ends all of them and its own parent
    decides. With `containment`, which the root always has, it counts each child for itself, and a child past the limit
    escalates alone.
    """

    id: str
    children: tuple[ChildSpec | SupervisorSpec, ...]
    limit: Intensity
    after: tuple[str, ...] = ()
    backoff: RestartBackoff = RestartBackoff()
    containment: Containment | None = None

    def workers(self) -> Iterator[ChildSpec]:
        """Yield every worker below, depth first, in the order of the list."""
        for child in self.children:
            if isinstance(child, SupervisorSpec):
                yield from child.workers()
            else:
                yield child


def counted_alone(id: str, children: tuple[ChildSpec | SupervisorSpec, ...], timing: Supervision) -> SupervisorSpec:
    """Return a supervisor with the limits of the settings that counts each child for itself."""
    return SupervisorSpec(
        id,
        children,
        Intensity(timing.restarts_max, timing.restarts_period_s),
        backoff=RestartBackoff(
            timing.backoff_first_s, timing.backoff_max_s, timing.backoff_jitter, timing.backoff_reset_s
        ),
        containment=Containment(timing.escalated_retry_s, timing.restarts_period_s, timing.deaths_hour_max),
    )


def check_tree(root: SupervisorSpec) -> None:
    """Refuse a tree that cannot be run. Errors: ConfigError naming the child and the field."""
    ids: list[str] = [root.id]
    _check_supervisor(root, ids)
    for id in ids:
        if ids.count(id) > 1:
            raise ConfigError(f"child {id}: id appears twice", remedy="give each child its own id")


def _check_supervisor(spec: SupervisorSpec, ids: list[str]) -> None:
    if spec.limit.restarts_max < 0 or spec.limit.period_s <= 0:
        raise ConfigError(f"supervisor {spec.id}: limit {spec.limit} is not a window", remedy="use e.g. 20 in 60 s")
    siblings = [child.id for child in spec.children]
    for child in spec.children:
        ids.append(child.id)
        for other in child.after:
            if other not in siblings:
                raise ConfigError(
                    f"child {child.id}: after={other!r} is no sibling of it", remedy=f"use one of {siblings}"
                )
        if isinstance(child, SupervisorSpec):
            _check_supervisor(child, ids)
        elif child.stop_s <= 0 or child.start_s <= 0:
            raise ConfigError(f"child {child.id}: stop_s and start_s must be above 0 s", remedy="set a deadline")
    start_waves(spec)


def predecessors(spec: SupervisorSpec) -> dict[str, frozenset[str]]:
    """Return for each child the siblings that start before it and stop after it, however far away.

    Only `after` orders: children that do not need each other start together.

    Errors: ConfigError when the order goes round in a circle.
    """
    earlier: dict[str, frozenset[str]] = {}
    left = {child.id: child.after for child in spec.children}
    while left:
        ready = [id for id, befores in left.items() if all(before in earlier for before in befores)]
        if not ready:
            raise ConfigError(
                f"children {', '.join(left)}: 'after' goes round in a circle", remedy="take one 'after' away"
            )
        for id in ready:
            befores = left.pop(id)
            earlier[id] = frozenset(befores).union(*(earlier[before] for before in befores))
    return earlier


def start_waves(spec: SupervisorSpec) -> tuple[tuple[str, ...], ...]:
    """Return the ids of a supervisor's children in waves: those of a wave may start together, after all earlier waves.

    Stopping goes through them in reverse. Errors: ConfigError when the order goes round in a circle.
    """
    before = predecessors(spec)
    waves: list[tuple[str, ...]] = []
    done: set[str] = set()
    while len(done) < len(before):
        waves.append(tuple(child.id for child in spec.children if child.id not in done and before[child.id] <= done))
        done.update(waves[-1])
    return tuple(waves)


def edges(tree: SupervisorSpec) -> Iterator[tuple[SupervisorSpec, ChildSpec | SupervisorSpec]]:
    """Yield (supervisor, child) for every node but the root, from the top down."""
    for child in tree.children:
        yield tree, child
        if isinstance(child, SupervisorSpec):
            yield from edges(child)
