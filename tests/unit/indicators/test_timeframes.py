"""Higher bars inside a strategy: those that are over, equal to those that the exchange would write."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.indicators.timeframes import higher
from fks.market.bars.columns import aggregate_bars
from fks.model.bar import Bars
from fks.model.errors import InputError
from fks.model.timeframe import NS, TIMEFRAMES
from fks.strategies.check import synthetic

WHOLE = synthetic(4000)
MINUTE = 60 * NS


@given(st.integers(0, 300), st.integers(1, 2000), st.sampled_from(["5m", "15m", "1h", "4h", "1d"]))
def test_a_row_knows_the_higher_bars_that_were_over_at_its_end(first: int, count: int, timeframe: str) -> None:
    bars = WHOLE[first : first + count]
    found = higher(bars, timeframe)
    length = TIMEFRAMES[timeframe] * NS
    for i in range(0, len(bars), 17):
        end = int(bars.time_ns[i]) + MINUTE
        over = [int(t) for t in found.bars.time_ns if int(t) + length <= end]
        assert found.row[i] == len(over) - 1
    closes = found.align(found.bars.close)
    assert np.isnan(closes[found.row < 0]).all()
    assert np.array_equal(closes[found.row >= 0], found.bars.close[found.row[found.row >= 0]])


@given(st.integers(0, 300), st.integers(1, 2000), st.sampled_from(["5m", "15m", "1h", "4h"]), st.booleans())
def test_higher_bars_are_those_that_the_exchange_writes(first: int, count: int, timeframe: str, is_thin: bool) -> None:
    bars = WHOLE[first : first + count]
    if is_thin:  # rows without volume are no-trade bars: only their close counts beside rows with volume
        volume = np.where(np.arange(len(bars)) % 3 == 0, 0.0, bars.volume)
        bars = Bars("X", "1m", bars.time_ns, bars.open, bars.high, bars.low, bars.close, volume)
    expected = aggregate_bars(bars, timeframe)
    found = higher(bars, timeframe).bars
    assert found.time_ns.tolist() == expected.time_ns.tolist()
    for name in ("open", "high", "low", "close"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist()
    assert found.volume == pytest.approx(expected.volume)


@given(st.integers(1, 1500), st.integers(2, 130))
def test_what_a_row_knows_does_not_change_when_more_rows_come(count: int, factor: int) -> None:
    whole, part = higher(WHOLE, factor), higher(WHOLE[:count], factor)
    for name in ("close", "high", "volume"):
        late, early = whole.align(getattr(whole.bars, name)), part.align(getattr(part.bars, name))
        assert np.array_equal(early, late[:count], equal_nan=True)


@given(st.integers(0, 500), st.integers(2, 130))
def test_higher_bars_do_not_depend_on_where_the_columns_begin(first: int, factor: int) -> None:
    whole, late = higher(WHOLE, factor), higher(WHOLE[first:], factor)
    known = late.align(late.bars.close)
    is_known = ~np.isnan(known)
    assert is_known[2 * factor :].all()
    assert np.array_equal(known[is_known], whole.align(whole.bars.close)[first:][is_known])


def test_a_factor_is_the_timeframe_of_that_length() -> None:
    assert higher(WHOLE, 60).bars.timeframe == "1h"
    assert higher(WHOLE, 7).bars.timeframe == "7x1m"
    assert higher(WHOLE, 60).bars.close.tolist() == higher(WHOLE, "1h").bars.close.tolist()


def test_a_missing_last_row_closes_the_higher_bar_with_the_next_one() -> None:
    rows = np.array([0, 1, 2, 3, 5, 6])  # the fifth minute is missing
    bars = Bars(
        "X", "1m", WHOLE.time_ns[rows], *(getattr(WHOLE, n)[rows] for n in ("open", "high", "low", "close", "volume"))
    )
    assert higher(bars, "5m").row.tolist() == [-1, -1, -1, -1, 0, 0]


@pytest.mark.parametrize(("timeframe", "count"), [("1s", 10), ("1M", 10), ("nope", 10), (0, 10)])
def test_what_cannot_be_made_of_these_bars_is_refused(timeframe: str | int, count: int) -> None:
    with pytest.raises(InputError, match="bars cannot be made of 1m bars"):
        higher(WHOLE[:count], timeframe)


def test_no_bars_give_no_higher_bars() -> None:
    found = higher(WHOLE[:0], "1h")
    assert (len(found.bars), found.row.tolist()) == (0, [])
    assert higher(WHOLE[:3], "1h").row.tolist() == [-1, -1, -1]
    with pytest.raises(InputError, match="compute it from the higher bars"):
        higher(WHOLE, "1h").align(WHOLE.close)
