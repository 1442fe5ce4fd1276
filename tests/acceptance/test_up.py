"""`fks up` as a new user meets it: watched until it trades, stopped with Ctrl-C, started again."""

from __future__ import annotations

import re
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fks.config.paths import Paths
from tests.support.audit import assert_sound, baseline_of
from tests.support.system import FKS, START_S, System
from tests.support.waiting import wait_until

FILL_S = 120.0  # benchmarks/start.py measures the first fill: how soon it is depends on the processors
STOP_S = 15.0
#: Positions of instances, without what was traded after the trade of a number: what they were at that trade.
POSITIONS = """
    SELECT p.symbol, p.instance, trim_scale(p.quantity - coalesce(sum(
        CASE t.trade_type WHEN 'BUY' THEN t.quantity ELSE -t.quantity END
        - CASE WHEN t.symbol = t.fee_currency || 'USDT' THEN t.fee ELSE 0 END), 0))
    FROM positions p LEFT JOIN trades t
        ON t.venue = p.venue AND t.symbol = p.symbol AND t.instance = p.instance AND t.id > {id}
    GROUP BY p.symbol, p.instance, p.quantity ORDER BY 1, 2
"""


class Watched:
    """A process and the lines it printed, each with its time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.start = time.monotonic()
        self.lines: list[tuple[float, str]] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append((time.monotonic() - self.start, line.rstrip()))

    def first(self, pattern: str) -> float | None:
        return next((at for at, line in list(self.lines) if re.search(pattern, line, re.IGNORECASE)), None)

    def text(self) -> str:
        return "\n".join(f"{at:6.1f} {line}" for at, line in self.lines)


@pytest.mark.timeout(400)  # two starts of START_S at most
def test_up_prints_addresses_and_trading_ctrl_c_leaves_nothing_and_a_new_start_continues() -> None:
    with tempfile.TemporaryDirectory(prefix="fks-up-") as place:
        Path(place).chmod(0o755)
        system = System.at(Path(place) / "home", FKS_WEB_ENABLED="true")
        process = subprocess.Popen(
            [FKS, "up"],
            env=system.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        seen = Watched(process)
        try:
            _watch(system, seen)
            baseline = baseline_of(system)
            id = _rest(system)
            # numbers are given before the commit: one that is lower may come a moment later
            newest = "SELECT max(id) FROM trades WHERE created_at < now() - interval '2 s'"
            before = wait_until(lambda: system.sql(newest)[0][0], deadline_s=30.0)
            positions = held(system, before)
        finally:
            process.send_signal(signal.SIGINT)
            start = time.monotonic()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                pytest.fail(seen.text())
        assert time.monotonic() - start <= STOP_S + 2, seen.text()
        assert process.returncode == 0, seen.text()
        left = [(p.pid, p.cmdline()) for p in system.processes()]
        assert not left
        assert not Paths.of(system.home).sockets.exists()
        assert "Traceback" not in seen.text()
        assert system.fks("status", check=False).returncode == 3

        system.up()
        try:
            assert held(system, before) == positions
            with system.client() as client:
                system.wait_for_order(client, id, "WORKING", deadline_s=30.0)
                client.delete(f"/orders/{id}")
            system.wait_for_fills(1)
            assert_sound(system, baseline)
        finally:
            took_s = system.down()
        assert took_s <= STOP_S + 5
        assert not system.processes()


def held(system: System, last: int) -> list[tuple[Any, ...]]:
    """Return what was held after the trade of number `last`: symbol, instance, quantity."""
    return [row for row in system.sql(POSITIONS.format(id=last)) if row[2] != 0]


def _watch(system: System, seen: Watched) -> None:
    """Wait until the demo traded, and check what a person reads meanwhile."""
    wait_until(
        lambda: seen.first("gateway.*http://") is not None or seen.process.poll() is not None, deadline_s=START_S
    )
    assert seen.process.poll() is None, seen.text()
    for place_to_look in ("/docs", "/app/monitor", "/app/", "dashboard"):
        assert seen.first(place_to_look) is not None, seen.text()
    for what in (r"\bbar\b", r"\bsignal\b", r"\border\b", r"\bfill\b"):
        wait_until(lambda what=what: seen.first(what) is not None, deadline_s=FILL_S)
    assert any("position" in line and "pnl" in line.lower() for _, line in seen.lines), seen.text()
    with system.client() as client:
        wait_until(lambda: client.get("/app/login").status_code == 200, deadline_s=START_S, every_s=0.5)
        page = client.get("/app/login")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert 'name="password"' in page.text
    assert list(Path(tempfile.gettempdir()).glob("fks-*"))


def _rest(system: System) -> str:
    """Place a limit order far from filling and inside the price band; return its id once it rests."""
    with system.client() as client:
        price = round(float(client.get("/market-data/BTCUSDT").json()["price"]) * 0.93)
        body = {"symbol": "BTCUSDT", "side": "buy", "type": "limit", "quantity": "0.001", "price": str(price)}
        id = str(system.order(client, body)[1].json()["client_order_id"])
        system.wait_for_order(client, id, "WORKING")
    return id
