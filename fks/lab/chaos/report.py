"""Report of a run: a line per kind of fault with its medians and worst, then the auditor's results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from fks.lab.chaos.auditor import CHECKS, Audit
from fks.lab.chaos.exercise import Exercise
from fks.lab.chaos.kinds import KINDS
from fks.lab.chaos.plan import Injection
from fks.lab.chaos.run import ChaosResult
from fks.model.json_fields import json_fields

FAULT_HEADERS = ("fault", "injected", "detected p50", "max", "recovered p50", "max", "not back")
SHOWN = 20  # violations that are printed


def fault_rows(outcome: ChaosResult) -> list[tuple[str, ...]]:
    """Return a row for each kind of fault (kills by target, since each has its own promise)."""
    groups: dict[str, list[Any]] = {}
    for attempt in outcome.attempts:
        kind, target = attempt.injection.kind, attempt.injection.target
        name = f"{kind} {target}" if kind in ("kill", "kill-service", "kill-ray", "kill-serve") else kind
        groups.setdefault(name, []).append(attempt)
    order = {name: place for place, name in enumerate(KINDS)}
    rows: list[tuple[str, ...]] = []
    for name in sorted(groups, key=lambda name: (order[name.split(" ")[0]], name)):
        mine = [attempt for attempt in groups[name] if attempt.is_injected]
        detected = [a.detected_s for a in mine if a.detected_s is not None]
        recovered = [a.recovered_s for a in mine if a.recovered_s is not None]
        is_seen = KINDS[name.split(" ")[0]].is_seen or bool(detected)
        rows.append(
            (
                name,
                str(len(mine)),
                *(_pair(detected) if is_seen else ("-", "-")),
                *_pair(recovered),
                str(len(mine) - len(recovered) or ""),
            )
        )
    return rows


def _pair(values: Sequence[float]) -> tuple[str, str]:
    return (f"{median(values):.2f} s", f"{max(values):.2f} s") if values else ("?", "?")


def check_rows(audit: Audit) -> list[tuple[str, str]]:
    """Return (check, number of its violations)."""
    return [(check, str(audit.count(check))) for check in CHECKS]


def exercise_rows(exercise: Exercise) -> list[tuple[str, str]]:
    """Return (what, how much) of the orders asked for and of the protection that was sampled."""
    denied = [(f"  denied {code}", str(count)) for code, count in exercise.denied.items()]
    return [
        ("orders asked for", str(exercise.asked)),
        *denied,
        ("  sent to the exchange", str(exercise.sent)),
        ("  filled", str(exercise.filled)),
        ("  filled in parts", str(exercise.parts)),
        ("  cancelled", str(exercise.cancelled)),
        ("stop losses executed", str(exercise.stops)),
        ("take profits executed", str(exercise.targets)),
        ("protected position-seconds", f"{exercise.protected_s:.0f}"),
    ]


def violation_lines(outcome: ChaosResult) -> list[str]:
    """Return the first violations as lines."""
    audit = outcome.audit
    lines = [f"{violation.check}: {violation.text}" for violation in audit.violations[:SHOWN]]
    rest = len(audit.violations) - SHOWN
    moving = [] if audit.is_whole else ["positions could not be compared: at every look an execution was on its way"]
    resting = [f"order {id} was cancelled over HTTP and rests at the exchange" for id in outcome.exercise.unended]
    return [*lines, *([f"and {rest} more"] if rest > 0 else []), *moving, *resting]


def summary(outcome: ChaosResult, *, seed: int) -> str:
    """Return the last line: the result, the audited amounts, and why it is no proof."""
    audit, not_done = outcome.audit, sum(bool(a.error) for a in outcome.attempts)
    missed = sum(not a.error and not a.is_injected for a in outcome.attempts)
    looked = (
        f"{audit.signals} signals ({audit.promised} asked for over HTTP), {audit.orders} orders, "
        f"{audit.fills} "
        f"executions, {audit.positions} positions, {audit.bars} bars"
    )
    missing = f", {not_done} could not be injected" if not_done else ""
    missing += f", {missed} struck nothing" if missed else ""
    missing += "" if outcome.is_well else ", the system was not well in the end"
    verdict = "nothing lost, doubled or wrong" if outcome.is_unbroken else "NOT SOUND"
    proof = f"NO PROOF ({'; '.join(outcome.shortfalls)}): " if outcome.shortfalls else ""
    injected = len(outcome.attempts) - not_done - missed
    return f"{proof}{verdict}: {injected} faults in {outcome.seconds:.0f} s (seed {seed}){missing}; audited {looked}"


def document(
    outcome: ChaosResult, plan: Sequence[Injection], *, seed: int, minutes: float, scenarios: Sequence[str]
) -> dict[str, Any]:
    """Return the whole run as plain JSON values."""
    return {
        "seed": seed,
        "minutes": minutes,
        "scenarios": list(scenarios),
        "seconds": round(outcome.seconds, 1),
        "is_sound": outcome.is_sound,
        "is_well": outcome.is_well,
        "shortfalls": outcome.shortfalls,
        "plan": plan_rows(plan),
        "faults": [
            {
                **json_fields(a.injection, "number", "kind", "target"),
                **json_fields(a, "struck", "note", "error", at=a.at_s),
                "detected_s": _rounded(a.detected_s),
                "recovered_s": _rounded(a.recovered_s),
            }
            for a in outcome.attempts
        ],
        "exercise": asdict(outcome.exercise) | {"protected_s": round(outcome.exercise.protected_s, 1)},
        "audit": {
            **json_fields(outcome.audit, without=("violations",)),
            "counts": {check: outcome.audit.count(check) for check in CHECKS},
            "findings": [{"check": f.check, "text": f.text} for f in outcome.audit.violations],
        },
    }


def plan_rows(plan: Sequence[Injection]) -> list[dict[str, object]]:
    """Return the plan as JSON values."""
    return [asdict(injection) for injection in plan]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
