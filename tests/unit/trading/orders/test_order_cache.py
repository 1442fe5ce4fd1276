"""The order manager's memory of orders."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from fks.config.settings import Settings
from fks.model.account import Account, Balance, Position
from fks.model.order import Order, OrderType, Role, Side, State
from fks.model.ports import VenueCapabilities
from fks.trading.order_manager.cache import OrderCache, VenueStatus
from tests.support.order_rig import signal_of
from tests.support.order_values import an_instrument, an_order

D = Decimal
_LEG = an_order(side=Side.SELL, state=State.ACCEPTED, quantity=D(3), group_id="list", parent_id="p" * 32)
STOP = replace(_LEG, client_order_id="s" * 32, role=Role.STOP_LOSS, type=OrderType.STOP)
TARGET = replace(_LEG, client_order_id="t" * 32, role=Role.TAKE_PROFIT, type=OrderType.TAKE_PROFIT)


@pytest.mark.parametrize(("executed", "sibling"), [(STOP, TARGET), (TARGET, STOP)], ids=["stop", "target"])
def test_a_leg_counts_no_more_once_all_that_its_sibling_executed_is_booked(executed: Order, sibling: Order) -> None:
    cache = OrderCache(Settings())
    cache.put(executed)
    cache.put(sibling)
    assert cache.open_of(1) == (executed, sibling)
    reported = replace(executed, state=State.FILLED, reported_cum_qty=D(3))
    cache.put(reported)
    assert cache.open_of(1) == (reported, sibling), "its executions are not booked: the position is as it was"
    cache.put(replace(reported, filled=D(3)))
    assert cache.open_of(1) == ()
    cache.put(replace(sibling, state=State.EXPIRED))
    successor = replace(STOP, client_order_id="n" * 32)  # no list is remembered for ever
    cache.put(successor)
    assert cache.open_of(1) == (successor,)


def test_a_leg_counts_while_its_sibling_is_cancelled_or_has_executed_a_part() -> None:
    cache = OrderCache(Settings())
    for order in (STOP, TARGET):
        cache.put(order)
    part = replace(TARGET, state=State.PARTIAL, filled=D(1), reported_cum_qty=D(1))
    cache.put(part)
    assert cache.open_of(1) == (STOP, part)
    cache.put(replace(part, state=State.CANCELLED))
    assert cache.open_of(1) == (STOP,)


def test_a_leg_whose_executions_are_found_to_be_incomplete_counts_again() -> None:
    cache = OrderCache(Settings())
    for order in (STOP, TARGET):
        cache.put(order)
    filled = replace(STOP, state=State.FILLED, filled=D(3), reported_cum_qty=D(3))
    cache.put(filled)
    assert cache.open_of(1) == ()
    raised = replace(filled, reported_cum_qty=D(4))
    cache.put(raised)
    assert cache.open_of(1) == (TARGET, raised)


@pytest.mark.parametrize("is_expired_first", [False, True])
def test_an_entry_that_went_out_with_its_legs_counts_whatever_these_executed(is_expired_first: bool) -> None:
    """Its own executions may be booked after theirs: until they are, entries in its symbol are denied."""
    cache = OrderCache(Settings())
    entry = an_order(client_order_id="p" * 32, group_id="list", state=State.FILLED, reported_cum_qty=D(10))
    ends = [replace(STOP, state=State.FILLED, filled=D(3), reported_cum_qty=D(3)), replace(TARGET, state=State.EXPIRED)]
    for order in (entry, STOP, TARGET):
        cache.put(order)
    for order in reversed(ends) if is_expired_first else ends:
        cache.put(order)
        assert entry in cache.open_of(1)
    assert cache.open_of(1) == (entry,)
    assert cache.lists_over == frozenset(), "a list is noted no longer than a leg of it is open"


def test_the_equity_that_sizes_an_entry_has_the_open_profit_of_contracts() -> None:
    """1,000 and two contracts, bought at 90 and worth 5 a point, at a reference price of 100."""
    cache, item = OrderCache(Settings()), an_instrument(multiplier=D(5))
    cache.instruments[item.exchange, item.symbol] = item
    cache.accounts[1] = Account(1, "ninja", "personal", "nt8", "", "USDT", D(0))
    cache.balances["nt8"] = {"USDT": Balance("USDT", D(1_000), D(0))}
    cache.positions[1, "nt8", item.symbol, "one"] = Position(1, "nt8", item.symbol, "one", D(2), D(90), D(0), D(0))
    signal = signal_of(account_id=1, venue="nt8", reference_price=D(100))
    for is_margin, worth in ((True, D(1_100)), (False, D(1_000))):
        capabilities = VenueCapabilities(frozenset(), frozenset(), is_margin=is_margin)
        cache.venues["nt8"] = VenueStatus("nt8", account_id=1, capabilities=capabilities)
        assert cache.equity(signal, 0) == worth
    cache.balances["nt8"]["BTC"] = Balance("BTC", D(2), D(0))  # an account of paper has them
    assert cache.equity(signal, 0) == 2_000
