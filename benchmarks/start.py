"""Start times for a user: `fks --help`, `import fks`, and a fresh process to its first backtest result.

Each against a bare interpreter doing nothing, interleaved, medians. Aims: help <= 0.3 s, import <= 0.5 s, backtest <=
1.0 s.

    python benchmarks/start.py [--rounds 7]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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
    "2026-03-01",
    "--to",
    "2026-04-01",
    "--json",
]
COMMANDS: dict[str, tuple[list[str], float | None]] = {
    "python -c pass (floor)": ([sys.executable, "-c", "pass"], None),
    "import fks": ([sys.executable, "-c", "import fks, fks.model.order"], 0.5),
    "fks --help": ([FKS, "--help"], 0.3),
    "first backtest, a month of minutes": (BACKTEST, 1.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", dest="repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    took: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as home:
        env = os.environ | {"FKS_HOME": home}
        for _ in range(repeats):
            for name, (command, _limit) in COMMANDS.items():
                start = time.perf_counter()
                done = subprocess.run(command, env=env, capture_output=True, text=True)
                took[name].append(time.perf_counter() - start)
                assert done.returncode == 0, f"{name}: {done.stderr}"
    floor = statistics.median(took["python -c pass (floor)"])
    print(f"{'':38}{'median s':>10}{'aim s':>8}{'x floor':>9}")
    for name, (_, limit) in COMMANDS.items():
        median = statistics.median(took[name])
        print(f"{name:38}{median:10.3f}{'' if limit is None else f'{limit:.1f}':>8}{median / floor:9.1f}")


if __name__ == "__main__":
    main()
