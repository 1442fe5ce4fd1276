"""Engines behind a URL: Ollama, servers with OpenAI's API, and OpenAI itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any, Final

import httpx

from fks.ai.engines.deployment import Deployment
from fks.ai.engines.port import (
    ANY_OBJECT,
    AnotherModelError,
    Completed,
    Completion,
    Embedding,
    FeatureRows,
    TextTaker,
    too_long,
    unmarked_messages,
)
from fks.model.errors import InputError, OutageError, PeerError

HTTP_LOAD_S: Final = 5.0
HTTP_ANSWER_S: Final = 600.0  # the longest deadline; that of the request ends it
#: bytes of an answer over HTTP; a longer one is not read to its end
HTTP_ANSWER_MAX: Final = 2**23
#: statuses of an answer to a request that is itself at fault
_REFUSED: Final = frozenset({400, 413, 422})


class _HttpEngine:
    """A model behind a URL. `MODELS` is where the server lists its models."""

    MODELS = ""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._http = httpx.AsyncClient(
            base_url=deployment.url.rstrip("/"),
            trust_env=False,
            timeout=HTTP_ANSWER_S,
            headers={"Accept-Encoding": "identity"},  # the limit counts what is read
        )

    async def load(self) -> None:
        """Find the model. Errors: OutageError while its server does not answer; PeerError without the model."""
        async with asyncio.timeout(HTTP_LOAD_S):
            text = json.dumps(await self._call("GET", self.MODELS))
        if json.dumps(self._deployment.model)[1:-1] not in text:
            raise PeerError(f"{self._deployment.url} has no model {self._deployment.model}")

    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return await self._sent(self._http.build_request(method, path, json=body))

    async def _sent(self, request: httpx.Request) -> dict[str, Any]:
        async with self._answered(request) as (status, parts):
            return self._object(status, b"".join([part async for part in parts]), request)

    async def _lines(self, request: httpx.Request) -> AsyncGenerator[bytes, None]:
        """Yield the lines of an answer as they arrive, without empty ones. Errors: as `_sent`."""
        async with self._answered(request) as (status, parts):
            if status != 200:
                self._object(status, b"".join([part async for part in parts]), request)
            begun: list[bytes] = []  # parts of a line
            async for part in parts:
                *ended, rest = part.split(b"\n")
                for end in ended:
                    if line := b"".join((*begun, end)).strip():
                        yield line
                    begun.clear()
                begun.append(rest)
            if line := b"".join(begun).strip():
                yield line

    @contextlib.asynccontextmanager
    async def _answered(self, request: httpx.Request) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        """Send a request; give the status of its answer, and the answer's bytes, at most HTTP_ANSWER_MAX."""
        url = self._deployment.url
        try:
            answer = await self._http.send(request, stream=True)
            async with contextlib.aclosing(answer):
                yield answer.status_code, _limited(answer, url)
        except httpx.HTTPError as error:
            raise OutageError(f"{url} does not answer: {type(error).__name__}") from error

    def _object(self, status: int, body: bytes, request: httpx.Request) -> dict[str, Any]:
        """Return the object of an answer. Errors: InputError for a status that refuses the request; PeerError."""
        found = self._parsed(status, body)
        if status in _REFUSED and request.method == "POST":
            raise InputError(self._reported(status, body))
        if status != 200 or not isinstance(found, dict):
            raise PeerError(self._reported(status, body))
        return found

    def _parsed(self, status: int, body: bytes) -> Any:
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise PeerError(f"{self._deployment.url} answered {status} without JSON") from error

    def _reported(self, status: int, body: bytes) -> str:
        return f"{self._deployment.url} answered {status}{self._fault(body.decode(errors='replace'))}"

    def _fault(self, text: str) -> str:
        """Return what an answer that is no success is reported with."""
        return f": {text[:200]}"

    async def embed(self, asked: Embedding) -> list[list[float]]:
        """Refuse: `check_deployment` allows no deployment that could ask. Errors: PeerError."""
        raise PeerError(f"{self._deployment.url} is not asked for vectors")

    async def predict(self, asked: FeatureRows) -> list[float]:
        """Refuse. Errors: PeerError."""
        raise AnotherModelError(f"{self._deployment.url} is not asked for predictions")

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


