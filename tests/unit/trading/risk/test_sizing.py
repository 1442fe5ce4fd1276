"""Sizing never spends more than decided and never leaves the lot grid."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.model.account import Position
from fks.model.errors import InputError
from fks.model.order import Role, State
from fks.model.signal import Kind
from fks.strategies.check import synthetic
from fks.trading.risk.holdings import entries_of
from fks.trading.risk.intent import intend_entry, intend_exit
from fks.trading.risk.sizing import Sizing, SizingMissing, entry_quantity, exit_quantity
from fks.trading.risk.volatility import volatilities, volatility_at
from tests.support.order_rig import signal_of
from tests.support.order_values import an_instrument, an_order

D = Decimal
STEPS = st.sampled_from([D("0.00001"), D("0.001"), D("0.5"), D(1), D(10)])
MONEY = st.decimals(D("0.01"), D(10_000_000), places=2)
PRICES = st.decimals(D("0.00000001"), D(1_000_000), places=8).filter(lambda price: price > 0)


@given(size=MONEY, price=PRICES, step=STEPS)
def test_a_notional_is_never_exceeded_and_one_more_step_would_exceed_it(
    size: Decimal, price: Decimal, step: Decimal
) -> None:
    instrument = an_instrument(lot_step=step)
    quantity = entry_quantity("notional", size, price, instrument)
    assert quantity % step == 0
    assert quantity * price <= size < (quantity + step) * price


@given(size=MONEY, price=PRICES, step=STEPS, share=st.decimals(D("0.000001"), D(1), places=6))
def test_a_share_of_an_entry_is_the_most_whole_steps_of_that_share(
    size: Decimal, price: Decimal, step: Decimal, share: Decimal
) -> None:
    instrument = an_instrument(lot_step=step)
    whole = entry_quantity("notional", size, price, instrument)
    quantity = entry_quantity("notional", size, price, instrument, share=share)
    assert quantity % step == 0
    assert quantity <= whole * share < quantity + step
    signal = signal_of(size_share=share, reference_price=price)
    intent = intend_entry(signal, sizing="notional", size=size, instrument=instrument, price=None)
    assert intent.quantity == quantity


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


# ── percent of the equity ────────────────────────────────────────────────────────────────────────
@given(
    equity=MONEY, price=PRICES, step=STEPS, percent=st.decimals(D("0.01"), D(300), places=2),
    away=st.decimals(D("0.001"), D("0.9"), places=3),
)  # fmt: skip
def test_no_more_of_the_equity_is_lost_at_the_stop_than_decided(
    equity: Decimal, price: Decimal, step: Decimal, percent: Decimal, away: Decimal
) -> None:
    instrument = an_instrument(lot_step=step)
    stop = price * (1 - away)
    quantity = entry_quantity("risk_pct", percent, price, instrument, equity=equity, stop_loss=stop)
    assert quantity % step == 0
    assert quantity * (price - stop) <= equity * percent / 100 < (quantity + step) * (price - stop)
    worth = entry_quantity("equity_pct", percent, price, instrument, equity=equity)
    assert worth * price <= equity * percent / 100 < (worth + step) * price
    by_range = entry_quantity("atr_pct", percent, price, instrument, equity=equity, volatility=price * away)
    assert by_range * price * away <= equity * percent / 100 < (by_range + step) * price * away


def test_the_equity_sizes_in_round_numbers() -> None:
    item = an_instrument()
    assert entry_quantity("equity_pct", D(50), D(100), item, equity=D(10_000)) == D(50)
    assert entry_quantity("risk_pct", D(1), D(100), item, equity=D(10_000), stop_loss=D(95)) == D(20)
    assert entry_quantity("risk_pct", D(1), D(100), item, equity=D(10_000), stop_loss=D(105)) == D(20)  # a short's
    assert entry_quantity("stdev_pct:5", D(1), D(100), item, equity=D(10_000), volatility=D(4)) == D(25)
    assert entry_quantity("equity_pct", D(50), D(100), item, equity=D(-5)) == 0
    assert entry_quantity("risk_pct", D(1), D(100), item, equity=D(10_000), stop_loss=D(100)) == 0


@pytest.mark.parametrize(
    ("sizing", "known", "code"),
    [
        ("equity_pct", {}, "PRICE_MISSING"),
        ("risk_pct", {"equity": D(1000)}, "NO_PROTECTION"),
        ("atr_pct", {"equity": D(1000)}, "PRICE_MISSING"),
    ],
)
def test_an_entry_that_lacks_what_sizes_it_is_not_sized(sizing: str, known: dict[str, Decimal], code: str) -> None:
    with pytest.raises(SizingMissing) as error:
        entry_quantity(sizing, D(1), D(100), an_instrument(), **known)
    assert error.value.code == code


@pytest.mark.parametrize("text", ["all", "notional:3", "atr_pct:1", "atr_pct:1001", "atr_pct:", "risk_pct:5", ""])
def test_an_unknown_sizing_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="unknown sizing"):
        Sizing.parse(text)


def test_a_sizing_is_written_with_its_bars() -> None:
    assert [str(Sizing.parse(text)) for text in ("atr_pct", "stdev_pct", "atr_pct:7", "risk_pct")] == [
        "atr_pct:14",
        "stdev_pct:20",
        "atr_pct:7",
        "risk_pct",
    ]


def test_a_live_entry_is_sized_by_its_rounded_stop() -> None:
    signal = signal_of(stop_loss=D("90.006"), reference_price=D(100))
    intent = intend_entry(
        signal, sizing="risk_pct", size=D(1), instrument=an_instrument(), price=None, equity=D(10_000)
    )
    assert (intent.stop_loss, intent.quantity) == (D("90.00"), D(10))


# ── volatility ───────────────────────────────────────────────────────────────────────────────────
def test_volatilities_are_those_of_the_formulas() -> None:
    bars = synthetic(200)
    ranges = np.maximum(bars.high[1:], bars.close[:-1]) - np.minimum(bars.low[1:], bars.close[:-1])
    moves = np.diff(bars.close)
    for index in (20, 77, 199):
        atr, spread = (volatility_at(Sizing.parse(text), bars, index) for text in ("atr_pct:14", "stdev_pct:20"))
        assert float(atr or 0) == pytest.approx(ranges[index - 14 : index].mean(), abs=2e-8)
        assert float(spread or 0) == pytest.approx(moves[index - 20 : index].std(ddof=1), abs=2e-8)
    assert volatility_at(Sizing.parse("atr_pct:14"), bars, 13) is None
    assert volatility_at(Sizing.parse("notional"), bars, 100) is None


@pytest.mark.parametrize("text", ["atr_pct:14", "stdev_pct:20"])
def test_one_bar_has_the_volatility_that_all_bars_give_it(text: str) -> None:
    bars, sizing = synthetic(300), Sizing.parse(text)
    indexes = np.arange(300)
    for index, value in zip(indexes.tolist(), volatilities(sizing, bars, indexes).tolist(), strict=True):
        one = volatility_at(sizing, bars[max(0, index - 25) :], min(index, 25))
        assert one == (None if value < 0 else D(value).scaleb(-8))


def test_an_order_that_is_checked_again_before_its_bytes_is_no_entry_beside_itself() -> None:
    """A commit that took over a second: the order is reserved by then, and was refused for its own sake."""
    signal = signal_of(instance="one")
    intent = intend_entry(signal, sizing="notional", size=D(1000), instrument=an_instrument(), price=None)
    flat = Position(1, "ccxt", "BTCUSDT", "one", D(0), D(0), D(0), D(0))
    changes = {
        "role": Role.ENTRY,
        "symbol": intent.symbol,
        "instance": "one",
        "side": intent.side,
        "state": State.SENDING,
    }
    own = an_order(intent_id=intent.intent_id, **changes)
    assert entries_of(intent, flat, [own], an_instrument(), D(100)) == 0
    assert entries_of(intent, flat, [own, an_order(**changes)], an_instrument(), D(100)) == 1
