"""Order manager, guardian and their venue sessions share the limits of one address: on the local exchange, its limits
turned low."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Any

import pytest

from fks.clock import RealClock
from fks.model.errors import OutageError
from fks.model.market import Allowance, RateLimits
from fks.model.order import OrderType, Outcome, Refusal, Role, Side
from fks.model.ports import Priority, VenueBudget
from fks.store.bus import Bus
from fks.system.rate_limits.venue_budgets import venue_budget
from fks.trading.venues.base import PauseOnly
from fks.trading.venues.ccxt import CcxtConfig, CcxtVenue
from tests.support.local_exchange import LocalExchange
from tests.support.ports import CollectingLog
from tests.support.venue_orders import order
from tests.support.waiting import until

PER_MINUTE, PER_10S = 2000, 40


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalExchange]:
    limits = ["--weight-per-minute", str(PER_MINUTE), "--orders-per-10s", str(PER_10S)]
    exchange = LocalExchange(tmp_path_factory.mktemp("exchange"), ["--balance", "USDT=1000000", "--seed", "5", *limits])
    yield exchange.start()
    exchange.stop()


class Sessions:
    """Venue sessions as those of processes of their own, at one address with one key."""

    def __init__(self, exchange: LocalExchange, bus: Bus) -> None:
        self._exchange = exchange
        self._bus = bus
        self.made: list[CcxtVenue] = []

    async def open(self, *, is_guardian: bool = False, budget: VenueBudget | None = None) -> CcxtVenue:
        info = self._exchange.info
        budget = budget or venue_budget(
            self._bus,
            RealClock(),
            "binance",
            info["rest"],
            info["api_key"],
            limits=RateLimits(requests=Allowance(PER_MINUTE, 60), orders=Allowance(PER_10S, 10)),
            is_guardian=is_guardian,
        )
        config = CcxtConfig(
            info["api_key"], info["api_secret"], rest_url=info["rest"], ws_url=info["ws"], ws_api_url=info["ws_api"]
        )
        venue = CcxtVenue(config, RealClock(), CollectingLog(), budget=budget)
        await venue.open()
        self.made.append(venue)
        return venue


@pytest.fixture
async def sessions(running: LocalExchange, bus: Bus) -> AsyncIterator[Sessions]:
    """Sessions whose buckets are empty at first."""
    running.clear()
    made = Sessions(running, bus)
    yield made
    for venue in made.made:
        await venue.close()


async def test_a_429_seen_by_one_process_pauses_the_others(sessions: Sessions, running: LocalExchange) -> None:
    orders, guardian = await sessions.open(), await sessions.open(is_guardian=True)
    await until(lambda: orders.wait_s() == 0)
    running.fault("429", path="/api/v3/account", seconds=30)
    with pytest.raises(OutageError):
        await guardian.balances()
    await until(lambda: orders.wait_s() > 20, deadline_s=5.0)
    before = len(running.received(all=1))
    for role in (Role.ENTRY, Role.EXIT):
        wanted = order(role=role)
        answer = await orders.submit(wanted)
        assert (answer.outcome, answer.code, answer.refusal) == (Outcome.REFUSED, "RATE_VENUE", Refusal.RATE_LIMITED)
        assert answer.retry_after_s is not None
        assert 10 < answer.retry_after_s <= 30
    assert [row for row in running.received(all=1)[before:] if not row["path"].startswith("/sim")] == []


async def test_entry_that_would_wait_is_refused_and_exits_still_go(sessions: Sessions, running: LocalExchange) -> None:
    venue = await sessions.open()
    price = await venue.last_price("BTCUSDT")
    assert price is not None
    low = str((price * Decimal("0.9")).quantize(Decimal("0.01")))
    placed: list[Any] = []
    await in_one_window(10, 4.0)
    while (
        answer := await venue.submit(wanted := order("0.001", type=OrderType.LIMIT, price=low))
    ).outcome is Outcome.ACK:
        placed.append(wanted)
    assert (answer.code, answer.refusal) == ("RATE_VENUE", Refusal.RATE_LIMITED)
    assert answer.retry_after_s is not None
    assert venue.wait_s() > 0.25
    assert 10 <= len(placed) < PER_10S  # 26 when Redis answers in time: 4 of 30 are leased for the reserve
    exit_ = order("0.001", side=Side.BUY, role=Role.EXIT)
    assert venue.wait_s(Priority.RESERVE) == 0
    assert (await venue.submit(exit_)).outcome is Outcome.ACK
    for one in placed:
        assert (await venue.cancel(one)).outcome is Outcome.ACK
    assert not running.received(client_order_id=wanted.client_order_id)
    assert await venue.open_orders() == []


class Stranger(PauseOnly):
    """Another program at our address: it shares nothing, and only the exchange knows what it uses."""

    used = 0

    def seen(self, weight: int | None, orders: int | None = None, *, sent_s: float) -> None:
        self.used = weight or self.used


async def test_what_the_answers_report_as_used_is_respected(sessions: Sessions) -> None:
    await in_one_window(60, 8.0)
    stranger = Stranger(RealClock())
    other = await sessions.open(budget=stranger)
    while stranger.used < PER_MINUTE * 3 // 4:
        await other.balances()
    venue = await sessions.open()
    await until(lambda: venue.wait_s() > 1)
    answer = await venue.submit(order("0.001"))
    assert (answer.outcome, answer.code) == (Outcome.REFUSED, "RATE_VENUE"), answer
    assert (await venue.submit(order("0.001", role=Role.EXIT))).outcome is Outcome.ACK


async def in_one_window(span_s: int, least_s: float) -> None:
    """Return when the present window of the exchange's clock lasts for another `least_s` seconds."""

    async def lasts() -> bool:
        return span_s - time.time() % span_s > least_s

    await until(lasts, deadline_s=2 * least_s, every_s=0.05)
