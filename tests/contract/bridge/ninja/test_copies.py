"""The trade copier: one signal to three accounts at two simulated NinjaTraders, each with its own order and outcome."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from fks.clock import RealClock
from fks.interfaces.entry.order_entry import OrderEntry, OrderRequest
from fks.model.order import Side
from fks.model.signal import Kind
from fks.store.bus import Bus
from fks.store.db import Database
from tests.support.invariants import assert_journal
from tests.support.ninja_copies import ACCOUNT_IDS, ES, Copying, copying, enter

Start = Callable[..., Any]
BOTH = ("beside 2x", "apart 3")
VENUES = tuple(ACCOUNT_IDS)


@pytest.fixture
async def start(database: Database, bus: Bus, tmp_path: Path) -> AsyncIterator[Start]:
    async with contextlib.AsyncExitStack() as stack:

        async def started(*copies: str, **modes: str) -> Copying:
            made = await stack.enter_async_context(
                copying(database, bus, tmp_path, copies, {name.replace("_", "-"): mode for name, mode in modes.items()})
            )
            return made

        yield started
    await assert_journal(database)


async def test_one_signal_is_one_order_of_its_own_size_on_each_account(start: Start) -> None:
    trading = await start(*BOTH)
    signal = await enter(trading)
    found = {venue: await trading.order(signal, venue) for venue in VENUES}
    assert {venue: state for venue, (state, _, _) in found.items()} == dict.fromkeys(VENUES, "FILLED")
    assert len({id for _, _, id in found.values()}) == 3
    await trading.holds(lead=1, beside=2, apart=3)
    assert [trading.submits(id) for _, _, id in found.values()] == [1, 1, 1]
    out = await trading.rig.signal(Kind.EXIT, venue="ninja", exchange="ninja", symbol=ES)
    assert [(await trading.order(out, venue))[0] for venue in VENUES] == ["FILLED"] * 3
    await trading.holds()


@pytest.mark.parametrize("name", ["sma_cross", "one"])
async def test_a_kill_of_a_strategy_closes_its_copies(start: Start, name: str) -> None:
    trading = await start(*BOTH)
    signal = await enter(trading)
    for venue in VENUES:
        await trading.order(signal, venue)
    await trading.holds(lead=1, beside=2, apart=3)
    engage = "INSERT INTO kill_switch (kill_id, scope, report) VALUES ('k', $1, jsonb_build_object('flatten', true))"
    await trading.db.sql(engage, f"strategy:{name}")
    await trading.rig.bus.publish("fks.kill", {"type": "kill"})
    await trading.holds()


async def test_a_denial_of_one_account_is_no_other_accounts(start: Start) -> None:
    trading = await start("beside 0.5x", "apart 1")
    signal = await enter(trading)
    assert (await trading.order(signal, "ninja:beside"))[:2] == ("DENIED", "QTY_MIN")
    assert (await trading.order(signal, "ninja"))[0] == "FILLED"
    assert (await trading.order(signal, "ninja:apart"))[0] == "FILLED"
    await trading.holds(lead=1, apart=1)


async def test_what_the_leader_is_denied_no_account_does(start: Start) -> None:
    trading = await start(*BOTH)
    await trading.db.sql("UPDATE accounts SET is_enabled = false WHERE venue = 'ninja'")
    await trading.rig.read_slow()
    signal = await enter(trading)
    assert (await trading.order(signal, "ninja"))[:2] == ("DENIED", "ACCOUNT_UNKNOWN")
    rows = await trading.db.sql("SELECT venue, state FROM signals")
    assert [tuple(row) for row in rows] == [("ninja", "denied")]
    await trading.holds()


async def test_the_answer_lists_what_became_of_the_order_on_every_account(start: Start) -> None:
    trading = await start("beside 0.5x", "apart 3")
    entry = OrderEntry(trading.db, trading.rig.bus, RealClock(), trading.rig.settings)
    body = {"symbol": ES, "side": "buy", "type": "market", "quantity": "1", "venue": "ninja", "exchange": "ninja"}
    answer = await entry.submit(OrderRequest.parse(body), "user:ann", "k")
    assert (answer.status, answer.body["quantity"]) == (202, "1")
    found = {item["account"]: (item["venue"], item["signal_state"], item["code"]) for item in answer.body["accounts"]}
    assert found == {
        "nt:beside": ("ninja:beside", "denied", "QTY_MIN"),
        "nt:apart": ("ninja:apart", "ordered", None),
    }
    await trading.holds(lead=1, apart=3)


async def test_a_killed_bridge_delays_no_other_account(start: Start) -> None:
    trading = await start(*BOTH)
    await trading.bridges["other"].kill()
    begun_s = time.monotonic()
    signals = [await enter(trading) for _ in range(3)]
    for signal in signals:
        assert (await trading.order(signal, "ninja", 10))[0] == "FILLED"
        assert (await trading.order(signal, "ninja:beside", 10))[0] == "FILLED"
    assert time.monotonic() - begun_s < 15.0
    for signal in signals:  # nothing is sent to it later: each is denied, or refused with nothing sent
        state, code, id = await trading.order(signal, "ninja:apart", 60)
        assert state in ("DENIED", "REJECTED")
        assert code is not None
        assert trading.submits(id) == 0
    await trading.holds(lead=3, beside=6)


async def test_a_restart_between_copy_and_order_makes_no_second_copy(start: Start) -> None:
    trading = await start(*BOTH)
    signals = [await enter(trading) for _ in range(3)]
    await trading.rig.restart()
    sizes, filled = dict(zip(VENUES, (1, 2, 3), strict=True)), dict.fromkeys(VENUES, 0)
    count = 0
    for signal in signals:
        leader = await trading.order(signal, "ninja", 60)
        is_copied = leader[:2] != ("DENIED", "UNKNOWN_ORDER")  # what the leader is denied no account does
        for venue in VENUES if is_copied else ("ninja",):
            count += 1
            state, code, id = await trading.order(signal, venue, 60)
            # an order that the killed process had journaled and not sent yet is never sent; while it is UNKNOWN
            # the account has no entry
            is_unknown = (state, code) == ("DENIED", "UNKNOWN_ORDER")
            assert state in ("FILLED", "REJECTED", "ABSENT") or is_unknown, (state, code)
            assert trading.submits(id) == (state == "FILLED")
            filled[venue] += sizes[venue] * (state == "FILLED")
    rows = await trading.db.sql("SELECT count(*) AS count FROM signals")
    assert rows[0]["count"] == count
    await trading.holds(lead=filled["ninja"], beside=filled["ninja:beside"], apart=filled["ninja:apart"])


async def test_a_persons_closing_order_never_opens_a_follower(start: Start) -> None:
    trading = await start("beside 0.5x", "apart 2x")
    by_person = {"instance": "", "source": "principal:ann", "timeframe": None, "ts_event_ns": time.time_ns()}
    signal = await enter(trading, kind=Kind.ORDER, **by_person)
    assert (await trading.order(signal, "ninja:beside"))[:2] == ("DENIED", "QTY_MIN")
    await trading.holds(lead=1, apart=2)
    plain = {"stop_loss": None, "take_profit": None, "side": Side.SELL, **by_person, "ts_event_ns": time.time_ns()}
    close = await enter(trading, kind=Kind.ORDER, **plain)
    assert (await trading.order(close, "ninja"))[0] == "FILLED"
    assert (await trading.order(close, "ninja:apart"))[0] == "FILLED"
    assert (await trading.order(close, "ninja:beside"))[0] == "DENIED"
    await trading.holds()


async def test_an_account_that_is_off_repeats_nothing(start: Start) -> None:
    trading = await start("beside 1x off", "apart 1")
    signal = await enter(trading)
    assert (await trading.order(signal, "ninja:apart"))[0] == "FILLED"
    rows = await trading.db.sql("SELECT venue FROM signals ORDER BY venue")
    assert [row["venue"] for row in rows] == ["ninja", "ninja:apart"]
