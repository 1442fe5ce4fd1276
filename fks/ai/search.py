"""Search over chunks: a TF-IDF and SVD model fitted on the corpus, fusion of rankings, and quoted passages.

Words are lexemes as PostgreSQL's `english` configuration makes them, so that both rankings count the same words. The
model is fitted from counts alone: no download, no pickle, the same counts give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from fks.model.errors import BugError

#: reciprocal rank fusion: Cormack, Clarke and Büttcher, SIGIR 2009
RRF_K: Final = 60
DIMENSIONS: Final = 256
#: dimensions of a vector that pgvector can put into an index
INDEXED_MAX: Final = 2_000
VOCABULARY_MAX: Final = 50_000
#: below so many chunks a model says nothing
CHUNKS_MIN: Final = 8
#: share of a question's weight in words that the best passage must hold; below it the answer is not_found
COVERAGE_MIN: Final = 0.5
QUOTE_MAX: Final = 700
#: ASCII signs that PostgreSQL's parser would join to words (hosts, paths, e-mail addresses); the column `search` of
#: ai_chunks leaves them out as well
SIGNS: Final = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_SPACED: Final = str.maketrans(dict.fromkeys(SIGNS, " "))
_WORD = re.compile(r"\w+")

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SearchTerm:
    """A lexeme of a question, and how many chunks of the corpus have it."""

    lexeme: str
    chunks: int

    def weight(self, corpus: int) -> float:
        """Return its inverse document frequency; a word that no chunk has weighs most."""
        return math.log((1 + corpus) / (1 + self.chunks)) + 1.0


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A literal part of a chunk; `start` and `end` are offsets into the chunk's text."""

    text: str
    start: int
    end: int


class TfidfSvd:
    """TF-IDF weights of lexemes, projected on the strongest singular vectors of the corpus. Immutable."""

    NAME: Final = "tfidf-svd"

    def __init__(self, vocabulary: Sequence[str], idf: Vector, components: Vector) -> None:
        """Shapes: idf (v,), components (v, dimensions)."""
        self._index = {word: number for number, word in enumerate(vocabulary)}
        self._idf, self._components = idf, components

    @property
    def dimensions(self) -> int:
        return int(self._components.shape[1])

    @classmethod
    def fit(cls, documents: Sequence[Mapping[str, int]], dimensions: int = DIMENSIONS) -> TfidfSvd:
        """Fit a model on the lexeme counts of each chunk, in a fixed order. Same counts, same model on one machine.

        Errors: BugError below CHUNKS_MIN chunks.
        """
        from scipy.sparse import csr_matrix
        from scipy.sparse.linalg import svds

        if len(documents) < CHUNKS_MIN:
            raise BugError(f"a model needs {CHUNKS_MIN} chunks, not {len(documents)}")
        frequency: dict[str, int] = {}
        for counts in documents:
            for word in counts:
                frequency[word] = frequency.get(word, 0) + 1
        words = sorted(sorted(frequency), key=lambda word: -frequency[word])[:VOCABULARY_MAX]
        total = len(documents)
        idf = np.array([math.log((1 + total) / (1 + frequency[word])) + 1.0 for word in words], np.float32)
        model = cls(words, idf, np.zeros((len(words), 0), np.float32))
        rows = [model._weights(counts) for counts in documents]
        lengths = np.cumsum([0, *(len(columns) for columns, _ in rows)])
        matrix = csr_matrix(
            (
                np.concatenate([values for _, values in rows]).astype(np.float64),
                np.concatenate([columns for columns, _ in rows]),
                lengths,
            ),
            shape=(total, len(words)),
        )
        count = min(dimensions, total - 1, len(words) - 1)
        start = np.random.default_rng(1).standard_normal(min(matrix.shape))  # ARPACK's own is random
        _, strengths, vectors = svds(matrix, k=count, v0=start, solver="arpack")
        order = np.argsort(-strengths, kind="stable")
        axes = vectors[order]
        signs = np.sign(axes[np.arange(count), np.argmax(np.abs(axes), axis=1)])  # a vector and its negative are one
        return cls(words, idf, np.ascontiguousarray((axes * signs[:, None]).T.astype(np.float32)))

    def embed(self, counts: Mapping[str, int]) -> Vector | None:
        """Return the unit vector of lexeme counts, or None when the model knows none of the words."""
        columns, values = self._weights(counts)
        found = values @ self._components[columns]
        norm = float(np.linalg.norm(found))
        return None if norm < 1e-9 else (found / norm).astype(np.float32)

    def _weights(self, counts: Mapping[str, int]) -> tuple[npt.NDArray[np.int64], Vector]:
        known = sorted((self._index[word], count) for word, count in counts.items() if word in self._index)
        columns = np.array([column for column, _ in known], np.int64)
        values = np.array([1.0 + math.log(count) for _, count in known], np.float32) * self._idf[columns]
        norm = float(np.linalg.norm(values))
        return columns, values / norm if norm else values

    def dump(self) -> bytes:
        """Return the model as an npz file without pickles."""
        out = io.BytesIO()
        words = np.frombuffer("\n".join(self._index).encode(), np.uint8)
        np.savez(out, words=words, idf=self._idf, components=self._components)
        return out.getvalue()

    @classmethod
    def load(cls, data: bytes, sha256: str) -> TfidfSvd:
        """Return a dumped model. Errors: BugError when its SHA-256 is another one."""
        if hashlib.sha256(data).hexdigest() != sha256:
            raise BugError("the stored embedder differs from its SHA-256")
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return cls(file["words"].tobytes().decode().split("\n"), file["idf"], file["components"])


