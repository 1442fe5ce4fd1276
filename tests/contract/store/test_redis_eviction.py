"""A full Redis drops what can be made again, and no count that a limit rests on."""

from __future__ import annotations

from fks.interfaces.api.limits import TAKE as TAKE_REQUEST
from fks.store.bus import BUDGETS, Bus
from fks.system.rate_limits.budgets import TAKE as TAKE_BUDGET
from tests.support import servers
from tests.support.raw_redis import raw_redis

HOUR_S = 3600


async def test_counts_of_limits_survive_a_full_redis() -> None:
    with servers.home() as home, servers.running_redis(home) as redis:
        bus = await Bus.connect(redis.url())
        try:
            for _ in range(3):
                await bus.script(TAKE_REQUEST, ["fks:limit:requests:token:1"], [1000, 1, HOUR_S, 1])
                await bus.script(TAKE_REQUEST, ["fks:limit:requests:address:192.0.2.1"], [100, 1, HOUR_S, 0])
            budget = [5, 100, 60_000, 0, -1, 0, 429, 5, BUDGETS]
            await bus.script(TAKE_BUDGET, ["fks:budget:x"], budget)
            async with raw_redis(redis.url()) as client:
                assert (await client.config_get("maxmemory-policy"))["maxmemory-policy"] == "volatile-lru"
                await client.config_set("maxmemory", "3mb")
                for number in range(4000):
                    await client.set(f"fks:other:{number}", b"x" * 2000, px=60_000)
                assert (await client.info("stats"))["evicted_keys"] > 100
                assert await client.exists("fks:budget:x")
                assert await client.ttl("fks:limit:requests:address:192.0.2.1") != -1, "addresses may be any number"
            answer = await bus.script(TAKE_REQUEST, ["fks:limit:requests:token:1"], [1000, 1, HOUR_S, 1])
            assert answer[1] == 996, "three were counted before"
        finally:
            await bus.close()
