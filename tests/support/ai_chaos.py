"""Kills of models, runners of jobs, the head and PostgreSQL while questions are answered, documents are stored and
embedded, and a forecast is trained; the rows are compared with those of the same work undisturbed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from fks.ai.engines import engine_of
from fks.ai.engines.deployment import Deployment
from fks.ai.engines.queue import InferenceQueue
from fks.config.paths import Paths
from fks.config.settings import DatabaseSettings
from fks.model.errors import OutageError
from fks.research.jobs.documents import run_documents, submit_pending
from fks.research.jobs.forecast import KIND, run_forecast
from fks.store.db import Database
from fks.store.deployments import DeploymentStore
from fks.store.documents import DocumentStore
from fks.store.forecasts import ForecastStore
from fks.store.jobs import JobStore
from tests.support.ai_process import call_of, embedded, replica, socket_of
from tests.support.api_fixtures import seed
from tests.support.children import Child
from tests.support.documents import save
from tests.support.forecasts import autoregression
from tests.support.gateway import Running, running
from tests.support.gguf_model import deployed, write_model
from tests.support.onnx_model import encoder, write_encoder
from tests.support.servers import MortalPostgres, mortal_postgres
from tests.support.strategies import seal
from tests.support.waiting import until

ANSWER_S = 20.0  # for the text of an answer
SEARCH_S = 5.0  # for its passages and the way to the gateway and back
MOVED_S = 1.0  # from the death of a process until another one has its request
FAULTS = ("encoder", "runner", "postgres", "head")
CHUNKS_EACH = 5  # of a document
ROWS = """
SELECT d.id AS document, d.name, d.content_hash, d.version, c.id, c.ordinal, c.heading, c.start_at, c.end_at, c.tokens,
       md5(c.text) AS text, md5(v.embedding::text) AS vector
  FROM ai_documents d LEFT JOIN ai_chunks c ON c.document_id = d.id
  LEFT JOIN (ai_embeddings v JOIN ai_embedders e ON e.id = v.embedder_id AND e.state = 'active') ON v.chunk_id = c.id
 ORDER BY d.name, c.ordinal, c.id
