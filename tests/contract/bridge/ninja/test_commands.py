"""`fks ninja test` and `fks ninja tail` against a scripted bridge."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from fks.interfaces.cli import cli
from fks.interfaces.cli.base import NOT_RUNNING, OK, USAGE, run
from tests.support.free_port import free_port
from tests.support.ninja import SECRET, log_event, put_secret
from tests.support.ninja_server import ScriptedBridge
from tests.support.waiting import until


@pytest.fixture
def home(tmp_path: Path) -> Path:
    put_secret(tmp_path / "ninja.key", SECRET + b"\r\n")
    return tmp_path


async def fks(home: Path, port: int, *arguments: str) -> int:
    (home / "fks.toml").write_text(f"[ninja]\nport = {port}\ntimeout_s = 2.0\n")
    return await asyncio.to_thread(run, cli, ["--home", str(home), "ninja", *arguments])


async def test_the_check_prints_what_the_bridge_reports(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with ScriptedBridge() as bridge:
        assert await fks(home, bridge.port, "test", "--pings", "3") == OK
    out = capsys.readouterr().out
    assert "group sim" in out
    assert "halted no" in out
    assert "Sim101" in out
    assert "round trip p50" in out
    assert [line["role"] for line in bridge.received if line["t"] == "hello"] == ["observe"]


async def test_the_check_as_json_has_no_proof_of_the_secret(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with ScriptedBridge() as bridge:
        assert await fks(home, bridge.port, "test", "--json", "--pings", "2") == OK
    out = capsys.readouterr().out
    document = json.loads(out)
    assert document["schema"] == "fks.ninja.test/1"
    assert document["status"]["accounts"][0]["values"] == {"CashValue": "100000"}
    assert "mac" not in document["welcome"]
    assert SECRET.decode() not in out


async def test_without_a_bridge_the_command_ends_as_not_running(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await fks(home, free_port(), "test") == NOT_RUNNING
    assert "no connection to NinjaTrader" in capsys.readouterr().err


async def test_a_missing_secret_names_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await fks(tmp_path, 9, "test") == USAGE
    assert str(tmp_path / "ninja.key") in capsys.readouterr().err


async def test_tail_shows_live_events_and_kept_ones_when_asked(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill = log_event(
        1,
        kind="exec",
        name="FKS:a1:E",
        exec_id="X1",
        op="add",
        side="buy",
        qty=1,
        price=4500,
        time_ms=1,
        account="Sim101",
    )
    async with ScriptedBridge(events=[fill, log_event(2)]) as bridge:
        assert await fks(home, bridge.port, "tail", "--replay", "--count", "2", "--json") == OK
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["kind"] for line in lines] == ["exec", "halt"]
        watching = asyncio.create_task(fks(home, bridge.port, "tail", "--count", "1"))
        await until(lambda: bridge.connections == 2 and bridge.received[-1]["t"] == "ping")
        bridge.publish(log_event(3))
        assert await watching == OK
    out = capsys.readouterr().out
    assert "halt" in out
    assert "exec" not in out
