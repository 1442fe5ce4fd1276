"""Build the guide: a site of the pages in docs/ with search, which loads nothing from another host.

`python scripts/guide.py [FOLDER]`: into fks/interfaces/web/guide/, which git ignores, the wheel contains and the
gateway serves below /guide/. The pages are read as a forge shows them (GitHub's Markdown); the groups of the navigation
are the rows of the README's table "Read on". A link that leads nowhere ends the build.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SITE = ROOT / "fks" / "interfaces" / "web" / "guide"
MERMAID = ROOT / "fks" / "interfaces" / "web" / "vendor" / "mermaid.tiny.js"
#: pages outside of docs/ -> their names in the site; the README is the first page
OUTSIDE = {
    "README.md": "index",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changes",
    "nt8/README.md": "nt8",
    "nt8/field-report.md": "nt8-field-report",
}
#: what a newcomer reads first, before the README's groups
START = (
    "tutorial",
    "notebooks/edge-or-luck",
    "notebooks/your-own-data",
    "examples/backtest",
    "examples/why",
    "examples/incident",
)
COPIED = (".png", ".svg", ".gif", ".webp", ".html", ".csv", ".ipynb")
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#\s]+)(#[^)\s]*)?(?: \"[^\"]*\")?\)")
_BLOCK = re.compile(r"([*+-]|\d+\.) |\||```|#{1,6} ")
FENCES = '[{ name = "mermaid", class = "mermaid", format = "pymdownx.superfences.fence_code_format" }]'
CONFIG = """
[project]
site_name = "FKS"
site_description = "A supervised trading runtime"
use_directory_urls = false
extra_javascript = ["assets/mermaid.js"]
extra_css = ["assets/guide.css"]
nav = NAV
[project.theme]
font = false
language = "en"
favicon = "assets/icon.svg"
logo = "assets/icon.svg"
features = ["content.code.copy", "navigation.footer", "navigation.sections", "navigation.top", "search.highlight"]
[[project.theme.palette]]
media = "(prefers-color-scheme)"
toggle = { icon = "lucide/sun-moon", name = "Light" }
[[project.theme.palette]]
media = "(prefers-color-scheme: light)"
scheme = "default"
toggle = { icon = "lucide/sun", name = "Dark" }
[[project.theme.palette]]
media = "(prefers-color-scheme: dark)"
scheme = "slate"
toggle = { icon = "lucide/moon", name = "As the system" }
[project.markdown_extensions]
tables = { use_align_attribute = true }
sane_lists = {}
md_in_html = {}
toc = { permalink = true, slugify = { object = "pymdownx.slugs.slugify", kwds = { case = "lower" } } }
"pymdownx.highlight" = { pygments_lang_class = true }
"pymdownx.magiclink" = {}
"pymdownx.superfences" = { custom_fences = FENCES }
"pymdownx.betterem" = {}
"""
#: wide tables and code keep their lines; a picture is never wider than the page
STYLE = """
.md-grid { max-width: 76rem; }
.md-typeset img { border: 1px solid var(--md-default-fg-color--lightest); border-radius: 6px; }
.md-typeset table:not([class]) td code, .md-typeset table:not([class]) th code { white-space: nowrap; }
"""
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="4" fill="#0f766e"/>'
    '<path d="M3 11l3-4 3 2 4-5" stroke="#fff" stroke-width="1.8" fill="none" stroke-linecap="round" '
    'stroke-linejoin="round"/></svg>'
)


def sources() -> dict[Path, str]:
    """Return each source file -> its path in the site."""
    found = {ROOT / name: f"{target}.md" for name, target in OUTSIDE.items()}
    for path in sorted(DOCS.rglob("*")):
        if path.suffix == ".ipynb":
            found[path] = path.relative_to(DOCS).with_suffix(".md").as_posix()
        elif path.suffix == ".md" or path.suffix in COPIED:
            found[path] = path.relative_to(DOCS).as_posix()
    return found


def linked(text: str, source: Path, places: dict[Path, str]) -> str:
    """Return a page whose links lead to pages of the site; one to another file of the repository becomes its text."""
    depth = places[source].count("/")

    def replace(match: re.Match[str]) -> str:
        sign, label, target, anchor = match.groups()
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        place = places.get((source.parent / target).resolve())
        if place is None:
            return match[0] if not (source.parent / target).exists() else label
        return f"{sign}[{label}]({'../' * depth}{place}{anchor or ''})"

    return _LINK.sub(replace, text)


def blocks(text: str) -> str:
    """Return a page of GitHub's Markdown for a parser that wants an empty line before each list, table and fence."""
    lines: list[str] = []
    is_code = False
    for line in text.splitlines():
        before = lines[-1] if lines else ""
        if not is_code and _BLOCK.match(line) and before.strip() and not before.startswith((" ", "#")):
            begun, kind = _BLOCK.match(before), _BLOCK.match(line)
            assert kind is not None
            is_same = (
                begun is not None and (begun[0][0] == "|") == (kind[0][0] == "|") and "`" not in begun[0] + kind[0]
            )
            if not is_same:
                lines.append("")
        is_code ^= line.lstrip().startswith("```")
        if not is_code and line.startswith("|"):
            line = re.sub(r"`[^`]*`", lambda code: code[0].replace("\\|", "|"), line)
        lines.append(line)
    return "\n".join(lines) + "\n"


