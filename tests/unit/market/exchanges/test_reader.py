"""Typed decoding that counts what it does not know."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest

from fks.market.exchanges.base import BROKEN, ConnectionCounters, MessageReader
from fks.market.exchanges.base.reader import LEARNED_MAX


class Inner(msgspec.Struct):
    p: Decimal
    n: int = 3


class Outer(msgspec.Struct):
    rows: list[Inner]
    one: Inner | None = None
    kind: str = "k"


def test_an_unknown_field_is_counted_once_at_any_depth_and_the_values_come() -> None:
    counters = ConnectionCounters()
    read = MessageReader("m", Outer, counters)
    assert read(b'{"rows":[{"p":"1.50"}],"kind":"z"}') == read(b'{"rows":[{"p":1.50,"n":3}],"kind":"z"}')
    assert not counters.unknown
    for _ in range(3):
        found = read(b'{"rows":[{"p":1.50,"new":1}],"one":{"p":2,"deep":{}},"top":[]}')
        assert str(found.rows[0].p) == "1.50"
        assert found.one == Inner(Decimal(2))
    assert counters.unknown == {"m.new": 1, "m.deep": 1, "m.top": 1}


def test_unknown_fields_after_the_first_are_counted_too() -> None:
    counters = ConnectionCounters()
    read = MessageReader("m", Outer, counters)
    read(b'{"rows":[],"first":1}')
    read(b'{"rows":[],"first":1,"one":{"p":2,"second":{"a":1}}}')
    for _ in range(2):
        assert read(b'{"rows":[{"p":1,"first":2}],"first":[1],"third-one":"x"}').rows[0].p == 1
    assert counters.unknown == {"m.first": 1, "m.second": 1, "m.third-one": 1}


def test_names_without_an_end_are_read_tolerantly() -> None:
    counters = ConnectionCounters()
    read = MessageReader("m", Outer, counters)
    for number in range(100):
        assert read(f'{{"rows":[],"f{number}":1}}'.encode()).rows == []
    assert LEARNED_MAX < len(counters.unknown) <= LEARNED_MAX + 1


@pytest.mark.parametrize(
    "frame",
    [b"", b"{", b"[]", b'{"rows":[{}]}', b'{"rows":[{"p":"x"}]}', b'{"rows":[{"p":1,"n":"1"}],"top":1}', b"\xff"],
)
def test_wrong_type_raises_an_error_of_broken(frame: bytes) -> None:
    read = MessageReader("m", Outer, ConnectionCounters())
    for _ in range(2):
        with pytest.raises(BROKEN):
            read(frame)
