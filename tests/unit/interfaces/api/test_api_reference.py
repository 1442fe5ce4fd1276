"""docs/api.md says what the code does, and names every code that a program may meet."""

from __future__ import annotations

import re
from pathlib import Path

from fks.interfaces.api.app import schema, table
from fks.model.codes import Code
from scripts.api_reference import PROBLEMS, documented_app, rewritten

ROOT = Path(__file__).parents[4]
#: Modules whose errors reach the caller of a route.
SOURCES = [
    *(ROOT / "fks" / "interfaces" / "api").rglob("*.py"),
    *(
        ROOT / "fks" / name
        for name in (
            "store/tokens.py",
            "market/history/assets.py",
            "research/jobs/user_code.py",
            "research/jobs/checking.py",
        )
    ),
    *(ROOT / "fks" / "strategies" / name for name in ("check.py", "registry.py")),
]


def test_the_generated_parts_are_up_to_date() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    assert text.count("<!-- generated:") == 5
    assert rewritten(text, documented_app()) == text, "run: python scripts/api_reference.py"


def test_every_problem_code_is_documented_and_none_is_a_denial_code() -> None:
    found: set[str] = set()
    for file in SOURCES:
        text = file.read_text()
        found |= set(re.findall(r'code="([A-Z_]+)"', text))
        found |= set(re.findall(r'\b(?:invalid|not_found|conflict|unprocessable)\(\s*"([A-Z_]+)"', text))
        found |= set(re.findall(r'(?:Problem|document)\(\s*\d+,\s*"([A-Z_]+)"', text))
        found |= set(re.findall(r'_bad\([^\n]*"([A-Z_]+)"\)$', text, flags=re.MULTILINE))
    assert len(found) > 25
    assert found - PROBLEMS.keys() - set(Code) == set()
    assert PROBLEMS.keys() & set(Code) == set()


def test_every_route_has_a_scope_a_sentence_and_a_place_in_the_document() -> None:
    app = documented_app()
    for method, path, scope, summary in table(app):
        assert scope, (method, path)
        assert summary.endswith((".", ")")), (method, path, summary)
    document = schema(app)
    hidden = {"/api/health", "/health/dashboard", "/openapi.json"}
    assert {path for method, path, _, _ in table(app) if method != "WS"} - hidden == set(document["paths"])
