"""Runs a conversation file against the agent of MetaTrader 5: a real socket, the stand-in of the package, virtual time.

The instrument ES 03-25 is US500 there, the account Sim101 is 5001, and quantities are texts. Lines of a script that make
NinjaTrader report states are left out: the agent reads the states itself.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
import time
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from fks.bridge.mt5.agent import AgentOptions, Mt5Agent, agent_config
from fks.bridge.mt5.platform import Mt5Login, magic_of
from fks.bridge.peer.server import BridgeKilled
from fks.lab.sim.mt5 import SimulatedTerminal, TerminalOptions
from tests.support import conversations, nt8_host
from tests.support.conversations import Step

_TEXTS = {"Sim101": "5001", "ES 03-25": "US500"}
_TURN_S = 0.02


class VirtualClock:
    """A clock that a script moves; sleepers wait in real time, a little."""

    def __init__(self) -> None:
        self.at_ms = 0

    def now_ns(self) -> int:
        return self.at_ms * 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, _TURN_S / 4))


class MortalAgent(Mt5Agent):
    """An agent that stays dead after it was killed at a named point."""

    is_dead = False

    def revive(self) -> None:
        self.is_dead = True
        self.cut()
        assert self._listener is not None
        self._listener.close()
        os.close(self._lock)

    def advance(self) -> None:
        if self.is_dead:
            raise asyncio.CancelledError
        super().advance()


class AgentHost:
    """The agent on a thread of its own; `do` takes the commands of a conversation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = VirtualClock()
        self._agent: MortalAgent | None = None
        self._kill_at = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.terminal = self._terminal()

    def _terminal(self) -> SimulatedTerminal:
        options = TerminalOptions(swing=0.0)
        return SimulatedTerminal(self.folder / "broker", lambda: self.clock.at_ms, options)

    @property
    def is_alive(self) -> bool:
        return self._agent is not None and not self._agent.is_dead

    def start(self, now_ms: int, accounts: list[str], **options: Any) -> None:
        """Set the clock; the agent starts with `activate`."""
        self.clock.at_ms = now_ms

    def wait_end(self) -> None:
        """Do nothing: a killed agent has ended."""

    def kill(self) -> None:
        if self.is_alive:
            self._run(self._stop())

    def end(self) -> None:
        """End agent, loop and thread."""
        self.kill()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def do(self, command: str, /, **arguments: Any) -> dict[str, Any]:
        """Carry out one command of a script."""
        if command == "advance":
            self.clock.at_ms += arguments["ms"]
            time.sleep(_TURN_S)
        elif command == "activate":
            self._run(self._start())
        elif command == "terminate":
            self.kill()
        elif command == "crash_at":
            self._kill_at = arguments["point"]
        elif command == "fill":
            self._run(self._fill(arguments["name"], float(arguments["price"])))
        return self._report(**arguments) if command == "report" else {"ok": True, "listening": True}

    async def _fill(self, name: str, price: float) -> None:
        magic = magic_of(name.split(":")[1])
        (order,) = [one for one in self.terminal.orders_get() if one.magic == magic]
        self.terminal.fill_order(order.ticket, price)

    def _report(self, id: str = "") -> dict[str, Any]:
        assert self._agent is not None
        time.sleep(2 * _TURN_S)  # the lines that were sent before are handled then
        bridge = self._agent.sessions.bridge
        names = {magic_of(one): f"FKS:{one}:E" for one in bridge.signals}
        return {
            "submits": [{"name": names.get(line["magic"], "?")} for line in self.terminal.log()],
            "signal": bridge.signals[id].state if id in bridge.signals else "unknown",
            "halted": bridge.halted, "session": self._agent.sessions.control_state, "faults": [], "calls": [],
            "printed": "",
        }  # fmt: skip

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _start(self) -> None:
        config = json.loads((self.folder / "fks" / "config.json").read_text())
        options = AgentOptions(
            self.folder / "fks", port=config["port"], login=Mt5Login(account_number=5001),
            config=agent_config("sim", settle_ms=5_000, absent_ms=5_000, max_distance_ticks=800),
        )  # fmt: skip
        self._agent = MortalAgent(options, self.terminal, self.clock, self._crash)
        await self._agent.open()

    async def _stop(self) -> None:
        assert self._agent is not None
        await self._agent.stop()
        self._agent = None

    def _crash(self, point: str) -> None:
        if point == self._kill_at:
            self._kill_at = ""
            raise BridgeKilled(point)


class AgentConversation(nt8_host.Conversation):
    """A conversation with the agent."""

    def __init__(self, script: conversations.Conversation, folder: Path) -> None:
        super().__init__(None, script, folder)  # type: ignore[arg-type]  # no compiled AddOn
        self._host: Any = AgentHost(folder)

    def run(self) -> None:
        try:
            super().run()
        finally:
            self._host.end()

    def step(self, step: Step) -> None:
        super().step(replace(step, data=translated(step.data)))

    def expect(self, step: Step, skip: bool) -> None:
        """Expect a line; events of the order, which the broker accepts at once, may come before it."""
        if step.data.get("dup") is True:
            step = replace(step, data={key: value for key, value in step.data.items() if key != "state"})
        super().expect(step, skip=skip or step.data.get("t") in ("ack", "nack", "indeterminate"))

    def process(self, step: Step) -> None:
        if step.text == "DELETE_JOURNAL":
            (self._host.folder / "fks" / "journal.log").unlink()
        else:
            super().process(step)

    def _check_pair(self, asked: dict[str, Any]) -> None:
        (position,) = self._host.terminal.positions_get(magic=magic_of(asked["id"]))
        assert (position.volume, position.sl, position.tp) == (float(asked["qty"]), asked["stop"], asked["target"])


def translated(value: Any) -> Any:
    """Return a step's argument in the terms of MetaTrader 5."""
    if isinstance(value, dict):
        return {
            key: str(of) if key == "qty" and isinstance(of, int) else translated(of)
            for key, of in value.items()
            if key != "exec_id"
        }
    if isinstance(value, list):
        return [translated(of) for of in value]
    return _TEXTS.get(value, value) if isinstance(value, str) else value


def run(script: conversations.Conversation, folder: Path) -> None:
    """Run one conversation against the agent."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    AgentConversation(script, folder).run()
