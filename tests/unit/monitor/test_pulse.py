"""A pulse is felt by who holds the right process, stands still when its process does, and says nothing by halves."""

from __future__ import annotations

import os
from pathlib import Path

from fks.process.heartbeat import ROOM, Finger, Pulse, pulse_file


def speaking(path: Path, at_s: float = 1.0) -> Pulse:
    pulse = Pulse(path)
    pulse.say({"state": "ready"})
    pulse.beat(at_s)
    return pulse


def test_a_beat_is_felt_with_what_was_said(tmp_path: Path) -> None:
    path = pulse_file(tmp_path, "strategy:0")
    finger = Finger(path, os.getpid())
    assert finger.feel() is None
    pulse = Pulse(path)
    assert finger.feel() is None, "it has not begun"
    pulse.beat(12.5)
    assert finger.feel() is None, "it has said nothing yet"
    pulse.say({"state": "ready"})
    assert finger.feel() == (12.5, {"state": "ready"})
    pulse.say({"state": "degraded", "why": None})
    pulse.beat(12.7)
    assert finger.feel() == (12.7, {"state": "degraded", "why": None})
    assert path.stat().st_mode & 0o777 == 0o600


def test_half_a_sentence_is_nothing(tmp_path: Path) -> None:
    path = pulse_file(tmp_path, "orders")
    speaking(path)
    with path.open("r+b") as file:
        file.seek(30)
        file.write(b"?")
    assert Finger(path, os.getpid()).feel() is None


def test_what_has_no_room_is_not_said(tmp_path: Path) -> None:
    path = pulse_file(tmp_path, "orders")
    pulse, finger = speaking(path), Finger(path, os.getpid())
    pulse.say({"state": "x" * ROOM})
    assert finger.feel() is None
    pulse.say({"state": "x" * (ROOM - 100)})
    assert finger.feel() == (1.0, {"state": "x" * (ROOM - 100)})


def test_the_pulse_of_another_process_is_nobodys(tmp_path: Path) -> None:
    path = pulse_file(tmp_path, "orders")
    speaking(path)
    assert Finger(path, os.getpid() + 1).feel() is None


def test_a_successor_does_not_revive_the_pulse_of_a_stopped_predecessor(tmp_path: Path) -> None:
    path = pulse_file(tmp_path, "orders")
    speaking(path)
    held = Finger(path, os.getpid())
    assert held.feel() == (1.0, {"state": "ready"})
    speaking(path, 9.0)
    assert held.feel() == (1.0, {"state": "ready"})
    assert Finger(path, os.getpid()).feel() == (9.0, {"state": "ready"})


def test_without_a_place_for_it_calls_have_to_tell(tmp_path: Path) -> None:
    path = pulse_file(tmp_path / "missing", "orders")
    speaking(path)
    assert Finger(path, os.getpid()).feel() is None
