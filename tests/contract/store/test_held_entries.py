"""The entries that a position is made of: SQL gives those that the pure function finds among all of them."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from random import Random

from fks.model.order import Order
from fks.store.db import Database
from fks.store.facts import FactStore
from fks.store.kill import KillStore
from fks.store.orders import OrderStore
from fks.trading.guardian.positions import WINDOW_S, DatabaseSnapshot
from fks.trading.orders.protection import desired
from tests.support.order_rig import seed

D = Decimal
KEY = (1, "ccxt", "BTCUSDT")
HISTORIES = 60


async def insert(database: Database, instance: str, random: Random) -> Decimal:
    """Insert entries and what their legs executed, at some of them more than the entry; return what exits left."""
    names, held = [f"{instance}.{number}" for number in range(random.randint(1, 9))], D(0)
    for second, name in enumerate(names):
        filled, stop = D(random.choice(["0.04", "2", "3"])), random.choice([90, 90, 95])
        legs = [random.choice([D(0), filled / 2, filled, filled + D("0.04")]) for _ in range(random.randint(0, 1))]
        held += filled - sum(legs, D(0))
        rows = [(name, "entry", "buy", filled, stop, None)]
        rows += [(f"{name}.{number}", "sl", "sell", leg, None, name) for number, leg in enumerate(legs)]
        for id, role, side, quantity, stop_loss, parent in rows:
            await database.sql(
                "INSERT INTO orders (client_order_id, intent_id, account_id, venue, exchange, symbol, instance, role, "
                "side, type, quantity, filled, stop_loss, state, parent_id, created_at) VALUES ($1, gen_random_uuid(), "
                "1, 'ccxt', 'binance', 'BTCUSDT', $2, $3, $4, 'market', 9, $5, $6, 'FILLED', $7, "
                "now() - interval '90 days' + $8 * interval '1 second')",
                *(id, instance, role, side, quantity, stop_loss, parent, second),
            )
        await database.sql(
            "INSERT INTO trades (fill_id, venue_trade_id, client_order_id, account_id, venue, symbol, instance, "
            "trade_type, quantity, price, fee, fee_currency, time) VALUES (gen_random_uuid(), $1, $1, 1, 'ccxt', "
            "'BTCUSDT', $2, 'BUY', $3, 100, 0, 'USDT', now())",
            *(name, instance, filled),
        )
    held = max(held * random.randint(1, 4) / 4, D(0))
    await database.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity) VALUES (1, 'ccxt', 'BTCUSDT', $1, $2)",
        *(instance, held),
    )
    return held


def parts(held: Decimal, orders: Sequence[Order]) -> dict[str, Decimal]:
    """Return what each of the entries in `orders` (oldest first, and legs) holds, if anything."""
    executed: dict[str, Decimal] = {}
    for leg in orders:
        executed[leg.parent_id or ""] = executed.get(leg.parent_id or "", D(0)) + leg.filled
    entries = [order for order in reversed(orders) if order.parent_id is None]
    wants = desired(held, entries, D(0), None, executed)
    return {want.parent.client_order_id: want.part for want in wants if want.part}


async def test_the_entries_that_are_read_hold_what_they_hold_among_all(database: Database) -> None:
    await seed(database)
    store, random = OrderStore(database), Random(7)
    held = {f"i{number}": await insert(database, f"i{number}", random) for number in range(HISTORIES)}
    snapshot = DatabaseSnapshot.of(dict(await KillStore(database).snapshot(WINDOW_S)))
    guarded = snapshot.protected_orders("ccxt")
    executed = {item.client_order_id for item in await FactStore(database).executed("ccxt")}
    shared = 0
    for instance, position in held.items():
        everything = await store.page(instance=instance, limit=100)
        everything.reverse()
        expected = parts(position, everything)
        entries = await store.entries_of(*KEY, instance, position)
        legs = await store.legs([entry.client_order_id for entry in entries])
        assert parts(position, [*reversed(entries), *legs]) == expected
        mine = [order for order in guarded if order.instance == instance]
        assert parts(position, mine) == expected
        by_id = {order.client_order_id: order for order in everything}
        is_shared = any(leg.parent_id and leg.filled > by_id[leg.parent_id].filled for leg in everything)
        shared += is_shared
        if not is_shared:
            assert sum(expected.values(), D(0)) == position
            assert len(entries) == len(expected), "no entry is read that holds nothing"
            assert {name for name in executed if name.startswith(f"{instance}.")} == set(expected)
    assert HISTORIES / 4 < shared < HISTORIES * 3 / 4
