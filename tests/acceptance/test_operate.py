"""Restart, deploy and change settings while the demo trades: no signal lost, no order doubled, no request refused.

The witness is a strategy that wants another position at every bar: a bar without a decision is a signal that is
missing.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from fks.lab.chaos.evidence import Baseline
from tests.support.audit import assert_sound
from tests.support.system import System
from tests.support.waiting import wait_until

CHILDREN = ("guardian", "orders", "collector:binance", "strategy:0", "scheduler", "monitor")
WITNESS = '''
from fks.model.bar import Bars
from fks.strategies.base import Decisions, Strategy


class EveryBar(Strategy):
    """Wants another position at every second."""

    name = "every_bar"

    def warmup(self) -> int:
        return 1

    def decide(self, bars: Bars) -> Decisions:
        return Decisions(target=(bars.time_ns // 1_000_000_000 % 2).astype("float64"))
'''


@dataclass
class Client:
    """A client that requests the positions all the time, from three connections."""

    url: str
    token: str
    answered: int = 0
    failures: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def asking(self) -> Iterator[Client]:
        threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._over.set()
            for thread in threads:
                thread.join(15.0)

    def _ask(self) -> None:
        with httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.token}"}, timeout=10.0) as client:
            while not self._over.wait(0.1):  # without a pause the requests take the processor from what is timed
                try:
                    answer = client.get("/positions")
                except httpx.HTTPError as error:
                    self.failures.append(f"{type(error).__name__}: {error}")
                    continue
                self.answered += 1
                if answer.status_code != 200:
                    self.failures.append(f"{answer.status_code}: {answer.text[:200]}")


def client_of(system: System) -> Client:
    return Client(system.url, (system.home / "cli.token").read_text().strip())


def pids(system: System) -> dict[str, int]:
    return {name: row["pid"] for name, row in system.components().items()}


@pytest.fixture(scope="module")
def witness(running: System) -> Iterator[System]:
    """The system with a strategy that decides at every bar of a second and whose signals wait for a person."""
    (running.home / "strategies" / "every_bar.py").write_text(WITNESS)
    running.fks(
        "strategies",
        "add",
        "witness",
        "every_bar",
        "--symbol",
        "BTC/USDT",
        "--timeframe",
        "1s",
        "--account",
        "demo",
        "--approval",
        "manual",
    )
    wait_until(lambda: len(decided(running)) > 3, deadline_s=40.0, every_s=0.5)
    yield running
    running.fks("strategies", "disable", "witness", check=False)


def decided(system: System) -> list[datetime]:
    """Return the bars that the witness gave signals for, in order."""
    rows = system.sql("SELECT DISTINCT ts_event FROM signals WHERE instance = 'witness' ORDER BY ts_event")
    return [row[0] for row in rows]


def missed(system: System, since: datetime) -> list[datetime]:
    """Return the bars since then for which the witness must have wanted another position, without a signal."""

    def changes() -> list[datetime] | None:
        (cursor,) = system.sql("SELECT cursor_time FROM strategy_instances WHERE id = 'witness'")[0]
        rows = system.sql(
            "SELECT time FROM ohlcv_data WHERE symbol = 'BTCUSDT' AND timeframe = '1s' AND exchange = 'binance' AND "
            "is_complete"
            f" AND time >= '{since.isoformat()}' AND time <= '{cursor.isoformat()}' ORDER BY time"
        )
        found = [after for (before,), (after,) in pairwise(rows) if (after - before).total_seconds() % 2]
        return found if len(found) > 3 else None

    wanted = wait_until(changes, deadline_s=30.0, every_s=0.5)
    assert wanted is not None
    signalled = set(decided(system))
    return [bar for bar in wanted if bar not in signalled]


@pytest.mark.parametrize("name", ["orders", "strategy:0"])
def test_drained_restart_of_a_component_interrupts_no_other(
    system: System, witness: System, baseline: Baseline, name: str
) -> None:
    since, before = decided(system)[-1], pids(system)
    with client_of(system).asking() as client:
        answer = system.json("restart", name, "--why", "a test")
        system.wait_for_fills(1)
    after = pids(system)
    print(f"{name} restarted, drained, in {answer['took_s']} s")
    assert answer["took_s"] < 10.0
    assert (answer["old_pid"], answer["pid"]) == (before[name], after[name])
    assert {k: v for k, v in after.items() if k != name} == {k: v for k, v in before.items() if k != name}
    assert client.failures == []
    assert missed(system, since) == []
    assert_sound(system, baseline)
    event = system.sql(
        f"SELECT reason FROM actor_events WHERE child = '{name}' AND event = 'asked' ORDER BY id DESC LIMIT 1"
    )
    assert event[0][0] == "restart asked by cli: a test"


@pytest.mark.timeout(400)  # the command alone may take four minutes on a slow machine
def test_rolling_deployment_of_a_new_build_interrupts_no_trading(
    system: System, witness: System, baseline: Baseline
) -> None:
    since, before = decided(system)[-1], pids(system)
    was = {row["version"] for name, row in system.components().items() if name in CHILDREN}
    begun = time.monotonic()
    release(system, "0.2.0")
    with client_of(system).asking() as client:
        answer = json.loads(system.fks("deploy", "--why", "a test", "--json", timeout_s=240.0).stdout)
        took_s = time.monotonic() - begun
        wait_until(lambda: system.status()["state"] == "healthy", deadline_s=40.0, every_s=0.5)
        system.wait_for_fills(1)
    assert answer["build"].startswith("0.2.0+")
    assert answer["build"] not in was
    steps = answer["operation"]["result"]["steps"]
    print(f"deployed in {took_s:.1f} s; " + ", ".join(f"{step['part']} {step['took_s']} s" for step in steps))
    assert [step["part"] for step in steps][-2:] == ["supervisor", "gateway"]
    assert {step["part"] for step in steps} >= {*CHILDREN, "supervisor", "gateway"}
    after = system.components()
    for name in (*CHILDREN, "supervisor"):
        assert after[name]["pid"] != before[name], name
        assert after[name]["version"] == answer["build"], name
    old = {pid for name, pid in before.items() if name.startswith("gateway")}
    assert not old & {row["pid"] for name, row in after.items() if name.startswith("gateway")}
    assert {name: after[name]["pid"] for name in ("postgres", "redis", "sim", "keeper")} == {
        name: before[name] for name in ("postgres", "redis", "sim", "keeper")
    }
    assert client.answered > 50
    assert client.failures == []
    assert missed(system, since) == []
    assert_sound(system, baseline)

    # and back, one part alone
    release(system, "0.1.0")
    assert system.json("deploy", "--only", "monitor")["build"] in was
    assert {system.components()["monitor"]["version"]} == was
    assert system.components()["guardian"]["version"] == answer["build"]


def release(system: System, version: str) -> None:
    """Change what is installed under the system, as pulling a release into a checkout does."""
    file = Path(system.env["PYTHONPATH"]) / "fks" / "__init__.py"
    file.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{version}"', file.read_text()))


def test_a_limit_set_while_trading_denies_from_then_on_and_goes_back(system: System, baseline: Baseline) -> None:
    before = pids(system)
    try:
        made = system.json("config", "set", "risk.notional_max_order", "10", "--why", "a test")
        assert made["state"] == "active"
        after = system.components()
        assert after["orders"]["config_version"] == made["version"]
        assert {name for name, pid in before.items() if after[name]["pid"] != pid} == {"orders"}
        with system.client() as client:
            body = {"symbol": "BTC/USDT", "side": "buy", "type": "market", "quantity": "0.002"}
            _, answer = system.order(client, body)
            assert (answer.status_code, answer.json()["code"]) == (422, "NOTIONAL_MAX_ORDER")
        shown = {row["key"]: row for row in system.json("config", "show", "risk.notional")["settings"]}
        assert shown["risk.notional_max_order"]["source"] == f"runtime version {made['version']} (default: 50000)"
        # a part that dies comes back with what was set, and the guardian's copy is this node's alone
        row = system.kill("orders")
        system.back_after("orders", row["pid"], deadline_s=10.0)
        assert system.components()["orders"]["config_version"] == made["version"]
        assert (system.home / "run" / "runtime.json").stat().st_mode & 0o777 == 0o600
    finally:  # ten dollars an order would end the trading that every later test waits for
        back = system.json("config", "rollback", "0", "--why", "a test is over")
    assert (back["state"], back["values"]) == ("active", {})
    system.wait_for_fills(1)
    assert_sound(system, baseline)
