"""Deployments of language models: which model is served, on how many processes, and what became of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Literal

from pydantic import Field

from fks.ai.engines.deployment import NAME, Deployment, check_deployment, facts_of_model
from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.query import Admin, Body, BodyOf, Gate, Reader
from fks.interfaces.api.routing import Router
from fks.model.errors import not_found, unprocessable
from fks.store.deployments import DeploymentStore
from fks.system.monitor.language_models import deployed

router = Router(tags=["language models"])


class DeploymentBody(Body):
    """A language model to be served."""

    name: str = Field(max_length=40, pattern=f"^{NAME.pattern}$")
    engine: Literal["llama_cpp", "onnx", "ollama", "openai_compatible"] = "llama_cpp"
    model: str = Field(
        max_length=1000,
        description="path of a GGUF file here, of the folder of an ONNX encoder, or the name by which `url` knows it",
    )
    url: str = Field("", max_length=300, description="of Ollama, or of a server with OpenAI's API")
    sha256: str = Field("", max_length=64, pattern="^([0-9a-f]{64})?$", description="of the file; default: its own")
    gpus: float = Field(
        0.0,
        ge=0.0,
        le=16.0,
        description="of each replica: a share or a whole number, never the CPU in its place",
    )
    device: Literal["cpu", "gpu"] = Field("cpu", description="gpu: as `gpus` 1, where that is not given")
    replicas: int = Field(1, ge=1, le=16)
    context_size: int = Field(8192, ge=2048, le=262_144, description="tokens of a prompt and its answer")
    purpose: Literal["answer", "embed"] = Field("answer", description="write answers, or make vectors for the search")
    memory_mb: int = Field(
        0,
        ge=0,
        le=4_194_304,
        description="memory of a replica; 0: 1.5 times the file and that of any process",
    )
    load_s: float = Field(
        0.0, ge=0.0, le=3600.0, description="how long a replica may take to start; 0: 20 s for each GB, and 30 s"
    )

    def deployment(self) -> Deployment:
        """Return what is wanted."""
        given = self.model_dump(exclude={"device"})
        return Deployment(**given | {"gpus": self.gpus or float(self.device == "gpu")})


@router.get("/ai/deployments")
async def deployments(gate: Gate, caller: Reader) -> ExactJson:
    """List the language models with their states: starting, serving, waiting, unschedulable or failed, with the
    reason. `processes`: of each replica the state and node, its memory, open requests (`working`, `waiting`), tokens a
    second over the last minute, the counts since it began, and its last death; figures are null while it reports
    none."""
    return ExactJson({"items": await deployed(gate.db)})


@router.post("/ai/deployments", status_code=201)
async def deploy(gate: Gate, caller: Admin, body: BodyOf[DeploymentBody]) -> ExactJson:
    """Serve a language model, in place of the one of this name. The supervisor starts a process for each replica
    within seconds. Without the extra `ai`: 501 with the command that installs it."""
    wanted = body.deployment()
    await asyncio.to_thread(check_deployment, wanted)
    if wanted.engine in ("llama_cpp", "onnx"):
        digest, size = await asyncio.to_thread(facts_of_model, wanted)
        if wanted.sha256 not in ("", digest):
            raise unprocessable(
                "AI_DEPLOYMENT",
                f"{wanted.model} has another SHA-256: {digest}",
                "fetch the file again, or give its hash",
            )
        wanted = replace(wanted, sha256=digest, size_bytes=size)
    store = DeploymentStore(gate.db)
    await store.save(wanted, by=caller.name)
    row = next(row for row in await deployed(gate.db) if row["name"] == wanted.name)
    return ExactJson(row, status_code=201)


@router.delete("/ai/deployments/{name}")
async def undeploy(gate: Gate, caller: Admin, name: str) -> ExactJson:
    """End the processes of a language model. Its file stays."""
    if not await DeploymentStore(gate.db).remove(name):
        raise not_found("AI_DEPLOYMENT_UNKNOWN", f"there is no deployment {name}", "see 'fks ai models'")
    return ExactJson({"name": name, "removed": True})
