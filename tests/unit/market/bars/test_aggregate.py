"""Bars are exactly the aggregate of their trades, in every timeframe."""

from __future__ import annotations

import itertools
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.market.bars.aggregate import (
    BarBuilder,
    BarStart,
    OpenBar,
    aggregate_bars,
    aggregate_trades,
    by_length,
    exact_decimal,
    fold_bars,
    starts_of,
)
from fks.model.bar import Bar, Bars, PublicTrade
from fks.model.errors import InputError
from fks.model.market import TradeIds
from fks.model.timeframe import NS, TIMEFRAMES, bar_end, bar_start
from tests.support.recorded import EXCERPT, SHARED, agg_trades, public_trades, raw_trades, slow_bars

ALL = tuple(TIMEFRAMES)
START = bar_start(1_709_251_190 * NS, "5s")  # 2024-02-29 23:59:50: a leap day, a month's end, not a week's


def trade(number: int, time_ns: int, price: str, quantity: str = "1", count: int = 1) -> PublicTrade:
    return PublicTrade("binance", "BTCUSDT", number, time_ns, Decimal(price), Decimal(quantity), False, count)


ticks = st.integers(1, 10**9).map(lambda n: Decimal(n).scaleb(-2))
lots = st.integers(0, 10**7).map(lambda n: Decimal(n).scaleb(-5))
steps = st.integers(0, 40_000_000_000)


@st.composite
def streams(draw: st.DrawFn) -> list[PublicTrade]:
    rows = draw(st.lists(st.tuples(steps, ticks, lots, st.integers(1, 5)), min_size=1, max_size=40))
    now, made = START, []
    for number, (step, price, quantity, count) in enumerate(rows):
        now += step
        made.append(PublicTrade("binance", "BTCUSDT", number, now, price, quantity, False, count))
    return made


def built(trades: list[PublicTrade], frames: tuple[str, ...] = ALL, through_ns: int | None = None) -> list[Bar]:
    builder = BarBuilder(BarStart("binance", "BTCUSDT", frames, bar_start(trades[0].time_ns, by_length(frames)[0])))
    bars: list[Bar] = []
    for item in trades:
        made = builder.add(item)
        assert made is not None
        bars += made
    return bars + builder.seal_through(
        bar_end(bar_start(trades[-1].time_ns, "1m"), "1m") if through_ns is None else through_ns
    )


@given(streams())
def test_bars_equal_a_plain_sum_of_their_trades(trades: list[PublicTrade]) -> None:
    bars = built(trades)
    for frame in ("1s", "5s", "1m"):
        traded = slow_bars(trades, frame)
        mine = {bar.time_ns: bar for bar in bars if bar.timeframe == frame and bar.is_complete}
        for start, (open_, high, low, close, volume, count) in traded.items():
            if start not in mine:  # it began before the builder, or is not over
                assert start < bar_start(trades[0].time_ns, "1s") or bar_end(start, frame) > bar_end(
                    bar_start(trades[-1].time_ns, "1m"), "1m"
                )
                continue
            bar = mine[start]
            numbers = (bar.open, bar.high, bar.low, bar.close, bar.volume)
            assert tuple(map(exact_decimal, numbers)) == (open_, high, low, close, volume)
            assert bar.trades == count


@given(streams())
def test_base_bars_are_contiguous_and_no_trade_bars_flat(trades: list[PublicTrade]) -> None:
    bars = [bar for bar in built(trades) if bar.timeframe == "1s"]
    assert [bar.time_ns for bar in bars] == [bars[0].time_ns + i * NS for i in range(len(bars))]
    for before, bar in itertools.pairwise(bars):
        if bar.trades == 0:
            assert (bar.open, bar.high, bar.low, bar.close, bar.volume) == (before.close,) * 4 + (0.0,)


