"""Channel liveness: the limit is learned from messages that follow one another on one subscription, and outlasts it."""

from __future__ import annotations

from fks.market.feed.liveness import PATIENCE_MAX, ChannelLiveness, FeedLiveness
from fks.model.market import Channel


def beating(every_s: float, until_s: float) -> ChannelLiveness:
    liveness = ChannelLiveness(0.0, 10.0, 120.0)
    at_s = 0.0
    while at_s <= until_s:
        liveness.received(at_s)
        at_s += every_s
    return liveness


def test_limit_outlasts_a_subscription() -> None:
    liveness = beating(4.0, 40.0)
    assert liveness.limit_s() == 80
    liveness.restart(100.0)
    assert liveness.limit_s() == 80
    assert liveness.age_s(101.0) == 1.0


def test_snapshot_and_time_between_subscriptions_are_no_gaps() -> None:
    liveness = ChannelLiveness(0.0, 10.0, 120.0)
    for number in range(5):
        begun_s = 30.0 * number
        liveness.restart(begun_s)
        liveness.received(begun_s + 0.1)  # a snapshot, in two messages
        liveness.received(begun_s + 0.2)
    assert liveness.limit_s() == 10
    liveness.received(125.2)
    assert liveness.limit_s() == 100  # five seconds since the snapshot are a gap
    quiet = ChannelLiveness(0.0, 10.0, 120.0)
    quiet.received(50.0)
    assert quiet.limit_s() == 10


def test_subscription_that_changes_nothing_doubles_the_limit_to_a_maximum() -> None:
    liveness, limits, now_s = ChannelLiveness(0.0, 10.0, 120.0), [], 0.0
    for _ in range(6):
        limits.append(liveness.limit_s())
        now_s += liveness.limit_s() + 0.7
        assert liveness.is_silent(now_s)
        liveness.give_up(now_s)
        liveness.restart(now_s + 0.4)
        liveness.received(now_s + 0.5)  # its snapshot is no sign of life
    assert limits == [10, 10, 20, 40, 80, 80]
    assert max(limits) == 10 * PATIENCE_MAX
    liveness.received(now_s + 3.0)
    liveness.received(now_s + 3.1)
    assert liveness.limit_s() < 80
    soon = ChannelLiveness(0.0, 1.5, 2.0)
    for _ in range(4):
        soon.give_up(0.0)
    assert soon.limit_s() == 2.0


def test_proven_silence_is_the_limit_until_the_next_message() -> None:
    liveness = ChannelLiveness(0.0, 10.0, 120.0)
    liveness.proven(9.0)
    assert liveness.limit_s() == 10
    liveness.proven(18.0)
    liveness.proven(33.0)
    assert liveness.limit_s() == 33
    assert not liveness.is_silent(66.0)
    assert liveness.is_silent(66.5)
    liveness.received(67.0)
    assert liveness.limit_s() == 10


def test_bars_are_not_silent_before_one_can_be_over() -> None:
    liveness = FeedLiveness.of((Channel.TRADES, Channel.BARS), 0.0, 10.0, 150.0, 60.0)
    assert [channel.limit_s() for channel in liveness.main()] == [10, 120]


def test_bars_older_than_the_last_trade_are_not_proven() -> None:
    """A market that trades has bars: where none come their channel is dead."""
    liveness = FeedLiveness.of((Channel.TRADES, Channel.BARS), 0.0, 10.0, 120.0, 0.0)
    liveness[Channel.BARS].received(1.0)
    liveness[Channel.TRADES].received(2.0)
    liveness.proven(11.5)
    assert liveness.silent(12.0) == []
    liveness[Channel.TRADES].received(12.0)
    liveness.proven(21.0)
    assert liveness.silent(23.0) == [Channel.BARS]
