"""The heartbeat of a process in shared memory: read for the right process only, stale with it, and never half."""

from __future__ import annotations

import os
from pathlib import Path

from fks.system.process.heartbeat import SIZE, HeartbeatReader, HeartbeatWriter, heartbeat_file


def beating(path: Path, at_s: float = 1.0) -> HeartbeatWriter:
    heartbeat = HeartbeatWriter(path)
    heartbeat.write_status({"state": "ready"})
    heartbeat.beat(at_s)
    return heartbeat


def test_beat_is_read_with_its_status(tmp_path: Path) -> None:
    path = heartbeat_file(tmp_path, "strategy:0")
    reader = HeartbeatReader(path, os.getpid())
    assert reader.read() is None
    heartbeat = HeartbeatWriter(path)
    assert reader.read() is None, "no beat yet"
    heartbeat.beat(12.5)
    assert reader.read() is None, "no status yet"
    heartbeat.write_status({"state": "ready"})
    assert reader.read() == (12.5, {"state": "ready"})
    heartbeat.write_status({"state": "degraded", "why": None})
    heartbeat.beat(12.7)
    assert reader.read() == (12.7, {"state": "degraded", "why": None})
    assert path.stat().st_mode & 0o777 == 0o600


def test_half_written_status_is_not_read(tmp_path: Path) -> None:
    path = heartbeat_file(tmp_path, "orders")
    beating(path)
    with path.open("r+b") as file:
        file.seek(30)
        file.write(b"?")
    assert HeartbeatReader(path, os.getpid()).read() is None


def test_status_larger_than_the_file_is_left_out(tmp_path: Path) -> None:
    path = heartbeat_file(tmp_path, "orders")
    heartbeat, reader = beating(path), HeartbeatReader(path, os.getpid())
    heartbeat.write_status({"state": "x" * SIZE})
    assert reader.read() is None
    heartbeat.write_status({"state": "x" * (SIZE - 100)})
    assert reader.read() == (1.0, {"state": "x" * (SIZE - 100)})


def test_heartbeat_of_another_process_is_not_read(tmp_path: Path) -> None:
    path = heartbeat_file(tmp_path, "orders")
    beating(path)
    assert HeartbeatReader(path, os.getpid() + 1).read() is None


def test_successor_does_not_refresh_its_predecessors_heartbeat(tmp_path: Path) -> None:
    path = heartbeat_file(tmp_path, "orders")
    beating(path)
    held = HeartbeatReader(path, os.getpid())
    assert held.read() == (1.0, {"state": "ready"})
    beating(path, 9.0)
    assert held.read() == (1.0, {"state": "ready"})
    assert HeartbeatReader(path, os.getpid()).read() == (9.0, {"state": "ready"})


def test_heartbeat_without_a_file_is_not_read(tmp_path: Path) -> None:
    path = heartbeat_file(tmp_path / "missing", "orders")
    beating(path)
    assert HeartbeatReader(path, os.getpid()).read() is None
