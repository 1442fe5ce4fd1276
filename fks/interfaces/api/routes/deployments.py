"""Deployments of models: which model is served, on how many processes, and what became of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from fks.ai.engines.deployment import NAME, Deployment, check_deployment, facts_of_model
from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.query import Admin, Body, BodyOf, Gate, Reader
from fks.interfaces.api.routing import Router
from fks.model.errors import not_found, unprocessable
from fks.model.timeframe import NS, iso, to_ns
from fks.store.deployments import Predicted
from fks.store.deployments import deploy as deploy_row
from fks.store.deployments import undeploy as undeploy_row
from fks.system.monitor.language_models import deployed

router = Router(tags=["language models"])


class DeploymentBody(Body):
    """A model to be served."""

    name: str = Field(max_length=40, pattern=f"^{NAME.pattern}$")
    engine: Literal["llama_cpp", "onnx", "ollama", "openai_compatible"] = "llama_cpp"
    model: str = Field(
        max_length=1000,
        description="path of a GGUF file here, of the folder of an ONNX encoder, of an ONNX file that predicts, or the "
        "name by which `url` knows it",
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
    purpose: Literal["answer", "embed", "predict"] = Field(
        "answer", description="write answers, make vectors for the search, or predict sealed bars"
    )
    predict: dict[str, Any] | None = Field(
        None,
        description="of purpose predict: symbols, exchange, timeframe, trained_to, inputs (the features of each input "
        "by its name) and output; `fks.ai.predictor.PredictorSpec` checks it",
    )
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
        given = self.model_dump(exclude={"device", "predict"})
        return Deployment(**given | {"gpus": self.gpus or float(self.device == "gpu")})


@router.get("/ai/deployments")
async def deployments(gate: Gate, caller: Reader) -> ExactJson:
    """List the deployed models with their states: starting, serving, waiting, unschedulable or failed, with the
    reason. `processes`: of each replica the state and node, its memory, open requests (`working`, `waiting`), tokens a
    second over the last minute, the counts since it began, and its last death; figures are null while it reports
    none."""
    return ExactJson({"items": await deployed(gate.db)})


@router.post("/ai/deployments", status_code=201)
async def deploy(gate: Gate, caller: Admin, body: BodyOf[DeploymentBody]) -> ExactJson:
    """Serve a model, in place of the one of this name. The supervisor starts a process for each replica within seconds.
    One with the purpose `predict` writes the column `forecast:<name>` from the next sealed bar on, and the answer has
    the id of the job that fills its history. Without the extra `ai`: 501 with the command that installs it."""
    wanted = body.deployment()
    if (body.predict is None) == (wanted.purpose == "predict"):
        raise unprocessable(
            "AI_DEPLOYMENT",
            f"the purpose is {wanted.purpose}, {'without' if body.predict is None else 'with'} `predict`",
            "give `predict` with the purpose predict alone",
        )
    await asyncio.to_thread(check_deployment, wanted)
    predicted = None if body.predict is None else await _predicted(gate, wanted, body.predict)
    if wanted.engine in ("llama_cpp", "onnx"):
        digest, size = await asyncio.to_thread(facts_of_model, wanted)
        if wanted.sha256 not in ("", digest):
            raise unprocessable(
                "AI_DEPLOYMENT",
                f"{wanted.model} has another SHA-256: {digest}",
                "fetch the file again, or give its hash",
            )
        wanted = replace(wanted, sha256=digest, size_bytes=size)
    job = {}
    async with gate.db.transaction() as tx:
        version = await deploy_row(tx, wanted, predicted, by=caller.name)
        if version is not None:
            from fks.research.jobs.predictions import submit_history

            job = {"job": (await submit_history(tx, version, by=caller.name))["job"]}
        row = next(row for row in await deployed(tx) if row["name"] == wanted.name)
    return ExactJson(row | job, status_code=201)


async def _predicted(gate: Gate, wanted: Deployment, given: dict[str, Any]) -> Predicted:
    """Return the bars that a deployment predicts, checked against its file."""
    from fks.ai.predictor import check_file
    from fks.research.jobs.forecast import find_market
    from fks.research.jobs.predictions import parse_predictor

    spec = await find_market(gate.db, parse_predictor({**given, "name": wanted.name}))
    if to_ns(spec.trained_to) > gate.deps.clock.now_ns():
        raise unprocessable(
            "SPEC_WRONG",
            f"predict.trained_to ({iso(to_ns(spec.trained_to))}) is in the future",
            "give the end of the data that trained the model",
        )
    await asyncio.to_thread(check_file, spec, Path(wanted.model))
    return Predicted(spec.as_json(), spec.bar_ns // NS, to_ns(spec.trained_to))


@router.delete("/ai/deployments/{name}")
async def undeploy(gate: Gate, caller: Admin, name: str) -> ExactJson:
    """End the processes of a model. Its file stays, and so do its predictions."""
    if not await undeploy_row(gate.db, name, by=caller.name):
        raise not_found("AI_DEPLOYMENT_UNKNOWN", f"there is no deployment {name}", "see 'fks ai models'")
    return ExactJson({"name": name, "removed": True})
