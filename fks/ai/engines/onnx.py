"""Engine of encoders in ONNX: onnxruntime, with the tokenizer of their folder."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from fks.ai.engines.deployment import Deployment, check_hash
from fks.ai.engines.encoder_files import PROMPTS, model_file
from fks.ai.engines.port import NICE, Completed, Completion, Embedding, TextTaker, check_meant
from fks.model.errors import PeerError

#: tokens of a text that an encoder reads where its folder names no limit
ENCODER_TOKENS: Final = 512


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
