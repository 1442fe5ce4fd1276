"""Champions and challengers: tests of challengers as a job, and the swap of their parameters.

A swap is one transaction that holds the instance: it finds the instance flat, writes the challenger's parameters as the
next version, and ends the challenger. A process that is killed leaves the champion or the challenger, never both. While
a challenger waits for its instance to be flat, the instance sends exits alone.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from fks.config.settings import Settings
from fks.model.bar import Bars
from fks.model.cash_flows import InstrumentEvents
from fks.model.errors import InputError, conflict, not_found, unprocessable
from fks.model.json_fields import json_fields
from fks.model.timeframe import NS, TIMEFRAMES, iso, to_ns
from fks.research.backtest import Setup, run
from fks.research.backtest.limits import UNLIMITED
from fks.research.jobs.backtest import BarsRequest
from fks.research.jobs.bars import load_stored_joined
from fks.research.jobs.checking import CHECK_S, checked_in_thread
from fks.research.jobs.instances import instance_of, unknown_instance
from fks.research.jobs.promotion import promotable
from fks.research.jobs.spec import checked_spec
from fks.research.search.challenge import (
    ChallengeRules,
    Excess,
    RecordedChange,
    RecordedDecisions,
    evaluate_excess,
    excess_of,
)
from fks.store.challengers import Challenger, ChallengerStore
from fks.store.db import Database, Transaction
from fks.store.facts import FactStore
from fks.store.jobs import JobStore
from fks.store.strategies import Instance, StrategyStore
from fks.strategies.base import Strategy, evaluate, warmup_of
from fks.strategies.check import ensure_checked, synthetic, with_inputs
from fks.strategies.registry import Catalogue
from fks.trading.matching import CostModel
from fks.trading.risk.sizing import Sizing

KIND = "challenge"
PAPER, PERSON = "paper", "person"
#: cash of the valuation: so many times the size of an entry that no entry is too dear
_SIZES = 1_000
_US = 1_000  # the database counts microseconds: the smallest step after a bar
_COMPARED = Decimal(1000)  # quote of an entry whose size depends on the account


class ChallengeSpec(BaseModel):
    """The instance, and those of its challengers to test (default: those whose next test is due)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    instance: str
    challenger: str | None = None


def parse_spec(spec: Mapping[str, Any]) -> ChallengeSpec:
    """Return a checked spec. Errors: InputError SPEC_WRONG."""
    return checked_spec(ChallengeSpec, spec, "challenge", remedy="see 'fks strategies challengers propose --help'")


def job_id_of_tests(instance: str, hour: str) -> uuid.UUID:
    """Return the id of the tests of an instance in one hour: submitted twice, it is one job."""
    return uuid.uuid5(uuid.NAMESPACE_OID, f"challenge|{instance}|{hour}")


# ── tests ────────────────────────────────────────────────────────────────────────────────────────
async def run_challenge(
    spec: Mapping[str, Any], db: Database, settings: Settings, catalogue: Catalogue, *, now_ns: int
) -> dict[str, Any]:
    """Test challengers of an instance against it and return the document. One that passes is proposed, with an alert;
    on a paper account it is swapped in when `strategies.challenger_swap` is paper.

    One that cannot be tested is reported with the reason (`refused`), and the others are tested. Errors: InputError
    INSTANCE_UNKNOWN; of a named challenger CHALLENGER_UNKNOWN, CHALLENGER_ENTRY_ORDERS, NO_DATA; OutageError.
    """
    wanted = parse_spec(spec)
    instance, store = await instance_of(db, wanted.instance), ChallengerStore(db)
    everyone = await store.list(instance.id, with_ended=True)
    if wanted.challenger is not None:
        asked = [await challenger_of(db, instance.id, wanted.challenger)]
    else:
        asked = [one for one in everyone if is_due(one, instance.timeframe, settings.strategies.challenger_bars_min)]
    tested = []
    for challenger in asked:
        try:
            tested.append(await _test(db, instance, challenger, settings, catalogue))
        except InputError as error:
            if wanted.challenger is not None:
                raise
            tested.append(_refused(challenger, error))
    return {"instance": instance.id, "at": iso(now_ns), "tested": tested}


def is_due(challenger: Challenger, timeframe: str, bars_min: int) -> bool:
    """Return whether a challenger is tested by itself: after `bars_min` bars, and after each doubling. Each test is a
    chance more to look good by chance, so there are few."""
    if challenger.stage not in ("shadow", "proposed") or challenger.begun_ns is None or challenger.cursor_ns is None:
        return False
    bar_ns = (TIMEFRAMES[timeframe] or 30 * 86_400) * NS
    bars = (challenger.cursor_ns - challenger.begun_ns) // bar_ns
    return bars >= bars_min << challenger.looks


