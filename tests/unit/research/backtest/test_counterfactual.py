"""Entries that were not made, valued on bars: by the fill rule and costs of a backtest."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.model.bar import Bars
from fks.model.instrument import Instrument
from fks.model.order import OrderType, Role, Side
from fks.model.timeframe import NS, bar_end
from fks.research.backtest import Setup
from fks.research.backtest.counterfactual import Ending, UnmadeEntry, value
from fks.research.backtest.limits import UNLIMITED
from fks.strategies.check import synthetic
from fks.strategies.sma_cross import SmaCross
from fks.trading.matching import CostModel
from tests.support.backtests import run
from tests.support.strategies import START_NS

D = Decimal
FREE = CostModel(D(0))
INSTRUMENT = Instrument("binance", "BTCUSDT", "BTC", "USDT", D("0.01"), D("0.00001"), D("0.00001"), D(9000), D(5))


def bars(*rows: tuple[float, float, float, float]) -> Bars:
    """Return minutes of (open, high, low, close)."""
    columns = [np.array(column, dtype=np.float64) for column in zip(*rows, strict=True)]
    times = START_NS + np.arange(len(rows), dtype=np.int64) * 60 * NS
    return Bars("BTCUSDT", "1m", times, *columns, np.ones(len(rows)))


FLAT = (100.0, 101.0, 99.0, 100.0)
RISE = bars(FLAT, (100.0, 106.0, 99.5, 105.0), (105.0, 112.0, 104.0, 111.0), (111.0, 113.0, 96.0, 97.0))
BUY = UnmadeEntry(Side.BUY, D(2), START_NS + 60 * NS)


def minute(number: int) -> int:
    return START_NS + number * 60 * NS


def test_market_entry_fills_at_the_next_open_and_is_marked_at_the_last_close() -> None:
    found = value(BUY, RISE, FREE, INSTRUMENT)
    assert (found.ending, found.entry_ns, found.entry_price) == (Ending.OPEN, minute(1), D(100))
    assert (found.exit_price, found.pnl) == (D(97), D(-6))


def test_decision_to_leave_fills_at_the_open_after_it() -> None:
    found = value(replace(BUY, left_ns=minute(3)), RISE, FREE, INSTRUMENT)
    assert (found.ending, found.exit_ns, found.exit_price, found.pnl) == (Ending.EXIT, minute(3), D(111), D(22))


@pytest.mark.parametrize(
    ("stop_loss", "take_profit", "ending", "price"),
    [
        (D(98), D(110), Ending.TAKE_PROFIT, D(110)),
        (D("99.5"), D(110), Ending.STOP_LOSS, D("99.5")),  # in the entry's own bar
        (D(98), D(150), Ending.STOP_LOSS, D(98)),
        (None, D(112), Ending.TAKE_PROFIT, D(112)),
        (D(104), None, Ending.STOP_LOSS, D(100)),  # the entry's price is beyond it already
        (D(98), D("99.5"), Ending.TAKE_PROFIT, D(100)),
        (D(104), D("99.5"), Ending.STOP_LOSS, D(100)),
    ],
)
def test_protections_end_it_at_their_price(
    stop_loss: Decimal | None, take_profit: Decimal | None, ending: Ending, price: Decimal
) -> None:
    entry = replace(BUY, stop_loss=stop_loss, take_profit=take_profit)
    found = value(entry, RISE, FREE, INSTRUMENT)
    assert (found.ending, found.exit_price, found.pnl) == (ending, price, 2 * (price - 100))


def test_short_entry_gains_when_the_price_falls() -> None:
    entry = replace(BUY, side=Side.SELL, decided_ns=minute(3), take_profit=D(97))
    found = value(entry, RISE, FREE, INSTRUMENT)
    assert (found.ending, found.pnl) == (Ending.TAKE_PROFIT, D(28))


@pytest.mark.parametrize(
    ("entry", "price"),
    [
        (replace(BUY, type=OrderType.LIMIT, limit=D("99.5")), D("99.5")),
        (replace(BUY, type=OrderType.LIMIT, limit=D(102)), D(100)),  # marketable: at the open
        (replace(BUY, type=OrderType.LIMIT, limit=D(97), until_ns=minute(3)), None),  # reached when it was over
        (replace(BUY, type=OrderType.LIMIT, limit=D(97)), D(97)),
        (replace(BUY, type=OrderType.STOP, stop=D(110)), D(110)),
        (replace(BUY, type=OrderType.STOP, stop=D(120)), None),
        (replace(BUY, type=OrderType.STOP_LIMIT, stop=D(110), limit=D(110)), D(110)),
        (replace(BUY, type=OrderType.STOP_LIMIT, stop=D(110), limit=D(98)), D(98)),  # triggered, then rests
    ],
)
def test_resting_entry_fills_at_its_price_in_time_or_not_at_all(entry: UnmadeEntry, price: Decimal | None) -> None:
    found = value(entry, RISE, FREE, INSTRUMENT)
    assert found.entry_price == price
    assert (found.ending is Ending.UNFILLED) == (price is None)


@pytest.mark.parametrize(
    ("entry", "row", "ending", "exit_number"),
    [
        # filled inside its bar at 99, which may have risen to 103 before: the next bar's rise counts
        (replace(BUY, type=OrderType.LIMIT, limit=D(99)), (100.0, 104.0, 98.0, 100.0), Ending.TAKE_PROFIT, 2),
        # the stop loss is looked at in the entry's own bar
        (replace(BUY, type=OrderType.LIMIT, limit=D(99)), (100.0, 104.0, 94.0, 100.0), Ending.STOP_LOSS, 1),
        # marketable when it came, so it fills at the open, before the rise
        (replace(BUY, type=OrderType.LIMIT, limit=D(102)), (100.0, 104.0, 98.0, 100.0), Ending.TAKE_PROFIT, 1),
        (replace(BUY, type=OrderType.STOP, stop=D(101)), (100.0, 104.0, 98.0, 100.0), Ending.TAKE_PROFIT, 1),
    ],
)
def test_limit_entry_inside_a_bar_takes_no_profit_in_that_bar(
    entry: UnmadeEntry, row: tuple[float, float, float, float], ending: Ending, exit_number: int
) -> None:
    tape = bars(FLAT, row, (100.0, 104.0, 99.0, 103.0), FLAT)
    found = value(replace(entry, stop_loss=D(95), take_profit=D(103)), tape, FREE, INSTRUMENT)
    assert (found.ending, found.exit_ns) == (ending, minute(exit_number))


def test_limit_entry_without_a_stop_loss_takes_its_profit_from_the_next_bar_on() -> None:
    tape = bars(FLAT, (100.0, 104.0, 98.0, 100.0), (100.0, 101.0, 99.0, 100.0), (100.0, 105.0, 99.0, 104.0))
    entry = replace(BUY, type=OrderType.LIMIT, limit=D(99), take_profit=D(103))
    found = value(entry, tape, FREE, INSTRUMENT)
    assert (found.ending, found.exit_ns) == (Ending.TAKE_PROFIT, minute(3))
    left = value(replace(entry, left_ns=minute(1)), tape, FREE, INSTRUMENT)
    assert left.ending is Ending.EXIT


def test_nothing_stored_after_the_decision_has_no_value() -> None:
    found = value(replace(BUY, decided_ns=minute(4)), RISE, FREE, INSTRUMENT)
    assert (found.ending, found.pnl, found.entry_price) == (Ending.NO_BARS, D(0), None)


def test_fees_are_taken_from_the_value() -> None:
    entry = replace(BUY, take_profit=D(110))
    in_quote = value(entry, RISE, CostModel(D("0.001"), "quote"), INSTRUMENT)
    assert (in_quote.fees, in_quote.pnl) == (D("0.42"), D("19.58"))
    received = value(entry, RISE, CostModel(D("0.001"), "received"), INSTRUMENT)
    assert received.fees == D("0.44")  # 0.002 BTC of the entry, worth 110 each at the exit, and 0.22 USDT


@given(fast=st.integers(2, 8), more=st.integers(1, 20), stop=st.sampled_from([None, 0.1, 0.5]))
def test_each_trade_of_a_backtest_is_valued_as_the_backtest_made_it(fast: int, more: int, stop: float | None) -> None:
    """Were every entry of a strategy denied, each would be valued at what its trade made, fees in quote."""
    tape, costs = synthetic(300), CostModel(D("0.001"), "quote")
    setup = Setup(INSTRUMENT, costs, "quantity", D(1), cash=D(10**9), limits=UNLIMITED)
    strategy = SmaCross(fast=fast, slow=fast + more, sl_pct=stop)
    made = run(strategy, tape, setup)
    decided = {fill.time_ns: fill for fill in made.fills if fill.role is Role.ENTRY}
    for trade in made.trades:
        row = int(np.searchsorted(tape.time_ns, trade.entry_ns)) - 1
        close = D(repr(float(tape.close[row])))
        level = None
        if stop is not None:
            raw = D(repr(float(tape.close[row] * (1 - stop / 100))))
            level = INSTRUMENT.round_price(raw, side="sell", is_stop=True)
        assert close > 0
        entry = UnmadeEntry(
            trade.side,
            trade.quantity,
            bar_end(int(tape.time_ns[row]), "1m"),
            stop_loss=level,
            left_ns=trade.exit_ns if trade.reason is Role.EXIT else None,
        )
        found = value(entry, tape, costs, INSTRUMENT)
        assert found.entry_price == decided[trade.entry_ns].price
        assert (found.exit_ns, found.exit_price) == (trade.exit_ns, trade.exit_price)
        assert abs(found.pnl - trade.pnl) <= D("1e-8")
