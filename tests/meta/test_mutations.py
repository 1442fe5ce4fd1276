"""The table of mutations fits the code: each text occurs once, each test exists, the docs show the table.

The mutations themselves are run by `python scripts/mutations.py` (docs/guarantees.md).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from scripts import mutations

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


def test_the_docs_show_the_table() -> None:
    text = mutations.PAGE.read_text()
    assert mutations.page(text) == text
