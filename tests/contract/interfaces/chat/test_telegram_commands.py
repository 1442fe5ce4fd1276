"""Commands by Telegram over real sockets: bound users alone, confirmed, recorded, once, through outages of Telegram."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fks.config.settings import Settings
from fks.interfaces.chat import bot, telegram
from fks.model.signal import Kind
from fks.store.bus import Bus
from fks.store.db import Database
from tests.support.order_rig import Rig, seed
from tests.support.phone import Phone
from tests.support.scripted_venue import ScriptedVenue
from tests.support.telegram import TOKEN, telegram_server
from tests.support.users import code_of
from tests.support.waiting import until


@pytest.fixture
async def phone(database: Database, bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Phone]:
    monkeypatch.setattr(bot, "RETRY", bot.Backoff(0.02, 0.05))
    monkeypatch.setattr(bot, "REPLY_RETRY", bot.Backoff(0.02, 0.05))
    monkeypatch.setattr(bot, "REFUSED_WAIT_S", 0.1)
    await seed(database)
    async with telegram_server() as server:
        found = Phone(database, bus, server, tmp_path)
        found.secret = await found.add_user("ann")
        yield found


async def test_questions_are_answered(phone: Phone) -> None:
    await phone.db.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity, average_price, realized_pnl)"
        " VALUES (1, 'ccxt', 'BTCUSDT', 'one', 2, 90, 5), (1, 'ccxt', 'ETHUSDT', 'external', 6, 0, 0)"
    )
    async with phone.running():
        for number, text in enumerate(("/help", "/status", "/positions", "/pnl", "/signals"), 1):
            phone.server.write(text)
            await phone.replies(number)
    texts = phone.server.texts
    assert "/kill [REASON]" in texts[0]
    assert texts[1].startswith("state: ")
    assert texts[2] == "main BTCUSDT: 2 at 90 (one), +20.00\nmain ETHUSDT: 6, value unknown (external)"
    assert texts[3] == "main: realised +5.00, open +20.00, fees 0.00"
    assert texts[4] == "no signal waits"
    assert {item["chat_id"] for item in phone.server.sent} == {7}
    rows = await phone.db.sql("SELECT user_name, command, state FROM chat_commands ORDER BY update_id")
    assert [tuple(row) for row in rows][1] == ("ann", "/status", "done")


async def test_fees_without_a_rate_are_counted_beside_the_sum(phone: Phone) -> None:
    await phone.db.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity, average_price, realized_pnl, fees)"
        " VALUES (1, 'ccxt', 'BTCUSDT', 'one', 0, 0, 5, 2)"
    )
    await phone.db.sql(
        "INSERT INTO trades (fill_id, account_id, venue, symbol, instance, trade_type, quantity, price, fee, "
        "fee_currency, time) "
        "VALUES (gen_random_uuid(), 1, 'ccxt', 'BTCUSDT', 'one', 'BUY', 1, 90, 0.01, 'BNB', now())"
    )
    async with phone.running():
        phone.server.write("/pnl")
        await phone.replies(1)
    assert phone.server.texts == ["main: realised +5.00, open +0.00, fees 2.00 and 1 without a rate"]


async def test_accounts_that_are_not_bound_are_not_answered(phone: Phone) -> None:
    server = phone.server
    async with phone.running():
        server.write("/kill", user=666)
        server.write("/kill", chat={"id": -100, "type": "group"})
        server.write("/kill", chat={"id": -100, "type": "private"})
        server.write("/kill", forward_origin={"type": "user"})
        server.write("/kill", **{"from": {"id": 7, "is_bot": True}})
        server.add({"edited_message": {"text": "/kill", "from": {"id": 7}, "chat": {"id": 7, "type": "private"}}})
        server.add({"message": "nonsense"})
        server.press("kill", user=666)
        server.write("/kill now", user=8)  # bound to a user that does not exist
        server.write("/help")
        await phone.replies(2)
        assert await phone.kills() == []
    assert {item["chat_id"] for item in server.sent} == {7, 8}
    assert "there is no user bob" in next(item["text"] for item in server.sent if item["chat_id"] == 8)
    assert phone.meter.total("fks_auth_failures_total", code="CHAT_STRANGER") == 8
    strangers = [fields["account"] for _, event, fields in phone.log.lines if event == "chat.stranger"]
    assert strangers == [666, 7, 0], "each account once"


async def test_signal_is_approved_with_a_code_and_declined_without(phone: Phone) -> None:
    first, second = await phone.pending(), await phone.pending()
    async with phone.running():
        phone.server.write(f"/approve {first} 000000")
        assert "the code is wrong" in (await phone.replies(1))[0]
        code = code_of(phone.secret)
        phone.server.write(f"/approve {first[:8]} {code}")
        assert (await phone.replies(2))[1].endswith("now ready")
        phone.server.write(f"/approve {second} {code}")
        assert "was used" in (await phone.replies(3))[2], "a code is good once"
        phone.server.write(f"/reject {second[:8]}")
        assert (await phone.replies(4))[3].endswith("now declined")
        phone.server.write(f"/approve {second} {code_of(phone.secret, steps=1)}")
        assert "not pending" in (await phone.replies(5))[4]
    assert [await phone.state_of(id) for id in (first, second)] == ["ready", "declined"]
    row = (await phone.db.sql("SELECT decided_by FROM signals WHERE id = $1", uuid.UUID(first)))[0]
    assert row["decided_by"] == "user:ann"


async def test_buttons_decline_and_ask_for_the_code(phone: Phone) -> None:
    id = await phone.pending()
    async with phone.running():
        phone.server.write("/signals")
        await phone.replies(1)
        (row,) = phone.server.sent[0]["reply_markup"]["inline_keyboard"]
        data = {button["text"]: button["callback_data"] for button in row}
        assert all(len(item.encode()) <= 64 for item in data.values())
        phone.server.press(data["Approve…"])
        assert (await phone.replies(2))[1].startswith(f"send: /approve {id} CODE")
        assert await phone.state_of(id) == "pending"
        phone.server.press(data["Reject"])
        await phone.replies(3)
    assert await phone.state_of(id) == "declined"
    assert len(phone.server.confirmed_presses) == 2


async def test_wrong_codes_lock_the_chat_and_a_stop_works_all_the_same(phone: Phone) -> None:
    id = await phone.pending()
    async with phone.running():
        for number in range(6):
            phone.server.write(f"/approve {id} 00000{number}")
            await phone.replies(number + 1)
        phone.server.write(f"/approve {id} {code_of(phone.secret)}")
        assert "too many" in (await phone.replies(7))[6]
        phone.server.write("/kill lost phone")
        assert "KILL SWITCH engaged" in (await phone.replies(8))[7]
    assert await phone.state_of(id) == "pending"
    assert [tuple(row) for row in await phone.kills()] == [("lost phone", "user:ann")]
    assert phone.meter.total("fks_auth_failures_total", code="LOGIN_LOCKED") >= 1


async def test_scope_of_the_user_holds(phone: Phone) -> None:
    secret = await phone.add_user("bob", "read")
    id = await phone.pending()
    async with phone.running():
        phone.server.write(f"/approve {id} {code_of(secret)}", user=8)
        phone.server.write("/close BTCUSDT 123456", user=8)
        phone.server.write(f"/reject {id}", user=8)
        texts = await phone.replies(3)
        assert all("has scope read" in text for text in texts)
        await phone.db.sql("UPDATE users SET disabled_at = now() WHERE name = 'bob'")
        phone.server.write("/status", user=8)
        phone.server.write("/kill", user=8)
        assert all("disabled" in text for text in (await phone.replies(5))[3:])
    assert (await phone.state_of(id), await phone.kills()) == ("pending", [])


async def test_user_bound_to_an_account_sees_and_changes_that_one_alone(phone: Phone) -> None:
    secret = await phone.add_user("bob", accounts=[2])
    theirs, own = await phone.pending(), await phone.pending(2)
    await phone.db.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity, average_price) VALUES"
        " (1, 'ccxt', 'ETHUSDT', 'one', 2, 9), (2, 'paper', 'BTCUSDT', 'two', 1, 90)"
    )
    await phone.db.sql(
        "INSERT INTO component_health (name, kind, state, pid, beat_at)"
        " VALUES ('orders', 'actor', 'ready', 1, now() + interval '1 hour')"
    )
    await phone.db.sql("UPDATE strategy_instances SET error = 'of main' WHERE id = 'one'")
    async with phone.running():
        texts: list[str] = []
        for user, text, steps in (
            *((8, "/positions", None), (8, "/pnl", None), (8, "/signals", None), (8, f"/reject {theirs}", None)),
            *((8, f"/approve {theirs[:8]}", 0), (8, "/close ETHUSDT", 1), (8, "/status", None)),
            *((7, "/positions", None), (7, "/pnl", None), (7, "/status", None)),
        ):
            phone.server.write(text if steps is None else f"{text} {code_of(secret, steps=steps)}", user=user)
            texts = await phone.replies(len(texts) + 1)
    assert texts[0] == "sheet BTCUSDT: 1 at 90 (two), +10.00"
    assert texts[1] == "sheet: realised +0.00, open +10.00, fees 0.00"
    assert "sheet" in texts[2]
    assert own[:8] in texts[2]
    assert f"there is no signal {theirs}" in texts[3]
    assert "names no waiting signal" in texts[4]
    assert "nothing is held in ETHUSDT" in texts[5]
    assert not [text for text in texts[:3] if "main" in text or "ETH" in text]
    assert all("main" in text and "sheet" in text for text in texts[7:9]), "another user sees both"
    assert "of main" not in texts[6], "reasons are about all accounts"
    assert "of main" in texts[9]
    assert await phone.state_of(theirs) == "pending"
    assert await phone.db.sql("SELECT 1 FROM signals WHERE kind = 'exit'") == []


async def test_position_is_closed_once_though_the_command_is_received_again_and_again(
    phone: Phone, database: Database, bus: Bus
) -> None:
    rig = Rig(database, bus, ScriptedVenue())
    await rig.start(wait_ready=True)
    try:
        await rig.outcome(await rig.signal())
        own = {"source": "principal:me", "instance": "", "timeframe": None, "size": Decimal(2), "reference_price": None}
        await rig.outcome(await rig.signal(Kind.ORDER, **own))
        await until(lambda: _are_held(rig))
        phone.server.repeats_all = True
        async with phone.running():
            phone.server.write(f"/close BTC/USDT {code_of(phone.secret)}")
            (text,) = (await phone.replies(1))[:1]
            await asyncio.sleep(0.3)
        async with phone.running():  # a successor receives it as well
            await asyncio.sleep(0.3)
        assert "order" in text
        await until(lambda: _are_closed(rig))
        exits = await database.sql("SELECT source FROM signals WHERE kind = 'exit'")
        assert [row["source"] for row in exits] == ["principal:user:ann"] * 2, "one for each position"
        assert len(phone.server.sent) == 1
    finally:
        await rig.stop()


async def _are_held(rig: Rig) -> bool:
    return bool(await rig.position("one") and await rig.position(""))


async def _are_closed(rig: Rig) -> bool:
    return not await rig.db.sql("SELECT FROM positions WHERE quantity <> 0")


async def test_stop_is_engaged_once_though_it_is_received_again_and_again(phone: Phone) -> None:
    phone.server.repeats_all = True
    async with phone.running():
        phone.server.write("/kill enough")
        await phone.replies(1)
        await asyncio.sleep(0.3)
    await phone.db.sql("UPDATE kill_switch SET is_engaged = false")
    async with phone.running():
        await asyncio.sleep(0.3)
    assert await phone.kills() == [], "a stop that was released is not engaged by an old message"
    assert len(phone.server.sent) == 1


async def test_old_messages_are_not_carried_out(phone: Phone) -> None:
    id = await phone.pending()
    async with phone.running():
        phone.server.write(f"/reject {id}", age_s=300)
        phone.server.write("/kill", age_s=1200)
        texts = await phone.replies(2)
        assert all("minutes ago and is not carried out" in text for text in texts)
        assert await phone.kills() == []
        phone.server.write("/kill late", age_s=600)
        await phone.replies(3)
    assert (await phone.state_of(id), len(await phone.kills())) == ("pending", 1)


async def test_outages_of_telegram_delay_and_repeat_nothing(phone: Phone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telegram, "TIMEOUT_S", 1.0)
    monkeypatch.setattr(bot, "POLL_S", 0)
    id = await phone.pending()
    faults = phone.server.faults
    faults["getUpdates"].extend([(502, {}), (429, {"parameters": {"retry_after": 0.2}}), "hang", (409, {}), "late"])
    faults["sendMessage"].extend([(429, {"ok": False, "parameters": {"retry_after": 0.2}}), (500, {}), "hang"])
    async with phone.running():
        phone.server.write(f"/reject {id}")
        texts = await phone.replies(1)
        await asyncio.sleep(0.2)
    assert (len(texts), await phone.state_of(id)) == (1, "declined")
    assert phone.server.calls["sendMessage"] == 4
    assert [event for event in phone.log.events() if event.startswith("chat.")].count("chat.command") == 1
    assert {"chat.waits", "chat.works"} <= set(phone.log.events())


async def test_answer_that_telegram_refuses_for_good_is_given_up(phone: Phone) -> None:
    phone.server.faults["sendMessage"].append((403, {"ok": False, "description": "bot was blocked by the user"}))
    async with phone.running():
        phone.server.write("/help")
        await until(lambda: "chat.reply_lost" in phone.log.events())
        phone.server.write("/help")
        await phone.replies(1)
    assert phone.server.calls["sendMessage"] == 2


async def test_command_whose_process_died_is_reported_and_a_stop_engaged(phone: Phone) -> None:
    insert = (
        "INSERT INTO chat_commands (service, update_id, chat_id, user_name, command, sent_at)"
        " VALUES ('telegram', $1, 7, 'ann', $2, now())"
    )
    await phone.db.sql(insert, 1, "/close BTCUSDT")
    await phone.db.sql(insert, 2, "/kill enough")
    async with phone.running():
        texts = await phone.replies(2)
    assert any(text.startswith("/close BTCUSDT: the process ended in the middle") for text in texts)
    assert [row["reason"] for row in await phone.kills()] == ["enough"]


async def test_stop_reaches_the_guardian_while_the_database_is_away(phone: Phone, database_url: str) -> None:
    asked: list[dict[str, Any]] = []

    async def guardian(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(json.loads(await reader.readline()))
        writer.write(b'{"ok": true, "engaged": true, "is_quiet": true}\n')
        writer.close()

    phone.paths.guardian_socket.parent.mkdir(parents=True, exist_ok=True)
    server = await asyncio.start_unix_server(guardian, phone.paths.guardian_socket)
    phone.db = await Database.lazy("postgresql://nobody@127.0.0.1:1/none", Settings().database.model_copy(
        update={"retry_s": 0.0, "connect_timeout_s": 0.5}
    ), application="chat")  # fmt: skip
    try:
        async with phone.running():
            phone.server.write("/kill fire")
            phone.server.write("/close BTCUSDT 123456")
            texts = await phone.replies(2)
    finally:
        server.close()
        await phone.db.close()
    assert [(item["op"], item["reason"], item["by"]) for item in asked] == [("kill", "fire", "user:ann")]
    assert any("KILL SWITCH engaged: all is cancelled and closed" in text for text in texts)
    assert any("nothing was done" in text for text in texts)
    assert "audit.lost" in phone.log.events()


async def test_changes_are_in_the_audit_and_no_secret_is_anywhere(
    phone: Phone, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    id, code = await phone.pending(), code_of(phone.secret)
    phone.server.faults["getUpdates"].append((401, {"ok": False, "description": "Unauthorized"}))
    phone.server.faults["sendMessage"].append((500, {}))
    async with phone.running():
        phone.server.write(f"/approve {id} {code}")
        phone.server.write("/positions")
        await phone.replies(2)
    phone.url = "http://127.0.0.1:1"  # nothing listens there
    async with phone.running():
        await until(lambda: phone.log.events().count("chat.waits") >= 2)
    rows = await phone.db.sql("SELECT phase, actor, action, object, status, address FROM audit_log ORDER BY id")
    assert [tuple(row) for row in rows] == [
        ("requested", "user:ann", "chat /approve", id, None, "telegram:7"),
        ("answered", "user:ann", "chat /approve", id, 200, "telegram:7"),
    ]
    kept = str(await phone.db.sql("SELECT row_to_json(c)::text FROM chat_commands c")) + str([tuple(r) for r in rows])
    everything = kept + caplog.text + str(phone.log.lines)
    assert TOKEN not in everything
    assert code not in everything


async def test_a_flood_of_one_account_is_not_carried_out_but_a_stop_is(phone: Phone) -> None:
    async with phone.running():
        for _ in range(bot.PER_MINUTE_MAX + 20):
            phone.server.write("/help")
        phone.server.write("/kill flood")
        await until(phone.kills)
        await phone.replies(bot.PER_MINUTE_MAX + 1)
        await asyncio.sleep(0.2)
    assert len(phone.server.sent) == bot.PER_MINUTE_MAX + 1
