"""Commissions: texts, and the cost of a fill."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from fks.config.settings import Costs
from fks.model.errors import InputError
from fks.model.instrument import Instrument
from fks.model.order import Side
from fks.trading.matching import Commission, CostModel

D = Decimal
SHARE = Instrument("x", "ABC", "ABC", "USD", D("0.01"), D(1), D(1), D(10**6), D(1))


@pytest.mark.parametrize(
    ("text", "quantity", "amount", "again"),
    [
        ("none", "3", "0", "none"),
        ("2.25 each", "3", "6.75", "2.25 each"),
        ("0.005 each min 1", "100", "1", "0.005 each min 1"),
        ("0.0050 EACH MIN 1.00", "300", "1.5", "0.005 each min 1"),
        ("0 each min 0.5", "1", "0.5", "0 each min 0.5"),
        ("0.000001 each", "0.015", "0.00000002", "0.000001 each"),  # 1.5e-8, half-even
        (" 2.0 each , 1.50 each from 10", "12", "23", "2 each, 1.5 each from 10"),
        ("none, 1 each from 10", "12", "2", "none, 1 each from 10"),
        (
            "none, 0.0008/-0.0001 from 1000 quote, 0.0006 from 5000 quote",
            "9",
            "0",
            "none, 0.0008/-0.0001 from 1000 quote, 0.0006 from 5000 quote",
        ),
    ],
)
def test_a_text_names_a_commission(text: str, quantity: str, amount: str, again: str) -> None:
    commission = Commission.parse(text)
    assert commission.of(D(quantity)) == D(amount)
    assert str(commission) == again
    assert Commission.parse(again) == commission


@pytest.mark.parametrize(
    "text",
    [
        *("2.25", "each", "-1 each", "1 each min", "1 each min -1", "0.0000001 each", "1e3 each", "1 each,"),
        *("1 each, 2", "1 each, 2/1 each from 3", "1 each, 2 each from 0", "1 each, 2 each from 5, 1 each from 5"),
        *("1 each, 2 each from 5, 0.1 from 9 quote", "none, 1 from 5 quote", "none, 0.1/-0.02 from 5 quote"),
        "1 each, 1 each from 5 quote",
    ],
)
def test_what_is_no_commission_is_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        Commission.parse(text)
    assert caught.value.code == "COMMISSION_UNKNOWN"
    assert "2.25 each" in caught.value.remedy


@pytest.mark.parametrize(
    ("most", "too_much"),
    [
        ({"commission": "9999.999999 each min 9999"}, {"commission": "10001 each"}),
        ({"commission": "1 each"}, {"commission": "1 each min 20000"}),
        ({"slippage": "9999 ticks"}, {"slippage": "10001 ticks"}),
        ({"slippage": "4999.5 bps"}, {"slippage": "5001 bps"}),
        ({"slippage": "9.999 range"}, {"slippage": "11 range"}),
    ],
)
def test_settings_of_costs_are_refused_where_the_parts_could_not_read_them(most: Any, too_much: Any) -> None:
    CostModel.of(Costs(**most))
    with pytest.raises(ValidationError):
        Costs(**too_much)


def test_a_commission_is_beside_the_rate_and_all_in_quote() -> None:
    costs = CostModel(D("0.001"), "received", commission=Commission.parse("0.01 each min 2"))
    assert costs.fee_in == "quote"
    for side in Side:
        assert costs.fee(side, D(100), D(50), SHARE) == (D("7.00000000"), "USD")
        assert costs.fee(side, D(500), D(50), SHARE) == (D("30.00000000"), "USD")


TIERED = "0.0035 each min 0.35, 0.002 each from 300000, 0.0015 each from 3000000, 0.001 each from 20000000"


def test_tiers_of_units_are_of_the_units_beyond_them() -> None:
    """Source: Interactive Brokers, "Stock and ETF Flat Rate vs. Cost Plus Pricing Comparison Examples", read 2026-11:
    of 30,000,000 shares the first 300,000 cost 1,050, the next 2,700,000 5,400, the next 17,000,000 25,500 and the last
    10,000,000 10,000; 200,000 shares cost 700."""
    commission = Commission.parse(TIERED)
    assert commission.of(D(30_000_000)) == 1050 + 5400 + 25_500 + 10_000
    assert commission.of(D(200_000)) == 700
    parts, traded, paid = (100_000, 200_000, 150_000, 2_549_999, 1, 17_000_000, 10_000_000), 0, D(0)
    for part in parts:
        paid, traded = paid + commission.of(D(part), D(traded)), traded + part
    assert paid == D("41950.00") + D("0.35") - D("0.002"), "the one share has the minimum"


def test_tiers_of_quote_replace_the_rates_of_takers_and_makers() -> None:
    costs = CostModel(
        D("0.001"), fee_rate_maker=D("0.0009"), commission=Commission.parse("none, 0.0008/-0.0001 from 1000 quote")
    )
    assert (costs.fee_in, costs.rate_most) == ("received", D("0.001"))
    for traded, taker, maker in (("999.99", "5", "4.5"), ("1000", "4", "-0.5"), ("9999", "4", "-0.5")):
        for is_maker, fee in ((False, taker), (True, maker)):
            assert costs.fee(Side.SELL, D(100), D(50), SHARE, is_maker=is_maker, traded=D(traded)).amount == D(fee)
