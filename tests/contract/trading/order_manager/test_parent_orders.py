"""Parent orders on real PostgreSQL with a scripted spot venue: several targets, break-even, and kills in between."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from fks.clock import RealClock
from fks.interfaces.entry.amending import Amending
from fks.interfaces.entry.order_entry import EntryAnswer, OrderEntry, OrderRequest
from fks.model.errors import InputError
from fks.model.order import OPEN, OrderType, State
from fks.model.signal import Kind
from fks.model.timeframe import NS, bar_end, to_datetime, to_ns
from fks.store.bus import WAKE
from tests.support.invariants import assert_once
from tests.support.order_rig import Rig
from tests.support.scripted_venue import ScriptedVenue
from tests.support.waiting import until

D = Decimal
TARGETS = [{"price": "110", "share": "0.5"}, {"price": "120", "share": "0.3"}, {"price": "130", "share": "0.2"}]
BRACKET = {
    "symbol": "BTC/USDT", "side": "buy", "type": "market", "quantity": "2", "venue": "ccxt", "kind": "bracket",
    "stop_loss": "90", "targets": TARGETS, "break_even": {"after_target": 1, "offset_ticks": 5},
}  # fmt: skip


@pytest.fixture
def venue() -> ScriptedVenue:
    return ScriptedVenue(locks_base=True, can_amend=True, fee_rate=D(0))


async def send(rig: Rig, key: str = "k1", **changes: Any) -> EntryAnswer:
    entry = OrderEntry(rig.db, rig.bus, RealClock(), rig.settings)
    return await entry.submit(OrderRequest.parse(BRACKET | changes), "ann", key)


def lists(venue: ScriptedVenue) -> list[tuple[Decimal | None, Decimal | None, Decimal]]:
    """Return the live lists at the venue: stop, target and quantity, nearest target first."""
    found = []
    for held in venue.live():
        if held.order.role.value == "sl":
            tie = venue.orders.get(held.sibling or "")
            limit = None if tie is None or tie.state not in OPEN else tie.order.price
            found.append((held.order.stop_price, limit, held.order.quantity - held.filled))
    return sorted(found, key=lambda one: one[1] or D(0))


async def rest(venue: ScriptedVenue, *wanted: tuple[str, str, str]) -> None:
    """Wait until these lists rest at the venue, and no others."""
    expected = [tuple(D(value) for value in one) for one in wanted]
    await until(lambda: lists(venue) == expected, deadline_s=10)


def target_order(venue: ScriptedVenue, price: str) -> str:
    return next(
        h.order.client_order_id for h in venue.live() if h.order.role.value == "tp" and h.order.price == D(price)
    )


async def takes_profit(rig: Rig, price: str, quantity: str) -> None:
    """Let the venue execute a target: its stop ends, and the stream reports both."""
    name, venue = target_order(rig.venue, price), rig.venue
    held = venue.orders[name]
    before = await rig.position("")
    tied = venue.orders[held.sibling or ""]
    held.sibling = tied.sibling = None
    venue.end(tied, State.EXPIRED)
    venue.fill(name, D(quantity), D(price))
    await until(lambda: rig.position_is(before - D(quantity), ""))


async def test_a_bracket_survives_a_kill_between_each_of_its_steps(rig: Rig, venue: ScriptedVenue) -> None:
    answer = await send(rig)
    assert (answer.status, answer.body["state"]) == (202, "FILLED")
    await rest(venue, ("90", "110", "1"), ("90", "120", "0.6"), ("90", "130", "0.4"))
    await rig.restart()
    await rest(venue, ("90", "110", "1"), ("90", "120", "0.6"), ("90", "130", "0.4"))
    await takes_profit(rig, "110", "1")
    await rig.restart()
    await rest(venue, ("100.05", "120", "0.6"), ("100.05", "130", "0.4"))
    await takes_profit(rig, "120", "0.6")
    await rig.restart()
    await rest(venue, ("100.05", "130", "0.4"))
    await takes_profit(rig, "130", "0.4")
    await until(lambda: not venue.live())
    sold = sum((fill.quantity for fill in venue.trades if fill.side.value == "sell"), D(0))
    assert sold == 2
    assert await rig.position("") == 0
    assert_once(venue.received)


async def test_a_kill_before_the_entry_is_sent_sends_its_targets_once(idle: Rig, venue: ScriptedVenue) -> None:
    idle.settings = idle.settings.model_copy(update={"http": idle.settings.http.model_copy(update={"order_wait_s": 0})})
    answer = await send(idle)
    assert answer.body["state"] is None
    await idle.start()
    await rest(venue, ("90", "110", "1"), ("90", "120", "0.6"), ("90", "130", "0.4"))
    again = await send(idle)
    assert again.body["client_order_id"] == answer.body["client_order_id"]
    assert len(venue.received) == 7


async def test_targets_filled_while_the_order_manager_is_down_are_not_placed_again(
    rig: Rig, venue: ScriptedVenue
) -> None:
    await send(rig)
    await rest(venue, ("90", "110", "1"), ("90", "120", "0.6"), ("90", "130", "0.4"))
    await rig.crash()
    for price, quantity in (("110", "1"), ("120", "0.6")):
        name = target_order(venue, price)
        tied = venue.orders[venue.orders[name].sibling or ""]
        venue.orders[name].sibling = tied.sibling = None
        venue.end(tied, State.EXPIRED)
        venue.fill(name, D(quantity), D(price))
    await rig.start()
    await rest(venue, ("100.05", "130", "0.4"))
    assert await rig.position("") == D("0.4")


async def test_a_stop_that_fills_closes_its_part_alone(rig: Rig, venue: ScriptedVenue) -> None:
    await send(rig)
    await rest(venue, ("90", "110", "1"), ("90", "120", "0.6"), ("90", "130", "0.4"))
    for stop in [held for held in venue.live() if held.order.role.value == "sl"]:
        tied = venue.orders[stop.sibling or ""]
        stop.sibling = tied.sibling = None
        venue.end(tied, State.EXPIRED)
        venue.fill(stop.order.client_order_id, stop.order.quantity, D(90))
    await until(lambda: rig.position_is(D(0), ""))
    assert not venue.live()


async def test_the_stop_moves_at_a_multiple_of_the_risk(rig: Rig, venue: ScriptedVenue) -> None:
    await send(rig, break_even={"at_risk": "0.5"})
    await rest(venue, ("90", "110", "1"), ("90", "120", "0.6"), ("90", "130", "0.4"))
    await rig.db.sql("UPDATE feeds SET last_price = 105, last_message_at = now() WHERE symbol = 'BTCUSDT'")
    await rest(venue, ("100", "110", "1"), ("100", "120", "0.6"), ("100", "130", "0.4"))


def _without_oco(venue: ScriptedVenue) -> None:
    venue.has_oco = False
    venue.__post_init__()


@pytest.mark.parametrize(
    ("prepare", "changes", "code", "text"),
    [
        (_without_oco, {}, "NO_PROTECTION", "OCO orders"),
        (lambda venue: None, {"quantity": "0.2"}, "NO_PROTECTION", "target 3 closes 0.04"),
        (
            lambda venue: None,
            {"targets": [*TARGETS[:2], {"price": "130.001", "share": "0.2"}]},
            "PRICE_TICK",
            "target 3",
        ),
        (
            lambda venue: None,
            {"targets": [{"price": "99", "share": "0.5"}, {"price": "120", "share": "0.5"}]},
            "STOP_WRONG_SIDE",
            "target 1",
        ),
    ],
)
async def test_a_parent_that_the_venue_cannot_hold_is_denied_whole(
    idle: Rig,
    venue: ScriptedVenue,
    prepare: Callable[[ScriptedVenue], None],
    changes: dict[str, Any],
    code: str,
    text: str,
) -> None:
    prepare(venue)
    await idle.start()
    answer = await send(idle, **changes)
    assert (answer.status, answer.body["code"]) == (422, code)
    assert text in str(answer.body["detail"])
    assert venue.received == []


# ── amendments ───────────────────────────────────────────────────────────────────────────────────
def amending(rig: Rig) -> Amending:
    return Amending(rig.db, rig.bus, RealClock(), rig.settings)


async def amend(rig: Rig, name: str, **body: Any) -> dict[str, Any]:
    answer = await amending(rig).amend(name, body, "ann")
    return dict(answer.body["amendment"])


async def a_limit(rig: Rig, key: str = "k1", **changes: Any) -> str:
    """Return the id of an order over 2 at 95 that rests."""
    body = {"type": "limit", "price": "95", "kind": "single", "targets": None, "break_even": None, "stop_loss": None}
    answer = await send(rig, key, **(body | changes))
    assert answer.body["state"] == "WORKING", answer.body
    return str(answer.body["client_order_id"])


def resting(venue: ScriptedVenue) -> list[tuple[Decimal | None, Decimal]]:
    return [(held.order.price, held.order.quantity) for held in venue.live()]


async def test_a_smaller_quantity_is_amended_in_place(rig: Rig, venue: ScriptedVenue) -> None:
    name = await a_limit(rig)
    done = await amend(rig, name, quantity="1.5")
    assert (done["state"], done["successor"]) == ("accepted", None)
    assert resting(venue) == [(D(95), D("1.5"))]
    assert venue.amended == [name]
    assert venue.cancelled == []


@pytest.mark.parametrize("answer", ["refuse:-2038", "lost", "unheard"])
async def test_an_amendment_in_place_that_fails_ends_with_one_order(
    rig: Rig, venue: ScriptedVenue, answer: str
) -> None:
    name = await a_limit(rig)
    venue.amends.append(answer)
    assert (await amend(rig, name, quantity="1.5"))["state"] == "accepted"
    await until(lambda: resting(venue) == [(D(95), D("1.5"))])


async def test_another_price_is_a_new_order_after_the_end_of_the_old_one(rig: Rig, venue: ScriptedVenue) -> None:
    name = await a_limit(rig)
    venue.fill(name, D("0.5"))
    await until(lambda: rig.position_is(D("0.5"), ""))
    done = await amend(rig, name, price="96", quantity="3")
    assert done["state"] == "accepted"
    await until(lambda: resting(venue) == [(D(96), D("2.5"))])
    assert await rig.state(name) is State.CANCELLED
    again = await amend(rig, str(venue.live()[0].order.client_order_id), price="97")
    assert again["state"] == "accepted"


@pytest.mark.parametrize("answer", ["ok", "lost", "unheard"])
async def test_a_kill_while_an_order_is_amended_leaves_one_order(rig: Rig, venue: ScriptedVenue, answer: str) -> None:
    name = await a_limit(rig)
    venue.cancels.append(answer)
    rig.settings = rig.settings.model_copy(update={"http": rig.settings.http.model_copy(update={"order_wait_s": 0.02})})
    await amend(rig, name, price="96")
    await rig.restart()
    await until(lambda: resting(venue) == [(D(96), D(2))], deadline_s=10)
    assert await rig.state(name) is State.CANCELLED
    assert_once(venue.received)
    assert len(venue.received) == 2


async def test_an_amendment_waits_until_a_restart_has_compared_the_venue(rig: Rig, venue: ScriptedVenue) -> None:
    name = await a_limit(rig)
    await rig.crash()
    rig.settings = rig.settings.model_copy(update={"http": rig.settings.http.model_copy(update={"order_wait_s": 0})})
    await amend(rig, name, price="96")
    venue.outages["open_orders"] = 2
    await rig.start(wait_ready=False)
    await until(lambda: resting(venue) == [(D(96), D(2))])


async def a_strategys_limit(rig: Rig) -> tuple[str, int]:
    """Return the id of a strategy's limit order that rests, and the open time of the bar after its decision."""
    signal = await rig.signal(type=OrderType.LIMIT, limit_price=D(95), size=D(2))
    assert await rig.outcome(signal) == ("ordered", None)
    (row,) = await rig.db.sql("SELECT ts_event FROM signals WHERE id = $1", signal)
    return (await rig.entry(signal)).client_order_id, bar_end(to_ns(row["ts_event"]), "1m")


