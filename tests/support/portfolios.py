"""Portfolios for tests: prices and bars of what they hold, and requests about them."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx

from fks.config.settings import Settings
from fks.research.jobs.valuation import note_portfolio_equity
from fks.store.db import Database
from tests.support.gateway import Running
from tests.support.strategies import collect

#: A portfolio of the accounts that `seeded` has.
ALL = {"name": "all", "base_currency": "USDT", "accounts": ["demo", "sim"]}
DAYS = 120


async def price(db: Database, symbol: str, last: float, *, age: str = "1 second") -> None:
    await db.sql(
        "INSERT INTO feeds (exchange, symbol, timeframe, state, last_price, last_message_at) VALUES"
        f" ('binance', $1, 'trades', 'LIVE', $2, now() - interval '{age}') ON CONFLICT (exchange, symbol, timeframe)"
        " DO UPDATE SET last_price = excluded.last_price, last_message_at = excluded.last_message_at",
        symbol,
        Decimal(str(last)),
    )


async def call(gateway: Running, method: str, path: str, body: Any = None, *, scope: str = "trade") -> httpx.Response:
    async with gateway.client(scope) as client:
        return await client.request(method, path, json=body)


async def bars(db: Database, symbol: str, closes: list[float]) -> None:
    """Store daily bars; the last one ended at the newest UTC midnight."""
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    await db.sql(
        "INSERT INTO ohlcv_data (exchange, symbol, timeframe, time, open, high, low, close, volume)"
        " SELECT 'binance', $1, '1d', t, c, c, c, c, 1 FROM unnest($2::timestamptz[], $3::float8[]) AS b (t, c)",
        symbol,
        [midnight - timedelta(days=back) for back in range(len(closes), 0, -1)],
        closes,
    )


def wave(start: float, days: int = DAYS, phase: float = 0.0) -> list[float]:
    return [start * (1 + 0.03 * math.sin(day * 1.7 + phase)) for day in range(days)]


async def portfolio_with_targets(gateway: Running, db: Database) -> None:
    """Make the portfolio `main` of an account with cash and coins: targets, two hours of equity, prices, a limit."""
    await db.sql(
        "INSERT INTO balances (account_id, currency, free, locked) VALUES (1,'USDT',10000,0), (1,'BTC',0.02,0)"
    )
    for symbol, last in (("BTCUSDT", 50_000), ("ETHUSDT", 2_000)):
        await price(db, symbol, last, age="0 seconds")
    await collect(db)
    await db.sql("INSERT INTO venue_states (venue, account_id, state) VALUES ('paper', 1, 'READY')")
    await bars(db, "BTCUSDT", wave(50_000))
    await call(gateway, "POST", "/portfolios", {"name": "main", "base_currency": "USDT", "accounts": ["demo"]})
    targets = [{"instrument": "BTC/USDT", "weight": "0.5"}, {"instrument": "ETHUSDT", "weight": "0.3"}]
    await call(gateway, "PUT", "/portfolios/main/targets", {"version": 0, "targets": targets})
    for _ in range(2):
        await note_portfolio_equity(db, Settings())
    await call(gateway, "PUT", "/portfolios/main/limits", {"limits": [{"kind": "weight_max", "value": "0.9"}]})
