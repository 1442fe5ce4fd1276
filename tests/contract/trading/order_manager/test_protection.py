"""C6: SL and TP are rows with their entry, follow the position, and are corrected after any restart."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from fks.model.order import OrderType, Refusal, Role, State
from fks.model.signal import Kind
from fks.model.timeframe import bar_end, to_datetime, to_ns
from fks.store.bus import BARS, WAKE
from fks.trading.order_manager.balances import AccountBalances
from tests.support.invariants import assert_once
from tests.support.order_rig import Rig
from tests.support.scripted_venue import Held
from tests.support.strategies import bars_of, seal
from tests.support.waiting import until

D = Decimal
BEYOND = ("EXECUTION_RULE_PRICE_RANGE_EXCEEDED", Refusal.PRICE)  # the code of an expiry, and what it means
BOTH = {"stop_loss": D(90), "take_profit": D(120)}


async def protected(rig: Rig, **changes: Any) -> tuple[Held, Held]:
    """Enter with SL and TP and return the legs that live at the venue."""
    await rig.outcome(await rig.signal(**(BOTH | changes)))
    await until(lambda: len([held for held in rig.venue.live() if held.order.parent_id]) == 2)
    legs = [held for held in rig.venue.live() if held.order.parent_id]
    stop = next(held for held in legs if held.order.role.value == "sl")
    limit = next(held for held in legs if held.order.role.value == "tp")
    await rig.becomes(stop.order.client_order_id, State.ACCEPTED, State.WORKING)
    await rig.becomes(limit.order.client_order_id, State.WORKING)
    return stop, limit


async def test_an_entry_gets_both_legs_as_one_oco_over_what_is_held(rig: Rig) -> None:
    stop, limit = await protected(rig)
    assert stop.order.quantity == limit.order.quantity == D("9.99")
    assert stop.sibling == limit.order.client_order_id
    assert stop.order.group_id == limit.order.group_id is not None


async def test_a_filled_stop_leaves_nothing_behind(rig: Rig) -> None:
    stop, limit = await protected(rig)
    rig.venue.prices["BTCUSDT"] = D(90)
    rig.venue.fill(stop.order.client_order_id, stop.order.quantity, D(90))
    await rig.becomes(stop.order.client_order_id, State.FILLED)
    await rig.becomes(limit.order.client_order_id, State.EXPIRED, State.CANCELLED)
    assert await rig.position() == 0
    assert rig.venue.live() == []
    assert await rig.outcome(await rig.signal(Kind.EXIT)) == ("nothing", None)


async def test_an_exit_cancels_the_legs_first_and_sells_once(rig: Rig) -> None:
    stop, limit = await protected(rig)
    out = await rig.signal(Kind.EXIT)
    assert await rig.outcome(out) == ("ordered", None)
    await rig.becomes((await rig.entry(out)).client_order_id, State.FILLED)
    assert {stop.state, limit.state} == {State.CANCELLED}
    assert await rig.position() == 0
    assert rig.venue.totals["BTC"] == 0
    assert rig.venue.live() == []


@pytest.mark.parametrize("answer", ["unheard", "lost", "gone"])
async def test_an_exit_whose_cancel_got_no_clear_answer_still_closes_exactly_once(rig: Rig, answer: str) -> None:
    await protected(rig)
    rig.venue.cancels.append(answer)
    out = await rig.signal(Kind.EXIT)
    assert await rig.outcome(out) == ("ordered", None)
    await rig.becomes((await rig.entry(out)).client_order_id, State.FILLED)
    assert rig.venue.totals["BTC"] == 0
    assert await rig.position() == 0
    assert rig.venue.live() == []


async def test_a_stop_that_fills_while_the_exit_cancels_it_makes_the_exit_nothing(rig: Rig) -> None:
    stop, _ = await protected(rig)
    rig.venue.streams_fills = False
    rig.venue.fill(stop.order.client_order_id, stop.order.quantity, D(90))
    out = await rig.signal(Kind.EXIT)
    assert await rig.outcome(out) == ("nothing", None)
    assert rig.venue.totals["BTC"] == 0
    assert await rig.position() == 0


async def test_the_legs_of_an_entry_that_never_filled_are_abandoned(rig: Rig) -> None:
    rig.venue.script.append("refuse:-2010")
    signal = await rig.signal(**BOTH)
    await rig.outcome(signal)
    order = await rig.entry(signal)

    async def ended() -> bool:
        rows = await rig.db.sql("SELECT state FROM orders WHERE parent_id = $1", order.client_order_id)
        return [row["state"] for row in rows] == ["ABANDONED", "ABANDONED"]

    await until(ended)
    assert rig.venue.received == [order.client_order_id]


async def test_legs_follow_a_partly_filled_entry(rig: Rig) -> None:
    signal = await rig.signal(type=OrderType.LIMIT, limit_price=D(100), **BOTH)
    await rig.outcome(signal)
    await until(lambda: rig.venue.live())
    entry = rig.venue.live()[0].order.client_order_id
    rig.venue.fill(entry, D(4), D(100))
    await until(lambda: [h.order.quantity for h in rig.venue.live() if h.order.parent_id] == [D("3.996")] * 2)
    rig.venue.fill(entry, D(6), D(100))
    both = [D("3.996")] * 2 + [D("5.994")] * 2
    await until(lambda: [h.order.quantity for h in rig.venue.live() if h.order.parent_id] == both)
    assert rig.venue.cancelled == []
    assert_once(rig.venue.received)


@pytest.mark.parametrize("can_amend", [True, False])
async def test_a_last_stop_is_never_taken_down_while_entries_fill_and_are_added(
    idle: Rig, can_amend: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry fills in parts, one too small for legs of its own; then another entry is added. The least that the live
    stops cover after each request is what the witness keeps."""
    venue, covered = idle.venue, list[Decimal]()
    venue.capabilities, venue.locks_base = replace(venue.capabilities, can_amend=can_amend), True
    rig = await idle.start()

    def stops() -> Decimal:
        return sum((h.order.quantity for h in venue.live() if h.order.role is Role.STOP_LOSS), D(0))

    end, asked = venue.end, venue.cancelled
    monkeypatch.setattr(venue, "end", lambda held, state: (end(held, state), covered.append(stops())))
    signal = await rig.signal(type=OrderType.LIMIT, limit_price=D(100), **BOTH)
    await rig.outcome(signal)
    await until(lambda: venue.live())
    entry = venue.live()[0].order.client_order_id
    for part, held in ((D(2), "1.998"), (D(3), "4.995"), ("0.03", "5.024"), ("4.97", "9.99")):
        venue.fill(entry, D(part), D(100))
        await until(lambda held=held: stops() == D(held))
    assert len([held for held in venue.live() if held.order.role is Role.STOP_LOSS]) == (4 if can_amend else 3)
    assert all(left > 0 for left in covered)
    before, cancels = len(covered), len(asked)
    await rig.outcome(await rig.signal(Kind.ORDER, size=D(2), instance="one", **BOTH))
    await until(lambda: stops() == D("11.988"))
    assert_once(venue.received)
    if can_amend:
        assert (len(covered), len(asked)) == (before, cancels)
    assert await rig.db.sql("SELECT code FROM orders WHERE state = 'REJECTED'") == []


