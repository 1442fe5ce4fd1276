"""Documents, their chunks and vectors in the database, and search over them.

Every change of a document or of the vectors is one transaction, and one at a time: a reader finds the old version or
the new one. Vectors belong to one version of an embedder, and a search compares vectors of one version only. A new
version is built beside the one in force, evaluated, and put in its place in one transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

import asyncpg

from fks.ai.chunks import Chunk, Kind, checked_source, chunks_of, document_id, kind_of_name, title_of
from fks.ai.engines.port import Embedding, InferenceCall
from fks.ai.search import (
    CHUNKS_MIN,
    COVERAGE_MIN,
    SearchTerm,
    TfidfSvd,
    Vector,
    coverage,
    fused,
    quote_of,
    spaced,
    unit_vectors,
)
from fks.model.errors import FksError, InputError, OutageError, PeerError, Problem, conflict, not_found, unprocessable
from fks.store.base import SqlStore, query
from fks.store.db import Database, Row, Transaction, sql
from fks.store.deployments import DeploymentStore

#: the collection of FKS's own pages, which ship with it, and that of persons
SHIPPED: Final = "fks"
USER: Final = "user"
#: of the name of a version that OpenAI makes: no deployment has such a name
PROVIDER_PREFIX: Final = "openai:"
#: chunks of the whole corpus
CORPUS_MAX: Final = 100_000
#: chunks up to which vectors are compared one by one, which is exact; beyond it by their index
EXACT_MAX: Final = 20_000
#: chunks on which the built-in model is fitted at most; their ids are hashes, so the first of them are a fair sample
_FIT_MAX = 20_000
#: share of the chunks that a model may not have seen; beyond it a new one is fitted
_UNSEEN_MAX = 0.2
#: share of headings that a served model must find among ten chunks; below it its version is not put in force
RECALL_MIN: Final = 0.5
_HEADINGS = 50  # that are asked for it
_READ = 2_000  # chunks that are in memory at once
_TEXTS = 16  # in one request to a model, and the seconds that it may take
_TEXTS_S = 120.0
#: time for the vector of a question; beyond it the search is lexical
_QUESTION_S = 1.0
_VECTORS_S = 30.0  # for the vectors of a request
_EMBED_AT_ONCE = 2  # statements and threads of the built-in model in a process, which takes orders, too
_RETRY_AFTER_S = 5
_INDEX_S = 600.0  # for the index of vectors that are stored already, as after a restore
_DEPTH = 50  # of each ranking, before they are merged
_POOL = 5  # chunks that are looked at for each one that is returned
_PASSAGES = 3


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that a search found. `score` is that of the fusion; `coverage` the share of the question's weight in
    words that the chunk holds."""

    row: Row
    score: float
    coverage: float

    def shown(self) -> dict[str, Any]:
        """Return it as JSON values."""
        row = self.row
        return {
            "chunk": row["id"],
            "document": _source_of(row),
            "headings": list(row["headings"]),
            "text": row["text"],
            "start": row["start_at"],
            "end": row["end_at"],
            "score": round(self.score, 6),
            "coverage": round(self.coverage, 4),
        }


@dataclass(frozen=True, slots=True)
class SearchHits:
    """The hits of a search, best first; `mode`: hybrid, lexical (no vectors can be had) or vector."""

    mode: str
    hits: list[Hit]
    terms: list[SearchTerm]
    corpus: int


@dataclass(frozen=True, slots=True)
class FoundPassages:
    """Passages that answer a question, best first. `texts`: the chunk that each is quoted from; `mode`: of the
    search."""

    question: str
    mode: str
    passages: list[dict[str, Any]]
    texts: list[str]

    def shown(self) -> dict[str, Any]:
        """Return them as an answer that no model wrote."""
        return {
            "state": "answered" if self.passages else "not_found",
            "mode": "extract_only",
            "search": self.mode,
            "question": self.question,
            "passages": self.passages,
        }


@dataclass(frozen=True, slots=True)
class TextVectors:
    """Unit vectors of texts by one version of an embedder; None for a text of which the built-in one knows no word."""

    model: str
    version: int
    sha256: str
    dimensions: int
    vectors: Sequence[Vector | None]


