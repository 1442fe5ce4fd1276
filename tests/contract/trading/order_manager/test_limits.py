"""Limits at the exchange: values in the account's currency, the day's loss over restarts, whose coins are spent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from fks.config.settings import Risk
from fks.model.account import Balance
from fks.model.codes import ENDS_RESTING, Code
from fks.model.instrument import Instrument, Lot, PercentPrice
from fks.model.order import OrderType, State
from fks.model.signal import Kind
from fks.model.timeframe import NS
from fks.store.bars import BarStore
from fks.store.bus import WAKE, Bus
from fks.store.db import Database
from fks.store.instruments import InstrumentStore
from tests.support.order_rig import FAST, Rig, seed
from tests.support.order_values import an_instrument
from tests.support.scripted_venue import ScriptedVenue
from tests.support.strategies import bars_of, collect
from tests.support.waiting import until

D = Decimal
LIMITS = Risk(feed_age_max_s=3600, notional_max_order=D(2000), loss_day_max=D(50))


@pytest.fixture
def venue() -> ScriptedVenue:
    """An exchange whose executions are of today, with a market in BTC."""
    prices = {"BTCUSDT": D(100), "ETHUSDT": D(10), "ETHBTC": D("0.1")}
    return ScriptedVenue(prices=prices, fee_rate=D(0), starts_ns=time.time_ns())


@pytest.fixture
async def rig(database: Database, bus: Bus, venue: ScriptedVenue) -> AsyncIterator[Rig]:
    """A rig with one entry per position, an instance `cross` in ETH/BTC, and small limits."""
    await seed(database, pyramiding=1)
    await database.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min) VALUES"
        " ('binance', 'ETHBTC', 'ETH', 'BTC', 0.000001, 0.001, 0.001, 100000, 0.0001)"
    )
    await database.sql(
        "INSERT INTO feeds (exchange, symbol, timeframe, state, last_message_at, last_price) VALUES"
        " ('binance', 'ETHBTC', 'trades', 'LIVE', now(), 0.1)"
    )
    await collect(database)
    await database.sql(
        "INSERT INTO strategy_instances (id, strategy, exchange, symbol, timeframe, account_id, venue, sizing, size)"
        " VALUES ('cross', 'sma_cross', 'binance', 'ETHBTC', '1m', 1, 'ccxt', 'quantity', 30)"
    )
    made = await Rig(database, bus, venue, FAST.model_copy(update={"risk": LIMITS})).start()
    yield made
    await made.stop()


async def trades_at(rig: Rig, symbol: str, price: str) -> None:
    """Move a market, and wait until the order manager has seen it."""
    rig.venue.prices[symbol] = D(price)
    await rig.db.sql("UPDATE feeds SET last_price = $1, last_message_at = now() WHERE symbol = $2", D(price), symbol)

    async def is_seen() -> bool:
        await rig.bus.publish(WAKE, {"type": "look"})
        return rig.service.cache.mark("binance", symbol) == D(price)

    await until(is_seen)


async def enter(rig: Rig, **changes: Any) -> str | None:
    """Send an entry; return its denial code, None when it was ordered and filled."""
    signal = await rig.signal(reference_price=None, **changes)
    state, code = await rig.outcome(signal)
    if state == "ordered":
        await rig.becomes((await rig.entry(signal)).client_order_id, State.FILLED)
    return code


async def cross(rig: Rig) -> str | None:
    return await enter(rig, symbol="ETHBTC", instance="cross", source="strategy:cross")


async def test_an_order_in_another_quote_is_held_to_the_accounts_limit(rig: Rig) -> None:
    """30 ETH at 0.1 BTC are 3 BTC: 300 USDT, and 3,000 once a BTC costs 1,000."""
    rig.venue.totals["BTC"] = D(50)
    await trades_at(rig, "BTCUSDT", "1000")
    assert await cross(rig) == "NOTIONAL_MAX_ORDER"
    assert rig.venue.received == []
    await trades_at(rig, "BTCUSDT", "100")
    assert await cross(rig) is None


async def test_without_a_rate_into_the_accounts_currency_entries_are_denied(rig: Rig) -> None:
    rig.venue.totals["BTC"] = D(50)
    await rig.db.sql(
        "UPDATE feeds SET last_message_at = now() - interval '10 minutes' WHERE symbol IN ('BTCUSDT', 'ETHUSDT')"
    )

    async def is_stale() -> bool:
        await rig.bus.publish(WAKE, {"type": "look"})
        marks = rig.service.cache.marks
        return all(
            (marks["binance", name].message_ns or 0) < time.time_ns() - 500 * 10**9 for name in ("BTCUSDT", "ETHUSDT")
        )

    await until(is_stale)
    assert await cross(rig) == "PRICE_MISSING"
    assert rig.venue.received == []


async def test_coins_that_an_instance_holds_do_not_pay_for_anothers_entry(rig: Rig) -> None:
    assert await enter(rig) is None
    assert rig.venue.totals["BTC"] == await rig.position() == D(10)
    assert await cross(rig) == "BALANCE"
    rig.venue.totals["BTC"] += 3  # a deposit is cash
    assert await cross(rig) is None
    assert rig.venue.totals["BTC"] == await rig.position()


async def test_coins_that_were_read_before_their_fill_was_booked_count_once(rig: Rig) -> None:
    """The venue reports an order as filled, and its balances hold the coins; its execution is booked later."""
    rig.venue.fills_in_answer = rig.venue.streams_fills = False
    rig.venue.history_hidden = True
    signal = await rig.signal(reference_price=None)
    assert await rig.outcome(signal) == ("ordered", None)
    cache = rig.service.cache
    await until(lambda: "BTC" in cache.balances["ccxt"])
    done = cache.venues["ccxt"].compares_done
    await until(lambda: cache.venues["ccxt"].compares_done >= done + 3)
    assert await rig.position() == await rig.position("external") == D(0), "nor are they noted as not bought by FKS"
    assert await cross(rig) == "BALANCE", "the coins are the buyer's before their execution is booked"
    rig.venue.push(replace(rig.venue.trades[0], source="stream"))
    await until(lambda: rig.position_is(D(10)))
    assert cache.balances["ccxt"]["BTC"].total == D(10)
    assert cache.balances["ccxt"]["USDT"].total == D(99000)
    assert await cross(rig) == "BALANCE"
    assert [held.order.symbol for held in rig.venue.orders.values()] == ["BTCUSDT"]


async def test_a_fill_that_is_booked_during_a_read_is_read_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer was made before the fill: the next read comes a second later, not with the next sweep."""
    rig.settings = rig.settings.model_copy(update={"venue": rig.settings.venue.model_copy(update={"sweep_s": 3600.0})})
    await rig.restart()
    cache, read = rig.service.cache, rig.venue.balances
    asked, is_booked = asyncio.Event(), asyncio.Event()

    async def slow() -> dict[str, Balance]:
        balances = await read()
        asked.set()
        await is_booked.wait()
        return balances

    assert await enter(rig, size=D(4)) is None
    monkeypatch.setattr(rig.venue, "balances", slow)
    await asyncio.wait_for(asked.wait(), 10)
    rig.venue.totals["USDT"] += D(7)  # seen by a read that begins now, and by no execution
    assert await enter(rig, instance="two", source="strategy:two", size=D(2)) is None
    await until(lambda: rig.position_is(D(2), "two"))
    is_booked.set()
    await until(lambda: cache.balances["ccxt"]["USDT"].total == rig.venue.totals["USDT"] == D(99407))
    assert cache.balances["ccxt"]["BTC"].total == D(6)