async def reprice(rig: Rig, bar_ns: int, price: str) -> None:
    """Write that the strategy moves its entry's limit to a price on a bar, as its worker does."""
    insert = "INSERT INTO stop_moves (instance, time, entry_limit) VALUES ('one', $1, $2)"
    await rig.db.sql(insert, to_datetime(bar_ns), D(price))
    await rig.bus.publish(WAKE, {"type": "stop", "symbol": "BTCUSDT"})


@pytest.mark.parametrize("answer", ["ok", "lost", "unheard"])
async def test_a_kill_while_a_strategy_reprices_leaves_one_order(rig: Rig, venue: ScriptedVenue, answer: str) -> None:
    name, bar_ns = await a_strategys_limit(rig)
    await rig.becomes(name, State.WORKING)
    venue.cancels.append(answer)
    await reprice(rig, bar_ns, "96.004")
    await until(lambda: venue.cancelled)
    await rig.restart()
    await until(lambda: resting(venue) == [(D(96), D(2))], deadline_s=10)
    assert await rig.state(name) is State.CANCELLED
    assert_once(venue.received)
    assert len(venue.received) == 2


async def test_a_repriced_order_is_over_what_has_not_filled(rig: Rig, venue: ScriptedVenue) -> None:
    name, bar_ns = await a_strategys_limit(rig)
    venue.fill(name, D("0.5"))
    await until(lambda: rig.position_is(D("0.5")))
    await reprice(rig, bar_ns, "95")  # where it is already
    await until(lambda: are_done(rig, 1))
    assert venue.cancelled == []
    await reprice(rig, bar_ns + 60 * NS, "96")
    await until(lambda: (D(96), D("1.5")) in resting(venue))
    venue.fill(next(one.order.client_order_id for one in venue.live() if one.order.price == 96), D("1.5"), D(96))
    await until(lambda: rig.position_is(D(2)))
    await reprice(rig, bar_ns + 120 * NS, "97")  # it has filled
    await rig.restart()
    rows = await rig.db.sql("SELECT error, successor IS NULL AS has_none FROM order_amendments ORDER BY id")
    assert [tuple(row.values()) for row in rows] == [(None, True), (None, False)]


