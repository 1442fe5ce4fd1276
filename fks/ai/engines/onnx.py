"""Engines of models in ONNX by onnxruntime: encoders, with the tokenizer of their folder, and models that predict."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from fks.ai.engines.deployment import Deployment, check_hash
from fks.ai.engines.encoder_files import PROMPTS, model_file
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
)
from fks.model.errors import PeerError

#: tokens of a text that an encoder reads where its folder names no limit
ENCODER_TOKENS: Final = 512
_CPU: Final = "CPUExecutionProvider"
_CUDA: Final = "CUDAExecutionProvider"


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
        check_hash(wanted)
        import tokenizers

        os.setpriority(os.PRIO_PROCESS, 0, NICE)  # of this thread alone
        self._session, file = _session_of(model_file(folder), _CPU), folder / "tokenizer.json"
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # it raises bare Exceptions
            raise PeerError(f"{file} cannot be loaded: {str(error)[:200]}") from error
        pooling, prompts = _json_of(folder / "1_Pooling/config.json"), _json_of(folder / PROMPTS)
        self._is_first_token = bool(pooling.get("pooling_mode_cls_token"))
        self._prompts = prompts.get("prompts") or {}
        limit = _json_of(folder / "sentence_bert_config.json").get("max_seq_length") or ENCODER_TOKENS
        self._tokenizer.enable_truncation(min(int(limit), self._deployment.context_size))
        self._tokenizer.enable_padding()

    async def embed(self, asked: Embedding) -> list[list[float]]:
        """Return a vector for each text; texts beyond the encoder's length are cut. Errors: PeerError."""
        check_meant(asked, self._deployment)
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

    async def predict(self, asked: FeatureRows) -> list[float]:
        """Refuse. Errors: PeerError."""
        raise AnotherModelError("an encoder predicts no bars")

    async def close(self) -> None:
        """Free the model."""
        self._threads.shutdown(wait=False)
        self._session = None


class OnnxPredictor:
    """A model of named inputs as an ONNX file, by onnxruntime: on one thread of the CPU, or on a GPU alone.

    It is given one row of features at a time: the last bits of a row of many depend on their number.
    """

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._session: Any = None
        # a row of a sealed bar does not wait for rows of history
        self._threads = ThreadPoolExecutor(SLOTS, thread_name_prefix="onnx")

    async def load(self) -> None:
        """Check the hash, load the file, and predict a row of zeros. Errors: PeerError."""
        await asyncio.get_running_loop().run_in_executor(self._threads, self._load)

    def _load(self) -> None:
        check_hash(self._deployment)
        self._session = _session_of(Path(self._deployment.model), _CUDA if self._deployment.gpus else _CPU)
        inputs = {one.name: [0.0] * _width(one.shape) for one in self._session.get_inputs()}
        for output in self._session.get_outputs():  # the first row takes longer than others, on a GPU seconds
            self._value(inputs, output.name)

    async def predict(self, asked: FeatureRows) -> list[float]:
        """Return a value for each row, which may not be finite. Errors: PeerError for inputs that the model does
        not have, or an output that is not one number."""
        check_meant(asked, self._deployment)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._values, asked)

    def _values(self, asked: FeatureRows) -> list[float]:
        output = asked.output or self._session.get_outputs()[0].name
        return [self._value(row, output) for row in asked.rows]

    def _value(self, row: Mapping[str, Sequence[float]], output: str) -> float:
        import numpy as np

        kinds = {one.name: np.float64 if "double" in one.type else np.float32 for one in self._session.get_inputs()}
        if kinds.keys() != row.keys():
            raise PeerError(f"the model has the inputs {', '.join(sorted(kinds))}, not {', '.join(sorted(row))}")
        try:
            given = {name: np.array([values], kinds[name]) for name, values in row.items()}
            found = np.asarray(self._session.run([output], given)[0])
        except Exception as error:  # onnxruntime raises classes of its own, which share no base
            raise PeerError(f"onnxruntime: {str(error)[:200]}") from error
        if found.size != 1 or found.dtype.kind != "f":
            raise PeerError(f"the output {output} of a row has the shape {found.shape} and type {found.dtype}")
        return float(found.reshape(()))

    async def complete(self, asked: Completion, take: TextTaker | None = None) -> Completed:
        """Refuse. Errors: PeerError."""
        raise PeerError("a model of features writes no text")

    async def embed(self, asked: Embedding) -> list[list[float]]:
        """Refuse. Errors: PeerError."""
        raise PeerError("a model of features reads no text")

    async def close(self) -> None:
        """Free the model."""
        self._threads.shutdown(wait=False)
        self._session = None


def _width(shape: Sequence[int | str | None]) -> int:
    """Return the length of a row of an input; 1 where it is free."""
    side = shape[1] if len(shape) > 1 else 1
    return side if isinstance(side, int) else 1


def _session_of(file: Path, provider: str) -> Any:
    """Return the session of a file with one provider. Errors: PeerError, also where it would run without it."""
    import onnxruntime

    if provider not in onnxruntime.get_available_providers():
        raise PeerError(f"onnxruntime has no {provider} here: install onnxruntime-gpu on the nodes with a GPU")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.use_deterministic_compute = True
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=[provider])
    except Exception as error:  # it raises classes of its own, which share no base
        raise PeerError(f"onnxruntime cannot load {file}: {str(error)[:200]}") from error
    if session.get_providers()[0] != provider:  # it falls back to the CPU without an error
        raise PeerError(f"onnxruntime cannot use {provider} here: see 'fks ai doctor'")
    return session


def _json_of(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file; an empty one without the file. Errors: PeerError."""
    try:
        found = json.loads(file.read_bytes()) if file.exists() else {}
    except (OSError, ValueError) as error:
        raise PeerError(f"{file} is not JSON") from error
    return found if isinstance(found, dict) else {}
