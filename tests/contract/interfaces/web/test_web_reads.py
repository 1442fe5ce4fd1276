"""Reads of the pages that several requests share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import orjson
import pytest

from fks.interfaces.web.client import BrowserCaller, GatewayClient, GatewayRefusal
from tests.support.waiting import until

CALLER = BrowserCaller("session-1", "127.0.0.1", "127.0.0.1:8000")


@dataclass
class Counting:
    """A server that answers each request with its number, as soon as it may."""

    url: str = ""
    paths: list[str] = field(default_factory=list)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    status: int = 200

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.paths.append(head.split(b" ", 2)[1].decode())
                body = orjson.dumps({"number": len(self.paths), "code": "WRONG", "detail": "no"})
                await self.may_answer.wait()
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (self.status, len(body), body))
        except asyncio.IncompleteReadError:
            writer.close()


@pytest.fixture
async def counting() -> AsyncIterator[Counting]:
    """Serve until the test ends."""
    counting = Counting()
    async with await asyncio.start_server(counting.serve, "127.0.0.1", 0) as server:
        counting.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield counting


@pytest.fixture
async def client(counting: Counting) -> AsyncIterator[GatewayClient]:
    """Return a client of that server."""
    client = GatewayClient(counting.url, forward_key=b"k" * 32)
    yield client
    await client.close()


async def test_tabs_share_the_read_that_begins_after_their_event(counting: Counting, client: GatewayClient) -> None:
    first = asyncio.create_task(client.read(CALLER, "/orders"))
    await until(lambda: counting.paths == ["/orders"])
    # the answer of the read under way may be older than what makes these read again
    others = [asyncio.create_task(client.read(CALLER, "/orders")) for _ in range(20)]
    await asyncio.sleep(0)
    others[3].cancel()  # a tab that is closed takes the answer from no other
    counting.may_answer.set()
    assert (await first)["number"] == 1
    answers = [await task for number, task in enumerate(others) if number != 3]
    assert [answer["number"] for answer in answers] == [2] * 19
    answers[0]["number"] = "changed"
    assert answers[1]["number"] == 2  # each has an answer of its own
    assert (await client.read(CALLER, "/orders"))["number"] == 3  # nothing is kept


async def test_reads_that_differ_are_not_shared(counting: Counting, client: GatewayClient) -> None:
    other = BrowserCaller("session-2", CALLER.address, CALLER.host)
    wanted = [(CALLER, "/orders", None), (CALLER, "/orders", {"limit": 1}), (CALLER, "/fills", None)]
    wanted += [(other, "/orders", None)]
    reads = [asyncio.create_task(client.read(*each)) for each in wanted]
    await until(lambda: len(counting.paths) == 4)
    counting.may_answer.set()
    assert sorted([(await read)["number"] for read in reads]) == [1, 2, 3, 4]


async def test_refusal_reaches_each_of_those_that_share_a_read(counting: Counting, client: GatewayClient) -> None:
    counting.status = 403
    reads = [asyncio.create_task(client.read(CALLER, "/orders")) for _ in range(3)]
    await until(lambda: len(counting.paths) == 1)
    counting.may_answer.set()
    for read in reads:
        with pytest.raises(GatewayRefusal) as refused:
            await read
        assert (refused.value.status, refused.value.code) == (403, "WRONG")
