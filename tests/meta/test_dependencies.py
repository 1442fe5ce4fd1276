"""Declared dependencies are used: each one is imported by the library, or located by its name."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _used() -> set[str]:
    """Return the top-level modules that the library imports, and the names that it locates as text."""
    found: set[str] = set()
    for path in [*(ROOT / "fks").rglob("*.py"), *(ROOT / "actors").rglob("*.py"), ROOT / "serve_app.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
            elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                found.add(str(node.args[0].value))
    return found


def test_every_declared_dependency_is_used() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {_normalised(re.split(r"[\[<>=;! ]", line)[0]) for line in project["dependencies"]}
    modules: dict[str, set[str]] = {}
    for module, distributions in packages_distributions().items():
        for name in distributions:
            modules.setdefault(_normalised(name), set()).add(module)
    used = _used()
    assert {name for name in declared if not modules.get(name, set()) & used} == set()
