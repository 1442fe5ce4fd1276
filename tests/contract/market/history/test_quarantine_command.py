"""`fks data quarantine` on a real store: quarantined values are shown and settled once."""

from __future__ import annotations

from pathlib import Path

import pytest

from fks.interfaces.cli.base import OK, USAGE
from fks.model.bar import Bar
from fks.model.market import Suspect
from fks.model.timeframe import NS
from fks.store.db import Database
from fks.store.quarantine import QuarantinedRow, QuarantineStore, SettledAs, numbers_of
from tests.support.data_shell import Shell

T0 = 1_767_225_600 * NS
BAR = Bar("binance", "BTCUSDT", "1m", T0, 100.0, 190.0, 99.0, 100.0, 5.0)


@pytest.fixture
def fks(
    database: Database,
    database_url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Shell:
    monkeypatch.setenv("FKS_DATABASE_URL", database_url)
    return Shell(tmp_path / "home", capsys)


async def test_quarantined_values_are_shown_and_settled(database: Database, fks: Shell) -> None:
    assert (await fks("data", "quarantine"))[:2] == (OK, "the quarantine is empty\n")
    store = QuarantineStore(database)
    await store.add(
        [
            QuarantinedRow.bar(BAR, "outlier", "far away", source="sync"),
            QuarantinedRow.suspect("kraken", Suspect("trades", "ETHUSD", "malformed", "x" * 500)),
        ]
    )
    code, out, _ = await fks("data", "quarantine")
    assert code == OK
    assert "outlier" in out
    assert "malformed" in out
    assert "x" * 100 not in out
    (row,) = (await fks.json("data", "quarantine", "btc/usdt"))["items"]
    assert (row["reason"], row["time"], row["what"]["high"], row["verdict"]) == (
        "outlier",
        "2026-01-01T00:00:00Z",
        "190.0",
        None,
    )
    settled = await fks.json("data", "quarantine", "--confirm", str(row["id"]), "--confirm", "999")
    assert (settled["confirmed"], settled["refused"], settled["unchanged"]) == (1, 0, 1)
    code, out, _ = await fks("data", "quarantine", "--refuse", str(row["id"]))
    assert (code, out) == (OK, "0 confirmed, 0 refused, 1 not there or settled before\n")
    assert (await fks.json("data", "quarantine", "BTCUSDT"))["items"] == []
    assert (await fks.json("data", "quarantine", "BTCUSDT", "--all"))["items"][0]["verdict"] == SettledAs.CONFIRMED
    assert await store.confirmed("binance", "BTCUSDT", "1m", T0, T0 + NS) == {numbers_of(BAR)}


async def test_confirm_and_refuse_exclude_each_other(fks: Shell) -> None:
    code, _, error = await fks("data", "quarantine", "--confirm", "3", "--refuse", "3")
    assert code == USAGE
    assert "3 cannot be both" in error
