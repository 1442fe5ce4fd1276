"""The table of mutations fits the code: each text occurs once, each test exists, the docs show the table.

The mutations themselves are run by `python scripts/mutations.py` (docs/guarantees.md).
"""

from __future__ import annotations

from collections import Counter
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
    for wrong in (replace(first, old="is not there"), replace(first, test=first.test + "_x"), replace(first, old=" ")):
        assert len(mutations.problems([wrong])) == 1


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


def test_a_row_runs_again_once_its_file_or_its_test_has_changed(
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
