"""Strict JSON with decimal numbers."""

from __future__ import annotations

import time
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.bridge.ninja.strict_json import BadJsonError, dumps, loads


@pytest.mark.parametrize(
    "line",
    [
        b'{"a":1,"a":2}',
        b'{"a":{"b":1,"b":1}}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":1,}',
        b'{"a":1} // no',
        b'{"a":"\\ud800"}',
        b'{"\\udc00":1}',
        b'{"a":["\\ud800x"]}',
        b"\xff\xfe",
        b'{"a":"\xed\xa0\x80"}',
        b'\xef\xbb\xbf{"a":1}',
        b"[1]",
        b'"text"',
        b"1",
        b"",
        b'{"a":01}',
        b'{"a":.5}',
        b'{"a":5.}',
        b'{"a":+5}',
        b'{"a":1e3}',
        b'{"a":1.5E2}',
        b'{"a":1234567890123456}',
        b'{"a":1234567890.123456}',
        b'{"a":0.12345678901}',
        b'{"a":"\t"}',
        b'{"a":' + b"[" * 8 + b"]" * 8 + b"}",
        b"{" * 9,
    ],
)
def test_lines_that_are_refused(line: bytes) -> None:
    with pytest.raises(BadJsonError):
        loads(line)


def test_numbers_keep_every_digit() -> None:
    found = loads(b'{"a":117.03125,"b":-0.00005,"c":123456789012345,"d":0.1234567890,"e":"\\ud83d\\ude00"}')
    assert found == {
        "a": Decimal("117.03125"),
        "b": Decimal("-0.00005"),
        "c": 123456789012345,
        "d": Decimal("0.123456789"),
        "e": "\U0001f600",
    }


def test_nesting_of_eight_is_accepted() -> None:
    assert loads(b'{"a":' + b"[" * 7 + b"]" * 7 + b"}")


def test_brackets_inside_a_text_are_no_nesting() -> None:
    assert loads(b'{"a":"[[[[[[[[[[\\"[["}') == {"a": '[[[[[[[[[["[['}


@pytest.mark.parametrize(
    "line", [b"{" + b"[" * 60_000, b'{"a":"' + b'\\"' * 30_000, b'{"' + b"\\" * 60_000, b'"' * 60_000]
)
def test_hostile_lines_take_little_time(line: bytes) -> None:
    began = time.thread_time()  # of the processor: a busy machine takes longer by the clock
    with pytest.raises(BadJsonError):
        loads(line)
    assert time.thread_time() - began < 1.0  # quadratic time would be minutes


def test_written_numbers_have_no_exponent_and_no_needless_zeros() -> None:
    line = dumps({"a": Decimal("4500.2500"), "b": Decimal("1E+3"), "c": Decimal("-0.00"), "d": Decimal("0.00005")})
    assert line == b'{"a":4500.25,"b":1000,"c":0,"d":0.00005}\n'


@pytest.mark.parametrize("value", [1.5, object(), b"x"])
def test_a_value_without_exact_json_form_is_an_error(value: object) -> None:
    with pytest.raises(TypeError):
        dumps({"a": value})


@pytest.mark.parametrize(
    "value", [Decimal("NaN"), Decimal("Infinity"), Decimal("1.12345678901"), 10**15, Decimal(10**15)]
)
def test_a_number_that_the_other_end_refuses_is_not_written(value: object) -> None:
    with pytest.raises(ValueError, match=r"no number|digits|decimals"):
        dumps({"a": value})


_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**14), 10**14)
    | st.decimals(-(10**4), 10**4, places=8)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
)


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
        _SCALARS | st.lists(_SCALARS, max_size=3),
        max_size=5,
    )
)
def test_what_is_written_is_read_back(value: dict[str, object]) -> None:
    line = dumps(value)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert loads(line) == value


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(line: bytes) -> None:
    try:
        loads(line)
    except BadJsonError:
        return
