"""The keeper's standby listener, with a small process in the place of Serve's proxy that is killed with -9."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from fks.clock import RealClock
from fks.system.node import http_standby
from fks.system.node.http_standby import HttpStandby
from fks.system.node.ports import is_free
from tests.support.free_port import free_port
from tests.support.ports import CollectingLog
from tests.support.waiting import until

WAIT_S = 15.0


class Place:
    """A port with a proxy that can be killed and started again, beside a standby listener."""

    def __init__(self, folder: Path) -> None:
        self.port, self.seen = free_port(), folder / "seen"
        self.proxy: subprocess.Popen[bytes] | None = None
        self.is_expected = True
        self.log = CollectingLog()
        # without keep-alive: each request is a connection of its own
        limits = httpx.Limits(max_connections=500, max_keepalive_connections=0)
        self.client = httpx.AsyncClient(timeout=WAIT_S, limits=limits, verify=False)
        self.standby = HttpStandby(("127.0.0.1", self.port), self._pid, lambda: self.is_expected, RealClock(), self.log)

    def _pid(self) -> int | None:
        return self.proxy.pid if self.proxy is not None and self.proxy.poll() is None else None

    def start(self) -> None:
        """Start a proxy."""
        command = [sys.executable, "-m", "tests.support.small_proxy", str(self.port), str(self.seen)]
        self.proxy = subprocess.Popen(command)

    def kill(self) -> None:
        """Kill the proxy with -9."""
        assert self.proxy is not None
        self.proxy.send_signal(signal.SIGKILL)
        self.proxy.wait()

    def requests(self) -> list[str]:
        """Return the requests that any proxy has received: path and length of the body."""
        return self.seen.read_text().splitlines() if self.seen.exists() else []

    async def until_answered(self) -> str:
        """Return the answer to a first request, which the proxy itself gives."""
        async with asyncio.timeout(WAIT_S):
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    return (await self.client.get(f"http://127.0.0.1:{self.port}/up")).text
                await asyncio.sleep(0.02)

    async def until_watched(self) -> None:
        """Return when the standby watches the proxy that runs."""
        assert self.proxy is not None
        async with asyncio.timeout(WAIT_S):
            while self.standby.watched != self.proxy.pid:
                await asyncio.sleep(0.01)

    async def until_held(self) -> None:
        """Return when the standby listens: a connection is taken though no proxy runs."""
        async with asyncio.timeout(WAIT_S):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    return
                await asyncio.sleep(0.01)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(tmp_path)
    place.start()
    first = await place.until_answered()
    assert place.proxy is not None
    assert first == str(place.proxy.pid)
    running = asyncio.create_task(place.standby.run())
    try:
        await place.until_watched()
        yield place
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await place.client.aclose()
        place.kill()


async def _ask(place: Place, path: str, body: bytes = b"") -> httpx.Response:
    return await place.client.post(f"http://127.0.0.1:{place.port}{path}", content=body)


async def test_requests_during_a_proxy_restart_are_answered_by_the_next_one(place: Place) -> None:
    place.kill()
    await place.until_held()
    asked = [asyncio.create_task(_ask(place, f"/r{n}", b"x" * n)) for n in range(100)]
    large = asyncio.create_task(_ask(place, "/large", b"y" * 300_000))
    await asyncio.sleep(0.3)
    assert not any(task.done() for task in asked)
    place.start()
    answers = await asyncio.gather(*asked, large)
    assert place.proxy is not None
    assert {answer.text for answer in answers} == {str(place.proxy.pid)}
    expected = [*(f"/r{n} {n}" for n in range(100)), "/large 300000"]
    assert sorted(line for line in place.requests() if line != "/up 0") == sorted(expected)


async def test_the_standby_listens_nowhere_while_a_proxy_lives(place: Place) -> None:
    place.kill()
    await place.until_held()
    place.start()
    await place.until_watched()
    assert place.proxy is not None
    assert {await place.until_answered() for _ in range(50)} == {str(place.proxy.pid)}


async def test_a_client_that_left_while_it_waited_is_not_passed_on(place: Place) -> None:
    place.kill()
    await place.until_held()
    _, writer = await asyncio.open_connection("127.0.0.1", place.port)
    writer.write(b"POST /left HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()
    stays = asyncio.create_task(_ask(place, "/stays"))
    await asyncio.sleep(0.1)
    writer.close()
    await writer.wait_closed()
    await asyncio.sleep(0.1)
    place.start()
    assert (await stays).status_code == 200
    assert "/left 0" not in place.requests()


async def test_a_request_held_for_too_long_is_answered_503(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_standby, "HOLD_S", 0.3)
    place.kill()
    await place.until_held()
    answer = await _ask(place, "/late")
    assert (answer.status_code, answer.json()["code"]) == (503, "GATEWAY_DOWN")
    assert answer.headers["retry-after"] == "2"
    place.start()
    await place.until_answered()
    assert "/late 0" not in place.requests()


async def test_connections_are_refused_when_no_proxy_is_to_be_expected(place: Place) -> None:
    place.is_expected = False
    place.kill()
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", place.port)
            except ConnectionRefusedError:
                return
            writer.close()
            await asyncio.sleep(0.02)


async def test_each_restart_of_the_proxy_is_counted(place: Place) -> None:
    def row() -> tuple[str, int | None, int] | None:
        status = place.standby.status()
        return None if status is None else (status.state, status.pid, status.restarts)

    assert place.proxy is not None
    await place.until_watched()
    assert row() == ("ready", place.proxy.pid, 0)
    place.kill()
    await until(lambda: row() == ("restarting", None, 0))
    place.start()
    await place.until_watched()
    assert row() == ("ready", place.proxy.pid, 1)


async def test_the_standby_watches_the_next_proxy_too(place: Place) -> None:
    for path in ("/first", "/second"):
        await place.until_watched()
        place.kill()
        await place.until_held()
        asked = asyncio.create_task(_ask(place, path))
        await asyncio.sleep(0.05)
        place.start()
        assert (await asked).status_code == 200


async def test_port_is_free_for_the_next_ray_once_held_connections_were_closed(place: Place) -> None:
    """They stay in TIME_WAIT for a minute: Ray was not started again for so long after a kill -9 of its raylet."""
    place.kill()
    await place.until_held()
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    place.is_expected = False
    async with asyncio.timeout(WAIT_S):
        with contextlib.suppress(ConnectionError):
            await reader.read()  # the standby closes it first
    writer.close()
    await until(lambda: is_free("127.0.0.1", place.port))
    place.start()
