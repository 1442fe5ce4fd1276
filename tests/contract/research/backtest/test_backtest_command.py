"""`fks backtest` and `fks strategies` as a person uses them: here on the sample, and through a real gateway."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas
import pytest

from fks.config.endpoints import NodeEndpoints, save_node
from fks.config.paths import Paths
from fks.config.settings import Costs, Risk
from fks.interfaces.cli import cli
from fks.interfaces.cli.backtest import sparkline
from fks.interfaces.cli.base import DENIED, FAILED, NOT_RUNNING, OK, USAGE, run
from fks.model.bar import Bars, Feature
from fks.model.calendars import calendar_of
from fks.model.errors import InputError
from fks.model.tape import Tape
from fks.model.timeframe import iso, to_ns
from fks.research.backtest import bars_from_frame, resample, sample, setup_for
from fks.research.backtest import run as run_backtest
from fks.research.backtest.fingerprint import RULES
from fks.research.jobs.account import parse_account
from fks.research.jobs.backtest import BarsRequest, LoadedBars, parse_spec, run_job, with_costs
from fks.research.jobs.bars import load_stored
from fks.research.jobs.fingerprint import fingerprint
from fks.research.jobs.runner import run_one
from fks.store.bars import BarStore
from fks.store.corporate_actions import CorporateActionStore, ListedEvent
from fks.store.db import Database
from fks.store.feature_values import FeatureValue, add_features
from fks.store.jobs import JobStore
from fks.strategies.base import fitted_on
from fks.strategies.base.fitted import shown_state
from fks.strategies.check import synthetic, with_inputs
from fks.strategies.pairs import Pairs
from fks.strategies.registry import load_catalogue
from fks.strategies.sma_cross import SmaCross
from fks.system.servers.embedded import postgres_pid
from tests.support.fitted import SCALED
from tests.support.gateway import running
from tests.support.packed_tapes import pack_tape
from tests.support.strategies import seal

SPAN = ["--from", "2026-03-02", "--to", "2026-03-05"]


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
def store(fks: Shell, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """`fks …` on a database that runs: without one each command starts and stops this home's own."""
    monkeypatch.setenv("FKS_DATABASE_URL", database_url)
    return fks


def test_a_fresh_machine_backtests_the_shipped_minutes(fks: Shell) -> None:
    code, out, err = fks("backtest", "run", "sma_cross", *SPAN, "--set", "fast=10", "--stop-loss", "0.5")
    assert code == OK
    assert "nothing is stored here, so this runs on the shipped sample" in err
    for part in (
        "sma_cross sl_pct=0.5 fast=10 slow=50",
        "BTCUSDT 1m, 2026-03-02T00:00:00Z",
        "(4320 bars",
        "max drawdown",
        "bars missing: 0 of 4370",
        "fingerprints: inputs ",
    ):
        assert part in out


def test_demo_writes_its_report_and_names_commands_that_exist(fks: Shell) -> None:
    code, out, _ = fks("demo")
    assert code == OK
    for part in ("the shipped sample", "equity 10,000.00 → ", "max drawdown", "report: ", "next:"):
        assert part in out
    document = fks.json("demo")
    report = Path(document["report"])
    assert f"report: {report}" in out
    assert report.is_relative_to(fks.home)
    assert report.read_text().startswith("<!doctype html>")
    assert (document["schema"], document["backtest"]["fills_count"] > 10) == ("fks.demo/1", True)
    assert len(document["next"]) == 3
    for step in document["next"]:
        assert step["command"] in out
        program, *arguments = shlex.split(step["command"])
        assert (program, fks(*arguments, "--help")[0]) == ("fks", OK)
    assert not Paths.of(fks.home).run.exists(), "no server was started"


def test_demo_that_cannot_write_its_report_fails(fks: Shell) -> None:
    fks.home.mkdir()
    (fks.home / "reports").write_text("no folder")
    code, out, err = fks("demo")
    assert (code, "report: " in out) == (FAILED, False)
    assert "error: the report could not be written" in err


def test_the_store_of_a_stopped_system_is_opened_and_closed_again(fks: Shell) -> None:
    of_the_sample = fks.json("backtest", "run", "sma_cross", *SPAN)
    code, _, err = fks("data", "sample")
    assert code == OK, err
    code, out, err = fks("backtest", "run", "sma_cross", *SPAN, "--json")
    assert code == OK, err
    assert "nothing is stored here" not in err
    stored = orjson.loads(out)
    assert stored["fills_hash"] == of_the_sample["fills_hash"]
    assert stored["source"] != of_the_sample["source"]
    assert postgres_pid(Paths.of(fks.home)) is None


def _shares(folder: Path, name: str, *, hole: slice = slice(0)) -> Path:
    """Write hours of shares in New York from January to July 2025, as a file, without those of `hole`."""
    times = calendar_of("XNYS").expected("1h", 1_735_776_000_000_000_000, 1_751_328_000_000_000_000)
    times = np.delete(times, np.arange(len(times))[hole])
    bars = replace(synthetic(len(times), "1h"), time_ns=times)
    columns = (bars.open, bars.high, bars.low, bars.close, bars.volume)
    rows = [f"{iso(int(at))},{','.join(str(column[row]) for column in columns)}" for row, at in enumerate(times)]
    file = folder / f"{name}.csv"
    file.write_text("time,open,high,low,close,volume\n" + "\n".join(rows) + "\n")
    return file


TIERS = "0.01 each, 0.005 each from 10"
COSTS = ("--allow-short", "--borrow", "0.03/0.0583", "--fee-rate-maker", "-0.0001", "--commission", TIERS)


@pytest.mark.parametrize(
    ("options", "changes"),
    [((), {}), (COSTS, {"can_short": True, "borrow": "0.03/0.0583", "fee_rate_maker": "-0.0001", "commission": TIERS})],
)
def test_the_same_inputs_have_one_fingerprint_from_the_command_line_and_python(
    fks: Shell, options: tuple[str, ...], changes: dict[str, Any]
) -> None:
    document = fks.json("backtest", "run", "sma_cross", "--tape", "sample", "--no-report", *options)
    bars = sample()
    python = run_backtest(SmaCross(), bars, setup_for(bars, collar_pct="0.5", **changes))
    assert (document["inputs_hash"], document["fills_hash"]) == (python.inputs_hash, python.fills_hash)


def test_what_may_go_short_pays_in_quote_in_a_request_an_account_and_a_command() -> None:
    def fee_in(spec: dict[str, Any]) -> str:
        return parse_spec(with_costs({"strategy": "sma_cross", "symbol": "BTCUSDT"} | spec, Costs())).fee_in

    cases: list[dict[str, Any]] = [{}, {"allow_short": True}, {"allow_short": True, "fee_in": "received"}]
    assert [fee_in(case) for case in cases] == ["received", "quote", "received"]
    member = {"strategy": "sma_cross", "symbol": "BTCUSDT"}
    for common, own in (({}, {"allow_short": True}), ({"allow_short": True}, {})):
        account = parse_account(
            with_costs({**common, "members": [{**member, **own}, {**member, "allow_short": False}]}, Costs())
        )
        assert [one.fee_in for one in account.members] == ["quote", "received"]


def test_shares_run_by_the_calendar_of_their_import(store: Shell, tmp_path: Path) -> None:
    load = ("data", "import", "--exchange", "nyse", "--timeframe", "1h", "--symbol")
    assert "XNYS" in store(*load, "SPY", str(_shares(tmp_path, "SPY")))[1]
    assert store(*load, "QQQ", "--calendar", "XNYS", str(_shares(tmp_path, "QQQ", hole=slice(300, 340))))[0] == OK
    command = ("backtest", "run", "sma_cross", "--set", "fast=3", "--set", "slow=7", "--timeframe", "1h", "--symbol")
    document = store.json(*command, "SPY")
    assert document["gaps"] | {"bars_present": 0} == {
        "bars_expected": 854, "bars_present": 0, "longest_gap_bars": 0, "longest_gap_after": None, "gaps": 0,
        "gap_pct": 0.0, "calendar": "XNYS",
    }  # fmt: skip
    frame = pandas.read_csv(tmp_path / "SPY.csv")
    bars = bars_from_frame(frame, symbol="SPY")
    in_python = run_backtest(SmaCross(fast=3, slow=7), bars, setup_for(bars))
    assert (bars.calendar, len(in_python.fills)) == ("XNYS", document["statistics"]["trades"] * 2)
    assert in_python.statistics.sharpe == pytest.approx(document["statistics"]["sharpe"])
    code, _, err = store(*command, "QQQ")
    assert (code, "misses 4.68 % of its bars (40 of 854" in err) == (DENIED, True), err


def test_imported_bars_keep_the_rules_that_their_import_gave(store: Shell, tmp_path: Path) -> None:
    """Yahoo's volumes are dollars: the lot is no whole coin, unless a person gives one."""
    close = 42000.5 + 900.0 * np.sin(np.arange(60) / 2.0).round(3)
    days = pandas.date_range("2024-01-01", periods=60)
    table = {"Date": days, "Open": close, "High": close, "Low": close, "Close": close, "Volume": 18_426_978_443}
    pandas.DataFrame(table).to_csv(tmp_path / "BTC-USD.csv", index=False)
    load = ("data", "import", "--exchange", "yahoo", "--symbol", "BTC-USD", str(tmp_path / "BTC-USD.csv"))
    search = ("-p", "fast=2:3", "-p", "slow=4", "--timeframe", "1d", "--symbol", "BTC-USD", "--workers", "1")
    command = ("backtest", "run", "sma_cross", "--set", "fast=2", "--set", "slow=4", *search[4:8])
    assert store(*load)[0] == OK
    free = store.json(*command)
    assert (free["denied"], free["fills_count"] > 5, "no_trades" in free) == ({}, True, False)
    assert store(*load, "--lot", "1", "--largest", "50")[0] == OK
    code, out, _ = store(*command, "--no-report")
    assert code == OK
    assert out.startswith("No trades: every entry was denied or expired (")
    assert "limit at least 1; a lot of 1 BTC is worth 4" in out.splitlines()[0]
    code, _, err = store("optimize", "run", "sma_cross", *search)
    assert (code, "No trades" in err, "finer lot (--lot)" in err, "widen the space" in err) == (
        USAGE,
        True,
        True,
        False,
    )
    assert store.json(*command, "--lot", "1e-5")["fills_hash"] == free["fills_hash"]
    assert store.json("optimize", "run", "sma_cross", *search, "--lot", "1e-5")["trials"]["done"] > 0
    assert store.json(*command, "--lot", "1e-5", "--largest", "0.001")["denied"].keys() == {"QTY_MAX"}
    for wrong in (("--lot", "0"), ("--tick", "x"), ("--largest", "-1"), ("--tick", "1e-16")):
        for words in (load, command):
            code, _, err = store(*words, *wrong)
            assert (code, wrong[0][2:] in err) == (USAGE, True), err