async def are_done(rig: Rig, count: int) -> bool:
    rows = await rig.db.sql("SELECT FROM order_amendments WHERE finished_at IS NOT NULL")
    return len(rows) == count


async def test_a_repriced_order_has_no_successor_once_its_strategy_left(rig: Rig, venue: ScriptedVenue) -> None:
    name, bar_ns = await a_strategys_limit(rig)
    await rig.becomes(name, State.WORKING)
    await rig.crash()
    await reprice(rig, bar_ns, "96")
    exit_ = await rig.signal(Kind.EXIT, ts_event_ns=bar_ns + 60 * NS)
    await rig.start()
    await rig.outcome(exit_)
    await until(lambda: are_done(rig, 1))
    await rig.becomes(name, State.CANCELLED)
    assert resting(venue) == []
    assert len(venue.received) == 1


async def test_an_order_that_fills_before_its_cancel_has_no_successor(rig: Rig, venue: ScriptedVenue) -> None:
    name = await a_limit(rig)
    venue.cancels.append("lost")
    amending = asyncio.create_task(amend(rig, name, price="96"))
    await until(lambda: venue.cancelled)
    venue.fill(name, D(2))
    done = await amending
    assert done["state"] == "refused"
    assert "FILLED with 2 filled" in str(done["detail"])
    assert len(venue.received) == 1


