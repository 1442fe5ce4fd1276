"""C1 and C5: an order of unknown outcome is queried, never sent again, and blocks new risk until it is settled."""

from __future__ import annotations

from decimal import Decimal

import pytest

from fks.config.settings import Risk, Settings
from fks.model.order import Fill, OrderType, State
from fks.model.signal import Kind
from fks.store.db import Row
from tests.support.fast_clock import FastClock
from tests.support.invariants import assert_once
from tests.support.order_rig import Rig
from tests.support.scripted_venue import ScriptedVenue
from tests.support.waiting import until

D = Decimal


@pytest.mark.parametrize("answer", ["unheard", "raise", "hang"])
async def test_an_order_that_arrived_unheard_is_found_and_booked_once(rig: Rig, answer: str) -> None:
    rig.venue.script.append(answer)
    rig.venue.streams_fills = False
    signal = await rig.signal()
    assert await rig.outcome(signal) == ("ordered", None)
    order = await rig.entry(signal)
    await rig.becomes(order.client_order_id, State.FILLED)
    assert await rig.position() == D("9.99")
    assert rig.venue.received == [order.client_order_id]


async def test_an_order_that_never_arrived_is_absent_not_before_its_age(idle: Rig) -> None:
    idle.settings = idle.settings.model_copy(
        update={"venue": idle.settings.venue.model_copy(update={"absent_age_s": 4.0})}
    )
    rig = await idle.start()
    rig.venue.script.append("lost")
    signal = await rig.signal()
    order = await rig.becomes((await rig.outcome(signal), await rig.entry(signal))[1].client_order_id, State.UNKNOWN)
    blocked = await rig.signal(instance="two", source="strategy:two")
    assert await rig.outcome(blocked) == ("denied", "UNKNOWN_ORDER")
    done = await rig.becomes(order.client_order_id, State.ABSENT)
    assert (done.updated_ns - (done.sent_ns or 0)) / 1e9 >= rig.settings.venue.absent_age_s
    assert rig.venue.queried.count(order.client_order_id) >= rig.settings.venue.absent_polls
    free = await rig.signal(instance="two", source="strategy:two")
    assert await rig.outcome(free) == ("ordered", None)
    await rig.becomes((await rig.entry(free)).client_order_id, State.FILLED)
    assert len(rig.venue.received) == 2


async def test_an_order_shown_late_is_found_and_not_called_absent(rig: Rig) -> None:
    rig.venue.script.append("unheard")
    rig.venue.streams_fills = False
    rig.venue.hidden = Hiding(3)
    signal = await rig.signal()
    await rig.outcome(signal)
    order = await rig.entry(signal)
    await rig.becomes(order.client_order_id, State.FILLED)
    assert rig.venue.received == [order.client_order_id]


async def test_what_ended_while_away_is_seen_though_the_last_process_clock_was_ahead(idle: Rig) -> None:
    """The clock is set back by a minute before the restart: the times in the journal lie in the future."""
    clock = FastClock()
    idle.clock, idle.settings = clock, Settings(risk=Risk(feed_age_max_s=3600))
    rig = await idle.start()
    await rig.outcome(await rig.signal(stop_loss=D(90)))
    await until(lambda: rig.venue.by_role("sl"))
    clock.step(60)
    rig.venue.end(rig.venue.by_role("sl")[0], State.CANCELLED)
    await until(lambda: len(rig.venue.by_role("sl")) == 2)
    stop = rig.venue.by_role("sl")[1]
    await rig.becomes(stop.order.client_order_id, State.ACCEPTED)
    await rig.stop()
    stop.state = State.CANCELLED
    clock.step(-60)
    await rig.start()
    await rig.becomes(stop.order.client_order_id, State.CANCELLED)
    await until(lambda: [held.order.attempt for held in rig.venue.live()] == [2])


