"""NinjaTrader on another machine, as far as sockets show it: a forwarded port, another address, a tunnel that breaks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fks.bridge.ninja import outputs as o
from fks.bridge.ninja.session import ClientSession
from fks.bridge.ninja_link.link import Link, system_draws
from fks.clock import RealClock
from fks.interfaces.cli import cli
from fks.interfaces.cli.base import NOT_RUNNING, OK, USAGE, run
from tests.support.ninja import SECRET, identity, put_secret
from tests.support.ninja_server import ScriptedBridge
from tests.support.waiting import until


class Tunnel:
    """Forwards a port to another one, as `ssh -L` does; `cut` breaks all connections, `is_silent` forwards nothing."""

    def __init__(self, target: int) -> None:
        self.port, self.is_silent = 0, False
        self._target, self._writers = target, set[asyncio.StreamWriter]()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Tunnel]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.cut()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {writer, far_writer}
        with contextlib.suppress(OSError):
            await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            if not self.is_silent:
                writer.write(data)
        writer.close()


async def fks(home: Path, settings: str, *arguments: str) -> int:
    (home / "fks.toml").write_text(f"[ninja]\ntimeout_s = 2.0\n{settings}")
    return await asyncio.to_thread(run, cli, ["--home", str(home), "ninja", *arguments])


async def test_a_forwarded_port_is_checked_like_a_local_one(tmp_path: Path) -> None:
    put_secret(tmp_path / "ninja.key")
    async with ScriptedBridge() as bridge, Tunnel(bridge.port).running() as tunnel:
        assert await fks(tmp_path, f"port = {tunnel.port}\n", "test", "--pings", "3") == OK
    assert [line["role"] for line in bridge.received if line["t"] == "hello"] == ["observe"]


async def test_another_address_needs_a_secret_of_32_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = 'host = "192.0.2.1"\nport = 9\n'  # an address of documentation: nothing answers there
    put_secret(tmp_path / "ninja.key", SECRET[:31])
    assert await fks(tmp_path, settings, "test") == USAGE
    assert "32" in capsys.readouterr().err
    put_secret(tmp_path / "ninja.key")
    assert await fks(tmp_path, settings, "test") == NOT_RUNNING


async def test_a_tunnel_that_breaks_is_dialled_again() -> None:
    async with ScriptedBridge() as bridge, Tunnel(bridge.port).running() as tunnel:
        events: list[o.Event] = []
        session = ClientSession(identity(), RealClock(), system_draws(), ports=(tunnel.port,))
        link = Link(session, "127.0.0.1", RealClock(), events.append)
        running = asyncio.create_task(link.run())
        await until(lambda: any(isinstance(event, o.Ready) for event in events))
        tunnel.cut()
        await until(lambda: sum(isinstance(event, o.Ready) for event in events) == 2)
        assert any(isinstance(event, o.LinkLost) for event in events)
        tunnel.is_silent = True  # as a network that swallows packets: no end of the connection is seen
        await until(lambda: sum(isinstance(event, o.LinkLost) for event in events) == 2, deadline_s=15)
        tunnel.is_silent = False
        await until(lambda: sum(isinstance(event, o.Ready) for event in events) == 3, deadline_s=15)
        session.stop()
        link.flush()
        await running
