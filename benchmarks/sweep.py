"""A sweep of 1,000 SMA pairs over a year of minutes, and a strategy with a method per bar, beside floors and peers.

Sweep: fast 5..50 x slow 20..200, a trial is what `fks optimize` does: exact fills, trades, equity, drawdown, Sharpe.
Floor: a numba loop over the pairs in float64, drawdown and moments inline, one core. The number of trades and the final
equity of every pair are compared before anything is timed. vectorbt, when it is installed, runs pairs one at a time;
its trades and profits are compared too. Callback: SMA 20/50 in `on_bar`; its fills and profits are those of the
vectorised strategy. Floor: a plain Python loop over bar objects with the same fills and profits. CPU time for one core,
wall time for two workers; medians of interleaved repeats.

    python benchmarks/sweep.py [--pairs 1000] [--bars 525600] [--repeats 3] [--callback-bars 100000]

Exits 1 when the results differ. Peers: pip install -e .[peers]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections import namedtuple
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numba
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._results import near, same
from benchmarks._results import run as run_benchmark
from benchmarks.backtest import (
    CASH,
    FAST,
    RATE,
    SETUP,
    SLOW,
    backtesting_of,
    check_backtesting,
    tape,
    vectorbt_of,
)
from fks.indicators import sma
from fks.model.bar import Bars, Floats
from fks.research.backtest import run
from fks.research.jobs.pool import Processes
from fks.research.search import Plan, Search, SearchTask, Validation, evaluate, task_of
from fks.strategies.base import BarStrategy, Context
from fks.strategies.sma_cross import SmaCross


# ── the sweep ────────────────────────────────────────────────────────────────────────────────────
@numba.njit(cache=True)
def bare(open_: Any, close: Any, fast: int, slow: int, rate: float, cash: float) -> Any:
    """Return (trades, final equity, drawdown, mean and variance of the returns by bar) of one pair, in one pass."""
    start, trades, held, wants = cash, 0, 0.0, False
    fast_sum, slow_sum, peak, fall, total, squares, before = 0.0, 0.0, cash, 0.0, 0.0, 0.0, cash
    equity = cash
    for i in range(len(close)):
        if wants and held == 0.0:
            cash -= open_[i] * (1.0 + rate)
            held = 1.0
        elif not wants and held > 0.0:
            cash += open_[i] * (1.0 - rate)
            held = 0.0
            trades += 1
        fast_sum += close[i]
        slow_sum += close[i]
        if i >= fast:
            fast_sum -= close[i - fast]
        if i >= slow:
            slow_sum -= close[i - slow]
            side = fast_sum * slow - slow_sum * fast
            if side > 0.0:
                wants = True
            elif side < 0.0:
                wants = False
        equity = cash + held * close[i]
        peak = max(peak, equity)
        fall = max(fall, (peak - equity) / peak)
        change = equity / before - 1.0
        total += change
        squares += change * change
        before = equity
    mean = total / len(close)
    return trades, equity - start, fall, mean, squares / len(close) - mean * mean


def pairs_of(count: int) -> list[tuple[int, int]]:
    """Return `count` pairs spread evenly over the grid of fast < slow."""
    grid = [(fast, slow) for fast in range(5, 51) for slow in range(20, 201) if fast < slow]
    return [grid[place] for place in np.linspace(0, len(grid) - 1, count).astype(int)]


def sweep_of(bars: Bars, count: int) -> tuple[SearchTask, list[Any]]:
    """Return the task of a search over all pairs, and `count` of its proposals."""
    space = {"fast": "5:50", "slow": "20:200"}
    task = task_of(SmaCross, space, bars, SETUP, Plan(method="grid"), validation=Validation(kind="none"))
    driver, wanted, found = Search(task), set(pairs_of(count)), []
    while asked := driver.ask():
        found += [one for one in asked if (one[1].params["fast"], one[1].params["slow"]) in wanted]
    return task, found


def check_sweep(task: SearchTask, asked: list[Any], bars: Bars) -> int:
    """Return the trades of all pairs. Errors: DifferError when trades or final equity differ from the floor's."""
    trades = 0
    for fold, proposal in asked:
        count, gain, *_ = bare(bars.open, bars.close, proposal.params["fast"], proposal.params["slow"], RATE, CASH)
        trial = evaluate(task, fold, proposal)
        same(f"{proposal.params}: the state, {trial.error}", trial.state, "done")
        same(f"{proposal.params}: trades", trial.metrics["trades"], count)
        mine = trial.metrics["return_pct"] / 100.0 * CASH
        near(f"{proposal.params}: the final equity", mine, gain, atol=1e-4 * max(1.0, abs(gain)))
        trades += count
    return trades


