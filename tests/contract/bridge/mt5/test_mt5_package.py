"""`fks mt5 package`, the agent out of the zip, and `fks sim mt5` as processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import Any

import pytest

from fks.bridge.mt5.agent import load_package, login_of, read_names
from fks.interfaces.cli import cli
from fks.interfaces.cli.base import OK, USAGE, run
from fks.model.errors import ConfigError
from tests.support.mt5_kills import AgentClient

#: a MetaTrader5 as the agent imports it, on the stand-in
_STAND_IN = """
import pathlib, time
from fks.lab.sim.mt5 import SimulatedTerminal, TerminalOptions
made = SimulatedTerminal(pathlib.Path("broker"), lambda: time.time_ns() // 1_000_000, TerminalOptions(password="pw"))
globals().update({name: getattr(made, name) for name in dir(made) if not name.startswith("_")})
"""


def _zip(tmp_path: Path) -> Path:
    target = tmp_path / "agent.zip"
    assert run(cli, ["mt5", "package", str(target)]) == OK
    return target


def test_equal_sources_give_an_equal_zip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = _zip(tmp_path).read_bytes()
    assert run(cli, ["mt5", "package", str(tmp_path / "b.zip"), "--json"]) == OK
    assert (tmp_path / "b.zip").read_bytes() == first
    document = json.loads(capsys.readouterr().out.partition("\n")[2])
    assert document["schema"] == "fks.mt5.package/1"
    assert {"fks-mt5/README.txt", "fks-mt5/agent.cmd", "fks-mt5/fks/bridge/mt5/__main__.py"} <= set(document["entries"])
    assert not [name for name in document["entries"] if "/sim/" in name or "/config/" in name]


def test_the_agent_of_the_zip_runs_alone(tmp_path: Path) -> None:
    with zipfile.ZipFile(_zip(tmp_path)) as archive:
        archive.extractall(tmp_path)
    folder = tmp_path / "fks-mt5"
    sim = folder / "fks" / "lab" / "sim"
    sim.mkdir(parents=True)
    (sim.parent / "__init__.py").touch()
    (sim / "__init__.py").touch()
    source = Path(__file__).parents[4] / "fks" / "lab" / "sim" / "mt5.py"
    (sim / "mt5.py").write_bytes(source.read_bytes())
    (folder / "MetaTrader5.py").write_text(_STAND_IN)
    (folder / "agent.env").write_text("MT5_ACCOUNT_NUMBER=5001\nMT5_PASSWORD=pw\n")
    # -S: without the links of an editable installation, which would find the parts that the zip lacks
    command = [sys.executable, "-S", "-m", "fks.bridge.mt5", "--port", "0"]
    places = {"PYTHONPATH": sysconfig.get_path("purelib"), "PYTHONDONTWRITEBYTECODE": "1"}
    environ = {"PATH": os.environ["PATH"], **places}
    old = subprocess.run(
        [sys.executable, "-S", "-m", "fks.mt5", "--help"], cwd=folder, env=environ, capture_output=True, text=True
    )
    assert old.stdout.startswith("usage:"), old.stderr  # a task of the machine may have that name
    process = subprocess.Popen(command, cwd=folder, env=environ, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        port = int(line.partition(":")[2].split(",")[0])
        assert "pw" not in line
        client = AgentClient(port, (folder / "data" / "secret.key").read_bytes(), [])
        client.read_for(0.3)
        client.close()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_the_simulated_agent_prints_where_it_listens(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fks.interfaces.cli", "--home", str(tmp_path), "sim", "mt5", "--netting", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found: dict[str, Any] = json.loads(process.stdout.readline())
        assert (found["host"], found["group"]) == ("127.0.0.1", "mt5")
        client = AgentClient(found["port"], Path(found["secret_file"]).read_bytes(), [])
        client.send({"t": "status", "rid": "s"})
        assert client.wait("status")["agent"].startswith("fks-mt5/")
        client.close()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_the_behaviours_are_listed_and_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["sim", "mt5", "--list"]) == OK
    assert "none_accepted" in capsys.readouterr().out
    assert run(cli, ["sim", "mt5", "--unkind", "nothing"]) == USAGE


def test_without_the_package_the_agent_says_where_it_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="Windows only"):
        load_package()
    assert run(cli, ["--home", str(tmp_path), "mt5", "agent", "--port", "0"]) == USAGE
    assert "MetaTrader5" in capsys.readouterr().err


def test_the_account_comes_from_the_names_of_the_owner(tmp_path: Path) -> None:
    path = tmp_path / "agent.env"
    path.write_text(
        "# account\nMT5_ACCOUNT_NUMBER = 77\nMT5_SERVER=Broker-Demo\nMT5_PASSWORD=a=b\nMT5_TERMINAL_PATH=\n"
    )
    login = login_of(read_names(path))
    assert (login.account_number, login.server, login.password, login.terminal_path) == (77, "Broker-Demo", "a=b", None)
    assert read_names(tmp_path / "none") == {}
    with pytest.raises(ConfigError, match="no number"):
        login_of({"MT5_ACCOUNT_NUMBER": "x"})
