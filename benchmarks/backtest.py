"""One backtest, ours against a bare numba pass and the peers: SMA 20/50 cross, long only, one unit an entry, 0.1 % fee.

Entries, exits and profits are compared before anything is timed, and the benchmark exits 1 when they differ. Contenders
take turns; CPU time, medians and least of the rounds, and the ratio to the floor of the same round. The tape's tick is
1/64, so that float averages and exact ones agree on ties (docs/performance.md). `run()` is the call that a user makes:
repeated on bars that have passed the check of the strategy, the first one on its bars, and without the check. Besides, a
user's usual run: entries by limit orders, a stop loss and a take profit, our own limits on; its fills, its denials and
its equity are those of the reference engine.

With `--orders`: the compiled engine against the reference engine on the same decisions, for market entries, entries by
limit orders that end, and positions of several entries, all with stop loss and take profit. The fills are compared.

    python benchmarks/backtest.py [--bars 525600] [--rounds 9] [--only ours,bare] [--orders] [--nautilus]

Peers (vectorbt, backtesting.py) run when they are installed: pip install -e .[peers]. With `--nautilus`, nautilus_trader
runs in a process and a virtualenv of its own, which is made at first use (Python 3.12 or 3.13, about 900 MB). It fills at
the close of the bar that decides, we at the next open: both walk a tape where that is the same price.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from decimal import Decimal
from os import getloadavg
from pathlib import Path
from typing import Any, ClassVar

import numba
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._peers import PROGRAMS, environment
from benchmarks._results import near, same
from benchmarks._results import run as run_benchmark
from fks.config.risk import Risk
from fks.model.bar import Bars
from fks.model.instrument import Instrument
from fks.model.timeframe import NS
from fks.research.backtest import Backtest, Setup, run
from fks.research.backtest.limits import UNLIMITED
from fks.strategies.base import Decisions, Strategy, decide
from fks.strategies.sma_cross import SmaCross
from fks.trading.matching import CostModel

FAST, SLOW, RATE, CASH = 20, 50, 0.001, 1e8
NAUTILUS = "nautilus_trader==1.231.0"
ITEM = Instrument(
    "bench", "BTCUSD", "BTC", "USD", Decimal(1) / 64, Decimal("0.001"), Decimal("0.001"), Decimal(9000), Decimal(5)
)
SETUP = Setup(
    ITEM,
    CostModel(Decimal("0.001"), "quote"),
    "quantity",
    Decimal(1),
    Decimal(10**8),
    limits=UNLIMITED,
    allow_gaps=True,
)


def tape(count: int) -> Bars:
    """Return seeded minutes on a grid of 1/64: a geometric random walk from 30,000."""
    dice = np.random.default_rng(7)
    close = np.round(30_000 * np.exp(np.cumsum(dice.standard_normal(count) * 4e-4)) * 64) / 64
    open_ = np.concatenate([close[:1], close[:-1]]) + np.round(dice.standard_normal(count) * 32) / 64
    reach = np.abs(np.round(dice.standard_normal((2, count)) * 256)) / 64
    high, low = np.maximum(open_, close) + reach[0], np.minimum(open_, close) - reach[1]
    times = 1_700_000_000 * NS // (60 * NS) * (60 * NS) + np.arange(count, dtype=np.int64) * 60 * NS
    return Bars("BTCUSD", "1m", times, open_, high, low, close, np.ones(count))


# ── the floor: the same in floats, nothing else ──────────────────────────────────────────────────
@numba.njit(cache=True)
def bare(open_: Any, close: Any, fast: int, slow: int, rate: float, cash: float) -> Any:
    """Return the trades and the equity of a hand-written pass in float64."""
    count = len(close)
    equity, entry, leave, pnl = (np.empty(count), np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count))
    trades, held, paid, wants = 0, 0.0, 0.0, False
    fast_sum, slow_sum = 0.0, 0.0
    for i in range(count):
        if wants and held == 0.0:
            paid = open_[i] * (1.0 + rate)
            cash -= paid
            held = 1.0
            entry[trades] = i
        elif not wants and held > 0.0:
            got = open_[i] * (1.0 - rate)
            cash += got
            held = 0.0
            leave[trades] = i
            pnl[trades] = got - paid
            trades += 1
        fast_sum += close[i]
        slow_sum += close[i]
        if i >= fast:
            fast_sum -= close[i - fast]
        if i >= slow:
            slow_sum -= close[i - slow]
        if i >= slow:
            side = fast_sum * slow - slow_sum * fast
            if side > 0.0:
                wants = True
            elif side < 0.0:
                wants = False
        equity[i] = cash + held * close[i]
    return equity, entry[:trades], leave[:trades], pnl[:trades]


@numba.njit(cache=True)
def bare_statistics(equity: Any, start: float) -> Any:
    """Return drawdown, mean and variance of the returns by bar: a second pass, as a peer's statistics are."""
    peak, fall, total, squares, before = start, 0.0, 0.0, 0.0, start
    for value in equity:
        peak = max(peak, value)
        fall = max(fall, (peak - value) / peak)
        change = value / before - 1.0
        total += change
        squares += change * change
        before = value
    mean = total / len(equity)
    return fall, mean, squares / len(equity) - mean * mean


