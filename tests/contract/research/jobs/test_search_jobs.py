"""Searches as durable jobs on real PostgreSQL: the same result as in one process, whatever dies on the way."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fks.clock import FakeClock
from fks.config.settings import Research, Settings
from fks.model.errors import InputError
from fks.model.timeframe import to_datetime
from fks.research.backtest.report import document_of
from fks.research.jobs.optimization import KIND, WORKER, parse_optimization
from fks.research.jobs.pool import Processes
from fks.research.jobs.research_ledger import record_backtest
from fks.research.jobs.runner import run_one
from fks.research.jobs.schedule import Schedules
from fks.research.search.ledger import run_of_backtest
from fks.store.db import Database
from fks.store.jobs import JobRow, JobStore
from fks.store.research_runs import ResearchRunStore
from fks.store.strategies import StrategyStore
from fks.store.trials import LOST_MAX, TrialRow, TrialStore
from tests.support.backtests import run
from tests.support.no_skill import Tide, free_setup, tidal
from tests.support.searching import (
    COUNTED,
    PATIENT,
    SPEC,
    ended,
    here,
    stored,
    stored_pair,
    submit,
    survive_deaths,
    take,
)
from tests.support.strategies import add_account, add_instance
from tests.support.waiting import until

TPE = {**SPEC, "plan": {"method": "tpe", "trials": 24, "batch": 6, "prune": True}}
WALK = {**SPEC, "plan": {"method": "random", "trials": 20}, "validation": {"kind": "walk_forward", "folds": 2}}


@pytest.mark.parametrize("spec", [SPEC, TPE, WALK], ids=["grid", "tpe", "walk-forward"])
async def test_a_search_as_a_job_gives_what_it_gives_here(
    database: Database, as_jobs: Database, tmp_path: Path, spec: dict[str, Any]
) -> None:
    await stored(database)
    id = await submit(database, spec)
    await take(database)
    settings = Settings(research=Research(slots=1))
    await run_one(as_jobs, id, tmp_path, settings=settings)
    job = await ended(database, id)
    assert (job.state, job.error, job.progress) == ("done", None, 1.0)
    assert job.result == await here(database, spec)
    counts = await TrialStore(database, id).counts()
    assert (counts.queued, counts.running) == (0, 0)
    assert counts.ended == job.result["trials"]["total"]  # type: ignore[index]


async def test_a_search_of_a_strategy_of_two_symbols_reads_both(
    database: Database, as_jobs: Database, tmp_path: Path
) -> None:
    await stored_pair(database)
    spec = {**SPEC, "strategy": "pairs", "params": {"leave": 0.1}, "allow_gaps": True, "allow_short": True}
    spec["space"] = {"period": "30:90:30", "entry": "0.5:1.5:0.5", "other": "ETH/USDT"}
    id = await submit(database, spec)
    await take(database)
    await run_one(as_jobs, id, tmp_path, settings=Settings(research=Research(slots=1)))
    job = await ended(database, id)
    assert (job.state, job.error) == ("done", None)
    assert job.result == await here(database, spec)
    assert job.result["trials"] == {**job.result["trials"], "total": 9, "done": 9, "failed": 0}  # type: ignore[index]
    assert job.result["best"]["metrics"]["trades"] > 0  # type: ignore[index]


async def test_a_search_is_deflated_by_all_that_was_tried_on_its_symbol(
    database: Database, as_jobs: Database, tmp_path: Path
) -> None:
    """Two searches and a backtest as jobs, and one that ran twice: each counts once, and only on its symbol and time."""
    await stored_pair(database)
    settings = Settings(research=Research(slots=1))

    async def ledger_of(spec: dict[str, Any]) -> dict[str, Any]:
        id = await submit(database, spec)
        await take(database)
        await run_one(as_jobs, id, tmp_path, settings=settings)
        job = await ended(database, id)
        assert job.result is not None, job.error
        return dict(job.result["ledger"])

    narrow = {**SPEC, "space": {"fast": "2:4", "slow": "8:9"}}
    first = await ledger_of(narrow)
    assert (first["earlier_runs"], first["trials"], first["held_back_runs"]) == (0, 6, 0)
    backtest = {name: SPEC[name] for name in ("strategy", "symbol", "exchange", "timeframe", "limits")}
    id = await JobStore(database).submit("backtest", backtest)
    assert await JobStore(database).claim(["backtest"])
    await run_one(as_jobs, id, tmp_path, settings=settings)
    assert (await ended(database, id)).state == "done"
    second = await ledger_of({**SPEC, "space": {"fast": "5:6", "slow": "10:14"}})
    assert (second["earlier_runs"], second["trials"], second["held_back_runs"]) == (2, 10 + 6 + 1, 2)
    again = await ledger_of(narrow)
    assert (again["earlier_runs"], again["trials"]) == (2, 6 + 10 + 1), "it does not count itself"
    other = await ledger_of({**narrow, "symbol": "ETHUSDT", "allow_gaps": True})
    assert (other["earlier_runs"], other["trials"]) == (0, 6)
    times = [
        row["time"] for row in await database.sql("SELECT time FROM ohlcv_data WHERE symbol = 'BTCUSDT' ORDER BY 1")
    ]
    early = await ledger_of({**narrow, "to": times[300].isoformat()})
    assert (early["earlier_runs"], early["trials"]) == (3, 6 + 6 + 10 + 1)
    late = await ledger_of({**narrow, "from": times[400].isoformat()})
    assert late["earlier_runs"] == 3, "the run that ended before it is another time"
    kept = await ResearchRunStore(database).list("BTCUSDT")
    assert [(run.kind, run.trials) for run, _ in kept] == [
        ("search", 6),
        ("search", 6),
        ("search", 10),
        ("backtest", 1),
        ("search", 6),
    ]


async def test_a_backtest_is_judged_by_all_that_was_tried_on_its_symbol(database: Database) -> None:
    document = document_of(run(Tide(share=0.5), tidal(24 * 120), free_setup()))
    runs, own = ResearchRunStore(database), run_of_backtest(document)
    assert await record_backtest(runs, document) == document, "it is the first"
    squares = 100_000 * own.sharpe_best**2
    wide = replace(own, fingerprint="wide", kind="search", trials=100_000, sharpe_mean=0.0, sharpe_spread=squares)
    await runs.add(wide)
    *others, finding = (await record_backtest(runs, document))["findings"]
    assert (others, "all 100001 trials" in finding) == (document["findings"], True), "it does not count itself"
    assert [kept.trials for kept, _ in await runs.list()] == [100_000, 1]


async def test_helpers_share_the_trials_and_end_with_the_search(
    database: Database, as_jobs: Database, tmp_path: Path
) -> None:
    await stored(database)
    id = await submit(database, {**SPEC, "workers": 3})
    settings = Settings(research=Research(slots=3))
    await take(database)
    running = [asyncio.create_task(run_one(as_jobs, id, tmp_path, settings=settings))]

    async def summoned() -> bool:
        return len(await JobStore(database).list(kind=WORKER)) == 2

    await until(summoned)
    for _ in range(2):
        helper = await take(database)
        running.append(asyncio.create_task(run_one(as_jobs, helper.id, tmp_path, settings=settings)))
    await asyncio.gather(*running)
    job, helpers = await ended(database, id), await JobStore(database).list(kind=WORKER)
    assert job.result == await here(database, SPEC)
    assert [helper.state for helper in helpers] == ["done", "done"]
    ran = await database.sql("SELECT runner, count(*) FROM trials GROUP BY 1")
    assert sum(row["count"] for row in ran) == job.result["trials"]["total"]


async def test_processes_give_what_one_process_gives(database: Database) -> None:
    await stored(database)
    with Processes(2) as evaluate_all:
        assert await here(database, TPE, evaluate_all) == await here(database, TPE)


async def test_a_search_is_cancelled_while_it_runs(database: Database, as_jobs: Database, tmp_path: Path) -> None:
    await stored(database)
    id = await submit(database, {**SPEC, "space": {"fast": "2:100", "slow": "101:300"}})
    await take(database)
    running = asyncio.create_task(run_one(as_jobs, id, tmp_path, settings=Settings(research=Research(slots=1))))

    async def began() -> bool:
        return (await TrialStore(database, id).counts()).done > 0

    await until(began)
    await JobStore(database).cancel(id)
    async with asyncio.timeout(20):
        await running
    job = await ended(database, id)
    assert (job.state, job.result) == ("cancelled", None)


async def test_a_wrong_search_is_the_jobs_error(database: Database, as_jobs: Database, tmp_path: Path) -> None:
    await stored(database, 100)
    id = await submit(database, {**SPEC, "space": {"fast": "2:5", "slow": "95:99"}})
    await take(database)
    await run_one(as_jobs, id, tmp_path, settings=Settings(research=Research(slots=1)))
    job = await ended(database, id)
    assert job.state == "failed"
    assert "none of 20 trials has a value" in str(job.error)


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────
async def rows_of(db: Database, count: int) -> tuple[TrialStore, JobRow]:
    id = await submit(db, SPEC)
    job = await take(db)
    store = TrialStore(db, id)
    await store.add([TrialRow(0, number, {"fast": number}) for number in range(count)])
    await store.add([TrialRow(0, number, {"fast": -1}) for number in range(count)])  # once more: nothing changes
    return store, job


async def test_trials_are_claimed_by_one_runner_and_again_after_a_lost_answer(database: Database) -> None:
    store, job = await rows_of(database, 20)
    other = await JobStore(database).submit(WORKER, {})
    assert (await take(database)).id == other
    mine, theirs = await asyncio.gather(store.claim(job.id, 1, 8), store.claim(other, 1, 8))
    assert {t.number for t in mine}.isdisjoint(t.number for t in theirs)
    assert (len(mine), len(theirs)) == (8, 8)
    assert [t.params["fast"] for t in mine] == [t.number for t in mine]
    assert await store.claim(job.id, 1, 8) == mine, "an answer that was lost is given again"
    assert await store.claim(job.id, 2, 8) == [], "an attempt that is not the running one gets nothing"


async def test_results_of_a_runner_that_lost_its_job_are_not_taken(database: Database) -> None:
    store, job = await rows_of(database, 4)
    (trial, *_) = await store.claim(job.id, 1, 1)
    await database.sql("UPDATE jobs SET beat_at = now() - interval '31 s'")
    await JobStore(database).requeue_lost(silent_s=30, attempts_max=3)
    assert await store.requeue_lost() == 1
    result = {"values": [1.0], "metrics": {}, "steps": [], "sums": None, "error": ""}
    late = TrialRow(0, trial.number, trial.params, state="done", result=result)
    await store.finish(job.id, 1, [late])
    assert (await store.counts()).done == 0
    again = await take(database)
    assert (again.id, again.attempts) == (job.id, 2)
    assert [t.number for t in await store.claim(job.id, 2, 8)] == [1, 2, 3], "one that lost its runner is run alone"
    await store.finish(job.id, 2, [TrialRow(0, n, {}, state="done", result=result) for n in (1, 2, 3)])
    assert [t.number for t in await store.claim(job.id, 2, 8)] == [0]
    await store.finish(job.id, 2, [late, late])
    await store.finish(job.id, 2, [late])
    assert (await store.counts()).done == 4


async def test_a_trial_that_takes_its_runners_down_fails_and_the_search_goes_on(database: Database) -> None:
    store, job = await rows_of(database, 2)
    for attempt in range(1, LOST_MAX + 1):
        for row in await store.claim(job.id, attempt, 1):
            if row.number == 1:  # the good one
                await store.finish(job.id, attempt, [TrialRow(0, 1, {}, state="done", result={"values": [1.0]})])
        await store.claim(job.id, attempt, 1)
        assert await JobStore(database).release(job.id, attempt, attempts_max=3), "a search loses any number of runners"
        await store.requeue_lost()
        assert (await take(database)).attempts == attempt + 1
    ((bad), (good)) = await store.ended([(0, 0), (0, 1)])
    assert (bad.state, bad.result) == ("failed", {"error": f"it took down {LOST_MAX} runners"})
    assert good.state == "done"


async def test_jobs_of_higher_priority_are_claimed_first(database: Database) -> None:
    store = JobStore(database)
    ids = [await store.submit("backtest", {}, priority=priority) for priority in (0, -5, 5)]
    claimed = [await store.claim() for _ in range(3)]
    assert [job.id for job in claimed if job] == [ids[2], ids[0], ids[1]]


async def test_a_job_of_the_same_fingerprint_is_found_until_it_fails(database: Database) -> None:
    store = JobStore(database)
    known, id = await store.same("backtest", "abc")
    assert known is None
    assert (await store.same("backtest", "abc"))[1] == id, "two callers at once submit one job"
    await store.submit("backtest", {}, job_id=id, fingerprint="abc")
    assert (await store.same("backtest", "abc"))[0] == id
    assert (await store.same(KIND, "abc"))[0] is None
    job = await store.claim()
    assert job is not None
    await store.finish(job, "failed", error="x")
    known, other = await store.same("backtest", "abc")
    assert known is None
    assert other != id


async def test_a_job_that_is_being_cancelled_is_not_taken_for_the_same(database: Database) -> None:
    store = JobStore(database)
    _, id = await store.same("backtest", "abc")
    await store.submit("backtest", {}, job_id=id, fingerprint="abc")
    job = await store.claim()
    assert job is not None
    await store.cancel(id)
    known, fresh = await store.same("backtest", "abc")
    assert known is None
    assert fresh != id
    await store.finish(job, "done", result={"late": True})  # it ended before it saw the request
    assert (await store.same("backtest", "abc"))[0] == id, "it has a result after all"


def test_a_wrong_spec_names_the_field() -> None:
    with pytest.raises(InputError, match="optimization: plan: method random needs a number of trials"):
        parse_optimization({**SPEC, "plan": {"method": "random"}})
    with pytest.raises(InputError, match="unknown objective luck"):
        parse_optimization({**SPEC, "objectives": "luck"})


# ── retention ────────────────────────────────────────────────────────────────────────────────────
async def test_old_trials_are_deleted_but_those_of_promoted_parameters(database: Database) -> None:
    clock = FakeClock()
    ids = [await submit(database, {**SPEC, "params": {"sl_pct": number}}) for number in (1, 2, 3, 4)]
    ended_days = dict(zip(ids, (91, 91, 89, None), strict=True))  # the last one still runs
    for id, days in ended_days.items():
        job = await take(database)
        store = TrialStore(database, job.id)
        await store.add([TrialRow(0, number, {"fast": number}) for number in range(3)])
        if days is not None:
            await JobStore(database).finish(job, "done", result={"trials": {"done": 3, "pruned": 0, "failed": 0}})
            ended_at = to_datetime(clock.now_ns()) - timedelta(days=days)
            await database.sql("UPDATE jobs SET finished_at = $2 WHERE id = $1", id, ended_at)
    await add_account(database)
    await add_instance(database, "a", "sma_cross", {"fast": 2})
    async with database.transaction() as tx:
        await StrategyStore(tx).set_params("a", {"fast": 3}, by="test", provenance={"optimization": str(ids[1])})
        await StrategyStore(tx).set_params("a", {"fast": 4}, by="test")  # it had them
    ran = dict(await Schedules(database, clock, Settings()).run_due())
    assert ran["old-trials"] == "3 trials of 1 searches deleted"
    left = {row["search_id"] for row in await database.sql("SELECT search_id FROM trials")}
    assert left == set(ids[1:])
    assert (await ended(database, ids[0])).result is not None, "the search itself stays"
    shorter = Settings(research=Research(trials_keep_days=1))
    await database.sql("UPDATE schedules SET last_run_at = NULL WHERE name = 'old-trials'")
    assert dict(await Schedules(database, clock, shorter).run_due())["old-trials"] == "3 trials of 1 searches deleted"
    left = {row["search_id"] for row in await database.sql("SELECT search_id FROM trials")}
    assert left == {ids[1], ids[3]}


# ── deaths ───────────────────────────────────────────────────────────────────────────────────────
GUIDED = {**SPEC, "plan": {"method": "tpe", "trials": 60, "batch": 6}, "workers": 3}
GRID = {**SPEC, "space": {"fast": "2:11", "slow": "60:99"}, "workers": 3}


async def test_a_search_survives_kill_9_of_its_runners_and_of_postgresql(tmp_path: Path) -> None:
    await survive_deaths(GUIDED, 60, tmp_path)


async def test_a_search_survives_kill_9_of_the_head_and_all_its_runners(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    """The scheduler, the coordinator and both helpers die at once; another head takes the rows up."""
    (tmp_path / "patient_cross.py").write_text(PATIENT)
    spec = {**GRID, "strategy": "patient_cross", "space": {"fast": "2:6", "slow": "70:99"}}
    await stored(database, 400)
    for statement in COUNTED.strip().split(";\n"):
        if statement.strip():
            await database.sql(statement)
    id = await submit(database, spec)
    store = TrialStore(database, id)

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.support.search_head", database_url, str(tmp_path)]
        return subprocess.Popen(command, start_new_session=True)

    (tmp_path / "patient_cross.py.slow").touch()

    head = start()
    try:

        async def is_shared() -> bool:
            ran = await database.sql("SELECT DISTINCT runner FROM trials WHERE runner IS NOT NULL")
            return len(ran) == 3 and (await store.counts()).ended > 20

        await until(is_shared, deadline_s=60)
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()
        left = await store.counts()
        assert left.ended < 150, "it was killed in the middle"
        assert not (await ended(database, id)).is_ended
        await database.sql(
            "UPDATE jobs SET beat_at = now() - interval '31 s' WHERE state = 'running'"
        )  # as time passes
        head = start()

        async def is_done() -> bool:
            return (await ended(database, id)).is_ended

        await until(is_done, deadline_s=120)
    finally:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()
    job = await ended(database, id)
    assert (job.state, job.error, job.attempts) == ("done", None, 2)
    endings = await database.sql("SELECT fold, number, count(*) FROM endings GROUP BY 1, 2")
    assert (len(endings), {row["count"] for row in endings}) == (150, {1}), "each combination exactly once"
    (tmp_path / "patient_cross.py.slow").unlink()
    assert job.result == await here(database, spec, folder=tmp_path), "the deaths changed the result"
