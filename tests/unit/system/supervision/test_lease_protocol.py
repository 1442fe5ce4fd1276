"""The lease protocol itself: whatever is paused, lost, late or set wrong, two never hold the same lease at one moment.

The real `HeldLease` runs against a database of a few lines; hypothesis decides what happens when: renewals that are
asked, executed and answered seconds apart or never, holders that are stopped, outages, takeovers, clocks that run ten
per cent fast or slow, wall clocks that jump.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fks.model.errors import OutageError, StaleEpochError
from fks.store.leases import HeldLease

TTL_S, MARGIN_S, DRIFT = 2.0, 0.5, 0.1


@dataclass
class World:
    """True time, and the rows of the database."""

    now_s: float = 0.0
    epoch: int = 0
    is_up: bool = True


@dataclass
class HolderClock:
    """A machine's clock: its own rate, its own idea of the date."""

    world: World
    rate: float
    wall_s: float = 1e9

    def monotonic(self) -> float:
        return self.world.now_s * self.rate

    def now_ns(self) -> int:
        return round((self.wall_s + self.world.now_s * self.rate) * 1e9)


class SlowDatabase:
    """Answers when the test lets it."""

    @types.coroutine
    def fetchval(self, *args: object, **named: object) -> Generator[None, Any, Any]:
        return (yield)


@dataclass
class Holder:
    """One process: the lease that it holds, and the renewal that is on its way."""

    epoch: int
    clock: HolderClock
    lease: HeldLease
    may_begin_s: float  # true time
    is_stopped: bool = False
    is_dead: bool = False
    renewal: Any = None
    answer: tuple[int | None] | None = field(default=None)  # set once the database executed it


