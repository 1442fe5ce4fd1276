"""`fks optimize` as a person uses it: here on the sample, through a real gateway, and on to an instance and back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from fks.config.endpoints import NodeEndpoints, save_node
from fks.config.paths import Paths
from fks.config.settings import Research, Settings
from fks.interfaces.cli import cli
from fks.interfaces.cli.base import FAILED, OK, USAGE, run
from fks.research.jobs.runner import run_one
from fks.store.bars import BarStore
from fks.store.db import Database
from fks.store.jobs import JobStore
from fks.strategies.check import synthetic
from tests.support.gateway import running

SEARCH = ["sma_cross", "-p", "fast=3:9:3", "-p", "slow=6,12,24"]
SAMPLE = ["--tape", "sample", "--timeframe", "1h", "--no-limits", "--workers", "1"]


@dataclass
class Shell:
    """Runs `fks …` in a home of its own."""

    home: Path
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        code = run(cli, ["--home", str(self.home), *arguments])
        out, err = self.capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    def json(self, *arguments: str) -> dict[str, Any]:
        code, out, err = self(*arguments, "--json")
        assert code == OK, err
        document: dict[str, Any] = orjson.loads(out)
        return document


@pytest.fixture
def fks(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    for name in [name for name in os.environ if name.startswith("FKS_") and name != "FKS_REQUIRE_ALL"]:
        monkeypatch.delenv(name)
    return Shell(tmp_path / "home", capsys)


@pytest.fixture
async def up(fks: Shell, database: Database, database_url: str, redis_url: str) -> AsyncIterator[Shell]:
    """The shell on a node that runs: gateway, database with bars, the command line's token."""
    await database.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min) VALUES"
        " ('binance','BTCUSDT','BTC','USDT',0.01,0.00001,0.00001,9000,5)"
    )
    await BarStore(database).merge(replace(synthetic(900), symbol="BTCUSDT"), source="t")
    paths = Paths.of(fks.home).ensure()
    (paths.home / "fks.toml").write_text(f'[database]\nurl = "{database_url}"\n')
    async with running(database, database_url, redis_url, fks.home) as gateway:
        port = int(gateway.url.rsplit(":", 1)[1])
        save_node(paths, NodeEndpoints(database_url, redis_url, "", {"host": "127.0.0.1", "port": port}))
        paths.cli_token_file.touch(0o600)
        paths.cli_token_file.write_text(gateway.tokens["admin"])
        yield fks


