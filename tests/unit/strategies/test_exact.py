"""Exact comparisons: a tie is a tie, wherever the count starts."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.indicators import band_side, compute, cross_side, places_of, rsi, sma, to_ticks
from fks.indicators.exact import cross_sides, load
from fks.model.bar import Bars
from fks.model.errors import InputError
from fks.model.ticks import Whole, ticks_of
from fks.strategies.check import synthetic

ticks = st.lists(st.integers(1, 40), min_size=1, max_size=60)  # a coarse grid: many ties


@given(st.lists(st.integers(1, 400), min_size=2, max_size=40), st.integers(0, 3), st.data())
def test_first_bars_have_the_ticks_of_these_bars_alone(values: list[int], places: int, data: st.DataObject) -> None:
    close = np.array(values) / 10.0**places
    count = data.draw(st.integers(1, len(values)))
    bars = Bars("X", "1m", np.arange(len(values)) * 60 * 10**9, close, close + 1, close, close, close)
    assert bars.ticks.most == ticks_of(close, close + 1, close, close).most
    found, alone = bars.first(count).ticks, ticks_of(*(column[:count] for column in (close, close + 1, close, close)))
    assert (found.places, found.least, found.most) == (alone.places, alone.least, alone.most)
    assert [found.open.tolist(), found.high.tolist()] == [alone.open.tolist(), alone.high.tolist()]


@given(ticks, st.integers(1, 6), st.integers(1, 8))
def test_cross_side_is_what_fractions_say(values: list[int], fast: int, extra: int) -> None:
    slow, last, wanted = fast + extra, 0.0, []
    for i in range(len(values)):
        if i >= slow - 1:
            f = Fraction(sum(values[i - fast + 1 : i + 1]), fast)
            s = Fraction(sum(values[i - slow + 1 : i + 1]), slow)
            last = float(np.sign(int(f > s) - int(f < s))) or last
        wanted.append(last)
    assert cross_side(np.array(values) / 100.0, fast, slow).tolist() == wanted


@given(ticks, st.integers(2, 8), st.sampled_from([0.5, 1.0, 2.0]))
def test_band_side_is_what_fractions_say(values: list[int], period: int, width: float) -> None:
    wanted = []
    for i in range(len(values)):
        if i < period - 1:
            wanted.append(0.0)
            continue
        window = [Fraction(v) for v in values[i - period + 1 : i + 1]]
        mean = sum(window) / period
        variance = sum((v - mean) ** 2 for v in window) / period
        away = window[-1] - mean
        side = float(np.sign(int(away > 0) - int(away < 0)))
        wanted.append(side if away**2 > Fraction(width) ** 2 * variance else side / 2)
    assert band_side(np.array(values) / 100.0, period, width).tolist() == wanted


def test_floats_would_have_decided_ties_by_their_last_bit() -> None:
    bars = synthetic(5000)
    exact = cross_side(bars.close, 3, 4)
    with np.errstate(invalid="ignore"):
        naive = np.sign(sma(bars.close, 3) - sma(bars.close, 4))
    assert (naive[4:] != exact[4:]).any()  # why the exact one exists


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=20), st.integers(0, 6))
def test_ticks_hold_decimals_exactly(values: list[int], places: int) -> None:
    column = np.array([float(f"{v}e-{places}") for v in values])
    found = places_of(column)
    assert found <= places
    assert (to_ticks(column) * 10 ** (places - found)).tolist() == values


def test_long_periods_on_fine_grids_do_not_overflow() -> None:
    dice = np.random.default_rng(1)
    fine = np.round(60_000 + np.cumsum(dice.standard_normal(9000)), 8)
    coarse = np.round(fine, 2)
    assert cross_side(fine, 1500, 4000)[-1] in (-1.0, 1.0)
    assert (cross_side(fine, 1500, 4000) == cross_side(coarse, 1500, 4000)).mean() > 0.99


def test_rsi_of_a_price_that_never_moved_is_no_opinion() -> None:
    values = np.concatenate([np.full(20, 5.0), [5.0, 6.0, 7.0]])
    assert rsi(values, 14)[14:20].tolist() == [50.0] * 6
    assert rsi(values, 14)[21] == 100.0


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("nope", {}, "unknown indicator 'nope'"),
        ("sma", {"length": 3}, "has no parameter 'length'"),
        ("sma", {"period": 1}, "period 1 is out of range; use a whole number from 2"),
        ("sma", {"period": 2.5}, "out of range"),
    ],
)
def test_wrong_indicators_are_refused_in_one_line(name: str, params: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compute(name, synthetic(50), **params)


@given(st.lists(st.integers(1, 40), max_size=80), st.integers(1, 9), st.integers(1, 9))
def test_the_compiled_loop_keeps_the_rule_of_ties(ticks: list[int], fast: int, slow: int) -> None:
    column, side = np.array(ticks, dtype=np.int64), np.empty(len(ticks))
    wanted = cross_side(column.astype(float), fast, slow)
    cross_sides(column, fast, slow, -1.0, side)
    assert side.tolist() == wanted.tolist()
    load()(column, fast, slow, 0.0, side)
    assert side.tolist() == np.maximum(wanted, 0.0).tolist()
    assert cross_side(column.astype(float), fast, slow, exact=Whole(column, 40), below=0.0).tolist() == side.tolist()
