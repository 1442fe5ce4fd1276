"""Serve's HTTP server, started by Ray's own function on Ray's own kind of loop, against hostile clients."""

from __future__ import annotations

import asyncio
import re
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import uvicorn.config
import uvicorn.protocols.http.auto
import uvloop
from ray.serve._private.http_util import start_asgi_http_server
from ray.serve.config import HTTPOptions
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from fks.interfaces.api import serve_proxy
from tests.support.certificates import certificate
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[4]
KIB = 1024
ANSWER = 16 * KIB * KIB  # more than the kernel takes of an answer that the client does not read
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the size of the body (`/big`: 16 MiB, `/id`: the request id), or send each message back."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
        return
    size, more = 0, scope["path"] != "/unread"
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    if scope["path"] == "/slow":
        await asyncio.sleep(1.5)
    if scope["path"] == "/busy":
        time.sleep(0.6)  # noqa: ASYNC251  the loop stands still, as when many requests come at once
    given = b",".join(value for name, value in scope["headers"] if name == b"x-request-id")
    text = {"/big": b"x" * ANSWER, "/id": given}.get(scope["path"], str(size).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(text))]})
    await send({"type": "http.response.body", "body": text})


@dataclass
class Served:
    """A running server."""

    port: int
    clock: int  # of its thread

    def cpu_s(self) -> float:
        """Return the processor time that it has used."""
        return time.clock_gettime(self.clock)


@contextmanager
def serving(**files: Any) -> Iterator[Served]:
    """Run the server in a thread of its own, as it has a process of its own."""
    loop = uvloop.new_event_loop()
    servers: list[uvicorn.Server] = []

    async def start() -> None:
        options = HTTPOptions(host="127.0.0.1", port=0, **files)
        options.__dict__["middlewares"] = serve_proxy.middlewares()  # Ray fills them in from the callback's path
        task, server = await start_asgi_http_server(app, options, event_loop=loop)
        servers.append(server)
        await task

    thread = threading.Thread(target=lambda: loop.run_until_complete(start()), daemon=True)
    thread.start()
    try:
        wait_until(lambda: servers and servers[0].started, deadline_s=20.0)
        assert thread.ident is not None
        port = int(servers[0].servers[0].sockets[0].getsockname()[1])
        yield Served(port, time.pthread_getcpuclockid(thread.ident))
    finally:
        servers[0].force_exit = servers[0].should_exit = True
        thread.join(20.0)
        loop.close()


@pytest.fixture(autouse=True)
def uvicorn_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo after each test the replacements that the proxy's process keeps for its life."""
    monkeypatch.setattr(uvicorn.config, "create_ssl_context", uvicorn.config.create_ssl_context)
    monkeypatch.setattr(uvicorn.protocols.http.auto, "AutoHTTPProtocol", uvicorn.protocols.http.auto.AutoHTTPProtocol)


@pytest.fixture
def port() -> Iterator[int]:
    """Run the server without TLS."""
    with serving() as served:
        yield served.port


