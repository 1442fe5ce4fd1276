"""The feed takes trades by id, seals when a bar is proven over, and knows its age."""

from __future__ import annotations

from decimal import Decimal

from fks.bars.aggregate import BarBuilder
from fks.feed.feed import GRACE_NS, SymbolFeed
from fks.feed.findings import Doubt, FeedState, Gap
from fks.model.bar import BarClosed
from fks.model.market import Channel, TradeIds
from fks.model.timeframe import NS
from tests.support.feeds import T0, hear, live, seen, trade


def over(second: int, trades: int, frame: str = "1s") -> BarClosed:
    return BarClosed("binance", "BTCUSDT", frame, T0 + second * NS, trades)


def times(feed: SymbolFeed, frame: str = "1s") -> list[int]:
    return [(item.bar.time_ns - T0) // NS for item in feed.sealed if item.bar.timeframe == frame]


def test_a_later_trade_seals_every_bar_before_it() -> None:
    feed = live()
    assert hear(feed, 0.1, trade(1, 0.1)) is None
    assert times(feed) == []
    assert hear(feed, 3.2, trade(2, 3.2)) is None
    assert times(feed) == [0, 1, 2]
    assert [item.last_trade_id for item in feed.sealed] == [1, 1, 1]


def test_a_known_trade_is_dropped_and_a_missing_one_stops_the_feed() -> None:
    feed = live()
    assert hear(feed, 0.3, trade(1, 0.1), trade(1, 0.1), trade(3, 0.3), trade(4, 2.0)) == Gap(2, 3)
    assert feed.last_id == 1
    assert times(feed) == []
    assert feed.add([trade(2, 0.2)]) is None
    assert hear(feed, 2.1) is None
    assert feed.last_id == 4
    assert times(feed) == [0, 1]
    assert next(iter(feed.sealed)).bar.trades == 3
    assert [t.trade_id for t in feed.trades] == [1, 2, 3, 4]


def test_the_venues_word_seals_when_all_trades_are_here() -> None:
    feed = live()
    hear(feed, 1.0, trade(1, 0.1), trade(2, 0.2), over(0, 2))
    assert times(feed) == [0]
    hear(feed, 2.0, over(1, 0))
    assert times(feed) == [0, 1]
    assert feed.sealed[-1].bar.volume == 0.0


def test_the_venues_word_waits_for_trades_on_their_way() -> None:
    feed = live()
    assert hear(feed, 1.0, trade(1, 0.1), over(0, 2)) is None
    assert times(feed) == []
    hear(feed, 1.1, trade(2, 0.9))
    assert times(feed) == [0]


def test_trades_that_tarry_are_asked_for_and_then_the_bar_seals() -> None:
    feed = live()
    assert hear(feed, 1.0, trade(1, 0.1), over(0, 2)) is None
    assert hear(feed, 1.0 + GRACE_NS / 1e9) == Doubt(2, T0 + NS)
    assert times(feed) == []
    assert feed.settle([trade(2, 0.9)], T0 + NS) is None  # what REST had
    assert times(feed) == [0]
    assert feed.sealed[0].bar.trades == 2


def test_the_end_of_a_larger_bar_seals_silence_before_it() -> None:
    feed = live()
    hear(feed, 5.0, trade(1, 0.1), over(0, 1, "5s"))
    assert times(feed) == [0, 1, 2, 3, 4]
    assert times(feed, "5s") == [0]


def test_silence_proves_nothing_but_raises_a_doubt_ever_more_seldom() -> None:
    feed = live()
    hear(feed, 0.2, trade(1, 0.1))
    assert hear(feed, 2.5) is None  # its clock: ours minus 0.1 s of lag minus the grace
    assert hear(feed, 4.0) == Doubt(2, T0 + 2 * NS)
    assert times(feed) == []
    assert feed.settle([], T0 + 2 * NS) is None
    assert times(feed) == [0, 1]
    assert hear(feed, 5.0) is None
    assert hear(feed, 5.6) == Doubt(2, T0 + 4 * NS)
    assert hear(feed, 8.0) is None
    assert hear(feed, 8.7) == Doubt(2, T0 + 7 * NS)


def test_a_clock_that_jumps_ahead_seals_no_second_that_has_not_happened() -> None:
    """REST has no trade of the future either: its silence would prove anything."""
    feed = live()
    for number in range(1, 4):
        hear(feed, number, trade(number, number))
    jump_ns = 4 * NS
    found = feed.advance(T0 + round(5.6 * NS) + jump_ns, 5.6)
    assert found == Doubt(4, T0 + 4 * NS)  # 5.6 s less what a message may take
    feed = live()
    for number in range(1, 4):
        hear(feed, number, trade(number, number))
    assert feed.advance(T0 + round(3.2 * NS) + jump_ns, 3.2) is None


def test_what_rest_has_of_a_silent_second_is_in_its_bar() -> None:
    feed = live()
    hear(feed, 0.2, trade(1, 0.1))
    assert isinstance(hear(feed, 4.0), Doubt)
    assert feed.settle([trade(2, 1.5, "11"), trade(3, 3.9, "12")], T0 + 2 * NS) is None
    assert [(item.bar.close, item.bar.trades) for item in feed.sealed if item.bar.timeframe == "1s"] == [
        (10, 1),
        (11, 1),
        (11, 0),
    ]


def test_no_bar_of_a_replay_is_overdue_and_a_stale_feed_never_doubts() -> None:
    feed = live()
    hear(feed, 1000.0, trade(1, 0.1))
    assert hear(feed, 2000.0) == Doubt(2, T0)  # whether the silence is true may be asked: the answer seals nothing
    assert feed.settle([], T0) is None
    assert times(feed) == []
    feed = live()
    hear(feed, 0.2, trade(1, 0.1))
    feed.state = FeedState.STALE
    assert hear(feed, 4.0) is None


def test_a_late_trade_is_counted_and_never_triggers_again() -> None:
    feed = live()
    hear(feed, 0.2, trade(1, 0.1))
    hear(feed, 2.0, over(0, 1), over(1, 0))
    assert times(feed) == [0, 1]
    before = list(feed.sealed)
    hear(feed, 4.1, trade(2, 0.5, "99"))
    assert list(feed.sealed) == before
    assert feed.late == 1
    assert feed.last_id == 2


def test_a_leap_in_time_asks_the_venue_for_its_bars() -> None:
    feed = live()
    hear(feed, 0.2, trade(1, 0.1))
    assert hear(feed, 9000.0, trade(2, 9000.0)) == Gap(2, 2)


def test_a_feed_that_is_being_filled_keeps_what_it_hears() -> None:
    feed = live()
    feed.state = FeedState.BACKFILL
    assert hear(feed, 1.1, trade(1, 0.1), trade(2, 1.1)) is None
    assert feed.last_id == 0
    feed.state = FeedState.LIVE
    hear(feed, 1.2)
    assert times(feed) == [0]


def test_age_and_limit_follow_the_usual_gap() -> None:
    feed = live()
    assert feed.pulses.limit_s() == 10
    for second in range(0, 40, 4):
        hear(feed, float(second), trade(second // 4 + 1, second))
    assert feed.pulses.limit_s() == 80  # twenty times four seconds
    assert feed.pulses.age_s(50.0) == 14.0
    for number in range(1, 80):
        hear(feed, 100.0 + 20 * number, trade(10 + number, 37 + number))
    assert feed.pulses.limit_s() == 120


def test_what_is_forgotten_is_gone_and_waits_for_the_store() -> None:
    feed = live()
    hear(feed, 2.0, trade(1, 0.1), trade(2, 2.0))
    feed.forget()
    assert (len(feed.sealed), feed.positions, feed.state) == (0, None, FeedState.COLD)


def test_each_channel_has_an_age_of_its_own() -> None:
    feed = live()
    for second in range(1, 15):
        hear(feed, second, seen(second, 5, is_closed=False))
    assert feed.pulses.silent(15.0) == [Channel.TRADES]
    assert feed.pulses.age_s(15.0) == 1.0
    hear(feed, 15.0, trade(1, 15.0))
    assert feed.pulses.silent(15.0) == []


def test_a_bar_that_counts_our_trades_proves_that_their_silence_is_real() -> None:
    feed = live()
    feed.is_mute, feed.doubted_s = True, 0.0
    for second in range(1, 10):
        hear(feed, float(second), seen(second - 1, 0, volume=0.0))
        assert feed.is_mute
    hear(feed, 10.0, seen(9, 0, volume=0.0))
    assert times(feed) == list(range(10))
    assert not feed.is_mute  # for as long as it takes to doubt
    assert feed.pulses.silent(19.9) == []
    hear(feed, 20.5, seen(19, 3))  # it has three that we have not
    assert feed.pulses.silent(20.5) == [Channel.TRADES]


def test_the_exchanges_bar_without_a_count_settles_nothing_by_itself() -> None:
    feed = live()
    assert hear(feed, 1.0, trade(1, 0.1), seen(0, 0)) is None  # volume, and no count: unknown
    assert times(feed) == []
    assert hear(feed, 1.0 + GRACE_NS / 1e9) == Doubt(2, T0 + NS)


def test_where_ids_tell_nothing_each_trade_counts_once_and_no_hole_is_seen() -> None:
    for ids in (TradeIds.RISING, TradeIds.OPAQUE):
        feed = live(None, ids=ids)
        assert hear(feed, 0.4, trade(70, 0.1), trade(7, 0.2), trade(70, 0.1), trade(900, 0.3)) is None
        assert feed.add([trade(7, 0.2), trade(900, 0.3), trade(33, 0.35)]) is None
        hear(feed, 1.1, trade(1, 1.1))
        assert [item.bar.trades for item in feed.sealed if item.bar.timeframe == "1s"] == [4]
        assert len(feed.trades) == 5
        assert feed.last_ns == T0 + round(1.1e9)


def test_what_waits_too_long_for_the_store_is_let_go_counted_and_wanted_again() -> None:
    feed = live()
    feed.trades_max = 3
    hear(feed, 0.9, *(trade(n, n / 10) for n in range(1, 8)))
    assert [t.trade_id for t in feed.trades] == [5, 6, 7]
    assert (feed.take_dropped(), feed.take_dropped(), feed.refill_to) == (4, 0, 7)


def test_an_outage_lasts_from_the_last_message_to_the_next_live_moment() -> None:
    feed = live()
    hear(feed, 2.0, trade(1, 2.0))
    feed.begin_outage("silent", T0 + 9 * NS)
    feed.begin_outage("disconnected", T0 + 10 * NS)  # it is the same one
    feed.outages.end(T0 + 12 * NS)
    feed.outages.end(T0 + 13 * NS)
    first, last = feed.outages.unstored
    assert (first.began_ns, first.ended_ns, first.cause) == (T0 + 2 * NS, None, "silent")
    assert (last.began_ns, last.ended_ns, last.cause) == (T0 + 2 * NS, T0 + 12 * NS, "silent")


def test_a_bar_that_was_handed_on_is_not_handed_on_again() -> None:
    feed = live()
    hear(feed, 2.0, trade(1, 0.1), trade(2, 2.0))
    assert times(feed) == [0, 1]
    feed.restart(BarBuilder("binance", "BTCUSDT", ("1s", "5s"), T0, previous=Decimal(9)), 0, [])
    feed.add([trade(1, 0.1), trade(2, 2.0), trade(3, 3.5)])
    assert times(feed) == [0, 1, 2]


def rising(feed: SymbolFeed, until: int) -> None:
    for number in range(1, until + 1):
        assert hear(feed, number / 10, trade(number, number / 10)) is None


def test_a_trade_of_the_future_seals_nothing_and_is_missing_like_any_other() -> None:
    feed = live()
    rising(feed, 5)
    assert hear(feed, 0.6, trade(6, 3000.0)) is None
    assert (feed.last_id, times(feed)) == (5, [])
    assert ["time to come" in suspect.reason for suspect in feed.present.refused] == [True]
    assert hear(feed, 1.2, trade(7, 1.2)) == Gap(6, 7)
    assert feed.add(feed.believed([trade(6, 0.6)], T0 + 2 * NS, 1.3)) is None
    assert hear(feed, 1.3) is None
    assert (times(feed), feed.sealed[0].bar.trades) == ([0], 6)


def test_a_trade_that_rest_repeats_with_a_time_to_come_is_in_no_bar_once_another_follows() -> None:
    feed = live()
    rising(feed, 5)
    assert (
        feed.add(feed.believed([trade(6, 3000.0)], T0 + NS, 0.7)) is None
    )  # it may be true: the exchange's clock has moved
    assert (feed.last_id, times(feed), len(feed.present.refused)) == (5, [], 0)
    assert hear(feed, 1.2, trade(7, 1.2)) == Gap(6, 7)
    assert feed.add(feed.believed([trade(6, 3000.0)], T0 + NS, 1.2)) is None
    assert (feed.last_id, len(feed.present.refused)) == (6, 1)
    assert hear(feed, 1.3) is None
    assert (feed.last_id, times(feed), feed.sealed[0].bar.trades) == (7, [0], 5)


def test_an_exchange_whose_clock_is_ahead_is_followed_and_one_that_moves_is_after_three_messages() -> None:
    feed = live()
    feed.present.begin(T0, 0.0)
    for second in range(1, 20):  # an hour ahead of us
        feed.receive([trade(second, second)], T0 - 3600 * NS + second * NS, float(second))
        assert feed.advance(T0 - 3600 * NS + second * NS, float(second)) is None
    assert times(feed) == list(range(19))
    jumped = [trade(20 + n, 620.0 + n) for n in range(4)]
    found = [hear(feed, 20.0 + n, told) for n, told in enumerate(jumped)]
    assert found[:2] == [None, None]  # these are refused
    assert found[2] == Gap(20, 22)
    assert feed.add(feed.believed(jumped[:2], T0 + 23 * NS, 23.0)) is None
    assert hear(feed, 23.1) is None
    assert (feed.last_id, times(feed)[-1]) == (23, 622)


def test_one_false_message_again_and_again_moves_no_clock() -> None:
    feed = live()
    rising(feed, 5)
    for number in range(6, 60):
        hear(feed, number / 10, trade(1000 + number, 3000.0), trade(number, number / 10))
        hear(feed, number / 10, trade(2000, 3000.0))
        hear(feed, number / 10, trade(2000, 3000.0))
    assert (feed.last_id, times(feed)) == (59, [0, 1, 2, 3, 4])


def test_where_no_id_tells_rest_is_asked_before_the_next_trade() -> None:
    for ids in (TradeIds.RISING, TradeIds.OPAQUE):
        feed = live(None, ids=ids)
        assert hear(feed, 0.2, trade(70, 0.1)) is None
        assert hear(feed, 0.3, trade(71, 3000.0)) is None
        assert hear(feed, 1.1, trade(80, 1.1)) == Gap(71, None)
        assert feed.add(feed.believed([trade(70, 0.1), trade(71, 3000.0)], T0 + NS, 1.2)) is None  # false there, too
        assert hear(feed, 1.2) is None  # and it is not asked for again
        assert hear(feed, 1.3, trade(81, 1.3)) is None
        assert (times(feed), feed.sealed[0].bar.trades) == ([0], 1)


def test_the_exchanges_word_of_a_bar_to_come_seals_nothing() -> None:
    feed = live(frames=("1s", "1h"))
    rising(feed, 5)
    assert hear(feed, 0.6, over(0, 5, "1h")) is None
    assert times(feed) == []
    assert [suspect.channel for suspect in feed.present.refused] == [Channel.BARS]


def test_what_rest_does_not_know_is_refused_and_what_it_knows_stays() -> None:
    feed = live()
    assert hear(feed, 0.3, trade(1, 0.1), trade(900, 0.2), trade(2, 0.2), over(0, 2)) == Gap(2, 900)
    assert feed.add([trade(2, 0.2)]) is None
    assert feed.lacks(Gap(2, 900)) == Gap(3, 900)
    feed.refuse_heard(2)
    assert hear(feed, 1.1) is None
    assert (feed.last_id, times(feed), len(feed.present.refused)) == (2, [0], 1)