async def test_a_position_unprotected_at_the_start_is_protected_first(rig: Rig) -> None:
    rig.venue.script.extend(["ok", "lost"])
    await rig.outcome(await rig.signal(**BOTH))
    await until(lambda: len(rig.venue.received) == 3)
    await rig.crash()
    await rig.start(wait_ready=False)
    await until(lambda: len([held for held in rig.venue.live() if held.order.parent_id]) == 2)
    assert_once(rig.venue.received)
    assert len(rig.venue.received) == 5
    assert {held.order.attempt for held in rig.venue.live()} == {1}


async def test_a_stop_that_filled_while_we_were_down_leaves_us_flat(rig: Rig) -> None:
    stop, _ = await protected(rig)
    await rig.crash()
    rig.venue.streams_fills = False
    rig.venue.fill(stop.order.client_order_id, stop.order.quantity, D(90))
    await rig.start()
    await rig.becomes(stop.order.client_order_id, State.FILLED)
    assert await rig.position() == 0
    assert rig.venue.live() == []


async def test_legs_that_live_are_left_alone_by_a_restart(rig: Rig) -> None:
    stop, limit = await protected(rig)
    await rig.restart()
    await rig.restart()
    assert {held.order.client_order_id for held in rig.venue.live()} == {
        stop.order.client_order_id,
        limit.order.client_order_id,
    }
    assert len(rig.venue.received) == 3


