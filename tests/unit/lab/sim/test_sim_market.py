"""Bars become trades and trades become bars again, exactly; numbers are contiguous whatever our accounts add."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fks.lab.sim import klines as sim_klines
from fks.lab.sim.generator import EPOCH_MS, Generated
from fks.lab.sim.intervals import INTERVALS, end_of, start_of, starts_of
from fks.lab.sim.klines import Kline, Klines
from fks.lab.sim.market import Market, Trades, expand
from fks.lab.sim.source import Rows, dice
from fks.lab.sim.symbols import LISTINGS
from fks.lab.sim.tape import Taped
from fks.model.tape import Tape

DAY = 86_400_000
NOW = EPOCH_MS + 2500 * DAY + 43_212_345


def generated(number: int = 0, seed: int = 7) -> Market:
    market = Market(Generated(LISTINGS[number], seed, NOW - 3 * DAY - NOW % DAY), seed)
    market.seek(NOW)
    return market


@st.composite
def tapes(draw: st.DrawFn) -> Tape:
    bars = []
    for _ in range(draw(st.integers(1, 12))):
        prices = sorted(draw(st.lists(st.integers(1, 10_000), min_size=4, max_size=4)))
        open_, close = draw(st.sampled_from(prices)), draw(st.sampled_from(prices))
        bars.append((open_, prices[3], prices[0], close, draw(st.integers(0, 300))))
    columns = np.array(bars, dtype=np.int64).T
    flat = columns[4] == 0  # nothing traded: a bar can only stand still
    for column in (1, 2, 3):
        columns[column] = np.where(flat, columns[0], columns[column])
    time_ns = np.arange(len(bars), dtype=np.int64) * 60_000_000_000 + EPOCH_MS * 1_000_000
    return Tape("binance", "BTCUSDT", "1m", 2, 5, "", "", time_ns, *columns)


@given(tapes(), st.integers(0, 2**31))
def test_trades_of_any_bar_are_that_bar_again(tape: Tape, seed: int) -> None:
    source = Taped(tape)
    rows = source.rows(0, len(tape))
    trades = expand(rows, source.unit_ms, dice(seed, "X", "test", 1))
    for row in range(len(tape)):
        part = slice(int(trades.starts[row]), int(trades.starts[row] + rows.count[row]))
        price, lots, time_ms = trades.price[part], trades.lots[part], trades.time_ms[part]
        assert lots.sum() == tape.volume[row]
        if not len(price):
            continue
        assert (price[0], price.max(), price.min(), price[-1]) == (
            tape.open[row],
            tape.high[row],
            tape.low[row],
            tape.close[row],
        )
        assert time_ms[0] == rows.time_ms[row]
        assert (np.diff(time_ms) >= 0).all()
        assert time_ms[-1] < rows.time_ms[row] + 60_000


def test_an_up_bar_visits_its_low_first_and_a_down_bar_its_high() -> None:
    one = np.array([EPOCH_MS], dtype=np.int64)
    for open_, close in ((100, 120), (120, 100)):
        columns = [np.array([value], dtype=np.int64) for value in (open_, 150, 50, close, 1000, 40, 0)]
        trades = expand(Rows(one, *columns), 60_000, dice(1, "X", "test", 2))
        low, high = int(trades.price.argmin()), int(trades.price.argmax())
        assert (low < high) == (close > open_)


def test_a_generated_market_does_not_stand_still_at_the_extremes_of_a_minute() -> None:
    source = generated(seed=7).source
    rows = source.rows(source.row_first, source.row_first + 1440)
    trades = expand(rows, source.unit_ms, dice(7, "X", "trades", 1))
    row = np.repeat(np.arange(len(rows)), rows.count)
    at_extreme = (trades.price == rows.low[row]) | (trades.price == rows.high[row])
    edges = np.flatnonzero(np.diff(np.concatenate([[False], at_extreme, [False]]).astype(int)))
    longest = int((edges[1::2] - edges[::2]).max())
    print(f"{at_extreme.mean():.1%} of {len(trades)} trades at an extreme, {longest} one after the other at most")
    assert at_extreme.mean() < 0.02
    assert longest < 10


def test_a_seed_is_a_market() -> None:
    one, same, other = generated(seed=7), generated(seed=7), generated(seed=8)
    assert one.between(one.id_next - 50, one.id_next) == same.between(same.id_next - 50, same.id_next)
    assert one.last.price != other.last.price


@pytest.mark.parametrize("number", range(len(LISTINGS)))
def test_a_generated_day_is_alive(number: int) -> None:
    source = generated(number).source
    rows = source.rows(source.row_first, source.row_first + 2880)
    assert (rows.low >= 1).all()
    assert (rows.high >= np.maximum(rows.open, rows.close)).all()
    assert (rows.low <= np.minimum(rows.open, rows.close)).all()
    assert (rows.volume >= rows.count).all()
    assert (np.diff(rows.first) == rows.count[:-1]).all(), "numbers run on, over midnight too"
    returns = np.diff(np.log(rows.close))
    assert 0.0003 < returns.std() < 0.004
    size = np.abs(returns) - np.abs(returns).mean()
    assert (size[1:] * size[:-1]).sum() / (size**2).sum() > 0.05, "volatility clusters"
    changes = np.abs(rows.open[1:] - rows.close[:-1])
    assert np.median(changes / rows.close[:-1]) < 0.0005, "a minute goes on where the last one stopped"


def test_seconds_move() -> None:
    market = generated()
    begin = NOW - 600_000
    prices = [trade.price for trade in market.between(market.id_at(begin), market.id_next)]
    assert len(prices) > 600 * 2, "several trades a second"
    assert len(set(prices)) > 200


@settings(max_examples=settings.default.max_examples // 2)
@given(st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 2), st.integers(-5, 5), st.booleans()), max_size=25))
def test_numbers_are_contiguous_and_times_ordered_with_our_trades_between(
    steps: list[tuple[int, int, int, bool]],
) -> None:
    market, now = generated(), NOW
    first, seen = market.id_next, []
    for wait_ms, own, distance, is_maker in steps:
        now += wait_ms
        seen += market.due(now)
        seen += [market.print(market.last.price + distance, 10 + i, is_maker, now) for i in range(own)]
    assert [trade.id for trade in seen] == list(range(first, first + len(seen)))
    assert market.between(first, market.id_next) == seen
    times = [trade.time_ms for trade in seen]
    assert times == sorted(times)
    for trade in seen:
        number = market.id_at(trade.time_ms)
        assert number <= trade.id
        assert market.between(number, number + 1)[0].time_ms == trade.time_ms


@settings(max_examples=settings.default.max_examples // 2)
@given(st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 2)), min_size=1, max_size=25))
async def test_no_trade_is_left_out_after_a_fill_that_is_numbered_late(steps: list[tuple[int, int]]) -> None:
    """A resting order filled by an earlier trade of a batch has that trade's time and a number behind the batch."""
    market, now = generated(), NOW
    first, seen = market.id_next, []
    for wait_ms, own in steps:
        now += wait_ms
        batch = market.due(now)
        seen += batch
        seen += [market.print(market.last.price, 10, True, batch[0].time_ms) for _ in range(own if batch else 0)]
    assert market.between(first, market.id_next) == seen
    for second in range(NOW // 1000 + 1, now // 1000 + 1):
        number = market.id_at(second * 1000)
        assert [trade for trade in seen if trade.time_ms >= second * 1000 and trade.id < number] == []
        assert number == market.id_next or market.between(number, number + 1)[0].time_ms >= second * 1000
    klines = Klines(market)
    for bar in await klines.fetch("1s", NOW + 1000 - NOW % 1000, None, 1000):
        assert bar.volume == sum(trade.lots for trade in seen if bar.start_ms <= trade.time_ms < bar.end_ms)


@settings(max_examples=settings.default.max_examples // 3)
@given(st.lists(st.tuples(st.integers(0, 40_000), st.integers(0, 2), st.integers(-50, 50)), min_size=1, max_size=12))
async def test_klines_are_what_the_trades_amount_to(steps: list[tuple[int, int, int]]) -> None:
    market, now = generated(), NOW
    for wait_ms, own, distance in steps:
        now += wait_ms
        market.due(now)
        for _ in range(own):
            market.print(market.last.price + distance, 10, own == 1, now)
    klines = Klines(market)
    for interval in ("1s", "1m", "3m", "15m"):
        found = await klines.fetch(interval, None, None, 4)
        assert len(found) == 4
        for bar in found:
            wanted = Kline(bar.start_ms, bar.end_ms, bar.open, bar.open, bar.open, bar.open)
            for trade in market.between(market.id_at(bar.start_ms), market.id_at(bar.end_ms)):
                wanted.add(trade)
            assert bar == wanted
        assert klines.current(interval) == found[-1]


class WatchedMarket(Market):
    """A market that records which chunks were expanded by which thread."""

    def __init__(self) -> None:
        self.expansions: list[tuple[int, int]] = []
        super().__init__(Generated(LISTINGS[0], 7, NOW - 3 * DAY - NOW % DAY), 7)

    def expanded(self, number: int, rows: Rows) -> Trades:
        self.expansions.append((number, threading.get_ident()))
        return super().expanded(number, rows)


async def test_daily_klines_leave_the_event_loop_free() -> None:
    market = WatchedMarket()
    market.seek(NOW)
    klines = Klines(market)
    market.expansions.clear()
    first = await klines.fetch("1d", None, None, 100)
    numbers, threads = zip(*market.expansions, strict=True)
    assert threading.get_ident() not in threads
    assert len(set(numbers)) == len(numbers) == 3 * 24 + 13, "each hour once"
    market.expansions.clear()
    assert await klines.fetch("1d", None, None, 100) == first
    assert market.expansions == [], "sums are kept"


async def test_sums_that_several_ask_for_at_once_are_computed_once() -> None:
    market = WatchedMarket()
    market.seek(NOW)
    klines = Klines(market)
    market.expansions.clear()
    asked = [klines.fetch("1d", None, None, 100) for _ in range(3)]  # a client that waits no longer asks again
    first, *others = await asyncio.gather(*asked)
    assert others == [first, first]
    assert len(market.expansions) == 3 * 24 + 13


async def test_bars_are_the_same_where_fewer_sums_are_kept_than_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = await Klines(generated()).fetch("1h", None, None, 60)
    monkeypatch.setattr(sim_klines, "SUMS_KEPT", 10)
    klines = Klines(generated())
    await klines.fetch("1h", whole[0].start_ms, None, 5)  # the first to go, and among those of the next request
    assert await klines.fetch("1h", None, None, 60) == whole


async def test_windows_of_klines() -> None:
    klines = Klines(generated())
    whole = await klines.fetch("1m", None, None, 100)
    assert whole[-1].start_ms == NOW - NOW % 60_000
    start = whole[10].start_ms
    assert await klines.fetch("1m", start, None, 5) == whole[10:15]
    assert await klines.fetch("1m", start + 1, None, 5) == whole[11:16], "a bar is in the window by its open time"
    assert await klines.fetch("1m", start, whole[12].start_ms, 50) == whole[10:13]
    assert await klines.fetch("1m", None, whole[12].start_ms, 3) == whole[10:13]
    assert await klines.fetch("1m", NOW + 60_000, None, 5) == []
    assert len(await klines.fetch("1d", None, None, 100)) == 4, "history begins where the market was listed"


@given(st.integers(EPOCH_MS, EPOCH_MS + 4000 * DAY), st.sampled_from(sorted(INTERVALS)))
def test_intervals_tile_time(time_ms: int, interval: str) -> None:
    start = start_of(time_ms, interval)
    assert start <= time_ms < end_of(start, interval)
    assert start_of(end_of(start, interval), interval) == end_of(start, interval)
    assert starts_of(np.array([time_ms]), interval)[0] == start
