"""Commands by Discord over real sockets: direct messages of bound users alone, once, through outages of Discord."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fks.interfaces.chat import bot, discord
from fks.store.bus import Bus
from fks.store.db import Database
from tests.support.discord import TOKEN, DiscordServer, discord_server
from tests.support.order_rig import seed
from tests.support.phone import Phone
from tests.support.users import code_of
from tests.support.waiting import until


@pytest.fixture
async def server() -> AsyncIterator[DiscordServer]:
    async with discord_server() as found:
        yield found


@pytest.fixture
async def phone(
    server: DiscordServer, database: Database, bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Phone:
    monkeypatch.setattr(bot, "RETRY", bot.Backoff(0.02, 0.05))
    monkeypatch.setattr(bot, "REPLY_RETRY", bot.Backoff(0.02, 0.05))
    monkeypatch.setattr(bot, "REFUSED_WAIT_S", 0.1)
    monkeypatch.setattr(discord, "PAUSE_S", 0.02)
    await seed(database)
    found = Phone(database, bus, server, tmp_path)
    found.secret = await found.add_user("ann")
    return found


async def test_questions_and_changes_are_answered(phone: Phone, server: DiscordServer) -> None:
    first, second = await phone.pending(), await phone.pending()
    async with phone.running():
        server.write("!status")
        assert (await phone.replies(1))[0].startswith("state: ")
        server.write("/signals")
        texts = await phone.replies(3)
        assert any(f"/reject {first}" in text and f"/approve {first} CODE" in text for text in texts)
        server.write(f"!approve {first[:8]} {code_of(phone.secret)}")
        assert (await phone.replies(4))[3].endswith("now ready")
        server.write(f"/reject {second}")
        assert (await phone.replies(5))[4].endswith("now declined")
        server.write("/kill enough")
        assert "KILL SWITCH engaged" in (await phone.replies(6))[5]
    assert [await phone.state_of(id) for id in (first, second)] == ["ready", "declined"]
    assert [tuple(row) for row in await phone.kills()] == [("enough", "user:ann")]
    addresses = await phone.db.sql("SELECT DISTINCT address FROM audit_log")
    assert [row["address"] for row in addresses] == ["discord:7"]


async def test_only_what_a_bound_account_writes_is_carried_out(phone: Phone, server: DiscordServer) -> None:
    async with phone.running():
        server.write("/kill", user=666)
        server.write("/kill", message_reference={"type": 1, "message_id": "1"})
        server.write("/kill", webhook_id="5")
        server.write("/kill", type=6)
        server.write("/kill", edited_timestamp="2026-11-22T08:00:00+00:00")
        server.answer(1007, "/kill")
        server.write("/kill now", user=8)  # bound to a user that does not exist
        server.write("/help")
        sent = await phone.replies(3)
        assert await phone.kills() == []
    assert any("there is no user bob" in text for text in sent)
    assert server.messages[1666], "it wrote, and was never read"
    assert phone.meter.total("fks_auth_failures_total", code="CHAT_STRANGER") == 4


async def test_after_a_restart_only_what_is_new_is_carried_out(phone: Phone, server: DiscordServer) -> None:
    id = await phone.pending()
    server.write("/kill from yesterday", age_s=1200)
    async with phone.running():
        server.write("nonsense", age_s=200)
        server.write("/help", age_s=60)
        await phone.replies(2)
    server.write(f"/reject {id}")
    async with phone.running():
        await phone.replies(3)
        await asyncio.sleep(0.2)
    assert (len(server.sent), await phone.state_of(id), await phone.kills()) == (3, "declined", [])


async def test_each_of_very_many_messages_is_read_once(
    phone: Phone, server: DiscordServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bot, "PER_MINUTE_MAX", 1000)
    for number in range(discord.PAGE_MAX * 2 + 10):
        server.write(f"/close NONE{number} 000000", user=8)
    async with phone.running():
        await phone.replies(discord.PAGE_MAX * 2 + 10)
    rows = await phone.db.sql("SELECT command FROM chat_commands ORDER BY update_id")
    assert [row["command"] for row in rows] == [f"/close NONE{number}" for number in range(discord.PAGE_MAX * 2 + 10)]


async def test_answers_of_the_bot_itself_are_passed_however_many(phone: Phone, server: DiscordServer) -> None:
    for number in range(discord.PAGE_MAX + 20):
        server.answer(1007, f"answer {number}")
    async with phone.running():
        await until(lambda: server.calls["read"] >= 6)  # both accounts
        assert server.after(1007, server.read_after[1007], 1000) == [], "what was passed is not read again"
        server.write("/help")
        await until(lambda: server.texts[-1].startswith("/status"))


async def test_accounts_that_hang_cost_the_others_one_time_out(
    phone: Phone, server: DiscordServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discord, "TIMEOUT_S", 1.0)
    others = range(20, 32)  # one after the other they would hang for 12 s
    phone.accounts = {str(user): "bob" for user in others} | {"7": "ann"}
    server.silent.update(user + 1000 for user in others)
    server.write("/kill fire")
    async with phone.running():
        await until(phone.kills, deadline_s=discord.TIMEOUT_S + 5.0)


async def test_account_that_cannot_be_read_delays_no_other(phone: Phone, server: DiscordServer) -> None:
    server.strangers.add(8)
    async with phone.running():
        server.write("/help")
        await phone.replies(1)
        opened = server.calls["open"]
        await asyncio.sleep(0.3)
    assert server.calls["open"] == opened, "it is asked for again after a minute"


async def test_outages_of_discord_delay_and_repeat_nothing(
    phone: Phone, server: DiscordServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discord, "TIMEOUT_S", 1.0)
    id = await phone.pending()
    server.faults["open"].extend([(401, {"message": "401: Unauthorized"}), (500, {}), "hang"])
    server.faults["read"].extend([(502, {}), (429, {"retry_after": 0.2, "global": True}), "hang", (404, {}), "late"])
    server.faults["write"].extend([(429, {"retry_after": 0.2}), (500, {}), "hang"])
    monkeypatch.setattr(discord, "REFUSED_WAIT_S", 0.1)
    async with phone.running():
        server.write(f"/reject {id}")
        texts = await phone.replies(1)
        await asyncio.sleep(0.2)
    assert (len(texts), await phone.state_of(id)) == (1, "declined")
    assert phone.log.events().count("chat.command") == 1


async def test_outage_of_the_whole_service_is_logged_once(phone: Phone, server: DiscordServer) -> None:
    phone.url = "http://127.0.0.1:1"  # nothing listens there
    async with phone.running():
        await until(lambda: "chat.waits" in phone.log.events())
        await asyncio.sleep(0.2)
    assert phone.log.events().count("chat.waits") == 1
    phone.url = server.url


async def test_no_secret_is_anywhere(phone: Phone, server: DiscordServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    id, code = await phone.pending(), code_of(phone.secret)
    server.faults["write"].append((500, {}))
    async with phone.running():
        server.write(f"/approve {id} {code}")
        await phone.replies(1)
    kept = str(await phone.db.sql("SELECT row_to_json(c)::text FROM chat_commands c"))
    everything = kept + caplog.text + str(phone.log.lines)
    assert TOKEN not in everything
    assert code not in everything
