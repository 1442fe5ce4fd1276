"""Positions of a kill: the snapshot, and the venue's executions since then that the database does not have."""

from __future__ import annotations

import uuid
from decimal import Decimal

from fks.model import ids
from fks.model.order import Fill, Side
from fks.model.timeframe import NS
from fks.trading.guardian.positions import DAY_NS, DatabaseSnapshot, Holder, Known
from tests.support.order_values import a_fill

D = Decimal
ONE, TWO = Holder("ccxt", 1, "BTCUSDT", "one"), Holder("ccxt", 1, "BTCUSDT", "two")
NOW_NS = 1_800_000_000 * NS
STOP = ids.client_order_id(uuid.UUID(int=1), "sl")


def sold(number: int, quantity: str, *, ago_s: int) -> Fill:
    """Return an execution of the stop."""
    return a_fill(number, client_order_id=STOP, side=Side.SELL, quantity=D(quantity), time_ns=NOW_NS - ago_s * NS)


def snapshot(state: str, filled: str, *booked: int) -> DatabaseSnapshot:
    """Return a snapshot of now: a stop of instance one, three days old, and what instance two holds."""
    old_ns = NOW_NS - 3 * DAY_NS
    is_incomplete = state == "CANCELLED"
    stop = Known(ONE, "binance", D(filled), "sl", state, old_ns, old_ns, True, True, is_incomplete, is_listed=True)
    ids_booked = frozenset(("ccxt", "BTCUSDT", str(number)) for number in booked)
    return DatabaseSnapshot(NOW_NS, {ONE: D("0.5") - D(filled), TWO: D("0.6")}, {}, {STOP: stop}, ids_booked)


def held(now: DatabaseSnapshot, *fills: Fill) -> dict[str, Decimal]:
    since = {"BTCUSDT": now.history_from_ns("ccxt", "BTCUSDT")}
    assert now.orders_unknown(fills, frozenset(), since) == {}
    return {holder.instance: quantity for holder, quantity in now.with_fills(fills, frozenset(), since).items()}


def test_an_old_stop_filled_while_the_order_manager_hung_is_counted() -> None:
    """It was sold ten minutes ago: sold again, it would be another's, or coins that FKS never bought."""
    assert held(snapshot("ACCEPTED", "0"), sold(1, "0.5", ago_s=600)) == {"one": 0, "two": D("0.6")}
    assert held(snapshot("CANCELLED", "0"), sold(1, "0.2", ago_s=600)) == {"one": D("0.3"), "two": D("0.6")}


def test_what_the_database_booked_of_an_old_order_is_not_counted_again() -> None:
    fills = sold(1, "0.1", ago_s=40_000), sold(2, "0.2", ago_s=600)
    assert held(snapshot("PARTIAL", "0.1", 1), *fills) == {"one": D("0.2"), "two": D("0.6")}
