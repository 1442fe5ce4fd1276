"""The paper venue: G6's rule in mode `bar`, fills at once in mode `last`, and a state that can be rebuilt."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.clock import FakeClock
from fks.model.bar import Bar
from fks.model.instrument import Instrument
from fks.model.margin import Margin
from fks.model.order import (
    ExecutedOrder,
    Fill,
    Order,
    OrderType,
    Outcome,
    Presence,
    Report,
    Role,
    Side,
    State,
    TimeInForce,
)
from fks.model.ports import SessionBack
from fks.trading.matching import CostModel, Slippage
from fks.trading.venues.paper import PaperVenue
from tests.support.venue_orders import order

D = Decimal
BTC = Instrument("binance", "BTCUSDT", "BTC", "USDT", D("0.01"), D("0.00001"), D("0.00001"), D(9000), D(5))
MINUTE = 60_000_000_000


def bar(index: int, open: float, high: float, low: float, close: float, timeframe: str = "1m") -> Bar:
    return Bar("binance", "BTCUSDT", timeframe, index * MINUTE, open, high, low, close, 1.0)


def paper(mode: Any = "bar", **changes: Any) -> PaperVenue:
    balances = {"USDT": D(100000), "BTC": D(1)}
    return PaperVenue(
        [BTC], changes.pop("costs", CostModel()), balances, FakeClock(), account_id=3, mode=mode, **changes
    )


async def drain(venue: PaperVenue) -> list[Any]:
    """Return the events that wait."""
    found: list[Any] = []

    async def read() -> None:
        async for event in venue.events():
            found.append(event)

    task = asyncio.create_task(read())
    await asyncio.sleep(0)
    task.cancel()
    return found


def fills_of(events: Sequence[Any]) -> list[tuple[str, D, int]]:
    return [(f.side.value, f.price, f.time_ns // MINUTE) for f in events if isinstance(f, Fill)]


async def test_market_orders_fill_at_the_next_open() -> None:
    venue = paper()
    venue.on_bar(bar(1, 100, 101, 99, 100))
    wanted = order("0.5")
    answer = await venue.submit(wanted)
    assert (answer.outcome, answer.fills) == (Outcome.ACK, ())
    venue.on_bar(bar(2, 102, 103, 101, 102))
    events = await drain(venue)
    assert fills_of(events) == [("buy", D("102.0"), 2)]
    (fill,) = [event for event in events if isinstance(event, Fill)]
    assert (fill.fee, fill.fee_currency) == (D("0.0005"), "BTC")
    assert [e.state for e in events if isinstance(e, Report)] == [State.FILLED]
    held = await venue.balances()
    assert held["BTC"].free == D("1.4995")
    assert held["USDT"].free == D(100000) - D("0.5") * 102


@pytest.mark.parametrize(
    ("limit", "slippage", "price"),
    [("102", "none", "102"), ("101.99", "none", None), ("102.01", "1 tick", "102.01"), ("102", "1 tick", None)],
)
@pytest.mark.parametrize("mode", ["bar", "last"])
async def test_an_order_that_fills_at_once_takes_the_open_or_expires(
    mode: str, limit: str, slippage: str, price: str | None
) -> None:
    """Also where the bar comes back to its limit; its slippage counts, and it takes."""
    venue = paper(mode, costs=CostModel(D("0.001"), fee_rate_maker=D(0), slippage=Slippage.parse(slippage)))
    wanted = order("0.5", type=OrderType.LIMIT, price=limit, time_in_force=TimeInForce.FOK)
    if mode == "last":
        venue.on_price("BTCUSDT", D(102), at_ns=1)
    answer = await venue.submit(wanted)
    venue.on_bar(bar(2, 102, 103, 90, 95))
    events = [*answer.fills, answer.report, *await drain(venue)]
    fills = [(fill.price, fill.is_maker) for fill in events if isinstance(fill, Fill)]
    assert fills == ([] if price is None else [(D(price), False)])
    (last,) = [r for r in events if isinstance(r, Report) and r.state in (State.FILLED, State.EXPIRED)]
    assert (last.state, last.code) == ((State.EXPIRED, "SLIPPAGE_GUARD") if price is None else (State.FILLED, None))
    assert await venue.open_orders() == []


async def test_an_order_that_fills_at_once_is_refused_without_a_price() -> None:
    answer = await paper("last").submit(order("1", type=OrderType.LIMIT, price="9", time_in_force=TimeInForce.FOK))
    assert (answer.outcome, answer.code) == (Outcome.REFUSED, "PRICE_MISSING")


async def test_an_order_that_fills_at_once_does_so_before_the_orders_that_rest() -> None:
    venue = paper()
    await venue.submit(order("0.1", type=OrderType.LIMIT, price="101"))
    await venue.submit(order("0.5", type=OrderType.LIMIT, price="110", time_in_force=TimeInForce.FOK))
    venue.on_bar(bar(2, 102, 103, 90, 95))
    assert fills_of(await drain(venue)) == [("buy", D(102), 2), ("buy", D(101), 2)]


COSTS = CostModel(D("0.001"), "quote", D("0.0002"), Slippage.parse("0.5 range"))


async def test_a_market_order_slips_by_the_range_of_its_bar() -> None:
    venue = paper(costs=COSTS)
    await venue.submit(order("0.5"))
    venue.on_bar(bar(2, 102, 103, 101, 102))
    (fill,) = [event for event in await drain(venue) if isinstance(event, Fill)]
    assert (fill.price, fill.fee, fill.is_maker) == (D(103), D("0.0515"), False)


@pytest.mark.parametrize(
    ("limit", "bars", "expected"),
    [
        (101, [(100, 104, 98, 103)], (D(101), D("0.0505"), False)),  # marketable when it came: slips up to its limit
        (99, [(100, 104, 98, 103)], (D(99), D("0.0099"), True)),
        (99, [(100, 104, 100, 103), (98, 104, 96, 103)], (D(98), D("0.0098"), True)),  # it had rested: no slippage
    ],
)
async def test_a_limit_order_makes_unless_it_was_marketable(limit: int, bars: Any, expected: Any) -> None:
    venue = paper(costs=COSTS)
    await venue.submit(order("0.5", type=OrderType.LIMIT, price=D(limit)))
    for number, prices in enumerate(bars, 2):
        venue.on_bar(bar(number, *prices))
    (fill,) = [event for event in await drain(venue) if isinstance(event, Fill)]
    assert (fill.price, fill.fee, fill.is_maker) == expected


async def test_at_the_last_price_the_range_is_that_of_the_newest_bar() -> None:
    venue = paper("last", costs=COSTS)
    venue.on_bar(bar(1, 100, 101, 99, 100))
    (fill,) = (await venue.submit(order("0.5"))).fills
    assert (fill.price, fill.is_maker) == (D(101), False)


@pytest.mark.parametrize(
    ("entry_bar", "next_bar", "expected"),
    [
        # the entry's own bar counts, but not its open: a stop under the open fills at the stop
        ((102, 103, 94, 100), None, ("sell", D(95), 2)),
        ((102, 111, 101, 108), None, ("sell", D(110), 2)),
        # both in one bar: the stop wins
        ((102, 111, 94, 100), None, ("sell", D(95), 2)),
        # in a later bar the open may be had
        ((102, 103, 101, 102), (90, 92, 88, 91), ("sell", D("90.0"), 3)),
        ((102, 103, 101, 102), (112, 113, 90, 91), ("sell", D("112.0"), 3)),
        ((102, 103, 101, 102), (100, 109, 96, 99), None),
    ],
)
async def test_protections_count_from_the_entry_bar_on(entry_bar: Any, next_bar: Any, expected: Any) -> None:
    """They arrive after the entry's bar completed, as they do when the order manager arms them on the fill."""
    venue = paper()
    venue.on_bar(bar(1, 100, 101, 99, 100))
    entry = order("0.5", role=Role.ENTRY)
    await venue.submit(entry)
    venue.on_bar(bar(2, *entry_bar))
    await drain(venue)
    legs = {"side": Side.SELL, "parent_id": entry.client_order_id, "group_id": "g"}
    stop = order("0.499", type=OrderType.STOP, stop_price="95", role=Role.STOP_LOSS, **legs)
    limit = order("0.499", type=OrderType.TAKE_PROFIT, price="110", role=Role.TAKE_PROFIT, **legs)
    answers = await venue.submit_oco(stop, limit)
    found = [fill for answer in answers for fill in answer.fills]
    if next_bar is not None:
        assert not found
        venue.on_bar(bar(3, *next_bar))
        found = [event for event in await drain(venue) if isinstance(event, Fill)]
    assert [(f.side.value, f.price, f.time_ns // MINUTE) for f in found] == ([expected] if expected else [])
    assert len(await venue.open_orders()) == (0 if expected else 2)


async def test_a_rearmed_protection_is_not_matched_against_the_past() -> None:
    venue = paper()
    venue.on_bar(bar(1, 100, 101, 99, 100))
    entry = order("0.5", role=Role.ENTRY)
    await venue.submit(entry)
    venue.on_bar(bar(2, 102, 103, 94, 100))
    stop = order(
        "0.4",
        side=Side.SELL,
        type=OrderType.STOP,
        stop_price="95",
        role=Role.STOP_LOSS,
        parent_id=entry.client_order_id,
        attempt=1,
    )
    assert (await venue.submit(stop)).fills == ()


async def test_limit_orders_use_the_open_and_expire_on_request() -> None:
    venue = paper()
    venue.on_bar(bar(1, 100, 101, 99, 100))
    resting = order("0.1", type=OrderType.LIMIT, price="98")
    once = order("0.1", type=OrderType.LIMIT, price="90", time_in_force=TimeInForce.IOC)
    for item in (resting, once):
        assert (await venue.submit(item)).fills == ()
    venue.on_bar(bar(2, 97, 99, 96, 98))
    events = await drain(venue)
    assert fills_of(events) == [("buy", D("97.0"), 2)]
    assert State.EXPIRED in [e.state for e in events if isinstance(e, Report)]


async def test_mode_last_fills_at_once() -> None:
    venue = paper("last")
    refused = await venue.submit(order("0.1"))
    assert (refused.outcome, refused.code) == (Outcome.REFUSED, "PRICE_MISSING")
    venue.on_bar(bar(1, 100, 101, 99, 100.5))
    answer = await venue.submit(order("0.1"))
    assert answer.report is not None
    assert answer.report.state is State.FILLED
    assert [f.price for f in answer.fills] == [D("100.5")]
    wrong = await venue.submit(order("0.1", side=Side.SELL, type=OrderType.STOP, stop_price="101"))
    assert (wrong.outcome, wrong.code) == (Outcome.REFUSED, "STOP_WRONG_SIDE")
    marketable = await venue.submit(order("0.1", type=OrderType.LIMIT, price="101"))
    assert [f.price for f in marketable.fills] == [D("100.5")]


async def test_only_the_shortest_bars_match_and_each_once() -> None:
    venue = paper()
    venue.on_bar(bar(1, 100, 101, 99, 100, "5m"))
    venue.on_bar(bar(1, 100, 101, 99, 100))
    await venue.submit(order("0.1"))
    venue.on_bar(bar(1, 50, 51, 49, 50))
    venue.on_bar(bar(2, 50, 51, 49, 50, "5m"))
    assert fills_of(await drain(venue)) == []
    venue.on_bar(bar(2, 102, 103, 101, 102))
    assert fills_of(await drain(venue)) == [("buy", D("102.0"), 2)]


async def test_refusals() -> None:
    venue = paper("last")
    venue.on_bar(bar(1, 100, 101, 99, 100))
    known = order("0.1")
    await venue.submit(known)
    cases = [
        (known, Outcome.EXISTS, "DUPLICATE_INTENT"),
        (order("2000"), Outcome.REFUSED, "BALANCE"),
        (order("5", side=Side.SELL), Outcome.REFUSED, "BALANCE"),
        (order("0.1", symbol="NOPEUSDT"), Outcome.REFUSED, "INSTRUMENT_UNKNOWN"),
        (order("-1"), Outcome.REFUSED, "CLIENT_VALIDATION"),
    ]
    for wanted, outcome, code in cases:
        answer = await venue.submit(wanted)
        assert (answer.outcome, answer.code) == (outcome, code)


@pytest.mark.parametrize("kind", [OrderType.MARKET, OrderType.STOP])
async def test_a_buy_whose_fill_costs_more_than_is_free_expires(kind: OrderType) -> None:
    """1,000 at 100 and no fee in quote: all of 100,000, and 100.5 is more."""
    venue = paper()
    venue.on_bar(bar(1, 100, 101, 99, 100))
    stop = D("100.2") if kind is OrderType.STOP else None
    wanted = replace(order("997" if stop else "1000"), type=kind, stop_price=stop)
    assert (await venue.submit(wanted)).outcome is Outcome.ACK
    venue.on_bar(bar(2, 100.5, 101, 100, 100))
    events = await drain(venue)
    assert fills_of(events) == []
    (report,) = [event for event in events if isinstance(event, Report)]
    assert (report.state, report.code) == (State.EXPIRED, "BALANCE")
    held = await venue.balances()
    assert (held["USDT"].total, held["USDT"].locked, held["BTC"].total) == (100_000, 0, 1)


async def test_a_buy_is_refused_whose_fee_is_more_than_is_left() -> None:
    venue = paper("last", costs=CostModel(D("0.001"), "quote"))
    venue.on_price("BTCUSDT", D(100), at_ns=1)
    refused = await venue.submit(order("1000"))
    assert (refused.outcome, refused.code) == (Outcome.REFUSED, "BALANCE")
    taken = await venue.submit(order("999", client_order_id="another"))
    assert [fill.fee for fill in taken.fills] == [D("99.9")]


async def test_cancelling_one_leg_ends_both() -> None:
    venue = paper("last")
    await venue.open()
    venue.on_bar(bar(1, 100, 101, 99, 100))
    stop = order("0.5", side=Side.SELL, type=OrderType.STOP, stop_price="95")
    limit = order("0.5", side=Side.SELL, type=OrderType.TAKE_PROFIT, price="110")
    await venue.submit_oco(stop, limit)
    assert (await venue.balances())["BTC"].locked == D("0.5")
    answer = await venue.cancel(stop)
    assert answer.outcome is Outcome.ACK
    assert (await venue.cancel(limit)).code == "UNKNOWN_ORDER"
    events = await drain(venue)
    assert isinstance(events[0], SessionBack)
    assert [(e.client_order_id, e.state) for e in events[1:]] == [(limit.client_order_id, State.CANCELLED)]
    lookup = await venue.query("BTCUSDT", limit.client_order_id)
    assert lookup.presence is Presence.FOUND
    assert (await venue.query("BTCUSDT", "f" * 32)).presence is Presence.NOT_FOUND


@pytest.mark.parametrize(
    ("is_live", "entered", "moved", "filled_in"),
    [(False, 2, 0, [5]), (True, 2, 0, []), (False, 6, 0, [7]), (False, 2, 6, [7]), (False, 2, 7, [])],
)
async def test_leg_replaced_across_a_restart_meets_the_bars_since_its_end(
    is_live: bool, entered: int, moved: int, filled_in: list[int]
) -> None:
    """A part was closed in bar 5, its entry filled in bar `entered` (6: a position before was closed) and its stop was
    moved at the close of bar `moved`. The process was killed before its legs were placed again, and bars up to 7 are
    fed first. Legs that were placed again before the kill have met these bars."""
    entry = replace(order("0.5", role=Role.ENTRY, instance="one"), state=State.FILLED, filled=D("0.5"))
    stop = order(
        "0.2", side=Side.SELL, type=OrderType.STOP, stop_price="95", role=Role.STOP_LOSS, instance="one",
        parent_id=entry.client_order_id, attempt=1,
    )  # fmt: skip
    executed = [
        ExecutedOrder(
            entry.client_order_id,
            "BTCUSDT",
            "one",
            Role.ENTRY,
            entered * MINUTE,
            Side.BUY,
            is_unprotected=not is_live,
        ),
        ExecutedOrder("a" * 32, "BTCUSDT", "one", Role.EXIT, 5 * MINUTE, Side.SELL),
    ]
    venue = paper()
    live = [replace(stop, client_order_id="b" * 32, stop_price=D(80), state=State.ACCEPTED)] if is_live else []
    decided = {entry.client_order_id: moved * MINUTE}
    venue.restore([entry, *live], [], {"USDT": D(100000), "BTC": D(1)}, decided, executed)
    for index, low in ((4, 90), (5, 94), (6, 97), (7, 94)):
        venue.on_bar(bar(index, 100, 101, low, 100))
    answer = await venue.submit(replace(stop, attempt=2))
    assert [fill.time_ns // MINUTE for fill in answer.fills] == filled_in


async def test_leg_meets_no_bar_before_the_execution_of_its_entry() -> None:
    """A limit of bar 2 filled in bar 5; after a restart the bars since its decision are fed again."""
    entry = replace(order("0.5", role=Role.ENTRY, instance="one"), state=State.FILLED, filled=D("0.5"))
    take = order(
        "0.5", side=Side.SELL, type=OrderType.TAKE_PROFIT, price="105", role=Role.TAKE_PROFIT, instance="one",
        parent_id=entry.client_order_id,
    )  # fmt: skip
    filled = ("BTCUSDT", "one", Role.ENTRY, 5 * MINUTE, Side.BUY, OrderType.LIMIT, D(95))
    row = ExecutedOrder(entry.client_order_id, *filled)
    venue = paper()
    venue.restore([replace(take, state=State.WORKING)], [], {"BTC": D(1)}, executed=[row])
    for index, high in ((3, 106), (4, 106), (6, 104), (7, 106)):
        venue.on_bar(bar(index, 100, high, 99, 100))
    assert [index for _, _, index in fills_of(await drain(venue))] == [7]


async def test_restore_brings_back_balances_legs_and_history() -> None:
    first = paper("last")
    first.on_bar(bar(1, 100, 101, 99, 100))
    entry = order("0.5")
    answer = await first.submit(entry)
    stop = replace(
        order("0.4", side=Side.SELL, type=OrderType.STOP, stop_price="95", group_id="g"), state=State.ACCEPTED
    )
    limit = replace(
        order("0.4", side=Side.SELL, type=OrderType.TAKE_PROFIT, price="110", group_id="g"), state=State.WORKING
    )
    await first.submit_oco(stop, limit)
    second = paper("last")
    done = replace(entry, state=State.FILLED, filled=D("0.5"))
    second.restore([done, stop, limit], answer.fills, {"USDT": D(100000), "BTC": D(1)})
    assert await second.balances() == await first.balances()
    assert await second.fills_since("BTCUSDT", 0) == list(answer.fills)
    assert (await second.submit(entry)).outcome is Outcome.EXISTS
    second.on_bar(bar(2, 100, 111, 99, 110))
    events = await drain(second)
    assert [e.client_order_id for e in events if isinstance(e, Fill)] == [limit.client_order_id]
    assert {e.client_order_id: e.state for e in events if isinstance(e, Report)} == {
        limit.client_order_id: State.FILLED,
        stop.client_order_id: State.EXPIRED,
    }


@pytest.mark.parametrize("mode", ["bar", "last"])
@pytest.mark.parametrize(("is_placed_before", "is_own"), [(True, True), (False, True), (False, False)])
async def test_bars_fed_again_do_not_meet_a_stop_that_came_later(
    mode: str, is_placed_before: bool, is_own: bool
) -> None:
    """After a restart bars from the entry's decision on are fed again; the stop has come to 105 with the third one."""
    leg = order("0.4", side=Side.SELL, type=OrderType.STOP, stop_price="105", role=Role.STOP_LOSS, parent_id="e" * 32)
    leg = replace(leg, state=State.ACCEPTED)
    venue = paper(mode)
    moved = {leg.client_order_id if is_own else "e" * 32: 3 * MINUTE}
    venue.restore([leg] if is_placed_before else [], [], {"BTC": D(1)}, moved)
    if not is_placed_before:
        await venue.submit(leg)
    for index, low in ((1, 99), (2, 100), (3, 104), (4, 106)):
        venue.on_bar(bar(index, 107, 111, low, 110))
        assert fills_of(await drain(venue)) == []
    venue.on_bar(bar(5, 107, 108, 104, 104))
    assert [(side, price) for side, price, _ in fills_of(await drain(venue))] == [("sell", D(105))]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["buy", "sell", "stop", "limit", "cancel", "bar"]), st.integers(1, 30), st.integers(80, 120)
        ),
        max_size=40,
    )
)
def test_money_is_neither_made_nor_lost(steps: list[tuple[str, int, int]]) -> None:
    """Balances always equal the start plus fills, nothing free is negative, and each order fills whole, once."""

    async def play() -> None:
        venue = paper("last")
        venue.on_bar(bar(0, 100, 100, 100, 100))
        placed: list[Order] = []
        for index, (what, size, price) in enumerate(steps, start=1):
            quantity = str(D(size) / 100)
            if what in ("buy", "sell"):
                placed.append(order(quantity, side=Side(what)))
                await venue.submit(placed[-1])
            elif what == "stop":
                placed.append(order(quantity, side=Side.SELL, type=OrderType.STOP, stop_price=str(price)))
                await venue.submit(placed[-1])
            elif what == "limit":
                placed.append(order(quantity, type=OrderType.LIMIT, price=str(price)))
                await venue.submit(placed[-1])
            elif what == "cancel" and placed:
                await venue.cancel(placed[size % len(placed)])
            else:
                venue.on_bar(bar(index, price, price + size, max(price - size, 1), price))
        fills = await venue.fills_since("BTCUSDT", 0)
        assert len({f.client_order_id for f in fills}) == len(fills)
        wanted = {o.client_order_id: o.quantity for o in placed}
        assert all(f.quantity == wanted[f.client_order_id or ""] for f in fills)
        base = sum((f.side.sign * f.quantity - (f.fee if f.fee_currency == "BTC" else 0) for f in fills), D(1))
        quote = sum(
            (-f.side.sign * f.quantity * f.price - (f.fee if f.fee_currency == "USDT" else 0) for f in fills), D(100000)
        )
        held = await venue.balances()
        assert (held["BTC"].total, held["USDT"].total) == (base, quote)
        assert held["BTC"].free >= 0

    asyncio.run(play())


