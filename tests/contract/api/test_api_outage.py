"""The gateway starts, says so and recovers while PostgreSQL and Redis are away."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fks.store import migrate
from fks.store.db import Database
from fks.store.tokens import TokenStore
from tests.support import servers
from tests.support.gateway import serving
from tests.support.waiting import until


async def test_a_gateway_that_starts_without_its_servers_says_down_and_comes_up_with_them(tmp_path: Path) -> None:
    with servers.home() as home:
        with servers.running_postgres(home) as postgres:
            url = postgres.url("postgres")
            await migrate.upgrade(url)
            db = await Database.connect(url)
            token, _ = await TokenStore(db).create("reader", "read")
            await db.close()
        redis_url = f"unix://{home.sockets}/nothing.sock"
        async with serving(url, redis_url, tmp_path, {"read": token}) as gateway, gateway.client("read") as client:
            health = await client.get("/health")
            assert health.status_code == 503
            assert health.json()["dependencies"] == {
                "database": "down",
                "redis": "down",
                "tree": "down",
                "feeds": "down",
            }
            assert (await client.get("/ready")).json()["status"] == "not_ready"
            refused = await client.get("/orders")
            assert refused.status_code == 503
            assert refused.headers["content-type"] == "application/problem+json"
            assert refused.headers["retry-after"] == "1"
            assert (await client.get("/monitor/")).status_code == 200
            assert (await client.get("/metrics")).status_code == 200
            with servers.running_postgres(home):

                async def is_back() -> bool:
                    return (await client.get("/orders")).status_code == 200

                await until(is_back, deadline_s=20)
                assert (await client.get("/health")).json()["status"] == "degraded"
                ticket = await client.post("/ws/ticket")  # tickets are Redis's, which is still away
                assert ticket.status_code == 503
            await asyncio.sleep(0)
            assert not [line for line in gateway.log.lines if "task_died" in str(line)]
