"""Order manager, guardian and collector share one budget per address and key; the reserve is kept for what ends
risk."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from fks.clock import RealClock
from fks.model.market import Allowance, RateLimits
from fks.model.ports import Priority
from fks.store.bus import Bus
from fks.system.rate_limits.budgets import SHARE, budget_of
from fks.system.rate_limits.venue_budgets import (
    CEILINGS,
    GUARDIAN_SHARE,
    ORDERS_ALONE_SHARE,
    RedisVenueBudget,
    venue_budget,
)
from tests.support.waiting import until

AGES_S = 10**9  # windows begin at multiples of it: the present one ends in 2033
LIMIT = 1000
LIMITS = RateLimits(requests=Allowance(LIMIT, AGES_S))
ENTRY, READ, RESERVE = Priority.ENTRY, Priority.READ, Priority.RESERVE
Make = Callable[..., RedisVenueBudget]


class CountingBus(Bus):
    """A bus that counts what is asked of Redis."""

    scripts = 0

    async def script(self, *given: Any) -> Any:
        self.scripts += 1
        return await super().script(*given)


@pytest.fixture
async def counting(redis_url: str) -> AsyncIterator[CountingBus]:
    bus = await CountingBus.connect(redis_url)
    yield bus
    await bus.close()


@pytest.fixture
async def make(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Make budgets of one address and key, each like that of a process of its own. A busy machine may answer late:
    tokens that were leased and not received would be missing in the sums."""
    monkeypatch.setattr("fks.system.rate_limits.venue_budgets.ASK_TIMEOUT_S", 5.0)
    address, made = uuid.uuid4().hex, []

    def one(
        *, on: Bus = bus, window_s: float = AGES_S, orders: Allowance = Allowance(10**6, AGES_S), **fields: Any
    ) -> Any:
        limits = RateLimits(requests=Allowance(LIMIT, window_s), orders=orders)
        made.append(venue_budget(on, RealClock(), "test", address, "key", limits=limits, **fields))
        made[-1].address = address
        return made[-1]

    yield one
    for budget in made:
        await budget.stop()


async def spent(
    budget: RedisVenueBudget, priority: Priority, *, weight: int = 1, orders: int = 0, most: int = 3000
) -> int:
    """Take until there is a wait; return how much was had."""
    count = 0
    while count < most and await budget.take(weight, priority, orders, wait_max_s=0.0) == 0.0:
        count += weight
    return count


async def test_entries_leave_the_reserve_to_what_ends_risk(make: Make) -> None:
    one, other, guardian = make(), make(), make(is_guardian=True)
    assert await spent(one, ENTRY) == int(LIMIT * CEILINGS[ENTRY])
    assert await spent(other, ENTRY) == 0
    assert other.wait_s(1, ENTRY) > 1
    reserve = int(LIMIT * CEILINGS[RESERVE]) - int(LIMIT * CEILINGS[ENTRY])
    assert await spent(one, RESERVE) == reserve
    assert await spent(other, RESERVE) == 0
    assert await spent(guardian, READ) == int(LIMIT * GUARDIAN_SHARE)  # lent to no other process
    assert await spent(guardian, RESERVE) == 0


async def test_the_guardian_uses_the_shared_reserve_when_its_own_is_spent(make: Make) -> None:
    guardian = make(is_guardian=True)
    assert await spent(guardian, RESERVE) == int(LIMIT * GUARDIAN_SHARE) + int(LIMIT * CEILINGS[RESERVE])


async def test_market_data_and_orders_share_one_bucket(make: Make, bus: Bus) -> None:
    orders = make()
    collector = budget_of(bus, RealClock(), "test", orders.address, limits=LIMITS)  # type: ignore[attr-defined]
    await collector.take(int(LIMIT * SHARE))
    assert await spent(orders, ENTRY) == int(LIMIT * CEILINGS[ENTRY]) - int(LIMIT * SHARE)
    waiting = asyncio.create_task(collector.take(1))
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting), 0.05)
    assert not waiting.done()
    waiting.cancel()


async def test_new_orders_have_a_limit_of_their_own(make: Make) -> None:
    one = make(orders=Allowance(100, AGES_S))
    assert await spent(one, ENTRY, orders=1) == 75
    assert await one.take(1, RESERVE, wait_max_s=0.2) == 0.0  # a cancel is no new order
    assert await spent(one, RESERVE, orders=1) == 12


