"""Checks of `fks doctor` that need no system."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fks.config.paths import Paths
from fks.config.settings import Backup, Settings, VenueSettings
from fks.interfaces.cli.checkup import account, database_roles, no_channel, safeguards
from fks.model.health import DEGRADED, HEALTHY
from fks.store.grants import KINDS


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
    silent = no_channel(Settings.model_construct(venue=venue))
    assert (silent.name, silent.status) == ("alert channels", lack)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    kept = Backup.model_construct(recipient="age1x", folder=Path("/mnt/other"), verify=True)
    states = [check.status for check in safeguards(Settings.model_construct(venue=venue, backup=kept))]
    assert states == ["healthy", "healthy"]


def test_processes_that_connect_as_the_owner_are_named(tmp_path: Path) -> None:
    paths = Paths.of(tmp_path)
    found = database_roles(paths)
    assert found.status == DEGRADED
    assert found.detail == f"{', '.join(KINDS)} connect as the owner of the tables"
    assert "fks db roles --sql" in found.remedy
    urls = {kind: f"postgresql://{kind}@h/fks" for kind in KINDS}
    paths.database_roles.parent.mkdir()
    paths.database_roles.write_text(json.dumps(urls))
    assert database_roles(paths).status == HEALTHY
    del urls["strategy"]
    paths.database_roles.write_text(json.dumps(urls))
    assert database_roles(paths).detail == "strategy connect as the owner of the tables"


@pytest.mark.parametrize(("user", "names"), [(0, ["account"]), (1000, [])])
def test_root_is_warned_of(user: int, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: user)
    assert [check.name for check in account()] == names
