"""The venue `ninja` against the simulated NinjaTrader, over real rows, the real link and a real socket.

Cases N-01 to N-20: what every venue promises (docs/venues.md), and what is NinjaTrader's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from fks.bridge.peer.bridge import BridgeConfig
from fks.model.account import Environment
from fks.model.errors import OutageError
from fks.model.futures import Contract, contract_of
from fks.model.ids import fill_id_v2, leg_id
from fks.model.order import OrderType, Outcome, Presence, Refusal, Role, Side, State, TimeInForce
from fks.model.ports import SessionBack, SessionLost
from fks.store.bus import Bus
from fks.store.db import Database
from tests.support.ninja_venue import ACCOUNT, ES, GROUP, NinjaRig, ninja_rig
from tests.support.waiting import until

D = Decimal


@pytest.fixture
async def idle(database: Database, bus: Bus, tmp_path: Path) -> AsyncIterator[NinjaRig]:
    """A rig whose link does not run."""
    async with ninja_rig(database, bus, tmp_path / "nt8") as rig:
        yield rig


@pytest.fixture
async def rig(idle: NinjaRig) -> NinjaRig:
    """A rig that trades."""
    await idle.up()
    await until(lambda: any(isinstance(event, SessionBack) for event in idle.events))
    return idle


async def test_n01_an_entry_is_acknowledged_filled_and_protected(rig: NinjaRig) -> None:
    order = rig.order(quantity=D(2))
    answer = await rig.venue.submit(order)
    assert (answer.outcome, answer.detail) == (Outcome.ACK, "")
    assert answer.report is not None
    assert (answer.report.client_order_id, answer.report.symbol) == (order.client_order_id, ES)
    await rig.reported(order.client_order_id, State.FILLED)
    await until(lambda: sum(fill.quantity for fill in rig.fills(order.client_order_id)) == 2)
    for name, role, level in (("S", Role.STOP_LOSS, order.stop_loss), ("T", Role.TAKE_PROFIT, order.take_profit)):
        report = await rig.reported(leg_id(order.client_order_id, name), State.ACCEPTED, State.WORKING)
        assert report.leg is not None
        assert (report.leg.parent_id, report.leg.role, report.leg.number) == (order.client_order_id, role, 1)
        assert (report.leg.stop_price if name == "S" else report.price) == level


async def test_n02_the_line_has_the_order_and_nothing_else(rig: NinjaRig) -> None:
    order = rig.order(instance="orb")
    await rig.venue.submit(order)
    record = await rig.rows.answer_of(order.client_order_id)
    assert record is not None
    assert order.stop_loss is not None
    assert order.take_profit is not None
    assert record.request.body == {
        "account": ACCOUNT, "instrument": ES, "qty": 1, "strategy": "orb", "action": "buy", "type": "market",
        "tif": "gtc", "sl_price": f"{order.stop_loss:f}", "tp_price": f"{order.take_profit:f}",
    }  # fmt: skip
    assert rig.submits(order.client_order_id) == 1


async def test_n03_an_order_reaches_the_platform_once_however_often_it_is_asked(rig: NinjaRig) -> None:
    order = rig.limit()
    first, second = await rig.venue.submit(order), await rig.venue.submit(order)
    assert first.outcome is Outcome.ACK
    assert second.outcome in (Outcome.ACK, Outcome.EXISTS)
    assert rig.submits(order.client_order_id) == 1
    other = await rig.venue.submit(replace(order, quantity=D(2)))
    assert other.outcome is Outcome.EXISTS


async def test_n04_a_resting_order_is_found_listed_and_cancelled(rig: NinjaRig) -> None:
    order = rig.limit()
    await rig.venue.submit(order)
    await rig.reported(order.client_order_id, State.WORKING)
    found = await rig.venue.query(ES, order.client_order_id)
    assert found.presence is Presence.FOUND
    assert found.report is not None
    assert (found.report.state, found.report.price, found.report.filled) == (State.WORKING, order.price, 0)
    assert [report.client_order_id for report in await rig.venue.open_orders()] == [order.client_order_id]
    answer = await rig.venue.cancel(order)
    assert answer.outcome is Outcome.ACK
    assert answer.report is not None
    assert (answer.report.state, answer.report.filled) == (State.CANCELLED, 0)
    assert await rig.venue.open_orders() == []
    again = await rig.venue.cancel(order)
    assert (again.outcome, again.refusal) == (Outcome.REFUSED, Refusal.UNKNOWN_ORDER)


async def test_n05_a_fill_has_one_id_wherever_it_is_seen(rig: NinjaRig) -> None:
    order = rig.order(quantity=D(3))
    await rig.venue.submit(order)
    await until(lambda: sum(fill.quantity for fill in rig.fills(order.client_order_id)) == 3)
    history = await rig.venue.fills_since(ES, 0)
    assert {fill.fill_id for fill in history} == {fill.fill_id for fill in rig.fills()}
    first, who = history[0], await rig.venue.identity()
    assert first.fill_id == fill_id_v2(who.uid, who.environment.value, who.network_epoch, ES, first.venue_trade_id)
    assert (first.side, first.fee_currency, first.symbol) == (Side.BUY, "USD", ES)
    assert await rig.venue.fills_since(ES, first.time_ns + 3_600 * 10**9) == []


async def test_n06_a_stop_that_fills_is_an_execution_of_the_leg(rig: NinjaRig) -> None:
    order = rig.order()
    await rig.venue.submit(order)
    stop = leg_id(order.client_order_id, "S")
    await rig.reported(stop, State.ACCEPTED, State.WORKING)
    assert order.stop_loss is not None
    rig.server.platform.trade(ES, order.stop_loss - 1)
    await rig.reported(stop, State.FILLED)
    await rig.reported(leg_id(order.client_order_id, "T"), State.CANCELLED)
    await until(lambda: len(rig.fills(stop)) == 1)
    assert rig.fills(stop)[0].side is Side.SELL
    found = await rig.venue.query(ES, stop)
    assert found.report is not None
    assert (found.report.state, found.report.filled) == (State.FILLED, 1)
    assert (await rig.venue.balances()).get("ESX") is None


async def test_n07_an_exit_closes_and_the_bridge_ends_the_legs(rig: NinjaRig) -> None:
    order = rig.order(quantity=D(2))
    await rig.venue.submit(order)
    for name in "ST":
        await rig.reported(leg_id(order.client_order_id, name), State.ACCEPTED, State.WORKING)
    close = rig.order(Role.EXIT, quantity=D(2))
    answer = await rig.venue.submit(close)
    assert answer.outcome is Outcome.ACK
    await until(lambda: sum(fill.quantity for fill in rig.fills(close.client_order_id)) == 2)
    for name in "ST":
        await rig.reported(leg_id(order.client_order_id, name), State.CANCELLED)
    await rig.reported(close.client_order_id, State.FILLED)
    assert _code(ES) not in await _settled_balances(rig)


async def test_n08_an_exit_while_the_bridge_holds_nothing_is_refused(rig: NinjaRig) -> None:
    answer = await rig.venue.submit(rig.order(Role.EXIT))
    assert (answer.outcome, answer.code, answer.refusal) == (Outcome.REFUSED, "opposite_position", Refusal.OTHER)


async def test_n09_a_short_entry_and_its_holding(rig: NinjaRig) -> None:
    order = rig.order(side=Side.SELL, quantity=D(2))
    assert (await rig.venue.submit(order)).outcome is Outcome.ACK
    await rig.reported(order.client_order_id, State.FILLED)
    await rig.reported(leg_id(order.client_order_id, "S"), State.ACCEPTED, State.WORKING)
    balances = await _settled_balances(rig)
    assert balances[_code(ES)] == -2
    assert balances["USD"] > 0


async def test_n10_without_a_link_nothing_leaves(idle: NinjaRig) -> None:
    answer = await idle.venue.submit(idle.order())
    assert (answer.outcome, answer.code, answer.refusal) == (Outcome.REFUSED, "VENUE_DOWN", Refusal.UNAVAILABLE)
    with pytest.raises(OutageError, match="is not running"):
        await idle.venue.identity()
    with pytest.raises(OutageError):
        await idle.venue.open_orders()
    with pytest.raises(OutageError):
        await idle.venue.skew_ms()


async def test_n11_what_a_dead_link_did_not_take_is_withdrawn(rig: NinjaRig) -> None:
    await rig.cut()
    order = rig.order()  # the row of the link looks alive for a moment still
    answer = await rig.venue.submit(order)
    assert answer.outcome is Outcome.REFUSED
    assert answer.refusal is Refusal.UNAVAILABLE
    await rig.connect()
    await asyncio.sleep(0)
    assert rig.submits(order.client_order_id) == 0
    found = await rig.venue.query(ES, order.client_order_id)
    assert found.presence is Presence.NOT_FOUND or (found.report is not None and found.report.state is State.REJECTED)


async def test_n12_an_id_that_nothing_knows_is_not_found(rig: NinjaRig) -> None:
    assert (await rig.venue.query(ES, rig.order().client_order_id)).presence is Presence.NOT_FOUND


@pytest.mark.parametrize(
    ("changes", "code", "refusal"),
    [
        ({"quantity": D("1.5")}, "QTY_STEP", Refusal.QUANTITY),
        ({"symbol": "BTCUSDT"}, "INSTRUMENT_UNKNOWN", Refusal.OTHER),
        ({"time_in_force": TimeInForce.FOK}, "TYPE_UNSUPPORTED", Refusal.OTHER),
        ({"type": OrderType.TAKE_PROFIT}, "CLIENT_VALIDATION", Refusal.OTHER),
        ({"quantity": D(11)}, "qty_limit", Refusal.QUANTITY),
        ({"take_profit": D(1)}, "bad_bracket", Refusal.PRICE),
    ],
)
async def test_n13_refusals_have_a_reason(
    rig: NinjaRig, changes: dict[str, object], code: str, refusal: Refusal
) -> None:
    order = replace(rig.order(), **changes)  # type: ignore[arg-type]
    answer = await rig.venue.submit(order)
    assert (answer.outcome, answer.code, answer.refusal) == (Outcome.REFUSED, code, refusal)
    assert rig.submits(order.client_order_id) == 0


async def test_n14_an_expired_contract_is_refused_and_the_current_one_named(rig: NinjaRig) -> None:
    order = replace(rig.order(), symbol="ES 03-25")
    answer = await rig.venue.submit(order)
    assert (answer.outcome, answer.code) == (Outcome.REFUSED, "expired_contract")
    assert "the current contract is" in answer.detail
    assert await rig.rows.answer_of(order.client_order_id) is None
    close = await rig.venue.submit(replace(rig.order(Role.EXIT), symbol="ES 03-25"))
    assert close.code != "expired_contract" or "current contract" not in close.detail


async def test_n15_a_limit_is_put_on_the_tick_and_never_worse(rig: NinjaRig) -> None:
    order = replace(rig.limit(), price=rig.price - D("20.13"))
    answer = await rig.venue.submit(order)
    assert answer.outcome is Outcome.ACK
    report = await rig.reported(order.client_order_id, State.WORKING)
    assert order.price is not None
    assert report.price is not None
    assert report.price % D("0.25") == 0
    assert order.price - D("0.25") < report.price <= order.price


async def test_n16_no_leg_is_ever_sent_or_cancelled(rig: NinjaRig) -> None:
    leg = replace(rig.order(Role.STOP_LOSS), parent_id="e" * 32, type=OrderType.STOP, stop_price=D(4400))
    for answer in (await rig.venue.submit(leg), *await rig.venue.submit_oco(leg, leg), await rig.venue.cancel(leg)):
        assert answer.outcome is Outcome.REFUSED
    assert rig.venue.capabilities.keeps_bracket


async def test_n17_a_refused_session_sends_nothing(rig: NinjaRig) -> None:
    rig.venue.refuse("another account's")
    order = rig.order()
    for answer in (await rig.venue.submit(order), await rig.venue.cancel(order)):
        assert (answer.outcome, answer.refusal) == (Outcome.REFUSED, Refusal.NOT_SENT)
    assert (await rig.venue.query(ES, order.client_order_id)).presence is Presence.NO_ANSWER
    with pytest.raises(OutageError):
        await rig.venue.fills_since(ES, 0)
    rig.venue.admit(await rig.venue.identity())
    assert (await rig.venue.submit(order)).outcome is Outcome.ACK


async def test_n18_identity_and_clock(rig: NinjaRig) -> None:
    who = await rig.venue.identity()
    assert (who.environment, who.uid) == (Environment.SIM, f"{GROUP}/{ACCOUNT}")
    assert abs(await rig.venue.skew_ms()) < 2_000
    assert await rig.venue.last_price(ES) is None
    assert await rig.venue.transfers_since(0) == []


async def test_n19_a_lost_link_is_reported_and_what_was_missed_is_found(rig: NinjaRig) -> None:
    order = rig.limit()
    await rig.venue.submit(order)
    await rig.reported(order.client_order_id, State.WORKING)
    before = len(rig.events)
    await rig.cut()
    assert order.price is not None
    rig.server.platform.trade(ES, order.price - 1)
    await until(lambda: any(isinstance(one, SessionLost) for one in rig.events[before:]), deadline_s=15)
    await rig.connect()
    await until(lambda: any(isinstance(one, SessionBack) for one in rig.events[before:]), deadline_s=15)
    await rig.reported(order.client_order_id, State.FILLED)
    await until(lambda: len(rig.fills(order.client_order_id)) == 1)
    await rig.reported(leg_id(order.client_order_id, "S"), State.ACCEPTED, State.WORKING)
    assert rig.submits(order.client_order_id) == 1


async def test_n20_a_crash_of_the_bridge_between_intent_and_answer_leaves_no_second_order(rig: NinjaRig) -> None:
    orders = [rig.limit() for _ in range(3)]
    asked = [asyncio.create_task(rig.venue.submit(order)) for order in orders]

    async def are_stored() -> bool:  # from a bridge that is down already each is refused, and no trace of it is left
        return None not in [await rig.rows.answer_of(order.client_order_id) for order in orders]

    await until(are_stored, every_s=0.001)
    rig.server.restart_bridge()
    answers = await asyncio.gather(*asked)

    async def is_known() -> bool:
        found = [await rig.venue.query(ES, order.client_order_id) for order in orders]
        return all(one.presence is Presence.FOUND for one in found)

    await until(is_known)
    for order, answer in zip(orders, answers, strict=True):
        found = await rig.venue.query(ES, order.client_order_id)
        assert found.report is not None
        is_live = found.report.state in (State.ACCEPTED, State.WORKING)
        assert rig.submits(order.client_order_id) == int(is_live), (answer, found)


async def test_legs_of_an_earlier_process_are_found_after_a_restart(rig: NinjaRig) -> None:
    order = rig.order()
    await rig.venue.submit(order)
    stop = leg_id(order.client_order_id, "S")
    await rig.reported(stop, State.ACCEPTED, State.WORKING)
    rig.venue = type(rig.venue)(rig.config, rig.rows, rig.clock, rig.log)
    await rig.venue.open()
    rig.venue.admit(await rig.venue.identity())
    found = await rig.venue.query(ES, stop)
    assert found.report is not None
    assert found.report.leg is not None
    assert {report.client_order_id for report in await rig.venue.open_orders()} == {
        stop,
        leg_id(order.client_order_id, "T"),
    }


@pytest.mark.parametrize(("mode", "code"), [("off", "automation_forbidden"), ("relay", "RELAYED")])
async def test_an_account_in_another_mode_takes_no_order(
    database: Database, bus: Bus, tmp_path: Path, mode: str, code: str
) -> None:
    accounts = ((ACCOUNT, mode, True),)
    async with ninja_rig(database, bus, tmp_path / "nt8", accounts=accounts, config=BridgeConfig(settle_ms=500)) as rig:
        await rig.up()
        order = rig.order()
        answer = await rig.venue.submit(order)
        assert (answer.code, answer.refusal) == (code, Refusal.PERMISSION)
        assert rig.submits(order.client_order_id) == 0
        found = await rig.venue.query(ES, order.client_order_id)  # as after a crash between request and answer
        if mode == "relay":
            assert found.report is not None
            assert (found.report.state, found.report.code) == (State.REJECTED, "RELAYED")
        else:
            assert found.report is None


def _code(symbol: str) -> str:
    contract = contract_of(symbol)
    assert isinstance(contract, Contract)
    return contract.code


async def _settled_balances(rig: NinjaRig) -> dict[str, Decimal]:
    """Return the totals of a status that is younger than what has happened so far."""
    await asyncio.sleep(1.1)
    return {currency: balance.total for currency, balance in (await rig.venue.balances()).items()}