async def test_stop_and_targets_of_a_parent_are_amended(rig: Rig, venue: ScriptedVenue) -> None:
    name = str((await send(rig)).body["client_order_id"])
    await rest(venue, ("90", "110", "1"), ("90", "120", "0.6"), ("90", "130", "0.4"))
    targets = [{"price": "111", "share": "0.4"}, {"price": "125", "share": "0.6"}]
    assert (await amend(rig, name, targets=targets, stop_loss="92"))["state"] == "accepted"
    await until(lambda: _sums(venue) == {D(111): D("0.8"), D(125): D("1.2")}, deadline_s=10)
    assert {stop for stop, _, _ in lists(venue)} == {D(92)}
    await rig.restart()
    await until(lambda: _sums(venue) == {D(111): D("0.8"), D(125): D("1.2")}, deadline_s=10)
    looser = await amend(rig, name, stop_loss="91")
    assert (looser["state"], "only moves nearer" in str(looser["detail"])) == ("refused", True)
    passed = await amend(rig, name, stop_loss="101")
    assert passed["state"] == "refused"
    small = await amend(rig, name, targets=[{"price": "111", "share": "0.01"}, {"price": "125", "share": "0.99"}])
    assert small["state"] == "refused"
    assert "NO_PROTECTION" in str(small["detail"])


def _sums(venue: ScriptedVenue) -> dict[Decimal | None, Decimal]:
    found: dict[Decimal | None, Decimal] = {}
    for _, limit, quantity in lists(venue):
        found[limit] = found.get(limit, D(0)) + quantity
    return found