def test_shares_that_were_split_run_in_the_shares_of_their_end(store: Shell, tmp_path: Path) -> None:
    """Twice: 2 for 1 in the first quarter, 3 for 1 a year later, which only the long run is over."""
    days = pandas.bdate_range("2014-01-02", "2015-12-31", tz="UTC")
    days = days[calendar_of("XNYS").is_open(days.as_unit("ns").asi8 + 15 * 3600 * 10**9)]
    shares = np.where(days >= "2015-03-02", 6, np.where(days >= "2014-03-03", 2, 1))
    whole = 600.0 * np.exp(0.1 * np.sin(np.arange(len(days)) / 9.0))
    close = np.round(whole / shares, 2)
    table = {"time": days, "open": close, "high": close, "low": close, "close": close, "volume": 1000}
    pandas.DataFrame(table).to_csv(tmp_path / "SHARE.csv", index=False)
    assert store("data", "import", "--exchange", "nyse", "--symbol", "SHARE", str(tmp_path / "SHARE.csv"))[0] == OK
    command = ("backtest", "run", "buy_and_hold", "--timeframe", "1d", "--symbol", "SHARE", "--size", "9000")
    code, _, err = store(*command)
    assert (code, "that looks like a split of 2:1, one of 2 such bars" in err) == (USAGE, True), err
    assert "fks data splits SHARE --add 2014-03-03=2:1" in err
    (tmp_path / "splits.csv").write_text("Symbol,day,ratio\nSHARE,2014-03-03,2:1\nshare,2015-03-02,3\n")
    assert len(store.json("data", "import-events", str(tmp_path / "splits.csv"))["items"]) == 2
    document = store.json(*command)
    assert float(document["fills"][0]["price"]) == pytest.approx(close[1] / 6)
    gained = document["statistics"]["final_equity"] - 10_000
    assert gained == pytest.approx(9000 * (close[-1] * 6 / close[1] - 1), abs=50)
    short = store.json(*command, "--to", "2015-01-01")
    assert float(short["fills"][0]["price"]) == pytest.approx(close[1] / 2)
    bars = bars_from_frame(pandas.DataFrame(table), symbol="SHARE", splits={"2014-03-03": 2, "2015-03-02": 3})
    in_python = run_backtest(load_catalogue().make("buy_and_hold", {}), bars, setup_for(bars, size=9000))
    assert in_python.fills[0].price == Decimal(document["fills"][0]["price"])


MOOD = """
import numpy as np
from fks.strategies.base import Decisions, Strategy, feature

class Mood(Strategy):
    name = "mood"
    above: float = 0.0
    def warmup(self):
        return 2
    def features(self):
        return ("mood",)
    def decide(self, bars):
        return Decisions(np.where(feature(self, bars, "mood").values > self.above, 1.0, 0.0))
"""


def test_a_strategy_reads_a_column_that_was_imported(store: Shell, tmp_path: Path) -> None:
    store("data", "sample")
    folder = store.home / "strategies"
    folder.mkdir(parents=True)
    (folder / "mood.py").write_text(MOOD)
    span = ("--from", "2026-03-05", "--to", "2026-03-25")
    command = ("backtest", "run", "mood", "--timeframe", "1h", *span)
    code, _, err = store(*command)
    assert (code, "there is no column mood of BTCUSDT" in err) == (USAGE, True), err
    file = tmp_path / "mood.csv"
    file.write_text(
        "Time,known_at,value\n2026-03-01,2026-03-01,-1\n2026-03-10,2026-03-12T10:30:00Z,1\n2026-03-20,2026-03-20,\n"
    )
    command_import = ("data", "import-features", str(file), "--feature", "mood")
    assert store.json(*command_import) | {"schema": ""} == {"schema": "", "rows": 3, "new": 3}
    assert store.json(*command_import)["new"] == 0, "the same rows again change nothing"
    document = store.json(*command)
    assert [fill["time"] for fill in document["fills"]] == ["2026-03-12T11:00:00Z", "2026-03-20T00:00:00Z"], (
        "in at the open after the bar at whose end it was known, out when it was taken away"
    )
    bars = sample()
    hours = resample(bars, "1h")
    known = np.where(hours.time_ns < np.datetime64("2026-03-12T10:00", "ns").astype(np.int64), -1.0, 1.0)
    known[hours.time_ns >= np.datetime64("2026-03-19T23:00", "ns").astype(np.int64)] = np.nan
    in_python = hours.with_features({"mood": Feature(known, hours.time_ns)})
    made = run_backtest(load_catalogue(folder).make("mood", {}), in_python, setup_for(in_python))
    assert [iso(fill.time_ns) for fill in made.fills] == [fill["time"] for fill in document["fills"]]
    found = store.json("optimize", "run", "mood", "-p", "above=0,2", "--timeframe", "1h", *span, "--validation", "none")
    assert found["trials"]["done"] == 2
    member = {"name": "one", "strategy": "mood", "symbol": "BTCUSDT", "timeframe": "1h", "from": span[1], "to": span[3]}
    (tmp_path / "account.json").write_bytes(orjson.dumps({"cash": 10_000, "members": [member]}))
    account = store.json("backtest", "account", str(tmp_path / "account.json"))
    assert [fill["time"] for fill in account["fills"]] == [fill["time"] for fill in document["fills"]]
    (row,) = store.json("data", "features")["items"]
    assert row | {"source": ""} == {
        "feature": "mood", "symbol": None, "rows": 3, "oldest": "2026-03-01T00:00:00Z",
        "newest": "2026-03-20T00:00:00Z", "known_at": "2026-03-20T00:00:00Z", "source": "",
    }  # fmt: skip
    for text, said in (
        ("time,value\n2026-03-01,1\n", "row 1: there is no column known_at"),
        ("time,known_at,value\n2026-03-01,2026-02-28,1\n", "mood of 2026-03-01T00:00:00Z was known before"),
        ("time,known_at,value\n2026-04-01,2026-04-01,5\n2026-03-10,2026-03-12T10:30,2\n", "is 1, known from 2026-03-12T10:30:00Z on, not 2"),
        ("time,known_at,value\n2026-03-01,soon,1\n", "row 2: known_at='soon' is no time"),
        ("time,known_at,value\n2026-03-01,,1\n", "row 2: known_at='' is no time"),
        ("time,known_at,value\n2026-03-01,2026-03-01,much\n", "row 2: 'much' is no number"),
        ("time,known_at,value,feature\n2026-03-01,2026-03-01,1,My Mood\n", "'My Mood' is no name of a column"),
    ):  # fmt: skip
        file.write_text(text)
        code, _, err = store(*command_import)
        assert (code, said in err) == (USAGE, True), err
    assert store.json("data", "features")["items"] == [row], "all rows, or none"
    code, _, err = store(*command, "--tape", "sample")
    assert (code, "the shipped sample has no column mood" in err) == (USAGE, True), err
    assert store("data", "features", "mood", "--remove") == (OK, "column mood is removed\n", "")
    assert store.json("data", "features", "mood")["items"] == []
    code, _, err = store("data", "features", "mood", "--remove")
    assert (code, "there is no column mood" in err) == (USAGE, True), err


CALM = """
import numpy as np
from fks.strategies.base import Decisions, Strategy, feature

class Calm(Strategy):
    name = "calm"
    def warmup(self):
        return 0
    def features(self):
        return ("events:usd.high.60",)
    def decide(self, bars):
        return Decisions(np.where(feature(self, bars, self.features()[0]).values > 0, 0.0, 1.0))
"""


def test_a_strategy_stays_out_around_economic_events_as_known(store: Shell, tmp_path: Path) -> None:
    store("data", "sample")
    folder = store.home / "strategies"
    folder.mkdir(parents=True)
    (folder / "calm.py").write_text(CALM)
    command = ("backtest", "run", "calm", "--timeframe", "15m", "--from", "2026-03-05", "--to", "2026-03-07")
    code, _, err = store(*command)
    assert (code, "no economic event of USD is stored" in err) == (USAGE, True), err
    file = tmp_path / "calendar.csv"
    header = "currency,name,time,importance,forecast,actual,published\n"
    file.write_text(
        header + "usd,Payrolls,2026-03-05T13:30Z,high,160000,,2026-01-01\n"
        "USD,Payrolls,2026-03-05T13:30Z,high,160000,256000,2026-03-05T13:30Z\n"
        "EUR,Rate decision,2026-03-05T08:00Z,high,,,2026-01-01\n"
        "USD,Beige Book,2026-03-06T09:00Z,low,,,2026-01-01\n"
        "USD,Speech,2026-03-06T12:00Z,high,,,2026-03-06T11:40Z\n"
    )
    assert len(store.json("data", "import-events", str(file))["items"]) == 5
    found = store.json(*command)
    assert [(fill["side"], fill["time"]) for fill in found["fills"]] == [
        ("buy", "2026-03-05T00:15:00Z"),
        ("sell", "2026-03-05T12:30:00Z"),  # an hour before: it was known long ago
        ("buy", "2026-03-05T14:45:00Z"),
        ("sell", "2026-03-06T11:45:00Z"),  # it was announced twenty minutes before
        ("buy", "2026-03-06T13:15:00Z"),
    ]
    for _ in range(2):
        store.json("data", "import-events", str(file))
    listed = store.json("data", "events", "list", "usd")["items"]
    assert [(row["symbol"], row["value"], row["revision"]) for row in listed] == [
        ("USD", "Payrolls, high, actual 256000, forecast 160000", 2),
        ("USD", "Beige Book, low", 1),
        ("USD", "Speech, high", 1),
    ], "the same rows again add no revision"
    before = store.json("data", "events", "list", "USD", "--known-at", "2026-02-01")["items"]
    assert [row["value"] for row in before] == ["Payrolls, high, forecast 160000", "Beige Book, low"]
    assert store.json("data", "events", "list", "USD", "--known-at", "2025-01-01")["items"] == [], "nothing was known"
    file.write_text(header + "USD,Speech,2026-03-06T12:00Z,none,,,2026-03-06T11:50Z\n")
    store.json("data", "import-events", str(file))
    off = store.json(*command)
    assert [fill["time"] for fill in off["fills"]][-1] == "2026-03-06T12:00:00Z", "it was called off"
    assert off["inputs_hash"] != found["inputs_hash"]
    for row, said in (
        ("US,CPI,2026-03-05,high,,,", "'US' is not a currency"),
        ("USD,,2026-03-05,high,,,", "'' is not a name of an economic event"),
        ("USD,CPI,,high,,,", "'' is not a time of an economic event"),
        ("USD,CPI,2026-03-05,huge,,,", "'huge' is not an importance"),
        ("USD,CPI,2026-03-05,low,NaN,,", "'NaN' is not a number"),
        ("USD,CPI,2026-03-05,low,,,\nUSD,CPI,2026-03-05,high,,,", "there are two rows of an economic of CPI"),
    ):
        file.write_text(header + "USD,GDP,2026-03-05,low,,,\n" + row + "\n")
        code, _, err = store("data", "import-events", str(file))
        assert (code, said in err) == (USAGE, True), err
    assert len(store.json("data", "events", "list")["items"]) == 4, "all rows, or none"