async def test_legs_cancelled_behind_our_back_are_renewed(rig: Rig) -> None:
    stop, _ = await protected(rig)
    rig.venue.end(stop, State.CANCELLED)
    await until(lambda: len([h for h in rig.venue.live() if h.order.attempt == 1]) == 2)


async def test_a_stop_the_market_has_passed_is_closed_at_the_market(rig: Rig) -> None:
    rig.venue.script.extend(["ok", "passed:85"])
    await rig.outcome(await rig.signal(**BOTH))
    await until(lambda: rig.venue.totals.get("BTC") == 0)
    await until(lambda: rig.service.cache.position(1, "ccxt", "BTCUSDT", "one").quantity == 0)
    assert_once(rig.venue.received)


async def test_a_second_entry_is_protected_beside_the_first(rig: Rig) -> None:
    """The older entry's legs cover what the newer leaves of the position, so they shrink before the newer's go out."""
    rig.venue.locks_base = True
    for _ in range(2):
        await rig.outcome(await rig.signal(Kind.ORDER, size=D(2), stop_loss=D(90), instance=""))
    await until(
        lambda: len(rig.venue.live()) == 2 and sum(held.order.quantity for held in rig.venue.live()) == D("3.996")
    )
    codes = await rig.db.sql("SELECT code FROM orders WHERE state = 'REJECTED'")
    assert codes == []


async def test_a_trailing_stop_follows_the_closes_and_never_moves_back(rig: Rig) -> None:
    """By sealed bars from the one after the decision on; a restart goes on from where the stop has come to."""
    stop, _ = await protected(rig, stop_loss=None, take_profit=D(200), trail=D("4.995"))
    (signal,) = await rig.db.sql("SELECT ts_event FROM signals WHERE kind = 'enter'")
    first_ns = bar_end(to_ns(signal["ts_event"]), "1m")
    closes: list[float] = []

    def legs() -> list[tuple[str, Decimal | None, Decimal]]:
        """Return the legs that live: role, price, quantity."""
        found = [held.order for held in rig.venue.live() if held.order.parent_id]
        return sorted((leg.role.value, leg.stop_price or leg.price, leg.quantity) for leg in found)

    async def close_at(price: float) -> None:
        closes.append(price)
        rig.venue.prices["BTCUSDT"] = D(str(price))
        await seal(rig.db, bars_of(closes, start_ns=first_ns))
        await rig.bus.publish(BARS, {"type": "bar", "symbol": "BTCUSDT", "timeframe": "1m"})

    assert (stop.order.stop_price, stop.order.quantity) == (D(95), D("9.99"))  # the distance is rounded up to a tick
    await close_at(104.37)
    await until(lambda: legs() == [("sl", D("99.37"), D("9.99")), ("tp", D(200), D("9.99"))])
    await close_at(101.0)
    await rig.crash()
    await close_at(110.0)
    await close_at(107.0)
    await rig.start()
    moved = [("sl", D(105), D("9.99")), ("tp", D(200), D("9.99"))]
    await until(lambda: legs() == moved)
    await close_at(105.5)
    await rig.restart()
    events = await rig.db.sql("SELECT payload FROM order_events WHERE event = 'StopMoved' ORDER BY id")
    assert [D(event["payload"]["stop_loss"]) for event in events] == [D("99.37"), D(105)]
    assert legs() == moved
    assert_once(rig.venue.received)
    assert len(rig.venue.received) == 1 + 2 * 3  # the entry, and three pairs of legs
    out = await rig.signal(Kind.EXIT)
    assert await rig.outcome(out) == ("ordered", None)
    await until(lambda: rig.venue.live() == [] and rig.venue.totals["BTC"] == 0)
    await rig.becomes((await rig.entry(out)).client_order_id, State.FILLED)
    assert await rig.position() == 0


