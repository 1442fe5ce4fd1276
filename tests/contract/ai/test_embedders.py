"""Vectors of the search: their index beyond 20,000 chunks, and versions that replace each other."""

from __future__ import annotations

import asyncio
import base64
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fks.ai.engines import engine_of
from fks.ai.engines.deployment import Deployment, check_deployment
from fks.ai.engines.encoder_files import external_weights
from fks.ai.engines.port import Embedding, ModelEngine
from fks.ai.engines.queue import InferenceQueue
from fks.config.paths import Paths
from fks.interfaces.cli.base import OK, USAGE
from fks.model.errors import InputError, OutageError, PeerError, Problem
from fks.model.timeframe import NS
from fks.research.jobs.documents import submit_pending
from fks.store import migrate
from fks.store.db import Database
from fks.store.deployments import DeploymentStore
from fks.store.documents import EXACT_MAX, DocumentStore
from fks.store.jobs import JobStore
from fks.system.servers import backup
from tests.support.api_fixtures import Fks
from tests.support.documents import save
from tests.support.gateway import Running, running
from tests.support.gguf_model import deployed, write_model
from tests.support.onnx_model import encoder, external, write_encoder

DIMENSIONS = 32
HOUR_NS = 3600 * NS
Message = Mapping[str, Any]


async def serve(db: Database, deployment: Deployment, *, is_ready: bool = True) -> None:
    """Have a deployment whose process is ready, or not."""
    await DeploymentStore(db).save(deployment, by="me")
    await db.sql(
        "INSERT INTO component_health (name, kind, state, beat_at) VALUES ($1, 'actor', $2, now() + '1 hour')"
        " ON CONFLICT (name) DO UPDATE SET state = EXCLUDED.state",
        deployment.child(0),
        "ready" if is_ready else "starting",
    )


class Corpus:
    """Clustered vectors for more chunks than an exact scan serves; `rare` is a collection of 1 in 100."""

    def __init__(self, count: int) -> None:
        draw = np.random.default_rng(30)
        centres = draw.standard_normal((200, DIMENSIONS), np.float32)
        self.vectors = centres[draw.integers(0, 200, count)] + 0.4 * draw.standard_normal(
            (count, DIMENSIONS), np.float32
        )
        self.vectors /= np.linalg.norm(self.vectors, axis=1, keepdims=True)
        self.questions = centres[:15] + 0.4 * draw.standard_normal((15, DIMENSIONS), np.float32)
        self.questions /= np.linalg.norm(self.questions, axis=1, keepdims=True)
        self.ids = [uuid.UUID(int=number + 1) for number in range(count)]
        self.is_rare = np.arange(count) % 100 == 7

    async def store(self, db: Database, deployment: str, sha256: str) -> None:
        documents = {name: uuid.uuid4() for name in ("rare", "common")}
        for name, id in documents.items():
            await db.sql(
                "INSERT INTO ai_documents (id, collection, name, title, kind, content_hash, characters)"
                " VALUES ($1, $2, $2, $2, 'text', '', 1)",
                id,
                name,
            )
        async with db.transaction() as tx:
            columns = ["id", "document_id", "ordinal", "headings", "heading", "text", "start_at", "end_at", "tokens"]
            rows: list[tuple[object, ...]] = [
                (id, documents["rare" if rare else "common"], number, [], "", "zebra", 0, 1, 1)
                for number, (id, rare) in enumerate(zip(self.ids, self.is_rare, strict=True))
            ]
            await tx.connection.copy_records_to_table("ai_chunks", records=rows, columns=columns)
            (made,) = await tx.sql(
                "INSERT INTO ai_embedders (name, dimensions, chunks, sha256, model, deployment, state)"
                " VALUES ('onnx', $1, $2, $3, '', $4, 'active') RETURNING id",
                DIMENSIONS,
                len(rows),
                sha256,
                deployment,
            )
            vectors = [(made["id"], id, one.tolist()) for id, one in zip(self.ids, self.vectors, strict=True)]
            await tx.connection.copy_records_to_table("ai_embeddings", records=vectors)
        await db.sql("ANALYZE ai_chunks, ai_embeddings, ai_documents")

    async def answer(self, child: str, message: Message) -> Mapping[str, Any]:
        asked = [self.questions[int(text.removeprefix("zebra"))] for text in message["embed"]["texts"]]
        return {"vectors": [one.tolist() for one in asked]}

    def nearest(self, question: int, depth: int, among: np.ndarray) -> list[uuid.UUID]:
        distances = 1 - self.vectors @ self.questions[question]
        order = np.argsort(np.where(among, distances, np.inf), kind="stable")
        return [self.ids[number] for number in order[:depth]]