class Protocol(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.holders: list[Holder] = []

    @initialize(rate=st.floats(1 - DRIFT, 1 + DRIFT))
    def begin(self, rate: float) -> None:
        self.take_over(rate, is_first=True)

    def take_over(self, rate: float, *, is_first: bool = False) -> None:
        self.world.epoch += 1
        clock = HolderClock(self.world, rate)
        lease = HeldLease(
            SlowDatabase(),
            clock,
            name="orders",
            epoch=self.world.epoch,
            holder="x",
            ttl_s=TTL_S,
            renew_s=0.5,  # type: ignore[arg-type]
        )
        wait_s = 0.0 if is_first else (TTL_S + MARGIN_S) / rate  # by its own clock
        self.holders.append(Holder(self.world.epoch, clock, lease, self.world.now_s + wait_s))

    def _pick(self, number: int) -> Holder:
        return self.holders[-1 - number % min(len(self.holders), 4)]

    @rule(seconds=st.one_of(st.floats(0.0, 0.6), st.floats(0.0, 4.0)))
    def time_passes(self, seconds: float) -> None:
        self.world.now_s += seconds

    @precondition(lambda self: self.world.is_up)
    @rule(rate=st.floats(1 - DRIFT, 1 + DRIFT))
    def a_successor(self, rate: float) -> None:
        self.take_over(rate)

    @rule(dice=st.integers(0, 3))
    def database_goes_or_comes(self, dice: int) -> None:
        self.world.is_up = not self.world.is_up or dice > 0

    @rule(number=st.integers(0, 3), dice=st.integers(0, 3))
    def is_stopped_or_goes_on(self, number: int, dice: int) -> None:
        holder = self._pick(number)
        holder.is_stopped = not holder.is_stopped and dice == 0

    @rule(number=st.integers(0, 3), seconds=st.floats(-100, 100))
    def wall_clock_jumps(self, number: int, seconds: float) -> None:
        self._pick(number).clock.wall_s += seconds

    @rule(number=st.integers(0, 3))
    def asks(self, number: int) -> None:
        holder = self._pick(number)
        is_able = not (holder.is_stopped or holder.is_dead) and holder.renewal is None
        if is_able and self.world.now_s >= holder.may_begin_s:
            holder.renewal = holder.lease.renew()
            holder.renewal.send(None)

    @precondition(lambda self: self.world.is_up)
    @rule(number=st.integers(0, 3))
    def is_executed(self, number: int) -> None:
        """The database executes a request, though its sender may be stopped by now."""
        holder = self._pick(number)
        if holder.renewal is not None and holder.answer is None:
            holder.answer = (holder.epoch if self.world.epoch == holder.epoch else None,)

    @rule(number=st.integers(0, 3))
    def hears(self, number: int) -> None:
        holder = self._pick(number)
        if holder.renewal is None or holder.answer is None or holder.is_stopped:
            return
        try:
            holder.renewal.send(holder.answer[0])
        except StopIteration:
            pass
        except StaleEpochError:
            holder.is_dead = True
        holder.renewal = holder.answer = None

    @rule(number=st.integers(0, 3))
    def renews(self, number: int) -> None:
        """All at once, as it mostly is."""
        self.asks(number)
        if self.world.is_up:
            self.is_executed(number)
        self.hears(number)

    @precondition(lambda self: self.world.is_up)
    @rule(rate=st.floats(1 - DRIFT, 1 + DRIFT))
    def a_successor_begins_as_soon_as_it_may(self, rate: float) -> None:
        """The moment at which an overlap would show."""
        self.renews(0)
        self.take_over(rate)
        self.world.now_s = self.holders[-1].may_begin_s
        self.renews(0)

    @rule(number=st.integers(0, 3))
    def connection_is_lost(self, number: int) -> None:
        """Executed or not, the answer is lost."""
        holder = self._pick(number)
        if holder.renewal is None or holder.is_stopped:
            return
        with contextlib.suppress(OutageError):
            holder.renewal.throw(OutageError("gone"))
        holder.renewal = holder.answer = None

    @invariant()
    def at_most_one_holds(self) -> None:
        holding = [holder.epoch for holder in self.holders if holder.lease.holds()]
        assert len(holding) <= 1, f"epochs {holding} hold at {self.world.now_s}"

    @invariant()
    def the_dead_hold_nothing(self) -> None:
        assert not any(holder.is_dead and holder.lease.holds() for holder in self.holders)

    def teardown(self) -> None:
        for holder in self.holders:
            if holder.renewal is not None:
                holder.renewal.close()


Protocol.TestCase.settings = settings(stateful_step_count=60)
TestProtocol = Protocol.TestCase


def test_a_healthy_holder_holds_between_renewals() -> None:
    world = World(epoch=1)
    clock = HolderClock(world, 1.0)
    database: Any = SlowDatabase()
    lease = HeldLease(database, clock, name="x", epoch=1, holder="x", ttl_s=TTL_S, renew_s=0.5)
    assert not lease.holds()
    for _ in range(20):
        renewal = lease.renew()
        renewal.send(None)  # type: ignore[attr-defined]
        with contextlib.suppress(StopIteration):
            renewal.send(1)  # type: ignore[attr-defined]
        world.now_s += 0.5
        assert lease.holds()
    clock.wall_s -= 3600  # a step back changes nothing
    assert lease.holds()
    clock.wall_s += 3600 + TTL_S  # a step ahead, or a host that put a paused guest's clock right
    assert not lease.holds()


def test_refused_renewal_ends_the_lease_at_once() -> None:
    """Its deadline is seconds away: a newer epoch exists, and nothing more may be sent."""
    world = World(epoch=1)
    database: Any = SlowDatabase()
    lease = HeldLease(database, HolderClock(world, 1.0), name="x", epoch=1, holder="x", ttl_s=TTL_S, renew_s=0.5)
    for answer in (1, None):
        renewal = lease.renew()
        renewal.send(None)  # type: ignore[attr-defined]
        with contextlib.suppress(StopIteration, StaleEpochError):
            renewal.send(answer)  # type: ignore[attr-defined]
        assert lease.holds() is (answer == 1)


def test_a_lease_counts_from_when_its_renewal_was_asked_for() -> None:
    """A successor counts from the database's execution, which is never before that and may be just after it."""
    world = World(epoch=1)
    database: Any = SlowDatabase()
    lease = HeldLease(database, HolderClock(world, 1.0), name="x", epoch=1, holder="x", ttl_s=TTL_S, renew_s=0.5)
    renewal = lease.renew()
    renewal.send(None)  # type: ignore[attr-defined]
    world.now_s += 1.5  # the answer is late
    with contextlib.suppress(StopIteration):
        renewal.send(1)  # type: ignore[attr-defined]
    assert lease.holds()
    world.now_s += TTL_S - 1.5
    assert not lease.holds()
