"""Splitting bytes into lines."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.bridge.ninja.framing import LineReader, LineTooLongError


def lines_of(reader: LineReader) -> list[bytes]:
    found = []
    while (line := reader.next_line()) is not None:
        found.append(line)
    return found


def test_lines_end_with_lf_and_one_cr_is_stripped() -> None:
    reader = LineReader()
    reader.feed(b"a\r\n\nb\r\r\n\r\nc")
    assert lines_of(reader) == [b"a", b"b\r"]
    assert reader.rest == b"c"


def test_a_line_of_the_limit_passes_and_one_byte_more_does_not() -> None:
    reader = LineReader(limit=8)
    reader.feed(b"1234567\n12345678\n")
    assert reader.next_line() == b"1234567"
    with pytest.raises(LineTooLongError):
        reader.next_line()
    with pytest.raises(LineTooLongError):
        reader.next_line()


def test_a_line_without_end_is_refused_as_soon_as_it_is_too_long() -> None:
    reader = LineReader(limit=8)
    reader.feed(b"1234567")
    assert reader.next_line() is None
    reader.feed(b"8")
    with pytest.raises(LineTooLongError):
        reader.next_line()


def test_a_new_limit_applies_from_the_next_line_on() -> None:
    reader = LineReader(limit=4)
    reader.feed(b"abc\nabcdef\n")
    assert reader.next_line() == b"abc"
    reader.limit = 100
    assert reader.next_line() == b"abcdef"


@given(st.binary(max_size=200).map(lambda data: data.replace(b"x", b"\n")), st.lists(st.integers(0, 200), max_size=20))
def test_chunking_changes_nothing(data: bytes, cuts: list[int]) -> None:
    def read(chunks: list[bytes]) -> tuple[list[bytes], bool]:
        reader, found = LineReader(limit=20), []
        try:
            for chunk in chunks:
                reader.feed(chunk)
                while (line := reader.next_line()) is not None:
                    found.append(line)
        except LineTooLongError:
            return found, True
        return found, False

    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    assert read([data[a:b] for a, b in itertools.pairwise(edges)]) == read([data])