# ── contenders ───────────────────────────────────────────────────────────────────────────────────
def ours(bars: Bars, *, check: bool = True) -> Backtest:
    return run(SmaCross(fast=FAST, slow=SLOW), bars, SETUP, engine="compiled", check=check)


def anew(bars: Bars) -> Bars:
    """Return the same bars as ones that nothing is known of: they have passed no check, and keep no ticks."""
    return replace(bars)


def vectorbt_of(bars: Bars, fast_bars: int = FAST, slow_bars: int = SLOW) -> Callable[[], Any]:
    import pandas as pd

    vbt: Any = importlib.import_module("vectorbt")
    close, open_ = pd.Series(bars.close), pd.Series(bars.open)

    def go() -> Any:
        fast, slow = vbt.MA.run(close, fast_bars), vbt.MA.run(close, slow_bars)
        above, below = (fast.ma > slow.ma).to_numpy().copy(), (fast.ma < slow.ma).to_numpy().copy()
        above[:slow_bars] = below[:slow_bars] = False
        entries, exits = (np.concatenate([[False], side[:-1]]) for side in (above, below))  # a tie is neither
        return vbt.Portfolio.from_signals(
            close, entries, exits, size=1.0, price=open_, fees=RATE, init_cash=CASH, freq="1min"
        )

    return go


def backtesting_of(bars: Bars) -> Callable[[], Any]:
    import pandas as pd

    library: Any = importlib.import_module("backtesting")
    frame = pd.DataFrame(
        {"Open": bars.open, "High": bars.high, "Low": bars.low, "Close": bars.close},
        index=pd.to_datetime(bars.time_ns),
    )

    def sma(values: Any, period: int) -> Any:
        return pd.Series(values).rolling(period).mean()

    class Cross(library.Strategy):  # type: ignore[misc]
        def init(self) -> None:
            self.fast = self.I(sma, self.data.Close, FAST)
            self.slow = self.I(sma, self.data.Close, SLOW)

        def next(self) -> None:
            if len(self.data) <= SLOW:
                return
            if self.fast[-1] > self.slow[-1] and not self.position:
                self.buy(size=1)
            elif self.fast[-1] < self.slow[-1] and self.position:
                self.position.close()

    importlib.import_module("backtesting.backtesting")._tqdm = lambda rows, **options: rows  # type: ignore[attr-defined]  # no progress bar
    return lambda: library.Backtest(frame, Cross, cash=CASH, commission=RATE).run()


def unbroken(bars: Bars) -> Bars:
    """Return the bars with each open at the close before it."""
    open_ = np.concatenate([bars.close[:1], bars.close[:-1]])
    return replace(bars, open=open_, high=np.maximum(bars.high, open_), low=np.minimum(bars.low, open_))


