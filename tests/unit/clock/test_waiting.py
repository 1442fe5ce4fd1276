"""Ending a task: its own cancellation is the caller's aim, the caller's own is not lost."""

from __future__ import annotations

import asyncio

import pytest

from fks.clock.waiting import end_task


async def _slow_to_end(left: asyncio.Event) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        await left.wait()


async def test_the_caller_s_cancellation_is_not_lost_while_a_task_ends() -> None:
    left = asyncio.Event()
    task = asyncio.create_task(_slow_to_end(left))
    await asyncio.sleep(0)
    caller = asyncio.create_task(end_task(task))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert not task.done()
    left.set()
    await end_task(task)
    assert task.cancelled()


async def test_an_error_of_the_task_is_raised() -> None:
    async def fail() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("its end failed")

    task = asyncio.create_task(fail())
    await asyncio.sleep(0)
    with pytest.raises(ValueError, match="its end failed"):
        await end_task(task)