async def _test(
    db: Database,
    instance: Instance,
    challenger: Challenger,
    settings: Settings,
    catalogue: Catalogue,
) -> dict[str, Any]:
    """Test one challenger, write the result, and return it."""
    limits, store = settings.strategies, ChallengerStore(db)
    excess = await measure(db, instance, challenger, settings, catalogue)
    everyone = await store.list(instance.id, with_ended=True)
    rules = ChallengeRules(limits.challenger_bars_min, limits.challenger_trades_min, limits.challenger_confidence)
    evaluation = dict(
        evaluate_excess(
            excess, rules, trials=trials_of(everyone, challenger.id), others=ratios_of(everyone, challenger.id)
        )
    )
    evaluation |= {"from": iso(excess.from_ns), "to": iso(excess.to_ns), "champion_version": instance.params_version}
    passes = not evaluation["findings"]
    is_look = excess.bars >= limits.challenger_bars_min
    message = (
        f"challenger {challenger.id} of strategy {instance.id} did better than it over {excess.bars} bars: deflated "
        f"Sharpe ratio of the excess {evaluation['deflated_sharpe']:.2f}. "
        f"See 'fks strategies challengers list {instance.id}', then 'fks strategies challengers swap {challenger.id}'"
    )
    async with db.transaction() as tx:
        # an instance that was given other parameters meanwhile is another champion
        held = await ChallengerStore(tx).lock_instance(instance.id)
        stages = None
        if held is not None and held.params_version == instance.params_version:
            stages = await ChallengerStore(tx).evaluated(challenger.id, evaluation, passes=passes, is_look=is_look)
        if stages == ("proposed", "shadow"):
            await FactStore(tx).note_alert(
                "warning",
                "strategy.challenger_proposed",
                message,
                component="jobs",
                payload={"instance": instance.id, "challenger": challenger.id},
            )
    swap = None
    mode = await StrategyStore(db).mode(instance.id)
    if stages is not None and passes and limits.challenger_swap == PAPER and mode == PAPER:
        swap = json_fields(await swap_in(db, challenger.id, catalogue, by="setting challenger_swap"))
    return {
        "challenger": challenger.id,
        "evaluation": evaluation,
        "stage": challenger.stage if stages is None else stages[0],
        "is_new": stages == ("proposed", "shadow"),
        "swap": swap,
        "refused": None,
    }


def _refused(challenger: Challenger, error: InputError) -> dict[str, Any]:
    return {
        "challenger": challenger.id,
        "evaluation": None,
        "stage": challenger.stage,
        "is_new": False,
        "swap": None,
        "refused": {"code": error.code, "detail": error.message, "remedy": error.remedy},
    }


def trials_of(everyone: Sequence[Challenger], tested: str) -> int:
    """Return how many chances there were to look good by chance: each challenger that was ever tried, and each further
    test of one; that of `tested` which is made now included."""
    return sum(max(1, one.looks + (one.id == tested)) for one in everyone)


def ratios_of(everyone: Sequence[Challenger], tested: str) -> list[float]:
    """Return the Sharpe ratios of the other challengers' excess returns, per period, as last measured."""
    found = [one.evaluation for one in everyone if one.id != tested and one.evaluation is not None]
    return [float(evaluation["excess_sharpe_period"]) for evaluation in found]