async def test_an_added_entry_gets_the_stop_that_its_position_has_by_now(rig: Rig) -> None:
    await rig.db.sql("UPDATE strategy_instances SET pyramiding = 2")
    await rig.read_slow()
    await protected(rig, trail=D(10))
    (signal,) = await rig.db.sql("SELECT ts_event FROM signals WHERE kind = 'enter'")
    rig.venue.prices["BTCUSDT"] = D(108)
    await seal(rig.db, bars_of([108.0], start_ns=bar_end(to_ns(signal["ts_event"]), "1m")))
    await rig.bus.publish(BARS, {"type": "bar", "symbol": "BTCUSDT", "timeframe": "1m"})
    await until(lambda: [held.order.stop_price for held in rig.venue.by_role("sl")] == [D(90), D(98)])
    added = await rig.signal(is_add=True, trail=D(10), size=D(2), **BOTH)
    assert await rig.outcome(added) == ("ordered", None)
    live = rig.venue.live
    await until(lambda: [h.order.stop_price for h in rig.venue.by_role("sl") if h in live()] == [D(98), D(98)])
    (row,) = await rig.db.sql("SELECT stop_loss FROM orders WHERE signal_id = $1 AND role = 'entry'", added)
    assert row["stop_loss"] == D(98)


async def test_a_move_that_was_journaled_before_a_crash_is_carried_out(rig: Rig) -> None:
    stop, _ = await protected(rig, trail=D(10))
    await rig.crash()
    rig.venue.prices["BTCUSDT"] = D(105)
    await rig.db.sql("UPDATE orders SET stop_loss = 93 WHERE client_order_id = $1", stop.order.parent_id)
    await rig.start()
    await until(lambda: [held.order.stop_price for held in rig.venue.by_role("sl") if held in rig.venue.live()] == [93])


async def test_a_stop_goes_where_its_strategy_moves_it_and_never_back(rig: Rig) -> None:
    """Moves of bars before the entry, farther ones and those of other instances count for nothing; added entries get
    the stop of their position, and a restart goes on from where it has come to."""
    await rig.db.sql("UPDATE strategy_instances SET pyramiding = 2")
    await rig.read_slow()
    await protected(rig)
    (signal,) = await rig.db.sql("SELECT ts_event FROM signals WHERE kind = 'enter'")
    first_ns = bar_end(to_ns(signal["ts_event"]), "1m")

    async def move(bar: int, price: str, instance: str = "one") -> None:
        at = to_datetime(first_ns + bar * 60 * 10**9)
        await rig.db.sql("INSERT INTO stop_moves (instance, time, price) VALUES ($1, $2, $3)", instance, at, D(price))

    def stops() -> list[Decimal | None]:
        return sorted(held.order.stop_price for held in rig.venue.by_role("sl") if held in rig.venue.live())

    await move(-1, "99")
    await move(0, "99.5", "two")
    await move(1, "95.128")
    await until(lambda: stops() == [D("95.12")])
    await move(2, "94")
    added = await rig.signal(is_add=True, size=D(2), **BOTH)
    assert await rig.outcome(added) == ("ordered", None)
    await until(lambda: stops() == [D("95.12"), D("95.12")])
    await rig.crash()
    await move(3, "97")
    await move(4, "96")
    await rig.start()
    await until(lambda: stops() == [D(97), D(97)])
    events = await rig.db.sql("SELECT payload FROM order_events WHERE event = 'StopMoved' ORDER BY id")
    assert [D(event["payload"]["stop_loss"]) for event in events] == [D("95.12"), D("95.12"), D(97), D(97)]
    assert_once(rig.venue.received)


