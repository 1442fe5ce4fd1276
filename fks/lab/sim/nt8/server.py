"""The process of the simulated NinjaTrader: a market in real time, and faults on a schedule."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from fks.bridge.peer.bridge import Bridge, BridgeConfig
from fks.bridge.peer.journal import EpochJournal
from fks.bridge.peer.server import BridgeKilled, BridgeService, new_id, new_nonce
from fks.bridge.peer.sessions import BridgeSessions
from fks.clock import Clock, RealClock
from fks.model.errors import ConfigError
from fks.lab.sim.nt8.contracts import find_contract
from fks.lab.sim.nt8.platform import SimulatedNinjaTrader
from fks.lab.sim.nt8.unkindness import KIND, Unkindness


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """The options of the command line. Units: `strike_s` seconds between draws of a fault, `crash_s` between kills."""

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


class BridgeServer(BridgeService):
    """A running stand-in, whose bridge may be killed and started again."""

    def __init__(self, options: ServerOptions, clock: Clock, crash: Callable[[str], None] = lambda _: None) -> None:
        """Take the folder and load or make the secret. `crash` is called at the bridge's named points and may raise
        BridgeKilled. Errors: ConfigError when another process has the folder."""
        super().__init__(options.data_dir, options.host, options.port, clock)
        self.options = options
        self.kills = 0  # of the bridge
        self._crash = crash
        self._begun = clock.monotonic()
        self._start_ms = options.start_ms or clock.now_ns() // 1_000_000
        self.platform = SimulatedNinjaTrader(self._start_ms, seed=options.seed, unkind=options.unkind, broker=True)
        self._modes = {name: mode for name, mode, _ in options.accounts}
        for name, _, is_sim in options.accounts:
            status = "Disconnected" if "account_late" in options.unkind.on else "Connected"
            self.platform.add_account(name, is_sim=is_sim, status=status)
        for name in options.instruments:
            contract = find_contract(name)
            assert contract is not None, name
            self.platform.trade(name, contract.first_price)
        self._dice = random.Random(options.seed)  # noqa: S311 (faults, not secrets)
        self._struck_ms = self._crashed_ms = self._start_ms
        self.sessions = self.load()

    def load(self) -> BridgeSessions:
        journal = EpochJournal(self.options.data_dir, new_id)
        bridge = Bridge(self.platform, journal, self.options.config, new_id, self._crash)
        bridge.modes.update(self._modes)
        return BridgeSessions(bridge, self.secret, new_nonce)

    def info(self) -> dict[str, object]:
        """Return what the command prints: where it listens, where the secret is, which behaviours are on."""
        return {
            "host": self.options.host,
            "port": self.port,
            "group": self.options.config.group,
            "secret_file": str(self.secret_file),
            "accounts": [name for name, _, _ in self.options.accounts],
            "instruments": list(self.options.instruments),
            "seed": self.options.seed,
            "unkind": self.options.unkind.switched_on(),
        }

    def restart_bridge(self) -> None:
        """End the bridge without a word, as a killed process, and start it again on the same journal."""
        self.kills += 1
        self.cut()
        self.platform.restart()
        self.sessions = self.load()
        for name in self.platform.accounts:
            self.platform.connect(name)

    def revive(self) -> None:
        """Start the bridge again after it was killed; it may be killed again as it starts."""
        while True:
            try:
                self.restart_bridge()
            except BridgeKilled:
                continue
            return

    def advance(self) -> None:
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
