"""A clock set wrong is wrong for all its users, for the given time, and only in the time of day."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

from fks.clock import WrongClock


def test_it_is_right_until_it_is_put_wrong_and_right_again_by_itself(tmp_path: Path) -> None:
    one, other = WrongClock(tmp_path / "offset"), WrongClock(tmp_path / "offset")
    assert abs(other.now_ns() - time.time_ns()) < 10**8
    one.put_wrong(-8.0, 0.05)
    assert -8.1e9 < other.now_ns() - time.time_ns() < -7.9e9
    before_s = other.monotonic()
    while other.now_ns() - time.time_ns() < -(10**8):
        assert other.monotonic() - before_s < 1.0
    assert stat.S_IMODE((tmp_path / "offset").stat().st_mode) == 0o600


def test_without_a_place_for_it_it_is_the_machines(tmp_path: Path) -> None:
    clock = WrongClock(tmp_path / "missing" / "offset")
    clock.put_wrong(100.0, 100.0)
    assert abs(clock.now_ns() - time.time_ns()) < 10**8
    assert not os.listdir(tmp_path)
