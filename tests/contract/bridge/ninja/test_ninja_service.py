"""The link of a NinjaTrader group: rows in, lines out, once; answers and events in, rows out, once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

from fks.model.errors import StaleEpochError
from fks.model.ninja import RequestKind, RequestRecord, RequestState
from fks.store.db import Database
from fks.store.facts import FactStore
from fks.store.leases import raise_epoch
from fks.store.ninja import NinjaStore
from tests.support.ninja import EPOCH, OTHER_EPOCH, SECRET, ack, log_event, nack, status
from tests.support.ninja_link import LinkRig
from tests.support.ninja_server import ACCOUNT, ScriptedBridge
from tests.support.waiting import until

S = RequestState


@pytest.fixture
async def bridge() -> AsyncIterator[ScriptedBridge]:
    async with ScriptedBridge() as bridge:
        yield bridge


@pytest.fixture
async def rig(database: Database, bridge: ScriptedBridge) -> LinkRig:
    return LinkRig(database, bridge.port)


async def reached(rig: LinkRig, id: str, state: RequestState) -> None:
    async def there() -> bool:
        return (await rig.row(id)).state is state

    await until(there)


async def stored(rig: LinkRig, seq: int) -> None:
    async def there() -> bool:
        link = await rig.asker.link(rig.group)
        return link is not None and link.stored_seq == seq

    await until(there)


# ── signals ──────────────────────────────────────────────────────────────────────────────────────
async def test_a_signal_is_committed_sent_and_answered(rig: LinkRig, bridge: ScriptedBridge) -> None:
    async with rig.running() as link:
        await until(lambda: link.can_trade)
        await rig.ask("a1")
        await until(lambda: bool(bridge.lines("signal")))
        row = await rig.row("a1")
        assert (row.state, row.bridge_epoch) == (S.SENDING, EPOCH)
        assert row.line is not None
        sent = json.loads(row.line)
        assert sent["price"] == 4500.25
        assert sent["valid_until"] - sent["created_ms"] == 30_000
        bridge.write(ack("a1", price_used=Decimal("4500.25")))
        await reached(rig, "a1", S.ACKED)
        row = await rig.row("a1")
        assert row.answer is not None
        assert (row.answer["order"], row.answer["price_used"]) == ("FKS:a1:E", "4500.25")
    assert rig.meter.total("fks_ninja_requests_total", state="ACKED") == 1
    assert rig.notified > 0


async def test_a_final_refusal_ends_a_signal_with_its_code(rig: LinkRig, bridge: ScriptedBridge) -> None:
    bridge.answers["a1"] = nack("a1", "bad_bracket", final=True)
    async with rig.running():
        await rig.ask("a1")
        await reached(rig, "a1", S.NACKED)
    assert (await rig.row("a1")).code == "bad_bracket"


async def test_a_signal_refused_for_now_is_sent_again_with_the_same_line(rig: LinkRig, bridge: ScriptedBridge) -> None:
    bridge.answers["a1"] = nack("a1", "rate_limited", final=False)
    async with rig.running():
        await rig.ask("a1")
        await until(lambda: len(bridge.lines("signal")) == 1)

        async def noted() -> bool:
            return (await rig.row("a1")).code == "rate_limited"

        await until(noted)
        assert (await rig.row("a1")).state is S.SENDING
        bridge.answers["a1"] = ack("a1")
        await reached(rig, "a1", S.ACKED)
    first, second = bridge.lines("signal")
    assert first == second


async def test_a_signal_that_met_the_kill_latch_is_not_sent_again(rig: LinkRig, bridge: ScriptedBridge) -> None:
    bridge.answers["a1"] = nack("a1", "halted", final=False)
    bridge.answers["a2"] = ack("a2")
    async with rig.running() as link:
        await rig.ask("a1", valid_s=2.0)
        await reached(rig, "a1", S.NACKED)
        bridge.answers["a1"] = ack("a1")
        await until(lambda: link.detail()["signals_open"] == 0)  # its time is over, and it is forgotten
        await rig.ask("a2")
        await reached(rig, "a2", S.ACKED)
    assert [line["id"] for line in bridge.lines("signal")] == ["a1", "a2"]
    assert (await rig.row("a1")).code == "halted"


async def test_without_a_connection_a_signal_waits_and_expires(rig: LinkRig, bridge: ScriptedBridge) -> None:
    rig.port = 9  # nothing listens there
    async with rig.running():
        await rig.ask("a1", valid_s=1.0)
        await rig.ask("a2")
        await reached(rig, "a1", S.EXPIRED)
        row = await rig.row("a2")
        assert (row.state, row.line) == (S.NEW, None)
        assert await rig.asker.withdraw("a2", row.created_ns)
    assert bridge.lines("signal") == []


async def test_a_body_that_makes_no_message_is_refused_and_nothing_leaves(rig: LinkRig, bridge: ScriptedBridge) -> None:
    async with rig.running() as link:
        await until(lambda: link.can_trade)
        await rig.ask("a1", qty=0)
        await rig.ask("a2", price="cheap")
        await rig.ask("a3", price="1.123456789012345678901")
        await rig.ask("a4", colour="red")
        for id, code in (("a1", "bad_field"), ("a2", "bad_field"), ("a3", "bad_field"), ("a4", "unknown_field")):
            await reached(rig, id, S.NACKED)
            assert (await rig.row(id)).code == code
    assert bridge.lines("signal") == []


# ── restarts and losses ──────────────────────────────────────────────────────────────────────────
async def test_after_a_kill_the_bridge_is_asked_and_the_same_line_repeated(
    rig: LinkRig, bridge: ScriptedBridge
) -> None:
    async with rig.running(is_killed=True):
        await rig.ask("a1")
        await until(lambda: bool(bridge.lines("signal")))
    bridge.answers["a1"] = ack("a1")
    async with rig.running():
        await reached(rig, "a1", S.ACKED)
    assert [line["t"] for line in bridge.lines("signal", "query")] == ["signal", "query", "signal"]
    first, second = bridge.lines("signal")
    assert first == second


async def test_a_signal_of_a_lost_journal_is_never_sent_again(rig: LinkRig, bridge: ScriptedBridge) -> None:
    async with rig.running(is_killed=True):
        await rig.ask("a1")
        await until(lambda: bool(bridge.lines("signal")))
    await rig.db.sql("UPDATE ninja_requests SET bridge_epoch = $1", OTHER_EPOCH)
    async with rig.running():

        async def lost() -> bool:
            return (await rig.row("a1")).code == "journal_lost"

        await until(lost)
    assert (await rig.row("a1")).state is S.UNANSWERED
    asked = len(bridge.lines("query"))
    async with rig.running() as link:
        await until(lambda: link.can_trade)
    assert len(bridge.lines("signal")) == 1
    assert len(bridge.lines("query")) == asked, "the bridge cannot know it: it is not asked again"


async def test_a_lost_connection_leaves_a_signal_unanswered_until_it_is_asked(
    rig: LinkRig, bridge: ScriptedBridge
) -> None:
    async with rig.running():
        await rig.ask("a1")
        await until(lambda: bool(bridge.lines("signal")))
        bridge.answers["a1"] = ack("a1")
        bridge.drop()
        await reached(rig, "a1", S.ACKED)
    assert rig.meter.total("fks_ninja_disconnects_total") >= 1
    assert [line["t"] for line in bridge.lines("signal", "query")] == ["signal", "query", "signal"]


# ── other requests ───────────────────────────────────────────────────────────────────────────────
async def test_emergencies_leave_before_signals_and_their_results_are_kept(
    rig: LinkRig, bridge: ScriptedBridge
) -> None:
    bridge.results["kill"] = {"flat": True, "remaining": []}
    bridge.results["flatten"] = {"ok": False, "code": "timeout", "detail": "not flat in 30 s"}
    bridge.answers |= {id: ack(id) for id in ("a1", "a2")}
    await rig.ask("a1")
    await rig.ask("a2")
    await rig.ask("f1", RequestKind.FLATTEN, account="Sim101", instruments=["ES 03-25"], reason="test")
    await rig.ask("k1", RequestKind.KILL, valid_s=None, reason="test")
    async with rig.running():
        for id, state in (("k1", S.ACKED), ("f1", S.NACKED), ("a1", S.ACKED), ("a2", S.ACKED)):
            await reached(rig, id, state)
    lines = bridge.lines("signal", "kill", "flatten")
    assert [line.get("rid") or line["id"] for line in lines] == ["k1", "f1", "a1", "a2"]
    found = await rig.row("k1")
    assert found.answer is not None
    assert found.answer["flat"] is True
    assert ((await rig.row("f1")).code, (await rig.row("f1")).detail) == ("timeout", "not flat in 30 s")


async def test_a_status_and_a_query_are_answered_whole(rig: LinkRig, bridge: ScriptedBridge) -> None:
    async with rig.running():
        await rig.ask("s1", RequestKind.STATUS)
        await rig.ask("q1", RequestKind.QUERY, id="a9")
        await reached(rig, "s1", S.ACKED)
        await reached(rig, "q1", S.ACKED)
    status, query = (await rig.row("s1")).answer, (await rig.row("q1")).answer
    assert status is not None
    assert query is not None
    assert status["accounts"][0]["name"] == "Sim101"
    assert (query["id"], query["state"]) == ("a9", "unknown_id")


async def test_a_request_without_an_answer_is_unanswered(rig: LinkRig, bridge: ScriptedBridge) -> None:
    async with rig.running(is_killed=True):
        await rig.ask("c1", RequestKind.CANCEL, id="a1")
        await reached(rig, "c1", S.UNANSWERED)
        assert (await rig.row("c1")).code == "timeout"
        await rig.ask("c2", RequestKind.CANCEL, id="a1")
        await until(lambda: len(bridge.lines("cancel")) == 2)
    async with rig.running():
        await reached(rig, "c2", S.UNANSWERED)
    assert (await rig.row("c2")).code == "restarted"
    assert len(bridge.lines("cancel")) == 2, "it is not repeated by itself"


# ── events ───────────────────────────────────────────────────────────────────────────────────────
async def test_events_are_stored_once_in_order_and_then_acknowledged(rig: LinkRig, bridge: ScriptedBridge) -> None:
    bridge.events += [log_event(1), log_event(2)]
    async with rig.running(is_killed=True):
        await stored(rig, 2)
        bridge.publish(log_event(3, kind="exec", id="a1", account="Sim101", name="FKS:a1:E", exec_id="X1", op="add",
                                 side="buy", qty=1, price=4500, time_ms=1))  # fmt: skip
        await until(lambda: [line["seq"] for line in bridge.lines("evack")][-1:] == [3])
    bridge.events.append(log_event(4))
    async with rig.running():
        await stored(rig, 4)
    assert [line["last_seq"] for line in bridge.lines("auth")] == [0, 3]
    events = await rig.asker.events_after("sim", None, 0)
    assert [(event.seq, event.kind) for event in events] == [
        (0, "epoch"), (1, "halt"), (2, "halt"), (3, "exec"), (4, "halt"),
    ]  # fmt: skip
    (fill,) = await rig.asker.events_of("a1")
    assert (fill.account, fill.body["exec_id"]) == ("Sim101", "X1")


async def test_an_amended_execution_pages_with_what_it_was_and_is(rig: LinkRig, bridge: ScriptedBridge) -> None:
    fill = {
        "kind": "exec",
        "id": "a1",
        "account": "Sim101",
        "name": "FKS:a1:E",
        "exec_id": "X1",
        "side": "buy",
        "time_ms": 1,
    }
    async with rig.running():
        bridge.events.append(log_event(1, **fill, op="add", qty=2, price=4500))
        bridge.publish(log_event(2, **fill, op="update", qty=2, price=4500, commission=2))
        await stored(rig, 2)
        assert await rig.alerts() == [], "only its fees are amended"
        bridge.publish(log_event(3, **fill, op="update", qty=1, price=4500))
        bridge.publish(log_event(4, **fill, op="remove", qty=1, price=4500))
        await stored(rig, 4)

        async def paged() -> bool:
            return await rig.alerts() == [("page", "ninja.execution_amended")] * 2

        await until(paged)
    rows = await rig.db.sql("SELECT payload FROM alerts ORDER BY id")
    assert [(row["payload"]["before"], row["payload"]["now"]) for row in rows] == [
        ("buy 2 4500", "buy 1 4500"), ("buy 2 4500", "removed"),
    ]  # fmt: skip


async def test_events_that_are_gone_are_a_row_of_their_own(rig: LinkRig, bridge: ScriptedBridge) -> None:
    bridge.events.append(log_event(1))
    async with rig.running(is_killed=True):
        await stored(rig, 1)
    bridge.events += [log_event(seq) for seq in range(2, 9)]
    bridge.welcome = {"oldest_seq": 6}
    bridge.first_line = {"t": "gap", "from": 2, "to": 5}
    bridge.replay_from = 5
    async with rig.running():
        await stored(rig, 8)
    events = await rig.asker.events_after("sim", EPOCH, 1)
    assert [(event.seq, event.kind) for event in events] == [(5, "gap"), (6, "halt"), (7, "halt"), (8, "halt")]
    assert events[0].body == {"first": 2, "last": 5}
    assert ("page", "ninja.log_lost") in await rig.alerts()


# ── outages of the database ──────────────────────────────────────────────────────────────────────
async def test_without_the_database_the_session_stays_and_nothing_moves(rig: LinkRig, bridge: ScriptedBridge) -> None:
    bridge.answers |= {id: ack(id) for id in ("a1", "a2")}
    async with rig.running() as link:
        await until(lambda: link.can_trade)
        rig.outage.is_down = True
        await rig.ask("a1")  # through another connection to the database
        bridge.publish(log_event(1))
        await until(lambda: any(event == "ninja.rows_down" for _, event, _ in rig.log.lines))
        await rig.polls()
        assert link.is_connected
        assert [problem.name for problem in link.problems()] == ["database"]
        assert bridge.lines("signal", "evack") == []
        rig.outage.is_down = False
        await reached(rig, "a1", S.ACKED)
        await stored(rig, 1)
        await until(lambda: [line["seq"] for line in bridge.lines("evack")] == [1])
        assert bridge.connections == 1
        assert link.problems() == []
    assert len(bridge.lines("signal")) == 1


async def test_without_the_lease_nothing_is_sent(rig: LinkRig, bridge: ScriptedBridge) -> None:
    bridge.answers["a1"] = ack("a1")
    async with rig.running() as link:
        await until(lambda: link.can_trade)
        rig.lease.is_held = False
        await rig.ask("a1")
        await rig.polls()
        assert bridge.lines("signal") == []
        assert (await rig.row("a1")).state is S.NEW
        rig.lease.is_held = True
        await reached(rig, "a1", S.ACKED)


async def test_a_newer_epoch_ends_the_link(rig: LinkRig, bridge: ScriptedBridge) -> None:
    link = await rig.make()
    running = asyncio.create_task(link.run())
    await until(lambda: link.can_trade)
    await raise_epoch(rig.db, "ninja:sim", "another")
    with pytest.raises(StaleEpochError):
        await asyncio.wait_for(running, 5.0)
    assert len(bridge.lines("hello")) == 1


# ── health ───────────────────────────────────────────────────────────────────────────────────────
async def test_connected_is_told_from_able_to_trade(rig: LinkRig, bridge: ScriptedBridge) -> None:
    bridge.welcome = {"halted": True}
    async with rig.running() as link:
        await until(lambda: link.is_connected)
        await until(lambda: link.can_trade)  # the status after the replay: the latch is lifted
        bridge.publish(log_event(1, kind="halt", on=True, reason="daily loss"))
        await until(lambda: not link.can_trade)
        assert link.is_connected
        assert link.is_ready, "NinjaTrader is optional"

        async def written() -> bool:
            row = await rig.asker.link("sim")
            return row is not None and row.report.is_halted and row.report.is_ready and not row.can_trade

        await until(written)
        row = await rig.asker.link("sim")
        assert row is not None
        assert row.report.accounts[0]["connected"] is True
        assert row.report.snapshot is not None
        assert row.report.snapshot["accounts"][0]["values"] == {"CashValue": "100000"}
        bridge.drop()
        await until(lambda: not link.is_connected)
    assert ("page", "ninja.halt") in await rig.alerts()


async def test_an_account_is_what_the_newest_status_says(rig: LinkRig, bridge: ScriptedBridge) -> None:
    bridge.welcome = {"accounts": [{"name": "Sim101", "sim": False, "mode": "off", "connected": False}]}
    read = {"sim": True, "mode": "auto", "currency": "EUR", "margin_mode": "netting"}

    async def told(*accounts: dict[str, Any]) -> None:
        """Wait until the row has these accounts, with these fields at least."""

        async def is_written() -> bool:
            row = await rig.asker.link("sim")
            found = () if row is None else row.report.accounts
            pairs = zip(accounts, found, strict=False)
            return len(found) == len(accounts) and all(one.items() <= of.items() for one, of in pairs)

        await until(is_written)

    async with rig.running():
        await told({"sim": False, "mode": "off", "connected": True})  # this status does not say what the account is
        bridge.write(status(accounts=[ACCOUNT | read]))
        await told(read | {"connected": True})
        bridge.write(status(accounts=[ACCOUNT | {"status": "ConnectionLost"}]))
        await told(read | {"connected": False})
        bridge.write(status(accounts=[ACCOUNT | read, ACCOUNT | read | {"name": "Sim102"}]))
        await told(read, read | {"name": "Sim102", "connected": True})


async def test_a_bridge_without_a_journal_pages_once_and_still_takes_exits(
    rig: LinkRig, bridge: ScriptedBridge
) -> None:
    async with rig.running() as link:
        await until(lambda: link.can_trade)
        for _ in range(3):
            bridge.write(status(accounts=[ACCOUNT], journal_error="journal write failed: disk full"))

        async def shown() -> bool:
            row = await rig.asker.link("sim")
            return row is not None and row.can_trade and "disk full" in row.report.alarm

        await until(shown)
        bridge.write(status(accounts=[ACCOUNT]))
        await until(lambda: link.detail()["alarm"] == "")
    assert (await rig.alerts()).count(("page", "ninja.alarm")) == 1


async def open_alerts(rig: LinkRig) -> list[str]:
    """Return the open alerts: the account, else the message of each."""
    rows = await rig.db.sql("SELECT payload, message FROM alerts WHERE resolved_at IS NULL ORDER BY id")
    return [row["payload"].get("account") or row["message"] for row in rows]


async def test_each_account_that_cannot_trade_has_a_page_of_its_own(rig: LinkRig, bridge: ScriptedBridge) -> None:
    async with rig.running():
        for seq, account in ((1, "Sim101"), (2, "Sim102")):
            bridge.publish(log_event(seq, kind="risk", code="trading_disabled", account=account))

        async def are_open(*accounts: str) -> bool:
            return await open_alerts(rig) == list(accounts)

        await until(lambda: are_open("Sim101", "Sim102"))
        bridge.publish(log_event(3, kind="risk", code="trading_enabled", account="Sim101"))
        await until(lambda: are_open("Sim102"))
        bridge.publish(log_event(4, kind="risk", code="trading_enabled", account="Sim102"))
        await until(are_open)


@pytest.mark.parametrize("lasts", [False, True])
async def test_alerts_of_an_earlier_link_end_unless_their_cause_lasts(
    rig: LinkRig, bridge: ScriptedBridge, lasts: bool
) -> None:
    component = rig.platform.link(rig.group)
    causes = ["journal_error", "halt", "line_mac_required"]
    ended = ["unreachable", "clock_skew"]  # a session begins, and the clocks of these two agree
    for cause in (*causes, *ended):
        await FactStore(rig.db).note_alert("page", "ninja.alarm", cause, component, {}, f"{component}|{cause}")
    bridge.welcome = {"journal_error": "disk full", "halted": True} if lasts else {}
    rig.line_mac = "required" if lasts else "off"
    async with rig.running() as link:
        await until(lambda: link.is_connected)
        fields = {"journal_error": "disk full", "halted": True} if lasts else {}
        bridge.write(status(accounts=[ACCOUNT], **fields))

        async def are_open() -> bool:
            rows = await rig.db.sql("SELECT dedupe_key AS key FROM alerts WHERE resolved_at IS NULL")
            return {row["key"].rpartition("|")[2] for row in rows} == (set(causes) if lasts else set())

        await until(are_open)
        await rig.polls()
        assert await are_open()


async def test_a_required_platform_that_is_away_makes_the_link_not_ready(database: Database) -> None:
    rig = LinkRig(database, 9)
    async with rig.running(is_required=True) as link:
        await until(lambda: any(event == "ninja.waiting" for _, event, _ in rig.log.lines))
        assert not link.is_ready
        assert [problem.name for problem in link.problems()] == ["ninja"]
        assert "is not connected" in link.problems()[0].detail
    async with rig.running() as link:
        assert link.is_ready
        assert link.problems() == []


async def test_a_superseded_session_stops_and_pages(rig: LinkRig, bridge: ScriptedBridge) -> None:
    async with rig.running() as link:
        await until(lambda: link.can_trade)
        bridge.write({"t": "bye", "code": "superseded", "detail": "", "retry_after_ms": 0})

        async def paged() -> bool:
            return ("page", "ninja.superseded") in await rig.alerts()

        await until(paged)
        assert not link.is_connected
        assert "took the session" in link.problems()[0].detail
        row = await rig.asker.link("sim")
        assert row is not None
        assert (row.report.state, row.can_trade) == ("STOPPED", False)
        await rig.ask("a1")
        await rig.polls()
        assert (await rig.row("a1")).state is S.NEW
    assert bridge.connections == 1


async def test_a_wrong_secret_pages_and_the_row_says_why(database: Database) -> None:
    async with ScriptedBridge(secret=b"z" * 32) as impostor:
        rig = LinkRig(database, impostor.port)
        async with rig.running() as link:

            async def paged() -> bool:
                return ("page", "ninja.alarm") in await rig.alerts()

            await until(paged)
            assert not link.is_connected

            async def written() -> bool:
                row = await rig.asker.link("sim")
                return row is not None and "does not have the secret" in row.report.alarm

            await until(written)
        async with rig.running():
            await until(lambda: impostor.connections >= 2)
            await until(lambda: sum(event == "ninja.alarm" for _, event, _ in rig.log.lines) >= 2)
        assert (await rig.alerts()).count(("page", "ninja.alarm")) == 1, "each attempt finds the same condition"
    assert SECRET.decode() not in str(rig.log.lines)


# ── MACs of lines ────────────────────────────────────────────────────────────────────────────────
EXIT = {"action": "exit", "type": "market", "price": None, "sl_points": None, "tp_points": None}


async def refused_for_its_lines(rig: LinkRig, id: str) -> None:
    await rig.ask(id)
    await reached(rig, id, S.NACKED)
    row = await rig.row(id)
    assert (row.code, row.line) == ("line_mac_required", None)
    assert "update the AddOn, or set ninja.line_mac = off" in row.detail


async def test_a_bridge_that_lost_its_line_macs_gets_exits_alone(rig: LinkRig, bridge: ScriptedBridge) -> None:
    bridge.has_line_mac = True
    bridge.answers |= {id: ack(id) for id in ("a1", "x1", "a4")}
    async with rig.running() as link:
        await rig.ask("a1")
        await reached(rig, "a1", S.ACKED)
        assert link.detail()["line_mac"] is True
        bridge.has_line_mac = False
        bridge.drop()
        await refused_for_its_lines(rig, "a2")
        await rig.ask("x1", **EXIT)
        await reached(rig, "x1", S.ACKED)
        await rig.ask("k1", RequestKind.STATUS, valid_s=None)
        await reached(rig, "k1", S.ACKED)
    async with rig.running() as link:  # another process knows it by the row
        await refused_for_its_lines(rig, "a3")
        assert "carry no MAC" in str(link.detail()["alarm"])
        bridge.has_line_mac = True
        bridge.drop()
        await until(lambda: link.detail()["line_mac"] is True)
        await rig.ask("a4")
        await reached(rig, "a4", S.ACKED)
        assert link.detail()["alarm"] == ""
    assert [line["id"] for line in bridge.lines("signal")] == ["a1", "x1", "a4"]
    assert ("page", "ninja.alarm") in await rig.alerts()


async def test_an_entry_claimed_as_the_connection_is_lost_waits_for_the_next(
    rig: LinkRig, bridge: ScriptedBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge.has_line_mac = True
    bridge.answers["a1"] = ack("a1")
    rig.line_mac = "required"
    claim, is_lost = NinjaStore.claim, False

    async def claim_and_lose(store: NinjaStore, *args: Any, **named: Any) -> list[RequestRecord]:
        nonlocal is_lost
        found = await claim(store, *args, **named)
        if found and not is_lost:
            is_lost = True
            bridge.drop()
            await until(lambda: not link.is_connected)
        return found

    monkeypatch.setattr(NinjaStore, "claim", claim_and_lose)
    async with rig.running() as link:
        await until(lambda: link.can_trade)
        await rig.ask("a1")
        await reached(rig, "a1", S.ACKED)
    assert is_lost
    assert ("page", "ninja.alarm") not in await rig.alerts()


async def test_a_session_of_a_moment_is_remembered_to_have_had_line_macs(rig: LinkRig, bridge: ScriptedBridge) -> None:
    """The link's row is written at times of its own: the session may be over by then."""
    bridge.has_line_mac = True
    async with rig.running() as link:
        rig.outage.is_down = True
        await until(lambda: link.is_connected)
        bridge.has_line_mac = False
        bridge.drop()
        await until(lambda: link.is_connected and link.detail()["line_mac"] is False)
        rig.outage.is_down = False
        await rig.polls()
    (row,) = await rig.db.sql("SELECT has_line_mac FROM ninja_links")
    assert row["has_line_mac"]


