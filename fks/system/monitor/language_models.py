"""Language models as they are shown: each deployment with the processes of its replicas, its health and its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fks.model.health import DEGRADED, HEALTHY
from fks.model.ports import Meter
from fks.store.db import Querier
from fks.store.deployments import DeploymentStore
from fks.system.monitor.history import describe
from fks.system.monitor.status import component_view
from fks.system.process.metrics import Snapshot, series

#: states of a deployment
STATES: Final = ("starting", "serving", "waiting", "unschedulable", "failed")
#: how requests end, as the queue of a process counts them
OUTCOMES: Final = ("answered", "busy", "late", "failed", "cancelled")
#: figures that a process reports of itself
FIGURES: Final = ("memory_mb", "working", "waiting", "tokens_s", "tokens", *OUTCOMES)
_FIGURE_MAX: Final = 2**63
#: states in which a process reports: figures of one that ended are old
_REPORTS: Final = frozenset({"ready", "degraded", "draining"})
#: figure, metric, labels besides the model
_SERIES: Final[tuple[tuple[str, str, dict[str, str]], ...]] = (
    ("tokens", "fks_model_tokens_total", {}),
    *((stage, "fks_model_requests_open", {"stage": stage}) for stage in ("working", "waiting")),
    *((outcome, "fks_model_requests_total", {"state": outcome}) for outcome in OUTCOMES),
)


async def deployed(db: Querier) -> list[dict[str, Any]]:
    """Return the deployments (`DeploymentStore.all`), each with `processes`, one of each replica. Errors: OutageError.

    A process has `name`, `state` (absent: it has none), `node`, `pid`, `restarts`, `since`, `problem`, the figures that
    it reports (`FIGURES`), None while it does not, and `died_at` with `death`, how it died last and why.
    """
    store = DeploymentStore(db)
    found = await store.all()
    processes: dict[str, list[dict[str, Any]]] = {row["name"]: [] for row in found}
    for row in await store.processes():
        if row["deployment"] in processes:  # deployed between the two reads
            processes[row["deployment"]].append(_process(row))
    return [row | {"processes": processes[row["name"]]} for row in found]


def _process(row: Mapping[str, Any]) -> dict[str, Any]:
    seen: Mapping[str, Any] = {} if row["state"] is None else component_view(row)
    state = seen.get("state", "absent")
    detail = seen["detail"] if state in _REPORTS else {}
    return {
        "name": row["name"],
        "state": state,
        **{name: seen.get(name) for name in ("node", "pid", "restarts", "since", "problem")},
        **{name: _figure(detail.get(name)) for name in FIGURES},
        "died_at": row["died_at"],
        "death": None if row["died_at"] is None else _death(row),
    }


def _figure(value: object) -> float | None:
    """Return a figure of a process; None for anything else: a process that runs the file of a model is not trusted."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if 0 <= value < _FIGURE_MAX else None


def _death(row: Mapping[str, Any]) -> str:
    found = describe(row)
    return ": ".join(part for part in (found.what, found.why) if part)


def model_health(row: Mapping[str, Any]) -> str:
    """Return healthy while every replica of a deployment is ready, degraded otherwise: answers are passages without
    it."""
    return DEGRADED if model_problem(row) else HEALTHY


def model_problem(row: Mapping[str, Any]) -> str:
    """Return why a deployment is not healthy, "" when it is."""
    ready = len(row["ready"])
    if row["state"] == "serving":
        return "" if ready == row["replicas"] else f"{ready} of {row['replicas']} processes ready"
    return ": ".join(part for part in (row["state"], row["reason"]) if part)


class ModelMeter:
    """Sets the gauges of the deployments. Soft state: the models that it has set some of."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._models: frozenset[str] = frozenset()

    def set(self, rows: list[dict[str, Any]]) -> None:
        """Set the gauges of these deployments, and forget those of others."""
        names = frozenset(row["name"] for row in rows)
        for name in self._models - names:
            self._meter.remove("fks_model_replicas", model=name)
            self._meter.remove("fks_model_replicas_ready", model=name)
            for state in STATES:
                self._meter.remove("fks_model_state", model=name, state=state)
        for row in rows:
            self._meter.gauge("fks_model_replicas", float(row["replicas"]), model=row["name"])
            self._meter.gauge("fks_model_replicas_ready", float(len(row["ready"])), model=row["name"])
            for state in STATES:
                self._meter.gauge("fks_model_state", float(row["state"] == state), model=row["name"], state=state)
        self._models = names


def process_snapshots(rows: list[dict[str, Any]]) -> dict[str, tuple[int, Snapshot]]:
    """Return pid and metrics of each process that reports, by its name: it has no credential for Redis, where others
    put theirs."""
    return {
        process["name"]: (process["pid"], snapshot)
        for row in rows
        for process in row["processes"]
        if (snapshot := _snapshot(row["name"], process))
    }


def _snapshot(model: str, process: Mapping[str, Any]) -> Snapshot:
    found = {
        series(name, {"model": model, **labels}): float(process[figure])
        for figure, name, labels in _SERIES
        if process[figure] is not None  # a process of an older build
    }
    if process["memory_mb"] is not None:
        found["fks_process_memory_bytes"] = process["memory_mb"] * 2.0**20
    return found
