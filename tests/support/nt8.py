"""A simulated NinjaTrader with its bridge on a virtual clock, and a client that stores events and asks again."""

from __future__ import annotations

import itertools
import random
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

from fks.bridge.peer.bridge import Bridge, BridgeConfig
from fks.bridge.peer.journal import EpochJournal
from fks.lab.sim.nt8.platform import SimulatedNinjaTrader
from fks.lab.sim.nt8.unkindness import KIND, Unkindness

START_MS = 1_738_594_800_000  # 2025-02-03 15:00 UTC: ES 03-25 is the front month
ES = "ES 03-25"
ACCOUNT = "Sim101"
PEER = 1


class Killed(BaseException):
    """The bridge's process was killed at a named point."""


class Rig:
    """One platform, one bridge, one client. `step` moves time; `kill_at` ends the bridge at its next such point."""

    def __init__(
        self,
        *,
        seed: int = 1,
        unkind: Unkindness = KIND,
        broker: bool = False,
        config: BridgeConfig | None = None,
    ) -> None:
        self.platform = SimulatedNinjaTrader(START_MS - 6_000, seed=seed, unkind=unkind, broker=broker)
        self.platform.add_account(ACCOUNT)
        self.platform.trade(ES, Decimal(4500))
        self._folder = tempfile.TemporaryDirectory()
        self.folder = Path(self._folder.name)
        self.config = config or BridgeConfig()
        self.replies: list[dict[str, Any]] = []
        self.stored: list[dict[str, Any]] = []
        self.kills = 0
        self._kill_at = ""
        self._ids = itertools.count(1)
        self._dice = random.Random(seed)
        self.bridge: Bridge | None = None
        self.start()
        self.step(6_000)

    # ── the bridge's process ──────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Start the bridge; the client connects and stores what it missed."""
        self.bridge = Bridge(
            self.platform, EpochJournal(self.folder, self._new_id), self.config, self._new_id, self._crash
        )
        for event in self.bridge.events_after(self.stored[-1]["seq"] if self.stored else 0):
            self._store(event)

    def kill_at(self, point: str) -> None:
        self._kill_at = point

    def kill(self) -> None:
        self.bridge = None
        self.kills += 1
        self.platform.restart()

    def resurrect(self) -> None:
        self.start()
        for name in self.platform.accounts:
            self.platform.connect(name)
        self.turn()

    def turn(self) -> None:
        """Let the bridge work. Killed here, it stays dead until `resurrect`."""
        if self.bridge is None:
            return
        try:
            out = self.bridge.turn()
            for peer, message in out:
                self._crash("before_send")
                if peer is not None:
                    self.replies.append(message)
                elif message["t"] == "ev":
                    self._store(message)
                self._crash("after_send")
        except Killed:
            self.kill()

    def step(self, ms: int, by: int = 100) -> None:
        """Move time on; the bridge works after every part of it."""
        if not self.platform.broker:
            self.platform.keep_quotes()
        end = self.platform.now_ms + ms
        while self.platform.now_ms < end:
            self.platform.advance(min(self.platform.now_ms + by, end))
            if not self.platform.broker:
                self.platform.keep_quotes()
            self.turn()

    def send(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        """Send one message and return the replies of this turn; none when the bridge was killed meanwhile."""
        before = len(self.replies)
        if self.bridge is not None:
            try:
                self.bridge.handle(PEER, message)
            except Killed:
                self.kill()
            self.turn()
        return self.replies[before:]

    def signal(self, signal_id: str, **changes: Any) -> dict[str, Any]:
        """Send the standard signal with changes (None removes a field) and return its answer."""
        replies = self.send(signal(signal_id, self.platform.now_ms, **changes))
        return next((one for one in replies if one.get("id") == signal_id), {})

    # ── looking ───────────────────────────────────────────────────────────────────────────────────

    def events(self, kind: str, **fields: Any) -> list[dict[str, Any]]:
        return [
            one
            for one in self.stored
            if one["kind"] == kind and all(one.get(name) == value for name, value in fields.items())
        ]

    def live_stops(self, signal_id: str) -> int:
        return sum(
            order.left
            for order in self.platform.open_orders(ACCOUNT, ES)
            if order.name.startswith(f"FKS:{signal_id}:S")
        )

    def position(self, instrument: str = ES) -> int:
        return sum(one.qty for one in self.platform.positions(ACCOUNT) if one.instrument == instrument)

    def _store(self, event: dict[str, Any]) -> None:
        expected = self.stored[-1]["seq"] + 1 if self.stored else 1
        assert event["seq"] == expected, f"event {event['seq']} after {expected - 1}"
        self.stored.append(event)

    def _new_id(self) -> str:
        return f"{next(self._ids):032x}"

    def _crash(self, point: str) -> None:
        if point == self._kill_at:
            self._kill_at = ""
            raise Killed(point)


def signal(signal_id: str, now_ms: int, **changes: Any) -> dict[str, Any]:
    """Return the standard signal of the conversations with changes."""
    fields = {
        "t": "signal",
        "id": signal_id,
        "account": ACCOUNT,
        "instrument": ES,
        "action": "buy",
        "qty": 1,
        "type": "limit",
        "price": Decimal(4500),
        "sl_points": 10,
        "tp_points": 20,
        "created_ms": now_ms,
        "valid_until": now_ms + 30_000,
        **changes,
    }
    return {name: value for name, value in fields.items() if value is not None}


POINTS = (
    "before_intent", "after_intent", "before_submit", "after_submit", "before_event", "after_event", "before_sync",
    "after_sync", "before_send", "after_send",
)  # fmt: skip
