"""The guardian's snapshot of the tables, also when more was executed lately than it can list."""

from __future__ import annotations

import time
import uuid
from decimal import Decimal

import orjson
import pytest

from fks.model.instrument import Lot
from fks.model.order import Fill, Order, OrderType, Role, Side, State, TimeInForce
from fks.store.db import Database
from fks.store.kill import KillStore
from fks.trading.guardian.positions import WINDOW_S, DatabaseSnapshot, Holder
from tests.support.order_values import a_fill


async def test_an_execution_that_fell_off_the_list_is_not_counted_twice(database: Database) -> None:
    await database.sql("INSERT INTO accounts (name, venue) VALUES ('main', 'ccxt')")
    await database.sql(
        "INSERT INTO trades (fill_id, venue_trade_id, account_id, venue, symbol, instance, trade_type, quantity, "
        "price, fee,"
        " fee_currency, time) SELECT gen_random_uuid(), n::text, 1, 'ccxt', 'BTCUSDT', 'one', 'BUY', 1, 100, 0, "
        "'USDT', now()"
        " FROM generate_series(1, 1200) AS n"
    )
    await database.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity) VALUES (1, 'ccxt', 'BTCUSDT', 'one', "
        "1200)"
    )
    snapshot = DatabaseSnapshot.of(dict(await KillStore(database).snapshot(WINDOW_S)))
    assert ("ccxt", "BTCUSDT", "1") not in snapshot.booked
    first = Fill(
        fill_id=uuid.uuid4(),
        client_order_id=uuid.uuid5(uuid.NAMESPACE_DNS, "x").hex,
        venue_order_id="1",
        venue_trade_id="1",
        account_id=1,
        venue="ccxt",
        symbol="BTCUSDT",
        side=Side.BUY,
        quantity=Decimal(1),
        price=Decimal(100),
        fee=Decimal(0),
        fee_currency="USDT",
        time_ns=time.time_ns() - 60_000_000_000,
    )
    positions = snapshot.with_fills([first], frozenset())
    assert positions[Holder("ccxt", 1, "BTCUSDT", "one")] == 1200


@pytest.mark.parametrize("home", ["binance", "bybit", "okx"])
async def test_a_closing_order_follows_the_rules_of_the_venues_exchange(database: Database, home: str) -> None:
    steps = {"binance": "0.00001", "bybit": "0.000001", "okx": "0.001"}  # all of them list it
    for exchange, step in steps.items():
        await database.sql(
            "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min, "
            "filters) VALUES ($1, 'BTCUSDT', 'BTC', 'USDT', 0.01, $2::text::numeric, $2::text::numeric, 9000, 5, "
            '\'{"market_lot": ["0", "120", "0"]}\')',
            exchange,
            step,
        )
    await database.sql("INSERT INTO accounts (name, venue) VALUES ('main', 'ccxt')")
    await database.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity) VALUES (1, 'ccxt', 'BTCUSDT', 'one', "
        "0.1234567)"
    )
    row, at = dict(await KillStore(database).snapshot(WINDOW_S)), {"ccxt": home, "other": "okx"}
    rules = DatabaseSnapshot.of(row, at).rules_at("ccxt", "BTCUSDT")
    assert rules is not None
    assert (rules.exchange, rules.lot_step) == (home, Decimal(steps[home]))
    assert rules.instrument("BTCUSDT").lot(is_market=True) == Lot(
        Decimal(steps[home]), Decimal(120), Decimal(steps[home])
    )
    stored = DatabaseSnapshot.of(orjson.loads(orjson.dumps(row)), at)  # as from the file
    assert stored.rules_at("ccxt", "BTCUSDT") == rules
    of_other = stored.rules_at("other", "BTCUSDT")
    assert of_other is not None
    assert (of_other.exchange, of_other.lot_step) == ("okx", Decimal(steps["okx"]))


