"""A kill at one venue, on a venue in memory: the orders ended, the proofs, the closed positions, the quiet state."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path

import pytest

from fks.clock import FakeClock
from fks.model.account import Environment, VenueIdentity
from fks.model.order import Answer, Order, OrderType, Role, Side, State
from fks.trading.guardian.context import GuardianContext
from fks.trading.guardian.journal import ENDED, Asked, KillJournal
from fks.trading.guardian.positions import DatabaseSnapshot, Holder, Known, VenueRules
from fks.trading.guardian.timing import Timing
from fks.trading.guardian.venue_kill import VenueKill
from tests.support.order_values import an_order
from tests.support.ports import CollectingLog, RecordingMeter
from tests.support.scripted_venue import SIM, ScriptedVenue, refused

D = Decimal
HOLDER = Holder("ccxt", 1, "BTCUSDT", "s")
RULES = {"BTCUSDT": VenueRules("binance", "BTC", "USDT", D("0.001"), D("0.001"), D(5))}
OTHER = VenueIdentity(Environment.SIM, "2", "first")


@dataclass
class Closed(ScriptedVenue):
    """A venue that refuses market orders while `is_closed`; `refused`: other types, too."""

    is_closed: bool = True
    refused: set[str] = field(default_factory=set)

    async def submit(self, order: Order) -> Answer:
        if self.is_closed and (order.type is OrderType.MARKET or order.type.value in self.refused):
            self.received.append(order.client_order_id)
            return refused("refuse:-2010:unavailable")
        return await super().submit(order)


@dataclass
class Killing:
    """A kill that runs on a venue. `why_not` and `snapshot` may change while it does."""

    clock: FakeClock
    venue: ScriptedVenue
    journal: KillJournal
    snapshot: DatabaseSnapshot | None
    why_not: str = ""
    saves: int = 0
    kill: VenueKill = field(init=False)

    async def save(self) -> None:
        """Count what is to be saved: the database is away."""
        self.saves += 1

    async def passed(self, seconds: float) -> None:
        """Let time pass, in steps that a round fits into."""
        for _ in range(round(seconds * 4)):
            await self.clock.advance(0.25)

    def left(self) -> list[tuple[str, str]]:
        return [(line["kind"], line["symbol"]) for line in self.kill.remaining]


def live(venue: ScriptedVenue) -> set[str]:
    return {held.order.client_order_id[0] for held in venue.live()}


@contextlib.asynccontextmanager
async def killing(
    place: Path,
    venue: ScriptedVenue,
    snapshot: DatabaseSnapshot | None,
    *,
    flatten: bool = True,
    why_not: str = "",
    is_new: bool = True,
) -> AsyncIterator[Killing]:
    """Engage a kill and run its work until the block is left."""
    clock = FakeClock()
    journal = KillJournal(place / "kill.jsonl")
    if is_new:
        journal.engage("k", Asked("system", "", "me", flatten, clock.now_ns()))
    context = GuardianContext(clock, CollectingLog(), RecordingMeter(), replace(Timing(), settle_s=6.0))
    found = Killing(clock, venue, journal, snapshot, why_not)
    found.kill = VenueKill(
        context, venue, journal, lambda: found.snapshot, why_not=lambda: found.why_not, save=found.save
    )
    task = asyncio.create_task(found.kill.run())
    try:
        yield found
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        journal.close()


async def resting(venue: ScriptedVenue, name: str, side: Side, role: Role, quantity: str = "0.1") -> None:
    """Leave an order at the venue, its client order id full of one letter."""
    order = an_order(
        client_order_id=name * 32,
        instance="s",
        side=side,
        role=role,
        type=OrderType.LIMIT,
        price=D(90),
        quantity=D(quantity),
    )
    await venue.submit(order)


def taken(positions: dict[Holder, Decimal], **orders: Known) -> DatabaseSnapshot:
    """Return a snapshot of the start. `orders`: by the letter of their client order id."""
    return DatabaseSnapshot(
        FakeClock().now_ns(), positions, RULES, {name * 32: one for name, one in orders.items()}, frozenset()
    )


def known(role: str, state: str = "WORKING", **more: bool) -> Known:
    at_ns = FakeClock().now_ns()
    return Known(HOLDER, "binance", D(0), role, state, at_ns, at_ns, **more)


async def test_a_flattening_kill_ends_every_order_and_closes_what_is_held(tmp_path: Path) -> None:
    venue = ScriptedVenue(totals={"BTC": D("0.5"), "USDT": D(0)})
    await resting(venue, "a", Side.BUY, Role.ENTRY)
    await resting(venue, "b", Side.SELL, Role.STOP_LOSS)
    snapshot = taken({HOLDER: D("0.5")}, a=known("entry"), b=known("sl"))
    async with killing(tmp_path, venue, snapshot) as now:
        await now.passed(2)
        assert (live(venue), venue.totals["BTC"], now.left()) == (set(), 0, [])
        assert (now.kill.state, now.kill.detail, now.kill.quiet.is_set()) == ("flat", "", True)
        assert not {"a" * 32, "b" * 32} & set(venue.queried), "a confirmed cancel needs no question"
        assert not now.kill.is_settled, "what was on its way may show up for settle_s"
        await now.passed(7)
        assert now.kill.is_settled
        assert now.journal.record is not None
        assert now.journal.record.cancelled == 2
        assert [item.order.quantity for item in now.journal.record.orders] == [D("0.5")]
        assert now.kill.report() == {"name": "ccxt", "state": "flat", "detail": ""}


#: name -> side, what the journal says of it (None: nothing), whether a kill that keeps positions ends it
HELD = {
    "e": (Side.BUY, known("entry"), True),
    "s": (Side.SELL, known("sl"), False),
    "t": (Side.SELL, known("tp"), False),
    "x": (Side.SELL, known("exit"), False),
    "o": (Side.SELL, known("order"), True),
    "r": (Side.SELL, known("order", is_reduce_only=True), False),
    "b": (Side.BUY, None, True),
    "u": (Side.SELL, None, False),
}


@pytest.mark.parametrize("has_snapshot", [True, False])
async def test_a_held_kill_ends_what_may_add_and_nothing_else(tmp_path: Path, has_snapshot: bool) -> None:
    """Without the journal, on spot, a sell order sells a holding; a buy order may be an entry."""
    venue = ScriptedVenue(totals={"BTC": D(1), "USDT": D(1000)})
    for name, (side, _, _) in HELD.items():
        await resting(venue, name, side, Role.ORDER)
    orders = {name: one for name, (_, one, _) in HELD.items() if one is not None}
    snapshot = taken({HOLDER: D(1)}, **orders) if has_snapshot else None
    kept = {name for name, (side, _, ends) in HELD.items() if (not ends if has_snapshot else side is Side.SELL)}
    async with killing(tmp_path, venue, snapshot, flatten=False) as now:
        await now.passed(2)
        assert (live(venue), now.kill.state, now.left()) == (kept, "cancelled", [])
        await now.passed(6)
        assert (now.kill.is_settled, venue.totals["BTC"]) == (True, 1)


@pytest.mark.parametrize(("held", "kept"), [("0.5", "u"), ("-0.5", "b"), ("0", ""), (None, "bu")])
async def test_a_held_kill_keeps_what_can_only_reduce(tmp_path: Path, held: str | None, kept: str) -> None:
    """With short possible, an order that the journal lacks is kept when it is against the position, or that is
    unknown."""
    venue = ScriptedVenue()
    venue.capabilities = replace(venue.capabilities, can_short=True)
    await resting(venue, "b", Side.BUY, Role.ORDER)
    await resting(venue, "u", Side.SELL, Role.ORDER)
    snapshot = None if held is None else taken({HOLDER: D(held)})
    async with killing(tmp_path, venue, snapshot, flatten=False) as now:
        await now.passed(1)
        assert live(venue) == set(kept)


async def test_an_unanswered_order_is_unknown_until_it_is_proven_absent(tmp_path: Path) -> None:
    venue = ScriptedVenue(totals={"USDT": D(1000)})
    async with killing(tmp_path, venue, taken({}, a=known("entry", "UNKNOWN"))) as now:
        await now.passed(25)
        assert (now.left(), now.kill.quiet.is_set()) == ([("in_doubt", "BTCUSDT")], False)
        assert now.kill.state == "working"
        assert len(venue.queried) >= 5
        await now.passed(15)
        assert (now.left(), now.kill.quiet.is_set()) == ([], True)
        assert "a" * 32 in venue.cancelled


async def test_an_order_that_the_venue_acknowledged_is_never_taken_as_absent(tmp_path: Path) -> None:
    venue = ScriptedVenue(totals={"USDT": D(1000)})
    async with killing(tmp_path, venue, taken({}, a=known("entry", "UNKNOWN", is_acknowledged=True))) as now:
        await now.passed(90)
        assert (now.left(), now.kill.is_settled) == ([("in_doubt", "BTCUSDT")], False)
        now.snapshot = taken({}, a=known("entry", "CANCELLED"))
        await now.passed(4)
        assert (now.left(), now.kill.quiet.is_set()) == ([], True), "a person ended it in the journal"


async def test_a_late_order_of_an_entry_proven_absent_is_ended_and_closed(tmp_path: Path) -> None:
    venue = ScriptedVenue(totals={"BTC": D(0), "USDT": D(1000)}, fee_rate=D(0))
    await resting(venue, "a", Side.BUY, Role.ENTRY, "0.3")
    venue.hidden["a" * 32] = 10**6
    venue.cancels = deque(["refuse:UNKNOWN_ORDER"] * 100)
    async with killing(tmp_path, venue, taken({}, a=known("entry", "UNKNOWN"))) as now:
        await now.passed(45)
        assert now.kill.quiet.is_set()
        venue.hidden.clear()
        venue.cancels.clear()
        venue.starts_ns = now.clock.now_ns()
        venue.fill("a" * 32, D("0.2"))
        await now.passed(30)
        assert (live(venue), venue.totals["BTC"], now.left()) == (set(), 0, [])


async def test_an_order_gone_without_a_confirmed_cancel_is_asked_about(tmp_path: Path) -> None:
    """It may have filled: the quantity that it bought is closed, too."""
    venue = ScriptedVenue(totals={"BTC": D(0), "USDT": D(1000)}, fee_rate=D(0), cancels=deque(["lost"] * 3))
    await resting(venue, "a", Side.BUY, Role.ENTRY, "0.3")
    async with killing(tmp_path, venue, taken({}, a=known("entry"))) as now:
        await now.passed(0.25)
        venue.fill("a" * 32, D("0.3"))
        venue.cancels = deque(["lost"] * 2)
        await now.passed(12)
        assert "a" * 32 in venue.queried
        assert (live(venue), venue.totals["BTC"], now.left(), now.kill.state) == (set(), 0, [], "flat")


async def test_an_order_that_was_open_is_never_taken_as_absent(tmp_path: Path) -> None:
    venue = ScriptedVenue(totals={"USDT": D(1000)}, cancels=deque(["lost"]))
    await resting(venue, "a", Side.BUY, Role.ENTRY)
    async with killing(tmp_path, venue, taken({})) as now:
        await now.passed(0.25)
        venue.orders.clear()  # the venue finds it no more, and says nothing of its end
        await now.passed(60)
        assert (now.left(), now.kill.quiet.is_set()) == ([("in_doubt", "BTCUSDT")], False)


async def test_a_guardian_that_may_not_act_looks_on(tmp_path: Path) -> None:
    venue = ScriptedVenue(totals={"BTC": D("0.5"), "USDT": D(0)})
    await resting(venue, "a", Side.BUY, Role.ENTRY)
    async with killing(tmp_path, venue, taken({HOLDER: D("0.5")}, a=known("entry")), why_not="another acts") as now:
        await now.passed(5)
        assert (now.kill.state, now.kill.detail, now.kill.quiet.is_set()) == ("looks_on", "another acts", False)
        assert (venue.cancelled, live(venue), venue.totals["BTC"]) == ([], {"a"}, D("0.5"))
        now.why_not = ""
        await now.passed(5)
        assert (live(venue), venue.totals["BTC"], now.kill.state) == (set(), 0, "flat")


async def stopped(venue: ScriptedVenue, name: str, quantity: str, price: str) -> None:
    """Leave a stop loss at the venue."""
    stop = an_order(
        client_order_id=name * 32,
        instance="s",
        side=Side.SELL,
        role=Role.STOP_LOSS,
        type=OrderType.STOP,
        price=None,
        stop_price=D(price),
        quantity=D(quantity),
    )
    await venue.submit(stop)


def stops(venue: ScriptedVenue) -> list[tuple[Decimal, Decimal | None]]:
    return [(held.order.quantity, held.order.stop_price) for held in venue.live() if held.order.type is OrderType.STOP]


async def test_stops_are_back_while_the_venue_refuses_to_close(tmp_path: Path) -> None:
    """Refusals of market orders for a minute: the position has its stops but for a moment at each try."""
    venue = Closed(totals={"BTC": D("0.5"), "USDT": D(0)}, locks_base=True)
    await stopped(venue, "a", "0.3", "90")
    await stopped(venue, "b", "0.2", "80")
    leg = replace(known("sl"), parent_id="p")
    async with killing(tmp_path, venue, taken({HOLDER: D("0.5")}, a=leg, b=leg)) as now:
        covered = 0
        for _ in range(240):
            await now.clock.advance(0.25)
            covered += sorted(stops(venue)) == [(D("0.2"), D(80)), (D("0.3"), D(90))]
            assert not now.kill.quiet.is_set()
        assert covered > 235, "each try takes them down for less than a round"
        assert (now.left(), list(now.kill.stuck)) == ([("refused", "BTCUSDT")], ["BTCUSDT"])
        assert "0.5 has a stop" in now.kill.remaining[0]["why"]
        venue.is_closed = False
        await now.passed(16)
        assert (live(venue), venue.totals["BTC"], now.left(), now.kill.stuck) == (set(), 0, [], {})
        await now.passed(7)
        assert now.kill.is_settled
        assert now.journal.record is not None
        again = [item.order for item in now.journal.record.orders if item.order.type is OrderType.STOP]
        assert {(order.parent_id, order.instance, order.is_reduce_only) for order in again} == {("p", "s", True)}
    assert len(set(venue.received)) == len(venue.received), "no id twice"


async def test_a_stop_of_the_kill_is_not_queried_after_a_confirmed_cancel(tmp_path: Path) -> None:
    venue = Closed(totals={"BTC": D("0.5"), "USDT": D(0)}, locks_base=True)
    await stopped(venue, "a", "0.5", "90")
    async with killing(tmp_path, venue, taken({HOLDER: D("0.5")}, a=replace(known("sl"), parent_id="p"))) as now:
        await now.passed(3)
        [id], cancel, asked = [held.order.client_order_id for held in venue.live()], venue.cancel, list[int]()

        async def watched(order: Order) -> Answer:
            asked.append(venue.queried.count(id))
            return await cancel(order)

        venue.cancel, venue.is_closed = watched, False  # type: ignore[method-assign]
        await now.passed(16)
        assert (venue.totals["BTC"], now.left(), asked) == (0, [], [venue.queried.count(id)])
        assert now.journal.record is not None
        [ended] = [item for item in now.journal.record.orders if item.order.client_order_id == id]
        assert (ended.outcome, ended.detail) == (ENDED, "CANCELLED")


async def test_a_guardian_that_dies_between_cancel_and_refusal_puts_the_stop_back(tmp_path: Path) -> None:
    """Its successor reads the stop's price from the file."""
    venue = Closed(totals={"BTC": D("0.5"), "USDT": D(0)}, locks_base=True)
    await stopped(venue, "a", "0.5", "90")
    venue.refused = {"stop"}
    snapshot = taken({HOLDER: D("0.5")}, a=replace(known("sl"), parent_id="p"))
    async with killing(tmp_path, venue, snapshot) as now:
        await now.passed(1)
        assert stops(venue) == []
    venue.refused = set()
    async with killing(tmp_path, venue, snapshot, is_new=False) as now:
        await now.passed(20)
        assert stops(venue) == [(D("0.5"), D(90))]
        venue.fill(venue.live()[0].order.client_order_id, D("0.5"))
        await now.passed(20)
        assert (venue.totals["BTC"], now.left(), now.kill.is_settled) == (0, [], True)


