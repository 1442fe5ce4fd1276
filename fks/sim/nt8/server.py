"""The process of the simulated NinjaTrader: a listening socket, a market in real time, and faults on a schedule."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import random
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from fks.clock import Clock, RealClock
from fks.model.errors import ConfigError
from fks.sim.nt8.bridge import Bridge, BridgeConfig
from fks.sim.nt8.contracts import find_contract
from fks.sim.nt8.journal import EpochJournal
from fks.sim.nt8.platform import Platform
from fks.sim.nt8.sessions import Output, BridgeSessions
from fks.sim.nt8.unkindness import KIND, Unkindness

log = logging.getLogger(__name__)
_TICK_S = 0.05
_READ_MAX = 65_536


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """The options of the command line. Units: `strike_s` seconds between draws of a fault, `crash_s` between restarts."""

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 0
    seed: int = 1
    accounts: tuple[tuple[str, str, bool], ...] = (("Sim101", "auto", True),)  # name, mode, simulation
    instruments: tuple[str, ...] = ("ES 03-25",)
    start_ms: int = 0  # 0: the clock of this machine
    unkind: Unkindness = KIND
    strike_s: float = 5.0
    crash_s: float = 0.0
    config: BridgeConfig = field(default_factory=BridgeConfig)


class BridgeKilled(BaseException):
    """The bridge's process was killed at a named point; its platform goes on."""


