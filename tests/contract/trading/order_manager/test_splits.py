"""Splits of shares that are held: applied once, at their time, whatever dies between the steps."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from fks.clock import RealClock
from fks.interfaces.entry.amending import Amending
from fks.interfaces.entry.order_entry import OrderEntry, OrderRequest
from fks.model.accounting.lots import FlowKind, LotMethod, match_lots
from fks.model.errors import BugError
from fks.model.order import OrderType, State
from fks.model.signal import Kind
from fks.store.bus import Bus
from fks.store.corporate_actions import SPLIT, CorporateActionStore, ListedEvent
from fks.store.db import Database
from fks.store.lots import LotStore
from fks.trading.matching import CostModel
from fks.trading.venues.paper import PaperVenue
from tests.support.crash_points import CrashPoints
from tests.support.invariants import assert_journal
from tests.support.order_rig import Rig, seed
from tests.support.scripted_venue import ScriptedVenue
from tests.support.waiting import until

D = Decimal
BOTH: dict[str, Any] = {"stop_loss": D(90), "take_profit": D(120)}


def today() -> date:
    return datetime.now(UTC).date()


async def list_split(rig: Rig, new: int = 4, old: int = 1, *, ago: int = 0) -> None:
    day = today() - timedelta(days=ago)
    split = ListedEvent("binance", "BTCUSDT", SPLIT, day, new=new, old=old, source="test")
    assert await CorporateActionStore(rig.db).put([split]) == 1


async def hold_since_yesterday(rig: Rig, **changes: Any) -> None:
    """Hold 9.99 at 100 with a stop at 90, and let an entry rest; all of it from before the day of the split."""
    await rig.outcome(await rig.signal(**(BOTH | changes)))
    await until(lambda: [h for h in rig.venue.live() if h.order.parent_id])
    await rig.outcome(await rig.signal(instance="two", source="strategy:two", type=OrderType.LIMIT, limit_price=D(99)))
    await until(lambda: len([h for h in rig.venue.live() if not h.order.parent_id]) == 1)
    for held in rig.venue.live():
        await rig.becomes(held.order.client_order_id, State.ACCEPTED, State.WORKING)
    await rig.crash()
    await rig.db.sql("UPDATE orders SET created_at = created_at - interval '2 days'")
    await rig.db.sql("UPDATE trades SET time = time - interval '2 days'")


def split_at_venue(rig: Rig, new: int = 4, old: int = 1) -> None:
    rig.venue.totals["BTC"] = rig.venue.totals["BTC"] * new / old
    rig.venue.prices["BTCUSDT"] = rig.venue.prices["BTCUSDT"] * old / new


def legs(rig: Rig) -> list[tuple[str, Decimal, Decimal | None]]:
    """Return role, quantity and price of the legs at the venue."""
    live = [held.order for held in rig.venue.live() if held.order.parent_id]
    return sorted((o.role.value, o.quantity, o.stop_price if o.role.value == "sl" else o.price) for o in live)


def covers(rig: Rig, quantity: Decimal, stop: Decimal, target: Decimal) -> bool:
    """Return whether the legs at the venue close `quantity`, all at these prices."""
    found = legs(rig)
    sums = {role: sum(q for r, q, _ in found if r == role) for role in ("sl", "tp")}
    return sums == {"sl": quantity, "tp": quantity} and {(r, p) for r, _, p in found} == {("sl", stop), ("tp", target)}


async def test_a_split_that_two_sources_list_on_two_days_is_applied_once(rig: Rig) -> None:
    """So is one whose day was corrected after it was applied."""
    await hold_since_yesterday(rig)
    await list_split(rig)
    await list_split(rig, ago=1)
    split_at_venue(rig)
    for _ in range(2):
        await rig.start()
        await until(lambda: covers(rig, D("39.96"), D("22.5"), D(30)))
        assert rig.service.cache.splits == {}
        await rig.crash()
    assert await rig.position() == D("39.96")
    assert len(await rig.db.sql("SELECT FROM position_splits")) == 1


async def test_a_split_is_applied_once_to_position_orders_and_legs(rig: Rig) -> None:
    await hold_since_yesterday(rig)
    resting = next(h.order.client_order_id for h in rig.venue.live() if not h.order.parent_id)
    await list_split(rig)
    split_at_venue(rig)
    await rig.start()
    await until(lambda: covers(rig, D("39.96"), D("22.5"), D(30)))
    await rig.becomes(resting, State.CANCELLED)
    for _ in range(2):  # a restart applies nothing again
        rows = await rig.db.sql("SELECT quantity, average_price FROM positions WHERE instance = 'one'")
        assert [tuple(row.values()) for row in rows] == [(D("39.96"), D(25))]
        entry = await rig.db.sql(
            "SELECT filled, average_price, stop_loss FROM orders WHERE filled > 0 AND role = 'entry'"
        )
        assert [tuple(row.values()) for row in entry] == [(D(40), D(25), D("22.5"))]
        trades = await rig.db.sql("SELECT quantity, price FROM trades")
        assert [tuple(row.values()) for row in trades] == [(D(10), D(100))]
        rows = await rig.db.sql("SELECT quantity_before, quantity_after, error FROM position_splits")
        assert [tuple(row.values()) for row in rows] == [(D("9.99"), D("39.96"), "")]
        assert covers(rig, D("39.96"), D("22.5"), D(30))
        await assert_journal(rig.db)
        await rig.restart()
    assert await rig.outcome(await rig.signal(Kind.EXIT)) == ("ordered", None)
    await until(lambda: rig.position_is(D(0)))
    assert rig.venue.totals["BTC"] == 0
    await assert_journal(rig.db)


async def test_a_reverse_split_makes_the_legs_smaller(rig: Rig) -> None:
    await hold_since_yesterday(rig)
    await list_split(rig, 1, 3)
    split_at_venue(rig, 1, 3)
    await rig.start()
    await until(lambda: covers(rig, D("3.33"), D(270), D(360)))
    assert await rig.position() == D("3.33")
    await assert_journal(rig.db)


@pytest.mark.parametrize("label", ["split.before", "split.after"])
async def test_a_crash_between_the_steps_of_a_split_applies_it_once(rig: Rig, label: str) -> None:
    await hold_since_yesterday(rig)
    await list_split(rig)
    split_at_venue(rig)

    def end() -> None:
        raise BugError("ended at a step of the split")

    rig.at = CrashPoints(label, 1, end)
    await rig.start(wait_ready=False)
    assert rig.task is not None
    await until(rig.task.done)
    rows = await rig.db.sql("SELECT count(*)::int AS n FROM position_splits")
    assert rows[0]["n"] == (label == "split.after")
    await rig.restart()
    await until(lambda: covers(rig, D("39.96"), D("22.5"), D(30)))
    assert await rig.position() == D("39.96")
    assert len(await rig.db.sql("SELECT FROM order_events WHERE event = 'SharesSplit'")) == 3
    await assert_journal(rig.db)


async def test_an_entry_whose_cancel_got_lost_holds_the_split_up(rig: Rig) -> None:
    await hold_since_yesterday(rig)
    await list_split(rig)
    split_at_venue(rig)
    rig.venue.cancels.append("lost")
    await rig.start()
    await until(lambda: rig.venue.cancels == type(rig.venue.cancels)())
    assert await rig.db.sql("SELECT FROM position_splits") == []
    await rig.restart()  # as kill -9 would, with the cancel's outcome unknown
    await until(lambda: covers(rig, D("39.96"), D("22.5"), D(30)))
    assert await rig.position() == D("39.96")
    await assert_journal(rig.db)


@pytest.mark.parametrize(("new", "old"), [(4, 1), (1, 3)])
async def test_a_closing_order_of_before_a_split_sells_no_old_quantity(rig: Rig, new: int, old: int) -> None:
    """It rests since before the split, as one that was sent while the market was closed."""
    await hold_since_yesterday(rig)
    await rig.start()
    rig.venue.script.append("rest")
    assert await rig.outcome(await rig.signal(Kind.EXIT)) == ("ordered", None)
    await until(lambda: [h for h in rig.venue.live() if h.order.role.value == "exit"])
    await rig.crash()
    await rig.db.sql("UPDATE orders SET created_at = created_at - interval '2 days' WHERE role = 'exit'")
    await list_split(rig, new, old)
    split_at_venue(rig, new, old)
    held = rig.venue.totals["BTC"]
    await rig.start()
    await until(lambda: rig.position_is(D(0)))
    first, second = sorted((h.order for h in rig.venue.by_role("exit")), key=lambda order: order.attempt)
    assert (first.quantity, await rig.state(first.client_order_id)) == (D("9.99"), State.CANCELLED)
    assert (second.quantity, rig.venue.totals["BTC"]) == (held, 0)
    await assert_journal(rig.db)


async def test_an_entry_of_after_a_split_stays(rig: Rig) -> None:
    """The split is of a time at which nothing was held; the account had traded the share before."""
    await hold_since_yesterday(rig)
    await rig.start()
    await rig.outcome(await rig.signal(Kind.EXIT))
    await until(lambda: rig.position_is(D(0)))
    await rig.db.sql("UPDATE trades SET time = now() - interval '1 day'")
    resting = next(h.order.client_order_id for h in rig.venue.live() if not h.order.parent_id)
    await rig.venue.cancel(rig.venue.orders[resting].order)
    await rig.becomes(resting, State.CANCELLED)
    new = await rig.signal(instance="two", source="strategy:two", type=OrderType.LIMIT, limit_price=D(99))
    await rig.outcome(new)
    await list_split(rig)
    await rig.restart()
    await until(lambda: rig.db.sql("SELECT FROM position_splits"))
    assert await rig.state((await rig.entry(new)).client_order_id) in (State.ACCEPTED, State.WORKING)
    assert (await rig.entry(new)).request.value == "none"


async def test_a_position_of_entries_with_parts_of_lots_is_covered_whole(rig: Rig) -> None:
    await rig.outcome(await rig.signal(**BOTH))
    await hold_since_yesterday(rig)
    await list_split(rig, 1, 3)
    split_at_venue(rig, 1, 3)
    await rig.start()
    await until(lambda: covers(rig, D("6.66"), D(270), D(360)))
    await assert_journal(rig.db)


async def test_executions_of_before_a_split_are_booked_before_it(rig: Rig) -> None:
    """The stop was executed while nothing ran: its quantity is in the old shares."""
    await hold_since_yesterday(rig)
    await rig.start()
    resting = next(h for h in rig.venue.live() if not h.order.parent_id)
    rig.venue.end(resting, State.CANCELLED)
    await rig.becomes(resting.order.client_order_id, State.CANCELLED)
    await rig.crash()
    stop = next(h.order for h in rig.venue.live() if h.order.role.value == "sl")
    rig.venue.streams_fills = False
    rig.venue.fill(stop.client_order_id, stop.quantity, D(90))
    assert rig.venue.totals["BTC"] == 0
    rig.venue.outages |= {"open_orders": 2, "query": 2}
    await list_split(rig)
    await rig.start(wait_ready=False)
    await until(lambda: rig.position_is(D(0)))
    await until(lambda: not rig.service.cache.splits)
    assert await rig.held() == 0
    assert not [h for h in rig.venue.live() if h.order.parent_id]
    await assert_journal(rig.db)


async def test_no_stop_is_moved_while_a_split_is_due(rig: Rig) -> None:
    """A strategy's move is a price of the new shares; in the old ones it would be carried over once more."""
    await hold_since_yesterday(rig)
    await list_split(rig, 1, 3)
    split_at_venue(rig, 1, 3)
    await rig.db.sql("INSERT INTO stop_moves (instance, time, price) VALUES ('one', now(), 275)")
    rig.venue.cancels.extend(["refuse:NO", "refuse:NO"])  # the entry rests on, and holds the split up
    await rig.start()
    await until(lambda: rig.position_is(D("3.33")))
    await until(lambda: covers(rig, D("3.33"), D(275), D(360)))
    await assert_journal(rig.db)


