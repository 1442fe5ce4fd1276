"""The gateway against a bare Ray Serve + FastAPI hello in the same run, with the client on the same cores.

    python benchmarks/gateway.py [--seconds 10] [--repeats 3] [--minutes 0] [--sockets] [--home PATH]

A whole demo system in a temporary FKS_HOME, and beside it a Ray of its own with one FastAPI route behind Serve, with as
many replicas and the same options. Rounds alternate between the two: 16 connections that send the next request when the
answer is there. Before anything is timed, each route's answer is compared with the expected one: the bare one and the
ping with their text, the others with the database. Exits 1 when an answer differs or a limit is missed. Limits: the
cheapest route (`/monitor/api/ping/`) at least 0.8 of bare, an authenticated read that counts in a limit
(`/market-data`) at least 0.5. Then a webhook against `POST /orders`, in turn and one at a time (p50 at most 1.5 times);
100 websocket clients, ten to a token, at 2 messages a second beside 50 requests a second (p99 of the lag, from the
publication to the client, under 250 ms); the highest rate of the authenticated read whose p99 stays under 250 ms; and
with `--minutes` the memory of the replicas under 50 requests a second and 20 sockets."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
from websockets.asyncio.client import connect

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._results import run, same
from benchmarks.faults.rig import Rig
from fks.store.bus import ALERTS, Bus

CONNECTIONS = 16
CLIENTS, MESSAGES_PER_S, REQUESTS_PER_S = 100, 2.0, 50.0
CLIENTS_PER_TOKEN = 10  # of 20 that a replica lets in: all of them may meet the same one
LAG_MAX_S = 0.25
SETTLE_S = 2.0


class Connection:
    """One keep-alive HTTP connection that costs the client as little as possible."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def to(cls, url: str) -> Connection:
        parts = urlsplit(url)
        return cls(*await asyncio.open_connection(parts.hostname, parts.port))

    async def ask(self, request: bytes) -> int:
        """Send a request and return the status of its answer, which is read to its end."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line[15:])
            elif line.startswith(b"transfer-encoding:"):
                raise ValueError("a chunked answer is not counted here")
        await self._reader.readexactly(length)
        return int(head[9:12])

    def close(self) -> None:
        self._writer.close()


def get(path: str, token: str | None = None) -> bytes:
    """Return the bytes of a GET."""
    shown = f"Authorization: Bearer {token}\r\n" if token else ""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{shown}\r\n".encode()


async def closed_loop(url: str, request: bytes, seconds: float) -> tuple[float, list[float]]:
    """Return answers per second and each duration, from CONNECTIONS that ask again at once."""
    took: list[float] = []
    end = time.perf_counter() + seconds

    async def one() -> None:
        connection = await Connection.to(url)
        while (start := time.perf_counter()) < end:
            status = await connection.ask(request)
            if status != 200:
                raise ValueError(f"status {status} for {request[:60]!r}")
            took.append(time.perf_counter() - start)
        connection.close()

    await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
    return len(took) / seconds, took


async def open_loop(url: str, request: bytes, rate: float, seconds: float) -> tuple[list[float], int]:
    """Send at a fixed rate, whatever the answers do; return durations from the planned moment, and the failures."""
    idle: list[Connection] = []
    took: list[float] = []
    failed = 0

    async def one(planned: float) -> None:
        nonlocal failed
        try:
            connection = idle.pop() if idle else await Connection.to(url)
            async with asyncio.timeout(5.0):
                status = await connection.ask(request)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            failed += 1
            return
        took.append(time.perf_counter() - planned)
        failed += status != 200
        idle.append(connection)

    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            planned = start + number / rate
            await asyncio.sleep(max(planned - time.perf_counter(), 0.0))
            group.create_task(one(planned))
    for connection in idle:
        connection.close()
    return took, failed


def quantile(values: list[float], share: float) -> float:
    """Return a quantile, NaN of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


# ── the peer ─────────────────────────────────────────────────────────────────────────────────────
def serve_bare(port: int, replicas: int) -> None:
    """Serve one FastAPI route behind Ray Serve until stdin ends."""
    import ray
    from fastapi import FastAPI
    from ray import serve

    app = FastAPI()

    @app.get("/")
    async def root() -> dict[str, str]:
        """Answer."""
        return {"status": "ok"}

    @serve.deployment(
        num_replicas=replicas,
        max_ongoing_requests=200,
        max_queued_requests=1000,
        ray_actor_options={"num_cpus": 0},
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
    )
    @serve.ingress(app)
    class Bare:
        """A bare deployment."""

    # "local": not the Ray of the system beside
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Bare.bind())  # type: ignore[attr-defined]  # a decorator of Ray adds it
    print("ready", flush=True)
    sys.stdin.read()
    serve.shutdown()
    ray.shutdown()


