"""Access of a plain Python program to the store: one background thread with an event loop, so that calls work
everywhere, also in a notebook with its own running loop. Neither Ray nor a running FKS is needed: the embedded database
is started when it is down, and stopped when the program ends (unless FKS was started meanwhile and uses it).
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import fcntl
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Generic, TypeVar

from fks.clock import RealClock
from fks.config.load import load_settings
from fks.config.paths import Paths
from fks.config.settings import Settings
from fks.model.errors import ConfigError, OutageError, invalid
from fks.store.db import Database
from fks.system.servers.embedded import PostgresServer, StoppedWithUs, start_and_wait

T = TypeVar("T")
_STATEMENT_S = 120.0  # a request for ten years may take longer than a statement of a live process


class Session:
    """One node's store, opened when first used. Safe to use from several threads. `home`: default FKS_HOME, else
    `.fks`."""

    def __init__(self, home: str | Path | None = None) -> None:
        self.settings: Settings = load_settings(home)
        self.paths = Paths.of(self.settings.home)
        self.clock = RealClock()
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fks.data", daemon=True)
        self._thread.start()
        self._is_closed = False
        self._db: Database | None = None
        self._opening = asyncio.Lock()
        self._ours: Callable[[], None] = lambda: None
        atexit.register(self.close)

    @property
    def is_usable(self) -> bool:
        """Return whether calls work here: not after `close`, and not in a fork, whose thread stayed with its parent.

        The state of the thread is not used: a Ctrl-C in `Thread.is_alive` has Python 3.11 call a living one dead for
        good.
        """
        return not self._is_closed and self._pid == os.getpid()

    def run(self, work: Callable[[Database], Awaitable[T]]) -> T:
        """Return what `work` returns, run on the store; Ctrl-C cancels it.

        Errors: those of `work`; ConfigError, InputError or OutageError when the store cannot be opened.
        """
        call = _Call(lambda: self._work(work))
        try:
            self._loop.call_soon_threadsafe(call.begin)
            call.wait()
        except KeyboardInterrupt:
            self._loop.call_soon_threadsafe(call.cancel)
            raise
        return call.outcome()

    def close(self) -> None:
        """Close the connections and stop the servers that this session started. Safe to repeat, also after an
        interruption."""
        if self.is_usable:
            with contextlib.suppress(Exception):
                asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(5.0)
            self._is_closed = True
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5.0)
        if self._pid == os.getpid():
            self._ours()
            self._ours = lambda: None
        atexit.unregister(self.close)

    async def _work(self, work: Callable[[Database], Awaitable[T]]) -> T:
        db = await self._opened()
        try:
            return await work(db)
        except OutageError:
            await self._close()  # the server may come back elsewhere: the next call looks for it again
            raise

    async def _opened(self) -> Database:
        async with self._opening:
            if self._db is None:
                url = await asyncio.to_thread(self._find)
                await _check_migrated(url)
                patient = self.settings.database.model_copy(update={"statement_timeout_s": _STATEMENT_S, "pool_min": 0})
                self._db = await Database.connect(url, patient, application="notebook")
            return self._db

    async def _close(self) -> None:
        if self._db is not None:
            db, self._db = self._db, None
            await db.close()

    def _find(self) -> str:
        """Return the URL of the store, starting our own server when it is down."""
        if self.settings.database.url is not None:
            return self.settings.database.url.get_secret_value()
        if not self.paths.pgdata.exists():
            raise ConfigError(
                f"there is no FKS at {self.paths.home}",
                remedy="set FKS_HOME, or call connect('/path/to/.fks'); 'fks up' or 'fks data sample' makes a new one",
            )
        from fks.config.secrets import load_secrets

        server = PostgresServer(self.paths, load_secrets(self.paths))
        if server.adopt() is None:
            self.paths.ensure()
            process = start_and_wait(server, log=self.paths.logs / "postgres.log")
            watch = StoppedWithUs(process, self.paths)

            def stop() -> None:
                if not _is_kept(self.paths):
                    server.stop(process)
                watch.close()

            self._ours = stop
        return server.url()


class _Call(Generic[T]):
    """One call of the program's thread, run in the loop's thread. Ctrl-C may interrupt it at any moment.

    So the waiting thread holds no lock that the loop needs: one that is interrupted while it holds a lock of
    concurrent.futures, between two lines of Python, would leave the loop waiting for ever.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._work = work
        self._task: asyncio.Task[T] | None = None
        self._is_cancelled = False
        self._over = threading.Lock()
        self._over.acquire()

    def begin(self) -> None:
        """Begin; called in the loop's thread."""
        if not self._is_cancelled:
            self._task = asyncio.get_running_loop().create_task(self._work())
            self._task.add_done_callback(self._end)

    def cancel(self) -> None:
        """Cancel; called in the loop's thread."""
        self._is_cancelled = True
        if self._task is not None:
            self._task.cancel()

    def _end(self, task: asyncio.Task[T]) -> None:
        if not task.cancelled():
            task.exception()  # an interrupted caller does not retrieve it
        self._over.release()

    def wait(self) -> None:
        """Wait until it is done."""
        self._over.acquire()

    def outcome(self) -> T:
        """Return the result, after `wait`. Errors: those of the work."""
        assert self._task is not None
        return self._task.result()


async def _check_migrated(url: str) -> None:
    from fks.store import migrate

    at = await migrate.current(url)
    if at is None:
        raise invalid("NO_DATA", "the store is empty", "run 'fks data sample', or 'fks up' once")
    if at != migrate.head():
        raise ConfigError(
            f"the store is at revision {at}, this FKS reads {migrate.head()}",
            remedy="run 'fks db upgrade', or 'fks up'",
        )


def _is_kept(paths: Paths) -> bool:
    """Return whether a keeper runs here, or the parent that starts it: each holds the lock of its file meanwhile."""
    for name in ("keeper.lock", "parent.lock"):
        with contextlib.suppress(FileNotFoundError), (paths.run / name).open("rb") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False
