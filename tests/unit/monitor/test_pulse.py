"""A pulse is felt by who holds the right process, and stands still when its process does."""

from __future__ import annotations

import os
from pathlib import Path

from fks.monitor.pulse import Finger, Pulse, pulse_file


def test_a_beat_is_felt_with_its_news(tmp_path: Path) -> None:
    path = pulse_file(tmp_path, "strategy:0")
    finger = Finger(path, os.getpid())
    assert finger.feel() is None
    pulse = Pulse(path)
    assert finger.feel() is None, "it has not begun"
    pulse.beat(12.5, 3)
    assert finger.feel() == (12.5, 3)
    pulse.beat(12.7, 4)
    assert finger.feel() == (12.7, 4)
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_pulse_of_another_process_is_nobodys(tmp_path: Path) -> None:
    path = pulse_file(tmp_path, "orders")
    Pulse(path).beat(1.0, 0)
    assert Finger(path, os.getpid() + 1).feel() is None


def test_a_successor_does_not_revive_the_pulse_of_a_stopped_predecessor(tmp_path: Path) -> None:
    path = pulse_file(tmp_path, "orders")
    Pulse(path).beat(1.0, 0)
    held = Finger(path, os.getpid())
    assert held.feel() == (1.0, 0)
    Pulse(path).beat(9.0, 0)
    assert held.feel() == (1.0, 0)
    assert Finger(path, os.getpid()).feel() == (9.0, 0)


def test_without_a_place_for_it_calls_have_to_tell(tmp_path: Path) -> None:
    path = pulse_file(tmp_path / "missing", "orders")
    Pulse(path).beat(1.0, 0)
    assert Finger(path, os.getpid()).feel() is None
