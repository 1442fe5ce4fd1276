"""Searches run as jobs in tests: their spec and bars, the result in one process, and runners that are killed."""

from __future__ import annotations

import asyncio
import random
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from fks.config.settings import DatabaseSettings
from fks.model.bar import Bars
from fks.research.jobs.bars import load_stored_joined
from fks.research.jobs.optimization import KIND, document_of_search, parse_optimization, searched, task_for
from fks.research.jobs.research_ledger import record_search
from fks.research.search import Search, serial
from fks.research.search.run import Evaluate
from fks.store.bars import BarStore
from fks.store.db import Database
from fks.store.jobs import SEARCHES, JobRow, JobStore
from fks.store.research_runs import ResearchRunStore
from fks.store.trials import TrialStore
from fks.strategies.check import synthetic, with_inputs
from fks.strategies.pairs import Pairs
from fks.strategies.registry import load_catalogue
from tests.support import search_process
from tests.support.children import Child
from tests.support.servers import mortal_postgres

SPEC: dict[str, Any] = {
    "strategy": "sma_cross",
    "symbol": "BTCUSDT",
    "exchange": "binance",
    "timeframe": "1m",
    "limits": False,
    "space": {"fast": "2:11", "slow": "8:23"},
}
#: a strategy that takes its time in the trials of runners, on three quarters of 400 bars, so that there is time to kill
#: them; its checks are quick
PATIENT = """
import os, time
from typing import ClassVar
from fks.strategies.sma_cross import SmaCross as Fast
class Patient(Fast):
    name: ClassVar[str] = "patient_cross"
    def decide(self, bars):
        if len(bars) == 300 and os.path.exists(__file__ + ".slow"):
            time.sleep(0.05)
        return super().decide(bars)
"""
COUNTED = """
CREATE TABLE endings (fold int, number int);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO endings VALUES (NEW.fold, NEW.number); RETURN NEW; END $$;
CREATE TRIGGER note AFTER UPDATE ON trials FOR EACH ROW
WHEN (NEW.state IN ('done', 'pruned', 'failed') AND OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION note();
"""


async def stored(db: Database, count: int = 900) -> None:
    await BarStore(db).merge(replace(synthetic(count), symbol="BTCUSDT"), source="test")


async def stored_pair(db: Database, count: int = 900) -> None:
    """Store bars of BTCUSDT, and of ETHUSDT where `synthetic` has them."""
    bars = with_inputs(Pairs(), synthetic(count))
    other = bars.inputs["ETHUSDT"]
    there = np.flatnonzero(~np.isnan(other.close))
    columns = (getattr(other, name)[there] for name in ("open", "high", "low", "close", "volume"))
    await BarStore(db).merge(replace(bars, symbol="BTCUSDT", inputs={}), source="test")
    await BarStore(db).merge(Bars("ETHUSDT", "1m", other.time_ns[there], *columns), source="test")


async def here(
    db: Database, spec: dict[str, Any], evaluate_all: Evaluate = serial, folder: Path | None = None
) -> dict[str, Any]:
    """Return what the search of a spec gives in this process. `folder`: of strategies' files."""
    parsed = parse_optimization(spec)
    catalogue = load_catalogue(folder)
    space = searched(parsed, catalogue)
    loaded = await load_stored_joined(db, parsed.request(space), space.inputs())
    driver = Search(task_for(parsed, loaded, catalogue))
    while asked := driver.ask():
        for trial in evaluate_all(driver.task, asked):
            driver.record(trial)
    return plain(await record_search(ResearchRunStore(db), document_of_search(driver, source=loaded.source)))


def plain(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document as JSON gives it back."""
    found: dict[str, Any] = orjson.loads(orjson.dumps(document))
    return found


async def submit(db: Database, spec: dict[str, Any]) -> uuid.UUID:
    return await JobStore(db).submit(KIND, parse_optimization(spec).model_dump(mode="json", by_alias=True))


async def ended(db: Database, id: uuid.UUID) -> JobRow:
    job = await JobStore(db).get(id)
    assert job is not None
    return job


async def take(db: Database) -> JobRow:
    job = await JobStore(db).claim(SEARCHES)
    assert job is not None
    return job


@contextmanager
def runners(url: str, folder: Path, count: int) -> Iterator[list[Child]]:
    found = [start(url, folder) for _ in range(count)]
    try:
        yield found
    finally:
        for process in found:
            process.kill()
            process.wait()


def start(url: str, folder: Path) -> Child:
    (folder / "patient_cross.py.slow").touch()
    return Child(search_process.main, url, folder)


async def survive_deaths(spec: dict[str, Any], total: int, folder: Path) -> None:
    """Run a search of `total` trials in three processes, of which one is killed three times, and PostgreSQL once; assert
    that each trial was ended once, and that the result is that of one process."""
    (folder / "patient_cross.py").write_text(PATIENT)
    spec = {**spec, "strategy": "patient_cross"}
    dice = random.Random(7)
    with mortal_postgres() as postgres:
        db = await Database.connect(postgres.url, DatabaseSettings(retry_s=20.0), application="test")
        await stored(db, 400)
        for statement in COUNTED.strip().split(";\n"):
            if statement.strip():
                await db.sql(statement)
        id = await submit(db, spec)
        wanted = await here(db, spec, folder=folder)
        assert wanted["trials"]["total"] == total
        killed = 0
        with runners(postgres.url, folder, 3) as processes:
            store, jobs = TrialStore(db, id), JobStore(db)
            async with asyncio.timeout(150):
                while not (await ended(db, id)).is_ended:
                    await jobs.requeue_lost(silent_s=3.0, attempts_max=3)
                    counts = await store.counts()
                    if counts.ended >= (killed + 1) * total / 5 and killed < 3:
                        killed += 1
                        number = dice.randrange(3)
                        processes[number].send_signal(signal.SIGKILL)
                        processes[number].wait()
                        processes[number] = start(postgres.url, folder)
                        if killed == 2:
                            postgres.kill()
                            postgres.start()
                    await asyncio.sleep(0.05)
        job = await ended(db, id)
        assert (job.state, job.error if job.state != "done" else None) == ("done", None)
        assert killed == 3
        endings = await db.sql("SELECT fold, number, count(*) FROM endings GROUP BY 1, 2")
        assert len(endings) == total
        assert {row["count"] for row in endings} == {1}, "a trial was counted twice"
        assert job.result == wanted, "the deaths changed the result"
        await db.close()
