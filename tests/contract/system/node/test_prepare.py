"""Preparation of the store: the demo stops where money is real, and a venue over plain http takes no entries."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from fks.config.settings import Settings, Venues, VenueSettings
from fks.model.errors import ConfigError
from fks.store.db import Database
from fks.store.portfolios import PortfolioStore
from fks.system.node.prepare import INSTANCES, refuse_plaintext, seed, switch_off


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


async def test_the_demo_has_one_portfolio_of_both_accounts(database: Database) -> None:
    for _ in range(2):
        await seed(database, Settings())
    [found] = await PortfolioStore(database).all()
    assert (found.name, found.base_currency, sorted(found.accounts)) == ("main", "USDT", ["demo", "paper"])


KEY = SecretStr("k")
PLAIN = {
    "ccxt": Settings(venue=VenueSettings(rest_url="http://gate.example", api_key=KEY, api_secret=KEY)),
    "kraken": Settings(venues=Venues(exchanges=("kraken http://gate.example",))),
}


@pytest.mark.parametrize("venue", PLAIN)
async def test_plain_venue_is_refused_unless_something_is_open_there(database: Database, venue: str) -> None:
    await seed(database, Settings())
    name = "venue.rest_url" if venue == "ccxt" else "venues.exchanges"
    await database.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity) VALUES (1, $1, 'BTCUSDT', 'external', 1)",
        venue,
    )
    with pytest.raises(ConfigError, match=rf"{name}: sends a key to gate\.example without TLS"):
        await refuse_plaintext(database, PLAIN[venue])
    assert not await database.sql("SELECT FROM alerts")
    await database.sql("UPDATE positions SET instance = 'sma-btc-1s'")
    await refuse_plaintext(database, PLAIN[venue])
    (alert,) = await database.sql("SELECT severity, event, message FROM alerts")
    assert (alert["severity"], alert["event"]) == ("page", "venue.plaintext")
    assert f"what is open can only be closed: {name}" in alert["message"]
