"""Public things are documented, and documented things exist."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import click
import pytest

from fks.config.load import env_name, sections
from fks.interfaces.api.app import table
from fks.interfaces.api.graphql.reads import reads_of
from fks.interfaces.cli import cli
from fks.model.codes import MEANING
from fks.model.metrics import METRICS
from fks.model.order import State
from scripts.api_reference import PROBLEMS, documented_app

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


# ── complete references ──────────────────────────────────────────────────────────────────────────
def commands(group: click.Group, path: str) -> Iterator[str]:
    """Yield every command below a group, as it is typed."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield f"{path} {name}"
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")


@dataclass(frozen=True)
class Reference:
    """A kind of public names, and where their page has a row for each: `row` finds the cell of a line, whose code spans
    are names, or which is one. `block`: the generated part of the page, where it has several tables."""

    page: str
    names: tuple[str, ...]
    row: str = r"\| (`[^|]+`) \|"
    block: str = ""

    def text(self) -> str:
        """Return the part of the page that the rows are in."""
        text = (DOCS / f"{self.page}.md").read_text()
        if self.block:
            text = text.partition(f"<!-- generated: {self.block} -->")[2].partition("<!-- end -->")[0]
        return text

    def named(self, line: str) -> set[str]:
        """Return the names that a line is the row of."""
        found = re.match(self.row, line)
        return set() if found is None else set(re.findall(r"`([^`]+)`", found[1]) or [found[1]])

    def missing(self, text: str) -> set[str]:
        """Return the names without a row in a text."""
        return set(self.names) - {name for line in text.splitlines() for name in self.named(line)}


APP = documented_app()
REFERENCES = {
    "setting": Reference(
        "configuration",
        tuple(env_name(section, key) for section, model in sections().items() for key in model.model_fields),
        row=r"\|.*\| ((?:`[A-Z_<>0-9]+`(?:, )?)+) \|$",
    ),
    "command": Reference("cli", tuple(commands(cli, "fks")), row=r"###? (fks .*)"),
    "route": Reference("api", tuple(f"{method} {path}" for method, path, *_ in table(APP)), block="routes"),
    "GraphQL field": Reference("api", tuple(read.name for read in reads_of(APP)), block="reads"),
    "problem": Reference("api", tuple(PROBLEMS), block="problems"),
    "denial": Reference("api", tuple(MEANING), block="denials"),
    "metric": Reference("api", tuple(METRICS), block="metrics"),
    "order state": Reference("orders", tuple(State), row=r"\| ([A-Z]+) \| [^|]+\| [^|]+\|$"),
}


@pytest.mark.parametrize("kind", REFERENCES)
def test_every_public_name_has_a_row_in_its_reference(kind: str) -> None:
    assert REFERENCES[kind].missing(REFERENCES[kind].text()) == set()


def test_a_name_without_a_row_is_missing_whatever_else_contains_it() -> None:
    """Of each page the lines that contain a name, in a longer one or in another row's text, without the name's row."""
    contained = 0
    for kind, reference in REFERENCES.items():
        lines = reference.text().splitlines()
        for name in reference.names:
            others = [line for line in lines if name in line and name not in reference.named(line)]
            assert name in reference.missing("\n".join(others)), (kind, name)
            contained += bool(others)
    print(f"{contained} names are contained in lines that are not their row")
    assert contained >= 250


def tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.split() if (ROOT / name).is_file()]


def test_nothing_refers_to_a_document_outside_the_repository() -> None:
    known = {Path(name).stem for name in tracked() if name.endswith(".md")}
    text = {".py", ".md", ".sql", ".toml", ".yaml", ".yml", ".cs", ".sh", ""}
    reference = re.compile(r"§|\bshared/\w|\bissue \d|\bthe issue\b|\b([a-z][a-z0-9-]*)\.md\b")
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
