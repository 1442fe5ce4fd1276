"""PostgreSQL commits a write of the order manager, and the connection is cut before the answer: it stands, once."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fks.config.settings import DatabaseSettings
from fks.model.order import State
from fks.model.signal import Kind
from fks.store.bus import ORDERS, Bus
from fks.store.db import Database
from fks.system.process.journal_file import read_lines
from fks.trading.order_manager.side_journal import SideJournal
from tests.support.cut_link import CutLink
from tests.support.invariants import assert_journal, assert_once
from tests.support.order_rig import FAST, Rig, seed
from tests.support.scripted_venue import ScriptedVenue
from tests.support.waiting import until

D = Decimal
SENT = ("IntendedAndSent", None, "SENDING")
UNKNOWN = ("Ambiguous", "SENDING", "UNKNOWN")
ABSENT = ("FoundAbsent", "UNKNOWN", "ABSENT")


@dataclass
class LinkedRig(Rig):
    """A Rig whose database is behind a link; with a file, it has a side journal."""

    path: Path | None = None

    def side_journal(self) -> SideJournal | None:
        if self.path is None:
            return None
        return SideJournal(self.path, lease=self.lease, clock=self.clock, kill_file=self.read_kill)


@pytest.fixture
async def link(database_url: str) -> AsyncIterator[CutLink]:
    found = await CutLink(database_url).open()
    yield found
    await found.close()


@pytest.fixture(params=["waits", "side journal"])
async def rig(
    bus: Bus, database: Database, link: CutLink, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[LinkedRig]:
    await seed(database)
    settings = DatabaseSettings(retry_s=0.5, connect_timeout_s=1.0)
    db = await Database.connect(link.url, settings, application="test")
    path = tmp_path / "orders.jsonl" if request.param == "side journal" else None
    found = LinkedRig(db, bus, ScriptedVenue(), FAST, path=path)
    yield found
    await found.stop()
    await db.close()


async def steps(rig: LinkedRig, client_order_id: str) -> list[tuple[str, str | None, str]]:
    rows = await rig.db.sql(
        "SELECT event, from_state, to_state FROM order_events WHERE client_order_id = $1 ORDER BY id",
        client_order_id,
    )
    return [tuple(row) for row in rows]


def executions(rig: LinkedRig) -> int:
    """Return how many executions were reported: booked, or seen while PostgreSQL was away."""
    return sum(event in ("fill.booked", "fill.seen") for event in rig.log.events())


async def settled(rig: LinkedRig, link: CutLink) -> None:
    """Wait until an answer was lost and all that followed is on disk; nothing of it paged."""
    await until(lambda: link.lost == 1 and rig.service.is_ready and rig.service.cache.is_journal_up)
    await until(lambda: rig.path is None or not read_lines(rig.path))
    await rig.service.drain()
    assert "order.quarantine" not in rig.log.events()
    assert rig.service.cache.position(1, "ccxt", "BTCUSDT", "one").quantity == await rig.position()
    assert await rig.held() == rig.venue.totals.get("BTC", D(0))
    assert_once(rig.venue.received)
    await assert_journal(rig.db)


@pytest.fixture
async def messages(bus: Bus) -> AsyncIterator[list[dict[str, Any]]]:
    """The messages about orders, as subscribers get them."""
    heard: list[dict[str, Any]] = []

    async def listen() -> None:
        async for _, message in bus.subscribe(ORDERS):
            heard.append(message)

    async def is_heard() -> bool:
        await bus.publish(ORDERS, {"type": "echo"})
        return bool(heard)

    listening = asyncio.create_task(listen())
    await until(is_heard)
    yield heard
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


@pytest.mark.parametrize(
    ("word", "marker", "wanted", "alerts"),
    [
        ("refuse:-2010", b"Refused", [SENT, ("Refused", "SENDING", "REJECTED")], []),
        ("lost", b"Ambiguous", [SENT, UNKNOWN, ABSENT], ["order.unknown", "order.absent"]),
        ("lost", b"FoundAbsent", [SENT, UNKNOWN, ABSENT], ["order.unknown", "order.absent"]),
        ("ok", b"Acked", [SENT, ("Acked", "SENDING", "FILLED"), ("FillSeen", "FILLED", "FILLED")], []),
    ],
)
async def test_event_is_applied_once_with_its_alert(
    rig: LinkedRig,
    link: CutLink,
    messages: list[dict[str, Any]],
    word: str,
    marker: bytes,
    wanted: list[tuple[str, str | None, str]],
    alerts: list[str],
) -> None:
    await rig.start()
    rig.venue.script.append(word)
    link.lose_answer(marker)
    signal = await rig.signal()
    await rig.outcome(signal)
    order = await rig.entry(signal)
    await rig.becomes(order.client_order_id, State(wanted[-1][2]))
    await settled(rig, link)
    assert await steps(rig, order.client_order_id) == wanted
    assert [event for event in rig.log.events() if event in ("order.unknown", "order.absent")] == alerts
    assert executions(rig) == [event for event, _, _ in wanted].count("FillSeen")
    await until(lambda: [one["state"] for one in messages if one["type"] == "order"][-1:] == [wanted[-1][2]])


async def resting(rig: LinkedRig) -> tuple[uuid.UUID, str]:
    """Start; return a signal, and the client order id of its entry, which rests at the venue."""
    await rig.start()
    rig.venue.script.append("rest")
    signal = await rig.signal()
    await until(rig.venue.live)
    name = rig.venue.live()[0].order.client_order_id
    await rig.becomes(name, State.WORKING)
    return signal, name


async def test_execution_is_booked_once_and_published(rig: LinkedRig, link: CutLink) -> None:
    signal, name = await resting(rig)
    link.lose_answer(b"FillSeen")
    rig.venue.fill(name, D(4))
    await rig.becomes(name, State.PARTIAL)
    await until(lambda: link.lost == 1 and rig.service.cache.is_journal_up)
    rig.venue.fill(name, D(6))
    assert (await rig.becomes(name, State.FILLED)).filled == D(10)
    await settled(rig, link)
    assert (await rig.entry(signal)).filled == D(10)
    assert executions(rig) == 2


async def test_execution_of_an_outage_is_booked_once(rig: LinkedRig, link: CutLink) -> None:
    """The answer is lost when it is written to PostgreSQL at last."""
    signal, name = await resting(rig)
    await link.vanish()
    rig.venue.fill(name, D(10))
    await until(lambda: not rig.service.cache.is_journal_up)
    await until(lambda: rig.path is None or "fill.seen" in rig.log.events())
    link.lose_answer(b"FillSeen")
    await link.restore()
    await settled(rig, link)
    assert (await rig.entry(signal)).filled == D(10)
    assert executions(rig) == 1


async def test_legs_are_sent_once(rig: LinkedRig, link: CutLink) -> None:
    """They were placed with their entry, and are released together by one statement."""
    await rig.start()
    link.lose_answer(b"\0\0\0\4Sent")  # the text with its length: not IntendedAndSent
    signal = await rig.signal(stop_loss=D(90), take_profit=D(120))
    await rig.outcome(signal)
    await until(lambda: len(rig.venue.received) == 3)
    for name in rig.venue.received[1:]:
        await rig.becomes(name, State.ACCEPTED, State.WORKING)
    await settled(rig, link)
    for name in rig.venue.received[1:]:
        found = await steps(rig, name)
        assert found[:2] == [("Intended", None, "INTENDED"), ("Sent", "INTENDED", "SENDING")]
        assert [event for event, _, _ in found[2:]] == ["Acked"]


async def test_execution_of_others_is_booked_once_and_reported(rig: LinkedRig, link: CutLink) -> None:
    await rig.start()
    await rig.outcome(await rig.signal())
    await until(lambda: rig.venue.trades)
    foreign = replace(
        rig.venue.trades[0],
        fill_id=uuid.UUID(int=7),
        client_order_id="web_1",
        venue_order_id="999",
        venue_trade_id="77",
        quantity=D(3),
        fee=D(0),
        fee_currency="MARKED",
    )
    link.lose_answer(b"MARKED")
    rig.venue.trades.append(foreign)
    rig.venue.totals["BTC"] += D(3)
    rig.venue.push(foreign)
    await until(lambda: "fill.external" in rig.log.events())
    await settled(rig, link)
    assert rig.log.events().count("fill.external") == 1
    assert (
        await rig.position("external") == rig.service.cache.position(1, "ccxt", "BTCUSDT", "external").quantity == D(3)
    )


async def test_outcome_of_a_signal_is_published_once(rig: LinkedRig, link: CutLink) -> None:
    await rig.start()
    link.lose_answer(b"nothing")
    assert (await rig.outcome(await rig.signal(Kind.EXIT)))[0] == "nothing"
    await settled(rig, link)
    assert rig.meter.total("fks_signals_total", state="nothing") == 1
