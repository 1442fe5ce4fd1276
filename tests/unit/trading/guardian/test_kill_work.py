"""The pace of a kill: its rounds, the orders that are asked about, its end, and the guardian that may act."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from fks.clock import FakeClock
from fks.config.settings import Settings
from fks.model.errors import OutageError
from fks.model.order import OrderType, Outcome, Report, State
from fks.trading.guardian.context import GuardianContext
from fks.trading.guardian.journal import Asked, KillJournal
from fks.trading.guardian.kill_work import KillWork
from fks.trading.guardian.lease import GuardianLease, is_machine_alone, is_placed_here
from fks.trading.guardian.orders_at_venue import OrdersAtVenue
from fks.trading.guardian.rows import KillTables
from fks.trading.guardian.switch import Progress
from fks.trading.guardian.timing import Timing
from fks.trading.orders.absence import AbsenceRule
from tests.support.order_values import an_order
from tests.support.ports import CollectingLog, RecordingMeter
from tests.support.scripted_venue import ScriptedVenue

TIMING = Timing(round_s=0.25, round_max_s=3.0, settle_s=6.0, watch_max_s=15.0, page_s=60.0)


def context(clock: FakeClock) -> GuardianContext:
    return GuardianContext(clock, CollectingLog(), RecordingMeter(), TIMING)


class ScriptedWork(KillWork):
    """Kill work whose rounds end as `script` says (quiet, busy, away, wrong; the last for ever), and their times."""

    def __init__(self, clock: FakeClock, *script: str, is_settled: bool = False) -> None:
        super().__init__(context(clock), "place", is_settled=is_settled)
        self.script, self.at = deque(script), list[float]()

    async def _round(self) -> bool:
        self.at.append(self._clock.monotonic())
        step = self.script.popleft() if len(self.script) > 1 else self.script[0]
        if step == "away":
            raise OutageError("away")
        if step == "wrong":
            raise ValueError("wrong")
        self.state = step
        return step == "quiet"

    def waits(self) -> list[float]:
        return [round(after - before, 2) for before, after in zip(self.at, self.at[1:], strict=False)]


async def passed(clock: FakeClock, seconds: float) -> None:
    for _ in range(round(seconds * 4)):
        await clock.advance(0.25)


@pytest.mark.parametrize(
    ("script", "seconds", "waits"),
    [
        (["quiet"], 8.5, [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.5]),  # a sixth of settle_s until it is settled, then longer
        (["busy"], 3.0, [0.33, 0.42, 0.55, 0.71, 0.93]),  # a little longer each time
        (["away"], 9.0, [0.5, 1.0, 2.0, 3.0]),  # twice as long each time, to the longest wait between rounds
        (["wrong"], 2.0, [0.5, 1.0]),
    ],
)
async def test_kill_work_runs_as_often_as_there_is_something_to_do(
    script: list[str], seconds: float, waits: list[float]
) -> None:
    clock = FakeClock()
    work = ScriptedWork(clock, *script)
    task = asyncio.create_task(work.run())
    await passed(clock, seconds)
    task.cancel()
    assert work.waits()[: len(waits)] == waits
    assert len(work.waits()) == len(waits)


async def test_a_settled_place_is_looked_at_ever_less_often() -> None:
    clock = FakeClock()
    work = ScriptedWork(clock, "quiet")
    task = asyncio.create_task(work.run())
    await passed(clock, 200)
    task.cancel()
    assert work.waits()[-3:] == [15.0, 15.0, 15.0]


async def test_a_place_with_something_to_do_is_looked_at_every_few_seconds() -> None:
    clock = FakeClock()
    work = ScriptedWork(clock, "busy")
    task = asyncio.create_task(work.run())
    await passed(clock, 30)
    assert work.waits()[-3:] == [3.0, 3.0, 3.0]
    work.script = deque(["quiet"])
    await passed(clock, 100)
    work.script, known = deque(["busy"]), len(work.waits())
    work.wake()
    await passed(clock, 1)
    assert work.waits()[known + 1] == 0.25, "after a long look on it begins with the shortest wait"
    task.cancel()


async def test_a_place_is_settled_once_it_was_quiet_for_long_enough() -> None:
    clock = FakeClock()
    work = ScriptedWork(clock, "quiet", "quiet", "quiet", "busy", "quiet")
    task = asyncio.create_task(work.run())
    await passed(clock, 3.0)  # quiet for two seconds, then busy
    assert (work.is_settled, work.quiet.is_set()) == (False, False)
    await passed(clock, 6.5)
    assert work.quiet.is_set()
    assert not work.is_settled, "it counts from the last time that there was something to do"
    await passed(clock, 2.0)
    assert work.is_settled
    work.script = deque(["busy"])
    work.wake()
    assert not work.quiet.is_set()
    await passed(clock, 0.25)
    assert (work.is_settled, work.quiet.is_set()) == (False, False)
    task.cancel()


@pytest.mark.parametrize(("fault", "state"), [("away", "unreachable"), ("wrong", "failed")])
async def test_a_failed_round_ends_quiet_and_unsettles_nothing(fault: str, state: str) -> None:
    clock = FakeClock()
    work = ScriptedWork(clock, fault, "quiet", is_settled=True)
    work.quiet.set()
    task = asyncio.create_task(work.run())
    await passed(clock, 0.25)
    assert (work.state, work.quiet.is_set(), work.is_settled) == (state, False, True)
    assert fault in work.detail
    await passed(clock, 1)
    assert (work.quiet.is_set(), work.is_settled) == (True, True)
    task.cancel()


async def test_more_to_do_unsettles_a_place_and_less_does_not() -> None:
    for is_more in (False, True):
        work = ScriptedWork(FakeClock(), "quiet", is_settled=True)
        work.quiet.set()
        work.wake(is_more=is_more)
        assert (work.is_settled, work.quiet.is_set()) == (not is_more, False)


# ── orders without a proven end ──────────────────────────────────────────────────────────────────
def at_venue(clock: FakeClock, venue: ScriptedVenue) -> OrdersAtVenue:
    timing = replace(TIMING, absence=AbsenceRule(polls=3, spacing_s=2.0, first_s=5.0, age_s=30.0))
    return OrdersAtVenue(venue, replace(context(clock), timing=timing))


def add(orders: OrdersAtVenue, name: str, *, is_acknowledged: bool = False) -> None:
    """Take up an order as one that is to end."""
    orders.about(name, "BTCUSDT", is_acknowledged=is_acknowledged).must_end = True


async def test_unresolved_orders_are_due_in_growing_steps() -> None:
    clock = FakeClock()
    orders = at_venue(clock, ScriptedVenue())
    add(orders, "b")
    add(orders, "a")
    assert [order.client_order_id for order in orders.due()] == ["a", "b"]
    due = []
    for _ in range(40):
        await clock.advance(0.25)
        due += [clock.monotonic() for order in orders.due() if order.client_order_id == "a"]
    assert due == [0.25, 0.75, 1.75, 3.75, 6.0, 8.25]
    add(orders, "a")
    assert orders.due() == [], "it is there already: its turn stays"
    assert len(orders.unresolved) == 2


async def test_the_end_of_an_order_is_proven_by_a_report_or_by_absence() -> None:
    clock, venue = FakeClock(), ScriptedVenue(prices={"BTCUSDT": an_order().quantity})
    orders = at_venue(clock, venue)
    for name in "abcd":
        add(orders, name * 32, is_acknowledged=name == "b")
    await venue.submit(an_order(client_order_id="c" * 32))  # filled
    venue.script = deque(["rest"])
    await venue.submit(an_order(client_order_id="d" * 32))  # it works
    asked = {order.client_order_id: order for order in orders.unresolved}
    for seconds in (0.0, 2.0, 2.0, 25.0, 2.0, 2.0):
        await clock.advance(seconds)
        reports = {order.client_order_id[0]: await orders.ask(order) for order in orders.unresolved}
    left = [order.client_order_id[0] for order in orders.unresolved]
    assert left == ["b", "d"], "a: absent, b: acknowledged once, c: filled, d: it works"
    assert {name: report and report.state for name, report in reports.items()} == {
        "a": None,
        "b": None,
        "d": State.WORKING,
    }
    assert asked["d" * 32].is_acknowledged
    add(orders, "a" * 32)
    assert len(orders.unresolved) == 2, "its absence is proven"
    report = Report("a" * 32, "1", "BTCUSDT", State.WORKING, an_order().filled, clock.now_ns())
    orders.take_list([report], {"a" * 32})
    add(orders, "a" * 32)
    assert len(orders.unresolved) == 3, "whatever was proven: the venue lists it"
    assert asked["a" * 32].is_acknowledged
    orders.drop("a" * 32)
    add(orders, "a" * 32)
    assert len(orders.unresolved) == 3, "dropped is not proven"


async def test_an_order_that_is_cancelled_as_open_is_not_asked_about() -> None:
    """One cancel a round; once the venue lists it no more, it is queried until its end is proven."""
    clock, venue = FakeClock(), ScriptedVenue(cancels=deque(["lost"]))
    orders = at_venue(clock, venue)
    add(orders, "a" * 32)
    await venue.submit(an_order(client_order_id="a" * 32, type=OrderType.LIMIT, price=an_order().quantity))
    [order] = orders.take_list(await venue.open_orders(), {"a" * 32})
    await orders.cancel(order)
    assert (orders.due(), orders.open_ids, [order]) == ([], {"a" * 32}, orders.unresolved)
    assert orders.take_list([], set()) == []
    assert (orders.due(), orders.open_ids) == ([order], set())
    assert (await orders.cancel(order)).outcome is Outcome.ACK
    assert (await orders.ask(order), venue.queried) == (order.report, []), "a confirmed cancel is the end"
    assert (orders.unresolved, orders.filled) == ([], {"a" * 32: 0})


async def test_an_order_is_not_absent_before_it_is_old_enough() -> None:
    clock, venue = FakeClock(), ScriptedVenue()
    orders = at_venue(clock, venue)
    add(orders, "a" * 32)
    for _ in range(29):
        await clock.advance(1.0)
        await orders.ask(orders.unresolved[0])
    assert len(orders.unresolved) == 1
    await clock.advance(2.0)
    await orders.ask(orders.unresolved[0])
    assert len(orders.unresolved) == 0


# ── over all places ──────────────────────────────────────────────────────────────────────────────
@dataclass
class Overall:
    """A kill of two places, and what becomes of it as a whole."""

    place: Path
    clock: FakeClock = field(default_factory=FakeClock)
    remaining: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.journal = KillJournal(self.place / "kill.jsonl")
        self.journal.engage("k", Asked("system", "", "me", True, self.clock.now_ns()))
        self.log = CollectingLog()
        surroundings = GuardianContext(self.clock, self.log, RecordingMeter(), TIMING)
        self.tables = KillTables(surroundings, self.journal)
        self.works = [ScriptedWork(self.clock, "quiet"), ScriptedWork(self.clock, "quiet")]
        report = {"venues": [], "cancelled": 0, "orders": [], "remaining": self.remaining, "by": "me"}
        self.progress = Progress(surroundings, lambda: self.works, self.journal, self.tables, lambda: report)

    @property
    def is_done(self) -> bool:
        assert self.journal.record is not None
        return self.journal.record.is_done

    def pages(self) -> list[str]:
        return [str(fields["alert"]) for _, event, fields in self.log.lines if event == "guardian.paged"]

    def symbols(self) -> list[object]:
        return [fields["symbols"] for _, event, fields in self.log.lines if event == "guardian.paged"]


async def test_a_kill_is_done_when_every_place_is_settled_and_reopened_when_not(tmp_path: Path) -> None:
    now = Overall(tmp_path)
    task = asyncio.create_task(now.progress.run())
    now.works[0].is_settled = True
    await now.clock.advance(1.0)
    assert not now.is_done, "one place is not all"
    now.works[1].is_settled = True
    now.tables.is_merged = True
    await now.clock.advance(1.0)
    assert (now.is_done, now.tables.is_merged) == (True, False)
    assert now.journal.record is not None
    assert "by" not in now.journal.record.report
    now.works[0].is_settled, now.tables.is_merged = False, True
    await now.clock.advance(1.0)
    assert (now.is_done, now.tables.is_merged) == (False, False)
    task.cancel()


async def test_a_kill_that_is_not_done_in_time_pages_once(tmp_path: Path) -> None:
    now = Overall(tmp_path)
    task = asyncio.create_task(now.progress.run())
    await now.clock.advance(59.0)
    now.works[0].is_settled = now.works[1].is_settled = True
    await now.clock.advance(1.0)
    now.works[0].is_settled = False
    await now.clock.advance(59.0)
    assert now.pages() == [], "the time counts from when it was not settled any more"
    await now.clock.advance(2.0)
    assert now.pages() == ["kill.unfinished"]
    await now.clock.advance(100.0)
    assert now.pages() == ["kill.unfinished"]
    task.cancel()


async def test_a_kill_that_could_not_close_something_pages(tmp_path: Path) -> None:
    now = Overall(tmp_path)
    now.remaining += [{"kind": "dust", "symbol": "ETHUSDT"}]
    now.works[0].is_settled = now.works[1].is_settled = True
    task = asyncio.create_task(now.progress.run())
    await now.clock.advance(1.0)
    assert (now.is_done, now.pages()) == (True, [])
    now.works[0].is_settled = False
    await now.clock.advance(1.0)
    now.remaining += [{"kind": "stuck", "symbol": "BTCUSDT"}]
    now.works[0].is_settled = True
    await now.clock.advance(1.0)
    assert (now.pages(), now.symbols()) == (["kill.stuck"], [["BTCUSDT"]])
    task.cancel()


async def test_the_page_of_a_kill_names_each_symbol_that_is_stuck_now(tmp_path: Path) -> None:
    now = Overall(tmp_path)
    task = asyncio.create_task(now.progress.run())
    first, second = now.works
    for stuck, also in (({}, {}), ({"B": "5 in vain"}, {}), ({"B": "6 in vain"}, {"A": "no answers"}), ({}, {"A": ""})):
        first.stuck, second.stuck = stuck, also
        await now.clock.advance(1.0)
    assert now.symbols() == [["B"], ["A", "B"], ["A"]]
    message = next(fields["message"] for _, _, fields in now.log.lines if fields.get("symbols") == ["A", "B"])
    assert "A: no answers" in str(message)
    assert "B: 6 in vain" in str(message)
    task.cancel()


# ── the right to act ──────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("is_placed", [True, False])
async def test_without_a_database_the_placement_decides(is_placed: bool) -> None:
    lease = GuardianLease(context(FakeClock()), holder="here", is_placed=is_placed)
    await lease.renew()
    assert (lease.state, lease.may_act, bool(lease.why_not)) == ("unanswered", is_placed, not is_placed)
    await lease.release()
    assert lease.state == "unanswered"


@pytest.mark.parametrize(
    ("role", "wanted", "resources", "is_here"),
    [
        ("single", {}, (), True),
        ("single", {"guardian": "worker"}, (), True),  # a machine alone
        ("head", {}, (), True),
        ("worker", {}, (), False),
        ("head", {"guardian": "safe"}, (), False),
        ("head", {"guardian": "safe"}, ("safe=1",), True),
        ("worker", {"guardian": "worker"}, (), True),
        ("worker", {"guardian": "safe"}, ("safe=1", "gpu=1"), True),
        ("worker", {"orders": "worker"}, (), False),
    ],
)
def test_the_machine_that_acts_without_a_database(
    role: str, wanted: dict[str, str], resources: tuple[str, ...], is_here: bool
) -> None:
    settings = Settings()
    node = settings.node.model_copy(update={"role": role, "resources": resources})
    supervision = settings.supervision.model_copy(update={"placement": wanted})
    assert is_placed_here(settings.model_copy(update={"node": node, "supervision": supervision})) is is_here


@pytest.mark.parametrize(
    ("role", "url", "is_alone"),
    [("single", None, True), ("single", "postgresql://elsewhere/fks", False), ("head", None, False)],
)
def test_a_machine_is_alone_without_others_and_with_a_postgresql_of_its_own(
    role: str, url: str | None, is_alone: bool
) -> None:
    """Elsewhere an order manager could run: the guardian then places no stops in its stead."""
    settings = Settings()
    node, database = (
        settings.node.model_copy(update={"role": role}),
        settings.database.model_copy(update={"url": url}),
    )
    assert is_machine_alone(settings.model_copy(update={"node": node, "database": database})) is is_alone