async def test_a_position_has_no_stop_of_one_that_was_closed(rig: Rig) -> None:
    """Lots and fees leave 0.49 of an entry whose stop closed it, less than the smallest order; the next entry is lower,
    and its own stop and target stay where they were decided, over a restart, too, until its own closes move them."""
    await rig.db.sql("UPDATE instruments SET lot_step = 0.5, qty_min = 0.5 WHERE symbol = 'BTCUSDT'")
    await rig.read_slow()
    stop, _ = await protected(rig, trail=D(10))
    rig.venue.prices["BTCUSDT"] = D(90)
    rig.venue.fill(stop.order.client_order_id, stop.order.quantity, D(90))
    await rig.becomes(stop.order.client_order_id, State.FILLED)
    assert await rig.position() == D("0.49")
    rig.venue.prices["BTCUSDT"] = D(85)
    entered = await rig.signal(size=D(2), reference_price=D(85), stop_loss=D(75), take_profit=D(95), trail=D(10))
    assert await rig.outcome(entered) == ("ordered", None)

    def legs() -> list[tuple[Decimal | None, Decimal | None]]:
        """Return the prices of the live stops and take profits."""
        live = rig.venue.live()
        stops, profits = ([one.order for one in rig.venue.by_role(role) if one in live] for role in ("sl", "tp"))
        return [(stop.stop_price, profit.price) for stop, profit in zip(stops, profits, strict=True)]

    await until(lambda: legs() == [(D(75), D(95))])
    (signal,) = await rig.db.sql("SELECT ts_event FROM signals WHERE id = $1", entered)
    first_ns = bar_end(to_ns(signal["ts_event"]), "1m")
    sent = len(rig.venue.received)
    await rig.restart()
    assert legs() == [(D(75), D(95))]
    assert len(rig.venue.received) == sent
    await seal(rig.db, bars_of([86.0], start_ns=first_ns))
    await rig.bus.publish(BARS, {"type": "bar", "symbol": "BTCUSDT", "timeframe": "1m"})
    await until(lambda: legs() == [(D(76), D(95))])
    events = await rig.db.sql("SELECT client_order_id, payload FROM order_events WHERE event = 'StopMoved'")
    second = (await rig.entry(entered)).client_order_id
    assert [(event["client_order_id"], D(event["payload"]["stop_loss"])) for event in events] == [(second, D(76))]


async def test_a_take_profit_goes_where_its_strategy_moved_it_last(rig: Rig) -> None:
    """Both ways, for all entries of the position; moves of bars before the entry and of other instances count for
    nothing, and a restart goes on from where it has come to."""
    await rig.db.sql("UPDATE strategy_instances SET pyramiding = 2")
    await rig.read_slow()
    await protected(rig)
    (signal,) = await rig.db.sql("SELECT ts_event FROM signals WHERE kind = 'enter'")
    first_ns = bar_end(to_ns(signal["ts_event"]), "1m")

    async def move(bar: int, price: str, instance: str = "one") -> None:
        at, insert = to_datetime(first_ns + bar * 60 * 10**9), "INSERT INTO stop_moves (instance, time, take_profit)"
        await rig.db.sql(f"{insert} VALUES ($1, $2, $3)", instance, at, D(price))

    def legs() -> list[tuple[Decimal | None, Decimal | None]]:
        """Return the prices of the live stops and take profits."""
        live = rig.venue.live()
        stops, profits = ([one.order for one in rig.venue.by_role(role) if one in live] for role in ("sl", "tp"))
        return [(stop.stop_price, profit.price) for stop, profit in zip(stops, profits, strict=True)]

    await move(-1, "101")
    await move(0, "102", "two")
    await move(1, "104.128")
    await until(lambda: legs() == [(D(90), D("104.13"))])
    await move(2, "118")
    await until(lambda: legs() == [(D(90), D(118))])
    added = await rig.signal(is_add=True, size=D(2), **BOTH)
    assert await rig.outcome(added) == ("ordered", None)
    await until(lambda: legs() == [(D(90), D(118))] * 2)
    await rig.crash()
    await move(3, "106")
    await move(4, "107")
    await rig.start()
    await until(lambda: legs() == [(D(90), D(107))] * 2)
    events = await rig.db.sql("SELECT payload FROM order_events WHERE event = 'TargetMoved' ORDER BY id")
    prices = [D("104.13"), D(118), D(118), D(107), D(107)]
    assert [D(event["payload"]["take_profit"]) for event in events] == prices
    assert_once(rig.venue.received)