async def test_an_entry_is_not_sized_by_uncertain_balances(rig: Rig) -> None:
    """They hold a buy that was booked after they came, and a deposit: until they are read again, its cost may be to
    come."""
    rig.venue.totals["USDT"] = D(800)
    await rig.db.sql("UPDATE strategy_instances SET sizing = 'equity_pct', size = 100 WHERE id = 'one'")
    rig.settings = rig.settings.model_copy(update={"venue": rig.settings.venue.model_copy(update={"sweep_s": 3600.0})})
    await rig.restart()
    cache = rig.service.cache
    await rig.signal(instance="two", source="strategy:two", size=D(4), type=OrderType.LIMIT, limit_price=D(100))
    await until(lambda: any(order.state is State.WORKING for order in cache.orders.values()))
    rig.venue.streams_fills = False
    rig.venue.totals["USDT"] += D(3)
    fill = rig.venue.fill(rig.venue.live()[0].order.client_order_id, D(4))
    assert await cross(rig) == "BALANCE", "they are read before the denial"
    assert cache.balances["ccxt"]["USDT"].total == D(403)
    rig.venue.outages["balances"] = 1000
    rig.venue.push(replace(fill, source="stream"))
    await until(lambda: rig.position_is(D(4), "two"))
    assert await enter(rig, instance="two", symbol="ETHUSDT", source="strategy:two", size=D(1)) == "BALANCE"
    rig.venue.outages.clear()
    signal = await rig.signal(reference_price=D(100))
    assert await rig.outcome(signal) == ("ordered", None)
    assert (await rig.entry(signal)).quantity == D("4.03")


