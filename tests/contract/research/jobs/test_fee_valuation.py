"""Fees in a third asset: their value in quote follows from stored bars at the time of the execution, or is not known."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from fks.clock import Clock
from fks.config.settings import Portfolios, Settings
from fks.data.manual import ManualTrade, book
from fks.model.order import Side
from fks.model.timeframe import to_ns
from fks.research.jobs.schedule import TASKS, TaskServices
from fks.research.jobs.sync import Continuous
from fks.store.db import Database
from fks.store.reading import Listed

D = Decimal
T0 = datetime(2026, 3, 1, 10, 0, 30, tzinfo=UTC)
DAY = "SELECT fees, fees_unvalued FROM daily_account_performance WHERE account_id = 1"


@pytest.fixture
async def traded(database: Database) -> Database:
    """An account that may trade BTCUSDT, with a pair of BNB to USDT and pairs that lead there over others."""
    await database.sql("INSERT INTO accounts (id, name, venue) VALUES (1, 'a', 'paper')")
    for symbol, base, quote in (
        ("BTCUSDT", "BTC", "USDT"),
        ("BNBUSDT", "BNB", "USDT"),
        ("USDTTRY", "USDT", "TRY"),
        ("XBTC", "X", "BTC"),
        ("YX", "Y", "X"),
        ("ZY", "Z", "Y"),
    ):
        await database.sql(
            "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min)"
            " VALUES ('binance', $1, $2, $3, 0.01, 0.00001, 0.00001, 9000, 5)",
            symbol, base, quote,
        )  # fmt: skip
    return database


async def bar(db: Database, symbol: str, open_time: datetime, close: float, timeframe: str = "1m") -> None:
    await db.sql(
        "INSERT INTO ohlcv_data (time, symbol, timeframe, open, high, low, close, volume) VALUES ($1,$2,$3,$4,$4,$4,$4,1)",
        open_time, symbol, timeframe, close,
    )  # fmt: skip


async def trade(db: Database, fee: str, currency: str, *, at: datetime = T0, instance: str = "one") -> None:
    await db.sql(
        "INSERT INTO trades (fill_id, account_id, venue, symbol, instance, trade_type, quantity, price, fee, "
        "fee_currency, time) VALUES (gen_random_uuid(), 1, 'paper', 'BTCUSDT', $1, 'BUY', 1, 50000, $2, $3, $4)",
        instance, D(fee), currency, at,
    )  # fmt: skip


async def run_hourly(db: Database, clock: Clock, **portfolio: object) -> str:
    settings = Settings(portfolio=Portfolios(**portfolio))  # type: ignore[arg-type]
    task = TASKS["daily-performance"][1]
    return await task(TaskServices(db, clock, settings, Continuous(db, clock, settings)))


async def test_a_third_assets_fee_counts_at_the_last_close_before_the_trade(traded: Database, clock: Clock) -> None:
    await bar(traded, "BNBUSDT", T0.replace(second=0) - timedelta(minutes=2), 590)
    await bar(traded, "BNBUSDT", T0.replace(second=0) - timedelta(minutes=1), 600)
    await bar(traded, "BNBUSDT", T0.replace(second=0), 999)  # it ends after the trade
    await trade(traded, "0.01", "BNB")
    await trade(traded, "2", "USDT")
    await trade(traded, "0.0001", "BTC")
    await run_hourly(traded, clock)
    [day] = await traded.sql(DAY)
    assert (day["fees"], day["fees_unvalued"]) == (D(6) + 2 + 5, 0)
    rows = await traded.sql("SELECT trade_id = 1, fee_quote, fee_rate FROM trade_fees")
    assert [tuple(row) for row in rows] == [(True, 6, 600)]


@pytest.mark.parametrize(
    ("currency", "bars", "value"),
    [
        ("TRY", {"USDTTRY": 40.0}, "0.025"),  # the inverse of a price
        ("X", {"XBTC": 0.5, "BTCUSDT": 50_000.0}, "25000"),
        ("Y", {"YX": 0.1, "XBTC": 0.5, "BTCUSDT": 50_000.0}, "2500"),
        ("Z", {"ZY": 1.0, "YX": 0.1, "XBTC": 0.5, "BTCUSDT": 50_000.0}, None),  # four prices
        ("BNB", {}, None),
        ("", {}, None),  # the venue named no currency
    ],
)
async def test_a_rate_over_three_prices_at_most_or_none(
    traded: Database, clock: Clock, currency: str, bars: dict[str, float], value: str | None
) -> None:
    for symbol, close in bars.items():
        await bar(traded, symbol, T0.replace(second=0) - timedelta(minutes=1), close)
    await trade(traded, "1", currency)
    await trade(traded, "2", "USDT")
    await run_hourly(traded, clock)
    [day] = await traded.sql(DAY)
    assert (day["fees"], day["fees_unvalued"]) == (D(value or 0) + 2, int(value is None))


async def test_a_day_of_unvalued_fees_alone_has_no_sum(traded: Database, clock: Clock) -> None:
    await trade(traded, "1", "BNB")
    assert "1 fees have no rate" in await run_hourly(traded, clock)
    [day] = await traded.sql(DAY)
    assert (day["fees"], day["fees_unvalued"]) == (None, 1)


async def test_an_old_bar_is_no_rate_and_a_bar_that_comes_later_is(traded: Database, clock: Clock) -> None:
    await bar(traded, "BNBUSDT", T0 - timedelta(hours=3), 500, "1h")
    await trade(traded, "0.01", "BNB")
    await run_hourly(traded, clock, rate_age_max_s=3600)
    assert [tuple(row) for row in await traded.sql(DAY)] == [(None, 1)]
    await bar(traded, "BNBUSDT", T0.replace(minute=0, second=0) - timedelta(hours=1), 610, "1h")  # imported
    await run_hourly(traded, clock, rate_age_max_s=3600)
    assert [tuple(row) for row in await traded.sql(DAY)] == [(D("6.1"), 0)]


async def test_a_stablecoin_is_another_only_when_it_is_configured(traded: Database, clock: Clock) -> None:
    await trade(traded, "3", "USDC")
    await run_hourly(traded, clock)
    assert [tuple(row) for row in await traded.sql(DAY)] == [(None, 1)]
    await run_hourly(traded, clock, equal_currencies=("USDC=USDT",))
    assert [tuple(row) for row in await traded.sql(DAY)] == [(D(3), 0)]


async def test_a_contracts_fee_in_dollars_counts_at_once(traded: Database, clock: Clock) -> None:
    """NinjaTrader's commissions: no instrument lists the symbol, and its name ends with no currency."""
    await traded.sql(
        "INSERT INTO trades (fill_id, account_id, venue, symbol, trade_type, quantity, price, fee, fee_currency, time)"
        " VALUES (gen_random_uuid(), 1, 'ninja', 'NQ 12-26', 'BUY', 1, 20000, 4.5, 'USD', $1)",
        T0,
    )
    await traded.sql("REFRESH MATERIALIZED VIEW daily_account_performance")
    assert [tuple(row) for row in await traded.sql(DAY)] == [(D("4.5"), 0)]
    await run_hourly(traded, clock)
    assert [tuple(row) for row in await traded.sql(DAY)] == [(D("4.5"), 0)]


