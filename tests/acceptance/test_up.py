"""`fks up` as a new user meets it: a second system beside the first, watched for a minute, stopped with Ctrl-C."""

from __future__ import annotations

import re
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest

from tests.support.system import FKS, START_S, System
from tests.support.waiting import wait_until

LIVE_S, STOP_S = 60.0, 15.0


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


def test_up_prints_addresses_and_live_trading_and_ctrl_c_leaves_nothing() -> None:
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
            wait_until(
                lambda: seen.first("gateway.*http://") is not None or process.poll() is not None, deadline_s=START_S
            )
            assert process.poll() is None, seen.text()
            for place_to_look in ("/docs", "/monitor/", "/app/", "dashboard"):
                assert seen.first(place_to_look) is not None, seen.text()
            for what in (r"\bbar\b", r"\bsignal\b", r"\border\b", r"\bfill\b"):
                wait_until(lambda what=what: seen.first(what) is not None, deadline_s=2 * LIVE_S)
            assert any("position" in line and "pnl" in line.lower() for _, line in seen.lines), seen.text()
            with system.client() as client:
                wait_until(lambda: client.get("/app/login").status_code == 200, deadline_s=START_S, every_s=0.5)
                page = client.get("/app/login")
            assert "script-src 'self'" in page.headers["content-security-policy"]
            assert 'name="password"' in page.text
            sockets = list(Path("/tmp").glob("fks-*"))
            assert sockets
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
        from fks.config.paths import Paths

        assert not Paths.of(system.home).sockets.exists()
        assert "Traceback" not in seen.text()


def test_started_again_it_continues(system: System) -> None:
    """The shared system goes down and up: history, positions and open orders are still there."""
    system.wait_for_fills(1)
    with system.client() as client:
        price = round(
            float(client.get("/market-data/BTCUSDT").json()["price"]) * 0.93
        )  # inside the price band, far from filling
        body = {"symbol": "BTCUSDT", "side": "buy", "type": "limit", "quantity": "0.001", "price": str(price)}
        id = system.order(client, body)[1].json()["client_order_id"]
        wait_until(lambda: client.get(f"/orders/{id}").json()["state"] == "WORKING", deadline_s=15.0)
    trades = system.fills()
    assert system.down() <= STOP_S + 5
    assert not system.processes()
    assert system.fks("status", check=False).returncode == 3
    system.up()
    assert system.fills() >= trades
    with system.client() as client:
        wait_until(lambda: client.get(f"/orders/{id}").json()["state"] == "WORKING", deadline_s=30.0)
        client.delete(f"/orders/{id}")
    system.wait_for_fills(1)