@contextmanager
def nautilus_of(bars: Bars) -> Iterator[Callable[[], Any]]:
    """Yield a function that has nautilus_trader run over the bars: the fills, and the CPU seconds of its process."""
    python = environment(NAUTILUS, "python3.13", "python3.12")
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        np.savez(file.name, **{name: getattr(bars, name) for name in ("time_ns", "open", "high", "low", "close")})
        command = [python, "-W", "ignore", PROGRAMS / "nautilus_sma.py", file.name]
        command += [str(value) for value in (FAST, SLOW, CASH, RATE)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

            def go() -> Any:
                assert process.stdout
                print("run", file=process.stdin, flush=True)
                return json.loads(process.stdout.readline())

            yield go


def check_vectorbt(found: Any, bars: Bars) -> None:
    """Fail unless vectorbt's closed trades and its equity are ours."""
    result = ours(bars)
    fills, trades = result.fill_columns, result.trade_columns
    closed = found.trades.closed
    for name, mine in (("entry_idx", fills.bar[trades.entry]), ("exit_idx", fills.bar[trades.exit])):
        same(f"vectorbt: {name}", mine, closed.values[name])
    near("vectorbt: profits", result.pnl, closed.values["pnl"], atol=1e-9 * 30_000)
    near("vectorbt: equity", result.equity, found.value().to_numpy()[result.first :], rtol=1e-12)


def check_backtesting(found: Any, bars: Bars) -> None:
    """Fail unless backtesting.py's closed trades are ours."""
    result = ours(bars)
    fills, trades = result.fill_columns, result.trade_columns
    table = found["_trades"].sort_values("EntryBar")
    for name, mine in (("EntryBar", fills.bar[trades.entry]), ("ExitBar", fills.bar[trades.exit])):
        same(f"backtesting.py: {name}", mine, table[name].to_numpy())
    near("backtesting.py: profits", result.pnl, table["PnL"].to_numpy(), atol=1e-6 * 30_000)


def check_nautilus(found: Any, bars: Bars) -> None:
    """Fail unless nautilus_trader's fills are ours: the bar that we fill in opens when the one before it closes."""
    result = ours(bars)
    times, prices, fees = (np.array(column) for column in zip(*found["fills"], strict=True))
    known = times <= bars.time_ns[-1]  # a decision on the last bar has no bar to fill in
    same("nautilus_trader: bars of the fills", bars.time_ns[result.fill_columns.bar], times[known])
    near("nautilus_trader: prices", [float(fill.price) for fill in result.fills], prices[known], rtol=1e-12)
    near("nautilus_trader: fees", [float(fill.fee) for fill in result.fills], fees[known], atol=2e-8)


def check(bars: Bars) -> int:
    """Fail unless our trades are the bare pass's: the same bars and prices, profits and equity to 1e-9 of the price."""
    equity, entry, leave, pnl = bare(bars.open, bars.close, FAST, SLOW, RATE, CASH)
    result = ours(bars)
    same("the engine", result.engine.name, "compiled")
    fills, trades = result.fill_columns, result.trade_columns
    same("the bars of the entries", fills.bar[trades.entry], entry)
    same("the bars of the exits", fills.bar[trades.exit], leave)
    near("profits", result.pnl, pnl, atol=1e-9 * 30_000)
    near("equity", result.equity, equity[result.first :], rtol=1e-12)
    return len(trades)


# ── what a user runs ─────────────────────────────────────────────────────────────────────────────
#: the day's loss ends some days early
LIMITED = replace(SETUP, limits=Risk(**{**UNLIMITED.model_dump(), "loss_day_max": Decimal(300)}))


class Resting(SmaCross):
    """The SMA cross, entered by limit orders 0.05 % below the close that rest until the cross is over: with an end of
    their own, the check would ask for a longer warm-up."""

    name: ClassVar[str] = "resting"

    def decide(self, bars: Bars) -> Decisions:
        return replace(super().decide(bars), entry_limit=bars.close * 0.9995)


def whole(bars: Bars, engine: Any = "compiled", *, check: bool = True) -> Backtest:
    """Return a run with a stop 0.2 % and a target 0.4 % away, limits of our own, and the check of the strategy."""
    return run(Resting(fast=FAST, slow=SLOW, sl_pct=0.2, tp_pct=0.4), bars, LIMITED, engine=engine, check=check)


def check_whole(bars: Bars) -> str:
    """Return what the run had of everything. Errors: DifferError unless it is the reference engine's."""
    mine, other = whole(bars), whole(bars, "reference", check=False)
    same("the engine", mine.engine.name, "compiled")
    same("fills", mine.fills, other.fills)
    same("denials", mine.denied, other.denied)
    same("equity", mine.equity, other.equity)
    roles = Counter(fill.role.value for fill in mine.fills)
    counts = {**{role: roles[role] for role in ("entry", "exit", "sl", "tp")}, "denied": len(mine.denied)}
    same("kinds of fills and denials that there are none of", [name for name, count in counts.items() if not count], [])
    return ", ".join(f"{count} {name}" for name, count in counts.items())


# ── entries that rest, and several of them ───────────────────────────────────────────────────────
def given(decisions: Decisions, most: int) -> Strategy:
    """Return a strategy whose decisions are made already, so that a run is the walk and what surrounds it."""

    class Given(Strategy):
        name: ClassVar[str] = "given"

        def warmup(self) -> int:
            return SLOW

        def entries_max(self) -> int:
            return most

        def decide(self, bars: Bars) -> Decisions:
            return decisions

    return Given()


def order_cases(bars: Bars) -> dict[str, Strategy]:
    """Return the strategies: the SMA cross with a stop 0.2 % and a target 0.4 % away, entered in three ways."""
    plain = SmaCross(fast=FAST, slow=SLOW, sl_pct=0.2, tp_pct=0.4).decide(bars)
    since = np.arange(len(bars)) - np.maximum.accumulate(
        np.where(np.diff(plain.target, prepend=0.0), np.arange(len(bars)), 0)
    )
    limit, ends = bars.close * 0.9995, np.full(len(bars), 30.0)
    resting = decide(given(replace(plain, entry_limit=limit, entry_bars=ends), 1), bars)
    several = replace(plain, target=plain.target * np.minimum(1.0 + since // 15, 4.0))
    return {
        "market entries": given(plain, 1),
        "limit entries that end after 30 bars": given(replace(resting, entry_bars=None), 1),
        "up to 4 entries, one every 15 bars": given(several, 4),
    }


def compare_engines(bars: Bars, repetitions: int) -> None:
    """Print the CPU time of both engines on each case. Errors: DifferError when their fills differ."""
    print(f"{'':40}{'fills':>8}{'compiled ms':>13}{'reference ms':>14}{'ratio':>8}")
    for name, strategy in order_cases(bars).items():
        results = {e: run(strategy, bars, SETUP, engine=e, check=False) for e in ("compiled", "reference")}
        compiled, reference = results["compiled"], results["reference"]
        same(f"{name}: the engine", compiled.engine.name, "compiled")
        same(f"{name}: fills", compiled.fills, reference.fills)
        same(f"{name}: equity", compiled.equity, reference.equity)
        if not repetitions:
            continue
        took: dict[str, list[float]] = {engine: [] for engine in results}
        for _ in range(repetitions):
            for engine, times in took.items():
                start = time.process_time()
                run(strategy, bars, SETUP, engine=engine, check=False)  # type: ignore[arg-type]
                times.append(1e3 * (time.process_time() - start))
        fast, slow = (statistics.median(times) for times in took.values())
        print(f"{name:40}{len(compiled.fills):8}{fast:13.2f}{slow:14.1f}{slow / fast:8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bars", type=int, default=525_600)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", help="contenders, by the start of their names, comma separated")
    parser.add_argument("--orders", action="store_true", help="both engines on entries that rest or are several")
    parser.add_argument("--nautilus", action="store_true", help="nautilus_trader too, in a virtualenv that is made")
    options = parser.parse_args()
    bars = tape(options.bars)
    if options.orders:
        load = getloadavg()[0]
        print(f"{options.bars} bars, equal fills and equity; medians of {options.rounds} rounds, load {load:.1f}")
        compare_engines(bars, options.rounds)
        return
    with ExitStack() as stack:
        compare_peers(bars, options, stack)


def compare_peers(bars: Bars, options: argparse.Namespace, stack: ExitStack) -> None:
    """Print the CPU time of each contender. Errors: DifferError when their results differ."""
    trades, counts = check(bars), check_whole(bars)
    contenders: dict[str, Callable[[], Any]] = {
        "bare numba pass": lambda: bare(bars.open, bars.close, FAST, SLOW, RATE, CASH),
        "bare numba pass + statistics": lambda: bare_statistics(
            bare(bars.open, bars.close, FAST, SLOW, RATE, CASH)[0], CASH
        ),
        "ours: run()": lambda: ours(bars),
        "ours: run(), the first": lambda: ours(anew(bars)),
        "ours: run(check=False)": lambda: ours(bars, check=False),
        "ours: run() + statistics": lambda: ours(bars).statistics,
        "ours: 2,000 bars": lambda small=bars[:2_000]: ours(small),
        "ours: limits, stops": lambda: whole(bars),
        "ours: the same, the first": lambda: whole(anew(bars)),
        "ours: the same, check=False": lambda: whole(bars, check=False),
    }
    missing = []
    for name, make in (("vectorbt", vectorbt_of), ("backtesting", backtesting_of)):
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
            continue
        go = make(bars)
        if name == "vectorbt":
            check_vectorbt(go(), bars)
            contenders["vectorbt: MA + signals + value()"] = lambda go=go: go().value()
            contenders["vectorbt: the same + stats()"] = lambda go=go: go().stats()
        else:
            check_backtesting(go(), bars)
            contenders["backtesting.py run()"] = go
    if options.nautilus:
        joined = unbroken(bars)
        nautilus = stack.enter_context(nautilus_of(joined))
        check_nautilus(nautilus(), joined)
        contenders["ours: run(), unbroken tape"] = lambda: ours(joined)
        contenders["nautilus_trader engine.run()"] = lambda: nautilus()["seconds"]
    wanted = tuple(part for part in options.only.split(",") if part)
    contenders = {name: go for name, go in contenders.items() if not wanted or name.startswith(wanted)}
    took: dict[str, list[float]] = {name: [] for name in contenders}
    for go in contenders.values():
        go()
    for _ in range(options.rounds):
        for name, go in contenders.items():
            start = time.process_time()
            found = go()  # a float is the time of another process
            took[name].append(1e3 * (found if isinstance(found, float) else time.process_time() - start))
    floor = took.get("bare numba pass + statistics")
    print(
        f"{options.bars} bars, {trades} trades, equal results; CPU milliseconds, {options.rounds} rounds, load {getloadavg()[0]:.1f}"
    )
    print(f"with limits and stops: {counts}")
    print(f"{'':36}{'median':>10}{'least':>10}{'x floor':>10}{'x least':>10}")
    for name, times in took.items():
        ratio = statistics.median(a / b for a, b in zip(times, floor, strict=True)) if floor else float("nan")
        least = min(times) / min(floor) if floor else float("nan")
        print(f"{name:36}{statistics.median(times):10.2f}{min(times):10.2f}{ratio:10.2f}{least:10.2f}")
    for name in ("numba", "vectorbt", "vectorbt-rust", "backtesting"):
        try:
            print(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            print(f"{name}: not installed (pip install -e .[peers])")
    if options.nautilus:
        print(NAUTILUS.replace("==", " "))


if __name__ == "__main__":
    run_benchmark(main)
