"""Price of confinement: decisions of a strategy file in a confined process against the same file in this process.

    .venv/bin/python benchmarks/confined.py

Checks first that both decide the same on the same bars. Prints the start of the process, and the median of a decision
in either, interleaved, for columns of several lengths.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._results import run as run_benchmark
from benchmarks._results import same
from fks.strategies.base import Strategy, evaluate
from fks.strategies.check import synthetic
from fks.strategies.registry import load_catalogue
from fks.system.process.confined_strategies import ConfinedCatalogue
from fks.trading.strategy_worker.columns import Columns

ROUNDS, LIVE = 60, 5_000
FILE = '''
import numpy as np
from fks.indicators import sma
from fks.strategies.base import Decisions, Strategy


class Cross(Strategy):
    """Long while the fast average is above the slow one."""

    name = "cross"
    fast: int = 5

    def warmup(self):
        return 20

    def decide(self, bars):
        return Decisions(np.where(sma(bars.close, self.fast) > sma(bars.close, 20), 1.0, 0.0))
'''


def seconds(strategy: Strategy, count: int) -> float:
    began_s = time.perf_counter()
    evaluate(strategy, BARS[count])
    return time.perf_counter() - began_s


def decided(live: list[tuple[Strategy, Columns]], row: int) -> list[float]:
    """Return the seconds of each for a bar more, as a worker evaluates it: over all columns."""
    took = []
    for strategy, columns in live:
        columns.append(BARS[20_000][row : row + 1])
        began_s = time.perf_counter()
        evaluate(strategy, columns.view())
        took.append(time.perf_counter() - began_s)
    return took


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "cross.py"
        path.write_text(FILE)
        path.chmod(0o644)
        ours = load_catalogue(path.parent).make("cross")
        began_s = time.perf_counter()
        confined = ConfinedCatalogue(path.parent)
        theirs = confined.make("cross")
        print(f"start of the process and its first strategy: {time.perf_counter() - began_s:.2f} s")
        print("      bars   in this process      confined   ratio   first time (the bars are sent)")
        for count, bars in BARS.items():
            first_s = seconds(theirs, count)
            same(f"targets of {count:,} bars", evaluate(theirs, bars).target, evaluate(ours, bars).target)
            both = [(seconds(ours, count), seconds(theirs, count)) for _ in range(ROUNDS)]
            here_s, there_s = (statistics.median(pair[side] for pair in both) for side in (0, 1))
            ratio = there_s / here_s
            print(f"{count:10,} {here_s * 1e3:14.2f} ms {there_s * 1e3:10.2f} ms {ratio:7.2f} {first_s * 1e3:14.2f} ms")
        live = [(one, Columns(BARS[20_000][:LIVE])) for one in (ours, theirs)]
        for row in range(LIVE, LIVE + 5):  # the first ones load what a process needs
            decided(live, row)
        both = [decided(live, row) for row in range(LIVE + 5, LIVE + 205)]
        here_s, there_s = (statistics.median(pair[side] for pair in both) for side in (0, 1))
        print(f"a sealed bar after {LIVE:,}: {here_s * 1e3:.2f} ms here, {there_s * 1e3:.2f} ms confined")
        began_s = time.perf_counter()
        for fast in range(2, 18):
            confined.make("cross", {"fast": fast})
        print(f"making a strategy with other parameters: {(time.perf_counter() - began_s) / 16 * 1e3:.2f} ms")


BARS = {count: synthetic(count) for count in (1_000, 20_000, 500_000)}

if __name__ == "__main__":
    run_benchmark(main)