async def test_an_instance_enters_once_until_it_left(rig: Rig) -> None:
    assert await enter(rig) is None
    assert await enter(rig) == "PYRAMIDING"
    assert len(rig.venue.received) == 1
    assert await enter(rig, instance="two", source="strategy:two") is None
    await rig.outcome(await rig.signal(Kind.EXIT))

    async def is_flat() -> bool:
        return await rig.position() == 0

    await until(is_flat)
    assert await enter(rig) is None


async def test_an_entry_that_rests_counts_as_one(rig: Rig) -> None:
    signal = await rig.signal(type=OrderType.LIMIT, limit_price=D(95))
    await rig.outcome(signal)
    await rig.becomes((await rig.entry(signal)).client_order_id, State.WORKING)
    assert await enter(rig) == "PYRAMIDING"


async def test_two_entries_are_allowed_to_an_instance_that_pyramids(rig: Rig) -> None:
    await rig.db.sql("UPDATE strategy_instances SET pyramiding = 2")
    await until(lambda: rig.service.cache.instances["one"].pyramiding == 2)
    assert [await enter(rig) for _ in range(3)] == [None, None, "PYRAMIDING"]
    await rig.restart()
    assert await enter(rig) == "PYRAMIDING"


async def test_an_open_loss_stops_entries_for_the_day_over_a_restart(rig: Rig) -> None:
    assert await enter(rig) is None
    await trades_at(rig, "BTCUSDT", "95")  # 10 BTC are worth 50 USDT less
    assert await enter(rig, instance="two", source="strategy:two") == "LOSS_DAY"

    async def is_stored() -> bool:
        return bool(await rig.db.sql("SELECT loss FROM day_losses WHERE loss >= 50"))

    await until(is_stored)
    await trades_at(rig, "BTCUSDT", "99")
    assert await enter(rig, instance="two", source="strategy:two") == "LOSS_DAY"
    await rig.restart()
    assert await enter(rig, instance="two", source="strategy:two") == "LOSS_DAY"
    assert len(rig.venue.received) == 1
    assert await rig.outcome(await rig.signal(Kind.EXIT)) == ("ordered", None)


async def rests(rig: Rig, **changes: Any) -> str:
    """Send an entry by a limit below the market; return its id once it rests."""
    signal = await rig.signal(type=OrderType.LIMIT, **changes)
    assert await rig.outcome(signal) == ("ordered", None)
    return (await rig.becomes((await rig.entry(signal)).client_order_id, State.WORKING)).client_order_id


async def test_the_days_loss_ends_what_rests_and_keeps_what_protects(rig: Rig) -> None:
    assert await enter(rig, stop_loss=D(80)) is None
    person = {"kind": Kind.ORDER, "instance": "", "source": "principal:me", "timeframe": None, "size": D(1)}
    resting = [
        await rests(rig, instance="two", source="strategy:two", limit_price=D(94), size=D(1)),
        await rests(rig, symbol="ETHUSDT", limit_price=D(9), **person),
    ]
    await trades_at(rig, "BTCUSDT", "96")
    assert len(rig.venue.live()) == 3
    await trades_at(rig, "BTCUSDT", "95")  # 10 BTC are worth 50 USDT less
    for client_order_id in resting:
        await rig.becomes(client_order_id, State.CANCELLED)
    assert [held.order.role.value for held in rig.venue.live()] == ["sl"]


