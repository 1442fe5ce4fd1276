"""A channel's limit is learned from messages that follow one another on one subscription, and is not forgotten with
it."""

from __future__ import annotations

from fks.feed.liveness import PATIENCE_MAX, Pulse, Pulses
from fks.model.market import Channel


def beating(every_s: float, until_s: float) -> Pulse:
    pulse = Pulse(0.0, 10.0, 120.0)
    at_s = 0.0
    while at_s <= until_s:
        pulse.heard(at_s)
        at_s += every_s
    return pulse


def test_what_is_usual_outlasts_a_subscription() -> None:
    pulse = beating(4.0, 40.0)
    assert pulse.limit_s() == 80
    pulse.touch(100.0)
    assert pulse.limit_s() == 80
    assert pulse.age_s(101.0) == 1.0


def test_neither_a_snapshot_nor_the_time_between_two_subscriptions_is_a_gap() -> None:
    pulse = Pulse(0.0, 10.0, 120.0)
    for number in range(5):
        begun_s = 30.0 * number
        pulse.touch(begun_s)
        pulse.heard(begun_s + 0.1)  # a snapshot, in two messages
        pulse.heard(begun_s + 0.2)
    assert pulse.limit_s() == 10
    pulse.heard(125.2)
    assert pulse.limit_s() == 100  # five seconds since the snapshot are a gap
    quiet = Pulse(0.0, 10.0, 120.0)
    quiet.heard(50.0)
    assert quiet.limit_s() == 10


def test_a_subscription_that_changed_nothing_doubles_the_limit_within_bounds() -> None:
    pulse, limits, now_s = Pulse(0.0, 10.0, 120.0), [], 0.0
    for _ in range(6):
        limits.append(pulse.limit_s())
        now_s += pulse.limit_s() + 0.7
        assert pulse.is_silent(now_s)
        pulse.give_up(now_s)
        pulse.touch(now_s + 0.4)
        pulse.heard(now_s + 0.5)  # its snapshot is no sign of life
    assert limits == [10, 10, 20, 40, 80, 80]
    assert max(limits) == 10 * PATIENCE_MAX
    pulse.heard(now_s + 3.0)
    pulse.heard(now_s + 3.1)
    assert pulse.limit_s() < 80
    soon = Pulse(0.0, 1.5, 2.0)
    for _ in range(4):
        soon.give_up(0.0)
    assert soon.limit_s() == 2.0


def test_a_silence_that_was_proven_is_usual_until_the_next_message() -> None:
    pulse = Pulse(0.0, 10.0, 120.0)
    pulse.vouch(9.0)
    assert pulse.limit_s() == 10
    pulse.vouch(18.0)
    pulse.vouch(33.0)
    assert pulse.limit_s() == 33
    assert not pulse.is_silent(66.0)
    assert pulse.is_silent(66.5)
    pulse.heard(67.0)
    assert pulse.limit_s() == 10


def test_bars_are_not_called_silent_before_one_can_be_over() -> None:
    pulses = Pulses.of((Channel.TRADES, Channel.BARS), 0.0, 10.0, 150.0, 60.0)
    assert [pulse.limit_s() for pulse in pulses.main()] == [10, 120]


def test_bars_that_came_before_the_last_trade_are_not_vouched_for() -> None:
    """A market that trades has bars: where none come their channel is dead."""
    pulses = Pulses.of((Channel.TRADES, Channel.BARS), 0.0, 10.0, 120.0, 0.0)
    pulses[Channel.BARS].heard(1.0)
    pulses[Channel.TRADES].heard(2.0)
    pulses.vouch(11.5)
    assert pulses.silent(12.0) == []
    pulses[Channel.TRADES].heard(12.0)
    pulses.vouch(21.0)
    assert pulses.silent(23.0) == [Channel.BARS]
