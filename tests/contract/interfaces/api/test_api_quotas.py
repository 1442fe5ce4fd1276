"""Quotas of a caller: its sockets at a replica, and its jobs that are queued or run."""

from __future__ import annotations

from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from fks.store.db import Database
from fks.store.jobs import JobStore
from tests.support.gateway import NO_LIMITS, running
from tests.support.waiting import until

BACKTEST = {"strategy": "sma_cross", "symbol": "BTC/USDT", "from": "2026-05-01T00:00:00Z", "to": "2026-05-02T00:00:00Z"}


async def test_a_caller_has_only_so_many_sockets_and_others_have_theirs(
    seeded: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    auth = {**NO_LIMITS, "sockets_max": 2}
    async with running(seeded, database_url, redis_url, tmp_path, auth=auth) as gateway:
        own, other = ({"Authorization": f"Bearer {gateway.tokens[scope]}"} for scope in ("read", "trade"))
        async with gateway.client("read") as client:
            ticket = (await client.post("/ws/ticket")).json()["ticket"]
        async with (
            connect(gateway.ws, additional_headers=own, proxy=None) as first,
            connect(f"{gateway.ws}?ticket={ticket}", proxy=None),
        ):
            with pytest.raises(InvalidStatus) as refused:
                async with connect(gateway.ws, additional_headers=own, proxy=None):
                    pass
            assert refused.value.response.status_code == 429
            assert b"SOCKETS_MANY" in refused.value.response.body
            async with connect(gateway.ws, additional_headers=other, proxy=None):
                pass
            await first.close()
            hub = gateway.app.state.gateway.hub
            await until(lambda: len(hub) == 1)
            async with connect(gateway.ws, additional_headers=own, proxy=None):
                pass


async def test_a_caller_has_only_so_many_open_jobs(
    seeded: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    auth = {**NO_LIMITS, "jobs_max": 2}
    async with (
        running(seeded, database_url, redis_url, tmp_path, auth=auth) as gateway,
        gateway.client("signal") as client,
        gateway.client("trade") as other,
    ):
        bodies = [{**BACKTEST, "params": {"fast": fast, "slow": 20}} for fast in (3, 4, 5)]
        first, second = [(await client.post("/backtests", json=body)).json() for body in bodies[:2]]
        refused = await client.post("/backtests", json=bodies[2])
        assert (refused.status_code, refused.json()["code"]) == (429, "JOBS_MANY")
        assert int(refused.headers["retry-after"]) > 0
        again = await client.post("/backtests", json=bodies[0])
        assert again.json()["id"] == first["id"], "what is there costs nothing"
        assert (await other.post("/backtests", json=bodies[2])).status_code == 202
        await client.delete(f"/backtests/{second['id']}")
        assert (await client.post("/backtests", json=bodies[2], params={"again": "true"})).status_code == 202
        assert await JobStore(seeded).open_of("t-signal") == 2
