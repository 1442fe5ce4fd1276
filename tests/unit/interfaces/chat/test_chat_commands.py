"""Messages of a chat are read as commands, or refused; no message can break the reading."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.interfaces.chat import discord, telegram
from fks.interfaces.chat.commands import COMMANDS, Command, help_text, parse
from fks.model.errors import InputError

ID = "3f2a9c1e-0000-4000-8000-000000000000"


def test_commands_are_read() -> None:
    assert parse("/status") == Command("status")
    assert parse("  /Kill@my_bot  too  loud ") == Command("kill", ("too", "loud"))
    assert parse(f"/approve {ID} 123456") == Command("approve", (ID,), "123456")
    assert parse("/close BTC/USDT 000001") == Command("close", ("BTC/USDT",), "000001")
    assert parse("/start") == Command("help")
    assert all(f"/{name}" in help_text() for name in COMMANDS)


@pytest.mark.parametrize(
    "text",
    [
        *("", "status", "/", "/buy BTCUSDT 1", "/resume", "/approve", f"/approve {ID}", f"/approve {ID} 12345"),
        *("/close 123456", f"/reject {ID} x", "/status now", "/close BTCUSDT 1234567"),
    ],
)
def test_anything_else_is_refused_with_a_remedy(text: str) -> None:
    with pytest.raises(InputError) as refused:
        parse(text)
    assert refused.value.remedy
    assert ("fks resume" in str(refused.value)) == (text == "/resume")


def test_code_is_in_no_text_of_a_command() -> None:
    command = parse("/close BTCUSDT 123456")
    assert (command.text, command.code) == ("/close BTCUSDT", "123456")


def test_what_trades_is_confirmed_by_a_code_and_a_stop_by_nothing() -> None:
    assert {name for name, spec in COMMANDS.items() if spec.needs_code} == {"approve", "close"}
    assert (COMMANDS["kill"].scope, COMMANDS["kill"].needs_code) == ("", False)
    assert "resume" not in COMMANDS


@given(st.text(max_size=200))
def test_any_text_is_a_command_or_is_refused(text: str) -> None:
    with contextlib.suppress(InputError):
        assert parse(text).name in COMMANDS


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_FIELDS = ("from", "chat", "text", "date", "message", "data", "id", "type", "is_bot")
_MESSAGE = st.dictionaries(st.sampled_from(_FIELDS), _JSON | st.just({"id": 7, "type": "private"}), max_size=8)


_PART = _MESSAGE | _JSON
_UPDATE = st.fixed_dictionaries({"update_id": _JSON}, optional={"message": _PART, "callback_query": _PART})


@given(_JSON | _UPDATE)
def test_any_document_is_an_update_or_none(raw: Any) -> None:
    found = telegram.update_of(raw)
    assert found is None or found.text == "" or found.is_direct


_DISCORD = {
    "id": "1442000000000000000",
    "channel_id": "11",
    "author": {"id": "7"},
    "type": 0,
    "content": "!status",
}
_FIELD = st.sampled_from([*_DISCORD, "message_reference", "webhook_id", "edited_timestamp"])


@given(_JSON | st.dictionaries(_FIELD, _JSON, max_size=4).map(lambda changed: _DISCORD | changed))
def test_any_document_is_a_message_of_discord_or_none(raw: Any) -> None:
    found = discord.update_of(raw)
    assert found is None or found.text == "" or found.is_direct


@pytest.mark.parametrize(
    "changed",
    [
        {"author": {"id": "7", "bot": True}},
        {"type": 6},
        {"message_reference": {"type": 1}},
        {"webhook_id": "5"},
        {"edited_timestamp": "2026-11-22T08:00:00+00:00"},
    ],
)
def test_what_a_person_did_not_write_to_the_bot_is_no_command_of_discord(changed: dict[str, Any]) -> None:
    found = discord.update_of(_DISCORD | changed)
    assert found is not None
    assert (found.text, found.is_direct) == ("", False)
    plain = discord.update_of(_DISCORD)
    assert plain is not None
    assert (plain.text, plain.user_id, plain.chat_id) == ("/status", 7, 11)


@given(st.integers(1_500_000_000, 4_000_000_000))
def test_ids_of_discord_hold_their_time(second: int) -> None:
    assert discord.time_of(discord.snowflake(second)) == second
    # the example of Discord's reference: 175928847299117063 was given at 2016-04-30 11:18:25.796 UTC
    assert discord.time_of(175928847299117063) == 1462015105.796
