"""Conversations of the protocol: every file is understood, and those for a client hold for the session."""

from __future__ import annotations

from pathlib import Path

import pytest

from fks.bridge.ninja import messages as m
from fks.bridge.ninja.fields import FieldError
from tests.support.client_conversation import ClientRun
from tests.support.conversations import FOLDER, Variables, conversations, parse

FILES = sorted(FOLDER.glob("C*.txt"))


def test_there_is_one_file_for_each_number() -> None:
    assert [path.name[:3] for path in FILES] == [f"C{number:02}" for number in range(1, len(FILES) + 1)]
    assert len(FILES) >= 24


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_conversation_is_understood(path: Path) -> None:
    conversation = parse(path)
    assert conversation.title.startswith(path.stem[:3])
    assert conversation.steps


@pytest.mark.parametrize("path", conversations("client"), ids=lambda path: path.stem)
def test_lines_of_a_client_are_messages_of_the_protocol(path: Path) -> None:
    variables = Variables(lambda: 1738594800000)
    variables.values.update(dict.fromkeys(("ep", "ep2"), "0" * 32), last=1, inst="0" * 32)
    for step in parse(path).steps:
        if step.name in ("I", "SIG") and parse(path).against != {"client"} and "mac" not in step.data:
            message = m.from_client(
                variables.filled({key: value for key, value in step.data.items() if value is not None})
            )
            assert isinstance(message, m.Message), step


def test_a_misspelt_signal_of_the_scripts_is_refused_by_the_checks() -> None:
    step = next(step for step in parse(FOLDER / "C04-bad-json.txt").steps if step.name == "SIG")
    with pytest.raises(FieldError, match="unknown_field: qyt"):
        m.from_client(Variables(lambda: 1738594800000).filled(step.data))


@pytest.mark.parametrize(
    "path", [path for path in FILES if parse(path).against == {"client"}], ids=lambda path: path.stem
)
def test_the_client_holds_its_side(path: Path) -> None:
    ClientRun(path).run()
