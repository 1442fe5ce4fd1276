"""docs/events.md lists every event that the code logs or raises as an alert, and no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LEVELS = {"info", "warning", "error", "debug"}
#: where the event stands among the arguments of the calls that log or raise one
PLACES = {"alert": 1, "_alert": 1, "note_alert": 1, **dict.fromkeys(LEVELS, 0)}


def names(node: ast.expr) -> list[str]:
    """Return the possible values of the expression; `*` stands for a part that is only known at run time."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.IfExp():
            return names(node.body) + names(node.orelse)
        case ast.JoinedStr():
            return ["".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values)]
        case ast.BinOp(op=ast.Add()):
            return [f"{text}*" for text in names(node.left)]
    return []  # a name: the function that was called with it is looked at where it is called


def events_of(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "event" for t in node.targets):
            found.update(names(node.value))
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        call, owner = node.func.attr, node.func.value
        who = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
        if call not in PLACES or (call in LEVELS and not who.endswith("log")) or len(node.args) <= PLACES[call]:
            continue
        found.update(names(node.args[PLACES[call]]))
    return found


def test_every_event_is_listed_and_every_listed_one_exists() -> None:
    logged: set[str] = {"log"}
    silent = ("interfaces/cli", "lab", "system/supervision")  # they print, serve tests, or decide the tree's history
    for file in (*ROOT.glob("actors/**/*.py"), *ROOT.glob("fks/**/*.py")):
        if not any(file.is_relative_to(ROOT / "fks" / folder) for folder in silent):
            logged |= events_of(ast.parse(file.read_text()))
    rows = [
        line.split("|")[1] for line in (ROOT / "docs" / "events.md").read_text().splitlines() if line.startswith("| `")
    ]
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", re.sub(r"\(.*\)", "", row))]
    listed = set(named)
    assert sorted(name for name in listed if named.count(name) > 1) == [], "listed more than once"
    assert sorted(logged - listed) == [], "not in docs/events.md"
    assert sorted(listed - logged) == [], "in docs/events.md only"
