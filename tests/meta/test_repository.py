"""Tests about the repository: rules worth keeping, each with its reason in its name."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import fks.store
from fks.store.base import DECLARED

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = [ROOT / "fks", ROOT / "actors", ROOT / "serve_app.py"]
RAY_MODULES = {"actors/system.py", "actors/gpus.py", "actors/cluster.py", "actors/ray_internals.py", "serve_app.py"}
#: Where the real clock may be slept on: the clock itself, and loops that no injected clock drives.
SLEEPERS: dict[str, str] = {
    "fks/clock/real.py": "it is the clock",
}


def sources() -> Iterator[tuple[str, Path]]:
    for place in LIBRARY:
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            if "migrations" not in path.parts:
                yield str(path.relative_to(ROOT)), path


def imports(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


def test_import_contracts_are_kept() -> None:
    done = subprocess.run([Path(sys.executable).parent / "lint-imports"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


@dataclass
class Module:
    """The parts of a module that several rules look at: a tree of each is parsed once, and not kept."""

    classes: list[tuple[str, int]]
    imports: set[str]
    has_docstring: bool


@pytest.fixture(scope="module")
def library() -> dict[str, Module]:
    found = {}
    for name, path in sources():
        tree = ast.parse(path.read_text())
        classes = [(node.name, node.lineno) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        found[name] = Module(classes, imports(tree), bool(ast.get_docstring(tree)))
    return found


def test_public_class_names_are_unique(library: dict[str, Module]) -> None:
    places: dict[str, list[str]] = {}
    for name, module in library.items():
        for kind, line in module.classes:
            if not kind.startswith("_"):
                places.setdefault(kind, []).append(f"{name}:{line}")
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_only_named_files_import_ray(library: dict[str, Module]) -> None:
    assert {name for name, module in library.items() if "ray" in module.imports} == RAY_MODULES


def test_interfaces_that_ray_does_not_document_are_used_in_one_module() -> None:
    private = re.compile(r"\bray(\.\w+)*\._[a-z]|\bray\.(core|autoscaler|dashboard)\b|from ray\S* import _")
    assert [name for name, path in sources() if private.search(path.read_text())] == ["actors/ray_internals.py"]


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        (r"\bFIXME\b", "a FIXME is mended before it lands"),
        (r"datetime\.now\(|datetime\.utcnow\(", "clocks are injected"),
        (r"except:\s*$", "a bare except hides what nobody thought of"),
        (r"self\._\w+\.on_\w+ = ", "callbacks are given to the constructor"),
        (r"suppress\(asyncio\.CancelledError", "it loses the caller's cancellation too: end_task does not"),
        (r"ray stop\b(?! is never)", "it ends other people's clusters"),
    ],
)
def test_banned_texts(pattern: str, why: str) -> None:
    hits = [
        f"{name}:{number}"
        for name, path in sources()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(pattern, line) and "never" not in line
    ]
    assert not hits, why


def test_every_public_module_has_a_docstring(library: dict[str, Module]) -> None:
    assert [name for name, module in library.items() if not module.has_docstring] == []


def test_the_repository_names_no_package_index_and_no_home_of_a_machine() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    banned = re.compile(r"(extra-)?index-url|trusted-host|/Users/[A-Za-z]+/")
    hits = []
    for name in tracked:
        path = ROOT / name
        if name == "tests/meta/test_repository.py" or not path.is_file() or path.stat().st_size > 400_000:
            continue
        text = path.read_bytes()
        if b"\0" not in text and banned.search(text.decode(errors="replace")):
            hits.append(name)
    assert not hits


def test_no_file_is_too_big() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    big = {name for name in tracked if (ROOT / name).is_file() and (ROOT / name).stat().st_size > 256 * 1024}
    assert big == {"fks/market/files/sample_data/BTCUSDT-1m.fksbars"}


def test_every_query_is_described_and_called() -> None:
    for module in pkgutil.iter_modules(fks.store.__path__, "fks.store."):
        importlib.import_module(module.name)
    text = "\n".join(path.read_text() for _, path in sources())
    problems = []
    for file in sorted((ROOT / "fks" / "store" / "sql").glob("*.sql")):
        for block in file.read_text().split("-- name:")[1:]:
            name, _, body = block.partition("\n")
            query = f"{file.stem}.{name.strip()}"
            if not body.lstrip().startswith("--"):
                problems.append(f"{query}: says nothing about itself")
            if query not in DECLARED and f'"{query}"' not in text and f"'{query}'" not in text:
                problems.append(f"{query}: nobody calls it")
    assert not problems


def test_every_command_of_the_table_exists_and_helps() -> None:
    import click

    from fks.interfaces.cli import COMMANDS, cli

    with click.Context(cli) as context:
        for name in COMMANDS:
            command = cli.get_command(context, name)
            assert command is not None
            assert command.help or command.get_short_help_str(), name


def test_longest_test_files_exist() -> None:
    """A moved file that is begun last may leave one worker alone for a minute."""
    from tests.support.longest import LONGEST

    assert [name for name in LONGEST if not (ROOT / "tests" / name).is_file()] == []


def test_tests_import_no_other_test_module_and_use_no_private_names() -> None:
    """Helpers are in tests/support: an import from a test module runs its fixtures and ties two files together. One
    test, as each file is parsed once."""
    tied, private = [], []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        tree, file = ast.parse(path.read_text()), path.relative_to(ROOT)
        names = [(node.lineno, name) for node in ast.walk(tree) for name in imported(node)]
        tied += [f"{file}:{line}: {name}" for line, name in names if not f"{name}.".startswith("tests.support.")]
        private += [f"{file}:{line}: {name}" for line, name in private_uses(tree) if name not in PRIVATE]
    assert tied == []
    assert private == [], "observe behaviour by public names"


def imported(node: ast.AST) -> list[str]:
    """Return the modules and names of `tests` that a statement imports."""
    found = []
    if isinstance(node, ast.Import):
        found = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        package = "tests." * bool(node.level) + (node.module or "")
        found = [f"{package}.{alias.name}" for alias in node.names]
    return [name for name in found if name.startswith("tests.")]


# ── private names ────────────────────────────────────────────────────────────────────────────────
#: private names that tests may use, and why there is no public one
PRIVATE: dict[str, str] = {
    "_repr_html_": "the name by which notebooks ask for HTML",
    "_exit": "os._exit ends a process as a crash does, and is documented",
    "_holders": "asyncpg: the connections of a pool, to cut one of them",
    "_con": "asyncpg: the connection of a holder, to cut it",
    "_in_use": "asyncpg: whether a holder is lent",
    "_get_global_client": "Serve: replaced where the use of it by actors.ray_internals is tested",
    "_pool": "the pool of a Database: only asyncpg cuts a connection on the client's side",
}


def private_uses(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the private names of other objects that a test uses: attributes, imports, and names given to setattr."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("fks", "actors")):
            yield from ((node.lineno, alias.name) for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            for given in node.args[:2] if name in ("setattr", "getattr", "delattr") else ():
                if isinstance(given, ast.Constant) and isinstance(given.value, str):
                    yield from ((node.lineno, part) for part in given.value.split(".") if is_private(part))


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


@pytest.mark.parametrize(
    ("target", "installs", "ends_with"),
    [
        ("up", ["install.py .venv"], "fks up"),
        ("test", ["install.py .venv dev"], "scripts/run_tests.py"),
        ("test-slow", ["install.py .venv dev"], "scripts/run_tests.py --slow"),
        ("test-all", ["install.py .venv dev"], "scripts/run_tests.py --all"),
        ("lint", ["install.py .venv dev"], "lint-imports"),
        ("audit", [], "pip-audit -r constraints.txt"),
    ],
)
def test_make_installs_what_its_target_needs(target: str, installs: list[str], ends_with: str) -> None:
    # as if the pinned packages had changed
    command = ["make", "-n", "--no-print-directory", "-W", "constraints.txt", target]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert re.findall(r"install\.py \.venv.*", done.stdout) == installs
    assert ends_with in lines[-1]


def test_mypy_checks_the_code_of_fks_its_benchmarks_and_each_template() -> None:
    checked = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["files"]
    templates = {f"scripts/{place.name}" for place in (ROOT / "scripts").iterdir() if any(place.rglob("*.py"))}
    assert set(checked) == {"fks", "actors", "serve_app.py", "benchmarks"} | templates