class OllamaEngine(_HttpEngine):
    """Ollama. It cuts a prompt that is too long without a word: so the prompt is measured first, and `num_ctx` set."""

    MODELS = "/api/tags"

    async def complete(self, asked: Completion, take: TextTaker | None = None) -> Completed:
        """Return the completion. Errors: InputError for a prompt that may not fit; PeerError, OutageError."""
        body = self._body(asked)
        if take is None:
            return self._completed(await self._call("POST", "/api/chat", body | {"stream": False}))
        text, url = _JoinedText(take), self._deployment.url
        request = self._http.build_request("POST", "/api/chat", json=body | {"stream": True})
        async with contextlib.aclosing(self._lines(request)) as lines:
            async for line in lines:
                found = self._parsed(200, line)
                with _in_form(url):
                    if "error" in found:
                        raise PeerError(f"{url} broke off: {str(found['error'])[:200]}")
                    text.add(found["message"]["content"] or "")
                    if found["done"]:
                        return self._completed(found | {"message": {"content": text.ended()}})
        raise PeerError(f"{url} ended its answer before the end of the text")

    def _completed(self, found: Mapping[str, Any]) -> Completed:
        with _in_form(self._deployment.url):
            text, is_whole = found["message"]["content"] or "", found["done_reason"] == "stop"
            return Completed(
                _joined(text), _count(found["eval_count"]), is_whole, _count(found.get("prompt_eval_count"))
            )

    def _body(self, asked: Completion) -> dict[str, Any]:
        context = self._deployment.context_size
        used = sum(len(one["content"].encode()) for one in asked.messages)  # no token is shorter than a byte
        if used >= context:
            raise too_long(f"the prompt has {used} bytes, and may not fit into {context} tokens")
        options = {
            "num_ctx": context,
            "num_predict": min(asked.tokens_max or context, context - used),
            "temperature": asked.temperature,
            "top_p": asked.top_p,
            "seed": asked.seed,
            "stop": list(asked.stop) or None,
        }
        body = {
            "model": self._deployment.model,
            "messages": unmarked_messages(asked),
            "format": asked.schema,
            "options": _given(options),
        }
        return _given(body)


