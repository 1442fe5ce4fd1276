"""The plan of faults: a pure function of the seed, the scenario and the names of the running parts."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fks.lab.chaos.kinds import ACTORS, ANSWERING, KINDS, SCENARIOS, SERVICES, FaultKind, Scenario
from fks.model.errors import InputError

TOGETHER = 0.15  # share of the faults that come at the same moment as the one before
MARGIN_S = 1.0  # nothing in the first second: the run measures a settled system


@dataclass(frozen=True, slots=True)
class Injection:
    """One fault to perform `at_s` seconds into the run, on a target named by its role (never by pid)."""

    number: int
    at_s: float
    kind: str
    target: str
    seconds: float = 0.0
    amount: float = 0.0

    def line(self) -> str:
        """Return a line for people."""
        extra = f" for {self.seconds:g} s" if self.seconds else ""
        more = f" by {self.amount:+g} s" if self.amount else ""
        return f"{self.number:>3}  {self.at_s:7.1f} s  {self.kind} {self.target}{more}{extra}"


@dataclass(frozen=True, slots=True)
class Roster:
    """Names of possible targets."""

    actors: tuple[str, ...]
    services: tuple[str, ...]

    def names(self, kind: FaultKind) -> tuple[str, ...]:
        """Return the targets of a kind, sorted where they come from what runs."""
        if kind.on == ACTORS:
            return tuple(sorted(self.actors))
        if kind.on == SERVICES:
            return tuple(sorted(set(self.services) & {"postgres", "redis", "sim"}))
        if kind.on == ANSWERING:
            return tuple(sorted(set(self.services) & {"redis", "sim"}))
        assert isinstance(kind.on, tuple)
        return kind.on


def make_plan(
    *, seed: int, minutes: float, count: int, scenarios: Sequence[Scenario], roster: Roster
) -> tuple[Injection, ...]:
    """Return the run's injections in order of time: the same arguments give the same injections, on any machine.

    `count` faults are drawn by the scenarios' weights (added up) and spread over the minutes; lines that a scenario
    fixes come besides. Errors: InputError when nothing can be drawn.
    """
    dice = random.Random(seed)  # noqa: S311 (dice, not secrets)
    choices = _choices(scenarios, roster)
    if not choices and count and not any(scenario.fixed for scenario in scenarios):
        raise InputError("the scenario has no fault for what runs here", remedy="see 'fks chaos scenarios'")
    drawn = _draw(dice, choices, count if choices else 0, minutes * 60)
    fixed = [
        Injection(0, at_s, kind, target, seconds, amount)
        for scenario in scenarios
        for at_s, kind, target, seconds, amount in scenario.fixed
    ]
    ordered = sorted([*drawn, *fixed], key=lambda injection: injection.at_s)
    return tuple(replace(injection, number=number) for number, injection in enumerate(ordered, 1))


def _draw(
    dice: random.Random, choices: Sequence[tuple[str, float, tuple[str, ...]]], count: int, whole_s: float
) -> list[Injection]:
    found: list[Injection] = []
    gap = max(0.0, whole_s - MARGIN_S) / max(1, count)
    for place in range(count):
        name, _, targets = dice.choices(choices, weights=[weight for _, weight, _ in choices])[0]
        kind, target = KINDS[name], dice.choice(targets)
        at_s = MARGIN_S + gap * (place + dice.random() * 0.5)
        if found and dice.random() < TOGETHER and not (kind.is_alone or KINDS[found[-1].kind].is_alone):
            at_s = found[-1].at_s
        seconds = round(dice.uniform(*kind.seconds), 2) if kind.seconds[1] else 0.0
        amount = round(dice.uniform(*kind.amount), 3) if kind.amount[1] else 0.0
        found.append(Injection(0, round(at_s, 2), name, target, seconds, amount))
    return found


def _choices(scenarios: Sequence[Scenario], roster: Roster) -> list[tuple[str, float, tuple[str, ...]]]:
    """Return (kind, weight, targets) in the table's order, without kinds that have no target here."""
    weights: dict[str, float] = {}
    targets: dict[str, set[str]] = {}
    for scenario in scenarios:
        for name, weight in scenario.weights.items():
            possible = roster.names(KINDS[name])
            wanted = [target for target in scenario.targets.get(name, possible) if target in possible]
            if wanted and weight > 0:
                weights[name] = weights.get(name, 0.0) + weight
                targets.setdefault(name, set()).update(wanted)
    return [(name, weights[name], tuple(sorted(targets[name]))) for name in KINDS if name in weights]


def find_scenario(text: str) -> Scenario:
    """Return a scenario by its name, or one read from a TOML file.

    The file: `name`, `help`, `[weights]` kind = number, `[targets]` kind = [names], and `[[injections]]` with at_s,
    kind, target, seconds, amount for fixed injections. Errors: InputError.
    """
    if text in SCENARIOS:
        return SCENARIOS[text]
    path = Path(text)
    if not path.is_file():
        raise InputError(f"no scenario {text!r}", remedy=f"use a file, or one of {', '.join(SCENARIOS)}")
    try:
        body = tomllib.loads(path.read_text())
        return _parsed(body, path.stem)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}", remedy="write TOML") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: {error!r}", remedy="see docs/chaos.md for the fields") from error


def _parsed(body: Mapping[str, object], name: str) -> Scenario:
    weights = {str(kind): float(weight) for kind, weight in dict(body.get("weights", {})).items()}  # type: ignore[call-overload]
    targets = {str(kind): tuple(names) for kind, names in dict(body.get("targets", {})).items()}  # type: ignore[call-overload]
    rows: list[Mapping[str, object]] = list(body.get("injections", []))  # type: ignore[call-overload]
    fixed = tuple(
        (
            float(str(row["at_s"])),
            str(row["kind"]),
            str(row["target"]),
            float(str(row.get("seconds", 0))),
            float(str(row.get("amount", 0))),
        )
        for row in rows
    )
    unknown = sorted(({*weights, *targets} | {kind for _, kind, *_ in fixed}) - set(KINDS))
    if unknown:
        raise InputError(f"no fault of the kind {unknown[0]!r}", remedy=f"use one of {', '.join(KINDS)}")
    return Scenario(str(body.get("name", name)), str(body.get("help", "")), weights, targets, fixed)
