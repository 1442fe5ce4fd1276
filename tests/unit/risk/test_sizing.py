"""Sizing never spends more than decided and never leaves the lot grid."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fks.model.errors import InputError
from fks.model.signal import Kind
from fks.risk.intent import intend_entry, intend_exit
from fks.risk.sizing import entry_quantity, exit_quantity
from tests.support.order_rig import signal_of
from tests.support.order_values import an_instrument

D = Decimal
STEPS = st.sampled_from([D("0.00001"), D("0.001"), D("0.5"), D(1), D(10)])
MONEY = st.decimals(D("0.01"), D(10_000_000), places=2)
PRICES = st.decimals(D("0.00000001"), D(1_000_000), places=8).filter(lambda price: price > 0)


@settings(max_examples=200)
@given(size=MONEY, price=PRICES, step=STEPS)
def test_a_notional_is_never_exceeded_and_one_more_step_would_exceed_it(
    size: Decimal, price: Decimal, step: Decimal
) -> None:
    instrument = an_instrument(lot_step=step)
    quantity = entry_quantity("notional", size, price, instrument)
    assert quantity % step == 0
    assert quantity * price <= size < (quantity + step) * price


@settings(max_examples=200)
@given(position=st.decimals(D(-1000), D(1000), places=8), step=STEPS)
def test_an_exit_never_sells_more_than_is_held(position: Decimal, step: Decimal) -> None:
    quantity = exit_quantity(position, an_instrument(lot_step=step))
    assert quantity % step == 0
    assert quantity <= abs(position) < quantity + step


def test_unsizable_signal_gets_the_reason() -> None:
    with pytest.raises(InputError, match="unknown sizing 'all'"):
        entry_quantity("all", D(1), D(1), an_instrument())
    with pytest.raises(InputError, match="no price"):
        entry_quantity("notional", D(1), D(0), an_instrument())
    assert entry_quantity("quantity", D("1.00099"), D(0), an_instrument()) == D("1.000")


def test_a_strategys_prices_are_rounded_away_from_harm() -> None:
    signal = signal_of(stop_loss=D("90.006"), take_profit=D("120.004"))
    intent = intend_entry(signal, sizing="notional", size=D(1000), instrument=an_instrument(), price=None)
    assert (intent.stop_loss, intent.take_profit, intent.quantity) == (D("90.00"), D("120.01"), D(10))


def test_dust_leads_to_no_exit() -> None:
    signal = signal_of(Kind.EXIT)
    assert intend_exit(signal, position=D("0.0009"), instrument=an_instrument()) is None
    intent = intend_exit(signal, position=D("-1.0019"), instrument=an_instrument())
    assert intent is not None
    assert (intent.side.value, intent.quantity) == ("buy", D("1.001"))
