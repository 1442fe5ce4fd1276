"""The table of mutations fits the code: each place is there with its text, each test exists, the docs show the table.

The mutations themselves are run by `python scripts/mutations.py` (docs/guarantees.md).
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from scripts import mutants, mutations

ROOT = Path(__file__).resolve().parents[2]


def test_each_mutation_fits_the_code_and_names_a_test_that_exists() -> None:
    assert mutations.problems() == []


def test_a_mutation_that_does_not_fit_is_found() -> None:
    first = mutations.MUTATIONS[0]
    for wrong in (
        replace(first, old="is not there"),
        replace(first, old=" "),
        replace(first, name=first.name + "_x"),
        replace(first, file=first.file + "x"),
        replace(first, test=first.test + "_x"),
    ):
        assert len(mutations.problems([wrong])) == 1
    assert len(mutations.problems([first, replace(first, claim="another claim")])) == 2


PYTHON = """LIMIT, LEAST = 4, 2


class Queue:
    size: int = 4

    @property
    def limit(self) -> int:
        import os

        return 4

    @limit.setter
    def limit(self, value: int) -> None:
        self.size = 4


async def take() -> int:
    return 4
"""

SQL = """-- name: take
SELECT 4;

-- name: put
INSERT INTO t VALUES (4);
"""


@pytest.mark.parametrize(
    ("file", "name", "lines"),
    [
        ("a.py", "LIMIT", [0]),
        ("a.py", "LEAST", [0]),
        ("a.py", "Queue.size", [4]),
        ("a.py", "Queue.limit", range(6, 15)),
        ("a.py", "Queue", range(3, 15)),
        ("a.py", "take", [17, 18]),
        ("a.sql", "take", [0, 1, 2]),
        ("a.sql", "put", [3, 4]),
        ("a.txt", "", range(5)),
        ("functions.sql", "", range(5)),
    ],
)
def test_a_text_is_looked_up_in_its_place_alone(tmp_path: Path, file: str, name: str, lines: Iterable[int]) -> None:
    text = PYTHON if file.endswith(".py") else SQL
    if not name:
        text = text.replace("-- name:", "--")
    (tmp_path / file).write_text(text)
    begin, end = mutations.source_of(tmp_path / file).span(name)
    every = text.splitlines(keepends=True)
    assert text[begin:end] == "".join(every[line] for line in lines)


def test_a_change_is_made_in_its_place_alone(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(PYTHON)
    row = replace(mutations.MUTATIONS[0], file="a.py", name="take", old="4", new="5")
    span = mutations.source_of(tmp_path / "a.py").span("take")
    assert row.changed(PYTHON, span) == PYTHON.removesuffix("4\n") + "5\n"


def test_a_move_or_other_code_of_the_file_leaves_a_row_killed(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    test = "import a\n\n\ndef test_it() -> None:\n    assert a.limit == 4\n"
    for name in ("a", "b"):
        (tmp_path / f"{name}.py").write_text(PYTHON)
        (tmp_path / "tests" / f"test_{name}.py").write_text(test)
    row = replace(
        mutations.MUTATIONS[0], file="a.py", name="Queue.limit", old="return 4", new="", test="test_a.py::test_it"
    )
    moved = replace(row, file="b.py", test="test_b.py::test_it")
    assert (moved.digest, moved.code(tmp_path)) == (row.digest, row.code(tmp_path))

    def rewritten(name: str, old: str, new: str) -> str:
        path = tmp_path / name
        path.write_text(path.read_text().replace(old, new))
        os.utime(path, ns=(next(times), next(times)))  # a second rewrite of one tick of the clock is one, too
        return moved.code(tmp_path)

    times = itertools.count(1)
    known = row.code(tmp_path)
    assert rewritten("b.py", "LEAST = 4, 2", "LEAST = 4, 3") == known  # other code of the file
    assert rewritten("b.py", "import os", "import sys") == known  # an import
    assert rewritten("tests/test_b.py", "import a\n", "from a import limit\n") == known
    assert rewritten("b.py", "self.size = 4", "self.size = 3") != known
    assert rewritten("b.py", "self.size = 3", "self.size = 4") == known
    assert rewritten("tests/test_b.py", "== 4", "== 3") != known


def test_every_guarantee_has_mutations() -> None:
    counts = Counter(mutation.guarantee for mutation in mutations.MUTATIONS)
    assert {f"G{number}" for number in range(1, 7)} <= counts.keys()
    assert min(counts.values()) >= 5


def test_mutants_are_made_of_each_module_that_decides() -> None:
    modules = [f"fks.{package}.{name}" for package, names in mutants.CORES.items() for name in names.split()]
    assert [module for module in modules if not mutants.mutants_of(module)] == []


def test_the_docs_show_the_table_and_count_its_rows() -> None:
    text = mutations.PAGE.read_text()
    assert mutations.page(text) == text
    shown = text.partition(mutations.BEGIN)[2].partition(mutations.END)[0]
    rows = len(mutations.MUTATIONS)
    assert shown.count("\n| ") == rows + 1  # its head, too
    assert f"\n{rows} mutations" in shown


def test_a_row_runs_again_once_its_place_or_its_test_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutations, "KILLED", tmp_path / "killed.json")
    first, second, third = mutations.MUTATIONS[:3]
    assert (mutations.killed(), mutations.rest({}, [first])) == ({}, [first])
    for mutation, verdict in ((first, "killed"), (second, "killed"), (third, "killed"), (second, "SURVIVED")):
        mutations.note(mutation, verdict, datetime(2026, 3, 4, tzinfo=UTC))
    rows = mutations.killed()
    assert mutations.rest(rows, [first, second, third]) == [second]
    assert (
        f"{len(mutations.MUTATIONS)} mutations, 2 of them killed when they ran last, from 2026-03-04 "
        in mutations.table(rows)
    )
    changed = rows | {first.digest: ["another", "2026-03-05"], "of an earlier table": ["", "2026-03-05"]}
    assert mutations.rest(changed, [first, third]) == [first]


def test_rows_of_system_tests_are_of_a_kind_of_their_own() -> None:
    first = mutations.MUTATIONS[0]
    kinds = {"unit": "fast", "contract": "slow", "meta": "slow", "acceptance": "system", "soak": "system"}
    assert {place: replace(first, test=f"{place}/test_x.py::test_y").kind for place in kinds} == kinds
