"""Start times for a user: `fks --help`, `import fks`, a fresh process to its first backtest result, `fks up`.

Each against a bare interpreter doing nothing, interleaved, medians. Aims: help <= 0.3 s, import <= 0.5 s, backtest <=
1.0 s, the first fill on paper of `fks up` in a fresh home <= 60 s. Before anything is timed, the backtest's fills are
compared with those of the compiled engine in this process, and the help with the names of the commands; the fill that
`fks up` shows is compared with what `fks fills` lists. Exits 1 when they differ or an aim is missed.

    python benchmarks/start.py [--rounds 7] [--ups 3]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._results import run, same
from tests.support.system import System

SINCE, UNTIL = "2026-03-01", "2026-04-01"
FKS = str(Path(sys.executable).parent / "fks")
BACKTEST = [
    FKS,
    "backtest",
    "run",
    "sma_cross",
    "--tape",
    "sample",
    "--symbol",
    "BTC/USDT",
    "--timeframe",
    "1m",
    "--from",
    SINCE,
    "--to",
    UNTIL,
    "--json",
]
UP_S = 60.0
COMMANDS: dict[str, tuple[list[str], float | None]] = {
    "python -c pass (floor)": ([sys.executable, "-c", "pass"], None),
    "import fks": ([sys.executable, "-c", "import fks, fks.model.order"], 0.5),
    "fks --help": ([FKS, "--help"], 0.3),
    "first backtest, a month of minutes": (BACKTEST, 1.0),
}


def output_of(command: list[str], env: dict[str, str]) -> str:
    """Return what a command prints. Errors: RuntimeError when it fails."""
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr}")
    return done.stdout


def compare(env: dict[str, str]) -> None:
    """Compare the output of the commands with the library's results in this process."""
    from fks.research import backtest
    from fks.research.backtest.frames import sample
    from fks.strategies.sma_cross import SmaCross

    bars = sample()
    low, high = (np.searchsorted(bars.time_ns, np.datetime64(day, "ns").astype(np.int64)) for day in (SINCE, UNTIL))
    mine = backtest.run(SmaCross(), bars[low:high], engine="compiled")
    shown: dict[str, Any] = json.loads(output_of(BACKTEST, env))
    same("the fills of the backtest", shown["fills_hash"], mine.fills_hash)
    same("the number of its trades", shown["statistics"]["trades"], len(mine.pnl))
    help = output_of([FKS, "--help"], env).split()
    same(
        "commands that the help leaves out",
        [name for name in ("up", "status", "kill", "backtest") if name not in help],
        [],
    )


def measure_up() -> tuple[float, float]:
    """Start `fks up` in a fresh home; return the seconds until it was up and until its first fill.

    Errors: RuntimeError when it ends before it has filled an order; it is stopped after three times the aim.
    """
    with tempfile.TemporaryDirectory(prefix="fks-up-") as place:
        Path(place).chmod(0o755)
        system = System.at(Path(place) / "home", FKS_WEB_ENABLED="true")
        up_s, start = 0.0, time.perf_counter()
        with subprocess.Popen([FKS, "up"], env=system.env, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            deadline = threading.Timer(3 * UP_S, process.send_signal, (signal.SIGINT,))
            deadline.start()
            try:
                for line in process.stdout:
                    up_s = up_s or ("FKS is up" in line) * (time.perf_counter() - start)
                    if " fill " in line:
                        filled_s = time.perf_counter() - start
                        break
                else:
                    raise RuntimeError(f"fks up: exit {process.wait()} without a fill")
                _, _, symbol, side, quantity, _, price = line.replace(",", "").split()[:7]
                listed = {
                    (fill["symbol"], fill["side"], Decimal(fill["quantity"]), Decimal(fill["price"]))
                    for fill in system.json("fills")["items"]
                }
                shown = (symbol, side, Decimal(quantity), Decimal(price))
                same(f"the first fill, {shown}, is listed", shown in listed, True)
            finally:
                deadline.cancel()
                process.send_signal(signal.SIGINT)
                process.stdout.read()
        return up_s, filled_s


def main() -> bool:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", dest="repeats", type=int, default=7)
    parser.add_argument("--ups", type=int, default=3, help="starts of a whole system; 0: none")
    arguments = parser.parse_args()
    repeats = arguments.repeats
    took: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as home:
        env = os.environ | {"FKS_HOME": home}
        compare(env)
        for _ in range(repeats):
            for name, (command, _limit) in COMMANDS.items():
                start = time.perf_counter()
                output_of(command, env)
                took[name].append(time.perf_counter() - start)
    floor = statistics.median(took["python -c pass (floor)"])
    print(f"{'':38}{'median s':>10}{'aim s':>8}{'x floor':>9}")
    is_missed = False
    for name, (_, limit) in COMMANDS.items():
        median = statistics.median(took[name])
        is_missed |= limit is not None and median > limit
        print(f"{name:38}{median:10.3f}{'' if limit is None else f'{limit:.1f}':>8}{median / floor:9.1f}")
    if arguments.ups:
        up_s, filled_s = map(statistics.median, zip(*(measure_up() for _ in range(arguments.ups)), strict=True))
        print(f"{'fks up, to FKS is up':38}{up_s:10.1f}{'':8}{up_s / floor:9.0f}")
        print(f"{'fks up, to the first fill':38}{filled_s:10.1f}{UP_S:8.1f}{filled_s / floor:9.0f}")
        is_missed |= filled_s > UP_S
    return is_missed


if __name__ == "__main__":
    run(main)
