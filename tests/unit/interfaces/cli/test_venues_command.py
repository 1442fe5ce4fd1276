"""The command that lists the ways to send orders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fks.interfaces.cli import cli
from fks.interfaces.cli.base import USAGE, run
from fks.trading.venues.ccxt.dialects import NAMES
from tests.support.venue_plugin import PACKAGE, VERSION, installed


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A home in which nothing runs."""
    monkeypatch.setenv("FKS_HOME", str(tmp_path))


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = run(cli, ["venues", "list", *arguments])
    return code, capsys.readouterr().out


def test_each_way_is_listed_with_its_capabilities(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = listed(capsys, "--json")
    assert code == 0
    items = json.loads(out)["items"]
    assert json.loads(out)["venues"] is None, "nothing runs"
    assert [row["exchange"] for row in items] == ["", "binance", "binance", *NAMES, "ninja", "mt5"]
    assert [row["exchange"] for row in items if not row["is_tradable"]] == ["bybit", "okx"]
    assert {row["exchange"] for row in items if "oco" in row["can"]} == {"", "binance", "coinbase", "okx"}
    held = [(row["exchange"], row["session"]) for row in items if "protection with the entry" in row["can"]]
    attached = [(exchange, "ccxt") for exchange in ("coinbase", "kraken", "okx")]
    assert held == [("binance", "binance"), *attached, ("ninja", "link"), ("mt5", "link")]
    assert {row["exchange"] for row in items if "good till date" in row["can"]} == {"kraken", "ninja", "mt5"}
    for row in items:
        assert row["order_types"]
        assert sum(row["bases"].values()) == len(row["facts"])
        assert {fact["basis"] for fact in row["facts"]} <= {"documented", "recorded", "stand-in", "live"}


def test_the_facts_of_one_exchange_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = listed(capsys, "--exchange", "kraken")
    assert code == 0
    assert "cl_ord_id" in out
    assert "documented" in out
    assert "binance" not in out
    assert listed(capsys, "--exchange", "mtgox") == (0, "nothing yet\n")


def test_plugins_are_listed_with_their_package_and_a_bad_one_with_its_reason(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FKS_VENUES_PLUGINS", "template,mtgox")
    with installed(tmp_path / "site"):
        code, out = listed(capsys, "--json")
    rows = {row["exchange"]: row for row in json.loads(out)["items"]}
    assert code == 0
    assert (rows["template"]["plugin"], rows["template"]["version"]) == (PACKAGE, VERSION)
    assert (rows["template"]["is_tradable"], rows["template"]["has_cases"]) == (True, True)
    assert not rows["mtgox"]["is_tradable"]
    assert "is not installed" in rows["mtgox"]["facts"][0]["text"]
    assert {rows[name]["plugin"] for name in NAMES} == {""}


def test_cases_of_an_exchange_that_is_unknown_or_bad_are_not_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FKS_VENUES_PLUGINS", "mtgox")
    assert run(cli, ["venues", "conformance", "atlantis"]) != 0
    assert "there is no exchange atlantis" in capsys.readouterr().err
    assert run(cli, ["venues", "conformance", "mtgox"]) == USAGE
    assert "is not installed" in capsys.readouterr().err
    assert run(cli, ["venues", "conformance", "okx"]) == USAGE
    assert "has no cases" in capsys.readouterr().err
    assert run(cli, ["venues", "conformance", "kraken", "--case", "V-99"]) == USAGE
