"""Directories of a node are private to its user, those of an earlier version become so."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from fks.config.paths import Paths

HOME = 0o711 if os.geteuid() == 0 else 0o700


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_new_directories_are_private(tmp_path: Path) -> None:
    paths = Paths.of(tmp_path / "home").ensure()
    inner = (paths.logs, paths.run, paths.redis_dir, paths.sim_dir, paths.backups, paths.strategies)
    assert (mode(paths.home), {mode(path) for path in inner}) == (HOME, {0o700})


def test_directories_of_an_earlier_version_are_narrowed_and_the_users_own_left(tmp_path: Path) -> None:
    paths = Paths.of(tmp_path / "home")
    for path in (paths.home, paths.logs, paths.backups, paths.strategies):
        path.mkdir()
        path.chmod(0o755)
    paths.run.mkdir(mode=0o500)
    paths.ensure()
    assert [mode(path) for path in (paths.logs, paths.backups, paths.run)] == [0o700, 0o700, 0o500]
    assert [mode(path) for path in (paths.home, paths.strategies)] == [0o755, 0o755]


def test_a_file_in_the_place_of_a_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("")
    with pytest.raises(FileExistsError):
        Paths.of(tmp_path).ensure()