async def test_prices_of_before_a_split_are_not_taken_again() -> None:
    clock = FakeClock()
    venue = PaperVenue([BTC], CostModel(D(0)), {"USDT": D(100)}, clock, mode="last")
    venue.on_price("BTCUSDT", D(100), at_ns=clock.now_ns() - 2)
    venue.split("BTCUSDT", D(0))
    venue.on_price("BTCUSDT", D(100), at_ns=clock.now_ns() - 1)
    assert await venue.last_price("BTCUSDT") is None
    venue.on_price("BTCUSDT", D(50), at_ns=clock.now_ns())
    assert await venue.last_price("BTCUSDT") == 50


MARGIN = Margin.parse("0.1/0.05; fee 0.01")


@pytest.mark.parametrize(("side", "level"), [(Side.BUY, "94.73"), (Side.SELL, "104.77")])
async def test_a_price_beyond_the_margin_closes_by_force_and_ends_orders(side: Side, level: str) -> None:
    """1,000 at 10 times leverage, with a stop and an entry that the price does not reach; then the venue is flat."""
    costs = CostModel(D(0), "quote")
    venue = PaperVenue([BTC], costs, {"USDT": D(100)}, FakeClock(), mode="last", margin=MARGIN, can_short=True)
    venue.on_price("BTCUSDT", D(100), at_ns=1)
    entry = order("10", side=side, role=Role.ENTRY)
    assert (await venue.submit(entry)).fills[0].price == 100
    far = {"stop_price": "50" if side is Side.BUY else "150", "parent_id": entry.client_order_id}
    stop = order("10", side=side.opposite, type=OrderType.STOP, role=Role.STOP_LOSS, **far)
    resting = order("1", side=side, type=OrderType.LIMIT, price="80" if side is Side.BUY else "120", role=Role.ENTRY)
    await venue.submit(stop)
    await venue.submit(resting)
    await drain(venue)
    tick = BTC.tick * side.sign
    venue.on_quote("BTCUSDT", D(level) + tick, D(level) + tick, at_ns=2)
    assert await drain(venue) == []

    venue.on_price("BTCUSDT", D(level), at_ns=3)
    fill, *ends = await drain(venue)
    assert (fill.side, fill.quantity, fill.price, fill.source) == (side.opposite, 10, D(level), "liquidation")
    assert fill.fee == D(level) / 10
    assert {(end.client_order_id, end.state) for end in ends} == {
        (stop.client_order_id, State.EXPIRED),
        (resting.client_order_id, State.EXPIRED),
    }
    late = await venue.submit(order("10", side=side.opposite, role=Role.STOP_LOSS, type=OrderType.STOP, **far))
    assert late.report is not None
    assert late.report.state is State.EXPIRED
    assert await venue.open_orders() == []
    venue.on_price("BTCUSDT", D(level) - 10 * tick, at_ns=4)
    assert await drain(venue) == []


