"""Deployments of models: the rows that say which model is served, and what became of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from fks.ai.engines.deployment import Deployment
from fks.ai.placement import ModelPlacement
from fks.model.health import LOST_AFTER_S
from fks.store.base import SqlStore, query, reads
from fks.store.db import Database, Querier
from fks.store.forecasts import ModelVersion, add_version, enter_live, retire_deployed

#: how long a deployment may be without a place before there is an alert: a node that joins is read within this time
PLACE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class DeploymentChange:
    """A deployment whose state or reason is another one now. `state`: wanted, waiting, unschedulable or failed."""

    name: str
    state: str
    reason: str


reads(Deployment)
reads(DeploymentChange)


class DeploymentStore(SqlStore[Querier], queries="deployments"):
    """Reads and writes of ai_deployments. Errors of all methods: OutageError."""

    async def all(self, beat_age_max_s: float = LOST_AFTER_S) -> list[dict[str, Any]]:
        """Return the deployments, the oldest first. `state`: starting, serving, waiting (for a node),
        unschedulable or failed; `ready`: ids of the processes that are and whose heartbeat is younger than
        `beat_age_max_s`."""

    async def processes(self) -> list[dict[str, Any]]:
        """Return the replicas of the deployments, each with the row of its process, None where it has none, and with
        the event of its last death and its time (`died_at`)."""

    @query(
        binds=(
            *("one.name", "one.engine", "one.model", "one.url", "one.sha256", "one.size_bytes"),
            *("one.gpus", "one.replicas", "one.context_size", "one.purpose", "one.memory_mb", "one.load_s", "by"),
        )
    )
    async def save(self, one: Deployment, *, by: str) -> None:
        """Deploy a model, or replace the deployment of its name."""

    async def remove(self, name: str) -> bool:
        """Remove a deployment; return whether there was one."""

    async def wanted(self) -> list[Deployment]:
        """Return the deployments that did not fail."""

    async def place(self, names: list[str], states: list[str], reasons: list[str]) -> list[DeploymentChange]:
        """Note the states of deployments, and why replicas of them wait; return those that changed."""

    async def fail(self) -> list[DeploymentChange]:
        """Note the models that ended their process twice as failed; return those."""

    async def note(self, placement: ModelPlacement) -> list[DeploymentChange]:
        """Note a placement; return the deployments that changed."""
        states, reasons = zip(*placement.states.values(), strict=True) if placement.states else ((), ())
        return await self.place(list(placement.states), list(states), list(reasons))

    @query(retry=False)
    async def raise_alerts(self, place_s: float = PLACE_S) -> list[tuple[str, bool]]:
        """Raise an alert for each deployment that failed, or has had no place for some seconds, once; return the name
        of each, and whether it failed."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """The bars that a deployed model predicts. `spec`: of `fks.ai.predictor`, with its exchange; `trained_to_ns`: end
    of the data that trained it."""

    spec: Mapping[str, Any]
    bar_s: int
    trained_to_ns: int


async def deploy(
    tx: Querier, wanted: Deployment, predicted: Predicted | None = None, *, by: str
) -> ModelVersion | None:
    """Serve a model in place of the one of its name. One that predicts is a version of a model of forecasts, which is
    returned and is live from the next bar on; a deployment of another purpose in its place retires it. `tx`: a
    transaction.

    Errors: InputError FORECAST_MARKET, as `add_version`.
    """
    version = None
    if predicted is None:
        await retire_deployed(tx, wanted.name, by=by)
    else:
        spec = predicted.spec
        document = orjson.dumps([wanted.sha256, spec], option=orjson.OPT_SORT_KEYS)
        version = await add_version(
            tx,
            spec,
            exchange=str(spec["exchange"]),
            timeframe=str(spec["timeframe"]),
            bar_s=predicted.bar_s,
            fingerprint=hashlib.sha256(document).hexdigest(),
            data_hash="",
            artifact_hash=wanted.sha256,
            label_end_ns=predicted.trained_to_ns,
            libraries={},
            code_hash=None,
            licence=None,
            folds=[],
            metrics={},
            checks={},
            reference=[],
            by=by,
        )
        version = await enter_live(tx, version, by=by)
    await DeploymentStore(tx).save(wanted, by=by)
    return version


async def undeploy(db: Database, name: str, *, by: str) -> bool:
    """Remove a deployment, and have its model predict no more; return whether there was one."""
    async with db.transaction() as tx:
        await retire_deployed(tx, name, by=by)
        return await DeploymentStore(tx).remove(name)
