"""Finer bars decide what happened inside a bar: the run on hours or five minutes then trades like one on minutes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from decimal import Decimal
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ConfigDict

from fks.model.bar import Bars, Floats
from fks.model.errors import InputError
from fks.model.instrument import Instrument
from fks.model.margin import Margin
from fks.model.order import Role
from fks.model.timeframe import NS
from fks.research.backtest import Setup, resample
from fks.research.backtest.limits import UNLIMITED
from fks.research.backtest.run import EngineName
from fks.research.jobs.account import parse_account, run_account_spec
from fks.research.jobs.backtest import BarsRequest, LoadedBars, parse_spec, run_spec
from fks.research.jobs.bars import load_tape, read_tape
from fks.research.jobs.optimization import document_of_search, parse_optimization, search_hash, searched, task_for
from fks.research.search import Search, serial
from fks.strategies.base import PRICE_COLUMNS, Decisions, Strategy
from fks.strategies.registry import load_catalogue
from fks.trading.matching import CostModel
from tests.support.backtests import run

D = Decimal
BTC = Instrument("binance", "BTCUSDT", "BTC", "USDT", D("0.01"), D("0.00001"), D("0.00001"), D(9000), D(5))
SETUP = Setup(BTC, CostModel(D(0)), "quantity", D(1), D(10**7), limits=UNLIMITED, allow_gaps=True, can_short=True)
ENGINES: tuple[EngineName, ...] = ("reference", "compiled")
HOUR_NS = 1_767_225_600 * NS


class Given(Strategy):
    """Decisions as they are given."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)
    name: ClassVar[str] = "given"
    columns: dict[str, Any]

    def warmup(self) -> int:
        return 0

    def decide(self, bars: Bars) -> Decisions:
        return Decisions(**{name: np.asarray(column)[: len(bars)] for name, column in self.columns.items()})


def minutes(path: Any, reach: Any = 0) -> Bars:
    """Return minutes that follow a path without gaps: each opens where the one before closed."""
    path = np.asarray(path, float)
    open_, close = path[:-1], path[1:]
    times = HOUR_NS + np.arange(len(open_), dtype=np.int64) * 60 * NS
    columns = (open_, np.maximum(open_, close) + reach, np.minimum(open_, close) - reach, close)
    return Bars("BTCUSDT", "1m", times, *columns, np.ones(len(open_)))


def spread(columns: dict[str, Floats], per: int) -> dict[str, Floats]:
    """Return decisions of bars as decisions of their minutes: made on the last minute of each."""
    count = len(columns["target"]) * per
    found = {"target": np.concatenate([np.zeros(per - 1), np.repeat(columns["target"], per)])[:count]}
    for name in (name for name in PRICE_COLUMNS if name in columns):
        column = np.full(count, np.nan)
        column[per - 1 :: per] = columns[name]
        found[name] = column
    return found


