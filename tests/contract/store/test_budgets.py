"""All processes that use an exchange share one budget, which stays bounded when Redis is away."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import cast

from fks.clock import RealClock
from fks.market.exchanges.registry import EXCHANGES, capabilities_of
from fks.model.market import Allowance, RateLimits
from fks.store.bus import Bus
from fks.system.rate_limits.budgets import (
    ALONE_LOOK_S,
    ALONE_SHARE,
    CONNECTS_ALONE_SHARE,
    CONNECTS_SHARE,
    SHARE,
    RedisBudget,
    bucket_of,
    budget_of,
    in_background,
)
from tests.support.budgets import Impatient, at_once, connect_at_once
from tests.support.waiting import until

AGES_S = 10**9  # windows begin at multiples of it: the present one ends in 2033
LONG = Allowance(100, AGES_S)
OURS = int(100 * SHARE)
LIMITS = RateLimits(connects=LONG)


def budgets(bus: Bus, count: int, allowance: Allowance = LONG) -> list[RedisBudget]:
    name = bucket_of("test", None, uuid.uuid4().hex)
    return [RedisBudget(bus, Impatient(), name, allowance) for _ in range(count)]


async def nothing(*args: object) -> None:
    """Redis is away."""


async def test_two_processes_share_one_budget(bus: Bus) -> None:
    one, other = budgets(bus, 2)
    await one.take(OURS - 10)
    assert await at_once(other, 8)
    assert not await at_once(other, 5)
    assert await at_once(one, 2)  # what is left is left for all
    assert not await at_once(one)


async def test_what_the_exchange_says_was_used_counts(bus: Bus) -> None:
    one, other = budgets(bus, 2)
    await one.take()
    one.seen(OURS - 3)  # an unknown program sends requests from our address
    assert await at_once(one, 2)
    assert not await at_once(other, 2)


async def test_a_refusal_pauses_everybody_for_as_long_as_it_says(bus: Bus) -> None:
    one, other = budgets(bus, 2, Allowance(100, 0.001))
    one.pause(3.0)
    began = time.monotonic()

    async def is_known() -> bool:
        return not await at_once(other)

    await until(is_known, deadline_s=2.9)
    await asyncio.gather(one.take(), other.take())
    assert 2.9 < time.monotonic() - began < 8


async def test_budget_is_full_again_with_the_next_window(bus: Bus) -> None:
    (one,) = budgets(bus, 1, Allowance(10, 0.5))
    began = time.monotonic()
    for _ in range(int(10 * SHARE) * 2 + 1):
        await one.take()
    assert 0.4 < time.monotonic() - began < 4


async def test_history_leaves_half_for_live_feeds(bus: Bus) -> None:
    (one,) = budgets(bus, 1)

    async def history() -> int:
        in_background.set(True)
        count = 0
        while await at_once(one, 5):
            count += 5
        return count

    assert await asyncio.create_task(history()) == OURS // 2
    assert await at_once(one, OURS // 2 - 5)


async def test_request_larger_than_the_budget_is_served_alone(bus: Bus) -> None:
    (one,) = budgets(bus, 1, Allowance(5, AGES_S))
    assert await at_once(one, 20)
    assert not await at_once(one)


async def test_without_redis_each_keeps_to_a_small_share() -> None:
    away = await Bus.connect("redis://127.0.0.1:9", timeout_s=0.2)
    (one,) = budgets(away, 1)
    count = 0
    while await at_once(one):
        count += 1
    assert count == int(OURS * ALONE_SHARE)
    (refused,) = budgets(away, 1)
    refused.pause(5.0)
    assert not await at_once(refused)
    await away.close()


async def test_reported_usage_counts_without_redis() -> None:
    away = await Bus.connect("redis://127.0.0.1:9", timeout_s=0.2)
    (one,) = budgets(away, 1)
    await one.take()
    one.seen(OURS)
    assert not await at_once(one)
    assert not await at_once(one)  # nor is it forgotten by asking
    await away.close()


async def test_usage_reported_without_redis_is_shared_when_it_is_back(bus: Bus) -> None:
    one, other = budgets(bus, 2)
    await one.take()
    one.seen(OURS - 3)
    script, bus.script = bus.script, nothing  # type: ignore[method-assign]
    assert not await at_once(one, 4)
    bus.script = script  # type: ignore[method-assign]
    assert await at_once(one, 2)
    assert not await at_once(other, 2)


async def test_a_late_answer_tells_of_the_window_its_request_was_sent_in(bus: Bus) -> None:
    one, other = budgets(bus, 2, Allowance(100, 2.0))
    sent, is_answered = asyncio.Event(), asyncio.Event()

    async def late() -> None:
        await one.take(20)
        sent.set()
        await is_answered.wait()
        one.seen(100)

    asking = asyncio.create_task(late())
    await sent.wait()
    await other.take(OURS - 10)  # only a later window has enough left for it
    await one.take()
    is_answered.set()
    await asking
    assert await at_once(one)  # the window that was full is over


async def dials_of(budget: RedisBudget) -> int:
    """Return how many dials get leave at once."""
    count = 0
    while await connect_at_once(budget):
        count += 1
    return count


async def test_connects_have_their_own_bucket_shared_by_all_keys_of_an_address(bus: Bus) -> None:
    where = uuid.uuid4().hex
    one, other = (budget_of(bus, Impatient(), "test", where, key, limits=LIMITS) for key in ("one", "other"))
    assert await connect_at_once(other)
    assert await dials_of(one) == int(100 * CONNECTS_SHARE) - 1
    assert not await connect_at_once(other)
    assert await at_once(other)  # requests are not held up
    assert await connect_at_once(budget_of(bus, Impatient(), "test", uuid.uuid4().hex, "one", limits=LIMITS))


async def test_without_redis_each_process_dials_a_little() -> None:
    away = await Bus.connect("redis://127.0.0.1:9", timeout_s=0.2)
    for most, allowance in ((int(100 * CONNECTS_SHARE * CONNECTS_ALONE_SHARE), LONG), (1, Allowance(1, AGES_S))):
        assert await dials_of(budget_of(away, Impatient(), "test", None, limits=RateLimits(connects=allowance))) == most
    await away.close()


class Flicker:
    """A Redis that is away for so long by a test's clock, and grants everything then."""

    def __init__(self, clock: Quick, away_s: float) -> None:
        self._clock, self._away_s = clock, away_s

    async def script(self, *_: object) -> list[int] | None:
        return None if self._clock.now_s < self._away_s else [0, 0]


class Quick(RealClock):
    """A clock by which waiting takes no time."""

    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        await asyncio.sleep(0)


async def test_redis_that_is_away_for_a_moment_costs_no_more_than_that() -> None:
    clock = Quick()
    budget = budget_of(cast(Bus, Flicker(clock, 3.0)), clock, "kraken", None, limits=capabilities_of("kraken").limits)
    for _ in range(12):
        await budget.take_connect()
    assert clock.now_s < 3.0 + ALONE_LOOK_S + 1.0


def test_connect_waits_at_most_a_minute() -> None:
    assert max(capabilities_of(name).limits.connects.window_s for name in EXCHANGES) <= 60


def test_budget_is_named_by_a_digest_of_the_key() -> None:
    assert "hunter2" not in bucket_of("polygon", None, "hunter2")
    assert bucket_of("binance", None) != bucket_of("binance", "http://127.0.0.1:1")
