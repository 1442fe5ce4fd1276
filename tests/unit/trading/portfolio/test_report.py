"""Periods of reports, and their texts."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.model.accounting.period import ReportName, last_ended, period_of
from fks.model.timeframe import to_ns
from fks.system.alerts.report import page_of, text_of, title_of

NAMES: tuple[ReportName, ...] = ("daily", "weekly", "monthly")
DAYS = st.dates(date(1990, 1, 1), date(2100, 1, 1))


def midnight_ns(day: date) -> int:
    return to_ns(datetime(day.year, day.month, day.day, tzinfo=UTC))


@given(st.sampled_from(NAMES), DAYS, st.integers(0, 1439))
def test_a_period_holds_its_day_and_the_one_before_ends_where_it_begins(
    name: ReportName, day: date, day_end_min: int
) -> None:
    period, noon_ns = period_of(name, day, day_end_min), midnight_ns(day) + 12 * 3600 * 10**9
    assert period.start_ns <= noon_ns < period.end_ns, "most of the day is in its date"
    assert period.start_ns // 60_000_000_000 % 1440 == day_end_min
    assert last_ended(name, noon_ns, day_end_min).end_ns == period.start_ns
    assert last_ended(name, period.end_ns, day_end_min) == period
    assert last_ended(name, period.end_ns - 1, day_end_min).end_ns == period.start_ns


def test_a_trading_day_that_ends_in_the_evening_is_named_by_its_date() -> None:
    period = period_of("daily", date(2026, 11, 26), 22 * 60)
    times = {"start": "2026-11-25T22:00:00Z", "end": "2026-11-26T22:00:00Z"}
    assert period.start_ns == to_ns(datetime(2026, 11, 25, 22, tzinfo=UTC))
    assert title_of({**REPORT, **times, "portfolio": "main"}) == "Daily report of main, 2026-11-26"


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [
        ("daily", date(2026, 11, 26), date(2026, 11, 27)),
        ("weekly", date(2026, 11, 16), date(2026, 11, 23)),
        ("monthly", date(2026, 10, 1), date(2026, 11, 1)),
    ],
)
def test_the_newest_period_that_is_over(name: ReportName, start: date, end: date) -> None:
    found = last_ended(name, midnight_ns(date(2026, 11, 27)))
    assert (found.start_ns, found.end_ns) == (midnight_ns(start), midnight_ns(end))


REPORT: dict[str, Any] = {
    "period": "daily",
    "start": "2026-11-26T00:00:00Z",
    "end": "2026-11-27T00:00:00Z",
    "is_over": True,
    "accounts": [
        {
            "account": "demo<1>",
            "venue": "paper",
            "mode": "paper",
            "currency": "USDT",
            "equity_start": Decimal(1000),
            "equity_end": Decimal("1260.504"),
            "transfers": Decimal(250),
            "profit": Decimal("10.504"),
            "curve": [
                {"time": "2026-11-26T01:00:00Z", "equity": "1000"},
                {"time": "2026-11-26T13:00:00Z", "equity": "1260.504"},
            ],
        }
    ],
    "trades": [
        {
            "account": "demo<1>",
            "instance": "trend",
            "symbol": "BTCUSDT",
            "executions": 1,
            "won": 1,
            "lost": 1,
            "realized": "12.5",
            "best": "20",
            "worst": "-7.5",
            "fees": "1.996",
            "fees_unvalued": 1,
        }
    ],
    "denials": [{"code": "FEED_STALE", "count": 2}],
    "alerts": [{"severity": "page", "count": 1, "open": 1}],
    "holdings": [
        {
            "account": "demo<1>",
            "symbol": "ETHUSDT",
            "instance": "mean",
            "quantity": "0.50",
            "average_price": "2000",
            "mark_price": None,
            "unrealized_pnl": None,
        }
    ],
}
EMPTY = REPORT | {name: [] for name in ("accounts", "trades", "denials", "alerts", "holdings")}


def test_text_has_the_figures_of_the_day() -> None:
    assert title_of(REPORT) == "Daily report, 2026-11-26"
    assert text_of(REPORT).splitlines() == [
        "demo<1> (paper): 1,260.50 USDT, profit +10.50 (+1.05 %), transfers +250.00",
        "trend BTCUSDT: 1 execution, 1 won, 1 lost, realised +12.50, fees 2.00 and 1 without a rate",
        "holding now: 0.5 ETHUSDT",
        "denied: FEED_STALE 2",
        "alerts: 1 page (1 open)",
    ]


def test_a_day_without_rows_is_said_to_be_one() -> None:
    assert text_of(EMPTY) == "no account has an equity in this period\nno executions\nholding nothing now"
    assert "No alert was raised." in page_of(EMPTY)


def test_profit_of_an_account_that_began_at_zero_has_no_percent() -> None:
    account = REPORT["accounts"][0] | {"equity_start": "0"}
    assert "%" not in text_of(REPORT | {"accounts": [account]})


def test_page_escapes_names_and_draws_the_equity() -> None:
    page = page_of(REPORT)
    assert "demo&lt;1&gt;" in page
    assert "demo<1>" not in page
    assert 'points="0.0,115.0 600.0,5.0"' in page
    assert "//" not in page.replace("<!doctype", ""), "it loads nothing"
