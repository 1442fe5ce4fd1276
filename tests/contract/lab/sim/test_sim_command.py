"""`fks sim`: one line when it is ready, one line when something is wrong, and the fault commands."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fks.interfaces.cli import cli
from fks.interfaces.cli.base import run
from fks.lab.sim.faults import KINDS
from tests.support.sim_process import SAMPLE, Sim


def test_keys_are_for_their_owner_only(sim: Sim) -> None:
    assert stat.S_IMODE((sim.data_dir / "api-key.json").stat().st_mode) == 0o600
    assert set(sim.info) == {"rest", "ws", "ws_api", "api_key", "api_secret"}
    assert sim.info["ws_api"] == sim.info["ws"] + "/ws-api/v3"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--balance", "USDT"], "write USDT=100000"),
        (["--balance", "USDT=ten"], "USDT=ten"),
        (["--taker-fee", "-1"], "taker-fee"),
        (["--speed", "0"], "--hold"),
        (["--hold"], "--tape"),
        (["--tape", "/nowhere.fksbars"], "/nowhere.fksbars"),
        (["--tape", __file__], "fksbars/1"),
        (["--tape", str(SAMPLE), "--start", "yesterday"], "2026-03-01T00:00:00Z"),
        (["--tape", str(SAMPLE), "--start", "2030-01-01T00:00:00Z"], "after the tape"),
        (["--fills", "guess"], "guess"),
    ],
)
def test_bad_input_is_one_line_with_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], says: str
) -> None:
    assert run(cli, ["sim", "exchange", "--data-dir", str(tmp_path / "sim"), *flags]) != 0
    error = capsys.readouterr().err.strip()
    assert says in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(("command", "place"), [("exchange", "sim-exchange"), ("nt8", "sim-nt8")])
def test_without_a_directory_it_lives_in_the_home(tmp_path: Path, command: str, place: str) -> None:
    argv = [
        sys.executable,
        "-m",
        "fks.interfaces.cli",
        "--home",
        str(tmp_path / "home"),
        "sim",
        command,
        "--port",
        "0",
        "--json",
    ]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())
        process.terminate()
    assert any((tmp_path / "home" / place).iterdir())


def test_a_directory_holds_one_kind_of_market(tmp_path: Path) -> None:
    sim = Sim(tmp_path / "sim")
    sim.kill()
    command = [
        sys.executable,
        "-m",
        "fks.interfaces.cli",
        "sim",
        "exchange",
        "--data-dir",
        str(tmp_path / "sim"),
        "--tape",
        str(SAMPLE),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode != 0
    assert "holds a generated market" in done.stderr


def test_fault_commands(sim: Sim, capsys: pytest.CaptureFixture[str]) -> None:
    url = ["--url", sim.info["rest"]]
    assert run(cli, ["sim", "faults", "add", *url, "http_500", "--path", "/api/v3/ping", "--count", "2", "--json"]) == 0
    number = json.loads(capsys.readouterr().out)["id"]
    assert sim.call("GET", "/api/v3/ping")[0] == 500
    assert run(cli, ["sim", "faults", "list", *url]) == 0
    assert "1 left, struck 1" in capsys.readouterr().out
    assert run(cli, ["sim", "faults", "clear", *url, "--id", str(number)]) == 0
    assert sim.call("GET", "/api/v3/ping")[0] == 200
    capsys.readouterr()
    assert run(cli, ["sim", "faults", "add", *url, "gremlin"]) == 2
    assert "accept_then_cut" in capsys.readouterr().err
    assert run(cli, ["sim", "faults", "list", "--url", "http://127.0.0.1:1"]) == 3
    assert run(cli, ["sim", "faults", "kinds"]) == 0
    shown = capsys.readouterr().out
    assert all(kind in shown for kind in KINDS)


def test_every_kind_of_fault_is_documented() -> None:
    page = (SAMPLE.parents[4] / "docs" / "local-exchange.md").read_text()
    assert not [kind for kind in KINDS if f"`{kind}`" not in page]
