"""The conversation files of the protocol that apply, played against the agent over a real socket."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import mt5_host
from tests.support.conversations import conversations, parse

#: the others script the states that NinjaTrader's orders go through, futures contracts, or the AddOn's disk
NAMES = ("C02", "C03", "C04", "C05", "C07", "C08", "C09", "C11")
FILES = [path for path in conversations("bridge") if path.stem[:3] in NAMES]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_agent_keeps_to_the_conversation(path: Path, tmp_path: Path) -> None:
    mt5_host.run(parse(path), tmp_path / "agent")


def test_every_named_conversation_exists() -> None:
    assert len(FILES) == len(NAMES)