def test_a_backtest_of_what_a_language_model_may_remember_is_refused(store: Shell, tmp_path: Path) -> None:
    store("data", "sample")
    folder = store.home / "strategies"
    folder.mkdir(parents=True)
    (folder / "mood.py").write_text(MOOD)
    file, command_import = tmp_path / "mood.csv", ("data", "import-features", str(tmp_path / "mood.csv"))
    named = ("--feature", "mood", "--knowledge", "2026-03-08T12:00:00Z")
    file.write_text("time,known_at,value\n2026-03-08,2026-03-10,1\n2026-03-10,2026-03-10,1\n")
    code, _, err = store(*command_import, *named)
    assert (code, "mood is of 2026-03-08T00:00:00Z, and its model knows the world up to" in err) == (USAGE, True), err
    assert store.json("data", "features")["items"] == [], "all rows, or none"
    # rows that were stored without the date are given it, and no other one after that
    file.write_text("time,known_at,value\n2026-03-10,2026-03-10,1\n")
    assert store.json(*command_import, "--feature", "mood")["new"] == 1
    assert store.json(*command_import, *named)["new"] == 0
    code, _, err = store(*command_import, "--feature", "mood", "--knowledge", "2026-03-09")
    assert (code, "is stored as one that knows the world up to 2026-03-08T12:00:00Z" in err) == (USAGE, True), err
    # the rows of a later model do not take away what an earlier one made
    file.write_text(
        "time,known_at,value,knowledge\n2026-03-10,2026-03-10,1,\n2026-03-20,2026-03-20,-1,2026-03-15T00:00:00Z\n"
    )
    assert store.json(*command_import, *named)["new"] == 1
    run = ("backtest", "run", "mood", "--timeframe", "1h", "--to", "2026-03-25", "--from")
    assert len(store.json(*run, "2026-03-08T12:00:00Z")["fills"]) == 2
    for early in ("2026-03-08T11:00:00Z", "2026-03-02"):
        code, _, err = store(*run, early)
        assert (code, "the model that made mood knows the world up to 2026-03-08T12:00:00Z" in err) == (USAGE, True), (
            err
        )


async def test_a_continuous_future_is_held_to_what_a_language_model_may_remember(database: Database) -> None:
    await store_futures(database)
    known_ns = to_ns(datetime(2025, 3, 10, tzinfo=UTC))
    await add_features(database, [FeatureValue("mood", "", known_ns, known_ns, 1.0, knowledge_ns=known_ns)])
    request = BarsRequest("ES ##-##", None, "1d", None, None, 0, features=("mood",))
    with pytest.raises(InputError) as raised:
        await load_stored(database, request)
    assert raised.value.code == "FEATURE_KNOWLEDGE"
    later = await load_stored(database, replace(request, start_ns=known_ns))
    assert later.bars.features["mood"].values.tolist() == [1.0] * len(later.bars)


def test_a_database_of_an_older_version_is_refused_with_the_command(fks: Shell) -> None:
    fks("data", "sample")
    assert fks("db", "downgrade", "--yes", "0050")[0] == OK
    for command in (
        ("backtest", "run", "rsi", *SPAN),
        ("optimize", "run", "rsi", "-p", "period=5:6", *SPAN),
        ("optimize", "ledger"),
        ("data", "splits"),
    ):
        code, _, err = fks(*command)
        assert (code, "the database is of an older FKS: its schema is 0050" in err) == (USAGE, True), err
        assert "run 'fks db upgrade'" in err
    assert fks("db", "upgrade")[0] == OK
    assert fks("backtest", "run", "rsi", *SPAN)[0] == OK


def test_splits_are_listed_replaced_and_removed(store: Shell, tmp_path: Path) -> None:
    bars = sample()[:50]
    frame = pandas.DataFrame(
        {"time": pandas.to_datetime(bars.time_ns, utc=True), "open": 1, "high": 1, "low": 1, "close": 1}
    )
    frame.to_csv(tmp_path / "ABC.csv", index=False)
    assert store("data", "import", "--exchange", "nyse", "--symbol", "ABC", str(tmp_path / "ABC.csv"))[0] == OK
    add = ("data", "splits", "abc", "--add")
    two = store.json(*add, "2026-03-01=4:1", "--add", "2026-03-02=1:10")["items"]
    assert [row["ratio"] for row in two] == ["4:1", "1:10"]
    (row,) = store.json(*add, "2026-03-01=2", "--remove", "2026-03-02")["items"]
    assert row | {"source": ""} == {
        "symbol": "ABC", "exchange": "nyse", "day": "2026-03-01", "ratio": "2:1", "source": "",
    }  # fmt: skip
    assert store.json("data", "splits")["items"] == [row]
    for wrong, said in (
        (("data", "splits", "ABC", "--remove", "2026-03-02"), "no split of ABC is known on 2026-03-02"),
        (("data", "splits", "ABC", "--remove", "2026-03-01", "--remove", "2026-03-02"), "is known on 2026-03-02"),
        (("data", "splits", "ABC", "--add", "2026-03-02"), "is no split"),
        (("data", "splits", "--add", "2026-03-02=2"), "need a symbol"),
        (("data", "splits", "NONE", "--add", "2026-03-02=2"), "unknown symbol"),
    ):
        code, _, err = store(*wrong)
        assert (code, said in err) == (USAGE, True), err
    assert store.json("data", "splits")["items"] == [row], "all that was asked for, or nothing"


def test_a_file_of_splits_is_taken_whole_or_not_at_all(store: Shell, tmp_path: Path) -> None:
    store("data", "sample")
    for text, said in (
        ("symbol,day\nABC,2026-03-01\n", "row 1: there is no column ratio"),
        ("symbol,day,ratio\nABC,2026-03-01,2\nABC,2026-03-02,0\n", "row 3: 2026-03-02=0 is no split"),
        ("symbol,day,ratio,kind\nABC,2026-03-01,2,coupon\n", "row 2: coupon is no kind of event"),
        ("symbol,day,ratio\n,2026-03-01,2\n", "row 2: it names no symbol"),
    ):
        (tmp_path / "splits.csv").write_text(text)
        code, _, err = store("data", "import-events", "--exchange", "nyse", str(tmp_path / "splits.csv"))
        assert (code, said in err) == (USAGE, True), err
    (tmp_path / "splits.csv").write_bytes("symbol,day,ratio\nÄ,2026-03-01,2\n".encode("latin-1"))
    code, _, err = store("data", "import-events", str(tmp_path / "splits.csv"))
    assert (code, "is no csv file in UTF-8" in err) == (USAGE, True), err
    assert store.json("data", "splits")["items"] == []


def share(fks: Shell, tmp_path: Path, closes: Sequence[float], name: str = "SHARE") -> None:
    """Import days of a share from Monday 2014-01-06 on; its open is the close of the day before."""
    days = pandas.bdate_range("2014-01-06", periods=len(closes), tz="UTC")
    opens = [closes[0], *closes[:-1]]
    table = {
        "time": days,
        "open": opens,
        "high": np.maximum(opens, closes),
        "low": np.minimum(opens, closes),
        "close": closes,
        "volume": 1000,
    }
    pandas.DataFrame(table).to_csv(tmp_path / f"{name}.csv", index=False)
    imported = fks("data", "import", "--exchange", "nyse", "--symbol", name, str(tmp_path / f"{name}.csv"))
    assert imported[0] == OK, imported


def test_a_dividend_is_paid_to_the_cent_and_a_delisting_ends_the_position(store: Shell, tmp_path: Path) -> None:
    share(store, tmp_path, [50.0] * 8 + [48.0] * 5)
    command = ("backtest", "run", "buy_and_hold", "--timeframe", "1d", "--symbol", "SHARE", "--size", "1000")
    arguments = (*command, "--fee-rate", "0", "--allow-gaps")
    without = store.json(*arguments)
    assert {"dividends", "funding", "cash_flows", "delisted"}.isdisjoint(without)
    (tmp_path / "events.csv").write_text(
        "symbol,kind,day,amount,currency,pay_day,ratio\n"
        "SHARE,delisting,2014-01-20,,,,\n"  # unsorted
        "SHARE,dividend,2014-01-16,0.4175,usd,2014-01-30,\n"
        "SHARE,dividend,2014-01-07,9,USD,,\n"  # of the first fill's day, which is too late for it
        "SHARE,split,2013-06-03,,,,2:1\n"
    )
    rows = store.json("data", "import-events", str(tmp_path / "events.csv"))["items"]
    assert [row["kind"] for row in rows] == ["delisting", "dividend", "dividend", "split"]
    found = store.json(*arguments)
    (flow,) = found["cash_flows"]
    assert flow == {
        "kind": "dividend",
        "time": "2014-01-16T00:00:00Z",
        "event_time": "2014-01-16T00:00:00Z",
        "quantity": "20",
        "rate": "0.4175",
        "amount": "8.35",
    }
    assert (found["dividends"], found["funding"], found["delisted"]) == ("8.35", "0", "2014-01-20")
    assert (found["to"], found["final_position"], found["final_cash"]) == ("2014-01-17T00:00:00Z", "0", "9968.35")
    assert found["fills"][-1]["price"] == "48"
    assert found["trades"][0]["pnl"] == "-31.65"
    assert found["inputs_hash"] != without["inputs_hash"]
    code, out, _ = store(*arguments)
    assert code == OK
    assert "dividends: 8.35" in out
    assert "delisted on 2014-01-20" in out
    before = store.json(*arguments, "--to", "2014-01-10")
    assert before["inputs_hash"] == store.json(*arguments, "--to", "2014-01-10")["inputs_hash"]
    assert "cash_flows" not in before, "its events are before the first fill, or after the end"