"""


@dataclass(frozen=True, slots=True)
class Load:
    """The work, and how often each fault strikes, in an order of `seed`. `spec`: of the training."""

    answers: int
    chunks: int
    spec: Mapping[str, Any]
    faults: tuple[str, ...] = FAULTS
    rounds: int = 1
    seed: int = 7

    def documents(self) -> list[dict[str, str]]:
        """Return the documents, as the gateway takes them."""
        return [
            {
                "name": f"d{first:04}.markdown",
                "text": "".join(
                    f"# Part {n}\nanimal{n} eats plant{n} at noon.\n" for n in range(first, first + CHUNKS_EACH)
                ),
            }
            for first in range(0, self.chunks, CHUNKS_EACH)
        ]

    def words(self) -> list[str]:
        """Return the words of the documents."""
        numbered = [f"{kind}{n}" for kind in ("animal", "plant", "") for n in range(self.chunks)]
        return ["part", "eats", "at", "noon", *numbered]


@dataclass(slots=True)
class Left:
    """The rows and the model at the end of the work, and the figures of the faults."""

    rows: list[dict[str, Any]]
    vectors: int
    forecast: dict[str, Any]
    faults: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    moved_s: list[float] = field(default_factory=list)
    answered_s: list[float] = field(default_factory=list)

    def shown(self) -> str:
        """Return the figures on a line."""
        moved, answered = max(self.moved_s, default=0.0), max(self.answered_s, default=0.0)
        return (
            f"faults {dict(self.faults)}; answers {dict(self.answers)}, the longest {max(self.seconds):.2f} s; "
            f"{len(self.moved_s)} requests moved within {moved:.3f} s, answered within {answered:.2f} s; "
            f"{len(self.rows)} chunks"
        )


class Replicas:
    """The processes of models, killed and started again, and the requests that they have. A killed one stays ready in
    the table, as until its death is noticed."""

    def __init__(self, folder: Path, *served: Deployment) -> None:
        self._folder, self._call = folder, call_of(folder)
        self._deployments = {one.child(number): one for one in served for number in range(one.replicas)}
        self._processes = {child: self._start(child) for child in self._deployments}
        self._killed_s: dict[str, float] = {}
        self._lost_s: dict[object, float] = {}
        self._begun: asyncio.Future[str] | None = None
        self.moved_s: list[float] = []
        self.answered_s: list[float] = []

    def _start(self, child: str) -> Child:
        return Child(replica, self._folder, self._deployments[child], child, 1.0)

    async def serve(self) -> None:
        """Wait until each can be reached."""
        for child in self._deployments:
            await until(socket_of(self._folder, child).exists, deadline_s=60)

    async def call(self, child: str, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """Send a request to a process, and note those that a death moves from one to another."""
        if "embed" in message:
            return await self._call(child, message)
        request, begun_s = asyncio.current_task(), time.monotonic()
        lost_s = self._lost_s.pop(request, None)
        if lost_s is not None:
            self.moved_s.append(begun_s - lost_s)
        if self._begun is not None and not self._begun.done():
            self._begun.set_result(child)
        try:
            answer = await self._call(child, message)
        except OutageError:
            self._lost_s[request] = max(begun_s, self._killed_s.get(child, begun_s))
            raise
        if lost_s is not None and "text" in answer:
            self.answered_s.append(time.monotonic() - lost_s)
        return answer

    async def at_work(self) -> str:
        """Return the process that is the next to be given an answer to write, as soon as it is."""
        self._begun = asyncio.get_running_loop().create_future()
        return await self._begun

    async def kill(self, child: str) -> None:
        """kill -9, and start it again a moment later, as its supervisor does."""
        self._killed_s[child] = time.monotonic()
        self._processes[child].kill()
        await asyncio.to_thread(self._processes[child].wait)
        await asyncio.sleep(0.5)
        self._processes[child] = await asyncio.to_thread(self._start, child)

    def end(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()


class Head:
    """The scheduler and the runners of its jobs, killed one by one or together."""

    def __init__(self, url: str, folder: Path) -> None:
        self._command = [sys.executable, "-m", "tests.support.search_head", url, str(folder)]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, start_new_session=True)

    def kill(self) -> None:
        """kill -9, of all of them at once."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def kill_runner(self, job: uuid.UUID) -> bool:
        """kill -9, of the runner of a job; return whether it had one."""
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if str(job) in process.cmdline():
                    process.kill()
                    return True
        return False


class Chaos:
    """The faults of one run."""

    def __init__(self, load: Load, db: Database, postgres: MortalPostgres, head: Head, replicas: Replicas) -> None:
        self._db, self._postgres, self._head, self._replicas = db, postgres, head, replicas
        dice = random.Random(load.seed)
        self.faults: Counter[str] = Counter()
        self.plan = [fault for _ in range(load.rounds) for fault in dice.sample(load.faults, len(load.faults))]

    async def strike(self, fault: str, folder: Path, begun: int) -> None:
        """Strike while vectors of the documents are made. `begun`: the requests for them that were begun before."""
        await until(lambda: embedded(folder) > begun, deadline_s=60)
        match fault:
            case "encoder":
                await self._replicas.kill("inference:words:0")
            case "runner":
                await self._kill_runner("documents")
            case "postgres":
                await asyncio.to_thread(self._postgres.kill)
                await asyncio.to_thread(self._postgres.start)
            case "head":
                assert await JobStore(self._db).open_of("documents")
                await asyncio.to_thread(self._head.kill)
                aged = "UPDATE jobs SET beat_at = now() - interval '31 s' WHERE state = 'running'"  # as time passes
                await self._db.sql(aged)
                self._head.start()
        self.faults[fault] += 1

    async def _kill_runner(self, kind: str) -> None:
        for job in await JobStore(self._db).list(kind=kind, state="running"):
            if self._head.kill_runner(job.id):
                return
        raise AssertionError(f"no job {kind} runs")

    async def kill_trainer(self, models: Path, job: uuid.UUID) -> None:
        """Kill the runner of the training once a fold has ended. The database, which may be away, is not asked: the
        training could end meanwhile."""
        await until(lambda: list(models.glob("*/0.json")), deadline_s=90)
        assert self._head.kill_runner(job), "the training has ended"
        self.faults["trainer"] += 1

    async def kill_replica(self) -> None:
        """Kill a process that writes an answer."""
        async with asyncio.timeout(60):
            child = await self._replicas.at_work()
        await self._replicas.kill(child)
        self.faults["replica"] += 1


