"""Questions on the docs with the sections that answer them, and how well a search finds those."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fks.store.documents import DocumentStore, Hit

FILE = Path(__file__).resolve().parents[1] / "contract" / "ai" / "questions.txt"


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and its sections as (file, heading or "")."""

    text: str
    sections: tuple[tuple[str, str], ...]

    def is_answered_by(self, hit: Hit) -> bool:
        """Return whether a chunk lies in one of the sections, or below it."""
        return self.is_in(hit.row["name"], hit.row["headings"])

    def is_in(self, name: str, headings: Sequence[str]) -> bool:
        return any(name == file and (not heading or heading in headings) for file, heading in self.sections)


def questions(file: Path = FILE) -> list[Question]:
    """Return the questions of the file; those without a section have no answer in the docs."""
    found = []
    for line in file.read_text().splitlines():
        if not line.startswith("#"):
            text, _, places = line.partition("|")
            sections = [place.strip().partition("#")[::2] for place in places.split(";") if place.strip()]
            found.append(Question(text.strip(), tuple(sections)))
    return found


async def ranks(store: DocumentStore, asked: Sequence[Question], mode: str) -> list[int | None]:
    """Return for each question the rank, from 1, of the first chunk of ten that answers it; None: none does."""
    found: list[int | None] = []
    for question in asked:
        hits = (await store.search(question.text, collection="fks", limit=10, mode=mode)).hits
        found.append(next((rank for rank, hit in enumerate(hits, 1) if question.is_answered_by(hit)), None))
    return found


def recall(found: Sequence[int | None], depth: int) -> list[float]:
    return [float(rank is not None and rank <= depth) for rank in found]


def reciprocal(found: Sequence[int | None]) -> list[float]:
    return [0.0 if rank is None else 1.0 / rank for rank in found]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of a mean over questions: 2,000 bootstrap samples from one seed."""
    draws = np.random.default_rng(20261126).integers(0, len(values), (2000, len(values)))
    low, high = np.percentile(np.asarray(values)[draws].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)
