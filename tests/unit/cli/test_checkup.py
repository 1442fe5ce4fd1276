"""Checks of `fks doctor` that need no system."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fks.cli.checkup import safeguards
from fks.config.settings import Backup, Settings, VenueSettings


@pytest.mark.parametrize("is_live", [False, True])
def test_missing_safeguards_are_named_and_fail_with_real_money(is_live: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    venue = VenueSettings.model_construct(live=is_live)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    bare = {check.name: check for check in safeguards(Settings.model_construct(venue=venue, backup=Backup()))}
    lack = "down" if is_live else "degraded"
    assert {name: check.status for name, check in bare.items()} == {
        "account": "degraded",
        "backup key": lack,
        "backup folder": lack,
    }
    assert all(check.remedy for check in bare.values())
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    kept = Backup.model_construct(recipient="age1x", folder=Path("/mnt/other"), verify=True)
    states = [check.status for check in safeguards(Settings.model_construct(venue=venue, backup=kept))]
    assert states == ["healthy", "healthy"]
