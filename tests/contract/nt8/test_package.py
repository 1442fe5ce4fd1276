"""The zip that NinjaTrader 8 imports, and the command that writes it."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from pathlib import Path

import pytest

from fks.interfaces.cli import cli
from fks.interfaces.cli.base import OK, USAGE, run
from tests.support import mono

METHODS = (
    "CreateOrder Submit SubmitLocal Change Cancel Flatten EnterLong EnterShort ExitLong ExitShort AtmStrategyCreate"
)
CALLS = re.compile(rf"\b({METHODS.replace(' ', '|')})\s*\(")


def _build(target: Path) -> bytes:
    assert run(cli, ["ninja", "package", str(target)]) == OK
    return target.read_bytes()


def test_zip_has_the_layout_of_an_export(tmp_path: Path) -> None:
    first = _build(tmp_path / "a.zip")
    assert first == _build(tmp_path / "b.zip"), "equal sources give an equal file"
    raw = [info.orig_filename for info in zipfile.ZipFile(tmp_path / "a.zip").infolist()]
    assert "Info.xml" in raw
    assert "AddOns\\FKSBridge.cs" in raw
    assert {name.split("\\")[0] for name in raw} == {"AddOns", "Indicators", "Strategies", "Info.xml"}
    assert not [name for name in raw if name.endswith(("/", "\\")) or "stubs" in name or "tests" in name]


def test_files_of_the_zip_have_the_mark_and_crlf(tmp_path: Path) -> None:
    _build(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        for info in archive.infolist():
            content = archive.read(info)
            assert content.startswith(b"\xef\xbb\xbf"), info.filename
            assert content.count(b"\n") == content.count(b"\r\n"), info.filename


def test_command_names_file_content_and_digest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "a.zip"
    assert run(cli, ["ninja", "package", str(target), "--json"]) == OK
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "fks.ninja.package/1"
    assert document["sha256"] == hashlib.sha256(target.read_bytes()).hexdigest()
    every = {f"{part}\\{path.name}" for part in mono.PARTS for path in (mono.NT8 / part).glob("*.cs")}
    assert set(document["entries"]) == every | {"Info.xml"}


def test_folder_without_sources_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["ninja", "package", str(tmp_path / "a.zip"), "--source", str(tmp_path)]) == USAGE
    assert "Info.xml" in capsys.readouterr().err
    assert not (tmp_path / "a.zip").exists()


def test_relay_contains_no_order_call() -> None:
    text = (mono.NT8 / "Indicators" / "FKSSignalRelay.cs").read_text()
    assert not CALLS.search(text)
    assert ": Indicator" in text


def test_strategy_places_no_order_of_its_own() -> None:
    text = (mono.NT8 / "Strategies" / "FKSAutomatedStrategy.cs").read_text()
    assert set(CALLS.findall(text)) == {"SubmitLocal"}
    assert "SynchronizeAccount" not in text
    assert "State != State.Realtime" in text
