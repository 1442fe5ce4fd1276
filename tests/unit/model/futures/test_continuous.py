"""Continuous futures: rolls by volume or by days, prices as of a decision, and the cost of a roll to the cent."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from fks.model.bar import Bars
from fks.model.errors import InputError
from fks.model.futures.continuous import continuous, roll_trades
from fks.model.futures.trading_days import is_business_day
from fks.model.timeframe import NS, to_ns

D = Decimal
#: of the session that ends on the day
DAYS = [day for n in range(60) if is_business_day(day := date(2025, 2, 10) + timedelta(days=n))]


def ns(day: date) -> int:
    return to_ns(datetime.combine(day, time(15), UTC))


def bars(symbol: str, base: float, volumes: dict[date, float], days: list[date] | None = None) -> Bars:
    """Return a bar each day: it opens at `base` and one more each day, and its volume is 100 unless given."""
    days = DAYS if days is None else days
    close = base + np.arange(len(days), dtype=np.float64)
    volume = np.array([volumes.get(day, 100.0) for day in days])
    times = np.array([ns(day) for day in days], dtype=np.int64)
    return Bars(symbol, "1h", times, close, close + 1, close - 1, close, volume, calendar="CMES")


def pair(volume: float = 200.0) -> list[Bars]:
    """Return ES of March and June; June trades more from 2025-03-13 on."""
    more = {day: volume for day in DAYS if day >= date(2025, 3, 13)}
    return [bars("ES 03-25", 5600.0, {}), bars("ES 06-25", 5652.5, more)]


def test_a_roll_by_volume_is_on_the_day_after_the_volume_moved() -> None:
    found = continuous("ES", pair())
    (roll,) = found.rolls
    assert (roll.time_ns, roll.old, roll.new, roll.gap) == (ns(date(2025, 3, 14)), "ES 03-25", "ES 06-25", 52.5)
    # before the roll the old contract plus the gap, from then on the new one: here one line without a jump
    assert np.array_equal(found.bars.close, 5652.5 + np.arange(len(DAYS)))
    assert found.bars.volume[DAYS.index(date(2025, 3, 13))] == 100.0


def test_a_roll_by_days_is_so_many_business_days_before_the_last_trading_day() -> None:
    (roll,) = continuous("ES", pair(), by="days", days=5).rolls
    assert roll.time_ns == ns(date(2025, 3, 14))  # the last trading day is Friday 2025-03-21
    (roll,) = continuous("ES", pair(), by="days", days=1).rolls
    assert roll.time_ns == ns(date(2025, 3, 20))
    (roll,) = continuous("ES", pair(volume=1.0), days=0).rolls  # by volume, which never moved: at the latest then
    assert roll.time_ns == ns(date(2025, 3, 21))


def test_ratio_keeps_returns_and_none_keeps_prices() -> None:
    old, new = pair()
    found = continuous("ES", [old, new], adjust="ratio")
    at = int(np.searchsorted(old.time_ns, found.rolls[0].time_ns))
    assert np.allclose(np.diff(np.log(found.bars.close[:at])), np.diff(np.log(old.close[:at])), atol=1e-10)
    assert np.array_equal(found.bars.close[at:], new.close[at:])
    raw = continuous("ES", [old, new], adjust="none")
    assert np.array_equal(raw.bars.close, np.concatenate([old.close[:at], new.close[at:]]))
    assert np.array_equal(old.close, 5600.0 + np.arange(len(DAYS))), "the contracts' bars stay as they are"


def test_nothing_of_a_later_roll_is_in_the_prices_as_of_a_decision() -> None:
    contracts, at = pair(), ns(date(2025, 3, 14))
    before = continuous("ES", contracts, until_ns=at)
    assert (before.rolls, before.bars.symbol) == ((), "ES")
    assert np.array_equal(before.bars.close, contracts[0].close[: len(before.bars)])
    after = continuous("ES", contracts, until_ns=at + NS)
    assert len(after.rolls) == 1
    for cut in range(2, len(DAYS)):  # bars of after a time change nothing that was known then
        until_ns = int(contracts[0].time_ns[cut])
        changed = [bars(part.symbol, 5600.0 + 52.5 * n, {}, DAYS) for n, part in enumerate(contracts)]
        for part, other in zip(contracts, changed, strict=True):
            other.close[:cut], other.volume[:cut] = part.close[:cut], part.volume[:cut]
        known = [continuous("ES", given, until_ns=until_ns) for given in (contracts, changed)]
        assert known[0].rolls == known[1].rolls
        assert np.array_equal(known[0].bars.close, known[1].bars.close)


def test_the_cost_of_a_roll_is_two_executions_of_each_contract_held() -> None:
    """docs/futures.md: 2 ES long at a roll, 2.25 USD a contract and execution, a tick of 0.25 slippage: 59.00 USD."""
    found = continuous("ES", pair())
    position = np.full(len(found.bars), 2.0)
    trades = roll_trades(found, position, fee=D("2.25"), slippage=D("0.25"), multiplier=D(50))
    assert [(one.roll, one.quantity, one.cost) for one in trades] == [(found.rolls[0], D(2), D("59.00"))]
    assert roll_trades(found, position * 0, fee=D(1), multiplier=D(50)) == []
    assert roll_trades(found, -position, fee=D("2.25"), multiplier=D(50))[0].cost == D("9.00")


@pytest.mark.parametrize(
    ("contracts", "code"),
    [
        ([], "CONTINUOUS_WRONG"),
        (pair()[::-1], "CONTINUOUS_WRONG"),
        ([bars("BTCUSDT", 100.0, {})], "CONTRACT_NAME"),
        ([bars("ES 03-25", 100.0, {}), bars("NQ 06-25", 100.0, {})], "CONTINUOUS_WRONG"),
        ([bars("ES 03-25", 100.0, {}, DAYS[:5]), bars("ES 06-25", 100.0, {}, DAYS[30:])], "CONTINUOUS_GAP"),
        ([bars("ES 03-25", 100.0, {}), bars("ES 06-25", 1.0, {})], "CONTINUOUS_NEGATIVE"),
    ],
)
def test_contracts_that_make_no_series_are_refused(contracts: list[Bars], code: str) -> None:
    options: dict[str, Any] = {"by": "days"}
    with pytest.raises(InputError) as raised:
        continuous("ES", contracts, **options)
    assert raised.value.code == code