@given(
    streams(), st.sampled_from([("1s", "5s"), ("5s", "15s"), ("1s", "1m"), ("15s", "1m"), ("1m", "5m"), ("1s", "15s")])
)
def test_a_timeframe_equals_the_aggregate_of_a_smaller_one(trades: list[PublicTrade], pair: tuple[str, str]) -> None:
    small, large = pair
    end_ns = bar_end(bar_start(trades[-1].time_ns, "5m"), "5m")
    bars = built(trades, through_ns=end_ns)
    smaller = [bar for bar in bars if bar.timeframe == small and bar.is_complete]
    larger = [bar for bar in bars if bar.timeframe == large and bar.is_complete]
    assert fold_bars(smaller, large, end_ns) == larger
    columns = aggregate_bars(Bars.of("BTCUSDT", small, list(smaller)), large)
    assert [columns.bar(i, "binance") for i in range(len(columns))] == [
        Bar(b.exchange, b.symbol, b.timeframe, b.time_ns, b.open, b.high, b.low, b.close, b.volume) for b in larger
    ] or any(b.volume == 0 and b.trades for b in smaller)  # columns know silence by volume alone


@given(streams(), st.integers(0, 39))
def test_a_builder_started_in_the_middle_with_seeds_makes_the_same_bars(trades: list[PublicTrade], cut: int) -> None:
    whole = built(trades)
    begin = bar_start(trades[min(cut, len(trades) - 1)].time_ns, "1s")
    earlier = [bar for bar in whole if bar.timeframe == "1s" and bar.time_ns < begin]
    seeds = {}
    for frame in by_length(ALL)[1:]:
        seeds[frame] = OpenBar.at(begin, frame)
        for bar in earlier:
            if bar.time_ns >= seeds[frame].start_ns:
                seeds[frame].fold_bar(bar)
    previous = exact_decimal(earlier[-1].close) if earlier else None
    builder = BarBuilder(BarStart("binance", "BTCUSDT", ALL, begin, seeds=seeds, previous=previous))
    bars: list[Bar] = []
    for item in trades:
        if item.time_ns >= begin:
            bars += builder.add(item) or []
    bars += builder.seal_through(bar_end(bar_start(trades[-1].time_ns, "1m"), "1m"))
    begun = {frame: bar_start(trades[0].time_ns, frame) for frame in ALL}
    expected = [b for b in whole if bar_end(b.time_ns, b.timeframe) > begin and b.time_ns > begun[b.timeframe]]
    assert [b for b in bars if b.time_ns > begun[b.timeframe]] == expected


@given(
    streams(),
    st.sampled_from([TradeIds.CONTIGUOUS, TradeIds.RISING, TradeIds.OPAQUE]),
    st.randoms(use_true_random=False),
)
def test_order_of_trades_inside_a_bar_does_not_matter(trades: list[PublicTrade], ids: TradeIds, dice: Random) -> None:
    shuffled = sorted(trades, key=lambda t: (bar_start(t.time_ns, "5s"), dice.random()))
    builder = BarBuilder(BarStart("binance", "BTCUSDT", ("5s", "1m"), bar_start(trades[0].time_ns, "5s"), ids=ids))
    bars: list[Bar] = []
    for item in shuffled:
        bars += builder.add(item) or []
    end_ns = bar_end(bar_start(trades[-1].time_ns, "1m"), "1m")
    assert bars + builder.seal_through(end_ns) == built(trades, ("5s", "1m"), end_ns)


