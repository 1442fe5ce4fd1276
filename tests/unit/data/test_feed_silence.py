"""Whether a silence is true: what REST says of it, what bars beside it prove, and what no clock may change."""

from __future__ import annotations

import itertools

import pytest

from fks.feed.feed import SymbolFeed
from fks.feed.findings import Doubt, FeedState
from fks.model.bar import Bar, PublicTrade
from fks.model.market import BarSeen, Channel, TradeIds
from fks.model.timeframe import NS
from tests.support.feeds import T0, hear, live, seen, trade


class Rest:
    """Drives a feed as the collector and its holes do, tick by tick, on an exchange whose REST knows `trades`."""

    def __init__(self, feed: SymbolFeed, trades: list[PublicTrade]) -> None:
        self.feed, self.trades, self.asked = feed, trades, 0

    def tick(self, second: float, *events: PublicTrade | BarSeen) -> list[Channel]:
        """Return which channels are silent."""
        found = hear(self.feed, second, *events)
        if isinstance(found, Doubt):
            self.asked += 1
            known = [t for t in self.trades if t.time_ns <= T0 + round(second * 1e9) and t.trade_id >= found.from_id]
            before = self.feed.last_id
            assert self.feed.settle(known, found.over_ns) is None
            if self.feed.last_id == before:
                self.feed.vouch(second)
            else:
                self.feed.doubted_s = second
        return self.feed.pulses.silent(second)


