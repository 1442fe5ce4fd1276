"""Tests and benchmark rows named in docs/guarantees.md and docs/recovery.md exist."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("guarantees.md", "recovery.md")


def named() -> list[tuple[str, str]]:
    """Return (path, function or "") of every test a page names."""
    text = "".join((ROOT / "docs" / page).read_text() for page in PAGES)
    return sorted({(path, name) for path, name in re.findall(r"`(tests/[\w/]+(?:\.py)?)(?:::(\w+))?`", text)})


@pytest.mark.parametrize(("path", "name"), named())
def test_a_test_that_a_page_names_exists(path: str, name: str) -> None:
    file = ROOT / path
    assert file.exists()
    if name:
        tree = ast.parse(file.read_text())
        assert name in {
            node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }


def test_each_guarantee_names_what_would_break_it_and_a_test_that_holds_it() -> None:
    sections = re.split(r"^## G\d: ", (ROOT / "docs" / "guarantees.md").read_text(), flags=re.M)[1:]
    assert len(sections) == 6
    for section in sections:
        assert "**Rests on.**" in section
        assert "**What would break it.**" in section
        assert re.search(r"\*\*Held by\*\* `tests/", section)


def test_every_fault_of_the_benchmark_has_its_row_in_the_docs() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/recovery.py", "--list"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    text = (ROOT / "docs" / "recovery.md").read_text()
    assert not [name for name in done.stdout.split() if f"`{name}`" not in text]
