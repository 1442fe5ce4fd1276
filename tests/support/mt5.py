"""A bridge on a simulated MetaTrader 5 with a virtual clock, without sockets; and the same conversations over sockets."""

from __future__ import annotations

import itertools
from decimal import Decimal
from pathlib import Path
from typing import Any

from fks.bridge.mt5.agent import agent_config
from fks.bridge.mt5.platform import Mt5Login, Mt5Platform
from fks.bridge.peer.bridge import Bridge
from fks.bridge.peer.journal import EpochJournal
from fks.bridge.peer.server import BridgeKilled
from fks.lab.sim.mt5 import SimulatedTerminal, TerminalOptions

START_MS = 1_764_000_000_000
ACCOUNT = "5001"
PEER = 1


class Mt5Rig:
    """A terminal and a bridge. `step` moves time; `restart` kills the bridge's process, and the broker goes on."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.now_ms = START_MS
        self.options = TerminalOptions(**{"swing": 0.0, **options})
        self.replies: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.kill_at = ""
        self._ids = itertools.count(1)
        self.restart()
        self.step(12_000)

    def restart(self) -> None:
        """Start a bridge and a terminal on what is in the folder."""
        self.terminal = SimulatedTerminal(self.folder / "broker", lambda: self.now_ms, self.options)
        login = Mt5Login(account_number=5001, password="")
        self.platform = Mt5Platform(self.terminal, login, self.folder, lambda: self.now_ms)
        journal = EpochJournal(self.folder, self._new_id)
        self.bridge = Bridge(self.platform, journal, agent_config("mt5"), self._new_id, self._crash)
        self.events = self.bridge.events_after(0)

    def step(self, ms: int, by: int = 100) -> None:
        for _ in range(ms // by):
            self.now_ms += by
            self.platform.advance()
            self.turn()

    def turn(self) -> None:
        for peer, message in self.bridge.turn():
            if peer is not None:
                self.replies.append(message)
            elif message["t"] == "ev":
                self.events.append(message)

    def send(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        """Send one message and return the replies of this turn."""
        before = len(self.replies)
        self.bridge.handle(PEER, message)
        self.turn()
        return self.replies[before:]

    def signal(self, signal_id: str, **changes: Any) -> dict[str, Any]:
        """Send a market order to buy 0.1 EURUSD with stop and target, with changes (None removes a field)."""
        fields = {
            "t": "signal", "id": signal_id, "account": ACCOUNT, "instrument": "EURUSD", "action": "buy",
            "qty": Decimal("0.1"), "type": "market", "sl_points": Decimal("0.002"), "tp_points": Decimal("0.004"),
            "created_ms": self.now_ms, "valid_until": self.now_ms + 60_000, **changes,
        }  # fmt: skip
        replies = self.send({name: value for name, value in fields.items() if value is not None})
        return next((one for one in replies if one.get("id") == signal_id), {})

    def exit(self, signal_id: str, **changes: Any) -> dict[str, Any]:
        """Send an exit of everything."""
        fields = {"action": "exit", "qty": None, "sl_points": None, "tp_points": None, **changes}
        return self.signal(signal_id, **fields)

    def state(self, signal_id: str) -> str:
        return self.bridge.signals[signal_id].state

    def found(self, kind: str, **fields: Any) -> list[dict[str, Any]]:
        """Return the events of a kind with these fields."""
        rows = [one for one in self.events if one["kind"] == kind]
        return [one for one in rows if all(one.get(name) == value for name, value in fields.items())]

    def positions(self) -> list[Any]:
        return list(self.terminal.positions_get())

    def _crash(self, point: str) -> None:
        if point == self.kill_at:
            self.kill_at = ""
            raise BridgeKilled(point)

    def _new_id(self) -> str:
        return f"{next(self._ids):032x}"
