"""Figures that the queue of a model's process reports."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

from fks.ai.engines.port import Completed, Completion, Embedding, TextTaker
from fks.ai.engines.queue import InferenceQueue
from fks.clock import FakeClock

ASKED = asdict(Completion(messages=[{"role": "user", "content": "?"}], timeout_s=60.0))


class Gated:
    """An engine that writes 90 tokens once its gate is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def load(self) -> None: ...

    async def complete(self, asked: Completion, take: TextTaker | None = None) -> Completed:
        await self.gate.wait()
        return Completed("{}", 90, True)

    async def embed(self, asked: Embedding) -> list[list[float]]:
        return []

    async def close(self) -> None: ...


async def test_queue_reports_open_requests_and_tokens_of_the_last_minute() -> None:
    clock, engine = FakeClock(), Gated()
    queue = InferenceQueue(engine, waiting_max=3, monotonic=clock.monotonic)
    assert queue.detail() == {
        "working": 0,
        "waiting": 0,
        "tokens_s": 0.0,
        "tokens": 0,
        **dict.fromkeys(("answered", "busy", "late", "failed", "cancelled"), 0),
    }
    async with asyncio.TaskGroup() as tasks:
        calls = [tasks.create_task(queue.call(ASKED)) for _ in range(6)]
        assert await calls[-1] == {"refused": "busy"}
        assert {name: queue.detail()[name] for name in ("working", "waiting", "busy")} == {
            "working": 2,
            "waiting": 3,
            "busy": 1,
        }
        engine.gate.set()
    found = queue.detail()
    assert (found["working"], found["waiting"], found["answered"]) == (0, 0, 5)
    assert (found["tokens"], found["tokens_s"]) == (450, 7.5)
    await clock.advance(59)
    await queue.call(ASKED)
    assert queue.detail()["tokens_s"] == 9.0
    await clock.advance(30)
    assert (queue.detail()["tokens"], queue.detail()["tokens_s"]) == (540, 1.5)
