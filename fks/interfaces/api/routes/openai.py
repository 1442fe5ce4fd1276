"""OpenAI's interface: chats by the deployed language models, vectors by the embedder in force, and the list of both.

Clients of OpenAI's API use it with the base URL `/v1`. Errors are in OpenAI's form (`fks.interfaces.api.problems`).
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import Response, StreamingResponse

from fks.ai.engines.port import ANY_OBJECT, Completed, Completion
from fks.ai.schemas import check_schema, fits
from fks.interfaces.api.connected import until_left, while_connected
from fks.interfaces.api.exact import ExactJson, dump
from fks.interfaces.api.gateway import Replica
from fks.interfaces.api.problems import of_model, openai_error, problem_of
from fks.interfaces.api.query import BodyOf, Gate, JsonObject, Reader
from fks.interfaces.api.routes.documents import EmbeddingBody, as_json, embedded
from fks.interfaces.api.routing import Router, takes
from fks.interfaces.entry.replicas import AllEndedError, SentText, ServedModel
from fks.model.errors import FksError, InputError, OutageError, PeerError, Problem, not_found
from fks.model.untrusted import number_of, whole_of

router = Router(tags=["OpenAI's interface"])

#: digits of the SHA-256 of a model's file that name it in an answer
FINGERPRINT: Final = 16
SEEDS: Final = 2**31
#: values of parameters that ask for nothing
_NOTHING: Final[tuple[object, ...]] = (None, False, 0, [], {}, "")
#: parameters that no engine here honours; one that asks for something is refused. Others that are unknown are ignored
REFUSED: Final = frozenset(
    [
        "tools",
        "functions",
        "function_call",
        "logprobs",
        "top_logprobs",
        "logit_bias",
        "audio",
        "web_search_options",
        "presence_penalty",
        "frequency_penalty",
        "reasoning_effort",
        "verbosity",
    ]
)


class ChatMessage(BaseModel):
    """A message of a chat. `content`: a text, or parts of the type text."""

    model_config = ConfigDict(extra="allow", frozen=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[dict[str, Any]], Field(fail_fast=True)] | None = None


class StreamOptions(BaseModel):
    """Options of a stream."""

    include_usage: bool = Field(False, description="a last chunk with the counts of tokens")


class ChatBody(BaseModel):
    """A chat that a model is to continue, in the form of OpenAI's API."""

    model_config = ConfigDict(extra="allow", frozen=True)

    model: str = Field(max_length=200, description="a deployment: see GET /v1/models")
    # an error for each of 100,000 wrong messages would take a second from all callers
    messages: list[ChatMessage] = Field(min_length=1, fail_fast=True)
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31, description="default: as many as fit")
    max_tokens: int | None = Field(None, ge=1, lt=2**31, description="the older name of max_completion_tokens")
    temperature: float | None = Field(None, ge=0, le=2, description="default: the engine's")
    top_p: float | None = Field(None, ge=0, le=1, description="default: the engine's")
    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="the same request and seed: the same text")
    stop: str | Annotated[list[str], Field(max_length=4)] | None = Field(
        None, description="at most four texts; the model's text ends before the first of them"
    )
    response_format: dict[str, Any] | None = Field(None, description="text, json_object or json_schema")
    stream: bool | None = Field(None, description="send the text as it is written, as server-sent events")
    stream_options: StreamOptions | None = None


@router.post("/v1/chat/completions")
async def chat(gate: Gate, caller: Reader, request: Request, body: BodyOf[ChatBody]) -> Response:
    """Continue a chat with a deployed language model, in the form of OpenAI's API; with `stream` as server-sent
    events, each a chunk, and `[DONE]` at the end. Messages are text; `tools`, `n` above 1, `logprobs`, images and other
    parameters that no engine honours are refused. 404 for an unknown model; 503 with Retry-After while it is not served
    or has too many requests; 504 after `ai.answer_timeout_s`. An error after the first chunk is an event with
    `error`."""
    asked = await asyncio.to_thread(_completion, body, gate.models.timeout_s)
    served = await gate.models.find(body.model)
    head = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "created": gate.deps.clock.now_ns() // 1_000_000_000,
        "model": served.name,
        "system_fingerprint": served.sha256[:FINGERPRINT] or None,
    }
    if not body.stream:
        done = await while_connected(request, _written(gate, served, asked))
        return done if isinstance(done, Response) else ExactJson(_whole(head, done))
    sent = SentText()
    events = sent.followed(_written(gate, served, asked, sent))
    first = await while_connected(request, _first(events))  # an error before the first token has its status
    if isinstance(first, Response):
        return first
    chunks = _chunks(
        request, head, first, events, has_usage=body.stream_options is not None and body.stream_options.include_usage
    )
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(chunks, media_type="text/event-stream", headers=headers)