async def test_index_beyond_exact_scans_finds_the_same_under_a_filter(database: Database, as_jobs: Database) -> None:
    corpus = Corpus(EXACT_MAX + 500)
    wanted = Deployment("vectors", "onnx", "/models/a", sha256="a" * 64, purpose="embed")
    await corpus.store(database, wanted.name, wanted.sha256)
    await serve(database, wanted)
    reader = DocumentStore(database, corpus.answer)
    assert await reader.pending({}) is not None, "the index is missing"
    assert await DocumentStore(as_jobs, corpus.answer).embed() == "0 chunks embedded"
    assert await reader.pending({}) is None
    cases = {"rare": corpus.is_rare, "common": ~corpus.is_rare, None: np.ones(len(corpus.ids), bool)}
    for collection, among in cases.items():
        found = []
        for question in range(len(corpus.questions)):
            search = await reader.search(f"zebra{question}", collection=collection, limit=50, mode="vector")
            assert (search.mode, len(search.hits)) == ("vector", 50), "as many rows as the exact scan"
            ids = [hit.row["id"] for hit in search.hits]
            found.append(len({*ids[:10]} & {*corpus.nearest(question, 10, among)}) / 10)
        assert np.mean(found) >= 0.95, (collection, np.mean(found))
    await database.sql("SELECT pg_stat_force_next_flush()")
    (used,) = await database.sql(
        "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname LIKE 'ix_ai_embeddings_hnsw_%'"
    )
    assert used["idx_scan"] >= 2 * len(corpus.questions)


# ── versions ─────────────────────────────────────────────────────────────────────────────────────
PAGES = {"a.markdown": "".join(f"# Part {n}\nanimal{n} zebra lion\n" for n in range(40))}
WORDS = ["part", "zebra", "lion", *(f"animal{n}" for n in range(41)), *(str(n) for n in range(41)), "okapi"]


class Processes:
    """The processes of served models, by the name of the deployment."""

    def __init__(self) -> None:
        self.queues: dict[str, InferenceQueue] = {}
        self.engines: list[ModelEngine] = []
        self.delay_s = 0.0

    async def start(self, deployment: Deployment) -> None:
        engine = engine_of(deployment)
        await engine.load()
        self.engines.append(engine)
        self.queues[deployment.child(0)] = InferenceQueue(engine)

    async def call(self, child: str, message: Message) -> Mapping[str, Any]:
        await asyncio.sleep(self.delay_s)
        if child not in self.queues:
            raise OutageError(f"{child} is gone")
        return await self.queues[child].call(message)


@pytest.fixture
async def processes() -> AsyncIterator[Processes]:
    made = Processes()
    yield made
    for engine in made.engines:
        await engine.close()


async def embedders(db: Database) -> list[tuple[str, str, int]]:
    """Return (deployment, state, vectors) of each version."""
    rows = await db.sql(
        "SELECT e.deployment, e.state, count(v.*) AS vectors FROM ai_embedders e"
        " LEFT JOIN ai_embeddings v ON v.embedder_id = e.id GROUP BY e.id ORDER BY e.id"
    )
    return [tuple(row) for row in rows]


