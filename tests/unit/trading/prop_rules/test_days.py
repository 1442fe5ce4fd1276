"""Days on prop accounts, worked out by hand: verdicts for entries and required actions along them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from fks.model.timeframe import to_ns
from fks.trading.prop_rules import (
    AccountState,
    EntryRequest,
    Holding,
    RuleGroup,
    WorkingEntry,
    check_entry,
    consistency_pct,
    drawdown_threshold,
    required_action,
    shipped_group,
)

DAY = date(2026, 11, 18)  # a Wednesday


def at(text: str) -> int:
    """Return a moment given in UTC; Chicago is six hours behind in November."""
    return to_ns(datetime.fromisoformat(text).replace(tzinfo=UTC))


TEN = at("2026-11-18T16:00")  # 10:00 in Chicago


def group_of(name: str, **changes: dict[str, Any]) -> RuleGroup:
    """Return a shipped group whose figures were verified on 10 November, with changed or added rules."""
    found = shipped_group(name).model_dump(exclude_none=True)
    for rule, keys in changes.items():
        found["rules"][rule] = {**found["rules"].get(rule, {"source": "test"}), **keys}
    for rule in found["rules"].values():
        rule |= {"verified_on": date(2026, 11, 10), "verified_by": "a person"}
    return RuleGroup.model_validate(found)


TOPSTEP = group_of("topstep-50k")
APEX = group_of("apex-50k", automation={"value": "allowed"})


def state(equity: float, *, start: float = 50_000, highest: float = 50_000, **more: Any) -> AccountState:
    return AccountState(Decimal(str(equity)), Decimal(str(start)), DAY, Decimal(str(highest)), **more)


def one(worst: float | None, root: str = "ES", quantity: int = 1) -> EntryRequest:
    return EntryRequest(root, quantity, None if worst is None else Decimal(str(worst)))


def code_of(group: RuleGroup, account: AccountState, entry: EntryRequest, now_ns: int = TEN) -> str:
    denial = check_entry(group, account, entry, now_ns)
    return "" if denial is None else denial.code


@pytest.mark.parametrize(
    ("equity", "working", "worst", "code"),
    [
        (50_000, [], 799, ""),
        (50_000, [], 800, "daily_loss"),  # 80 % of 1,000
        (49_500, [], 299, ""),  # 500 are lost
        (49_500, [], 300, "daily_loss"),
        (49_500, [200], 99, ""),
        (49_500, [200], 100, "daily_loss"),  # a working entry may lose 200
        (49_500, [-400], 300, "daily_loss"),  # a stop in profit does not lessen another loss
        (50_600, [], 1_399, ""),  # profits of the day may be risked
        (49_500, [None], 10, "daily_loss"),  # a working entry without a stop
        (49_500, [], None, "daily_loss"),
    ],
)
def test_entries_stay_inside_the_daily_loss(
    equity: float, working: list[float | None], worst: float, code: str
) -> None:
    entries = tuple(WorkingEntry("NQ", 1, None if loss is None else Decimal(loss)) for loss in working)
    assert code_of(TOPSTEP, state(equity, entries=entries), one(worst)) == code


@pytest.mark.parametrize(
    ("equity", "highest", "threshold", "worst", "code"),
    [
        (50_000, 50_000, 48_000, 700, ""),
        (50_000, 51_000, 49_000, 599, ""),  # 1,000 above the threshold, 400 of 2,000 are kept
        (50_000, 51_000, 49_000, 600, "drawdown"),
        (49_500, 51_000, 49_000, 100, "drawdown"),
        (51_900, 50_000, 48_000, 700, ""),  # open profit does not move an end-of-day threshold
        (49_600, 49_000, 48_000, 300, ""),  # the highest value is never below the starting balance
    ],
)
def test_entries_stay_inside_an_end_of_day_drawdown(
    equity: float, highest: float, threshold: float, worst: float, code: str
) -> None:
    account = state(equity, highest=highest, start=50_000)
    assert drawdown_threshold(TOPSTEP, account) == Decimal(threshold)
    assert code_of(TOPSTEP, account, one(worst)) == code


def test_an_intraday_threshold_follows_open_profit_up_to_the_lock() -> None:
    """A morning at Apex: up 1,500 open, back to the start, then far ahead."""
    account = state(51_500, highest=50_000)
    assert drawdown_threshold(APEX, account) == 49_000
    back = state(50_000, highest=51_500)
    assert drawdown_threshold(APEX, back) == 49_000
    assert code_of(APEX, back, one(499)) == ""
    assert code_of(APEX, back, one(500)) == "drawdown"  # 1,000 left, of which 500 are kept
    assert drawdown_threshold(APEX, state(60_000, highest=58_000)) == 50_100
    assert code_of(APEX, state(60_000, highest=58_000), one(5_000)) == ""


def test_a_losing_day_is_flattened_once_and_blocked_until_the_evening() -> None:
    """Wednesday at Topstep: 50,000 at the start, a loss of 790, then of 800, then closed."""
    held = (Holding("ES", 1),)
    assert required_action(TOPSTEP, state(49_210, holdings=held), TEN) is None
    action = required_action(TOPSTEP, state(49_200, holdings=held), TEN)
    assert action is not None
    assert (action.code, action.block_until_ns) == ("daily_loss", at("2026-11-18T23:00"))  # 17:00 in Chicago
    closed = state(49_190, blocked=DAY)
    assert required_action(TOPSTEP, closed, TEN) == replace(
        action, detail="result of the day -810.00, own limit -800.00"
    )
    assert code_of(TOPSTEP, replace(closed, equity=Decimal(50_500)), one(10)) == "daily_loss"
    evening = replace(closed, day=date(2026, 11, 19), day_start_balance=Decimal(49_190))
    assert required_action(TOPSTEP, evening, at("2026-11-18T23:30")) is None
    assert code_of(TOPSTEP, evening, one(100), at("2026-11-18T23:30")) == ""
    assert code_of(TOPSTEP, closed, one(100), at("2026-11-18T23:30")) == "daily_loss", "values of yesterday are unknown"


def test_a_drawdown_is_flattened_before_the_firms_threshold() -> None:
    held = (Holding("MES", 3),)
    assert required_action(APEX, state(49_501, highest=51_500, start=49_600, holdings=held), TEN) is None
    action = required_action(APEX, state(49_500, highest=51_500, start=49_600, holdings=held), TEN)
    assert action is not None
    assert action.code == "drawdown"


@pytest.mark.parametrize(
    ("now", "entry", "action"),
    [
        ("2026-11-17T23:00", "", ""),  # Tuesday 17:00: Wednesday's session begins
        ("2026-11-18T20:54", "", ""),
        ("2026-11-18T20:55", "outside_session", ""),  # 14:55
        ("2026-11-18T21:04", "outside_session", ""),
        ("2026-11-18T21:05", "outside_session", "outside_session"),
        ("2026-11-18T22:30", "outside_session", "outside_session"),  # the daily break
        ("2026-11-18T23:00", "", ""),
        ("2026-11-20T21:05", "outside_session", "outside_session"),  # Friday
        ("2026-11-21T18:00", "outside_session", "outside_session"),  # Saturday
        ("2026-11-22T22:59", "outside_session", "outside_session"),
        ("2026-11-22T23:00", "", ""),  # Sunday 17:00
        ("2026-11-26T17:34", "", ""),  # Thanksgiving closes at 12:00: entries until 11:35, flat at 11:45
        ("2026-11-26T17:35", "outside_session", ""),
        ("2026-11-26T17:45", "outside_session", "outside_session"),
        ("2026-11-26T23:30", "", ""),
        ("2026-12-25T16:00", "outside_session", "outside_session"),  # closed
        ("2026-06-19T16:45", "outside_session", "outside_session"),  # Juneteenth, daylight saving: 11:45
        ("2026-06-18T19:54", "", ""),  # 14:54 in daylight saving time
        ("2026-06-18T19:55", "outside_session", ""),
        ("2026-06-18T20:05", "outside_session", "outside_session"),
        ("2026-03-06T20:54", "", ""),  # the Friday before the clocks change
        ("2026-03-09T19:55", "outside_session", ""),  # and the Monday after
        ("2026-11-02T20:54", "", ""),
    ],
)
def test_hours_follow_chicago_the_calendar_and_daylight_saving(now: str, entry: str, action: str) -> None:
    rules = {name: {"verified_on": at_day(now), "verified_by": "a person"} for name in TOPSTEP.rules.present()}
    group = RuleGroup.model_validate(
        {**TOPSTEP.model_dump(), "rules": {k: {**v, **rules[k]} for k, v in TOPSTEP.model_dump()["rules"].items() if v}}
    )
    now_ns = at(now)
    account = replace(state(50_000, holdings=(Holding("ES", 1),)), day=trade_day(now))
    assert code_of(group, account, one(100), now_ns) == entry
    found = required_action(group, account, now_ns)
    assert ("" if found is None else found.code) == action
    if found is not None:
        local = datetime.fromtimestamp(found.block_until_ns / 1e9, UTC)
        assert local.hour in (22, 23), "17:00 in Chicago"
        assert found.block_until_ns > now_ns
        assert (local - datetime.fromisoformat(now).replace(tzinfo=UTC)).total_seconds() < 4 * 86400


def at_day(now: str) -> date:
    return datetime.fromisoformat(now).date()


def trade_day(now: str) -> date:
    from fks.model.futures import trade_date

    return trade_date(at(now))


@pytest.mark.parametrize(
    ("holdings", "entries", "wanted", "factor", "code"),
    [
        ([("ES", 4)], [], ("ES", 1), 1, ""),
        ([("ES", 5)], [], ("ES", 1), 1, "position_limit"),
        ([("ES", 3)], [("NQ", 1)], ("NQ", 1), 1, ""),
        ([("ES", 3)], [("NQ", 2)], ("NQ", 1), 1, "position_limit"),
        ([("ES", 3)], [("NQ", -2)], ("NQ", 2), 1, ""),  # one side of NQ may fill
        ([("ES", -5)], [], ("ES", 5), 1, ""),  # it can end long or short five, never more
        ([("ES", -5)], [("ES", 5)], ("ES", 5), 1, ""),
        ([("ES", -5)], [("ES", 5)], ("ES", 6), 1, "position_limit"),
        ([("MES", 5)], [], ("MES", 1), 1, "position_limit"),
        ([("MES", 49)], [], ("MES", 1), 0.1, ""),
        ([("MES", 50)], [], ("MES", 1), 0.1, "position_limit"),
        ([("XYZ", 5)], [], ("MES", 1), 0.1, "position_limit"),  # an unknown root counts as full size
    ],
)
def test_lots_count_positions_and_working_entries(
    holdings: list[tuple[str, int]],
    entries: list[tuple[str, int]],
    wanted: tuple[str, int],
    factor: float,
    code: str,
) -> None:
    group = group_of("topstep-50k", max_lots={"micro_factor": factor})
    account = state(
        50_000,
        holdings=tuple(Holding(*item) for item in holdings),
        entries=tuple(WorkingEntry(*item, Decimal(1)) for item in entries),
    )
    assert code_of(group, account, one(1, *wanted)) == code


def test_news_windows_block_entries_and_close_where_the_rule_says_so() -> None:
    event = {"at": datetime(2026, 11, 18, 16, 0, tzinfo=UTC), "name": "minutes"}
    for action in ("refuse", "flatten_and_block"):
        news = {"value": [event], "minutes_before": 5, "minutes_after": 2, "action": action}
        group, account = group_of("topstep-50k", news=news), state(50_000, holdings=(Holding("ES", 1),))
        found = {
            minute: (code_of(group, account, one(1), at(minute)), required_action(group, account, at(minute)))
            for minute in ("2026-11-18T15:54", "2026-11-18T15:55", "2026-11-18T16:01", "2026-11-18T16:02")
        }
        assert [entry for entry, _ in found.values()] == ["", "news_block", "news_block", ""]
        required = [None if todo is None else todo.block_until_ns for _, todo in found.values()]
        until = at("2026-11-18T16:02") if action == "flatten_and_block" else None
        assert required == [None, until, until, None]


def test_a_firm_without_a_rule_is_not_held_to_it() -> None:
    assert code_of(APEX, state(51_900, start=55_000, highest=51_000), one(10)) == "", "no daily loss"
    free = group_of("topstep-50k", max_lots={"value": "none"}, max_loss={"value": "none"})
    assert code_of(free, state(50_000, highest=90_000), one(10, "ES", 500)) == ""
    always = group_of(
        "custom", automation={"value": "allowed"}, flat_by={"value": "none", "own": None, "no_entries_from": None}
    )
    account = state(50_000, holdings=(Holding("ES", 1),))
    assert code_of(always, account, one(10), at("2026-11-18T21:59")) == "position_limit"
    assert code_of(always, state(50_000), one(10), at("2026-11-18T21:59")) == ""
    assert code_of(always, state(50_000), one(10), at("2026-11-18T22:00")) == "outside_session"
    assert required_action(always, account, at("2026-11-18T22:30")) is None


def test_consistency_is_a_share_of_the_profit() -> None:
    assert consistency_pct(AccountState(best_day=Decimal(600), total_profit=Decimal(2000))) == 30
    assert consistency_pct(AccountState(best_day=Decimal(600), total_profit=Decimal(-5))) is None
    assert consistency_pct(AccountState()) is None
