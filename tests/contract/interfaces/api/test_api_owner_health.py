"""The health lines of the replaced services, as their README and monitoring scripts have them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from typing import Any

import pytest

from fks.clock import RealClock
from fks.store.db import Database
from fks.system.monitor import health
from fks.system.monitor.health import OWNER_SERVICES
from tests.support.gateway import Running
from tests.support.programs import require
from tests.support.waiting import until

LINES = {
    "dashboard": "curl http://localhost:8000/health/dashboard/ | jq",
    "ping": "curl http://localhost:8000/monitor/api/ping/ | jq",
    "services": [f"curl http://localhost:8000/{name}/health | jq" for name in OWNER_SERVICES],
}


async def _paste(gateway: Running, line: str) -> Any:
    """Run a line in a shell, at this gateway's port, and return what it prints, as JSON."""
    require("curl", "jq")
    here = line.replace("http://localhost:8000", gateway.url.replace("127.0.0.1", "localhost"))
    shell = await asyncio.create_subprocess_shell(
        "set -o pipefail; " + here.replace("curl", "curl -sS --noproxy '*' --max-time 20"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        executable="/bin/bash",
    )
    out, error = await shell.communicate()
    assert shell.returncode == 0, error.decode()
    return json.loads(out)


async def _components(db: Database) -> None:
    await db.sql(
        "INSERT INTO component_health (name, kind, state, pid, beat_at, since, detail) VALUES"
        " ('supervisor','actor','ready',1,now(),now() - interval '1 hour','{}'),"
        " ('collector:binance','actor','ready',2,now(),now() - interval '1 minute','{}'),"
        " ('orders','actor','degraded',3,now(),now(),'{\"problems\": [{\"text\": \"venue ccxt is SYNCING\"}]}'),"
        " ('guardian','actor','ready',4,now(),now(),'{}'),"
        " ('strategy:0','actor','failed',5,now(),now(),'{}'),"
        " ('pages:0','serve','ready',6,now(),now(),'{}')"
    )


async def test_the_dashboard_line_prints_the_summary_without_a_token(gateway: Running, seeded: Database) -> None:
    await _components(seeded)
    body = await _paste(gateway, LINES["dashboard"])
    assert set(body) == {"status", "timestamp", "summary", "services"}
    statuses = {row["name"]: row["status"] for row in body["services"]}
    assert statuses["fks_data"] == "healthy"
    assert statuses["fks_execution"] == "degraded"
    assert statuses["fks_app"] == "down"
    assert body["summary"]["total"] == len(statuses)
    assert all(set(row) == {"id", "name", "service_type", "status", "last_check"} for row in body["services"])
    assert "SYNCING" not in json.dumps(body), "reasons are for readers with a token"
    async with gateway.client("read") as client:
        full = (await client.get("/health/dashboard/")).json()
    assert "reasons" in full
    assert full["services"][0]["components"]


async def test_the_ping_line_answers_without_a_token(gateway: Running) -> None:
    body = await _paste(gateway, LINES["ping"])
    assert (body["status"], body["service"]) == ("ok", "fks_main")
    assert body["timestamp"].endswith("Z")


async def test_off_loopback_or_with_a_wrong_token_the_summary_is_refused(gateway: Running) -> None:
    foreign = ({"X-Forwarded-For": "203.0.113.7"}, {"Host": "evil.example"}, {"Authorization": "Bearer fks_wrong"})
    async with gateway.client(None) as client:
        for path in ("/health/dashboard/", "/monitor/api/ping/"):
            for headers in foreign:
                answer = await client.get(path, headers=headers)
                assert answer.status_code == (421 if "Host" in headers else 401), (path, headers)


async def test_each_service_answers_in_the_health_protocol(gateway: Running, seeded: Database) -> None:
    await _components(seeded)
    found = {}
    for name, line in zip(OWNER_SERVICES, LINES["services"], strict=True):
        body = await _paste(gateway, line)
        assert set(body) == {"status", "service", "version", "timestamp", "dependencies", "metadata"}
        assert body["service"] == name
        assert body["timestamp"].endswith("Z")
        assert (body["dependencies"]["database"], body["dependencies"]["redis"]) == ("healthy", "healthy")
        assert set(body["metadata"]) == {"uptime_seconds", "requests_per_minute"}
        found[name] = body
    assert found["fks_main"]["status"] == found["fks_web"]["status"] == found["fks_data"]["status"] == "healthy"
    assert found["fks_execution"]["status"] == "degraded"
    assert found["fks_execution"]["dependencies"]["orders"] == "degraded"
    assert found["fks_execution"]["dependencies"]["guardian"] == "healthy"
    assert found["fks_app"]["status"] == "down"
    assert found["fks_meta"]["status"] == "down", "no component of it exists"
    assert (found["fks_ai"]["status"], found["fks_ai"]["dependencies"]) == (
        found["fks_api"]["status"],
        found["fks_api"]["dependencies"],
    ), "the gateway serves documents, search and answers"
    assert 59 <= found["fks_data"]["metadata"]["uptime_seconds"] < 90


async def test_language_models_are_dependencies_of_fks_ai(gateway: Running, seeded: Database) -> None:
    """A model without a process is degraded, too. The document needs no token, so it has no reason and no path."""
    await seeded.sql(
        "INSERT INTO component_health (name, kind, state, beat_at, since) VALUES"
        " ('inference:small:0','actor','ready',now() + interval '1 hour',now()),"
        " ('inference:half:0','actor','ready',now() + interval '1 hour',now())"
    )
    await seeded.sql(
        "INSERT INTO ai_deployments (name, engine, model, context_size, replicas, state, reason) VALUES"
        " ('small','llama_cpp','/m/a.gguf',8192,1,'wanted',''), ('half','llama_cpp','/m/a.gguf',8192,2,'wanted',''),"
        " ('broken','llama_cpp','/m/a.gguf',8192,1,'failed','PeerError: no model'),"
        " ('fast','llama_cpp','/m/a.gguf',8192,1,'unschedulable','no GPU'),"
        " ('soon','llama_cpp','/m/a.gguf',8192,1,'waiting','no GPU yet')"
    )

    async def found() -> dict[str, Any]:
        async with gateway.client(None) as client:
            answer = await client.get("/fks_ai/health")
        assert (answer.status_code, "no model" in answer.text, "gguf" in answer.text) == (200, False, False)
        return answer.json()

    body = await found()
    assert body["dependencies"] == {
        **dict.fromkeys(("database", "redis", "gateway", "inference:small"), "healthy"),
        **dict.fromkeys((f"inference:{name}" for name in ("half", "broken", "fast", "soon")), "degraded"),
    }
    assert body["status"] == "degraded"
    async with gateway.client() as client:
        service = (await client.get("/monitor/api/health/fks_ai/")).json()
        checks = (await client.post("/monitor/api/check/")).json()["checks"]
    problems = [
        "inference:broken: failed: PeerError: no model",
        "inference:fast: unschedulable: no GPU",
        "inference:half: 1 of 2 processes ready",
        "inference:soon: waiting: no GPU yet",
    ]
    assert (service["status"], service["because"]) == ("degraded", problems)
    check = next(row for row in checks if row["service"] == "fks_ai")
    assert (check["status"], check["error"]) == ("degraded", "; ".join(problems))
    await seeded.sql("DELETE FROM ai_deployments WHERE name <> 'small'")

    async def is_healthy() -> bool:  # the result of a check is shown for a second
        return (await found())["status"] == "healthy"

    await until(is_healthy)


async def test_ready_follows_health_and_that_of_ninja_has_its_own_field(gateway: Running, seeded: Database) -> None:
    await _components(seeded)
    async with gateway.client(None) as client:
        for name, status in (("fks_data", 200), ("fks_execution", 200), ("fks_app", 503), ("fks_ninja", 503)):
            assert (await client.get(f"/{name}/ready")).status_code == status, name
            assert (await client.get(f"/{name}/health")).status_code == status, name
        ninja = (await client.get("/fks_ninja/ready")).json()
        assert (ninja["status"], ninja["ninja_connected"]) == ("not_ready", False)
        for path in ("/fks_gold/health", "/fks_gold/ready"):
            unknown = await client.get(path)
            assert (unknown.status_code, unknown.json()["code"]) == (404, "SERVICE_UNKNOWN")
            assert "fks_execution" in unknown.json()["remedy"]


async def test_ready_needs_a_write_committed_lately(
    gateway: Running, seeded: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that only answers questions: its disk is full, or as here, its tables take no write."""
    monkeypatch.setattr(health, "WRITE_AGE_MAX_S", 2.0)

    async def statuses() -> tuple[int, int]:
        return (await client.get("/ready")).status_code, (await client.get("/health")).status_code

    async with gateway.client(None) as client:
        await until(lambda: _are(statuses(), (200, 200)), deadline_s=10)
        async with seeded.transaction() as tx:
            await tx.sql("LOCK TABLE component_health IN EXCLUSIVE MODE")  # reads go on
            assert await seeded.sql("SELECT FROM component_health") is not None
            await until(lambda: _are(statuses(), (503, 503)), deadline_s=10)
        await until(lambda: _are(statuses(), (200, 200)), deadline_s=10)
    fresh = health.Health(RealClock(), health.RequestRate(RealClock()), written_age_s=lambda: float("inf"))
    assert (await fresh.dependencies(seeded, None))["database"] == "healthy"
    assert not await fresh.is_ready(seeded, None), "before its first write it has proven nothing"


async def _are(found: Awaitable[tuple[int, int]], wanted: tuple[int, int]) -> bool:
    return await found == wanted