async def test_served_version_replaces_the_built_in_one_and_gives_way(
    database: Database, as_jobs: Database, processes: Processes, tmp_path: Path
) -> None:
    store, job = DocumentStore(database, processes.call), DocumentStore(as_jobs, processes.call)
    await store.store_pages(PAGES)
    await job.embed()
    assert await embedders(database) == [("", "active", 40)]
    wanted = encoder(write_encoder(tmp_path / "a", WORDS))
    await serve(database, wanted, is_ready=False)
    assert await store.pending(PAGES) is None, "until it serves, the version in force stays"
    await processes.start(wanted)
    await serve(database, wanted)
    assert await store.pending(PAGES) is not None
    assert await job.embed() == "embedder 2 by words on 40 chunks"
    assert (await embedders(database), await store.pending(PAGES)) == ([("words", "active", 40)], None)
    (row,) = await database.sql("SELECT recall FROM ai_embedders")
    assert row["recall"] >= 0.9
    indexes = await database.sql("SELECT indexname FROM pg_indexes WHERE indexname LIKE 'ix_ai_embeddings_hnsw_%'")
    assert [row["indexname"] for row in indexes] == ["ix_ai_embeddings_hnsw_2"]
    found = await store.search("animal7", mode="vector", limit=1)
    assert (found.mode, found.hits[0].row["headings"]) == ("vector", ["Part 7"])
    await save(store, "b.markdown", "# Okapi\nokapi\n")
    assert await job.embed() == "1 chunks embedded"
    assert (await store.search("okapi", mode="vector", limit=1)).hits[0].row["headings"] == ["Okapi"]
    await DeploymentStore(database).save(replace(wanted, replicas=2), by="me")
    second = replace(wanted, replicas=2).child(1)
    await database.sql(
        "INSERT INTO component_health (name, kind, state, beat_at) VALUES ($1, 'actor', 'ready', now() + '1 hour')",
        second,
    )
    processes.queues[second] = processes.queues.pop(wanted.child(0))
    assert (await store.search("animal7")).mode == "hybrid", "one process died, and the other answers"
    processes.queues[wanted.child(0)] = processes.queues[second]
    processes.delay_s = 5.0
    begun = time.monotonic()
    assert (await store.search("animal7")).mode == "lexical"
    assert time.monotonic() - begun < 2.0
    processes.delay_s = 0.0
    assert (await store.search("animal7")).mode == "hybrid"
    assert await store.pending(PAGES) is None
    await database.sql("UPDATE ai_deployments SET state = 'failed'")
    assert await store.pending(PAGES) is not None, "the built-in model takes over"
    await DeploymentStore(database).remove("words")
    assert (await store.search("animal7")).mode == "lexical"
    assert (await job.embed()).startswith("embedder 3 fitted")
    assert await embedders(database) == [("", "active", 41)]
    assert (await store.search("animal7")).mode == "hybrid"


async def test_vectors_of_two_versions_never_meet(
    database: Database, as_jobs: Database, processes: Processes, tmp_path: Path
) -> None:
    store, job = DocumentStore(database, processes.call), DocumentStore(as_jobs, processes.call)
    await store.store_pages(PAGES)
    first = encoder(write_encoder(tmp_path / "a", WORDS))
    await processes.start(first)
    await serve(database, first)
    await job.embed()
    other = encoder(write_encoder(tmp_path / "b", WORDS, seed=2))
    assert other.sha256 != first.sha256
    await processes.start(other)
    assert (await store.search("animal7")).mode == "lexical", "a process of another version answers in vain"
    await serve(database, other)
    assert await job.embed() == "embedder 2 by words on 40 chunks"
    assert (await store.search("animal7")).mode == "hybrid"
    processes.queues.clear()
    await processes.start(replace(other, purpose="answer"))
    assert (await store.search("animal7")).mode == "lexical"


async def test_version_that_a_job_builds_is_not_given_up_for_another(
    database: Database, as_jobs: Database, processes: Processes, tmp_path: Path
) -> None:
    store, jobs = DocumentStore(database), JobStore(database)
    await store.store_pages(PAGES)
    await DocumentStore(as_jobs).embed()
    wanted = encoder(write_encoder(tmp_path / "a", WORDS))
    await processes.start(wanted)
    await serve(database, wanted)
    assert await submit_pending(database, HOUR_NS) is not None
    assert await jobs.claim() is not None
    processes.delay_s = 0.2
    first = asyncio.create_task(DocumentStore(as_jobs, processes.call).embed())
    while not await store.is_building():
        await asyncio.sleep(0.01)
    await save(store, "b.markdown", "# Okapi\nokapi\n")
    assert await submit_pending(database, 2 * HOUR_NS) is None, "a build may take longer than an hour"
    # jobs that were queued before: the version of the first one is given up, which is no fault of the program
    second = asyncio.create_task(DocumentStore(as_jobs, processes.call).embed())
    ended = await asyncio.gather(first, second)
    assert [("given up by another job" in text, "by words on" in text) for text in ended] == [
        (True, False),
        (False, True),
    ]
    await database.sql("UPDATE jobs SET state = 'failed'")
    await database.sql("INSERT INTO ai_embedders (name, dimensions, chunks, sha256, model) VALUES ('a', 1, 1, '', '')")
    await save(store, "c.markdown", "# Gnu\ngnu\n")
    assert await submit_pending(database, 2 * HOUR_NS) is not None, "the job that began it has ended"


