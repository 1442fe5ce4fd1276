"""Stored minutes decide the order of prices within a bar also where live trading is compared with backtests."""

from __future__ import annotations

from decimal import Decimal
from typing import ClassVar

import numpy as np
import pytest

from fks.config.settings import Settings
from fks.model.bar import Bars
from fks.model.order import Role
from fks.model.timeframe import NS, to_datetime
from fks.research.jobs.challenge import add_challenger
from fks.research.jobs.challenge import measure as measure_challenger
from fks.research.jobs.drift import measure as measure_drift
from fks.research.jobs.instances import instance_of
from fks.store.bars import BarStore
from fks.store.challengers import ChallengerStore
from fks.store.db import Database
from fks.strategies.base import Decisions, Strategy
from fks.strategies.registry import Catalogue, CatalogueEntry
from tests.support.strategies import add_account, add_instance

HOUR, START = 3_600 * NS, 1_767_225_600 * NS
HOURS, UNCLEAR = 40, 20  # that hour reaches both the stop and the target


class Bracket(Strategy):
    """Is long from the first bar on, with a stop 5 % below the close and a target `target_pct` % above it."""

    name: ClassVar[str] = "bracket"
    target_pct: int = 5

    def warmup(self) -> int:
        return 1

    def decide(self, bars: Bars) -> Decisions:
        return Decisions(np.ones(len(bars)), bars.close * 0.95, bars.close * (1 + self.target_pct / 100))


OWN = Catalogue(iter([CatalogueEntry(Bracket.name, "file", "own.py", Bracket)]))


def flat(timeframe: str, step_ns: int, count: int, start_ns: int) -> Bars:
    """Return bars at 100 that move by a cent."""
    price = np.full(count, 100.0)
    times = start_ns + np.arange(count, dtype=np.int64) * step_ns
    return Bars("BTCUSDT", timeframe, times, price.copy(), price + 0.01, price - 0.01, price, np.ones(count))


@pytest.fixture(params=["target", "stop"])
async def first(request: pytest.FixtureRequest, database: Database) -> str:
    """Store hours, of which one moves by 6 % to both sides, and the minutes of that hour; return which way is first."""
    hours = flat("1h", HOUR, HOURS, START)
    high, low = hours.high.copy(), hours.low.copy()
    high[UNCLEAR], low[UNCLEAR] = 106.0, 94.0
    await BarStore(database).merge(
        Bars("BTCUSDT", "1h", hours.time_ns, hours.open, high, low, hours.close, hours.volume), source="test"
    )
    minutes = flat("1m", 60 * NS, 60, START + UNCLEAR * HOUR)
    high, low = minutes.high.copy(), minutes.low.copy()
    up, down = (10, 40) if request.param == "target" else (40, 10)
    high[up], low[down] = 106.0, 94.0
    await BarStore(database).merge(
        Bars("BTCUSDT", "1m", minutes.time_ns, minutes.open, high, low, minutes.close, minutes.volume), source="test"
    )
    await add_account(database)
    await add_instance(database, "a", "bracket", {"target_pct": 5}, timeframe="1h")
    await database.sql("UPDATE strategy_parameters SET created_at = '2020-01-01'")
    await database.sql(
        "UPDATE strategy_instances SET anchor_time = $1, cursor_time = $2, state = 'RUNNING'",
        to_datetime(START),
        to_datetime(START + (HOURS - 1) * HOUR),
    )
    return str(request.param)


async def test_minutes_decide_what_the_drift_report_expects(database: Database, first: str) -> None:
    instance = await instance_of(database, "a")
    drift, _ = await measure_drift(database, instance, Settings(), OWN, since=None)
    closed = [
        step.expected for step in drift.steps if step.expected is not None and step.expected.role is not Role.ENTRY
    ]
    assert [step.role for step in closed] == [Role.TAKE_PROFIT if first == "target" else Role.STOP_LOSS]


@pytest.mark.parametrize("is_champion", [True, False])
async def test_minutes_decide_for_challengers_and_champions(database: Database, first: str, is_champion: bool) -> None:
    """Once the champion's own target may be reached in the unclear hour, once that which a challenger recorded."""
    near, far = {"target_pct": 5}, {"target_pct": 50}
    await database.sql("UPDATE strategy_instances SET params = $1", near if is_champion else far)
    id = (await add_challenger(database, "a", {"target_pct": 6 if is_champion else 5}, OWN, by="test")).id
    await database.sql(
        "INSERT INTO challenger_decisions (challenger_id, ts_event, target, reference_price, stop_loss, take_profit)"
        " VALUES ($1, $2, 1, 100, 95, $3)",
        id,
        to_datetime(START + 4 * HOUR),
        Decimal(150 if is_champion else 105),
    )
    await database.sql(
        "UPDATE challengers SET begun_time = $1, cursor_time = $2, state = 'RUNNING'",
        to_datetime(START + 3 * HOUR),
        to_datetime(START + (HOURS - 1) * HOUR),
    )
    challenger = await ChallengerStore(database).get(id)
    assert challenger is not None
    excess = await measure_challenger(database, await instance_of(database, "a"), challenger, Settings(), OWN)
    read, other = excess.profit, excess.champion_profit
    if is_champion:
        read, other = other, read
    assert (read > 0) is (first == "target")
    assert other < 0  # its target is far: the stop alone is reached