def _only(task: SearchTask, asked: list[Any]) -> None:
    for fold, proposal in asked:
        evaluate(task, fold, proposal)


def _over(task: SearchTask, asked: list[Any], workers: int) -> None:
    with Processes(workers) as evaluate_all:
        for _ in evaluate_all(task, asked):
            pass


def peak_gb(task: SearchTask, asked: list[Any]) -> float:
    """Return the greatest resident memory of a process of its own that runs the trials, in GB."""

    def measured(line: Any) -> None:
        _only(task, asked)
        line.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)

    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=measured, args=(theirs,))
    process.start()
    found: float = ours.recv()
    process.join()
    return found


# ── a method per bar ─────────────────────────────────────────────────────────────────────────────
class CrossByBar(BarStrategy):
    """SMA 20/50, long only, with a method per bar."""

    name: ClassVar[str] = "cross_by_bar"

    def warmup(self) -> int:
        return SLOW

    def indicators(self, bars: Bars) -> Mapping[str, Floats]:
        return {"fast": sma(bars.close, FAST), "slow": sma(bars.close, SLOW)}

    def on_bar(self, ctx: Context, bar: Any) -> None:
        if bar.fast > bar.slow:
            ctx.buy()
        elif bar.fast < bar.slow:
            ctx.close()


def plain_loop(bars: Bars) -> tuple[list[int], list[float]]:
    """Return the bars of the fills, and the profits of the trades that are closed, of a plain Python loop over bar
    objects: the least cost of a callback. A decision fills at the open of the next bar."""
    Row = namedtuple("Row", "time_ns open high low close volume fast slow")
    columns = (bars.time_ns, bars.open, bars.high, bars.low, bars.close, bars.volume)
    averages = sma(bars.close, FAST), sma(bars.close, SLOW)
    fills, profits = list[int](), list[float]()
    is_held = is_wanted = False
    paid = 0.0

    def on_bar(bar: Any) -> bool | None:
        return True if bar.fast > bar.slow else False if bar.fast < bar.slow else None

    for number, values in enumerate(zip(*(column.tolist() for column in (*columns, *averages)), strict=True)):
        row = Row(*values)
        if is_wanted != is_held:
            is_held = is_wanted
            fills.append(number)
            if is_held:
                paid = row.open * (1.0 + RATE)
            else:
                profits.append(row.open * (1.0 - RATE) - paid)
        if number >= SLOW and (wants := on_bar(row)) is not None:
            is_wanted = wants
    return fills, profits


def callback(bars: Bars) -> Any:
    return run(CrossByBar(), bars, SETUP, engine="compiled", check=False)


def check_callback(bars: Bars) -> int:
    """Return the trades. Errors: DifferError when they are not those of the vectorised strategy and of the loop."""
    mine, other = callback(bars), run(SmaCross(fast=FAST, slow=SLOW), bars, SETUP, engine="compiled", check=False)
    same("the bars of the callback's fills", mine.fill_columns.bar, other.fill_columns.bar)
    same("the callback's profits", mine.pnl, other.pnl)
    fills, profits = plain_loop(bars)
    same("the bars of the plain loop's fills", mine.fill_columns.bar, fills)
    near("the plain loop's profits", mine.pnl, profits, atol=1e-9 * 30_000)
    return len(mine.pnl)