async def test_a_stop_is_put_back_over_no_more_than_is_held(tmp_path: Path) -> None:
    venue = Closed(totals={"BTC": D(9), "USDT": D(0)})
    await stopped(venue, "a", "0.3", "90")
    await stopped(venue, "b", "0.3", "80")
    leg = replace(known("sl"), parent_id="p")
    async with killing(tmp_path, venue, taken({HOLDER: D("0.4")}, a=leg, b=leg)) as now:
        await now.passed(10)
        assert sorted(stops(venue)) == [(D("0.1"), D(80)), (D("0.3"), D(90))]
        now.snapshot = taken({HOLDER: D("0.2")}, a=leg, b=leg)
        await now.passed(20)
        assert stops(venue) == [(D("0.2"), D(90))]


async def test_a_session_of_another_account_touches_nothing(tmp_path: Path) -> None:
    venue = ScriptedVenue(totals={"BTC": D("0.5"), "USDT": D(0)})
    await resting(venue, "a", Side.BUY, Role.ENTRY)
    snapshot = replace(taken({HOLDER: D("0.5")}, a=known("entry")), identities={1: OTHER})
    async with killing(tmp_path, venue, snapshot) as now:
        await now.passed(5)
        assert (now.kill.state, now.kill.quiet.is_set()) == ("refused", False)
        assert (venue.cancelled, venue.totals["BTC"]) == ([], D("0.5"))
        theirs = replace(HOLDER, account_id=2)
        now.snapshot = replace(snapshot, positions={HOLDER: D("0.2"), theirs: D("0.3")}, identities={1: SIM, 2: OTHER})
        await now.passed(5)
        assert venue.totals["BTC"] == D("0.3"), "the position of the other account is not this session's"


