"""A file that defines a strategy and runs it: no check executes a program that is running, and none begins in another."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fks.strategies.registry import load_catalogue

STRATEGY = """\
print("started", __name__, flush=True)
import multiprocessing
from typing import ClassVar

import numpy as np

import fks.backtest as bt
from fks.indicators import sma
from fks.strategies.base import Decisions, Strategy


class Cross(Strategy):
    name: ClassVar[str] = "my_cross"
    fast: int = 10
    slow: int = 30

    def warmup(self):
        return self.slow

    def decide(self, bars):
        return Decisions(np.where(sma(bars.close, self.fast) > sma(bars.close, self.slow), 1.0, 0.0))


def trades_of(kind):
    return bt.run(kind(fast=8), bt.resample(bt.sample(), "1h")).statistics.trades


"""
RUN = 'print("trades", trades_of(Cross), flush=True)\n'
TRADES = 52
CASES = {
    "a file": (RUN, ["one.py"], ["__main__"]),
    "a module": (RUN, ["-m", "one"], ["__main__"]),
    "a file, then a prompt": (RUN, ["-i", "one.py"], ["__main__"]),
    "text": (RUN, ["-c", "exec(open('one.py').read(), {'__name__': '__main__'})"], ["__main__"]),
    "text of no module": (RUN, ["-c", "exec(open('one.py').read(), {'__name__': 'cell'})"], ["cell"]),
    "its class, imported under the file's name": (
        'if __name__ == "__main__":\n    import one\n    print("trades", trades_of(one.Cross), flush=True)\n',
        ["one.py"],
        ["__main__", "one"],
    ),
    "a process that is spawned": (
        'if __name__ == "__main__":\n'
        '    with multiprocessing.get_context("spawn").Pool(1) as pool:\n'
        '        print("trades", pool.apply(trades_of, (Cross,)), flush=True)\n',
        ["one.py"],
        ["__main__", "__mp_main__"],
    ),
}


def _run(folder: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={"PYTHONPATH": f"{folder}:{Path(__file__).parents[3]}", "PATH": ""},
        input="",
        capture_output=True,
        text=True,
        timeout=60,  # it takes a second; without end it would take for ever
        check=False,
    )


@pytest.mark.parametrize(("end", "arguments", "names"), CASES.values(), ids=CASES)
def test_check_never_executes_the_running_program(
    tmp_path: Path, end: str, arguments: list[str], names: list[str]
) -> None:
    (tmp_path / "one.py").write_text(STRATEGY + end)
    found = _run(tmp_path, arguments)
    assert found.stdout.splitlines() == [*(f"started {name}" for name in names), f"trades {TRADES}"], found.stderr
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize(
    "begins",
    [
        "trades_of(Cross)",
        "bt.run(Cross(), bt.resample(bt.sample(), '1h'), check=False)",
        "bt.run_account([bt.Member(Cross(), bt.resample(bt.sample(), '1h'))], check=False)",
        "__import__('fks.strategies.check').strategies.check.check_strategy(Cross())",
        "fks.research.search.search(Cross, {'fast': [5, 8]}, (hours := bt.resample(bt.sample(), '1h')), bt.setup_for(hours))",
        "__import__('other').go()",
    ],
    ids=["backtest", "unchecked", "account", "check", "search", "through another module"],
)
def test_work_begun_while_a_check_executes_its_file_is_refused(tmp_path: Path, begins: str) -> None:
    """`other` takes the class of the module that is imported, so the name of the class does not end the recursion."""
    (tmp_path / "one.py").write_text(f"{STRATEGY}import fks.research.search\n{begins}\n")
    (tmp_path / "other.py").write_text("def go():\n    import one\n    one.trades_of(one.Cross)\n")
    found = _run(tmp_path, ["-c", "import one; one.trades_of(one.Cross)"])
    assert found.stdout.count("started") <= 2, found.stdout
    line = len(STRATEGY.splitlines()) + 2
    error = found.stderr.splitlines()[-1]
    assert "one.py begins a" in error, found.stderr
    assert f"whenever it is imported, in line {line}," in error, found.stderr
    assert 'below `if __name__ == "__main__":`' in error, found.stderr


def test_checks_begun_in_further_threads_end(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(STRATEGY + "__import__('other').go()\n")
    (tmp_path / "other.py").write_text(
        "from concurrent.futures import ThreadPoolExecutor\nfrom fks.strategies.check import check_strategy\nkinds = []\n"
        "def go():\n    for kind in kinds:\n        ThreadPoolExecutor(1).submit(check_strategy, kind()).result()\n"
    )
    found = _run(tmp_path, ["-c", "import one, other; other.kinds.append(one.Cross); other.go()"])
    assert "one.py begins a check whenever it is imported, and" in found.stderr.splitlines()[-1]
    assert found.stdout.count("started") <= 41


def test_file_of_a_user_that_runs_itself_when_loaded_has_the_error(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(STRATEGY + RUN)
    (entry,) = (one for one in load_catalogue(tmp_path).entries.values() if one.origin == "file")
    assert entry.kind is None
    assert "one.py begins a backtest" in entry.error
    assert 'below `if __name__ == "__main__":`' in entry.error
