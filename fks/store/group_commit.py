"""Group commit: items that arrive together go into one statement, with one WAL flush for all.

Together are the items of one turn of the event loop, and those that arrive while a statement is in flight. A lone item
waits for the end of its turn alone. Items that touch the same row go into different statements, in the order in which
they came.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from fks.model.errors import OutageError

#: items of one statement; a longer one would delay the next ones
BATCH_MAX = 64

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(slots=True)
class _Waiting(Generic[Item, Result]):
    item: Item
    keys: Collection[Hashable]
    future: asyncio.Future[Result]


class GroupCommit(Generic[Item, Result]):
    """One queue with at most one statement in flight.

    `write` takes the items of one statement and returns a result or an exception for each, in their order. An exception
    that it raises is raised for each of its items. `keys_of` names the rows of an item.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        keys_of: Callable[[Item], Collection[Hashable]],
    ) -> None:
        self._write = write
        self._keys_of = keys_of
        self._is_busy = False
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Result:
        """Write the item and return its result. Cancelled while it waits, it is not written."""
        waiting = _Waiting[Item, Result](item, self._keys_of(item), asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if not self._is_busy:
            self._is_busy = True
            try:
                await asyncio.sleep(0)  # what one statement completed goes on in the same turn, and is written together
            except asyncio.CancelledError:
                waiting.future.cancel()
                self._go_on()
                raise
            await self._carry(self._take())
        return await waiting.future

    def _go_on(self) -> None:
        """Start the next statement, if anything waits."""
        batch = self._take()
        self._is_busy = bool(batch)
        if batch:
            self._task = asyncio.get_running_loop().create_task(self._carry(batch), name="group commit")

    def _take(self) -> list[_Waiting[Item, Result]]:
        """Return the items of the next statement: no two touch the same row, and none overtakes one that does."""
        batch, later, seen = list[_Waiting[Item, Result]](), list[_Waiting[Item, Result]](), set[Hashable]()
        while self._waiting and len(batch) < BATCH_MAX:
            waiting = self._waiting.popleft()
            if waiting.future.done():  # its caller was cancelled
                continue
            (later if not seen.isdisjoint(waiting.keys) else batch).append(waiting)
            seen.update(waiting.keys)
        self._waiting.extendleft(reversed(later))
        return batch

    async def _carry(self, batch: Sequence[_Waiting[Item, Result]]) -> None:
        try:
            results = await self._write([waiting.item for waiting in batch])
        except asyncio.CancelledError:
            for waiting in batch:
                _settle(waiting.future, OutageError("the statement was cancelled: it may have been written"))
            raise
        except Exception as error:
            for waiting in batch:
                _settle(waiting.future, error)
            if isinstance(error, OutageError):
                self._fail_waiting(error)
        else:
            for waiting, result in zip(batch, results, strict=True):
                _settle(waiting.future, result)
        finally:
            self._go_on()

    def _fail_waiting(self, error: OutageError) -> None:
        """Fail the waiting items at an outage: each caller has its own deadline."""
        while self._waiting:
            _settle(self._waiting.popleft().future, error)


def _settle(future: asyncio.Future[Result], result: Result | Exception) -> None:
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
        future.exception()  # seen: its caller may have been cancelled
    else:
        future.set_result(result)
