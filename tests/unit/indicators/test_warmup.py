"""Every row of the registry: its lookback is exact, it settles as documented, and it never uses a later bar."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.indicators import INDICATORS, compute
from fks.indicators.functions import talib
from fks.indicators.registry import Indicator
from fks.model.bar import Bars, Floats
from fks.model.errors import InputError
from fks.strategies.check import synthetic

ROWS = 6_000
BARS = synthetic(ROWS)
OTHER = Bars(
    "OTHER",
    "1m",
    BARS.time_ns,
    *(getattr(synthetic(2 * ROWS)[ROWS:], n) for n in ("open", "high", "low", "close", "volume")),
)
WAVE = 0.9 * np.sin(np.arange(ROWS) / 7.0)
WINDOWS = 2.0 + np.arange(ROWS) % 20
#: rows whose usual input is not a price, or is no column of bars
INPUTS: dict[str, tuple[Any, ...]] = {"acos": (WAVE,), "asin": (WAVE,), "mavp": ("close", WINDOWS)}
STARTS = (1, 100, 733)


def outputs(row: Indicator, params: Mapping[str, float], rows: slice) -> dict[str, Floats]:
    columns = [c if isinstance(c, str) else c[rows] for c in INPUTS.get(row.name, row.columns)]
    return compute(row.name, BARS[rows], other=OTHER[rows], columns=columns, **params)


def defaults(row: Indicator) -> dict[str, float]:
    return {name: param.default for name, param in row.params.items()}


def scaled(row: Indicator, factor: float) -> dict[str, float]:
    """Return the defaults with every number of bars multiplied."""
    return {
        name: max(int(param.least), round(param.default * factor))
        if isinstance(param.default, int) and param.most > 20
        else param.default
        for name, param in row.params.items()
    }


def assert_lookback_and_settling(row: Indicator, params: Mapping[str, float]) -> None:
    whole = outputs(row, params, slice(None))
    assert tuple(whole) == row.outputs
    first, settled = row.lookback(params), row.settled(params)
    assert settled < ROWS - max(STARTS) - 100, "the tape must be long enough to prove it"
    for name, values in whole.items():
        assert values.shape == (ROWS,)
        assert values.dtype == np.float64
        assert np.isnan(values[:first]).all(), name
        assert not np.isnan(values[first:]).any(), name
    if row.warmup not in ("window", "recursive"):
        return
    for start in STARTS:
        late = outputs(row, params, slice(start, None))
        for name, values in whole.items():
            scale = np.abs(values[first:]).max() or 1.0
            assert np.allclose(late[name][settled:], values[start + settled :], rtol=0, atol=1e-6 * scale), name


PLAIN = [row for row in INDICATORS.values() if row.warmup != "session"]
TYPED = [
    row for row in PLAIN if any(name.endswith(("ma_type", "matype")) for name in row.params) and row.warmup == "window"
]


@pytest.mark.parametrize("row", PLAIN, ids=lambda row: row.name)
def test_lookback_and_settling_are_as_documented(row: Indicator) -> None:
    for params in (defaults(row), scaled(row, 2.0), scaled(row, 0.5)):
        assert_lookback_and_settling(row, params)


@pytest.mark.parametrize("row", TYPED, ids=lambda row: row.name)
@pytest.mark.parametrize("kind", [0, 1, 2, 3, 4, 5, 6, 8, 9, 12, 13])
def test_the_type_of_an_average_decides_how_it_settles(row: Indicator, kind: int) -> None:
    types = {name: float(kind) for name in row.params if name.endswith(("ma_type", "matype"))}
    assert_lookback_and_settling(row, {**defaults(row), **types})


@pytest.mark.parametrize("row", INDICATORS.values(), ids=lambda row: row.name)
def test_the_values_of_a_prefix_never_change(row: Indicator) -> None:
    params = defaults(row)
    whole = outputs(row, params, slice(None))
    for count in (row.lookback(params) + 1, row.lookback(params) + 2, 1_439, 1_441, 2_881, ROWS - 1):
        for name, values in outputs(row, params, slice(count)).items():
            assert np.array_equal(values, whole[name][:count], equal_nan=True), (name, count)


@given(st.data())
def test_the_values_of_a_prefix_never_change_with_any_parameters(data: st.DataObject) -> None:
    row = data.draw(st.sampled_from([row for row in PLAIN if row.params]))
    params = scaled(row, data.draw(st.floats(0.2, 3.0)))
    count = data.draw(st.integers(2, 900))
    whole = outputs(row, params, slice(900))
    for name, values in outputs(row, params, slice(count)).items():
        assert np.array_equal(values, whole[name][:count], equal_nan=True), name


@pytest.mark.parametrize("row", INDICATORS.values(), ids=lambda row: row.name)
def test_bars_that_are_too_few_give_no_value(row: Indicator) -> None:
    params = defaults(row)
    for count in {0, 1, row.lookback(params)}:
        for values in outputs(row, params, slice(count)).values():
            assert values.shape == (count,)
            assert np.isnan(values[: row.lookback(params)]).all()


def test_every_function_of_talib_has_one_row() -> None:
    found = [row.talib for row in INDICATORS.values() if row.talib]
    assert sorted(found) == sorted(talib().get_functions())
    assert len(found) == len(set(found))


PATTERNS = [row for row in INDICATORS.values() if row.group == "Pattern Recognition"]


@pytest.mark.parametrize("row", PATTERNS, ids=lambda row: row.name)
def test_candle_patterns_are_marks_and_not_prices(row: Indicator) -> None:
    values = outputs(row, defaults(row), slice(None))[row.name]
    assert set(np.unique(values[row.lookback(defaults(row)) :])) <= {-200.0, -100.0, -80.0, 0.0, 80.0, 100.0, 200.0}


def test_a_second_series_must_be_given_and_have_the_same_times() -> None:
    with pytest.raises(InputError, match=r"indicator beta needs a second series; it reads close other\.close"):
        compute("beta", BARS)
    with pytest.raises(InputError, match="got bars of OTHER with other times than those of SYNTHETIC"):
        compute("beta", BARS, other=OTHER[1:])
    with pytest.raises(InputError, match="needs a column 'periods', which bars do not have"):
        compute("mavp", BARS)


def test_other_columns_than_the_default_ones_may_be_chosen() -> None:
    mean = compute("sma", BARS, period=5, columns=("volume",))["sma"]
    assert mean[-1] == pytest.approx(BARS.volume[-5:].mean())
    assert compute("highest", BARS, period=5, columns=(BARS.high,))["highest"][-1] == BARS.high[-5:].max()
    with pytest.raises(InputError, match="reads 1 columns, not 2"):
        compute("sma", BARS, columns=("high", "low"))
    with pytest.raises(InputError, match=r"got a column of shape \(3,\) for 6000 bars"):
        compute("sma", BARS, columns=(np.zeros(3),))


def test_parameters_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(InputError, match="TA-Lib MAVP refuses") as caught:
        compute("mavp", BARS, columns=("close", WINDOWS), period_min=30, period_max=5)
    assert caught.value.code == "INDICATOR_PARAM"


@pytest.mark.parametrize(
    ("wrong", "near"), [("supertrendd", "supertrend"), ("CDLENGULFING", "cdlengulfing"), ("?", "sma")]
)
def test_an_unknown_indicator_names_similar_ones(wrong: str, near: str) -> None:
    with pytest.raises(InputError, match=near) as caught:
        compute(wrong, BARS)
    assert caught.value.code == "INDICATOR_UNKNOWN"
