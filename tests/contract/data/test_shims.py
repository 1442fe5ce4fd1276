"""The modules and scripts of the replaced services, as people type them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fks.store.db import Database

ROOT = Path(__file__).parents[3]
SHIMS = ROOT / "shims"


def _run(line: list[str], home: Path, database_url: str, cwd: Path = SHIMS) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "FKS_HOME": str(home), "FKS_DATABASE_URL": database_url, "PYTHONPATH": str(SHIMS)}
    return subprocess.run(line, cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


@pytest.mark.usefixtures("database")
def test_the_command_of_the_data_service_runs(tmp_path: Path, database_url: str) -> None:
    done = _run([sys.executable, "data_sync_service.py", "status"], tmp_path, database_url)
    assert done.returncode == 0, done.stderr
    for argv in ([], ["sync"], ["--help"]):
        wrong = _run([sys.executable, "data_sync_service.py", *argv], tmp_path, database_url)
        assert wrong.returncode == 2
        assert "init|update|continuous|status" in wrong.stderr


async def test_the_imports_of_the_old_programs_run(database: Database, tmp_path: Path, database_url: str) -> None:
    code = (
        "from db_utils import *\n"
        "from datetime import datetime, timedelta\n"
        "account = create_account(\n    name='My Trading Account',\n    account_type='personal',\n"
        "    initial_balance=10000.0,\n    broker='Binance'\n)\n"
        "accounts = get_accounts()\n"
        "print(accounts[0]['name'])\n"
        "from data_sync_service import DataSyncService\n"
        "service = DataSyncService()\n"
        "print(callable(service.sync_historical_data))\n"
    )
    done = _run([sys.executable, "-c", code], tmp_path, database_url, cwd=tmp_path)
    assert done.stdout.splitlines() == ["My Trading Account", "True"], done.stderr
    assert len(await database.sql("SELECT id FROM accounts")) == 1


def test_the_setup_script_makes_the_secrets_and_the_schema(empty_database_url: str, tmp_path: Path) -> None:
    home = tmp_path / ".fks"
    for _ in range(2):
        done = _run(["./setup_database.sh"], home, empty_database_url)
        assert done.returncode == 0, done.stderr
    assert (home / "secrets.toml").exists()


@pytest.mark.parametrize("target", ["multi-build", "multi-update"])
def test_make_knows_the_targets(target: str) -> None:
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wanted = {"multi-build": "pip wheel", "multi-update": ".fks-multi/head deploy"}
    assert wanted[target] in done.stdout
