"""Specs of the tree: one row per child, checked field by field when loaded, started in waves and stopped in reverse.

The words are OTP's: a supervisor has a strategy and an intensity, a child a restart type and a shutdown time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, TypeVar

from fks.model.errors import ConfigError


class RestartType(StrEnum):
    PERMANENT = "permanent"  # always
    TRANSIENT = "transient"  # only after a crash
    TEMPORARY = "temporary"  # never


class Strategy(StrEnum):
    """Who is restarted with a child that died."""

    ONE_FOR_ONE = "one_for_one"  # nobody else
    ONE_FOR_ALL = "one_for_all"  # all its siblings
    REST_FOR_ONE = "rest_for_one"  # the siblings listed after it


@dataclass(frozen=True, slots=True)
class Intensity:
    """More than `restarts_max` restarts within `period_s` seconds: give up."""

    restarts_max: int
    period_s: float


@dataclass(frozen=True, slots=True)
class Backoff:
    """The wait before a restart: none for the first, then `first_s` doubling up to `max_s`, less up to `jitter` of it.

    A child that lived `reset_s` is as good as new.
    """

    first_s: float = 0.1
    max_s: float = 10.0
    jitter: float = 0.2
    reset_s: float = 60.0


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One worker of the tree. `role` names the class, `args` what its constructor is told.

    `is_leased`: the child writes under an epoch that the supervisor raises before it starts it.
    `after`: ids that must run before this one may start; they stop after it. `stop_s`: what draining and stopping may
    take together. `resources`: what its node must offer, e.g. {"ninja": 0.001}. `version` is part of the row: another
    one is a reason to restart the child.
    """

    id: str
    role: str
    limit: Intensity
    stop_s: float
    args: tuple[str, ...] = ()
    restart: RestartType = RestartType.PERMANENT
    after: tuple[str, ...] = ()
    is_leased: bool = True
    start_s: float = 30.0
    resources: dict[str, float] = field(default_factory=dict)
    memory_max_mb: int = 2048


@dataclass(frozen=True, slots=True)
class SupervisorSpec:
    """One supervisor of the tree: an ordered list of children, workers or supervisors, under one strategy.

    `limit` counts the restarts of all its children together; past it the supervisor ends all of them and its own parent
    decides. The root has no parent: there the branch that failed is given up for a while, with a page, and the others run on.
    """

    id: str
    children: tuple[ChildSpec | SupervisorSpec, ...]
    limit: Intensity
    strategy: Strategy = Strategy.ONE_FOR_ONE
    restart: RestartType = RestartType.PERMANENT
    after: tuple[str, ...] = ()
    backoff: Backoff = Backoff()

    def workers(self) -> Iterator[ChildSpec]:
        """Yield every worker below, depth first, in the order of the list."""
        for child in self.children:
            if isinstance(child, SupervisorSpec):
                yield from child.workers()
            else:
                yield child


class _Named(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def after(self) -> tuple[str, ...]: ...


N = TypeVar("N", bound=_Named)


def check_tree(specs: Sequence[ChildSpec]) -> None:
    """Refuse a tree that cannot be run. Errors: ConfigError naming the child and the field."""
    ids = [spec.id for spec in specs]
    for spec in specs:
        if ids.count(spec.id) > 1:
            raise ConfigError(f"child {spec.id}: id appears twice", remedy="give each child its own id")
        if spec.stop_s <= 0 or spec.start_s <= 0:
            raise ConfigError(f"child {spec.id}: stop_s and start_s must be above 0 s", remedy="set a deadline")
        if spec.limit.restarts_max < 0 or spec.limit.period_s <= 0:
            raise ConfigError(f"child {spec.id}: limit {spec.limit} is not a window", remedy="use e.g. 20 in 60 s")
        for other in spec.after:
            if other not in ids:
                raise ConfigError(f"child {spec.id}: after={other!r} is no child", remedy=f"use one of {ids}")
    start_waves(specs)


def start_waves(specs: Sequence[N]) -> tuple[tuple[N, ...], ...]:
    """Return the children in waves: those of a wave may start together, each after all that it names.

    Errors: ConfigError when `after` goes round in a circle.
    """
    waves: list[tuple[N, ...]] = []
    started: set[str] = set()
    left = list(specs)
    while left:
        wave = tuple(spec for spec in left if started.issuperset(spec.after))
        if not wave:
            circle = ", ".join(spec.id for spec in left)
            raise ConfigError(f"children {circle}: 'after' goes round in a circle", remedy="take one 'after' away")
        waves.append(wave)
        started.update(spec.id for spec in wave)
        left = [spec for spec in left if spec.id not in started]
    return tuple(waves)


def stop_order(specs: Sequence[N]) -> tuple[tuple[N, ...], ...]:
    """Return the waves of `start_waves`, last first."""
    return tuple(reversed(start_waves(specs)))