async def measure(
    db: Database, instance: Instance, challenger: Challenger, settings: Settings, catalogue: Catalogue
) -> Excess:
    """Return what the recorded decisions of a challenger, and those of its champion's parameters on the same bars,
    would have brought by the fills and costs of a backtest. Errors: InputError NO_DATA, CHALLENGER_ENTRY_ORDERS."""
    if challenger.begun_ns is None or challenger.cursor_ns is None or instance.cursor_ns is None:
        raise _no_data(challenger)
    since = await db.fetchval("drift.version_since", instance.id, instance.params_version)
    bar_ns = (TIMEFRAMES[instance.timeframe] or 30 * 86_400) * NS
    begun_ns = max(challenger.begun_ns, 0 if since is None else to_ns(since) - 2 * bar_ns)
    end_ns = min(challenger.cursor_ns, instance.cursor_ns)
    if end_ns <= begun_ns + 2 * bar_ns:
        raise _no_data(challenger)
    champion = catalogue.make(instance.strategy, instance.params)
    rival = catalogue.make(instance.strategy, challenger.params)
    request = BarsRequest(
        instance.symbol,
        instance.exchange,
        instance.timeframe,
        begun_ns,
        end_ns + _US,
        champion.warmup() + 1,
        features=tuple(sorted({*champion.features(), *rival.features()})),
    )
    loaded = await load_stored_joined(db, request, sorted({*champion.inputs(), *rival.inputs()}))
    bars = loaded.bars
    later = bars[int((bars.time_ns < begun_ns).sum()) :]
    if len(later) < 3:
        raise _no_data(challenger)
    changes = tuple(
        RecordedChange(
            one.time_ns,
            one.target,
            None if one.stop_loss is None else float(one.stop_loss),
            None if one.take_profit is None else float(one.take_profit),
        )
        for one in await ChallengerStore(db).decisions(challenger.id)
        if one.time_ns <= end_ns
    )
    sizing, size = instance.sizing, instance.size
    if Sizing.parse(sizing).needs_equity:  # both are compared with entries of one value
        sizing, size = "notional", _COMPARED
    value = size if sizing == "notional" else size * Decimal(repr(float(later.close[0]))) * loaded.instrument.multiplier
    setup = Setup(
        loaded.instrument,
        CostModel.of(settings.costs, loaded.instrument),
        sizing,
        size,
        value * _SIZES,
        allow_gaps=True,
        limits=UNLIMITED,
        start_ns=int(later.time_ns[1]),
        collar_pct=settings.collar_pct,
        events=InstrumentEvents(is_funding_left_out=True),  # live books no funding either
    )

    def both() -> Excess:
        for one in (champion, rival):
            _ensure_market_entries(one, bars)
        made = run(RecordedDecisions(changes=changes), later, setup, check=False, finer=loaded.finer)
        return excess_of(made, run(champion, bars, setup, check=False, finer=loaded.finer))

    return await asyncio.to_thread(both)


def _ensure_market_entries(strategy: Strategy, bars: Bars) -> None:
    """Refuse decisions to enter by limit or stop orders, with a stop that trails or is moved, with targets, or with a
    share of the size: a challenger's are recorded without these, and would be valued as others. Errors: InputError
    CHALLENGER_ENTRY_ORDERS; of the strategy."""
    found = evaluate(strategy, bars)
    plans = (*(prices for prices, _ in found.targets), found.break_even_after, found.break_even_risk)
    for prices in (
        found.entry_limit,
        found.entry_stop,
        found.trail,
        found.size_share,
        found.moves(),
        found.take_profit_move,
        *plans,
    ):
        if prices is not None and bool((np.isfinite(prices) & (found.target != 0.0)).any()):
            raise unprocessable(
                "CHALLENGER_ENTRY_ORDERS",
                f"strategy {strategy.name} enters by limit or stop orders, with stops that trail or are moved, or "
                "with targets or a part of its size, and challengers are compared by entries of all of it at the "
                "market, whose stops stay",
                "compare the parameters by backtests, and give them to the instance with 'fks optimize promote'",
            )


def _no_data(challenger: Challenger) -> InputError:
    return unprocessable(
        "NO_DATA",
        f"challenger {challenger.id} and its champion have not decided on the same bars yet",
        "try again later",
    )


# ── swaps ────────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class Swap:
    """The result of a request to swap: `version` of the instance when it was done, else the reason why it waits."""

    challenger: str
    instance: str
    stage: str
    version: int | None
    waits_for: str | None


async def add_challenger(
    db: Database,
    instance_id: str,
    params: Mapping[str, Any],
    catalogue: Catalogue,
    *,
    by: str,
    provenance: Mapping[str, Any] | None = None,
    check_s: float = CHECK_S,
) -> Challenger:
    """Add a variant of an instance's parameters, checked, that decides in shadow; the same one again is returned.

    Errors: InputError INSTANCE_UNKNOWN, CHALLENGER_IS_CHAMPION, CHALLENGER_ENTRY_ORDERS, INSTANCE_CHANGED,
    STRATEGY_SLOW after `check_s` seconds; of the strategy.
    """
    before = await instance_of(db, instance_id)

    def check() -> dict[str, Any]:
        champion = catalogue.make(before.strategy, before.params)
        made = catalogue.make(before.strategy, {**before.params, **params})
        ensure_checked(made)
        values = made.model_dump(mode="json")
        if values == champion.model_dump(mode="json"):
            raise conflict(
                "CHALLENGER_IS_CHAMPION", f"these are the parameters of {instance_id} itself", "give other values"
            )
        for one in (champion, made):
            _ensure_market_entries(one, with_inputs(one, synthetic(max(600, 4 * warmup_of(one)), before.timeframe)))
        return values

    chosen = await checked_in_thread(before.strategy, check, limit_s=check_s)
    async with db.transaction() as tx:
        store = ChallengerStore(tx)
        _ensure_same(before, await store.lock_instance(instance_id))
        for one in await store.list(instance_id):
            if dict(one.params) == chosen:
                return one
        id = await store.add(instance_id, chosen, by=by, provenance=provenance)
        found = await store.get(id)
        assert found is not None
        return found


