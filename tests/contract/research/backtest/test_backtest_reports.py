"""Files that `fks backtest run` and `compare` write, and their output, as a person uses them on the shipped sample."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from fks.interfaces.cli import backtest, cli
from fks.interfaces.cli.base import OK, USAGE, run

SPAN = ("--from", "2026-03-02", "--to", "2026-03-09", "--tape", "sample")


@dataclass
class Shell:
    """Runs `fks backtest …` in a home of its own."""

    home: Path
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        code = run(cli, ["--home", str(self.home), "backtest", *arguments])
        out, err = self.capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    @property
    def reports(self) -> list[Path]:
        return sorted((self.home / "reports" / "backtests").glob("*.html"))


@pytest.fixture
def fks(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    for name in [name for name in os.environ if name.startswith("FKS_") and name != "FKS_REQUIRE_ALL"]:
        monkeypatch.delenv(name)
    return Shell(tmp_path / "home", capsys)


def saved(fks: Shell, file: Path, *arguments: str) -> dict[str, Any]:
    code, out, err = fks("run", *arguments, *SPAN, "--json")
    assert code == OK, err
    file.write_text(out)
    found: dict[str, Any] = orjson.loads(out)
    return found


def test_a_run_writes_its_report_and_prints_the_path(fks: Shell) -> None:
    code, out, _ = fks("run", "sma_cross", *SPAN)
    (file,) = fks.reports
    assert (code, f"report: {file}" in out) == (OK, True)
    assert file.name.startswith("sma_cross-BTCUSDT-1m-")
    assert file.read_text().startswith("<!doctype html>")
    before = file.read_bytes()
    assert fks("run", "sma_cross", *SPAN)[0] == OK  # the same inputs: the same file
    assert [path.read_bytes() for path in fks.reports] == [before]


def test_a_report_goes_where_it_is_asked_or_nowhere(fks: Shell, tmp_path: Path) -> None:
    file = tmp_path / "deep" / "mine.html"
    assert f"report: {file}" in fks("run", "rsi", *SPAN, "--report", str(file))[1]
    assert file.is_file()
    for silent in (("--no-report",), ("--json",)):
        assert "report:" not in "".join(fks("run", "rsi", *SPAN, *silent)[1:])
    code, out, err = fks("run", "rsi", *SPAN, "--json", "--report", str(file))
    assert (code, orjson.loads(out)["schema"], f"report: {file}" in err) == (OK, "fks.backtest/1", True)
    assert fks.reports == []
    assert fks("run", "rsi", *SPAN, "--report", str(file), "--no-report")[0] == USAGE


def test_a_home_that_cannot_be_written_does_not_fail_the_run(fks: Shell, tmp_path: Path) -> None:
    fks.home.mkdir()
    (fks.home / "reports").write_text("a file where the folder should be")
    code, _, err = fks("run", "rsi", *SPAN)
    assert (code, "note: no report was written" in err) == (OK, True)


def test_only_the_newest_reports_are_kept(fks: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backtest, "REPORTS_MAX", 2)
    for period in (5, 6, 7):
        assert fks("run", "rsi", *SPAN, "--set", f"period={period}")[0] == OK
    assert len(fks.reports) == 2


def test_trades_are_written_to_csv_or_parquet(fks: Shell, tmp_path: Path) -> None:
    import pandas

    document = saved(fks, tmp_path / "a.json", "sma_cross")
    for name in ("t.csv", "t.parquet"):
        code, out, _ = fks("run", "sma_cross", *SPAN, "--no-report", "--trades", str(tmp_path / name))
        assert (code, f"trades: {tmp_path / name}" in out) == (OK, True)
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert [line.split(",")[7] for line in lines[1:]] == [trade["pnl"] for trade in document["trades"]]
    assert len(pandas.read_parquet(tmp_path / "t.parquet")) == len(document["trades"])
    code, out, err = fks("run", "sma_cross", *SPAN, "--trades", "t.xls")
    assert (code, out, "name a .csv or a .parquet file" in err) == (USAGE, "", True)


def test_the_summary_shows_risk_and_months(fks: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("run", "sma_cross", "--tape", "sample", "--timeframe", "1h", "--no-report")
    for columns in ("120", "60"):
        monkeypatch.setenv("COLUMNS", columns)
        out = fks(*arguments)[1]
        for part in ("sortino", "calmar", "longest drawdown", "VaR 95 %, a day", "Mar ", "May ", "year "):
            assert part in out
        assert max(map(len, out.splitlines()[3:])) <= int(columns) + 2


def test_a_result_of_an_earlier_version_is_shown(
    fks: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = saved(fks, tmp_path / "a.json", "sma_cross")
    backtest.show({key: value for key, value in document.items() if key not in ("metrics", "months")})
    out = capsys.readouterr().out
    assert "sortino" in out
    assert "max drawdown" in out


def test_a_chart_is_as_high_as_its_values() -> None:
    assert backtest.chart([], 10, 2) == []
    assert backtest.chart([0.0, 1.0], 10, 2) == [" █", "▁█"]
    assert backtest.chart([5.0] * 4, 10, 1) == ["▁▁▁▁"]
    assert [len(line) for line in backtest.chart([float(i) for i in range(1000)], 40, 3)] == [40, 40, 40]


def test_results_are_compared_in_the_terminal_as_json_and_as_a_page(fks: Shell, tmp_path: Path) -> None:
    files = [str(tmp_path / "one.json"), str(tmp_path / "two.json")]
    first = saved(fks, Path(files[0]), "sma_cross")
    second = saved(fks, Path(files[1]), "sma_cross", "--set", "fast=5")
    code, out, _ = fks("compare", *files)
    (page,) = fks.reports
    assert (code, f"report: {page}" in out) == (OK, True)
    for part in ("one", "two", "max drawdown", "inputs that differ:", "fast"):
        assert part in out
    code, out, _ = fks("compare", *files, "--json")
    found = orjson.loads(out)
    assert (code, found["schema"], found["runs"]) == (OK, "fks.backtest_comparison/1", ["one", "two"])
    rows = {row["name"]: row["values"] for row in found["rows"]}
    assert rows["sharpe"] == [first["metrics"]["sharpe"], second["metrics"]["sharpe"]]
    assert fks("compare", files[0], files[0], "--no-report")[1].count("one (2)") >= 1


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (["nowhere.json", "x"], "nowhere.json is neither a file nor the id of a backtest"),
        (["{tmp}/text.json"] * 2, "is no result of 'fks backtest run --json'"),
        (["{tmp}/other.json"] * 2, "other is no result of a backtest: it has no strategy"),
    ],
)
def test_what_is_no_result_is_not_compared(fks: Shell, tmp_path: Path, runs: list[str], message: str) -> None:
    (tmp_path / "text.json").write_text("hello")
    (tmp_path / "other.json").write_text('{"schema": "fks.status/1"}')
    code, out, err = fks("compare", *(text.format(tmp=tmp_path) for text in runs))
    assert (code, out) == (USAGE, "")
    assert message in err
