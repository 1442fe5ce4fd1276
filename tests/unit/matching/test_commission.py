"""Commissions: texts, and the cost of a fill."""

from __future__ import annotations

from decimal import Decimal

import pytest

from fks.matching import Commission, CostModel
from fks.model.errors import InputError
from fks.model.instrument import Instrument
from fks.model.order import Side

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
    ],
)
def test_a_text_names_a_commission(text: str, quantity: str, amount: str, again: str) -> None:
    commission = Commission.parse(text)
    assert commission.of(D(quantity)) == D(amount)
    assert str(commission) == again
    assert Commission.parse(again) == commission


@pytest.mark.parametrize(
    "text", ["2.25", "each", "-1 each", "1 each min", "1 each min -1", "0.0000001 each", "1e3 each"]
)
def test_what_is_no_commission_is_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        Commission.parse(text)
    assert caught.value.code == "COMMISSION_UNKNOWN"
    assert "2.25 each" in caught.value.remedy


def test_a_commission_is_beside_the_rate_and_all_in_quote() -> None:
    costs = CostModel(D("0.001"), "received", commission=Commission.parse("0.01 each min 2"))
    assert costs.fee_in == "quote"
    for side in Side:
        assert costs.fee(side, D(100), D(50), SHARE) == (D("7.00000000"), "USD")
        assert costs.fee(side, D(500), D(50), SHARE) == (D("30.00000000"), "USD")
