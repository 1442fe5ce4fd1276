"""Documents, search over them, and answers that quote them. A document is data: nothing in it is carried out."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Annotated, Any, Literal

from fastapi import Depends, Query, Request
from pydantic import Field
from starlette.responses import Response, StreamingResponse

from fks.ai.chunks import SOURCE_MAX, Kind, checked_source, document_id, tokens_of
from fks.ai.search import Vector
from fks.interfaces.api.connected import until_left, while_connected
from fks.interfaces.api.exact import ExactJson, dump
from fks.interfaces.api.gateway import Replica
from fks.interfaces.api.query import Body, BodyOf, Gate, Limit, Reader, Trader, body_of, read_body
from fks.interfaces.api.routing import Router, takes
from fks.research.jobs.parsing import PDF_MAX
from fks.store.bus import JOBS
from fks.store.documents import USER, TextVectors, checked_name

AnswerEvent = tuple[str, dict[str, Any]]

router = Router(tags=["documents"])
Collection = Annotated[str | None, Query(max_length=64, description="fks: FKS's own pages; user: those added here")]


class DocumentBody(Body):
    """A document to store, or its next version: a name stands for one document."""

    name: str = Field(max_length=200, description="like a file: notes.txt")
    text: str = Field(max_length=SOURCE_MAX)
    kind: Literal["text", "markdown", "html"] | None = Field(None, description="default: by the name's ending")


async def _sent(request: Request) -> DocumentBody | bytes:
    """Return a document, or the bytes of a PDF. Errors: those of `body_of`."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/pdf":
        return await read_body(request, PDF_MAX)
    body: DocumentBody = await body_of(DocumentBody)(request)
    return body


class SearchBody(Body):
    """A question to search for."""

    query: str = Field(min_length=1, max_length=1000)
    collection: str | None = Field(None, max_length=64, description="default: all")
    limit: int = Field(10, ge=1, le=50)


class QuestionBody(Body):
    """A question to answer."""

    question: str = Field(min_length=1, max_length=1000)
    collection: str | None = Field(None, max_length=64, description="default: all")
    model: str | None = Field(None, max_length=40, description="a deployment; default: the first that serves")


Text = Annotated[str, Field(min_length=1, max_length=8000)]


class EmbeddingBody(Body):
    """Texts that are to become vectors, in the form of OpenAI's API."""

    input: Text | Annotated[list[Text], Field(min_length=1, max_length=64)]
    input_type: Literal["document", "query"] = Field("document", description="query: questions for a search")
    encoding_format: Literal["float", "base64"] = Field("float", description="base64: of float32, little-endian")
    model: str | None = Field(None, max_length=40, description="another one than the embedder in force is refused")
    version: int | None = Field(None, ge=1, le=2**63 - 1, description="another one than that in force is refused")


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
async def add(
    gate: Gate,
    caller: Trader,
    body: Annotated[DocumentBody | bytes, Depends(_sent)],
    pdf: Annotated[str | None, Query(max_length=200, description="name of a PDF, which is the body")] = None,
) -> ExactJson:
    """Store text, Markdown or HTML, or the text of a PDF (`application/pdf`, at most 8 MiB). Words are found at once,
    vectors follow within seconds. The same content again changes nothing (200); another content under the name is its
    next version, of which only changed chunks are new."""
    given: str | bytes
    wanted: Kind | None
    if isinstance(body, bytes):
        name, wanted, given = pdf or "", "markdown", body
    else:
        name, wanted, given = body.name, body.kind, checked_source(body.text)
    name, kind = checked_name(name, wanted)
    text, chunks = await gate.parser.parsed(document_id(USER, name), kind, given)
    id, is_changed = await gate.documents.save(name, kind, text, chunks, by=caller.name)
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


@router.post("/search")
async def search(gate: Gate, caller: Reader, body: BodyOf[SearchBody]) -> ExactJson:
    """Return the chunks that fit a question, best first: full text and vectors, merged. `mode`: hybrid, or lexical
    where no vectors can be had."""
    found = await gate.documents.search(body.query, collection=body.collection, limit=body.limit)
    return ExactJson({"mode": found.mode, "items": [hit.shown() for hit in found.hits]})


