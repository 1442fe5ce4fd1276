"""The auditor of `fks chaos run`, for tests: its findings at one moment. It shares no code with the runtime.

Each audit needs the baseline that was taken before the fault: without one every running instance is a finding.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from fks.clock import RealClock
from fks.config.paths import Paths
from fks.lab.chaos.auditor import audit_evidence, made_by
from fks.lab.chaos.evidence import Baseline, collect, take_baseline
from fks.lab.chaos.outside import Outside
from tests.support.invariants import assert_none, audit_findings
from tests.support.system import System
from tests.support.waiting import wait_until

T = TypeVar("T")
SETTLE_S = 20.0  # what is younger may still be under way


@dataclass(frozen=True)
class Audit:
    """The findings. A sound system has only zeros and empty things after the first four, and recomputed decisions.

    `doubled` and `position_errors` map the subject of a finding to its text; `others` are the violations of every
    other check, in words. `findings` are all of them, `Broken` where no time would change them.
    """

    orders_sent: int
    signals: int
    decisions: int
    protected: int
    doubled: dict[str, str]
    undecided: int
    twice_ordered: int
    position_errors: dict[str, str]
    others: tuple[str, ...] = ()
    findings: tuple[str, ...] = field(default=(), repr=False)


def baseline_of(system: System) -> Baseline:
    """Return the state that an audit starts from; to be taken before the fault."""
    return asyncio.run(_with_outside(system, take_baseline))


def audit(system: System, baseline: Baseline) -> Audit:
    """Audit the system by the exchange's own executions."""
    evidence = asyncio.run(_with_outside(system, lambda outside: collect(outside, baseline)))
    result = audit_evidence(evidence, settle_s=SETTLE_S)
    found = result.violations
    doubled = [finding.text for finding in found if finding.check == "orders doubled"]
    undecided = [
        finding.text for finding in found if finding.check == "signals lost" and "has no outcome" in finding.text
    ]
    named = {"orders doubled", "positions wrong"}
    return Audit(
        orders_sent=sum(len(made_by(row)) for row in evidence.received),
        signals=len(evidence.signals),
        decisions=result.decisions,
        protected=result.protected,
        doubled={text.split()[1]: text for text in doubled if "led to" not in text},
        undecided=len(undecided),
        twice_ordered=sum("led to" in text for text in doubled),
        position_errors={f.text.split(" is ")[0]: f.text for f in found if f.check == "positions wrong"},
        others=tuple(f"{f.check}: {f.text}" for f in found if f.check not in named and f.text not in undecided),
        findings=tuple(audit_findings(evidence, result)),
    )


def assert_sound(system: System, baseline: Baseline) -> None:
    """Let the auditor look until all is settled: positions equal, one outcome each, at least one decision recomputed;
    and each id was sent at most once."""

    found: list[Audit] = []

    def settled() -> bool:
        found[:] = [audit(system, baseline)]
        return not (found[0].position_errors or found[0].undecided or found[0].others)

    try:
        wait_until(settled, deadline_s=60.0, every_s=0.5)
    except AssertionError:
        print(f"the auditor still finds after 60 s: {found[0]}")
        assert_none(found[0].findings)
        raise
    print(f"audited {found[0]}")
    assert_not_doubled(found[0])
    assert found[0].decisions > 0, "no decision was recomputed: an audit of nothing"


def assert_not_doubled(found: Audit) -> None:
    """Errors: InvariantError with each id that was sent more than once, and each signal that led to several orders."""
    assert_none(text for text in found.findings if text.startswith("orders doubled"))
    assert (found.doubled, found.twice_ordered) == ({}, 0)


async def _with_outside(system: System, call: Callable[[Outside], Awaitable[T]]) -> T:
    outside = Outside(Paths.of(system.home), RealClock())
    try:
        return await call(outside)
    finally:
        await outside.close()
