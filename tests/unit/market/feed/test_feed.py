"""The feed takes trades by id, seals bars that are proven over, and knows the age of its channels."""

from __future__ import annotations

import pytest

from fks.market.bars.aggregate import BarStart
from fks.market.feed import machine as m
from fks.market.feed.feed import GRACE_NS, SymbolFeed
from fks.market.feed.machine import FeedState, Gap, SilenceCheck, Stream
from fks.model.market import Channel, Suspect, TradeIds
from fks.model.timeframe import NS
from tests.support.feeds import (
    T0,
    backfilled,
    checked,
    fetched,
    live,
    outdated,
    over,
    query,
    query_of,
    receive,
    receive_at,
    recovered,
    recovery,
    sealed_through,
    seen,
    times,
    trade,
)

RISING_OR_OPAQUE = pytest.mark.parametrize("ids", [TradeIds.RISING, TradeIds.OPAQUE])


def check(from_id: int, until_ns: int) -> SilenceCheck:
    return SilenceCheck(from_id, until_ns, 1)


def refused(actions: list[m.FeedAction]) -> list[Suspect]:
    return [suspect for action in actions if isinstance(action, m.Quarantine) for suspect in action.suspects]


# ── trades and bars ──────────────────────────────────────────────────────────────────────────────
def test_later_trade_seals_every_bar_before_it() -> None:
    feed = live()
    assert query(feed, 0.1, trade(1, 0.1)) is None
    assert times(feed) == []
    assert query(feed, 3.2, trade(2, 3.2)) is None
    assert times(feed) == [0, 1, 2]
    assert [item.last_trade_id for item in feed.unstored.sealed] == [1, 1, 1]


def test_known_trade_is_dropped_and_missing_one_stops_the_feed() -> None:
    feed = live()
    assert query(feed, 0.3, trade(1, 0.1), trade(1, 0.1), trade(3, 0.3), trade(4, 2.0)) == Gap(2, 3)
    assert (feed.last_id, feed.state) == (1, FeedState.BACKFILL)
    assert times(feed) == []
    assert query_of(backfilled(feed, 2.1, [trade(2, 0.2)])) is None
    assert feed.last_id == 4
    assert times(feed) == [0, 1]
    assert feed.unstored.sealed[0].bar.trades == 3
    assert [t.trade_id for t in feed.unstored.trades] == [1, 2, 3, 4]


def test_closed_bar_of_the_exchange_seals_once_all_trades_are_here() -> None:
    feed = live()
    receive(feed, 1.0, trade(1, 0.1), trade(2, 0.2), over(0, 2))
    assert times(feed) == [0]
    receive(feed, 2.0, over(1, 0))
    assert times(feed) == [0, 1]
    assert feed.unstored.sealed[-1].bar.volume == 0.0


def test_closed_bar_of_the_exchange_waits_for_trades_on_their_way() -> None:
    feed = live()
    assert query(feed, 1.0, trade(1, 0.1), over(0, 2)) is None
    assert times(feed) == []
    receive(feed, 1.1, trade(2, 0.9))
    assert times(feed) == [0]


def test_trades_that_do_not_come_are_queried_and_then_the_bar_seals() -> None:
    feed = live()
    assert query(feed, 1.0, trade(1, 0.1), over(0, 2)) is None
    found = query(feed, 1.0 + GRACE_NS / 1e9)
    assert found == check(2, T0 + NS)
    assert times(feed) == []
    assert query_of(checked(feed, 2.5, found, [trade(2, 0.9)])) is None
    assert times(feed) == [0]
    assert feed.unstored.sealed[0].bar.trades == 2


def test_end_of_a_larger_bar_seals_silence_before_it() -> None:
    feed = live()
    receive(feed, 5.0, trade(1, 0.1), over(0, 1, "5s"))
    assert times(feed) == [0, 1, 2, 3, 4]
    assert times(feed, "5s") == [0]


def test_silence_proves_nothing_and_is_checked_less_often_with_time() -> None:
    feed = live()
    receive(feed, 0.2, trade(1, 0.1))
    assert query(feed, 2.5) is None  # its clock: ours minus 0.1 s of lag minus the grace
    found = query(feed, 4.0)
    assert found == check(2, T0 + 2 * NS)
    assert times(feed) == []
    assert query_of(checked(feed, 4.0, found, [])) is None
    assert times(feed) == [0, 1]
    assert query(feed, 5.0) is None
    assert query(feed, 5.6) == check(2, T0 + 4 * NS)
    assert query(feed, 8.0) is None
    assert query(feed, 8.7) == check(2, T0 + 7 * NS)


