"""Tests are not deleted, skipped or moved to the soak without a word: `scripts/count_tests.py`."""

from __future__ import annotations

import pytest

from scripts import count_tests
from scripts.count_tests import Counts


def test_the_table_has_the_test_functions_of_each_file() -> None:
    known = count_tests.read(count_tests.TABLE.read_text("utf-8"))
    assert known == count_tests.table(), "run .venv/bin/python scripts/count_tests.py --write"


def test_a_commit_that_proves_less_names_the_file_and_says_why() -> None:
    assert count_tests.history() == []


@pytest.mark.parametrize(
    ("source", "counts"),
    [
        ("def test_a(): ...\nasync def test_b(): ...\ndef helper(): pytest.skip()", Counts(2)),
        ("class TestA:\n  def test_a(self): require('rsync')\n  def test_b(self): ...", Counts(2, skipped=1)),
        ("@pytest.mark.skipif(True)\nclass TestA:\n  def test_a(self): ...\ndef test_b(): ...", Counts(2, skipped=1)),
        ("@pytest.mark.xfail\ndef test_a(): ...\ndef test_b():\n  pytest.xfail('x')", Counts(2, xfail=2)),
        ("pytestmark = pytest.mark.soak\ndef test_a(): ...", Counts(1, soak=1)),
        ("@pytest.mark.parametrize('n', soaked([1, 2], 1))\ndef test_a(n): ...", Counts(1, soak=1)),
        ("CASES = [pytest.param(1, marks=pytest.mark.soak)]\ndef test_a(): ...", Counts(1, soak=1)),
    ],
)
def test_marks_count_wherever_they_stand(source: str, counts: Counts) -> None:
    assert count_tests.count(source) == counts


@pytest.mark.parametrize(
    ("body", "before", "after", "found"),
    [
        ("", {"unit/test_a.py": Counts(3)}, {"unit/test_a.py": Counts(2)}, ["unit/test_a.py"]),
        ("", {"unit/test_a.py": Counts(3)}, {"unit/test_a.py": Counts(3, soak=1)}, ["unit/test_a.py"]),
        ("test_a.py: test_b.py proves it", {"unit/test_a.py": Counts(3)}, {"unit/test_a.py": Counts(2)}, []),
        ("", {"unit/test_a.py": Counts(3)}, {}, ["unit/test_a.py"]),
        ("", {"unit/test_a.py": Counts(3)}, {"contract/test_a.py": Counts(3)}, []),
        ("", {"unit/test_a.py": Counts(3)}, {"contract/test_a.py": Counts(2)}, ["unit/test_a.py"]),
        (
            "",
            {"unit/x/test_a.py": Counts(3), "unit/y/test_a.py": Counts(2)},
            {"unit/new/y/test_a.py": Counts(2), "unit/new/x/test_a.py": Counts(3)},
            [],
        ),
        (
            "",
            {"unit/x/test_a.py": Counts(3), "unit/y/test_a.py": Counts(2)},
            {"unit/new/y/test_a.py": Counts(3), "unit/new/x/test_a.py": Counts(2)},
            ["unit/x/test_a.py"],
        ),
        ("", {"unit/test_a.py": Counts(3, 1, 0, 1)}, {"unit/test_a.py": Counts(4, 0, 0, 1)}, []),
    ],
)
def test_a_loss_without_a_word_is_found(
    body: str, before: dict[str, Counts], after: dict[str, Counts], found: list[str]
) -> None:
    assert count_tests.unexplained(body, before, after) == found
