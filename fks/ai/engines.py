"""Engines that run a language model: llama.cpp in this process, Ollama, or a server with OpenAI's API; and engines
that turn text into vectors: llama.cpp, and onnxruntime for the encoders of a folder.

A deployment names the engine, the model, and the device and context that it may use. An engine completes one prompt
under a JSON schema, so that its text is a JSON document of that form. It has no tools, and it is given no credential.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import ipaddress
import json
import mmap
import os
import re
import secrets
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol
from urllib.parse import urlsplit

import httpx

from fks.config.urls import is_on_this_host
from fks.model.errors import FksError, InputError, OutageError, PeerError

EngineName = Literal["llama_cpp", "onnx", "ollama", "openai_compatible"]
Device = Literal["cpu", "gpu"]
#: a model writes answers, or turns text into vectors for the search
Purpose = Literal["answer", "embed"]
#: sends a message to the process of a replica and returns its answer; OutageError when the process is gone
InferenceCall = Callable[[str, Mapping[str, object]], Awaitable[Mapping[str, Any]]]
#: command that installs the extra
INSTALL: Final = "pip install 'fks[ai]' -c constraints.txt"
#: requests that one process works on at the same time
SLOTS: Final = 2
GPU_LAYERS_ALL: Final = 999
#: of llama.cpp's threads: trading has three times as much of a processor that both want
NICE: Final = 5
#: free video memory that a model needs, as a multiple of its file: the context and the buffers come on top
GPU_HEADROOM: Final = 1.2
#: tokens of a prompt that the CPU reads before it looks whether the request was cancelled
CPU_BATCH: Final = 64
#: tokens of a text that llama.cpp turns into a vector: its buffers grow with their square
EMBED_TOKENS: Final = 2048
#: tokens of a text that an encoder reads where its folder names no limit
ENCODER_TOKENS: Final = 512
_PROMPTS: Final = "config_sentence_transformers.json"
HTTP_LOAD_S: Final = 5.0
HTTP_ANSWER_S: Final = 600.0  # the longest deadline; that of the request ends it
NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,39}")
#: bytes of an answer over HTTP; a longer one is not read to its end
HTTP_ANSWER_MAX: Final = 2**23
_CONTROL = re.compile(r"<\|[^|>]*\|?>|</?s>|\[/?INST\]")  # how models mark turns: a text must not begin one
_HALVES = "\x02system\x02", "\x02user\x02"


@dataclass(frozen=True, slots=True)
class Deployment:
    """A model that is to be served. `model`: the path of a GGUF file, or of a folder with an ONNX encoder, or the name
    by which `url` knows it.

    `size_bytes`: of the files, 0 without one; `context_size`: tokens of one request, its prompt and its answer.
    """

    name: str
    engine: EngineName
    model: str
    url: str = ""
    sha256: str = ""
    size_bytes: int = 0
    device: Device = "cpu"
    replicas: int = 1
    context_size: int = 8192
    purpose: Purpose = "answer"

    @classmethod
    def load(cls, text: str) -> Deployment:
        """Return the deployment of `dump`."""
        return cls(**json.loads(text))

    def dump(self) -> str:
        """Return it as JSON, the same text for the same deployment."""
        return json.dumps(asdict(self), sort_keys=True)

    def child(self, number: int) -> str:
        """Return the id of the process of one replica."""
        return f"inference:{self.name}:{number}"


@dataclass(frozen=True, slots=True)
class Completion:
    """One prompt. `schema`: the JSON schema of the text that is wanted; `timeout_s`: how long it may take in all."""

    system: str
    user: str
    schema: Mapping[str, Any]
    tokens_max: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Embedding:
    """Texts that are to become vectors. `sha256`: of the model that is meant; another one refuses; `timeout_s`: how
    long it may take in all; `collection`: of the documents that they are from, "" for none."""

    texts: tuple[str, ...]
    sha256: str
    is_question: bool
    timeout_s: float
    collection: str = ""

    def message(self) -> dict[str, object]:
        """Return it as a message to a process."""
        return {"embed": asdict(self)}


@dataclass(frozen=True, slots=True)
class Completed:
    """The text of a model. `is_whole`: it ended by itself, not at a limit of tokens; `prompt_tokens`: 0 where nothing
    counts them."""

    text: str
    tokens: int
    is_whole: bool
    prompt_tokens: int = 0


#: called with each part of a text as it is made, on a thread of the engine
TextTaker = Callable[[str], None]


class ModelEngine(Protocol):
    """One loaded model. Its methods may be called `SLOTS` times at once; cancelled, they stop the work."""

    async def load(self) -> None:
        """Make the model ready. Errors: PeerError for a model that cannot be served here; OutageError while the server
        of the model is away."""

    async def complete(self, asked: Completion, take: TextTaker | None = None) -> Completed:
        """Return the completion of a prompt. `take` is given its text before that, by engines that can. Errors:
        PeerError, OutageError."""

    async def embed(self, asked: Embedding) -> list[list[float]]:
        """Return a vector for each text, as the model gives it. Errors: PeerError."""

    async def close(self) -> None:
        """Free the model."""


def has_llama() -> bool:
    """Return whether the extra `ai` is installed. Loads nothing."""
    return importlib.util.find_spec("xllamacpp") is not None


def has_onnx() -> bool:
    """Return whether onnxruntime and its tokenizers are installed. Loads nothing."""
    return all(importlib.util.find_spec(name) is not None for name in ("onnxruntime", "tokenizers"))


def check_deployment(wanted: Deployment) -> None:
    """Refuse a deployment that no engine can serve. Errors: InputError, 501 AI_NOT_INSTALLED without the extra."""
    if not NAME.fullmatch(wanted.name):
        raise _wrong(f"the name {wanted.name!r} is none", "use up to 40 of a-z, 0-9 and -, a letter first")
    if (wanted.engine == "onnx") > (wanted.purpose == "embed"):
        raise _wrong("an ONNX encoder writes no answers", "deploy it to embed: 'fks ai deploy --embed'")
    if wanted.engine == "onnx":
        if not has_onnx():
            raise InputError("onnxruntime is not installed", code="AI_NOT_INSTALLED", status=501, remedy=INSTALL)
        if wanted.device == "gpu":
            raise _wrong("ONNX encoders run on the CPU", "leave out the device")
        try:
            encoder_files(Path(wanted.model))
        except PeerError as error:
            raise _wrong(str(error), "give the absolute path of the folder of a sentence-transformers model") from error
    elif wanted.engine == "llama_cpp":
        if not has_llama():
            raise InputError("llama.cpp is not installed", code="AI_NOT_INSTALLED", status=501, remedy=INSTALL)
        if not Path(wanted.model).is_absolute() or not is_gguf(Path(wanted.model)):
            raise _wrong(f"{wanted.model} is no GGUF file here", "give the absolute path of a GGUF file")
    elif wanted.purpose == "embed":
        raise _wrong(
            "a model behind a URL has no hash: vectors of another one might be compared with its own",
            "deploy a GGUF file or the folder of an ONNX encoder",
        )
    elif wanted.device == "gpu":
        raise _wrong("the device of a model behind a URL is that server's own", "leave out the device")
    else:
        parts = urlsplit(wanted.url)
        if parts.scheme not in ("http", "https") or not _is_private(parts.hostname or ""):
            raise _wrong(
                f"{wanted.url!r} is no address on this host or a private network; documents would leave it",
                "use http://127.0.0.1:11434, or the private IP address of the server",
            )


def _wrong(text: str, remedy: str) -> InputError:
    return InputError(text, code="AI_DEPLOYMENT", status=422, remedy=remedy)


def _is_private(host: str) -> bool:
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        # link-local: a cloud's metadata service is at such an address
        return address.is_loopback or (address.is_private and not (address.is_unspecified or address.is_link_local))
    return bool(host) and is_on_this_host(host)


def is_gguf(path: Path) -> bool:
    """Return whether a file begins as GGUF files do."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(4) == b"GGUF"
    return False