async def _written(gate: Replica, served: ServedModel, asked: Completion, sent: SentText | None = None) -> Completed:
    """Return the text of a model. Errors: Problem, InputError."""
    try:
        done = await gate.models.complete(served, asked, sent)
    except OutageError as error:
        code = "AI_BROKEN_OFF" if sent is not None and sent.length else "AI_ENDED"
        headers = {"Retry-After": "1"}
        if isinstance(error, AllEndedError):
            headers["X-Should-Retry"] = "false"  # repeated it could end them again
        raise Problem(503, code, error.message, remedy="try again", headers=headers) from None
    except PeerError as error:
        raise _failed("AI_FAILED", error.message) from None
    if sent is not None:
        sent.add(done.text)
    # a text that ends at its limit or at a stop is no whole JSON
    schema = asked.schema if done.is_whole and not asked.stop else None
    if schema is not None and not await asyncio.to_thread(fits, done.text, schema):
        raise _failed("AI_FORM", "the model's text does not fit the schema")
    return done


def _failed(code: str, message: str) -> Problem:
    return Problem(502, code, message, headers={"X-Should-Retry": "false"})


async def _first(events: AsyncGenerator[str | Completed, None]) -> str | Completed:
    return await anext(events)


def _whole(head: Mapping[str, Any], done: Completed) -> dict[str, Any]:
    message = {"role": "assistant", "content": done.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _reason(done)}
    return {**head, "object": "chat.completion", "choices": [choice], "usage": _usage(done)}


