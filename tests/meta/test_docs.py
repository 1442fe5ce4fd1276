"""What is public is documented, and what is documented exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = (
    "collect-data",
    "sync-data",
    "import-data",
    "read-data",
    "tapes",
    "bars",
    "storage",
    "add-an-exchange",
    "write-a-strategy",
    "backtest",
    "trade",
    "connect-ninjatrader",
    "run-a-cluster",
    "operate",
    "cli",
    "configuration",
    "api",
    "orders",
    "glossary",
    "guarantees",
    "deviations",
    "performance",
)


def test_the_command_reference_is_the_commands_own_help() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/reference.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr


def test_there_is_a_page_for_every_job() -> None:
    assert not [page for page in PAGES if not (DOCS / f"{page}.md").is_file()]


def test_every_link_in_the_docs_leads_somewhere() -> None:
    broken = []
    for page in [ROOT / "README.md", *DOCS.glob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            if not target.startswith("http") and not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert not broken


def test_every_metric_and_code_is_documented() -> None:
    from fks.model.codes import MEANING
    from fks.model.metrics import METRICS

    text = "\n".join(page.read_text() for page in DOCS.glob("*.md"))
    assert not [name for name in METRICS if name not in text]
    assert not [code for code in MEANING if f"`{code}`" not in text]


def test_every_order_state_is_in_the_docs() -> None:
    from fks.model.order import State

    text = (DOCS / "orders.md").read_text()
    assert not [state for state in State if state not in text]
