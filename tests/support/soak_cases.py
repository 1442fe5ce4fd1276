"""Cases of a parametrised test that `make test-all` runs, and those that only `make soak` runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def soaked(values: Iterable[Any], count: int) -> list[Any]:
    """Return `values` as cases; those after the first `count` are for the soak."""
    return [value if number < count else _late(value) for number, value in enumerate(values)]


def _late(value: Any) -> Any:
    if isinstance(value, type(pytest.param())):
        return pytest.param(*value.values, id=value.id, marks=(*value.marks, pytest.mark.soak))
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.soak)
