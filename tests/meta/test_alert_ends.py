"""The table of alerts (`fks/system/monitor/alert_ends.py`) and the code that raises them agree, and so does docs/alerts.md."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from fks.system.monitor.alert_ends import ALERTS, AlertEnd, End
from fks.trading.order_manager import position_workers
from scripts.alerts_page import PAGE, rewritten

ROOT = Path(__file__).resolve().parents[2]
#: package whose code raises alerts -> the part in the table
PARTS = {
    "trading/credentials": "order manager, guardian",
    "interfaces/entry": "scheduler",
    "trading/guardian": "guardian",
    "research/jobs": "jobs",
    "bridge/ninja_link": "bridge link",
    "system/node": "keeper",
    "trading/order_manager": "order manager",
    "trading/orders": "order manager",
    "store": "scheduler",
    "system/supervision": "supervisor, keeper",
    "system/supervisor": "supervisor",
}
#: file of a statement that adds an alert -> the part in the table; `None`: the event is a parameter, or a rule's
SQL_PARTS = {
    "alerting": None,
    "challengers": "strategy worker",
    "deployments": "monitor",
    "kill": None,
    "nodes": "monitor",
    "reports": None,
    "strategies": "strategy worker",
}
#: call -> places of its severity (None: a page) and of its event
CALLS: dict[str, tuple[int | None, int]] = {
    **dict.fromkeys(("alert", "_alert", "note_alert"), (0, 1)),
    **dict.fromkeys(("page", "_page", "_page_while", "SendPage"), (None, 0)),
}
EVENT = re.compile(r"[a-z]+\.[a-z_*]+|[A-Z]+_[A-Z]+")


@dataclass(frozen=True)
class Raised:
    """A call that raises an alert: what it may be."""

    event: str
    part: str
    ends: frozenset[End]  # that its severity and its condition allow; `ROWS` is always allowed without a condition
    where: str


def texts(node: ast.expr | None, known: dict[str, list[ast.expr]], module: str) -> list[str | None]:
    """Return the values that an expression may have; `*` stands for a part that is known at run time alone, and None
    for a value of which nothing is known."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.IfExp():
            return texts(node.body, known, module) + texts(node.orelse, known, module)
        case ast.JoinedStr():
            return ["".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values)]
        case ast.Name(id=name) if name in known:
            return [text for value in known[name] for text in texts(value, {}, module)]
        case ast.Name(id=name):
            return [getattr(importlib.import_module(module), name, None)]
    return [None]


def has_condition(call: ast.Call, event: str, known: dict[str, list[ast.expr]]) -> set[bool]:
    """Return whether the alert has a condition: both where that is decided at run time."""
    given: ast.expr | None = call.args[5] if len(call.args) > 5 else None
    for keyword in call.keywords:
        if keyword.arg in ("condition", "lasting", "kill_id"):
            given = keyword.value
    values = known.get(given.id, [given]) if isinstance(given, ast.Name) else [given]
    if any(isinstance(value, ast.IfExp) for value in values):
        return {True, False}
    is_kills = isinstance(call.func, ast.Attribute) and call.func.attr == "_page_while"
    return {given is not None or is_kills or event in position_workers.CONDITIONS}


def raised_by_calls() -> Iterator[Raised]:
    for folder in (ROOT / "actors", ROOT / "fks"):
        for file in sorted(folder.rglob("*.py")):
            part = next((part for name, part in PARTS.items() if file.is_relative_to(ROOT / "fks" / name)), "none")
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            tree = ast.parse(file.read_text())
            for scope in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)):
                known: dict[str, list[ast.expr]] = {}
                for node in ast.walk(scope):
                    if isinstance(node, ast.Assign):
                        for target in node.targets:
                            if isinstance(target, ast.Name):
                                known.setdefault(target.id, []).append(node.value)
                for call in (n for n in ast.walk(scope) if isinstance(n, ast.Call)):
                    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
                    if name not in CALLS or len(call.args) <= CALLS[name][1]:
                        continue
                    at, place = CALLS[name]
                    severities = ["page"] if at is None else texts(call.args[at], known, module)
                    for event in texts(call.args[place], known, module):
                        if event is None or not EVENT.fullmatch(event):
                            continue  # it is passed on: the call that names it is looked at
                        ends: set[End] = set()
                        for is_condition in has_condition(call, event, known):
                            ends |= {End.OWNER} if is_condition else {End.ROWS, *map(end_of, severities)}
                        yield Raised(
                            event,
                            part,
                            frozenset(ends),
                            f"{file.relative_to(ROOT)}:{call.lineno}",
                        )


