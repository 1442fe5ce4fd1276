"""Benchmarks of portfolios: their texts, and the levels of a blend."""

from __future__ import annotations

import numpy as np
import pytest

from fks.model.errors import InputError
from fks.trading.portfolio.benchmark import benchmark_levels, parse_benchmark, text_of

DAY_NS = 86_400 * 10**9
BTC, ETH = ("binance", "BTCUSDT"), ("kraken", "ETHUSD")


@pytest.mark.parametrize(
    "text", ["BTC/USDT", "cash:0.04", "cash:-0.01", "0.6*binance:BTCUSDT+0.4*cash:0.04", "0.5*A+0.25*B+0.25*C"]
)
def test_a_text_is_read_and_written_again(text: str) -> None:
    assert text_of(parse_benchmark(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "+", "0.6*BTC", "0.6*BTC+0.5*ETH", "2*BTC", "NaN*BTC", "-1*BTC+2*ETH", "x*BTC", "0.5*+0.5*ETH"),
        *("cash:", "cash:x", "cash:NaN", "cash:11", "cash:-1", "+".join(["0.1*A"] * 10)),
    ],
)
def test_a_text_that_is_no_benchmark_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(InputError, match="is not understood") as refused:
        parse_benchmark(text)
    assert (refused.value.code, "whose weights add up to 1" in refused.value.remedy) == ("PORTFOLIO_WRONG", True)


def test_a_blend_has_its_weights_again_after_each_day() -> None:
    closes = {BTC: np.array([100.0, 110.0, 99.0]), ETH: np.array([10.0, 10.0, 12.0])}
    levels = benchmark_levels(parse_benchmark("0.5*binance:BTCUSDT+0.5*kraken:ETHUSD"), closes, [0, DAY_NS, 2 * DAY_NS])
    assert levels is not None
    assert levels == pytest.approx([1.0, 1.05, 1.05 * (0.5 * 0.9 + 0.5 * 1.2)])


def test_a_missing_close_is_a_gap_and_a_symbol_without_any_is_no_benchmark() -> None:
    parts = parse_benchmark("0.5*binance:BTCUSDT+0.5*cash:0")
    levels = benchmark_levels(parts, {BTC: np.array([100.0, np.nan, 120.0])}, [0, DAY_NS, 2 * DAY_NS])
    assert levels == pytest.approx([1.0, np.nan, 1.1], nan_ok=True)
    assert benchmark_levels(parts, {}, [0]) is None


def test_cash_grows_by_its_yearly_rate() -> None:
    assert benchmark_levels(parse_benchmark("cash:0.04"), {}, [0, 365 * DAY_NS]) == pytest.approx([1.0, 1.04])
