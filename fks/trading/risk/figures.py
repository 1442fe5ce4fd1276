"""Results of checks that compare a value with a limit: a denial, or the figures of what passed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from fks.model.codes import Code, Denial

Text = Callable[[], str]


class Passed(NamedTuple):
    """A check that passed: its limit and the actual value. The texts are made when they are stored or shown."""

    limit: Text
    observed: Text


def compared(is_within: bool, code: Code, limit: Text, observed: Text, scope: str, remedy: str) -> Passed | Denial:
    """Return Passed when the value is within the limit, else the denial with the same two texts."""
    return Passed(limit, observed) if is_within else Denial(code, limit(), observed(), scope, remedy)
