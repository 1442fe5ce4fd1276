"""Checks that refuse a start before it begins: one line, with the remedy."""

from __future__ import annotations

import socket
import sys

import click
import pytest

from fks.config import home as place
from fks.config.endpoints import resolve_ports
from fks.config.paths import Paths
from fks.config.settings import Settings, Sim
from fks.interfaces.cli import cli
from fks.interfaces.cli.base import run
from fks.interfaces.cli.checkup import examine
from fks.model.errors import ConfigError
from fks.system.node import ports, preflight
from fks.system.node.sim_node import SimFiles, check_market, sim_command


@pytest.fixture
def taken_port():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def test_port_in_use_is_reported_with_key_holder_and_remedy(taken_port):
    with pytest.raises(ConfigError) as caught:
        ports.check_free({"http.port": ("127.0.0.1", taken_port)})
    text = str(caught.value)
    assert f"http.port {taken_port} is in use by" in text
    assert "FKS_HTTP_PORT" in text
    assert "(pid " in text


def test_a_port_in_use_ends_fks_up_with_one_line(taken_port, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FKS_HTTP_PORT", str(taken_port))
    monkeypatch.setenv("FKS_HOME", str(tmp_path))  # put back afterwards: the command sets it for its children
    code = run(cli, ["--home", str(tmp_path), "up", "--quiet"])
    captured = capsys.readouterr()
    assert code == 2
    assert f"http.port {taken_port} is in use" in click.unstyle(captured.err)
    assert "Traceback" not in captured.err + captured.out
    assert not Paths.of(tmp_path).node_file.exists()


def test_a_wildcard_listener_counts_as_holding_the_port():
    with socket.socket() as holder:
        holder.bind(("0.0.0.0", 0))
        holder.listen()
        assert not ports.is_free("127.0.0.1", holder.getsockname()[1])


def test_two_keys_with_one_port_are_refused():
    with pytest.raises(ConfigError, match=r"http\.port and sim\.port are both 21000"):
        ports.check_distinct({"http.port": ("127.0.0.1", 21000), "sim.port": ("127.0.0.1", 21000)})


def test_every_port_of_the_head_is_explicit(tmp_path):
    from fks.system.node.ray_node import ray_command, ray_env

    paths = Paths.of(tmp_path)
    settings = resolve_ports(Settings(home=tmp_path), paths)
    command = " ".join(ray_command(paths, settings))
    env = ray_env(paths, settings, {})
    passed = command + " " + " ".join(env.values())
    for key, (_, port) in ports.ray_ports(settings).items():
        assert port, key
        assert key == "http.port" or str(port) in passed, key
    assert env["RAY_AUTH_MODE"] == "token"
    given = settings.model_copy(update={"node": settings.node.model_copy(update={"environment": ("MODEL_DIR",)})})
    base = {"GITHUB_TOKEN": "g", "MODEL_DIR": "/m", "FKS_LOG_LEVEL": "info", "RAY_ADDRESS": "x"}
    assert ray_env(paths, given, base).keys() - ray_env(paths, settings, {}).keys() == {"MODEL_DIR", "FKS_LOG_LEVEL"}
    assert "token" not in command.replace("--temp-dir", "")


def test_an_old_python_and_dash_o_are_refused():
    with pytest.raises(ConfigError, match=r"3\.10\.2 is too old"):
        preflight.check_interpreter((3, 10, 2), 0)
    with pytest.raises(ConfigError, match="python -O"):
        preflight.check_interpreter((3, 11, 0), 1)
    preflight.check_interpreter()


def test_a_full_disk_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="MB free"):
        preflight.check_place(Paths.of(tmp_path), free_min_mb=10**9)


def test_a_home_below_a_file_is_not_writable(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is not writable"):
        preflight.check_writable(Paths.of(tmp_path / "file" / "home"))


async def test_check_out_of_the_table_is_run_by_neither_start_nor_doctor(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("x" * 80)))
    paths = Paths.of(tmp_path / "home")
    assert {"home", "drive", "sockets"} <= {check.name for check in await examine(paths)}
    monkeypatch.delitem(preflight.PLACE, "sockets")
    preflight.check_place(paths)
    assert "sockets" not in {check.name for check in await examine(paths)}


def test_too_long_socket_paths_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("x" * 80)))
    with pytest.raises(ConfigError, match="set TMPDIR to a shorter directory"):
        preflight.check_sockets(Paths.of(tmp_path))


def test_a_socket_directory_made_by_others_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    paths = Paths.of("/h")
    paths.sockets.mkdir()
    paths.sockets.chmod(0o777)
    monkeypatch.setattr(preflight, "SOCKET_MAX", 1000)
    with pytest.raises(ConfigError, match="made by another user"):
        preflight.check_sockets(paths)


def test_a_checkout_on_a_windows_drive_gets_a_native_home(tmp_path, monkeypatch):
    mounts, version = tmp_path / "mounts", tmp_path / "version"
    mounts.write_text("/dev/sdc / ext4 rw 0 0\nC:\\134 /mnt/c 9p rw 0 0\n")
    version.write_text("Linux version 5.15 (Microsoft@Microsoft.com)")
    drive = lambda path: place.windows_drive(path, mounts, version)  # noqa: E731
    assert drive(tmp_path.__class__("/mnt/c/fks/.fks")) == "/mnt/c"
    assert drive(tmp_path.__class__("/home/me/fks")) is None
    version.write_text("Linux version 6.1")
    assert drive(tmp_path.__class__("/mnt/c/fks")) is None


def test_a_home_keeps_its_market(tmp_path):
    paths = Paths.of(tmp_path)
    files = SimFiles.of(paths)
    check_market(files, Settings())
    check_market(files, Settings(sim=Sim(seed=9)))
    with pytest.raises(ConfigError, match="do not mix"):
        check_market(files, Settings(sim=Sim(tape="sample")))
    with pytest.raises(ConfigError, match="no such file"):
        check_market(files, Settings(sim=Sim(tape="none.fksbars")))


def test_local_exchange_gets_its_tape(tmp_path):
    command = sim_command(
        SimFiles.of(Paths.of(tmp_path)), Settings(sim=Sim(tape="sample", speed=60, fills="tape", port=1))
    )
    assert command[:5] == [sys.executable, "-P", "-m", "fks.interfaces.cli", "sim"]
    assert command[command.index("--speed") + 1] == "60"
    assert command[command.index("--fills") + 1] == "tape"
    assert command[command.index("--tape") + 1].endswith("BTCUSDT-1m.fksbars")
