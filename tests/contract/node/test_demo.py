"""The demo's strategies do not go on where money is real."""

from __future__ import annotations

from fks.config.settings import Settings
from fks.node.demo import INSTANCES, seed, switch_off
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
