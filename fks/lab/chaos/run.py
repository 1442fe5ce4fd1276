"""A whole run: the plan performed in its time, every fault undone, and the audit at the end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fks.lab.chaos.auditor import Audit, Evidence, RequestEvidence, Violation, audit_evidence
from fks.lab.chaos.cover import CoverWatch, Sample
from fks.lab.chaos.evidence import Baseline, rules_of, take_baseline, try_collect
from fks.lab.chaos.exercise import STRUCK_NOTHING_SHARE_MAX, Exercise, exercise_of
from fks.lab.chaos.faults import Attempt, Injector
from fks.lab.chaos.kinds import KINDS
from fks.lab.chaos.order_requests import OrderRequester
from fks.lab.chaos.outside import Outside
from fks.lab.chaos.plan import Injection
from fks.lab.chaos.watch import Watch
from fks.model.errors import FksError, OutageError

# Looks at the invariant of protection twice a second while a chaos run goes on, at the exchange's admin port and the
# alerts.
#
# Time counts only while both can be asked and the order manager beats: a position cannot be covered by a system that is
# away, and how long that lasts is measured elsewhere.

EVERY_S = 0.5
ALIVE_S = 3.0  # a beat this young is taken for a working order manager
_ORDERS = """
SELECT client_order_id, role, symbol, instance, state, quantity, filled, is_reduce_only, stop_loss, take_profit,
       side, created_at, parent_id
