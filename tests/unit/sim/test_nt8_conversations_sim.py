"""The conversation files of the protocol, run against the simulated bridge on a virtual clock."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.nt8_script import FOLDER, load
from tests.support.nt8_virtual import Conversation

FILES = [path for path in sorted(FOLDER.glob("C*.txt")) if "bridge" in load(path).against]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_simulated_bridge_keeps_to_the_conversation(path: Path) -> None:
    Conversation(load(path)).run()


def test_every_conversation_names_an_end() -> None:
    against = [load(path).against for path in FOLDER.glob("C*.txt")]
    assert len(FILES) == 22
    assert len(against) == 27
    assert all(ends and ends <= {"bridge", "client"} for ends in against)
