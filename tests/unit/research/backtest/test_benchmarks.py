"""Comparisons that benchmarks/backtest.py and sweep.py make before they time, on a short tape."""

from __future__ import annotations

from benchmarks import _results
from benchmarks.backtest import check_whole, compare_engines, tape
from benchmarks.sweep import check_callback


def test_benchmarks_of_a_backtest_compute_the_same() -> None:
    """With limit entries, stops, targets, limits and the check of the strategy; and with a method per bar."""
    bars = tape(20_000)
    before = _results.compared()
    assert "sl" in check_whole(bars)
    assert check_callback(bars) > 20
    compare_engines(bars[:2_000], 0)
    assert _results.compared() - before == 5 + 4 + 9
