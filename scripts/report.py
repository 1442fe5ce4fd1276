"""List large modules and packages, long functions and long argument lists of the library, for people to read.

`python scripts/report.py [ROWS]`. There are no thresholds and the exit code is 0: a table or a protocol in one file
may be long for a good reason.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SILENT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
Row = tuple[int, str]


def sources() -> list[Path]:
    """Return the files of the library."""
    return sorted([ROOT / "serve_app.py", *(ROOT / "fks").rglob("*.py"), *(ROOT / "actors").rglob("*.py")])


def package_of(path: Path) -> str:
    """Return the package of `fks`, within its district, or the top-level package of a file; migrations are a package of
    their own."""
    parts = path.relative_to(ROOT).parts
    if "migrations" in parts:
        return "fks/store/migrations"
    return "/".join(parts[: min(3, len(parts) - 1)]) if parts[0] == "fks" else parts[0]


def code_lines(text: str, tree: ast.AST) -> int:
    """Return the lines that hold code: no blank lines, comments and docstrings."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in SILENT:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def functions(tree: ast.AST, prefix: str = "") -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Return every function with its qualified name."""
    found: list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.append((prefix + node.name, node))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found += functions(node, f"{prefix}{node.name}.")
        else:
            found += functions(node, prefix)
    return found


def arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the number of arguments, without self and cls."""
    names = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def is_command(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Return whether click fills the arguments from a command line."""
    return any("option" in (text := ast.unparse(item)) or "argument" in text for item in node.decorator_list)


def show(title: str, rows: list[Row], count: int) -> None:
    """Print the greatest rows."""
    print(f"\n{title}")
    for number, name in sorted(rows, reverse=True)[:count]:
        print(f"{number:6d}  {name}")


def main() -> None:
    """Print the four lists and the sum of code lines."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    modules: list[Row] = []
    long: list[Row] = []
    wide: list[Row] = []
    packages: Counter[str] = Counter()
    for path in sources():
        text = path.read_text()
        tree = ast.parse(text)
        name = str(path.relative_to(ROOT))
        packages[package_of(path)] += code_lines(text, tree)
        if "migrations" in path.parts:
            continue
        modules.append((len(text.splitlines()), name))
        for function, node in functions(tree):
            where = f"{name}:{node.lineno} {function}"
            long.append(((node.end_lineno or node.lineno) - node.lineno + 1, where))
            if not is_command(node):
                wide.append((arguments(node), where))
    show("Largest modules (lines)", modules, count)
    show(
        "Largest packages (code lines: no blank lines, comments and docstrings)",
        [(n, p) for p, n in packages.items()],
        count,
    )
    show("Longest functions (lines)", long, count)
    show("Longest argument lists (without self; commands of click left out)", wide, count)
    lines = sum(number for name, number in packages.items() if name.startswith(("fks", "actors")))
    print(f"\n{lines} code lines in fks/ and actors/, of these {packages['fks/store/migrations']} in migrations")


if __name__ == "__main__":
    main()
