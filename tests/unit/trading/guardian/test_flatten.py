"""Flattening of one position at a venue that loses what it is sent: asked about, and sent again only once it is absent."""

from __future__ import annotations

import uuid
from collections import deque
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from fks.clock import FakeClock
from fks.model import ids
from fks.model.order import OrderType, Role, Side
from fks.trading.guardian.context import GuardianContext
from fks.trading.guardian.flatten import VenueFlatten
from fks.trading.guardian.journal import ABSENT, UNKNOWN, Asked, KillJournal
from fks.trading.guardian.orders_at_venue import OrdersAtVenue
from fks.trading.guardian.positions import DatabaseSnapshot, Holder, Known, VenueRules
from fks.trading.guardian.timing import Timing
from fks.trading.orders.absence import AbsenceRule
from tests.support.order_values import a_fill, an_order
from tests.support.ports import CollectingLog, RecordingMeter
from tests.support.scripted_venue import ScriptedVenue

D = Decimal
HOLDER = Holder("ccxt", 1, "BTCUSDT", "s")
RULES = {"BTCUSDT": VenueRules("binance", "BTC", "USDT", D("0.001"), D("0.001"), D(5))}


def flattening(
    place: Path, clock: FakeClock, venue: ScriptedVenue, *, kill: str = "k", **waits: float
) -> tuple[VenueFlatten, KillJournal]:
    """Return the closing half of an engaged kill, without a database to save to."""
    journal = KillJournal(place / "kill.jsonl")
    journal.engage(kill, Asked("system", "", "me", True, clock.now_ns()))

    async def save() -> None:
        """The database is away."""

    context = GuardianContext(clock, CollectingLog(), RecordingMeter(), replace(Timing(), **waits))
    return VenueFlatten(context, OrdersAtVenue(venue, context), journal, save=save, why_not=lambda: ""), journal


async def test_a_lost_flattening_is_asked_about_until_it_is_absent(tmp_path: Path) -> None:
    clock, venue = FakeClock(), ScriptedVenue(script=deque(["lost"]), totals={"BTC": D(1), "USDT": D(0)})
    flatten, journal = flattening(
        tmp_path, clock, venue, absence=AbsenceRule(spacing_s=2.0, first_s=5.0, age_s=30.0), attribute_s=4.0
    )
    snapshot = DatabaseSnapshot(clock.now_ns(), {HOLDER: D("0.5")}, RULES, {}, frozenset())
    # its balance is free and its id not found: it may be on its way
    for seconds in (0.0, 1.0, 5.0, 5.0, 5.0, 15.0, 12.0):
        await clock.advance(seconds)
        assert not await flatten.step(snapshot, set())
        assert journal.record is not None
        assert [item.outcome for item in journal.record.orders] == [UNKNOWN]
        assert len(venue.received) == 1
    await clock.advance(2.0)
    await flatten.step(snapshot, set())
    assert [item.outcome for item in journal.record.orders][:1] == [ABSENT]
    assert len(venue.received) == len(set(venue.received)) == 2
    await clock.advance(1.0)
    await flatten.step(snapshot, set())
    assert venue.totals["BTC"] == D("0.5"), "no more than was ours"
    assert len(venue.received) == 2


@pytest.mark.parametrize("step_s", [60.0, -60.0, 3600.0])
@pytest.mark.parametrize(("at_s", "due_s"), [(-5, 61), (1, 61), (2, 62), (29, 89), (100, 45)])
async def test_a_lost_flattening_is_not_absent_sooner_when_the_clock_is_set(
    tmp_path: Path, at_s: int, due_s: int, step_s: float
) -> None:
    """The account has coins of the owner's: a second order beside a late first one would sell them. It leaves 45 s
    after the first, or a minute after the last step was noticed: at the latest when the order is asked about."""
    clock, venue = FakeClock(), ScriptedVenue(script=deque(["lost"]), totals={"BTC": D(9), "USDT": D(0)})
    flatten, _ = flattening(tmp_path, clock, venue)
    if at_s < 0:
        clock.step(step_s)
        await clock.advance(float(-at_s))
    snapshot = DatabaseSnapshot(clock.now_ns(), {HOLDER: D("0.5")}, RULES, {}, frozenset())
    for second in range(due_s + 5):
        if second == at_s:
            clock.step(step_s)
        await flatten.step(snapshot, set())
        assert len(venue.received) == (1 if second < due_s else 2), second
        await clock.advance(1.0)
    assert venue.totals["BTC"] == D("8.5")


