"""Flattening of one position at a venue that loses what it is sent: asked about, and sent again only once it is absent."""

from __future__ import annotations

from collections import deque
from decimal import Decimal
from pathlib import Path

from fks.clock import FakeClock
from fks.guardian.context import Context
from fks.guardian.flatten import Flatten
from fks.guardian.journal import ABSENT, UNKNOWN, Asked, KillJournal
from fks.guardian.positions import Holder, Rules, Snapshot
from fks.guardian.timing import Timing
from tests.support.ports import CollectingLog, RecordingMeter
from tests.support.scripted_venue import ScriptedVenue

D = Decimal
HOLDER = Holder("ccxt", 1, "BTCUSDT", "s")
RULES = {"BTCUSDT": Rules("binance", "BTC", "USDT", D("0.001"), D("0.001"), D(5))}


async def test_a_lost_flattening_is_asked_about_until_it_is_absent(tmp_path: Path) -> None:
    clock, venue = FakeClock(), ScriptedVenue(script=deque(["lost"]), totals={"BTC": D(1), "USDT": D(0)})
    journal = KillJournal(tmp_path / "kill.jsonl")
    journal.engage("k", Asked("system", "", "me", True, clock.now_ns()))
    snapshot = Snapshot(clock.now_ns(), {HOLDER: D("0.5")}, RULES, {}, frozenset())

    async def save() -> None:
        """The database is away."""

    timing = Timing(absent_polls=3, absent_spacing_s=2.0, absent_first_s=5.0, absent_age_s=30.0)
    flatten = Flatten(
        Context(clock, CollectingLog(), RecordingMeter(), timing), venue, journal, save=save, may_act=lambda: True
    )
    for seconds in (0.0, 1.0, 5.0, 5.0, 5.0):  # its balance is free and its id not found: it may be on its way
        await clock.advance(seconds)
        assert not await flatten.step(snapshot, set())
        assert journal.record is not None
        assert [item.outcome for item in journal.record.orders] == [UNKNOWN]
        assert len(venue.received) == 1
    await clock.advance(20.0)
    await flatten.step(snapshot, set())
    assert [item.outcome for item in journal.record.orders][:1] == [ABSENT]
    assert len(venue.received) == len(set(venue.received)) == 2
    await clock.advance(1.0)
    await flatten.step(snapshot, set())
    assert venue.totals["BTC"] == D("0.5"), "no more than was ours"
    assert len(venue.received) == 2
