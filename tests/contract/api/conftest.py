"""A gateway per test, on a database of its own, with two instruments and an account in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fks.store.db import Database
from tests.support.gateway import Running, running


@pytest.fixture
async def seeded(database: Database) -> Database:
    """The database with what every node has: instruments, their assets, an account."""
    await database.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min) VALUES"
        " ('binance','BTCUSDT','BTC','USDT',0.01,0.00001,0.00001,9000,5),"
        " ('binance','ETHUSDT','ETH','USDT',0.01,0.0001,0.0001,9000,5)"
    )
    await database.sql("INSERT INTO assets (exchange, symbol) VALUES ('binance','BTCUSDT')")
    await database.sql(
        "INSERT INTO accounts (name, venue, initial_balance) VALUES ('demo','paper',100000),('sim','ccxt',100000)"
    )
    return database


@pytest.fixture
async def gateway(seeded: Database, database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Running]:
    """A gateway that serves on a free port."""
    async with running(seeded, database_url, redis_url, tmp_path) as gateway:
        yield gateway