async def prepare(db: Database, *served: Deployment) -> None:
    """Store the bars of a training, and deployments whose processes are ready."""
    await seed(db)
    await seal(db, autoregression(900, 0.5, 1, timeframe_s=60)[:800])
    for one in served:
        await DeploymentStore(db).save(one, by="test")
        for number in range(one.replicas):
            await db.sql(
                "INSERT INTO component_health (name, kind, state, beat_at)"
                " VALUES ($1, 'actor', 'ready', now() + interval '1 hour')",
                one.child(number),
            )


async def left_of(db: Database, load: Load) -> Left:
    """Return the stored rows and the model."""
    (version,) = await ForecastStore(db).versions(load.spec["name"])
    names = ("fingerprint", "artifact_hash", "data_hash", "folds", "metrics", "checks")
    rows = [dict(row) for row in await db.sql(ROWS)]
    (count,) = await db.sql("SELECT count(*) AS vectors FROM ai_embeddings")
    return Left(rows, count["vectors"], {name: getattr(version, name) for name in names})


async def undisturbed(db: Database, load: Load, words: Deployment, models: Path) -> Left:
    """Do the work of jobs in this process, without a fault."""
    await prepare(db, words)
    engine = engine_of(words)
    await engine.load()
    queue = InferenceQueue(engine)
    for document in load.documents():
        await save(DocumentStore(db), document["name"], document["text"])
    await run_documents(db, lambda _, message: queue.call(message))
    await run_forecast(load.spec, db, models, by="test")
    await engine.close()
    return await left_of(db, load)


