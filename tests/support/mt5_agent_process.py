"""The agent of MetaTrader 5 as a process that kills itself at a point drawn from a seed."""

from __future__ import annotations

import itertools
import os
import signal
import time
from pathlib import Path
from typing import Any

from fks.bridge.mt5.agent import AgentOptions, agent_config, start_agent
from fks.bridge.mt5.platform import Mt5Login
from fks.clock import RealClock
from fks.lab.sim.mt5 import SimulatedTerminal, TerminalOptions

LOGIN = 5001
ON = frozenset(
    {
        "none_accepted",
        "none_not_accepted",
        "none_late",
        "timeout_accepted",
        "partial_fills",
        "comment_rewritten",
        "placed_first",
    }
)


class MortalTerminal(SimulatedTerminal):
    """A terminal in whose order_send the agent may die, before and after the broker has the order."""

    crash: Any

    def order_send(self, request: dict[str, Any]) -> Any:
        self.crash("before_order_send")
        result = super().order_send(request)
        self.crash("after_order_send")
        return result


async def main(folder: Path, port: int, seed: int, mode: str, dies_at: int) -> None:
    """Run the agent at a broker of the account's `mode`; it dies at the point number `dies_at` (0: never)."""
    points = itertools.count(1)

    def crash(point: str) -> None:
        if point != "before_sync" and point != "after_sync" and next(points) == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    options = TerminalOptions(seed=seed, is_hedging=mode == "hedging", on=ON, chance=0.1)
    terminal = MortalTerminal(folder / "broker", lambda: time.time_ns() // 1_000_000, options)
    terminal.crash = crash
    config = agent_config("sim", settle_ms=300, absent_ms=3_000)  # a late order comes after 2 s
    agent = AgentOptions(folder, port=port, login=Mt5Login(account_number=LOGIN), config=config)
    running = await start_agent(agent, terminal, RealClock(), crash)
    raise await running.failed  # as the real program, it ends where it can work no more
