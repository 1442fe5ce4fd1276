"""Every statement that writes is in docs/fencing.md: fenced, and then its text shows it, or not, and then with the
reason."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_WRITES = re.compile(r"\b(INSERT INTO|UPDATE\s+\w+\s+(\w+\s+)?SET|DELETE FROM|REFRESH MATERIALIZED)", re.IGNORECASE)
_FENCE = re.compile(
    r"FROM leases\s+WHERE name = (?:\$\d+|'supervisor') AND epoch = \$\d+ FOR SHARE|epoch <= |c\.epoch = "
    r"b\.epoch|WHERE name = \$1 AND epoch = \$2"
)


def statements() -> dict[str, str]:
    """Return name -> text, without comments, of every statement that writes a table that stays."""
    found = {}
    for file in sorted((ROOT / "fks/store/sql").glob("*.sql")):
        for name, text in re.findall(r"-- name: (\w+)\n(.*?)(?=\n-- name:|\Z)", file.read_text(), re.DOTALL):
            body = "\n".join(line for line in text.splitlines() if not line.startswith("--"))
            if _WRITES.search(body):
                found[f"{file.stem}.{name}"] = body
    return found


def listed(heading: str) -> list[str]:
    text = (ROOT / "docs/fencing.md").read_text()
    part = re.split(r"^## ", text.split(f"## {heading}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(r"`(\w+\.\w+)`", part)


def test_every_write_is_listed_once() -> None:
    names = [*listed("Fenced"), *listed("Not fenced, and why")]
    assert sorted(names) == sorted(set(names))
    assert sorted(statements().keys() - set(names)) == [], (
        "say in docs/fencing.md how a zombie's is refused, or why it may be"
    )
    assert sorted(set(names) - statements().keys()) == [], "in docs/fencing.md only"


def test_what_is_called_fenced_checks_the_epoch_where_it_writes() -> None:
    found = statements()
    for name in listed("Fenced"):
        assert _FENCE.search(found[name]), f"{name} checks no epoch"
    for name in listed("Not fenced, and why"):
        assert "FROM leases" not in found[name], f"{name} is fenced"
