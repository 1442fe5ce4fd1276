"""Mutants of the pure cores: single changes of one operator, constant or condition, each run against the unit tests.

    python scripts/mutants.py                                # 200, drawn over all packages
    python scripts/mutants.py --only trading.risk --count 50
    python scripts/mutants.py --count 60 --docs              # 60 of each, and the scores into docs/guarantees.md

The unit tests of a package are imported once; each mutant is a fork in which the code of its functions is replaced, so
a mutant costs the tests and no start. A mutant that no unit test of its own package notices is listed: contract tests,
or no test, may notice it (docs/guarantees.md, Mutations).
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib
import io
import os
import random
import re
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
PAGE = ROOT / "docs" / "guarantees.md"
BEGIN, END = "<!-- mutants -->", "<!-- end of mutants -->"
ROW = re.compile(r"^\| `([\w.]+)` \| .*$", re.M)
#: package -> its modules that decide; documents, messages, texts, and drivers of sockets and tables are left out
CORES = {
    "trading.orders": "absence core exits freshness protection rules sent_ids submit trailing",
    "trading.risk": (
        "check correlation exits holdings intent limits market order_checks policy resting sizing valuation"
    ),
    "system.supervision": "containment liveness machine policy rollout",
    "market.feed": "exchange_clock feed liveness queues",
    "trading.guardian": (
        "bridges flatten journal kill_work lease missing_stops ninja_kill ninja_session orders_at_venue positions "
        "self_checks submission switch takeover venue_kill"
    ),
    "lab.chaos": "auditor cover decisions exercise fold order_requests plan protection_time report",
    "trading.matching": "costs rule",
}
LIMIT_S = 120
COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
SUMS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One changed place of a module. `number` counts the places that can be changed."""

    module: str
    number: int
    line: int
    what: str


class _Changer(ast.NodeTransformer):
    """Changes the place of a number, or only lists the places (`wanted` None)."""

    def __init__(self, wanted: int | None) -> None:
        self._wanted, self._depth, self.places = wanted, 0, list[tuple[int, str]]()

    def _is_here(self, node: ast.AST, what: str) -> bool:
        if not self._depth:
            return False
        self.places.append((getattr(node, "lineno", 0), what))
        return self._wanted == len(self.places) - 1

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._function(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        self._depth += 1
        node.body = [self.visit(child) for child in node.body]  # no decorator, no default: they ran already
        self._depth -= 1
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        for index, operator in enumerate(node.ops):
            other = COMPARISONS.get(type(operator))
            if other is not None and self._is_here(node, f"{type(operator).__name__} -> {other.__name__}"):
                node.ops[index] = other()
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        if self._is_here(node, "and <-> or"):
            node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Not) and self._is_here(node, "not dropped"):
            return node.operand
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        other = SUMS.get(type(node.op))
        if other is not None and self._is_here(node, f"{type(node.op).__name__} -> {other.__name__}"):
            node.op = other()
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, bool):
            if self._is_here(node, f"{node.value} -> {not node.value}"):
                return ast.copy_location(ast.Constant(not node.value), node)
        elif isinstance(node.value, int | float) and self._is_here(node, f"{node.value} -> {node.value + 1}"):
            return ast.copy_location(ast.Constant(node.value + 1), node)
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        self.generic_visit(node)
        if self._is_here(node, "if never"):
            node.test = ast.copy_location(ast.Constant(False), node.test)
        return node


def mutants_of(module: str) -> list[Mutant]:
    """Return every mutant of a module."""
    changer = _Changer(None)
    changer.visit(ast.parse(_file_of(module).read_text()))
    return [Mutant(module, number, *place) for number, place in enumerate(changer.places)]


def _file_of(module: str) -> Path:
    return ROOT.joinpath(*module.split(".")).with_suffix(".py")


def apply(mutant: Mutant) -> None:
    """Replace the code of the module's functions by the mutant's: all names that are bound to them stay."""
    tree = ast.parse(_file_of(mutant.module).read_text())
    tree = ast.fix_missing_locations(_Changer(mutant.number).visit(copy.deepcopy(tree)))
    module = importlib.import_module(mutant.module)
    codes = dict(_codes(compile(tree, module.__file__ or "", "exec")))
    for function in _functions(module):
        new = codes.get((function.__code__.co_qualname, function.__code__.co_firstlineno))
        if new is not None and new.co_freevars == function.__code__.co_freevars:
            function.__code__ = new


