"""Builds beside each other on one machine: the link, what a process keeps of its build, and what may be switched."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from fks.config import builds
from fks.config.paths import Paths
from fks.model.errors import ConfigError
from fks.system.node.build import begin_again
from fks.system.node.head import OtherBuildError
from tests.support.builds import environment, make_build, version_of

SHOW = "import {first}; print('up', flush=True); input(); import fks.config.builds as b, fks.config.version as v; "
SHOW += "print(v.VERSION, v.installed_version(), v.is_installed(), b.own().name)"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine with two complete builds; its link leads to `one`."""
    root = tmp_path_factory.mktemp("machine")
    for name, text in (("one", ""), ("two", "#: another build\n")):
        build = make_build(root, name, change=("fks/__init__.py", text))
        fks(build, root, "node", "prepare")
    builds.switch(root / "builds" / "one")
    return root


def fks(build: Path, root: Path, *args: str) -> subprocess.CompletedProcess[str]:
    env = environment(HOME=str(root))
    command = [str(build / "bin" / "fks"), "--home", str(root / "home"), *args]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done


def test_process_keeps_its_build_when_the_link_is_switched(root: Path) -> None:
    one, two = root / "builds" / "one", root / "builds" / "two"
    command = [str(root / "venv" / "bin" / "python"), "-P", "-c"]

    def start(first: str) -> subprocess.Popen[str]:
        code, pipe = SHOW.format(first=first), subprocess.PIPE
        process = subprocess.Popen([*command, code], env=environment(), stdin=pipe, stdout=pipe, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        return process

    early, late = start("json"), start("fks.config.version")  # FKS is imported after the switch, and before it
    builds.switch(two)
    new = start("json")
    shown = [process.communicate("\n", timeout=30)[0].split() for process in (early, late, new)]
    old = [version_of(one), version_of(two), "False", "one"]  # of one build, and it sees that another is installed
    assert shown == [old, old, [version_of(two), version_of(two), "True", "two"]]
    builds.switch(one)


def test_ray_down_and_the_boot_go_by_the_link(root: Path) -> None:
    assert f"{root}/venv/bin/fks --home {root}/home node stop --all" in (root / "fks" / "bin" / "ray").read_text()


def test_only_a_complete_build_is_found(root: Path) -> None:
    make_build(root, "half", change=("fks/__init__.py", "#: half\n"))
    code = "import sys; from fks.config import builds; print(builds.find(sys.argv[1]))"
    command = [str(root / "builds" / "one" / "bin" / "python"), "-P", "-c", code]
    ids = [version_of(root / "builds" / name) for name in ("one", "two", "half")]
    done = [subprocess.run([*command, id], env=environment(), capture_output=True, text=True) for id in ids]
    assert [each.stdout.strip() for each in done] == ["None", str(root / "builds" / "two"), "None"]


def test_oldest_builds_are_removed_and_none_that_is_newer(root: Path) -> None:
    for name, made_s in (("older", 1000), ("old", 2000), ("newer", 1 << 34)):
        file = root / "builds" / name / "pyvenv.cfg"
        file.parent.mkdir()
        file.touch()
        os.utime(file, (made_s, made_s))
    fks(root / "builds" / "two", root, "node", "prepare")
    assert {"one", "two", "old", "newer"} <= {place.name for place in (root / "builds").iterdir()}
    assert not (root / "builds" / "older").exists()


def test_mark_goes_first_when_a_build_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = tmp_path / "builds" / "one"
    build.mkdir(parents=True)
    (build / builds.MARK).write_text("0.1.0+1\n")
    monkeypatch.setattr(shutil, "rmtree", lambda place, **_: None)  # killed before it has removed anything
    builds.remove(build)
    assert not (build / builds.MARK).exists(), "`ray up` and a worker would take it for complete"


def test_build_that_runs_stays_pinned_when_it_is_prepared_on_a_full_disk(root: Path) -> None:
    (pin,) = (root / "builds" / "one").glob("lib/python*/site-packages/fks-build.pth")
    before = (pin.stat().st_ino, pin.stat().st_mtime_ns, pin.read_text())
    fks(root / "builds" / "one", root, "node", "prepare")
    assert (pin.stat().st_ino, pin.stat().st_mtime_ns, pin.read_text()) == before, "the same text is not written again"


def test_link_to_a_build_that_is_gone_counts_as_none(root: Path) -> None:
    one = root / "builds" / "one"
    builds.switch(root / "builds" / "gone")
    code = "from fks.config import builds, version; print(builds.current(), builds.is_left(), version.is_installed())"
    command = [str(one / "bin" / "python"), "-P", "-c", code]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    builds.switch(one)
    assert done.stdout.strip() == "None False True", done.stderr


def test_machine_stays_with_its_build_where_the_heads_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[str] = []
    monkeypatch.setattr(os, "execv", lambda python, command: started.append(python))
    begin_again(Paths.of(tmp_path), OtherBuildError(tmp_path / "builds" / "gone", "0.1.0+1"))
    assert started == [builds.own_python()]
    assert "this machine stays with its build" in capsys.readouterr().err


def test_virtualenv_of_an_earlier_release_is_not_replaced_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "venv").mkdir()
    with pytest.raises(ConfigError, match=r"virtualenv of an earlier release.*stop FKS on this machine"):
        builds.switch(tmp_path / "builds" / "one")


def test_checkout_has_one_build(tmp_path: Path) -> None:
    assert (builds.own(), builds.current(), builds.find("0.1.0+0"), builds.is_left()) == (None, None, None, False)
    assert Paths.of(tmp_path).home == tmp_path
