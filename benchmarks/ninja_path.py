"""A signal's way to NinjaTrader: from its commit to the bytes on the bridge's socket, and from there to the AddOn's answer.

    python benchmarks/ninja_path.py [count]

The floor, in the same run and in turn: one way of a Ray actor call to another process, plus one commit of one row (a
prepared insert on one connection, synchronous_commit on, fsync on). The path: the request's row is committed; the link,
in a process of its own, is woken through Redis, claims it, commits its line, and writes it to a bridge on a real socket.
Limit: at most 1.5 times the floor. Before anything is timed, each line is compared with its request. Then the AddOn
itself under mono with the simulated platform: signal to acknowledgement, with its two fsynced records (without mono it
says so and leaves this out).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import sys
import time
import uuid
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the rigs of the tests, however this is started

from fks.clock import RealClock
from fks.config.settings import Database as DatabaseSettings
from fks.model.ninja import NinjaRequest, RequestKind
from fks.ninja_link.service import LinkOptions, LinkPorts, NinjaLink
from fks.store import migrate
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.facts import Facts
from fks.store.leases import raise_epoch
from fks.store.ninja import NinjaStore, events_topic, requests_topic
from tests.support import mono, nt8_host, servers
from tests.support.ninja import SECRET, ack
from tests.support.ninja_link import BODY
from tests.support.ninja_server import ScriptedBridge
from tests.support.order_rig import TestLease
from tests.support.ports import CollectingLog, RecordingMeter

GROUP, WARM, PAUSE_S, ANSWER_S = "sim", 30, 0.01, 5.0
LIMIT = 1.5


def shown(name: str, seconds: list[float], floor_s: float | None = None) -> str:
    """Return one line: median and 99th percentile in ms, and the median as a multiple of the floor's."""
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    ratio = "" if floor_s is None else f"   x floor {statistics.median(ordered) / floor_s:5.2f}"
    return (
        f"{name:<46} p50 {statistics.median(ordered) * 1e3:7.3f} ms   p99 {p99 * 1e3:7.3f} ms{ratio}   n {len(ordered)}"
    )


# ── the link, in a process of its own ────────────────────────────────────────────────────────────
async def serve_link(database_url: str, redis_url: str, port: int) -> None:
    """Run the link of the group until the process is ended, as its actor does."""
    db = await Database.lazy(database_url, DatabaseSettings(), application="ninja link")
    bus = await Bus.connect(redis_url)
    lease = TestLease(f"ninja:{GROUP}", await raise_epoch(db, f"ninja:{GROUP}", "bench"))
    ports = LinkPorts(
        NinjaStore(db, lease),
        Facts(db),
        lambda: bus.publish(events_topic(GROUP), {"group": GROUP}),
        RealClock(),
        CollectingLog(),
        RecordingMeter(),
        lease,
    )
    link = NinjaLink(LinkOptions(GROUP, "127.0.0.1", port, 2.0, SECRET), ports)
    await link.start()

    async def wake() -> None:
        async for _ in bus.subscribe(requests_topic(GROUP)):
            link.wake()

    waking = asyncio.create_task(wake())
    try:
        await link.run()
    finally:
        waking.cancel()


class TimedBridge(ScriptedBridge):
    """Acknowledges every signal, and keeps when its line was read: monotonic seconds by id."""

    def __init__(self) -> None:
        super().__init__()
        self.read_s: dict[str, float] = {}
        self.news = asyncio.Event()

    def _answers(self, found: dict[str, Any], opening: dict[str, Any]) -> list[dict[str, Any]]:
        if found["t"] != "signal":
            return super()._answers(found, opening)
        self.read_s[found["id"]] = time.monotonic()
        self.news.set()
        return [ack(found["id"])]


async def through_link(
    database_url: str, redis_url: str, bridge: TimedBridge, count: int
) -> tuple[list[float], list[float]]:
    """Return the seconds from commit to the bytes at the bridge, and of the commit itself."""
    db = await Database.lazy(database_url, DatabaseSettings(), application="bench")
    bus = await Bus.connect(redis_url)
    store = NinjaStore(db)
    argv = [sys.executable, __file__, "--link", database_url, redis_url, str(bridge.port)]
    process = await asyncio.create_subprocess_exec(*argv)
    to_bytes, commits = list[float](), list[float]()
    try:
        deadline = time.monotonic() + 30.0
        while (link := await store.link(GROUP)) is None or not link.can_trade:
            assert time.monotonic() < deadline, "the link is not ready"
            await asyncio.sleep(0.1)
        for number in range(count + WARM):
            id, now_ns = uuid.uuid4().hex, time.time_ns()
            request = NinjaRequest(id, GROUP, RequestKind.SIGNAL, BODY, "bench", now_ns + 30_000_000_000)
            begun_s = time.monotonic()
            assert await store.ask(request, now_ns)
            committed_s = time.monotonic()
            await bus.publish(requests_topic(GROUP), {"id": id})
            async with asyncio.timeout(ANSWER_S):
                while id not in bridge.read_s:
                    bridge.news.clear()
                    await bridge.news.wait()
            if number >= WARM:
                commits.append(committed_s - begun_s)
                to_bytes.append(bridge.read_s[id] - committed_s)
            await asyncio.sleep(PAUSE_S)
        lines = bridge.lines("signal")
        assert len({line["id"] for line in lines}) == len(lines) == count + WARM, (
            "a signal is missing or was sent twice"
        )
        assert all(str(line["price"]) == BODY["price"] and line["account"] == BODY["account"] for line in lines)
    finally:
        process.kill()
        await process.wait()
        await bus.close()
        await db.close()
    return to_bytes, commits


