"""Rates need a price, a trading day begins where the setting says, and a day's profit is realised plus open less
fees."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.model.accounting.valuation import Rates, valued
from fks.model.order import Side
from fks.model.timeframe import to_ns
from fks.trading.risk.valuation import DayFlows, day_profit, day_start_ns, held_over
from tests.support.order_values import a_fill, an_instrument

D = Decimal
LISTED = {
    (item.exchange, item.symbol): item
    for item in (
        an_instrument(),
        an_instrument(symbol="ETHBTC", base="ETH", quote="BTC"),
        an_instrument(symbol="SOLETH", base="SOL", quote="ETH"),
        an_instrument(symbol="BTCEUR", quote="EUR"),
        an_instrument(symbol="ARBSOL", base="ARB", quote="SOL"),
        an_instrument(exchange="okx", symbol="BTC-USDT"),
    )
}
PRICES = {
    ("binance", "BTCUSDT"): D(100_000),
    ("binance", "ETHBTC"): D("0.05"),
    ("binance", "SOLETH"): D("0.04"),
    ("binance", "BTCEUR"): D(80_000),
    ("binance", "ARBSOL"): D("0.01"),
    ("okx", "BTC-USDT"): D(100_100),
}


@pytest.mark.parametrize(
    ("currency", "into", "expected"),
    [
        ("USDT", "USDT", "1"),
        ("BTC", "USDT", "100000"),
        ("USDT", "BTC", "0.00001"),
        ("ETH", "USDT", "5000"),
        ("EUR", "USDT", "1.25"),
        ("SOL", "BTC", "0.002"),
        ("SOL", "USDT", "200"),  # two currencies between
        ("ARB", "USDT", None),  # three currencies between
        ("USDC", "USDT", None),  # no stablecoin is another
    ],
)
def test_a_rate_is_the_product_of_three_prices_at_most(currency: str, into: str, expected: str | None) -> None:
    rate = Rates(PRICES, LISTED, "binance").rate(currency, into)
    assert rate == (None if expected is None else D(expected))


def test_preferred_exchange_gives_the_price() -> None:
    assert Rates(PRICES, LISTED, "okx").rate("BTC", "USDT") == 100_100
    assert Rates({("okx", "BTC-USDT"): D(7)}, LISTED, "binance").rate("BTC", "USDT") == 7


@pytest.mark.parametrize(
    ("now", "zone", "hour", "start"),
    [
        ("2026-11-21T00:00:00Z", "UTC", 0, "2026-11-21T00:00:00Z"),
        ("2026-11-21T23:59:59Z", "UTC", 0, "2026-11-21T00:00:00Z"),
        ("2026-11-21T21:59:59Z", "UTC", 22, "2026-11-20T22:00:00Z"),
        ("2026-07-01T21:59:59Z", "America/Chicago", 17, "2026-06-30T22:00:00Z"),
        ("2026-12-01T23:00:00Z", "America/Chicago", 17, "2026-12-01T23:00:00Z"),
        ("2026-03-29T12:00:00Z", "Europe/Berlin", 0, "2026-03-28T23:00:00Z"),  # the clocks changed since
        ("2026-10-25T23:30:00Z", "Europe/Berlin", 0, "2026-10-25T23:00:00Z"),
    ],
)
def test_a_trading_day_begins_at_its_hour_in_its_zone(now: str, zone: str, hour: int, start: str) -> None:
    assert day_start_ns(time_of(now), zone, hour) == time_of(start)


def time_of(text: str) -> int:
    return to_ns(datetime.fromisoformat(text))


def a_day(*fills: Any) -> DayFlows:
    day = DayFlows()
    for fill in fills:
        day = day.after(fill, an_instrument())
    return day


def profit(held: str, day: DayFlows, price: str, start: str | None = None) -> dict[str, Decimal]:
    starts = {} if start is None else {"BTCUSDT": D(start)}
    found = day_profit({"BTCUSDT": D(held)}, day, {"BTCUSDT": an_instrument()}, {"BTCUSDT": D(price)}, starts)
    assert found.unpriced == ()
    return dict(found.by_currency)


def test_realised_and_open_loss_and_fees_are_one_sum() -> None:
    bought = a_fill(1, quantity=D(4), price=D(100), fee=D("0.4"), fee_currency="USDT")
    sold = a_fill(2, quantity=D(1), price=D(90), side=Side.SELL, fee=D("0.001"), fee_currency="BNB")
    day = a_day(bought, sold)
    assert profit("3", day, "95") == {"USDT": D(-10) - 15 - D("0.4"), "BNB": D("-0.001")}
    assert held_over({"BTCUSDT": D(3)}, day) == []


def test_a_fee_in_base_is_what_is_not_held() -> None:
    day = a_day(a_fill(1, quantity=D(4), price=D(100), fee=D("0.01"), fee_currency="BTC"))
    assert profit("3.99", day, "100") == {"USDT": D(-1)}


def test_what_was_held_before_counts_from_the_days_start() -> None:
    sold = a_fill(1, quantity=D(1), price=D(120), side=Side.SELL)
    assert held_over({"BTCUSDT": D(1)}, a_day(sold)) == ["BTCUSDT"]
    assert profit("1", a_day(sold), "110", start="130") == {"USDT": D(-30)}
    assert profit("1", a_day(sold), "110") == {"USDT": D(10)}  # no price of the start: from now on


def test_what_has_no_price_is_named() -> None:
    found = day_profit({"ETHBTC": D(1)}, DayFlows(), {}, {}, {})
    assert found.unpriced == ("ETHBTC",)
    assert valued({"BTC": D(-2), "BNB": D(1)}, {"BTC": D(10)}) == (D(-20), ("BNB",))


SIDES = st.sampled_from(Side)
AMOUNTS = st.decimals(D("0.001"), D(10), places=3)
QUOTES = st.decimals(D("0.01"), D(1000), places=2)


@given(fills=st.lists(st.tuples(SIDES, AMOUNTS, QUOTES, QUOTES), max_size=6), opening=AMOUNTS, start=QUOTES, now=QUOTES)
def test_a_days_profit_is_the_change_of_cash_and_coins(
    fills: Any, opening: Decimal, start: Decimal, now: Decimal
) -> None:
    coins, cash, day = opening, D(0), DayFlows()
    for number, (side, quantity, price, fee) in enumerate(fills):
        day = day.after(
            a_fill(number, side=side, quantity=quantity, price=price, fee=fee, fee_currency="USDT"), an_instrument()
        )
        coins, cash = coins + side.sign * quantity, cash - side.sign * quantity * price - fee
    expected = coins * now + cash - opening * start
    assert profit(str(coins), day, str(now), str(start)).get("USDT", D(0)) == expected
