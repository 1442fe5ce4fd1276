"""Root certificate of PostgreSQL: its lack is reported with the remedy, before a connection is tried."""

from __future__ import annotations

from pathlib import Path

import pytest

from fks.config.urls import certificate_fault
from fks.model.errors import ConfigError
from fks.store.db import Database

URL = "postgresql://u:p@h/d"


def test_verify_full_without_a_root_certificate_names_the_file_and_the_remedy(tmp_path: Path) -> None:
    fault = certificate_fault(f"{URL}?sslmode=verify-full", {"HOME": str(tmp_path)})
    assert fault is not None
    assert f"{tmp_path}/.postgresql/root.crt is not there" in fault[0]
    assert "sslrootcert=" in fault[1]


def test_certificate_is_found_by_the_url_the_environment_or_the_home(tmp_path: Path) -> None:
    root = tmp_path / ".postgresql" / "root.crt"
    root.parent.mkdir()
    root.touch()
    for url, environ in (
        (f"{URL}?sslmode=verify-full", {"HOME": str(tmp_path)}),
        (f"{URL}?sslmode=verify-ca&sslrootcert={root}", {}),
        (f"{URL}?sslmode=verify-full", {"PGSSLROOTCERT": str(root)}),
        (URL, {"PGSSLMODE": "verify-full", "HOME": str(tmp_path)}),
        (f"{URL}?sslmode=require", {"HOME": "/nowhere"}),
        (URL, {}),
    ):
        assert certificate_fault(url, environ) is None
    assert certificate_fault(f"{URL}?sslmode=require&sslrootcert=/nowhere.crt", {}) is not None


async def test_connecting_without_it_is_a_wrong_setting_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PGSSLROOTCERT", raising=False)
    with pytest.raises(ConfigError, match=r"needs a root certificate.*sslrootcert"):
        await Database.connect(f"{URL}?sslmode=verify-full", retry_s=0.0)
