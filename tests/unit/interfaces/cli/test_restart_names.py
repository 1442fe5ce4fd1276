"""`fks restart` with the name of a replaced service: the parts that it became."""

from __future__ import annotations

from typing import Any

import pytest

from fks.interfaces.cli.restart import parts_of
from fks.model.errors import InputError


def _rows(**kinds: str) -> dict[str, dict[str, Any]]:
    names = {name.replace("__", ":"): kind for name, kind in kinds.items()}
    return {name: {"name": name, "kind": kind} for name, kind in names.items()}


ROWS = _rows(
    keeper="keeper", supervisor="actor", strategy__0="actor", strategy__1="actor", collector__binance="actor",
    postgres="service", redis="service", gateway__0="serve", gateway__1="serve", pages__0="serve",
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "is_now", "parts"),
    [
        ("fks_app", False, ["strategy:0", "strategy:1"]),
        ("fks_data", False, ["collector:binance"]),  # PostgreSQL and Redis only by their own names
        ("fks_main", False, ["supervisor"]),  # never the keeper
        ("fks_api", False, ["gateway"]),
        ("fks_api", True, ["gateway:0", "gateway:1"]),
        ("fks_web", True, ["pages:0"]),
        ("orders", False, ["orders"]),
    ],
)
def test_a_service_is_the_supervised_parts_that_it_became(name: str, is_now: bool, parts: list[str]) -> None:
    assert parts_of(name, ROWS, is_now=is_now) == parts


def test_a_service_of_which_nothing_runs_is_refused() -> None:
    with pytest.raises(InputError, match="nothing of fks_ninja runs"):
        parts_of("fks_ninja", ROWS, is_now=False)
