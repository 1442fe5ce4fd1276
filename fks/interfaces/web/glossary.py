"""Terms of docs/glossary.md, which is packed beside this module: the pages explain each by its entry there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).parent / "glossary.md"
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_ROW = re.compile(r"^\| (.+?) \| (.+) \|$")


@dataclass(frozen=True, slots=True)
class Term:
    """One entry. `names` are the words that it explains, as the file writes them; `slug` is its place on the page."""

    names: tuple[str, ...]
    meaning: str
    group: str

    @property
    def title(self) -> str:
        """Return all names."""
        return ", ".join(self.names)

    @property
    def slug(self) -> str:
        """Return the id of its row."""
        return "term-" + re.sub(r"[^a-z0-9]+", "-", self.names[0].lower()).strip("-")


def parse(text: str) -> tuple[Term, ...]:
    """Return the entries of the file's tables, in its order."""
    found, group = [], ""
    for line in text.splitlines():
        if line.startswith("## "):
            group = line.removeprefix("## ").strip()
        match = _ROW.match(line)
        if match and match[1] != "Word" and not match[1].startswith("---"):
            names = tuple(name.strip() for name in plain(match[1]).split(","))
            found.append(Term(names, plain(match[2]), group))
    return tuple(found)


def plain(text: str) -> str:
    """Return Markdown without links and code marks."""
    return _LINK.sub(r"\1", text).replace("`", "").strip()


class Glossary:
    """The entries by name. Empty where the file is missing."""

    def __init__(self, file: Path = FILE) -> None:
        self.terms = parse(file.read_text()) if file.is_file() else ()
        self._named: Mapping[str, Term] = {name.lower(): term for term in reversed(self.terms) for name in term.names}

    def find(self, text: object) -> Term | None:
        """Return the entry of a term, in any case, singular or plural."""
        term = str(text).strip().lower()
        return self._named.get(term) or self._named.get(term.removesuffix("s"))
