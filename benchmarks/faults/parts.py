"""Faults of parts other than our actors: keeper, services, Ray's GCS, Serve."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import asyncpg
import httpx
import redis.asyncio

from benchmarks.faults.entries import VENUE, serving, small
from benchmarks.faults.rig import ACTORS, Missed, Rig, Sample
from benchmarks.faults.serving import READY

FEW_S = 0.1  # a request begun so long after a kill was not in flight when it happened


@dataclass
class Load:
    """Clients in tight loops against the gateway: what each request began, took and got."""

    answers: list[tuple[float, float, int]] = field(default_factory=list)  # begun, ended, status (0: no answer)
    posts: dict[str, list[Any]] = field(default_factory=dict)  # key -> answers, the last is what counts

    def failed(self) -> list[tuple[float, float, int]]:
        return [row for row in self.answers if row[2] == 0 or row[2] >= 500]


async def load(
    rig: Rig,
    seconds: float,
    fault: Callable[[], Awaitable[float]],
    *,
    readers: int = 6,
    writers: int = 2,
    fresh: bool = False,
) -> tuple[Load, float]:
    """Run clients for so long, the fault a second in; a failed write is repeated with its key until it is answered."""
    result, end = Load(), time.monotonic() + seconds
    async with rig.client() as shared:
        price = await rig.price(shared)
        body = {
            "symbol": "BTCUSDT",
            "side": "buy",
            "type": "limit",
            "quantity": "0.0002",
            "account": "paper",
            "price": str(int(price * 0.93)),
        }

        async def one(client: httpx.AsyncClient, method: str, path: str, **more: Any) -> httpx.Response | None:
            begun = time.time()
            try:
                answer = await client.request(method, path, **more)
            except httpx.HTTPError:
                result.answers.append((begun, time.time(), 0))
                return None
            result.answers.append((begun, time.time(), answer.status_code))
            return answer

        async def read() -> None:
            while time.monotonic() < end:
                await one(shared, "GET", "/positions")

        async def write() -> None:
            while time.monotonic() < end:
                key = rig.key()
                result.posts[key] = []
                while (
                    not result.posts[key] or result.posts[key][-1] is None or result.posts[key][-1].status_code >= 500
                ):
                    result.posts[key].append(
                        await one(shared, "POST", "/orders", json=body, headers={"Idempotency-Key": key})
                    )
                    await asyncio.sleep(0.05)
                    if time.monotonic() > end + 30:
                        raise Missed("an answer to a write within 30 s")

        async def knock() -> None:
            while time.monotonic() < end:  # a new connection each time: the listener itself is tested
                async with httpx.AsyncClient(base_url=rig.system.url, timeout=2.0) as client:
                    await one(client, "GET", "/health")
                await asyncio.sleep(0.02)

        clients = [asyncio.create_task(read()) for _ in range(readers)]
        clients += [asyncio.create_task(write()) for _ in range(writers)]
        clients += [asyncio.create_task(knock())] if fresh else []
        await asyncio.sleep(1.0)
        at = await fault()
        await asyncio.gather(*clients)
    return result, at


async def once_each(rig: Rig, load: Load) -> list[str]:
    """Return what is wrong with the writes: an accepted one without a row, or one key with two orders."""
    wrong = []
    answered = {
        key: [a for a in answers if a is not None and a.status_code in (202, 422)]
        for key, answers in load.posts.items()
    }
    ids = {
        key: {(a.json().get("id"), a.json().get("client_order_id")) for a in found}
        for key, found in answered.items()
        if found
    }
    if twice := [key for key, found in ids.items() if len(found) > 1]:
        wrong.append(f"{len(twice)} keys with two orders")
    accepted = [id for found in ids.values() for id, _ in found]
    decided = "SELECT count(*) FROM signals WHERE id = ANY($1::uuid[]) AND state NOT IN ('ready', 'pending')"

    async def all_decided() -> bool:
        return int((await rig.rows(decided, accepted))[0][0]) == len(accepted)

    try:
        await rig.until(all_decided, 60.0, "outcome", every_s=0.2)
    except Missed:
        wrong.append(
            f"{len(accepted) - int((await rig.rows(decided, accepted))[0][0])} of {len(accepted)} accepted orders "
            "without an outcome"
        )
    return wrong


async def keeper(rig: Rig) -> dict[str, Sample]:
    """kill -9 of the keeper: nothing else dies, fills go on, its parent starts the next one, which adopts: it is ready
    again."""
    pids = await rig.pids()
    services = {
        n: r["pid"] for n, r in (await asyncio.to_thread(rig.system.components)).items() if r["kind"] == "service"
    }
    fills = await asyncio.to_thread(rig.system.fills)
    parent = (await asyncio.to_thread(rig.system.components))["keeper-parent"]["pid"]
    at, _ = await rig.kill("keeper")
    restarted = await rig.line("keeper", ("keeper.restarted",), at, reason="SIGKILL")
    ready = await rig.line("keeper", ("keeper.ready",), at)
    sample = Sample(None, ready - at, note=f"its parent, {parent}, started the next one: {restarted - at:.2f} s")

    async def traded() -> bool:
        return (await asyncio.to_thread(rig.system.fills)) > fills

    await rig.until(traded, 90.0, "fill after the keeper died", every_s=0.2)
    now = await asyncio.to_thread(rig.system.components)
    before = {**pids, **services, "keeper-parent": parent}
    changed = [n for n, pid in before.items() if now[n]["pid"] != pid]
    if changed:
        sample.wrong.append(f"died with it: {', '.join(changed)}")
    return {"kill -9 keeper": sample}


async def gcs(rig: Rig) -> dict[str, Sample]:
    """kill -9 of the GCS without storage: the node is done for; the keeper makes it whole from the journal. Serving:
    every child has started, each venue is READY and an entry is admitted through the new gateway."""
    fills = int((await rig.rows("SELECT count(*) FROM trades"))[0][0])
    body = await small(rig)
    at, _ = await rig.kill("gcs")
    async with serving(rig, body, at) as served:
        detected = await rig.line("keeper", ("child.exited", "service.part_died"), at)
        started = [await rig.event(name, ("started",), at, 120.0) for name in ACTORS]
        ready = [
            await rig.line("orders", ("venue.state",), at, 60.0, venue=venue, state=READY) for venue in (VENUE, "paper")
        ]
        whole_s, served_s = max([*(row["at"] for row in started), *ready]) - at, await served
    note = f"tree reconciled {whole_s:.1f} s, entry admitted {served_s:.1f} s"
    sample = Sample(detected - at, max(whole_s, served_s), note=note)
    if int((await rig.rows("SELECT count(*) FROM trades"))[0][0]) < fills:
        sample.wrong.append("fills were lost")
    return {"kill -9 GCS (in memory)": sample}


async def gcs_stored(rig: Rig) -> dict[str, Sample]:
    """kill -9 of a GCS with storage: actors and handles go on; control is back when a child killed meanwhile runs
    again."""
    pids = await rig.pids()
    at, _ = await rig.kill("gcs")
    rig.end(pids["monitor"])
    detected = await rig.line("keeper", ("service.part_died",), at, part="gcs")
    back = await rig.line("keeper", ("service.part_back",), at, part="gcs")
    started = await rig.event("monitor", ("started",), at, 90.0)
    sample = Sample(detected - at, started["at"] - at)
    now = await rig.pids()
    if others := [name for name, pid in pids.items() if name != "monitor" and now.get(name) != pid]:
        sample.wrong.append(f"restarted: {', '.join(others)}")
    sample.note = f"the GCS was back after {back - at:.2f} s; serving: the first beat of a child that died meanwhile"
    return {"kill -9 GCS (on disk, the default)": sample}


async def replica(rig: Rig) -> dict[str, Sample]:
    """kill -9 of one of the gateway's replicas under load."""

    async def fault() -> float:
        return rig.end(rig.ray_pids("ray::ServeReplica:gateway")[0])

    found, at = await load(rig, 6.0, fault)
    pair = partial(asyncio.to_thread, lambda: len(rig.ray_pids("ray::ServeReplica:gateway")) == 2)
    await rig.until(pair, 30.0, "second replica", every_s=0.2)
    failed = found.failed()
    late = [row for row in failed if row[0] > at + FEW_S]
    after = sum(row[2] == 200 for row in found.answers if at + FEW_S < row[0])
    sample = Sample(None, max((row[1] for row in failed), default=at) - at, wrong=await once_each(rig, found))
    sample.note = (
        f"{len(failed)} of {len(found.answers)} failed, {len(late)} begun later than {FEW_S:g} s after; "
        f"{after} answered by the other"
    )
    if late:
        sample.wrong.append(f"{len(late)} requests failed that were not in flight")
    return {"kill -9 a gateway replica under load": sample}


