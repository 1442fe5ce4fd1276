"""Executions that are not booked yet: found however long ago, and counted once."""

from __future__ import annotations

import uuid
from decimal import Decimal
from itertools import permutations

from fks.model import ids
from fks.model.kill import KillMode
from fks.model.order import Fill, Side
from fks.model.timeframe import NS
from fks.trading.guardian.positions import DAY_NS, LOOKBACK_S, DatabaseSnapshot, Holder, Known, VenueRules
from fks.trading.risk.policy import is_ended

D = Decimal
NOW = 1_790_000_000_000_000_000
HOLDER = Holder("ccxt", 1, "BTCUSDT", "s")
RULES = {"BTCUSDT": VenueRules("binance", "BTC", "USDT", D("0.01"), D("0.01"), D(5))}
MINE = ids.client_order_id(uuid.UUID(int=7), "entry")


def known(state: str, *, filled: str = "0", age_s: float = 600.0, role: str = "entry") -> Known:
    created = NOW - round(age_s * NS)
    return Known(HOLDER, "binance", D(filled), role, state, created, created)


def snapshot(
    order: Known, position: str = "0", booked: frozenset[tuple[str, str, str]] = frozenset()
) -> DatabaseSnapshot:
    return DatabaseSnapshot(NOW, {HOLDER: D(position)}, RULES, {MINE: order}, booked)


def fill(trade: str, quantity: str, *, age_s: float, fee: str = "0") -> Fill:
    return Fill(
        uuid.uuid4(),
        MINE,
        "1",
        trade,
        1,
        "ccxt",
        "BTCUSDT",
        Side.BUY,
        D(quantity),
        D(10),
        D(fee),
        "BTC",
        NOW - round(age_s * NS),
    )


def test_the_history_reaches_back_to_the_oldest_order_that_may_still_fill() -> None:
    recent = NOW - round(LOOKBACK_S * NS)
    assert snapshot(known("FILLED")).history_from_ns("ccxt", "BTCUSDT") == recent
    assert snapshot(known("UNKNOWN")).history_from_ns("ccxt", "BTCUSDT") < NOW - 600 * NS
    assert snapshot(known("WORKING")).history_from_ns("ccxt", "ETHUSDT") == recent
    assert snapshot(known("WORKING", age_s=30 * 86_400)).history_from_ns("ccxt", "BTCUSDT") == NOW - DAY_NS


def test_a_fill_of_ten_minutes_ago_that_is_not_booked_is_counted() -> None:
    """The order manager was down since then: the fill is older than any window of recent ones."""
    view = snapshot(known("WORKING"))
    since = {"BTCUSDT": view.history_from_ns("ccxt", "BTCUSDT")}
    assert view.with_fills([fill("1", "0.5", age_s=550, fee="0.01")], frozenset(), since) == {HOLDER: D("0.49")}


def test_the_rest_of_a_partly_booked_order_counts_in_any_order() -> None:
    """The database says how much of it is booked; the list of booked executions has forgotten the early ones."""
    view = snapshot(known("PARTIAL", filled="0.7"), "0.7")
    since = {"BTCUSDT": view.history_from_ns("ccxt", "BTCUSDT")}
    fills = [fill("9", "0.5", age_s=500), fill("10", "0.4", age_s=400, fee="0.04"), fill("11", "0.1", age_s=1)]
    for delivered in permutations(fills):
        # 0.5 and half of 0.4 are booked: 0.2 less half of its fee, and 0.1, are not
        assert view.with_fills(delivered, frozenset(), since) == {HOLDER: D("0.7") + D("0.18") + D("0.1")}


def test_an_order_older_than_the_history_counts_by_booked_executions() -> None:
    view = snapshot(known("WORKING", age_s=30 * 86_400, filled="3"), "3", frozenset({("ccxt", "BTCUSDT", "1")}))
    since = {"BTCUSDT": view.history_from_ns("ccxt", "BTCUSDT")}
    fills = [fill("0", "2", age_s=3600), fill("1", "1", age_s=60), fill("2", "0.5", age_s=5)]
    assert view.with_fills(fills, frozenset(), since) == {HOLDER: D("3.5")}


def test_what_a_held_kill_keeps() -> None:
    kept = {
        role: not is_ended(known("WORKING", role=role).action, KillMode.HELD)
        for role in ("entry", "exit", "sl", "tp", "order", "kill")
    }
    assert kept == {"entry": False, "exit": True, "sl": True, "tp": True, "order": False, "kill": True}
    assert not is_ended(Known(HOLDER, "binance", D(0), "order", is_reduce_only=True).action, KillMode.HELD)