def test_clock_that_jumps_ahead_seals_no_second_of_the_future() -> None:
    """REST has no trade of the future either: its silence would prove anything."""
    feed = live()
    for number in range(1, 4):
        receive(feed, number, trade(number, number))
    jump_ns = 4 * NS
    found = query_of(receive_at(feed, T0 + round(5.6 * NS) + jump_ns, 5.6))
    assert found == check(4, T0 + 4 * NS)  # 5.6 s less the time that a message may take
    feed = live()
    for number in range(1, 4):
        receive(feed, number, trade(number, number))
    assert query_of(receive_at(feed, T0 + round(3.2 * NS) + jump_ns, 3.2)) is None


def test_trades_that_rest_has_of_a_silent_second_are_in_its_bar() -> None:
    feed = live()
    receive(feed, 0.2, trade(1, 0.1))
    found = query(feed, 4.0)
    assert isinstance(found, SilenceCheck)
    assert query_of(checked(feed, 4.0, found, [trade(2, 1.5, "11"), trade(3, 3.9, "12")])) is None
    assert [(item.bar.close, item.bar.trades) for item in feed.unstored.sealed if item.bar.timeframe == "1s"] == [
        (10, 1),
        (11, 1),
        (11, 0),
    ]


def test_no_bar_of_a_replay_is_overdue_and_a_stale_feed_checks_none() -> None:
    feed = live()
    receive(feed, 1000.0, trade(1, 0.1))
    found = query(feed, 2000.0)
    assert found == check(2, T0)  # only whether the silence is true: the answer seals nothing
    assert query_of(checked(feed, 2000.0, found, [])) is None
    assert times(feed) == []
    feed = live()
    receive(feed, 0.2, trade(1, 0.1))
    feed.handle(m.Disconnected(T0, 0.3))
    assert feed.state is FeedState.STALE
    assert query(feed, 4.0) is None


def test_late_trade_is_counted_and_its_bar_is_not_sealed_again() -> None:
    feed = live()
    receive(feed, 0.2, trade(1, 0.1))
    receive(feed, 2.0, over(0, 1), over(1, 0))
    assert times(feed) == [0, 1]
    before = list(feed.unstored.sealed)
    receive(feed, 4.1, trade(2, 0.5, "99"))
    assert list(feed.unstored.sealed) == before
    assert feed.late == 1
    assert feed.last_id == 2


def test_no_trade_bars_after_a_late_trade_have_its_price() -> None:
    """Those that are sealed are corrected, those that follow are built so."""
    feed = live()
    receive(feed, 0.2, trade(1, 0.1))
    sealed_through(feed, T0 + 4 * NS, [])
    receive(feed, 4.1, trade(2, 1.5, "11"))
    assert outdated(feed, "1s") == [([T0 + second * NS for second in (1, 2, 3)], False)]
    sealed_through(feed, T0 + 6 * NS, [])
    bars = [item.bar.close for item in feed.unstored.sealed if item.bar.timeframe == "1s"]
    assert bars == [10, 10, 10, 10, 11, 11]


@RISING_OR_OPAQUE
def test_no_trade_bars_between_a_late_trade_and_the_next_are_corrected(ids: TradeIds) -> None:
    feed = live(None, ids=ids)
    receive(feed, 0.2, trade(1, 0.1))
    receive(feed, 3.3, trade(3, 3.2, "12"))
    receive(feed, 3.4, trade(2, 0.5, "11"))
    assert outdated(feed, "1s") == [([T0 + second * NS for second in (0, 1, 2)], False)]
    sealed_through(feed, T0 + 6 * NS, [])
    assert [item.bar.close for item in feed.unstored.sealed if item.bar.timeframe == "1s"][3:] == [12, 12, 12]


