"""The order manager and the venue `mt5` together, over the link and a real socket: signals in, lots out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest

from fks.model.order import OrderType, Outcome, Refusal, Role, Side, State
from fks.model.signal import Kind
from fks.store.bus import Bus
from fks.store.db import Database
from tests.support.guardian_process import guardian_with
from tests.support.mt5_agent import GROUP
from tests.support.mt5_trading import KEY, Mt5Trading, mt5_trading
from tests.support.ninja import SECRET
from tests.support.order_values import an_order
from tests.support.waiting import until

D = Decimal


@pytest.fixture
async def trading(database: Database, bus: Bus) -> AsyncIterator[Mt5Trading]:
    async with mt5_trading(database, bus) as trading:
        yield trading


async def test_entry_in_lots_is_protected_and_an_exit_ends_flat(trading: Mt5Trading) -> None:
    entry = await trading.enter()
    await trading.holds("0.03")
    line = next(line for line in trading.mt5.agent.received if line["t"] == "signal")
    assert (line["qty"], line["instrument"], line["account"]) == ("0.03", "EURUSD", "12")
    [trade] = await trading.rig.db.sql("SELECT quantity, fee, fee_currency, venue FROM trades")
    assert tuple(trade) == (D("0.03"), D("0.07"), "USD", "mt5")
    out = await trading.signal(Kind.EXIT)
    assert await trading.rig.outcome(out) == ("ordered", None)
    await trading.holds("0")
    for name in "ST":
        await trading.leg_is(entry, name, State.CANCELLED)
    assert trading.mt5.agent.lots["EURUSD"] == 0


async def test_size_between_two_steps_is_rounded_down(trading: Mt5Trading) -> None:
    entry = await trading.enter(size=D("0.0299"))
    assert trading.mt5.fills(entry.client_order_id) == [D("0.02")]
    await trading.holds("0.02")


async def test_short_entry_is_closed_by_its_stop_while_the_link_is_away(trading: Mt5Trading) -> None:
    entry = await trading.enter(side=Side.SELL)
    await trading.holds("-0.03")
    await trading.mt5.cut()
    trading.mt5.agent.move("EURUSD", "1.10200")
    await trading.mt5.connect()
    await trading.leg_is(entry, "S", State.FILLED)
    await trading.leg_is(entry, "T", State.CANCELLED)
    await trading.holds("0")


async def test_lost_connection_sends_no_second_order(trading: Mt5Trading) -> None:
    entry = await trading.enter()
    status = trading.rig.service.cache.venues["mt5"]
    before = status.ready_times
    trading.mt5.agent.drop()
    await until(lambda: trading.mt5.agent.connections >= 2, deadline_s=20)
    await until(lambda: status.ready_times > before, deadline_s=20)  # compared with the terminal again
    second = await trading.enter(size=D("0.01"))
    assert [len(trading.mt5.fills(one.client_order_id)) for one in (entry, second)] == [1, 1]
    await trading.holds("0.04")


async def test_same_order_again_is_executed_once(trading: Mt5Trading) -> None:
    order = an_order(
        venue="mt5", exchange="mt5", symbol="EURUSD", role=Role.ENTRY, side=Side.BUY, quantity=D("0.01"),
    )  # fmt: skip
    first = await trading.mt5.venue.submit(order)
    assert (first.outcome, first.detail) == (Outcome.ACK, "")
    assert (await trading.mt5.venue.submit(order)).outcome in (Outcome.ACK, Outcome.EXISTS)
    await until(lambda: trading.mt5.fills(order.client_order_id) == [D("0.01")])


async def test_disabled_trading_denies_entries_and_exits_wait(trading: Mt5Trading) -> None:
    await trading.enter()
    await trading.holds("0.03")
    agent = trading.mt5.agent
    agent.set_trading(10027)
    await until(lambda: trading.rig.service.cache.venues["mt5"].state != "READY", deadline_s=20)
    signal = await trading.signal(size=D("0.01"))
    outcome = await trading.rig.outcome(signal)
    assert outcome in (("denied", "VENUE_DOWN"), ("denied", "VENUE_NOT_RECONCILED"))
    [state] = await trading.rig.db.sql("SELECT state, detail FROM venue_states WHERE venue = 'mt5'")
    assert "trading is disabled at MetaTrader 5 (10027); press Algo Trading" in state["detail"]
    await trading.signal(Kind.EXIT)

    async def are_open(wanted: list[bool]) -> bool:
        rows = await trading.rig.db.sql("SELECT resolved_at IS NULL AS is_open FROM alerts WHERE event = 'ninja.risk'")
        return [row["is_open"] for row in rows] == wanted

    await until(lambda: are_open([True]))
    agent.set_trading(None)
    await trading.holds("0")
    await until(lambda: are_open([False]))
    assert sum(line["t"] == "signal" for line in agent.received) == 2


@pytest.mark.parametrize(("code", "remedy"), [(10026, "ask the broker"), (10027, "press Algo Trading")])
async def test_venue_sends_no_entry_while_trading_is_disabled(trading: Mt5Trading, code: int, remedy: str) -> None:
    trading.mt5.agent.set_trading(code)

    async def is_reported() -> bool:
        row = await trading.mt5.rows.link(KEY)
        return row is not None and row.report.accounts[0].get("trading_code") == code

    await until(is_reported)
    order = an_order(
        venue="mt5", exchange="mt5", symbol="EURUSD", role=Role.ENTRY, side=Side.BUY, quantity=D("0.01"),
    )  # fmt: skip
    answer = await trading.mt5.venue.submit(order)
    assert (answer.outcome, answer.code, answer.refusal) == (Outcome.REFUSED, "trading_disabled", Refusal.HALTED)
    assert remedy in answer.detail
    assert trading.mt5.agent.lines("signal") == []


async def test_nack_for_disabled_trading_is_a_halt(trading: Mt5Trading) -> None:
    trading.mt5.agent.trading_code = 10027  # since its last status
    order = an_order(
        venue="mt5", exchange="mt5", symbol="EURUSD", role=Role.ENTRY, side=Side.BUY, quantity=D("0.01"),
    )  # fmt: skip
    answer = await trading.mt5.venue.submit(order)
    assert (answer.outcome, answer.code, answer.refusal) == (Outcome.REFUSED, "trading_disabled", Refusal.HALTED)
    assert trading.mt5.fills(order.client_order_id) == []


async def test_kill_latch_of_the_agent_refuses_entries(trading: Mt5Trading) -> None:
    trading.mt5.agent.is_halted = True
    trading.mt5.agent.push_status()

    async def is_reported() -> bool:
        row = await trading.mt5.rows.link(KEY)
        return row is not None and row.report.is_halted

    await until(is_reported)
    signal = await trading.signal()
    assert await trading.rig.outcome(signal) == ("ordered", None)
    order = await trading.rig.becomes((await trading.rig.entry(signal)).client_order_id, State.REJECTED)
    assert "kill latch of MetaTrader 5" in (order.detail or "")


async def test_agent_away_denies_entries_and_closes_when_it_is_back(trading: Mt5Trading) -> None:
    await trading.enter()
    await trading.holds("0.03")
    await trading.mt5.cut()
    await until(lambda: trading.rig.service.cache.venues["mt5"].state != "READY", deadline_s=20)
    outcome = await trading.rig.outcome(await trading.signal())
    assert outcome[0] == "denied"
    await trading.signal(Kind.EXIT)
    await trading.mt5.connect()
    await trading.holds("0")


async def test_kill_reaches_the_agent_without_link_and_flattens(trading: Mt5Trading, tmp_path: Path) -> None:
    await trading.enter()
    await trading.holds("0.03")
    agent = trading.mt5.agent
    bridge = {"group": GROUP, "port": agent.port, "secret": SECRET.decode(), "platform": "mt5"}
    guardian = guardian_with({}, tmp_path, None, bridge=bridge)
    await guardian.start()
    await until(lambda: guardian.detail()["ninja"][KEY]["open"])  # type: ignore[index]
    await trading.mt5.cut()
    answer = await guardian.kill(reason="a test", by="me")
    assert answer["venues"] == [{"name": KEY, "state": "flat", "detail": ""}]
    assert (agent.lots["EURUSD"], agent.is_halted) == (0, True)
    assert [line["t"] for line in agent.received if line["t"] == "kill"] == ["kill"]
    await trading.mt5.connect()
    await trading.holds("0")
    await guardian.stop()


async def test_resting_order_is_found_listed_and_cancelled(trading: Mt5Trading) -> None:
    venue = trading.mt5.venue
    order = an_order(
        venue="mt5", exchange="mt5", symbol="EURUSD", role=Role.ENTRY, side=Side.BUY, quantity=D("0.07"),
        type=OrderType.LIMIT, price=D("1.05"),
    )  # fmt: skip
    assert (await venue.submit(order)).outcome is Outcome.ACK

    async def is_listed() -> bool:
        return [report.client_order_id for report in await venue.open_orders()] == [order.client_order_id]

    await until(is_listed)
    found = await venue.query("EURUSD", order.client_order_id)
    assert found.report is not None
    assert (found.report.state, found.report.price, found.report.quantity) == (State.WORKING, D("1.05"), D("0.07"))
    answer = await venue.cancel(order)
    assert answer.report is not None
    assert (answer.outcome, answer.report.state) == (Outcome.ACK, State.CANCELLED)
    assert await venue.open_orders() == []
    assert (await venue.cancel(order)).refusal is Refusal.UNKNOWN_ORDER


async def test_fill_has_one_id_wherever_it_is_seen(trading: Mt5Trading) -> None:
    await trading.enter()
    await trading.holds("0.03")
    [fill] = await trading.mt5.venue.fills_since("EURUSD", 0)
    who = await trading.mt5.venue.identity()
    assert who.uid == "mt5:demo/12"
    [trade] = await trading.rig.db.sql("SELECT fill_id FROM trades")
    assert str(trade["fill_id"]) == str(fill.fill_id)

    async def is_held() -> bool:  # a status is a second old at most
        balances = await trading.mt5.venue.balances()
        return "EURUSD" in balances and (balances["EURUSD"].free, balances["USD"].free) == (D("0.03"), D(10000))

    await until(is_held)
