"""Redis: fan-out and cache, never the truth. It may be flushed or killed at any moment without loss of data.

Publishing never raises and never waits long: a lost wake-up costs a reader at most its poll of one second.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Self

import orjson
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from fks.model.backoff import Backoff
from fks.model.errors import OutageError

BARS = "fks.bars"
SIGNALS = "fks.signals"
ORDERS = "fks.orders"
FILLS = "fks.fills"
FEEDS = "fks.feeds"
ALERTS = "fks.alerts"
KILL = "fks.kill"
HEALTH = "fks.health"
#: wakes the order manager: a signal (`type` is "signal"), a stop that a strategy moved ("stop", with its `symbol`), a
#: cancel, or anything else that it has to read
WAKE = "fks.orders.wake"
#: a job was queued, started or ended; wakes the scheduler
JOBS = "fks.jobs"
#: a venue or an exchange asked every process of one rate limit to pause
BUDGETS = "fks.budgets"
CHANNELS = (BARS, SIGNALS, ORDERS, FILLS, FEEDS, ALERTS, KILL, HEALTH)

_DOWN = (RedisError, OSError, TimeoutError)
# after a failure calls are skipped for this long: the order path must not wait for a hung Redis repeatedly
_REST_S = 0.5
_RETRY = Backoff(0.05, 2.0)
_PUBLISH = "for i = 1, #ARGV, 2 do redis.call('PUBLISH', ARGV[i], ARGV[i + 1]) end return #ARGV"


class Bus:
    """Redis connection of one process."""

    def __init__(self, client: Any, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._rest_until = 0.0

    @classmethod
    async def connect(cls, url: str, *, timeout_s: float = 2.0) -> Self:
        """Return a bus on `url`. It does not wait for Redis: a bus whose Redis is down works once it is up."""
        # Any: the stubs installed beside redis are of another version
        client: Any = Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            health_check_interval=15,
            max_connections=16,
            retry=Retry(NoBackoff(), 0),  # the library would sleep between attempts, inside our publish
        )
        return cls(client, timeout_s)

    async def close(self) -> None:
        """Close every connection. Subscriptions end with an error in their task: cancel them first."""
        with contextlib.suppress(*_DOWN), _closed_is_down():
            await self._client.aclose()

    async def publish(self, channel: str, payload: Mapping[str, object]) -> bool:
        """Publish on `channel`; return whether Redis took it. Never raises for an outage."""
        data = orjson.dumps(payload, default=_plain)
        return await self._try(self._client.publish(channel, data)) is not None

    async def publish_many(self, messages: Sequence[tuple[str, Mapping[str, object]]]) -> bool:
        """Publish (channel, payload) in one command; return whether Redis took them. Never raises for an outage.

        A script is one command and one answer: as commands of their own, the client would pack and parse each message.
        """
        if len(messages) == 1:
            return await self.publish(*messages[0])
        args = [part for channel, payload in messages for part in (channel, orjson.dumps(payload, default=_plain))]
        return await self._try(self._client.eval(_PUBLISH, 0, *args)) is not None

    async def subscribe(self, *channels: str) -> AsyncIterator[tuple[str, Any]]:
        """Yield (channel, payload) for ever, reconnecting by itself. Messages sent while Redis was away are lost."""
        wait = 0.0
        cancels = _cancels()
        while True:
            listener: Any = self._client.pubsub(ignore_subscribe_messages=True)
            try:
                with _closed_is_down():
                    await listener.subscribe(*channels)
                _heed_cancel(cancels)
                wait = 0.0
                async for channel, payload in _messages(listener, cancels):
                    yield channel, payload
            except _DOWN:
                wait = _RETRY.next_s(wait)
                await asyncio.sleep(wait)
            finally:
                with contextlib.suppress(*_DOWN), _closed_is_down():
                    await listener.aclose()

    async def set(self, key: str, value: bytes, ttl_s: float | None = None) -> bool:
        """Store `value` for `ttl_s` seconds; return whether Redis took it."""
        px = None if ttl_s is None else max(1, int(ttl_s * 1000))
        return bool(await self._try(self._client.set(key, value, px=px)))

    async def get(self, key: str) -> bytes | None:
        """Return the value stored under `key`, or None: absent, expired or Redis is away."""
        value = await self._try(self._client.get(key))
        return value if isinstance(value, bytes) else None

    async def put(self, key: str, field: str, value: bytes, ttl_s: float) -> bool:
        """Store `value` as one field of the hash `key`, which expires `ttl_s` after its last change; return whether
        Redis took it."""
        pipe = self._client.pipeline(transaction=False)
        pipe.hset(key, field, value)
        pipe.pexpire(key, max(1, int(ttl_s * 1000)))
        return await self._try(pipe.execute()) is not None

    async def put_and_publish(
        self, entries: Sequence[tuple[str, str, str, Mapping[str, object]]], ttl_s: float
    ) -> bool:
        """Store each payload as (key, field) and publish it on (channel), all in one round trip; return whether Redis
        took them."""
        if not entries:
            return True
        pipe, px = self._client.pipeline(transaction=False), max(1, int(ttl_s * 1000))
        for key, field, channel, payload in entries:
            data = orjson.dumps(payload, default=_plain)
            pipe.hset(key, field, data)
            pipe.pexpire(key, px)
            pipe.publish(channel, data)
        return await self._try(pipe.execute()) is not None

    async def fields(self, key: str) -> dict[str, bytes]:
        """Return the fields of the hash `key`; empty when it is absent or Redis is away."""
        return await self.known_fields(key) or {}

    async def known_fields(self, key: str) -> dict[str, bytes] | None:
        """Return the fields of the hash `key`, empty when it is absent; None when Redis is away."""
        found = await self._try(self._client.hgetall(key))
        if not isinstance(found, dict):
            return None
        return {name.decode(errors="replace"): value for name, value in found.items()}

    async def delete(self, *keys: str) -> bool:
        """Drop `keys`; return whether Redis answered."""
        return await self._try(self._client.delete(*keys)) is not None

    async def count(self, key: str, ttl_s: float) -> int | None:
        """Add one to the counter `key`, which expires `ttl_s` after its first count; None when Redis is away."""
        pipe = self._client.pipeline(transaction=True)
        pipe.set(key, 0, px=max(1, int(ttl_s * 1000)), nx=True)
        pipe.incr(key)
        answer = await self._try(pipe.execute())
        return int(answer[1]) if answer else None

    async def script(self, text: str, keys: Sequence[str], args: Sequence[float | str | bytes]) -> Any:
        """Run a Lua script atomically; None when Redis is away."""
        return await self._try(self._client.eval(text, len(keys), *keys, *args))

    async def ping(self) -> float:
        """Return the seconds one round trip took. Errors: OutageError."""
        start = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._client.execute_command("PING")
        except _DOWN as error:
            raise OutageError(f"Redis does not answer ({type(error).__name__})") from error
        self._rest_until = 0.0
        return time.monotonic() - start

    async def _try(self, call: Any) -> Any:
        """Await `call`; None when Redis is away, or was a moment ago."""
        if time.monotonic() < self._rest_until:
            call.close() if asyncio.iscoroutine(call) else None
            return None
        cancels = _cancels()
        try:
            async with asyncio.timeout(self._timeout_s):
                with _closed_is_down():
                    answer = await call
        except _DOWN:
            self._rest_until = time.monotonic() + _REST_S
            answer = None
        _heed_cancel(cancels)
        return answer


@contextlib.contextmanager
def _closed_is_down() -> Iterator[None]:
    """Raise an OSError for the RuntimeError that uvloop raises when redis-py writes to a transport that Redis has
    closed meanwhile. As a RuntimeError it ended the process (2026-11-30)."""
    try:
        yield
    except RuntimeError as error:
        if "the handler is closed" not in str(error):
            raise
        raise ConnectionResetError(str(error)) from error


def _cancels() -> int:
    task = asyncio.current_task()
    return task.cancelling() if task else 0


def _heed_cancel(before: int) -> None:
    """Raise the cancel that redis-py dropped: it waits with Python 3.11's wait_for, which loses a cancel that arrives
    together with the answer. A loop that publishes or subscribes would then never end."""
    if _cancels() > before:
        raise asyncio.CancelledError


async def _messages(listener: Any, cancels: int) -> AsyncIterator[tuple[str, Any]]:
    while True:
        with _closed_is_down():
            message = await listener.get_message(timeout=5.0)
        _heed_cancel(cancels)
        if message is None or message["type"] != "message":
            continue
        try:
            payload = orjson.loads(message["data"])
        except orjson.JSONDecodeError:
            continue  # not ours: any client with the password may publish
        yield message["channel"].decode(), payload


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return format(value, "f")
    return str(value)
