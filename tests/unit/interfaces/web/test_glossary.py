"""Terms of the glossary: each row of the file is found by its names, and rows have places of their own."""

from __future__ import annotations

from pathlib import Path

from fks.interfaces.web.glossary import Glossary, parse


def test_terms_are_found_by_each_name_in_any_case_and_number() -> None:
    glossary = Glossary()
    denied = glossary.find("Denied")
    assert denied is not None
    assert denied is glossary.find("approved")
    assert "carries a code" in denied.meaning
    assert glossary.find("Fills") is glossary.find("fill")
    assert glossary.find("no such word") is None


def test_meanings_are_plain_text_and_slugs_differ() -> None:
    terms = Glossary().terms
    assert len(terms) > 50
    assert len({term.slug for term in terms}) == len(terms)
    assert not [term for term in terms if "](" in term.meaning or "`" in term.meaning]


def test_missing_file_gives_no_terms(tmp_path: Path) -> None:
    assert Glossary(tmp_path / "missing").terms == ()
    assert parse("## A\n| Word | Meaning |\n|---|---|\n| one, two | [x](#y) |\n")[0].names == ("one", "two")
