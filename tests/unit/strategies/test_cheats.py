"""The check of a strategy against fifty that look ahead and fifty that do not (docs/look-ahead.md)."""

from __future__ import annotations

import numpy as np

from fks.strategies.base import evaluate
from fks.strategies.check import with_inputs
from tests.support import cheats

UNNOTICED = {"mean of the first call, kept in a file"}


def test_strategies_that_look_ahead_are_refused_and_honest_ones_are_not() -> None:
    found, fair = cheats.findings()
    assert (len(found), len(fair)) == (50, 50)
    assert {name for name, text in found.items() if not text} == UNNOTICED
    assert {name: text for name, text in found.items() if text and "looks ahead" not in text} == {}
    assert {name: text for name, text in fair.items() if text} == {}


def test_each_of_them_trades_on_these_bars() -> None:
    """A strategy that never enters could not be refused."""
    for name, strategy in [*cheats.cheats(), *cheats.honest()]:
        target = evaluate(strategy, with_inputs(strategy, cheats.tape())).target
        assert np.any(target), name


def test_the_page_shows_these_findings() -> None:
    assert cheats.PAGE.read_text() == cheats.page(), "python -m tests.support.cheats"
