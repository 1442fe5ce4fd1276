"""Numbers as the pages show them: prices and quantities at the steps of their instrument."""

from __future__ import annotations

import pytest

from fks.interfaces.web.formats import MINUS, NOTHING, at_step, number, places_by_symbol, places_of


@pytest.mark.parametrize(
    ("value", "places", "more", "shown"),
    [
        ("63500.5", 2, 0, "63,500.50"),
        ("63500.51234567891", 2, 2, "63,500.5123"),  # an average of several fills
        ("63500", 2, 2, "63,500.0000"),
        ("4512", 0, 0, "4,512"),
        ("0.35", 5, 0, "0.35000"),
        ("-2.5", 4, 0, f"{MINUS}2.5000"),
        ("0", 5, 0, "0.00000"),
        (64000.1, 2, 0, "64,000.10"),  # bars are JSON numbers
        ("0.0000031", 5, 0, "0.0000031"),  # less than a lot is left
        ("0.0000096", 5, 0, "0.0000096"),
        ("0.00001", 5, 0, "0.00001"),
        ("Infinity", 2, 0, "Infinity"),
        ("63500.51234567891", None, 2, "63,500.51234568"),
        ("1200.500", None, 0, "1,200.5"),
        ("1200", None, 0, "1,200"),
        (None, 2, 0, NOTHING),
        ("", None, 0, NOTHING),
        ("NaN", 2, 0, "NaN"),
    ],
)
def test_prices_and_quantities_have_the_digits_of_their_step(
    value: object, places: int | None, more: int, shown: str
) -> None:
    assert at_step(value, places, more) == shown


def test_step_has_its_digits_whatever_its_trailing_zeros() -> None:
    steps = ("0.01", "0.01000000", "0.25", "1", "5", "100", "1E-8", "0.03125")
    assert [places_of(step) for step in steps] == [2, 2, 2, 0, 0, 0, 8, 5]


def test_symbol_without_an_exchange_has_the_most_digits() -> None:
    rows = [
        {"exchange": "binance", "symbol": "BTCUSDT", "tick": "0.01", "lot_step": "0.00001"},
        {"exchange": "kraken", "symbol": "BTCUSDT", "tick": "0.1", "lot_step": "0.0000001"},
        {"exchange": "kraken", "symbol": "OLD", "tick": None, "lot_step": None},
    ]
    found = places_by_symbol(rows)
    assert found["kraken", "BTCUSDT"] == {"tick": 1, "lot_step": 7}
    assert found["", "BTCUSDT"] == {"tick": 2, "lot_step": 7}
    assert ("", "OLD") not in found


def test_number_with_more_digits_than_a_decimal_has_is_shown_whole() -> None:
    assert number("1" + "0" * 24, 10) == "1" + ",000" * 8
