"""The template of a venue plug-in, installed and named in the settings: the order manager trades through it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fks.clock import RealClock
from fks.config.settings import Venues
from fks.model.errors import OutageError
from fks.model.order import State
from fks.model.signal import Kind
from fks.store.bus import Bus
from fks.store.db import Database
from fks.trading.venues.binance.config import SessionConfig
from fks.trading.venues.ccxt.dialect_venue import DialectVenue
from fks.trading.venues.plugins import plugin_row
from fks.trading.venues.registry import Making, make_venue
from tests.support.dialect_rig import COINBASE, DialectRig, Wire, exchange_of
from tests.support.order_rig import FAST
from tests.support.ports import CollectingLog
from tests.support.venue_plugin import NAME, installed
from tests.support.waiting import until


async def test_a_reader_that_raises_anything_is_an_outage_of_its_venue(tmp_path: Path) -> None:
    """Nothing else of the order manager and the guardian ends by another package's mistake."""

    def broken(*_: object) -> Any:
        raise KeyError("a field of tomorrow")

    exchange = exchange_of(COINBASE, tmp_path)
    spoken = COINBASE.row.dialect
    assert spoken is not None
    assert spoken.reads is not None
    readers = ("orders_of", "balances_of", "owner_of", "clock_of", "price_of")
    reads = replace(spoken.reads, **dict.fromkeys(readers, broken))
    config = SessionConfig(
        exchange.info["api_key"], exchange.info["api_secret"], exchange="coinbase", rest_url=exchange.info["rest"]
    )
    venue = DialectVenue(replace(spoken, reads=reads), config, RealClock(), CollectingLog())
    await venue.open()
    for read in (venue.open_orders, venue.balances, venue.identity, venue.skew_ms):
        with pytest.raises(OutageError, match="KeyError: 'a field of tomorrow'"):
            await read()
    with pytest.raises(OutageError, match="KeyError"):
        await venue.last_price(COINBASE.symbol)
    await venue.close()
    venue = DialectVenue(replace(spoken, faults_of=broken), config, RealClock(), CollectingLog())
    await venue.open()
    with pytest.raises(OutageError, match="KeyError"):
        await venue.balances()
    await venue.close()
    exchange.stop()


async def test_an_installed_plugin_trades(database: Database, bus: Bus, tmp_path: Path) -> None:
    with installed(tmp_path / "site"):
        row = plugin_row(NAME, [NAME])
        assert row is not None
        wire = Wire(row)
        exchange = exchange_of(wire, tmp_path)
        given = {
            "exchange": NAME,
            "rest_url": exchange.info["rest"],
            "api_key": exchange.info["api_key"],
            "api_secret": exchange.info["api_secret"],
        }
        settings = FAST.model_validate(
            FAST.model_dump() | {"venue": FAST.venue.model_dump() | given, "venues": Venues(plugins=(NAME,))}
        )
        making = Making(settings=settings, node=None, clock=RealClock(), log=CollectingLog(), account_id=1)
        async with DialectRig.at(wire, exchange, database, bus) as rig:
            rig.venues = {"ccxt": make_venue("ccxt", making)}
            await rig.start()
            entry = await rig.ordered(**rig.protected())
            await rig.becomes(entry.client_order_id, State.FILLED)
            stop = await rig.resting_stop(entry.client_order_id)
            await rig.agrees()
            leave = await rig.ordered(kind=Kind.EXIT)
            await rig.becomes(leave.client_order_id, State.FILLED)
            await until(rig.is_quiet)
            await rig.agrees()
            assert await rig.coins() == 0
            assert rig.sent() == dict.fromkeys((entry.client_order_id, stop, leave.client_order_id), 1)
        exchange.stop()