@contextlib.asynccontextmanager
async def bare(port: int, replicas: int) -> AsyncIterator[str]:
    """Yield the address of the peer, in a process and a Ray of its own."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("FKS_", "RAY_"))}
    argv = [sys.executable, __file__, "--bare", str(port), str(replicas)]
    trouble = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=trouble, env=env
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(120.0):
            while (await process.stdout.readline()).strip() != b"ready":
                if process.stdout.at_eof():
                    trouble.seek(0)
                    raise RuntimeError(f"the bare Serve did not start: {trouble.read().decode()[-2000:]}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(30.0):
                await process.wait()
        except TimeoutError:
            process.kill()


def free_port() -> int:
    """Return a port that is free now."""
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


async def compare(rig: Rig, token: str, peer: str | None = None) -> None:
    """Compare the routes' answers with the expected ones, often enough to meet each replica."""
    headers = {"Authorization": f"Bearer {token}"}
    wanted = {row["symbol"] for row in await rig.rows("SELECT symbol FROM assets")}
    async with httpx.AsyncClient(base_url=rig.system.url, headers=headers, timeout=30.0) as client:
        for _ in range(4):
            if peer is not None:
                same("the answer of the bare route", (await client.get(f"{peer}/")).json(), {"status": "ok"})
            ping = (await client.get("/monitor/api/ping/")).json()
            same("the answer of the ping", (ping["status"], ping["service"]), ("ok", "fks_main"))
            items = (await client.get("/assets")).json()["items"]
            same("the symbols of /assets", {item["symbol"] for item in items}, wanted)
            latest = (await client.get("/market-data/BTCUSDT")).json()
            same("whether /market-data has bars", bool(latest["bars"]), True)
            for timeframe, bar in latest["bars"].items():
                (row,) = await rig.rows(
                    "SELECT close FROM ohlcv_data WHERE symbol = 'BTCUSDT' AND timeframe = $1 AND time = $2",
                    timeframe,
                    datetime.fromisoformat(bar["time"]),
                )
                same(f"the close of the {timeframe} bar of /market-data", float(bar["close"]), row["close"])


# ── the parts ────────────────────────────────────────────────────────────────────────────────────
async def rates(rig: Rig, peer: str, token: str, seconds: float, repeats: int) -> bool:
    """Print requests per second against the peer's; return whether a limit was missed."""
    routes = {
        "bare Serve + FastAPI": (peer, get("/"), 0.0),
        "GET /monitor/api/ping/": (rig.system.url, get("/monitor/api/ping/"), 0.8),
        "GET /market-data/BTCUSDT, token, limit": (rig.system.url, get("/market-data/BTCUSDT", token), 0.5),
        "GET /assets, token, limit, database": (rig.system.url, get("/assets", token), 0.0),
    }
    for url, request, _ in routes.values():
        await closed_loop(url, request, SETTLE_S)
    found: dict[str, list[float]] = {name: [] for name in routes}
    slow: dict[str, list[float]] = {name: [] for name in routes}
    for _ in range(repeats):
        for name, (url, request, _) in routes.items():
            rate, took = await closed_loop(url, request, seconds)
            found[name].append(rate)
            slow[name] += took
    floor = statistics.median(found["bare Serve + FastAPI"])
    print(f"{'':42}{'requests/s':>11}{'of bare':>9}{'limit':>7}{'p50 ms':>9}{'p99 ms':>9}")
    is_missed = False
    for name, (_, _, limit) in routes.items():
        rate = statistics.median(found[name])
        shown = f"{limit:7.2f}" if limit else f"{'-':>7}"
        p50, p99 = quantile(slow[name], 0.5) * 1e3, quantile(slow[name], 0.99) * 1e3
        print(f"{name:42}{rate:11.0f}{rate / floor:9.2f}{shown}{p50:9.1f}{p99:9.1f}")
        is_missed |= rate / floor < limit
    return is_missed


