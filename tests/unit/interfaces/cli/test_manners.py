"""Common behaviour of all commands: help without an error, complete tables, a pipe that may close."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from fks.interfaces.cli import cli
from fks.interfaces.cli.base import FAILED, OK, USAGE, result, run, table
from fks.interfaces.cli.client import error_of, path_of
from fks.interfaces.cli.shown import money_of, price_of

ROOT = Path(__file__).resolve().parents[4]


@pytest.mark.parametrize("argv", [[], ["orders"], ["sim", "faults"]])
def test_a_group_without_its_command_is_help_and_not_an_error(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cli, argv) == USAGE
    output = capsys.readouterr().err
    assert output.startswith("Usage: fks")
    assert "error:" not in output


def test_negative_quantity_gets_its_own_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["orders", "place", "buy", "-0.01", "BTCUSDT"]) == USAGE
    assert "-0.01 is negative" in capsys.readouterr().err


def test_a_setting_that_is_not_there_is_wrong_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FKS_HOME", str(tmp_path))
    assert run(cli, ["config", "show", "nonsense"]) == USAGE
    assert "fks config reference" in capsys.readouterr().err


def test_a_table_shows_brackets_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    table([("[http] [red]port[/red]", "\x1b[31mred\x1b[0m")], ("WHAT", "HOW"))
    output = capsys.readouterr().out
    assert "[http] [red]port[/red]" in output
    assert "\x1b" not in output


def test_a_closed_pipe_is_no_failure(tmp_path: Path) -> None:
    """`fks … | head`, when the reader is gone before the first line."""
    reading, writing = os.pipe()
    os.close(reading)
    script = "import sys; from fks.interfaces.cli import cli; from fks.interfaces.cli.base import run; sys.exit(run(cli, ['config', 'reference']))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
        env={"PATH": "/usr/bin:/bin", "FKS_HOME": str(tmp_path)},
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (OK, "")


def test_denial_prints_the_meaning_of_its_code() -> None:
    problem = {"code": "KILLED", "detail": "system: engaged, limit not engaged", "status": 422}
    assert "KILLED: the kill switch is engaged" in str(error_of(422, problem))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("61157.820724258697", "61157.82"),
        ("61375", "61375.00"),
        ("2941.219662464855", "2941.22"),
        ("0.000012345678", "0.00001234568"),
        ("0", "0.00"),
        (None, ""),
    ],
)
def test_prices_are_shown_as_people_read_them(text: str | None, shown: str) -> None:
    assert price_of(text) == shown
    assert (money_of("-0.00008758909599670386"), money_of("-1.156899"), money_of(None)) == ("0.00", "-1.16", "")


def test_health_check_prints_one_line_and_an_exit_code() -> None:
    for document, line, code in (
        ('{"state": "healthy", "components": [1]}', "healthy", 0),
        ('{"state": "degraded", "components": [1], "reasons": ["orders is down"]}', "degraded: orders is down", 1),
        ('{"state": "down", "components": [], "reasons": []}', "not running: make up", 3),
    ):
        done = subprocess.run(
            [sys.executable, "scripts/health.py"], cwd=ROOT, input=document, capture_output=True, text=True, timeout=30
        )
        assert (done.stdout.strip(), done.returncode) == (line, code)


def test_a_name_in_a_path_may_hold_any_character() -> None:
    assert path_of("webhooks", "a/b ?#é", "rotate") == "/webhooks/a%2Fb%20%3F%23%C3%A9/rotate"


@pytest.mark.parametrize(("state", "code"), [("fail", FAILED), ("ok", OK)])
def test_a_document_that_has_failed_has_its_exit_code(state: str, code: int) -> None:
    @click.command()
    @result("fks.probe/1", "{0[state]}", failed=lambda found: found["state"] == "fail")
    def probe(ctx: click.Context) -> dict[str, str]:
        return {"state": state}

    assert [run(probe, argv) for argv in ([], ["--json"])] == [code, code]
