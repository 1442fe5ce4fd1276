"""Deployments of language models: the rows that say which model is served, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fks.ai.engines.deployment import Deployment, scheduled
from fks.model.health import LOST_AFTER_S
from fks.store.base import SqlStore, query, reads
from fks.store.db import Database


@dataclass(frozen=True, slots=True)
class DeploymentChange:
    """A deployment whose state is another one now: wanted, unschedulable or failed."""

    name: str
    state: str
    reason: str


reads(Deployment)
reads(DeploymentChange)


class DeploymentStore(SqlStore[Database], queries="deployments"):
    """Reads and writes of ai_deployments. Errors of all methods: OutageError."""

    async def all(self, beat_age_max_s: float = LOST_AFTER_S) -> list[dict[str, Any]]:
        """Return the deployments, the oldest first. `state`: starting, serving, unschedulable or failed; `ready`: ids
        of the processes that are and whose heartbeat is younger than `beat_age_max_s`."""

    @query(
        binds=(
            *("one.name", "one.engine", "one.model", "one.url", "one.sha256", "one.size_bytes"),
            *("one.device", "one.replicas", "one.context_size", "one.purpose", "by"),
        )
    )
    async def save(self, one: Deployment, *, by: str) -> None:
        """Deploy a model, or replace the deployment of its name."""

    async def remove(self, name: str) -> bool:
        """Remove a deployment; return whether there was one."""

    async def wanted(self) -> list[Deployment]:
        """Return the deployments that did not fail."""

    async def place(self, names: list[str], reasons: list[str]) -> list[DeploymentChange]:
        """Note why deployments cannot be placed; return those whose state changed."""

    async def fail(self) -> list[DeploymentChange]:
        """Note the models that ended their process twice as failed; return those."""

    async def follow(
        self, wanted: tuple[Deployment, ...], gpus: float, cpu_model_max_gb: float
    ) -> tuple[tuple[Deployment, ...], list[DeploymentChange]]:
        """Return the deployments to be run of those wanted, and what changed. `gpus`: of the whole cluster."""
        failed = await self.fail()
        left = [one for one in wanted if one.name not in {change.name for change in failed}]
        reasons = scheduled(left, gpus, cpu_model_max_gb)
        changed = await self.place(list(reasons), list(reasons.values()))
        return tuple(one for one in left if not reasons[one.name]), [*failed, *changed]
