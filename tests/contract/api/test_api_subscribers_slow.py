"""One who asks on and does not read the answers: nothing grows, nobody else waits, and nothing it asked for is lost."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from fks.api import client as queue
from fks.api.client import Client
from fks.api.hub import Hub
from fks.api.routes import stream
from fks.store.db import Database
from tests.support.gateway import Running
from tests.support.waiting import until

STORED = (
    "INSERT INTO ohlcv_data (time, symbol, timeframe, open, high, low, close, volume)"
    " SELECT '2026-05-01T00:00:00Z'::timestamptz + n * interval '1 minute', 'BTCUSDT', '1m', 1.5, 2.5, 0.5, 2, n"
    " FROM generate_series($1::int, $2::int) n"
)


def _open(gateway: Running, query: str = "?channels=-") -> Any:
    headers = {"Authorization": f"Bearer {gateway.tokens['read']}"}
    return connect(gateway.ws + query, additional_headers=headers, proxy=None, compression=None)


async def _next(socket: ClientConnection, *kinds: str) -> dict[str, Any]:
    async with asyncio.timeout(5):
        while True:
            found: dict[str, Any] = json.loads(await socket.recv())
            if found["type"] in kinds:
                return found


async def _say(socket: ClientConnection, **message: object) -> None:
    await socket.send(json.dumps(message))


async def test_who_asks_on_and_reads_nothing_is_not_heard_any_further(
    gateway: Running, seeded: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "SEND_S", 60.0)
    await seeded.sql(STORED, 0, 1000)
    hub: Hub = gateway.app.state.gateway.hub
    most = 0
    answer = Client.answer

    def noted(client: Client, message: Any) -> None:
        nonlocal most
        answer(client, message)
        most = max(most, sum(len(told.data) for told in client._queue.values()))

    monkeypatch.setattr(Client, "answer", noted)
    wanted = {"channels": ["bars"], "symbols": ["BTCUSDT"], "timeframes": ["1m"], "bars": 1000}
    async with _open(gateway) as slow, _open(gateway) as fast:
        await _next(slow, "hello")
        await _next(fast, "hello")
        slow.transport.pause_reading()  # type: ignore[attr-defined]
        for n in range(100):
            await _say(slow, type="subscribe", id=n, **wanted)
        await until(lambda: most > queue.ANSWERS_BYTES, deadline_s=20)
        for n in range(30):  # in this time it would go on
            await _say(fast, type="subscribe", id=n, **wanted)
            assert len((await _next(fast, "snapshot"))["items"]) == 1000
        slow.transport.resume_reading()  # type: ignore[attr-defined]
        for n in range(100):
            assert (await _next(slow, "subscribed"))["id"] == n
            assert len((await _next(slow, "snapshot"))["items"]) == 1000
        assert len(hub) == 2
    assert most < queue.ANSWERS_BYTES + 300_000, "one snapshot beyond it"


async def test_one_subscription_may_be_answered_by_more_snapshots_than_messages_may_wait(
    gateway: Running, seeded: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "QUEUE_MAX", 5)
    frames = ["1m", "5m", "15m", "30m", "1h", "4h", "1d"]
    async with _open(gateway) as socket:
        await _say(socket, type="subscribe", channels=["bars"], symbols=["BTCUSDT"], timeframes=frames)
        assert {(await _next(socket, "snapshot"))["timeframe"] for _ in frames} == set(frames)
