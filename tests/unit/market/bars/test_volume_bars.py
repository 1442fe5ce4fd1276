"""Volume bars: made of trades alone, exact, and run by both engines with the same result."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from fks.config.risk import Risk
from fks.market.bars.columns import aggregate_bars, volume_bars
from fks.market.files.bars import ImportOptions, read_bars
from fks.model.bar import Bars
from fks.model.errors import InputError
from fks.model.features import aligned
from fks.model.timeframe import NS, check_bar_kind, volume_of
from fks.research.backtest import resample, run, sample, setup_for
from fks.research.backtest.series import periods_of
from fks.research.jobs.backtest import BarsRequest
from fks.research.jobs.bars import load_trades
from fks.strategies.registry import load_catalogue

START = 1_704_067_200 * NS  # 2024-01-01


def made(*trades: tuple[float, float, float], timeframe: str = "vol10") -> Bars:
    """Return the bars of trades: seconds, price, quantity."""
    seconds, price, quantity = (np.array(column, dtype=np.float64) for column in zip(*trades, strict=True))
    time_ns = START + (seconds * NS).astype(np.int64)
    return volume_bars("BTCUSDT", timeframe, time_ns, price, quantity)


def test_a_volume_bar_ends_with_the_trade_that_fills_it() -> None:
    bars = made((0, 100, 4), (1, 103, 4), (2, 99, 3.5), (60, 98, 10), (61, 97, 9.999), (90, 96, 0.001), (91, 95, 9))
    columns = (bars.open, bars.high, bars.low, bars.close, bars.volume)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == [
        (100, 103, 99, 99, 11.5),  # a trade is not parted: the bar holds more
        (98, 98, 98, 98, 10),
        (97, 97, 96, 96, 10),  # to the last thousandth; what follows is no full bar
    ]
    assert ((bars.time_ns - START) // NS).tolist() == [0, 60, 61]
    assert (bars.ends_ns - START).tolist() == [2 * NS + 1, 60 * NS + 1, 90 * NS + 1]


def test_trades_of_one_time_are_in_one_volume_bar() -> None:
    bars = made((0, 100, 10), (0, 101, 10), (0, 102, 1), (5, 90, 12))
    assert (bars.close.tolist(), bars.volume.tolist()) == ([102, 90], [21, 12])
    assert len(made((0, 100, 4), (0, 101, 5))) == 0


def test_names_of_volume_bars() -> None:
    assert [volume_of(name) for name in ("vol1000", "vol0.5", "1m", "vol0", "vol-1", "vol", "volume")] == [
        Decimal(1000),
        Decimal("0.5"),
        *[None] * 5,
    ]
    for wrong in ("vol0", "vol1e3", "vol", "1x"):
        with pytest.raises(InputError, match="unknown timeframe"):
            check_bar_kind(wrong)
    with pytest.raises(InputError, match="older than the one before"):
        made((5, 1, 1), (4, 1, 1))


def test_bars_of_time_are_no_source_of_volume_bars(tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        resample(sample(), "vol1000")
    assert raised.value.code == "TRADES_NEEDED"
    file = tmp_path / "BTCUSDT-1m.csv"
    file.write_text("time,open,high,low,close,volume\n2024-01-01T00:00Z,1,1,1,1,5\n2024-01-01T00:01Z,1,1,1,1,5\n")
    with pytest.raises(InputError) as raised:
        read_bars(file, ImportOptions(timeframe="vol10"), now_ns=START * 2)
    assert raised.value.code == "TRADES_NEEDED"


def test_volume_bars_are_no_source_of_bars_of_time() -> None:
    for larger, code in ((resample, "TIMEFRAME_FINER"), (aggregate_bars, "TIMEFRAME_MISMATCH")):
        with pytest.raises(InputError) as raised:
            larger(many(300), "1h")
        assert raised.value.code == code


def test_volume_bars_of_a_further_symbol_are_refused() -> None:
    own, other = made((0, 100, 10), (60, 101, 10)), made((0, 50, 4), (1000, 99, 10))
    with pytest.raises(InputError) as raised:
        own.joined({"ETHUSDT": other})
    assert raised.value.code == "INPUT_TIMEFRAME", "its bar of the same open ends a quarter of an hour later"


def test_a_volume_bar_counts_for_the_day_on_which_it_ends() -> None:
    day = 86_400
    bars = made((0, 100, 10), (day - 60, 101, 5), (day + 3600, 102, 5), (day + 7200, 103, 10))
    result = run(load_catalogue().make("buy_and_hold", {}), bars, setup_for(bars))
    assert periods_of(result).ends.tolist() == [0, 2], "the second bar was full an hour after midnight"


def many(count: int) -> Bars:
    dice = np.random.default_rng(5)
    time_ns = START + np.cumsum(dice.integers(1, 40, count)) * NS
    price = np.round(100 * np.exp(np.cumsum(dice.normal(0, 0.002, count))), 2)
    return volume_bars("BTCUSDT", "vol25", time_ns, price, np.round(dice.exponential(5, count), 3))


def test_both_engines_run_volume_bars_with_the_same_fills() -> None:
    bars, strategy = many(9_000), load_catalogue().make("sma_cross", {"fast": 5, "slow": 20})
    setup = setup_for(bars)
    found = [run(strategy, bars, setup, engine=engine) for engine in ("compiled", "reference")]
    assert [str(one.engine.name) for one in found] == ["compiled", "reference"]
    assert len(found[0].fills) > 20
    assert found[0].fills == found[1].fills
    assert (found[0].equity == found[1].equity).all()
    assert found[0].inputs_hash == found[1].inputs_hash
    assert found[0].gaps.gaps == 0
    limited = run(strategy, bars, replace(setup, limits=Risk(loss_day_max=Decimal(5))), engine="compiled")
    assert (limited.engine.name, limited.denied != ()) == ("reference", True), "days of a limit go by the ends of bars"
    first = found[0].fills[0]
    row = int(np.flatnonzero(bars.time_ns == first.time_ns)[0])
    assert float(first.price) == bars.open[row], "an order fills at the first trade of the next bar"


def test_an_own_column_is_known_by_the_last_trade_of_a_volume_bar() -> None:
    bars = made((0, 100, 4), (9, 103, 6), (30, 99, 10))
    known = np.array([START + 9 * NS, START + 10 * NS], dtype=np.int64)
    column = aligned(bars, known, known, np.array([1.0, 2.0]))
    assert column.values.tolist() == [1.0, 2.0], "what came after the last trade is not in the bar's value"


def test_a_file_of_trades_is_run_in_volume_bars(tmp_path: Path) -> None:
    rows = [f"{n},{100 + n % 7},{1 + n % 3},0,{(START // NS + 10 * n) * 1000},True,True" for n in range(300)]
    file = tmp_path / "BTCUSDT-trades-2024-01-01.csv"
    file.write_text("\n".join(rows) + "\n")
    request = BarsRequest("BTCUSDT", None, "vol20", START + 600 * NS, None, 3)
    loaded = load_trades(file, request, now_ns=2 * START)
    assert (loaded.instrument.exchange, loaded.bars.timeframe, loaded.bars.calendar) == ("binance", "vol20", "24/7")
    assert (loaded.bars.volume >= 20).all()
    assert int(loaded.bars.time_ns[2]) < START + 600 * NS <= int(loaded.bars.time_ns[3]), "three bars of warm-up"