def outside_code(text: str, change: Any) -> str:
    """Return a page with `change` applied to all but its fenced blocks."""
    parts = re.split(r"(^```.*?^```[^\n]*$)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else change(part) for part in parts)


def notebook(path: Path, target: Path) -> str:
    """Return a notebook as a page: its text, its code and the stored outputs. Pictures are written beside `target`."""
    parts = []
    for number, cell in enumerate(json.loads(path.read_text())["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/svg+xml" in data:
                picture = target.with_name(f"{path.stem}-{number}.svg")
                picture.write_text("".join(data["image/svg+xml"]))
                parts.append(f"![Drawn by the cell]({picture.name})")
            elif "text/html" in data:
                table = re.sub(r"<style.*?</style>", "", "".join(data["text/html"]), flags=re.DOTALL)
                parts.append(re.sub(r"\n\s*", "", table).replace(' border="1" class="dataframe"', ""))
            else:
                parts.append(
                    "```text\n" + "".join(output.get("text", data.get("text/plain", ""))).rstrip("\n") + "\n```"
                )
    parts.append(f"[This page as a notebook]({path.name})")
    return "\n\n".join(parts) + "\n"


def title(text: str, otherwise: str) -> str:
    """Return the heading of a page."""
    found = re.search(r"^# (.+)$", text, flags=re.MULTILINE)
    return found[1].replace("`", "") if found else otherwise


def navigation(pages: dict[str, str]) -> list[dict[str, Any]]:
    """Return the groups of the navigation. `pages`: path in the site -> heading."""
    groups: dict[str, list[str]] = {"Start": [f"{name}.md" for name in ("index", *START)]}
    table = (ROOT / "README.md").read_text().partition("\n## Read on\n")[2].partition("\n## ")[0]
    for row in re.findall(r"^\| (.+?) \| (.+) \|$", table, flags=re.MULTILINE):
        targets = [place.removeprefix("docs/") for place in re.findall(r"\]\(([^)#]+)\.(?:md|ipynb)\b", row[1])]
        named = [f"{OUTSIDE.get(f'{place}.md', place)}.md" for place in targets]
        if named:
            groups[row[0][0].upper() + row[0][1:]] = [place for place in named if place not in groups["Start"]]
    if len(groups) < 3:
        sys.exit("README.md has no table under '## Read on': its rows are the groups of the guide's navigation")
    placed = {place for group in groups.values() for place in group}
    groups["More"] = [place for place in pages if place not in placed]
    return [
        {name: [{"FKS" if place == groups["Start"][0] else pages[place]: place} for place in group if place in pages]}
        for name, group in groups.items()
        if group
    ]


def toml(value: Any) -> str:
    """Return lists and tables of text as one line of TOML."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml(part)}" for key, part in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def stage(folder: Path) -> None:
    """Write the sources of the site and its configuration into a folder."""
    places = sources()
    pages: dict[str, str] = {}
    for path, place in places.items():
        target = folder / "docs" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if place.endswith(".md"):
            text = notebook(path, target) if path.suffix == ".ipynb" else path.read_text()
            text = outside_code(text, lambda part, path=path: linked(part, path, places))
            pages[place] = title(text, path.stem)
            target.write_text(blocks(text))
        if path.suffix in COPIED:
            shutil.copyfile(path, target.with_name(path.name))
    assets = folder / "docs" / "assets"
    assets.mkdir()
    (assets / "guide.css").write_text(STYLE)
    (assets / "icon.svg").write_text(ICON)
    config = CONFIG.replace("NAV", toml(navigation(pages))).replace("FENCES", FENCES)
    if MERMAID.is_file():
        shutil.copyfile(MERMAID, assets / "mermaid.js")
    else:  # a machine that reached no npm registry: diagrams are then shown as their text
        config = config.replace(FENCES, "[]").replace('"assets/mermaid.js"', "")
    (folder / "zensical.toml").write_text(config)


def build(target: Path) -> None:
    """Build the site; `target` is replaced whole, or not at all."""
    with tempfile.TemporaryDirectory(prefix="fks-guide-") as folder:
        stage(Path(folder))
        command = [sys.executable, "-m", "zensical", "build", "--strict"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr))
        for page in (Path(folder) / "site").rglob("*.html"):  # three megabytes that only pages with a diagram need
            text = page.read_text()
            if 'class="mermaid"' not in text:
                page.write_text(re.sub(r'<script src="[^"]*assets/mermaid\.js"></script>', "", text))
        shutil.rmtree(target, ignore_errors=True)
        # the two that are left out need to know the address of the site
        shutil.copytree(Path(folder) / "site", target, ignore=shutil.ignore_patterns("404.html", "sitemap.xml"))


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else SITE)
