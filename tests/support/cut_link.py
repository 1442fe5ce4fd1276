"""A TCP link to PostgreSQL that a test cuts: the other side falls silent, or cannot be reached at all."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from urllib.parse import parse_qs, unquote, urlsplit

from fks.config.settings import DatabaseSettings
from fks.store.db import Database

KINDS = ("silent", "gone")


def partition_s(default_s: float) -> float:
    """Return how long a test's partition lasts: FKS_PARTITION_S seconds (`make soak`: 30), else `default_s`."""
    return float(os.environ.get("FKS_PARTITION_S", default_s))


class CutLink:
    """Forwards connections to the server of `url`. `silence` keeps every byte back and accepts connections that get no
    answer, as a network that drops packets; `vanish` resets all connections and refuses new ones; `restore` ends both,
    and delivers what was kept back: a statement whose caller gave up long ago may still be carried out. `lose_answer`
    resets one connection after the server has carried out its statement."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._flows = asyncio.Event()
        self._flows.set()
        self._server: asyncio.Server | None = None
        self._port = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._losing = b""
        self.lost = 0  # answers that the server gave and the client did not get

    async def open(self) -> CutLink:
        await self._listen()
        return self

    @property
    def url(self) -> str:
        """Return the URL that leads through the link."""
        user = f"{self._parts.username}:{self._parts.password}" if self._parts.password else self._parts.username
        return f"postgresql://{user}@127.0.0.1:{self._port}{self._parts.path}"

    async def close(self) -> None:
        await self.vanish()

    def silence(self) -> None:
        self._flows.clear()

    async def vanish(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def cut(self, kind: str) -> None:
        """Begin a partition of a kind of `KINDS`."""
        if kind == "silent":
            self.silence()
        else:
            await self.vanish()

    def lose_answer(self, marker: bytes) -> None:
        """Cut the connection that sends `marker` next, once the server has answered: its statement is committed."""
        self._losing = marker

    async def restore(self) -> None:
        self._flows.set()
        if self._server is None:
            await self._listen()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        theirs: asyncio.StreamWriter | None = None
        try:
            await self._flows.wait()
            source, theirs = await self._connect()
            self._writers.add(theirs)
            is_losing = asyncio.Event()
            pumps = [
                asyncio.create_task(self._pump(reader, theirs, lambda data: self._look(data, is_losing))),
                asyncio.create_task(self._pump(source, writer, lambda _: self._drop(is_losing))),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
        finally:
            for one in (writer, theirs):
                if one is not None:
                    self._writers.discard(one)
                    one.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        directory = parse_qs(self._parts.query).get("host", [unquote(self._parts.hostname or "")])[0]
        if directory.startswith("/"):
            return await asyncio.open_unix_connection(f"{directory}/.s.PGSQL.{self._parts.port or 5432}")
        return await asyncio.open_connection(directory, self._parts.port or 5432)

    def _look(self, data: bytes, is_losing: asyncio.Event) -> bool:
        if self._losing and self._losing in data:
            self._losing = b""
            is_losing.set()
        return True

    def _drop(self, is_losing: asyncio.Event) -> bool:
        self.lost += is_losing.is_set()
        return not is_losing.is_set()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passes: Callable[[bytes], bool]
    ) -> None:
        with contextlib.suppress(OSError):
            while (data := await reader.read(65536)) and passes(data):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()


@contextlib.asynccontextmanager
async def behind_a_link(url: str, *, statement_s: float = 2.0) -> AsyncIterator[tuple[Database, CutLink]]:
    """Give a database whose connections go through a link, and the link; at the end it is whole again."""
    link = await CutLink(url).open()
    settings = DatabaseSettings(retry_s=0.5, connect_timeout_s=1.0, statement_timeout_s=statement_s)
    db = await Database.connect(link.url, settings, application="test")
    try:
        yield db, link
    finally:
        await link.restore()
        await db.close()
        await link.close()
