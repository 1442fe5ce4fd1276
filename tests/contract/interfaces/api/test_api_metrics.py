"""/metrics: all components on any replica, monotonic, and on loopback only."""

from __future__ import annotations

import json
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from fks.store.bus import Bus
from fks.store.db import Database
from fks.system.process.metrics import SNAPSHOT_PREFIX, TEXT_KEY, PrometheusMeter, merge
from tests.support.gateway import Running, running, serving
from tests.support.waiting import until


async def test_any_replica_shows_the_actors_and_every_replica(
    seeded: Database, database_url: str, redis_url: str, tmp_path: Path, bus: Bus
) -> None:
    name = f"gateway:{tmp_path.name}"  # Redis is the session's: a name of this test's own
    orders = PrometheusMeter("orders")
    orders.count("fks_fills_total", symbol="BTCUSDT")
    await bus.set(TEXT_KEY, merge({"orders": orders.snapshot()}).encode(), 60)
    other = PrometheusMeter("gateway:1")
    other.count("fks_http_requests_total", route="/orders", status="200")
    await bus.set(
        SNAPSHOT_PREFIX + "gateway:1", b'{"fks_http_requests_total{route=\\"/orders\\",status=\\"200\\"}": 3}', 60
    )
    serving_here = running(seeded, database_url, redis_url, tmp_path, name=name)
    async with serving_here as gateway, gateway.client("read") as client:
        await client.get("/historical/BTCUSDT")
        await client.get("/nowhere/at/all")
        text = (await client.get("/metrics")).text
    found = {
        (sample.name, sample.labels.get("component"), sample.labels.get("route")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["fks_fills_total", "orders", None] == 1
    assert found["fks_http_requests_total", "gateway:1", "/orders"] == 3
    assert found["fks_http_requests_total", name, "/historical/{symbol:path}"] == 1
    assert found["fks_http_requests_total", name, "unmatched"] == 1
    assert "/nowhere" not in text


async def test_a_replica_goes_on_counting_where_its_predecessor_stopped(
    seeded: Database, database_url: str, redis_url: str, tmp_path: Path, bus: Bus
) -> None:
    name = f"gateway:{tmp_path.name}"
    async with running(seeded, database_url, redis_url, tmp_path, name=name) as gateway:
        async with gateway.client("read") as client:
            for _ in range(3):
                await client.get("/assets")

        async def kept() -> bool:
            found = json.loads(await bus.get(SNAPSHOT_PREFIX + name) or b"{}")
            return bool(found.get('fks_http_requests_total{route="/assets",status="200"}') == 3)

        await until(kept)
        tokens = gateway.tokens
    async with (
        serving(database_url, redis_url, tmp_path, tokens, name=name) as gateway,
        gateway.client("read") as client,
    ):
        await client.get("/assets")
        text = (await client.get("/metrics")).text
    assert f'fks_http_requests_total{{component="{name}",route="/assets",status="200"}} 4' in text


async def test_a_proxy_on_this_host_opens_nothing(
    seeded: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    """nginx's `proxy_pass` alone sends no header about itself, and the name of this host."""
    paths = ("/metrics", "/monitor/api/ping/", "/health/dashboard/")
    for number, proxies in enumerate(((), ("127.0.0.1",), ("192.0.2.0/24",))):
        http = {"behind_proxy": True, "trusted_proxies": proxies}
        home = tmp_path / str(number)
        async with (
            serving(database_url, redis_url, home, {}, http=http) as gateway,
            gateway.client(None) as client,
        ):
            for path in paths:
                # a proxy elsewhere is named: then a caller from here is on this host
                wanted = 200 if "192.0.2.0/24" in proxies else 401
                assert (await client.get(path)).status_code == wanted, (proxies, path)


async def test_metrics_are_for_this_host_or_a_reader(gateway: Running) -> None:
    async with gateway.client(None) as client:
        assert (await client.get("/metrics")).status_code == 200
        behind = {"X-Forwarded-For": "203.0.113.9"}
        assert (await client.get("/metrics", headers=behind)).status_code == 401
        rebound = {"Host": "evil.example"}  # a page whose name was made to mean 127.0.0.1
        assert (await client.get("/metrics", headers=rebound)).status_code == 421
    async with gateway.client("read") as client:
        assert (await client.get("/metrics", headers=behind)).status_code == 200