async def test_an_ended_order_whose_executions_are_missing_is_attributed(database: Database) -> None:
    """A stop placed an hour ago was cancelled half executed, and the order manager died before it read the history."""
    await database.sql("INSERT INTO accounts (name, venue) VALUES ('main', 'ccxt')")
    await database.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity) VALUES"
        " (1, 'ccxt', 'BTCUSDT', 'one', 5), (1, 'ccxt', 'BTCUSDT', 'two', 6)"
    )
    stop, old_ns = uuid.uuid5(uuid.NAMESPACE_DNS, "stop").hex, time.time_ns() - 3600 * 10**9
    await database.sql(
        "INSERT INTO orders (client_order_id, intent_id, account_id, venue, exchange, symbol, instance, role, side, "
        "type, quantity, state, filled, reported_cum_qty, is_reduce_only, created_at, updated_at) VALUES ($1, "
        "gen_random_uuid(), 1, 'ccxt', 'binance', 'BTCUSDT', 'one', 'sl', 'sell', 'stop', 5, 'CANCELLED', 1, 3, true, "
        "now() - interval '1 hour', now())",
        stop,
    )
    row = dict(await KillStore(database).snapshot(WINDOW_S))
    for snapshot in (
        DatabaseSnapshot.of(row),
        DatabaseSnapshot.of(orjson.loads(orjson.dumps(row))),
    ):  # and from the file
        since = {"BTCUSDT": snapshot.history_from_ns("ccxt", "BTCUSDT")}
        assert since["BTCUSDT"] < old_ns
        fills = [
            a_fill(
                number,
                client_order_id=stop,
                side=Side.SELL,
                quantity=Decimal(number),
                time_ns=time.time_ns() - 300 * 10**9 + number,
            )
            for number in (1, 2)
        ]
        assert snapshot.orders_unknown(fills, frozenset(), since) == {}
        positions = snapshot.with_fills(fills, frozenset(), since)
        assert {holder.instance: quantity for holder, quantity in positions.items()} == {"one": 3, "two": 6}


async def test_the_booked_executions_of_an_old_order_that_may_still_execute_are_listed(database: Database) -> None:
    await database.sql("INSERT INTO accounts (name, venue) VALUES ('main', 'ccxt')")
    ids = {name: uuid.uuid5(uuid.NAMESPACE_DNS, name).hex for name in ("open", "ended", "young")}
    for number, (name, state, days) in enumerate(
        (("open", "PARTIAL", 3), ("ended", "FILLED", 3), ("young", "PARTIAL", 0))
    ):
        await database.sql(
            "INSERT INTO orders (client_order_id, intent_id, account_id, venue, exchange, symbol, instance, role, side, "
            "type, quantity, state, filled, reported_cum_qty, created_at, updated_at) VALUES ($1, gen_random_uuid(), 1, "
            "'ccxt', 'binance', 'BTCUSDT', 'one', 'sl', 'sell', 'stop', 5, $2, 1, 1, now() - make_interval(days => $3), "
            "now())",
            ids[name],
            state,
            days,
        )
        await database.sql(
            "INSERT INTO trades (fill_id, venue_trade_id, client_order_id, account_id, venue, symbol, instance, "
            "trade_type, quantity, price, fee, fee_currency, time, created_at) VALUES (gen_random_uuid(), $1, $2, 1, "
            "'ccxt', 'BTCUSDT', 'one', 'SELL', 1, 100, 0, 'USDT', now() - interval '10 hours', now() - interval "
            "'10 hours')",
            str(number),
            ids[name],
        )
    snapshot = DatabaseSnapshot.of(dict(await KillStore(database).snapshot(WINDOW_S)))
    assert snapshot.booked == {("ccxt", "BTCUSDT", "0")}
    assert {name: snapshot.orders[id].is_listed for name, id in ids.items() if id in snapshot.orders} == {
        "open": True,
        "young": False,
    }


async def test_a_step_reported_late_is_recorded_with_the_state_of_the_order(database: Database) -> None:
    """The order manager may book the execution before the guardian's file is copied: the row stays, and so it says."""
    await database.sql("INSERT INTO accounts (name, venue) VALUES ('main', 'ccxt')")
    store = KillStore(database)
    order = Order(
        client_order_id=uuid.uuid5(uuid.NAMESPACE_DNS, "kill").hex,
        intent_id=uuid.uuid5(uuid.NAMESPACE_DNS, "intent"),
        signal_id=None,
        account_id=1,
        venue="ccxt",
        exchange="binance",
        symbol="BTCUSDT",
        instance="one",
        role=Role.KILL,
        attempt=0,
        side=Side.SELL,
        type=OrderType.MARKET,
        time_in_force=TimeInForce.GTC,
        quantity=Decimal(1),
        state=State.SENDING,
        is_reduce_only=True,
        created_ns=time.time_ns(),
    )
    steps = {"sent": State.SENDING, "working": State.WORKING, "ended": State.WORKING}
    for step, state in steps.items():
        await store.save_order(order, state, venue_order_id=None, code=None, detail="", step=step)
        if step == "working":
            await database.sql("UPDATE orders SET state = 'FILLED', filled = quantity")
    events = await database.sql("SELECT event, to_state FROM order_events ORDER BY id")
    assert [tuple(row.values()) for row in events] == [
        ("sent", "SENDING"),
        ("working", "WORKING"),
        ("ended", "FILLED"),
    ]