async def test_required_line_macs_are_asked_of_a_bridge_never_seen_with_them(
    rig: LinkRig, bridge: ScriptedBridge
) -> None:
    rig.line_mac = "required"
    async with rig.running():
        await refused_for_its_lines(rig, "a1")
    assert bridge.lines("signal") == []


async def test_line_macs_that_are_off_are_neither_offered_nor_asked_for(rig: LinkRig, bridge: ScriptedBridge) -> None:
    rig.line_mac = "off"
    bridge.answers["a1"] = ack("a1")
    async with rig.running() as link:
        await rig.ask("a1")
        await reached(rig, "a1", S.ACKED)
        assert link.detail()["line_mac"] is False


async def test_a_line_put_into_the_stream_ends_the_session_and_pages(rig: LinkRig, bridge: ScriptedBridge) -> None:
    bridge.has_line_mac = True
    async with rig.running() as link:
        await until(lambda: link.can_trade)
        await rig.ask("a1")
        await until(lambda: bool(bridge.lines("signal")))
        bridge.writers[-1].write(b'{"t":"ack","id":"a1","state":"submitted","dup":false,"order":"x","at_ms":1}\n')
        await until(lambda: bridge.connections == 2)
        await reached(rig, "a1", S.UNANSWERED)
    assert ("page", "ninja.alarm") in await rig.alerts()
