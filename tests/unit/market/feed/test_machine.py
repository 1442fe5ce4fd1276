"""The tables of the feed: the page made of them is current, and they are complete."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from fks.market.feed import machine as m
from fks.market.feed.machine import FeedState, Stream
from scripts.feeds_page import document
from tests.support.feeds import T0, backfilled, live, receive, trade


def test_docs_page_is_current() -> None:
    page = Path(__file__).parents[4] / "docs" / "feeds.md"
    assert page.read_text() == document(), "python scripts/feeds_page.py > docs/feeds.md"


def test_off_has_no_transition_and_every_other_state_has_one() -> None:
    assert {state for row in m.TRANSITIONS for state in row.states} == set(FeedState) - {FeedState.OFF}
    assert [row.number for row in m.TRANSITIONS] == list(range(1, len(m.TRANSITIONS) + 1))
    assert {row.event for row in m.TRANSITIONS} <= set(m.EVENTS)


def test_only_a_guarded_row_may_be_followed_by_another_of_its_pair() -> None:
    for state, event in product(FeedState, m.EVENTS):
        rows = [row for row in m.TRANSITIONS if state in row.states and row.event is event]
        assert all(row.guard is not m.always for row in rows[:-1]), (state, event)


@pytest.mark.parametrize(("is_silent", "state"), [(False, FeedState.LIVE), (True, FeedState.STALE)])
def test_backfilled_feed_is_live_only_if_its_stream_is_trusted(is_silent: bool, state: FeedState) -> None:
    feed = live()
    feed.handle(m.Disconnected(T0, 1.0, cause="silent" if is_silent else "disconnected"))
    assert feed.state is FeedState.STALE
    feed.handle(m.Subscribed(T0, 2.0))
    backfilled(feed, 3.0, [trade(1, 0.5)])
    assert feed.state is state
    receive(feed, 4.0, trade(2, 4.0))
    assert (feed.state, feed.stream) == (FeedState.LIVE, Stream.CURRENT)


def test_feed_that_disconnects_during_its_backfill_is_stale_after_it() -> None:
    feed = live()
    feed.handle(m.Subscribed(T0, 1.0))
    feed.handle(m.Disconnected(T0, 2.0))
    backfilled(feed, 3.0, [])
    assert feed.state is FeedState.STALE


def test_stopped_feed_ignores_every_event() -> None:
    feed = live()
    feed.handle(m.Disconnected(T0, 1.0))
    feed.handle(m.Stopped(T0, 2.0))
    assert (feed.state, feed.outages.open) == (FeedState.OFF, ())
    assert receive(feed, 3.0, trade(1, 3.0)) == []
    assert feed.handle(m.Subscribed(T0, 4.0)) == []
    assert feed.state is FeedState.OFF