async def proxy(rig: Rig) -> dict[str, Sample]:
    """kill -9 of Serve's only proxy."""

    async def fault() -> float:
        return rig.end(rig.ray_pids("ray::ProxyActor")[0])

    found, at = await load(rig, 15.0, fault, readers=1, writers=1, fresh=True)
    bad = [row for row in found.answers if row[0] > at and row[2] != 200 and not 200 <= row[2] < 300]
    good = [row[1] for row in found.answers if row[2] in (200, 202) and row[0] > max((b[0] for b in bad), default=at)]
    sample = Sample(None, min(good) - at if good else None, wrong=await once_each(rig, found))
    sample.note = f"{len(bad)} refused meanwhile"
    return {"kill -9 the Serve proxy": sample}


async def controller(rig: Rig) -> dict[str, Sample]:
    """kill -9 of Serve's controller: no request may fail."""

    async def fault() -> float:
        return rig.end(rig.ray_pids("ray::ServeController")[0])

    found, at = await load(rig, 10.0, fault)
    failed = [row for row in found.failed() if row[1] > at]
    sample = Sample(None, 0.0 if not failed else max(row[1] for row in failed) - at, wrong=await once_each(rig, found))
    sample.note = f"{len(failed)} of {len(found.answers)} requests failed"
    if failed:
        sample.wrong.append(f"{len(failed)} requests failed")
    return {"kill -9 the Serve controller": sample}