@pytest.mark.parametrize("status", [429, 418])
async def test_a_pause_is_known_to_every_process_at_once(make: Make, bus: Bus, status: int) -> None:
    one, other, guardian = make(), make(), make(is_guardian=True)
    for budget in (other, guardian):
        await budget.start()
    await other.take(1, ENTRY, wait_max_s=0.2)
    await until(lambda: other.wait_s(1, ENTRY) == 0)

    def is_known() -> bool:
        one.pause(7.0, status)  # again: the first may come before the others have subscribed
        return min(other.wait_s(1, ENTRY), guardian.wait_s(1, RESERVE)) > 5

    await until(is_known)
    assert one.wait_s(1, RESERVE) > 6
    assert other.paused_by == guardian.paused_by == status
    late = make()
    assert await late.take(1, RESERVE, wait_max_s=0.0) > 5
    assert late.paused_by == status
    collector = budget_of(bus, RealClock(), "test", one.address, limits=LIMITS)  # type: ignore[attr-defined]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(collector.take(1), 0.05)


async def test_order_needs_no_round_trip_while_tokens_are_here(make: Make, counting: CountingBus) -> None:
    one = make(on=counting)
    await one.start()
    for priority in (ENTRY, RESERVE):
        assert await one.take(1, priority, 1, wait_max_s=0.2) == 0
        before = counting.scripts
        for _ in range(3):
            assert one.wait_s(1, priority, 1) == 0
            taken = one.take(1, priority, 1, wait_max_s=0.0)
            with pytest.raises(StopIteration):
                taken.send(None)  # it never suspends
        assert counting.scripts == before


async def test_tokens_are_leased_again_before_they_run_out(make: Make) -> None:
    one = make()
    await one.start()
    for _ in range(300):
        assert await one.take(1, ENTRY, 1, wait_max_s=0.2) == 0.0
    other = make()
    assert await spent(other, ENTRY) <= int(LIMIT * CEILINGS[ENTRY]) - 300


async def test_a_full_bucket_is_free_again_with_the_next_window(make: Make) -> None:
    window_s = 2.0
    one = make(window_s=window_s)
    await one.start()
    assert await spent(one, ENTRY) > LIMIT // 2  # what is leased when a window ends goes with it
    assert one.wait_s(1, ENTRY) <= window_s
    await until(lambda: one.wait_s(1, ENTRY) == 0, deadline_s=window_s + 5.0)
    assert await one.take(1, ENTRY, wait_max_s=window_s / 2) == 0.0


async def test_a_short_wait_is_waited_for(make: Make) -> None:
    one, clock = make(), RealClock()
    begun_s = clock.monotonic()
    one.pause(0.1, 429)
    assert await one.take(1, ENTRY, wait_max_s=5.0) == 0.0  # Redis' pause begins later, on a busy machine much later
    assert clock.monotonic() - begun_s >= 0.1


async def test_what_the_venue_reports_as_used_counts_for_all(make: Make) -> None:
    one, other = make(), make()
    await one.take(1, ENTRY, wait_max_s=0.2)
    one.seen(int(LIMIT * CEILINGS[ENTRY]), sent_s=RealClock().monotonic())  # others ask from our address
    assert one.wait_s(1, ENTRY) > 1
    assert one.wait_s(1, RESERVE) == 0
    assert await one.take(1, RESERVE, wait_max_s=0.2) == 0.0
    assert await other.take(1, ENTRY, wait_max_s=0.0) > 1


async def test_without_redis_each_process_keeps_a_fixed_share() -> None:
    away = await Bus.connect("redis://127.0.0.1:9", timeout_s=0.2)
    orders = venue_budget(away, RealClock(), "test", None, "key", limits=LIMITS)
    guardian = venue_budget(away, RealClock(), "test", None, "key", limits=LIMITS, is_guardian=True)
    assert await spent(orders, ENTRY) + await spent(orders, RESERVE) == int(LIMIT * ORDERS_ALONE_SHARE)
    assert await spent(guardian, RESERVE) == int(LIMIT * GUARDIAN_SHARE)
    guardian.pause(5.0, 418)
    assert guardian.wait_s(1, RESERVE) > 4
    await guardian.stop()
    await away.close()


@pytest.mark.parametrize("is_by_key", [False, True])
async def test_a_kill_has_room_where_requests_are_counted_by_key(bus: Bus, is_by_key: bool) -> None:
    """At Kraken's 60 a minute: market data and the order manager leave the guardian its six, or a key's whole limit."""
    address = uuid.uuid4().hex
    limits = RateLimits(requests=Allowance(60, AGES_S), is_account_by_key=is_by_key)
    data = budget_of(bus, RealClock(), "test", address, limits=limits)
    for _ in range(36):
        await data.take(1)
    orders = venue_budget(bus, RealClock(), "test", address, "key", limits=limits)
    assert await spent(orders, Priority.READ, weight=3) == (48 if is_by_key else 12)
    assert await spent(orders, Priority.RESERVE, weight=3) > 0
    guardian = venue_budget(bus, RealClock(), "test", address, "key", limits=limits, is_guardian=True)
    assert await spent(guardian, Priority.RESERVE, weight=3) == (57 if is_by_key else 6)
