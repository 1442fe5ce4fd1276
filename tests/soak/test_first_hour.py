"""The first hour of a new user: the commands of docs/install.md in an empty directory, timed. Needs the package index;
`make soak`, or `.venv/bin/python -m pytest tests/soak/test_first_hour.py -m soak -s -o addopts=-q`; about 4 minutes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.system import System
from tests.support.waiting import wait_until
from tests.support.web_session import session_of
from tests.support.wheel import ROOT, build_wheel

#: The limits: of `fks demo` alone, of each step after the one before it, and of the whole since the empty directory.
DEMO_S, REPORT_S, FILL_S, STRATEGY_S = 10.0, 60.0, 180.0, 600.0

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1500)]


@dataclass
class NewUser:
    """A directory, a shell in it, and nothing of the checkout."""

    place: Path
    start: float = field(default_factory=time.monotonic)
    #: line that was typed -> seconds since the start when it began and when it ended
    typed: dict[str, tuple[float, float]] = field(default_factory=dict)

    def now_s(self) -> float:
        return time.monotonic() - self.start

    def run(self, line: str, *, check: bool = True) -> str:
        """Run a line in the shell and return what it prints."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("FKS_", "RAY_", "PYTHON"))}
        path = os.pathsep.join(part for part in kept["PATH"].split(os.pathsep) if "venv" not in part)
        venv = self.place / "venv" / "bin"  # what its activate does, for each line
        env = kept | {"PATH": f"{venv}{os.pathsep}{path}", "FKS_HTTP_PORT": "0", "FKS_RAY_DASHBOARD_PORT": "0"}
        done = subprocess.run(["bash", "-c", line], cwd=self.place, env=env, capture_output=True, text=True)
        assert not check or done.returncode == 0, f"{line}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def type(self, line: str) -> None:
        """Run a line of the page."""
        began = self.now_s()
        print(f"[{began:6.1f} s] $ {line}", flush=True)
        self.run(line)
        self.typed[line] = (began, self.now_s())

    def items(self, line: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.run(f"{line} --json"))["items"]
        return found

    def ended_s(self, begin: str) -> float:
        """Return when the line that begins so ended."""
        return next(end for line, (_, end) in self.typed.items() if line.startswith(begin))

    def wait_for_decisions(self) -> None:
        """Wait until the own strategy runs and has decided a bar, and then the next one."""
        decided: set[str] = set()

        def has_two() -> bool:
            (mine,) = (row for row in self.items("fks strategies instances") if row["id"] == "mine")
            assert mine["error"] is None, mine
            if mine["state"] == "RUNNING" and mine["target"] is not None:
                decided.add(mine["cursor"])
            return len(decided) > 1

        wait_until(has_two, deadline_s=STRATEGY_S, every_s=0.5)


@pytest.fixture
def user(tmp_path: Path) -> Iterator[NewUser]:
    wheel = build_wheel(tmp_path)
    with tempfile.TemporaryDirectory(prefix="fks-new-") as place:
        Path(place).chmod(0o755)
        for file in (wheel, ROOT / "constraints.txt"):
            shutil.copy(file, place)
        found = NewUser(Path(place))
        try:
            yield found
        finally:
            found.run("fks down", check=False)


def lines_of_the_page() -> list[str]:
    text = (ROOT / "docs" / "install.md").read_text().partition("\n## The first hour\n")[2]
    return [line.partition(" # ")[0].strip() for line in text.split("```")[1].strip().splitlines()]


def check_pages(user: NewUser) -> None:
    """Read the page with a chart, the library that draws it, and the zip for NinjaTrader."""
    system = System(user.place / ".fks", {})
    cookie = asyncio.run(session_of(system, "new"))
    with httpx.Client(base_url=system.url, cookies={"fks_session": cookie}, timeout=30.0, trust_env=False) as client:
        page = client.get("/app/chart?symbol=BTCUSDT&timeframe=1m")
        assert (page.status_code, "Lightweight Charts" in page.text) == (200, True)
        found = re.search(r"static/lightweight-charts\.mjs\?v=\w+", page.text)
        assert found is not None, page.text[:2000]
        drawn = client.get(f"/app/{found[0]}")
        assert (drawn.status_code, len(drawn.content) > 100_000) == (200, True)
        assert client.get("/historical/BTCUSDT?timeframe=1m&limit=5").json()


def test_new_user_has_a_report_a_fill_and_an_own_strategy_in_time(user: NewUser) -> None:
    for line in lines_of_the_page():
        user.type(line)
        if line == "fks demo":
            (report,) = (user.place / ".fks" / "reports" / "backtests").glob("*.html")
            assert report.stat().st_size > 10_000
        elif line.startswith("fks up"):
            wait_until(lambda: user.items("fks fills"), deadline_s=FILL_S, every_s=0.5)
            filled_s = user.now_s()
        elif line.startswith("fks strategies add"):
            user.wait_for_decisions()
            decided_s = user.now_s()
            check_pages(user)
    with zipfile.ZipFile(user.place / "fks-nt8.zip") as found:
        assert "Info.xml" in found.namelist()
    began, reported_s = user.typed["fks demo"]
    times = {
        "fks demo": (reported_s - began, DEMO_S),
        "report, after the install": (reported_s - user.ended_s("pip install"), REPORT_S),
        "first fill on paper, after that": (filled_s - reported_s, FILL_S),
        "own strategy decides on paper, since the empty directory": (decided_s, STRATEGY_S),
    }
    print(f"installed after {user.ended_s('pip install'):.1f} s")
    for name, (took_s, limit_s) in times.items():
        print(f"{name:<58}{took_s:7.1f} s   limit {limit_s:.0f} s")
    assert [name for name, (took_s, limit_s) in times.items() if took_s > limit_s] == []
