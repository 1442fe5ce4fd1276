"""The owner's monitor paths: registry, discovery, health of services, and attacks on discovery."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fks.interfaces.cli.base import OK
from fks.store.db import Database
from fks.system.monitor.health import OWNER_SERVICES
from tests.support.api_fixtures import Fks
from tests.support.gateway import Running, running
from tests.support.health_servers import http_service
from tests.support.programs import require

SIX = {
    "name": "fks_data",
    "service_type": "data",
    "host": "localhost",
    "port": 8003,
    "health_endpoint": "/health",
    "version": "1.0.0",
}


@pytest.fixture
async def gateway(seeded: Database, database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Running]:
    """A gateway without an NTP server."""
    async with running(seeded, database_url, redis_url, tmp_path, monitor={"ntp_server": "none"}) as gateway:
        yield gateway


@pytest.fixture
async def parts(seeded: Database) -> Database:
    """The database with the heartbeats of some components, which last for the test on a slow machine too."""
    await seeded.sql(
        "INSERT INTO component_health (name, kind, state, pid, beat_at, since) VALUES"
        " ('supervisor','actor','ready',1,now() + interval '1 hour',now()), ('collector:binance','actor','ready',2,now() + interval '1 hour',now()),"
        " ('gateway:9','serve','ready',3,now() + interval '1 hour',now()),"
        " ('pages:0','serve','ready',5,now() + interval '1 hour',now()), ('orders','actor','ready',4,now() + interval '1 hour',now())"
    )
    return seeded


async def test_the_discover_line_registers_the_six_fields(gateway: Running, parts: Database) -> None:
    line = (
        f"curl -sS --noproxy '*' -X POST {gateway.url}/monitor/api/discover/ -H 'Content-Type: application/json'"
        f" -H 'Authorization: Bearer {gateway.tokens['admin']}' -d '{json.dumps(SIX)}'"
    )
    require("curl")
    shell = await asyncio.create_subprocess_shell(line, stdout=asyncio.subprocess.PIPE)
    out, _ = await shell.communicate()
    body = json.loads(out)
    assert body["success"] is True
    assert {name: body["service"][name] for name in SIX} == SIX
    async with gateway.client("admin") as client:
        await client.post("/monitor/api/discover/", json={})
        rows = {r["name"]: r for r in (await client.get("/monitor/api/registry/")).json()["services"]}
    assert {name: rows["fks_data"][name] for name in SIX} == SIX, "registering ours again keeps what a person said"
    assert (rows["fks_data"]["kind"], rows["fks_data"]["status"]) == ("service", "healthy")


@pytest.mark.parametrize("body", [b"", b"{}", b"  "])
async def test_an_empty_body_registers_our_services_again(gateway: Running, parts: Database, body: bytes) -> None:
    async with gateway.client("admin") as client:
        answer = await client.post("/monitor/api/discover/", content=body)
        assert answer.json() == {
            "success": True,
            "registered": 8,
            "services": [
                *("fks_main", "fks_api", "fks_ai", "fks_data", "fks_execution", "fks_ninja", "fks_meta", "fks_web"),
            ],
        }
        found = (await client.get("/monitor/api/registry/")).json()
        drawn = (await client.get("/api/status")).json()["tree"]
    assert found["groups"]["fks_data"] == ["collector:binance"]
    assert {"gateway:0", "gateway:9"} >= set(found["groups"]["fks_api"])
    assert found["groups"]["fks_web"] == ["pages:0"]
    served = {
        node["id"]: [row["id"] for row in node["children"]] for node in drawn if node["id"] in ("gateway", "pages")
    }
    assert served["pages"] == ["pages:0"]
    assert {row.partition(":")[0] for row in served["gateway"]} == {"gateway"}
    kinds = {row["name"]: row["kind"] for row in found["services"]}
    assert (kinds["supervisor"], kinds["fks_main"]) == ("component", "service")
    assert found["count"] == len(found["services"])


async def test_services_that_are_off_are_down_with_the_reason(gateway: Running, fks: Fks, parts: Database) -> None:
    reasons = {
        "fks_ninja": "ninja.enabled is false, and there is no table [ninja.groups.NAME]",
        "fks_meta": "mt5.enabled is false",
    }
    async with gateway.client("admin") as client:
        await client.post("/monitor/api/discover/")
        await client.post("/monitor/api/check/")
        found = (await client.get("/monitor/api/registry/")).json()
        health = (await client.get("/monitor/api/health/")).json()
        rows = {row["name"]: row for row in health["services"]}
        for name, reason in reasons.items():
            assert {row["name"]: row["status"] for row in found["services"]}[name] == "down"
            assert found["groups"][name] == rows[name]["components"] == []
            assert (rows[name]["status"], rows[name]["because"]) == ("down", [reason])
            one = (await client.get(f"/monitor/api/health/{name}/")).json()
            assert (one["status"], one["because"], one["history"]) == ("down", [reason], []), "it is no outage"
            answer = await client.get(f"/{name}/health")
            assert (answer.status_code, answer.json()["status"]) == (503, "down")
            needs = dict.fromkeys(OWNER_SERVICES[name], f"down: {reason}")
            assert answer.json()["dependencies"] == {"database": "healthy", "redis": "healthy", **needs}
        assert health["summary"]["down"] == 2
    async with gateway.client(None) as client:
        dashboard = (await client.get("/health/dashboard/")).json()
    assert {row["id"]: row["status"] for row in dashboard["services"]}.items() >= dict.fromkeys(reasons, "down").items()
    code, out, _ = await fks("monitor")
    assert code == OK
    assert "ninja.enabled is false" in out


ATTACKS = [
    ({"host": "169.254.169.254"}, 403, "HOST_NOT_ALLOWED"),
    ({"host": "[::ffff:169.254.169.254]"}, 403, "HOST_NOT_ALLOWED"),
    ({"host": "metadata.google.internal"}, 403, "HOST_NOT_ALLOWED"),
    ({"host": "10.0.0.1"}, 403, "HOST_NOT_ALLOWED"),
    ({"host": "2852039166"}, 403, "HOST_NOT_ALLOWED"),
    ({"host": "0.0.0.0"}, 403, "HOST_NOT_ALLOWED"),
    ({"host": "127.0.0.1.nip.example"}, 403, "HOST_NOT_ALLOWED"),
    ({"host": "localhost@169.254.169.254"}, 422, "SERVICE_WRONG"),
    ({"host": "localhost:80/../"}, 422, "SERVICE_WRONG"),
    ({"host": "localhost\r\nX: y"}, 422, "SERVICE_WRONG"),
    ({"health_endpoint": "http://169.254.169.254/"}, 422, "SERVICE_WRONG"),
    ({"health_endpoint": "//169.254.169.254/"}, 422, "SERVICE_WRONG"),
    ({"health_endpoint": "/x\r\nHost: y"}, 422, "SERVICE_WRONG"),
    ({"name": "../x"}, 422, "SERVICE_WRONG"),
    ({"name": "supervisor"}, 409, "SERVICE_EXISTS"),
    ({"port": 0}, 422, "INVALID"),
    ({"port": 65536}, 422, "INVALID"),
    ({"typo": 1}, 422, "INVALID"),
]


async def test_attacks_on_discovery_are_refused_and_leave_nothing(gateway: Running, parts: Database) -> None:
    async with gateway.client("admin") as client:
        await client.post("/monitor/api/discover/")
        before = await parts.sql("SELECT name, host, port FROM service_registry ORDER BY name")
        for changed, status, code in ATTACKS:
            answer = await client.post("/monitor/api/discover/", json={**SIX, **changed})
            assert (answer.status_code, answer.json()["code"]) == (status, code), (changed, answer.text)
            assert answer.json()["remedy"] or code == "INVALID"
        for body in (b"[]", b"null", b"1", b"{", b'{"name": "x"}'):
            assert (await client.post("/monitor/api/discover/", content=body)).status_code in (400, 422), body
    assert await parts.sql("SELECT name, host, port FROM service_registry ORDER BY name") == before


async def test_a_service_of_others_is_looked_at_shown_and_removed(gateway: Running, parts: Database) -> None:
    async with http_service() as service, gateway.client("admin") as client:
        theirs = {"name": "theirs", "service_type": "x", "host": "localhost", "port": service.port}
        assert (await client.post("/monitor/api/discover/", json=theirs)).json()["is_new"] is True
        assert (await client.post("/monitor/api/discover/", json=theirs)).json()["is_new"] is False
        looked = (await client.post("/monitor/api/check/")).json()
        statuses = {row["service"]: row["status"] for row in looked["checks"]}
        assert (statuses["theirs"], statuses["database"], statuses["fks_main"]) == ("healthy",) * 3
        shown = (await client.get("/monitor/api/health/theirs/")).json()
        assert (shown["status"], len(shown["history"])) == ("healthy", 1)
        assert (await client.delete("/monitor/api/registry/theirs/")).json() == {"name": "theirs", "removed": True}
        assert (await client.delete("/monitor/api/registry/theirs/")).status_code == 404
        assert (await client.delete("/monitor/api/registry/fks_main/")).status_code == 404, "ours stay"


async def test_health_has_checks_uptime_and_dependencies(gateway: Running, parts: Database) -> None:
    async with gateway.client("admin") as client:
        for _ in range(2):
            await client.post("/monitor/api/check/")
        body = (await client.get("/monitor/api/health/")).json()
        checks = {row["service"]: row for row in body["checks"]}
        assert checks["database"]["uptime"] == {"24h": 100.0, "7d": 100.0, "30d": 100.0}
        assert checks["clock"]["status"] == "unknown"
        services = {row["name"]: row for row in body["services"]}
        assert {"name": "database", "is_critical": True, "status": "healthy"} in services["fks_main"]["depends_on"]
        assert services["fks_main"]["uptime"]["24h"] == 100.0
        database = (await client.get("/monitor/api/health/database/")).json()
        assert [row["status"] for row in database["history"]] == ["healthy"] * 2
        assert (await client.get("/monitor/api/services/")).json()["count"] == len(services)


async def test_a_failed_critical_check_brings_its_services_down(gateway: Running, parts: Database) -> None:
    await parts.sql("INSERT INTO venue_states (venue, account_id, state) VALUES ('ccxt', 2, 'STALE')")
    async with gateway.client("admin") as client:
        for _ in range(2):
            await client.post("/monitor/api/check/")
        row = (await client.get("/monitor/api/health/fks_execution/")).json()
        assert (row["status"], row["because"]) == ("down", ["venue"])
        needs = {"service": "fks_execution", "depends_on": "venue", "is_critical": False}
        assert (await client.post("/monitor/api/dependencies/", json=needs)).status_code == 200
        assert (await client.get("/monitor/api/health/fks_execution/")).json()["status"] == "degraded"
        assert (await client.delete("/monitor/api/dependencies/fks_execution/venue/")).status_code == 200
        assert (await client.get("/monitor/api/health/fks_execution/")).json()["status"] == "healthy"
        assert (await client.delete("/monitor/api/dependencies/fks_execution/venue/")).status_code == 404
        for wrong in (
            {**needs, "service": "x"},
            {**needs, "depends_on": "x"},
            {**needs, "depends_on": "fks_execution"},
        ):
            assert (await client.post("/monitor/api/dependencies/", json=wrong)).status_code == 404
        listed = (await client.get("/monitor/api/dependencies/")).json()["dependencies"]
    assert needs not in listed


async def test_changes_of_the_registry_are_audited(gateway: Running, parts: Database) -> None:
    async with gateway.client("admin") as client:
        await client.post("/monitor/api/discover/", json=SIX)
    rows = await parts.sql(
        "SELECT detail FROM audit_log WHERE action = 'POST /monitor/api/discover/' AND phase = 'answered'"
    )
    assert rows[0]["detail"]["host"] == "localhost"


async def test_the_commands_show_check_and_register(fks: Fks, parts: Database) -> None:
    code, out, _ = await fks("monitor", "register", "--json")
    assert (code, "fks_data" in json.loads(out)["services"]) == (0, True)
    code, out, _ = await fks("monitor", "check", "--json")
    found: dict[str, Any] = json.loads(out)
    assert (code, found["schema"]) == (0, "fks.monitor-check/1")
    code, out, _ = await fks("monitor")
    assert code == 0
    assert "fks_data" in out
    assert "database" in out
    assert (await fks("monitor", "register", "theirs"))[0] == 2
    code, _, err = await fks("monitor", "register", "theirs", "--host", "10.0.0.1", "--port", "80")
    assert (code, "monitor.hosts" in err) == (4, True)
    assert (await fks("monitor", "register", "theirs", "--host", "localhost", "--port", "1"))[0] == 0
    code, out, _ = await fks("monitor", "check")
    assert (code, "theirs" in out) == (1, True), "one is down"
    assert (await fks("monitor", "show", "theirs"))[0] == 0
    assert (await fks("monitor", "depend", "fks_data", "theirs", "--critical"))[0] == 0
    code, out, _ = await fks("monitor", "show", "fks_data")
    assert "needs theirs (critical): down" in out
    assert (await fks("monitor", "depend", "fks_data", "theirs", "--remove"))[0] == 0
    code, out, _ = await fks("monitor", "registry", "--json")
    assert "theirs" in {row["name"] for row in json.loads(out)["items"]}
    assert (await fks("monitor", "remove", "theirs"))[0] == 0
