"""Fifty strategies that look ahead and fifty honest ones: the check of FKS, and freqtrade's lookahead-analysis.

    python benchmarks/lookahead_peers.py [--names ""] [--write]

freqtrade runs in a virtualenv of its own (made at first use, Python 3.11 or newer, about 600 MB) with its default
limits, on the same minutes as files and without a network. Its strategies ask this process for targets and levels, so
one code decides for both; a target's rise is the entry, its end the exit, and targets and levels are columns of the
frame. For each strategy without levels, the entries and exits of freqtrade's backtest are compared with the targets.
`--write` stores freqtrade's answers and makes docs/look-ahead.md from them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from multiprocessing.connection import Listener
from os import getloadavg
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._peers import PROGRAMS, environment
from benchmarks._results import run as run_benchmark
from benchmarks._results import same
from fks.model.bar import Bars
from fks.strategies.base import Decisions, Strategy, evaluate
from tests.support import cheats

FREQTRADE = "freqtrade==2026.9"
LEVELS = ("stop_loss", "take_profit", "entry_limit", "trail")
#: strategies of missing bars, of several entries, of parts of a position, or of two symbols
INEXPRESSIBLE = ("whether bars are missing next", "`dca`", "`grid`", "`pairs`", "`scale_out`")


def filled() -> Bars:
    """Return the minutes with each missing one at the close before it, as freqtrade fills them. With holes in its file, a
    backtest that ends at one lacks the bar, and honest strategies are called biased."""
    bars = cheats.tape()
    minute_ns = 60 * 10**9
    times = np.arange(bars.time_ns[0], bars.time_ns[-1] + minute_ns, minute_ns)
    place = np.searchsorted(bars.time_ns, times, side="right") - 1
    is_missing = bars.time_ns[place] != times
    prices = [
        np.where(is_missing, bars.close[place], getattr(bars, name)[place]) for name in ("open", "high", "low", "close")
    ]
    return Bars(bars.symbol, bars.timeframe, times, *prices, np.where(is_missing, 0.0, bars.volume[place]))


def made(name: str, kind: str) -> Strategy:
    """Return the strategy as a process that just started makes it. The file of the cheat that keeps one stays."""
    cheats.MEANS.clear()
    cheats.KeptInClass.means.clear()
    return dict(cheats.cheats() if kind == "cheats" else cheats.honest())[name]


def serve(listener: Listener, rows: list[tuple[str, str]], whole: dict[int, tuple[Any, Decisions]]) -> None:
    """Answer one client's requests for the decisions of a row, made by a new strategy for each instance of freqtrade's.
    `whole` gets the times and decisions of a row's first request, which is for all bars."""
    strategies: dict[int, Strategy] = {}
    with listener.accept() as client:
        while True:
            try:
                number, instance, times, columns = client.recv()
            except EOFError:
                return
            if instance not in strategies:
                strategies = {instance: made(*rows[number])}
            bars = Bars("BTCUSDT", "1m", np.array(times), *map(np.array, columns))
            found = evaluate(strategies[instance], bars)
            whole.setdefault(number, (bars.time_ns // 10**9, found))
            client.send({name: column.tolist() for name, column in columns_of(found).items()})


def columns_of(decisions: Decisions) -> dict[str, Any]:
    levels = {name: getattr(decisions, name) for name in LEVELS}
    return {"target": decisions.target, **{name: column for name, column in levels.items() if column is not None}}


def write_inputs(folder: Path, bars: Bars, rows: list[tuple[str, str]]) -> None:
    """Write the bars, a strategy for each row, and the configuration."""
    prices = zip(*(getattr(bars, name).tolist() for name in ("open", "high", "low", "close", "volume")), strict=True)
    table = [[time_ns // 10**6, *row] for time_ns, row in zip(bars.time_ns.tolist(), prices, strict=True)]
    data = folder / "data" / "binance"
    data.mkdir(parents=True)
    (data / "BTC_USDT-1m.json").write_text(json.dumps(table))
    lines = ["from freqtrade_lookahead import Asked, Levelled\n"]
    for number, row in enumerate(rows):
        strategy = made(*row)
        kind = "Levelled" if len(columns_of(evaluate(strategy, bars))) > 1 else "Asked"
        lines.append(
            f"class S{number}({kind}):\n    number = {number}\n    startup_candle_count = {strategy.warmup()}\n"
        )
    (folder / "strategies").mkdir()
    (folder / "strategies" / "asked.py").write_text("\n".join(lines))
    begin, end = int(bars.time_ns[0]) // 10**9, int(bars.time_ns[-1]) // 10**9 + 60
    config = {
        "dry_run": True, "dry_run_wallet": 10**9, "stake_currency": "USDT", "stake_amount": 10_000, "max_open_trades": 1,
        "fee": 0.001, "timeframe": "1m", "timerange": f"{begin}-{end}", "dataformat_ohlcv": "json",
        "user_data_dir": str(folder), "strategy_path": str(folder / "strategies"),
        "pairlists": [{"method": "StaticPairList"}], "exchange": {"name": "binance", "pair_whitelist": ["BTC/USDT"]},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))


def answers(bars: Bars, rows: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield the name and freqtrade's answer of each row, as it comes. Errors: DifferError when a backtest of
    freqtrade's has other trades than the targets; CalledProcessError after freqtrade's last lines."""
    python = environment(FREQTRADE, sys.executable)
    whole: dict[int, tuple[Any, Decisions]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, bars, rows)
        with Listener(str(folder / "socket"), "AF_UNIX") as listener, (folder / "log").open("w") as log:
            Thread(target=serve, args=(listener, rows, whole), daemon=True).start()
            command = [python, PROGRAMS / "freqtrade_lookahead.py", folder / "config.json", folder / "socket"]
            command += [f"S{number}" for number in range(len(rows))]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process:
                assert process.stdout
                for line in process.stdout:
                    if line.startswith("{"):
                        found = json.loads(line)
                        number = int(found["name"][1:])
                        name = rows[number][0]
                        same_trades(name, found, *whole[number])
                        yield name, answer(found)
            if process.returncode:
                sys.stderr.write((folder / "log").read_text()[-3000:])
                raise subprocess.CalledProcessError(process.returncode, "freqtrade")


def same_trades(name: str, found: dict[str, Any], times: Any, decisions: Decisions) -> None:
    """Compare freqtrade's trades on all bars with the targets, each traded at the next open; levels change the trades."""
    if len(columns_of(decisions)) > 1:
        return
    is_long = decisions.target > 0
    opened = np.flatnonzero(is_long[1:] & ~is_long[:-1]) + 2
    closed = np.flatnonzero(~is_long[1:] & is_long[:-1]) + 2
    opened, closed = opened[opened < len(times) - 1], closed[closed < len(times)]
    same(f"{name}: entries", times[opened].tolist(), found["opened"])
    same(f"{name}: exits", times[closed].tolist()[: len(opened)], found["closed"][: len(closed)])


def answer(found: dict[str, Any]) -> str:
    if not found["is_checked"]:
        return "too few trades"
    return "refused" if found["has_bias"] else "not noticed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", default="", help="strategies, by the start of their names, comma separated")
    parser.add_argument(
        "--write", action="store_true", help="store each answer, and make the page from all stored ones"
    )
    options = parser.parse_args()
    wanted = tuple(part for part in options.names.split(",") if part)
    both = [(name, "cheats") for name, _ in cheats.cheats()] + [
        (name, "honest") for name, _ in islice(cheats.honest(), 50)
    ]
    rows = [row for row in both if row[0] not in INEXPRESSIBLE and (not wanted or row[0].startswith(wanted))]
    kinds, counts, began = dict(rows), Counter[tuple[str, str]](), time.monotonic()
    for name, text in answers(filled(), rows):
        counts[kinds[name], text] += 1
        print(f"{time.monotonic() - began:7.0f} s  {kinds[name]:8}{name:60}{text}", flush=True)
        if options.write:
            stored = json.loads(cheats.FREQTRADE.read_text())
            stored |= {"version": FREQTRADE, "date": f"{datetime.now(UTC):%Y-%m-%d}"}
            stored["answers"] |= {name: text, **dict.fromkeys(INEXPRESSIBLE, "not expressible")}
            cheats.FREQTRADE.write_text(json.dumps(stored, indent=1) + "\n")
    cheats.MEMORY.unlink(missing_ok=True)
    for (kind, text), count in sorted(counts.items()):
        print(f"{kind}: {count} {text}")
    print(f"{FREQTRADE}, load {getloadavg()[0]:.1f}")
    if options.write:
        cheats.PAGE.write_text(cheats.page())


if __name__ == "__main__":
    run_benchmark(main)
