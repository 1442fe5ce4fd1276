"""Order and money: signals of one instrument in turn, of several beside each other, and no coin spent twice."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from decimal import Decimal

import pytest

from fks.clock import RealClock
from fks.interfaces.entry.order_entry import OrderEntry, OrderRequest
from fks.model import ids
from fks.model.order import OrderType, Role, State
from fks.model.signal import Kind
from fks.model.timeframe import NS
from fks.store.bus import WAKE
from fks.store.signals import SignalStore
from tests.support.invariants import assert_once
from tests.support.order_rig import Rig, signal_of
from tests.support.waiting import until

D = Decimal


async def test_signals_of_one_instrument_are_handled_in_their_order(idle: Rig) -> None:
    kinds = [Kind.ENTER, Kind.EXIT, Kind.ENTER, Kind.EXIT, Kind.ENTER]
    signals = [signal_of(kind) for kind in kinds]
    await SignalStore(idle.db).insert(signals)
    await idle.start()
    for signal in signals:
        assert await idle.outcome(signal.id) == ("ordered", None)
    await until(lambda: len(idle.venue.orders) == len(signals))
    sides = [idle.venue.orders[name].order.side.value for name in idle.venue.received]
    assert sides == ["buy", "sell", "buy", "sell", "buy"]


async def test_a_slow_instrument_does_not_hold_up_another(rig: Rig) -> None:
    rig.venue.script.append("hang")
    rig.venue.streams_fills, rig.venue.history_hidden, rig.venue.outages["query"] = False, True, 1000
    slow = await rig.signal()
    await until(lambda: len(rig.venue.received) == 1)
    quick = await rig.signal(symbol="ETHUSDT", reference_price=D(10))
    await rig.becomes((await rig.outcome(quick), await rig.entry(quick))[1].client_order_id, State.FILLED)
    assert await rig.state((await rig.entry(slow)).client_order_id) in (State.SENDING, State.UNKNOWN)


async def test_two_signals_at_once_cannot_spend_the_same_money(idle: Rig) -> None:
    idle.venue.totals["USDT"] = D(1500)
    signals = [signal_of(symbol="BTCUSDT"), signal_of(symbol="ETHUSDT", reference_price=D(10))]
    await SignalStore(idle.db).insert(signals)
    await idle.start()
    outcomes = sorted([await idle.outcome(signal.id) for signal in signals], key=str)
    assert outcomes == [("denied", "BALANCE"), ("ordered", None)]


async def test_every_signal_has_exactly_one_outcome_under_fire(rig: Rig) -> None:
    rig.venue.script.extend(["ok", "unheard", "lost", "refuse:-2010", "raise", "slow", "ok"] * 4)
    rig.venue.cancels.extend(["ok", "unheard", "lost", "gone"] * 4)
    signals = []
    for number in range(24):
        name, symbol = ("one", "BTCUSDT") if number % 2 else ("two", "ETHUSDT")
        kind = Kind.EXIT if number % 6 > 3 else Kind.ENTER
        price = D(100) if symbol == "BTCUSDT" else D(10)
        levels = {} if kind is Kind.EXIT else {"stop_loss": price * D("0.9"), "take_profit": price * D("1.2")}
        signals.append(signal_of(kind, instance=name, symbol=symbol, reference_price=price, **levels))
    await SignalStore(rig.db).insert(signals)
    await rig.bus.publish(WAKE, {"type": "signal"})
    await asyncio.sleep(0)
    await rig.restart()
    for signal in signals:
        await rig.outcome(signal.id, deadline_s=40)
    await until(lambda: rig.service.cache.unknown() == 0 and rig.service.cache.counts()["SENDING"] == 0, deadline_s=20)
    assert_once(rig.venue.received)

    async def same() -> bool:
        totals = rig.venue.totals
        return await rig.held() == totals.get("BTC", 0) and await rig.held("ETHUSDT") == totals.get("ETH", 0)

    await until(same)
    bad = await rig.db.sql("SELECT * FROM positions WHERE instance <> 'external' AND quantity < 0")
    assert bad == []


@pytest.mark.parametrize("end", [State.CANCELLED, State.EXPIRED])
async def test_a_fill_after_the_end_is_booked_whatever_was_reported_before(rig: Rig, end: State) -> None:
    signal = await rig.signal(type=OrderType.LIMIT, limit_price=D(99))
    await rig.outcome(signal)
    await until(lambda: rig.venue.live())
    held = rig.venue.live()[0]
    name = held.order.client_order_id
    rig.venue.end(held, end)
    await rig.becomes(name, end)
    fill = rig.venue.fill(name, held.order.quantity)
    late = await rig.becomes(name, State.FILLED)
    assert late.is_late
    rig.venue.push(fill)
    await until(lambda: "order.filled" in rig.log.events("error"))
    assert await rig.held() == rig.venue.totals["BTC"]


@pytest.mark.parametrize("is_by_person", [False, True])
async def test_an_order_that_lives_after_its_cancel_is_cancelled_again(rig: Rig, is_by_person: bool) -> None:
    """However long it might rest: the strategy, or the person, was told of its end."""
    until_ns, limit = rig.clock.now_ns() + 3_600 * NS, {"type": OrderType.LIMIT, "limit_price": D(99)}
    person = {"source": "principal:me", "instance": "", "timeframe": None, "size": D(1), "valid_until_ns": until_ns}
    if is_by_person:
        signal = await rig.signal(Kind.ORDER, ts_event_ns=rig.clock.now_ns(), **person, **limit)
    else:
        signal = await rig.signal(rests_until_ns=until_ns, **limit)
    await rig.outcome(signal)
    await until(lambda: rig.venue.live())
    held = rig.venue.live()[0]
    rig.venue.end(held, State.CANCELLED)
    await rig.becomes(held.order.client_order_id, State.CANCELLED)
    held.state, held.time_ns = State.WORKING, held.time_ns + NS
    rig.venue.push(replace(rig.venue.report(held), source="stream"))
    await until(lambda: held.state is State.CANCELLED)
    assert (await rig.becomes(held.order.client_order_id, State.CANCELLED)).is_late


async def test_an_impossible_fill_goes_to_the_account_and_halts_the_strategy(rig: Rig) -> None:
    await rig.outcome(await rig.signal())
    denied = await rig.signal(size=D(999))
    await rig.outcome(denied)
    await until(lambda: rig.venue.trades)
    wrong = replace(
        rig.venue.trades[0],
        fill_id=uuid.uuid4(),
        venue_trade_id="77",
        client_order_id=ids.client_order_id(ids.intent_id(denied), Role.ENTRY),
    )
    rig.venue.push(wrong)
    await until(lambda: "IMPOSSIBLE_FILL" in rig.log.events("error"))
    assert await rig.position("external") == D("9.99")
    assert await rig.outcome(await rig.signal()) == ("denied", "STRATEGY_CRASHED")


async def test_an_exit_refused_for_a_passing_reason_is_decided_again(rig: Rig) -> None:
    await rig.outcome(await rig.signal())
    await until(lambda: rig.service.cache.position(1, "ccxt", "BTCUSDT", "one").quantity > 0)
    rig.venue.script.extend(["refuse:RATE_VENUE", "refuse:-1021"])
    out = await rig.signal(Kind.EXIT)
    assert await rig.outcome(out) == ("ordered", None)
    await until(lambda: rig.venue.totals["BTC"] == 0)
    rows = await rig.db.sql("SELECT state, attempt FROM orders WHERE role = 'exit' ORDER BY attempt")
    assert [row["attempt"] for row in rows] == [0, 1, 2]
    assert_once(rig.venue.received)


async def test_a_fill_whose_order_row_comes_late_finds_it(rig: Rig) -> None:
    """The guardian closes while PostgreSQL is away: its fills are here before its rows."""
    await rig.outcome(await rig.signal())
    await until(lambda: rig.service.cache.position(1, "ccxt", "BTCUSDT", "one").quantity > 0)
    name = ids.client_order_id(uuid.uuid4(), Role.KILL)
    sale = replace(
        rig.venue.trades[0],
        fill_id=uuid.uuid4(),
        venue_trade_id="78",
        client_order_id=name,
        side=rig.venue.trades[0].side.opposite,
        quantity=D("9.99"),
        fee=D(0),
        fee_currency="USDT",
    )
    rig.venue.totals["BTC"] = D(0)
    rig.venue.push(sale)
    await until(lambda: rig.service.cache.venues["ccxt"].lost == {"BTCUSDT": 0})
    await rig.db.sql(
        "INSERT INTO orders (client_order_id, intent_id, account_id, venue, symbol, instance, role, side, type, "
        "quantity,"
        " state, is_reduce_only) VALUES ($1, $2, 1, 'ccxt', 'BTCUSDT', 'one', 'kill', 'sell', 'market', 9.99, "
        "'FILLED', true)",
        name,
        uuid.uuid4(),
    )

    async def flat() -> bool:
        return await rig.position() == 0

    await until(flat)
    assert await rig.state(name) is State.FILLED


async def test_a_person_closes_what_its_own_legs_hold_back(rig: Rig) -> None:
    entry = OrderEntry(rig.db, rig.bus, RealClock(), rig.settings)
    body = {"symbol": "BTCUSDT", "type": "market", "venue": "ccxt"}
    await entry.submit(
        OrderRequest.parse(body | {"side": "buy", "quantity": "2", "stop_loss": "90", "take_profit": "120"}),
        "ann",
        "k1",
    )
    await until(lambda: len(rig.venue.live()) == 2)
    answer = await entry.submit(OrderRequest.parse(body | {"side": "sell", "quantity": "1"}), "ann", "k2")
    assert answer.status == 202, answer.body
    await until(lambda: [held.order.quantity for held in rig.venue.live()] == [D("0.998")] * 2)
    assert await rig.position("") == D("0.998")


async def test_an_entry_is_denied_at_the_rate_limit_and_an_exit_goes(rig: Rig) -> None:
    await rig.outcome(await rig.signal())
    await until(lambda: rig.service.cache.position(1, "ccxt", "BTCUSDT", "one").quantity > 0)
    sent = len(rig.venue.received)
    rig.venue.busy_s = 0.3
    assert await rig.outcome(await rig.signal(symbol="ETHUSDT", reference_price=D(10))) == ("denied", "RATE_VENUE")
    assert len(rig.venue.received) == sent
    await rig.signal(Kind.EXIT)
    await until(lambda: rig.venue.totals["BTC"] == 0)
    rig.venue.busy_s = 0.0
    assert (await rig.outcome(await rig.signal(symbol="ETHUSDT", reference_price=D(10))))[0] == "ordered"
