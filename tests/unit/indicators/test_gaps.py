"""Rows without a value in an indicator's input: NaN while the window holds one, then the values of a series that begins
after them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fks.indicators
from fks.indicators import (
    INDICATORS,
    band_side,
    compute,
    cross_side,
    deviation_numerator,
    higher,
    pivot_points,
    rsi,
    sma,
    to_ticks,
    vwap_session,
    window_sum,
)
from fks.indicators.registry import Indicator
from fks.model.bar import Bars, Floats
from fks.model.errors import InputError
from fks.strategies.check import synthetic

ROWS = 900
PRICES = ("open", "high", "low", "close", "volume")
WHOLE = synthetic(ROWS)
OTHER = Bars("OTHER", "1m", WHOLE.time_ns, *(getattr(synthetic(2 * ROWS)[ROWS:], name) for name in PRICES))
#: rows whose usual input is not a price, or is no column of bars
INPUTS: dict[str, tuple[Any, ...]] = {
    "acos": (0.9 * np.sin(np.arange(ROWS) / 7.0),),
    "asin": (0.9 * np.sin(np.arange(ROWS) / 7.0),),
    "mavp": ("close", 2.0 + np.arange(ROWS) % 20),
}
#: outputs that are numbers of rows, counted from the first one of the column
POSITIONS = ("maxindex", "minindex", "minmaxindex")
PLAIN = [row for row in INDICATORS.values() if row.warmup != "session"]


def columns_of(row: Indicator) -> list[Floats]:
    """Return copies of an indicator's usual inputs."""
    named = [
        getattr(OTHER if name.startswith("other.") else WHOLE, name.removeprefix("other."))
        if isinstance(name, str)
        else name
        for name in INPUTS.get(row.name, row.columns)
    ]
    return [column.copy() for column in named]


def short(row: Indicator) -> dict[str, float]:
    """Return the defaults with every number of bars made smaller."""
    return {
        name: max(int(param.least), round(param.default * 0.4))
        if isinstance(param.default, int) and param.most > 20
        else param.default
        for name, param in row.params.items()
    }