def test_events_are_listed_with_their_revisions_as_they_were_known(store: Shell, tmp_path: Path) -> None:
    share(store, tmp_path, [50.0] * 5)
    file = str(tmp_path / "events.csv")
    header = "symbol,kind,day,amount,type,published,new_symbol\n"
    (tmp_path / "events.csv").write_text(
        header + "share,dividend,2014-01-16,0.50,,2014-01-02,\n"
        "SHARE,dividend,2014-01-16,2,special,2014-01-03,\n"
        "SHARE,symbol_change,2014-02-03,,,,news\n"
    )
    assert len(store.json("data", "import-events", file)["items"]) == 3
    (tmp_path / "events.csv").write_text(header + "SHARE,dividend,2014-01-16,0.45,,2014-01-10,\n")
    store.json("data", "import-events", file)
    store.json("data", "import-events", file)  # known as it is: no further revision
    rows = store.json("data", "events", "list", "SHARE")["items"]
    assert [(row["kind"], row["value"], row["revision"]) for row in rows] == [
        ("dividend", "0.45", 2),
        ("dividend", "2", 1),
        ("symbol_change", "NEWS", 1),
    ]
    assert rows[0] == {
        "symbol": "SHARE",
        "exchange": "nyse",
        "kind": "dividend",
        "day": "2014-01-16",
        "value": "0.45",
        "source": "events.csv",
        "published": "2014-01-10T00:00:00Z",
        "revision": 2,
    }
    for known_at, values in (("2014-01-01", []), ("2014-01-02", ["0.5"]), ("2014-01-09", ["0.5", "2"])):
        rows = store.json("data", "events", "list", "--known-at", known_at)["items"]
        assert [row["value"] for row in rows] == values, known_at


#: a file, the code of its refusal and a part of the message
WRONG_EVENTS = (
    ("symbol,kind,day,amount\nSHARE,dividend,2014-01-16,NaN\n", "EVENT_WRONG", "row 2: 'NaN' is not a number"),
    ("symbol,kind,day,amount\nSHARE,dividend,2014-01-16,-1\n", "EVENT_WRONG", "row 2: '-1' is not the cash"),
    ("symbol,kind,day,amount\nSHARE,dividend,16.1.14,1\n", "EVENT_WRONG", "row 2: '16.1.14' is not a day"),
    ("symbol,kind,day,amount\nSHARE,dividend,,1\n", "EVENT_WRONG", "row 2: '' is not a day"),
    ("symbol,kind,day\nSHARE,symbol_change,2014-01-16\n", "EVENT_WRONG", "row 2: '' is not a new symbol"),
    ("symbol,kind,day\nOTHER,delisting,2014-01-16\n", "SYMBOL_UNKNOWN", "unknown symbol"),
    ("symbol,day,ratio\nSHARE,2014-01-16,2\nSHARE,2014-01-16,3\n", "EVENTS_OVERLAP", "two rows of a split"),
    ("symbol,time,rate\nSHARE,2014-01-16T08:00Z,inf\n", "EVENT_WRONG", "row 2: 'inf' is not a number"),
    ("symbol,time,rate\nSHARE,2014-01-16T08:00Z,1.5\n", "EVENT_WRONG", "row 2: '1.5' is not a funding rate"),
    ("symbol,time,rate\nSHARE,yesterday,0.1\n", "EVENT_WRONG", "row 2: "),
    ("symbol,time,rate,mark\nSHARE,2014-01-16T08:00Z,0,0\n", "EVENT_WRONG", "row 2: '0' is not a mark price"),
    ("symbol,rate\nSHARE,0\n", "FILE_WRONG", "row 1: there is no column time"),
)


def test_a_wrong_event_is_refused_with_its_row_and_nothing_is_stored(store: Shell, tmp_path: Path) -> None:
    share(store, tmp_path, [50.0] * 5)
    file = tmp_path / "events.csv"
    good = {"kind": "SHARE,delisting,2014-01-20", "time": "SHARE,2014-01-20,0.0001", "day": "SHARE,2014-01-20,2"}
    for text, code, said in WRONG_EVENTS:
        head = text.partition("\n")[0]
        more = next((row for name, row in good.items() if name in head.split(",")), "SHARE,0")
        file.write_text(
            text + more + "," * (head.count(",") - more.count(",")) + "\n"
        )  # a good row after the wrong one
        with pytest.raises(InputError) as raised:
            cli.main(["--home", str(store.home), "data", "import-events", str(file)], standalone_mode=False)
        assert (raised.value.code, said in raised.value.message) == (code, True), raised.value
    assert store.json("data", "events", "list")["items"] == []


def test_a_perpetual_pays_its_stored_funding_or_is_refused_without(store: Shell, tmp_path: Path) -> None:
    """Binance's documented rates and marks (Get Funding Rate History, read 2026-11) on 2 contracts, bought at 30,000."""
    times = pandas.date_range("2019-10-09T08:00Z", periods=20, freq="h")
    table = {"time": times, "open": 30000, "high": 30000, "low": 30000, "close": 30000, "volume": 1000.001}
    pandas.DataFrame(table).to_csv(tmp_path / "perp.csv", index=False)
    perp = ("--exchange", "binanceusdm", "--symbol", "BTCUSDT")
    assert store("data", "import", *perp, str(tmp_path / "perp.csv"))[0] == OK
    command = ("backtest", "run", "buy_and_hold", "--timeframe", "1h", *perp, "--sizing", "quantity", "--size", "2")
    arguments = (*command, "--cash", "100000", "--fee-rate", "0")
    code, _, err = store(*arguments)
    assert (code, "no funding rate is known" in err, "--funding none" in err) == (USAGE, True, True), err
    left_out = store.json(*arguments, "--funding", "none")
    assert (left_out["final_cash"], left_out["funding_left_out"]) == ("40000", True)
    (tmp_path / "rates.csv").write_text(
        "symbol,time,rate,mark\n"
        "BTCUSDT,2019-10-10T00:00:00Z,0.00010000,34287.54619963\n"
        "BTCUSDT,2019-10-09T16:00:00Z,-0.03750000,34287.54619963\n"
    )
    rows = store.json("data", "import-events", "--exchange", "binanceusdm", str(tmp_path / "rates.csv"))["items"]
    assert [(row["kind"], row["value"]) for row in rows] == [("funding", "2 rates to 2019-10-10T00:00:00Z")]
    found = store.json(*arguments)
    assert [(row["time"], row["amount"]) for row in found["cash_flows"]] == [
        ("2019-10-09T16:00:00Z", "2571.56596497"),
        ("2019-10-10T00:00:00Z", "-6.85750924"),
    ]
    assert (found["funding"], found["final_cash"]) == ("2564.70845573", "42564.70845573")
    assert store.json("data", "events", "list")["items"][0]["value"] == "2 rates to 2019-10-10T00:00:00Z"
    missing = store("backtest", "run", "buy_and_hold", "--timeframe", "1h", *perp, "--tape", "sample")
    assert missing[0] == USAGE


def test_the_document_is_complete_and_the_same_every_time(fks: Shell) -> None:
    arguments = ("backtest", "run", "rsi", *SPAN, "--timeframe", "5m", "--tape", "sample", "--set", "period=5")
    first, second = fks.json(*arguments), fks.json(*arguments)
    assert first == second
    assert first["schema"] == "fks.backtest/1"
    assert first["fills_count"] == len(first["fills"]) > 4
    assert set(first["fills"][0]) == {"time", "side", "quantity", "price", "fee", "fee_currency", "role"}
    assert isinstance(first["fills"][0]["price"], str)
    assert first["gaps"]["gap_pct"] == 0.0
    assert first["equity"][-1][1] == pytest.approx(first["statistics"]["final_equity"])


def test_a_margin_is_read_from_a_file_and_its_fee_is_shown(fks: Shell, tmp_path: Path) -> None:
    """A fall of 0.1 % takes 0.9 % of the value of the position, and the rest of it is less than what is kept."""
    arguments = ("backtest", "run", "sma_cross", *SPAN, "--tape", "sample", "--size", "9000", "--cash", "92")
    parts = ("0.01/0.009", "above 8000 0.01/0.0092 less 1.6", "fee 0.0001")
    (tmp_path / "margin.txt").write_text("\n".join(("# from the table of a broker", *parts)))
    found = fks.json(*arguments, "--margin", f"@{tmp_path / 'margin.txt'}")
    assert found["margin"] == "0.01/0.009; above 8000 0.01/0.0092; fee 0.0001"
    assert found["liquidations"] > 0
    assert fks.json(*arguments, "--margin", ";".join(parts))["inputs_hash"] == found["inputs_hash"]
    shown = fks(*arguments, "--no-report", "--margin", ";".join(parts))[1]
    assert f"keeps; liquidation fees {float(found['liquidation_fees']):.2f}" in shown
    code, _, err = fks(*arguments, "--margin", f"@{tmp_path / 'nothing'}")
    assert (code, "nothing cannot be read" in err) == (USAGE, True)