async def test_targets_and_break_even_go_on_in_the_new_shares(rig: Rig) -> None:
    """A stop that a person moves while the split is due is a price of the new shares, and is refused."""
    body: dict[str, Any] = {
        "symbol": "BTC/USDT", "side": "buy", "type": "market", "quantity": "9", "venue": "ccxt", "kind": "bracket",
        "stop_loss": "90", "targets": [{"price": "110", "share": "0.5"}, {"price": "130", "share": "0.5"}],
        "break_even": {"after_target": 1, "offset_ticks": 5},
    }  # fmt: skip
    answer = await OrderEntry(rig.db, rig.bus, RealClock(), rig.settings).submit(OrderRequest.parse(body), "ann", "k1")
    name = str(answer.body["client_order_id"])
    await hold_since_yesterday(rig)
    await list_split(rig, 1, 3)
    split_at_venue(rig, 1, 3)
    rig.venue.cancels.extend(["refuse:NO"] * 3)  # the entry of `two` rests on, and holds the split up
    await rig.start()
    amended = await Amending(rig.db, rig.bus, RealClock(), rig.settings).amend(name, {"stop_loss": "280"}, "ann")
    assert (amended.body["amendment"]["state"], "split" in amended.body["amendment"]["detail"]) == ("refused", True)

    def mine() -> list[tuple[str, Decimal, Decimal | None]]:
        live = [h.order for h in rig.venue.live() if h.order.parent_id == name]
        return sorted((o.role.value, o.quantity, o.stop_price if o.role.value == "sl" else o.price) for o in live)

    # 9 less the fee are 8.991
    pairs = [("sl", D("1.497"), D(270)), ("sl", D("1.5"), D(270)), ("tp", D("1.497"), D(390)), ("tp", D("1.5"), D(330))]
    await until(lambda: mine() == pairs)
    await rig.restart()
    assert mine() == pairs
    target = next(h.order for h in rig.venue.live() if h.order.price == D(330))
    rig.venue.fill(target.client_order_id, target.quantity, D(330))
    await until(lambda: mine() == [("sl", D("1.497"), D("300.05")), ("tp", D("1.497"), D(390))])
    await assert_journal(rig.db)


