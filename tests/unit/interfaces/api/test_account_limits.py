"""Figures of the accounts in a Prometheus text, and limits made of them."""

from __future__ import annotations

from decimal import Decimal

from fks.config.risk import Risk
from fks.interfaces.entry.account_limits import EXPOSURE, PROFIT, gauges_of, limits_of

TEXT = """# HELP fks_account_pnl_day x
fks_account_pnl_day{component="orders",account="a \\"b\\""} -1.5
fks_account_exposure{account="demo",component="orders"} NaN
fks_other{account="demo"} 7
fks_account_pnl_day{account="broken",component="orders"} x
"""


def test_gauges_are_read_by_metric_and_account() -> None:
    assert gauges_of(TEXT) == {(PROFIT, 'a "b"'): Decimal("-1.5")}
    assert (EXPOSURE, "demo") not in gauges_of(TEXT), "no number is not known"
    assert gauges_of("") == {}


def limit(profit: str | None, seen: str = "0") -> dict[str, object]:
    found = limits_of(
        Risk(loss_day_max=Decimal(100)),
        "USDT",
        profit=None if profit is None else Decimal(profit),
        loss_seen=Decimal(seen),
        exposure=None,
        orders_open=3,
        orders_minute=0,
    )
    return next(row for row in found if row["code"] == "LOSS_DAY")


def test_a_profit_uses_nothing_and_an_unknown_one_is_not_known() -> None:
    assert (limit("5")["used"], limit("5")["left"]) == (Decimal(0), Decimal(100))
    assert (limit("-30")["used"], limit("-30")["left"]) == (Decimal(30), Decimal(70))
    assert (limit(None)["used"], limit(None)["left"]) == (None, None)


def test_a_loss_that_reached_the_limit_holds() -> None:
    assert limit("5", seen="120")["used"] == Decimal(120)
    assert limit("5", seen="80")["used"] == Decimal(0), "below the limit the loss of now counts"
    assert limit(None, seen="120")["left"] == Decimal(-20)
