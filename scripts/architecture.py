"""Generator of the picture and the table of districts in docs/architecture.md, from the imports and the first lines of
the packages: `python scripts/architecture.py`.

A district is a folder of fks/. The picture leaves out an arrow where a longer path of arrows leads to the same one.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
_BLOCK = re.compile(r"(<!-- generated: (picture|table) -->\n).*?(<!-- end -->)", flags=re.DOTALL)


def page_of(district: str) -> str:
    """Return the text at the beginning of a district."""
    return ast.get_docstring(ast.parse((ROOT / "fks" / district / "__init__.py").read_text())) or ""


@cache
def imports() -> dict[str, set[str]]:
    """Return for each district those that it imports, the lowest district first."""
    districts = {path.parent.name for path in (ROOT / "fks").glob("*/__init__.py")}
    graph = grimp.build_graph("fks", cache_dir=None)
    for district in districts:
        graph.squash_module(f"fks.{district}")
    found = {
        district: {name.rpartition(".")[2] for name in graph.find_modules_directly_imported_by(f"fks.{district}")}
        & (districts - {district})
        for district in districts
    }
    return dict(sorted(found.items(), key=lambda item: (len(_below(item[0], found)), item[0])))


def _below(district: str, found: Mapping[str, set[str]]) -> set[str]:
    """Return the districts that a district imports, also through others."""
    return found[district].union(*(_below(other, found) for other in found[district]))


def picture() -> str:
    """Return the districts as a Mermaid diagram."""
    found = imports()
    lines = ["```mermaid", "flowchart TD"]
    for district in reversed(found):
        others = found[district]
        longer = set().union(*(_below(other, found) for other in others))
        lines += [f"  {district} --> {other}" for other in sorted(others - longer)]
    return "\n".join([*lines, "```"])


def table() -> str:
    """Return the districts as a markdown table, the highest first."""
    rows = ["| Folder of `fks/` | Contents | Imported by |", "|---|---|---|"]
    found = imports()
    for district in reversed(found):
        first = " ".join(page_of(district).partition("\n\n")[0].split())
        users = [f"`{other}`" for other in found if district in found[other]]
        rows.append(f"| [`{district}`](../fks/{district}/__init__.py) | {first} | {', '.join(users) or '–'} |")
    return "\n".join(rows)


def rewritten(text: str) -> str:
    """Return the page with its picture and its table rewritten."""
    made = {"picture": picture, "table": table}
    return _BLOCK.sub(lambda block: f"{block[1]}{made[block[2]]()}\n{block[3]}", text)


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
