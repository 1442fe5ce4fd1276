"""Comparison of results, and the exit status of every benchmark.

A time says nothing about a way to another result. So each benchmark compares what its contenders compute before it
times them, or, where the timed run itself makes the result (a burst of trades, a recovery), before it prints a figure.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

SHOWN_MAX = 300


class DifferError(Exception):
    """Two results that must be the same are not."""


class _Count:
    compared = 0


def same(what: str, ours: object, other: object) -> None:
    """Note that both are equal; arrays element by element, NaN equal to NaN. Errors: DifferError."""
    _Count.compared += 1
    if isinstance(ours, np.ndarray) or isinstance(other, np.ndarray):
        is_same = np.array_equal(np.asarray(ours), np.asarray(other), equal_nan=np.asarray(ours).dtype.kind == "f")
    else:
        is_same = ours == other
    if not is_same:
        raise _different(what, ours, other)


def near(what: str, ours: Any, other: Any, *, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Note that numbers differ by at most `atol + rtol * |other|`, each of an array. Errors: DifferError."""
    _Count.compared += 1
    mine, theirs = np.asarray(ours, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if mine.shape != theirs.shape or not np.allclose(mine, theirs, rtol=rtol, atol=atol):
        raise _different(what, ours, other)


def _different(what: str, ours: object, other: object) -> DifferError:
    if isinstance(ours, dict) and isinstance(other, dict):  # what is in one alone, or another value in both
        ours, other = (
            {k: v for k, v in one.items() if k not in two or two[k] != v} for one, two in ((ours, other), (other, ours))
        )
    shown = [repr(value)[:SHOWN_MAX] for value in (ours, other)]
    return DifferError(f"{what} differs: {shown[0]} against {shown[1]}")


def compared() -> int:
    """Return how many results were compared so far."""
    return _Count.compared


def run(measure: Callable[[], bool | int | None]) -> NoReturn:
    """Run a benchmark and end the process: 1 when results differ, when it compared none, or when it returns true (a
    limit was missed); else 0."""
    _Count.compared = 0
    try:
        is_missed = bool(measure())
    except DifferError as error:
        print(f"DIFFERS: {error}", file=sys.stderr)
        sys.exit(1)
    if not _Count.compared:
        print("NO PROOF: nothing was compared", file=sys.stderr)
        sys.exit(1)
    print(f"{_Count.compared} results compared, all the same", file=sys.stderr)
    sys.exit(int(is_missed))
