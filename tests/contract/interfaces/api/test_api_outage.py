"""The gateway starts, says so and recovers while PostgreSQL and Redis are away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest

from fks.clock import RealClock
from fks.interfaces.api import auth
from fks.model.bar import PublicTrade
from fks.store import migrate
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.latest import Latest
from fks.store.tokens import TokenStore
from tests.support import servers
from tests.support.gateway import Running, serving
from tests.support.waiting import until


async def test_gateway_started_without_servers_is_down_until_they_are_up(tmp_path: Path) -> None:
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
            assert (await client.get("/docs")).status_code == 200
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


async def test_cached_token_reads_the_newest_price_without_postgresql(
    redis_url: str, tmp_path: Path, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "REMEMBER_S", 0.0)
    now_ns = RealClock().now_ns()
    trade = PublicTrade("binance", "BTCUSDT", 1, now_ns, Decimal("64001.2"), Decimal(1), False, received_ns=now_ns)
    await Latest(bus).publish([trade])
    with servers.mortal_postgres() as postgres:
        async with running_on(postgres.url, redis_url, tmp_path) as (gateway, token), gateway.client("read") as client:
            assert (await client.get("/orders")).status_code == 200
            postgres.kill()
            found = await client.get("/market-data/BTCUSDT")
            assert (found.status_code, found.json()["price"], found.json()["state"]) == (200, "64001.2", None)
            assert (await client.get("/orders")).status_code == 503
            stranger = await client.get("/market-data/BTCUSDT", headers={"Authorization": f"Bearer {token[:-1]}x"})
            assert stranger.status_code == 503
            monkeypatch.setattr(auth, "OUTAGE_S", 0.0)
            assert (await client.get("/market-data/BTCUSDT")).status_code == 503


async def test_unknown_tokens_cost_nothing_while_postgresql_is_away(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "AWAY_S", 60.0)
    clock = RealClock()
    with servers.mortal_postgres() as postgres:
        async with (
            running_on(postgres.url, redis_url, tmp_path, retry_s=1.0) as (gateway, _),
            gateway.client(None) as client,
        ):
            postgres.kill()
            headers = [{"Authorization": f"Bearer fks_{number:043d}"} for number in range(16)]
            first = await client.get("/orders", headers=headers[0])
            started_s = clock.monotonic()
            answers = [await client.get("/orders", headers=each) for each in headers[1:]]
            took_s = clock.monotonic() - started_s
            for answer in (first, *answers):
                assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")
                assert "tokens." not in answer.text
                assert "Errno" not in answer.text
                assert "127.0.0.1" not in answer.text
            assert took_s < 8.0, "a look-up takes 1 s until it is given up: fifteen would take 15"


@contextlib.asynccontextmanager
async def running_on(
    url: str, redis_url: str, home: Path, *, retry_s: float = 0.2
) -> AsyncIterator[tuple[Running, str]]:
    db = await Database.connect(url)
    token, _ = await TokenStore(db).create("reader", "read")
    await db.close()
    async with serving(url, redis_url, home, {"read": token}, database={"retry_s": retry_s}) as gateway:
        yield gateway, token
