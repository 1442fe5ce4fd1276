"""Engine of GGUF files: llama.cpp in this process, by xllamacpp."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from fks.ai.engines.deployment import GPU_HEADROOM, Deployment, check_hash
from fks.ai.engines.port import (
    NICE,
    SLOTS,
    AnotherModelError,
    Completed,
    Completion,
    Embedding,
    FeatureRows,
    TextTaker,
    check_meant,
    too_long,
    unmarked,
    unmarked_messages,
)
from fks.model.errors import FksError, InputError, PeerError

GPU_LAYERS_ALL: Final = 999
#: tokens of a prompt that the CPU reads before it looks whether the request was cancelled
CPU_BATCH: Final = 64
#: bytes of the stack of a thread that calls llama.cpp, taken when they are used: some of its tokenizers go one call
#: deeper with each letter of a word, and a word as long as a request may be (256 KiB) ended the process
STACK_SIZE: Final = 512 * 2**20
#: tokens of a text that llama.cpp turns into a vector: its buffers grow with their square
EMBED_TOKENS: Final = 2048


class LlamaCppEngine:
    """llama.cpp in this process, by xllamacpp.

    Its HTTP listener cannot be switched off: it is bound to loopback, closed by a random key, and has no CORS, pages,
    tools or slots. Nothing asks it: requests are calls in this process.
    """

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._key = secrets.token_urlsafe(32)
        self._server: Any = None
        self._threads = _deep_threads()

    async def load(self) -> None:
        """Check the hash and load the file. Errors: PeerError."""
        await asyncio.get_running_loop().run_in_executor(self._threads, self._load)

    def _load(self) -> None:
        wanted = self._deployment
        check_hash(wanted)
        import xllamacpp

        os.setpriority(os.PRIO_PROCESS, 0, NICE)  # of this thread alone, and of the threads that llama.cpp starts here
        params = xllamacpp.CommonParams()
        if wanted.gpus:
            self._check_gpu(xllamacpp.get_device_info())
        params.model.path = wanted.model
        params.n_gpu_layers = GPU_LAYERS_ALL if wanted.gpus else 0
        params.n_parallel, params.n_ctx = SLOTS, SLOTS * wanted.context_size
        params.cpuparams.n_threads = max(1, (os.cpu_count() or 2) // 2)  # the others trade
        if wanted.purpose == "embed":  # a text is read in one batch
            params.embedding = True
            params.n_batch = params.n_ubatch = min(wanted.context_size, EMBED_TOKENS)
        elif not wanted.gpus:
            params.n_batch = params.n_ubatch = CPU_BATCH
        params.fit_params = params.warmup = False
        params.cache_ram_mib = 0
        params.verbosity = -1
        params.offline = True
        params.hostnames, params.port, params.n_threads_http = ["127.0.0.1"], 0, 1
        params.api_keys = [self._key]
        params.cors_origins, params.cors_origins_explicit, params.cors_credentials = "", True, False
        params.ui = params.endpoint_slots = params.endpoint_props = params.endpoint_metrics = False
        try:
            self._server = xllamacpp.Server(params)
            if wanted.purpose == "embed" and "error" in self._server.handle_embeddings({"input": ["a"]}):
                # the file names no pooling, as those of models that write do not
                params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
                self._server = xllamacpp.Server(params)
        except RuntimeError as error:
            raise PeerError(f"llama.cpp cannot load {wanted.model}") from error

    def _check_gpu(self, devices: Sequence[Mapping[str, Any]]) -> None:
        free = [int(one["memory_free"]) for one in devices if "CPU" not in str(one["name"]).upper()]
        need = int(self._deployment.size_bytes * GPU_HEADROOM)
        if not free:
            raise PeerError("a GPU is asked for, and this build of llama.cpp knows none: install its CUDA build")
        if sum(free) < need:
            raise PeerError(f"the model needs {need / 1e9:.1f} GB of video memory, {sum(free) / 1e9:.1f} GB are free")

    async def embed(self, asked: Embedding) -> list[list[float]]:
        """Return a vector for each text. A text that does not fit is cut. Cancelled, it ends with the next text."""
        check_meant(asked, self._deployment)
        loop = asyncio.get_running_loop()
        return [await loop.run_in_executor(self._threads, self._vector, text) for text in asked.texts]

    async def predict(self, asked: FeatureRows) -> list[float]:
        """Refuse. Errors: PeerError."""
        raise AnotherModelError("a language model predicts no bars")

    def _vector(self, text: str) -> list[float]:
        while True:
            found = self._server.handle_embeddings({"input": [unmarked(text) or " "]})
            if "error" not in found:
                return list(found["data"][0]["embedding"])
            fault = str(found["error"].get("message", found["error"]))
            if len(text) < 16 or not re.search("too large|exceed|too long", fault):
                raise PeerError(f"llama.cpp: {fault}")
            text = text[: len(text) // 2]

    async def complete(self, asked: Completion, take: TextTaker | None = None) -> Completed:
        """Return the completion, in the form of the model's own chat template. Cancelled, it ends with the next token,
        or batch of its prompt."""
        given = {
            "max_tokens": asked.tokens_max,
            "temperature": asked.temperature,
            "top_p": asked.top_p,
            "seed": asked.seed,
        }
        request = {
            "messages": unmarked_messages(asked),
            **{name: value for name, value in given.items() if value is not None},
            "stop": list(asked.stop),
            # thoughts are no part of the text, and would use up its tokens
            "chat_template_kwargs": {"enable_thinking": False},
            "cache_prompt": False,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_progress": True,  # else it can be cancelled with its first token at the earliest
        }
        stop = threading.Event()
        running = asyncio.get_running_loop().run_in_executor(
            self._threads, self._stream, request, asked.schema, stop, take
        )
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait({running})  # the slot is free when the work has ended
            raise

    def _stream(
        self,
        request: dict[str, Any],
        schema: Mapping[str, Any] | None,
        stop: threading.Event,
        take: TextTaker | None,
    ) -> Completed:
        import xllamacpp

        parts: list[str] = []
        last: dict[str, Any] = {}

        def receive(chunk: dict[str, Any]) -> bool:
            last.update({key: value for key, value in chunk.items() if value})
            for choice in chunk.get("choices", ()):
                text = str(choice["delta"].get("content") or "")
                parts.append(text)
                if take is not None and text:
                    take(text)
            return stop.is_set()

        try:
            if schema is not None:
                # as response_format llama.cpp parses the text, and refuses spaces that its grammar allows
                request["grammar"] = xllamacpp.json_schema_to_grammar(dict(schema))
            self._server.handle_chat_completions(request, receive)
        except (ValueError, TypeError) as error:  # of its template or of the schema
            raise InputError(f"llama.cpp cannot take the request: {str(error)[:200]}") from error
        if "error" in last:
            raise _error_of(last["error"])
        choices, used = last.get("choices") or [{}], last.get("usage", {})
        is_whole = choices[0].get("finish_reason") == "stop"
        return Completed(
            "".join(parts), int(used.get("completion_tokens", 0)), is_whole, int(used.get("prompt_tokens", 0))
        )

    async def close(self) -> None:
        """Free the model."""
        self._threads.shutdown(wait=False)
        self._server = None


def _deep_threads() -> ThreadPoolExecutor:
    """Return threads whose stack has `STACK_SIZE`."""
    threads, begun = ThreadPoolExecutor(SLOTS, thread_name_prefix="llama"), threading.Barrier(SLOTS)
    before = threading.stack_size(STACK_SIZE)  # of threads that begin from now on
    try:
        list(threads.map(lambda _: begun.wait(), range(SLOTS)))
    finally:
        threading.stack_size(before)
    return threads


def _error_of(found: Mapping[str, Any]) -> FksError:
    message = f"llama.cpp: {found.get('message', found)}"
    if found.get("type") == "exceed_context_size_error":
        return too_long(message)
    return InputError(message) if found.get("code") == 400 else PeerError(message)
