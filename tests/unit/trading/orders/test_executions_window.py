"""From when on a venue's executions are read for an order: never after it was sent, whatever the clock has shown."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from fks.clock import FakeClock
from fks.config.settings import Settings
from fks.model.order import Fill
from fks.model.timeframe import NS
from fks.trading.order_manager.venue_orders import VenueOrders
from fks.trading.orders.sent_ids import SentIds
from tests.support.order_values import a_fill, an_order


class History:
    """A venue that has one execution, of the time `at_ns`."""

    def __init__(self, at_ns: int) -> None:
        self.fill = a_fill(time_ns=at_ns)

    async def fills_since(self, symbol: str, since_ns: int) -> list[Fill]:
        return [self.fill] if self.fill.time_ns >= since_ns else []


@pytest.mark.parametrize("later_s", [1.0, 1200.0])
@pytest.mark.parametrize("is_right", ["before", "after"])
@pytest.mark.parametrize("step_s", [0.0, 600.0, -600.0, 3600.0])
async def test_executions_are_read_since_the_send_whatever_the_clock_shows(
    step_s: float, is_right: str, later_s: float
) -> None:
    """The clock is right before its step, or after it: the venue's times are by the right one."""
    clock = FakeClock()
    venue = History(0)
    context = SimpleNamespace(settings=Settings(), venues={"ccxt": venue}, clock=clock)
    context.ledger = context.log = context.publisher = context.tasks = None
    orders = VenueOrders(cast("Any", context), SentIds())
    await clock.advance(7200.0)
    order = an_order(sent_ns=clock.now_ns())
    await clock.advance(1.0)
    clock.step(step_s)
    venue.fill = a_fill(time_ns=(order.sent_ns or 0) + (round(step_s * NS) if is_right == "after" else 0))
    await clock.advance(later_s)
    assert await orders.fills_of(order) == [venue.fill]
