"""Real money at a plug-in of venues: entries wait for its cases, exits and protection do not."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from fks.config.settings import Venues
from fks.model.account import Environment, VenueIdentity
from fks.model.signal import Kind
from fks.store.venues import VenueStore
from fks.trading.venues.plugins import Plugin, plugin_of
from tests.support.order_rig import Rig
from tests.support.scripted_venue import ScriptedVenue
from tests.support.venue_plugin import NAME, installed
from tests.support.waiting import until


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Plugin]:
    with installed(tmp_path):
        found = plugin_of(NAME, [NAME])
        assert found is not None
        yield found


async def live(rig: Rig) -> VenueStore:
    """Start the rig with real money at the plug-in; return the store of its passes."""
    await rig.db.sql("UPDATE accounts SET mode = 'live' WHERE name = 'main'")
    venue = rig.settings.venue.model_copy(update={"exchange": NAME, "live": True})
    rig.settings = rig.settings.model_copy(update={"venue": venue, "venues": Venues(plugins=(NAME,))})
    rig.venue = ScriptedVenue(who=VenueIdentity(Environment.LIVE, "9"))
    await rig.start()
    return VenueStore(rig.db)


async def test_an_unproven_plugin_denies_entries_with_real_money_alone(idle: Rig, plugin: Plugin) -> None:
    await VenueStore(idle.db).note_pass(NAME, plugin.version, plugin.digest, ["V-01"])
    await live(idle)
    assert await idle.outcome(await idle.signal()) == ("ordered", None)
    await until(lambda: idle.venue.orders)
    await idle.db.sql("UPDATE venue_passes SET version = '0.0.9'")
    await idle.service.refresh()
    assert await idle.outcome(await idle.signal(ordinal=1)) == ("denied", "VENUE_STAGE")
    assert await idle.outcome(await idle.signal(Kind.EXIT, ordinal=2)) == ("ordered", None)
    await until(lambda: idle.position_is(Decimal(0)))


async def test_a_pass_at_this_version_ends_the_stage_without_a_restart(idle: Rig, plugin: Plugin) -> None:
    store = await live(idle)
    await store.note_pass(NAME, "0.0.9", plugin.digest, ["V-01"])
    await store.note_pass(NAME, plugin.version, "of other files", ["V-01"])
    await idle.service.refresh()
    assert await idle.outcome(await idle.signal()) == ("denied", "VENUE_STAGE")
    await store.note_pass(NAME, plugin.version, plugin.digest, ["V-01"])
    await idle.service.refresh()
    assert await idle.outcome(await idle.signal(ordinal=1)) == ("ordered", None)
