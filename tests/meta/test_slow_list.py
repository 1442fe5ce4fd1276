"""The list of slow tests names tests that exist: `tests/support/slow.py`."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from tests.support.slow import KEPT, SLOW, is_slow

TESTS = Path(__file__).parents[1]


def test_each_slow_file_and_function_exists_and_is_named_once() -> None:
    files = {name for name in SLOW if "::" not in name}
    missing = {name for name in files if not (TESTS / name).exists()}
    for name in SLOW - files:
        file, _, function = name.partition("::")
        if file in files or not (TESTS / file).exists() or function not in _names(TESTS / file):
            missing.add(name)
    assert missing == set()


def _names(file: Path) -> set[str]:
    """Return the functions and classes of a file; a test made by a state machine of hypothesis is assigned."""
    body = ast.parse(file.read_text("utf-8")).body
    made = {
        one.id for node in body if isinstance(node, ast.Assign) for one in node.targets if isinstance(one, ast.Name)
    }
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return made | {node.name for node in body if isinstance(node, kinds)}


def test_cases_that_stay_are_collected_by_make_test_and_alone_of_their_files() -> None:
    files = sorted({f"tests/{id.partition('::')[0]}" for id in KEPT})
    quiet = ("--collect-only", "-q", "-o", "addopts=--import-mode=importlib", "-m", "not slow and not soak")
    command = [sys.executable, "-m", "pytest", *quiet, *files]
    done = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, check=True)
    found = {line.removeprefix("tests/") for line in done.stdout.splitlines() if "::" in line}
    assert found == KEPT


def test_a_name_of_the_list_marks_its_cases() -> None:
    name = min(name for name in SLOW if "::" in name)
    assert (is_slow(f"tests/{name}"), is_slow(f"tests/{name}[a-1]"), is_slow(f"tests/{name}_2")) == (True, True, False)
