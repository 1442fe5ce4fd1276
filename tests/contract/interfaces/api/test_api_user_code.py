"""Files of users in the gateway: they are read in a process of their own, and their actions there do not reach it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fks.config.paths import Paths
from fks.research.jobs import catalogue, user_code
from fks.store.db import Database
from fks.strategies.base import fitted_on
from fks.strategies.check import synthetic
from fks.strategies.registry import load_catalogue
from tests.support.fitted import SCALED
from tests.support.gateway import Running
from tests.support.strategies import add_instance, seal

GOOD = '''
from fks.strategies.base import Decisions, Strategy, hold


class Mine(Strategy):
    """Holds on every bar."""

    name = "mine"
    size: int = 3

    def warmup(self) -> int:
        return 1

    def decide(self, bars):
        return Decisions(hold(bars.close > 0))
'''
#: The code that a request runs: a validator of the parameters.
VALIDATOR = (
    GOOD.replace('name = "mine"', 'name = "{name}"')
    .replace(
        "    def warmup",
        "    def model_post_init(self, context):\n        {does}\n\n    def warmup",
    )
    .replace("from fks.strategies", "import os, sys, time\nfrom fks.strategies")
)
HANG = "import time\nwhile True:\n    time.sleep(1)\n"
BACKTEST = {"symbol": "BTC/USDT", "from": "2026-05-01T00:00:00Z", "to": "2026-05-02T00:00:00Z"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The strategies of the gateway's home."""
    return Paths.of(tmp_path).ensure().strategies


def write(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
        (folder / f"{name}.py").chmod(0o644)


async def listed(gateway: Running) -> dict[str, Any]:
    async with gateway.client("read") as client:
        answer = await client.get("/strategies")
    assert answer.status_code == 200, answer.text
    return {row["name"]: row for row in answer.json()["catalogue"]}


async def test_files_that_hang_or_end_their_process_are_listed_with_their_error(
    folder: Path, gateway: Running, seeded: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "ITEM_S", 2.0)
    write(
        folder,
        {
            "a_crash": "import ctypes\nctypes.string_at(1)\n",
            "b_exit": "import sys\n\nsys.exit(3)\n",
            "c_hang": HANG,
            "d_print": "print('[]')\n" + GOOD,
            "e_open": GOOD.replace('"mine"', '"open"'),
            "f_gone": "import os\nos._exit(7)\n",
        },
    )
    (folder / "e_open.py").chmod(0o666)
    os.mkfifo(folder / "g_pipe.py")
    found = await listed(gateway)
    assert found["mine"]["params"]["size"]["default"] == 3
    assert found["mine"]["summary"] == "Holds on every bar."
    assert {name: found[name]["error"] for name in ("a_crash", "b_exit", "c_hang", "f_gone", "g_pipe")} == {
        "a_crash": "it ended its process by SIGSEGV",
        "b_exit": "SystemExit: 3 (line 3)",
        "c_hang": "it took longer than 2 s to be loaded",
        "f_gone": "it ended its process with status 7",
        "g_pipe": "it is not a regular file",
    }
    assert "other accounts may write to" in found["e_open"]["error"]
    assert "sma_cross" in found

    async def nothing(*args: object, **options: object) -> Any:
        raise AssertionError("it is kept as rows")

    monkeypatch.setattr(catalogue, "describe", nothing)
    assert await listed(gateway) == found


async def test_a_changed_file_is_read_again(folder: Path, gateway: Running) -> None:
    write(folder, {"one": GOOD})
    assert (await listed(gateway))["mine"]["params"]["size"]["default"] == 3
    write(folder, {"one": GOOD.replace("= 3", "= 4")})
    assert (await listed(gateway))["mine"]["params"]["size"]["default"] == 4


@pytest.mark.parametrize(
    ("does", "code", "text"),
    [
        ("os._exit(5)", "STRATEGY_RAISED", "ended its process with status 5"),
        ("sys.exit(5)", "STRATEGY_RAISED", "SystemExit"),
        ("time.sleep(3600)", "STRATEGY_SLOW", "took longer than"),
    ],
)
async def test_a_request_survives_the_code_of_its_strategy(
    folder: Path, gateway: Running, monkeypatch: pytest.MonkeyPatch, does: str, code: str, text: str
) -> None:
    monkeypatch.setattr(user_code, "LIMIT_S", 6.0)
    write(folder, {"bad": VALIDATOR.format(name="bad", does=does)})
    async with gateway.client("signal") as client:
        asked = asyncio.create_task(client.post("/backtests", json={**BACKTEST, "strategy": "bad"}))
        assert (await client.get("/positions")).status_code == 200, "others are served meanwhile"
        answer = await asked
        assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
        assert text in answer.json()["detail"]
        assert (await client.get("/backtests")).json()["items"] == []


async def test_a_request_with_a_strategy_of_a_file_is_served(folder: Path, gateway: Running) -> None:
    write(folder, {"mine": GOOD})
    async with gateway.client("signal") as client:
        made = await client.post("/backtests", json={**BACKTEST, "strategy": "mine", "params": {"size": 5}})
        assert made.status_code == 202, made.text
        again = await client.post("/backtests", json={**BACKTEST, "strategy": "mine", "params": {"size": 5}})
        assert (again.json()["id"], again.json()["is_stored"]) == (made.json()["id"], True)
        for change, code in (({"params": {"size": "x"}}, "PARAM_WRONG"), ({"strategy": "nope"}, "STRATEGY_UNKNOWN")):
            answer = await client.post("/backtests", json={**BACKTEST, "strategy": "mine", **change})
            assert answer.json()["code"] == code
            assert answer.json()["remedy"]


async def test_a_change_of_parameters_fits_an_estimator_again(gateway: Running, seeded: Database, folder: Path) -> None:
    (folder / "scaled.py").write_text(SCALED)
    bars = replace(synthetic(120), symbol="BTCUSDT")
    made = load_catalogue(folder).make("scaled", {"bars": 100})
    await seal(seeded, bars)
    await add_instance(seeded, "a", "scaled", fitted_on(made, (bars[:100],)).model_dump(mode="json"))
    async with gateway.client("trade") as client:
        changed = await client.post("/strategies/a/params", json={"params": {"bars": 50}, "base_version": 1})
        assert changed.status_code == 200, changed.text
        wanted = fitted_on(type(made)(bars=50), (bars[70:],)).model_dump(mode="json")
        assert changed.json()["params"] == wanted
        old = {"bars": 60, "state": wanted["state"]}
        refused = await client.post("/strategies/a/params", json={"params": old, "base_version": 2})
        assert (refused.status_code, refused.json()["code"]) == (422, "PARAM_WRONG")
        assert "fitted with other parameters" in refused.text
        assert (await client.post("/strategies/a/rollback")).json()["params"]["state"] != wanted["state"]
    (row,) = await seeded.sql("SELECT params FROM strategy_instances WHERE id = 'a'")
    assert row["params"] == fitted_on(made, (bars[:100],)).model_dump(mode="json")