# ── the floor ────────────────────────────────────────────────────────────────────────────────────
async def one_commit(database_url: str, count: int) -> list[float]:
    """Return the seconds of inserting one row, by one prepared statement on one connection."""
    db = await Database.lazy(database_url, DatabaseSettings(), application="floor")
    seconds = list[float]()
    await db.sql("CREATE TABLE floor_requests (LIKE ninja_requests INCLUDING ALL)")
    async with db.acquire() as connection:
        bare = await connection.prepare(
            "INSERT INTO floor_requests (id, group_name, kind, body, asked_by, state, created_at, valid_until)"
            " VALUES ($1, 'sim', 'signal', $2, 'bench', 'NEW', now(), now() + interval '30 s')"
        )
        for _ in range(count + WARM):
            begun_s = time.monotonic()
            await bare.fetchval(uuid.uuid4().hex, BODY)
            seconds.append(time.monotonic() - begun_s)
            await asyncio.sleep(PAUSE_S)
    await db.close()
    return seconds[WARM:]


def ray_hops(count: int) -> list[float]:
    """Return the seconds of one way of an actor call: from the call to the method's first line, on one machine."""
    import ray

    @ray.remote
    class Echo:
        """Tells when it was called."""

        async def now(self, body: object) -> float:
            """Return the monotonic time."""
            return time.monotonic()

    for name in [name for name in os.environ if name.startswith("RAY_")]:
        del os.environ[name]
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
    try:
        actor, seconds = Echo.remote(), list[float]()
        for _ in range(count + WARM):
            begun_s = time.monotonic()
            seconds.append(ray.get(actor.now.remote(dict(BODY))) - begun_s)
            time.sleep(PAUSE_S)
    finally:
        ray.shutdown()
    return seconds[WARM:]


# ── the AddOn ────────────────────────────────────────────────────────────────────────────────────
def through_addon(folder: Path, count: int) -> list[float]:
    """Return the seconds from a signal's bytes to the AddOn's acknowledgement."""
    folder.mkdir()
    build = mono.compile_all(folder)
    home = folder / "NinjaTrader 8"
    (home / "fks").mkdir(parents=True)
    (home / "fks" / "secret.key").write_bytes(nt8_host.SECRET)
    port, now_ms = nt8_host.free_port(), 1_738_594_800_000
    limits = {"max_position": 1000, "rate_per_second": 1000, "rate_per_minute": 9999}
    config = {"port": port, "port_fallback": nt8_host.free_port(), **limits}
    (home / "fks" / "config.json").write_text(nt8_host.dump(config))
    host = nt8_host.Host(build, home)
    host.start(now_ms, ["Sim101"])
    seconds = list[float]()
    try:
        assert host.do("activate")["listening"]
        for _ in range(12):
            host.do("advance", ms=500)
        now_ms += 6000
        host.do("trade", instrument="ES 03-25", price=4500, qty=1)
        client = nt8_host.Client(port)
        assert client.wait("replay_end") is not None
        line = {
            "t": "signal", "account": "Sim101", "instrument": "ES 03-25", "action": "buy", "qty": 1, "type": "limit", "price": 4490,
            "sl_points": 10, "tp_points": 20, "created_ms": now_ms, "valid_until": now_ms + 3_600_000,
        }  # fmt: skip
        for number in range(count + WARM):
            begun_s = time.monotonic()
            client.send({**line, "id": f"b{number}"})
            answer = client.wait("ack", "nack", "indeterminate")
            seconds.append(time.monotonic() - begun_s)
            assert answer is not None, "the AddOn ended"
            assert (answer["t"], answer["state"]) == ("ack", "submitted"), answer
    finally:
        host.kill()
    return seconds[WARM:]


async def main(count: int) -> None:
    """Measure and print."""
    hops = await asyncio.to_thread(ray_hops, count)
    with (
        servers.home(is_on_disk=True) as paths,
        servers.running_postgres(paths, is_durable=True) as postgres,
        servers.running_redis(paths) as redis,
    ):
        await migrate.upgrade(postgres.url())
        commits = await one_commit(postgres.url(), count)
        async with TimedBridge() as bridge:
            to_bytes, asked = await through_link(postgres.url(), redis.url(), bridge, count)
        floor_s = statistics.median(hops) + statistics.median(commits)
        print(shown("Ray: call to the actor's first line", hops))
        print(shown("PostgreSQL: one commit", commits))
        print(f"floor: one hop and one commit, {floor_s * 1e3:.3f} ms; limit {LIMIT} times")
        print(shown("request committed", asked))
        print(shown("committed to bytes at the bridge", to_bytes, floor_s))
        if shutil.which("mcs") and shutil.which("mono"):
            seconds = await asyncio.to_thread(through_addon, paths.home / "nt8", count)
            print(shown("AddOn under mono: signal to acknowledgement", seconds))
        else:
            print("mono is not installed: the AddOn was left out")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--link"]:
        asyncio.run(serve_link(sys.argv[2], sys.argv[3], int(sys.argv[4])))
    else:
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 300))
