"""The conversation files of the protocol, run against the simulated bridge on a virtual clock."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.conversations import FOLDER, conversations, parse
from tests.support.nt8_virtual import Conversation

FILES = conversations("bridge")
#: its journal is a plain file: what the bridge does on a full disk is the AddOn's alone
ADDON_ONLY = "C30-full-disk"


@pytest.mark.parametrize("path", [path for path in FILES if path.stem != ADDON_ONLY], ids=lambda path: path.stem)
def test_the_simulated_bridge_keeps_to_the_conversation(path: Path, tmp_path: Path) -> None:
    Conversation(parse(path), tmp_path).run()


def test_every_conversation_names_an_end() -> None:
    against = [parse(path).against for path in FOLDER.glob("C*.txt")]
    assert len(FILES) == 28
    assert len(against) == 33
    assert all(ends and ends <= {"bridge", "client"} for ends in against)