def test_open_bar_that_seals_without_a_late_trade_is_corrected() -> None:
    """The correction began while it was open: it was to be built again, and another backfill sealed it first."""
    feed = live()
    receive(feed, 2.0, trade(1, 0.1), over(0, 1), over(1, 0))
    receive(feed, 2.2, trade(2, 0.5, "99"))
    assert outdated(feed, "1s", "5s") == [([T0, T0 + NS], False), ([], True)]
    receive(feed, 5.1, trade(3, 5.1))
    assert times(feed, "5s") == [0]
    assert m.CorrectBars() in receive(feed, 5.2)
    assert outdated(feed, "5s") == [([T0], False)]


def test_open_bar_that_is_built_again_lacks_no_late_trade() -> None:
    feed = live()
    receive(feed, 2.0, trade(1, 0.1), over(0, 1), over(1, 0))
    receive(feed, 2.2, trade(2, 0.5, "99"))
    feed.handle(m.CorrectionStarted(T0 + 3 * NS, 3.0))
    feed.handle(m.BarsOutdated(T0 + 3 * NS, 3.0))
    recovered(feed, recovery(), T0 + 3 * NS, 3.0)
    backfilled(feed, 3.0, [trade(1, 0.1), trade(2, 0.5, "99")])
    receive(feed, 5.1, trade(3, 5.1))
    assert [item.bar.high for item in feed.unstored.sealed if item.bar.timeframe == "5s"] == [99]
    assert m.CorrectBars() not in receive(feed, 5.2)


def test_leap_in_time_is_filled_with_bars_of_the_exchange() -> None:
    feed = live()
    receive(feed, 0.2, trade(1, 0.1))
    assert query(feed, 9000.0, trade(2, 9000.0)) == Gap(2, 2)


def test_feed_in_backfill_keeps_what_arrives() -> None:
    feed = live()
    feed.handle(m.Subscribed(T0, 0.0))
    assert feed.state is FeedState.BACKFILL
    assert query(feed, 1.1, trade(1, 0.1), trade(2, 1.1)) is None
    assert feed.last_id == 0
    backfilled(feed, 1.2, [])
    assert feed.state is FeedState.LIVE
    assert times(feed) == [0]


def test_bar_that_was_queued_is_not_queued_again_after_a_restart() -> None:
    feed = live()
    receive(feed, 2.0, trade(1, 0.1), trade(2, 2.0))
    assert times(feed) == [0, 1]
    recovered(feed, recovery(), T0 + 4 * NS, 4.0)
    fetched(feed, [trade(1, 0.1), trade(2, 2.0), trade(3, 3.5)], T0 + 4 * NS, 4.0)
    assert times(feed) == [0, 1, 2]