def facts_of_file(path: Path) -> tuple[str, int]:
    """Return the SHA-256 of a file, and its bytes. Errors: OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()


def facts_of_model(deployment: Deployment) -> tuple[str, int]:
    """Return the SHA-256 of a deployment's file, or of the names and hashes of its encoder's files; and their bytes.

    Errors: OSError, PeerError for a folder with no encoder.
    """
    folder = Path(deployment.model)
    if deployment.engine != "onnx":
        return facts_of_file(folder)
    facts = [(str(file.relative_to(folder)), *facts_of_file(file)) for file in encoder_files(folder)]
    lines = "\n".join(f"{digest}  {name}" for name, digest, _ in facts)
    return hashlib.sha256(lines.encode()).hexdigest(), sum(size for *_, size in facts)


def scheduled(wanted: Sequence[Deployment], gpus: float, cpu_model_max_gb: float) -> dict[str, str]:
    """Return by name why each deployment cannot be placed, "" for one that can. GPUs go to the first ones.

    `gpus`: of the whole cluster. A model that asks for a GPU is never placed on the CPU.
    """
    reasons, left = {}, gpus
    for one in wanted:
        reason = ""
        if one.device == "gpu":
            if one.replicas > left:
                reason = f"it asks for {one.replicas} GPU; the cluster has {gpus:g}, of which {left:g} are free"
            else:
                left -= one.replicas
        elif one.size_bytes > cpu_model_max_gb * 1e9:
            reason = (
                f"it has {one.size_bytes / 1e9:.1f} GB; on the CPU run models up to {cpu_model_max_gb:g} GB"
                " (ai.cpu_model_max_gb)"
            )
        reasons[one.name] = reason
    return reasons


def engine_of(deployment: Deployment) -> ModelEngine:
    """Return the engine of a deployment, not loaded."""
    if deployment.engine == "llama_cpp":
        return LlamaCppEngine(deployment)
    if deployment.engine == "onnx":
        return OnnxEngine(deployment)
    return OllamaEngine(deployment) if deployment.engine == "ollama" else OpenAiEngine(deployment)


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
        async with httpx.AsyncClient(trust_env=False, timeout=HTTP_LOAD_S, headers=headers) as http:
            answer = await http.post(f"{self._server.listening_address}/apply-template", json=body)
        prompt = str(answer.json().get("prompt", ""))
        found = re.fullmatch(f"(.*){_HALVES[0]}(.*){_HALVES[1]}(.*)", prompt, re.DOTALL)
        self._form = (found[1], found[2], found[3]) if found else ("", "\n\n", "\n\n")  # a base model has no form

    def _load(self) -> None:
        wanted = self._deployment
        _check_hash(wanted)
        import xllamacpp

        os.setpriority(os.PRIO_PROCESS, 0, NICE)  # of this thread alone, and of the threads that llama.cpp starts here
        params = xllamacpp.CommonParams()
        if wanted.device == "gpu":
            self._check_gpu(xllamacpp.get_device_info())
        params.model.path = wanted.model
        params.n_gpu_layers = GPU_LAYERS_ALL if wanted.device == "gpu" else 0
        params.n_parallel, params.n_ctx = SLOTS, SLOTS * wanted.context_size
        params.cpuparams.n_threads = max(1, (os.cpu_count() or 2) // 2)  # the others trade
        if wanted.purpose == "embed":  # a text is read in one batch
            params.embedding = True
            params.n_batch = params.n_ubatch = min(wanted.context_size, EMBED_TOKENS)
        elif wanted.device == "cpu":
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
        if max(free) < need:
            raise PeerError(f"the model needs {need / 1e9:.1f} GB of video memory, {max(free) / 1e9:.1f} GB are free")

    async def embed(self, asked: Embedding) -> list[list[float]]:
        """Return a vector for each text. A text that does not fit is cut. Cancelled, it ends with the next text."""
        _check_meant(asked, self._deployment)
        loop = asyncio.get_running_loop()
        return [await loop.run_in_executor(self._threads, self._vector, text) for text in asked.texts]

    def _vector(self, text: str) -> list[float]:
        while True:
            found = self._server.handle_embeddings({"input": [_unmarked(text) or " "]})
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
            "prompt": first + _unmarked(asked.system) + between + _unmarked(asked.user) + last,
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


class OnnxEngine:
    """An encoder of sentence-transformers as a local ONNX folder, by onnxruntime, on one thread of the CPU.

    The folder has `tokenizer.json`, `model.onnx` (or in `onnx/`), and may have `1_Pooling/config.json` (mean, or the
    first token) and `config_sentence_transformers.json` (prompts before questions and documents).
    """

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._session: Any = None
        self._tokenizer: Any = None
        self._is_first_token = False
        self._prompts: Mapping[str, str] = {}
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="onnx")

    async def load(self) -> None:
        """Check the hash and load the files. Errors: PeerError."""
        await asyncio.get_running_loop().run_in_executor(self._threads, self._load)

    def _load(self) -> None:
        folder, wanted = Path(self._deployment.model), self._deployment
        _check_hash(wanted)
        import onnxruntime
        import tokenizers

        os.setpriority(os.PRIO_PROCESS, 0, NICE)  # of this thread alone
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        file = model_file(folder)
        try:
            self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
            self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # both raise classes of their own, and bare Exceptions
            raise PeerError(f"onnxruntime cannot load {file}: {str(error)[:200]}") from error
        pooling, prompts = _json_of(folder / "1_Pooling/config.json"), _json_of(folder / _PROMPTS)
        self._is_first_token = bool(pooling.get("pooling_mode_cls_token"))
        self._prompts = prompts.get("prompts") or {}
        limit = _json_of(folder / "sentence_bert_config.json").get("max_seq_length") or ENCODER_TOKENS
        self._tokenizer.enable_truncation(min(int(limit), self._deployment.context_size))
        self._tokenizer.enable_padding()

    async def embed(self, asked: Embedding) -> list[list[float]]:
        """Return a vector for each text; texts beyond the encoder's length are cut. Errors: PeerError."""
        _check_meant(asked, self._deployment)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._vectors, asked)

    def _vectors(self, asked: Embedding) -> list[list[float]]:
        import numpy as np

        names = ("query",) if asked.is_question else ("document", "passage")
        prompt = next((self._prompts[name] for name in names if name in self._prompts), "")
        read = self._tokenizer.encode_batch([prompt + text for text in asked.texts])
        mask = np.array([one.attention_mask for one in read], np.int64)
        known = {
            "input_ids": np.array([one.ids for one in read], np.int64),
            "attention_mask": mask,
            "token_type_ids": np.array([one.type_ids for one in read], np.int64),
        }
        inputs = {one.name for one in self._session.get_inputs()}
        try:
            found = self._session.run(None, {name: values for name, values in known.items() if name in inputs})[0]
        except Exception as error:  # onnxruntime raises classes of its own, which share no base
            raise PeerError(f"onnxruntime: {str(error)[:200]}") from error
        if found.ndim == 3:  # of each token
            weights = mask[:, :, None].astype(np.float32)
            is_empty = weights.sum(1) == 0
            found = found[:, 0] if self._is_first_token else (found * weights).sum(1) / (weights.sum(1) + is_empty)
        vectors: list[list[float]] = found.astype(np.float32).tolist()
        return vectors

    async def complete(self, asked: Completion, take: TextTaker | None = None) -> Completed:
        """Refuse. Errors: PeerError."""
        raise PeerError("an encoder writes no text")

    async def close(self) -> None:
        """Free the model."""
        self._threads.shutdown(wait=False)
        self._session = None


