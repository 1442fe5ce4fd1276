"""The labelled points of the order path: one action, at the wanted passage, and never again."""

from __future__ import annotations

import pytest

from fks.model.errors import InputError
from fks.trading.orders.crash_points import nowhere
from tests.support.crash_points import LABELS, CrashPoints


def test_it_acts_once_at_the_wanted_passage() -> None:
    acted: list[str] = []
    points = CrashPoints("send.before", 2, lambda: acted.append("now"))
    for label in (*LABELS, *LABELS):
        assert acted == (["now"] if points.passed["send.before"] >= 2 else [])
        points(label)
    points("send.before")
    assert acted == ["now"]
    assert points.passed == dict.fromkeys(LABELS, 2) | {"send.before": 3}


@pytest.mark.parametrize(("label", "count"), [("send.during", 1), ("send.before", 0)])
def test_an_unknown_point_is_refused(label: str, count: int) -> None:
    with pytest.raises(InputError):
        CrashPoints(label, count, lambda: None)


def test_production_does_nothing_at_every_label() -> None:
    assert [nowhere(label) for label in LABELS] == [None] * len(LABELS)
