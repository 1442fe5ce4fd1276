"""Group commit: one statement in flight; what comes in one turn of the loop, or meanwhile, goes together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from fks.model.errors import OutageError
from fks.store.orders import BATCH_MAX, GroupCommit


class Journal:
    """Writes words. Each statement waits until it is let through; a word is its own row."""

    def __init__(self) -> None:
        self.statements: list[list[str]] = []
        self.gate = asyncio.Semaphore(0)
        self.error: Exception | None = None
        self.queue = GroupCommit[str, str](self.write, lambda text: {text[0]})

    async def write(self, texts: Sequence[str]) -> Sequence[str | Exception]:
        self.statements.append(list(texts))
        await self.gate.acquire()
        if self.error is not None:
            raise self.error
        return [ValueError(text) if text.endswith("!") else text.upper() for text in texts]

    async def submit(self, *texts: str) -> list[str | BaseException]:
        return await asyncio.gather(*(self.queue.submit(text) for text in texts), return_exceptions=True)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
async def journal() -> Journal:
    return Journal()


async def test_lone_item_is_written_at_once(journal: Journal) -> None:
    journal.gate.release()
    assert await journal.submit("a") == ["A"]
    assert journal.statements == [["a"]]


async def test_what_comes_in_one_turn_is_one_statement(journal: Journal) -> None:
    journal.gate.release()
    assert await journal.submit("a", "b", "c") == ["A", "B", "C"]
    assert journal.statements == [["a", "b", "c"]]


async def test_what_comes_meanwhile_is_one_statement(journal: Journal) -> None:
    first = asyncio.create_task(journal.submit("a"))
    await settle()
    second = asyncio.create_task(journal.submit("b", "c"))
    await settle()
    third = asyncio.create_task(journal.submit("d"))
    await settle()
    assert journal.statements == [["a"]]
    journal.gate.release()
    journal.gate.release()
    assert [*await first, *await second, *await third] == ["A", "B", "C", "D"]
    assert journal.statements == [["a"], ["b", "c", "d"]]


async def test_items_that_one_statement_completed_go_on_in_one_statement(journal: Journal) -> None:
    async def twice(text: str) -> str:
        return await journal.queue.submit(await journal.queue.submit(text))

    work = asyncio.gather(*(twice(text) for text in ("a", "b", "c")))
    await settle()
    journal.gate.release()
    journal.gate.release()
    assert await work == ["A", "B", "C"]
    assert journal.statements == [["a", "b", "c"], ["A", "B", "C"]]


async def test_items_of_one_row_keep_their_order_in_different_statements(journal: Journal) -> None:
    work = asyncio.create_task(journal.submit("a", "b1", "c1", "b2", "c2", "b3"))
    await settle()
    for _ in range(5):
        journal.gate.release()
    assert await work == ["A", "B1", "C1", "B2", "C2", "B3"]
    assert journal.statements == [["a", "b1", "c1"], ["b2", "c2"], ["b3"]]


async def test_one_bad_item_ends_alone(journal: Journal) -> None:
    work = asyncio.create_task(journal.submit("a", "b", "c!", "d"))
    await settle()
    journal.gate.release()
    found = await work
    assert [str(each) for each in found] == ["A", "B", "c!", "D"]
    assert isinstance(found[2], ValueError)


async def test_outage_ends_what_is_in_flight_and_what_waits(journal: Journal) -> None:
    first = asyncio.create_task(journal.submit("a", "b"))
    await settle()
    second = asyncio.create_task(journal.submit("c"))
    await settle()
    journal.error = OutageError("away")
    journal.gate.release()
    assert [type(each) for each in (*await first, *await second)] == [OutageError] * 3
    assert journal.statements == [["a", "b"]]
    journal.error = None
    journal.gate.release()
    assert await journal.submit("d") == ["D"]


async def test_item_of_a_cancelled_caller_is_not_written(journal: Journal) -> None:
    first = asyncio.create_task(journal.queue.submit("a"))
    await settle()
    gone, stays = asyncio.create_task(journal.queue.submit("b")), asyncio.create_task(journal.queue.submit("c"))
    await settle()
    gone.cancel()
    await settle()
    journal.gate.release()
    journal.gate.release()
    assert [await first, await stays] == ["A", "C"]
    assert journal.statements == [["a"], ["c"]]


async def test_cancelled_first_item_does_not_stop_the_others(journal: Journal) -> None:
    first = asyncio.create_task(journal.queue.submit("a"))
    await settle()
    second = asyncio.create_task(journal.queue.submit("b"))
    await settle()
    first.cancel()
    journal.gate.release()
    assert await second == "B"


async def test_what_a_cancelled_statement_carried_is_unresolved(journal: Journal) -> None:
    first, second = (asyncio.create_task(journal.queue.submit(text)) for text in "ab")
    await settle()
    assert journal.statements == [["a", "b"]]
    first.cancel()
    with pytest.raises(OutageError):  # it may have been written: the caller reads before it goes on
        await second
    journal.gate.release()
    assert await journal.submit("c") == ["C"]


async def test_caller_cancelled_before_the_statement_leaves_the_others(journal: Journal) -> None:
    first, second = (asyncio.create_task(journal.queue.submit(text)) for text in "ab")
    await asyncio.sleep(0)  # both are submitted, nothing is written
    first.cancel()
    journal.gate.release()
    assert await second == "B"
    assert journal.statements == [["b"]]


async def test_statement_has_a_size(journal: Journal) -> None:
    texts = [chr(200 + number) for number in range(BATCH_MAX + 5)]
    work = asyncio.create_task(journal.submit(*texts))
    await settle()
    for _ in range(2):
        journal.gate.release()
    await work
    assert [len(statement) for statement in journal.statements] == [BATCH_MAX, 5]
