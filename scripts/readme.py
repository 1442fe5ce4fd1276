"""Write the generated sections of README.md: comparison and missing features (docs/features.toml), recovery times
(docs/recovery.md).

    python scripts/readme.py           # print each name that is wrong, and whether README.md is out of date
    python scripts/readme.py --write   # write the sections
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the script beside this one, however this is started

import click
from pydantic import BaseModel

from fks.config.settings import Settings
from fks.interfaces.api.app import table
from fks.interfaces.cli import cli
from scripts.api_reference import documented_app

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "features.toml"
PAGE = ROOT / "README.md"
RECOVERY = ROOT / "docs" / "recovery.md"
MARKS = "●◐○–"
#: rows of docs/recovery.md that README.md shows: (its first two cells) -> its label here
SHOWN = {
    ("kill -9 orders", "`kill-orders`"): "`kill -9` order manager",
    ("kill -9 orders, 1,000 open orders: reconciled", "`orders-1000`"): "the same with 1,000 open orders, reconciled",
    ("kill -9 guardian", "`kill-guardian`"): "`kill -9` guardian (kill switch)",
    ("its feeds live", "`kill-collector`"): "`kill -9` collector, feeds live again",
    ("SIGSTOP orders", "`stop-orders`"): "order manager hangs (SIGSTOP)",
    ("kill -9 supervisor", "`supervisor`"): "`kill -9` supervisor",
    ("PostgreSQL killed and restarted", "`postgres`"): "PostgreSQL killed, its own restart included",
    ("Redis killed and flushed", "`redis`"): "Redis killed and flushed",
    ("kill -9 GCS (on disk, the default)", "`gcs-stored`"): "`kill -9` Ray's GCS",
    ("kill -9 keeper", "`keeper`"): "`kill -9` keeper, until the next one has taken over",
}


@dataclass(frozen=True, slots=True)
class Feature:
    """A row of the comparison, or a line about a missing feature. `marks`: of FKS, then of each peer; `present` and
    `absent`: names in this code; `proof`: a test, as path::name."""

    name: str
    marks: tuple[str, ...] = ()
    note: str = ""
    present: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    proof: str = ""


def load() -> tuple[tuple[str, ...], list[Feature], list[Feature]]:
    """Return the peers, the rows of the comparison, and the missing features."""
    found = tomllib.loads(TABLE.read_text())
    compared = [Feature(**_tuples(row) | {"marks": tuple(row["marks"].split())}) for row in found["compared"]]
    missing = [Feature(name=row["text"], absent=tuple(row.get("absent", ()))) for row in found["missing"]]
    return tuple(found["peers"]), compared, missing


def _tuples(row: dict[str, object]) -> dict[str, object]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}


class Names:
    """The routes, commands, settings, modules and denial codes of this code."""

    def __init__(self) -> None:
        self.routes = {f"{method} {path}" for method, path, _, _ in table(documented_app())}
        self.commands = set(_commands(cli, "fks"))
        self.settings = set(_settings(Settings, ""))
        sources = "".join(file.read_text() for file in ROOT.glob("fks/**/*.py") if file.name != "codes.py")
        self.given = set(re.findall(r"\bCode\.([A-Z_]+)", sources))

    def exists(self, name: str) -> bool:
        """Return whether a name of the table exists. A path without a method exists when a route contains it."""
        if name.startswith("fks "):
            return name in self.commands
        if name.startswith("/"):
            return any(name in route for route in self.routes)
        if " /" in name:
            return name in self.routes
        if "/" in name:
            return any(file.name != "__init__.py" for file in ROOT.glob(name))
        if name.isupper():
            return name in self.given
        return name in self.settings


def _commands(command: click.Command, path: str) -> Iterator[str]:
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            if (sub := command.get_command(context, name)) is not None:
                yield from _commands(sub, f"{path} {name}")


def _settings(section: type[BaseModel], path: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _settings(field.annotation, f"{path}{name}.")
        else:
            yield f"{path}{name}"


def wrong(peers: tuple[str, ...], compared: list[Feature], missing: list[Feature], names: Names) -> Iterator[str]:
    """Yield each error of the table as text."""
    for row in compared:
        if len(row.marks) != 1 + len(peers) or not set(row.marks) <= set(MARKS):
            yield f"{row.name}: {len(row.marks)} marks for FKS and {len(peers)} peers"
        elif row.marks[0] == "●" and not is_test(row.proof):
            yield f"{row.name}: ● needs the test that proves it, {row.proof!r} is none"
        elif row.marks[0] != "●" and row.proof:
            yield f"{row.name}: a proof, and no ●"
        elif row.marks[0] == "●" and row.absent:
            yield f"{row.name}: ●, and names what is absent"
    if [row.marks[0] == "●" for row in compared] != sorted(row.marks[0] == "●" for row in compared):
        yield "what FKS lacks stands first"
    for row in (*compared, *missing):
        for name in row.present:
            if not names.exists(name):
                yield f"{row.name[:60]}: {name} does not exist"
        for name in row.absent:
            if names.exists(name):
                yield f"{row.name[:60]}: {name} exists"


def is_test(proof: str) -> bool:
    """Return whether `path::name` is a test of this repository."""
    path, _, name = proof.partition("::")
    file = ROOT / path
    if not path or not file.is_file():
        return False
    nodes = ast.walk(ast.parse(file.read_text()))
    return name in {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def recovery() -> str:
    """Return the rows of SHOWN with the figures of docs/recovery.md. Errors: KeyError for a row that is not there."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in RECOVERY.read_text().splitlines()]
    figures = {(cells[0], cells[1]): (cells[2], cells[4], cells[6]) for cells in rows if len(cells) == 7}
    lines = ["| Fault | Detected | Serving again | Measured |", "|---|---|---|---|"]
    for key, label in SHOWN.items():
        detected, serving, measured = figures[key]
        lines.append(f"| {label} | {detected.replace('-', '')} | {serving} | {measured} |")
    return "\n".join(lines)


def sections(peers: tuple[str, ...], compared: list[Feature], missing: list[Feature]) -> dict[str, str]:
    """Return the text of each generated section by its name."""
    lines = [f"| | FKS | {' | '.join(peers)} |", "|---" * (2 + len(peers)) + "|"]
    for row in compared:
        path, _, test = row.proof.partition("::")
        ours = f'[●]({path} "{test}")' if row.proof else f"{row.marks[0]} {row.note and f'({row.note})'}".rstrip()
        lines.append(f"| {row.name} | {ours} | {' | '.join(row.marks[1:])} |")
    return {
        "recovery": recovery(),
        "comparison": "\n".join(lines),
        "missing": "\n".join(f"- {row.name}" for row in missing),
    }


def written(text: str, parts: dict[str, str]) -> str:
    """Return the page with the sections in their places. Errors: ValueError when a place is missing."""
    for name, body in parts.items():
        place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.S)
        text, places = place.subn(lambda found, body=body: f"{found[1]}{body}\n{found[2]}", text)
        if places != 1:
            raise ValueError(f"README.md has {places} places <!-- {name} -->")
    return text


def main() -> int:
    peers, compared, missing = load()
    errors = list(wrong(peers, compared, missing, Names()))
    made = written(PAGE.read_text(), sections(peers, compared, missing))
    if "--write" in sys.argv:
        PAGE.write_text(made)
    elif made != PAGE.read_text():
        errors.append("README.md is out of date: python scripts/readme.py --write")
    print("\n".join(errors))
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
