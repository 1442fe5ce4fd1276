"""Table of the test functions of each file: `tests/counts.tsv`. `python scripts/count_tests.py --write` makes it again.

A test that is deleted, skipped, expected to fail or moved to the soak proves nothing in `make test-all` any more, and
no test fails for it. So each file's functions are counted, and those of them that are skipped (also where a program is
missing), xfail, or in part or whole for the soak. `tests/meta/test_counts.py` compares the table with the files. It
demands of each commit that lowers the first number or raises another that its body names the file, with what proves
the property now.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "tests" / "counts.tsv"
HEADER = "file\tfunctions\tskipped\txfail\tsoak"
#: names of marks and of functions -> the column that they count in
NAMES = {
    **dict.fromkeys(("skip", "skipif", "importorskip", "require", "leave_out"), "skipped"),
    "xfail": "xfail",
    **dict.fromkeys(("soak", "soaked"), "soak"),
}


@dataclass(frozen=True, slots=True)
class Counts:
    """Test functions of a file, and how many are skipped, expected to fail, and in part or whole for the soak."""

    functions: int = 0
    skipped: int = 0
    xfail: int = 0
    soak: int = 0

    def is_less_than(self, before: Counts) -> bool:
        """Return whether less is proven than before."""
        return self.functions < before.functions or any(
            now > then for now, then in zip(astuple(self)[1:], astuple(before)[1:], strict=True)
        )


def count(source: str) -> Counts:
    """Return the counts of a test file."""
    tree = ast.parse(source)
    found = list(_functions(tree, _columns_of_module(tree)))
    return Counts(len(found), *(sum(name in columns for columns in found) for name in ("skipped", "xfail", "soak")))


def _functions(tree: ast.Module | ast.ClassDef, outer: set[str]) -> Iterator[set[str]]:
    """Yield for each test function of a module or class the columns that it counts in."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            around = set().union(outer, *(_columns(one) for one in node.decorator_list))
            yield from _functions(node, around)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            yield outer | _columns(node)


def _columns_of_module(tree: ast.Module) -> set[str]:
    """Return the columns of a module's `pytestmark` and of calls outside its functions."""
    kept = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return set().union(
        *(_columns(node) for node in tree.body if not isinstance(node, kept | ast.Import | ast.ImportFrom))
    )


def _columns(tree: ast.AST) -> set[str]:
    """Return the columns of the marks and calls in a part of a file."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            if owner in ("pytest", "mark") and node.attr in NAMES:
                found.add(NAMES[node.attr])
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in NAMES:
            found.add(NAMES[node.func.id])
    return found


def table() -> dict[str, Counts]:
    """Return the counts of each test file below tests/, by its path there."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return {path.relative_to(ROOT / "tests").as_posix(): count(path.read_text("utf-8")) for path in files}


def read(lines: str) -> dict[str, Counts]:
    """Return the rows of a table, without its header."""
    rows = [line.split("\t") for line in lines.splitlines() if line and line != HEADER]
    return {name: Counts(*map(int, numbers)) for name, *numbers in rows}


def unexplained(body: str, before: Mapping[str, Counts], after: Mapping[str, Counts]) -> list[str]:
    """Return the files of which a commit proves less and says nothing. `before`, `after`: the rows that it changed.

    A file that was moved with at least its counts is no loss: the one of its name that shares most folders.
    """
    found = []
    for path, counts in before.items():
        name, folders = path.rpartition("/")[2], set(path.split("/"))
        moved = [other for other in after if other not in before and other.rpartition("/")[2] == name]
        nearest = max(moved, key=lambda other: len(folders.intersection(other.split("/"))), default="")
        now = after.get(path) or after.get(nearest, Counts())
        if now.is_less_than(counts) and name not in body:
            found.append(path)
    return found


def history() -> list[str]:
    """Return the losses that commits did not explain: commit and file."""
    command = ["git", "log", "-p", "-U0", "--no-renames", "--format=%x00%H%x01%B%x01", "--", "tests/counts.tsv"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = []
    for commit in done.stdout.split("\0")[1:]:
        id, message, change = commit.split("\1")
        lines = change.splitlines()
        before, after = (
            read("\n".join(line[1:] for line in lines if line.startswith(sign) and line[1:].count("\t") == 4))
            for sign in "-+"
        )
        body = message.partition("\n")[2]
        found += [
            f"{id[:12]} proves less in {path}, and its body does not name it"
            for path in unexplained(body, before, after)
        ]
    return found


def main() -> int:
    """Print the lines that differ, or write them; return 1 where the table is old."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the table")
    arguments = parser.parse_args()
    text = "\n".join([HEADER, *("\t".join(map(str, (name, *astuple(row)))) for name, row in table().items())]) + "\n"
    old = TABLE.read_text("utf-8") if TABLE.exists() else ""
    for sign, lines, others in (("-", old, text), ("+", text, old)):
        print(*(f"{sign} {line}" for line in lines.splitlines() if line not in others.splitlines()), sep="\n")
    if arguments.write:
        TABLE.write_text(text, "utf-8")
    return int(old != text and not arguments.write)


if __name__ == "__main__":
    sys.exit(main())