async def test_entries_that_may_need_a_stop_are_listed_with_their_legs(database: Database) -> None:
    """Those that may still fill, and those whose stop is open; quantities are exact, also from the file."""
    await database.sql("INSERT INTO accounts (name, venue) VALUES ('main', 'ccxt')")
    rows = {
        "resting": ("entry", "WORKING", None),
        "held": ("entry", "FILLED", None),
        "stop": ("sl", "WORKING", "held"),
        "ended stop": ("sl", "CANCELLED", "held"),
        "closed": ("entry", "FILLED", None),
        "its stop": ("sl", "FILLED", "closed"),
    }
    for name, (role, state, parent) in rows.items():
        await database.sql(
            "INSERT INTO orders (client_order_id, intent_id, account_id, venue, exchange, symbol, instance, role, side, "
            "type, quantity, stop_loss, state, parent_id) VALUES ($1, gen_random_uuid(), 1, 'ccxt', 'binance', "
            "'BTCUSDT', 'one', $2, 'buy', 'limit', 0.123456789, 90.1, $3, $4)",
            name,
            role,
            state,
            parent,
        )
    row = dict(await KillStore(database).snapshot(WINDOW_S))
    for snapshot in (DatabaseSnapshot.of(row), DatabaseSnapshot.of(orjson.loads(orjson.dumps(row)))):
        orders = {order.client_order_id: order for order in snapshot.protected_orders("ccxt")}
        assert orders.keys() == {"resting", "held", "stop", "ended stop"}
        assert (orders["held"].quantity, orders["held"].stop_loss) == (Decimal("0.123456789"), Decimal("90.1"))
        assert (orders["stop"].parent_id, orders["stop"].role) == ("held", Role.STOP_LOSS)
        assert snapshot.protected_orders("paper") == []


async def test_held_entries_are_listed_although_no_stop_of_theirs_is_open(database: Database) -> None:
    """The newest entries that a position is made of, one without protection among them, and their ended legs. A
    position without any stop loss has nothing to be protected."""
    await database.sql("INSERT INTO accounts (name, venue) VALUES ('main', 'ccxt')")
    positions = {"one": 5, "two": 5, "short": -4, "flat": 0, "external": 5}
    for instance, held in positions.items():
        await database.sql(
            "INSERT INTO positions (account_id, venue, symbol, instance, quantity) VALUES (1, 'ccxt', 'BTCUSDT', $1, $2)",
            instance,
            held,
        )
    rows = [  # oldest first: name, instance, role, side, filled, stop loss, parent
        ("sold", "one", "entry", "buy", 4, 80, None),
        ("older", "one", "entry", "buy", 2, 90, None),
        ("its stop", "one", "sl", "sell", 0, None, "older"),
        ("sale", "one", "exit", "sell", 4, None, None),
        ("newer", "one", "order", "buy", 3, None, None),
        ("without", "two", "entry", "buy", 5, None, None),
        ("before", "short", "entry", "buy", 9, 90, None),
        ("shorted", "short", "entry", "sell", 4, 110, None),
        ("over", "flat", "entry", "buy", 4, 90, None),
        ("other", "external", "order", "buy", 5, 90, None),
    ]
    for second, (name, instance, role, side, filled, stop_loss, parent) in enumerate(rows):
        await database.sql(
            "INSERT INTO orders (client_order_id, intent_id, account_id, venue, exchange, symbol, instance, role, side, "
            "type, quantity, filled, stop_loss, state, parent_id, created_at) VALUES ($1, gen_random_uuid(), 1, 'ccxt', "
            "'binance', 'BTCUSDT', $2, $3, $4, 'market', 9, $5, $6, $7, $8, now() - interval '90 days' + $9 * interval "
            "'1 second')",
            *(name, instance, role, side, filled, stop_loss, "FILLED" if filled else "CANCELLED", parent, second),
        )
    snapshot = DatabaseSnapshot.of(dict(await KillStore(database).snapshot(WINDOW_S)))
    listed = [order.client_order_id for order in snapshot.protected_orders("ccxt")]
    assert listed == ["older", "its stop", "newer", "shorted"]
