"""Numbers and JSON from outside are read by `fks.model.untrusted` alone, where they are bounded."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("fks/interfaces/api", "fks/interfaces/entry", "fks/research/search")
CONVERSIONS = {"int", "float", "Decimal"}
PARSERS = {"json.loads", "json.load", "orjson.loads", "msgspec.json.decode"}
#: reason -> files, or functions of a file, that convert or parse: no value there comes from outside as it was sent.
ALLOWED: dict[str, tuple[str, ...]] = {
    "results of numpy": (
        "fks/research/search/challenge.py", "fks/research/search/evaluate.py", "fks/research/search/montecarlo.py", "fks/research/search/objectives.py",
        "fks/research/search/overfitting.py", "fks/research/search/run.py", "fks/research/search/stability.py", "fks/research/search/plans.py::_drawn",
        "fks/research/search/plans.py::_Guided.__init__", "fks/research/search/plans.py::_Guided._thresholds",
        "fks/interfaces/api/columns.py::_texts", "fks/interfaces/api/routes/history.py::_pages", "fks/interfaces/api/routes/indicators.py::_values",
    ),
    "dimensions, which space_of bounds": (
        "fks/research/search/space.py::Dimension.size", "fks/research/search/space.py::Dimension.at",
        "fks/research/search/space.py::Dimension.end", "fks/research/search/space.py::Dimension.as_dict",
        "fks/research/search/space.py::_range", "fks/research/search/space.py::_exact", "fks/research/search/plans.py::_distribution",
        "fks/research/search/plans.py::_plain",
    ),
    "clocks and settings of this process": (
        "fks/interfaces/api/auth.py::Throttle.may_look_up", "fks/interfaces/api/limits.py::_up",
        "fks/interfaces/entry/logins.py::Logins.access_token", "fks/interfaces/entry/logins.py::Logins._check_lock",
        "fks/interfaces/entry/account_limits.py::_limit", "fks/interfaces/api/routes/auth.py::_answer", "fks/interfaces/api/gateway.py::Replica.beat",
        "fks/interfaces/api/routes/webhooks.py::_count_refused",
    ),
    "rows of PostgreSQL, and values that our processes published": (
        "fks/interfaces/entry/account_limits.py::gauges_of", "fks/interfaces/entry/account_limits.py::limits_of",
        "fks/interfaces/api/routes/market.py::_of_bars", "fks/interfaces/api/routes/market.py::_number",
        "fks/interfaces/api/routes/openai.py::_available",
    ),
    "answers of our own scripts in Redis": (
        "fks/interfaces/api/limits.py::RequestLimits._take", "fks/interfaces/api/idempotency.py::Idempotency.begin",
    ),
    "a text of fixed length, or signed by us": (
        "fks/interfaces/api/tracing.py::trace_of", "fks/interfaces/entry/logins.py::Logins.session_of",
    ),
    "JSON that we wrote ourselves": (
        "fks/interfaces/api/auth.py::use_ticket", "fks/interfaces/entry/emergency_stop.py::EmergencyStop._answer",
        "fks/interfaces/api/graphql/calls.py::call", "fks/interfaces/api/idempotency.py::Idempotency._opened",
        "fks/interfaces/api/jobs.py::submit_once", "fks/interfaces/entry/why.py::Why._trace", "fks/research/search/ledger.py",
    ),
}  # fmt: skip


def conversions(tree: ast.AST, place: str) -> Iterator[str]:
    """Yield `file::function` of each call that converts a value which the source does not name as a constant."""
    for node in ast.iter_child_nodes(tree):
        inner = place
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{place}{'.' if '::' in place else '::'}{node.name}"
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in PARSERS or (name in CONVERSIONS and not all(map(_is_constant, node.args))):
                yield inner
        yield from conversions(node, inner)


def _is_constant(node: ast.expr) -> bool:
    names = [one.id for one in ast.walk(node) if isinstance(one, ast.Name)]
    return isinstance(node, ast.Compare) or all(name.isupper() for name in names)


def test_values_from_outside_are_converted_in_one_module() -> None:
    found = set()
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            found |= set(conversions(ast.parse(path.read_text()), path.relative_to(ROOT).as_posix()))
    allowed = {place for places in ALLOWED.values() for place in places}
    bare = {place for place in found if place not in allowed and place.partition("::")[0] not in allowed}
    assert not bare, "use fks.model.untrusted, or name the place in ALLOWED with the reason"
    assert not {place for place in allowed if not any(f"{one}::".startswith(f"{place}::") for one in found)}, "unused"


def test_the_rule_sees_a_bare_conversion() -> None:
    source = (
        "class A:\n def f(self, x):\n  int(x); Decimal(str(x)); json.loads(x); int('5'); float(NS); int(x == 1)\nint(y)"
    )
    assert list(conversions(ast.parse(source), "m.py")) == ["m.py::A.f"] * 3 + ["m.py"]