async def test_noise_is_refused_and_bad_vectors_leave_the_old_version(
    database: Database, as_jobs: Database, processes: Processes, tmp_path: Path
) -> None:
    job = DocumentStore(as_jobs, processes.call)
    await DocumentStore(database).store_pages(PAGES)
    await job.embed()
    noise = encoder(write_encoder(tmp_path / "noise", WORDS, is_noise=True))
    await processes.start(noise)
    await serve(database, noise)
    assert "is refused" in await job.embed()
    assert await embedders(database) == [("", "active", 40), ("words", "refused", 0)]
    assert await job.pending(PAGES) is None
    assert await job.embed() == "0 chunks embedded"
    assert (await job.search("animal7")).mode == "hybrid"
    await serve(database, noise)
    assert await job.pending(PAGES) is not None, "it is deployed again"
    for vectors in ([[float("nan")] * 8], [[0.0] * 8], [[1.0]], [[1.0] * 3000], [], [["x"]], None):

        async def bad(child: str, message: Message, vectors: Any = vectors) -> Mapping[str, Any]:
            return {"vectors": vectors}

        assert "another size, or without a length" in await DocumentStore(as_jobs, bad).embed()
    assert ("", "active", 40) in await embedders(database)


async def test_restored_backup_makes_its_index_again(database: Database, database_url: str, tmp_path: Path) -> None:
    paths, store = Paths.of(tmp_path), DocumentStore(database)
    await store.store_pages(PAGES)
    await store.embed()
    assert await store.pending(PAGES) is None
    file = backup.dump(database_url, paths)
    await database.close()
    backup.restore(database_url, paths, file)
    await migrate.upgrade(database_url)
    again = await Database.connect(database_url)
    restored = DocumentStore(again)
    assert await restored.pending(PAGES) is not None
    assert await restored.embed() == "0 chunks embedded"
    assert await restored.pending(PAGES) is None
    assert (await restored.search("animal7")).mode == "hybrid"
    await again.close()


# ── engines ──────────────────────────────────────────────────────────────────────────────────────
async def test_gguf_file_gives_vectors_of_its_own_hash_alone(tmp_path: Path) -> None:
    wanted = deployed(write_model(tmp_path / "a.gguf"), purpose="embed", context_size=2048)
    check_deployment(wanted)
    engine = engine_of(wanted)
    await engine.load()
    queue = InferenceQueue(engine)
    asked = Embedding(("zebras eat hay", "lions sleep", "zebras eat hay", "x" * 9_000, ""), wanted.sha256, False, 30.0)
    vectors = (await queue.call(asked.message()))["vectors"]
    found = np.array(vectors)
    assert found.shape == (5, 64)
    assert np.isfinite(found).all()
    assert np.allclose(found[0], found[2])
    assert not np.allclose(found[0], found[1], atol=1e-3)
    assert "another model" in (await queue.call(replace(asked, sha256="b" * 64).message()))["refused"]
    assert await queue.call(replace(asked, timeout_s=0.0).message()) == {"refused": "deadline"}
    await engine.close()


async def test_encoder_reads_prompts_and_pools_as_its_folder_says(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "a", WORDS)
    plain = await vectors_of(folder, "zebra lion", "lion zebra", "zebra")
    assert np.allclose(plain[0], plain[1])
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text('{"pooling_mode_cls_token": true}')
    first = await vectors_of(folder, "zebra lion", "lion zebra", "zebra")
    assert np.allclose(first[0], first[2])
    assert not np.allclose(first[0], first[1])
    (folder / "config_sentence_transformers.json").write_text('{"prompts": {"query": "lion ", "passage": "zebra "}}')
    assert np.allclose(await vectors_of(folder, "part"), [first[2]])
    assert np.allclose(await vectors_of(folder, "part", is_question=True), [first[1]])