@router.post("/answer")
async def answer(gate: Gate, caller: Reader, request: Request, body: BodyOf[QuestionBody]) -> Response:
    """Answer a question with passages, each quoted literally with its document, headings and place; `not_found` where
    nothing holds enough of it. Where a language model is served, `mode` is `model`: `answer` is its text, and
    `citations` are quotes that are literally in the passages (`flagged`: it gave others, or none). `provider`
    is `openai` where OpenAI wrote it, under a consent for the collection. Without a model, or when it fails, `mode` is
    `extract_only`. 503 with Retry-After while it has too many requests.

    With `Accept: text/event-stream` the answer is sent as it is made: `passages`, each `token` (`text`, unchecked),
    then `answer`, the same as JSON. In its place `error` (`code`, `detail`) when the model is busy, or ended after a
    token."""
    if "text/event-stream" in request.headers.get("accept", ""):
        events = gate.answering.events(body.question, collection=body.collection, model=body.model)
        first = await anext(events)  # its errors are problem documents
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(_sent_events(request, first, events), media_type="text/event-stream", headers=headers)
    work = gate.answering.answer(body.question, collection=body.collection, model=body.model)
    return as_json(await while_connected(request, work))


@router.post("/embeddings")
async def embeddings(gate: Gate, caller: Reader, request: Request, body: BodyOf[EmbeddingBody]) -> Response:
    """Return a vector of length 1 for each of at most 64 texts, by the embedder in force, in the form of OpenAI's API,
    with its `version`: vectors of two versions cannot be compared. `embedding` is null where the built-in model knows
    no word of the text. 409 for another `model` or `version`; 501 without pgvector; 503 with Retry-After while no
    process of the embedder answers."""
    return as_json(await while_connected(request, embedded(gate, body)))


def as_json(found: dict[str, Any] | Response) -> Response:
    """Return an object as a response; a response as it is."""
    return found if isinstance(found, Response) else ExactJson(found)


async def embedded(gate: Replica, body: EmbeddingBody) -> dict[str, Any]:
    """Return the answer with the vectors of texts. Errors: those of `DocumentStore.vectors`."""
    texts = [body.input] if isinstance(body.input, str) else body.input
    found = await gate.documents.vectors(
        texts, is_question=body.input_type == "query", name=body.model, version=body.version
    )
    return await asyncio.to_thread(_embedding_answer, body, texts, found)


def _embedding_answer(body: EmbeddingBody, texts: Sequence[str], found: TextVectors) -> dict[str, Any]:
    data = [
        {"object": "embedding", "index": number, "embedding": None if one is None else _encoded(one, body)}
        for number, one in enumerate(found.vectors)
    ]
    tokens = sum(map(tokens_of, texts))
    return {
        "object": "list",
        "data": data,
        "model": found.model,
        "version": found.version,
        "sha256": found.sha256,
        "dimensions": found.dimensions,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _encoded(vector: Vector, body: EmbeddingBody) -> str | list[float]:
    if body.encoding_format == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return [round(value, 8) for value in vector.tolist()]  # a float32 below 1 has no more digits


async def _sent_events(
    request: Request, first: AnswerEvent, events: AsyncGenerator[AnswerEvent, None]
) -> AsyncIterator[bytes]:
    """Yield server-sent events; when the client leaves, the work on its answer ends."""
    async with contextlib.aclosing(until_left(request, first, events)) as read:
        async for name, data in read:
            yield b"event: %s\ndata: %s\n\n" % (name.encode(), dump(data))


async def _embed(gate: Replica) -> None:
    from fks.research.jobs.documents import submit_pending

    job = await submit_pending(gate.db, gate.deps.clock.now_ns(), gate.deps.settings.ai.provider)
    if job is not None:
        await gate.bus.publish(JOBS, {"type": "job", "id": str(job), "state": "queued"})