async def off_loop(call: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.to_thread(call, *arguments)


def test_a_search_here_prints_what_speaks_against_its_parameters(fks: Shell) -> None:
    code, out, _ = fks("optimize", "run", *SEARCH, *SAMPLE, "--validation", "walk_forward", "--folds", "2")
    assert code == OK
    for part in (
        "sma_cross fast=3:9:3 slow=6,12,24",
        "grid: 21 trials in 3 searches, 6 invalid",
        "BEST WHERE CHOSEN",
        "HELD BACK",
        "deflated Sharpe ratio (pass: 0.95)",
        "probability of overfitting",
        "against them: the deflated Sharpe ratio",
        "fingerprint: ",
    ):
        assert part in out


def test_a_search_leaves_a_report(fks: Shell, tmp_path: Path) -> None:
    code, out, _ = fks("optimize", "run", *SEARCH, *SAMPLE)
    assert code == OK
    (file,) = (fks.home / "reports" / "searches").glob("sma_cross-BTCUSDT-1h-*.html")
    assert f"report: {file}" in out
    code, out, err = fks("optimize", "run", *SEARCH, *SAMPLE, "--json", "--report", str(tmp_path / "mine.html"))
    assert (code, f"report: {tmp_path / 'mine.html'}" in err) == (OK, True)
    assert (tmp_path / "mine.html").read_bytes() == file.read_bytes(), "the same search, the same bytes"
    curves = orjson.loads(out)["out_of_sample"]["curves"]
    assert len(curves["time"]) == len(curves["return_pct"]) == len(curves["hold_pct"])
    assert curves["return_pct"][-1] == pytest.approx(
        orjson.loads(out)["out_of_sample"]["metrics"]["return_pct"], abs=1e-3
    )
    code, out, _ = fks("optimize", "run", *SEARCH, *SAMPLE, "--no-report")
    assert (code, "report: " in out) == (OK, False)
    assert fks("optimize", "run", *SEARCH, *SAMPLE, "--no-report", "--report", "x.html")[0] == USAGE


def test_a_search_gives_the_same_document_on_any_number_of_workers(fks: Shell) -> None:
    arguments = ("optimize", "run", *SEARCH, *SAMPLE, "--method", "tpe", "--trials", "6", "--batch", "3")
    one = fks.json(*arguments)
    assert fks.json(*arguments, "--workers", "2") == one
    assert one["schema"] == "fks.optimization/1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope", "-p", "a=1"], "unknown strategy 'nope'"),
        (["sma_cross", "-p", "fst=1:2"], "has no parameter 'fst'"),
        (["sma_cross", "-p", "fast=1:2", "-p", "fast=3"], "a parameter is searched once"),
        (["sma_cross", "-p", "fast=1:2", "--method", "random"], "needs a number of trials"),
        (["sma_cross", "-p", "fast=60:70"], "none of 0 trials has a value"),
        (
            ["sma_cross", "-p", "fast=3", "--validation", "walk_forward", "--folds", "100", "--to", "2026-03-02"],
            "too few",
        ),
    ],
)
def test_bad_input_is_one_clear_line(fks: Shell, arguments: list[str], message: str) -> None:
    code, out, err = fks("optimize", "run", *arguments, *SAMPLE)
    assert code == USAGE
    assert message in err
    assert len([line for line in err.splitlines() if line.startswith("error:")]) == 1
    assert out == ""


async def test_a_submitted_search_is_watched_promoted_and_rolled_back(up: Shell, database: Database) -> None:
    job = await off_loop(up.json, "optimize", "submit", *SEARCH, "--no-limits")
    assert (job["schema"], job["state"]) == ("fks.job/1", "queued")
    assert (await off_loop(up.json, "optimize", "submit", *SEARCH, "--no-limits"))["is_stored"]
    assert (await off_loop(up, "optimize", "result", job["id"]))[0] == FAILED
    claimed = await JobStore(database).claim(["optimization"])
    assert claimed is not None
    await run_one(database, claimed.id, up.home / "strategies", settings=Settings(research=Research(slots=1)))
    code, out, _ = await off_loop(up, "optimize", "status", job["id"])
    assert (code, out) == (OK, f"optimization {job['id']}: done, 100 %\n")
    found = await off_loop(up.json, "optimize", "result", job["id"])
    assert "deflated Sharpe" in (await off_loop(up, "optimize", "result", job["id"]))[1]
    (listed,) = (await off_loop(up.json, "optimize", "list"))["items"]
    assert listed["id"] == job["id"]

    for id, mode in (("tame", "paper"), ("wild", "live")):
        await database.sql(
            "INSERT INTO accounts (name, account_type, venue, mode) VALUES ($1, 'personal', 'paper', $2)", id, mode
        )
        added = await off_loop(up, "strategies", "add", id, "sma_cross", "--symbol", "BTCUSDT", "--account", id)
        assert added[0] == OK, added
    promote = ("optimize", "promote", job["id"], "--instance")
    code, _, err = await off_loop(up, *promote, "tame")
    assert (code, "finding(s) speak against" in err) == (USAGE, True)
    code, _, err = await off_loop(up, *promote, "wild", "--despite-findings")
    assert (code, "never ran on paper" in err) == (USAGE, True)
    done = await off_loop(up.json, *promote, "tame", "--despite-findings")
    assert (done["version"], done["mode"], done["params"]) == (2, "paper", found["best"]["all_params"])
    code, _, err = await off_loop(up, *promote, "wild", "--despite-findings")
    assert (code, "have run on paper for 0.0 h" in err) == (USAGE, True)
    await database.sql("UPDATE strategy_parameters SET created_at = now() - interval '25 hours' WHERE version = 2")
    assert (await off_loop(up.json, *promote, "wild", "--despite-findings"))["version"] == 2
    places = await database.sql(
        "SELECT i.id, a.mode, i.params, i.venue FROM strategy_instances i JOIN accounts a ON a.id = i.account_id"
        " WHERE i.id IN ('tame', 'wild') ORDER BY 1"
    )
    assert [(row["id"], row["mode"], row["venue"]) for row in places] == [
        ("tame", "paper", "paper"),
        ("wild", "live", "paper"),
    ], "a promotion moves no instance to another account"
    assert places[0]["params"] == found["best"]["all_params"]

    assert (await off_loop(up.json, "optimize", "rollback", "--instance", "tame"))["back_to"] == 1
    code, _, err = await off_loop(up, "optimize", "rollback", "--instance", "tame")
    assert (code, "no version before" in err) == (USAGE, True)
    versions = (await off_loop(up.json, "optimize", "versions", "tame"))["items"]
    assert [one["version"] for one in versions] == [3, 2, 1]
    assert versions[0]["params"] == versions[2]["params"]
    assert versions[1]["provenance"]["optimization"] == job["id"]
    assert versions[1]["provenance"]["deflated_sharpe"] == found["overfitting"]["deflated_sharpe"]