async def postgres(rig: Rig) -> dict[str, Sample]:
    """kill -9 of PostgreSQL under writes, until an entry is admitted again: its own restart included."""
    accepts, body = [0.0], await small(rig)
    async with contextlib.AsyncExitStack() as stack:
        served: list[asyncio.Task[float]] = []

        async def fault() -> float:
            at, _ = await rig.kill("postgres")
            served.append(await stack.enter_async_context(serving(rig, body, at, is_ended=False)))
            asyncio.get_running_loop().create_task(_accepting(rig, accepts))
            return at

        found, at = await load(rig, 15.0, fault, readers=1, writers=3)
        detected = await rig.line("keeper", ("child.exited",), at, child="postgres")
        sample = Sample(detected - at, await served[0], wrong=await once_each(rig, found))
    sample.note = f"accepts connections after {accepts[0] - at:.2f} s"
    return {"PostgreSQL killed and restarted": sample}


async def _accepting(rig: Rig, accepts: list[float]) -> None:
    """Note when the server accepts connections again."""
    await asyncio.sleep(0.05)
    while not accepts[0]:
        try:
            connection = await asyncpg.connect(rig.system.node["database_url"], timeout=1.0)
            accepts[0] = time.time()
            await connection.close()
        except (OSError, asyncpg.PostgresError, TimeoutError):
            await asyncio.sleep(0.01)


async def cache(rig: Rig) -> dict[str, Sample]:
    """kill -9 of Redis, and its keys flushed when it is back: no loss, and the cache is filled again."""
    back = [0.0]

    async def fault() -> float:
        at, _ = await rig.kill("redis")
        asyncio.get_running_loop().create_task(_flushed(rig, at, back))
        return at

    found, at = await load(rig, 12.0, fault, readers=1, writers=2)
    detected = await rig.line("keeper", ("child.exited",), at, child="redis")

    async def rebuilt() -> bool:
        client = redis.asyncio.from_url(rig.system.node["redis_url"])
        try:
            return bool(await client.get("fks:metrics"))
        except redis.RedisError:
            return False
        finally:
            await client.aclose()

    await rig.until(rebuilt, 20.0, "rebuilt caches", every_s=0.05)
    bad = [row for row in found.failed() if row[1] > at]
    sample = Sample(detected - at, back[0] - at, wrong=await once_each(rig, found))
    sample.note = f"{len(bad)} of {len(found.answers)} requests failed; caches flushed and there again"
    return {"Redis killed and flushed": sample}


async def _flushed(rig: Rig, at: float, back: list[float]) -> None:
    await asyncio.sleep(0.05)
    while not back[0]:
        client = redis.asyncio.from_url(rig.system.node["redis_url"])
        try:
            await client.ping()
            back[0] = time.time()
            await client.flushall()
        except (redis.RedisError, OSError):
            await asyncio.sleep(0.01)
        finally:
            await client.aclose()
