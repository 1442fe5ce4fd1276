"""The folders of fks/ are few, each with a page of text that is true, and docs/architecture.md shows them."""

from __future__ import annotations

import re
import tomllib

import pytest

from scripts.architecture import PAGE, ROOT, imports, page_of, rewritten

FOUND = imports()


def test_the_library_has_at_most_fifteen_folders() -> None:
    folders = {path.name for path in (ROOT / "fks").iterdir() if any(path.rglob("*.py"))}
    assert folders == FOUND.keys()
    assert len(folders) <= 15


@pytest.mark.parametrize("district", FOUND)
def test_a_district_begins_with_a_page_that_is_true(district: str) -> None:
    page = page_of(district)
    first, _, rest = page.partition("\n\n")
    assert first.endswith((".", ")")), "one sentence, which docs/architecture.md shows"
    users, begin, important = re.findall(r"^(?:Imported by|Begin with|Most important): (.*)$", rest, re.M)
    used_by = [other for other in FOUND if district in FOUND[other]]
    assert users.split(", ") == (used_by or ["no district"])
    files = re.findall(r"`([\w/]+\.py)`", important)
    assert len(files) == 3
    for file in [*files, begin.strip("`")]:
        assert (ROOT / "fks" / district / file).is_file(), file


def test_architecture_shows_the_districts() -> None:
    text = PAGE.read_text()
    assert text == rewritten(text), "docs/architecture.md is old: python scripts/architecture.py"
    assert all(f"fks/{district}/__init__.py" in text for district in FOUND)


def test_a_contract_that_forbids_all_packages_names_its_own_district_too() -> None:
    """import-linter leaves out of `fks.*` the district that has the source."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    all_of = [found for found in contracts if "fks.*" in found.get("forbidden_modules", ())]
    assert len(all_of) > 5
    for found in all_of:
        districts = {source.rpartition(".")[0] for source in found["source_modules"]} - {"fks"}
        assert {f"{district}.*" for district in districts} <= set(found["forbidden_modules"]), found["id"]
