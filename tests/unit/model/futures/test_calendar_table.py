"""The table of roll days, sessions and hours that FKS and the NT8 add-on share."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import pytest

from fks.model.futures import SPECS, Contract, front_month, session_close_ns, trade_date
from fks.model.futures.specs import MONTH_CODES
from fks.model.futures.trading_days import CHICAGO, is_business_day, moment_ns
from fks.model.timeframe import NS, to_ns
from fks.trading.prop_rules import hours_of
from fks.trading.prop_rules.rules import FlatBy

TABLE = Path(__file__).resolve().parents[4] / "nt8" / "tests" / "calendar.txt"
FIRST, LAST = date(2020, 1, 1), date(2032, 12, 31)
FULL = date(2024, 1, 1)


def lines(kind: str) -> Iterator[list[str]]:
    for line in TABLE.read_text().splitlines():
        parts = line.split()
        if parts and parts[0] == kind:
            yield parts[1:]


def clock(time_ns: int | None) -> str:
    if time_ns is None:
        return "none"
    return datetime.fromtimestamp(time_ns // NS, UTC).astimezone(CHICAGO).strftime("%H:%M")


def test_each_day_is_as_the_table_says() -> None:
    known = {day: [close, kind] for day, close, kind in lines("day")}
    # the add-on's own test looks at each day of the table
    every = [FULL + timedelta(days=number) for number in range(5 * 365)]
    for day in {*every, *map(date.fromisoformat, known)}:
        regular = ["16:00", "business"] if day.weekday() < 5 else ["none", "holiday"]
        found = [clock(session_close_ns(day)), "business" if is_business_day(day) else "holiday"]
        assert found == known.get(str(day), regular), day


def test_each_contract_rolls_on_the_day_of_the_table() -> None:
    table = {f"{root} {month}": day for root, month, day in lines("roll")}
    every = {
        one.name: str(one.roll_date)
        for root, spec in SPECS.items()
        for year in range(FIRST.year, LAST.year + 1)
        for one in (Contract(root, year, MONTH_CODES.index(code) + 1) for code in spec.months)
    }
    assert every == table


def test_each_front_month_is_that_of_the_table() -> None:
    table = list(lines("front"))
    assert {root for root, *_ in table} == set(SPECS)
    for root, day, *name in table:
        assert front_month(root, date.fromisoformat(day)).name == " ".join(name)


def test_each_moment_is_as_the_table_says() -> None:
    for moment, state, day in lines("moment"):
        now_ns = to_ns(datetime.fromisoformat(moment).astimezone(UTC))
        assert (hours_of(None, now_ns).is_open, str(trade_date(now_ns))) == (state == "open", day), moment


def test_early_closes_move_the_hours_of_a_rule() -> None:
    for day, own, no_entries, minutes, flat, entries_end in lines("hours"):
        rule = FlatBy(
            value=time(16),
            source="s",
            own=time.fromisoformat(own),
            no_entries_from=time.fromisoformat(no_entries),
            before_early_close_min=int(minutes),
        )
        hours = hours_of(rule, moment_ns(date.fromisoformat(day), time(7)))
        assert (str(hours.day), clock(hours.flat_at_ns), clock(hours.entries_end_ns)) == (day, flat, entries_end)


@pytest.mark.parametrize("kind", ["day", "roll", "front", "moment", "hours"])
def test_the_table_has_lines_of_each_kind(kind: str) -> None:
    assert len(list(lines(kind))) > 20