async def test_a_stale_feed_ends_what_rests_once_the_collector_had_its_time_to_start(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restart of the whole system: the order manager is up first, and the feed's last message is old."""
    monkeypatch.setitem(ENDS_RESTING, Code.FEED_STALE, 0.2)
    resting = await rests(rig, limit_price=D(94), size=D(1))
    await rig.db.sql("UPDATE feeds SET last_message_at = now() - interval '2 hours'")
    supervision = rig.settings.supervision.model_copy(update={"start_timeout_s": 0.8})
    began_s = time.monotonic()
    await rig.restart(settings=rig.settings.model_copy(update={"supervision": supervision}))
    await rig.becomes(resting, State.CANCELLED)
    assert time.monotonic() - began_s >= 2 * 0.8 + 0.2


async def test_a_loss_behind_an_old_price_denies_entries_and_no_exit(rig: Rig) -> None:
    """The feed of the position stands still at 100 while the market is at 60: 400 are lost, and the limit is 50."""
    assert await enter(rig) is None
    rig.venue.prices["BTCUSDT"] = D(60)
    await rig.db.sql("UPDATE feeds SET last_message_at = now() - interval '61 s' WHERE symbol = 'BTCUSDT'")
    old_ns = time.time_ns() - 60 * NS

    async def is_old() -> bool:
        await rig.bus.publish(WAKE, {"type": "look"})
        return (rig.service.cache.marks["binance", "BTCUSDT"].message_ns or 0) < old_ns

    await until(is_old)
    person = {"kind": Kind.ORDER, "instance": "", "source": "principal:me", "timeframe": None, "size": D(1)}
    assert await enter(rig, symbol="ETHUSDT", **person) == "PRICE_MISSING"
    assert await rig.outcome(await rig.signal(Kind.EXIT)) == ("ordered", None)
    await until(lambda: rig.venue.totals["BTC"] == 0)


async def test_a_fill_without_metadata_is_booked_and_stops_no_other_symbol(rig: Rig) -> None:
    """Its fee was taken from the coins bought; its symbol has an incident, and positions elsewhere are closed."""
    rig.venue.fee_rate = D("0.01")
    assert await enter(rig, size=D(5)) is None
    person = {"kind": Kind.ORDER, "instance": "", "source": "principal:me", "timeframe": None, "size": D(2)}
    resting = await rests(rig, symbol="ETHUSDT", limit_price=D(9), **person)
    await rig.db.sql("DELETE FROM instruments WHERE symbol = 'ETHUSDT'")
    await rig.read_slow()
    assert await enter(rig, **(person | {"size": D(1)})) is None
    rig.venue.fill(resting, D(2), D(9))
    await rig.becomes(resting, State.FILLED)
    assert await rig.position("", "ETHUSDT") == D("1.98")

    async def has_incident() -> bool:  # opened after the fill is booked
        rows = await rig.db.sql("SELECT kind, subject FROM incidents WHERE closed_at IS NULL")
        return [(row["kind"], row["subject"]) for row in rows] == [("instrument", "ETHUSDT")]

    await until(has_incident)
    assert rig.service.cache.is_journal_up
    assert await enter(rig, symbol="ETHUSDT", **person) == "INSTRUMENT_UNKNOWN"
    assert await enter(rig, instance="two", source="strategy:two") is None
    held = rig.venue.totals["BTC"]
    assert await rig.outcome(await rig.signal(Kind.EXIT)) == ("ordered", None)
    await until(lambda: rig.venue.totals["BTC"] < held - D("4.9"))


async def test_fees_count_in_the_days_loss(rig: Rig) -> None:
    rig.venue.fee_rate = D("0.03")
    assert await enter(rig) is None  # 0.3 BTC of 10: 30 USDT
    rig.settings = replace_limits(rig, loss_day_max=D(30))
    await rig.restart()
    assert await enter(rig, instance="two", source="strategy:two") == "LOSS_DAY"


async def test_a_position_of_yesterday_counts_from_the_days_start(rig: Rig) -> None:
    """Held at 100 when the day began, whatever it cost: at 94 it has lost 60 today."""
    await rig.db.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity, average_price, realized_pnl, fees)"
        " VALUES (1, 'ccxt', 'BTCUSDT', 'one', 10, 60, 0, 0)"
    )
    await rig.db.sql(  # another exchange lists the symbol too
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min)"
        " VALUES ('another', 'BTCUSDT', 'BTC', 'USDT', 0.01, 0.001, 0.001, 100000, 5)"
    )
    await rig.db.sql(
        "INSERT INTO feeds (exchange, symbol, timeframe, state, last_message_at, last_price) VALUES"
        " ('another', 'BTCUSDT', 'trades', 'LIVE', now(), 90)"
    )
    rig.venue.totals["BTC"] = D(10)
    await rig.restart()

    async def is_priced() -> bool:
        await rig.bus.publish(WAKE, {"type": "look"})
        return bool(await rig.db.sql("SELECT price FROM day_start_prices WHERE symbol = 'BTCUSDT' AND price = 100"))

    await until(is_priced)
    await trades_at(rig, "BTCUSDT", "94")
    assert await enter(rig, instance="two", source="strategy:two") == "LOSS_DAY"


