"""Files that start a cluster: cluster.yaml by Ray's own validator, the systemd units."""

from __future__ import annotations

import asyncio
import configparser
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from fks.config import env_file
from fks.config.paths import Paths
from fks.config.settings import DatabaseSettings, Redis, Settings, Supervision
from fks.interfaces.cli import cli
from fks.interfaces.cli.base import run
from fks.interfaces.cli.cluster_check import examine, inspect
from fks.system.node.boot import BootEntry, unit_text
from tests.support.bare_machine import INIT, BareMachine
from tests.support.namespaces import require_namespaces
from tests.support.programs import require
from tests.support.waiting import wait_until

REPOSITORY = Path(__file__).parents[4]
EXAMPLE = REPOSITORY / "cluster.yaml"


@pytest.fixture
def ready(tmp_path, monkeypatch):
    """Return a folder that is ready for `ray up`; its machines refuse ssh."""
    require("ssh", "rsync")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").write_text("#!/bin/sh\nexit 255\n")
    (tmp_path / "bin" / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    document = yaml.safe_load(EXAMPLE.read_text().replace("192.0.2.", "10.1.2."))
    for name, source in document["file_mounts"].items():
        place = tmp_path / source
        place.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("dist"):
            place.mkdir()
            (place / "fks-0.1.0-py3-none-any.whl").touch()
        else:
            place.touch(mode=0o600)
    key = tmp_path / "key"
    key.touch(mode=0o600)
    document["auth"]["ssh_private_key"] = str(key)
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(document))
    return tmp_path


def change(folder, **members):
    """Change members of the cluster file."""
    file = folder / "cluster.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | members))


def found_in(folder, settings=None):
    document = yaml.safe_load((folder / "cluster.yaml").read_text())
    return {check.name: check for check in inspect(document, folder, settings)}


URLS = {"database": DatabaseSettings(url="postgresql://u:p@h/d?sslmode=require"), "redis": Redis(url="rediss://:p@h/0")}


def test_example_is_valid_for_ray_and_its_blanks_are_named():
    checks = {check.name: check for check in asyncio.run(examine(Paths.of("/nowhere/fks"), EXAMPLE))}
    assert checks["cluster file"].status == "healthy", checks["cluster file"]
    assert checks["addresses"].status == "down"
    assert {
        checks[name].status
        for name in ("cluster name", "head start", "worker start", "autoscaler", "ports", "token", "resources")
    } == {"healthy"}


def test_ray_validation_errors_are_shown(tmp_path):
    file = tmp_path / "cluster.yaml"
    document = yaml.safe_load(EXAMPLE.read_text())
    file.write_text(yaml.safe_dump(document | {"acelerator": 1}))
    checks = {check.name: check for check in asyncio.run(examine(Paths.of(tmp_path), file))}
    assert checks["cluster file"].status == "down"
    assert "acelerator" in checks["cluster file"].detail
    file.write_text(yaml.safe_dump(document | {"setup_commands": None}))  # all its lines are comments
    checks = {check.name: check for check in asyncio.run(examine(Paths.of(tmp_path), file))}
    assert checks["cluster file"].status == "down"
    file.write_text("provider: nothing\n")
    checks = {check.name: check for check in asyncio.run(examine(Paths.of(tmp_path), file))}
    assert "no provider" in checks["cluster file"].detail


def test_complete_cluster_passes_and_each_fault_is_reported(ready):
    settings = Settings(supervision=Supervision(placement={"ninja:*": "ninja", "orders": "head"}), **URLS)
    assert {name: c.detail for name, c in found_in(ready, settings).items() if c.status != "healthy"} == {}
    (ready / ".fks" / "ray.token").chmod(0o644)
    (ready / "deploy" / "hashes" / "fks.txt").unlink()
    shutil.rmtree(ready / "dist")
    odd = Settings(supervision=Supervision(placement={"orders": "moon"}))
    bad = {name: c for name, c in found_in(ready, odd).items() if c.status == "down"}
    assert set(bad) == {"token file", "wheel", "file mounts", "resources", "stores"}
    assert "moon" in bad["resources"].detail
    assert all(check.remedy for check in bad.values())


SOURCED = ["set -a && . ~/.fks/fks.env && set +a && ~/v/bin/fks node head --detach --port 6379 --autoscaling-config=x"]


