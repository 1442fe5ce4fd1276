"""The guardian places stops in the order manager's stead, in time, and sends no id of them twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from fks.clock import FakeClock
from fks.model import ids
from fks.model.instrument import Lot
from fks.model.kill import KillMode
from fks.model.order import Answer, Lookup, Order, OrderType, Presence, Role, State
from fks.model.timeframe import NS
from fks.system.process.journal_file import JournalFile, read_lines
from fks.trading.guardian.context import GuardianContext
from fks.trading.guardian.positions import DatabaseSnapshot, Holder, Known, SideOrders, VenueRules
from fks.trading.guardian.takeover import Takeover
from fks.trading.guardian.timing import Timing
from fks.trading.order_manager.side_journal import SideJournal
from fks.trading.orders.absence import AbsenceRule
from fks.trading.orders.machine import advance
from fks.trading.orders.side_lines import PlacedOrders, parse_line
from tests.support.order_values import a_fill, an_order
from tests.support.ports import CollectingLog, RecordingMeter, TestLease
from tests.support.scripted_venue import ScriptedVenue

D = Decimal
TIMING = Timing(takeover_s=11.0, absence=AbsenceRule(polls=1, first_s=5.0, age_s=30.0))
RULES = VenueRules("binance", "BTC", "USDT", D("0.001"), D("0.001"), D(5))
ENTRY = ids.client_order_id(an_order().intent_id, Role.ENTRY)
FIRST, SECOND = (ids.client_order_id(an_order().intent_id, Role.STOP_LOSS, attempt) for attempt in (1000, 2000))


@dataclass
class Rig:
    """An entry that was executed at the venue while PostgreSQL was away, and a guardian on a fake clock."""

    folder: Path
    clock: FakeClock = field(default_factory=FakeClock)
    venue: ScriptedVenue = field(default_factory=ScriptedVenue)
    why_not: list[str] = field(default_factory=list)  # the next answers; then ""
    pages: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.path = self.folder / "orders.jsonl"
        now_ns = self.clock.now_ns()
        entry = an_order(client_order_id=ENTRY, state=State.WORKING, stop_loss=D(90), created_ns=now_ns - NS)
        holder = Holder("ccxt", 1, "BTCUSDT", "one")
        known = Known(holder, "binance", D(0), Role.ENTRY.value, State.FILLED.value, now_ns - NS, now_ns - NS)
        row = {name: value for name, value in msgspec.to_builtins(entry).items() if value is not None}
        self.snapshot = DatabaseSnapshot(now_ns, {}, {"BTCUSDT": RULES}, {ENTRY: known}, frozenset(), protected=(row,))
        self.venue.trades.append(a_fill(client_order_id=ENTRY, time_ns=now_ns))
        self.restart()

    def restart(self) -> None:
        """Begin another guardian on the same file."""
        context = GuardianContext(self.clock, CollectingLog(), RecordingMeter(), TIMING)
        side = SideOrders(self.path, context.log)

        def look() -> DatabaseSnapshot:
            side.read()
            return self.snapshot.with_side_orders(side)

        def why() -> str:
            return self.why_not.pop(0) if self.why_not else ""

        self.takeover = Takeover(
            context, {"ccxt": self.venue}, self.path, side, look, why, lambda _, message: self.pages.append(message)
        )

    async def rounds(self, *waits_s: float) -> list[str]:
        """Do a round after each wait; return the ids that were sent so far."""
        for wait_s in waits_s:
            await self.clock.advance(wait_s)
            await self.takeover.round()
        return self.venue.received

    def states(self) -> dict[str, State]:
        """Return the orders of the side journal with their states."""
        found: dict[str, Order] = {}
        for line in read_lines(self.path):
            content = parse_line(line)
            if isinstance(content, PlacedOrders):
                found |= {order.client_order_id: order for order in content.orders}
            elif content is not None:
                for name, event in content.events:
                    found[name] = advance(found[name], event).order
        return {name: order.state for name, order in found.items()}


@pytest.fixture
def order_manager(tmp_path: Path) -> Iterator[JournalFile]:
    """The lock of a process that runs until `close`."""
    file = JournalFile(tmp_path / "orders.jsonl")
    assert file.lock()
    yield file
    file.close()


async def test_stop_is_sent_once_the_process_has_been_gone_long_enough(
    tmp_path: Path, order_manager: JournalFile
) -> None:
    rig = Rig(tmp_path)
    assert await rig.rounds(0.0, 60.0) == []
    assert rig.takeover.state == "looks on: the order manager's process is not proven gone"
    order_manager.close()
    assert await rig.rounds(0.0, 10.9) == []
    assert await rig.rounds(0.2) == [FIRST]
    assert await rig.rounds(15.0, 15.0, 300.0) == [FIRST]
    assert rig.states() == {FIRST: State.ACCEPTED}
    assert len(rig.pages) == 1


async def test_lock_that_no_order_manager_ever_had_proves_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    assert await rig.rounds(0.0, 20.0, 20.0) == []


async def test_order_manager_that_starts_ends_it(tmp_path: Path, order_manager: JournalFile) -> None:
    rig = Rig(tmp_path)
    order_manager.close()
    await rig.rounds(0.0)
    assert order_manager.lock(), "between rounds the lock is free"
    assert await rig.rounds(20.0) == []
    order_manager.close()
    assert await rig.rounds(0.0, 5.0) == [], "the wait begins anew"
    assert await rig.rounds(6.0) == [FIRST]


async def test_postgresql_that_answers_or_a_kill_ends_it(tmp_path: Path, order_manager: JournalFile) -> None:
    rig = Rig(tmp_path)
    order_manager.close()
    await rig.rounds(0.0)
    rig.why_not = ["PostgreSQL answers"]
    assert await rig.rounds(20.0, 0.0, 5.0) == [], "the wait begins anew"
    rig.why_not = ["", "a kill is engaged"]  # between the line and the bytes
    assert await rig.rounds(6.0) == []
    assert rig.states() == {FIRST: State.REJECTED}
    assert await rig.rounds(15.0) == [SECOND]


@pytest.mark.parametrize("step", ["lost", "unheard", "raise", "exists"])
async def test_stop_of_unknown_outcome_is_never_sent_again(
    tmp_path: Path, order_manager: JournalFile, step: str
) -> None:
    rig = Rig(tmp_path)
    order_manager.close()
    rig.venue.script.append(step)
    assert await rig.rounds(0.0, 12.0, 15.0) == [FIRST]
    rig.restart()
    assert await rig.rounds(0.0, 12.0, 15.0, 15.0) == ([FIRST] if step in ("unheard", "raise") else [FIRST, SECOND])


async def test_a_stop_that_is_refused_again_and_again_pages_once(tmp_path: Path, order_manager: JournalFile) -> None:
    rig = Rig(tmp_path)
    order_manager.close()
    rig.venue.script += ["refuse:-2010"] * 3
    assert len(await rig.rounds(0.0, 12.0, 15.0, 15.0, 300.0, 300.0)) == 4
    assert len(rig.pages) == 2, "one of the refused, one of the placed"


async def test_nothing_more_is_asked_once_postgresql_answers(tmp_path: Path, order_manager: JournalFile) -> None:
    """An order manager that starts waits for the lock meanwhile."""
    rig = Rig(tmp_path)
    order_manager.close()
    leg = replace(rig.snapshot.orders[ENTRY], role="tp", state="ACCEPTED", parent_id=ENTRY, is_acknowledged=True)
    rig.snapshot = replace(rig.snapshot, orders=rig.snapshot.orders | {f"{n:032x}": leg for n in range(9)})
    await rig.rounds(0.0)
    asked: list[str] = []

    async def query(symbol: str, id: str) -> Lookup:
        asked.append(id)
        rig.why_not = ["PostgreSQL answers"]
        return Lookup(Presence.NO_ANSWER)

    rig.venue.query = query  # type: ignore[method-assign]
    await rig.rounds(12.0)
    assert len(asked) == 1


async def test_line_is_on_disk_before_the_bytes_leave(tmp_path: Path, order_manager: JournalFile) -> None:
    rig = Rig(tmp_path)
    order_manager.close()
    submit, seen = rig.venue.submit, []

    async def watched(order: Order) -> Answer:
        seen.append(rig.states())
        return await submit(order)

    rig.venue.submit = watched  # type: ignore[method-assign]
    await rig.rounds(0.0, 12.0)
    assert seen == [{FIRST: State.SENDING}]


async def test_nothing_is_sent_that_the_disk_does_not_take(tmp_path: Path, order_manager: JournalFile) -> None:
    rig = Rig(tmp_path)
    order_manager.close()
    rig.path.mkdir()
    assert await rig.rounds(0.0, 12.0, 15.0) == []
    rig.path.rmdir()
    assert await rig.rounds(15.0) == [FIRST]


async def test_refused_stop_is_tried_again_under_another_id_after_a_wait(
    tmp_path: Path, order_manager: JournalFile
) -> None:
    rig = Rig(tmp_path)
    order_manager.close()
    rig.venue.script.append("refuse:-2010")
    assert await rig.rounds(0.0, 12.0, 0.5) == [FIRST]
    assert await rig.rounds(0.6) == [FIRST, SECOND]


async def test_stop_that_the_market_has_passed_is_closed_at_once_in_its_role(
    tmp_path: Path, order_manager: JournalFile
) -> None:
    rig = Rig(tmp_path)
    order_manager.close()
    rig.venue.script.append("refuse:-2010:would_trigger")
    assert await rig.rounds(0.0, 12.0) == [FIRST, SECOND]
    (closed,) = (held.order for held in rig.venue.orders.values())
    assert (closed.client_order_id, closed.type, closed.quantity) == (SECOND, OrderType.MARKET, D(4))
    assert rig.states() == {FIRST: State.REJECTED, SECOND: State.FILLED}
    assert await rig.rounds(15.0, 15.0, 300.0) == [FIRST, SECOND]


async def test_close_of_a_passed_stop_is_split_at_the_market_lot(tmp_path: Path, order_manager: JournalFile) -> None:
    rig = Rig(tmp_path)
    rules = {"BTCUSDT": replace(RULES, market_lot=Lot(D(0), D(3), D(0)))}
    rig.snapshot = replace(rig.snapshot, rules=rules)
    order_manager.close()
    rig.venue.script.append("refuse:-2010:would_trigger")
    assert len(await rig.rounds(0.0, 12.0, 15.0)) == 3
    assert [held.order.quantity for held in rig.venue.orders.values()] == [D(2), D(2)]


@pytest.mark.parametrize("step", ["lost", "unheard", "raise"])
async def test_a_close_of_unknown_outcome_is_never_sent_again(
    tmp_path: Path, order_manager: JournalFile, step: str
) -> None:
    rig = Rig(tmp_path)
    order_manager.close()
    rig.venue.script += ["refuse:-2010:would_trigger", step]
    assert await rig.rounds(0.0, 12.0) == [FIRST, SECOND]
    rig.restart()
    sent = await rig.rounds(0.0, 12.0, 15.0, 15.0, 15.0)
    assert sent[:2] == [FIRST, SECOND]
    assert len(sent) == len(set(sent)) == (3 if step == "lost" else 2)


async def test_next_order_manager_reads_the_lines_written_before_it_had_the_lock(
    tmp_path: Path, order_manager: JournalFile
) -> None:
    rig = Rig(tmp_path)
    order_manager.close()
    side = SideJournal(rig.path, lease=TestLease("orders", 2), clock=rig.clock, kill_file=lambda: KillMode.NONE)
    await rig.rounds(0.0, 12.0)
    assert side.lock()
    assert side.depth == len(list(side.read())) == 2


async def test_venue_that_gives_no_answer_holds_up_nothing_else(tmp_path: Path, order_manager: JournalFile) -> None:
    rig = Rig(tmp_path)
    order_manager.close()
    rig.venue.outages["open_orders"] = 1
    assert await rig.rounds(0.0, 12.0) == []
    assert rig.takeover.state.startswith("protects; ccxt: ")
    assert await rig.rounds(15.0) == [FIRST]
    assert rig.takeover.state == "protects"
