"""Order entry: committed before accepted, one answer a key, and a code for each refusal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import pytest

from fks.clock import RealClock
from fks.config.settings import Http
from fks.interfaces.entry.order_entry import EntryAnswer, OrderEntry, OrderRequest
from fks.model.errors import InputError, OutageError
from fks.model.order import State
from fks.model.timeframe import NS, iso
from fks.trading.order_manager.correlations import Correlations
from tests.support.invariants import assert_one
from tests.support.order_rig import Rig
from tests.support.waiting import until

D = Decimal
BUY = {"symbol": "BTC/USDT", "side": "buy", "type": "market", "quantity": "1.5", "venue": "ccxt"}
Submit = Callable[..., Awaitable[EntryAnswer]]


@pytest.fixture
def entry(idle: Rig) -> OrderEntry:
    return OrderEntry(idle.db, idle.bus, RealClock(), idle.settings)


def asked(**changes: Any) -> OrderRequest:
    return OrderRequest.parse(BUY | changes)


async def test_an_order_comes_back_with_its_state(rig: Rig, entry: OrderEntry) -> None:
    answer = await entry.submit(asked(), "ann", "k1")
    assert answer.status == 202
    assert (answer.body["state"], answer.body["filled"], answer.body["symbol"]) == ("FILLED", "1.5", "BTCUSDT")
    assert answer.body["client_order_id"] == rig.venue.received[0]


async def test_the_same_key_is_the_same_order_and_another_body_is_refused(rig: Rig, entry: OrderEntry) -> None:
    first = await entry.submit(asked(), "ann", "k1")
    again = await entry.submit(asked(quantity=D("1.50")), "ann", "k1")
    assert (again.status, again.body["client_order_id"]) == (202, first.body["client_order_id"])
    with pytest.raises(InputError) as error:
        await entry.submit(asked(quantity="2"), "ann", "k1")
    assert (error.value.status, error.value.code) == (409, "IDEMPOTENCY_CONFLICT")
    other = await entry.submit(asked(quantity="2"), "bob", "k1")
    assert other.body["client_order_id"] != first.body["client_order_id"]
    assert len(rig.venue.received) == 2


async def test_the_same_key_at_the_same_time_is_one_order(rig: Rig, entry: OrderEntry) -> None:
    answers = await asyncio.gather(*(entry.submit(asked(), "ann", "k1") for _ in range(10)))
    assert_one(sorted({answer.body["client_order_id"] for answer in answers}))
    assert_one(rig.venue.received)


async def test_orders_are_cancelled_while_what_entries_need_cannot_be_read(
    rig: Rig, entry: OrderEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed = [await entry.submit(asked(type="limit", price="99"), "ann", f"k{number}") for number in range(2)]
    names = [answer.body["client_order_id"] for answer in placed]

    async def away(*_: object) -> None:
        raise OutageError("bars cannot be read")

    monkeypatch.setattr(Correlations, "refresh", away)
    await entry.cancel(names[0], "ann")
    await rig.becomes(names[0], State.CANCELLED)
    timed = await entry.submit(
        asked(type="limit", price="99", valid_until=iso(RealClock().now_ns() + 2 * NS)), "ann", "k2"
    )
    await rig.becomes(timed.body["client_order_id"], State.CANCELLED)


async def test_an_order_that_may_only_reduce_closes_and_never_opens(rig: Rig, entry: OrderEntry) -> None:
    opening = await entry.submit(asked(reduce_only=True), "ann", "k1")
    assert (opening.status, opening.body["code"]) == (422, "REDUCE_ONLY")
    assert rig.venue.received == []
    await entry.submit(asked(), "ann", "k2")
    await until(lambda: rig.position_is(D("1.4985"), ""))  # less its fee
    beyond = await entry.submit(asked(side="sell", quantity="1.499", reduce_only=True), "ann", "k3")
    assert beyond.status == 422
    closed = await entry.submit(asked(side="sell", quantity="1.498", reduce_only=True), "ann", "k4")
    assert (closed.status, closed.body["state"]) == (202, "FILLED")


def test_a_request_without_reduce_only_has_the_hash_that_it_always_had() -> None:
    assert asked().body_hash() == asked(reduce_only=False).body_hash() != asked(reduce_only=True).body_hash()
    with pytest.raises(InputError):
        asked(reduce_only="yes")


async def test_a_denied_order_is_422_with_the_code(rig: Rig, entry: OrderEntry) -> None:
    answer = await entry.submit(asked(quantity="0.0005"), "ann", "k1")
    assert (answer.status, answer.body["code"], answer.body["state"]) == (422, "QTY_STEP", "DENIED")
    assert "use 0" in answer.body["detail"]
    poor = await entry.submit(asked(quantity="9999"), "ann", "k2")
    assert (poor.status, poor.body["code"]) == (422, "NOTIONAL_MAX_ORDER")
    assert rig.venue.received == []


async def test_without_an_order_manager_it_is_202_with_the_id_of_the_order(idle: Rig, entry: OrderEntry) -> None:
    hasty = OrderEntry(
        idle.db, idle.bus, RealClock(), idle.settings.model_copy(update={"http": Http(order_wait_s=0.2)})
    )
    answer = await hasty.submit(asked(), "ann", "k1")
    assert (answer.status, answer.body["state"]) == (202, None)
    await idle.start()
    await idle.becomes(answer.body["client_order_id"], State.FILLED)
    again = await entry.submit(asked(), "ann", "k1")
    assert again.body["state"] == "FILLED"


async def test_a_limit_order_rests_is_cancelled_and_cannot_be_cancelled_twice(rig: Rig, entry: OrderEntry) -> None:
    answer = await entry.submit(asked(type="limit", price="99"), "ann", "k1")
    name = answer.body["client_order_id"]
    assert answer.body["state"] == "WORKING"
    assert (await entry.cancel(name, "ann")).status == 202
    await rig.becomes(name, State.CANCELLED)
    with pytest.raises(InputError) as error:
        await entry.cancel(name, "ann")
    assert error.value.status == 409
    with pytest.raises(InputError) as error:
        await entry.cancel("nothing", "ann")
    assert error.value.status == 404


async def test_a_cancel_that_is_asked_for_between_two_order_managers_is_sent(rig: Rig, entry: OrderEntry) -> None:
    answer = await entry.submit(asked(type="limit", price="99"), "ann", "k1")
    name = answer.body["client_order_id"]
    await rig.crash()
    assert (await entry.cancel(name, "ann")).status == 202
    await rig.start()
    await rig.becomes(name, State.CANCELLED)


async def test_an_order_past_its_valid_until_is_cancelled(rig: Rig, entry: OrderEntry) -> None:
    from fks.model.timeframe import iso

    soon = iso(RealClock().now_ns() + 2_000_000_000)
    answer = await entry.submit(asked(type="limit", price="99", valid_until=soon), "ann", "k1")
    await rig.becomes(answer.body["client_order_id"], State.CANCELLED)


async def test_a_persons_order_with_sl_and_tp_is_protected(rig: Rig, entry: OrderEntry) -> None:
    await entry.submit(asked(stop_loss="90", take_profit="120"), "ann", "k1")
    await until(lambda: len(rig.venue.live()) == 2)
    assert {held.order.role.value for held in rig.venue.live()} == {"sl", "tp"}


async def test_the_answer_is_the_order_and_never_one_of_its_legs(rig: Rig, entry: OrderEntry) -> None:
    request = asked(stop_loss="90", take_profit="120")
    first = await entry.submit(request, "ann", "k1")
    await until(lambda: len(rig.venue.live()) == 2)
    again = await entry.submit(request, "ann", "k1")
    for answer in (first, again):
        assert (answer.body["role"], answer.body["side"], answer.body["state"]) == ("order", "buy", "FILLED")
    resting = await entry.submit(asked(type="limit", price="99", stop_loss="90"), "ann", "k2")
    assert (resting.body["role"], resting.body["state"]) == ("order", "WORKING")


async def test_a_person_cannot_sell_what_is_not_there(rig: Rig, entry: OrderEntry) -> None:
    answer = await entry.submit(asked(side="sell"), "ann", "k1")
    assert (answer.status, answer.body["code"]) in ((422, "SHORT_FORBIDDEN"), (422, "BALANCE"))


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"symbol": "NOPEUSDT"}, 404, "SYMBOL_UNKNOWN"),
        ({"account": "nobody"}, 404, "ACCOUNT_UNKNOWN"),
        ({"venue": "moon"}, 404, "ACCOUNT_UNKNOWN"),
        ({"quantity": "-1"}, 422, "NUMBER"),
        ({"quantity": "0"}, 422, "NUMBER"),
        ({"quantity": "NaN"}, 422, "NUMBER"),
        ({"quantity": "Infinity"}, 422, "NUMBER"),
        ({"quantity": "1e999"}, 422, "NUMBER"),
        ({"quantity": True}, 422, "NUMBER"),
        ({"quantity": None}, 422, "QUANTITY"),
        ({"quantity": "one"}, 422, "NUMBER"),
        ({"side": "up"}, 422, "SIDE"),
        ({"side": None}, 422, "SIDE"),
        ({"type": "iceberg"}, 422, "TYPE"),
        ({"type": "limit"}, 422, "PRICE"),
        ({"price": "100"}, 422, "PRICE"),
        ({"type": "stop"}, 422, "PRICE"),
        ({"symbol": ""}, 422, "SYMBOL"),
        ({"time_in_force": "gtd"}, 422, "TIME_IN_FORCE"),
        ({"valid_until": "tomorrow"}, 422, "VALID_UNTIL"),
        ({"leverage": "10"}, 422, "FIELD_UNKNOWN"),
    ],
)
async def test_bad_input_is_one_clear_no(
    idle: Rig, entry: OrderEntry, changes: dict[str, Any], status: int, code: str
) -> None:
    with pytest.raises(InputError) as error:
        await entry.submit(asked(**changes), "ann", "k1")
    assert (error.value.status, error.value.code) == (status, code)
    assert error.value.remedy