async def _chunks(
    request: Request,
    head: Mapping[str, Any],
    first: str | Completed,
    events: AsyncGenerator[str | Completed, None],
    *,
    has_usage: bool,
) -> AsyncIterator[bytes]:
    """Yield the events of a stream; when the client leaves, the work on its text ends."""
    base = {**head, "object": "chat.completion.chunk"} | ({"usage": None} if has_usage else {})

    def chunk(delta: Mapping[str, str], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return b"data: %s\n\n" % dump(base | {"choices": [choice]})

    begin = chunk({"role": "assistant", "content": ""})
    try:
        async with contextlib.aclosing(until_left(request, first, events)) as read:
            async for part in read:
                if isinstance(part, str):
                    yield begin + chunk({"content": part})
                    begin = b""
                    continue
                yield begin + chunk({}, _reason(part))
                if has_usage:
                    yield b"data: %s\n\n" % dump(base | {"choices": [], "usage": _usage(part)})
                yield b"data: [DONE]\n\n"
    except FksError as error:
        yield b"data: %s\n\n" % dump(openai_error(problem_of(error, request.url.path)))


def _reason(done: Completed) -> str:
    return "stop" if done.is_whole else "length"


def _usage(done: Completed) -> dict[str, int] | None:
    """Return the counts of tokens; None where the engine gave none."""
    if not done.tokens and done.text:
        return None
    total = done.prompt_tokens + done.tokens
    return {"prompt_tokens": done.prompt_tokens, "completion_tokens": done.tokens, "total_tokens": total}


def _completion(body: ChatBody, timeout_s: float) -> Completion:
    """Return the request of a body. Errors: Problem 400 that names the parameter, InputError AI_SCHEMA."""
    further = body.model_extra or {}
    for name in sorted(REFUSED & further.keys()):
        if further[name] not in _NOTHING:
            raise _unsupported(name, f"{name} is not supported")
    if further.get("n") not in (None, 1):
        raise _unsupported("n", "n must be 1: one text is written")
    if further.get("tool_choice") not in (None, "none", "auto"):
        raise _unsupported("tool_choice", "tool_choice is not supported")
    if further.get("modalities") not in (None, ["text"]):
        raise _unsupported("modalities", "modalities other than text are not supported")
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return Completion(
        [_message(number, one) for number, one in enumerate(body.messages)],
        timeout_s,
        tokens_max=body.max_completion_tokens or body.max_tokens,
        schema=_schema(body.response_format),
        temperature=body.temperature,
        top_p=body.top_p,
        seed=None if body.seed is None else body.seed % SEEDS,
        stop=[one for one in stop if one],
    )


def _message(number: int, one: ChatMessage) -> dict[str, str]:
    further, place = one.model_extra or {}, f"messages[{number}]"
    for name in ("tool_calls", "function_call", "audio"):
        if further.get(name) not in _NOTHING:
            raise _unsupported(f"{place}.{name}", f"{place}.{name} is not supported")
    texts = [one.content or ""] if not isinstance(one.content, list) else []
    for part in one.content if isinstance(one.content, list) else ():
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise _unsupported(f"{place}.content", f"{place}.content may hold parts of the type text alone")
        texts.append(part["text"])
    # developer is OpenAI's newer name of system; templates of models know the older one
    return {"role": "system" if one.role == "developer" else one.role, "content": "".join(texts)}


def _schema(form: dict[str, Any] | None) -> Mapping[str, Any] | None:
    kind = (form or {"type": "text"}).get("type")
    if form is None or kind == "text":
        return None
    if kind == "json_object":
        return ANY_OBJECT
    given = form.get("json_schema")
    schema = given.get("schema") if isinstance(given, dict) else None
    if kind != "json_schema" or not isinstance(schema, dict):
        raise _unsupported("response_format", "response_format must be text, json_object, or json_schema with a schema")
    found: dict[str, Any] = _plain(schema)
    try:
        check_schema(found)
    except InputError as error:
        raise Problem(400, error.code, error.message, param="response_format") from None
    return found


def _plain(value: Any) -> Any:
    """Return a JSON value without exact numbers, as engines read it."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if not isinstance(value, Decimal):
        return value
    # engines ignore a length of 3.0
    return whole_of(value) if value == value.to_integral_value() else number_of(value)


def _unsupported(param: str, message: str) -> Problem:
    return Problem(400, "UNSUPPORTED_PARAMETER", message, param=param)


@router.post("/v1/embeddings", openapi_extra=takes(EmbeddingBody))
async def embeddings(gate: Gate, caller: Reader, request: Request, body: JsonObject) -> Response:
    """Return vectors of texts as `POST /embeddings` does, in the form and with the errors of OpenAI's API. `model` is
    the embedder in force, another one is 404. Texts without a known word, tokens in place of texts, and other
    `dimensions` than the model's are refused."""
    if not isinstance(body.get("model"), str):
        raise Problem(400, "INVALID", "model is missing", param="model")
    given = body.get("input")
    if isinstance(given, list) and any(not isinstance(one, str) for one in given):
        raise Problem(400, "INVALID", "input must be texts: tokens depend on the model's own vocabulary", param="input")
    dimensions = body.get("dimensions")
    if dimensions is not None and not (isinstance(dimensions, int) and 0 < dimensions < 2**31):
        raise Problem(400, "INVALID", "dimensions must be a number above 0", param="dimensions")
    names = EmbeddingBody.model_fields
    try:
        wanted = EmbeddingBody.model_validate({name: body[name] for name in names if body.get(name) is not None})
    except ValidationError as error:
        raise of_model(error, request.url.path) from None
    return as_json(await while_connected(request, _vectors(gate, wanted, dimensions)))


async def _vectors(gate: Replica, wanted: EmbeddingBody, dimensions: int | None) -> dict[str, Any]:
    try:
        found = await embedded(gate, wanted)
    except InputError as error:
        if error.code != "EMBEDDER_OTHER":
            raise
        raise not_found("MODEL_NOT_FOUND", error.message, "see GET /v1/models") from None
    if dimensions not in (None, found["dimensions"]):
        raise _unsupported("dimensions", f"the vectors of {found['model']} have {found['dimensions']} dimensions")
    if unknown := [one["index"] for one in found["data"] if one["embedding"] is None]:
        places = ", ".join(f"input[{number}]" for number in unknown[:5])
        raise Problem(400, "NO_KNOWN_WORD", f"{found['model']} knows no word of {places}", param="input")
    return found


@router.get("/v1/models")
async def models(gate: Gate, caller: Reader) -> ExactJson:
    """List the language models that serve, and the embedder in force, in the form of OpenAI's API."""
    return ExactJson({"object": "list", "data": await _available(gate)})


@router.get("/v1/models/{id}")
async def model(gate: Gate, caller: Reader, id: str) -> ExactJson:
    """Return one model of `GET /v1/models`. 503 with its state while it is deployed and does not serve."""
    found = next((one for one in await _available(gate) if one["id"] == id), None)
    return ExactJson(found or _model((await gate.models.find(id)).name, 0))


async def _available(gate: Replica) -> list[dict[str, Any]]:
    rows = await gate.models.deployed()
    listed = [_model(row["name"], int(row["deployed_at"].timestamp())) for row in rows if row["ready"]]
    with contextlib.suppress(Problem):  # no pgvector, or none is built yet
        listed.append(_model((await gate.documents.vectors([])).model, 0))
    return listed


def _model(id: str, created: int) -> dict[str, Any]:
    return {"id": id, "object": "model", "created": created, "owned_by": "fks"}
