"""Silence checks: the answers of REST, the proof of bars beside silent trades, and clocks that must not matter."""

from __future__ import annotations

import itertools

import pytest

from fks.market.feed import machine as m
from fks.market.feed.feed import SymbolFeed
from fks.market.feed.machine import FeedState, SilenceCheck, Stream
from fks.model.bar import Bar, PublicTrade
from fks.model.market import BarSeen, Channel, TradeIds
from fks.model.timeframe import NS
from tests.support.feeds import T0, backfilled, checked, live, query, query_of, receive, receive_at, seen, trade


class Rest:
    """Drives a feed as the collector does, tick by tick, on an exchange whose REST knows `trades`."""

    def __init__(self, feed: SymbolFeed, trades: list[PublicTrade]) -> None:
        self.feed, self.trades, self.queries = feed, trades, 0

    def tick(self, second: float, *events: PublicTrade | BarSeen) -> list[Channel]:
        """Return the channels that are silent."""
        found = query(self.feed, second, *events)
        if isinstance(found, SilenceCheck):
            self.queries += 1
            known = [t for t in self.trades if t.time_ns <= T0 + round(second * 1e9) and t.trade_id >= found.from_id]
            answer = checked(self.feed, second, found, known)
            assert not any(isinstance(action, m.StartBackfill) for action in answer)
        return self.feed.liveness.silent(second)


def reconnected(feed: SymbolFeed, second: float) -> None:
    """Subscribe a feed again after its connection was silent."""
    now_ns = T0 + round(second * 1e9)
    feed.handle(m.Disconnected(now_ns, second, cause="silent"))
    feed.handle(m.Subscribed(now_ns, second))
    backfilled(feed, second, [])
    assert (feed.stream, feed.state) == (Stream.SILENT, FeedState.STALE)