def test_entries_beyond_the_collar_expire_and_are_counted(
    fks: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collar of less than a tick: an entry with a stop fills where the next bar does not open above the close."""
    arguments = ("sma_cross", *SPAN, "--tape", "sample", "--set", "fast=10", "--stop-loss", "0.5")
    never = fks.json("backtest", "run", *arguments, "--collar", "0")
    assert {"collar_pct", "expired"}.isdisjoint(never)
    found = fks.json("backtest", "run", *arguments, "--collar", "0.000001")
    assert found["collar_pct"] == "0.000001"
    assert 0 < found["expired"] < never["fills_count"] / 2
    assert found["denied"] == {}
    assert found["inputs_hash"] != never["inputs_hash"]
    code, out, _ = fks("backtest", "run", *arguments, "--collar", "0.000001")
    assert (code, f"expired: {found['expired']} entries" in out) == (OK, True)
    assert fks("backtest", "run", *arguments, "--collar", "11")[0] != OK
    span = 'from = "2026-03-02"\nto = "2026-03-05"\n'
    of_all = f'strategy = "sma_cross"\nsymbol = "BTCUSDT"\ncollar_pct = "0.000001"\n{span}'
    file = _spec_file(tmp_path, f"{of_all}[[members]]\nparams = {{fast = 10, sl_pct = 0.5}}\n")
    account = fks.json("backtest", "account", file, "--tape", "sample")
    assert account["members"][0]["expired"] == found["expired"]
    assert f"{found['expired']} expired" in fks("backtest", "account", file, "--tape", "sample")[1]
    # the settings' where the command names none
    assert fks.json("backtest", "run", *arguments)["collar_pct"] == "0.5"
    for name, value in (("FKS_VENUE_ENTRY_PROTECTION", "local"), ("FKS_VENUE_SESSION", "ccxt")):  # neither sends a list
        with monkeypatch.context() as only:
            only.setenv(name, value)
            assert fks.json("backtest", "run", *arguments)["inputs_hash"] == never["inputs_hash"]


async def test_a_split_and_other_rules_make_a_job_other_work(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, store = (
        {"strategy": "sma_cross", "params": {}, "symbol": "SHARE", "exchange": "nyse"},
        CorporateActionStore(database),
    )
    before = await fingerprint(database, "backtest", spec, load_catalogue(), Risk())
    split = ListedEvent("nyse", "SHARE", "split", date(2020, 8, 31), new=4, old=1)
    assert await store.put([split]) == 1
    assert await store.put([split]) == 0
    assert await fingerprint(database, "backtest", spec, load_catalogue(), Risk()) != before
    assert await store.withdraw("nyse", "SHARE", "split", split.day)
    assert await fingerprint(database, "backtest", spec, load_catalogue(), Risk()) == before
    monkeypatch.setattr("fks.research.jobs.fingerprint.RULES", RULES + 1)
    assert await fingerprint(database, "backtest", spec, load_catalogue(), Risk()) != before


async def test_a_value_of_a_column_makes_a_job_other_work(database: Database, tmp_path: Path) -> None:
    (tmp_path / "mood.py").write_text(MOOD)
    catalogue = load_catalogue(tmp_path)
    spec = {"strategy": "mood", "params": {}, "symbol": "BTCUSDT", "exchange": "binance"}
    search = {"strategy": "mood", "symbol": "BTCUSDT", "exchange": "binance", "space": {"above": "0,1"}}

    async def both() -> list[str]:
        found = [("backtest", spec), ("optimization", search)]
        return [await fingerprint(database, kind, one, catalogue, Risk()) for kind, one in found]

    before = await both()
    assert await add_features(
        database, [FeatureValue("mood", "ETHUSDT", 0, 0, 1.0), FeatureValue("hate", "", 0, 0, 1.0)]
    )
    assert await both() == before, "of another symbol, and another column"
    assert await add_features(database, [FeatureValue("mood", "", 0, 0, 1.0)])
    of_all = await both()
    assert await add_features(database, [FeatureValue("mood", "BTCUSDT", 0, 0, 1.0)])
    for made, later, last in zip(before, of_all, await both(), strict=True):
        assert len({made, later, last}) == 3


async def test_limits_in_another_currency_are_converted_at_stored_bars(database: Database) -> None:
    """Of a listed symbol and of one that is known by its bars alone; more bars of the rate are other work."""
    store, bars = BarStore(database), replace(synthetic(900), symbol="BTCUSDT")
    start = {"from": iso(int(bars.time_ns[500]))}
    spec = {"strategy": "sma_cross", "symbol": "BTCUSDT", "exchange": "binance", "limits": True, **start}
    await store.merge(bars, source="t")

    async def done(spec: dict[str, Any], limits: Risk) -> Any:
        return await asyncio.to_thread(run_job, spec, load, limits=limits)

    loop = asyncio.get_running_loop()

    def load(request: BarsRequest) -> LoadedBars:
        return asyncio.run_coroutine_threadsafe(load_stored(database, request), loop).result()

    limits = Risk(notional_max_order=Decimal(700))
    in_euros = {**spec, "limits_currency": "EUR"}
    before = [await fingerprint(database, "backtest", one, load_catalogue(), limits) for one in (spec, in_euros)]
    with pytest.raises(InputError, match="EUR cannot be converted into USDT") as refused:
        await done(in_euros, limits)
    assert (refused.value.code, "fks sync" in refused.value.remedy) == ("LIMITS_CURRENCY", True)
    await store.merge(
        replace(
            bars,
            symbol="EURUSDT",
            close=np.full(900, 2.0),
            open=np.full(900, 2.0),
            high=np.full(900, 2.0),
            low=np.full(900, 2.0),
        ),
        source="t",
    )
    after = [await fingerprint(database, "backtest", one, load_catalogue(), limits) for one in (spec, in_euros)]
    assert (before[0] == after[0], before[1] == after[1]) == (True, False)
    in_quote, converted = await done(spec, limits), await done(in_euros, limits)
    assert in_quote["metrics"] != converted["metrics"]
    assert converted["fills_hash"] == (await done(spec, Risk(notional_max_order=Decimal(1400))))["fills_hash"]


async def test_collar_is_part_of_a_jobs_fingerprint_only_when_there_is_one(database: Database) -> None:
    plain = {"strategy": "sma_cross", "params": {}, "symbol": "BTCUSDT"}
    specs = [plain | changes for changes in ({}, {"collar_pct": 0}, {"collar_pct": "0.5"}, {"collar_pct": "0.6"})]
    named = [await fingerprint(database, "backtest", spec, load_catalogue(), Risk()) for spec in specs]
    assert named[0] == named[1]
    assert len(set(named)) == 3
    stored = parse_spec(plain).model_dump(mode="json", by_alias=True)
    assert "collar_pct" not in stored
    assert parse_spec(with_costs(plain, Costs(), Decimal("0.5"))).collar_pct == Decimal("0.5")
    assert parse_spec(with_costs(plain | {"collar_pct": 0}, Costs(), Decimal("0.5"))).collar_pct is None


def test_expect_compares_with_a_hash_or_an_earlier_result(fks: Shell, tmp_path: Path) -> None:
    arguments = ("backtest", "run", "sma_cross", *SPAN, "--tape", "sample")
    document = fks.json(*arguments)
    for good in (document["fills_hash"], document["inputs_hash"][:12]):
        assert fks(*arguments, "--expect", good)[0] == OK
    code, _, err = fks(*arguments, "--expect", "0123456789abcdef")
    assert code == FAILED
    assert document["fills_hash"] in err
    earlier = tmp_path / "earlier.json"
    earlier.write_bytes(orjson.dumps(document))
    assert fks(*arguments, "--expect", str(earlier))[0] == OK
    document["fills"][3]["price"] = "1.5"
    earlier.write_bytes(orjson.dumps(document))
    code, _, err = fks(*arguments, "--expect", str(earlier))
    assert code == FAILED
    assert "fill 3 differs: expected" in err
    assert "at 1.5, fee" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nope"], USAGE, "unknown strategy 'nope'; known: atr_trend bollinger"),
        (["sma_cross", "--set", "fst=2"], USAGE, "has no parameter 'fst'"),
        (["sma_cross", "--set", "fast"], USAGE, "'fast' is not name=value"),
        (["sma_cross", "--timeframe", "7m"], USAGE, "unknown timeframe '7m'; use one of 1s"),
        (["sma_cross", "--timeframe", "5s"], USAGE, "5s bars cannot be made from 1m bars"),
        (["sma_cross", "--symbol", "FOO"], USAGE, "unknown symbol 'FOO'; known: BTCUSDT"),
        (["sma_cross", "--from", "2026-05-01", "--to", "2026-04-01"], USAGE, "must be before to"),
        (["sma_cross", "--from", "2030-01-01"], USAGE, "no 1m bars of BTCUSDT from 2030-01-01T00:00:00Z"),
        (["sma_cross", "--from", "soon"], USAGE, "from: input should be a valid datetime"),
        (["sma_cross", "--size", "-1"], USAGE, "size: input should be greater than 0"),
        (["sma_cross", "--cash", "NaN"], USAGE, "cash: "),
        (["sma_cross", "--tape", "/nowhere.fksbars"], USAGE, "no tape at /nowhere.fksbars"),
        (["sma_cross", "--to", "2026-03-01T00:10"], USAGE, "too few 1m bars of BTCUSDT"),
    ],
)
def test_bad_input_is_one_clear_line(fks: Shell, arguments: list[str], code: int, message: str) -> None:
    found, out, err = fks("backtest", "run", *arguments)
    assert found == code
    assert message in err
    assert len([line for line in err.splitlines() if line.startswith("error:")]) == 1
    assert out == ""


def _tape_with_gaps(tmp_path: Path) -> Path:
    bars: Bars = synthetic(1000)
    keep = [i for i in range(1000) if not 300 <= i < 330]
    ticks = {n: (getattr(bars, n)[keep] * 100).round().astype("int64") for n in ("open", "high", "low", "close")}
    tape = Tape(
        "binance",
        "BTCUSDT",
        "1m",
        2,
        2,
        "synthetic",
        "CC0",
        bars.time_ns[keep],
        *ticks.values(),
        (bars.volume[keep] * 100).round().astype("int64"),
    )
    file = tmp_path / "holes.fksbars"
    file.write_bytes(pack_tape(tape))
    return file


def test_a_bad_tape_is_refused_with_exit_4_unless_allowed(fks: Shell, tmp_path: Path) -> None:
    arguments = ("backtest", "run", "sma_cross", "--tape", str(_tape_with_gaps(tmp_path)))
    code, out, err = fks(*arguments)
    assert (code, out) == (DENIED, "")
    assert "the tape misses 3.00 % of its bars (30 of 1000, limit 1 %)" in err
    document = fks.json(*arguments, "--allow-gaps")
    assert (document["gaps"]["longest_gap_bars"], document["allow_gaps"]) == (30, True)


def test_with_the_system_down_jobs_exit_3(fks: Shell) -> None:
    for arguments in (
        ["list"],
        ["submit", "sma_cross"],
        ["status", "0" * 32],
        ["result", "0" * 32],
        ["cancel", "0" * 32],
    ):
        code, _, err = fks("backtest", *arguments)
        assert (code, "FKS is not running" in err) == (NOT_RUNNING, True)


def test_sparklines_show_the_shape() -> None:
    assert sparkline([1.0, 2.0, 3.0]) == "▁▅█"
    assert sparkline([5.0, 5.0]) == "▁▁"
    assert sparkline([]) == ""
    assert len(sparkline([float(i) for i in range(1000)])) == 60


# ── strategies ───────────────────────────────────────────────────────────────────────────────────
def test_a_new_strategy_is_listed_checked_and_backtested(fks: Shell) -> None:
    assert fks("strategies", "new", "my_idea")[0] == OK
    assert fks("strategies", "new", "my_idea")[0] == USAGE
    assert fks("strategies", "new", "My Idea")[0] == USAGE
    names = {row["name"]: row for row in fks.json("strategies", "list")["items"]}
    assert names["my_idea"]["origin"] == "file"
    assert names["sma_cross"]["params"]["fast"]["default"] == 20
    shown = fks.json("strategies", "show", "my_idea")
    assert shown["warmup"] == 21
    checks = fks.json("strategies", "check")["items"]
    assert {row["name"] for row in checks} == {*names}
    assert all(row["ok"] for row in checks)
    assert fks.json("backtest", "run", "my_idea", *SPAN, "--tape", "sample")["strategy"] == "my_idea"


def test_a_strategy_that_looks_ahead_fails_its_check_and_its_backtest(fks: Shell) -> None:
    fks("strategies", "new", "seer")
    file = fks.home / "strategies" / "seer.py"
    file.write_text(file.read_text().replace("hold(bars.close > top", "hold(np.append(bars.close[1:], 0.0) > top"))
    code, out, err = fks("strategies", "check", "seer")
    assert code == FAILED
    assert "refused" in out
    assert "refused: seer" in err
    code, out, err = fks("backtest", "run", "seer", *SPAN, "--tape", "sample")
    assert (code, out) == (USAGE, "")
    assert "strategy seer is refused: it looks ahead" in err
    assert fks("strategies", "check", str(file))[0] == FAILED


def test_a_broken_file_is_shown_and_the_others_work(fks: Shell) -> None:
    (fks.home / "strategies").mkdir(parents=True)
    (fks.home / "strategies" / "oops.py").write_text("def (:\n")
    rows = {row["name"]: row for row in fks.json("strategies", "list")["items"]}
    assert "SyntaxError" in rows["oops"]["error"]
    assert fks("strategies", "show", "oops")[0] == USAGE
    assert fks("strategies", "show", "rsi")[0] == OK


async def _off_loop(call: Callable[..., Any], *arguments: str) -> Any:
    return await asyncio.to_thread(call, *arguments)


async def test_an_instance_with_an_estimator_is_fitted_when_it_is_added_or_changed(
    fks: Shell, database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FKS_DATABASE_URL", database_url)
    (fks.home / "strategies").mkdir(parents=True)
    (fks.home / "strategies" / "scaled.py").write_text(SCALED)
    await database.sql("INSERT INTO accounts (name, venue) VALUES ('demo', 'paper')")
    await database.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min) VALUES"
        " ('binance','BTCUSDT','BTC','USDT',0.01,0.00001,0.00001,9000,5)"
    )
    bars = replace(synthetic(200), symbol="BTCUSDT")
    add = ("strategies", "add", "mine", "scaled", "--symbol", "BTC/USDT", "--account", "demo")
    await seal(database, bars[:50])
    code, _, err = await _off_loop(fks, *add)
    assert (code, "there are 50, and scaled is fitted on 60" in err) == (USAGE, True), err
    await seal(database, bars[50:180])

    async def params() -> dict[str, Any]:
        found: dict[str, Any] = (await _off_loop(fks.json, "strategies", "instance", "mine"))["params"]
        return found

    def wanted(count: int, end: int) -> dict[str, Any]:
        made = load_catalogue(fks.home / "strategies").make("scaled", {"bars": count})
        return fitted_on(made, (bars[end - count : end],)).model_dump(mode="json")

    assert (await _off_loop(fks, *add))[0] == OK
    assert await params() == wanted(60, 180)
    assert (await _off_loop(fks, "strategies", "set", "mine", "bars=100"))[0] == OK
    assert await params() == wanted(100, 180)
    await seal(database, bars[180:])
    assert (await _off_loop(fks, "strategies", "set", "mine", "state="))[0] == OK
    assert await params() == wanted(100, 200)
    shown = (await _off_loop(fks, "optimize", "versions", "mine"))[1]
    assert [line.split("state=")[1][:8] for line in shown.splitlines() if "state=" in line] == [
        shown_state(wanted(count, end)["state"])[:8] for count, end in ((100, 200), (100, 180), (60, 180))
    ]
    assert (await _off_loop(fks, "optimize", "rollback", "--instance", "mine"))[0] == OK
    assert await params() == wanted(100, 180)


async def test_instances_are_added_changed_and_switched(
    fks: Shell, database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FKS_DATABASE_URL", database_url)
    await database.sql("INSERT INTO accounts (name, venue) VALUES ('demo', 'paper')")
    await database.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min) VALUES"
        " ('binance','BTCUSDT','BTC','USDT',0.01,0.00001,0.00001,9000,5)"
    )
    add = ("strategies", "add", "mine", "sma_cross", "--symbol", "BTC/USDT", "--account", "demo", "--size", "250")
    assert (await _off_loop(fks, *add, "--set", "fast=5"))[0] == OK
    assert (await _off_loop(fks, *add))[0] == USAGE  # the id is taken
    assert (await _off_loop(fks, *add[:2], "other", *add[3:-3], "nobody", *add[-2:]))[0] == USAGE
    assert (await _off_loop(fks, *add, "--set", "fast=500"))[0] == USAGE
    await database.sql(
        "INSERT INTO signals (id, source, instance, account_id, venue, symbol, ts_event, kind, side, state) VALUES"
        " (gen_random_uuid(), 'strategy:mine', 'mine', 1, 'paper', 'BTCUSDT', now(), 'enter', 'buy', 'pending')"
    )
    code, _, err = await _off_loop(fks, "strategies", "set", "mine", "slow=30")
    assert (code, "1 signal(s) to enter for instance mine are not ordered yet" in err) == (USAGE, True), err
    await database.sql("DELETE FROM signals")
    assert (await _off_loop(fks, "strategies", "set", "mine", "slow=30"))[0] == OK
    assert (await _off_loop(fks, "strategies", "set", "mine", "--pyramiding", "3"))[:2] == (
        OK,
        "mine: a position may have 3 entries\n",
    )
    shown = await _off_loop(fks.json, "strategies", "instance", "mine")
    assert (shown["pyramiding"], shown["params_version"], shown["params"]["slow"]) == (3, 2, 30)
    await database.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity) VALUES (1, 'paper', 'BTCUSDT', 'mine', 1)"
    )
    code, _, err = await _off_loop(fks, "strategies", "set", "mine", "slow=31")
    assert (code, "holds 1 BTCUSDT, and its positions may have several entries" in err) == (USAGE, True), err
    await database.sql("DELETE FROM positions")
    assert (await _off_loop(fks, "strategies", "set", "mine"))[0] == USAGE
    assert (await _off_loop(fks, "strategies", "set", "mine", "--pyramiding", "0"))[0] == USAGE
    assert (await _off_loop(fks, "strategies", "set", "nobody", "--pyramiding", "2"))[0] == USAGE
    assert "wait for fks signals approve" in (await _off_loop(fks, "strategies", "approval", "mine", "manual"))[1]
    instances = orjson.loads((await _off_loop(fks, "strategies", "instances", "--json"))[1])["items"]
    assert [i["approval"] for i in instances if i["id"] == "mine"] == ["manual"]
    assert (await _off_loop(fks, "strategies", "approval", "nobody", "auto"))[0] == USAGE
    assert (await _off_loop(fks, "strategies", "disable", "mine"))[0] == OK
    (row,) = (await _off_loop(fks.json, "strategies", "instances"))["items"]
    assert row["params"] == {"sl_pct": None, "tp_pct": None, "trail_pct": None, "fast": 5, "slow": 30, "short": False}
    assert (row["params_version"], row["is_enabled"], row["symbol"], row["venue"]) == (2, False, "BTCUSDT", "paper")
    assert row["size"] == "250"
    versions = await database.sql("SELECT version, params->>'slow' AS slow FROM strategy_parameters ORDER BY version")
    assert [(v["version"], v["slow"]) for v in versions] == [(1, "50"), (2, "30")]
    assert (await _off_loop(fks, "strategies", "enable", "nobody"))[0] == USAGE
    await database.sql(
        "UPDATE strategy_instances SET is_isolated = true, crashes = 4, crashed_at = now(), state = 'DISABLED',"
        " traceback = 'Fatal Python error: Segmentation fault'"
    )
    await database.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity) VALUES (1, 'paper', 'BTCUSDT', 'mine', "
        "0.5)"
    )
    shown = (await _off_loop(fks, "strategies", "instance", "mine"))[1]
    assert "DISABLED" in shown
    assert "holds 0.5" in shown
    assert "no stop-loss or take-profit" in shown
    assert "took its worker down 4 times" in shown
    assert "Segmentation fault" in shown
    assert (await _off_loop(fks.json, "strategies", "instance", "mine"))["crashes"] == 4
    assert (await _off_loop(fks, "strategies", "instance", "nobody"))[0] == USAGE


# ── through the gateway ──────────────────────────────────────────────────────────────────────────
@pytest.fixture
async def up(fks: Shell, database: Database, database_url: str, redis_url: str) -> AsyncIterator[Shell]:
    """The shell on a node that runs: gateway, database, the command line's token."""
    await database.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min) VALUES"
        " ('binance','BTCUSDT','BTC','USDT',0.01,0.00001,0.00001,9000,5)"
    )
    paths = Paths.of(fks.home).ensure()
    async with running(database, database_url, redis_url, fks.home) as gateway:
        port = int(gateway.url.rsplit(":", 1)[1])
        save_node(paths, NodeEndpoints(database_url, redis_url, "", {"host": "127.0.0.1", "port": port}))
        paths.cli_token_file.touch(0o600)
        paths.cli_token_file.write_text(gateway.tokens["admin"])
        yield fks


