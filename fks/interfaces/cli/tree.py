"""`fks tree`: the supervision tree and its newest events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from fks.interfaces.cli.base import NOT_RUNNING, OK, as_json, emit, paths_of

if TYPE_CHECKING:
    from fks.config.paths import Paths

EVERY_S = 1.0
_UNICODE = ("├─ ", "└─ ", "│  ", "   ")
_ASCII = ("|- ", "`- ", "|  ", "   ")


@click.command()
@as_json
@click.option("--watch", "-w", is_flag=True, help="Draw it again every second until Ctrl-C.")
@click.option(
    "--events",
    "-n",
    "count",
    type=click.IntRange(0, 1000),
    default=8,
    show_default=True,
    help="How many of the last events.",
)
@click.option(
    "--wide", is_flag=True, help="Node, epoch, version and configuration version even where all are the same."
)
@click.pass_context
def tree(ctx: click.Context, as_json: bool, watch: bool, count: int, wide: bool) -> int:
    """Draw the supervision tree: each part, its state, and what happened last. Exit 3 when nothing runs."""
    from fks.interfaces.cli.redraw import can_draw

    paths = paths_of(ctx)
    if watch and not as_json:
        from fks.interfaces.cli.redraw import watch as redraw

        is_unicode = can_draw()
        redraw(lambda width: draw(look(paths, count), is_wide=wide, is_unicode=is_unicode), every_s=EVERY_S)
        return OK
    document = look(paths, count)
    if as_json:
        emit(document, as_json=True, schema="fks.tree/1")
    else:
        for line in draw(document, is_wide=wide, is_unicode=can_draw()):
            click.echo(line)
    return NOT_RUNNING if document["state"] == "down" and not document["tree"] else OK


def look(paths: Paths, count: int) -> dict[str, Any]:
    """Return state, reasons, tree, nodes and the last `count` events, from the first source that answers. Never
    raises."""
    from fks.interfaces.cli.events import find_events
    from fks.interfaces.cli.status import find_status
    from fks.model.errors import FksError
    from fks.system.monitor.tree import tree_view

    status = find_status(paths)
    history: list[dict[str, Any]] = []
    trouble = ""
    if count and status["components"]:
        try:
            history = find_events(paths, limit=count * 2)  # a restart is two rows and one line
        except FksError as error:
            trouble = f"the history cannot be read: {error.message}"
    return {
        "state": status["state"],
        "reasons": status["reasons"],
        "source": status.get("source", "gateway"),
        "tree": tree_view(status["components"]),
        "nodes": status.get("nodes", []),
        "events": history[-count * 2 :],
        "events_wanted": count,
        "events_trouble": trouble,
    }


def draw(document: Mapping[str, Any], *, is_wide: bool = False, is_unicode: bool = True) -> list[str]:
    """Return the tree as lines, with colours; the caller removes them where the output is no terminal."""
    from fks.interfaces.cli.events import fold, lines_of
    from fks.interfaces.cli.redraw import columns
    from fks.interfaces.cli.status import paint

    origin = f"  (from the {document['source']})" if document.get("source") not in (None, "gateway") else ""
    lines = [f"{paint(str(document['state']), bold=True)}{click.style(origin, fg='bright_black')}"]
    lines += [
        f"  {click.style('·' if is_unicode else '-', fg='yellow')} {reason}" for reason in document["reasons"][:6]
    ]
    if not document["tree"]:
        return [*lines, "nothing runs: start it with 'fks up'"]
    rows: list[list[str]] = []
    shown = _Shown.of(document["tree"], is_wide)
    for root in document["tree"]:
        rows += _rows(root, "", "", _UNICODE if is_unicode else _ASCII, shown)
    lines += ["", *columns(_heading(), rows)]
    if document["events_wanted"]:
        lines += ["", click.style("last events (UTC)", bold=True)]
        if document["events_trouble"]:
            lines.append(click.style(document["events_trouble"], fg="yellow"))
        else:
            lines += lines_of(fold(document["events"])[-document["events_wanted"] :]) or ["nothing has happened yet"]
    return lines


class _Shown:
    """Columns worth showing: one in which all values are equal is left out."""

    def __init__(self, nodes: bool, versions: bool, configs: bool, epochs: bool) -> None:
        self.nodes, self.versions, self.configs, self.epochs = nodes, versions, configs, epochs

    @staticmethod
    def of(roots: Sequence[Mapping[str, Any]], is_wide: bool) -> _Shown:
        from fks.interfaces.cli.status import differ

        rows = [node["component"] for root in roots for node in _walk(root) if node.get("component")]
        return _Shown(
            is_wide or differ(rows, "node"),
            is_wide or differ(rows, "version"),
            is_wide or differ(rows, "config_version"),
            is_wide,
        )


def _walk(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield node
    for child in node["children"]:
        yield from _walk(child)


def _heading() -> list[str]:
    names = ("", "state", "pid", "restarts", "up", "node", "epoch", "version", "config", "")
    return [click.style(name, bold=True) if name else "" for name in names]


def _rows(
    node: Mapping[str, Any], prefix: str, branch: str, marks: tuple[str, str, str, str], shown: _Shown
) -> list[list[str]]:
    rows = [_row(node, click.style(prefix + branch, fg="bright_black"), shown)]
    below = prefix + {"": "", marks[0]: marks[2], marks[1]: marks[3]}[branch]
    for index, child in enumerate(node["children"]):
        is_last = index == len(node["children"]) - 1
        rows += _rows(child, below, marks[1] if is_last else marks[0], marks, shown)
    return rows


def _row(node: Mapping[str, Any], lead: str, shown: _Shown) -> list[str]:
    from fks.interfaces.cli.status import age, paint

    row = node.get("component") or {}
    name = click.style(node["id"], bold=bool(node["children"]))
    restarts = int(row.get("restarts") or 0)
    return [
        lead + name,
        paint(str(node["state"])) if node["state"] else "",
        str(row.get("pid") or ""),
        click.style(str(restarts), fg="yellow" if restarts else None) if row else "",
        age(row["since"]) if row.get("since") and node["state"] not in ("down", "failed", "stopped") else "",
        str(row.get("node") or "") if shown.nodes else "",
        str(row.get("epoch") or "") if shown.epochs else "",
        str(row.get("version") or "") if shown.versions else "",
        str(row.get("config_version") or ("file" if row else "")) if shown.configs else "",
        _note(node, row),
    ]


def _note(node: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """Return the trouble of a component, and of a supervisor its strategy and how much of its intensity is used."""
    parts = []
    if node.get("strategy"):
        text = str(node["strategy"])
        limit = node.get("limit")
        if isinstance(limit, Mapping):
            used = int(node.get("used") or 0)
            text += f", {used} of {limit.get('restarts_max')} restarts in {_seconds(limit.get('period_s'))}"
        is_near = isinstance(limit, Mapping) and int(node.get("used") or 0) * 2 > int(limit.get("restarts_max") or 0)
        parts.append(click.style(text, fg="yellow" if is_near and node.get("used") else "bright_black"))
    if row.get("problem"):
        parts.append(click.style(str(row["problem"]), fg="yellow"))
    return "  ".join(parts)


def _seconds(value: object) -> str:
    return f"{value:g} s" if isinstance(value, int | float) else f"{value} s"