async def test_a_flattening_that_the_venue_had_once_is_never_absent(tmp_path: Path) -> None:
    """A predecessor's order is found under the id, then not found for minutes: a second one could sell twice."""
    clock, venue = FakeClock(), ScriptedVenue(script=deque(["rest"]), totals={"BTC": D(9), "USDT": D(0)})
    flatten, journal = flattening(tmp_path, clock, venue)
    intent = ids.flatten_id("k", venue="ccxt", account_id=1, symbol="BTCUSDT", instance="s")
    id = ids.client_order_id(intent, Role.KILL)
    await venue.submit(an_order(client_order_id=id, instance="s", side=Side.SELL, role=Role.KILL))
    snapshot = DatabaseSnapshot(clock.now_ns(), {HOLDER: D("0.5")}, RULES, {}, frozenset())
    await flatten.step(snapshot, set())
    venue.hidden[id] = 10**6
    for _ in range(90):
        await clock.advance(2.0)
        assert not await flatten.step(snapshot, set())
    assert journal.record is not None
    assert [item.outcome for item in journal.record.orders] == [UNKNOWN]
    assert venue.received == [id]


PERSON = Holder("ccxt", 1, "BTCUSDT", "")


def young_entry(clock: FakeClock, venue: ScriptedVenue) -> str:
    """Execute an entry of the strategy's just now; return its client order id."""
    id = ids.client_order_id(uuid.uuid4(), "entry")
    fill = a_fill(client_order_id=id, quantity=D("0.3"), time_ns=clock.now_ns())
    venue.trades.append(fill)
    return id


async def test_an_entry_younger_than_the_snapshot_is_closed_as_its_holders(tmp_path: Path) -> None:
    """Two hold the symbol; guessed, the person would be left with less than nothing and the strategy with the sold
    quantity."""
    clock, venue = FakeClock(), ScriptedVenue(totals={"BTC": D("0.9"), "USDT": D(0)})
    flatten, journal = flattening(tmp_path, clock, venue)
    id = young_entry(clock, venue)
    before = DatabaseSnapshot(clock.now_ns(), {PERSON: D("0.4"), HOLDER: D("0.2")}, RULES, {}, frozenset())
    assert not await flatten.step(before, set())
    assert venue.received == [], "nothing is closed before it is known whose it is"
    assert {line["kind"] for line in flatten.remaining} == {"pending"}
    await clock.advance(1.0)
    known = Known(HOLDER, "binance", D(0), "entry", "WORKING", before.as_of_ns, before.as_of_ns)
    after = replace(before, as_of_ns=clock.now_ns(), orders={id: known})
    while not await flatten.step(after, set()):
        await clock.advance(1.0)
    assert journal.record is not None
    closed = {item.order.instance: item.filled for item in journal.record.orders}
    assert closed == {"": D("0.4"), "s": D("0.5")}
    assert flatten.remaining == []


async def test_without_a_database_a_younger_entry_is_closed_after_a_while(tmp_path: Path) -> None:
    clock, venue = FakeClock(), ScriptedVenue(totals={"BTC": D("0.9"), "USDT": D(0)})
    flatten, journal = flattening(tmp_path, clock, venue)
    young_entry(clock, venue)
    snapshot = DatabaseSnapshot(clock.now_ns(), {PERSON: D("0.4"), HOLDER: D("0.2")}, RULES, {}, frozenset())
    for _ in range(8):
        await flatten.step(snapshot, set())
        await clock.advance(1.0)
    assert journal.record is not None
    assert sum(item.filled for item in journal.record.orders) == D("0.9")
    assert venue.totals["BTC"] == 0


async def test_a_second_kill_without_a_database_sells_nothing_twice(tmp_path: Path) -> None:
    """The snapshot is older than both kills; guessed, the first one's sales would be another's, and sold once more."""
    clock, venue = FakeClock(), ScriptedVenue(totals={"BTC": D("2.1"), "USDT": D(0)})
    flatten, journal = flattening(tmp_path, clock, venue)
    other = replace(HOLDER, instance="t")
    snapshot = DatabaseSnapshot(clock.now_ns(), {HOLDER: D("0.5"), other: D("0.6")}, RULES, {}, frozenset())
    for kill in ("k", "again", "after a restart"):
        if kill != "k":
            journal.release(by="me", now_ns=clock.now_ns())
            journal.close()
            flatten, journal = flattening(tmp_path, clock, venue, kill=kill)
        for _ in range(8):
            await flatten.step(snapshot, set())
            await clock.advance(1.0)
        assert venue.totals["BTC"] == D(1), "what FKS never bought is nobody's to sell"
        assert flatten.remaining == []