async def test_a_split_that_is_withdrawn_while_it_is_due_lets_exits_go_on(rig: Rig) -> None:
    await hold_since_yesterday(rig)
    await list_split(rig)
    rig.venue.cancels.extend(["refuse:NO"] * 100)
    await rig.start()
    exit_ = await rig.signal(Kind.EXIT)
    await rig.db.sql(
        "INSERT INTO corporate_actions (exchange, symbol, kind, day, type, revision, new_shares, old_shares, source, "
        "published_at, is_withdrawn) SELECT exchange, symbol, kind, day, type, revision + 1, new_shares, old_shares, "
        "source, published_at, true FROM corporate_actions"
    )
    await until(lambda: not rig.service.cache.splits, deadline_s=15.0)
    rig.venue.cancels.clear()
    assert await rig.outcome(exit_) == ("ordered", None)
    await until(lambda: rig.position_is(D(0)))
    assert await rig.db.sql("SELECT FROM position_splits") == []


async def test_a_split_of_before_the_position_changes_nothing(rig: Rig) -> None:
    await rig.outcome(await rig.signal(**BOTH))
    await until(lambda: len(legs(rig)) == 2)
    await list_split(rig)
    await rig.restart()
    await until(lambda: len(legs(rig)) == 2)
    assert await rig.position() == D("9.99")
    assert legs(rig) == [("sl", D("9.99"), D(90)), ("tp", D("9.99"), D(120))]


