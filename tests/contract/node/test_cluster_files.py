"""Files that start a cluster: cluster.yaml by Ray's own validator, the systemd units, the wheel."""

from __future__ import annotations

import asyncio
import configparser
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from fks.cli import cli
from fks.cli.base import run
from fks.cli.cluster_check import examine, inspect
from fks.config.paths import Paths
from fks.config.settings import Database, Redis, Settings, Supervision

REPOSITORY = Path(__file__).parents[3]
EXAMPLE = REPOSITORY / "cluster.yaml"


@pytest.fixture
def ready(tmp_path):
    """Return a folder that is ready for `ray up`."""
    document = yaml.safe_load(EXAMPLE.read_text().replace("192.0.2.", "10.1.2."))
    for name, source in document["file_mounts"].items():
        place = tmp_path / source
        place.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("dist"):
            place.mkdir()
            (place / "fks-0.1.0-py3-none-any.whl").touch()
        else:
            place.touch(mode=0o600)
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(document))
    return tmp_path


def found_in(folder, settings=None):
    document = yaml.safe_load((folder / "cluster.yaml").read_text())
    return {check.name: check for check in inspect(document, folder, settings)}


URLS = {"database": Database(url="postgresql://u:p@h/d?sslmode=require"), "redis": Redis(url="rediss://:p@h/0")}


def test_example_is_valid_for_ray_and_its_blanks_are_named():
    checks = {check.name: check for check in asyncio.run(examine(Paths.of("/nowhere/fks"), EXAMPLE))}
    assert checks["cluster file"].state == "ok", checks["cluster file"]
    assert checks["addresses"].state == "bad"
    assert {
        checks[name].state
        for name in ("cluster name", "head start", "worker start", "autoscaler", "ports", "token", "resources")
    } == {"ok"}


def test_ray_validation_errors_are_shown(tmp_path):
    file = tmp_path / "cluster.yaml"
    document = yaml.safe_load(EXAMPLE.read_text())
    file.write_text(yaml.safe_dump(document | {"acelerator": 1}))
    checks = {check.name: check for check in asyncio.run(examine(Paths.of(tmp_path), file))}
    assert checks["cluster file"].state == "bad"
    assert "acelerator" in checks["cluster file"].detail
    file.write_text("provider: nothing\n")
    checks = {check.name: check for check in asyncio.run(examine(Paths.of(tmp_path), file))}
    assert "no provider" in checks["cluster file"].detail


def test_complete_cluster_passes_and_each_fault_is_reported(ready):
    settings = Settings(supervision=Supervision(placement={"ninja:*": "ninja", "orders": "head"}), **URLS)
    assert {name: c.detail for name, c in found_in(ready, settings).items() if c.state != "ok"} == {}
    (ready / ".fks" / "ray.token").chmod(0o644)
    (ready / "constraints.txt").unlink()
    shutil.rmtree(ready / "dist")
    odd = Settings(supervision=Supervision(placement={"orders": "moon"}))
    bad = {name: c for name, c in found_in(ready, odd).items() if c.state == "bad"}
    assert set(bad) == {"token file", "wheel", "file mounts", "resources", "stores"}
    assert "moon" in bad["resources"].detail
    assert all(check.remedy for check in bad.values())


def test_ports_that_differ_are_reported(ready):
    file = ready / "cluster.yaml"
    file.write_text(file.read_text().replace("--port 6379", "--port 6380"))
    assert found_in(ready)["ports"].state == "bad"


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
    assert (service["Type"], service["Restart"], service["KillMode"]) == ("exec", "always", "process")
    assert service["RestartPreventExitStatus"] == "2"
    assert f"fks node {role}" in service["ExecStart"]
    assert (service["NoNewPrivileges"], service["ProtectSystem"], service["UMask"]) == ("yes", "strict", "0077")
    if (analyze := shutil.which("systemd-analyze")) is None:
        return
    here = file.read_text().replace("/opt/fks/venv/bin/fks", str(Path(sys.executable).with_name("fks")))
    copy = tmp_path / file.name
    copy.write_text(here.replace("User=fks", "User=root").replace("Group=fks", "Group=root"))
    done = subprocess.run([analyze, "verify", "--man=no", str(copy)], capture_output=True, text=True, timeout=30)
    complaints = [line for line in done.stderr.splitlines() if file.name in line]
    assert (done.returncode, complaints) == (0, [])


def test_wheel_contains_all_files_of_a_node(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("fks", "actors"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "serve_app.py"):
        shutil.copy(REPOSITORY / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "-w", str(tmp_path), str(source)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("fks-*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        str(path.relative_to(REPOSITORY))
        for place in ("fks", "actors")
        for path in (REPOSITORY / place).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert sorted(wanted - held) == []
    assert "serve_app.py" in held
    entry = next(name for name in held if name.endswith("entry_points.txt"))
    assert "fks = fks.cli:main" in zipfile.ZipFile(wheel).read(entry).decode()
