"""Child specs: one row per child, checked field by field when loaded, started in waves and stopped in reverse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from fks.model.errors import ConfigError


class RestartType(StrEnum):
    PERMANENT = "permanent"  # always
    TRANSIENT = "transient"  # only after a crash
    TEMPORARY = "temporary"  # never


@dataclass(frozen=True, slots=True)
class Intensity:
    """More than `restarts_max` restarts within `period_s` seconds: give up."""

    restarts_max: int
    period_s: float


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One row of the tree. `role` names the class, `args` what its constructor is told.

    `is_leased`: the child writes under an epoch that the supervisor raises before it starts it.
    `after`: ids that must run before this one may start; they stop after it.
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


def start_waves(specs: Sequence[ChildSpec]) -> tuple[tuple[ChildSpec, ...], ...]:
    """Return the children in waves: those of a wave may start together, each after all that it names.

    Errors: ConfigError when `after` goes round in a circle.
    """
    waves: list[tuple[ChildSpec, ...]] = []
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


def stop_order(specs: Sequence[ChildSpec]) -> tuple[tuple[ChildSpec, ...], ...]:
    """Return the waves of `start_waves`, last first."""
    return tuple(reversed(start_waves(specs)))