def test_market_with_few_trades_is_live_where_rest_has_none_either() -> None:
    """A connection like Kraken's: bars come with trades, and once as a snapshot; the smallest bar is a minute."""
    for every_s in (40, 300):
        feed = live(timeframes=("1m", "5m"))
        trades = [trade(n + 1, every_s * (n + 1)) for n in range(1800 // every_s)]
        rest, waiting = Rest(feed, trades), list(trades)
        receive(feed, 0.1, seen(0, 3, is_closed=False))
        for tick in range(1, 1800 * 5):
            events: list[PublicTrade | BarSeen] = []
            if waiting and waiting[0].time_ns <= T0 + tick * NS // 5:
                events = [waiting.pop(0), seen(0, 3, is_closed=False)]
            assert rest.tick(tick / 5, *events) == []
        assert rest.queries < 100
        assert len(feed.unstored.sealed) >= 28


def test_feed_that_never_received_a_trade_is_live_by_the_answers_of_rest() -> None:
    feed = live(timeframes=("1m",))
    rest = Rest(feed, [])
    assert all(rest.tick(tick / 5) == [] for tick in range(1, 600 * 5))
    assert rest.queries < 60
    reconnected(feed, 600.0)
    for tick in range(1, 13 * 5):
        rest.tick(600 + tick / 5)
        if feed.stream is Stream.CURRENT:
            break
    assert 10.0 <= tick / 5 < 13.0  # for as long as its limit


def test_frozen_connection_is_silent_in_time_though_rest_goes_on() -> None:
    feed = live(timeframes=("1m",))
    trades = [trade(n, n / 2) for n in range(1, 400)]
    rest = Rest(feed, trades)
    for tick in range(1, 150):
        arrived = [t for t in trades if T0 + (tick - 1) * NS // 5 < t.time_ns <= T0 + tick * NS // 5]
        assert rest.tick(tick / 5, *arrived, seen(0, 3, is_closed=False)) == []
    second = next(tick / 5 for tick in range(150, 400) if Channel.TRADES in rest.tick(tick / 5))
    assert second < 30.0 + feed.liveness.limit_s() + 0.5
    reconnected(feed, second)
    for tick in range(round(second * 5), round(second * 5) + 200):
        rest.tick(tick / 5)
        assert feed.stream not in m.TRUSTED, "REST had trades that did not arrive"


@pytest.mark.parametrize("every_s", [0.5, 3, 20, 90, 150])
@pytest.mark.parametrize("timeframes", [("1m",), ("1s", "1m")], ids=lambda timeframes: timeframes[0])
def test_frozen_trades_beside_living_bars_are_noticed(timeframes: tuple[str, ...], every_s: float) -> None:
    """The exchange's bars count the trades that REST returned: that proves nothing of the connection."""
    feed = live(timeframes=timeframes)
    trades = [trade(n, every_s * n) for n in range(1, round(2400 / every_s))]
    rest, waiting, base = Rest(feed, trades), list(trades), 1 if timeframes[0] == "1s" else 60
    frozen_s = 600.0
    for tick in range(1, 2400 * 4):
        second = tick / 4
        events: list[PublicTrade | BarSeen] = []
        while waiting and waiting[0].time_ns <= T0 + round(second * 1e9):
            arrived = waiting.pop(0)
            events += [arrived] if second < frozen_s else []
        if tick % (4 * base) == 0:
            start = round(second) - base
            count = sum(T0 + start * NS <= t.time_ns < T0 + (start + base) * NS for t in trades)
            closed = Bar("binance", "BTCUSDT", timeframes[0], T0 + start * NS, 10, 10, 10, 10, 1, count)
            events.append(BarSeen(closed, True))
        elif tick % 8 == 0:
            begun_ns = T0 + round(second) // base * base * NS
            events.append(BarSeen(Bar("binance", "BTCUSDT", timeframes[0], begun_ns, 10, 10, 10, 10, 1, 1), False))
        silent = rest.tick(second, *events)
        if second > frozen_s and Channel.TRADES in silent:
            break
        assert second < frozen_s + min(120.0, max(10.0, 20 * every_s)) + every_s + 5, "it was not noticed"
    assert rest.queries < 2 * second, "REST is queried now and then"


def test_our_clock_ahead_makes_no_quiet_market_stale() -> None:
    """Every trade looks 6 s old, as in a replay: whether a silence is true is checked all the same."""
    for every_s in (40, 150, 400):
        feed = live(timeframes=("1m",), channels=(Channel.TRADES,))
        waiting = [trade(n, every_s * n) for n in range(1, 1800 // every_s + 1)]
        for tick in range(1, 1800 * 5):
            second, ahead_ns = tick / 5, T0 + tick * NS // 5 + 6 * NS
            events = [waiting.pop(0)] if waiting and waiting[0].time_ns <= T0 + tick * NS // 5 else []
            found = query_of(receive_at(feed, ahead_ns, second, *events))
            if isinstance(found, SilenceCheck):
                checked(feed, second, found, [])
            assert feed.liveness.silent(second) == []


def test_clock_set_back_delays_no_check() -> None:
    feed = live(channels=(Channel.TRADES,))
    receive(feed, 0.1, trade(1, 0.1))
    checks = []
    for tick in range(1, 5 * 120):
        step_ns = 0 if tick < 150 else -3600 * NS
        found = query_of(receive_at(feed, T0 + tick * NS // 5 + step_ns, tick / 5))
        if isinstance(found, SilenceCheck):
            checks.append(tick / 5)
            checked(feed, tick / 5, found, [])
        assert feed.liveness.silent(tick / 5) == []
    assert max(b - a for a, b in itertools.pairwise(checks)) < 12


def test_known_trades_of_a_new_subscription_prove_nothing() -> None:
    """Coinbase begins each subscription with the newest trades, however old they are."""
    for ids in (TradeIds.CONTIGUOUS, TradeIds.RISING):
        feed = live(None, ids=ids) if ids is TradeIds.RISING else live()
        receive(feed, 0.1, trade(1, 0.1))
        before_ns = feed.message_ns
        reconnected(feed, 500.0)
        receive(feed, 550.0, trade(1, 0.1))
        assert (feed.stream, feed.message_ns, feed.clock.is_replay) == (Stream.SILENT, before_ns, False)