async def test_what_is_run_here_on_stored_bars_is_in_the_ledger(up: Shell) -> None:
    stored = ("--symbol", "BTC/USDT", "--allow-gaps")
    assert (await off_loop(up.json, "optimize", "ledger"))["items"] == []
    one = await off_loop(up.json, "backtest", "run", "sma_cross", *stored)
    assert "ledger" not in one, "a backtest's document is a function of its inputs"
    found = await off_loop(up.json, "optimize", "run", *SEARCH, *stored, "--workers", "1")
    assert found["ledger"] == {**found["ledger"], "earlier_runs": 1, "trials": found["overfitting"]["trials"] + 1}
    code, out, _ = await off_loop(up, "optimize", "run", *SEARCH, *stored, "--workers", "1")
    assert code == OK
    assert f"deflated by all {found['ledger']['trials']} trials on BTCUSDT so far" in out, "the same search counts once"
    rows = (await off_loop(up.json, "optimize", "ledger", "btc-usdt"))["items"]
    assert [(row["kind"], row["trials"], row["inputs_hash"]) for row in rows] == [
        ("search", found["overfitting"]["trials"], found["inputs_hash"]),
        ("backtest", 1, one["inputs_hash"]),
    ]
    assert (await off_loop(up.json, "optimize", "ledger", "ETHUSDT"))["items"] == []
    tape = await off_loop(up.json, "optimize", "run", *SEARCH, *SAMPLE)
    assert tape["ledger"] is None, "a tape is in no database"
    assert len((await off_loop(up.json, "optimize", "ledger"))["items"]) == 2
    code, out, _ = await off_loop(up, "optimize", "ledger")
    assert (code, out.count("sma_cross")) == (OK, 2)


async def test_a_result_is_not_lost_with_its_row_of_the_ledger(up: Shell, database: Database) -> None:
    await database.sql("DROP TABLE research_runs")
    stored = ("--symbol", "BTC/USDT", "--allow-gaps")
    for command in (
        ("backtest", "run", "sma_cross", *stored),
        ("optimize", "run", *SEARCH, *stored, "--workers", "1"),
    ):
        code, out, err = await off_loop(up, *command, "--json")
        assert code == OK, err
        assert "note: this run is not in the ledger of research" in err
        assert orjson.loads(out)["inputs_hash"]
