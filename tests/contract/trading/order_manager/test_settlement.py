"""A person ends an order of unknown outcome, and positions equal the exchange's whatever it says later."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from fks.model.order import Order, OrderType, State
from fks.model.signal import Kind
from fks.store.bus import WAKE
from fks.store.settlements import ReportedFill, Settlement, SettlementStore
from tests.support.invariants import assert_journal, assert_one
from tests.support.order_rig import Rig
from tests.support.waiting import until

D = Decimal
BOUGHT = ReportedFill(quantity=D(10), price=D(100), fee=D("0.01"), fee_currency="BTC")


@pytest.fixture
async def rig(idle: Rig) -> Rig:
    """A rig whose venue answers no query, and whose orders are never called absent."""
    venue = idle.settings.venue.model_copy(update={"absent_age_s": 600.0})
    idle.settings = idle.settings.model_copy(update={"venue": venue})
    return await idle.start()


async def unknown(rig: Rig, answer: str = "unheard") -> Order:
    """Return an order of 10 BTC that is UNKNOWN and stays so: the exchange executed it (`unheard`) or never saw it
    (`lost`)."""
    rig.venue.script.append(answer)
    rig.venue.streams_fills, rig.venue.history_hidden = False, True
    rig.venue.outages.update(query=1_000_000)
    signal = await rig.signal()
    assert await rig.outcome(signal) == ("ordered", None)
    return await rig.becomes((await rig.entry(signal)).client_order_id, State.UNKNOWN)


async def settle(rig: Rig, order: Order, outcome: str, *fills: ReportedFill, **changes: Any) -> Settlement:
    """Propose, confirm and wait for the end of a settlement."""
    store = SettlementStore(rig.db)
    values = {
        "filled": order.filled,
        "by": "ann",
        "reason": "seen in the exchange's app",
        "code": "ABC",
        "now_ns": 1,
    } | changes
    proposed = await store.propose(order.client_order_id, outcome, fills, **values)
    await store.confirm(proposed.id, 2)
    await rig.bus.publish(WAKE, {"type": "settle"})

    async def ended() -> Settlement | None:
        found = await store.get(proposed.id)
        return found if found is not None and found.applied_ns is not None else None

    found = await until(ended)
    assert found is not None
    return found


async def assert_the_journal_adds_up(rig: Rig) -> None:
    """Fold each order's events with the auditor's own rules: they make its row, and its executions are those booked."""
    await assert_journal(rig.db)


async def at_exchange(rig: Rig) -> Decimal:
    """Return what the exchange says we hold."""
    return rig.venue.totals.get("BTC", D(0))


async def test_filled_books_the_execution_with_the_settlement(rig: Rig) -> None:
    order = await unknown(rig)
    assert (await settle(rig, order, "filled", BOUGHT)).error is None
    after = await rig.becomes(order.client_order_id, State.FILLED)
    assert (after.filled, after.average_price, after.detail) == (
        D(10),
        D(100),
        "settled by ann: seen in the exchange's app",
    )
    assert await rig.position() == await at_exchange(rig) == D("9.99")
    rows = await rig.db.sql(
        "SELECT event, source, payload FROM order_events WHERE client_order_id = $1 ORDER BY id", order.client_order_id
    )
    assert [row["event"] for row in rows][-2:] == ["Settled", "FillSeen"]
    assert rows[-2]["payload"]["by"] == "ann"
    assert await rig.outcome(await rig.signal(instance="two", source="strategy:two")) == ("ordered", None)


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_the_exchanges_own_execution_replaces_the_persons(rig: Rig, is_restarted: bool) -> None:
    order = await unknown(rig)
    await settle(rig, order, "filled", ReportedFill(quantity=D(10), price=D(101), fee=D("0.01"), fee_currency="BTC"))
    assert (await rig.becomes(order.client_order_id, State.FILLED)).average_price == D(101)
    if is_restarted:
        await rig.restart()
    rig.venue.history_hidden = False
    rig.venue.outages.clear()

    async def replaced() -> Any:
        sql = "SELECT filled, average_price, state, is_late, is_overfilled FROM orders WHERE client_order_id = $1"
        [row] = await rig.db.sql(sql, order.client_order_id)
        return tuple(row) if row["average_price"] != 101 else None

    assert await until(replaced) == (D(10), D(100), "FILLED", False, False)
    trades = await rig.db.sql(
        "SELECT sum(CASE trade_type WHEN 'BUY' THEN quantity ELSE -quantity END) AS net, count(*) AS n FROM trades"
    )
    assert tuple(trades[0]) == (D(10), 3)
    assert await rig.position() == await rig.held() == await at_exchange(rig) == D("9.99")
    await assert_the_journal_adds_up(rig)


async def _is(rig: Rig, quantity: Decimal) -> bool:
    return await rig.position() == quantity


async def test_more_than_the_person_reported_is_booked_late_and_pages(rig: Rig) -> None:
    order = await unknown(rig)
    some = ReportedFill(quantity=D(4), price=D(100), fee=D("0.004"), fee_currency="BTC")
    assert (await settle(rig, order, "cancelled", some)).error is None
    assert (await rig.becomes(order.client_order_id, State.CANCELLED)).filled == D(4)
    assert await rig.position() == D("3.996")
    rig.venue.history_hidden = False
    rig.venue.outages.clear()
    await until(lambda: _is(rig, D("9.99")))
    late = await rig.becomes(order.client_order_id, State.FILLED)
    assert late.is_late

    async def is_paged() -> bool:
        rows = await rig.db.sql("SELECT severity FROM alerts WHERE event LIKE 'order.%'")
        return "page" in [row["severity"] for row in rows]

    await until(is_paged)


async def test_absent_frees_the_instrument(rig: Rig) -> None:
    order = await unknown(rig, "lost")
    assert await rig.outcome(await rig.signal(instance="two", source="strategy:two")) == ("denied", "UNKNOWN_ORDER")
    assert (await settle(rig, order, "absent")).error is None
    await rig.becomes(order.client_order_id, State.ABSENT)
    assert await rig.outcome(await rig.signal(instance="two", source="strategy:two")) == ("ordered", None)
    assert_one([id for id in rig.venue.received if id == order.client_order_id])


async def test_trade_ids_are_read_from_the_venues_history(rig: Rig) -> None:
    order = await unknown(rig)
    rig.venue.history_hidden = False
    number = rig.venue.trades[0].venue_trade_id
    wrong = await settle(rig, order, "filled", ReportedFill(venue_trade_id="4711"))
    if await rig.state(order.client_order_id) is State.UNKNOWN:  # a sweep may read the history first
        assert wrong.error is not None
        assert "4711" in wrong.error
        done = await settle(rig, order, "filled", ReportedFill(venue_trade_id=number), code="DEF")
        assert done.error is None or "changed" in done.error or "by now" in done.error or "booked" in done.error
    await rig.becomes(order.client_order_id, State.FILLED)
    assert await rig.position() == await at_exchange(rig) == D("9.99")
    assert len(await rig.db.sql("SELECT 1 FROM trades")) == 1


async def test_what_changed_since_the_proposal_is_refused(rig: Rig) -> None:
    order = await unknown(rig)
    stale = await settle(rig, order, "filled", BOUGHT, filled=D(3))
    assert stale.error is not None
    assert "look at it again" in stale.error
    assert await rig.position() == 0
    partly = await settle(rig, order, "filled", ReportedFill(quantity=D(4), price=D(100)), code="B")
    assert partly.error is not None
    assert "settle it as cancelled" in partly.error
    await settle(rig, order, "absent", code="C")
    again = await settle(rig, order, "filled", BOUGHT, code="D")
    assert again.error is not None
    assert "nothing to settle" in again.error
    assert await rig.position() == 0


async def test_a_settlement_survives_a_crash_and_is_applied_once(rig: Rig) -> None:
    order = await unknown(rig)
    await rig.crash()
    store = SettlementStore(rig.db)
    proposed = await store.propose(
        order.client_order_id, "filled", [BOUGHT], filled=D(0), by="ann", reason="r", code="A", now_ns=1
    )
    await store.confirm(proposed.id, 2)
    await rig.start(wait_ready=False)
    await rig.becomes(order.client_order_id, State.FILLED)
    await rig.crash()
    await rig.db.sql("UPDATE order_settlements SET applied_at = NULL")  # as if it had died between the two statements
    await rig.start(wait_ready=False)
    await until(lambda: _ended(store, proposed.id))
    assert await rig.position() == D("9.99")
    assert len(await rig.db.sql("SELECT 1 FROM trades")) == 1


async def _ended(store: SettlementStore, id: int) -> bool:
    found = await store.get(id)
    return found is not None and found.applied_ns is not None


async def test_a_busted_trade_moves_the_position_back(idle: Rig) -> None:
    rig = await idle.start()
    signal = await rig.signal()
    await rig.outcome(signal)
    order = await rig.becomes((await rig.entry(signal)).client_order_id, State.FILLED)
    assert await rig.position() == D("9.99")
    number = rig.venue.trades[0].venue_trade_id
    rig.venue.totals.update(BTC=D(0), USDT=D(100000))  # the exchange took it back
    assert (await settle(rig, order, "busted", ReportedFill(venue_trade_id=number))).error is None
    assert await rig.position() == 0
    after = await rig.becomes(order.client_order_id, State.CANCELLED)
    assert after.filled == 0
    again = await settle(rig, after, "busted", ReportedFill(venue_trade_id=number), code="B")
    assert again.error is not None
    await compare(rig)
    assert await rig.position() == 0
    assert await rig.held() == 0
    await assert_the_journal_adds_up(rig)
    fees = await rig.db.sql("SELECT fees, realized_pnl FROM positions WHERE instance = 'one'")
    assert tuple(fees[0]) == (0, 0)


@pytest.mark.parametrize("ended_by", ["exit", "stop"])
async def test_a_bust_on_a_flat_position_is_protected_again(idle: Rig, ended_by: str) -> None:
    rig = await idle.start()
    entry = await rig.signal(stop_loss=D(90), take_profit=D(120))
    await rig.outcome(entry)
    await until(lambda: len(rig.venue.live()) == 2)
    if ended_by == "exit":
        out = await rig.signal(Kind.EXIT)
        await rig.outcome(out)
        name = (await rig.entry(out)).client_order_id
    else:
        name = next(held.order.client_order_id for held in rig.venue.live() if held.order.role.value == "sl")
        rig.venue.fill(name, D("9.99"), D(90))
    order = await rig.becomes(name, State.FILLED)
    await until(lambda: rig.position_is(D(0)))
    await until(lambda: not rig.venue.live())
    number = rig.venue.trades[-1].venue_trade_id
    rig.venue.totals.update(BTC=D("9.99"))  # the exchange took the sale back
    assert (await settle(rig, order, "busted", ReportedFill(venue_trade_id=number))).error is None
    assert await rig.position() == D("9.99")
    await until(lambda: sorted(held.order.role.value for held in rig.venue.live()) == ["sl", "tp"])
    assert {held.order.quantity for held in rig.venue.live()} == {D("9.99")}
    assert {held.order.attempt for held in rig.venue.live()} == {1}


@pytest.mark.parametrize("answer", ["ok", "unheard", "lost", "refuse:-2038"])
async def test_legs_are_amended_to_what_a_bust_leaves(idle: Rig, answer: str) -> None:
    """The larger list gives back in place; where that is refused again and again, the smaller is replaced."""
    venue = idle.venue
    venue.capabilities = replace(venue.capabilities, can_amend=True)
    rig = await idle.start()
    signal = await rig.signal(type=OrderType.LIMIT, limit_price=D(100), stop_loss=D(90), take_profit=D(120))
    await rig.outcome(signal)
    entry = (await rig.becomes((await rig.entry(signal)).client_order_id, State.WORKING)).client_order_id

    def quantities() -> list[Decimal]:
        return sorted(held.order.quantity for held in venue.live() if held.order.parent_id)

    venue.fill(entry, D(8), D(100))
    await until(lambda: quantities() == [D("7.992")] * 2)
    first = {held.order.client_order_id for held in venue.live()}
    for _ in range(2):
        venue.fill(entry, D(1), D(100))
    await until(lambda: quantities() == [D("1.998")] * 2 + [D("7.992")] * 2)
    order = await rig.becomes(entry, State.FILLED)
    venue.amends.extend([answer] * 2)
    number = venue.trades[-1].venue_trade_id
    venue.totals.update(BTC=D("8.991"))
    assert (await settle(rig, order, "busted", ReportedFill(venue_trade_id=number))).error is None
    is_amended = answer in ("ok", "unheard")
    small, large = ("1.998", "6.993") if is_amended else ("0.999", "7.992")
    await until(lambda: quantities() == [D(small)] * 2 + [D(large)] * 2)
    assert len(venue.amended) == (1 if is_amended else 2)
    assert first - {entry} <= {held.order.client_order_id for held in venue.live()}

    async def is_known() -> bool:
        rows = await rig.db.sql(
            "SELECT quantity FROM orders WHERE parent_id IS NOT NULL AND state IN ('ACCEPTED', 'WORKING')"
            " AND request = 'none'"
        )
        return sorted(row["quantity"] for row in rows) == quantities()

    await until(is_known)


async def test_a_person_asks_for_a_comparison_with_the_venue(rig: Rig) -> None:
    row = await compare(rig)
    assert row["error"] is None
    assert row["result"]["state"] == "READY"
    assert (row["result"]["orders_unknown"], row["result"]["external_positions"]) == (0, {})


async def compare(rig: Rig) -> Any:
    """Have the journal compared with the venue, and return the request's row."""
    store = SettlementStore(rig.db)
    id = await store.request_reconcile("ccxt", by="ann", now_ns=1)
    await rig.bus.publish(WAKE, {"type": "reconcile"})

    async def ended() -> Any:
        [row] = await store.reconcile([id])
        return row if row["finished_at"] is not None else None

    return await until(ended)
