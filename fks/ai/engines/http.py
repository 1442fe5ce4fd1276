"""Engines behind a URL: Ollama, servers with OpenAI's API, and OpenAI itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import httpx

from fks.ai.engines.deployment import Deployment
from fks.ai.engines.port import Completed, Completion, Embedding, TextTaker, unmarked
from fks.model.errors import OutageError, PeerError

HTTP_LOAD_S: Final = 5.0
HTTP_ANSWER_S: Final = 600.0  # the longest deadline; that of the request ends it
#: bytes of an answer over HTTP; a longer one is not read to its end
HTTP_ANSWER_MAX: Final = 2**23


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
        url = self._deployment.url
        body = bytearray()
        try:
            answer = await self._http.send(request, stream=True)
            async with contextlib.aclosing(answer):
                async for part in answer.aiter_raw():
                    body += part
                    if len(body) > HTTP_ANSWER_MAX:
                        raise PeerError(f"{url} answered more than {HTTP_ANSWER_MAX} bytes")
        except httpx.HTTPError as error:
            raise OutageError(f"{url} does not answer: {type(error).__name__}") from error
        try:
            found = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise PeerError(f"{url} answered {answer.status_code} without JSON") from error
        if answer.status_code != 200 or not isinstance(found, dict):
            raise PeerError(f"{url} answered {answer.status_code}{self._fault(body.decode(errors='replace'))}")
        return found

    def _fault(self, text: str) -> str:
        """Return what an answer that is no success is reported with."""
        return f": {text[:200]}"

    def _messages(self, asked: Completion) -> list[dict[str, str]]:
        texts = {"system": unmarked(asked.system), "user": unmarked(asked.user)}
        return [{"role": role, "content": text} for role, text in texts.items()]

    async def embed(self, asked: Embedding) -> list[list[float]]:
        """Refuse: `check_deployment` allows no deployment that could ask. Errors: PeerError."""
        raise PeerError(f"{self._deployment.url} is not asked for vectors")

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


class OllamaEngine(_HttpEngine):
    """Ollama. It cuts a prompt that is too long without a word: so the prompt is measured first, and `num_ctx` set."""

    MODELS = "/api/tags"

    async def complete(self, asked: Completion, take: TextTaker | None = None) -> Completed:
        """Return the completion, whole. Errors: PeerError for a prompt that may not fit; OutageError."""
        context = self._deployment.context_size
        used = sum(len(text.encode()) for text in (asked.system, asked.user))  # no token is shorter than a byte
        if used >= context:
            raise PeerError(f"the prompt has {used} bytes, and may not fit into {context} tokens: deploy with more")
        limits = {"num_ctx": context, "num_predict": min(asked.tokens_max, context - used), "temperature": 0}
        body = {
            "model": self._deployment.model,
            "messages": self._messages(asked),
            "format": dict(asked.schema),
            "options": limits,
            "stream": False,
        }
        found = await self._call("POST", "/api/chat", body)
        with _in_form(self._deployment.url):
            return Completed(found["message"]["content"], int(found["eval_count"]), found["done_reason"] == "stop")


class OpenAiEngine(_HttpEngine):
    """A server with OpenAI's API on this host or a private network, e.g. vLLM."""

    MODELS = "/v1/models"

    async def complete(self, asked: Completion, take: TextTaker | None = None) -> Completed:
        """Return the completion, whole. Errors: PeerError, OutageError."""
        return await self.send(self.request(asked))

    def request(self, asked: Completion) -> httpx.Request:
        """Return the request of a completion."""
        return self._http.build_request("POST", "/v1/chat/completions", json=self._body(asked, asked.schema))

    def _body(self, asked: Completion, schema: Mapping[str, Any]) -> dict[str, Any]:
        form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": dict(schema), "strict": True}}
        return {
            "model": self._deployment.model,
            "messages": self._messages(asked),
            "max_tokens": min(asked.tokens_max, self._deployment.context_size // 2),
            "temperature": 0,
            "response_format": form,
        }

    async def send(self, request: httpx.Request) -> Completed:
        """Send a request of `request` and return its completion. Errors: PeerError, OutageError."""
        found = await self._sent(request)
        with _in_form(self._deployment.url):
            choice, used = found["choices"][0], found["usage"]
            is_whole, read = choice["finish_reason"] == "stop", int(used.get("prompt_tokens", 0))
            return Completed(choice["message"]["content"], int(used["completion_tokens"]), is_whole, read)


class ProviderEngine(OpenAiEngine):
    """OpenAI itself, which is given a key. Nothing that it answers with an error is reported: it may hold the key."""

    def __init__(self, url: str, model: str, key: str) -> None:
        super().__init__(Deployment("openai", "openai_compatible", model, url))
        self._http.headers["Authorization"] = f"Bearer {key}"

    def _body(self, asked: Completion, schema: Mapping[str, Any]) -> dict[str, Any]:
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
