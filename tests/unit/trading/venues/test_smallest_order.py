"""The smallest order of a certificate: it can be sold again, and costs no more than a person allows."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from fks.model.errors import InputError
from fks.model.instrument import Instrument
from fks.trading.venues.certify import smallest_order

D = Decimal
MARKET = Instrument(
    "binance", "BTCUSDT", "BTC", "USDT", D("0.01"), D("0.00001"), D("0.00001"), D(9000), notional_min=D(5)
)
ROWS = {
    "by the least value, a fifth above it": (MARKET, False, D("0.00013")),
    "a step more where the fee is taken from the coin": (MARKET, True, D("0.00014")),
    "by the least quantity": (replace(MARKET, qty_min=D("0.0003")), False, D("0.0003")),
}


@pytest.mark.parametrize("name", ROWS)
def test_the_smallest_order_can_be_sold_at_four_fifths_of_the_price(name: str) -> None:
    instrument, is_fee_received, quantity = ROWS[name]
    found = smallest_order(instrument, D(50_000), D(25), is_fee_received=is_fee_received)
    assert found.quantity == quantity
    assert found.quantity * D(50_000) * D("0.8") >= instrument.notional_min


@pytest.mark.parametrize(
    ("instrument", "cost_max", "code"),
    [(MARKET, D(6), "CERTIFY_TOO_DEAR"), (replace(MARKET, is_trading=False), D(25), "CERTIFY_NOT_TRADED")],
)
def test_an_order_that_is_too_dear_or_not_traded_is_refused(
    instrument: Instrument, cost_max: Decimal, code: str
) -> None:
    with pytest.raises(InputError) as refused:
        smallest_order(instrument, D(50_000), cost_max, is_fee_received=False)
    assert refused.value.code == code