async def test_a_session_without_a_name_cancels_and_closes_nothing(tmp_path: Path) -> None:
    venue = ScriptedVenue(totals={"BTC": D("0.5"), "USDT": D(0)}, outages={"identity": 10**6})
    await resting(venue, "a", Side.BUY, Role.ENTRY)
    snapshot = replace(taken({HOLDER: D("0.5")}, a=known("entry")), identities={1: SIM})
    async with killing(tmp_path, venue, snapshot) as now:
        await now.passed(5)
        assert (live(venue), venue.totals["BTC"], now.kill.quiet.is_set()) == (set(), D("0.5"), False)
        venue.outages.clear()
        await now.passed(5)
        assert (venue.totals["BTC"], now.kill.state) == (0, "flat")


async def test_without_known_positions_orders_end_and_the_kill_is_not_done(tmp_path: Path) -> None:
    venue = ScriptedVenue(totals={"BTC": D("0.5"), "USDT": D(0)})
    await resting(venue, "a", Side.SELL, Role.STOP_LOSS)
    async with killing(tmp_path, venue, None) as now:
        await now.passed(20)
        assert (live(venue), venue.totals["BTC"], now.kill.is_settled) == (set(), D("0.5"), False)
        assert (now.kill.state, now.kill.detail) == ("working", "positions unknown")
        assert [kind for kind, _ in now.left()] == ["pending"]


