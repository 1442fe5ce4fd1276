"""Generator of the table of docs/alerts.md from the one that the code runs: `python scripts/alerts_page.py`."""

from __future__ import annotations

import re
from pathlib import Path

from fks.system.monitor.alert_ends import ALERTS, AlertEnd, End

PAGE = Path(__file__).resolve().parents[1] / "docs" / "alerts.md"
_WHEN = {End.AGE: "24 h have passed", End.PERSON: "a person settles it"}
_BLOCK = re.compile(r"(<!-- generated: ends -->\n).*?(<!-- end -->)", flags=re.DOTALL)


def table() -> str:
    """Return the alerts as a markdown table."""
    rows = [f"| `{row.event}` | {row.raised_by} | {row.when or _WHEN[row.end]} | {_by(row)} |" for row in ALERTS]
    return "\n".join(["| Alert | Raised by | It ends when | Ended by |", "|---|---|---|---|", *rows])


def _by(row: AlertEnd) -> str:
    """Return the part that ends the alert."""
    if row.end is End.OWNER:
        return row.raised_by
    return "a person" if row.end is End.PERSON else "monitor"


def rewritten(text: str) -> str:
    """Return the page with its table rewritten."""
    return _BLOCK.sub(lambda found: f"{found[1]}{table()}\n{found[2]}", text)


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
