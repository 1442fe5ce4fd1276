"""Contract specifications, prices in 32nds, and contracts as instruments."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.model.errors import InputError
from fks.model.futures import (
    SPECS,
    contract_of,
    format_price,
    futures_calendar,
    instrument_of_symbol,
    parse_price,
    stored_name,
)
from fks.model.futures.specs import MONTH_CODES

TICK_VALUES = {
    "ES": "12.5", "MES": "1.25", "NQ": "5", "MNQ": "0.5", "RTY": "5", "M2K": "0.5", "YM": "5", "MYM": "0.5",
    "CL": "10", "MCL": "1", "GC": "10", "MGC": "1", "SI": "25", "ZB": "31.25", "ZN": "15.625", "6E": "6.25",
}  # fmt: skip


def test_tick_values_are_those_of_the_exchange() -> None:
    assert {root: spec.tick_value for root, spec in SPECS.items()} == {
        root: Decimal(value) for root, value in TICK_VALUES.items()
    }


def test_each_specification_has_a_source_and_is_consistent() -> None:
    for root, spec in SPECS.items():
        assert spec.root == root
        assert spec.source.startswith("http")
        assert spec.source_date.year >= 2026
        assert set(spec.front_months) <= set(spec.months) <= set(MONTH_CODES)
        full, number = spec.full_size
        assert SPECS[full].point_value == spec.point_value * number
        assert SPECS[full].last_day is spec.last_day or root == "MCL"


@given(st.sampled_from(tuple(SPECS)), st.integers(1, 200_000))
def test_shown_prices_are_read_back(root: str, ticks: int) -> None:
    spec = SPECS[root]
    price = ticks * spec.tick
    assert parse_price(spec, format_price(spec, price)) == price
    assert parse_price(spec, f"{price:f}") == price


@pytest.mark.parametrize(
    ("root", "text", "price"),
    [
        ("ZB", "117'01", "117.03125"),
        ("ZB", "117.03125", "117.03125"),
        ("ZN", "110'16.5", "110.515625"),
        ("ZN", "110'165", "110.515625"),
        ("ZN", "110'160", "110.5"),
        ("6E", "1.08765", "1.08765"),
    ],
)
def test_treasury_prices_are_read_in_32nds(root: str, text: str, price: str) -> None:
    assert parse_price(SPECS[root], text) == Decimal(price)


@pytest.mark.parametrize(
    ("root", "text", "code"),
    [
        ("ES", "5000'01", "PRICE_FORM"),
        ("ZB", "117'32", "PRICE_FORM"),
        ("ZB", "117'01.5", "PRICE_TICK"),
        ("ZN", "110'162", "PRICE_TICK"),
        ("ES", "5000.13", "PRICE_TICK"),
        ("ES", "NaN", "PRICE_FORM"),
        ("ES", "Infinity", "PRICE_FORM"),
        ("ES", "", "PRICE_FORM"),
    ],
)
def test_prices_off_the_grid_or_in_another_form_are_refused(root: str, text: str, code: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_price(SPECS[root], text)
    assert refused.value.code == code


def test_contract_is_an_instrument_with_its_multiplier() -> None:
    for symbol in ("ES 03-25", "ESH25"):
        found = instrument_of_symbol("ninjatrader", symbol)
        assert found is not None
        assert (found.tick, found.multiplier, found.lot_step, found.quote) == (Decimal("0.25"), 50, 1, "USD")
        assert (found.symbol, found.base, found.is_contract) == (symbol, "ESH25", True)
    assert instrument_of_symbol("binance", "ESH25") is None
    assert instrument_of_symbol("ninjatrader", "AAPL") is None


def test_symbols_of_futures_have_one_spelling_and_a_calendar() -> None:
    assert stored_name("cme", "ESH25") == stored_name("ninjatrader", "ES 03-25") == "ES 03-25"
    assert stored_name("bitstamp", "ESH25") == "ESH25"
    assert stored_name("ninjatrader", "AAPL") == "AAPL"
    assert contract_of("BTCUSDT") is None
    assert futures_calendar("ninjatrader", "NQ 06-25") == "CMES"
    assert futures_calendar("ninjatrader", "NQ") == "CMES"
    assert futures_calendar("ninjatrader", "FDAX 06-25") == "CMES"
    assert futures_calendar("ninjatrader", "AAPL") is None
    assert futures_calendar("binance", "NQ 06-25") is None
