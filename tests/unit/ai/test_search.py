"""The fitted model, the fusion of rankings, and literal quotes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.ai.search import QUOTE_MAX, SearchTerm, TfidfSvd, coverage, fused, quote_of, spaced, unit_vectors
from fks.model.errors import BugError

TOPICS = [{"stop": 2, "kill": 1}, {"backup": 2, "restor": 1}, {"strategi": 3, "bar": 1}]
CORPUS = [{**topic, f"word{number}": 1, "the": 3} for number, topic in enumerate(TOPICS * 6)]


def test_a_model_is_the_same_for_the_same_counts_and_after_loading() -> None:
    model = TfidfSvd.fit(CORPUS, 8)
    assert model.dump() == TfidfSvd.fit(CORPUS, 8).dump()
    import hashlib

    data = model.dump()
    again = TfidfSvd.load(data, hashlib.sha256(data).hexdigest())
    for counts in CORPUS:
        ours, theirs = model.embed(counts), again.embed(counts)
        assert ours is not None
        assert theirs is not None
        assert np.array_equal(ours, theirs)
        assert abs(float(ours @ ours) - 1.0) < 1e-5
    with pytest.raises(BugError):
        TfidfSvd.load(data[:-1] + b"x", hashlib.sha256(data).hexdigest())


def test_vectors_of_any_size_get_the_length_1() -> None:
    found = unit_vectors([[3e38, 2e38], [1e-4, 0.0]])
    assert found is not None
    assert np.allclose(np.linalg.norm(found, axis=1), 1.0)


def test_texts_of_one_topic_are_near_without_the_same_words() -> None:
    model = TfidfSvd.fit(CORPUS, 8)
    stop, kill, backup = (model.embed({word: 1}) for word in ("stop", "kill", "backup"))
    assert stop is not None
    assert kill is not None
    assert backup is not None
    assert float(stop @ kill) > 0.9 > float(stop @ backup)
    assert model.embed({"unknown": 3}) is None
    assert model.dimensions == 8


def test_fewer_chunks_than_a_model_needs_are_refused() -> None:
    with pytest.raises(BugError):
        TfidfSvd.fit(CORPUS[:3])


def test_rankings_are_fused_by_reciprocal_rank() -> None:
    assert fused(["a", "b"], ["b", "c"]) == [
        ("b", 1 / 62 + 1 / 61),
        ("a", 1 / 61),
        ("c", 1 / 62),
    ]
    assert fused([], []) == []
    assert [one for one, _ in fused(["b"], ["a"])] == ["a", "b"], "ties are in the order of ids"


def test_coverage_weighs_rare_words_more() -> None:
    terms = [SearchTerm("order", 500), SearchTerm("deribit", 0)]
    assert coverage(terms, 1000, ["order"]) < 0.3 < 0.7 < coverage(terms, 1000, ["deribit"])
    assert coverage(terms, 1000, ["order", "deribit", "x"]) == pytest.approx(1.0)
    assert coverage([], 1000, []) == 0.0


@given(st.text(alphabet=st.sampled_from("stop kil\n.x"), max_size=2500))
def test_a_quote_is_literally_in_its_chunk(text: str) -> None:
    quote = quote_of(text, [SearchTerm("stop", 3), SearchTerm("kill", 1)], 100)
    assert text[quote.start : quote.end] == quote.text
    assert len(quote.text) <= QUOTE_MAX


def test_a_quote_of_a_long_chunk_holds_the_words_of_the_question() -> None:
    text = "\n".join(["nothing of interest stands in this line"] * 40 + ["fks kill stops strategies"] + ["more"] * 200)
    quote = quote_of(text, [SearchTerm("kill", 1), SearchTerm("strategi", 2)], 100)
    assert "fks kill stops strategies" in quote.text
    assert spaced("a_b.c/d") == "a b c d"