def test_a_market_that_seldom_trades_is_live_where_rest_has_no_trade_either() -> None:
    """A socket like Kraken's: bars come with trades, and once as a snapshot; the smallest bar is a minute."""
    for every_s in (40, 300):
        feed = live(frames=("1m", "5m"))
        trades = [trade(n + 1, every_s * (n + 1)) for n in range(1800 // every_s)]
        rest, waiting = Rest(feed, trades), list(trades)
        hear(feed, 0.1, seen(0, 3, is_closed=False))
        for tick in range(1, 1800 * 5):
            events: list[PublicTrade | BarSeen] = []
            if waiting and waiting[0].time_ns <= T0 + tick * NS // 5:
                events = [waiting.pop(0), seen(0, 3, is_closed=False)]
            assert rest.tick(tick / 5, *events) == []
        assert rest.asked < 100
        assert len(feed.sealed) >= 28


def test_a_feed_that_never_heard_a_trade_is_live_by_what_rest_says() -> None:
    feed = live(frames=("1m",))
    rest = Rest(feed, [])
    assert all(rest.tick(tick / 5) == [] for tick in range(1, 600 * 5))
    assert rest.asked < 60
    feed.state, feed.is_mute, feed.doubted_s = FeedState.STALE, True, 600.0
    feed.touch(600.0)
    for tick in range(1, 13 * 5):
        rest.tick(600 + tick / 5)
        if not feed.is_mute:
            break
    assert 10.0 <= tick / 5 < 13.0  # for as long as it took to call it mute


def test_a_socket_that_froze_is_silent_in_time_though_rest_goes_on() -> None:
    feed = live(frames=("1m",))
    trades = [trade(n, n / 2) for n in range(1, 400)]
    rest = Rest(feed, trades)
    for tick in range(1, 150):
        told = [t for t in trades if T0 + (tick - 1) * NS // 5 < t.time_ns <= T0 + tick * NS // 5]
        assert rest.tick(tick / 5, *told, seen(0, 3, is_closed=False)) == []
    second = next(tick / 5 for tick in range(150, 400) if Channel.TRADES in rest.tick(tick / 5))
    assert second < 30.0 + feed.pulses.limit_s() + 0.5
    feed.state, feed.is_mute, feed.doubted_s = FeedState.STALE, True, second
    feed.touch(second)
    for tick in range(round(second * 5), round(second * 5) + 200):
        rest.tick(tick / 5)
        assert feed.is_mute, "REST had trades that the socket did not tell"


@pytest.mark.parametrize("every_s", [0.5, 3, 20, 90, 150])
@pytest.mark.parametrize("frames", [("1m",), ("1s", "1m")], ids=lambda frames: frames[0])
def test_trades_that_freeze_beside_living_bars_are_noticed_though_rest_fills_them_in(
    frames: tuple[str, ...], every_s: float
) -> None:
    """The exchange's bars count the trades that REST told: that proves nothing of the socket."""
    feed = live(frames=frames)
    trades = [trade(n, every_s * n) for n in range(1, round(2400 / every_s))]
    rest, waiting, base = Rest(feed, trades), list(trades), 1 if frames[0] == "1s" else 60
    frozen_s = 600.0
    for tick in range(1, 2400 * 4):
        second = tick / 4
        events: list[PublicTrade | BarSeen] = []
        while waiting and waiting[0].time_ns <= T0 + round(second * 1e9):
            told = waiting.pop(0)
            events += [told] if second < frozen_s else []
        if tick % (4 * base) == 0:
            start = round(second) - base
            count = sum(T0 + start * NS <= t.time_ns < T0 + (start + base) * NS for t in trades)
            events.append(
                BarSeen(Bar("binance", "BTCUSDT", frames[0], T0 + start * NS, 10, 10, 10, 10, 1, count), True)
            )
        elif tick % 8 == 0:
            begun_ns = T0 + round(second) // base * base * NS
            events.append(BarSeen(Bar("binance", "BTCUSDT", frames[0], begun_ns, 10, 10, 10, 10, 1, 1), False))
        silent = rest.tick(second, *events)
        if second > frozen_s and Channel.TRADES in silent:
            break
        assert second < frozen_s + min(120.0, max(10.0, 20 * every_s)) + every_s + 5, "nobody noticed"
    assert rest.asked < 2 * second, "REST is asked now and then"


def test_our_clock_ahead_makes_no_quiet_market_stale() -> None:
    """Every trade looks 6 s old, as in a replay: whether a silence is true is asked all the same."""
    for every_s in (40, 150, 400):
        feed = live(frames=("1m",), channels=(Channel.TRADES,))
        trades = [trade(n, every_s * n) for n in range(1, 1800 // every_s + 1)]
        waiting = list(trades)
        for tick in range(1, 1800 * 5):
            second, ahead_ns = tick / 5, T0 + tick * NS // 5 + 6 * NS
            if waiting and waiting[0].time_ns <= T0 + tick * NS // 5:
                feed.receive([waiting.pop(0)], ahead_ns, second)
            found = feed.advance(ahead_ns, second)
            if isinstance(found, Doubt):
                feed.settle([], found.over_ns)
                feed.vouch(second)
            assert feed.pulses.silent(second) == []


def test_a_clock_set_back_delays_no_doubt() -> None:
    feed = live(channels=(Channel.TRADES,))
    feed.receive([trade(1, 0.1)], T0 + NS // 10, 0.1)
    doubts = []
    for tick in range(1, 5 * 120):
        step_ns = 0 if tick < 150 else -3600 * NS
        found = feed.advance(T0 + tick * NS // 5 + step_ns, tick / 5)
        if isinstance(found, Doubt):
            doubts.append(tick / 5)
            feed.settle([], found.over_ns)
            feed.vouch(tick / 5)
        assert feed.pulses.silent(tick / 5) == []
    assert max(b - a for a, b in itertools.pairwise(doubts)) < 12


def test_what_a_new_subscription_repeats_is_nothing_heard() -> None:
    """Coinbase begins each subscription with the newest trades, however old they are."""
    for ids in (TradeIds.CONTIGUOUS, TradeIds.RISING):
        feed = live(None, ids=ids) if ids is TradeIds.RISING else live()
        feed.receive([trade(1, 0.1)], T0 + NS // 10, 0.1)
        feed.advance(T0 + NS // 10, 0.1)
        before_ns = feed.message_ns
        feed.is_mute = True
        feed.touch(500.0)
        feed.receive([trade(1, 0.1)], T0 + 550 * NS, 550.0)
        assert (feed.is_mute, feed.message_ns, feed.present.is_replay) == (True, before_ns, False)