async def test_a_venue_that_is_away_is_tried_until_it_is_back(tmp_path: Path) -> None:
    venue = ScriptedVenue(totals={"BTC": D("0.5"), "USDT": D(0)}, outages={"open_orders": 10})
    async with killing(tmp_path, venue, taken({HOLDER: D("0.5")})) as now:
        await now.passed(3)
        assert (now.kill.state, now.kill.quiet.is_set()) == ("unreachable", False)
        assert "open_orders fails by script" in now.kill.detail
        await now.passed(35)
        assert (venue.totals["BTC"], now.kill.state, now.kill.is_settled) == (0, "flat", True)
        venue.outages["open_orders"] = 2
        now.kill.wake()
        await now.passed(0.5)
        assert not now.kill.quiet.is_set()
        assert now.kill.is_settled, "an outage unsettles nothing: only a round can say that"


async def test_cancels_are_sent_for_more_orders_than_go_together(tmp_path: Path) -> None:
    venue = ScriptedVenue()
    for letter in "abcdefghijklmnopqrstuvwxyz":
        await resting(venue, letter, Side.BUY, Role.ENTRY)
    assert len(venue.live()) == 26
    async with killing(tmp_path, venue, taken({})) as now:
        await now.passed(2)
        assert live(venue) == set()
        assert now.journal.record is not None
        assert now.journal.record.cancelled == 26
        assert all(held.state is State.CANCELLED for held in venue.orders.values())
