"""Deployments: models that are to be served, each with its engine and device, checked before they are stored."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import ipaddress
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from fks.ai.engines.encoder_files import encoder_files, graph_files
from fks.config.urls import is_on_this_host
from fks.model.errors import InputError, PeerError

EngineName = Literal["llama_cpp", "onnx", "ollama", "openai_compatible"]
#: a model writes answers, turns text into vectors for the search, or predicts sealed bars
Purpose = Literal["answer", "embed", "predict"]
#: command that installs the extra
INSTALL: Final = "pip install 'fks[ai]' -c constraints.txt"
#: free video memory that a model needs, as a multiple of its file: the context and the buffers come on top
GPU_HEADROOM: Final = 1.2
NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,39}")


@dataclass(frozen=True, slots=True)
class Deployment:
    """A model that is to be served. `model`: the path of a GGUF file, of a folder with an ONNX encoder, of an ONNX file
    that predicts, or the name by which `url` knows it.

    `size_bytes`: of the files, 0 without one; `context_size`: tokens of one request, its prompt and its answer. `gpus`:
    of each replica, a share of one or a whole number, 0 for the CPU. `memory_mb`: resident memory that a replica may
    take, `load_s`: how long it may take to start; 0: by the size of the files.
    """

    name: str
    engine: EngineName
    model: str
    url: str = ""
    sha256: str = ""
    size_bytes: int = 0
    gpus: float = 0.0
    replicas: int = 1
    context_size: int = 8192
    purpose: Purpose = "answer"
    memory_mb: int = 0
    load_s: float = 0.0

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

    def children(self) -> list[str]:
        """Return the ids of the processes of its replicas."""
        return [self.child(number) for number in range(self.replicas)]


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
    if wanted.gpus > 1 and not wanted.gpus.is_integer():
        raise _wrong(f"{wanted.gpus:g} GPUs cannot be shared out", "give a share of one GPU, or a whole number")
    if wanted.engine == "onnx" and wanted.purpose == "answer":
        raise _wrong("an ONNX model writes no answers", "deploy it to embed ('--embed') or to predict ('--predict')")
    if wanted.purpose == "predict" and wanted.engine != "onnx":
        raise _wrong(f"{wanted.engine} predicts no bars", "deploy an ONNX file")
    if wanted.engine == "onnx":
        if not has_onnx():
            raise InputError("onnxruntime is not installed", code="AI_NOT_INSTALLED", status=501, remedy=INSTALL)
        if wanted.purpose == "predict":
            try:
                graph_files(Path(wanted.model))
            except PeerError as error:
                raise _wrong(str(error), "give the absolute path of an ONNX file") from error
            return
        if wanted.gpus:
            raise _wrong("ONNX encoders run on the CPU", "leave out the GPU")
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
    elif wanted.gpus:
        raise _wrong("the GPU of a model behind a URL is that server's own", "leave out the GPU")
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
    """Return the SHA-256 of a deployment's file, or of the names and hashes of its files where an encoder's folder, or
    weights beside an ONNX file, are more than one; and their bytes.

    Errors: OSError, PeerError for a folder with no encoder.
    """
    folder = Path(deployment.model)
    if deployment.engine != "onnx":
        return facts_of_file(folder)
    if deployment.purpose == "predict":
        files = graph_files(folder)
        if len(files) == 1:
            return facts_of_file(folder)
        folder = folder.parent
    else:
        files = encoder_files(folder)
    facts = [(str(file.relative_to(folder)), *facts_of_file(file)) for file in files]
    lines = "\n".join(f"{digest}  {name}" for name, digest, _ in facts)
    return hashlib.sha256(lines.encode()).hexdigest(), sum(size for *_, size in facts)


def check_hash(wanted: Deployment) -> None:
    """Errors: PeerError for files that cannot be read, or are others than those that were deployed."""
    try:
        digest, _ = facts_of_model(wanted)
    except OSError as error:
        raise PeerError(f"{wanted.model} cannot be read: {error.strerror}") from error
    if digest != wanted.sha256:
        raise PeerError(f"{wanted.model} has another SHA-256 than the deployment: {digest}")
