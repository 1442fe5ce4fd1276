"""Preparation of the store: the demo stops where money is real, and a venue over plain http takes no entries."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from fks.config.settings import Settings, VenueSettings
from fks.model.errors import ConfigError
from fks.node.demo import INSTANCES, seed, switch_off
from fks.node.prepare import refuse_plaintext
from fks.store.db import Database


async def test_the_demos_strategies_are_switched_off_with_a_message(database: Database) -> None:
    await seed(database, Settings())
    await database.sql(
        "INSERT INTO strategy_instances (id, strategy, symbol, timeframe, account_id, venue) VALUES"
        " ('mine', 'sma_cross', 'BTCUSDT', '1m', 1, 'ccxt')"
    )
    assert await switch_off(database) == sorted(name for name, *_ in INSTANCES)
    assert await switch_off(database) == []
    rows = await database.sql("SELECT id FROM strategy_instances WHERE is_enabled")
    assert [row["id"] for row in rows] == ["mine"]
    (alert,) = await database.sql("SELECT event, message FROM alerts")
    assert alert["event"] == "demo.switched_off"
    assert "sma-btc-1s" in alert["message"]


async def test_plain_venue_is_refused_unless_something_is_open_there(database: Database) -> None:
    await seed(database, Settings())
    key = SecretStr("k")
    plain = Settings(venue=VenueSettings(rest_url="http://gate.example", api_key=key, api_secret=key))
    await database.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity) VALUES (1, 'ccxt', 'BTCUSDT', 'external', 1)"
    )
    with pytest.raises(ConfigError, match=r"venue\.rest_url: sends a key to gate\.example without TLS"):
        await refuse_plaintext(database, plain)
    assert not await database.sql("SELECT FROM alerts")
    await database.sql("UPDATE positions SET instance = 'sma-btc-1s'")
    await refuse_plaintext(database, plain)
    (alert,) = await database.sql("SELECT severity, event, message FROM alerts")
    assert (alert["severity"], alert["event"]) == ("page", "venue.plaintext")
    assert "what is open can only be closed: venue.rest_url" in alert["message"]
