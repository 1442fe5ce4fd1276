"""A person's code, checked beside the event loop: in a thread of its own, for a limited time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from fks.strategies.base import StrategyError

CHECK_S = 30.0
T = TypeVar("T")


async def checked_in_thread(strategy: str, work: Callable[[], T], *, limit_s: float = CHECK_S) -> T:
    """Return the result of `work`, which runs code of `strategy`. Call it before a transaction, never inside one.

    A thread can only be ended with its process: one that takes too long goes on, but its result is dropped and no
    process waits for it when it ends. Errors: those of `work`; StrategyError STRATEGY_SLOW after `limit_s` seconds,
    STRATEGY_RAISED when the code would end the process.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(put: Callable[[], None]) -> None:
        if not done.done():
            put()

    def run() -> None:
        try:
            found = work()
        except BaseException as raised:
            error = raised if isinstance(raised, Exception) else _leaving(strategy, raised)
            put = partial(done.set_exception, error)
        else:
            put = partial(done.set_result, found)
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, put)

    threading.Thread(target=run, name=f"check:{strategy}", daemon=True).start()
    try:
        async with asyncio.timeout(limit_s) as limit:
            return await done
    except TimeoutError:
        if not limit.expired():
            raise  # its own
    raise StrategyError(
        f"strategy {strategy} took longer than {limit_s:g} s to be checked",
        code="STRATEGY_SLOW",
        remedy="make decide() faster: 'fks strategies check' shows where it stands",
    )


def _leaving(strategy: str, error: BaseException) -> StrategyError:
    return StrategyError(
        f"strategy {strategy} raised {type(error).__name__}: {error}",
        code="STRATEGY_RAISED",
        remedy="raise an error, or decide",
    )
