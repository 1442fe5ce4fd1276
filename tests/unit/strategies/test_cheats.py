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


def test_cheats_are_refused_after_their_honest_twins_passed() -> None:
    """A twin is the same class, with the same rule: a variable of its closure makes it look ahead."""
    tape = cheats.tape()
    for name, rule in cheats.CHEATS.items():
        modes = {"cheat": False}
        twin = cheats.Ruled(
            rule=lambda b, rule=rule, modes=modes: rule(b) if modes["cheat"] else b.close > cheats.before(b.close)
        )
        known = len(tape.passed)
        assert cheats.finding(twin) == ""
        assert len(tape.passed) == known + 1, name
        modes["cheat"] = True
        assert "looks ahead" in cheats.finding(twin), name


def test_checks_give_the_same_findings_when_repeated() -> None:
    found, fair = cheats.findings()
    assert {name: cheats.finding(one) for name, one in cheats.cheats()} == found
    assert {name: cheats.finding(one) for name, one in cheats.honest() if name in fair} == fair


def test_each_of_them_trades_on_these_bars() -> None:
    """A strategy that never enters could not be refused."""
    for name, strategy in [*cheats.cheats(), *cheats.honest()]:
        target = evaluate(strategy, with_inputs(strategy, cheats.tape())).target
        assert np.any(target), name


def test_the_page_shows_these_findings() -> None:
    assert cheats.PAGE.read_text() == cheats.page(), "python -m tests.support.cheats"
