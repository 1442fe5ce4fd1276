"""The process beside the terminal: a bridge on the package MetaTrader5, or on a stand-in of it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import ipaddress
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fks import __version__
from fks.bridge.mt5.platform import ABSENT_MS, Mt5Login, Mt5Platform
from fks.bridge.ninja.auth import SECRET_MIN, SECRET_MIN_REMOTE
from fks.bridge.peer.bridge import Bridge, BridgeConfig
from fks.bridge.peer.journal import EpochJournal
from fks.bridge.peer.server import BridgeService, new_id, new_nonce
from fks.bridge.peer.sessions import BridgeSessions
from fks.clock import Clock, RealClock
from fks.model.errors import ConfigError, FksError, OutageError

PORT = 47741


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """The options of the command line. `is_live`: a real account takes orders. `lifts_halt`: once, at the start."""

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 0
    secret_file: Path | None = None
    login: Mt5Login = field(default_factory=Mt5Login, repr=False)
    is_live: bool = False
    lifts_halt: bool = False
    config: BridgeConfig = field(default_factory=lambda: agent_config("mt5"))


def agent_config(group: str, **changes: Any) -> BridgeConfig:
    """Return the settings of the bridge for MetaTrader: longer waits, and limits above those of the broker."""
    values: dict[str, Any] = {
        "group": group, "absent_ms": ABSENT_MS, "max_qty": 10_000, "max_position": 10_000,
        "max_distance_ticks": 1_000_000, "quote_age_ms": 60_000,
    }  # fmt: skip
    return BridgeConfig(**values | changes)


class Mt5Agent(BridgeService):
    """A running agent. Every call to the package blocks this process; it has one thread."""

    def __init__(
        self, options: AgentOptions, module: Any, clock: Clock, crash: Callable[[str], None] = lambda _: None
    ) -> None:
        """Take the folder and load or make the secret. `crash` is called at the bridge's named points.

        Errors: ConfigError when another process has the folder, or the secret is too short for the address.
        """
        super().__init__(options.data_dir, options.host, options.port, clock, options.secret_file)
        least = SECRET_MIN if ipaddress.ip_address(options.host).is_loopback else SECRET_MIN_REMOTE
        if len(self.secret) < least:
            raise ConfigError(
                f"the secret in {self.secret_file} has {len(self.secret)} bytes, {options.host} needs {least}",
                remedy="remove the file: the agent makes a good one; copy that to FKS",
            )
        self.options = options
        self._crash = crash
        self.platform = Mt5Platform(
            module, options.login, options.data_dir, lambda: clock.now_ns() // 1_000_000, version=__version__
        )
        self.sessions = self.load()
        if options.lifts_halt and self.sessions.bridge.halted:
            self.sessions.bridge.lift_halt("fks mt5 agent --lift-halt")

    def load(self) -> BridgeSessions:
        journal = EpochJournal(self.options.data_dir, new_id)
        bridge = Bridge(self.platform, journal, self.options.config, new_id, self._crash)
        return BridgeSessions(bridge, self.secret, new_nonce)

    def advance(self) -> None:
        """Read the terminal, and give a real account its mode when it appears."""
        self.platform.advance()
        if self.options.is_live:
            self.sessions.bridge.modes.update(dict.fromkeys(self.platform.accounts, "auto"))

    def info(self) -> dict[str, object]:
        """Return what the command prints: where it listens, and where the secret is."""
        return {
            "host": self.options.host,
            "port": self.port,
            "group": self.options.config.group,
            "secret_file": str(self.secret_file),
        }


def load_package() -> Any:
    """Return the package MetaTrader5. Errors: ConfigError where it is not installed."""
    try:
        return importlib.import_module("MetaTrader5")
    except ImportError as error:
        raise ConfigError(
            f"the package MetaTrader5 is not here: {error}",
            remedy="it exists for Windows only: run the agent beside the terminal, and there pip install MetaTrader5",
        ) from error


async def start_agent(
    options: AgentOptions, module: Any, clock: Clock, crash: Callable[[str], None] = lambda _: None
) -> Mt5Agent:
    """Start an agent in this process and return it listening. Errors: ConfigError."""
    agent = Mt5Agent(options, module, clock, crash)
    await agent.open()
    return agent


async def serve_agent(options: AgentOptions, module: Any, *, as_json: bool) -> None:
    """Run an agent until SIGTERM or Ctrl-C. Errors: ConfigError; OutageError when it stopped by itself."""
    agent = await start_agent(options, module, RealClock())
    stopped = asyncio.Event()
    agent.failed.add_done_callback(lambda _: stopped.set())
    with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C cancels this task
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    info = agent.info()
    text = f"agent of MetaTrader 5 on {options.host}:{agent.port}, group {info['group']}, secret in {agent.secret_file}"
    print(json.dumps(info) if as_json else f"{text}\nCtrl-C stops it", flush=True)  # noqa: T201 - a command's output
    try:
        await stopped.wait()
    finally:
        await agent.stop()
    if agent.failed.done():
        raise OutageError(f"the agent stopped: {agent.failed.result()!r}", remedy="see the log above; start it again")


def login_of(found: Mapping[str, str]) -> Mt5Login:
    """Return terminal and account of the names MT5_TERMINAL_PATH, MT5_ACCOUNT_NUMBER, MT5_PASSWORD, MT5_SERVER.

    Errors: ConfigError for a number that is none.
    """
    values = {name: found.get(f"MT5_{name}") or None for name in ("TERMINAL_PATH", "PASSWORD", "SERVER")}
    number = found.get("MT5_ACCOUNT_NUMBER") or None
    if number is not None and not number.isdecimal():
        raise ConfigError(f"MT5_ACCOUNT_NUMBER {number!r} is no number", remedy="write the login of the account")
    return Mt5Login(values["TERMINAL_PATH"], int(number) if number else None, values["PASSWORD"], values["SERVER"])


def read_names(path: Path) -> dict[str, str]:
    """Return the lines NAME=VALUE of a file; nothing where there is no file."""
    lines = path.read_text(encoding="utf-8-sig").splitlines() if path.exists() else []
    pairs = (line.partition("=") for line in lines if "=" in line and not line.lstrip().startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs}


def main(argv: list[str] | None = None) -> int:
    """Run `python -m fks.bridge.mt5` on a machine that has only the agent; return the exit code.

    The account comes from the environment, and for names that are not set there from the file `agent.env`.
    """
    parser = argparse.ArgumentParser(prog="python -m fks.bridge.mt5", description="Agent of MetaTrader 5 for FKS.")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="journal and secret (default: data)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=PORT, help=f"port (default: {PORT})")
    parser.add_argument("--group", default="mt5", help="group of the agent, as in FKS (default: mt5)")
    parser.add_argument("--live", action="store_true", help="take orders on a real account")
    parser.add_argument("--lift-halt", action="store_true", help="lift the kill latch, then run")
    given = parser.parse_args(argv)
    try:
        options = AgentOptions(
            given.data_dir, given.host, given.port, login=login_of({**read_names(Path("agent.env")), **os.environ}),
            is_live=given.live, lifts_halt=given.lift_halt, config=agent_config(given.group),
        )  # fmt: skip
        asyncio.run(serve_agent(options, load_package(), as_json=False))
    except KeyboardInterrupt:
        return 0
    except FksError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command's output
        return 2
    return 0
