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

import httpx

from fks.ai.engines.deployment import GPU_HEADROOM, Deployment, check_hash
from fks.ai.engines.port import NICE, SLOTS, Completed, Completion, Embedding, TextTaker, check_meant, unmarked
from fks.model.errors import PeerError

GPU_LAYERS_ALL: Final = 999
#: tokens of a prompt that the CPU reads before it looks whether the request was cancelled
CPU_BATCH: Final = 64
#: tokens of a text that llama.cpp turns into a vector: its buffers grow with their square
EMBED_TOKENS: Final = 2048
LISTENER_S: Final = 5.0
_HALVES = "\x02system\x02", "\x02user\x02"


class LlamaCppEngine:
    """llama.cpp in this process, by xllamacpp.

    Its HTTP listener cannot be switched off: it is bound to loopback, closed by a random key, and has no CORS, pages,
    tools or slots. This process itself asks it for the form of a prompt alone.
    """

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._key = secrets.token_urlsafe(32)
        self._server: Any = None
        self._form = ("", "", "")  # of a prompt: before the system's text, between it and the user's, after that
        self._threads = ThreadPoolExecutor(SLOTS, thread_name_prefix="llama")

    async def load(self) -> None:
        """Check the hash and load the file. Errors: PeerError."""
        await asyncio.get_running_loop().run_in_executor(self._threads, self._load)
        if self._deployment.purpose == "embed":
            return
        headers = {"Authorization": f"Bearer {self._key}"}
        roles = zip(("system", "user"), _HALVES, strict=True)
        body = {"messages": [{"role": role, "content": text} for role, text in roles]}
        async with httpx.AsyncClient(trust_env=False, timeout=LISTENER_S, headers=headers) as http:
            answer = await http.post(f"{self._server.listening_address}/apply-template", json=body)
        prompt = str(answer.json().get("prompt", ""))
        found = re.fullmatch(f"(.*){_HALVES[0]}(.*){_HALVES[1]}(.*)", prompt, re.DOTALL)
        self._form = (found[1], found[2], found[3]) if found else ("", "\n\n", "\n\n")  # a base model has no form

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
        """Return the completion. Cancelled, it ends with the next token, or batch of its prompt."""
        first, between, last = self._form
        request = {
            "prompt": first + unmarked(asked.system) + between + unmarked(asked.user) + last,
            "n_predict": asked.tokens_max,
            "json_schema": dict(asked.schema),
            "temperature": 0.0,
            "cache_prompt": False,
            "stream": True,
            "return_progress": True,  # else it can be cancelled with its first token at the earliest
        }
        stop = threading.Event()
        running = asyncio.get_running_loop().run_in_executor(self._threads, self._stream, request, stop, take)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait({running})  # the slot is free when the work has ended
            raise

    def _stream(self, request: Mapping[str, Any], stop: threading.Event, take: TextTaker | None) -> Completed:
        parts: list[str] = []
        last: dict[str, Any] = {}

        def receive(chunk: dict[str, Any]) -> bool:
            last.update(chunk)
            for choice in chunk.get("choices", ()):
                text = str(choice.get("text", ""))
                parts.append(text)
                if take is not None and text:
                    take(text)
            return stop.is_set()

        self._server.handle_completions(dict(request), receive)
        if "error" in last:
            raise PeerError(f"llama.cpp: {last['error'].get('message', last['error'])}")
        choices = last.get("choices") or [{}]
        tokens = int(last.get("usage", {}).get("completion_tokens", 0))
        return Completed("".join(parts), tokens, choices[0].get("finish_reason") == "stop")

    async def close(self) -> None:
        """Free the model."""
        self._threads.shutdown(wait=False)
        self._server = None