class OpenAiEngine(_HttpEngine):
    """A server with OpenAI's API on this host or a private network, e.g. vLLM."""

    MODELS = "/v1/models"

    async def complete(self, asked: Completion, take: TextTaker | None = None) -> Completed:
        """Return the completion. Errors: InputError, PeerError, OutageError."""
        if take is None:
            return await self.send(self.request(asked))
        body = self._body(asked, asked.schema) | {"stream": True, "stream_options": {"include_usage": True}}
        request = self._http.build_request("POST", "/v1/chat/completions", json=body)
        text, ended, used, url = _JoinedText(take), "", dict[str, Any](), self._deployment.url
        async with contextlib.aclosing(self._lines(request)) as lines:
            async for line in lines:
                name, _, data = line.partition(b":")
                if name != b"data":  # a comment, or a field that chunks do not have
                    continue
                if data.strip() == b"[DONE]":
                    break
                found = self._parsed(200, data)
                with _in_form(url):
                    if found.get("error"):
                        raise PeerError(f"{url} broke off{self._fault(data.decode(errors='replace'))}")
                    used = found.get("usage") or used
                    for choice in found["choices"]:
                        text.add(choice["delta"].get("content") or "")
                        ended = choice.get("finish_reason") or ended
        if not ended:
            raise PeerError(f"{url} ended its answer before the end of the text")
        with _in_form(url):
            tokens, read = _count(used.get("completion_tokens")), _count(used.get("prompt_tokens"))
            return Completed(text.ended(), tokens, ended == "stop", read)

    def request(self, asked: Completion) -> httpx.Request:
        """Return the request of a completion."""
        return self._http.build_request("POST", "/v1/chat/completions", json=self._body(asked, asked.schema))

    def _body(self, asked: Completion, schema: Mapping[str, Any] | None) -> dict[str, Any]:
        form: dict[str, Any] | None = None
        if schema == ANY_OBJECT:
            form = {"type": "json_object"}
        elif schema is not None:
            form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": dict(schema), "strict": True}}
        most, context = asked.tokens_max, self._deployment.context_size
        body = {
            "model": self._deployment.model,
            "messages": unmarked_messages(asked),
            "max_tokens": most and min(most, context // 2),
            "temperature": asked.temperature,
            "top_p": asked.top_p,
            "seed": asked.seed,
            "stop": list(asked.stop) or None,
            "response_format": form,
        }
        return _given(body)

    async def send(self, request: httpx.Request) -> Completed:
        """Send a request of `request` and return its completion. Errors: PeerError, OutageError."""
        found = await self._sent(request)
        with _in_form(self._deployment.url):
            choice, used = found["choices"][0], found["usage"]
            text, is_whole = _joined(choice["message"]["content"] or ""), choice["finish_reason"] == "stop"
            return Completed(text, _count(used["completion_tokens"]), is_whole, _count(used.get("prompt_tokens")))


class ProviderEngine(OpenAiEngine):
    """OpenAI itself, which is given a key. Nothing that it answers with an error is reported: it may hold the key."""

    def __init__(self, url: str, model: str, key: str) -> None:
        super().__init__(Deployment("openai", "openai_compatible", model, url))
        self._http.headers["Authorization"] = f"Bearer {key}"

    def _body(self, asked: Completion, schema: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the body in the form that newer models demand: no temperature, and a strict schema."""
        body = super()._body(asked, _strict(schema))
        del body["temperature"], body["max_tokens"]
        return body | {"max_completion_tokens": asked.tokens_max}

    def embedding_request(self, texts: Sequence[str]) -> httpx.Request:
        """Return the request of the vectors of texts."""
        body = {"model": self._deployment.model, "input": list(texts), "encoding_format": "float"}
        return self._http.build_request("POST", "/v1/embeddings", json=body)

    async def send_embedding(self, request: httpx.Request) -> tuple[list[Any], int]:
        """Send a request of `embedding_request`; return its vectors in the order of the texts, unchecked, and the
        tokens that were read. Errors: PeerError, OutageError."""
        found = await self._sent(request)
        with _in_form(self._deployment.url):
            items = sorted(found["data"], key=lambda item: int(item["index"]))
            return [item["embedding"] for item in items], int(found["usage"]["prompt_tokens"])

    def _fault(self, text: str) -> str:
        return ""


async def _limited(answer: httpx.Response, url: str) -> AsyncIterator[bytes]:
    """Yield the bytes of an answer. Errors: PeerError for a longer one."""
    size = 0
    async for part in answer.aiter_raw():
        size += len(part)
        if size > HTTP_ANSWER_MAX:
            raise PeerError(f"{url} answered more than {HTTP_ANSWER_MAX} bytes")
        yield part


class _JoinedText:
    """The text of parts. Servers may send the halves of a sign beyond 16 bits apart: they are one part here."""

    def __init__(self, take: TextTaker) -> None:
        self._take = take
        self._text = self._half = ""

    def add(self, part: str) -> None:
        part = self._half + part
        self._half = part[-1:] if "\ud800" <= part[-1:] <= "\udbff" else ""
        if whole := _joined(part.removesuffix(self._half)):
            self._text += whole
            self._take(whole)

    def ended(self) -> str:
        return self._text + _joined(self._half)


def _joined(text: str) -> str:
    """Return a text without surrogates: pairs are joined, and a half is U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _count(value: Any) -> int:
    """Return a count of an answer; 0 for null, and for one that cannot be. Errors: TypeError, ValueError,
    OverflowError."""
    found = int(value or 0)
    return found if 0 <= found < 2**31 else 0


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _strict(schema: Any) -> Any:
    """Return a schema as OpenAI takes it: without lengths, and a type with each list of values."""
    if not isinstance(schema, dict):
        return schema
    kept = {key: _strict(value) for key, value in schema.items() if key != "maxLength"}
    return {"type": "string"} | kept if "enum" in schema else kept


@contextlib.contextmanager
def _in_form(url: str) -> Any:
    """Errors: PeerError for an answer that lacks a field."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise PeerError(f"{url} answered in another form: {type(error).__name__}") from error
