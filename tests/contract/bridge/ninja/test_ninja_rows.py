"""Rows between askers and the link of a NinjaTrader bridge: one state at a time, one event once, one writer."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from typing import Any

import asyncpg
import pytest

from fks.model.errors import BugError, StaleEpochError
from fks.model.ninja import (
    FINAL,
    OPEN,
    TRANSITIONS,
    LinkReport,
    NinjaEvent,
    NinjaRequest,
    RequestKind,
    RequestState,
    sources_of,
)
from fks.model.timeframe import NS
from fks.store.db import Database
from fks.store.leases import raise_epoch
from fks.store.ninja import NinjaStore
from tests.support.ports import TestLease

NOW = 1_767_225_600 * NS
S = RequestState
LEASE = "ninja:sim"
EPOCH, LATER = "0b9d8c7e6f5a4b3c2d1e0f9a8b7c6d5e", "1b9d8c7e6f5a4b3c2d1e0f9a8b7c6d5e"
LINE = b'{"t":"signal"}\n'
REPORT = LinkReport("READY", True, False, ({"name": "Sim101", "sim": True, "mode": "auto", "connected": True},), 12)


def request(id: str, kind: RequestKind = RequestKind.SIGNAL, *, until_s: float | None = 30.0) -> NinjaRequest:
    body = {"account": "Sim101", "instrument": "ES 03-25", "price": "4500.25"}
    return NinjaRequest(id, "sim", kind, body, "orders", None if until_s is None else NOW + int(until_s * NS))


def event(seq: int, epoch: str = EPOCH, *, kind: str = "order", **body: Any) -> NinjaEvent:
    signal_id = body.get("id")
    return NinjaEvent(epoch, seq, kind, "Sim101", signal_id, {"seq": seq, **body}, NOW)


async def link_of(database: Database, lease: str = LEASE) -> NinjaStore:
    return NinjaStore(database, TestLease(lease, await raise_epoch(database, lease, "test")))


@pytest.fixture
async def asker(database: Database) -> NinjaStore:
    return NinjaStore(database)


@pytest.fixture
async def link(database: Database) -> NinjaStore:
    store = await link_of(database)
    await store.record_link("sim", REPORT)
    return store


async def state_of(store: NinjaStore, id: str) -> RequestState:
    found = await store.answer_of(id)
    assert found is not None
    return found.state


async def put(asker: NinjaStore, link: NinjaStore, id: str, state: RequestState) -> None:
    """Store a request and bring it into `state` by allowed steps."""
    await asker.ask(request(id), NOW)
    if state is S.NEW:
        return
    if state is S.WITHDRAWN:
        assert await asker.withdraw(id, NOW)
        return
    assert await link.mark_sending([(id, LINE, EPOCH)]) == {id}
    if state is not S.SENDING:
        assert await link.record_answer(id, state, now_ns=NOW)


# ── asking ───────────────────────────────────────────────────────────────────────────────────────
async def test_a_request_is_stored_once_and_read_back(asker: NinjaStore) -> None:
    assert await asker.ask(request("a"), NOW)
    assert await asker.ask(request("a"), NOW + 5), "the same again, after a lost answer of the database"
    assert not await asker.ask(dataclasses.replace(request("a"), body={"account": "Other"}), NOW)
    found = await asker.answer_of("a")
    assert found is not None
    assert found.request == request("a")
    assert (found.state, found.created_ns, found.line, found.answered_ns) == (S.NEW, NOW, None, None)
    assert await asker.answer_of("b") is None


async def test_a_superseded_asker_stores_nothing(database: Database) -> None:
    old = await link_of(database, "orders")
    assert await old.ask(request("a"), NOW)
    new = await link_of(database, "orders")
    assert not await old.ask(request("b"), NOW)
    assert await new.ask(request("b"), NOW)
    found = await new.answer_of("b")
    assert found is not None
    assert found.asker_epoch == 2


async def test_a_signal_without_an_end_is_refused(asker: NinjaStore) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="signal_ends"):
        await asker.ask(request("a", until_s=None), NOW)
    assert await asker.ask(request("k", RequestKind.KILL, until_s=None), NOW)


# ── claiming ─────────────────────────────────────────────────────────────────────────────────────
async def test_emergencies_come_first_and_signals_last_each_oldest_first(asker: NinjaStore, link: NinjaStore) -> None:
    kinds = {
        "s1": RequestKind.SIGNAL, "q1": RequestKind.QUERY, "s2": RequestKind.SIGNAL, "c1": RequestKind.CANCEL,
        "f1": RequestKind.FLATTEN, "k1": RequestKind.KILL, "m1": RequestKind.MODIFY, "f2": RequestKind.FLATTEN,
    }  # fmt: skip
    for id, kind in kinds.items():
        await asker.ask(request(id, kind), NOW)
    await asker.ask(dataclasses.replace(request("x"), group="other"), NOW)
    found = await link.claim("sim", 10, NOW)
    assert [of.request.id for of in found] == ["k1", "f1", "f2", "c1", "q1", "m1", "s1", "s2"]
    assert [of.request.id for of in await link.claim("sim", 3, NOW)] == ["k1", "f1", "f2"]
    assert len(await link.claim("sim", 10, NOW, has_signals=False)) == 6


async def test_a_row_that_is_being_withdrawn_is_not_waited_for(
    database: Database, asker: NinjaStore, link: NinjaStore
) -> None:
    for id in ("a", "b"):
        await asker.ask(request(id), NOW)
    async with database.transaction() as session:
        assert await NinjaStore(session).withdraw("a", NOW)
        async with asyncio.timeout(5.0):
            assert [of.request.id for of in await link.claim("sim", 10, NOW)] == ["b"]
    assert [of.request.id for of in await link.claim("sim", 10, NOW)] == ["b"]


async def test_claiming_waits_for_no_disk_and_sending_does(
    database: Database, asker: NinjaStore, link: NinjaStore
) -> None:
    """The locks of a claim make a commit that is written; nothing is lost with it."""
    await asker.ask(request("a"), NOW)
    lease = TestLease(LEASE, await raise_epoch(database, LEASE, "test"))
    for name, waits in (("claim", "off"), ("mark_sending", "on")):
        async with database.transaction() as session:
            await session.sql("SET LOCAL synchronous_commit = on")
            store = NinjaStore(session, lease)
            if name == "claim":
                assert [of.request.id for of in await store.claim("sim", 10, NOW)] == ["a"]
            else:
                assert await store.mark_sending([("a", LINE, EPOCH)]) == {"a"}
            assert (await session.sql("SHOW synchronous_commit"))[0]["synchronous_commit"] == waits, name


async def test_a_request_that_waited_too_long_expires_and_is_not_sent(asker: NinjaStore, link: NinjaStore) -> None:
    await asker.ask(request("a", until_s=30.0), NOW)
    await asker.ask(request("k", RequestKind.KILL, until_s=None), NOW)
    assert await link.expire("sim", NOW + 30 * NS - 1_000) == []
    assert [of.request.id for of in await link.claim("sim", 10, NOW + 30 * NS)] == ["k"]
    assert await link.expire("sim", NOW + 30 * NS) == ["a"]
    found = await asker.answer_of("a")
    assert found is not None
    assert (found.state, found.code, found.answered_ns) == (S.EXPIRED, "expired", NOW + 30 * NS)
    assert await link.mark_sending([("a", LINE, EPOCH)]) == set()


# ── withdraw against sending ─────────────────────────────────────────────────────────────────────
async def test_a_withdrawn_request_is_never_sent(asker: NinjaStore, link: NinjaStore) -> None:
    await asker.ask(request("a"), NOW)
    (claimed,) = await link.claim("sim", 10, NOW)
    assert await asker.withdraw("a", NOW)
    assert await asker.withdraw("a", NOW + 1), "safe to repeat"
    assert await link.mark_sending([(claimed.request.id, LINE, EPOCH)]) == set()
    assert await state_of(asker, "a") is S.WITHDRAWN


async def test_a_request_that_may_have_left_cannot_be_withdrawn(asker: NinjaStore, link: NinjaStore) -> None:
    await asker.ask(request("a"), NOW)
    assert await link.mark_sending([("a", LINE, EPOCH)]) == {"a"}
    assert await link.mark_sending([("a", LINE, EPOCH)]) == {"a"}, "safe to repeat"
    assert await link.mark_sending([("a", b"other\n", EPOCH)]) == set()
    assert not await asker.withdraw("a", NOW)
    found = await asker.answer_of("a")
    assert found is not None
    assert (found.state, found.line, found.bridge_epoch) == (S.SENDING, LINE, EPOCH)
    assert await asker.withdraw("unknown", NOW) is False


@pytest.mark.parametrize("seed", range(3))
async def test_of_withdraw_and_send_at_once_exactly_one_wins(asker: NinjaStore, link: NinjaStore, seed: int) -> None:
    ids = [f"r{n}" for n in range(30)]
    for id in ids:
        await asker.ask(request(id), NOW)
    dice = random.Random(seed)
    order = dice.sample(ids, len(ids))

    async def withdraw(id: str) -> bool:
        await asyncio.sleep(dice.random() * 0.01)
        return await asker.withdraw(id, NOW)

    async def send(some: list[str]) -> set[str]:
        await asyncio.sleep(dice.random() * 0.01)
        return await link.mark_sending([(id, LINE, EPOCH) for id in some])

    withdrawn, *sent = await asyncio.gather(
        asyncio.gather(*(withdraw(id) for id in order)), *(send(ids[n : n + 5]) for n in range(0, 30, 5))
    )
    left = {id for id, is_withdrawn in zip(order, withdrawn, strict=True) if is_withdrawn}
    gone = set().union(*sent)
    assert left | gone == set(ids)
    assert left & gone == set()


async def test_a_released_request_waits_again_and_may_be_withdrawn(asker: NinjaStore, link: NinjaStore) -> None:
    await asker.ask(request("a"), NOW)
    await link.mark_sending([("a", LINE, EPOCH)])
    assert await link.release("a")
    found = await asker.answer_of("a")
    assert found is not None
    assert (found.state, found.line) == (S.NEW, None)
    assert await asker.withdraw("a", NOW)
    assert not await link.release("a")


# ── states ───────────────────────────────────────────────────────────────────────────────────────
BY_ANSWER = (S.ACKED, S.NACKED, S.INDETERMINATE, S.UNANSWERED, S.EXPIRED)


@pytest.mark.parametrize("before", list(RequestState))
async def test_an_answer_changes_a_state_only_as_the_table_allows(
    asker: NinjaStore, link: NinjaStore, before: RequestState
) -> None:
    for target in BY_ANSWER:
        id = f"{before}-{target}"
        await put(asker, link, id, before)
        may = target in TRANSITIONS[before] or target is before
        assert await link.record_answer(id, target, now_ns=NOW, code="c") is may, target
        assert await state_of(asker, id) is (target if may else before)


def test_final_states_are_left_for_none_and_open_ones_lead_to_an_end() -> None:
    assert {S.ACKED, S.NACKED, S.EXPIRED, S.WITHDRAWN} == FINAL
    assert all(TRANSITIONS[state] & FINAL for state in OPEN)
    assert sources_of(S.WITHDRAWN) == {S.NEW}, "only what has not left is withdrawn"
    assert sources_of(S.SENDING) == {S.NEW}


async def test_an_answer_is_kept_with_code_and_time(asker: NinjaStore, link: NinjaStore) -> None:
    await put(asker, link, "a", S.SENDING)
    assert await link.record_answer("a", S.SENDING, now_ns=None, code="rate_limited", detail="5 a second")
    assert await link.record_answer("a", S.UNANSWERED, now_ns=None, code="disconnected")
    answer = {"t": "ack", "state": "submitted", "note": "a\x00b"}
    assert await link.record_answer("a", S.ACKED, now_ns=NOW + 7_000, answer=answer)
    assert await link.record_answer("a", S.ACKED, now_ns=NOW + 9_000, answer=answer), "safe to repeat"
    found = await asker.answer_of("a")
    assert found is not None
    assert found.answer == {"t": "ack", "state": "submitted", "note": "a\ufffdb"}
    assert (found.code, found.answered_ns) == ("", NOW + 7_000)


async def test_only_what_may_have_left_is_open(asker: NinjaStore, link: NinjaStore) -> None:
    for state in RequestState:
        await put(asker, link, state.value, state)
    assert {of.request.id for of in await link.open_requests("sim")} == {of.value for of in OPEN}
    assert {(of.state, of.count) for of in await link.waiting()} == {(state, 1) for state in (*OPEN, S.NEW)}


async def test_a_superseded_link_writes_nothing(database: Database, asker: NinjaStore, link: NinjaStore) -> None:
    await put(asker, link, "a", S.NEW)
    await put(asker, link, "b", S.SENDING)
    await link_of(database)
    with pytest.raises(StaleEpochError, match="newer epoch"):
        await link.mark_sending([("a", LINE, EPOCH)])
    with pytest.raises(StaleEpochError):
        await link.record_link("sim", REPORT)
    with pytest.raises(StaleEpochError):
        await link.record_events("sim", [event(0, kind="epoch")])
    assert not await link.record_answer("b", S.ACKED, now_ns=NOW)
    assert not await link.release("b")
    assert await link.expire("sim", NOW + 60 * NS) == []
    assert (await state_of(asker, "a"), await state_of(asker, "b")) == (S.NEW, S.SENDING)


async def test_an_asker_without_the_lease_of_the_link_writes_no_answers(asker: NinjaStore) -> None:
    with pytest.raises(BugError, match="lease"):
        await asker.record_answer("a", S.ACKED, now_ns=NOW)


# ── events ───────────────────────────────────────────────────────────────────────────────────────
async def test_events_are_stored_once_and_in_order(asker: NinjaStore, link: NinjaStore) -> None:
    assert await link.record_events("sim", [event(0, kind="epoch")]) == 1
    batch = [event(1, id="a", price="4500.25"), event(2)]
    assert await link.record_events("sim", batch) == 2
    assert await link.record_events("sim", batch) == 0, "safe to repeat"
    with pytest.raises(BugError, match="do not follow"):
        await link.record_events("sim", [event(4)])
    assert await link.record_events("sim", [event(2), event(3, kind="exec", id="a", comment="\x00")]) == 1
    found = await asker.events_after("sim", EPOCH, 0)
    assert [of.seq for of in found] == [1, 2, 3]
    assert (found[0].body["price"], found[0].at_ns, found[2].body["comment"]) == ("4500.25", NOW, "\ufffd")
    assert [of.seq for of in await asker.events_of("a")] == [1, 3]
    assert [of.seq for of in await asker.events_after("sim", EPOCH, 1, limit=1)] == [2]
    assert await asker.events_after("sim", EPOCH, 3) == []
    stored = await asker.link("sim")
    assert stored is not None
    assert (stored.bridge_epoch, stored.stored_seq) == (EPOCH, 3)


async def test_a_reader_goes_on_through_a_gap_and_another_journal(asker: NinjaStore, link: NinjaStore) -> None:
    await link.record_events("sim", [event(0, kind="epoch")])
    await link.record_events("sim", [event(1), event(2)])
    await link.record_events("sim", [event(9, kind="gap", first=3, last=9)])
    await link.record_events("sim", [event(10)])
    with pytest.raises(BugError):
        await link.record_events("sim", [event(1, LATER)])
    await link.record_events("sim", [event(4, LATER, kind="epoch")])
    await link.record_events("sim", [event(5, LATER)])
    found = await asker.events_after("sim", EPOCH, 1)
    assert [(of.epoch, of.seq, of.kind) for of in found] == [
        (EPOCH, 2, "order"), (EPOCH, 9, "gap"), (EPOCH, 10, "order"), (LATER, 4, "epoch"), (LATER, 5, "order"),
    ]  # fmt: skip
    assert len(await asker.events_after("sim", None, 0)) == 7
    assert [of.seq for of in await asker.events_after("sim", LATER, 4)] == [5]
    assert [(group, of.seq) for group, of in await asker.last_events(2)] == [("sim", 4), ("sim", 5)]


async def test_a_reader_whose_event_was_pruned_gets_the_kept_ones(
    database: Database, asker: NinjaStore, link: NinjaStore
) -> None:
    await link.record_events("sim", [event(0, kind="epoch")])
    await link.record_events("sim", [event(1), event(2)])
    await database.sql("UPDATE ninja_events SET received_at = now() - interval '91 days' WHERE seq < 2")
    assert await link.prune("sim") == 2
    assert [of.seq for of in await asker.events_after("sim", EPOCH, 0)] == [2]
    assert [of.seq for of in await asker.events_after("sim", None, 0)] == [2]


async def test_two_processes_of_one_epoch_store_an_event_once(asker: NinjaStore, link: NinjaStore) -> None:
    await link.record_events("sim", [event(0, kind="epoch")])
    batches = [[event(n) for n in range(1, last + 1)] for last in (3, 5, 8)]
    for batch in batches:
        counts = await asyncio.gather(*(link.record_events("sim", batch) for _ in range(4)))
        assert sum(counts) <= len(batch)
    assert [of.seq for of in await asker.events_after("sim", EPOCH, 0)] == list(range(1, 9))


# ── the link's row ───────────────────────────────────────────────────────────────────────────────
async def test_a_link_reports_itself_and_grows_old(database: Database, asker: NinjaStore, link: NinjaStore) -> None:
    snapshot = {"ready": True, "accounts": [{"name": "Sim101", "values": {"CashValue": "100000.5"}}]}
    full = dataclasses.replace(REPORT, snapshot=snapshot, snapshot_ns=NOW, alarm="clock_offset: 3 s")
    assert await link.record_link("sim", full) == (None, 0, False)
    await link.record_events("sim", [event(7, kind="epoch")])
    assert await link.record_link("sim", dataclasses.replace(REPORT, is_halted=True)) == (EPOCH, 7, False)
    found = await asker.link("sim")
    assert found is not None
    assert (found.report.snapshot, found.report.snapshot_ns, found.report.alarm) == (snapshot, NOW, "")
    assert found.report.accounts == REPORT.accounts
    assert found.is_fresh
    assert not found.can_trade, "halted"
    await link.record_link("sim", REPORT)
    await database.sql("UPDATE ninja_links SET updated_at = now() - interval '6 seconds'")
    (found,) = await asker.links()
    assert (found.is_fresh, found.can_trade, round(found.age_s)) == (False, False, 6)
    assert await asker.link("other") is None


async def test_a_link_remembers_that_a_bridge_had_line_macs(link: NinjaStore) -> None:
    for has_line_mac, was_seen in ((False, False), (True, True), (False, True)):
        report = dataclasses.replace(REPORT, has_line_mac=has_line_mac)
        assert (await link.record_link("sim", report))[2] is was_seen


async def test_executions_of_an_account_are_found_by_their_index(database: Database, asker: NinjaStore) -> None:
    await database.sql(
        "INSERT INTO ninja_events (group_name, bridge_epoch, seq, kind, account, body, at) SELECT 'sim', 'e', n,"
        " (ARRAY['exec', 'order', 'signal', 'order'])[1 + n % 4], 'Sim' || n % 3,"
        " jsonb_build_object('instrument', 'ES ' || n % 5, 'op', 'add'), timestamptz '2026-01-01' + n * interval '1 s'"
        " FROM generate_series(1, 20000) AS n"
    )
    await database.sql("ANALYZE ninja_events")
    plan = "\n".join(
        row["QUERY PLAN"]
        for row in await database.sql(
            "EXPLAIN SELECT * FROM ninja_events WHERE group_name = 'sim' AND kind = 'exec' AND account = 'Sim1'"
            " AND body ->> 'instrument' = 'ES 1' AND at >= timestamptz '2026-01-01 05:00' ORDER BY position"
        )
    )
    assert "ix_ninja_events_executions" in plan, plan
    found = await asker.executions("sim", "Sim1", "ES 1", NOW + 5 * 3_600 * NS)
    assert [event.seq for event in found] == [
        n for n in range(1, 20_001) if n % 4 == 0 and n % 3 == 1 and n % 5 == 1 and n >= 5 * 3_600
    ]
