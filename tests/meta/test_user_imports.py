"""Imports that users' programs and strategy files contain work unchanged, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DATA = (
    "add_features connect create_account disconnect get_accounts get_balance_history get_indicator get_ohlcv_arrays get_ohlcv_data "
    "get_ohlcv_table get_sync_status record_trade service with_features"
)
INDICATORS = (
    "INDICATORS Bands Indicator Macd Param adx atr band_side bbands compute cross_side deviation_numerator ema highest "
    "keep_last lowest macd obv places_of roc rolling_sum rsi sma stddev to_ticks wma higher hurst ichimoku local_seconds "
    "pivot_points realised_volatility rolling_beta rolling_correlation vwap_rolling vwap_session zscore"
)
IMPORTS = {
    "fks.data": DATA,
    "fks.indicators": INDICATORS,
    "fks.strategies.base": "Decisions Protected Strategy StrategyError evaluate hold side_to_target",
    "fks.model.bar": "Bar BarClosed Bars Floats Ints PublicTrade",
    "fks.backtest": "Member Result Setup metrics_of resample run run_account sample setup_for",
    "fks.research.search": "Plan Validation run_range search",
    "fks.market.files.sample": "sample_tape",
    "fks.market.tape.player": "play wires_of",
    "fks.market.tape.reader": "read_records tape_files",
    "fks.market.exchanges.base": "Levels MessageReader",
    "fks.clock": "Clock ClockSteps FakeClock RealClock",
}
#: names of before the districts, that programs of users import
OLD_NAMES = {
    "fks.search": "fks.research.search",
    "fks.files.sample": "fks.market.files.sample",
    "fks.tape.player": "fks.market.tape.player",
    "fks.tape.reader": "fks.market.tape.reader",
    "fks.exchanges.base": "fks.market.exchanges.base",
}
#: a user's file as docs/write-a-strategy.md shows it
STRATEGY = '''
from typing import Annotated, ClassVar
import numpy as np
from pydantic import Field
from fks.indicators import atr, highest, lowest
from fks.model.bar import Bars, Floats
from fks.strategies.base import Decisions, Protected, Strategy, hold, side_to_target

class Breakout(Protected):
    """Long from a new high of `entry` bars until a new low of `leave` bars."""
    name: ClassVar[str] = "breakout"
    entry: Annotated[int, Field(ge=2)] = 20
    leave: int = Field(10, ge=2)

    def warmup(self) -> int:
        return max(self.entry, self.leave) + 1

    def decide(self, bars: Bars) -> Decisions:
        top = np.concatenate([[np.nan], highest(bars.high, self.entry)[:-1]])
        bottom = np.concatenate([[np.nan], lowest(bars.low, self.leave)[:-1]])
        return self.protect(bars, hold(bars.close > top, bars.close < bottom))

class Rising(Strategy):
    """Short or long by the last close, with a stop two ranges away."""
    name: ClassVar[str] = "rising"

    def warmup(self) -> int:
        return 16

    def decide(self, bars: Bars) -> Decisions:
        side: Floats = np.sign(np.diff(bars.close, prepend=bars.close[0]))
        target = side_to_target(side, short=True)
        stop = bars.close - 2.0 * target * atr(bars.high, bars.low, bars.close, 3)
        return Decisions(target=target, stop_loss=stop, take_profit=None)
'''


#: what the script `fks` does
COMMAND = "import sys; from fks.interfaces.cli import main; sys.exit(main())"


def run(tmp_path: Path, *arguments: str) -> str:
    """Run Python with `arguments`, outside the repository, and return what it printed."""
    env = {**os.environ, "FKS_HOME": str(tmp_path / "home")}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_star_import_of_data_has_every_call(tmp_path: Path) -> None:
    program = (
        "before = set(globals())\n"
        "from fks.data import *\n"
        "names = sorted(set(globals()) - before - {'before'})\n"
        "assert all(callable(globals()[name]) for name in names if name != 'service')\n"
        "assert callable(service.sync_historical_data)\n"
        "print(' '.join(names))"
    )
    assert run(tmp_path, "-c", program).strip() == DATA


@pytest.mark.parametrize("module", sorted(IMPORTS))
def test_names_of_a_public_module_can_be_imported(tmp_path: Path, module: str) -> None:
    run(tmp_path, "-c", f"from {module} import {', '.join(IMPORTS[module].split())}")


@pytest.mark.parametrize("old", OLD_NAMES)
def test_names_of_a_moved_module_can_be_imported_from_the_old_one(tmp_path: Path, old: str) -> None:
    names = ", ".join(IMPORTS[OLD_NAMES[old]].split())
    program = f"from {old} import {names}\nimport {old}, {OLD_NAMES[old]}\nassert {old} is {OLD_NAMES[old]}"
    run(tmp_path, "-c", program)


@pytest.mark.parametrize("module", ["fks.cli", "fks.interfaces.cli"])
def test_the_command_runs_by_its_old_and_its_new_name(tmp_path: Path, module: str) -> None:
    script = f"import sys; from {module} import main; sys.exit(main(['--version']))"
    assert run(tmp_path, "-c", script) == run(tmp_path, "-m", module, "--version") == "fks, version 0.1.0\n"


def test_bars_have_the_columns_and_methods_that_strategies_use(tmp_path: Path) -> None:
    program = (
        "from fks.model.bar import Bar, Bars\n"
        "bar = Bar('e', 'S', '1m', 0, 1.0, 2.0, 0.5, 1.5, 3.0, 4)\n"
        "bars = Bars.of('S', '1m', [bar])\n"
        "columns = [bars.time_ns, bars.open, bars.high, bars.low, bars.close, bars.volume]\n"
        "assert (bars.symbol, bars.timeframe, len(bars), len(bars[:0])) == ('S', '1m', 1, 0)\n"
        "print([column.tolist() for column in columns], bars.bar(0, 'e').close)"
    )
    assert run(tmp_path, "-c", program).strip() == "[[0], [1.0], [2.0], [0.5], [1.5], [3.0]] 1.5"


def test_strategy_file_in_a_folder_is_found_and_evaluated(tmp_path: Path) -> None:
    folder = tmp_path / "home" / "strategies"
    folder.mkdir(parents=True)
    (folder / "mine.py").write_text(STRATEGY)
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from fks.market.files.sample import sample_tape\n"
        "from fks.strategies.base import evaluate\n"
        "from fks.strategies.check import check_strategy\n"
        "from fks.strategies.registry import load_catalogue\n"
        "catalogue, bars = load_catalogue(Path(sys.argv[1])), sample_tape().bars()[:2000]\n"
        "for name in ('breakout', 'rising'):\n"
        "    entry, made = catalogue.entries[name], catalogue.make(name)\n"
        "    assert (entry.origin, entry.error, check_strategy(made)) == ('file', '', []), entry\n"
        "    print(name, int(abs(evaluate(made, bars).target).sum()) > 0)"
    )
    assert run(tmp_path, "-c", program, str(folder)).split() == ["breakout", "True", "rising", "True"]
    listed = json.loads(run(tmp_path, "-c", COMMAND, "strategies", "list", "--json"))
    rows = listed["items"]
    found = {row["name"]: row for row in rows}
    assert {"breakout", "rising", "sma_cross"} <= found.keys()
    assert found["breakout"]["origin"] == "file"


def test_entry_points_of_the_distribution_can_be_loaded(tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    points = [*project["scripts"].values(), *(p for group in project["entry-points"].values() for p in group.values())]
    assert points == ["fks.interfaces.cli:main", "actors.commands"]
    for point in points:
        module, _, name = point.partition(":")
        run(tmp_path, "-c", f"import {module} as found; assert {f'callable(found.{name})' if name else 'found'}")
    assert "fks" in run(tmp_path, "-c", COMMAND, "--version")