@RISING_OR_OPAQUE
def test_where_ids_show_no_gap_each_trade_counts_once(ids: TradeIds) -> None:
    feed = live(None, ids=ids)
    assert query(feed, 0.4, trade(70, 0.1), trade(7, 0.2), trade(70, 0.1), trade(900, 0.3)) is None
    assert fetched(feed, [trade(7, 0.2), trade(900, 0.3), trade(33, 0.35)], T0 + NS // 2, 0.5) is None
    receive(feed, 1.1, trade(1, 1.1))
    assert [item.bar.trades for item in feed.unstored.sealed if item.bar.timeframe == "1s"] == [4]
    assert len(feed.unstored.trades) == 5
    assert feed.last_ns == T0 + round(1.1e9)


# ── ages, silence, outages ───────────────────────────────────────────────────────────────────────
def test_age_and_limit_follow_the_median_gap() -> None:
    feed = live()
    assert feed.liveness.limit_s() == 10
    for second in range(0, 40, 4):
        receive(feed, float(second), trade(second // 4 + 1, second))
    assert feed.liveness.limit_s() == 80  # twenty times four seconds
    assert feed.liveness.age_s(50.0) == 14.0
    for number in range(1, 80):
        receive(feed, 100.0 + 20 * number, trade(10 + number, 37 + number))
    assert feed.liveness.limit_s() == 120


def test_each_channel_has_an_age_of_its_own() -> None:
    feed = live()
    for second in range(1, 15):
        receive(feed, second, seen(second, 5, is_closed=False))
    assert feed.liveness.silent(15.0) == [Channel.TRADES]
    assert feed.liveness.age_s(15.0) == 1.0
    receive(feed, 15.0, trade(1, 15.0))
    assert feed.liveness.silent(15.0) == []


def test_bar_that_counts_our_trades_proves_their_silence() -> None:
    feed = live()
    feed.handle(m.Disconnected(T0, 0.0, cause="silent"))
    feed.handle(m.Subscribed(T0, 0.0))
    backfilled(feed, 0.0, [])
    for second in range(1, 10):
        receive(feed, float(second), seen(second - 1, 0, volume=0.0))
        assert (feed.stream, feed.state) == (Stream.SILENT, FeedState.STALE)
    receive(feed, 10.0, seen(9, 0, volume=0.0))
    assert times(feed) == list(range(10))
    assert (feed.stream, feed.state) == (Stream.CURRENT, FeedState.LIVE)  # for as long as its limit
    assert feed.liveness.silent(19.9) == []
    receive(feed, 20.5, seen(19, 3))  # it has three that we have not
    assert feed.liveness.silent(20.5) == [Channel.TRADES]


def test_bar_of_the_exchange_without_a_count_proves_nothing_by_itself() -> None:
    feed = live()
    assert query(feed, 1.0, trade(1, 0.1), seen(0, 0)) is None  # volume, and no count: unknown
    assert times(feed) == []
    assert query(feed, 1.0 + GRACE_NS / 1e9) == check(2, T0 + NS)


def test_outage_lasts_from_the_last_message_until_the_feed_is_live() -> None:
    feed = live()
    receive(feed, 2.0, trade(1, 2.0))
    feed.handle(m.Disconnected(T0 + 9 * NS, 9.0, cause="silent"))
    feed.handle(m.Disconnected(T0 + 10 * NS, 10.0))  # it is the same one
    feed.handle(m.Subscribed(T0 + 11 * NS, 11.0))
    receive(feed, 12.0, trade(2, 12.0))
    backfilled(feed, 12.0, [])
    backfilled(feed, 13.0, [])
    first, last = feed.outages.take()
    assert (first.began_ns, first.ended_ns, first.cause) == (T0 + 2 * NS, None, "silent")
    assert (last.began_ns, last.ended_ns, last.cause) == (T0 + 2 * NS, T0 + 12 * NS, "silent")


# ── the store ────────────────────────────────────────────────────────────────────────────────────
def test_overflow_drops_what_is_not_stored_and_recovers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fks.market.feed.feed.SEALED_MAX", 1)
    feed = live()
    receive(feed, 2.0, trade(1, 0.1), trade(2, 2.0))
    actions = receive(feed, 2.1)
    assert m.BarsDropped(2) in actions
    assert m.StartBackfill(None) in actions
    assert (len(feed.unstored.sealed), feed.positions, feed.state) == (0, None, FeedState.BACKFILL)
    assert feed.outages.take() == []


def test_trades_that_wait_too_long_are_dropped_counted_and_refetched() -> None:
    feed = live()
    feed.keep_trades(3)
    receive(feed, 0.9, *(trade(n, n / 10) for n in range(1, 8)))
    assert [t.trade_id for t in feed.unstored.trades] == [5, 6, 7]
    assert (feed.take_dropped(), feed.take_dropped()) == (4, 0)
    feed.handle(m.Stored(T0, 1.0, [], 7))
    assert m.RefetchTrades() not in receive(feed, 1.0)
    feed.handle(m.Stored(T0, 1.0, [], 8))
    assert m.RefetchTrades() in receive(feed, 1.0)
    assert m.RefetchTrades() not in receive(feed, 1.0)


# ── future times and false ids ───────────────────────────────────────────────────────────────────
def rising(feed: SymbolFeed, until: int) -> None:
    for number in range(1, until + 1):
        assert query(feed, number / 10, trade(number, number / 10)) is None


def test_future_trade_seals_nothing_and_counts_as_missing() -> None:
    feed = live()
    rising(feed, 5)
    actions = receive(feed, 0.6, trade(6, 3000.0))
    assert query_of(actions) is None
    assert (feed.last_id, times(feed)) == (5, [])
    assert ["time to come" in suspect.reason for suspect in refused(actions)] == [True]
    assert query(feed, 1.2, trade(7, 1.2)) == Gap(6, 7)
    assert query_of(backfilled(feed, 1.3, [trade(6, 0.6)])) is None
    assert (times(feed), feed.unstored.sealed[0].bar.trades) == ([0], 6)


def test_future_trade_that_rest_repeats_is_in_no_bar_once_another_follows() -> None:
    feed = live()
    rising(feed, 5)
    assert fetched(feed, [trade(6, 3000.0)], T0 + NS, 0.7) is None  # it may be true: the exchange's clock has moved
    assert (feed.last_id, times(feed), refused(receive(feed, 0.7))) == (5, [], [])
    assert query(feed, 1.2, trade(7, 1.2)) == Gap(6, 7)
    assert fetched(feed, [trade(6, 3000.0)], T0 + NS, 1.2) is None
    assert feed.last_id == 6
    assert len(refused(backfilled(feed, 1.3, []))) == 1
    assert (feed.last_id, times(feed), feed.unstored.sealed[0].bar.trades) == (7, [0], 5)


def test_exchange_clock_is_followed_ahead_and_after_three_messages() -> None:
    feed = live()
    feed.clock.start(T0, 0.0)
    for second in range(1, 20):  # an hour ahead of us
        now_ns = T0 - 3600 * NS + second * NS
        assert query_of(receive_at(feed, now_ns, float(second), trade(second, second))) is None
    assert times(feed) == list(range(19))
    jumped = [trade(20 + n, 620.0 + n) for n in range(4)]
    found = [query(feed, 20.0 + n, value) for n, value in enumerate(jumped)]
    assert found[:2] == [None, None]  # these are refused
    assert found[2] == Gap(20, 22)
    assert query_of(backfilled(feed, 23.1, jumped[:2])) is None
    assert (feed.last_id, times(feed)[-1]) == (23, 622)


def test_one_false_message_repeated_moves_no_clock() -> None:
    feed = live()
    rising(feed, 5)
    for number in range(6, 60):
        receive(feed, number / 10, trade(1000 + number, 3000.0), trade(number, number / 10))
        receive(feed, number / 10, trade(2000, 3000.0))
        receive(feed, number / 10, trade(2000, 3000.0))
    assert (feed.last_id, times(feed)) == (59, [0, 1, 2, 3, 4])


def test_start_in_the_future_is_left_out_and_one_of_the_present_is_not() -> None:
    feed = live()
    rising(feed, 5)
    before = feed.builder
    future = m.Recovery(BarStart("binance", "BTCUSDT", ("1s", "5s"), T0 + 3600 * NS), 900, trades=[trade(901, 3600.0)])
    feed.handle(m.Recovered(T0 + NS, 1.0, future))
    assert (feed.builder, feed.last_id, feed.restarts, times(feed)) == (before, 5, 1, [])
    assert recovered(feed, recovery(5), T0 + NS, 1.0) is None
    assert (feed.last_id, feed.restarts) == (5, 2)


@RISING_OR_OPAQUE
def test_where_ids_show_no_gap_rest_is_queried_after_a_refused_trade(ids: TradeIds) -> None:
    feed = live(None, ids=ids)
    assert query(feed, 0.2, trade(70, 0.1)) is None
    assert query(feed, 0.3, trade(71, 3000.0)) is None
    assert query(feed, 1.1, trade(80, 1.1)) == Gap(71, None)
    # it is false at REST, too, and is not queried again
    assert query_of(backfilled(feed, 1.2, [trade(70, 0.1), trade(71, 3000.0)])) is None
    assert query(feed, 1.3, trade(81, 1.3)) is None
    assert (times(feed), feed.unstored.sealed[0].bar.trades) == ([0], 1)


def test_closed_bar_of_the_future_seals_nothing() -> None:
    feed = live(timeframes=("1s", "1h"))
    rising(feed, 5)
    actions = receive(feed, 0.6, over(0, 5, "1h"))
    assert (query_of(actions), times(feed)) == (None, [])
    assert [suspect.channel for suspect in refused(actions)] == [Channel.BARS]


def test_waiting_trades_beyond_those_of_rest_are_refused() -> None:
    feed = live()
    assert query(feed, 0.3, trade(1, 0.1), trade(900, 0.2), trade(2, 0.2), over(0, 2)) == Gap(2, 900)
    assert fetched(feed, [trade(2, 0.2)], T0 + NS, 1.0) is None
    assert feed.still_missing(Gap(2, 900)) == Gap(3, 900)
    feed.handle(m.TradesRefuted(T0 + NS, 1.0, 2))
    actions = backfilled(feed, 1.1, [])
    assert query_of(actions) is None
    assert (feed.last_id, times(feed), len(refused(actions))) == (2, [0], 1)
