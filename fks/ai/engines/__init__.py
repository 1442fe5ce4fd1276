"""Engines that run a model: llama.cpp in this process, Ollama, or a server with OpenAI's API; and engines that turn
text into vectors: llama.cpp, and onnxruntime for the encoders of a folder. onnxruntime also predicts from features.

A deployment (`deployment.py`) names the engine, the model, and the device and context that it may use. Engines share
one port (`port.py`), have no tools, and are given no credential. Their packages are imported as a model is loaded.
"""

from __future__ import annotations

from fks.ai.engines.deployment import Deployment
from fks.ai.engines.port import ModelEngine


def engine_of(deployment: Deployment) -> ModelEngine:
    """Return the engine of a deployment, not loaded."""
    if deployment.engine == "llama_cpp":
        from fks.ai.engines.llama import LlamaCppEngine

        return LlamaCppEngine(deployment)
    if deployment.engine == "onnx":
        from fks.ai.engines.onnx import OnnxEngine, OnnxPredictor

        return OnnxPredictor(deployment) if deployment.purpose == "predict" else OnnxEngine(deployment)
    from fks.ai.engines.http import OllamaEngine, OpenAiEngine

    return OllamaEngine(deployment) if deployment.engine == "ollama" else OpenAiEngine(deployment)
