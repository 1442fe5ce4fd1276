"""Statements that a process can reach, from its source: each that a function names which live code can call.

A function is live when its name, and that of its class, occur in live code of any module that is imported. So it may
find a statement that no code runs, and misses none whose name stands in the source.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.support.garbage import no_finalizers

ROOT = Path(__file__).parents[2]
SKIPPED = "fks.store.grants"  # it names all


@cache
def _known() -> frozenset[str]:
    """Return the names of all statements."""
    files = {
        file.stem: re.findall(r"^-- name: (\w+)$", file.read_text(), re.MULTILINE)
        for file in (ROOT / "fks/store/sql").glob("*.sql")
    }
    return frozenset(f"{package}.{name}" for package, names in files.items() for name in names)


class _Part(NamedTuple):
    """A part of a module: the names that make it live, those that it uses, and its statements."""

    names: frozenset[str]
    used: frozenset[str]
    statements: frozenset[str]


def statements_of(process: str) -> set[str]:
    """Return the statements that the code of a module can reach, and that of the modules which it imports."""
    modules, waiting = {process}, [process]
    while waiting:
        new = _imports(waiting.pop()) - modules
        modules |= new
        waiting += new
    parts = [part for module in modules for part in _parts(module, is_root=module == process)]
    live: set[str] = set()
    found: set[str] = set()
    while started := [part for part in parts if part.names <= live]:
        parts = [part for part in parts if not part.names <= live]
        live.update(*(part.used for part in started))
        found.update(*(part.statements for part in started))
    return found


@cache
def _file(module: str) -> Path | None:
    place = ROOT / module.replace(".", "/")
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


@cache
def _tree(module: str) -> ast.Module:
    file = _file(module)
    assert file is not None
    with no_finalizers():
        return ast.parse(file.read_text())


@cache
def _imports(module: str) -> set[str]:
    found = set()
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.partition(".")[0] == "fks":
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return {name for name in found if name != SKIPPED and _file(name) is not None}


def _parts(module: str, *, is_root: bool) -> Iterator[_Part]:
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef):
            yield from _parts_of_class(node, is_root=is_root)
            continue
        names = {""}
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names = {node.name}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)}
        for name in names:
            yield _part({name} if name and not is_root else set(), node)


def _parts_of_class(node: ast.ClassDef, *, is_root: bool) -> Iterator[_Part]:
    queries = next((ast.literal_eval(item.value) for item in node.keywords if item.arg == "queries"), None)
    own = set() if is_root else {node.name}
    for base in node.bases:
        yield _part(own, base)
    for member in node.body:
        names, statements = set(own), frozenset[str]()
        if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef):
            if not is_root and not member.name.startswith("__"):
                names.add(member.name)
            if queries and isinstance(member, ast.AsyncFunctionDef):
                statements = _known() & {f"{queries}.{_query_of(member)}"}  # of a method without a body
        yield _part(names, member, statements)


def _query_of(method: ast.AsyncFunctionDef) -> str:
    for mark in method.decorator_list:
        if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name) and mark.func.id == "query":
            given = [*mark.args, *(item.value for item in mark.keywords if item.arg == "name")]
            if given:
                return str(ast.literal_eval(given[0]))
    return method.name


def _part(names: set[str], node: ast.AST, statements: frozenset[str] = frozenset()) -> _Part:
    nodes = list(ast.walk(node))
    used = {one.id for one in nodes if isinstance(one, ast.Name)}
    used |= {one.attr for one in nodes if isinstance(one, ast.Attribute)}
    texts = {one.value for one in nodes if isinstance(one, ast.Constant) and isinstance(one.value, str)}
    return _Part(frozenset(names), frozenset(used), _known() & texts | statements)