async def orders(rig: Rig, count: int) -> bool:
    """Print a webhook's time against an order's; return whether the limit was missed."""
    hook = {
        "name": f"bench-{time.time_ns()}",
        "account": "demo",
        "symbols": ["BTC/USDT"],
        "sizing": "payload",
        "size": "1",
    }
    took: dict[str, list[float]] = {"POST /orders": [], "POST /webhook/tradingview": []}
    async with rig.client() as client:
        made = await client.post("/webhooks", json={**hook, "quota_per_hour": 1000})
        made.raise_for_status()
        secret = made.json()["secret"]
        for number in range(2 * count):
            side = "buy" if number % 4 < 2 else "sell"
            start = time.perf_counter()
            if number % 2:
                now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                body = {"secret": secret, "symbol": "BTCUSDT", "action": side, "timenow": now}
                # a quantity of its own: the same message within a minute is the same signal
                body["quantity"] = str(0.001 + number / 100_000)
                answer = await client.post("/webhook/tradingview", json=body)
                took["POST /webhook/tradingview"].append(time.perf_counter() - start)
            else:
                body = {"symbol": "BTCUSDT", "side": side, "quantity": "0.001", "type": "market", "account": "demo"}
                answer = await client.post("/orders", json=body, headers={"Idempotency-Key": rig.key()})
                took["POST /orders"].append(time.perf_counter() - start)
            if answer.status_code not in (202, 422):  # a denial (FEED_STALE on a busy machine) went the same way
                raise ValueError(answer.text)
            await asyncio.sleep(0.02)
    floor = statistics.median(took["POST /orders"])
    ratio = statistics.median(took["POST /webhook/tradingview"]) / floor
    for name, values in took.items():
        print(f"{name:42}p50 {statistics.median(values) * 1e3:7.1f} ms   p99 {quantile(values, 0.99) * 1e3:7.1f} ms")
    print(f"{'webhook / order, p50':42}{ratio:.2f} (limit 1.5)")
    return ratio > 1.5


async def listen(url: str, token: str, lags: list[float], ready: asyncio.Event) -> None:
    """Read one socket until cancelled; note how late each message of ours is."""
    headers = {"Authorization": f"Bearer {token}"}
    address = url.replace("http", "ws") + "/ws?channels=alerts"
    async with connect(address, additional_headers=headers, proxy=None, open_timeout=30, compression=None) as socket:
        async for text in socket:
            message = json.loads(text)
            if message["type"] == "hello":
                ready.set()
            elif message["type"] == "check":
                await socket.send(json.dumps({"type": "checked", "n": message["n"]}))
            elif "bench_ns" in message:
                lags.append((time.time_ns() - message["bench_ns"]) / 1e9)