def _json_of(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file; an empty one without the file. Errors: PeerError."""
    try:
        found = json.loads(file.read_bytes()) if file.exists() else {}
    except (OSError, ValueError) as error:
        raise PeerError(f"{file} is not JSON") from error
    return found if isinstance(found, dict) else {}


def model_file(folder: Path) -> Path:
    """Return the ONNX file of an encoder's folder."""
    return next(
        (file for file in (folder / "model.onnx", folder / "onnx/model.onnx") if file.exists()), folder / "model.onnx"
    )


def encoder_files(folder: Path) -> list[Path]:
    """Return the files that an encoder is loaded from, by name: those of its folder, and the weights that its ONNX file
    names beside itself.

    Errors: PeerError for a folder without an encoder, a file that is no ONNX model, files outside the folder, and names
    that stand for no file.
    """
    try:
        return _encoder_files(folder)
    except (OSError, ValueError, RuntimeError) as error:  # too long, links in a circle, a name with NUL, no right
        raise PeerError(f"{folder} cannot be read: {str(error)[:200]}") from error


def _encoder_files(folder: Path) -> list[Path]:
    root, model = folder.resolve(), model_file(folder)
    if not folder.is_absolute() or not model.is_file() or not (folder / "tokenizer.json").is_file():
        raise PeerError(f"{folder} is no folder with model.onnx and tokenizer.json")
    optional = [folder / name for name in ("1_Pooling/config.json", _PROMPTS, "sentence_bert_config.json")]
    if not model.stat().st_size:
        raise PeerError(f"{model} is empty")
    with model.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        weights = [model.parent / name for name in external_weights(data)]
    found = sorted({model, folder / "tokenizer.json", *weights, *(file for file in optional if file.exists())})
    for file in found:
        if not file.resolve().is_relative_to(root):
            raise PeerError(f"{file} is outside of the folder {folder}: copy the model's files into one folder")
        if not file.is_file():
            raise PeerError(f"{file} is missing")
    return found


#: (message, field) of ONNX's format -> the message in it. Tensors may stand in any graph of a model
_ONNX: Final = {
    ("model", 7): "graph", ("model", 20): "training", ("model", 25): "function",
    ("training", 1): "graph", ("training", 2): "graph", ("function", 7): "node", ("function", 11): "attribute",
    ("graph", 1): "node", ("graph", 5): "tensor", ("graph", 15): "sparse", ("node", 5): "attribute",
    ("attribute", 5): "tensor", ("attribute", 6): "graph", ("attribute", 10): "tensor", ("attribute", 11): "graph",
    ("attribute", 22): "sparse", ("attribute", 23): "sparse", ("sparse", 1): "tensor", ("sparse", 2): "tensor",
    ("tensor", 13): "entry",
}  # fmt: skip


def external_weights(data: bytes | mmap.mmap) -> set[str]:
    """Return the paths of the files in which an ONNX model keeps tensors. Errors: PeerError for another format."""
    found: set[str] = set()
    left = [("model", 0, len(data))]
    while left:
        kind, at, end = left.pop()
        entry: dict[int, bytes] = {}
        while at < end:
            tag, at = _varint(data, at)
            field, wire = tag >> 3, tag & 7
            size = 0
            if wire == 0:
                _, at = _varint(data, at)
            elif wire == 2:
                size, at = _varint(data, at)
            elif wire in (1, 5):
                size = 8 if wire == 1 else 4
            else:
                raise PeerError("the file is no ONNX model")
            if at + size > end:
                raise PeerError("the file is no ONNX model, or a truncated one")
            if wire == 2 and (kind, field) in _ONNX:
                left.append((_ONNX[kind, field], at, at + size))
            elif kind == "entry" and wire == 2:
                entry[field] = data[at : at + size]
            at += size
        if entry.get(1) == b"location":
            found.add(entry.get(2, b"").decode(errors="replace"))
    return found


def _varint(data: bytes | mmap.mmap, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    raise PeerError("the file is no ONNX model, or a truncated one")


def _check_hash(wanted: Deployment) -> None:
    """Errors: PeerError for files that cannot be read, or are others than those that were deployed."""
    try:
        digest, _ = facts_of_model(wanted)
    except OSError as error:
        raise PeerError(f"{wanted.model} cannot be read: {error.strerror}") from error
    if digest != wanted.sha256:
        raise PeerError(f"{wanted.model} has another SHA-256 than the deployment: {digest}")


def _check_meant(asked: Embedding, served: Deployment) -> None:
    if (served.purpose, served.sha256) != ("embed", asked.sha256):
        raise PeerError(f"{served.name} serves another model than the one whose vectors are wanted")


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
        texts = {"system": _unmarked(asked.system), "user": _unmarked(asked.user)}
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


def _unmarked(text: str) -> str:
    return _CONTROL.sub(" ", text)


class InferenceQueue:
    """The requests of one process: `SLOTS` at work, `waiting_max` that wait, each with a deadline.

    An answer is a mapping: `text`, `tokens` and `is_whole`; or `vectors`; or `refused` (busy, deadline); or `error`.
    A request with a `stream` can be read before its answer, by messages with `read` (that stream) and `after` (the
    characters that are known): the answer has the `text` after those, as soon as there is some, and `is_open`.
    """

    def __init__(self, engine: ModelEngine, *, waiting_max: int = 8) -> None:
        self._engine, self._waiting_max = engine, waiting_max
        self._slots = asyncio.Semaphore(SLOTS)
        self._waiting = 0
        self._streams: dict[str, _TextStream] = {}
        self.counts = {"answered": 0, "tokens": 0, "busy": 0, "late": 0, "failed": 0, "cancelled": 0}

    @property
    def open(self) -> int:
        """Return how many requests wait or are at work."""
        return self._waiting

    async def call(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to a message: the fields of `Completion`, with or without `stream`; `Embedding.message`;
        or `read` and `after`. Cancelled, its slot becomes free."""
        if "read" in message:
            stream = self._streams.get(str(message["read"]))
            return {"text": "", "is_open": False} if stream is None else await stream.read(int(message["after"]))
        if self._waiting >= self._waiting_max + SLOTS:
            self.counts["busy"] += 1
            return {"refused": "busy"}
        self._waiting += 1
        name = str(message.get("stream", ""))
        try:
            if "embed" in message:
                return await self._embedded(Embedding(**message["embed"]))
            if name:
                self._streams[name] = _TextStream()
            return await self._completed(
                Completion(**{key: value for key, value in message.items() if key != "stream"}), self._streams.get(name)
            )
        except TimeoutError:
            self.counts["late"] += 1
            return {"refused": "deadline"}
        except asyncio.CancelledError:
            self.counts["cancelled"] += 1
            raise
        except FksError as error:
            self.counts["failed"] += 1
            return {"error": str(error)}
        finally:
            self._waiting -= 1
            if name in self._streams:
                self._streams.pop(name).end()

    async def _completed(self, asked: Completion, stream: _TextStream | None) -> dict[str, Any]:
        async with asyncio.timeout(asked.timeout_s), self._slots:
            done = await self._engine.complete(asked, None if stream is None else stream.take)
        self.counts["answered"] += 1
        self.counts["tokens"] += done.tokens
        return asdict(done)

    async def _embedded(self, asked: Embedding) -> dict[str, Any]:
        async with asyncio.timeout(asked.timeout_s), self._slots:
            vectors = await self._engine.embed(asked)
        self.counts["answered"] += 1
        return {"vectors": vectors}


class _TextStream:
    """The text of a request as far as it is written. `take` may be called on any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._text = ""
        self._is_open = True
        self._changed = asyncio.Event()

    def take(self, text: str) -> None:
        self._loop.call_soon_threadsafe(self._add, text)

    def _add(self, text: str) -> None:
        self._text += text
        self._changed.set()

    def end(self) -> None:
        self._is_open = False
        self._changed.set()

    async def read(self, after: int) -> dict[str, Any]:
        """Return the text after so many characters, once there is some, or it has ended."""
        while self._is_open and len(self._text) <= after:
            self._changed.clear()
            await self._changed.wait()
        return {"text": self._text[after:], "is_open": self._is_open}