class Hiding(dict[str, int]):
    """Hides every order from its first `count` queries."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    def get(self, key: str, default: object = None) -> int:  # type: ignore[override]
        return self.setdefault(key, self._count)


@pytest.mark.parametrize(("late", "end"), [("late:-2010", State.REJECTED), ("late:lost", State.ABSENT)])
async def test_not_found_proves_nothing_while_the_answer_is_awaited(idle: Rig, late: str, end: State) -> None:
    """An exit cancels a stop and a target before their request has an answer, and the target is asked about: not to be
    found then, it may still arrive."""
    enough = 8
    venue = idle.settings.venue.model_copy(update={"order_timeout_s": 60.0, "absent_polls": enough})
    idle.settings = idle.settings.model_copy(update={"venue": venue})
    rig = await idle.start()
    rig.venue.script.extend(["ok", late])
    await rig.outcome(await rig.signal(stop_loss=D(90), take_profit=D(120)))
    await until(lambda: len(rig.venue.received) == 3)
    target = rig.venue.received[2]
    out = await rig.signal(Kind.EXIT)
    await until(lambda: rig.venue.queried.count(target) >= 2 * enough - 1)  # 1.5 s: older than `absent_age_s` too
    assert [row["event"] for row in await events(rig, target)] == ["Intended", "Sent"]
    asked = rig.venue.queried.count(target)
    rig.venue.answer_late()
    await rig.becomes(target, end)
    assert end is State.REJECTED or rig.venue.queried.count(target) - asked >= enough
    assert await rig.outcome(out) == ("ordered", None)
    await until(lambda: rig.venue.totals["BTC"] == 0)
    found = [row["from_state"] for row in await events(rig, target) if row["event"] == "FoundAbsent"]
    assert found == (["UNKNOWN"] if end is State.ABSENT else [])


class ShownWhileFillsAreRead(ScriptedVenue):
    """Reports an order that no query has found while the history is read for it."""

    rig: Rig

    async def fills_since(self, symbol: str, since_ns: int) -> list[Fill]:
        """Return no fill, once the report is in the journal."""
        for name, held in self.orders.items():
            if self.hidden.get(name):
                self.push(self.report(held))
                await self.rig.becomes(name, State.WORKING)
                self.hidden = {}
        return await super().fills_since(symbol, since_ns)


async def test_an_order_reported_while_its_absence_is_found_lives(idle: Rig) -> None:
    venue = ShownWhileFillsAreRead()
    venue.script.append("unheard")
    venue.rig, venue.hidden, idle.venue = idle, Hiding(10_000), venue
    # no sweep reads the history in between
    idle.settings = idle.settings.model_copy(update={"venue": idle.settings.venue.model_copy(update={"sweep_s": 60.0})})
    rig = await idle.start()
    await rig.outcome(signal := await rig.signal(type=OrderType.LIMIT, limit_price=D(90)))
    order = await rig.entry(signal)
    await rig.becomes(order.client_order_id, State.WORKING)
    await until(lambda: not rig.venue.hidden)
    await rig.crash()
    names = [row["event"] for row in await events(rig, order.client_order_id)]
    assert "FoundAbsent" not in names
    assert (await rig.entry(signal)).state is State.WORKING


async def test_a_fill_proves_that_an_unanswered_order_exists(rig: Rig) -> None:
    rig.venue.script.append("unheard")
    rig.venue.outages["query"] = 1000
    signal = await rig.signal()
    await rig.outcome(signal)
    order = await rig.entry(signal)
    await rig.becomes(order.client_order_id, State.FILLED)
    assert await rig.position() == D("9.99")


async def test_a_late_fill_of_an_absent_order_is_booked_and_pages(rig: Rig) -> None:
    rig.venue.script.append("unheard")
    rig.venue.streams_fills = False
    rig.venue.hidden, rig.venue.history_hidden = Hiding(10_000), True
    signal = await rig.signal()
    await rig.outcome(signal)
    order = await rig.entry(signal)
    await rig.becomes(order.client_order_id, State.ABSENT)
    rig.venue.push(rig.venue.trades[0])
    late = await rig.becomes(order.client_order_id, State.FILLED)
    assert late.is_late
    assert await rig.position() == D("9.99")
    rig.venue.push(rig.venue.trades[0])
    await until(lambda: "order.filled" in rig.log.events("error"))
    assert await rig.position() == D("9.99")

    async def is_paged() -> bool:
        alerts = await rig.db.sql("SELECT severity, event FROM alerts")
        return ("page", "order.filled") in [(row["severity"], row["event"]) for row in alerts]

    await until(is_paged)


async def test_a_duplicate_answer_is_evidence_that_the_order_exists(rig: Rig) -> None:
    rig.venue.script.append("exists")
    signal = await rig.signal()
    await rig.outcome(signal)
    order = await rig.entry(signal)
    await rig.becomes(order.client_order_id, State.UNKNOWN, State.ABSENT)
    assert rig.venue.received == [order.client_order_id]


async def test_a_definitive_refusal_is_rejected_and_frees_the_instrument(rig: Rig) -> None:
    rig.venue.script.append("refuse:-2010")
    signal = await rig.signal()
    await rig.outcome(signal)
    order = await rig.becomes((await rig.entry(signal)).client_order_id, State.REJECTED)
    assert order.code == "-2010"
    assert await rig.outcome(await rig.signal()) == ("ordered", None)


async def test_an_exit_waits_for_an_unknown_entry_and_then_closes_what_it_bought(rig: Rig) -> None:
    rig.venue.script.append("unheard")
    rig.venue.streams_fills = False
    rig.venue.hidden = Hiding(4)
    await rig.outcome(await rig.signal())
    out = await rig.signal(Kind.EXIT)
    assert await rig.outcome(out) == ("ordered", None)
    await rig.becomes((await rig.entry(out)).client_order_id, State.FILLED)
    assert await rig.position() == 0
    assert rig.venue.totals["BTC"] == 0
    assert_once(rig.venue.received)
    assert len(rig.venue.received) == 2


async def test_an_exit_that_never_arrived_is_decided_again_and_closes(rig: Rig) -> None:
    await rig.outcome(await rig.signal(stop_loss=D(90)))
    await until(lambda: rig.venue.live())
    rig.venue.script.append("lost")
    out = await rig.signal(Kind.EXIT)
    assert await rig.outcome(out) == ("ordered", None)
    await until(lambda: rig.venue.totals["BTC"] == 0)
    assert_once(rig.venue.received)
    rows = await rig.db.sql("SELECT attempt, state FROM orders WHERE role = 'exit' ORDER BY attempt")
    assert [row["attempt"] for row in rows] == [0, 1]
    assert rig.venue.live() == []


async def events(rig: Rig, client_order_id: str) -> list[Row]:
    """Return the journal of an order, oldest first."""
    return await rig.db.sql(
        "SELECT event, from_state FROM order_events WHERE client_order_id = $1 ORDER BY id", client_order_id
    )
