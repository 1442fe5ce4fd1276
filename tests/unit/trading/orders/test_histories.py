"""Recorded histories of the order core: the same events must give the same commands, on every version."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.histories import ReplayDifference, replay

FOLDER = Path(__file__).parents[3] / "tapes" / "orders"
HISTORIES = sorted(FOLDER.glob("*.jsonl"))


def test_there_is_a_history_for_each_defect() -> None:
    assert len(HISTORIES) >= 15


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_a_recorded_history_gives_the_same_commands(path: Path) -> None:
    difference = replay(path.read_text().splitlines())
    assert difference is None, difference


def test_a_history_with_another_command_is_seen() -> None:
    lines = HISTORIES[0].read_text().splitlines()
    number = next(n for n, line in enumerate(lines) if '"commands":[{' in line)
    line = json.loads(lines[number])
    line["commands"] = []
    found = replay([*lines[:number], json.dumps(line), *lines[number + 1 :]])
    assert isinstance(found, ReplayDifference)
    assert found.line == number + 1
    assert found.replayed


def test_another_format_is_refused() -> None:
    with pytest.raises(ValueError, match="not a history"):
        replay(['{"format": "x"}'])
