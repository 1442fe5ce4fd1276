"""Mermaid texts of diagrams, made of the gateway's reports. Pure; labels hold no character with a meaning there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

_OTHERS = re.compile(r"[^\w .:/@+-]")
_EVENTS_MAX = 4


def label(text: object) -> str:
    """Return a text that Mermaid takes as it is: any other character than letters, digits and a few signs is a dot."""
    return _OTHERS.sub("·", str(text))[:60]


def machine(document: Mapping[str, Any]) -> str:
    """Return the state diagram of a machine. Transitions that keep the state are in the table alone; those to the
    state of a report go through one point."""
    edges: dict[tuple[str, str], list[str]] = {}
    through: dict[str, None] = {}
    for row in document["transitions"]:
        targets = row["states"]
        if len(targets) > 2:
            through |= dict.fromkeys(targets)
            targets = ["reported"]
        for before in ["[*]"] if row["before"] is None else row["before"]:
            for after in targets:
                if before != after:
                    events = edges.setdefault((before, after), [])
                    if row["event"] not in events:
                        events.append(row["event"])
    lines = ["stateDiagram-v2"]
    if through:
        lines.append("    state reported <<choice>>")
        lines += [f"    reported --> {state}: as reported" for state in through]
    for (before, after), events in edges.items():
        more = f" +{len(events) - _EVENTS_MAX}" if len(events) > _EVENTS_MAX else ""
        lines.append(f"    {before} --> {after}: {label(' / '.join(events[:_EVENTS_MAX]))}{more}")
    lines += [f"    {state['name']} --> [*]" for state in document["states"] if state["is_final"]]
    return "\n".join(lines)


def tree(roots: Iterable[Mapping[str, Any]]) -> str:
    """Return the flow chart of a supervision tree: each part with its state, below what starts it again."""
    lines, numbers = ["flowchart LR"], iter(range(10_000))

    def draw(node: Mapping[str, Any], parent: str) -> None:
        name = f"n{next(numbers)}"
        rule = f"<br/>{label(node['strategy'])}" if node.get("strategy") else ""
        lines.append(f'    {name}["{label(node["id"])}<br/>{label(node.get("state") or "unknown")}{rule}"]')
        if parent:
            lines.append(f"    {parent} --> {name}")
        for child in node.get("children") or ():
            draw(child, name)

    for root in roots:
        draw(root, "")
    return "\n".join(lines)


def flow_rows(
    assets: Iterable[Mapping[str, Any]], instances: Iterable[Mapping[str, Any]], venues: Iterable[Mapping[str, Any]]
) -> list[tuple[str, str, str]]:
    """Return the ways of the data as (from, to, what): exchange, collector, series, instance, order manager, venue."""
    rows: dict[tuple[str, str, str], None] = {}
    for asset in assets:
        if asset["is_enabled"]:
            exchange, series = asset["exchange"], f"{asset['exchange']} {asset['symbol']}"
            rows[exchange, f"collector:{exchange}", "trades, bars"] = None
            rows[f"collector:{exchange}", series, "sealed bars"] = None
    for one in instances:
        if one["is_enabled"]:
            rows[f"{one['exchange']} {one['symbol']}", one["id"], f"{one['timeframe']} bars"] = None
            rows[one["id"], "orders", "signals"] = None
    for venue in venues:
        name = f"venue {venue['name']}"
        rows["orders", name, "orders"] = None
        rows[name, "orders", "reports, fills"] = None
    return list(rows)


def flow(rows: Iterable[tuple[str, str, str]]) -> str:
    """Return the flow chart of these ways."""
    lines, names = ["flowchart LR"], dict[str, str]()
    for before, after, what in rows:
        for text in (before, after):
            if text not in names:
                names[text] = f"n{len(names)}"
                lines.append(f'    {names[text]}["{label(text)}"]')
        lines.append(f"    {names[before]} -->|{label(what)}| {names[after]}")
    return "\n".join(lines)