FROM orders
 WHERE venue = 'ccxt' AND (client_order_id = ANY($1::text[])
    OR state IN ('SENDING', 'UNKNOWN', 'ACCEPTED', 'WORKING', 'PARTIAL'))"""
#: open pages; one about several symbols (`kill.stuck`) is a row for each
OPEN_PAGES = """
SELECT coalesce(s #>> '{}', payload->>'symbol', '') AS symbol, coalesce(payload->>'instance', '') AS instance
  FROM alerts LEFT JOIN LATERAL jsonb_path_query(payload, '$.symbols[*]') AS s ON true
 WHERE severity = 'page' AND resolved_at IS NULL"""
_WORKS = """
SELECT (SELECT pid FROM component_health WHERE name = 'orders' AND state IN ('ready', 'running', 'degraded')
   AND beat_at > clock_timestamp() - make_interval(secs => $1)) AS pid,
 EXISTS (SELECT FROM kill_switch WHERE is_engaged) AS is_killed"""


class CoverSampler:
    """Samples until cancelled. `watch` holds what was found."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside
        self.watch = CoverWatch()
        self._fills: dict[tuple[str, int], Any] = {}
        self._since_ms = 0
        self._clock_s = 0.0

    async def run(self) -> None:
        """Look again and again; a part of the system that is away is looked at the next time."""
        clock = self._outside.clock
        last_s = clock.monotonic()
        while True:
            await clock.sleep(EVERY_S)
            now_s = clock.monotonic()
            with contextlib.suppress(FksError):
                rows = await self._outside.sql(_WORKS, ALIVE_S)
                if rows[0]["pid"] is not None and not rows[0]["is_killed"]:
                    self._clock_s += min(now_s - last_s, 2 * EVERY_S)
                    self.watch.look(await self._sample(rows[0]["pid"]))
            last_s = now_s

    async def _sample(self, process: int) -> Sample:
        state = await self._outside.exchange("GET", f"/sim/state?since={self._since_ms}")
        for fill in state["fills"]:
            self._fills[fill["symbol"], fill["id"]] = fill
            self._since_ms = max(self._since_ms, fill["wallTime"])
        names = {row["clientOrderId"] for row in (*self._fills.values(), *state["open_orders"])}
        orders = await self._outside.sql(_ORDERS, list(names))
        pages = await self._outside.sql(OPEN_PAGES)
        rules = await rules_of(self._outside, state["prices"])
        return Sample(self._clock_s, state["open_orders"], list(self._fills.values()), orders, pages, rules, process)


IN_FLIGHT_MAX = 3  # faults whose recovery is waited for at the same time
WELL_S = 90.0  # time for the system to become well before the first fault and after the last
SETTLE_S = 8.0  # rows younger than this may still be under way when the auditor looks
AUDIT_S = 90.0  # time for violations to clear before they count
LOOK_EVERY_S = 2.0
#: Progress: the phase (start, injecting, done, settling, auditing) and its injection.
Say = Callable[[str, Attempt | Injection | None], None]


@dataclass(frozen=True, slots=True)
class ChaosResult:
    """Result of a run. `seconds` is its duration; `is_well`: all was well again within WELL_S of the last fault."""

    attempts: tuple[Attempt, ...]
    audit: Audit
    seconds: float
    exercise: Exercise
    is_well: bool = True

    @property
    def is_unbroken(self) -> bool:
        """Return whether nothing is lost, doubled or wrong and every target came back, and stayed."""
        return (
            self.is_well
            and self.audit.is_sound
            and not self.exercise.unended
            and all(a.recovered_s is not None for a in self.attempts if a.is_injected)
        )

    @property
    def shortfalls(self) -> list[str]:
        """Return why the run proves nothing, however well it went: minimums that were not reached."""
        counted = [a for a in self.attempts if not a.error and a.struck is not None]
        missed = [a for a in counted if not a.is_injected]
        found = list(self.exercise.shortfalls())
        if len(missed) > STRUCK_NOTHING_SHARE_MAX * len(counted):
            found.append(f"{len(missed)} of {len(counted)} faults of the exchange struck nothing, at most a fifth may")
        return found

    @property
    def is_sound(self) -> bool:
        """Return whether the run found nothing and exercised enough for that to be a proof."""
        return self.is_unbroken and not self.shortfalls


async def run_plan(
    outside: Outside, plan: Sequence[Injection], say: Say = lambda what, about: None, *, seed: int
) -> ChaosResult:
    """Perform the plan on a running demo and audit it. Every injected fault is undone, whatever happens.

    The orders that are asked for meanwhile are drawn from `seed`.

    Guarantees: every injection is performed (a late one later, never left out) or has its `error`.
    Errors: OutageError when the system is not well to begin with.
    """
    start_s = outside.clock.monotonic()
    watch = Watch(outside)
    injector = Injector(outside, watch)
    looking = asyncio.create_task(watch.run())
    requester = OrderRequester(outside, seed)
    sampler = CoverSampler(outside)
    sampling: asyncio.Task[None] | None = None
    requesting: asyncio.Task[None] | None = None
    try:
        await injector.restore()
        if await watch.until(lambda: watch.is_well(0.0), WELL_S) is None:
            raise OutageError("the system is not well to begin with", remedy="see 'fks status'")
        baseline = await take_baseline(outside)
        requesting = asyncio.create_task(requester.run())
        sampling = asyncio.create_task(sampler.run())
        attempts = await _perform(outside, injector, plan, say)
        requester.end()
        say("settling", None)
        await injector.restore()
        over_s = outside.now_s()
        is_well = await watch.until(lambda: watch.is_well(over_s), WELL_S) is not None
        await requesting
        say("auditing", None)
        requests = list(requester.requests.values())
        audit, evidence = await _audit(outside, baseline, requests, list(sampler.watch.broken.values()))
        exercise = exercise_of(requests, evidence, protected_s=sampler.watch.protected_s)
    finally:
        with contextlib.suppress(OutageError):
            await asyncio.shield(injector.restore())
        tasks = [task for task in (looking, requesting, sampling) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return ChaosResult(tuple(attempts), audit, outside.clock.monotonic() - start_s, exercise, is_well)


async def _perform(outside: Outside, injector: Injector, plan: Sequence[Injection], say: Say) -> list[Attempt]:
    """Start each fault in its moment; one that stops the whole system waits for all before it and is waited for."""
    begun = outside.clock.monotonic()
    flying: set[asyncio.Task[Attempt]] = set()
    done: list[Attempt] = []

    async def one(injection: Injection) -> Attempt:
        say("injecting", injection)
        attempt = await injector.perform(injection)
        done.append(attempt)
        say("done", attempt)
        return attempt

    async def land(most: int) -> None:
        nonlocal flying
        while len(flying) > most:
            over, flying = await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
            for task in over:
                task.result()

    say("start", None)
    try:
        for injection in plan:
            await outside.clock.sleep(max(0.0, injection.at_s - (outside.clock.monotonic() - begun)))
            is_alone = KINDS[injection.kind].is_alone
            await land(0 if is_alone else IN_FLIGHT_MAX - 1)
            task = asyncio.create_task(one(injection))
            flying.add(task)
            if is_alone:
                await land(0)
            if is_alone and task.result().recovered_s is None and not task.result().error:
                done += [Attempt(later, error="the system did not come back") for later in plan[injection.number :]]
                break
        await land(0)
    finally:
        for task in flying:
            task.cancel()
        await asyncio.gather(*flying, return_exceptions=True)
    return sorted(done, key=lambda attempt: attempt.injection.number)


async def _audit(
    outside: Outside, baseline: Baseline, requests: Sequence[RequestEvidence], uncovered: Sequence[str]
) -> tuple[Audit, Evidence]:
    """Audit until there is no violation or the time is over: rows on their way may arrive, true violations stay."""
    end = outside.clock.monotonic() + AUDIT_S
    newest = Evidence(outside.now_s())
    audit = Audit(0, 0, 0, 0, (Violation("leaked", "the system could not be audited: something is away"),))
    while True:
        evidence = await try_collect(outside, baseline)
        if evidence is not None:
            newest = evidence
            audit = audit_evidence(replace(evidence, requests=requests, uncovered=uncovered), settle_s=SETTLE_S)
        if audit.is_sound or outside.clock.monotonic() > end:
            return audit, newest
        await outside.clock.sleep(LOOK_EVERY_S)