def unit_vectors(values: object) -> Vector | None:
    """Return the vectors of a model with length 1, shape (n, dimensions); None for anything else than equally long
    vectors of finite numbers with a length."""
    try:
        found = np.asarray(values, np.float32)
    except (ValueError, TypeError):
        return None
    if found.ndim != 2 or not 2 <= found.shape[1] <= INDEXED_MAX or not np.isfinite(found).all():
        return None
    # the square of a large float32 is infinite
    lengths = np.linalg.norm(found.astype(np.float64), axis=1, keepdims=True)
    return None if (lengths < 1e-9).any() else np.asarray(found / lengths, np.float32)


def spaced(text: str) -> str:
    """Return a text with SIGNS as spaces, as the words of chunks are counted."""
    return text.translate(_SPACED)


def fused(*rankings: Sequence[str]) -> list[tuple[str, float]]:
    """Return ids by reciprocal rank fusion, best first: the sum of 1 / (RRF_K + rank). Ties are in the order of ids."""
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, one in enumerate(ranking, 1):
            scores[one] = scores.get(one, 0.0) + 1.0 / (RRF_K + rank)
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


def coverage(terms: Sequence[SearchTerm], corpus: int, held: Sequence[str]) -> float:
    """Return the share, 0 to 1, of a question's weight in words that are among `held`."""
    total = sum(term.weight(corpus) for term in terms)
    known = set(held)
    return sum(term.weight(corpus) for term in terms if term.lexeme in known) / total if total else 0.0


def quote_of(text: str, terms: Sequence[SearchTerm], corpus: int) -> Excerpt:
    """Return the part of a chunk that holds most of a question: whole lines, at most QUOTE_MAX characters where lines
    are no longer. It is literally in the chunk."""
    if len(text) <= QUOTE_MAX:
        return Excerpt(text, 0, len(text))
    lines: list[tuple[int, int, set[str]]] = []
    at = 0
    for line in text.split("\n"):
        for begin in range(0, max(len(line), 1), QUOTE_MAX):
            part = line[begin : begin + QUOTE_MAX]
            words = [word.lower() for word in _WORD.findall(part)]
            held = {term.lexeme for term in terms if any(_is_form(word, term.lexeme) for word in words)}
            lines.append((at + begin, at + begin + len(part), held))
        at += len(line) + 1
    weights = {term.lexeme: term.weight(corpus) for term in terms}
    best, chosen = -1.0, (0, min(len(text), QUOTE_MAX))
    for first, (start, _, _) in enumerate(lines):
        found: set[str] = set()
        for _, end, held in lines[first:]:
            if end - start > QUOTE_MAX:
                break
            found |= held
            score = sum(weights[word] for word in found) + (end - start) / QUOTE_MAX / 100  # of equals the longer one
            if score > best:
                best, chosen = score, (start, end)
    start, end = chosen
    kept = text[start:end]
    start += len(kept) - len(kept.lstrip())
    kept = kept.strip()
    return Excerpt(kept, start, start + len(kept))


def _is_form(word: str, lexeme: str) -> bool:
    """Return whether a word may be a form of a lexeme: Snowball cuts endings, and turns y into i."""
    stem = lexeme[:-1] if lexeme.endswith("i") and len(lexeme) > 3 else lexeme
    return word.startswith(stem) and len(word) <= len(stem) + 6