async def test_executions_of_after_an_unknown_split_refuse_it(rig: Rig) -> None:
    await hold_since_yesterday(rig)
    await rig.start()
    await rig.outcome(await rig.signal())  # bought in the new shares, while the split was not known
    await until(lambda: rig.position_is(D("19.98")))
    await rig.crash()
    await rig.db.sql("UPDATE trades SET time = now() WHERE id = (SELECT max(id) FROM trades)")
    await list_split(rig)
    await rig.start()

    async def refused() -> bool:
        rows = await rig.db.sql("SELECT error FROM position_splits")
        return bool(rows) and "before it was known" in rows[0]["error"]

    await until(refused)
    assert await rig.position() == D("19.98")
    await until(lambda: rig.db.sql("SELECT FROM alerts WHERE event = 'position.split_refused' AND severity = 'page'"))


async def test_lots_of_before_a_split_keep_their_cost(rig: Rig) -> None:
    await hold_since_yesterday(rig)
    await list_split(rig)
    split_at_venue(rig)
    await rig.start()
    await until(lambda: covers(rig, D("39.96"), D("22.5"), D(30)))
    history = await LotStore(rig.db, "binance").history([1])
    books = [
        match_lots(history.trades, flows, currency="USDT", method=LotMethod.FIFO, rate=lambda *_: D(100)).lots()
        for flows in (history.flows, [flow for flow in history.flows if flow.kind is not FlowKind.SPLIT])
    ]
    after, before = ([lot for lot in book if lot.asset == "BTC"] for book in books)
    assert (sum(lot.quantity for lot in after), sum(lot.quantity for lot in before)) == (D("39.96"), D("9.99"))
    assert [lot.cost for lot in after] == [lot.cost for lot in before] != [None]


async def test_paper_holds_the_new_shares_and_keeps_them_over_a_restart(database: Database, bus: Bus) -> None:
    await seed(database)
    await database.sql("UPDATE strategy_instances SET account_id = 2, venue = 'paper'")
    venue = PaperVenue((), CostModel(D("0.001"), "received"), {}, RealClock())
    rig = Rig(database, bus, ScriptedVenue(), venues={"paper": venue})
    await rig.start()
    venue.on_price("BTCUSDT", D(100), at_ns=1)
    await rig.outcome(await rig.signal(venue="paper", account_id=2, **BOTH))
    await until(lambda: rig.position_is(D("9.99")))
    await rig.crash()
    await rig.db.sql("UPDATE orders SET created_at = created_at - interval '2 days'")
    await rig.db.sql("UPDATE trades SET time = time - interval '2 days'")
    await list_split(rig)
    for _ in range(2):
        await rig.start()
        await until(lambda: rig.position_is(D("39.96")))

        async def held() -> bool:
            return (await venue.balances())["BTC"].total == D("39.96")

        await until(held)

        async def protected() -> bool:
            found = [o for o in rig.service.cache.orders.values() if o.parent_id]
            stops = [o for o in found if o.role.value == "sl"]
            return sum(o.quantity for o in stops) == D("39.96") and {o.stop_price for o in stops} == {D("22.5")}

        await until(protected)
        await rig.crash()
    await assert_journal(rig.db)
    await rig.stop()
