"""Language models as rows show them: their processes, the metrics of these, and the alerts about models that do not
run."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from fks.ai.engines.deployment import Deployment
from fks.ai.placement import ModelPlacement
from fks.clock import RealClock
from fks.config.endpoints import NodeEndpoints
from fks.config.paths import Paths
from fks.config.secrets import load_secrets
from fks.config.settings import Settings
from fks.model.timeframe import to_datetime
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.deployments import DeploymentStore
from fks.store.supervision import HealthRow, TreeJournal
from fks.system import runtime
from fks.system.monitor import watcher
from fks.system.monitor.alerts import settle_what_is_over
from fks.system.monitor.language_models import FIGURES, deployed, process_snapshots
from fks.system.monitor.watcher import Watcher
from fks.system.process.metrics import TEXT_KEY, PrometheusMeter
from fks.system.runtime import Component
from tests.support.ports import CollectingLog
from tests.support.waiting import until

SMALL = Deployment("small", "llama_cpp", "/m/small.gguf", sha256="a" * 64, size_bytes=10**9, replicas=2)
DETAIL: dict[str, object] = {
    "memory_mb": 700,
    "working": 2,
    "waiting": 1,
    "tokens_s": 7.5,
    "tokens": 450,
    "answered": 5,
    "busy": 1,
    "late": 0,
    "failed": 0,
    "cancelled": 0,
}


async def beat(db: Database, child: str, state: str, pid: int, detail: Mapping[str, object]) -> None:
    """Write a heartbeat as the supervisor does."""
    now_ns = RealClock().now_ns()
    row = HealthRow(child, "actor", state, pid, "gpu-1", 0, now_ns, now_ns, detail=dict(detail))
    await TreeJournal(db).write_health([row])


async def died(db: Database, child: str, how: str, reason: str, trace: str = "") -> None:
    payload = {"how": how, "traceback": trace}
    assert await TreeJournal(db).note(child, "exited", reason, pid=1, epoch=0, payload=payload)


async def test_each_replica_is_listed_with_its_figures_and_last_death(database: Database) -> None:
    store = DeploymentStore(database)
    assert await deployed(database) == []
    await store.save(SMALL, by="me")
    await store.save(replace(SMALL, name="other", replicas=1), by="me")
    await beat(database, "inference:small:0", "ready", 7, DETAIL)
    await died(database, "inference:small:0", "normal", "asked to stop")
    await died(database, "inference:small:1", "crash", "died: signal SIGKILL")
    await died(database, "inference:small:1", "failed start", "exit code 1", "Traceback\n  x\nPeerError: no model\n")
    small, other = await deployed(database)
    assert (small["state"], small["ready"], small["model"]) == ("serving", ["inference:small:0"], "/m/small.gguf")
    first, second = small["processes"]
    assert {name: first[name] for name in FIGURES} == DETAIL
    assert (first["name"], first["state"], first["node"], first["pid"]) == ("inference:small:0", "ready", "gpu-1", 7)
    assert (first["died_at"], first["death"]) == (None, None), "an orderly end is no death"
    assert (second["state"], second["node"], second["memory_mb"]) == ("absent", None, None)
    assert (second["died_at"] is not None, second["death"]) == (True, "did not start: PeerError: no model")
    assert [process["name"] for process in other["processes"]] == ["inference:other:0"]

    # deployed again it is another model, of which no process died
    await store.save(SMALL, by="me")
    assert [process["death"] for process in (await deployed(database))[1]["processes"]] == [None, None]


@pytest.mark.parametrize("state", ["down", "ready"])
async def test_process_that_does_not_report_has_no_figures(database: Database, state: str) -> None:
    await DeploymentStore(database).save(SMALL, by="me")
    await beat(database, "inference:small:0", state, 7, DETAIL)
    await database.sql("UPDATE component_health SET beat_at = now() - interval '1 minute'")
    process = (await deployed(database))[0]["processes"][0]
    assert process["state"] == {"down": "down", "ready": "silent"}[state]
    assert {process[name] for name in FIGURES} == {None}


async def test_what_is_no_figure_is_shown_as_none(database: Database) -> None:
    """A process that runs the file of a model may report anything."""
    await DeploymentStore(database).save(SMALL, by="me")
    wrong = {"memory_mb": "<b>1</b>", "tokens": -1, "tokens_s": 2**63, "working": True, "late": [1], "waiting": None}
    await beat(database, "inference:small:0", "ready", 7, DETAIL | wrong)
    rows = await deployed(database)
    process = rows[0]["processes"][0]
    assert {name: process[name] for name in FIGURES} == DETAIL | dict.fromkeys(wrong)
    assert process_snapshots(rows)["inference:small:0"][1] == {
        f'fks_model_requests_total{{model="small",state="{state}"}}': DETAIL[state]
        for state in ("answered", "busy", "failed", "cancelled")
    }


async def alerts_of(db: Database) -> list[tuple[str, str, bool]]:
    rows = await db.sql("SELECT event, message, resolved_at IS NULL AS is_open FROM alerts ORDER BY id")
    return [(row["event"], row["message"], row["is_open"]) for row in rows]


async def looked(db: Database) -> list[tuple[str, str, bool]]:
    """Return the alerts after a look of the monitor: new ones are raised, and those whose cause is over end."""
    await DeploymentStore(db).raise_alerts()
    await settle_what_is_over(db, to_datetime(RealClock().now_ns()))
    return await alerts_of(db)


async def failed(db: Database) -> None:
    for _ in range(2):
        await died(db, "inference:small:0", "failed start", "exit code 1", "Traceback\n  x\nPeerError: no model\n")
    assert [change.state for change in await DeploymentStore(db).fail()] == ["failed"]


async def test_a_failed_model_is_one_alert_until_it_is_deployed_again(database: Database) -> None:
    store = DeploymentStore(database)
    await store.save(SMALL, by="me")
    assert await looked(database) == []
    await failed(database)
    ((event, message, is_open),) = await looked(database)
    assert (event, is_open) == ("ai.failed", True)
    assert "small ended its process twice" in message
    assert "PeerError: no model" in message
    assert len(await looked(database)) == 1
    await database.sql("UPDATE alerts SET resolved_at = now()")
    assert len(await looked(database)) == 1, "a person settled it"
    await database.sql("UPDATE alerts SET resolved_at = NULL")

    # it fails again before the monitor looks: the earlier alert is over, and there is another one
    await store.save(SMALL, by="me")
    await failed(database)
    assert [(event, is_open) for event, _, is_open in await looked(database)] == [
        ("ai.failed", False),
        ("ai.failed", True),
    ]
    await store.remove("small")
    assert [is_open for *_, is_open in await looked(database)] == [False, False]


async def test_a_model_without_a_place_is_an_alert_after_a_minute(database: Database) -> None:
    store = DeploymentStore(database)
    reason = "it asks for 1 GPU; no node of the cluster has one"
    nowhere = ModelPlacement(states={"small": ("unschedulable", reason)})
    await store.save(SMALL, by="me")
    await store.note(nowhere)
    assert await looked(database) == [], "a node that joins is read within a minute"
    await database.sql("UPDATE ai_deployments SET state_at = now() - interval '61 s'")
    ((event, message, is_open),) = await looked(database)
    assert (event, is_open) == ("ai.unschedulable", True)
    assert f"small has no place: {reason}; see 'fks ai models'" in message
    await store.note(ModelPlacement(states={"small": ("unschedulable", "another reason")}))
    assert len(await looked(database)) == 1
    await store.note(ModelPlacement(states={"small": ("wanted", "")}))
    assert [(event, is_open) for event, _, is_open in await looked(database)] == [("ai.unschedulable", False)]

    # without a place again: a new alert
    await store.note(nowhere)
    await database.sql("UPDATE ai_deployments SET state_at = now() - interval '61 s'")
    await database.sql("UPDATE alerts SET time = now() - interval '1 hour'")
    assert [is_open for *_, is_open in await looked(database)] == [False, True]


async def test_monitor_counts_models_over_a_death_and_raises_their_alerts(
    server_home: Paths, database: Database, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "EVERY_S", 0.05)
    await bus.delete(runtime.SNAPSHOTS, watcher.STATE_KEY)
    store, child = DeploymentStore(database), "inference:small:0"
    await store.save(SMALL, by="me")
    await store.save(replace(SMALL, name="lost", gpus=1.0), by="me")
    await store.note(ModelPlacement(states={"lost": ("unschedulable", "no GPU"), "small": ("wanted", "")}))
    await database.sql("UPDATE ai_deployments SET state_at = now() - interval '61 s'")
    await beat(database, child, "ready", 7, DETAIL)

    async def has(*lines: str) -> bool:
        text = (await bus.get(TEXT_KEY) or b"").decode()
        return all(f"{line}\n" in text for line in lines)

    async def is_shown(*lines: str) -> None:
        await until(lambda: has(*lines), deadline_s=20)

    component = _component(server_home, database, bus)
    watching = Watcher(component)
    await watching.start()
    task = asyncio.create_task(watching.run())
    try:
        about = f'component="{child}",model="small"'
        await is_shown(
            'fks_model_state{component="monitor",model="small",state="serving"} 1',
            'fks_model_state{component="monitor",model="small",state="failed"} 0',
            'fks_model_state{component="monitor",model="lost",state="unschedulable"} 1',
            'fks_model_replicas{component="monitor",model="small"} 2',
            'fks_model_replicas_ready{component="monitor",model="small"} 1',
            f'fks_model_requests_open{{{about},stage="working"}} 2',
            f'fks_model_requests_open{{{about},stage="waiting"}} 1',
            f'fks_model_requests_total{{{about},state="answered"}} 5',
            f'fks_model_requests_total{{{about},state="busy"}} 1',
            f"fks_model_tokens_total{{{about}}} 450",
            f'fks_process_memory_bytes{{component="{child}"}} {700 * 2**20}',
        )
        assert [event for event, *_ in await alerts_of(database)] == ["ai.unschedulable"]
        assert ("ai.unschedulable", "lost") in [(event, of.get("model")) for _, event, of in component.log.lines]

        # its successor has counted more before the monitor looks: it is another process all the same
        await beat(database, child, "ready", 8, DETAIL | {"answered": 6, "tokens": 460})
        await is_shown(f"fks_model_tokens_total{{{about}}} 910")
        # one of an older build reports fewer figures
        await beat(database, child, "ready", 9, {"answered": 1, "tokens": 10})
        await is_shown(
            f"fks_model_tokens_total{{{about}}} 920", f'fks_model_requests_total{{{about},state="answered"}} 12'
        )
        for name in ("small", "lost"):
            await store.remove(name)
        monkeypatch.setattr(watcher, "FORGET_S", 0.2)

        async def is_gone() -> bool:
            text = (await bus.get(TEXT_KEY) or b"").decode()
            return "small" not in text and not any(is_open for *_, is_open in await alerts_of(database))

        await until(is_gone, deadline_s=20)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await bus.delete(runtime.SNAPSHOTS, watcher.STATE_KEY)


def _component(home: Paths, db: Database, bus: Bus) -> Any:
    settings, node = Settings(home=home.home), NodeEndpoints("", "", "", {})
    return Component(
        *("monitor", 1, settings, home, load_secrets(home), node, RealClock()),
        *(CollectingLog(), PrometheusMeter("monitor"), db, bus, None),
    )
