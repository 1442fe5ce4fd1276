"""Tests and benchmark rows named in docs/guarantees.md and docs/recovery.md exist."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

from benchmarks.recovery import BEGIN, END, shown, table, written

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("guarantees.md", "recovery.md")


def named() -> list[tuple[str, str]]:
    """Return (path, function or "") of every test a page names."""
    text = "".join((ROOT / "docs" / page).read_text() for page in PAGES)
    return sorted({(path, name) for path, name in re.findall(r"`(tests/[\w/]+(?:\.py)?)(?:::(\w+))?`", text)})


@pytest.mark.parametrize(("path", "name"), named())
def test_a_test_that_a_page_names_exists(path: str, name: str) -> None:
    assert (ROOT / path).exists()
    assert not name or name in functions_of(path)


@functools.cache
def functions_of(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_each_guarantee_names_what_would_break_it_and_a_test_that_holds_it() -> None:
    sections = re.split(r"^## G\d: ", (ROOT / "docs" / "guarantees.md").read_text(), flags=re.M)[1:]
    assert len(sections) == 6
    for section in sections:
        assert "**Rests on.**" in section
        assert "**What would break it.**" in section
        assert re.search(r"\*\*Held by\*\* `tests/", section)


def test_every_fault_of_the_benchmark_has_its_row_in_the_docs() -> None:
    text = (ROOT / "docs" / "recovery.md").read_text()
    assert not [name for name in table() if f"`{name}`" not in text]


def test_table_of_recovery_times_is_as_the_benchmark_writes_it() -> None:
    text = (ROOT / "docs" / "recovery.md").read_text()
    assert written(text, [], "") == text
    rows = [line.strip("|").split(" | ") for line in text.partition(BEGIN)[2].partition(END)[0].splitlines()[3:]]
    assert len(rows) > 15
    for _, key, _, detected, _, serving, measured in rows:
        row = table()[key.strip("`")]
        limits = [(shown(found), shown(serves)) for found, serves in [row.limits(""), *row.lines.values()]]
        assert (detected, serving) in limits, key
        assert re.match(r"\d{4}-\d\d-\d\d, \d", measured), key
