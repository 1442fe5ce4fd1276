"""Files that servers print into are rotated in their place."""

from __future__ import annotations

import os
from pathlib import Path

from fks.system.process.output_logs import rotate


def test_a_server_goes_on_writing_into_its_rotated_file(tmp_path: Path) -> None:
    file = tmp_path / "postgres.log"
    handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for number in range(6):
        os.write(handle, f"{number}".encode() * 100)
        assert rotate(tmp_path, bytes_max=99, files_kept=3) == ["postgres.log"]
    os.write(handle, b"new")
    os.close(handle)
    assert file.read_text() == "new"
    kept = {path.name: path.read_text()[0] for path in tmp_path.iterdir() if path != file}
    assert kept == {"postgres.log.1": "5", "postgres.log.2": "4", "postgres.log.3": "3"}
    assert (tmp_path / "postgres.log.1").stat().st_mode & 0o777 == 0o600


def test_small_files_and_those_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "redis.log").write_text("small")
    (tmp_path / "gateway.jsonl").write_text("x" * 1000)
    target = tmp_path / "elsewhere"
    target.write_text("x" * 1000)
    (tmp_path / "link.log").symlink_to(target)
    assert rotate(tmp_path, bytes_max=99) == []
    assert len(target.read_text()) == 1000
