"""Every alert that can be raised has its line in docs/runbook.md, and no line is about one that cannot."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from fks.system.alerts.rules import DEFAULTS

ROOT = Path(__file__).resolve().parents[2]
#: Log events about alerts themselves, which are not rows of `alerts`.
ABOUT_ALERTS = re.compile(r"alert\.")


def entries() -> list[str]:
    rows = (ROOT / "docs/runbook.md").read_text().splitlines()
    return [found[1] for row in rows if (found := re.match(r"\| `([^`]+)` \|", row))]


def raised() -> set[str]:
    """Return the events that docs/events.md, which the code is held to, marks as a page or an alert."""
    found = set()
    for row in (ROOT / "docs/events.md").read_text().splitlines():
        cells = [cell.strip() for cell in row.split("|")]
        if len(cells) > 3 and re.search(r"\b(page|alert)\b", cells[2]):
            found |= set(re.findall(r"`([^`]+)`", cells[1].partition("(")[0]))
    return {name for name in found if not ABOUT_ALERTS.match(name)}


def test_every_alert_has_one_entry_in_the_runbook() -> None:
    rules = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())
    prometheus = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    events = raised()
    assert len(events) > 30
    known = entries()
    assert sorted(set(known)) == sorted(known), "one line each"
    assert sorted({*prometheus, *(rule.name for rule in DEFAULTS), *events} - set(known)) == []


def test_the_runbook_is_about_alerts_that_exist() -> None:
    rules = (ROOT / "deploy/prometheus/alerts.yml").read_text()
    events = (ROOT / "docs/events.md").read_text()
    names = {rule.name for rule in DEFAULTS}
    unknown = [name for name in entries() if name not in names and f"alert: {name}\n" not in rules]
    assert [name for name in unknown if f"`{name}`" not in events] == []