async def test_volume_bars_are_made_of_trades_or_refused(up: Shell, database: Database, tmp_path: Path) -> None:
    command = ("backtest", "run", "sma_cross", "--set", "fast=2", "--set", "slow=5", "--timeframe", "vol20", "--json")
    await BarStore(database).merge(replace(synthetic(900), symbol="BTCUSDT"), source="t")
    code, _, err = await _off_loop(up, *command)
    assert (code, "stored are 900 1m bars" in err, "was traded inside a bar is not known" in err) == (USAGE, True, True)
    await database.sql(
        "INSERT INTO market_trades (time, exchange, symbol, trade_id, price, quantity) SELECT date_trunc('day', now()) + "
        "n * interval '10 ms', 'binance', 'BTCUSDT', n, 100 + n % 41, 1 + n % 3 FROM generate_series(1, 900) n"
    )
    stored = await _off_loop(up.json, *command[:-1])
    assert (stored["source"], stored["timeframe"], stored["gaps"]["gap_pct"]) == (
        "database, made of trades",
        "vol20",
        0,
    )
    assert stored["fills_count"] > 5
    rows = await database.sql("SELECT time, price, quantity FROM market_trades ORDER BY trade_id")
    file = tmp_path / "BTCUSDT.csv"
    file.write_text(
        "time,price,qty\n" + "".join(f"{r['time'].isoformat()},{r['price']},{r['quantity']}\n" for r in rows)
    )
    of_file = await _off_loop(up.json, *command[:-1], "--exchange", "binance", "--tape", str(file))
    assert [row["time"] for row in of_file["fills"]] == [row["time"] for row in stored["fills"]]
    imported = ("data", "import", "--exchange", "binance", "--symbol", "BTCUSDT", "--timeframe", "vol20")
    code, _, err = await _off_loop(up, *imported, str(file))
    assert (code, "not stored" in err) == (USAGE, True), err
    await database.sql("DELETE FROM market_trades WHERE trade_id = 400")
    code, _, err = await _off_loop(up, *command)
    assert (code, "cannot be made of the stored trades: 1 are missing" in err) == (USAGE, True), err


