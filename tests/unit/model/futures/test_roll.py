"""Held contracts near their end: the actions due on each trade date, and that each is reported once a day."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from fks.config.settings import Ninja, Settings
from fks.model.account import Position
from fks.model.futures import Contract
from fks.model.futures.roll import roll_notice
from fks.model.timeframe import to_ns
from fks.trading.order_manager.context import OrderManagerContext
from fks.trading.order_manager.service import RollWatch

D = Decimal
ES = Contract("ES", 2026, 12)  # rolls on Monday 2026-12-14, last trading day Friday 2026-12-18
ZN = Contract("ZN", 2026, 12)  # first notice 2026-11-30, rolls two business days before


@pytest.mark.parametrize(
    ("day", "urgent_days", "wanted"),
    [
        (date(2026, 12, 11), 3, None),
        (date(2026, 12, 14), 3, False),
        (date(2026, 12, 15), 3, True),
        (date(2026, 12, 18), 0, True),
        (date(2026, 12, 21), 3, True),  # expired, and still held
        (date(2026, 12, 11), 5, True),  # before the roll date: the person wants to know earlier
    ],
)
def test_an_index_contract_is_due_from_its_roll_date(day: date, urgent_days: int, wanted: bool | None) -> None:
    due = roll_notice(ES, day, urgent_days=urgent_days)
    assert (None if due is None else due.is_urgent) == wanted
    if due is not None:
        assert (due.deadline, due.successor.name) == (date(2026, 12, 18), "ES 03-27")


def test_a_delivered_contract_is_due_before_its_first_notice() -> None:
    assert ZN.first_notice == date(2026, 11, 30)
    due = roll_notice(ZN, ZN.roll_date, urgent_days=1)
    assert due is not None
    assert (due.is_urgent, due.deadline, due.successor.name) == (False, date(2026, 11, 30), "ZN 03-27")
    assert "first notice" in str(due)


class Alerts:
    def __init__(self) -> None:
        self.found: list[tuple[str, str, str]] = []

    def alert(self, severity: str, event: str, message: str, **payload: object) -> None:
        self.found.append((severity, event, str(payload["symbol"])))


def at(day: date) -> int:
    return to_ns(datetime(day.year, day.month, day.day, 15, tzinfo=UTC))


def test_a_position_is_reported_once_a_day_and_pages_near_the_end() -> None:
    alerts, now = Alerts(), SimpleNamespace(ns=0)
    held = {
        key: Position(1, venue, symbol, "", D(quantity), D(1), D(0), D(0))
        for key, (venue, symbol, quantity) in enumerate(
            [
                ("ninja", "ES 12-26", 2),
                ("ninja:fund", "ES 12-26", 0),
                ("ninja", "ES 03-27", 1),
                ("paper", "ES 12-26", 1),
            ]
        )
    }
    context: Any = SimpleNamespace(
        settings=Settings(),
        publisher=alerts,
        cache=SimpleNamespace(positions=held),
        clock=SimpleNamespace(now_ns=lambda: now.ns),
        log=SimpleNamespace(),
    )
    watch = RollWatch(_as_context(context))
    for day in (date(2026, 12, 11), date(2026, 12, 14), date(2026, 12, 14), date(2026, 12, 15), date(2026, 12, 16)):
        now.ns = at(day)
        watch.look()
    assert alerts.found == [
        ("warning", "futures.roll_due", "ES 12-26"),
        ("page", "futures.expiry_near", "ES 12-26"),
        ("page", "futures.expiry_near", "ES 12-26"),
    ]


def _as_context(value: Any) -> OrderManagerContext:
    context: OrderManagerContext = value
    return context


def test_automatic_rolling_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match="roll by hand"):
        Ninja(auto_roll=True)
