"""Deployments of language models: the rows that say which model is served, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from fks.ai.engines.deployment import Deployment
from fks.ai.placement import ModelPlacement
from fks.model.health import LOST_AFTER_S
from fks.store.base import SqlStore, query, reads
from fks.store.db import Database

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


class DeploymentStore(SqlStore[Database], queries="deployments"):
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
