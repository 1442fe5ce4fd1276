"""Public things are documented, and documented things exist."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import click
import pytest

from fks.cli import cli

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = (
    "install",
    "architecture",
    "collect-data",
    "sync-data",
    "import-data",
    "read-data",
    "tapes",
    "bars",
    "storage",
    "add-an-exchange",
    "write-a-strategy",
    "indicators",
    "backtest",
    "optimize",
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


def test_the_reference_of_indicators_is_the_registry_and_the_installed_talib() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/indicators.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_there_is_a_page_for_every_job() -> None:
    assert not [page for page in PAGES if not (DOCS / f"{page}.md").is_file()]


def test_every_link_in_the_docs_leads_somewhere() -> None:
    broken = []
    for page in [ROOT / "README.md", *DOCS.rglob("*.md")]:
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


def tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.split() if (ROOT / name).is_file()]


def test_nothing_refers_to_a_document_outside_the_repository() -> None:
    known = {Path(name).stem for name in tracked() if name.endswith(".md")}
    text = {".py", ".md", ".sql", ".toml", ".yaml", ".yml", ".cs", ".sh", ""}
    reference = re.compile(r"§|\bshared/\w|\bissue \d|\bthe issue\b|\b([a-z][a-z-]*)\.md\b")
    outside = [
        f"{name}: {match[0]}"
        for name in tracked()
        if Path(name).suffix in text and name != "tests/meta/test_docs.py"
        for match in reference.finditer((ROOT / name).read_text(errors="replace"))
        if match[1] is None or match[1] not in known
    ]
    assert not outside, "link a page of docs/ instead"


def test_every_contract_that_is_cited_is_explained() -> None:
    explained = set(re.findall(r"^\| (C\d+) \|", (DOCS / "architecture.md").read_text(), flags=re.MULTILINE))
    assert explained == {f"C{number}" for number in range(1, 15)}


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_every_file_that_a_page_names_exists(page: str) -> None:
    named = re.findall(r"`((?:fks|actors|tests|scripts|benchmarks|deploy|docs)/[\w/.-]*)`", (ROOT / page).read_text())
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]


def commands_shown(text: str) -> list[str]:
    """Return the `fks` commands in the blocks and code spans of a page, without comments; `a|b` becomes two."""
    blocks = re.findall(r"```[a-z]*\n(.*?)```", text, re.S)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    lines = [line for block in blocks for line in re.split(r"\n| ; | && | \| ", block)] + spans
    found = []
    for line in lines:
        shown = re.match(r"\s*(?:\$ )?(?:[A-Z_]+=\S* )*(?:\S*/)?fks (\S.*)", line)
        if shown:
            command = re.split(r"\s+#\s", shown[1])[0].replace("\\|", "|").translate(str.maketrans("", "", "[]"))
            found += [" ".join(parts) for parts in product(*(part.split("|") for part in command.split()))]
    return found


def unknown_part(line: list[str]) -> str:
    """Return the first part of a command line that is no command or option of `fks`, "" when there is none."""
    command: click.Command = cli
    place = 0
    while place < len(line):
        name, place = line[place].partition("=")[0], place + 1
        if re.match(r"--?[a-z]", name):
            option = next((p for p in command.params if name in (*p.opts, *p.secondary_opts)), None)
            if option is None and name not in ("-h", "--help"):
                return name
            takes = option is not None and not getattr(option, "is_flag", False) and "=" not in line[place - 1]
            place += 1 if takes else 0
        elif isinstance(command, click.Group):
            sub = command.get_command(click.Context(command), name)
            if sub is None:
                is_name = re.fullmatch(r"[a-z][a-z-]*", name) and not command.invoke_without_command
                return name if is_name else ""
            command = sub
    return ""


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))], ids=lambda page: page.stem
)
def test_every_command_and_option_that_a_page_shows_exists(page: Path) -> None:
    shown = commands_shown(page.read_text())
    assert not [f"fks {line}: {part}" for line in shown if (part := unknown_part(line.split()))]


@pytest.mark.parametrize("line", ["nothing", "assets list --all -e kraken", "data nothing BTCUSDT", "up --nothing 1"])
def test_a_command_that_does_not_exist_is_found(line: str) -> None:
    assert unknown_part(line.split())
