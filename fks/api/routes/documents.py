"""Documents, search over them, and answers that quote them. A document is data: nothing in it is carried out."""

from __future__ import annotations

import uuid
from typing import Annotated, Any, Literal

from fastapi import Depends, Query
from pydantic import Field

from fks.ai.chunks import SOURCE_MAX
from fks.api.exact import ExactJson
from fks.api.gateway import Replica
from fks.api.query import Body, Gate, Limit, Reader, Trader, body_of, takes
from fks.api.routing import Router
from fks.store.bus import JOBS
from fks.store.documents import checked_document

router = Router(tags=["documents"])
Collection = Annotated[str | None, Query(max_length=64, description="fks: FKS's own pages; user: those added here")]


class DocumentBody(Body):
    """A document to store, or its next version: a name stands for one document."""

    name: str = Field(max_length=200, description="like a file: notes.txt")
    text: str = Field(max_length=SOURCE_MAX)
    kind: Literal["text", "markdown", "html"] | None = Field(None, description="default: by the name's ending")


class SearchBody(Body):
    """A question to search for."""

    query: str = Field(min_length=1, max_length=1000)
    collection: str | None = Field(None, max_length=64, description="default: all")
    limit: int = Field(10, ge=1, le=50)


class QuestionBody(Body):
    """A question to answer."""

    question: str = Field(min_length=1, max_length=1000)
    collection: str | None = Field(None, max_length=64, description="default: all")


@router.get("/documents")
async def documents(
    gate: Gate,
    caller: Reader,
    collection: Collection = None,
    after: Annotated[uuid.UUID | None, Query(description="the `next` of the page before")] = None,
    limit: Limit = 100,
) -> ExactJson:
    """List documents by collection and name, without their text."""
    rows = await gate.documents.page(collection, after=after, limit=limit)
    return ExactJson({"items": rows, "next": rows[-1]["id"] if len(rows) == limit else None})


@router.post("/documents", status_code=201, openapi_extra=takes(DocumentBody))
async def add(gate: Gate, caller: Trader, body: Annotated[DocumentBody, Depends(body_of(DocumentBody))]) -> ExactJson:
    """Store text, Markdown or HTML. Words are found at once, vectors follow within seconds. The same content again
    changes nothing (200); another content under the name is its next version, of which only changed chunks are new."""
    name, kind, text = checked_document(body.name, body.text, body.kind)
    id, is_changed = await gate.documents.save(name, kind, text, by=caller.name)
    if is_changed:
        await _embed(gate)
    stored = {key: value for key, value in (await gate.documents.get(id)).items() if key != "parts"}
    return ExactJson(stored, status_code=201 if is_changed else 200, headers={"Location": f"/documents/{id}"})


@router.get("/documents/{id}")
async def document(gate: Gate, caller: Reader, id: uuid.UUID) -> ExactJson:
    """Return one document with its chunks: headings, text, and where in the source each stands."""
    return ExactJson(await gate.documents.get(id))


@router.delete("/documents/{id}")
async def remove(gate: Gate, caller: Trader, id: uuid.UUID) -> ExactJson:
    """Remove a document with its chunks and vectors. FKS's own pages stay."""
    await gate.documents.remove(id)
    return ExactJson({"id": id, "removed": True})


@router.post("/search", openapi_extra=takes(SearchBody))
async def search(gate: Gate, caller: Reader, body: Annotated[SearchBody, Depends(body_of(SearchBody))]) -> ExactJson:
    """Return the chunks that fit a question, best first: full text and vectors, merged. `mode`: hybrid, or lexical
    where no vectors can be had."""
    found = await gate.documents.search(body.query, collection=body.collection, limit=body.limit)
    return ExactJson({"mode": found.mode, "items": [hit.shown() for hit in found.hits]})


@router.post("/answer", openapi_extra=takes(QuestionBody))
async def answer(
    gate: Gate, caller: Reader, body: Annotated[QuestionBody, Depends(body_of(QuestionBody))]
) -> ExactJson:
    """Answer a question with passages, each quoted literally with its document, headings and place; `not_found` where
    nothing holds enough of it. No model is asked (`extract_only`)."""
    found: dict[str, Any] = await gate.documents.answer(body.question, collection=body.collection)
    return ExactJson(found)


async def _embed(gate: Replica) -> None:
    from fks.jobs.documents import submit_pending

    job = await submit_pending(gate.db, gate.deps.clock.now_ns())
    if job is not None:
        await gate.bus.publish(JOBS, {"type": "job", "id": str(job), "state": "queued"})
