"""Fixtures of a gateway on a database of its own, with two instruments and an account in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from fks.config.endpoints import NodeEndpoints, save_node
from fks.config.paths import Paths
from fks.config.secrets import ensure_secrets
from fks.interfaces.cli import cli
from fks.interfaces.cli.base import run
from fks.store.db import Database
from fks.store.tokens import ensure_local_token
from tests.support.gateway import Running, running

Fks = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
async def seeded(database: Database) -> Database:
    """The database with what every node has."""
    await seed(database)
    return database


async def seed(database: Database) -> None:
    """Store what every node has: instruments, their assets, an account."""
    await database.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min) VALUES"
        " ('binance','BTCUSDT','BTC','USDT',0.01,0.00001,0.00001,9000,5),"
        " ('binance','ETHUSDT','ETH','USDT',0.01,0.0001,0.0001,9000,5)"
    )
    await database.sql("INSERT INTO assets (exchange, symbol) VALUES ('binance','BTCUSDT')")
    await database.sql(
        "INSERT INTO accounts (name, venue, initial_balance) VALUES ('demo','paper',100000),('sim','ccxt',100000)"
    )


@pytest.fixture
async def gateway(seeded: Database, database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Running]:
    """A gateway that serves on a free port."""
    async with running(seeded, database_url, redis_url, tmp_path) as gateway:
        yield gateway


@pytest.fixture
async def fks(
    gateway: Running,
    seeded: Database,
    database_url: str,
    redis_url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Fks:
    """Run a command against the gateway, as a user of this node would."""
    paths = Paths.of(tmp_path)
    ensure_secrets(paths, given={"session_key": gateway.app.state.gateway.deps.session_key.get_secret_value()})
    await ensure_local_token(seeded, paths)
    port = int(gateway.url.rpartition(":")[2])
    save_node(paths, NodeEndpoints(database_url, redis_url, "", {"host": "127.0.0.1", "port": port}))

    async def call(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = await asyncio.to_thread(run, cli, ["--home", str(tmp_path), *argv])
        out = capsys.readouterr()
        return code, out.out, out.err

    return call
