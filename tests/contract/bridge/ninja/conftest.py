"""Fixtures of the tests of NinjaTrader's link and venue."""

from __future__ import annotations

import pytest

from fks.bridge.ninja_link import service
from fks.trading.venues.ninja import venue


@pytest.fixture(autouse=True)
def _quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the venue and the link look at the rows, and write theirs, five times as often."""
    for module, name in ((venue, "POLL_S"), (service, "POLL_S"), (service, "BEAT_S")):
        monkeypatch.setattr(module, name, 0.2)
