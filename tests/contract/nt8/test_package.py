"""The zip that NinjaTrader 8 imports."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.support import mono

METHODS = (
    "CreateOrder Submit SubmitLocal Change Cancel Flatten EnterLong EnterShort ExitLong ExitShort AtmStrategyCreate"
)
CALLS = re.compile(rf"\b({METHODS.replace(' ', '|')})\s*\(")


def _build(target: Path) -> bytes:
    command = [sys.executable, str(mono.NT8 / "build.py"), str(target)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
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


def test_relay_contains_no_order_call() -> None:
    text = (mono.NT8 / "Indicators" / "FKSSignalRelay.cs").read_text()
    assert not CALLS.search(text)
    assert ": Indicator" in text


def test_strategy_places_no_order_of_its_own() -> None:
    text = (mono.NT8 / "Strategies" / "FKSAutomatedStrategy.cs").read_text()
    assert set(CALLS.findall(text)) == {"SubmitLocal"}
    assert "SynchronizeAccount" not in text
    assert "State != State.Realtime" in text
