"""The process around a bridge: its folder, its secret, a listening socket, and the loop that lets it work."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import sys
from pathlib import Path

from fks.bridge.peer.sessions import BridgeSessions, Output
from fks.clock import Clock
from fks.clock.waiting import end_task
from fks.model.errors import ConfigError

log = logging.getLogger(__name__)
_TICK_S = 0.05
_READ_MAX = 65_536


class BridgeKilled(BaseException):
    """The bridge's process was killed at a named point; its platform goes on."""


class BridgeService:
    """A running bridge: all decisions run on the event loop's thread, as on the AddOn's worker.

    A subclass gives `load` and `advance`. `failed` is done when it cannot go on: the process should end then.
    """

    sessions: BridgeSessions

    def __init__(self, data_dir: Path, host: str, port: int, clock: Clock, secret_file: Path | None = None) -> None:
        """Take the folder and load or make the secret. Errors: ConfigError when another process has the folder."""
        self.port = port
        self.failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self.secret_file = secret_file or data_dir / "secret.key"
        self._host = host
        self._clock = clock
        self._lock = _lock(data_dir)
        self.secret = load_secret(self.secret_file)
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._next = 0
        self._listener: asyncio.Server | None = None
        self._task: asyncio.Task[None] | None = None

    def load(self) -> BridgeSessions:
        """Return the sessions of a bridge on the journal in the folder."""
        raise NotImplementedError

    def advance(self) -> None:
        """Let the platform move on; called before each turn of the bridge."""
        raise NotImplementedError

    def revive(self) -> None:
        """Go on after `BridgeKilled`, which only a test raises."""
        raise NotImplementedError

    async def open(self) -> None:
        """Load the bridge and listen. Errors: ConfigError when the port is taken."""
        try:
            self._listener = await asyncio.start_server(self._serve, self._host, self.port, limit=_READ_MAX)
        except OSError as error:
            os.close(self._lock)
            raise ConfigError(
                f"the bridge cannot listen on {self._host}:{self.port}: {error.strerror}",
                remedy="choose another --port, or 0 for any free one",
            ) from error
        self.port = int(self._listener.sockets[0].getsockname()[1])
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Say goodbye, close everything, leave no handler on the platform."""
        if self._task is not None:
            await end_task(self._task)
        self._deliver(self.sessions.shutdown())
        self.sessions.bridge.stop()
        if self._listener is not None:
            self._listener.close()
        for writer in list(self._writers.values()):
            writer.close()
        os.close(self._lock)

    def cut(self) -> None:
        """Abort every connection, as a process that is killed."""
        for writer in list(self._writers.values()):
            writer.transport.abort()
        self._writers.clear()

    async def _run(self) -> None:
        while True:
            try:
                self.advance()
                self._deliver(self.sessions.work())
            except BridgeKilled:
                self.revive()
            except Exception as error:
                log.exception("the bridge failed")
                if not self.failed.done():
                    self.failed.set_result(error)
                return
            await self._clock.sleep(_TICK_S)

    def _deliver(self, out: list[Output]) -> None:
        for conn, data in out:
            writer = self._writers.get(conn)
            if writer is not None and data is not None:
                writer.write(data)
            elif writer is not None:
                del self._writers[conn]
                writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._next += 1
        conn = self._next
        self.sessions.open(conn)
        made = writer.get_extra_info("socket")
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._writers[conn] = writer
        try:
            while data := await reader.read(_READ_MAX):
                self.sessions.receive(conn, data)
                self._deliver(self.sessions.work())
            self.sessions.half_close(conn)
        except (ConnectionError, OSError):
            self.sessions.disconnect(conn)
        except BridgeKilled:
            self.revive()
            return
        try:
            self._deliver(self.sessions.work())
        except BridgeKilled:
            self.revive()


def new_id() -> str:
    """Return a random id of 32 hex digits."""
    return secrets.token_hex(16)


def new_nonce() -> str:
    return secrets.token_hex(32)


def load_secret(path: Path) -> bytes:
    """Return the secret of `path` without white space; a new file, for this user alone, is made at the first start."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32))
    return b"".join(path.read_bytes().split())


def _lock(folder: Path) -> int:
    """Take the folder for this process; return the lock's file. Errors: ConfigError when another process has it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(lock, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise ConfigError(
            f"another bridge uses the folder {folder}", remedy="stop it, or choose another --data-dir"
        ) from error
    return lock