def _codes(code: types.CodeType) -> Iterator[tuple[tuple[str, int], types.CodeType]]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield (constant.co_qualname, constant.co_firstlineno), constant
            yield from _codes(constant)


def _functions(module: types.ModuleType) -> Iterator[types.FunctionType]:
    for value in vars(module).values():
        if getattr(value, "__module__", None) != module.__name__:
            continue
        for item in vars(value).values() if isinstance(value, type) else (value,):
            inner = item.__func__ if isinstance(item, staticmethod | classmethod) else item
            inner = inner.fget if isinstance(inner, property) else inner
            if isinstance(inner, types.FunctionType):
                yield inner


def run(mutant: Mutant | None, package: str) -> int:
    """Return pytest's exit code for the unit tests of a package in a fork with the mutant; 1 when it takes too long."""
    import pytest

    pid = os.fork()
    if pid:
        until_s = time.monotonic() + LIMIT_S
        while time.monotonic() < until_s:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return 1
    code = 3
    try:
        if mutant is not None:
            apply(mutant)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:randomly", "-p", "no:valkey"]
            options += ["-o", "addopts=--import-mode=importlib", "-k", "not docs and not costs_microseconds"]
            code = int(pytest.main([*options, str(ROOT / "tests" / "unit" / package.replace(".", "/"))]))
    finally:
        os._exit(code)


def page(text: str, scores: Mapping[str, str]) -> str:
    """Return the page with the rows of these packages in its table; the rows of other packages stay."""
    before, _, rest = text.partition(BEGIN)
    shown, _, after = rest.partition(END)
    rows = {found[1]: found[0] for found in ROW.finditer(shown)} | {
        package: f"| `{package}` | {score} |" for package, score in scores.items()
    }
    lines = ["| Package | killed | of drawn | of all | seed | tree of fks/ | date |", "|---|---|---|---|---|---|---|"]
    lines += [rows[package] for package in CORES if package in rows]
    table = "\n".join(lines)
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def code_of_tree() -> str:
    """Return the hash of fks/ where the tree equals its commit, but for the page; else nothing."""
    changed = _git("status", "--porcelain", "--", ".", f":!{PAGE.relative_to(ROOT)}")
    return "" if changed else _git("rev-parse", "--short=12", "HEAD:fks")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CORES, help="one package")
    parser.add_argument("--count", type=int, help="mutants of each package (without it 200, drawn over all)")
    parser.add_argument("--docs", action="store_true", help="write the scores into docs/guarantees.md")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    os.nice(5)
    os.chdir(ROOT)
    packages = [options.only] if options.only else list(CORES)
    totals: dict[str, int] = {}
    counts = {package: [0, 0] for package in packages}
    drawn: list[tuple[str, Mutant]] = []
    for package in packages:
        modules = [f"fks.{package}.{name}" for name in CORES[package].split()]
        found = [mutant for module in modules for mutant in mutants_of(module)]
        share = min(options.count or -(-200 // len(packages)), len(found))
        totals[package] = len(found)
        drawn += [(package, mutant) for mutant in random.Random(options.seed).sample(found, share)]  # noqa: S311
        for module in modules:
            importlib.import_module(module)
        print(f"{package}: {share} of {len(found)}", flush=True)
        if (code := run(None, package)) != 0:
            print(f"the unit tests of {package} fail without a mutant: {code}")
            return 1
    for package, mutant in drawn:
        code = run(mutant, package)
        counts[package][code == 0] += 1
        if code == 0:
            line = _file_of(mutant.module).read_text().splitlines()[mutant.line - 1].strip()
            print(f"survived  {mutant.module}:{mutant.line}  {mutant.what}: {line[:90]}", flush=True)
    for package, (killed, survived) in counts.items():
        print(f"{package}: {killed} of {killed + survived} killed")
    if options.docs:
        tail = f"{options.seed} | {code_of_tree() or 'not committed'} | {datetime.now(UTC):%Y-%m-%d}"
        scores = {
            package: f"{killed} | {killed + survived} | {totals[package]} | {tail}"
            for package, (killed, survived) in counts.items()
        }
        PAGE.write_text(page(PAGE.read_text(), scores))
    return 0


if __name__ == "__main__":
    sys.exit(main())
