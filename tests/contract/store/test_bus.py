"""The bus: fan-out that shrugs off a dead Redis."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
import uuid
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest
import uvloop

from fks.config.paths import Paths
from fks.config.secrets import load_secrets
from fks.model.errors import OutageError
from fks.store.bus import Bus
from fks.system.servers.embedded import RedisServer, start_and_wait
from tests.support import servers
from tests.support.raw_redis import raw_redis
from tests.support.waiting import until


@pytest.fixture
def own_redis() -> Iterator[tuple[Paths, RedisServer]]:
    with servers.home() as paths:
        server = RedisServer(paths, load_secrets(paths))
        start_and_wait(server)
        yield paths, server
        pid = server.adopt()
        if pid is not None:
            server.stop(pid)


async def _listen(bus: Bus, into: list[tuple[str, object]], *channels: str) -> None:
    async for message in bus.subscribe(*channels):
        into.append(message)


async def test_every_subscriber_gets_the_message(bus: Bus) -> None:
    events: list[tuple[str, object]] = []
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_listen(bus, events, "t.one", "t.two")) for _ in range(2)]

        async def output() -> bool:
            await bus.publish("t.one", {"price": Decimal("0.10"), "n": 1})
            return len(events) >= 2

        await until(output)
        for task in tasks:
            task.cancel()
    assert events[0] == ("t.one", {"price": "0.10", "n": 1})


async def test_nonsense_of_others_is_skipped(bus: Bus, redis_url: str) -> None:
    events: list[tuple[str, object]] = []
    task = asyncio.create_task(_listen(bus, events, "t.nonsense"))

    async def output() -> bool:
        async with raw_redis(redis_url) as client:
            await client.publish("t.nonsense", b"\xff{")
        await bus.publish("t.nonsense", {"ok": True})
        return bool(events)

    await until(output)
    task.cancel()
    assert events[0] == ("t.nonsense", {"ok": True})


async def test_values_are_kept_and_expire(bus: Bus) -> None:
    assert await bus.set("t.key", b"value", ttl_s=30.0)
    assert await bus.get("t.key") == b"value"
    assert await bus.set("t.key", b"value", ttl_s=0.05)
    await until(lambda: _is_gone(bus))
    assert await bus.set("t.kept", b"x")
    assert await bus.delete("t.kept")
    assert await bus.get("t.kept") is None


async def _is_gone(bus: Bus) -> bool:
    return await bus.get("t.key") is None


@pytest.mark.parametrize("case", ["first", "second"])
async def test_no_key_of_another_test_is_left(bus: Bus, redis_url: str, case: str) -> None:
    async with raw_redis(redis_url) as client:
        assert await client.dbsize() == 0
    assert await bus.set("t.left", case.encode())


async def test_counting_starts_again_when_the_window_ends(bus: Bus) -> None:
    name = f"t.count.{uuid.uuid4().hex}"
    assert [await bus.count(name, 60.0) for _ in range(3)] == [1, 2, 3]
    assert await bus.count(f"{name}.brief", 0.3) == 1

    async def starts_again() -> bool:
        return await bus.count(f"{name}.brief", 0.3) == 1

    await until(starts_again)


async def test_a_dead_redis_costs_nothing_but_the_message(own_redis: tuple[Paths, RedisServer]) -> None:
    _, server = own_redis
    bus = await Bus.connect(server.url())
    events: list[tuple[str, object]] = []
    task = asyncio.create_task(_listen(bus, events, "t.again"))

    async def one_arrived() -> bool:
        await bus.publish("t.again", {})
        return bool(events)

    await until(one_arrived)
    pid = server.adopt()
    assert pid is not None
    server.stop(pid)
    took_s: list[float] = []
    while len(took_s) < 3 and not any(
        seconds < 2.0 for seconds in took_s
    ):  # a busy machine may keep us waiting, not always
        start = time.monotonic()
        assert [await bus.publish("t.again", {}) for _ in range(200)] == [False] * 200
        assert await bus.get("x") is None
        assert await bus.set("x", b"1") is False
        assert await bus.count("x", 1) is None
        took_s.append(time.monotonic() - start)
    assert min(took_s) < 2.0, took_s
    with pytest.raises(OutageError):
        await bus.ping()
    await asyncio.to_thread(start_and_wait, server)
    events.clear()
    await until(one_arrived, deadline_s=15.0)
    task.cancel()
    await bus.close()


async def test_a_bus_may_be_opened_before_redis_is_up() -> None:
    with servers.home() as paths:
        server = RedisServer(paths, load_secrets(paths))
        bus = await Bus.connect(server.url())
        assert await bus.publish("t.early", {}) is False
        with servers.running_redis(paths):

            async def up() -> bool:
                return await bus.publish("t.early", {})

            await until(up)
        await bus.close()


class Losing:
    """A subscription as redis-py's is on Python 3.11 when the cancel comes together with the answer: the cancel is
    lost."""

    def __init__(self) -> None:
        self.is_waiting = asyncio.Event()

    async def subscribe(self, *channels: str) -> None:
        pass

    async def get_message(self, timeout: float) -> None:
        self.is_waiting.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(timeout)

    async def aclose(self) -> None:
        pass


async def test_subscriber_ends_although_its_cancel_was_lost() -> None:
    losing = Losing()
    bus = Bus(SimpleNamespace(pubsub=lambda **_: losing), 1.0)
    task = asyncio.create_task(_listen(bus, [], "any"))
    await losing.is_waiting.wait()
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=2.0)
    assert done
    assert task.cancelled()


async def _answer_some(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
    """Answer a few commands, and close: a Redis that ends while a client connects."""
    with contextlib.suppress(OSError):
        for _ in range(number % 7):
            sent = await reader.read(4096)
            if not sent:
                break
            writer.write(b"+OK\r\n" * sent.count(b"*"))
    (writer.close if number % 2 else writer.transport.abort)()


async def _use_dying_redis(path: Path) -> int:
    """Return how often a Redis that ends at each point of a connect was asked; a call that raises ends the test."""
    numbers = itertools.count()
    server = await asyncio.start_unix_server(lambda r, w: _answer_some(r, w, next(numbers)), path)
    async with server:
        for _ in range(100):
            bus = await Bus.connect(f"unix://{path}")
            messages = bus.subscribe("any")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.03):
                    await anext(messages)
            assert await bus.get("key") is None
            await bus.close()
    return next(numbers)


def test_a_redis_that_ends_while_a_client_connects_is_an_outage(tmp_path: Path) -> None:
    """uvloop, the loop of the actors, raises RuntimeError for a transport that the peer has closed."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(_use_dying_redis(tmp_path / "redis.sock")) > 7
