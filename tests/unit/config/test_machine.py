"""The machine's id: made once, void in a copy, bound to the boot."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fks.config import machine
from fks.config.machine import machine_of
from fks.config.paths import Paths


def test_the_id_is_made_once_per_home(tmp_path: Path) -> None:
    paths = Paths.of(tmp_path / "a").ensure()
    assert machine_of(paths) == machine_of(paths)
    assert machine_of(paths) != machine_of(Paths.of(tmp_path / "b").ensure())
    assert paths.machine_file.stat().st_mode & 0o077 == 0


def test_a_copied_home_is_another_machine(tmp_path: Path) -> None:
    paths = Paths.of(tmp_path / "a").ensure()
    first = machine_of(paths)
    shutil.copytree(paths.home, tmp_path / "b")
    assert machine_of(Paths.of(tmp_path / "b")).id != first.id
    kept = paths.machine_file.read_bytes()
    paths.machine_file.rename(paths.machine_file.with_suffix(".old"))
    paths.machine_file.write_bytes(kept)  # under the same name in another container
    assert machine_of(paths).id != first.id


def test_another_boot_is_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = Paths.of(tmp_path / "a").ensure()
    first = machine_of(paths)
    monkeypatch.setattr(machine, "boot_id", lambda: "another")
    assert machine_of(paths).id == first.id
    assert machine_of(paths) != first


def test_a_file_that_makes_no_sense_is_made_again(tmp_path: Path) -> None:
    paths = Paths.of(tmp_path / "a").ensure()
    for content in (b"", b"[]", b'{"id": "x"}', b'{"id": "x", "inode": 1, "file": "/y"}'):
        paths.machine_file.write_bytes(content)
        assert machine_of(paths).id != "x"


def test_a_process_is_reached_by_pid_within_one_boot_and_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    here = machine.process_space()
    assert machine.process_space() == here
    monkeypatch.setattr(machine, "boot_id", lambda: "another")
    assert machine.process_space() != here