@contextmanager
def home() -> Iterator[Path]:
    """Give a folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="fks-ai-") as folder:
        yield Path(folder)


@asynccontextmanager
async def serving(
    load: Load, postgres: MortalPostgres, redis_url: str, folder: Path, served: Sequence[Deployment]
) -> AsyncIterator[tuple[Database, Running, Chaos, Replicas]]:
    """Give a gateway, processes of models, and a head whose runners do the jobs."""
    db = await Database.connect(postgres.url, DatabaseSettings(retry_s=20.0), application="test")
    await prepare(db, *served)
    replicas = Replicas(folder, *served)
    head = Head(postgres.url, folder)
    try:
        await replicas.serve()
        ai = {"answer_timeout_s": ANSWER_S}
        async with running(db, postgres.url, redis_url, folder, inference=replicas.call, ai=ai) as gateway:
            yield db, gateway, Chaos(load, db, postgres, head, replicas), replicas
    finally:
        head.kill()
        replicas.end()
        await db.close()


async def send(client: httpx.AsyncClient, documents: Sequence[Mapping[str, str]]) -> None:
    """Store documents, each again until it is stored."""
    for document in documents:

        async def is_stored(document: Mapping[str, str] = document) -> bool:
            answer = await client.post("/documents", json=document)
            assert answer.status_code in (200, 201, 503), answer.text
            return answer.status_code != 503

        await until(is_stored, deadline_s=60, every_s=0.2)


async def ask(client: httpx.AsyncClient, questions: Iterator[int], left: Left) -> None:
    """Ask questions one by one."""
    for number in questions:
        begun_s = time.monotonic()
        asked = {"question": f"When does animal{number} eat plant{number}?", "collection": "user"}
        answer = await client.post("/answer", json=asked, timeout=2 * (ANSWER_S + SEARCH_S))
        left.seconds.append(time.monotonic() - begun_s)
        found = answer.json()
        left.answers["model" if found.get("mode") == "model" else found.get("reason") or str(answer.status_code)] += 1


async def survive_kills(load: Load, quiet: Database, redis_url: str) -> Left:
    """Do the work undisturbed in `quiet`, and then under kills; assert that nothing of it differs, and that every
    request ended in time. Return the figures of the faults."""
    with home() as folder, mortal_postgres() as postgres, pytest.MonkeyPatch.context() as patch:
        patch.setattr("fks.research.jobs.documents.shipped_pages", dict)  # the documents are the test's alone
        noise = deployed(write_model(folder / "noise.gguf", width=16, layers=1), replicas=2)
        words = encoder(write_encoder(folder / "words", load.words()))
        wanted = await undisturbed(quiet, load, words, folder / "quiet")
        seen = Left([], 0, {})
        served = noise, replace(words, replicas=2)
        async with serving(load, postgres, redis_url, folder, served) as (db, gateway, chaos, replicas):
            training = await JobStore(db).submit(KIND, load.spec, submitted_by="test")
            documents, parts = load.documents(), len(chaos.plan)
            async with gateway.client("trade") as client, asyncio.TaskGroup() as whole:
                # else the first questions, which it answers, may be over before a model is asked
                await send(client, documents[:1])
                whole.create_task(chaos.kill_trainer(Paths.of(folder).models, training))
                for part, fault in enumerate(chaos.plan):
                    share = documents[len(documents) * part // parts : len(documents) * (part + 1) // parts]
                    known = len(documents) * part // parts * CHUNKS_EACH or CHUNKS_EACH
                    numbers = range(load.answers * part // parts, load.answers * (part + 1) // parts)
                    questions, begun = iter([number % known for number in numbers]), embedded(folder)
                    async with asyncio.TaskGroup() as tasks:
                        tasks.create_task(send(client, share))
                        tasks.create_task(chaos.strike(fault, folder, begun))
                        tasks.create_task(chaos.kill_replica())
                        for _ in range(2):
                            tasks.create_task(ask(client, questions, seen))
                    await until(partial(is_done, db, "documents"), deadline_s=120, every_s=0.3)
            await until(partial(is_done, db), deadline_s=120, every_s=0.3)
            job = await JobStore(db).get(training)
            assert job is not None
            assert (job.state, job.error if job.state != "done" else None) == ("done", None)
            left = await left_of(db, load)
        left.faults, left.answers, left.seconds = chaos.faults, seen.answers, seen.seconds
        left.moved_s, left.answered_s = replicas.moved_s, replicas.answered_s
    print(left.shown())
    assert len(wanted.rows) == load.chunks == left.vectors
    assert all(row["vector"] for row in wanted.rows)
    assert left.rows == wanted.rows, "a chunk or its vector was lost, doubled or changed"
    assert left.forecast == wanted.forecast, "the deaths changed the model"
    assert len(left.seconds) == load.answers
    assert max(left.seconds) <= ANSWER_S + SEARCH_S
    parts = load.rounds * len(load.faults)
    assert left.faults == {**dict.fromkeys(load.faults, load.rounds), "replica": parts, "trainer": 1}
    assert len(left.moved_s) >= parts
    assert max(left.moved_s) <= MOVED_S, "the request of a killed process waits for another one"
    assert left.answers["model"] >= load.answers // 2
    return left


async def is_done(db: Database, kind: str | None = None) -> bool:
    """Return whether no job is open and no chunk lacks its vector."""
    with contextlib.suppress(OutageError):
        await submit_pending(db, time.time_ns())
        jobs = await JobStore(db).list(kind=kind)
        return all(job.is_ended for job in jobs) and await DocumentStore(db).pending({}) is None
    return False
