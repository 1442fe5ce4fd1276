"""Expected income from many executions: the sums in the database are those of a replay, one execution after another."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from fks.model.timeframe import to_ns
from fks.research.jobs.income import expected_income
from fks.store.db import Database

D = Decimal
START = datetime(2026, 5, 1, tzinfo=UTC)


async def test_funding_of_many_executions_is_that_of_a_replay(database: Database) -> None:
    """Some executions are at the very time of a funding rate, which they follow; some are outside of the period."""
    dice = random.Random(32)
    await database.sql("INSERT INTO accounts (name, venue, currency) VALUES ('a', 'ccxt', 'USDT')")
    await database.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min)"
        " VALUES ('binanceusdm', 'BTCUSDT', 'BTC', 'USDT', 0.1, 0.001, 0.001, 900, 5)"
    )
    await database.sql("INSERT INTO portfolios (name, base_currency) VALUES ('p', 'USDT')")
    await database.sql(
        "INSERT INTO portfolio_members (portfolio_id, account_id) SELECT p.id, a.id FROM portfolios p, accounts a"
    )
    rates = [START + timedelta(hours=hour) for hour in range(0, 48, 8)]
    await database.sql(
        "INSERT INTO funding_rates (exchange, symbol, time, rate, mark_price, published_at)"
        " SELECT 'binanceusdm', 'BTCUSDT', unnest($1::timestamptz[]), 0.0001, 50000, now()", rates,
    )  # fmt: skip
    moves = []
    for _ in range(400):
        at = START + timedelta(minutes=dice.randrange(-600, 60 * 60))
        at = dice.choice(rates) if dice.random() < 0.1 else at
        is_buy, quantity, in_base = dice.random() < 0.5, D(dice.randrange(1, 999)) / 1000, dice.random() < 0.5
        fee = quantity / 1000
        await database.sql(
            "INSERT INTO trades (fill_id, account_id, venue, symbol, trade_type, quantity, price, fee, fee_currency, time)"
            " SELECT gen_random_uuid(), id, 'ccxt', 'BTCUSDT', $1, $2, 50000, $3, $4, $5 FROM accounts",
            "BUY" if is_buy else "SELL", quantity, fee, "BTC" if in_base else "USDT", at,
        )  # fmt: skip
        moves.append((at, (quantity if is_buy else -quantity) - (fee if in_base else 0)))
    await database.sql(
        "INSERT INTO positions (account_id, venue, symbol, quantity) SELECT id, 'ccxt', 'BTCUSDT', $1 FROM accounts",
        sum(moved for _, moved in moves),
    )
    end = START + timedelta(hours=48)
    (portfolio,) = await database.sql("SELECT id FROM portfolios")
    found, _ = await expected_income(database, portfolio["id"], to_ns(START) + 1, to_ns(end) + 999)
    wanted = [sum(moved for time, moved in moves if time < at) for at in rates]
    assert [row.quantity for row in found] == wanted
    assert [row.expected for row in found] == [-quantity * 50_000 * D("0.0001") for quantity in wanted]
