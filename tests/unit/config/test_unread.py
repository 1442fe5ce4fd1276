"""Settings without an effect, and removed ones, are accepted and reported; every setting is read somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import orjson
import pytest

from fks.config.load import load, sections
from fks.config.paths import Paths
from fks.config.settings import Settings
from fks.config.unread import REMOVED, warnings_of
from fks.system.runtime import IsolatedComponent, isolated_settings

ROOT = Path(__file__).resolve().parents[3]


def _warnings(home: Path, text: str, env: dict[str, str] | None = None) -> list[str]:
    home.mkdir(exist_ok=True)
    (home / "fks.toml").write_text(text)
    loaded = load(home, env or {})
    return [*loaded.warnings, *warnings_of(loaded.settings, loaded.sources)]


@pytest.mark.parametrize(
    ("toml", "dotenv", "env", "source", "remedy"),
    [
        ("[log]\njson_lines = false\n", "", {}, "fks.toml:2", "delete the line"),
        ("", "\nFKS_LOG_JSON_LINES=maybe\n", {}, ".env:2 FKS_LOG_JSON_LINES", "delete the line"),
        ("", "", {"FKS_LOG_JSON_LINES": "0"}, "env FKS_LOG_JSON_LINES", "unset it"),
    ],
)
def test_removed_setting_is_accepted_with_one_warning(
    tmp_path: Path, toml: str, dotenv: str, env: dict[str, str], source: str, remedy: str
) -> None:
    (tmp_path / ".env").write_text(dotenv)
    assert _warnings(tmp_path, toml, env) == [
        f"log.json_lines ({source}): was removed and has no effect: the files under FKS_HOME/logs are always JSON "
        f"lines; {remedy}"
    ]
    assert load(tmp_path, env).sources == {}


def test_removed_setting_of_an_older_supervisor_is_ignored(tmp_path: Path) -> None:
    given = orjson.loads(isolated_settings(Settings(), 512))
    given["log"] |= {"json_lines": True, "level": "DEBUG"}
    component = IsolatedComponent.open("inference:m:0", Paths.of(tmp_path), orjson.dumps(given).decode())
    assert component.settings.log.level == "DEBUG"
    assert component.settings.supervision.memory_max_mb == 512


def test_no_removed_setting_is_a_setting() -> None:
    assert not [key for key in REMOVED if key[1] in sections()[key[0]].model_fields]


def test_setting_of_a_part_that_is_off_is_named(tmp_path: Path) -> None:
    assert _warnings(tmp_path, '[sim]\nenabled = false\ntape = "sample"\n') == [
        "sim.tape (fks.toml:3) has no effect: sim.enabled is false, so no local exchange runs"
    ]
    assert _warnings(tmp_path, '[sim]\ntape = "sample"\n') == []


def test_defaults_give_no_warning(tmp_path: Path) -> None:
    assert _warnings(tmp_path, "") == []


def test_every_setting_is_read() -> None:
    files = [*ROOT.glob("fks/**/*.py"), *ROOT.glob("actors/*.py"), ROOT / "serve_app.py"]
    code = "\n".join(f.read_text() for f in files if f.name != "unread.py")
    unused = {
        (section, key)
        for section, model in sections().items()
        for key in model.model_fields
        if not re.search(rf"\.{key}\b", code)
    }
    # a name such as `password` occurs elsewhere, so that the search finds it
    assert unused == set()
