"""The command that lists the ways to send orders."""

from __future__ import annotations

import json

import pytest

from fks.cli import cli
from fks.cli.base import run
from fks.venues.ccxt.dialects import NAMES


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = run(cli, ["venues", "list", *arguments])
    return code, capsys.readouterr().out


def test_each_way_is_listed_with_its_capabilities(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = listed(capsys, "--json")
    assert code == 0
    items = json.loads(out)["items"]
    assert [row["exchange"] for row in items] == ["", "binance", "binance", *NAMES, "ninja"]
    assert [row["exchange"] for row in items if not row["is_tradable"]] == ["bybit", "coinbase", "okx"]
    assert {row["exchange"] for row in items if "oco" in row["can"]} == {"", "binance"}
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
