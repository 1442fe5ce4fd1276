"""Due times of schedules."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.model.errors import InputError
from fks.research.jobs.rhythm import Rhythm, cause_of

START = datetime(2026, 3, 1, 10, 30, tzinfo=UTC)
rhythms = st.one_of(
    st.builds(Rhythm, cron=st.sampled_from(["* * * * *", "*/5 * * * *", "0 3 * * *", "0 0 1 * *", "30 2 29 2 *"])),
    st.builds(Rhythm, every_s=st.integers(60, 100_000)),
)


@given(rhythms, st.integers(0, 10**7))
def test_a_due_time_is_in_the_span_and_made_up_for_once(rhythm: Rhythm, elapsed_s: int) -> None:
    now = START + timedelta(seconds=elapsed_s)
    due = rhythm.due(START, now)
    if due is None:
        assert rhythm.next(START, START) > now
    else:
        assert START < due <= now
        assert rhythm.due(due, now) is None, "a run makes up for all that were missed"
        assert rhythm.next(due, due) > now


@given(rhythms)
def test_the_next_due_time_becomes_due(rhythm: Rhythm) -> None:
    following = rhythm.next(START, START)
    assert rhythm.due(START, following) == following
    assert rhythm.due(START, following - timedelta(seconds=1)) is None


def test_cron_is_utc() -> None:
    assert Rhythm("0 3 * * *").next(START, START) == datetime(2026, 3, 2, 3, tzinfo=UTC)


def test_a_run_is_late_after_a_minute() -> None:
    assert cause_of(START, START + timedelta(seconds=59)) == "due"
    assert cause_of(START, START + timedelta(hours=3)) == "late"


@pytest.mark.parametrize(
    "wrong",
    [
        Rhythm(),
        Rhythm("* * * * *", 60),
        Rhythm("now and then"),
        Rhythm("* * * * * *"),
        Rhythm("61 * * * *"),
        Rhythm(every_s=59),
        Rhythm(every_s=10**9),
    ],
)
def test_other_rhythms_are_refused(wrong: Rhythm) -> None:
    with pytest.raises(InputError):
        wrong.checked()
