"""A client that sends requests and does not read the answers: nothing grows, no other client waits, and no answer is
lost."""

from __future__ import annotations

from typing import Any

import pytest

from fks.interfaces.api import client as queue
from fks.interfaces.api.client import SocketClient
from fks.interfaces.api.hub import Hub
from fks.interfaces.api.routes import stream
from fks.store.db import Database
from tests.support.gateway import Running
from tests.support.listening import STORED, next_of, open_socket, say
from tests.support.waiting import until


async def test_requests_are_not_read_while_answers_stay_unread(
    gateway: Running, seeded: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "SEND_S", 60.0)
    await seeded.sql(STORED, 0, 1000)
    hub: Hub = gateway.app.state.gateway.hub
    most = 0
    answer = SocketClient.answer

    def noted(client: SocketClient, message: Any) -> None:
        nonlocal most
        answer(client, message)
        most = max(most, sum(len(received.data) for received in client.waiting))

    monkeypatch.setattr(SocketClient, "answer", noted)
    wanted = {"channels": ["bars"], "symbols": ["BTCUSDT"], "timeframes": ["1m"], "bars": 1000}
    async with open_socket(gateway) as slow, open_socket(gateway) as fast:
        await next_of(slow, "hello")
        await next_of(fast, "hello")
        slow.transport.pause_reading()  # type: ignore[attr-defined]
        for n in range(70):
            await say(slow, type="subscribe", id=n, **wanted)
        await until(lambda: most > queue.ANSWERS_BYTES, deadline_s=20)
        for n in range(10):  # in this time it would go on
            await say(fast, type="subscribe", id=n, **wanted)
            assert len((await next_of(fast, "snapshot"))["items"]) == 1000
        slow.transport.resume_reading()  # type: ignore[attr-defined]
        for n in range(70):
            assert (await next_of(slow, "subscribed"))["id"] == n
            assert len((await next_of(slow, "snapshot"))["items"]) == 1000
        assert len(hub) == 2
    assert most < queue.ANSWERS_BYTES + 300_000, "one snapshot beyond it"


async def test_snapshots_of_one_subscription_may_exceed_the_queue_limit(
    gateway: Running, seeded: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "QUEUE_MAX", 5)
    frames = ["1m", "5m", "15m", "30m", "1h", "4h", "1d"]
    async with open_socket(gateway) as socket:
        await say(socket, type="subscribe", channels=["bars"], symbols=["BTCUSDT"], timeframes=frames)
        assert {(await next_of(socket, "snapshot"))["timeframe"] for _ in frames} == set(frames)
