"""README.md is short, its generated sections are current, and its table of features fits this code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from scripts import readme

ROOT = Path(__file__).resolve().parents[2]
PEERS, COMPARED, MISSING = readme.load()
PRESENT = next(row for row in COMPARED if row.marks[0] == "●" and row.present)
LACKING = next(row for row in COMPARED if row.marks[0] == "○" and row.absent)


@pytest.fixture(scope="module")
def names() -> readme.Names:
    return readme.Names()


def test_each_feature_names_what_exists_and_what_must_not(names: readme.Names) -> None:
    assert list(readme.wrong(PEERS, COMPARED, MISSING, names)) == []


@pytest.mark.parametrize(
    "row",
    [
        replace(PRESENT, proof=PRESENT.proof + "_x"),
        replace(PRESENT, present=("POST /nothing",)),
        replace(PRESENT, present=("fks nothing",)),
        replace(PRESENT, present=("risk.nothing",)),
        replace(PRESENT, present=("LEVERAGE",)),
        replace(PRESENT, marks=PRESENT.marks[1:]),
        replace(LACKING, absent=("/graphql",)),
        replace(LACKING, absent=("fks optimize run",)),
        replace(LACKING, absent=("alerts.discord_webhook_url",)),
        replace(LACKING, absent=("fks/research/search/*.py",)),
        replace(LACKING, absent=("EXPOSURE_CORRELATED",)),
    ],
    ids=lambda row: str(row.absent or row.present or len(row.marks)),
)
def test_a_false_row_is_found(row: readme.Feature, names: readme.Names) -> None:
    assert len(list(readme.wrong(PEERS, [row], [], names))) == 1


def test_present_features_do_not_stand_before_missing_ones(names: readme.Names) -> None:
    assert list(readme.wrong(PEERS, [PRESENT, LACKING], [], names)) == ["what FKS lacks stands first"]


def test_each_missing_feature_names_what_is_absent_or_was_never_run() -> None:
    assert not [row.name for row in MISSING if not row.absent and "never" not in row.name]


def test_readme_shows_the_tables() -> None:
    text = readme.PAGE.read_text()
    assert readme.written(text, readme.sections(PEERS, COMPARED, MISSING)) == text


def test_readme_is_a_first_screen() -> None:
    assert len(readme.PAGE.read_text().splitlines()) <= 130
    assert (ROOT / "docs" / "images" / "kill.gif").stat().st_size < 2_000_000
