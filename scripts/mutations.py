"""Mutations of the code, each with the test that fails because of it: the table at the end of docs/guarantees.md.

    python scripts/mutations.py                  # apply each in a copy of the tree, run its test: about ten minutes
    python scripts/mutations.py --only G4        # those of one guarantee
    python scripts/mutations.py --fast           # those whose test is a unit test: about four minutes
    python scripts/mutations.py --check          # each text occurs once, each test exists, the docs are current
    python scripts/mutations.py --docs           # write the table into docs/guarantees.md

A mutation is killed when its test fails with it; it survives when the test passes. A test that fails without any
mutation, or a mutation that keeps the test from being collected, is an error. Exit 1 at a survivor or an error.
`scripts/mutants.py` makes mutants of whole modules instead.
"""

from __future__ import annotations

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "guarantees.md"
TABLE = ROOT / "scripts" / "mutations.toml"
BEGIN, END = "<!-- mutations -->", "<!-- end of mutations -->"
#: what a copy needs to run tests
PARTS = ("fks", "actors", "tests", "benchmarks", "docs", "nt8", "scripts", "serve_app.py", "pyproject.toml")
LIMIT_S = 600.0
TEST_S = 30.0  # of one test: one that hangs has failed


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change of the code that breaks a claim, and the test that has to fail. `what`: the change in words; `old`
    occurs exactly once in `file`; `test`: a node id of pytest below tests/."""

    guarantee: str
    claim: str
    what: str
    file: str
    old: str
    new: str
    test: str


def load() -> tuple[Mutation, ...]:
    """Return the mutations of scripts/mutations.toml."""
    return tuple(Mutation(**row) for row in tomllib.loads(TABLE.read_text())["mutation"])


MUTATIONS = load()


def problems(mutations: Sequence[Mutation] = MUTATIONS, root: Path = ROOT) -> list[str]:
    """Return what is wrong with the table: a text that does not occur exactly once, a test that is not there."""
    found = []
    files: dict[str, str] = {}
    tests: dict[str, set[str]] = {}
    for mutation in mutations:
        text = files.setdefault(mutation.file, (root / mutation.file).read_text())
        if (count := text.count(mutation.old)) != 1:
            found.append(f"{mutation.guarantee} {mutation.claim!r}: its text is {count} times in {mutation.file}")
        if mutation.new == mutation.old:
            found.append(f"{mutation.guarantee} {mutation.claim!r} changes nothing")
        path, _, name = mutation.test.partition("::")
        if path not in tests:
            file = root / "tests" / path
            tests[path] = _names(file) if file.exists() else set()
        if name.partition("::")[0] not in tests[path]:
            found.append(f"{mutation.guarantee} {mutation.claim!r}: there is no test {mutation.test}")
    if len({(m.file, m.old, m.new) for m in mutations}) < len(mutations):
        found.append("a mutation is there twice")
    return found


def _names(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)} | {
        target.id for target in targets if isinstance(target, ast.Name)
    }


def table(mutations: Sequence[Mutation] = MUTATIONS) -> str:
    """Return the table of the docs."""
    lines = [f"{len(mutations)} mutations:", "", "| | Claim | Mutation | in | Fails |", "|---|---|---|---|---|"]
    for mutation in mutations:
        path, _, name = mutation.test.partition("::")
        lines.append(
            f"| {mutation.guarantee} | {mutation.claim} | {mutation.what} | `{mutation.file.removeprefix('fks/')}` "
            f"| `tests/{path}{'' if name.startswith('Test') else '::' + name}` |"
        )
    return "\n".join(lines)


def page(text: str) -> str:
    """Return the page with the table in its place."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def copy_tree(into: Path) -> None:
    """Copy what the tests need."""
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "node_modules", "*.pyc", "bin", "obj", "figures")
            shutil.copytree(source, into / part, ignore=ignored, symlinks=True)
        elif source.exists():
            shutil.copy2(source, into / part)


def run_test(tree: Path, tests: Iterable[str]) -> tuple[int, str]:
    """Return pytest's exit code for tests in a copy of the tree, and its last lines."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += [
        "-o",
        "addopts=--import-mode=importlib",
        "-o",
        f"timeout={TEST_S:g}",
        *(f"tests/{test}" for test in tests),
    ]
    # never a compiled file of the unmutated source, or of the mutation before: both may be of the same second
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return 1, f"not done after {LIMIT_S:g} s"
    return done.returncode, "\n".join((done.stdout + done.stderr).strip().splitlines()[-12:])


def verdict_of(tree: Path, mutation: Mutation) -> tuple[str, str]:
    """Return `killed`, `SURVIVED` or `ERROR` for a mutation, and what its test printed."""
    file = tree / mutation.file
    text = file.read_text()
    file.write_text(text.replace(mutation.old, mutation.new))
    try:
        code, output = run_test(tree, [mutation.test])
    finally:
        file.write_text(text)
    return {0: "SURVIVED", 1: "killed"}.get(code, "ERROR"), output


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="guarantees, or words of claims")
    parser.add_argument("--fast", action="store_true", help="unit tests only")
    parser.add_argument("--slow", action="store_true", help="the others only")
    parser.add_argument("--check", action="store_true", help="check the table, run nothing")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/guarantees.md")
    options = parser.parse_args()
    wrong = problems()
    print(*wrong, sep="\n", end="\n" if wrong else "")
    if options.docs:
        PAGE.write_text(page(PAGE.read_text()))
    if options.check and page(PAGE.read_text()) != PAGE.read_text():
        wrong.append("docs/guarantees.md is out of date: python scripts/mutations.py --docs")
        print(wrong[-1])
    if options.check or options.docs or wrong:
        return int(bool(wrong))
    chosen = [
        mutation
        for mutation in MUTATIONS
        if (not options.only or any(only == mutation.guarantee or only in mutation.claim for only in options.only))
        and (not options.fast or mutation.test.startswith("unit/"))
        and not (options.slow and mutation.test.startswith("unit/"))
    ]
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="fks-mutations-") as folder:
        tree = Path(folder)
        copy_tree(tree)
        code, output = run_test(tree, dict.fromkeys(mutation.test for mutation in chosen))
        if code:
            print(f"the tests fail without a mutation:\n{output}")
            return 1
        for mutation in chosen:
            began_s = time.monotonic()
            verdict, output = verdict_of(tree, mutation)
            counts[verdict] = counts.get(verdict, 0) + 1
            print(
                f"{verdict:8} {time.monotonic() - began_s:5.1f} s  {mutation.guarantee:4} {mutation.claim}: "
                f"{mutation.what}",
                flush=True,
            )
            if verdict == "ERROR":
                print(output)
    print(", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())))
    return int(set(counts) != {"killed"})


if __name__ == "__main__":
    sys.exit(main())