async def vectors_of(folder: Path, *texts: str, is_question: bool = False) -> np.ndarray:
    wanted = encoder(folder)
    engine = engine_of(wanted)
    await engine.load()
    found = await engine.embed(Embedding(texts, wanted.sha256, is_question, 30.0))
    await engine.close()
    return np.array(found)


async def test_encoder_with_files_outside_of_its_folder_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(4 * 8 * (len(WORDS) + 1)))
    inside = write_encoder(tmp_path / "inside", WORDS, weights_in="weights.bin")
    assert external_weights((inside / "model.onnx").read_bytes()) == {"weights.bin"}
    assert (await vectors_of(inside, "zebra")).shape == (1, 64)
    wanted = encoder(inside)
    (inside / "weights.bin").write_bytes(bytes((inside / "weights.bin").stat().st_size))
    with pytest.raises(PeerError, match="another SHA-256"):
        await engine_of(wanted).load()
    linked = write_encoder(tmp_path / "linked", WORDS)
    (linked / "model.onnx").rename(tmp_path / "model.onnx")
    (linked / "model.onnx").symlink_to(tmp_path / "model.onnx")
    cases = {linked: "outside of the folder"}
    for number, place in enumerate(("../secret.bin", str(secret), "weights/../../secret.bin")):
        folder = write_encoder(tmp_path / f"outside{number}", WORDS)
        (folder / "model.onnx").write_bytes(external((folder / "model.onnx").read_bytes(), place))
        cases[folder] = "outside of the folder"
    missing = write_encoder(tmp_path / "missing", WORDS, weights_in="weights.bin")
    (missing / "weights.bin").unlink()
    cases[missing] = "is missing"
    cut = write_encoder(tmp_path / "cut", WORDS)
    (cut / "model.onnx").write_bytes((cut / "model.onnx").read_bytes()[:-7])
    cases[cut] = "truncated"
    empty = write_encoder(tmp_path / "none", WORDS)
    (empty / "model.onnx").write_bytes(b"")
    cases[empty] = "is empty"
    text = write_encoder(tmp_path / "text", WORDS)
    (text / "model.onnx").write_bytes(b"\xff" * 40)
    cases[text] = "no ONNX model"
    for number, place in enumerate(("w" * 300, "w\0.bin")):
        folder = write_encoder(tmp_path / f"named{number}", WORDS)
        (folder / "model.onnx").write_bytes(external((folder / "model.onnx").read_bytes(), place))
        cases[folder] = "cannot be read"
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    cases |= dict.fromkeys((tmp_path / "circle", tmp_path / ("a" * 300)), "cannot be read")
    (tmp_path / "empty").mkdir()
    cases[tmp_path / "empty"] = "no folder with model.onnx"
    for folder, reason in cases.items():
        with pytest.raises(InputError, match=reason) as refused:
            check_deployment(Deployment("words", "onnx", str(folder), purpose="embed"))
        assert refused.value.status == 422


async def test_commands_deploy_the_folder_of_an_encoder(
    gateway: Running, seeded: Database, fks: Fks, processes: Processes, tmp_path: Path
) -> None:
    folder = write_encoder(tmp_path / "a", WORDS)
    code, out, err = await fks("ai", "deploy", "words", "--file", str(folder), "--embed")
    assert (code, err) == (OK, "")
    (row,) = await DeploymentStore(seeded).all()
    wanted = encoder(folder)
    assert (row["engine"], row["purpose"], row["model"]) == ("onnx", "embed", str(folder))
    assert (row["sha256"], row["size_bytes"]) == (wanted.sha256, wanted.size_bytes)
    code, out, _ = await fks("ai", "models")
    assert (code, "embed" in out) == (OK, True)
    await serve(seeded, wanted)
    async with gateway.client("read") as client:
        answer = (await client.post("/answer", json={"question": "zebra?", "model": "words"})).json()
        assert answer["mode"] == "extract_only", "a model that embeds writes no answer"
    async with gateway.client("admin") as client:
        pinned = await client.post(
            "/ai/deployments",
            json={"name": "words", "engine": "onnx", "purpose": "embed", "model": str(folder), "sha256": "0" * 64},
        )
        assert (pinned.status_code, pinned.json()["code"]) == (422, "AI_DEPLOYMENT")
    code, _, err = await fks("ai", "deploy", "words", "--file", str(folder))
    assert (code, "writes no answers" in err) == (USAGE, True)


