"""Declared dependencies are used: each one is imported by the library, or located by its name."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts import hashes

ROOT = Path(__file__).parents[2]


def _used(names: set[str]) -> set[str]:
    """Return those of the names that the library imports as a top-level module, or locates as text."""
    found: set[str] = set()
    for path in [*(ROOT / "fks").rglob("*.py"), *(ROOT / "actors").rglob("*.py"), ROOT / "serve_app.py"]:
        text = path.read_text()
        if not any(name in text for name in names - found):
            continue  # parsing takes longer than anything else here
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
            elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                found.add(str(node.args[0].value))
    return found & names


def test_every_declared_dependency_is_used() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    modules: dict[str, set[str]] = {}
    for module, distributions in packages_distributions().items():
        for name in distributions:
            modules.setdefault(canonicalize_name(name), set()).add(module)
    used = _used(set().union(*(modules.get(name, set()) for name in declared)))
    assert {name for name in declared if not modules.get(name, set()) & used} == set()


def test_every_dependency_ends_before_a_version_that_was_not_tested() -> None:
    """`pip install` of the wheel, without constraints.txt, gets no major version that FKS never ran with."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = re.findall(r"^([^#=\s]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    tested = {canonicalize_name(name): version for name, version in lines}
    wanted = [Requirement(line) for line in project["dependencies"]]
    assert [str(one) for one in wanted if not {part.operator for part in one.specifier} & {"==", "<"}] == []
    assert [str(one) for one in wanted if not one.specifier.contains(tested[canonicalize_name(one.name)])] == []


def test_every_installed_package_has_its_hash_and_tested_version() -> None:
    """`python scripts/hashes.py` after a change of constraints.txt or of the project's dependencies."""
    tested = hashes.pins((ROOT / "constraints.txt").read_text())
    for name, needed in hashes.files().items():
        blocks = (hashes.FOLDER / f"{name}.txt").read_text().replace("\\\n", " ").splitlines()[1:]
        found = {}
        for block in blocks:
            package, *sums = block.split()
            assert sums, block
            assert all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", one) for one in sums), block
            found |= hashes.pins(package)
        assert found == {package: tested[package] for package in needed}, name


def test_build_backend_is_the_one_that_has_a_hash() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert wanted == [f"setuptools=={hashes.pins((hashes.FOLDER / 'build.txt').read_text())['setuptools']}"]