# ── timing ───────────────────────────────────────────────────────────────────────────────────────
def timed(contenders: Mapping[str, Callable[[], Any]], repeats: int, clock: Callable[[], float]) -> dict[str, float]:
    """Return the median of each, in seconds, of interleaved repeats."""
    took: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, go in contenders.items():
            start = clock()
            go()
            took[name].append(clock() - start)
    return {name: statistics.median(times) for name, times in took.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--bars", type=int, default=525_600)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--callback-bars", type=int, default=100_000)
    parser.add_argument("--peer-pairs", type=int, default=20, help="pairs that vectorbt runs")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    bars = tape(options.bars)
    task, asked = sweep_of(bars, options.pairs)
    trades, by_bar = check_sweep(task, asked, bars), tape(options.callback_bars)
    found: dict[str, Any] = {"bars": options.bars, "pairs": len(asked), "trades": trades}
    found["callback: trades"] = check_callback(by_bar)
    floor = {
        "floor": lambda: [
            bare(bars.open, bars.close, one.params["fast"], one.params["slow"], RATE, CASH) for _, one in asked
        ]
    }
    cpu = timed({**floor, "ours": lambda: _only(task, asked)}, options.repeats, time.process_time)
    wall = timed(
        {"one worker": lambda: _over(task, asked, 1), "two workers": lambda: _over(task, asked, 2)},
        options.repeats,
        time.perf_counter,
    )
    found |= {name: round(seconds, 3) for name, seconds in (cpu | wall).items()}
    found["x floor"] = round(cpu["ours"] / cpu["floor"], 2)
    found["two over one"] = round(wall["one worker"] / wall["two workers"], 2)
    found["peak GB"] = round(peak_gb(task, asked), 2)
    found["peak GB, 100 pairs"] = round(peak_gb(task, asked[:100]), 2)
    found |= _vectorbt(bars, options.peer_pairs, cpu["ours"] / len(asked))
    found |= _callbacks(by_bar, options.repeats)
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:34}{value}")


def _vectorbt(bars: Bars, count: int, each_s: float) -> dict[str, Any]:
    """Return how long vectorbt takes a pair, one at a time, with its final value, drawdown and Sharpe ratio."""
    try:
        importlib.import_module("vectorbt")
    except ImportError:
        return {"vectorbt": "not installed (pip install -e .[peers])"}
    took = []
    for fast, slow in pairs_of(count):
        go = vectorbt_of(bars, fast, slow)
        trades, gain, *_ = bare(bars.open, bars.close, fast, slow, RATE, CASH)
        first = go()
        same(f"vectorbt, {fast} and {slow}: trades", trades, int(first.trades.closed.count()))
        near(f"vectorbt, {fast} and {slow}: profit", gain, first.total_profit(), atol=1e-4 * max(1.0, abs(gain)))
        start = time.process_time()
        found = go()
        found.total_profit(), found.max_drawdown(), found.sharpe_ratio()
        took.append(time.process_time() - start)
    median = statistics.median(took)
    return {"vectorbt, ms a pair": round(1e3 * median, 1), "x ours": round(median / each_s, 1)}


def _callbacks(bars: Bars, repeats: int) -> dict[str, Any]:
    contenders: dict[str, Callable[[], Any]] = {"loop": lambda: plain_loop(bars), "ours": lambda: callback(bars)}
    with contextlib.suppress(ImportError):
        contenders["backtesting.py"] = backtesting_of(bars)
        check_backtesting(contenders["backtesting.py"](), bars)
    took = timed(contenders, repeats, time.process_time)
    found: dict[str, Any] = {"callback: bars": len(bars)}
    found |= {f"callback: {name}, us a bar": round(1e6 * seconds / len(bars), 2) for name, seconds in took.items()}
    found["callback: x plain loop"] = round(took["ours"] / took["loop"], 2)
    if "backtesting.py" in took:
        found["callback: backtesting.py x ours"] = round(took["backtesting.py"] / took["ours"], 1)
    return found


if __name__ == "__main__":
    run_benchmark(main)