@dataclass(frozen=True, slots=True)
class _Embedder:
    """A version of an embedder. `model`: the built-in one; None: a deployment serves it."""

    id: int
    dimensions: int
    sha256: str
    deployment: str
    model: TfidfSvd | None


class DocumentStore(SqlStore[Database], queries="documents"):
    """Documents and search over them. Keeps the embedder in force. Errors of all methods: OutageError."""

    def __init__(self, db: Database, call: InferenceCall | None = None, provider: str = "") -> None:
        """`call`: to the processes of models that embed; None where they cannot be reached. `provider`: the address of
        OpenAI, which makes vectors by consent while nothing is deployed that does; "": it does not."""
        super().__init__(db)
        self._call, self._provider = call, provider
        self._embedder: _Embedder | None = None
        self._has_vectors = False
        self._embedding = asyncio.Semaphore(_EMBED_AT_ONCE)

    # ── documents ──
    @query("list")
    async def page(
        self, collection: str | None = None, *, after: uuid.UUID | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        """Return documents by collection and name, those after one of them."""

    async def get(self, id: uuid.UUID) -> dict[str, Any]:
        """Return a document with its chunks. Errors: InputError 404 DOCUMENT_UNKNOWN."""
        row = await self._db.fetchrow("documents.get", id)
        if row is None:
            raise _unknown(id)
        return {**row, "parts": [dict(part) for part in await self._db.fetch("documents.of_document", id)]}

    async def save(
        self, name: str, kind: Kind, source: str, chunks: Sequence[Chunk], *, by: str
    ) -> tuple[uuid.UUID, bool]:
        """Store a document of a person, or its next version; return its id and whether anything changed. `chunks`: as
        `chunks_of` returns them for its id.

        Errors: InputError 409 DOCUMENTS_FULL beyond CORPUS_MAX chunks.
        Guarantees: all of it or nothing; chunks that did not change keep their rows and vectors.
        """
        id = document_id(USER, name)
        async with self._db.transaction() as tx:
            await tx.execute("documents.lock")
            counts = await tx.fetchrow("documents.counts", id)
            assert counts is not None
            if counts["chunks"] - counts["own"] + len(chunks) > CORPUS_MAX:
                raise conflict(
                    "DOCUMENTS_FULL",
                    f"the documents would have more than {CORPUS_MAX} chunks",
                    "remove documents first: 'fks ai documents remove'",
                )
            return id, await _save(tx, USER, name, kind, source, chunks, by=by)

    async def remove(self, id: uuid.UUID) -> None:
        """Delete a document. Errors: InputError 404 DOCUMENT_UNKNOWN, 409 DOCUMENT_SHIPPED for a page of FKS."""
        row = await self._db.fetchrow("documents.get", id)
        if row is None:
            raise _unknown(id)
        if row["collection"] == SHIPPED:
            raise conflict(
                "DOCUMENT_SHIPPED", f"{row['name']} is a page of FKS itself", "search one collection: collection=user"
            )
        await self._db.fetchrow("documents.remove", id)

    # ── work of jobs ──
    async def pending(self, pages: Mapping[str, str]) -> str | None:
        """Return a name of the work that is to be done, the same while it is the same work; None: nothing.

        `pages`: the shipped ones. Work is to store them, or to embed chunks.
        """
        digest = _digest(pages)
        row = await self._db.fetchrow("documents.state", SHIPPED)
        assert row is not None
        is_stored = row["digest"] == digest or not pages
        is_embedded, wanted = True, ""
        if row["chunks"] >= CHUNKS_MIN and await self.has_vectors():
            served = await self._served()
            wanted = served["sha256"] if served and await self._is_wanted(served, row) else ""
            is_left = bool(row["deployment"]) and served is None
            is_embedded = not (row["missing"] or row["is_unindexed"] or wanted or is_left)
        return None if is_stored and is_embedded else f"{digest}:{row['state']}:{wanted}"

    async def is_building(self) -> bool:
        """Return whether a version was begun and is neither in force nor refused: a job builds it, or ended in it."""

    async def has_vectors(self) -> bool:
        """Return whether pgvector is installed in this database."""
        self._has_vectors = self._has_vectors or bool(await self._db.fetchval("documents.has_vectors"))
        return self._has_vectors

    async def store_pages(self, pages: Mapping[str, str]) -> int:
        """Make the shipped collection equal to `pages`, name to Markdown; return how many changed. One transaction."""
        if await self._db.fetchval("documents.digest", SHIPPED) == _digest(pages):
            return 0
        made = {
            name: (source, await asyncio.to_thread(chunks_of, document_id(SHIPPED, name), "markdown", source))
            for name, source in sorted(pages.items())
        }
        async with self._db.transaction() as tx:
            await tx.execute("documents.lock")
            await tx.execute("documents.remove_others", SHIPPED, list(made))
            return sum(
                [
                    await _save(tx, SHIPPED, name, "markdown", source, chunks, by="fks")
                    for name, (source, chunks) in made.items()
                ]
            )

    async def embed(self) -> str:
        """Give each chunk a vector, by the version in force or by a new one; return what was done. Without pgvector
        nothing is.

        A new version is made of the model of the first deployment that embeds, once it serves. Where there is no such
        deployment, the built-in model is fitted; again when more than a fifth of the chunks are new to it.
        Guarantees: a new version is built beside the one in force and replaces it, with its vectors, in one
        transaction. A served version that finds too few headings is refused, and not built again until it is deployed
        again.
        """
        if not await self.has_vectors():
            return "pgvector is not installed: search is lexical"
        counts, row = await self._db.fetchrow("documents.counts", None), await self._db.fetchrow("documents.embedder")
        assert counts is not None
        total, served = int(counts["chunks"]), await self._served()
        fault = ""
        if served is not None and await self._is_wanted(served, row):
            try:
                return await self._build_served(served, total)
            except FksError as error:  # the version in force goes on
                fault = f"; {served['name']} is not used: {error.message}"
        is_left = row is not None and bool(row["deployment"]) and served is None
        if row is None or is_left or (not row["deployment"] and row["missing"] > _UNSEEN_MAX * total):
            return await self._build_fitted(total) + fault
        stored = await self._db.fetchrow("documents.model", None)
        if stored is None or stored["id"] != row["id"]:
            return f"embedder {row['id']} was replaced meanwhile"
        embedder = _embedder_of(stored)
        await self._index(embedder)
        try:
            return f"{await self._fill(embedder)} chunks embedded{fault}"
        except asyncpg.ForeignKeyViolationError:
            return f"embedder {embedder.id} was replaced meanwhile"

    async def _served(self) -> dict[str, Any] | None:
        """Return the deployment whose model is to embed: the oldest of those that did not fail; OpenAI while there is
        none, with consents for every collection."""
        rows = [row for row in await DeploymentStore(self._db).all() if row["purpose"] == "embed"]
        if rows or not self._provider:
            return next((row for row in rows if row["state"] != "failed"), None)
        models = {row["model"] for row in await self._db.fetch("documents.consented")}
        if len(models) != 1 or None in models:  # vectors of two models never mix
            return None
        name = f"{PROVIDER_PREFIX}{models.pop()}"
        digest = hashlib.sha256(f"{self._provider} {name}".encode()).hexdigest()
        return {"name": name, "engine": "openai", "sha256": digest, "ready": [name]}

    async def _is_wanted(self, served: Mapping[str, Any], row: Row | None) -> bool:
        """Return whether a version of a deployment is to be built in place of `row`, and can be."""
        if not served["ready"]:
            return False
        if row is not None and (row["deployment"], row["sha256"]) == (served["name"], served["sha256"]):
            return False
        return not await self._db.fetchval("documents.refused", served["name"], served["sha256"])

    async def _build_fitted(self, total: int) -> str:
        words: list[dict[str, int]] = []

        async def keep(rows: Sequence[Row]) -> int:
            words.extend(_words_of(row) for row in rows if row["lexemes"])
            return len(rows)

        await self._each(None, keep, most=_FIT_MAX)
        if len(words) < CHUNKS_MIN:
            return f"{len(words)} chunks with words: too few to fit a model"
        model = await asyncio.to_thread(TfidfSvd.fit, words)
        data = model.dump()
        digest = hashlib.sha256(data).hexdigest()
        row = (TfidfSvd.NAME, model.dimensions, total, digest, data, "")
        return await self._build(row, lambda id: _Embedder(id, model.dimensions, digest, "", model))

    async def _build_served(self, served: Mapping[str, Any], total: int) -> str:
        name, digest = served["name"], served["sha256"]
        if name.startswith(PROVIDER_PREFIX):
            await self._check_budgets()
        (probe,) = await self._vectors_of(_Embedder(0, 0, digest, name, None), ["What is FKS?"], is_question=True)
        row = (served["engine"], len(probe), total, digest, b"", name)
        return await self._build(row, lambda id: _Embedder(id, len(probe), digest, name, None))

    async def _check_budgets(self) -> None:
        """Errors: PeerError where the vectors of all chunks may cost more than is left today."""
        for row in await self._db.fetch("documents.cost_of_vectors"):
            if row["cost"] > row["left"]:
                raise PeerError(
                    f"the vectors of {row['collection']} may cost {row['cost']:.6f} USD, and {row['left']:.6f} USD of "
                    "the day's budget are left"
                )

    async def _build(self, row: tuple[object, ...], made: Callable[[int], _Embedder]) -> str:
        """Build a version beside the one in force, evaluate it, and put it in force or refuse it."""
        await self._db.execute("documents.drop_unfinished")
        embedder = made(await self._db.fetchval("documents.add_embedder", *row))
        await self._index(embedder)
        try:
            count = await self._fill(embedder)
        except asyncpg.ForeignKeyViolationError as error:
            raise OutageError(f"embedder {embedder.id} was given up by another job") from error
        recall = await self._recall(embedder)
        async with self._db.transaction() as tx:
            await tx.execute("documents.lock")
            if embedder.model is None and recall is not None and recall < RECALL_MIN:
                await tx.execute("documents.refuse", embedder.id, recall)
                await tx.execute("documents.drop_vectors", embedder.id)
                return f"{embedder.deployment} is refused: it finds {recall:.0%} of the headings that it is asked for"
            await tx.execute("documents.drop_embedders", embedder.id)
            if await tx.fetchrow("documents.activate", embedder.id, recall) is None:
                raise OutageError(f"embedder {embedder.id} was given up by another job")
        await self._db.fetchval("documents.drop_vector_indexes")
        by = f"by {embedder.deployment}" if embedder.deployment else "fitted"
        return f"embedder {embedder.id} {by} on {count} chunks"

    async def _index(self, embedder: _Embedder) -> None:
        async with self._db.transaction() as tx:
            await tx.sql(f"SET LOCAL statement_timeout = '{_INDEX_S:.0f}s'")
            await tx.connection.fetchval(
                sql("documents.index_vectors"), embedder.id, embedder.dimensions, timeout=_INDEX_S
            )

    async def _fill(self, embedder: _Embedder) -> int:
        """Store the vectors that a version lacks; return of how many chunks."""

        async def store(rows: Sequence[Row]) -> int:
            found: Sequence[Vector | None]
            if embedder.model is not None:
                model = embedder.model
                found = await asyncio.to_thread(lambda: [model.embed(_words_of(row)) for row in rows])
            else:
                texts = [f"{row['heading']}\n{row['text']}".strip() for row in rows]
                found = await self._vectors_of_rows(embedder, rows, texts)
            kept = [
                (embedder.id, row["id"], one.tolist()) for row, one in zip(rows, found, strict=True) if one is not None
            ]
            for first in range(0, len(kept), _READ // 4):  # each vector is added to the index as it is stored
                async with self._db.transaction() as tx:
                    await tx.execute("documents.lock")
                    await tx.executemany("documents.add_vector", kept[first : first + _READ // 4])
            return len(rows)

        return await self._each(embedder.id, store)

    async def _each(
        self, embedder: int | None, work: Callable[[Sequence[Row]], Awaitable[int]], most: int = CORPUS_MAX
    ) -> int:
        """Do work on chunks by id, some at a time: on all, or on those without a vector; return their number."""
        after, count = None, 0
        while rows := await self._db.fetch("documents.words", embedder, after, min(_READ, most - count)):
            count += await work(rows)
            after = rows[-1]["id"]
        return count

    async def _recall(self, embedder: _Embedder) -> float | None:
        """Return the share of headings for which a version finds a chunk under them among the ten nearest."""
        counts = await self._db.fetchrow("documents.counts", None)
        rows = await self._db.fetch("documents.headings", _HEADINGS)
        if not rows or counts is None:
            return None
        vectors: Sequence[Vector | None]
        if embedder.model is None:
            headings = [row["heading"] for row in rows]
            vectors = await self._vectors_of_rows(embedder, rows, headings, is_question=True)
        else:
            vectors = [embedder.model.embed(dict.fromkeys(row["lexemes"], 1)) for row in rows]
        found = 0
        for row, vector in zip(rows, vectors, strict=True):
            if vector is not None:
                ids = await self._near(embedder, vector, None, counts["chunks"], 10)
                near = await self._db.fetch("documents.chunks", ids, [])
                found += any(" > ".join(one["headings"]) == row["heading"] for one in near)
        return found / len(rows)

    async def _vectors_of_rows(
        self, embedder: _Embedder, rows: Sequence[Row], texts: Sequence[str], *, is_question: bool = False
    ) -> list[Vector]:
        """Return the vectors of texts of rows, in requests of one collection each. Errors: as `_vectors_of`."""
        found: dict[int, Vector] = {}
        for collection in sorted({row["collection"] for row in rows}):
            own = [number for number, row in enumerate(rows) if row["collection"] == collection]
            for first in range(0, len(own), _TEXTS):
                part = own[first : first + _TEXTS]
                chosen = [texts[number] for number in part]
                made = await self._vectors_of(embedder, chosen, is_question=is_question, collection=collection)
                found |= dict(zip(part, made, strict=True))
        return [found[number] for number in range(len(rows))]

    async def _vectors_of(
        self,
        embedder: _Embedder,
        texts: Sequence[str],
        *,
        is_question: bool = False,
        timeout_s: float = _TEXTS_S,
        collection: str = "",
    ) -> list[Vector]:
        """Return the unit vectors of texts by a served model. Errors: OutageError while no process serves it, PeerError
        for vectors that are none."""
        served = await self._served()
        if self._call is None or served is None or not served["ready"] or served["name"] != embedder.deployment:
            raise OutageError(f"the model {embedder.deployment} embeds nothing now")
        asked = Embedding(tuple(texts), embedder.sha256, is_question, timeout_s, collection)
        answer: Mapping[str, Any] = {}
        for child in served["ready"][:2]:  # after the death of one, once to another
            try:
                answer = await self._call(child, asked.message())
                break
            except OutageError as error:
                answer = {"error": error.message}
        if "vectors" not in answer:
            raise OutageError(f"{embedder.deployment}: {answer.get('error') or answer.get('refused')}")
        found = unit_vectors(answer["vectors"])
        if found is None or len(found) != len(texts) or embedder.dimensions not in (0, found.shape[1]):
            raise PeerError(f"{embedder.deployment} gave vectors of another size, or without a length")
        return list(found)

    # ── search ──
    async def search(
        self, question: str, *, collection: str | None = None, limit: int = 10, mode: str = "hybrid"
    ) -> SearchHits:
        """Return the chunks that fit a question best: full text (any of its words) and vectors, merged by rank.

        `mode`: lexical or vector leaves the other one out. Without vectors the result is lexical, and says so.
        """
        rows = await self._db.fetch("documents.terms", spaced(question))
        terms = [SearchTerm(row["lexeme"], row["chunks"]) for row in rows]
        corpus = int(rows[0]["corpus"]) if rows else 0
        if not terms:
            return SearchHits("lexical", [], [], corpus)
        rankings = []
        if mode != "lexical":
            words = {row["lexeme"]: row["times"] or 1 for row in rows}
            near = await self._nearest(question, words, collection, corpus)
            if near is None:
                mode = "lexical"
            else:
                rankings.append(near)
        if mode != "vector":
            quoted, weights = [f"'{term.lexeme}'" for term in terms], [term.weight(corpus) for term in terms]
            found = await self._db.fetch("documents.lexical", quoted, weights, collection, _DEPTH)
            rankings.append([str(row["id"]) for row in found])
        ranked = fused(*rankings)[: _POOL * limit]
        ids = [uuid.UUID(one) for one, _ in ranked]
        chunks = await self._db.fetch("documents.chunks", ids, [term.lexeme for term in terms])
        by_id = {str(row["id"]): row for row in chunks}
        hits = [
            Hit(by_id[one], score, coverage(terms, corpus, by_id[one]["held"])) for one, score in ranked if one in by_id
        ]
        return SearchHits(mode, _by_section(hits)[:limit], terms, corpus)

    async def passages(self, question: str, *, collection: str | None = None) -> FoundPassages:
        """Return passages that answer a question, quoted literally; none where no chunk holds enough of it."""
        found = await self.search(question, collection=collection)
        good = [hit for hit in found.hits if hit.coverage >= COVERAGE_MIN][:_PASSAGES]
        return FoundPassages(
            question, found.mode, [_passage(hit, found) for hit in good], [str(hit.row["text"]) for hit in good]
        )

    async def _nearest(
        self, question: str, words: Mapping[str, int], collection: str | None, corpus: int
    ) -> list[str] | None:
        """Return ids by distance. None without pgvector or an embedder, when the embedder knows none of the words, or
        does not answer within a second."""
        if not await self.has_vectors():
            return None
        embedder, vector = await self._in_force(), None
        if embedder is None:
            return None
        if embedder.model is not None:
            vector = embedder.model.embed(words)
        else:
            with contextlib.suppress(FksError, TimeoutError):
                async with asyncio.timeout(_QUESTION_S):
                    (vector,) = await self._vectors_of(
                        embedder, [question], is_question=True, timeout_s=_QUESTION_S, collection=collection or ""
                    )
        if vector is None:
            return None
        try:
            ids = await self._near(embedder, vector, collection, corpus, _DEPTH)
        except asyncpg.UndefinedObjectError:  # a restored database has pgvector only after its next upgrade
            self._has_vectors = False
            return None
        return [str(id) for id in ids] or None  # none: it was replaced just now

    async def _in_force(self) -> _Embedder | None:
        row = await self._db.fetchrow("documents.model", None if self._embedder is None else self._embedder.id)
        if row is not None:
            self._embedder = _embedder_of(row)
        return self._embedder

    async def vectors(
        self, texts: Sequence[str], *, is_question: bool = False, name: str | None = None, version: int | None = None
    ) -> TextVectors:
        """Return vectors of texts by the embedder in force. `is_question`: a served model may embed questions otherwise
        than documents. `name` and `version`: of the embedder that is meant, None: of any.

        Errors: InputError 409 EMBEDDER_OTHER, before a text leaves; Problem 501 AI_NOT_INSTALLED without pgvector; 503
        EMBEDDER_AWAY before the first version is built, and while no process of a served one answers.
        """
        if not await self.has_vectors():
            raise Problem(
                501, "AI_NOT_INSTALLED", "PostgreSQL has no pgvector: there are no vectors", remedy="see docs/ai.md"
            )
        embedder = await self._in_force()
        if embedder is None:
            raise _away("no embedder is built yet")
        known, found = embedder.deployment or TfidfSvd.NAME, list[Vector | None]()
        if name not in (None, known) or version not in (None, embedder.id):
            raise conflict(
                "EMBEDDER_OTHER",
                f"the embedder in force is {known}, version {embedder.id}",
                "embed again what is to be compared",
            )
        try:
            async with asyncio.timeout(_VECTORS_S):
                for first in range(0, len(texts), _TEXTS):
                    part = texts[first : first + _TEXTS]
                    found += await self._embedded(embedder, part, is_question=is_question)
        except TimeoutError:
            raise _away(f"{known} did not answer within {_VECTORS_S:g} s") from None
        return TextVectors(known, embedder.id, embedder.sha256, embedder.dimensions, found)

    async def _embedded(
        self, embedder: _Embedder, texts: Sequence[str], *, is_question: bool
    ) -> Sequence[Vector | None]:
        """Return vectors of some texts. Errors: Problem 503 EMBEDDER_AWAY while no process of a served model
        answers."""
        if (model := embedder.model) is not None:
            async with self._embedding:
                rows = await self._db.fetch("documents.lexemes", [spaced(text) for text in texts])
                return await asyncio.to_thread(lambda: [model.embed(_words_of(row)) for row in rows])
        try:
            return await self._vectors_of(
                embedder, texts, is_question=is_question, timeout_s=_VECTORS_S, collection=USER
            )
        except FksError as error:
            raise _away(error.message) from None

    async def _near(
        self, embedder: _Embedder, vector: Vector, collection: str | None, corpus: int, most: int
    ) -> list[uuid.UUID]:
        if corpus > EXACT_MAX:
            rows = await self._db.fetch(
                "documents.nearest_by_index", embedder.id, embedder.dimensions, collection, vector.tolist(), most
            )
        else:
            rows = await self._db.fetch("documents.nearest", embedder.id, collection, vector.tolist(), most)
        return [row["id"] for row in rows]


@cache
def shipped_pages() -> Mapping[str, str]:
    """Return FKS's own pages, name to Markdown: docs/*.md, which the package holds."""
    folder = resources.files("fks.ai") / "docs"
    if not folder.is_dir():
        return {}
    return {page.name: checked_source(page.read_text()) for page in folder.iterdir() if page.name.endswith(".md")}


def checked_name(name: str, kind: Kind | None = None) -> tuple[str, Kind]:
    """Return name and kind of a document that may be stored. Errors: InputError DOCUMENT_NAME, DOCUMENT_FORMAT."""
    if not name.strip() or len(name) > 200 or not name.isprintable():
        raise unprocessable(
            "DOCUMENT_NAME",
            "the name is empty, longer than 200 characters, or not printable",
            "name it like a file: notes.txt",
        )
    return name.strip(), kind or kind_of_name(name)


async def _save(
    tx: Transaction, collection: str, name: str, kind: Kind, source: str, chunks: Sequence[Chunk], *, by: str
) -> bool:
    id, digest = document_id(collection, name), hashlib.sha256(source.encode()).hexdigest()
    row = await tx.fetchrow(
        "documents.save", id, collection, name, title_of(chunks, name), kind, digest, len(source), by
    )
    if row is None:
        return False
    await tx.execute("documents.drop_chunks", id, [chunk.id for chunk in chunks])
    await tx.executemany(
        "documents.save_chunk",
        [
            (c.id, id, c.ordinal, list(c.headings), " > ".join(c.headings), c.text, c.start, c.end, c.tokens)
            for c in chunks
        ],
    )
    return True


def _embedder_of(row: Row) -> _Embedder:
    model = None if row["deployment"] else TfidfSvd.load(row["model"], row["sha256"])
    return _Embedder(row["id"], row["dimensions"], row["sha256"], row["deployment"], model)


def _away(detail: str) -> Problem:
    headers = {"Retry-After": str(_RETRY_AFTER_S)}
    return Problem(503, "EMBEDDER_AWAY", detail, remedy="try again; see 'fks ai models'", headers=headers)


def _words_of(row: Row) -> dict[str, int]:
    return dict(zip(row["lexemes"], row["counts"], strict=True))


def _by_section(hits: Sequence[Hit]) -> list[Hit]:
    """Return hits with one of each section first, and the others behind them. It stands where the section's best one
    does, and is the first in the text of those with as many of the words. A text without headings has no sections."""
    sections: dict[object, list[Hit]] = {}
    for hit in hits:
        key = (hit.row["document"], *hit.row["headings"]) if hit.row["headings"] else hit.row["id"]
        sections.setdefault(key, []).append(hit)
    first = [
        min((hit for hit in found if hit.coverage == found[0].coverage), key=lambda hit: int(hit.row["ordinal"]))
        for found in sections.values()
    ]
    chosen = {hit.row["id"] for hit in first}
    return [*first, *(hit for hit in hits if hit.row["id"] not in chosen)]


def _digest(pages: Mapping[str, str]) -> str:
    lines = [f"{name}:{hashlib.sha256(text.encode()).hexdigest()}" for name, text in sorted(pages.items())]
    return hashlib.md5("\n".join(lines).encode(), usedforsecurity=False).hexdigest() if lines else ""


def _source_of(row: Row) -> dict[str, Any]:
    return {"id": row["document"], "collection": row["collection"], "name": row["name"], "title": row["title"]}


def _passage(hit: Hit, found: SearchHits) -> dict[str, Any]:
    row = hit.row
    quote = quote_of(row["text"], found.terms, found.corpus)
    return {
        "quote": quote.text,
        "document": _source_of(row),
        "headings": list(row["headings"]),
        "chunk": row["id"],
        "chunk_start": quote.start,
        "chunk_end": quote.end,
        "start": row["start_at"],
        "end": row["end_at"],
        "score": round(hit.score, 6),
        "coverage": round(hit.coverage, 4),
    }


def _unknown(id: uuid.UUID) -> InputError:
    return not_found("DOCUMENT_UNKNOWN", f"there is no document {id}", "see 'fks ai documents list'")
