"""What a source brings goes into the store or into the quarantine, and a doubt is settled by asking again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fks.data.calendars import calendar_of
from fks.data.screen import HELD_MAX, Screen
from fks.model.bar import Bar, Bars
from fks.model.timeframe import NS
from fks.store.db import Database
from fks.store.quarantine import QuarantineStore, Verdict

T0 = 1_767_225_600 * NS
MINUTE = 60 * NS


def minutes(count: int = 60) -> list[Bar]:
    return [Bar("okx", "BTCUSDT", "1m", T0 + i * MINUTE, 100.0, 100.1, 99.9, 100.0, 1.0 + i, 3) for i in range(count)]


class Source:
    """Says its bars again; `answer` are those it has by then."""

    def __init__(self, answer: list[Bar]) -> None:
        self.answer = answer
        self.asked = 0

    async def again(self, start_ns: int, end_ns: int) -> Sequence[Bar]:
        self.asked += 1
        return [bar for bar in self.answer if start_ns <= bar.time_ns < end_ns]


def screen(database: Database, source: Source | None = None) -> Screen:
    again = None if source is None else source.again
    return Screen(QuarantineStore(database), "okx", "BTCUSDT", "1m", source="sync", calendar=calendar_of("24/7"), again=again)


async def test_sound_bars_pass_and_ask_nothing(database: Database) -> None:
    source = Source([])
    assert await screen(database, source).sift(minutes()) == minutes()
    assert source.asked == 0
    assert await QuarantineStore(database).rows() == []


async def test_what_cannot_be_true_is_kept_out_with_its_numbers(database: Database) -> None:
    bars = minutes()
    bars[7] = replace(bars[7], high=99.0)
    bars[9] = replace(bars[9], close=float("nan"))
    judging = screen(database, Source(bars))
    assert await judging.sift(bars) == [*bars[:7], bars[8], *bars[10:]]
    rows = await QuarantineStore(database).rows("okx", "BTCUSDT")
    assert [(row.held.reason, row.held.time_ns, row.held.payload["high"]) for row in reversed(rows)] == [
        ("inconsistent", bars[7].time_ns, "99.0"), ("not_a_number", bars[9].time_ns, "100.1")]  # fmt: skip
    assert (judging.refused, judging.doubted) == (2, 0)


async def test_a_doubt_is_settled_by_the_same_word_again(database: Database) -> None:
    bars = minutes()
    bars[50] = replace(bars[50], low=50.0)
    source = Source(bars)
    judging = screen(database, source)
    assert await judging.sift(bars) == bars
    assert (source.asked, judging.doubted, judging.confirmed) == (1, 1, 1)
    (row,) = await QuarantineStore(database).rows(with_settled=True)
    assert (row.held.reason, row.verdict) == ("outlier", Verdict.CONFIRMED)
    assert await screen(database, source).sift(bars) == bars
    assert source.asked == 1  # numbers let in once need not be asked for


async def test_a_doubt_that_is_not_said_again_stays_held(database: Database) -> None:
    bars = minutes()
    wrong = replace(bars[50], low=50.0)
    source = Source(bars)
    assert await screen(database, source).sift([*bars[:50], wrong, *bars[51:]]) == [*bars[:50], *bars[51:]]
    (row,) = await QuarantineStore(database).rows()
    assert (row.held.payload["low"], row.verdict) == ("50.0", None)


async def test_a_file_cannot_be_asked_and_a_person_lets_in(database: Database) -> None:
    bars = minutes()
    bars[50] = replace(bars[50], high=200.0)
    assert len(await screen(database).sift(bars)) == 59
    (row,) = await QuarantineStore(database).rows()
    await QuarantineStore(database).settle([row.id], Verdict.CONFIRMED)
    assert await screen(database).sift(bars) == bars


async def test_repeats_are_dropped_and_a_flood_is_counted(database: Database) -> None:
    bars = minutes(5)
    assert await screen(database).sift([*bars, bars[3]]) == bars
    assert await QuarantineStore(database).rows() == []
    count = HELD_MAX + 500
    wrong = Bars("BTCUSDT", "1m", T0 + np.arange(count) * MINUTE, *(np.full(count, -1.0) for _ in range(4)), np.ones(count))
    assert not (await screen(database).judge(wrong)).any()
    rows = await QuarantineStore(database).rows(limit=2 * count)
    assert len(rows) == HELD_MAX
    assert rows[0].held.payload["more"] == 500