async def best_of(db: Database, search_id: uuid.UUID, instance_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the best parameters of a finished search, and where they come from, for a challenger of an instance.

    Findings of the search do not speak against a challenger: it is tested on later bars. Errors: InputError
    INSTANCE_UNKNOWN, OPTIMIZATION_UNKNOWN, PROMOTION_REFUSED for another strategy or market.
    """
    instance, job = await instance_of(db, instance_id), await JobStore(db).get(search_id)
    if job is None:
        raise not_found("OPTIMIZATION_UNKNOWN", f"there is no optimization {search_id}", "see 'fks optimize list'")
    params, provenance = promotable(job, instance, mode=PAPER, on_paper_s=None, despite_findings=True)
    return params, {name: provenance[name] for name in ("optimization", "inputs_hash", "findings")}


async def swap_in(
    db: Database,
    challenger_id: str,
    catalogue: Catalogue,
    *,
    by: str,
    may_wait: bool = True,
    despite_findings: bool = False,
    check_s: float = CHECK_S,
) -> Swap:
    """Swap a challenger in when its instance is flat; else let it wait, or refuse. Done before, it is returned as done.

    Errors: InputError CHALLENGER_UNKNOWN, CHALLENGER_ENDED, CHALLENGER_NOT_PROPOSED, CHALLENGER_NOT_FLAT,
    CHALLENGER_WAITING, INSTANCE_CHANGED, STRATEGY_SLOW after `check_s` seconds; of the strategy.
    """
    known = await ChallengerStore(db).get(challenger_id)
    if known is None:
        raise _unknown(challenger_id)
    before = await instance_of(db, known.instance_id)
    if known.stage != "swapped":
        _ensure_may_swap(known, despite_findings=despite_findings)
        await checked_in_thread(
            before.strategy, lambda: ensure_checked(catalogue.make(before.strategy, known.params)), limit_s=check_s
        )
    async with db.transaction() as tx:
        store = ChallengerStore(tx)
        locked, challenger = await store.lock_instance(known.instance_id), await store.get(challenger_id)
        assert challenger is not None
        if challenger.stage == "swapped":
            return Swap(challenger.id, challenger.instance_id, "swapped", None, None)
        _ensure_may_swap(challenger, despite_findings=despite_findings)
        instance = _ensure_same(before, locked)
        reason = (await store.standing(instance.id)).reason
        if reason is None:
            return await _install(tx, challenger, instance, by=by)
        if not may_wait:
            raise conflict(
                "CHALLENGER_NOT_FLAT",
                f"instance {instance.id} is not flat: {reason}",
                "let it wait for the exit, or close the position first",
            )
        await _wait(store, challenger, by=by)
    return Swap(challenger_id, instance.id, "waiting", None, reason)


def _ensure_may_swap(challenger: Challenger, *, despite_findings: bool) -> None:
    """Refuse a challenger that was removed, or that no test speaks for."""
    if not challenger.is_open:
        raise conflict(
            "CHALLENGER_ENDED",
            f"challenger {challenger.id} was removed",
            "add it again: 'fks strategies challengers add'",
        )
    if challenger.stage == "shadow" and not despite_findings:
        findings = (challenger.evaluation or {}).get("findings") or ["it was not tested yet"]
        raise conflict(
            "CHALLENGER_NOT_PROPOSED",
            f"challenger {challenger.id} is not proposed: {'; '.join(findings)}",
            "wait for its test; or --despite-findings, at your own risk",
        )


def _ensure_same(before: Instance, now: Instance | None) -> Instance:
    """Return the held instance. Errors: InputError INSTANCE_CHANGED when it is not the one that was checked."""
    if now is None:
        raise unknown_instance(before.id)
    if (now.strategy, now.params_version) != (before.strategy, before.params_version):
        raise conflict(
            "INSTANCE_CHANGED",
            f"the parameters of instance {before.id} changed while those of its challenger were checked",
            "try again",
        )
    return now


async def _wait(store: ChallengerStore, challenger: Challenger, *, by: str) -> None:
    """Let a challenger wait. Errors: InputError CHALLENGER_WAITING when another one of the instance does."""
    if challenger.stage == "waiting":
        return
    others = [id for id, instance in await store.waiting() if instance == challenger.instance_id]
    if others:
        raise conflict(
            "CHALLENGER_WAITING",
            f"challenger {others[0]} waits to be swapped in already",
            f"cancel it: 'fks strategies challengers swap {others[0]} --cancel'",
        )
    await store.wait(challenger.id, by=by)


async def _install(tx: Transaction, challenger: Challenger, instance: Instance, *, by: str) -> Swap:
    """Give the instance the challenger's parameters; within a transaction that holds it and found it flat."""
    provenance: dict[str, Any] = {
        "challenger": challenger.id,
        "replaced": instance.params_version,
        "evaluation": None if challenger.evaluation is None else dict(challenger.evaluation),
        **dict(challenger.provenance or {}),
    }
    version = await ChallengerStore(tx).install(challenger, challenger.params, by=by, provenance=provenance)
    return Swap(challenger.id, instance.id, "swapped", version, None)


async def complete_swaps(db: Database) -> list[Swap]:
    """Swap in the challengers that wait and whose instances are flat now. Errors: OutageError; then call it again."""
    done = []
    for challenger_id, instance_id in await ChallengerStore(db).waiting():
        async with db.transaction() as tx:
            store = ChallengerStore(tx)
            instance = await store.lock_instance(instance_id)
            challenger = await store.get(challenger_id)
            if instance is None or challenger is None or challenger.stage != "waiting":
                continue  # a person was faster
            if (await store.standing(instance_id)).reason is None:
                done.append(await _install(tx, challenger, instance, by=challenger.swap_requested_by or "system"))
    return done


async def demote(db: Database, instance_id: str, catalogue: Catalogue, *, by: str, reason: str) -> Swap:
    """Give an instance the parameters back that its challenger replaced: at once when it is flat, else it waits.

    They become a challenger that waits, so that the way back is the way of every swap. Errors: InputError
    INSTANCE_UNKNOWN, CHALLENGER_NONE when the parameters in force did not come from a challenger.
    """
    async with db.transaction() as tx:
        store = ChallengerStore(tx)
        instance = await store.lock_instance(instance_id)
        if instance is None:
            raise unknown_instance(instance_id)
        waiting = [id for id, owner in await store.waiting() if owner == instance_id]
        known = None if not waiting else await store.get(waiting[0])
        if known is not None and "rolled_back_to" in (known.provenance or {}):
            return Swap(known.id, instance_id, "waiting", None, (await store.standing(instance_id)).reason)
        before = await _replaced(tx, instance)
        if known is not None:
            await store.stop_waiting(known.id)
        provenance = {"rolled_back_to": before[0], "from": instance.params_version, "reason": reason}
        challenger = await store.get(await store.add(instance_id, before[1], by=by, provenance=provenance))
        assert challenger is not None
        catalogue.make(instance.strategy, challenger.params)
        standing = (await store.standing(instance_id)).reason
        if standing is None:
            return await _install(tx, challenger, instance, by=by)
        await store.wait(challenger.id, by=by)
        return Swap(challenger.id, instance_id, "waiting", None, standing)


async def _replaced(tx: Transaction, instance: Instance) -> tuple[int, Mapping[str, Any]]:
    """Return the version that a challenger replaced in an instance, and its parameters."""
    versions = {one.version: one for one in await StrategyStore(tx).versions(instance.id)}
    provenance = came_from_challenger(versions[instance.params_version].provenance)
    before = versions.get(int(provenance["replaced"])) if provenance is not None else None
    if before is None:
        raise conflict(
            "CHALLENGER_NONE",
            f"the parameters of {instance.id} did not come from a challenger",
            f"'fks optimize rollback --instance {instance.id}' takes back any parameters",
        )
    return before.version, before.params


def came_from_challenger(provenance: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the provenance of parameters that were swapped in, and not those of a demotion; else None."""
    if provenance is None or "challenger" not in provenance or "rolled_back_to" in provenance:
        return None
    return provenance


async def challenger_of(db: Database, instance_id: str, challenger_id: str) -> Challenger:
    """Return a challenger of an instance. Errors: InputError CHALLENGER_UNKNOWN."""
    found = await ChallengerStore(db).get(challenger_id)
    if found is None or found.instance_id != instance_id:
        raise _unknown(challenger_id)
    return found


def _unknown(challenger_id: str) -> InputError:
    return not_found(
        "CHALLENGER_UNKNOWN", f"there is no challenger {challenger_id!r}", "see 'fks strategies challengers list'"
    )
