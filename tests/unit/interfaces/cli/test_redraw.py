"""Drawing in place: columns, cutting, frames."""

from __future__ import annotations

import io

import click
from rich.console import Console
from rich.screen import Screen

from fks.interfaces.cli.events import fold
from fks.interfaces.cli.redraw import can_draw, columns, frame
from fks.interfaces.cli.tree import draw


def test_empty_column_takes_no_space() -> None:
    red = click.style("down", fg="red")
    assert columns(["", "state", "node", "pid"], [["a", red, "", "1"], ["long", "ok", "", ""]]) == [
        "      state  pid",
        f"a     {red}   1",
        "long  ok",
    ]
    assert columns(["a"], []) == [""]


def test_a_line_is_cut_by_what_is_seen_of_it() -> None:
    console = Console(file=io.StringIO(), width=8, height=3, force_terminal=True, color_system="standard")
    with console.capture() as shown:
        console.print(Screen(frame(["short", click.style("0123456789abc", fg="red")], rows=10)))
    lines = shown.get().replace("\r", "").split("\n")
    assert [line.rstrip() for line in lines] == ["short", "\x1b[31m0123456…\x1b[0m", ""]


def test_a_frame_never_scrolls() -> None:
    drawn = frame([f"line {n}" for n in range(50)], rows=10).plain.split("\n")
    assert drawn == [*(f"line {n}" for n in range(8)), "… 42 more lines: make the window higher"]


def test_ascii_terminal_gets_ascii() -> None:
    assert not can_draw(io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert can_draw(io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    leaf = {"id": "orders", "kind": "actor", "state": "ready", "component": None, "children": []}
    root = {"id": "supervisor", "kind": "supervisor", "state": "ready", "children": [leaf, {**leaf, "id": "monitor"}]}
    document = {
        "state": "degraded",
        "reasons": ["why"],
        "tree": [root],
        "events_wanted": 0,
        "events": [],
        "events_trouble": "",
    }
    text = click.unstyle("\n".join(draw(document, is_unicode=False)))
    assert text.isascii()
    assert "|- orders" in text
    assert "`- monitor" in text


def test_a_line_that_only_repeats_the_one_before_is_left_out() -> None:
    story = [
        ("a", "exited", "x"),
        ("b", "started", ""),
        ("a", "restarted", "other words"),
        ("a", "started", ""),
        ("c", "asked", "why"),
        ("c", "stopping", "why"),
        ("c", "stopping", "another"),
        ("d", "restarted", "alone"),
    ]
    rows = [{"child": child, "event": event, "reason": reason} for child, event, reason in story]
    kept = [(row["child"], row["event"]) for row in fold(rows)]
    assert kept == [
        ("a", "exited"),
        ("b", "started"),
        ("a", "started"),
        ("c", "asked"),
        ("c", "stopping"),
        ("d", "restarted"),
    ]
