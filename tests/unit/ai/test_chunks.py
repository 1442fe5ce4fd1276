"""Chunks of documents: headings, sizes, exact offsets, and documents that are refused."""

from __future__ import annotations

import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.ai.chunks import (
    CHUNKS_MAX,
    SOURCE_MAX,
    TOKENS_MAX,
    Chunk,
    Kind,
    checked_source,
    chunks_of,
    decoded,
    document_id,
    kind_of_name,
    plain,
    title_of,
    tokens_of,
)
from fks.model.errors import InputError

ID = document_id("user", "a.markdown")
PAGE = """# Trade
Intro.

## Stop
First paragraph
of two lines.

```
# no heading: a comment in code
```
### Now
Run it.
## Stop
Second.
"""


def made(source: str, kind: Kind = "markdown") -> list[Chunk]:
    return chunks_of(ID, kind, checked_source(source))


def test_chunks_follow_headings_with_exact_offsets() -> None:
    found = made(PAGE)
    assert [(chunk.headings, chunk.text.split("\n")[0]) for chunk in found] == [
        (("Trade",), "Intro."),
        (("Trade", "Stop"), "First paragraph"),
        (("Trade", "Stop", "Now"), "Run it."),
        (("Trade", "Stop"), "Second."),
    ]
    assert "# no heading" in found[1].text
    assert [PAGE[chunk.start : chunk.end] for chunk in found] == [chunk.text for chunk in found]
    assert title_of(found, "a.markdown") == "Trade"


def test_an_unchanged_chunk_of_a_new_version_keeps_its_id() -> None:
    before = {chunk.id for chunk in made(PAGE)}
    after = made("New first line.\n\n" + PAGE.replace("Run it.", "Run it now."))
    assert len(before - {chunk.id for chunk in after}) == 1
    twice = made("# A\nsame\n# A\nsame\n")
    assert len({chunk.id for chunk in twice}) == 2, "the same text twice is two chunks"


@given(st.text(alphabet=st.sampled_from("ab \n#`|-_é漢."), max_size=3000), st.sampled_from(["text", "markdown"]))
def test_chunks_are_slices_of_the_source_in_order_and_within_the_limit(source: str, kind: Kind) -> None:
    if not source.strip():
        return
    try:
        found = made(source, kind)
    except InputError:
        assert kind == "markdown", "headings alone are no text"
        return
    at = 0
    for chunk in found:
        assert source[chunk.start : chunk.end] == chunk.text
        assert chunk.start >= at
        assert 0 < chunk.tokens <= TOKENS_MAX
        at = chunk.end
    if kind == "text":
        kept = "".join(chunk.text for chunk in found)
        assert "".join(kept.split()) == "".join(source.split()), "no character is lost"


@given(st.text(alphabet=st.sampled_from("<>/ab h1p!-\"'&;x \n"), max_size=500))
def test_any_markup_is_read(source: str) -> None:
    for chunk in made("words " + source, "html"):
        assert 0 <= chunk.start < chunk.end <= len(source) + 6
        assert 0 < chunk.tokens <= TOKENS_MAX


def test_html_is_read_without_scripts_styles_and_comments() -> None:
    page = (
        "<html><head><title>T</title><style>p {}</style></head><body><h1>Orders &amp; fills</h1><p>One <b>two</b></p>"
        "<script>alert('no')</script><!-- hidden --><h2 id=x>Stop</h2><ul><li>a<li>b</ul></body>"
    )
    found = made(page, "html")
    assert [(chunk.headings, chunk.text) for chunk in found] == [
        (("Orders & fills",), "One two"),
        (("Orders & fills", "Stop"), "a\nb"),
    ]
    assert page[found[0].start : found[0].end] == "One <b>two"


@pytest.mark.parametrize(
    "part", ["<!--", "<a ", '<a x="', "</", "<![CDATA[", "<", "<script>", "&", "<p>", "<!DOCTYPE ", "<div a", "&#0;"]
)
def test_hostile_markup_takes_linear_time(part: str) -> None:
    begun = time.process_time()
    made("words " + part * (200_000 // len(part)), "html")
    assert time.process_time() - begun < 5, "html.parser takes minutes for some of these"


def test_long_lines_are_cut_and_sizes_bounded() -> None:
    assert max(chunk.tokens for chunk in made("x" * 50_000)) <= TOKENS_MAX
    assert max(chunk.tokens for chunk in made("word " * 50_000)) <= TOKENS_MAX
    for source, kind in (("x" * (SOURCE_MAX + 1), "text"), ("# a\nb\n" * (CHUNKS_MAX + 1), "markdown")):
        with pytest.raises(InputError) as caught:
            made(source, kind)
        assert (caught.value.code, caught.value.status) == ("DOCUMENT_SIZE", 413)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"%PDF-1.7 encrypted", "DOCUMENT_FORMAT"),
        (b"PK\x03\x04", "DOCUMENT_FORMAT"),
        ("caf\u00e9".encode()[:-1], "DOCUMENT_TEXT"),
        (b"\xff\xfe\x00", "DOCUMENT_TEXT"),
        (b"a\0b", "DOCUMENT_TEXT"),
        (b" \n ", "DOCUMENT_TEXT"),
    ],
)
def test_bytes_that_are_no_text_are_refused(data: bytes, code: str) -> None:
    with pytest.raises(InputError) as caught:
        decoded(data)
    assert caught.value.code == code


def test_surrogates_are_refused_and_control_characters_become_spaces() -> None:
    with pytest.raises(InputError):
        checked_source("a\ud800b")
    assert decoded(b"\xef\xbb\xbfa") == "a"
    assert checked_source("a\x1b[31mb\u202ec\r\nd\te") == "a [31mb c\r\nd\te"
    assert plain("a\x1b[2Jb\rc\0d\ne") == "a [2Jb c d\ne", "a carriage return writes over its line"
    assert made("<p>a&#27;[2Jb&#0;&#xd800;</p>", "html")[0].text.isprintable(), "character references are no way round"


def test_kinds_follow_from_names() -> None:
    assert [kind_of_name(name) for name in ("a.TXT", "b.markdown", "c.d.html")] == ["text", "markdown", "html"]
    for name in ("a.pdf", "b", "x.exe"):
        with pytest.raises(InputError):
            kind_of_name(name)


def test_tokens_count_words_by_six_letters_and_signs_by_one() -> None:
    assert (tokens_of("a stop, please"), tokens_of("liquidation"), tokens_of("")) == (4, 2, 0)
    assert isinstance(ID, uuid.UUID)
