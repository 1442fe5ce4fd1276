"""Names that users, stored rows or processes of another build have: a move of packages does not change them."""

from __future__ import annotations

import ast
import re
import tomllib

from fks.ai import forecast
from fks.store import bus
from fks.strategies import registry
from fks.trading.venues import plugins
from scripts.architecture import ROOT, imports


def test_channels_of_redis_keep_their_names() -> None:
    found = {value for name, value in vars(bus).items() if name.isupper() and str(value).startswith("fks.")}
    topics = "bars signals orders fills feeds alerts kill health orders.wake jobs budgets"
    assert found == {f"fks.{topic}" for topic in topics.split()}


def test_entry_points_keep_their_groups() -> None:
    assert (plugins.GROUP, registry.GROUP, forecast.TRAINERS) == ("fks.venues", "fks.strategies", "fks.trainers")
    for file in ROOT.glob("scripts/*/pyproject.toml"):
        assert list(tomllib.loads(file.read_text())["project"]["entry-points"]) == ["fks.venues"], file
    assert "fks.runtime" in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]


def test_no_schema_of_json_has_the_name_of_a_district() -> None:
    schema = re.compile(r"fks\.([\w.-]+)/\d+")
    districts = imports().keys() - {"config", "data", "indicators", "strategies"}  # commands have these names, too
    names = {
        found[1]
        for file in (ROOT / "fks").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for found in schema.finditer(node.value)
    }
    assert len(names) > 100
    assert {name for name in names if name.partition(".")[0] in districts} == set()
