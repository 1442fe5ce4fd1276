"""Declared dependencies are used: each one is imported by the library, or located by its name."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


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
    declared = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    modules: dict[str, set[str]] = {}
    for module, distributions in packages_distributions().items():
        for name in distributions:
            modules.setdefault(canonicalize_name(name), set()).add(module)
    used = _used()
    assert {name for name in declared if not modules.get(name, set()) & used} == set()


def test_every_dependency_ends_before_a_version_that_was_not_tested() -> None:
    """`pip install` of the wheel, without constraints.txt, gets no major version that FKS never ran with."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = re.findall(r"^([^#=\s]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    tested = {canonicalize_name(name): version for name, version in lines}
    wanted = [Requirement(line) for line in project["dependencies"]]
    assert [str(one) for one in wanted if not {part.operator for part in one.specifier} & {"==", "<"}] == []
    assert [str(one) for one in wanted if not one.specifier.contains(tested[canonicalize_name(one.name)])] == []
