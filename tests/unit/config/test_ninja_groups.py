"""Groups of NinjaTrader: the section's own bridge, those of tables, and refused settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from fks.config.load import load
from fks.model.errors import ConfigError


def write(home: Path, text: str) -> Path:
    (home / "fks.toml").write_text(text)
    return home


def test_no_link_runs_unless_one_is_enabled(tmp_path: Path) -> None:
    assert load(tmp_path, {}).settings.ninja.links() == {}
    assert load(tmp_path, {"NINJATRADER_HOST": "10.0.0.5"}).settings.ninja.links() == {}


def test_the_names_of_the_replaced_service_set_the_single_bridge(tmp_path: Path) -> None:
    names = {"NINJATRADER_HOST": "10.0.0.5", "NINJATRADER_PORT": "9000", "NINJATRADER_TIMEOUT": "3"}
    links = load(tmp_path, {**names, "FKS_NINJA_ENABLED": "true", "FKS_NINJA_GROUP": "main"}).settings.ninja.links()
    assert {name: (of.host, of.port, of.timeout_s) for name, of in links.items()} == {"main": ("10.0.0.5", 9000, 3.0)}


def test_each_table_is_a_bridge_of_its_own(tmp_path: Path) -> None:
    home = write(
        tmp_path,
        """[ninja]
enabled = true
required = true

[ninja.groups.topstep]
host = "10.0.0.6"
secret_file = "/keys/topstep"

[ninja.groups.old]
enabled = false
""",
    )
    links = load(home, {}).settings.ninja.links()
    assert sorted(links) == ["sim", "topstep"]
    assert (links["topstep"].host, links["topstep"].port, links["topstep"].secret_file, links["topstep"].required) == (
        "10.0.0.6", 8080, "/keys/topstep", False,
    )  # fmt: skip
    assert links["sim"].required


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[ninja]\nenabled = true\n[ninja.groups.sim]\nhost = "10.0.0.6"\n', "there twice"),
        ("[ninja.groups.a]\n[ninja.groups.b]\n", "two groups have the bridge 127.0.0.1:8080"),
        ('[ninja.groups."a b"]\n', "1 to 32 letters"),
        ("[ninja.groups.a]\nhots = 1\n", "groups"),
        ('[ninja]\ngroup = "a/b"\n', "1 to 32 letters"),
    ],
)
def test_groups_that_cannot_be_are_refused_with_the_reason(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        load(write(tmp_path, text), {})