@pytest.mark.parametrize(
    ("name", "members", "detail"),
    [
        ("ssh key", {"auth": {"ssh_user": "fks"}}, "ssh_private_key is not set"),
        ("ssh key", {"auth": {"ssh_user": "fks", "ssh_private_key": "/nowhere/key"}}, "/nowhere/key is not there"),
        ("environment", {"head_start_ray_commands": SOURCED}, "a shell reads it on the head"),
        ("boot", {"head_start_ray_commands": SOURCED}, "the head would not start at boot"),
        ("upgrade", {"setup_commands": ["pip install fks-*.whl"]}, "pip changes the virtualenv that runs"),
        (
            "upgrade",
            {"head_start_ray_commands": ["~/fks/venv/bin/fks node head"]},
            "the head starts the build of before",
        ),
        ("ray down", {"setup_commands": ["pip install fks-*.whl"]}, "the keeper starts again"),
    ],
)
def test_each_cause_of_a_broken_cluster_is_found_beforehand(ready, name, members, detail):
    assert found_in(ready)[name].status == "healthy"
    change(ready, **members)
    check = found_in(ready)[name]
    assert (check.status, bool(check.remedy)) == ("down", True)
    assert detail in check.detail


def test_key_that_others_may_read_is_found_beforehand(ready):
    (ready / "key").chmod(0o644)
    assert "ssh refuses it" in found_in(ready)["ssh key"].detail


@pytest.mark.parametrize(
    ("line", "name", "detail"),
    [
        ("FKS_NODE_ADDRESS=10.0.0.1", "fks.env", "the same on every machine"),
        ("export A=1", "fks.env", "fks.env:1 is no NAME=VALUE"),
        ("FKS_DATABASE_URL=postgresql://u:p@h/d?sslmode=verify-full", "certificate", "no root certificate"),
        ("FKS_DATABASE_URL=postgresql://u:p@h/d?sslmode=verify-full&sslrootcert=~/ca.crt", "certificate", "~/ca.crt"),
    ],
)
def test_environment_file_is_examined_beforehand(ready, line, name, detail):
    file = ready / "deploy" / "fks.env"
    file.write_text(f"{line}\n")
    check = found_in(ready)[name]
    assert (check.status, bool(check.remedy)) == ("down", True)
    assert detail in check.detail
    file.write_text("FKS_DATABASE_URL=postgresql://u:p@h/d?sslmode=verify-full&sslrootcert=/etc/ca.crt\n")
    assert {name: check.detail for name, check in found_in(ready).items() if check.status == "down"} == {}


def test_machines_settings_are_those_of_their_environment_file(ready):
    file = ready / "deploy" / "fks.env"
    urls = "FKS_DATABASE_URL=postgresql://u:p7x@h/d?sslmode=require\nFKS_REDIS_URL=rediss://:p7x@h/0\n"
    file.write_text(f"{urls}FKS_SUPERVISION_PLACEMENT=orders=moon\n")
    checks = {check.name: check for check in asyncio.run(examine(Paths.of("/nowhere/fks"), ready / "cluster.yaml"))}
    assert checks["stores"].status == "healthy"
    assert "moon" in checks["resources"].detail


def test_example_environment_is_read_by_the_written_rule():
    found = env_file.parse((REPOSITORY / "deploy" / "fks.env.example").read_text())
    assert {"FKS_DATABASE_URL", "FKS_REDIS_URL", "RAY_AUTH_MODE"} == set(found)


def test_placement_on_gpus_is_a_resource_that_ray_finds(ready):
    settings = Settings(supervision=Supervision(placement={"strategy:*": "GPU"}), **URLS)
    assert found_in(ready, settings)["resources"].status == "healthy"


def test_ports_that_differ_are_reported(ready):
    file = ready / "cluster.yaml"
    file.write_text(file.read_text().replace("--port 6379", "--port 6380"))
    assert found_in(ready)["ports"].status == "down"