def traded(result: Any, step_ns: int) -> list[tuple[Any, ...]]:
    return [(f.time_ns // step_ns, f.side, f.price, f.role) for f in result.fills]


@given(st.integers(0, 2**32), st.sampled_from(["5m", "15m"]))
def test_a_run_with_finer_bars_trades_like_one_on_them(seed: int, timeframe: str) -> None:
    random, per = np.random.default_rng(seed), int(timeframe[:-1])
    count = int(random.integers(6, 40))
    fine = minutes(300 + np.cumsum(random.integers(-4, 5, count * per + 1)), random.integers(0, 2, count * per))
    bars = resample(fine, timeframe)
    target = np.repeat(random.integers(-1, 2, count), 3)[:count].astype(float)
    side = np.where(target < 0, -1.0, 1.0)

    def near(low: int, high: int, share: float) -> Floats:
        return np.where(random.random(count) < share, bars.close + side * random.integers(low, high, count), np.nan)

    columns = {
        "target": target,
        "stop_loss": near(-9, -4, 0.9),
        "take_profit": near(4, 9, 0.9),
        "entry_limit": near(-3, 2, 0.4),
        "entry_stop": near(1, 4, 0.4),
    }
    # whether a stop-limit fills in the bar that triggers it stays the rule's: none of them here
    columns["entry_limit"] = np.where(np.isfinite(columns["entry_stop"]), np.nan, columns["entry_limit"])
    close = run(Given(columns=spread(columns, per)), fine, SETUP)
    found = run(Given(columns=columns), bars, SETUP, engine="reference", finer=fine)
    compiled = run(Given(columns=columns), bars, SETUP, engine="compiled", finer=fine)
    assert (compiled.fills, compiled.unclear) == (found.fills, found.unclear)
    if close.unclear or close.denied:
        return
    step_ns = per * 60 * NS
    assert (traded(found, step_ns), found.unclear) == (traded(close, step_ns), 0)


def _random_run(seed: int) -> tuple[Given, Bars, Bars]:
    """Return decisions, bars and minutes: some are missing, they jump and may be on a finer grid, and bars open
    elsewhere than their first minute does."""
    random = np.random.default_rng(seed)
    per, count = int(random.choice([3, 5, 15])), int(random.integers(6, 60))
    fine = minutes(300 + np.cumsum(random.integers(-4, 5, count * per + 1)), random.integers(0, 2, count * per))
    opens = fine.open + random.integers(-3, 4, len(fine))
    fine = replace(fine, open=opens, high=np.maximum(fine.high, opens), low=np.minimum(fine.low, opens))
    bars = resample(fine, f"{per}m")
    bars = replace(bars, open=np.clip(bars.open + random.integers(-3, 4, count), bars.low, bars.high))
    if random.random() < 0.3:  # prices between the ticks of the bars, inside their range
        closes = np.where((fine.close < fine.high) & (random.random(len(fine)) < 0.5), fine.close + 0.001, fine.close)
        fine = replace(fine, close=closes)
    kept = random.random(len(fine)) > random.choice([0, 0.02])
    columns = [getattr(fine, name)[kept] for name in ("time_ns", "open", "high", "low", "close", "volume")]
    target = np.repeat(random.integers(-1, 2, count), int(random.integers(1, 6)))[:count].astype(float)
    side = np.where(target < 0, -1.0, 1.0)
    wanted = {
        "target": target,
        "stop_loss": bars.close - side * random.integers(2, 7, count),
        "take_profit": bars.close + side * random.integers(2, 7, count),
        "trail": np.where(random.random(count) < random.choice([0, 0.5]), random.integers(2, 8, count), np.nan),
    }
    if random.random() < 0.6:
        away = bars.close + side * random.integers(-3, 4, (2, count))
        wanted |= dict(
            zip(("entry_limit", "entry_stop"), np.where(random.random((2, count)) < 0.6, away, np.nan), strict=True)
        )
    return Given(columns=wanted), bars, Bars("BTCUSDT", "1m", *columns)


def test_both_engines_read_finer_bars_alike() -> None:
    """In 300 runs of fixed seeds; in how many of them the minutes change fills or leave a bar unclear is counted. Every
    third one is on a margin that closes some by force: where minutes decide beside that, the reference engine runs."""
    changed, tight = Counter[str](), replace(SETUP, margin=Margin.parse("0.02/0.01"), cash=D(12))
    for seed in range(300):
        wanted, bars, fine = _random_run(seed)
        setup = SETUP if seed % 3 else tight
        exact, fast = (run(wanted, bars, setup, engine=engine, finer=fine) for engine in ENGINES)
        assert (fast.fills, fast.unclear) == (exact.fills, exact.unclear), seed
        assert fast.equity == pytest.approx(exact.equity), seed
        whole, alone = (run(wanted, bars, setup, engine=engine) for engine in ENGINES)
        assert (alone.fills, alone.unclear) == (whole.fills, whole.unclear), seed
        if setup is tight:
            changed["closed by force"] += any(fill.role is Role.LIQUIDATION for fill in fast.fills)
            changed["left to the reference engine"] += fast.engine.name == "reference"
            continue
        assert fast.engine.name == "compiled", seed
        kind = "rests" if {"entry_limit", "entry_stop"} & wanted.columns.keys() else "market"
        changed[f"{kind}: other fills"] += fast.fills != alone.fills
        changed[f"{kind}: left unclear"] += fast.unclear > 0
        changed["on a finer grid"] += fine.ticks.places > bars.ticks.places
    assert len(changed) == 7
    assert min(changed.values()) >= 10, changed


@pytest.mark.parametrize("engine", ENGINES)
def test_months_and_no_bars_inside_keep_the_worse_reading(engine: EngineName) -> None:
    """Months have no one length, which the compiled engine needs: the reference engine reads their days."""
    path = [100] * (31 + 28 + 28) + [100, 104, 96, 98] + [98] * 30  # January, February, and both legs after 28 days
    days = minutes(path)
    days = replace(days, timeframe="1d", time_ns=HOUR_NS + np.arange(len(days), dtype=np.int64) * 86_400 * NS)
    months = resample(days, "1M")
    wanted = Given(columns={"target": [0.0, 1, 1, 1], "stop_loss": [97.0] * 4, "take_profit": [103.0] * 4})
    alone, found, empty = (run(wanted, months, SETUP, engine=engine, finer=fine) for fine in (None, days, days[:0]))
    assert ([float(f.price) for f in alone.fills], alone.unclear) == ([100, 97], 1)
    assert ([float(f.price) for f in found.fills], found.unclear) == ([100, 103], 0)
    assert (empty.fills, empty.unclear) == (alone.fills, 1)


BOTH = [100, 100, 100, 104, 100, 96, 98]  # up to the take profit first, and then down to the stop loss


@pytest.mark.parametrize(("path", "price"), [(BOTH, 103), ([2 * 100 - value for value in BOTH], 97)])
@pytest.mark.parametrize("engine", ENGINES)
def test_minutes_decide_which_protection_was_first(path: list[int], price: int, engine: EngineName) -> None:
    fine = minutes([100] * 5 + path + [path[-1]] * 4)
    bars = resample(fine, "5m")
    wanted = Given(columns={"target": [1.0] * len(bars), "stop_loss": [97.0] * 3, "take_profit": [103.0] * 3})
    alone = run(wanted, bars, SETUP, engine=engine)
    assert ([float(f.price) for f in alone.fills], alone.unclear) == ([100, 97], 1)
    found = run(wanted, bars, SETUP, engine=engine, finer=fine)
    assert ([float(f.price) for f in found.fills], found.unclear) == ([100, price], 0)
    assert found.engine.name == engine
    assert found.inputs_hash != alone.inputs_hash
    hole = run(wanted, bars, SETUP, finer=replace(fine)[:8])  # the bar is not whole: the worse reading counts
    assert (hole.fills, hole.unclear) == (alone.fills, 1)


def test_the_compiled_engine_runs_where_nothing_is_unclear() -> None:
    fine = minutes(np.linspace(100, 120, 61).round())
    bars = resample(fine, "15m")
    wanted = Given(columns={"target": [1.0] * 4, "stop_loss": [90.0] * 4, "take_profit": [110.0] * 4})
    assert run(wanted, bars, SETUP, engine="compiled", finer=fine).engine.name == "compiled"


@pytest.mark.parametrize(("low", "high", "reason"), [(0.0, 100.0, "not positive"), (99.0, 2e13, "64 bits")])
def test_finer_prices_that_integers_cannot_hold_take_the_reference_engine(low: float, high: float, reason: str) -> None:
    """Though all prices of the run's own bars would fit."""
    fine = minutes(np.full(61, 100))
    bars = resample(fine, "15m")
    fine.low[10], fine.high[10] = low, high
    wanted = Given(columns={"target": [1.0] * 4, "stop_loss": [90.0] * 4, "take_profit": [110.0] * 4})
    found = run(wanted, bars, SETUP, engine="compiled", finer=fine)
    assert (found.engine.name, reason in found.engine.reason) == ("reference", True), found.engine.reason
    assert run(wanted, bars, SETUP, engine="compiled").engine.name == "compiled"


def test_bars_that_are_not_finer_are_refused() -> None:
    fine = minutes(np.full(61, 100))
    bars = resample(fine, "15m")
    wanted = Given(columns={"target": [1.0] * 4})
    for wrong in (bars, resample(fine, "30m"), replace(fine, symbol="ETHUSDT")):
        with pytest.raises(InputError, match="are not inside 15m bars"):
            run(wanted, bars, SETUP, finer=wrong)


SAMPLE = read_tape("sample")
#: on the sample's hours until then minutes decide a trade of each of two crosses otherwise, and nothing is held at the end
CROSS = {"strategy": "sma_cross", "symbol": "BTCUSDT", "timeframe": "1h", "to": "2026-03-20"}
LEGS = {"sl_pct": 0.5, "tp_pct": 0.5}


def load(request: BarsRequest) -> LoadedBars:
    return load_tape(*SAMPLE, request)


@pytest.mark.parametrize("switch", [{}, {"finer": False}])
def test_a_search_values_parameters_as_their_backtest_does(switch: dict[str, bool]) -> None:
    space, catalogue = {"fast": "5,7", "slow": "20"}, load_catalogue()
    wanted = {"space": space, "params": LEGS, "objectives": "profit", "validation": {"kind": "none"}}
    spec = parse_optimization({**CROSS, **wanted, **switch})
    task = task_for(spec, load(spec.request(searched(spec, catalogue))), catalogue)
    driver = Search(task)
    for trial in serial(task, driver.ask()):
        driver.record(trial)
        alone, _ = run_spec(parse_spec({**CROSS, "params": {**LEGS, **trial.params}, **switch}), load)
        assert trial.values is not None
        assert (trial.values[0], alone.unclear) == (pytest.approx(float(sum(alone.pnl))), bool(switch))
    assert document_of_search(driver, source="")["finer_timeframe"] == (None if switch else "1m")
    assert (search_hash(task) == search_hash(replace(task, finer=None))) is bool(switch)


@pytest.mark.parametrize("switch", [{}, {"finer": False}])
def test_minutes_decide_for_each_member_of_an_account_as_alone(switch: dict[str, bool]) -> None:
    members = [{**CROSS, "params": {"fast": fast, "slow": 20, **LEGS}, **switch} for fast in (5, 7)]
    found, _ = run_account_spec(parse_account({"members": members}), load)
    alone = [run_spec(parse_spec(member), load)[0] for member in members]
    assert [(one.fills, one.unclear, one.inputs_hash) for one in found.results] == [
        (one.fills, one.unclear, one.inputs_hash) for one in alone
    ]
    assert [one.unclear for one in alone] == [bool(switch)] * 2
