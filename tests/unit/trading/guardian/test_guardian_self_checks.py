"""Self-checks of the guardian: each fault in its detail is one failed check."""

from __future__ import annotations

import pytest

from fks.trading.guardian.self_checks import guardian_problems

WELL = {"venues": {"binance": {"open": True}}, "journal": "ok", "looks_on": "", "database": "up"}


def test_guardian_without_a_fault_has_no_failed_check() -> None:
    assert guardian_problems(WELL) == []
    assert guardian_problems({}) == []
    assert guardian_problems(WELL | {"turned_s": 30.0}, stuck_max_s=30.0) == []


def test_guardian_whose_loop_does_not_turn_needs_a_new_process() -> None:
    (found,) = guardian_problems(WELL | {"turned_s": 31.0}, stuck_max_s=30.0)
    assert (found.name, found.is_mended_by_restart) == ("stuck", True)
    assert "31 s" in found.detail


@pytest.mark.parametrize(
    ("change", "kind", "about"),
    [
        ({"venues": {"binance": {"open": False}}}, "venue", "binance"),
        ({"journal": "disk full"}, "disk", "kill"),
        ({"looks_on": "another node is placed"}, "lease", "kill"),
        ({"database": "down since 12:00"}, "database", "positions"),
    ],
)
def test_each_fault_is_a_failed_check(change: dict[str, object], kind: str, about: str) -> None:
    (found,) = guardian_problems(WELL | change)
    assert (found.name, found.about, found.is_mended_by_restart) == (kind, about, False)