async def test_a_stop_that_the_venue_keeps_is_reported_as_not_moved(rig: Rig) -> None:
    await protected(rig)
    status = rig.service.cache.venues["ccxt"]
    status.capabilities = replace(rig.venue.capabilities, keeps_bracket=True)
    (signal,) = await rig.db.sql("SELECT ts_event FROM signals WHERE kind = 'enter'")
    at = to_datetime(bar_end(to_ns(signal["ts_event"]), "1m"))
    await rig.db.sql("INSERT INTO stop_moves (instance, time, price) VALUES ('one', $1, 95)", at)
    await rig.bus.publish(WAKE, {"type": "stop", "symbol": "BTCUSDT"})

    async def is_reported() -> bool:
        found = await rig.db.sql("SELECT message FROM alerts WHERE event = 'order.stop_kept'")
        return [row["message"] for row in found] == [
            "BTCUSDT: the strategy moves the stop to 95, and ccxt keeps it where it is"
        ]

    await until(is_reported)
    assert not await rig.db.sql("SELECT FROM order_events WHERE event = 'StopMoved'")


async def test_a_trailing_stop_is_denied_where_the_venue_keeps_the_bracket(rig: Rig) -> None:
    rig.service.cache.venues["ccxt"].capabilities = replace(rig.venue.capabilities, keeps_bracket=True)
    assert await rig.outcome(await rig.signal(trail=D(5))) == ("denied", "TYPE_UNSUPPORTED")
    assert rig.venue.received == []


@pytest.mark.parametrize("is_seen_late", [False, True])
async def test_a_stop_that_triggers_and_does_not_fill_is_closed_at_the_market(rig: Rig, is_seen_late: bool) -> None:
    """The venue ends it by its price range rule, at once or after it was reported as working; the market order is
    refused the same way once."""
    stop, limit = await protected(rig)
    rig.venue.prices["BTCUSDT"] = D(89)
    rig.venue.script += ["expire", "ok"]
    if is_seen_late:
        stop.state = State.WORKING
        rig.venue.push(replace(rig.venue.report(stop), source="stream", time_ns=stop.time_ns + 1))
        await rig.becomes(stop.order.client_order_id, State.WORKING)
    rig.venue.end(stop, State.EXPIRED, BEYOND)
    await until(lambda: rig.position_is(D(0)), deadline_s=5)
    assert rig.venue.totals["BTC"] == 0
    assert rig.venue.live() == []
    assert limit.state is State.EXPIRED
    closes = [held.state for held in rig.venue.by_role("sl") if held.order.type is OrderType.MARKET]
    assert closes == [State.EXPIRED, State.FILLED]
    found = await rig.db.sql("SELECT severity, payload FROM alerts WHERE event = 'stop.unfilled'")
    assert [row["severity"] for row in found] == ["page"] * len(found)
    assert found[0]["payload"]["client_order_id"] == stop.order.client_order_id


