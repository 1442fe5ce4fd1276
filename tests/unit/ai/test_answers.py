"""The answer in the beginning of a model's text."""

from __future__ import annotations

import itertools
import json

import pytest

from fks.ai.answers import answer_so_far


@pytest.mark.parametrize("answer", ["At noon.", 'a "b" \\ c\n', "ünïcode 斑马 😀 x", "", "é\\u00e9", '"answer": "no"'])
@pytest.mark.parametrize("is_ascii", [True, False])
def test_every_beginning_shows_a_beginning_of_the_answer(answer: str, is_ascii: bool) -> None:
    quote = '"answer": "planted"'
    text = json.dumps({"citations": [{"passage": "p1", "quote": quote}], "answer": answer}, ensure_ascii=is_ascii)
    shown = [answer_so_far(text[:end]) for end in range(len(text) + 1)]
    assert all(later.startswith(sooner) for sooner, later in itertools.pairwise(shown))
    assert all(answer.startswith(one) for one in shown)
    assert shown[-1] == answer


def test_text_in_another_form_shows_nothing() -> None:
    for text in ("", "[]", '{"answer": 1', '{"answer": "a\nb"', "At noon."):
        assert answer_so_far(text) == ""
    assert answer_so_far('{"answer": "a\\u001b[2J') == "a [2J"