async def test_positions_of_one_quote_currency_share_their_margin() -> None:
    eth = replace(BTC, symbol="ETHUSDT", base="ETH")
    venue = PaperVenue(
        [BTC, eth], CostModel(D(0), "quote"), {"USDT": D(300)}, FakeClock(), mode="last", margin=MARGIN, can_short=True
    )
    for symbol, side in (("BTCUSDT", Side.BUY), ("ETHUSDT", Side.SELL)):
        venue.on_price(symbol, D(100), at_ns=1)
        await venue.submit(order("10", side=side, symbol=symbol))
    venue.on_price("ETHUSDT", D(109), at_ns=2)  # loses 90 of 300, and keeps 54.50
    venue.on_price("BTCUSDT", D("89.00"), at_ns=3)  # 210 - 110 less 44.50 are 55.50
    assert [event for event in await drain(venue) if isinstance(event, Fill)] == []
    venue.on_price("BTCUSDT", D("88.89"), at_ns=4)
    (fill,) = [event for event in await drain(venue) if isinstance(event, Fill)]
    assert (fill.symbol, fill.price) == ("BTCUSDT", D("88.89"))


async def test_a_restored_position_is_not_closed_before_all_are_priced() -> None:
    """What is held of the other symbol was paid for: without its price the account looks 1,000 poorer than it is."""
    eth = replace(BTC, symbol="ETHUSDT", base="ETH")
    venue = PaperVenue([BTC, eth], CostModel(D(0), "quote"), {}, FakeClock(), mode="last", margin=MARGIN)
    venue.restore(
        (), (), {"USDT": D(-1700), "BTC": D(10), "ETH": D(10)}, positions={"BTCUSDT": D(10), "ETHUSDT": D(10)}
    )
    venue.on_price("BTCUSDT", D(100), at_ns=1)
    assert await drain(venue) == []
    venue.on_price("ETHUSDT", D(100), at_ns=2)
    venue.on_price("BTCUSDT", D(78), at_ns=3)  # 80 left, and 89 to keep
    assert [event.symbol for event in await drain(venue) if isinstance(event, Fill)] == ["BTCUSDT"]