async def test_a_stop_that_triggered_and_rests_is_cancelled_and_closed_within_5_s(rig: Rig) -> None:
    stop, _ = await protected(rig)
    rig.venue.prices["BTCUSDT"] = D(89)
    stop.state = State.WORKING
    started_s = time.monotonic()
    rig.venue.push(replace(rig.venue.report(stop), source="stream", time_ns=stop.time_ns + 1))
    await until(lambda: rig.position_is(D(0)), deadline_s=10)
    assert time.monotonic() - started_s < 5
    assert stop.state is State.CANCELLED
    assert rig.venue.totals["BTC"] == 0
    assert await rig.db.sql("SELECT 1 FROM alerts WHERE event = 'stop.unfilled' AND severity = 'page'")


async def test_a_start_places_a_missing_stop_while_external_coins_cannot_be_noted(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those are written to PostgreSQL, which may fail right then: protection does not wait for it."""
    await protected(rig)
    await rig.stop()
    for held in rig.venue.live():
        rig.venue.end(held, State.CANCELLED)
    assert rig.venue.live() == []

    async def hang(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(AccountBalances, "find_externals", hang)
    await rig.start(wait_ready=False)
    await until(lambda: [held.order.quantity for held in rig.venue.live()] == [D("9.99")] * 2)


@pytest.mark.parametrize("restarts", [False, True])
async def test_an_executed_stop_counts_against_its_own_entry(rig: Rig, audited: None, restarts: bool) -> None:
    """The newer entry's stop is at 95 and closes it at 94: the older one keeps its own, at 90."""
    rig.venue.fee_rate = D(0)
    for number, stop_loss in ((1, D(90)), (2, D(95))):
        await rig.outcome(await rig.signal(stop_loss=stop_loss))
        await until(lambda number=number: len(rig.venue.live()) == number)
    older, newer = rig.venue.live()
    await rig.becomes(newer.order.client_order_id, State.ACCEPTED, State.WORKING)
    rig.venue.prices["BTCUSDT"] = D(94)
    rig.venue.fill(newer.order.client_order_id, newer.order.quantity, D(94))
    await rig.becomes(newer.order.client_order_id, State.FILLED)
    if restarts:
        await rig.restart()
    await rig.outcome(await rig.signal(size=D(2), stop_loss=D(93)))
    await until(lambda: len(rig.venue.live()) == 2)
    assert {(held.order.stop_price, held.order.quantity) for held in rig.venue.live()} == {
        (D(90), D(10)),
        (D(93), D(2)),
    }
    assert len(rig.venue.received) == 6
    assert older.state is State.ACCEPTED


async def test_the_closed_part_of_an_open_entry_counts_after_a_restart(rig: Rig, audited: None) -> None:
    """The position at the restart is the older entry's: the open one's stop has closed all that it had executed."""
    rig.venue.fee_rate = D(0)
    await rig.outcome(await rig.signal(stop_loss=D(85)))
    await rig.outcome(await rig.signal(type=OrderType.LIMIT, limit_price=D(100), stop_loss=D(90)))
    await until(lambda: len(rig.venue.live()) == 2)
    entry = rig.venue.live()[-1].order
    rig.venue.fill(entry.client_order_id, D(4), D(100))
    await until(lambda: len(rig.venue.live()) == 3)
    stop = rig.venue.live()[-1].order
    await rig.becomes(stop.client_order_id, State.ACCEPTED, State.WORKING)
    rig.venue.fill(stop.client_order_id, D(4), D(90))
    await until(lambda: rig.position_is(D(10)))
    await rig.restart()
    rig.venue.fill(entry.client_order_id, D(6), D(100))
    await until(lambda: len(rig.venue.live()) == 2)
    assert {(held.order.stop_price, held.order.quantity) for held in rig.venue.live()} == {
        (D(85), D(10)),
        (D(90), D(6)),
    }
    assert len(rig.venue.received) == 5