def test_a_continuous_future_trades_the_contract_of_each_day(fks: Shell, tmp_path: Path) -> None:
    days = [day for day in pandas.date_range("2025-03-03", periods=19, tz="UTC") if day.dayofweek < 5]
    for number, (name, base) in enumerate((("ES 03-25", 5600.0), ("ES 06-25", 5652.5))):
        closes = base + np.arange(1.0, len(days) + 1)
        volume = [(1 if day.day < 12 else 500) if number else 100 for day in days]
        table = {
            "time": days,
            "open": closes - 1,
            "high": closes + 2,
            "low": closes - 3,
            "close": closes,
            "volume": volume,
        }
        pandas.DataFrame(table).to_csv(tmp_path / f"{number}.csv", index=False)
        place = ("--exchange", "cme", "--symbol", name, "--calendar", "XNYS")
        assert fks("data", "import", *place, str(tmp_path / f"{number}.csv"))[0] == OK
    command = ("backtest", "run", "buy_and_hold", "--symbol", "ES ##-##", "--timeframe", "1d", "--sizing", "quantity")
    costs = ("--size", "1", "--cash", "1000000", "--fee-rate", "0", "--commission", "2.25 each", "--no-report")
    found = fks.json(*command, *costs)
    assert [(roll["old"], roll["new"], roll["time"][:10]) for roll in found["rolls"]] == [
        ("ES 03-25", "ES 06-25", "2025-03-13")
    ]
    assert [(fill["side"], fill["price"]) for fill in found["fills"]] == [
        ("buy", "5601"),
        ("sell", "5608"),
        ("buy", "5660.5"),
    ]
    assert found["source"] == "database, 2 contracts"
    after = fks.json(*command, *costs, "--from", "2025-03-13")
    assert "rolls" not in after, "the roll is before the run"
    code, _, err = fks("backtest", "run", "buy_and_hold", "--symbol", "NQ ##-##", "--timeframe", "1d")
    assert (code, "no contract of NQ ##-## is stored" in err) == (USAGE, True)


def contract_bars(name: str, first: str, base: float, volumes: Sequence[float]) -> Bars:
    """Return a bar for each day from `first` on: it opens at `base`, and ends one higher than the day before."""
    days = pandas.date_range(first, periods=len(volumes), tz="UTC")
    closes = base + np.arange(1.0, len(days) + 1)
    columns = (closes - 1, closes + 2, closes - 3, closes, np.array(volumes, dtype=float))
    return Bars(name, "1d", days.as_unit("ns").asi8, *columns)


async def store_futures(database: Database) -> None:
    """Store March from 3 March on and June from 10 March on, which trades more from the 12th on."""
    store = BarStore(database)
    await store.merge(contract_bars("ES 03-25", "2025-03-03", 5600.0, [100.0] * 18), exchange="cme", source="t")
    june = contract_bars("ES 06-25", "2025-03-10", 5659.5, [1.0, 1.0, *[500.0] * 9])
    await store.merge(june, exchange="cme", source="t")


ROLLED = ("--symbol", "ES ##-##", "--timeframe", "1d", "--sizing", "quantity", "--size", "1", "--cash", "1000000")


async def test_a_contract_without_bars_before_the_end_is_not_rolled_into(up: Shell, database: Database) -> None:
    await store_futures(database)
    found = await _off_loop(up.json, "backtest", "run", "buy_and_hold", *ROLLED, "--to", "2025-03-07")
    assert ([fill["price"] for fill in found["fills"]], found["source"]) == (["5601"], "database, 1 contracts")
    code, _, err = await _off_loop(up, "backtest", "run", "buy_and_hold", *ROLLED, "--to", "2025-02-07")
    assert (code, "no 1d bars" in err) == (USAGE, True), err


async def test_a_submitted_continuous_future_gives_the_same_result(up: Shell, database: Database) -> None:
    await store_futures(database)
    here = await _off_loop(up.json, "backtest", "run", "buy_and_hold", *ROLLED)
    assert len(here["rolls"]) == 1
    job = await _off_loop(up.json, "backtest", "submit", "buy_and_hold", *ROLLED)
    claimed = await JobStore(database).claim()
    assert claimed is not None
    await run_one(database, claimed.id, up.home / "strategies")
    there = await _off_loop(up.json, "backtest", "result", job["id"])
    assert (there["fills_hash"], there["inputs_hash"]) == (here["fills_hash"], here["inputs_hash"])
    code, _, err = await _off_loop(up, "backtest", "submit", "buy_and_hold", "--symbol", "NQ ##-##")
    assert (code, "no contract of NQ ##-## is stored" in err) == (USAGE, True), err


async def test_a_submitted_backtest_survives_as_a_row_and_shows_the_same_result(up: Shell, database: Database) -> None:
    await BarStore(database).merge(replace(synthetic(900), symbol="BTCUSDT"), source="t")
    arguments = ("sma_cross", "--set", "fast=3", "--set", "slow=8", *COSTS)
    here = await _off_loop(up.json, "backtest", "run", *arguments)
    assert here["source"] == "database"
    job = await _off_loop(up.json, "backtest", "submit", *arguments)
    assert (job["schema"], job["state"]) == ("fks.job/1", "queued")
    code, _, err = await _off_loop(up, "backtest", "result", job["id"])
    assert (code, "is queued" in err) == (FAILED, True)
    claimed = await JobStore(database).claim()
    assert claimed is not None
    await run_one(database, claimed.id, up.home / "strategies")
    assert (await _off_loop(up.json, "backtest", "status", job["id"]))["state"] == "done"
    there = await _off_loop(up.json, "backtest", "result", job["id"])
    assert (there["fills_hash"], there["inputs_hash"]) == (here["fills_hash"], here["inputs_hash"])
    assert "fingerprints" in (await _off_loop(up, "backtest", "result", job["id"]))[1]
    (listed,) = (await _off_loop(up.json, "backtest", "list"))["items"]
    assert listed["id"] == job["id"]


async def test_a_finished_job_has_a_report_and_can_be_compared(up: Shell, database: Database, tmp_path: Path) -> None:
    await BarStore(database).merge(replace(synthetic(900), symbol="BTCUSDT"), source="t")
    arguments = ("sma_cross", "--set", "fast=3", "--set", "slow=8")
    job = await _off_loop(up.json, "backtest", "submit", *arguments)
    claimed = await JobStore(database).claim()
    assert claimed is not None
    await run_one(database, claimed.id, up.home / "strategies")
    page = tmp_path / "report.html"
    code, out, _ = await _off_loop(up, "backtest", "result", job["id"], "--report", str(page))
    assert (code, f"report: {page}" in out, page.is_file()) == (OK, True, True)
    other = tmp_path / "other.json"
    other.write_bytes(orjson.dumps(await _off_loop(up.json, "backtest", "run", *arguments)))
    compared = await _off_loop(up.json, "backtest", "compare", job["id"], str(other))
    assert compared["runs"] == [f"sma_cross {job['id'][:8]}", "other"]
    assert compared["same_fills"] == [compared["runs"]]
    await BarStore(database).merge(replace(synthetic(950), symbol="BTCUSDT"), source="t")  # there is more data now
    code, _, err = await _off_loop(up, "backtest", "result", job["id"], "--report", str(page))
    assert (code, "has other inputs now" in err) == (FAILED, True)


async def test_a_queued_backtest_is_cancelled_and_wrong_ones_are_refused(up: Shell) -> None:
    job = await _off_loop(up.json, "backtest", "submit", "rsi", "--symbol", "BTC-USDT")
    code, out, _ = await _off_loop(up, "backtest", "cancel", job["id"])
    assert (code, "cancelled" in out) == (OK, True)
    for arguments in (["nope"], ["rsi", "--symbol", "FOO"], ["rsi", "--from", "2026-02-01", "--to", "2026-01-01"]):
        assert (await _off_loop(up, "backtest", "submit", *arguments))[0] == USAGE
    assert (await _off_loop(up, "backtest", "status", "0" * 32))[0] == USAGE


# ── several members on one account ───────────────────────────────────────────────────────────────
ACCOUNT = """
cash = 5000
timeframe = "1h"

[[members]]
name = "trend"
strategy = "sma_cross"
symbol = "BTC/USDT"
size = 3000
params = { fast = 5, slow = 20 }

[[members]]
name = "dips"
strategy = "rsi"
symbol = "BTC/USDT"
timeframe = "15m"
size = 2500
"""
PAIR = """
cash = 20000
allow_short = true
limits = false

[[members]]
strategy = "pairs"
symbol = "BTC/USDT"
params = { period = 50, other = "ETH/USDT" }

[[members]]
strategy = "pairs"
symbol = "ETH/USDT"
params = { period = 50, other = "BTC/USDT", leg = "second" }
"""


def _spec_file(folder: Path, text: str = ACCOUNT, name: str = "account.toml") -> str:
    file = folder / name
    file.write_text(text)
    return str(file)


def _tape_of(folder: Path, symbol: str, bars: Bars) -> str:
    ticks = [(getattr(bars, n) * 1000).round().astype("int64") for n in ("open", "high", "low", "close")]
    volume = (bars.volume * 1000).round().astype("int64")
    tape = Tape("binance", symbol, "1m", 3, 3, "synthetic", "CC0", bars.time_ns, *ticks, volume)
    file = folder / f"{symbol}.fksbars"
    file.write_bytes(pack_tape(tape))
    return str(file)


