"""Expected balance of each asset, and the differences that count as drift."""

from __future__ import annotations

from decimal import Decimal

import pytest

from fks.trading.portfolio.drift import Executed, differences, is_drift, moved_by, total

D = Decimal
ASSETS = {"BTCUSDT": ("BTC", "USDT"), "ETHBTC": ("ETH", "BTC")}


def test_executions_move_base_quote_and_the_fee_currency() -> None:
    found = moved_by(
        [
            Executed("BTCUSDT", True, D(2), D(200), D("0.002"), "BTC"),
            Executed("BTCUSDT", False, D(1), D(110), D("0.1"), "BNB"),
            Executed("ETHBTC", True, D(10), D("0.5"), D("0.01"), "ETH"),
        ],
        ASSETS,
    )
    assert found == {"BTC": D("0.498"), "USDT": D(-90), "BNB": D("-0.1"), "ETH": D("9.99")}


def test_a_trade_and_the_entry_that_takes_it_back_move_nothing() -> None:
    there = Executed("BTCUSDT", True, D(2), D(200), D("0.002"), "BTC")
    back = Executed("BTCUSDT", False, D(2), D(200), D("-0.002"), "BTC")
    assert set(moved_by([there, back], ASSETS).values()) == {D(0)}


def test_a_symbol_without_metadata_is_no_guess() -> None:
    with pytest.raises(KeyError):
        moved_by([Executed("XYZ", True, D(1), D(1), D(0), "")], ASSETS)


def test_differences_are_of_every_asset_of_either_side() -> None:
    expected = total({"BTC": D(1), "USDT": D(100)}, {"USDT": D(-40)})
    assert differences(expected, {"USDT": D(60), "ETH": D(3)}) == {"BTC": D(-1), "ETH": D(3), "USDT": D(0)}


def test_the_tolerance_is_money_where_there_is_a_price() -> None:
    assert not is_drift(D("-0.01"), D(100), D(1))
    assert is_drift(D("-0.0101"), D(100), D(1))
    assert not is_drift(D("0.000001"), None, D(1))
    assert is_drift(D("0.0000011"), None, D(1))