def end_of(severity: str | None) -> End:
    assert severity is not None, "the severity of an alert is written where its event is"
    return End.PERSON if severity in ("page", "error") else End.AGE


def raised_by_statements() -> Iterator[Raised]:
    for file in sorted((ROOT / "fks" / "store" / "sql").glob("*.sql")):
        for statement in re.findall(r"INSERT INTO alerts\b.*?(?=;|\bRETURNING\b)", file.read_text(), flags=re.DOTALL):
            part = SQL_PARTS[file.stem]
            if part is not None:
                ends = {End.ROWS, *(end_of(severity) for severity in re.findall(r"'(page|warning)'", statement))}
                for event in re.findall(r"'([a-z]+\.[a-z_]+)'", statement.partition("WHERE")[0]):
                    yield Raised(event, part, frozenset(ends), file.name)


def rows_for(raised: Raised) -> list[AlertEnd]:
    """Return the rows of the table for an alert: those of its event, else those of the pattern that it matches."""
    mine = [row for row in ALERTS if row.raised_by == raised.part and row.end in raised.ends]
    exact = [row for row in mine if row.event == raised.event]
    return exact or [row for row in mine if "*" in row.event and fnmatchcase(raised.event, row.event)]


def test_each_alert_that_code_raises_has_its_row_and_each_row_is_raised() -> None:
    raised = [*raised_by_calls(), *raised_by_statements()]
    assert [one for one in raised if not rows_for(one)] == [], "not in fks/system/monitor/alert_ends.py"
    used = {id(row) for one in raised for row in rows_for(one)}
    assert [(row.event, row.end.value) for row in ALERTS if id(row) not in used] == [], "raised nowhere"


def test_no_alert_ends_in_two_ways() -> None:
    """A row is told from another one of its event by the condition, and without one by the severity."""
    for event in {row.event for row in ALERTS}:
        ends = [row.end for row in ALERTS if row.event == event and row.end is not End.OWNER]
        assert len(ends) == len(set(ends)), event
        assert End.ROWS not in ends or len(ends) == 1, event
        owners = [row.raised_by for row in ALERTS if row.event == event and row.end is End.OWNER]
        assert len(owners) <= 1, event
    for row in ALERTS:
        assert (row.rule is not None) == (row.end is End.ROWS), row.event
        assert bool(row.when) == (row.end in (End.OWNER, End.ROWS)), row.event


def test_each_owner_reports_the_end_of_its_alerts() -> None:
    """A part with alerts of conditions has a call that ends alerts."""
    calls = re.compile(r"\b_?end_(?:alert|page)\(|\bEndAlert\(")
    for part in {row.raised_by for row in ALERTS if row.end is End.OWNER}:
        files = [file for name, of in PARTS.items() if of == part for file in (ROOT / "fks" / name).rglob("*.py")]
        assert any(calls.search(file.read_text()) for file in files), part


def test_one_statement_settles_alerts() -> None:
    found = []
    for file in sorted((ROOT / "fks" / "store" / "sql").glob("*.sql")):
        for name, text in re.findall(r"-- name: (\w+)\n(.*?)(?=\n-- name:|\Z)", file.read_text(), flags=re.DOTALL):
            if re.search(r"UPDATE alerts\s+SET resolved_at\b", text):
                found.append(f"{file.stem}.{name}")
    assert found == ["alerting.settle"]


def test_page_about_alerts_shows_the_table() -> None:
    assert PAGE.read_text() == rewritten(PAGE.read_text()), "docs/alerts.md is old: python scripts/alerts_page.py"
