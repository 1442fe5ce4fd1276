"""The auditor of `fks chaos run`, for tests: what it finds wrong now. It shares no code with the runtime."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from fks.chaos.auditor import Evidence, audit_evidence, made_by
from fks.chaos.evidence import Baseline, collect
from fks.chaos.outside import Outside
from fks.clock import RealClock
from fks.config.paths import Paths
from tests.support.system import System
from tests.support.waiting import wait_until

SETTLE_S = 20.0  # what is younger may still be under way


@dataclass(frozen=True)
class Audit:
    """What was found. A sound system has only zeros and empty things after the first two.

    `doubled` and `position_errors` map what the finding is about to its words; `others` are the violations of every
    other check, in words.
    """

    orders_sent: int
    signals: int
    doubled: dict[str, str]
    undecided: int
    twice_ordered: int
    position_errors: dict[str, str]
    others: tuple[str, ...] = ()


def audit(system: System) -> Audit:
    """Audit the system by the exchange's own executions."""
    evidence = asyncio.run(_evidence(system))
    found = audit_evidence(evidence, settle_s=SETTLE_S).violations
    doubled = [finding.text for finding in found if finding.check == "orders doubled"]
    undecided = [
        finding.text for finding in found if finding.check == "signals lost" and "has no outcome" in finding.text
    ]
    named = {"orders doubled", "positions wrong"}
    return Audit(
        orders_sent=sum(len(made_by(row)) for row in evidence.received),
        signals=len(evidence.signals),
        doubled={text.split()[1]: text for text in doubled if "led to" not in text},
        undecided=len(undecided),
        twice_ordered=sum("led to" in text for text in doubled),
        position_errors={f.text.split(" is ")[0]: f.text for f in found if f.check == "positions wrong"},
        others=tuple(f"{f.check}: {f.text}" for f in found if f.check not in named and f.text not in undecided),
    )


def assert_sound(system: System) -> None:
    """Let the auditor look until all is settled: positions equal, one outcome each; and each id was sent at most
    once."""

    found: list[Audit] = []

    def settled() -> bool:
        found[:] = [audit(system)]
        return not (found[0].position_errors or found[0].undecided or found[0].others)

    try:
        wait_until(settled, deadline_s=60.0, every_s=0.5)
    except AssertionError:
        raise AssertionError(f"the auditor still finds after 60 s: {found[0]}") from None
    assert (found[0].doubled, found[0].twice_ordered) == ({}, 0)


async def _evidence(system: System) -> Evidence:
    outside = Outside(Paths.of(system.home), RealClock())
    try:
        return await collect(outside, Baseline(outside.now_s(), {}, {}, {}))
    finally:
        await outside.close()
