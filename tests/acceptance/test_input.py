"""Bad input gives one clear line with the remedy and the right exit code; no traceback reaches a user."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.system import System


def complaint(system: System, *args: str, code: int) -> str:
    """Run a command that must fail; return its one line."""
    done = system.fks(*args, check=False)
    assert done.returncode == code, f"exit {done.returncode}: {done.stdout}{done.stderr}"
    assert "Traceback" not in done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) <= 3, done.stderr
    return "\n".join(lines) or done.stdout


@pytest.fixture
def nothing(tmp_path: Path) -> System:
    """Return a home in which nothing runs."""
    return System.at(tmp_path / "home")


@pytest.mark.parametrize(
    "command",
    [
        ("status",),
        ("orders", "list"),
        ("positions",),
        ("signals", "list"),
        ("fills",),
        ("kill", "--yes"),
        ("resume",),
        ("token", "list"),
        ("accounts", "list"),
    ],
)
def test_command_that_needs_a_running_system_exits_3(nothing: System, command: tuple[str, ...]) -> None:
    assert "fks up" in complaint(nothing, *command, code=3)


def test_an_unknown_command_names_the_nearest(nothing: System) -> None:
    assert "status" in complaint(nothing, "statsu", code=2)


def test_a_typo_in_the_configuration_names_key_file_and_nearest(nothing: System) -> None:
    nothing.home.mkdir(parents=True)
    (nothing.home / "fks.toml").write_text("[http]\nprot = 8000\n")
    text = complaint(nothing, "config", "check", code=2)
    assert "prot" in text
    assert "port" in text
    assert "fks.toml" in text


def test_a_port_in_use_is_named_with_its_key_before_anything_starts(nothing: System) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        system = System.at(nothing.home, FKS_HTTP_PORT=str(port))
        done = system.fks("up", "--detach", check=False)
    assert done.returncode != 0
    assert str(port) in done.stderr
    assert "http.port" in done.stderr.lower()
    assert "Traceback" not in done.stderr
    assert not system.processes()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("sma_cros", "--symbol", "BTC/USDT", "--timeframe", "1m"), "sma_cross"),
        (("sma_cross", "--symbol", "BTC/USDT", "--timeframe", "7m"), "1m"),
        (("sma_cross", "--symbol", "BTC/USDT", "--timeframe", "1m", "--set", "fats=3"), "fast"),
        (
            ("sma_cross", "--symbol", "BTC/USDT", "--timeframe", "1m", "--from", "2026-04-02", "--to", "2026-04-01"),
            "before",
        ),
    ],
)
def test_backtest_that_cannot_run_prints_the_reason(nothing: System, args: tuple[str, ...], says: str) -> None:
    assert says in complaint(nothing, "backtest", "run", *args, code=2)


def test_an_optimised_python_is_refused(nothing: System) -> None:
    done = subprocess.run(
        [sys.executable, "-O", "-m", "fks.interfaces.cli", "up"],
        env=nothing.env,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode != 0
    assert "-O" in done.stderr


def test_help_is_quick() -> None:
    """0.3 s is the aim (benchmarks/start.py measures it); here only that no heavy library is loaded for help."""
    heavy = "ray ccxt pandas numpy fastapi sqlalchemy aiohttp asyncpg"
    code = (
        "import sys; from fks.interfaces.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        f"print([m for m in '{heavy}'.split() if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stderr.strip() == "[]"