async def test_filters_of_the_exchange_deny_before_an_order_is_sent(rig: Rig) -> None:
    """The stored filters come back as they were, and the check reads them."""
    filtered = an_instrument(
        market_lot=Lot(D(0), D(5), D(0)),
        is_notional_min_for_market=False,
        orders_max=200,
        algo_orders_max=0,
        has_oco=False,
        percent_price=PercentPrice(D("0.2"), D(5), D("0.2"), D(5)),
        order_types=frozenset({"market", "limit", "stop"}),
        updated_ns=1_000,
    )
    await InstrumentStore(rig.db).merge([filtered])
    stored: list[Instrument] = await InstrumentStore(rig.db).all("binance")
    assert next(i for i in stored if i.symbol == "BTCUSDT") == filtered
    await InstrumentStore(rig.db).merge([replace(i, updated_ns=time.time_ns(), is_trading=True) for i in stored])
    await rig.restart()
    assert await enter(rig) == "QTY_MAX"
    assert await enter(rig, size=D(4), stop_loss=D(90)) == "ORDER_COUNT"
    assert await enter(rig, size=D(4), stop_loss=D(90), take_profit=D(110)) == "ORDER_COUNT"
    assert await enter(rig, size=D(4)) is None


def replace_limits(rig: Rig, **changes: Any) -> Any:
    return rig.settings.model_copy(update={"risk": LIMITS.model_copy(update=changes)})


# ── positions that move together ─────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(("power", "code"), [(2.0, "EXPOSURE_CORRELATED"), (-1.0, None)])
async def test_an_entry_is_held_to_the_limit_of_what_moves_with_it(
    database: Database, bus: Bus, venue: ScriptedVenue, power: float, code: str | None
) -> None:
    """1,000 USDT of BTC and 1,000 of ETH, of which 1,500 may move together: by the stored minutes up to now."""
    await seed(database, pyramiding=1)
    await database.sql(
        "INSERT INTO strategy_instances (id, strategy, exchange, symbol, timeframe, account_id, venue, size)"
        " VALUES ('ether', 'sma_cross', 'binance', 'ETHUSDT', '1m', 1, 'ccxt', 1000)"
    )
    path = 100 * np.exp(np.cumsum(np.random.default_rng(1).standard_normal(40) * 0.01))
    start_ns = (time.time_ns() // (60 * NS) - 38) * 60 * NS  # the last of them is not over yet, and counts for nothing
    for symbol, closes in (("BTCUSDT", path), ("ETHUSDT", path**power)):
        await BarStore(database).merge(bars_of(list(closes), symbol=symbol, start_ns=start_ns), source="test")
    limits = LIMITS.model_copy(
        update={"exposure_max_correlated": D(1500), "correlation_timeframe": "1m", "correlation_returns": 20}
    )
    rig = await Rig(database, bus, venue, FAST.model_copy(update={"risk": limits})).start()
    try:
        await rig.service.refresh()
        assert await enter(rig) is None
        assert await enter(rig, symbol="ETHUSDT", instance="ether", source="strategy:ether") == code
    finally:
        await rig.stop()