async def test_a_position_that_an_unclear_exit_may_be_closing_waits_for_it(tmp_path: Path) -> None:
    """The account has coins in the external bucket: both would be sold."""
    clock, venue = FakeClock(), ScriptedVenue(totals={"BTC": D(1), "USDT": D(0)})
    flatten, journal = flattening(tmp_path, clock, venue, settle_s=6.0)
    exit, entry = ("e" * 12 + "5" + "e" * 3 + "8" + letter * 15 for letter in "ab")
    at_ns = clock.now_ns()
    other = Holder("ccxt", 1, "BTCUSDT", "t")
    orders = {
        exit: Known(HOLDER, "binance", D(0), "exit", "UNKNOWN", at_ns, at_ns),
        entry: Known(other, "binance", D(0), "entry", "UNKNOWN", at_ns, at_ns),
    }
    snapshot = DatabaseSnapshot(at_ns, {HOLDER: D("0.5"), other: D("0.1")}, RULES, orders, frozenset())
    for _ in range(3):
        assert not await flatten.step(snapshot, set(), [exit, entry])
        await clock.advance(1.0)
    assert journal.record is not None
    assert [item.order.instance for item in journal.record.orders] == ["t"], "an entry closes nothing"
    venue.totals["BTC"] -= D("0.5")  # the exit was executed, and is booked
    sold = replace(snapshot, positions={other: D(0)}, as_of_ns=clock.now_ns())
    while not await flatten.step(sold, set(), []):
        await clock.advance(1.0)
    assert venue.totals["BTC"] == D("0.4"), "no more than was ours"


@pytest.mark.parametrize("arrives_s", [10.0, None])
async def test_an_exit_that_executes_late_is_waited_for_beside_the_owners_coins(
    tmp_path: Path, arrives_s: float | None
) -> None:
    """The account has 20, our books 10, and an exit over them has no known outcome: it closes until it is proven
    absent. Sold at once, its late execution would sell 10 of the owner's."""
    clock, venue = FakeClock(), ScriptedVenue(totals={"BTC": D(20), "USDT": D(0)})
    flatten, _ = flattening(tmp_path, clock, venue)
    exit, at_ns = "e" * 12 + "5" + "e" * 3 + "8" + "a" * 15, clock.now_ns()
    known = Known(HOLDER, "binance", D(0), "exit", "UNKNOWN", at_ns, at_ns)
    snapshot = DatabaseSnapshot(at_ns, {HOLDER: D(10)}, RULES, {exit: known}, frozenset())
    for second in range(60):
        if second == arrives_s:
            late = an_order(client_order_id=exit, instance="s", side=Side.SELL, role=Role.EXIT, quantity=D(10))
            await venue.submit(replace(late, type=OrderType.MARKET))
            venue.history_hidden = True  # the balance shows it first
        if second == 13:
            venue.history_hidden = False
        is_unclear = second < (15 if arrives_s else 32)  # what became of it is known, or it is proven absent
        await flatten.step(snapshot, set(), [exit] if is_unclear else [])
        ours = [id for id in venue.received if id != exit]
        assert not (ours and is_unclear), second
        await clock.advance(1.0)
    assert (venue.totals["BTC"], len(ours)) == (10, 0 if arrives_s else 1)


async def test_an_exit_that_stays_unclear_does_not_keep_a_position(tmp_path: Path) -> None:
    clock, venue = FakeClock(), ScriptedVenue(totals={"BTC": D("0.5"), "USDT": D(0)})
    flatten, _ = flattening(tmp_path, clock, venue, settle_s=6.0)
    at_ns = clock.now_ns()
    known = Known(HOLDER, "binance", D(0), "exit", "UNKNOWN", at_ns, at_ns)
    snapshot = DatabaseSnapshot(at_ns, {HOLDER: D("0.5")}, RULES, {"x": known}, frozenset())
    await flatten.step(snapshot, set(), ["x"])
    assert venue.totals["BTC"] == 0, "at once: the venue has nothing to sell twice"