def test_an_account_runs_on_the_sample_with_a_report(fks: Shell, tmp_path: Path) -> None:
    report = tmp_path / "account.html"
    code, out, err = fks("backtest", "account", _spec_file(tmp_path), "--report", str(report))
    assert code == OK, err
    assert err.count("nothing is stored here, so this runs on the shipped sample") == 1
    for part in ("account of 2 members, USDT", "trend", "dips", "BALANCE", "correlation of daily profits", str(report)):
        assert part in out, part
    assert "backtest of an account" in report.read_text()
    document = fks.json("backtest", "account", _spec_file(tmp_path))
    assert document["schema"] == "fks.account_backtest/1"
    assert [member["name"] for member in document["members"]] == ["trend", "dips"]
    assert document["statistics"]["trades"] == sum(member["statistics"]["trades"] for member in document["members"])
    assert document["fills_count"] == sum(member["fills_count"] for member in document["members"])
    assert fks.json("backtest", "account", _spec_file(tmp_path))["fills_hash"] == document["fills_hash"]


def test_both_legs_of_a_pair_run_on_two_tapes(fks: Shell, tmp_path: Path) -> None:
    strategy = Pairs(period=50)
    bars = with_inputs(strategy, synthetic(2000))
    other = bars.inputs["ETHUSDT"]
    there = np.flatnonzero(~np.isnan(other.close))
    columns = (getattr(other, name)[there] for name in ("open", "high", "low", "close", "volume"))
    whole = Bars("ETHUSDT", "1m", other.time_ns[there], *columns)
    tapes = [_tape_of(tmp_path, "BTCUSDT", bars), _tape_of(tmp_path, "ETHUSDT", whole)]
    given = [part for tape in tapes for part in ("--tape", tape)]
    document = fks.json("backtest", "account", _spec_file(tmp_path, PAIR), *given)
    first, second = document["members"]
    assert first["fills_count"] == second["fills_count"] > 10
    assert document["correlations"]["symbols"]["BTCUSDT"]["ETHUSDT"] > 0.5
    code, _, err = fks("backtest", "account", _spec_file(tmp_path, PAIR), "--tape", tapes[0])
    assert (code, "no tape given has ETH/USDT: there are BTCUSDT" in err) == (USAGE, True)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("members = 3", "members: input should be a valid tuple"),
        ("cash = ", "cannot be read: "),
        (ACCOUNT + "cash = 7\n", "members.1 has cash, which is the account's"),
        (ACCOUNT + "[risk]\nexposure_max = 3\n", "risk.exposure_max: extra inputs are not permitted"),
        (ACCOUNT.replace("sma_cross", "nonsense"), "unknown strategy 'nonsense'"),
        (ACCOUNT.replace("timeframe", "time"), "members.0.time: extra inputs are not permitted"),
    ],
)
def test_a_wrong_spec_of_an_account_is_one_clear_line(fks: Shell, tmp_path: Path, text: str, part: str) -> None:
    code, out, err = fks("backtest", "account", _spec_file(tmp_path, text))
    assert (code, out) == (USAGE, "")
    assert part in err


async def test_an_account_as_a_job_gives_the_same_result(up: Shell, database: Database, tmp_path: Path) -> None:
    await BarStore(database).merge(replace(synthetic(9000), symbol="BTCUSDT"), source="t")
    file = _spec_file(tmp_path)
    here = await _off_loop(up.json, "backtest", "account", file)
    job = await _off_loop(up.json, "backtest", "account", file, "--submit")
    claimed = await JobStore(database).claim()
    assert claimed is not None
    await run_one(database, claimed.id, up.home / "strategies")
    there = await _off_loop(up.json, "backtest", "result", job["id"])
    assert (there["schema"], there["fills_hash"]) == ("fks.account_backtest/1", here["fills_hash"])
    assert there["inputs_hash"] == here["inputs_hash"]
    again = await _off_loop(up.json, "backtest", "account", file, "--submit")
    assert (again["id"], again["is_stored"]) == (job["id"], True)
    assert "account of 2" in (await _off_loop(up, "backtest", "list"))[1]
    assert "account of 2 members" in (await _off_loop(up, "backtest", "result", job["id"]))[1]
    wrong = _spec_file(tmp_path, ACCOUNT.replace("sma_cross", "nonsense"), "wrong.toml")
    assert (await _off_loop(up, "backtest", "account", wrong, "--submit"))[0] == USAGE


# ── a portfolio that is rebalanced ───────────────────────────────────────────────────────────────
PORTFOLIO = """
cash = 5000
timeframe = "1h"

[[instruments]]
symbol = "BTC/USDT"
weight = 0.5

[rules]
band = 0.01

[trigger]
trigger = "schedule"
cron = "0 8 * * *"
"""
ALLOCATED = """
instruments = [{ symbol = "BTC/USDT" }, { symbol = "ETHUSDT" }]
allow_gaps = true
trigger = { trigger = "drift", band = 0.02, cooldown_s = 7200, change_max = 0.5 }
allocation = { method = "inverse_volatility", window_days = 2, timeframe = "1h", cron = "0 12 * * *", max = { "BTC/USDT" = 0.7 } }
"""


def test_a_portfolio_runs_on_the_sample_with_a_report(fks: Shell, tmp_path: Path) -> None:
    report, file = tmp_path / "portfolio.html", _spec_file(tmp_path, PORTFOLIO)
    code, out, err = fks("backtest", "portfolio", file, "--report", str(report))
    assert code == OK, err
    for part in ("portfolio of 1 instruments by schedule", "DRIFT LEFT", "turnover", str(report)):
        assert part in out, part
    assert "backtest of a portfolio" in report.read_text()
    document = fks.json("backtest", "portfolio", file, "--from", "2026-03-10", "--to", "2026-03-20")
    assert document["schema"] == "fks.portfolio_backtest/1"
    assert (document["from"], document["cash"]) == ("2026-03-10T01:00:00Z", "5000")
    assert document["runs"][0]["started_at"] == "2026-03-10T08:00:00Z"
    assert all(run["started_at"].endswith("08:00:00Z") for run in document["runs"])
    assert document["statistics"]["runs"] == len(document["runs"]) > 2
    again = fks.json("backtest", "portfolio", file, "--from", "2026-03-10", "--to", "2026-03-20")
    assert again["fills_hash"] == document["fills_hash"]


def test_a_portfolio_takes_its_weights_from_a_method(fks: Shell, tmp_path: Path) -> None:
    hours = synthetic(6 * 1440)
    tapes = [_tape_of(tmp_path, "BTCUSDT", hours), _tape_of(tmp_path, "ETHUSDT", replace(hours, close=hours.close))]
    given = [part for tape in tapes for part in ("--tape", tape)]
    document = fks.json("backtest", "portfolio", _spec_file(tmp_path, ALLOCATED), *given)
    weights = [{s: Decimal(w) for s, w in row["weights"].items()} for row in document["allocations"]]
    assert len(weights) >= 3
    assert all(sum(row.values()) <= Decimal("0.99") and row["BTCUSDT"] <= Decimal("0.7") for row in weights)
    assert document["runs"][0]["outside"] == ["BTCUSDT", "ETHUSDT"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("instruments = 3", "instruments: input should be a valid tuple"),
        (PORTFOLIO.replace("0.5", "1.5"), "instruments.0.weight: input should be less than or equal to 1"),
        (PORTFOLIO.replace("weight = 0.5", ""), "give each instrument a weight, or none of them and an allocation"),
        (PORTFOLIO.replace("0.5", "0.995"), "they add up to 1.005"),
        (PORTFOLIO.replace('"0 8 * * *"', '"0 8 * *"'), "is not one"),
        (PORTFOLIO.replace('trigger = "schedule"', 'trigger = "person"'), "trigger.trigger: input should be"),
        (PORTFOLIO.replace('cron = "0 8 * * *"', ""), "trigger: a schedule has a cron"),
        (PORTFOLIO.replace("band", "bend"), "rules.bend: extra inputs are not permitted"),
        (ALLOCATED.replace('cron = "0 12 * * *", ', ""), "allocation: give its cron"),
        (ALLOCATED.replace("window_days = 2", 'window_days = 2, instances = ["sma"]'), "those of a live portfolio"),
        (PORTFOLIO + 'timeframe = "1m"\n', "closes of 1m are not among those of 1h bars"),
    ],
)
def test_a_wrong_spec_of_a_portfolio_is_one_clear_line(fks: Shell, tmp_path: Path, text: str, part: str) -> None:
    code, out, err = fks("backtest", "portfolio", _spec_file(tmp_path, text))
    assert (code, out) == (USAGE, "")
    assert part in err


async def test_a_portfolio_as_a_job_gives_the_same_result(up: Shell, database: Database, tmp_path: Path) -> None:
    await BarStore(database).merge(replace(synthetic(9000), symbol="BTCUSDT"), source="t")
    file = _spec_file(tmp_path, PORTFOLIO)
    here = await _off_loop(up.json, "backtest", "portfolio", file)
    job = await _off_loop(up.json, "backtest", "portfolio", file, "--submit")
    claimed = await JobStore(database).claim()
    assert claimed is not None
    await run_one(database, claimed.id, up.home / "strategies")
    there = await _off_loop(up.json, "backtest", "result", job["id"])
    assert (there["schema"], there["fills_hash"]) == ("fks.portfolio_backtest/1", here["fills_hash"])
    assert there["inputs_hash"] == here["inputs_hash"]
    again = await _off_loop(up.json, "backtest", "portfolio", file, "--submit")
    assert (again["id"], again["is_stored"]) == (job["id"], True)
    assert "portfolio" in (await _off_loop(up, "backtest", "list"))[1]
    report = tmp_path / "job.html"
    assert "portfolio of 1 instruments" in (await _off_loop(up, "backtest", "result", job["id"]))[1]
    assert (await _off_loop(up, "backtest", "result", job["id"], "--report", str(report)))[0] == OK
    assert "backtest of a portfolio" in report.read_text()
    code, _, err = await _off_loop(up, "backtest", "compare", job["id"], job["id"])
    assert (code, "is the result of a portfolio" in err) == (USAGE, True)
    wrong = _spec_file(tmp_path, PORTFOLIO.replace("BTC/USDT", "NOPE/USDT"), "wrong.toml")
    assert (await _off_loop(up, "backtest", "portfolio", wrong, "--submit"))[0] != OK