async def test_texts_become_vectors_of_the_version_in_force(
    gateway: Running, seeded: Database, as_jobs: Database, fks: Fks
) -> None:
    texts = ["animal7", "how does a zebra sleep?", "xyzzy", "the", "Zebra."]
    async with gateway.client("read") as client:
        early = await client.post("/embeddings", json={"input": texts})
        assert (early.status_code, early.json()["code"], early.headers["Retry-After"]) == (503, "EMBEDDER_AWAY", "5")
        await DocumentStore(seeded).store_pages(PAGES)
        await DocumentStore(as_jobs).embed()
        found = (await client.post("/embeddings", json={"input": texts})).json()
        (row,) = await seeded.sql("SELECT id, sha256, dimensions FROM ai_embedders")
        assert [found[name] for name in ("version", "sha256", "dimensions")] == list(row)
        assert (found["object"], found["model"], found["usage"]["total_tokens"] > 5) == ("list", "tfidf-svd", True)
        assert [one["index"] for one in found["data"]] == list(range(5))
        vectors = [one["embedding"] for one in found["data"]]
        assert vectors[2:4] == [None, None], "no word is known"
        known = np.array([vectors[0], vectors[1], vectors[4]])
        assert known.shape == (3, found["dimensions"])
        np.testing.assert_allclose(np.linalg.norm(known, axis=1), 1.0, rtol=1e-6)
        assert vectors[1] == vectors[4], "how, does and a are stop words; sleep is unknown"
        (stored,) = await seeded.sql(
            "SELECT embedding FROM ai_embeddings v JOIN ai_chunks c ON c.id = v.chunk_id WHERE c.heading = 'Part 7'"
        )
        text = PAGES["a.markdown"].partition("# Part 7\n")[2].partition("\n")[0]
        near = (await client.post("/embeddings", json={"input": f"Part 7 Part 7 Part 7 {text}"})).json()
        np.testing.assert_allclose(near["data"][0]["embedding"], stored["embedding"], atol=1e-6)
        packed = {"input": "Zebra.", "encoding_format": "base64", "model": "tfidf-svd", "version": row["id"]}
        (one,) = (await client.post("/embeddings", json=packed)).json()["data"]
        assert np.frombuffer(base64.b64decode(one["embedding"]), "<f4").tolist() == pytest.approx(vectors[4], abs=6e-9)
        for other in ({"model": "gpt"}, {"version": row["id"] + 1}):
            refused = await client.post("/embeddings", json={"input": "zebra", **other})
            assert (refused.status_code, refused.json()["code"]) == (409, "EMBEDDER_OTHER")
        for wrong in ("", [], [""], ["a"] * 65, "a" * 8001, [1], None, "nul\0", "\ud800"):
            body = json.dumps({"input": wrong})
            refused = await client.post("/embeddings", content=body)
            assert refused.status_code in (400, 422), wrong
    async with gateway.client(None) as client:
        assert (await client.post("/embeddings", json={"input": "zebra"})).status_code == 401
    code, out, _ = await fks("ai", "embed", "zebra", "xyzzy", "--json")
    assert (code, json.loads(out)["data"][0]["embedding"]) == (OK, vectors[4])
    code, out, _ = await fks("ai", "embed", "zebra", "xyzzy")
    assert (code, "no word of it is known" in out) == (OK, True)
    await seeded.sql("DROP EXTENSION vector CASCADE")
    with pytest.raises(Problem) as missing:
        await DocumentStore(seeded).vectors(["zebra"])
    assert (missing.value.status, missing.value.code) == (501, "AI_NOT_INSTALLED")