def test_the_command_fails_with_one_when_something_is_bad(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(cli, ["--home", str(tmp_path / "home"), "cluster", "check", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["schema"] == "fks.cluster-check/1"
    assert {check["state"] for check in answer["checks"]} <= {"ok", "skipped"}
    assert run(cli, ["--home", str(tmp_path / "home"), "cluster", "check", "--file", str(EXAMPLE), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["state"] == "bad"


@pytest.mark.parametrize("role", ["head", "worker"])
def test_unit_restarts_its_keeper_and_spares_its_children(role, tmp_path):
    file = REPOSITORY / "deploy" / f"fks-{role}.service"
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read(file)
    service = unit["Service"]
    assert (service["Type"], service["Restart"], service["KillMode"]) == ("exec", "on-failure", "process")
    assert service["RestartPreventExitStatus"] == "2"
    assert f"fks node {role} --env-file /etc/fks/fks.env" in service["ExecStart"]
    assert "EnvironmentFile" not in service, "one parser reads it"
    assert (service["NoNewPrivileges"], service["ProtectSystem"], service["UMask"]) == ("yes", "strict", "0077")
    assert "ProtectClock" not in service, "below systemd 253 it closes /dev/nvidia*"
    assert service["CapabilityBoundingSet"] == "", "no process sets the clock"


@pytest.mark.parametrize("role", ["head", "worker"])
def test_systemd_accepts_the_unit(role, tmp_path):
    require("systemd-analyze")
    file = REPOSITORY / "deploy" / f"fks-{role}.service"
    here = file.read_text().replace("/opt/fks/venv/bin/fks", str(Path(sys.executable).with_name("fks")))
    copy = tmp_path / file.name
    copy.write_text(here.replace("User=fks", "User=root").replace("Group=fks", "Group=root"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, timeout=30
    )
    complaints = [line for line in done.stderr.splitlines() if file.name in line]
    assert (done.returncode, complaints) == (0, [])


def test_systemd_accepts_the_unit_that_is_written_for_an_account(tmp_path):
    require("systemd-analyze")
    command = (sys.executable, "-m", "fks.interfaces.cli", "node", "worker", "--name", "50%$x")
    entry = BootEntry(Paths.of(tmp_path / "my home"), "worker", command, {"FKS_HOME": str(tmp_path / "my home")})
    file = tmp_path / entry.unit

    def complaints(text):
        file.write_text(text)
        command = ["systemd-analyze", "--user", "verify", "--man=no", str(file)]
        env = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30)
        return [line for line in done.stderr.splitlines() if file.name in line]

    assert complaints(unit_text(entry)) == []
    assert complaints(unit_text(entry).replace("=on-failure", "=never-heard-of")) != []


def test_systemd_does_not_try_a_wrong_setting_again():
    """The unit as it is, run by a systemd of its own over this machine's files; the whole life of it is a soak."""
    require_namespaces()
    require("systemd-analyze", "nsenter")
    # not where they are: the unit's process sees no home directory
    given = {
        REPOSITORY: "/opt/fks/checkout",
        Path(sys.prefix): "/opt/fks/packages",
        Path(sys.base_prefix): "/opt/python",
    }
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:  # another file system than the one below it
        Path(place).chmod(0o755)
        program = Path(place, "files/opt/fks/venv/bin/fks")
        program.parent.mkdir(parents=True)
        (packages,) = Path(sys.prefix).glob("lib/python*/site-packages")
        path = f"/opt/fks/checkout:/opt/fks/packages/{packages.relative_to(sys.prefix)}"
        python = f"/opt/python/bin/python{sys.version_info.major}.{sys.version_info.minor}"
        shutil.copytree(REPOSITORY / "deploy", Path(place, "files/etc/systemd/system"), ignore=lambda *_: {"hashes"})
        program.write_text(f'#!/bin/sh\nPYTHONPATH={path} exec {python} -m fks.interfaces.cli "$@"\n')
        program.chmod(0o755)
        machine = BareMachine("units", Path(place), "/", (*INIT, "--unit=basic.target"), given=given)
        try:
            machine.start()
            wait_until(lambda: "active" in machine.run(["systemctl", "is-active", "basic.target"], check=False).stdout)
            machine.run(["useradd", "--home-dir", "/var/lib/fks", "fks"])
            machine.run(["install", "-d", "-o", "fks", "/etc/fks"])
            (machine.files / "etc/fks/fks.env").write_text("FKS_NODE_ADDRESS=127.0.0.1\nFKS_HTTP_PORT=none\n")
            machine.run(["chown", "fks:", "/etc/fks/fks.env"])
            machine.run(["chmod", "600", "/etc/fks/fks.env"])
            machine.run(["systemctl", "start", "fks-head"])
            shown = ["systemctl", "show", "fks-head", "--property=ActiveState,ExecMainStatus,NRestarts"]
            wait_until(lambda: "ActiveState=failed" in machine.run(shown).stdout)
            assert {"ExecMainStatus=2", "NRestarts=0"} < set(machine.run(shown).stdout.split())
        finally:
            machine.cut_power()


def test_another_build_has_the_python_of_the_one_that_runs(tmp_path):
    """A build with another Python is refused while the system runs, and a machine may have a newer one besides."""
    commands = yaml.safe_load(EXAMPLE.read_text())["setup_commands"]
    (install,) = [command for command in commands if "-m venv" in command]
    running, other = tmp_path / "fks/venv/bin/python", tmp_path / "bin/python3"
    for python in (other, running):
        python.parent.mkdir(parents=True)
        python.write_text('#!/bin/sh\n[ "$1" = -c ] || { echo "$0" >> "$HOME/used"; exit 1; }\n')
        python.chmod(0o755)
        (tmp_path / "used").unlink(missing_ok=True)
        (tmp_path / "fks/next").parent.mkdir(exist_ok=True)
        (tmp_path / "fks/next").unlink(missing_ok=True)
        (tmp_path / "fks/next").symlink_to(tmp_path / "fks/builds/1")
        env = {"HOME": str(tmp_path), "PATH": f"{other.parent}:/usr/bin:/bin"}
        assert subprocess.run(["bash", "-c", install], env=env, check=False).returncode == 1
        assert (tmp_path / "used").read_text() == f"{python}\n"