async def test_the_plan_of_a_resting_parent_is_amended_before_it_fills(rig: Rig, venue: ScriptedVenue) -> None:
    answer = await send(rig, type="limit", price="95")
    name = str(answer.body["client_order_id"])
    targets = [{"price": "111", "share": "0.5"}, {"price": "125", "share": "0.5"}]
    assert (await amend(rig, name, targets=targets))["state"] == "accepted"
    moved = await amend(rig, name, price="96")
    await rig.outcome(uuid.UUID(moved["successor"]))
    new = (await rig.entry(uuid.UUID(moved["successor"]))).client_order_id
    await rig.becomes(new, State.WORKING)
    venue.fill(new, D(2), D(96))
    await rest(venue, ("90", "111", "1"), ("90", "125", "1"))
    await until(lambda: _no_intended(rig))


async def _no_intended(rig: Rig) -> bool:
    return not await rig.db.sql("SELECT FROM orders WHERE state = 'INTENDED'")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"price": "95.001"}, "PRICE_TICK"),
        ({"price": "1"}, "PRICE_BAND"),
        ({"quantity": "2.00001"}, "QTY_STEP"),
        ({"quantity": "1e30"}, "QTY_MAX"),
        ({"price": "94", "quantity": "0.01"}, "NOTIONAL_MIN"),
    ],
)
async def test_an_order_is_not_cancelled_for_one_that_would_be_denied(
    rig: Rig, venue: ScriptedVenue, body: dict[str, Any], code: str
) -> None:
    name = await a_limit(rig)
    done = await amend(rig, name, **body)
    assert (done["state"], str(done["detail"]).partition(":")[0]) == ("refused", code)
    assert resting(venue) == [(D(95), D(2))]
    assert venue.cancelled == []


async def test_orders_that_cannot_be_amended_are_refused_with_a_code(rig: Rig, venue: ScriptedVenue) -> None:
    name = await a_limit(rig)
    filled = str((await send(rig, "k2", type="market", price=None)).body["client_order_id"])
    for order, body, code in (
        ("0" * 32, {"price": "1"}, "ORDER_UNKNOWN"),
        (name, {}, "AMENDMENT"),
        (name, {"price": "96", "stop_loss": "90"}, "AMENDMENT"),
        (name, {"side": "sell"}, "FIELD_UNKNOWN"),
        (name, {"stop_loss": "90"}, "NOT_AMENDABLE"),
        (filled, {"price": "96"}, "ORDER_ENDED"),
        (filled, {"targets": [{"price": "111", "share": "0.5"}]}, "TARGETS"),
    ):
        with pytest.raises(InputError) as error:
            await amending(rig).amend(order, body, "ann")
        assert error.value.code == code, body


# ── all orders of a symbol ───────────────────────────────────────────────────────────────────────
async def test_all_resting_orders_of_a_symbol_are_cancelled_and_protection_stays(
    rig: Rig, venue: ScriptedVenue
) -> None:
    names = [await a_limit(rig, key=f"l{number}") for number in range(2)]
    await send(rig, "k2", type="market", price=None)
    await rest(venue, ("90", "110", "1"), ("90", "120", "0.6"), ("90", "130", "0.4"))
    assert await amending(rig).cancel_all(["BTCUSDT"], "ann", accounts=[2]) == {"cancelled": [], "unprotected": []}
    found = await amending(rig).cancel_all(["BTCUSDT"], "ann", accounts=[1])
    assert found == {"cancelled": names, "unprotected": []}
    for name in names:
        await rig.becomes(name, State.CANCELLED)
    await rest(venue, ("90", "110", "1"), ("90", "120", "0.6"), ("90", "130", "0.4"))
    assert await amending(rig).cancel_all(["BTCUSDT"], "ann", accounts=[1]) == {"cancelled": [], "unprotected": []}
    assert await amending(rig).cancel_all(["BTCUSDT"], "ann", accounts=[2], drops_protection=True) == {
        "cancelled": [],
        "unprotected": [],
    }


async def test_protection_that_a_person_drops_is_not_placed_again(rig: Rig, venue: ScriptedVenue) -> None:
    name = str((await send(rig)).body["client_order_id"])
    await rest(venue, ("90", "110", "1"), ("90", "120", "0.6"), ("90", "130", "0.4"))
    found = await amending(rig).cancel_all(["BTCUSDT"], "ann", drops_protection=True)
    assert found == {"cancelled": [], "unprotected": [name]}
    await until(lambda: not venue.live())
    await rig.restart()
    assert not venue.live()
    assert await rig.position("") == 2
