"""Settings without an effect are accepted and reported; every other setting is read somewhere."""

from __future__ import annotations

import re
from pathlib import Path

from fks.config.load import load, sections
from fks.config.unread import UNREAD, warnings_of

ROOT = Path(__file__).resolve().parents[3]


def _warnings(home: Path, text: str, env: dict[str, str] | None = None) -> list[str]:
    home.mkdir(exist_ok=True)
    (home / "fks.toml").write_text(text)
    loaded = load(home, env or {})
    return list(warnings_of(loaded.settings, loaded.sources))


def test_setting_that_nothing_reads_is_named_with_its_place(tmp_path: Path) -> None:
    found = _warnings(tmp_path, "[log]\njson_lines = false\n", {"OPENAI_API_KEY": "sk-secret-of-somebody"})
    assert len(found) == 1, "the key is read"
    assert "log.json_lines (fks.toml:2) has no effect: " in found[0]


def test_setting_of_a_part_that_is_off_is_named(tmp_path: Path) -> None:
    assert _warnings(tmp_path, '[sim]\nenabled = false\ntape = "sample"\n') == [
        "sim.tape (fks.toml:3) has no effect: sim.enabled is false, so no local exchange runs"
    ]
    assert _warnings(tmp_path, '[sim]\ntape = "sample"\n') == []


def test_defaults_give_no_warning(tmp_path: Path) -> None:
    assert _warnings(tmp_path, "") == []


def test_every_setting_is_read_or_listed_as_unread() -> None:
    files = [*ROOT.glob("fks/**/*.py"), *ROOT.glob("actors/*.py"), ROOT / "serve_app.py"]
    code = "\n".join(f.read_text() for f in files if f.name != "unread.py")
    unused = {
        (section, key)
        for section, model in sections().items()
        for key in model.model_fields
        if not re.search(rf"\.{key}\b", code)
    }
    expected = {
        (section, key)
        for section, model in sections().items()
        for key in model.model_fields
        if (section, key) in UNREAD
    }
    # a name such as `password` occurs elsewhere, so that the search finds it; none may be unused without being listed
    assert unused <= expected
    assert ("log", "json_lines") in unused
