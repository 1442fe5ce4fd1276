"""On the running system: a strategy file that kills its worker is set apart, switched off and paged; the others go
on."""

from __future__ import annotations

from pathlib import Path

from tests.support.system import System
from tests.support.waiting import wait_until

STRATEGY = """
import os
from pathlib import Path

import numpy as np
from fks.strategies.base import Decisions, Strategy

class Deadly(Strategy):
    name = "deadly"
    def warmup(self) -> int:
        return 2
    def decide(self, bars) -> Decisions:
        if Path({trigger!r}).exists():
            os._exit(9)
        return Decisions(np.zeros(len(bars)))
"""


def _row(system: System) -> tuple[object, ...]:
    return system.sql(
        "SELECT state, is_enabled, is_isolated, crashes, traceback FROM strategy_instances WHERE id = 'deadly'"
    )[0]


def _held_up(system: System, before: dict[object, object]) -> list[tuple[object, ...]]:
    """Return the enabled neighbours that do not run, were charged with a crash that is not in `before`, or are more
    than two seconds behind what is sealed."""
    rows = system.sql(
        "SELECT i.id, i.state, i.crashes, f.sealed_through, i.cursor_time, f.sealed_through - i.cursor_time > "
        "interval '2 s' FROM strategy_instances i JOIN feeds f USING (exchange, symbol, timeframe) "
        "WHERE i.is_enabled AND i.id <> 'deadly'"
    )
    return [row for row in rows if row[1] != "RUNNING" or row[2] != before[row[0]] or row[5]]


def test_strategy_that_kills_its_worker_is_isolated_disabled_and_paged(system: System) -> None:
    trigger = system.home / "deadly.now"
    (system.home / "strategies").mkdir(exist_ok=True)
    (system.home / "strategies" / "deadly.py").write_text(STRATEGY.format(trigger=str(trigger)))
    (timeframe, account), *_ = system.sql(
        "SELECT i.timeframe, a.name FROM strategy_instances i JOIN accounts a ON a.id = i.account_id ORDER BY i.id "
        "LIMIT 1"
    )
    system.fks(
        "strategies",
        "add",
        "deadly",
        "deadly",
        "--symbol",
        "BTC/USDT",
        "--account",
        str(account),
        "--timeframe",
        str(timeframe),
    )
    (last,) = system.sql("SELECT coalesce(max(id), 0) FROM alerts")[0]
    # another test may have killed their worker while one of them decided: that counts, and stays
    before = {row[0]: row[1] for row in system.sql("SELECT id, crashes FROM strategy_instances")}
    pids = {name: row["pid"] for name, row in system.components().items() if row["kind"] == "actor"}
    try:
        wait_until(lambda: _row(system)[0] == "RUNNING", deadline_s=30.0, every_s=0.3)
        trigger.touch()
        wait_until(lambda: _row(system)[2], deadline_s=60.0, every_s=0.3)
        wait_until(lambda: not _row(system)[1], deadline_s=60.0, every_s=0.3)
        state, is_enabled, is_isolated, crashes, traceback = _row(system)
        assert (state, is_enabled, is_isolated, crashes) == ("DISABLED", False, True, 4)
        assert "strategy:solo:deadly died" in str(traceback)
        pages = system.sql(f"SELECT event FROM alerts WHERE event LIKE 'strategy.%' AND id > {last} ORDER BY id")
        assert [page[0] for page in pages] == ["strategy.isolated", "strategy.disabled"]
        wait_until(lambda: "strategy:solo:deadly" not in system.components(), deadline_s=20.0, every_s=0.3)
        behind: list[object] = []
        try:
            wait_until(
                lambda: not behind.append(_held_up(system, before)) and not behind[-1], deadline_s=20.0, every_s=0.3
            )
        except AssertionError:
            raise AssertionError(f"neighbours were held up: {behind[0]}, then {behind[-1]}") from None
        after = system.components()
        others = {name for name in pids if not name.startswith("strategy")}
        assert {name: after[name]["pid"] for name in others} == {name: pids[name] for name in others}
        shown = system.fks("strategies", "instance", "deadly").stdout
        assert "DISABLED" in shown
        assert "took its worker down 4 times" in shown
    finally:
        trigger.unlink(missing_ok=True)
        (system.home / "strategies" / "deadly.py").unlink()
        system.fks("strategies", "disable", "deadly", check=False)


def test_kernel_would_end_every_other_child_before_guardian_and_orders(system: System) -> None:
    """The kernel ends the process with the highest score when memory runs out; tests/soak/test_memory_soak.py lets it."""
    rows = system.components()
    score = {
        name: int(Path(f"/proc/{row['pid']}/oom_score").read_text())
        for name, row in rows.items()
        if row["kind"] == "actor" or name.startswith("gateway:")
    }
    spared = {name: score.pop(name) for name in ("guardian", "orders")}
    print(f"scores of the kernel: {spared}, of the others {score}")
    assert {"supervisor", "monitor", "scheduler", "strategy:0"} <= set(score)
    assert max(spared.values()) < min(score.values())
