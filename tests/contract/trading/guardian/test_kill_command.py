"""fks kill and fks resume against a real guardian, and without one."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from fks.config.paths import Paths
from fks.interfaces.cli import cli
from fks.interfaces.cli import kill as kill_module
from fks.interfaces.cli.base import run
from fks.trading.guardian.journal import read_kill, read_kills
from tests.support.guarded_trading import write_positions
from tests.support.guardian_process import GuardianProcess
from tests.support.local_exchange import LocalExchange


@pytest.fixture
def home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An FKS_HOME whose guardian socket is the test's."""
    monkeypatch.setattr(Paths, "guardian_socket", property(lambda self: folder / "g.sock"))
    return folder


def fks(*arguments: str, home: Path) -> int:
    return run(cli, ["--home", str(home), *arguments])


async def test_kill_and_resume(exchange: LocalExchange, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_positions(home, [["ccxt", 1, "BTCUSDT", "s1", "0.5"]])
    process = GuardianProcess(exchange, home).start()
    try:
        assert await asyncio.to_thread(fks, "kill", "--reason", "drill", "--json", home=home) == 0
        answer = json.loads(capsys.readouterr().out)
        assert (answer["schema"], answer["engaged"], answer["is_quiet"], answer["reason"]) == (
            "fks.kill/1",
            True,
            True,
            "drill",
        )
        assert [item["filled"] for item in answer["orders"]] == ["0.50000000"]
        assert await asyncio.to_thread(fks, "kill", "--yes", home=home) == 0
        shown = capsys.readouterr().out
        assert "joined the kill" in shown
        assert "BTCUSDT" in shown
        assert read_kill(home / "kill.jsonl") is not None
        assert await asyncio.to_thread(fks, "resume", "--json", home=home) == 0
        assert json.loads(capsys.readouterr().out)["engaged"] is False
        assert await asyncio.to_thread(fks, "resume", home=home) == 0
        assert "no kill was engaged" in capsys.readouterr().out
    finally:
        process.stop()


async def test_kill_and_resume_of_one_scope(
    exchange: LocalExchange, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_positions(home, [["ccxt", 1, "BTCUSDT", "s1", "0.5"], ["ccxt", 1, "BTCUSDT", "s2", "0.2"]])
    process = GuardianProcess(exchange, home).start()
    try:
        assert await asyncio.to_thread(fks, "kill", "--strategy", "s1", "--json", home=home) == 0
        answer = json.loads(capsys.readouterr().out)
        assert (answer["scope"], [item["instance"] for item in answer["orders"]]) == ("strategy:s1", ["s1"])
        assert await asyncio.to_thread(fks, "kill", "--venue", "ccxt", "--no-flatten", "--yes", home=home) == 0
        shown = capsys.readouterr().out
        assert "the kill switch is engaged for venue:ccxt" in shown
        assert "'fks resume --strategy s1' releases it" in shown
        assert await asyncio.to_thread(fks, "resume", "--venue", "ccxt", home=home) == 0
        assert "engaged for strategy:s1, too" in capsys.readouterr().out
        assert [record.scope for record in read_kills(home / "kill.jsonl")] == ["strategy:s1"]
        assert await asyncio.to_thread(fks, "status", "--json", home=home) == 3
        assert json.loads(capsys.readouterr().out)["kill"]["scopes"] == ["strategy:s1"]
        assert await asyncio.to_thread(fks, "kill", "--venue", "typo", "--yes", home=home) == 1
        assert await asyncio.to_thread(fks, "kill", "--venue", "a", "--account", "b", "--yes", home=home) == 2
    finally:
        process.stop()


def test_without_a_guardian(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kill_module, "CONNECT_S", 0.3)
    for command in ("kill", "resume"):
        assert fks(command, home=home) == 3
        error = capsys.readouterr().err
        assert "guardian cannot be reached" in error
        assert "fks up" in error
        assert "Traceback" not in error


@pytest.mark.parametrize("command", ["kill", "resume"])
@pytest.mark.parametrize("option", ["--venue", "--account", "--strategy"])
def test_option_without_a_name_is_not_the_whole_system(
    home: Path, capsys: pytest.CaptureFixture[str], command: str, option: str
) -> None:
    """As in a script with an unset variable."""
    assert fks(command, option, "", home=home) == 2
    assert "needs a name" in capsys.readouterr().err