async def test_a_trade_older_than_the_last_price_closes_nothing() -> None:
    """Those since a resting order was made are read after a start: the position may be newer."""
    venue = PaperVenue([BTC], CostModel(D(0), "quote"), {"USDT": D(100)}, FakeClock(), mode="last", margin=MARGIN)
    venue.on_price("BTCUSDT", D(100), at_ns=5)
    await venue.submit(order("10", role=Role.ENTRY))
    venue.on_quote("BTCUSDT", D(90), D(90), at_ns=4)
    assert await drain(venue) == []
    assert venue.position("BTCUSDT") == 10


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_the_bar_in_which_a_position_was_opened_closes_it_at_its_close_alone(is_restarted: bool) -> None:
    """Prices of sealed bars: that one's low may have come before the entry."""
    clock = FakeClock()
    venue = PaperVenue([BTC], CostModel(D(0), "quote"), {"USDT": D(100)}, clock, mode="last", margin=MARGIN)
    began = clock.now_ns() - MINUTE * 3 // 2  # half a minute of the second bar is over

    def later(number: int, low: float, close: float) -> Bar:
        return Bar("binance", "BTCUSDT", "1m", began + number * MINUTE, 100, 101, low, close, 1.0)

    venue.on_bar(later(0, 99, 100))
    venue.on_price("BTCUSDT", D(100), at_ns=clock.now_ns())
    entry = order("10", role=Role.ENTRY)
    (fill,) = (await venue.submit(entry)).fills
    assert fill.price == 100
    if is_restarted:
        held = {"USDT": D(-900), "BTC": D(10)}
        venue = PaperVenue([BTC], CostModel(D(0), "quote"), {}, clock, mode="last", margin=MARGIN)
        venue.restore((), (), held, positions={"BTCUSDT": D(10)}, moved={"BTCUSDT": fill.time_ns})
    venue.on_bar(later(1, 90, 96))
    assert [event for event in await drain(venue) if isinstance(event, Fill)] == []
    venue.on_bar(later(2, 90, 96))
    (closed,) = [event for event in await drain(venue) if isinstance(event, Fill)]
    assert (closed.price, closed.source) == (D("94.73"), "liquidation")
    assert (await venue.balances())["BTC"].total == 0