async def test_a_served_model_embeds_texts_as_questions_or_documents(
    seeded: Database, as_jobs: Database, database_url: str, redis_url: str, processes: Processes, tmp_path: Path
) -> None:
    folder = write_encoder(tmp_path / "a", WORDS)
    (folder / "config_sentence_transformers.json").write_text('{"prompts": {"query": "okapi "}}')
    wanted = encoder(folder)
    await processes.start(wanted)
    await serve(seeded, wanted)
    await DocumentStore(seeded).store_pages(PAGES)
    await DocumentStore(as_jobs, processes.call).embed()
    async with (
        running(seeded, database_url, redis_url, tmp_path, inference=processes.call) as gateway,
        gateway.client("read") as client,
    ):
        texts = [f"animal{number}" for number in range(40)]  # of three requests to the process
        found = (await client.post("/embeddings", json={"input": texts})).json()
        assert (found["model"], found["sha256"], len(found["data"])) == ("words", wanted.sha256, 40)
        alone = (await client.post("/embeddings", json={"input": texts[39]})).json()
        assert alone["data"][0]["embedding"] == pytest.approx(found["data"][39]["embedding"], abs=1e-6)
        asked, spelled = [
            (await client.post("/embeddings", json={"input": text, "input_type": kind})).json()["data"]
            for text, kind in (("animal7", "query"), ("okapi animal7", "document"))
        ]
        assert asked == spelled, "the prompt of questions stands before them"
        assert asked[0]["embedding"] != found["data"][7]["embedding"]
        processes.queues.clear()
        away = await client.post("/embeddings", json={"input": texts})
        assert (away.status_code, away.json()["code"], away.headers["Retry-After"]) == (503, "EMBEDDER_AWAY", "5")


async def test_a_client_that_leaves_ends_the_work_on_its_vectors(
    seeded: Database, as_jobs: Database, database_url: str, redis_url: str, processes: Processes, tmp_path: Path
) -> None:
    wanted = encoder(write_encoder(tmp_path / "a", WORDS))
    await processes.start(wanted)
    await serve(seeded, wanted)
    await DocumentStore(seeded).store_pages(PAGES)
    await DocumentStore(as_jobs, processes.call).embed()
    begun, ended = asyncio.Event(), asyncio.Event()

    async def hung(child: str, message: Message) -> Mapping[str, Any]:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return {}

    async with running(seeded, database_url, redis_url, tmp_path, inference=hung) as gateway:
        async with gateway.client("read") as client:
            asking = asyncio.create_task(client.post("/embeddings", json={"input": "zebra"}))
            await begun.wait()
            asking.cancel()
        async with asyncio.timeout(1.5):
            await ended.wait()


def test_models_that_cannot_embed_or_answer_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(write_encoder(tmp_path / "a", WORDS))
    check_deployment(Deployment("words", "onnx", folder, purpose="embed"))
    for wanted in (
        Deployment("words", "onnx", folder),
        Deployment("words", "onnx", folder, gpus=1.0, purpose="embed"),
        Deployment("words", "ollama", "m", "http://127.0.0.1:1", purpose="embed"),
        Deployment("words", "openai_compatible", "m", "http://127.0.0.1:1", purpose="embed"),
    ):
        with pytest.raises(InputError) as refused:
            check_deployment(wanted)
        assert refused.value.status == 422
    monkeypatch.setattr("fks.ai.engines.deployment.has_onnx", lambda: False)
    with pytest.raises(InputError, match="not installed") as refused:
        check_deployment(Deployment("words", "onnx", folder, purpose="embed"))
    assert refused.value.status == 501


async def test_many_requests_for_vectors_leave_connections_for_orders(
    seeded: Database, as_jobs: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DocumentStore(seeded)
    await store.store_pages(PAGES)
    await DocumentStore(as_jobs).embed()
    fetch, running, most = seeded.fetch, 0, 0

    async def counted(name: str, *args: object) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            return await fetch(name, *args)
        finally:
            running -= 1

    await store.vectors(["zebra"])
    monkeypatch.setattr(seeded, "fetch", counted)
    found = await asyncio.gather(*(store.vectors(["zebra"] * 64) for _ in range(20)))
    assert {len(one.vectors) for one in found} == {64}
    assert 0 < most <= 2
