"""What is read from headers."""

from __future__ import annotations

import pytest

from fks.exchanges.base.values import PAUSE_S, seconds_told


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7.0), (" 0.5 ", 0.5), ("-3", 0.0), ("1e9", 3 * 86400.0), ("inf", 3 * 86400.0)]
    + [(text, PAUSE_S) for text in ("", "soon", "nan", "Wed, 21 Oct 2026 07:28:00 GMT")],
)
def test_how_long_an_exchange_wants_to_be_left_alone(text: str, seconds: float) -> None:
    assert seconds_told(text) == seconds


def test_an_exchange_may_have_a_pause_of_its_own() -> None:
    assert seconds_told("", 60.0) == 60.0