async def ask(port: int, data: bytes, count: int = 1) -> bytes:
    """Send bytes over a connection of their own; return `count` whole answers, or all until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await answered(reader, writer, data, count)
    finally:
        writer.close()


async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes, count: int = 1) -> bytes:
    writer.write(data)
    found = b""
    with suppress(ConnectionError):
        async with asyncio.timeout(30.0):
            while not has_answers(found, count) and (part := await reader.read(65536)):
                found += part
    return found


def has_answers(found: bytes, count: int) -> bool:
    """Return whether so many whole answers have come."""
    for _ in range(count):
        head, _, found = found.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if length is None or len(found) < int(length[1]):
            return False
        found = found[int(length[1]) :]
    return True


async def test_head_of_60_mb_costs_the_proxy_next_to_nothing() -> None:
    """The processor time is that of the loop which all other connections wait for."""
    with serving() as served:
        await ask(served.port, GET + b"Connection: close\r\n\r\n")
        before_s = served.cpu_s()
        answer = await ask(served.port, GET + b"X-Big: " + b"a" * 60_000_000)
        used_s = served.cpu_s() - before_s
    print(f"{used_s * 1000:.1f} ms")
    assert answer.startswith(b"HTTP/1.1 431")
    assert used_s < 0.1


def head_of(size: int) -> bytes:
    """Return a whole head of `size` bytes."""
    rest = b"Connection: close\r\nX-Big: \r\n\r\n"
    return GET + b"Connection: close\r\nX-Big: " + b"a" * (size - len(GET) - len(rest)) + b"\r\n\r\n"


BIG = 96 * KIB
REFUSED = {
    "one byte over": head_of(64 * KIB + 1),
    "address": b"GET /" + b"a" * BIG,
    "many headers": GET + b"A: b\r\n" * (BIG // 6),
    "empty lines": b"\r\n" * (BIG // 2),
}
CUT = {
    "chunk extension": CHUNKED + b"1;" + b"x" * BIG,
    "one trailer": CHUNKED + b"0\r\nX: " + b"a" * BIG,
    "many trailers": CHUNKED + b"1\r\na\r\n0\r\n" + b"A: b\r\n" * (BIG // 6),
    "a second head behind the first": CHUNKED + GET + b"X: " + b"a" * BIG,
}
SERVED = {
    "64 KiB": (head_of(64 * KIB), [b"0"]),
    "long body": (GET.replace(b"GET", b"PUT") + b"Content-Length: 1000000\r\n\r\n" + b"a" * 1_000_000, [b"1000000"]),
    "many chunks": (
        CHUNKED + b"1;" + b"x" * 100 + b"\r\na\r\n" + b"1;x=y\r\na\r\n" * 20_000 + b"0\r\n\r\n",
        [b"20001"],
    ),
    "pipelined": ((GET + b"X: " + b"a" * 40 * KIB + b"\r\n\r\n") * 3, [b"0", b"0", b"0"]),
    "trailers": (CHUNKED + b"1\r\na\r\n0\r\nX: y\r\n\r\n" + GET + b"\r\n", [b"1", b"0"]),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_head_over_64_kib_is_431_and_closed(port: int, name: str) -> None:
    answer = await ask(port, REFUSED[name], 2)  # until it is closed
    assert answer.startswith(b"HTTP/1.1 431"), answer[:200]
    assert b'"code":"HEAD_TOO_LARGE"' in answer
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("name", CUT)
async def test_chunk_header_and_trailers_are_bounded_as_heads(port: int, name: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(CUT[name])
    answer = b""
    with suppress(ConnectionError):
        async with asyncio.timeout(5.0):  # before any deadline: the size alone ends it
            while part := await reader.read(65536):
                answer += part
    assert b"HTTP/1.1 2" not in answer, answer[:200]
    writer.close()


@pytest.mark.parametrize("name", SERVED)
async def test_what_is_within_the_bounds_is_served(port: int, name: str) -> None:
    sent, bodies = SERVED[name]
    answer = await ask(port, sent, len(bodies))
    parts = [part.partition(b"\r\n\r\n")[2] for part in answer.split(b"HTTP/1.1 200 OK\r\n")[1:]]
    assert parts == bodies, answer[:300]


async def test_heads_of_one_connection_count_separately(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for size in (40 * KIB, 40 * KIB, 40 * KIB):
        head = head_of(size).replace(b"Connection: close\r\n", b"")
        assert (await answered(reader, writer, head)).startswith(b"HTTP/1.1 200")
    assert (await answered(reader, writer, head_of(BIG))).startswith(b"HTTP/1.1 431")
    writer.close()


async def test_server_guards_its_own_paths_and_checks_request_ids(port: int) -> None:
    async def asked(path: bytes, header: bytes) -> tuple[bytes, bytes]:
        head, _, body = (
            await ask(port, b"GET %b HTTP/1.1\r\n%b\r\nConnection: close\r\n\r\n" % (path, header))
        ).partition(b"\r\n\r\n")
        return head.split(b" ")[1], body

    for path in (b"/-/routes", b"/-/healthz"):
        assert await asked(path, b"Host: localhost") == (b"200", b"0")
        assert (await asked(path, b"Host: rebound.example"))[0] == b"404"
        assert (await asked(path, b"Host: localhost\r\nX-Forwarded-For: 127.0.0.1"))[0] == b"404"
    assert await asked(b"/id", b"Host: localhost\r\nX-Request-ID: order-7") == (b"200", b"order-7")
    status, made = await asked(b"/id", b"Host: localhost\r\nX-Request-ID: {evil}")
    assert (status, b"evil" in made) == (b"200", False)


def test_bounds_are_those_that_the_docs_name() -> None:
    text = " ".join((ROOT / "docs" / "security.md").read_text().split())
    for part in (
        f"The address and headers are at most {serve_proxy.HEAD_MAX // KIB} KiB",
        f"A head is complete {serve_proxy.HEAD_S:g} s after",
        f"At most {serve_proxy.HEADS_MAX} connections of a proxy may be incomplete",
        f"A websocket message is at most {serve_proxy.FRAME_MAX // KIB} KiB",
    ):
        assert part in text


async def closed_after(reader: asyncio.StreamReader, deadline_s: float = 5.0) -> float:
    """Return the seconds until the server closes the connection."""
    begun = time.monotonic()
    try:
        async with asyncio.timeout(deadline_s):
            while await reader.read(65536):
                pass
    except ConnectionError:
        pass
    return time.monotonic() - begun


INCOMPLETE = {
    "nothing": b"",
    "half a head": GET,
    "half a second head": GET + b"\r\n" + GET,
    "rest of a body that was not read": b"POST /unread HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\na",
}


@pytest.mark.parametrize("name", INCOMPLETE)
async def test_incomplete_head_is_closed_in_time(name: str, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_proxy, "HEAD_S", 0.4)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(INCOMPLETE[name])

    async def drip() -> None:
        while name != "nothing":
            writer.write(b"a")
            await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    try:
        assert 0.3 < await closed_after(reader) < 2.0
    finally:
        dripping.cancel()
        writer.close()


async def test_idle_connection_between_requests_stays_open(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_proxy, "HEAD_S", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(2):
        assert (await answered(reader, writer, GET + b"\r\n")).startswith(b"HTTP/1.1 200")
        await asyncio.sleep(0.3)
    writer.close()


@pytest.mark.parametrize("is_tls", [False, True])
async def test_oldest_of_too_many_open_heads_is_closed(
    is_tls: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve_proxy, "HEADS_MAX", 5)
    files, trust = {}, None
    if is_tls:
        cert, key = certificate(tmp_path / "tls", "localhost")
        files, trust = {"ssl_keyfile": str(key), "ssl_certfile": str(cert)}, ssl.create_default_context(cafile=cert)
    with serving(**files) as served:
        port = served.port
        opened = [await asyncio.open_connection("localhost", port, ssl=trust) for _ in range(6)]
        for _, writer in opened[1:]:
            writer.write(GET)
        assert await closed_after(opened[0][0]) < 2.0
        # whole heads free their places, and are served though others are not whole
        reader, writer = opened[1]
        assert (await answered(reader, writer, b"\r\n")).startswith(b"HTTP/1.1 200")
        opened.append(await asyncio.open_connection("localhost", port, ssl=trust))
        for reader, writer in opened[2:6]:
            assert (await answered(reader, writer, b"\r\n")).startswith(b"HTTP/1.1 200")
        for _, writer in opened:
            writer.close()


async def test_websocket_message_over_64_kib_is_closed_with_1009(port: int) -> None:
    for sent in ("a" * BIG, ["a" * 40 * KIB] * 2):
        async with connect(f"ws://127.0.0.1:{port}/", proxy=None, compression=None) as socket:
            await socket.send("a" * 64 * KIB)
            assert await socket.recv() == "a" * 64 * KIB
            await socket.send(sent)
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1009


async def test_requests_that_came_while_the_proxy_was_busy_are_served(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve_proxy, "HEADS_MAX", 20)
    busy = asyncio.create_task(ask(port, b"GET /busy HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    await asyncio.sleep(0.1)
    found = await asyncio.gather(*(ask(port, GET + b"\r\n") for _ in range(60)))
    assert [answer[:15] for answer in found] == [b"HTTP/1.1 200 OK"] * 60
    assert b" 200 OK" in await busy


async def test_connection_that_was_answered_early_is_closed_when_idle() -> None:
    with serving(keep_alive_timeout_s=1) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(b"POST /unread HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n")
        assert b" 200 OK" in await reader.readuntil(b"\r\n\r\n0")
        writer.write(b"x")  # the rest of a body that the application did not wait for
        async with asyncio.timeout(5.0):
            assert await reader.read() == b""
        writer.close()


async def test_answer_that_is_not_read_is_given_up(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_proxy, "UNREAD_S", 0.5)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=KIB)
    writer.write(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await asyncio.sleep(2.0)  # longer than two looks, and nothing is read
    size = 0
    with suppress(ConnectionError):
        while piece := await reader.read(1 << 20):
            size += len(piece)
    assert size < ANSWER
    writer.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=KIB)
    writer.write(b"GET /big HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    size = 0
    while piece := await reader.read(1 << 20):  # slowly, but without a pause
        size += len(piece)
        await asyncio.sleep(0.005)
    assert size > ANSWER
    writer.close()


async def test_request_in_work_outlives_the_start_of_the_next(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_proxy, "HEAD_S", 0.5)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc")
    await asyncio.sleep(0.2)
    writer.write(b"\r\n")  # an empty line before the next request, as RFC 9112 2.2 allows
    assert b" 200 OK" in await reader.readuntil(b"\r\n\r\n3")
    writer.close()
