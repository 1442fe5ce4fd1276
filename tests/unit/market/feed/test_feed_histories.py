"""Recorded histories of feeds from the soak of faults: the same events must give the same actions and states."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from fks.market.feed import machine as m
from fks.market.feed.feed import FeedSpec
from fks.market.feed.machine import TRANSITIONS
from tests.support.feed_histories import RecordedFeed, load, replay, select
from tests.support.feeds import T0, fetched, recovered, recovery, trade

FOLDER = Path(__file__).parents[3] / "tapes" / "feed"
HISTORIES = sorted(FOLDER.glob("*.jsonl"))
#: rows that no soak of faults reaches, each with the reason
UNREACHED: dict[int, str] = {
    4: "trade ids of Binance show each loss, so its connection reports no discontinuity of trades",
    5: "as row 4",
    12: "20,000 sealed bars wait for the store only after an hour without a database",
    13: "Binance's trades come in the order of their ids, so no trade is late for its bar",
    14: "as row 13",
    15: "the soak disables no symbol",
}


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_a_recorded_feed_history_gives_the_same_actions_and_states(path: Path) -> None:
    difference = replay(load(path)).difference
    assert difference is None, difference


def test_the_histories_reach_every_row_that_faults_reach() -> None:
    reached = {row for path in HISTORIES for row in replay(load(path)).first}
    assert reached == {row.number for row in TRANSITIONS} - set(UNREACHED)


def recorded() -> list[str]:
    """Return the history of a feed that goes live, takes trades, finds a gap and is put off."""
    file = io.StringIO()
    feed = RecordedFeed(FeedSpec("BTCUSDT", 10, 120), 0.0, file)
    feed.handle(m.Subscribed(T0, 0.0))
    feed.handle(m.Claimed(T0, 0.0, {}, None))
    recovered(feed, recovery(), T0, 0.0)
    feed.handle(m.BackfillFinished(T0, 0.0))
    for number, second in ((1, 0.5), (2, 1.5), (5, 2.5)):
        feed.handle(m.Received(T0 + round(second * 1e9), second, [trade(number, second)]))
    feed.put_back(feed.take_batch(100, 100))
    feed.take_batch(100, 100)
    fetched(feed, [trade(3, 1.8), trade(4, 2.0)], T0 + 3 * 10**9, 3.0)
    feed.handle(m.BackfillFinished(T0 + 3 * 10**9, 3.0))
    feed.handle(m.Stopped(T0 + 4 * 10**9, 4.0))
    return file.getvalue().splitlines()


def test_what_is_recorded_is_replayed_with_the_rows_it_reached() -> None:
    result = replay(recorded())
    assert result.difference is None
    assert sorted(result.first) == [1, 6, 10, 15]


@pytest.mark.parametrize("field", ["actions", "state", "gives", "rows"])
def test_a_feed_history_with_another_answer_is_seen(field: str) -> None:
    lines = recorded()
    number = max(n for n, line in enumerate(lines) if f'"{field}":' in line)
    changed = json.loads(lines[number])
    changed[field] = []
    result = replay([*lines[:number], json.dumps(changed), *lines[number + 1 :]])
    assert result.difference is not None
    assert result.difference.line == number + 1


def test_another_format_of_feed_histories_is_refused() -> None:
    with pytest.raises(ValueError, match="not a history"):
        replay(['{"format": "x"}'])


def test_selection_keeps_the_shortest_beginnings_that_reach_every_row() -> None:
    long = recorded()
    short = long[: next(n for n, line in enumerate(long) if '"rows":[10]' in line) + 1]
    chosen = select({"long": long, "short": short})
    assert sorted({row for lines in chosen.values() for row in replay(lines).first}) == [1, 6, 10, 15]