def gap_rows(dice: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return rows: single ones and runs, and by chance the first and the last ones."""
    runs = [(int(first), int(dice.integers(1, 8))) for first in dice.integers(1, ROWS - 10, 3)]
    runs += [(int(first), 1) for first in dice.integers(1, ROWS - 10, 3)]
    if dice.random() < 0.5:
        runs.append((0, int(dice.integers(1, 30))))
    if dice.random() < 0.5:
        runs.append((ROWS - 3, 3))
    return np.unique(np.concatenate([np.arange(first, first + count) for first, count in runs]))


def clean_parts(is_gap: npt.NDArray[np.bool_]) -> Iterator[slice]:
    """Yield the runs of rows that are no gap."""
    first = None
    for i, gone in enumerate([*is_gap.tolist(), True]):
        if gone and first is not None:
            yield slice(first, i)
        first = None if gone else i if first is None else first


@pytest.mark.parametrize("row", PLAIN, ids=lambda row: row.name)
def test_after_a_gap_an_indicator_begins_again(row: Indicator) -> None:
    dice = np.random.default_rng(zlib.crc32(row.name.encode()))
    params = short(row)
    first = row.lookback(params)
    whole = compute(row.name, WHOLE, columns=columns_of(row), **params)
    for _ in range(3):
        columns = columns_of(row)
        for i in gap_rows(dice):  # by chance in one of the inputs alone
            chosen = dice.permutation(len(columns))[: dice.integers(1, len(columns) + 1)]
            for number in chosen:
                columns[number][i] = dice.choice([np.nan, np.inf, -np.inf], p=[0.8, 0.1, 0.1])
        is_gap = ~np.isfinite(columns).all(axis=0)
        found = compute(row.name, WHOLE, columns=columns, **params)
        unbroken = int(np.argmax(is_gap))
        seen = 0
        for name, values in found.items():
            assert np.isnan(values[is_gap]).all(), name
            assert np.array_equal(values[:unbroken], whole[name][:unbroken], equal_nan=True), name
        for part in clean_parts(is_gap):
            alone = compute(row.name, WHOLE[part], columns=[column[part] for column in columns], **params)
            for name, values in found.items():
                assert np.isnan(values[part][:first]).all(), name
                moved = part.start if row.name in POSITIONS else 0
                assert np.array_equal(values[part], alone[name] + moved, equal_nan=True), name
                seen += int(np.isfinite(values[part]).sum())
                if row.warmup == "window":
                    known, same = values[part][first:], whole[name][part][first:]
                    assert np.allclose(known, same, rtol=1e-6, atol=1e-6 * np.abs(whole[name][first:]).max()), name
        assert seen > 200, "parts without a value prove nothing"


def test_functions_with_a_name_of_their_own_are_those_of_the_table() -> None:
    own = {name for name in fks.indicators.__all__ if name in INDICATORS}
    assert len(own) >= 20
    assert all(getattr(fks.indicators, name) is INDICATORS[name].function for name in own)


@pytest.mark.parametrize("row", PLAIN, ids=lambda row: row.name)
def test_inputs_without_a_value_give_none(row: Indicator) -> None:
    columns = [np.full(ROWS, np.nan) for _ in row.columns]
    for values in compute(row.name, WHOLE, columns=columns, **short(row)).values():
        assert values.shape == (ROWS,)
        assert np.isnan(values).all()


def test_an_indicator_of_an_indicator_begins_with_its_first_value() -> None:
    inner = rsi(WHOLE.close, 14)
    assert np.array_equal(sma(inner, 5)[14:], sma(inner[14:], 5), equal_nan=True)
    assert np.isfinite(sma(inner, 5)[18:]).all()
    flat = np.concatenate([np.full(3, np.nan), np.full(20, 5.0)])
    assert rsi(flat, 14)[17:].tolist() == [50.0] * 6


def test_columns_given_are_left_as_they_are() -> None:
    close = WHOLE.close.copy()
    close[[5, 300]] = np.nan
    close.setflags(write=False)
    for name in ("rsi", "zscore", "hurst", "sar"):
        row = INDICATORS[name]
        compute(name, WHOLE, columns=[close] * len(row.columns))


def test_a_series_of_pandas_stays_one() -> None:
    close = WHOLE.close[:60].copy()
    close[[0, 30]] = np.nan
    series = pd.Series(close, index=pd.date_range("2026-01-01", periods=60, freq="1min"))
    found = sma(rsi(series, 5), 3)
    assert found.index.equals(series.index)
    assert np.array_equal(found.to_numpy(), sma(rsi(close, 5), 3), equal_nan=True)


# ── sessions ─────────────────────────────────────────────────────────────────────────────────────
HALF_HOURS = synthetic(48 * 5, "30m")


@pytest.mark.parametrize("name", ["high", "low", "close", "volume"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_gap_ends_the_vwap_of_its_session_alone(name: str, value: float) -> None:
    bars, gap = HALF_HOURS, 48 + 20
    columns = {key: getattr(bars, key).copy() for key in ("high", "low", "close", "volume")}
    columns[name][gap] = value
    whole = vwap_session(bars.time_ns, bars.high, bars.low, bars.close, bars.volume)
    found = vwap_session(bars.time_ns, **columns)
    assert np.isfinite(whole).all()
    assert np.isnan(found[gap:96]).all()
    assert np.array_equal(found[:gap], whole[:gap])
    assert np.array_equal(found[96:], whole[96:])


@pytest.mark.parametrize("name", ["high", "low", "close"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pivot_points_of_a_session_with_a_gap_are_unknown(name: str, value: float) -> None:
    bars, gap = HALF_HOURS, 48 + 20
    columns = {key: getattr(bars, key).copy() for key in ("high", "low", "close")}
    columns[name][gap] = value
    whole = pivot_points(bars.time_ns, bars.high, bars.low, bars.close)
    for found, line in zip(pivot_points(bars.time_ns, **columns), whole, strict=True):
        assert np.isnan(found[96:144]).all()
        assert np.array_equal(found[:96], line[:96], equal_nan=True)
        assert np.array_equal(found[144:], line[144:])


# ── exact helpers ────────────────────────────────────────────────────────────────────────────────
PRICE = st.one_of(st.integers(1, 40).map(lambda tick: tick / 100.0), st.just(np.nan))


def windows_with_gaps(values: Floats, period: int) -> list[bool]:
    return [not np.isfinite(values[max(0, i - period + 1) : i + 1]).all() for i in range(len(values))]


@given(st.lists(PRICE, max_size=60), st.integers(1, 4), st.integers(1, 5))
def test_exact_comparisons_are_nan_while_a_window_holds_a_gap(prices: list[float], fast: int, extra: int) -> None:
    values, slow = np.array(prices, dtype=np.float64), fast + extra
    is_gap = np.array([not np.isfinite(one) for one in prices], dtype=bool)
    for found, period, alone in (
        (cross_side(values, fast, slow), slow, lambda part: cross_side(part, fast, slow)),
        (band_side(values, slow, 1.0), slow, lambda part: band_side(part, slow, 1.0)),
    ):
        is_unknown = np.array(windows_with_gaps(values, period), dtype=bool)
        expected = np.full(len(values), np.nan)
        for part in clean_parts(is_gap):
            expected[part] = alone(values[part])
        expected[is_unknown] = np.nan
        assert np.array_equal(found, expected, equal_nan=True)


def test_deviations_are_in_one_unit_on_both_sides_of_a_gap() -> None:
    values = np.array([1.25, 1.5, 1.25, np.nan, 2.0, 3.0, 4.0])  # hundredths before it, whole numbers after it
    away, spread = deviation_numerator(values, 2)
    assert away[[1, 2, 5, 6]].tolist() == [25.0, -25.0, 100.0, 100.0]
    assert spread[[1, 2, 5, 6]].tolist() == [625.0, 625.0, 10_000.0, 10_000.0]
    assert np.isnan(away[[0, 3, 4]]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_price_that_is_no_number_has_no_ticks(value: float) -> None:
    close = WHOLE.close.copy()
    close[7] = value
    with pytest.raises(InputError, match="row 7"):
        to_ticks(close)
    bars = Bars("X", "1m", WHOLE.time_ns, WHOLE.open, WHOLE.high, WHOLE.low, close, WHOLE.volume)
    with pytest.raises(InputError, match="row 7"):
        _ = bars.ticks


def test_a_sum_is_nan_while_its_window_holds_a_gap() -> None:
    values = np.arange(40.0)
    values[17] = np.nan
    found = window_sum(values, 6)
    assert np.isnan(found).tolist() == [i < 5 or 17 <= i < 23 for i in range(40)]


# ── higher bars ──────────────────────────────────────────────────────────────────────────────────
def test_a_higher_bar_has_no_value_that_a_missing_row_decides() -> None:
    bars = WHOLE[: 15 * 3]
    hidden = {name: getattr(bars, name).copy() for name in PRICES}
    for row in (16, 30):  # in the second bar; the first row of the third
        for column in hidden.values():
            column[row] = np.nan
    whole, found = higher(bars, 15).bars, higher(Bars("X", "1m", bars.time_ns, **hidden), 15).bars
    for name in ("high", "low", "volume"):
        assert np.isnan(getattr(found, name)).tolist() == [False, True, True], name
        assert getattr(found, name)[0] == getattr(whole, name)[0]
    assert found.open[:2].tolist() == whole.open[:2].tolist()
    assert np.isnan(found.open[2])
    assert found.close.tolist() == whole.close.tolist()