@pytest.mark.parametrize(
    ("symbol", "base", "quote", "fee_currency", "value"),
    [
        ("AAPL", "", "", None, "2"),  # not listed: a fee without a currency is one in quote
        ("AAPL", "AAPL", "USD", "USD", "2"),
        ("AAPL", "AAPL", "USD", "EUR", None),
    ],
)
async def test_a_fee_booked_by_hand_is_valued_where_its_currency_is_known(
    traded: Database, symbol: str, base: str, quote: str, fee_currency: str | None, value: str | None
) -> None:
    listed = Listed("nasdaq", symbol, base, quote, D(1), has_bars=False, is_collected=False)
    trade = ManualTrade(1, Side.BUY, D(1), D(100), D(2), fee_currency, "MARKET", to_ns(T0))
    for is_new in (True, False):
        assert (await book(traded, listed, trade))[1] is is_new
    await traded.sql("REFRESH MATERIALIZED VIEW daily_account_performance")
    assert [tuple(row) for row in await traded.sql(DAY)] == [(None if value is None else D(value), int(value is None))]


async def test_drift_counts_third_fees_at_their_value_and_names_how_many_have_none(traded: Database) -> None:
    signal = uuid.uuid4()
    await traded.sql(
        "INSERT INTO signals (id, source, instance, params_version, account_id, venue, symbol, ts_event, kind, side) "
        "VALUES ($1, 'strategy', 'one', 1, 1, 'paper', 'BTCUSDT', $2, 'enter', 'buy')",
        signal,
        T0,
    )
    await traded.sql(
        "INSERT INTO orders (client_order_id, intent_id, signal_id, account_id, venue, symbol, instance, role, side, "
        "type, quantity, state) "
        "VALUES ('c', $1, $1, 1, 'paper', 'BTCUSDT', 'one', 'entry', 'buy', 'market', 3, 'FILLED')",
        signal,
    )
    for fee, currency in (("0.01", "BNB"), ("0.02", "BNB"), ("2", "USDT")):
        await trade(traded, fee, currency)
    await traded.sql("UPDATE trades SET client_order_id = 'c'")
    await traded.sql("INSERT INTO trade_fees (trade_id, fee_quote, fee_rate) VALUES (1, 6, 600)")
    span = (T0 - timedelta(days=1), T0 + timedelta(days=1))
    [row] = await traded.fetch("drift.made", "one", 1, *span, "BTC", "USDT")
    assert (row["quantity"], row["fee"], row["unvalued"]) == (3, 8, 1)