class BridgeServer:
    """A running stand-in: all decisions run on the event loop's thread, as on the AddOn's worker.

    `failed` is done when it cannot go on: the process should end then.
    """

    def __init__(self, options: ServerOptions, clock: Clock, crash: Callable[[str], None] = lambda _: None) -> None:
        """Take the folder and load or make the secret. `crash` is called at the bridge's named points and may raise
        BridgeKilled. Errors: ConfigError when another process has the folder."""
        self.options = options
        self.kills = 0  # of the bridge
        self._crash = crash
        self.port = 0
        self.failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self._clock = clock
        self._begun = clock.monotonic()
        self._start_ms = options.start_ms or clock.now_ns() // 1_000_000
        self._lock = _lock(options.data_dir)
        self.secret = _load_secret(options.data_dir / "secret.key")
        self.platform = Platform(self._start_ms, seed=options.seed, unkind=options.unkind, broker=True)
        self._modes = {name: mode for name, mode, _ in options.accounts}
        for name, _, is_sim in options.accounts:
            status = "Disconnected" if "account_late" in options.unkind.on else "Connected"
            self.platform.add_account(name, is_sim=is_sim, status=status)
        for name in options.instruments:
            contract = find_contract(name)
            assert contract is not None, name
            self.platform.trade(name, contract.first_price)
        self._dice = random.Random(options.seed)  # noqa: S311 (faults, not secrets)
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._next = 0
        self._struck_ms = self._crashed_ms = self._start_ms
        self._listener: asyncio.Server | None = None
        self._task: asyncio.Task[None] | None = None
        self.sessions = self._load_bridge()

    def _load_bridge(self) -> BridgeSessions:
        journal = EpochJournal(self.options.data_dir, _new_id)
        bridge = Bridge(self.platform, journal, self.options.config, _new_id, self._crash)
        bridge.modes.update(self._modes)
        return BridgeSessions(bridge, self.secret, lambda: secrets.token_hex(32))

    async def open(self) -> None:
        """Listen. Errors: ConfigError when the port is taken."""
        options = self.options
        try:
            self._listener = await asyncio.start_server(self._serve, options.host, options.port, limit=_READ_MAX)
        except OSError as error:
            os.close(self._lock)
            raise ConfigError(
                f"the stand-in cannot listen on {options.host}:{options.port}: {error.strerror}",
                remedy="choose another --port, or 0 for any free one",
            ) from error
        self.port = int(self._listener.sockets[0].getsockname()[1])
        self._task = asyncio.create_task(self._run())

    def info(self) -> dict[str, object]:
        """Return what the command prints: where it listens, where the secret is, which behaviours are on."""
        return {
            "host": self.options.host,
            "port": self.port,
            "group": self.options.config.group,
            "secret_file": str(self.options.data_dir / "secret.key"),
            "accounts": [name for name, _, _ in self.options.accounts],
            "instruments": list(self.options.instruments),
            "seed": self.options.seed,
            "unkind": self.options.unkind.switched_on(),
        }

    async def stop(self) -> None:
        """Say goodbye, close everything, leave no handler on the platform."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._deliver(self.sessions.shutdown())
        self.sessions.bridge.stop()
        if self._listener is not None:
            self._listener.close()
        for writer in list(self._writers.values()):
            writer.close()
        os.close(self._lock)

    def restart_bridge(self) -> None:
        """End the bridge without a word, as a killed process, and start it again on the same journal."""
        self.kills += 1
        for writer in list(self._writers.values()):
            writer.transport.abort()
        self._writers.clear()
        self.platform.restart()
        self.sessions = self._load_bridge()
        for name in self.platform.accounts:
            self.platform.connect(name)

    def _revive(self) -> None:
        """Start the bridge again after it was killed; it may be killed again as it starts."""
        while True:
            try:
                self.restart_bridge()
            except BridgeKilled:
                continue
            return

    async def _run(self) -> None:
        while True:
            try:
                self._work()
            except BridgeKilled:
                self._revive()
            except Exception as error:
                log.exception("the stand-in failed")
                if not self.failed.done():
                    self.failed.set_result(error)
                return
            await self._clock.sleep(_TICK_S)

    def _work(self) -> None:
        now_ms = self._start_ms + int((self._clock.monotonic() - self._begun) * 1000)
        options = self.options
        self.platform.advance(now_ms)
        if "account_late" in options.unkind.on and now_ms - self._start_ms >= 10_000:
            for account in self.platform.accounts.values():
                if account.status == "Disconnected":
                    self.platform.connect(account.name)
        if now_ms - self._struck_ms >= options.strike_s * 1000:
            self._struck_ms = now_ms
            self.platform.strike()
            if "clock_jumps" in options.unkind.on and self._dice.random() < options.unkind.chance:
                self.sessions.bridge.set_clock_offset(self._dice.randint(-10_000, 10_000))
        if options.crash_s and now_ms - self._crashed_ms >= options.crash_s * 1000:
            self._crashed_ms = now_ms
            self.restart_bridge()
        self._deliver(self.sessions.work())

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
            self._revive()
            return
        try:
            self._deliver(self.sessions.work())
        except BridgeKilled:
            self._revive()


def _new_id() -> str:
    return secrets.token_hex(16)


def _lock(folder: Path) -> int:
    """Take the folder for this process; return the lock's file. Errors: ConfigError when another process has it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise ConfigError(
            f"another bridge uses the folder {folder}", remedy="stop it, or choose another --data-dir"
        ) from error
    return lock


def _load_secret(path: Path) -> bytes:
    """Return the secret of `path`, made at the first start."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32))
    return b"".join(path.read_bytes().split())


def check_instruments(names: tuple[str, ...]) -> list[str]:
    """Return the names that the stand-in's database does not have."""
    return [name for name in names if find_contract(name) is None]


def front_contract(root: str, now_ms: int) -> str:
    """Return NinjaTrader's name of the next quarterly contract of `root` that has over a week left."""
    today = datetime.fromtimestamp(now_ms / 1000, UTC)
    for step in range(24):
        year, month = divmod(today.year * 12 + today.month - 1 + step, 12)
        contract = find_contract(f"{root} {month + 1:02}-{year % 100:02}")
        if (month + 1) % 3 == 0 and contract is not None and (contract.expiry - today.date()).days > 7:
            return contract.name
    raise ConfigError(f"no contract of {root}", remedy="use a root such as ES, NQ or CL")


async def start(
    options: ServerOptions, clock: Clock | None = None, crash: Callable[[str], None] = lambda _: None
) -> BridgeServer:
    """Start a stand-in in this process and return it listening. Errors: ConfigError."""
    server = BridgeServer(options, clock or RealClock(), crash)
    await server.open()
    return server
