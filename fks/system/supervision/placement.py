"""Nodes on which children are started: those that spread go to the worker that has the fewest of them; and the balance
of strategy instances over strategy workers. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fks.system.supervision.spec import ChildSpec

WORKER = "worker"  # the resource that every worker offers
SETTLED_S = 15.0  # a node that has been there for so long is worth a restart of a child


@dataclass(frozen=True, slots=True)
class Place:
    """One living node of the cluster: its id, its resources, for how long it has been seen, and where its raylet
    listens."""

    id: str
    resources: Mapping[str, float]
    age_s: float = SETTLED_S
    address: tuple[str, int] = ("", 0)


def place_for(spec: ChildSpec, places: Sequence[Place], where: Mapping[str, str]) -> str | None:
    """Return the node on which a child should start, None when any will do.

    `where`: the node of each child that spreads. Nodes that do not offer what the child needs are left out. Workers
    come first; of those the one with the fewest such children, the present one among equals.
    """
    fitting = _fitting(spec, places)
    if not spec.spreads or not fitting:
        return None
    counts = _counts(where, spec.id)
    return min(fitting, key=lambda place: (counts.get(place.id, 0), where.get(spec.id) != place.id, place.id)).id


def misplaced(specs: Iterable[ChildSpec], places: Sequence[Place], where: Mapping[str, str]) -> str | None:
    """Return a child to be restarted elsewhere: one beside the workers, or on one with two more of them than another.

    Only nodes that have settled count as elsewhere; workers that have not keep children from being moved to the head. A
    child whose node is unknown or lost is left alone: its restart places it.
    """
    alive = {place.id for place in places}
    for spec in specs:
        here = where.get(spec.id)
        if not spec.spreads or here not in alive:
            continue
        fitting = _fitting(spec, places)
        there = place_for(spec, [place for place in fitting if place.age_s >= SETTLED_S], where)
        if there is None or there == here:
            continue
        counts = _counts(where, spec.id)
        is_beside = here not in {place.id for place in fitting}
        if is_beside or counts.get(here, 0) > counts.get(there, 0):
            return spec.id
    return None


def is_balanced(workers: Iterable[int], count: int) -> bool:
    """Return whether each instance has one of `count` workers, numbered from 0, and no worker has two more than
    another. `workers`: the worker of each instance."""
    counts = Counter(workers)
    held = [counts[worker] for worker in range(count)]
    return sum(held) == counts.total() and max(held) - min(held) <= 1


def balance(workers: Mapping[str, int], count: int) -> dict[str, int]:
    """Return the new worker of each instance that has to move for `is_balanced`; as few as possible move.

    `workers`: the worker of each instance. Those with the largest names move; the same input gives the same moves.
    """
    held: dict[int, list[str]] = {worker: [] for worker in range(count)}
    moving: list[str] = []
    for id in sorted(workers):
        held.get(workers[id], moving).append(id)
    least, over = divmod(len(workers), count)
    largest_first = sorted(held, key=lambda worker: (-len(held[worker]), worker))
    shares = {worker: least + (place < over) for place, worker in enumerate(largest_first)}
    for worker, ids in held.items():
        moving += ids[shares[worker] :]
    free = (worker for worker, ids in held.items() for _ in range(shares[worker] - len(ids)))
    return dict(zip(sorted(moving), free, strict=True))


def _fitting(spec: ChildSpec, places: Sequence[Place]) -> list[Place]:
    offered = [place for place in places if all(place.resources.get(name, 0.0) > 0 for name in spec.resources)]
    return [place for place in offered if WORKER in place.resources] or offered


def _counts(where: Mapping[str, str], besides: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for child, node in where.items():
        if child != besides:
            counts[node] = counts.get(node, 0) + 1
    return counts
