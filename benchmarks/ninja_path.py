"""A signal's way to NinjaTrader: from its commit to the bytes on the bridge's socket, and from there to the AddOn's
answer.

    python benchmarks/ninja_path.py [count]

The floor, in the same run: one bare Redis publish until another process has received it, plus one commit of one row (a
prepared insert on one connection, synchronous_commit on, fsync on). The path: the request's row is committed; the link,
in a process of its own, is woken through Redis, claims it, commits its line, and writes it to a bridge on a real
socket. Limit: at most 1.5 times the floor. Before anything is timed, the lines of the first requests are compared with
them, and at the end all of them. Then the AddOn itself under mono with the simulated platform: signal to
acknowledgement, with its two fsynced records (without mono it says so and leaves this out). Exits 1 when a line differs
or the limit is missed."""

from __future__ import annotations

import asyncio
import shutil
import statistics
import sys
import time
import uuid
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the rigs of the tests, however this is started

from benchmarks._results import run, same
from fks.bridge.ninja_link.service import LinkOptions, LinkPorts, NinjaLink
from fks.clock import RealClock
from fks.config.settings import DatabaseSettings
from fks.model.ninja import MT5, NINJA, BridgePlatform, NinjaRequest, RequestKind
from fks.store import migrate
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.facts import FactStore
from fks.store.leases import raise_epoch
from fks.store.ninja import NinjaStore, events_topic, requests_topic
from tests.support import mono, nt8_host, servers
from tests.support.free_port import free_port
from tests.support.ninja import SECRET, ack
from tests.support.ninja_link import BODY
from tests.support.ninja_server import ScriptedBridge
from tests.support.ports import CollectingLog, RecordingMeter, TestLease

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
async def serve_link(database_url: str, redis_url: str, port: int, platform: BridgePlatform = NINJA) -> None:
    """Run the link of the group until the process is ended, as its actor does."""
    key, name = platform.key(GROUP), platform.link(GROUP)
    db = await Database.lazy(database_url, DatabaseSettings(), application="ninja link")
    bus = await Bus.connect(redis_url)
    lease = TestLease(name, await raise_epoch(db, name, "bench"))
    ports = LinkPorts(
        NinjaStore(db, lease),
        FactStore(db),
        lambda: bus.publish(events_topic(key), {"group": key}),
        RealClock(),
        CollectingLog(),
        RecordingMeter(),
        lease,
    )
    link = NinjaLink(LinkOptions(GROUP, "127.0.0.1", port, 2.0, SECRET, platform=platform), ports)
    await link.start()

    async def wake() -> None:
        async for _ in bus.subscribe(requests_topic(key)):
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

    def answers_to(self, found: dict[str, Any], opening: dict[str, Any]) -> list[dict[str, Any]]:
        if found["t"] != "signal":
            return super().answers_to(found, opening)
        self.read_s[found["id"]] = time.monotonic()
        self.news.set()
        return [ack(found["id"])]


def compare(bridge: TimedBridge, asked: list[str]) -> None:
    """Compare the lines that the bridge received with the requests: each once, in order, with the request's values."""
    lines = bridge.lines("signal")
    same("the signals at the bridge", [line["id"] for line in lines], asked)
    for line in lines:
        same(
            f"line {line['id']}", {name: _text(line.get(name)) for name in BODY}, {n: _text(v) for n, v in BODY.items()}
        )


def _text(value: Any) -> str:
    return str(value)


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
        asked = list[str]()
        for number in range(count + WARM):
            if number == WARM:
                compare(bridge, asked)
            id, now_ns = uuid.uuid4().hex, time.time_ns()
            asked.append(id)
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
        compare(bridge, asked)
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


def note_messages(redis_url: str, topic: str) -> None:
    """Print when each message of a topic was received, in monotonic seconds, until the process is ended."""
    import redis

    with redis.Redis.from_url(redis_url) as client, client.pubsub() as channel:
        channel.subscribe(topic)
        for message in channel.listen():
            now_s = time.monotonic()
            print(message["data"].decode() if message["type"] == "message" else "ready", now_s, flush=True)


async def published(redis_url: str, count: int) -> list[float]:
    """Return the seconds from a bare Redis publish to its receipt in another process."""
    from redis.asyncio import Redis

    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--subscribe", redis_url, "bench:floor", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    seconds = list[float]()
    try:
        async with asyncio.timeout(30.0):
            await process.stdout.readline()  # it has subscribed
        async with Redis.from_url(redis_url) as client:
            for number in range(count + WARM):
                begun_s = time.monotonic()
                await client.publish("bench:floor", str(number))
                async with asyncio.timeout(ANSWER_S):
                    name, at_s = (await process.stdout.readline()).split()
                if int(name) != number:
                    raise ValueError(f"message {name.decode()} came for {number}")
                seconds.append(float(at_s) - begun_s)
                await asyncio.sleep(PAUSE_S)
    finally:
        process.kill()
        await process.wait()
    return seconds[WARM:]


# ── the AddOn ────────────────────────────────────────────────────────────────────────────────────
def through_addon(folder: Path, count: int) -> list[float]:
    """Return the seconds from a signal's bytes to the AddOn's acknowledgement."""
    folder.mkdir()
    build = mono.compile_all(folder)
    home = folder / "NinjaTrader 8"
    (home / "fks").mkdir(parents=True)
    (home / "fks" / "secret.key").write_bytes(nt8_host.SECRET)
    port, now_ms = free_port(), 1_738_594_800_000
    limits = {"max_position": 1000, "rate_per_second": 1000, "rate_per_minute": 9999}
    config = {"port": port, "port_fallback": free_port(), **limits}
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


async def main(count: int) -> bool:
    """Measure and print; return whether the limit is missed."""
    with (
        servers.home(is_on_disk=True) as paths,
        servers.running_postgres(paths, is_durable=True) as postgres,
        servers.running_redis(paths) as redis,
    ):
        await migrate.upgrade(postgres.url())
        commits, wakes = await one_commit(postgres.url(), count), await published(redis.url(), count)
        async with TimedBridge() as bridge:
            to_bytes, asked = await through_link(postgres.url(), redis.url(), bridge, count)
        floor_s = statistics.median(wakes) + statistics.median(commits)
        print(shown("Redis: publish to another process", wakes))
        print(shown("PostgreSQL: one commit", commits))
        print(f"floor: one publish and one commit, {floor_s * 1e3:.3f} ms; limit {LIMIT} times")
        print(shown("request committed", asked))
        print(shown("committed to bytes at the bridge", to_bytes, floor_s))
        if shutil.which("mcs") and shutil.which("mono"):
            seconds = await asyncio.to_thread(through_addon, paths.home / "nt8", count)
            print(shown("AddOn under mono: signal to acknowledgement", seconds))
        else:
            print("mono is not installed: the AddOn was left out")
    return statistics.median(to_bytes) > LIMIT * floor_s


if __name__ == "__main__":
    if sys.argv[1:2] == ["--link"]:
        asyncio.run(
            serve_link(sys.argv[2], sys.argv[3], int(sys.argv[4]), MT5 if sys.argv[5:] == [MT5.name] else NINJA)
        )
    elif sys.argv[1:2] == ["--subscribe"]:
        note_messages(sys.argv[2], sys.argv[3])
    else:
        run(lambda: asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)))