def test_months_and_weeks_end_where_the_calendar_says() -> None:
    bars = built([trade(1, START, "10"), trade(2, 1_711_929_600 * NS, "11")], ("1h", "1d", "1w", "1M"))
    ends = {(b.timeframe, b.time_ns // NS) for b in bars if b.timeframe in ("1w", "1M")}
    assert ("1M", 1_706_745_600) in ends  # February 2024, 29 days
    assert ("1M", 1_709_251_200) in ends  # March
    assert ("1w", 1_708_905_600) in ends  # Monday 26 February
    assert not [b for b in bars if b.timeframe == "1M" and b.time_ns // NS == 1_706_745_600 and b.is_complete]


def test_open_is_the_first_trade_after_no_trade_bars() -> None:
    bars = built(
        [trade(1, START, "10"), trade(2, START + 62 * NS, "20"), trade(3, START + 200 * NS, "1")], ("1s", "1m")
    )
    minute = next(b for b in bars if b.timeframe == "1m" and b.trades and b.is_complete)
    assert (minute.open, minute.high, minute.low, minute.close) == (20.0, 20.0, 20.0, 20.0)


def test_late_trade_is_not_counted() -> None:
    builder = BarBuilder(BarStart("binance", "BTCUSDT", ("1s",), START))
    builder.add(trade(1, START, "10"))
    builder.seal_through(START + NS)
    assert builder.add(trade(2, START + NS - 1, "99")) is None
    assert builder.add(trade(3, START + 2 * NS, "11")) == [
        Bar("binance", "BTCUSDT", "1s", START + NS, 10.0, 10.0, 10.0, 10.0, 0.0, is_empty=True)
    ]


def test_a_number_that_a_float_cannot_hold_makes_the_bar_incomplete() -> None:
    bars = built([trade(1, START, "12345678901.12345678"), trade(2, START + NS, "10")], ("1s",))
    assert [bar.is_complete for bar in bars[:2]] == [False, True]


def test_nothing_is_sealed_before_there_is_a_price() -> None:
    builder = BarBuilder(BarStart("binance", "BTCUSDT", ("1s", "5s"), START))
    assert builder.seal_through(START + 20 * NS) == []


def test_no_empty_bars_where_the_exchange_sends_none() -> None:
    stream = [trade(1, START, "10"), trade(2, START + 3 * NS, "11"), trade(3, START + 70 * NS, "12")]
    builder = BarBuilder(BarStart("coinbase", "BTCUSDT", ("1s", "5s", "1m"), START, emits_empty=False))
    bars = [bar for item in stream for bar in builder.add(item) or []]
    assert [(bar.time_ns - START) // NS for bar in bars if bar.timeframe == "1s"] == [0, 3]
    assert [(bar.time_ns - START) // NS for bar in bars if bar.timeframe == "5s"] == [0]
    assert not any(bar.is_empty for bar in bars)
    whole = built(stream, ("1s", "5s", "1m"))
    assert [bar for bar in whole if not bar.is_empty and bar.time_ns < START + 70 * NS] == [
        replace(bar, exchange="binance") for bar in bars
    ]
    assert [bar.is_empty for bar in whole if bar.timeframe == "1s"][:4] == [False, True, True, False]


def test_smaller_bars_may_be_absent_after_since() -> None:
    minutes = [Bar("coinbase", "X", "1m", m * 60 * NS, 1.0 + m, 2.0 + m, 1.0, 1.5 + m, 0.1) for m in (2, 4, 6, 13)]
    assert [bar.time_ns // NS for bar in fold_bars(minutes, "5m", 900 * NS)] == [300, 600]
    whole = fold_bars(minutes, "5m", 900 * NS, since_ns=0)
    assert [(bar.time_ns // NS, bar.open, bar.high, bar.close, bar.volume) for bar in whole] == [
        (0, 3.0, 6.0, 5.5, 0.2),
        (300, 7.0, 8.0, 7.5, 0.1),
        (600, 14.0, 15.0, 14.5, 0.1),
    ]
    columns = Bars.of("X", "1m", minutes)
    for start_ns, expected in ((None, whole[1:]), (0, whole)):
        mine = aggregate_bars(columns, "5m", start_ns=start_ns, end_ns=900 * NS)
        assert [mine.bar(row, "coinbase") for row in range(len(mine))] == expected


def test_volumes_are_summed_exactly_at_any_precision() -> None:
    volumes = [0.1, 0.2, 0.3, 1e-8, 123456.12345678]
    rows = Bars("X", "1m", np.arange(5) * 60 * NS, *(np.ones(5) for _ in range(4)), np.array(volumes))
    assert aggregate_bars(rows, "5m").volume.tolist() == [float(sum(map(exact_decimal, volumes)))]
    with pytest.raises(InputError, match="more than 12 decimal places"):
        aggregate_bars(Bars("X", "1m", rows.time_ns, *(np.ones(5) for _ in range(4)), np.full(5, 1 / 3)), "5m")


def test_overflow_is_per_bar_not_per_column() -> None:
    rng = np.random.default_rng(1)
    volumes = np.round(rng.random(525_600) * 2e5, 8)
    rows = Bars(
        "X",
        "1m",
        1_709_251_200 * NS + np.arange(len(volumes)) * 60 * NS,
        *(np.ones(len(volumes)) for _ in range(4)),
        volumes,
    )
    made = aggregate_bars(rows, "1h")
    assert made.volume[:3].tolist() == [
        float(sum(map(exact_decimal, volumes[at : at + 60].tolist()))) for at in (0, 60, 120)
    ]
    volumes = np.append(np.full(4, 2e10), 1e-8)
    rows = Bars("X", "1m", 1_709_251_200 * NS + np.arange(5) * 60 * NS, *(np.ones(5) for _ in range(4)), volumes)
    with pytest.raises(
        InputError,
        match=r"the volumes of one bar add up to more than 4\.61e\+10, which 8 decimal places leave room for",
    ):
        aggregate_bars(rows, "5m")


@pytest.mark.parametrize(("small", "large"), [("5m", "1m"), ("1M", "1w"), ("1w", "1M"), ("4h", "5m"), ("15m", "nine")])
def test_impossible_aggregation_is_refused(small: str, large: str) -> None:
    rows = Bars("X", small, np.arange(5) * 60 * NS, *(np.ones(5) for _ in range(5)))
    with pytest.raises(InputError) as error:
        aggregate_bars(rows, large)
    assert error.value.code in ("TIMEFRAME_MISMATCH", "TIMEFRAME_UNKNOWN")


def test_trades_in_columns_must_be_in_order() -> None:
    times = np.array([2, 1, 3], dtype=np.int64)
    with pytest.raises(InputError, match="trade 1 is older"):
        aggregate_trades("X", "1m", times, np.ones(3), np.ones(3), start_ns=0, end_ns=60 * NS)
    assert len(aggregate_trades("X", "1m", times[:0], np.ones(0), np.ones(0), start_ns=0, end_ns=60 * NS)) == 0


@given(streams(), st.sampled_from(["1s", "5s", "1m", "1h"]))
def test_trades_in_columns_make_the_bars_of_the_builder(trades: list[PublicTrade], frame: str) -> None:
    begin, end = bar_start(trades[0].time_ns, frame), bar_end(bar_start(trades[-1].time_ns, frame), frame)
    made = aggregate_trades(
        "BTCUSDT",
        frame,
        np.array([t.time_ns for t in trades]),
        np.array([float(t.price) for t in trades]),
        np.array([float(t.quantity) for t in trades]),
        start_ns=begin,
        end_ns=end,
    )
    bars = [made.bar(row) for row in range(len(made))]
    rows = [(b.time_ns, *map(exact_decimal, (b.open, b.high, b.low, b.close, b.volume))) for b in bars]
    assert rows == [(start, *numbers[:5]) for start, numbers in slow_bars(trades, frame).items()]


@pytest.mark.parametrize("frame", ALL)
def test_columns_and_scalars_agree_on_bar_starts(frame: str) -> None:
    times = np.array([START + i * 1_234_567_890_123_457 for i in range(200)], dtype=np.int64)
    assert [bar_start(int(t), frame) for t in times] == starts_of(times, frame).tolist()


@pytest.mark.parametrize(
    "path",
    [EXCERPT, SHARED],
)
def test_recorded_trades_make_exact_bars(path: Path) -> None:
    trades = public_trades(agg_trades(raw_trades(path)))
    bars = built(trades)
    for frame in ("1s", "5s", "15s", "1m"):
        expected = slow_bars(trades, frame)
        mine = [bar for bar in bars if bar.timeframe == frame and bar.is_complete]
        assert len(mine) > 0
        for bar in mine:
            if bar.trades:
                numbers = (bar.open, bar.high, bar.low, bar.close, bar.volume)
                assert (*map(exact_decimal, numbers), bar.trades) == expected[bar.time_ns]
            else:
                assert bar.time_ns not in expected
    raw = raw_trades(path)
    assert sum(t.count for t in trades) == len(raw)