@contextlib.asynccontextmanager
async def listeners(url: str, tokens: list[str], count: int, lags: list[float]) -> AsyncIterator[None]:
    """Keep `count` sockets open, the tokens in turn. A socket that is refused is raised at once."""
    events = [asyncio.Event() for _ in range(count)]
    tasks = [
        asyncio.create_task(listen(url, tokens[number % len(tokens)], lags, event))
        for number, event in enumerate(events)
    ]
    opening = asyncio.gather(*(event.wait() for event in events))
    async with asyncio.timeout(60.0):
        await asyncio.wait([opening, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        if task.done():
            task.result()
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def publish(redis_url: str, seconds: float) -> int:
    """Publish messages at MESSAGES_PER_S and return how many."""
    bus = await Bus.connect(redis_url)
    count = int(seconds * MESSAGES_PER_S)
    for _ in range(count):
        await bus.publish(ALERTS, {"type": "alert", "event": "bench", "bench_ns": time.time_ns()})
        await asyncio.sleep(1 / MESSAGES_PER_S)
    await bus.close()
    return count


async def sockets(rig: Rig, token: str, seconds: float) -> bool:
    """Print the lag of CLIENTS sockets beside requests; return whether the limit was missed."""
    url, lags = rig.system.url, list[float]()
    async with rig.client() as client:
        tokens = [await token_of(client) for _ in range(CLIENTS // CLIENTS_PER_TOKEN)]
    async with listeners(url, tokens, CLIENTS, lags):
        sent, (took, failed) = await asyncio.gather(
            publish(rig.system.node["redis_url"], seconds),
            open_loop(url, get("/market-data/BTCUSDT", token), REQUESTS_PER_S, seconds),
        )
        await asyncio.sleep(1.0)
    p99 = quantile(lags, 0.99)
    print(
        f"{CLIENTS} sockets, {MESSAGES_PER_S:g} messages/s each: {len(lags)} of {sent * CLIENTS} received, lag p50"
        f" {quantile(lags, 0.5) * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms (limit {LAG_MAX_S * 1e3:.0f})"
    )
    print(
        f"  beside them {REQUESTS_PER_S:g} requests/s: p50 {quantile(took, 0.5) * 1e3:.1f} ms, p99"
        f" {quantile(took, 0.99) * 1e3:.1f} ms, {failed} failed"
    )
    return not p99 < LAG_MAX_S or failed > 0 or len(lags) < sent * CLIENTS


async def capacity(rig: Rig, token: str, seconds: float) -> None:
    """Print the highest rate of the authenticated read whose p99 stays under LAG_MAX_S."""
    rate, best = 50.0, 0.0
    while rate <= 6400:
        took, failed = await open_loop(rig.system.url, get("/market-data/BTCUSDT", token), rate, seconds)
        p99 = quantile(took, 0.99)
        print(f"  {rate:6.0f} requests/s offered: p99 {p99 * 1e3:7.1f} ms, {failed} failed")
        if failed or p99 > LAG_MAX_S:
            break
        best, rate = rate, rate * 2
    print(f"capacity: {best:.0f} authenticated reads a second with a p99 under {LAG_MAX_S * 1e3:.0f} ms")


async def memory(rig: Rig, token: str, minutes: float) -> bool:
    """Print the memory of the replicas over time; return whether it grew by more than a twentieth."""
    pids = rig.ray_pids("ray::ServeReplica")
    if not pids:
        raise ValueError("no replica was found")

    def sample() -> float:
        return sum(psutil.Process(pid).memory_info().rss for pid in pids) / 1e6

    seen: list[float] = []

    async def look() -> None:
        while True:
            seen.append(sample())
            await asyncio.sleep(5.0)

    looking = asyncio.create_task(look())
    async with listeners(rig.system.url, [token], 20, []):
        await asyncio.gather(
            publish(rig.system.node["redis_url"], minutes * 60),
            open_loop(rig.system.url, get("/market-data/BTCUSDT", token), REQUESTS_PER_S, minutes * 60),
        )
    looking.cancel()
    third = max(len(seen) // 3, 1)
    before, after = statistics.median(seen[third : 2 * third] or seen), statistics.median(seen[-third:])
    print(
        f"memory of {len(pids)} replicas over {minutes:g} minutes: start {seen[0]:.0f} MB, second third {before:.0f} MB,"
        f" last third {after:.0f} MB (limit +5 %)"
    )
    return after > before * 1.05


async def token_of(client: httpx.AsyncClient) -> str:
    """Return a token that reads and counts; a replica that is only just up may still refuse."""
    body = {"name": f"bench-{time.time_ns()}", "scope": "read", "limit_per_hour": 1_000_000}
    for _ in range(30):
        answer = await client.post("/tokens", json=body)
        if answer.status_code == 201:
            return str(answer.json()["token"])
        print(f"no token yet: {answer.status_code} {answer.text[:200]}", file=sys.stderr)
        await asyncio.sleep(1.0)
    raise RuntimeError("no token within 30 s")


async def measure(rig: Rig, given: argparse.Namespace) -> int:
    """Run the parts on a system that is up; return 1 when a limit was missed."""
    seconds, minutes = given.seconds, given.minutes
    async with rig.client() as client:
        token = await token_of(client)
    if given.sockets:
        await compare(rig, token)
        is_missed = await sockets(rig, token, max(seconds, 10.0))
        print(f"load of this machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        return int(is_missed)
    missed = []
    async with bare(free_port(), 2) as peer:
        await compare(rig, token, peer)
        missed.append(await rates(rig, peer, token, seconds, given.repeats))
    parts: list[Callable[[], Awaitable[bool | None]]] = [
        lambda: orders(rig, 40),
        lambda: sockets(rig, token, max(seconds, 10.0)),
        lambda: capacity(rig, token, max(seconds / 2, 3.0)),
    ]
    for part in parts:
        missed.append(bool(await part()))
    if minutes:
        missed.append(await memory(rig, token, minutes))
    print(f"load of this machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    return int(any(missed))


async def main(given: argparse.Namespace) -> int:
    if given.home is not None:
        rig = Rig.at(Path(given.home))
        try:
            return await measure(rig, given)
        finally:
            await rig.close()
    with tempfile.TemporaryDirectory(prefix="fks-gateway-") as made:
        os.chmod(made, 0o755)  # the database's own user must come through
        rig = Rig.at(Path(made) / "home", FKS_AUTH_MONITORING_PER_HOUR="0")
        try:
            await asyncio.to_thread(rig.system.up)
            await rig.healthy()
            return await measure(rig, given)
        finally:
            await rig.close()
            await asyncio.to_thread(rig.system.down)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--bare"]:
        serve_bare(int(sys.argv[2]), int(sys.argv[3]))
        sys.exit(0)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--sockets", action="store_true", help="only the sockets")
    parser.add_argument("--home", help="measure the system that runs there instead")
    given = parser.parse_args()
    run(lambda: asyncio.run(main(given)))
