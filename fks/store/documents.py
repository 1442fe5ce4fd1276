"""Documents, their chunks and vectors in the database, and search over them.

Every change of a document or of the vectors is one transaction, and one at a time: a reader finds the old version or
the new one. Vectors belong to one embedder, and a search compares vectors of one embedder only.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

import asyncpg

from fks.ai.chunks import Chunk, Kind, checked_source, chunks_of, document_id, kind_of_name, title_of
from fks.ai.search import CHUNKS_MIN, COVERAGE_MIN, SearchTerm, TfidfSvd, coverage, fused, quote_of, spaced
from fks.model.errors import InputError
from fks.store.base import SqlStore, query
from fks.store.db import Database, Row, Transaction

#: the collection of FKS's own pages, which ship with it, and that of persons
SHIPPED: Final = "fks"
USER: Final = "user"
#: of the whole corpus: an exact scan of so many vectors takes a few milliseconds, and there is no index for more
CORPUS_MAX: Final = 20_000
#: share of the chunks that a model may not have seen; beyond it a new one is fitted
_UNSEEN_MAX = 0.2
_DEPTH = 50  # of each ranking, before they are merged
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


class DocumentStore(SqlStore[Database], queries="documents"):
    """Documents and search over them. Keeps the model of the embedder in force. Errors of all methods: OutageError."""

    def __init__(self, db: Database) -> None:
        super().__init__(db)
        self._model: tuple[int, TfidfSvd] | None = None
        self._has_vectors = False

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

    async def save(self, name: str, kind: Kind, source: str, *, by: str) -> tuple[uuid.UUID, bool]:
        """Store a document of a person, or its next version; return its id and whether anything changed.

        Errors: InputError 409 DOCUMENTS_FULL beyond CORPUS_MAX chunks.
        Guarantees: all of it or nothing; chunks that did not change keep their rows and vectors.
        """
        id = document_id(USER, name)
        chunks = await asyncio.to_thread(chunks_of, id, kind, source)
        async with self._db.transaction() as tx:
            await tx.execute("documents.lock")
            counts = await tx.fetchrow("documents.counts", id)
            assert counts is not None
            if counts["chunks"] - counts["own"] + len(chunks) > CORPUS_MAX:
                raise InputError(
                    f"the documents would have more than {CORPUS_MAX} chunks",
                    code="DOCUMENTS_FULL",
                    status=409,
                    remedy="remove documents first: 'fks ai documents remove'",
                )
            return id, await _save(tx, USER, name, kind, source, chunks, by=by)

    async def remove(self, id: uuid.UUID) -> None:
        """Delete a document. Errors: InputError 404 DOCUMENT_UNKNOWN, 409 DOCUMENT_SHIPPED for a page of FKS."""
        row = await self._db.fetchrow("documents.get", id)
        if row is None:
            raise _unknown(id)
        if row["collection"] == SHIPPED:
            raise InputError(
                f"{row['name']} is a page of FKS itself",
                code="DOCUMENT_SHIPPED",
                status=409,
                remedy="search one collection: collection=user",
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
        is_embedded = row["chunks"] < CHUNKS_MIN or not row["missing"] or not await self.has_vectors()
        return None if is_stored and is_embedded else f"{digest}:{row['state']}"

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
        """Give each chunk a vector: of the embedder in force, or of a new one, fitted on all, where more than a fifth
        of the chunks are new to it. Return what was done. Without pgvector nothing is.

        Guarantees: a new embedder and all its vectors replace the old one in one transaction.
        """
        if not await self.has_vectors():
            return "pgvector is not installed: search is lexical"
        db = self._db  # fitting takes seconds: outside of a transaction, which the server would end
        counts, row = await db.fetchrow("documents.counts", None), await db.fetchrow("documents.embedder")
        assert counts is not None
        total = int(counts["chunks"])
        is_new = row is None or row["missing"] > _UNSEEN_MAX * total
        rows = await db.fetch("documents.words", None if is_new or row is None else row["id"])
        words = [dict(zip(one["lexemes"], one["counts"], strict=True)) for one in rows]
        if is_new and len(words) < CHUNKS_MIN:
            return f"{len(words)} chunks with words: too few to fit a model"
        stored = None if is_new else await db.fetchrow("documents.model", None)
        if stored is None:
            model = await asyncio.to_thread(TfidfSvd.fit, words)
        else:
            model = TfidfSvd.load(stored["model"], stored["sha256"])
        vectors = [(one["id"], model.embed(held)) for one, held in zip(rows, words, strict=True)]
        async with db.transaction() as tx:
            await tx.execute("documents.lock")
            if stored is not None:
                embedder = stored["id"]
                if await tx.fetchrow("documents.model", embedder) is not None:
                    return f"embedder {embedder} was replaced meanwhile"
            else:
                data = model.dump()
                embedder = await tx.fetchval(
                    "documents.add_embedder", TfidfSvd.NAME, model.dimensions, total,
                    hashlib.sha256(data).hexdigest(), data,
                )  # fmt: skip
                await tx.execute("documents.drop_embedders", embedder)
            await tx.executemany(
                "documents.add_vector",
                [(embedder, id, vector.tolist()) for id, vector in vectors if vector is not None],
            )
        return f"embedder {embedder} fitted on {len(rows)} chunks" if is_new else f"{len(rows)} chunks embedded"

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
            near = await self._nearest({row["lexeme"]: row["times"] or 1 for row in rows}, collection)
            if near is None:
                mode = "lexical"
            else:
                rankings.append(near)
        if mode != "vector":
            words, weights = [f"'{term.lexeme}'" for term in terms], [term.weight(corpus) for term in terms]
            found = await self._db.fetch("documents.lexical", words, weights, collection, _DEPTH)
            rankings.append([str(row["id"]) for row in found])
        ranked = fused(*rankings)[:limit]
        ids = [uuid.UUID(one) for one, _ in ranked]
        chunks = await self._db.fetch("documents.chunks", ids, [term.lexeme for term in terms])
        by_id = {str(row["id"]): row for row in chunks}
        hits = [
            Hit(by_id[one], score, coverage(terms, corpus, by_id[one]["held"])) for one, score in ranked if one in by_id
        ]
        return SearchHits(mode, hits, terms, corpus)

    async def answer(self, question: str, *, collection: str | None = None) -> dict[str, Any]:
        """Return passages that answer a question, quoted literally, or `not_found`. No model writes any of it."""
        found = await self.search(question, collection=collection)
        good = [hit for hit in found.hits if hit.coverage >= COVERAGE_MIN]
        passages = [_passage(hit, found) for hit in good[:_PASSAGES]]
        return {
            "state": "answered" if passages else "not_found",
            "mode": "extract_only",
            "search": found.mode,
            "question": question,
            "passages": passages,
        }

    async def _nearest(self, counts: Mapping[str, int], collection: str | None) -> list[str] | None:
        """Return ids by distance, or None without pgvector, an embedder, or a word that it knows."""
        if not await self.has_vectors():
            return None
        row = await self._db.fetchrow("documents.model", None if self._model is None else self._model[0])
        if row is not None:
            self._model = int(row["id"]), TfidfSvd.load(row["model"], row["sha256"])
        vector = None if self._model is None else self._model[1].embed(counts)
        if self._model is None or vector is None:
            return None
        try:
            rows = await self._db.fetch("documents.nearest", self._model[0], collection, vector.tolist(), _DEPTH)
        except asyncpg.UndefinedObjectError:  # a restored database has pgvector only after its next upgrade
            self._has_vectors = False
            return None
        return [str(row["id"]) for row in rows] or None  # none: it was replaced just now


@cache
def shipped_pages() -> Mapping[str, str]:
    """Return FKS's own pages, name to Markdown: docs/*.md, which the package holds."""
    folder = resources.files("fks.ai") / "docs"
    if not folder.is_dir():
        return {}
    return {page.name: checked_source(page.read_text()) for page in folder.iterdir() if page.name.endswith(".md")}


def checked_document(name: str, source: str, kind: Kind | None = None) -> tuple[str, Kind, str]:
    """Return name, kind and text of a document that may be stored. Errors: InputError DOCUMENT_NAME, DOCUMENT_FORMAT,
    DOCUMENT_TEXT, DOCUMENT_SIZE."""
    if not name.strip() or len(name) > 200 or not name.isprintable():
        raise InputError(
            "the name is empty, longer than 200 characters, or not printable",
            code="DOCUMENT_NAME",
            status=422,
            remedy="name it like a file: notes.txt",
        )
    return name.strip(), kind or kind_of_name(name), checked_source(source)


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
    return InputError(
        f"there is no document {id}", code="DOCUMENT_UNKNOWN", status=404, remedy="see 'fks ai documents list'"
    )
